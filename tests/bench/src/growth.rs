//! How cost grows: processor time a request by models, plugins, sessions, open streams and body size.

use std::{error::Error, fmt::Write, path::Path, rc::Rc, time::Duration};

use crate::{
    client::{Client, post},
    process::{self, Process, body},
    rounds::closed_loop,
    table::quantile,
};

/// Where the plot goes, beside the other results of a build.
const PLOT: &str = "build/growth.svg";

/// Most that the cost of a request may differ between the sizes of what it does not depend on.
const FLAT: f64 = 0.15;

/// Times that each size of a curve is measured, one size after the other: what the machine does meanwhile meets all.
const ROUNDS: usize = 7;

/// How long each time.
const TIME: Duration = Duration::from_millis(800);

/// Connections that ask.
const CONNECTIONS: usize = 8;

/// One size of what grows: whom to ask, and how.
struct Point {
    size: usize,
    gateway: Rc<Process>,
    port: u16,
    request: Vec<u8>,
    /// What stays open meanwhile.
    open: Vec<Client>,
}

impl Point {
    fn new(size: usize, (gateway, port): (Process, u16), more: &str) -> Self {
        let request = request(port, 190, more);
        Self { size, gateway: Rc::new(gateway), port, request, open: Vec::new() }
    }
}

/// One measured curve: sizes, and processor µs per request.
struct Curve {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Curve {
    async fn measured(name: &'static str, points: Vec<Point>) -> Result<Self, Box<dyn Error>> {
        let mut costs = vec![Vec::new(); points.len()];
        for round in 0..=ROUNDS {
            for (point, costs) in points.iter().zip(&mut costs) {
                let before = point.gateway.cpu();
                let count = closed_loop(point.port, &point.request, CONNECTIONS, TIME).await?;
                let cost = (point.gateway.cpu() - before) * 1e6 / count as f64;
                // The first round warms up.
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
        let points = points.iter().zip(&mut costs);
        let points = points.map(|(point, costs)| (point.size as f64, quantile(costs, 0.5))).collect();
        Ok(Self { name, points })
    }
}

/// Measures every curve, prints a table and writes the plot.
pub async fn all(binary: &Path, plugins: &Path) -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("sigorest-growth-{}", std::process::id()));
    let (_mock, upstream) = process::mock().await?;
    let bench = Bench { binary, plugins, dir: &dir, upstream };
    let curves = [
        Curve::measured("models", bench.models().await?).await?,
        Curve::measured("plugins", bench.plugins().await?).await?,
        Curve::measured("sessions on disk", bench.sessions().await?).await?,
        Curve::measured("open idle streams", bench.streams().await?).await?,
        Curve::measured("body KB", bench.bodies().await?).await?,
    ];
    report(&curves)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// What each curve starts gateways from.
struct Bench<'a> {
    binary: &'a Path,
    plugins: &'a Path,
    dir: &'a Path,
    upstream: u16,
}

impl Bench<'_> {
    async fn gateway(&self, at: &Path, plugins: &Path) -> Result<(Process, u16), Box<dyn Error>> {
        process::gateway(self.binary, plugins, at, self.upstream).await
    }

    async fn models(&self) -> Result<Vec<Point>, Box<dyn Error>> {
        let mut points = Vec::new();
        for count in [10, 100, 1_000, 10_000] {
            let at = self.dir.join(format!("models-{count}"));
            let rows: String = (0..count).map(|n| format!("m{n},model-{n}\n")).collect();
            let own = at.join("plugins");
            copy(self.plugins, &own)?;
            std::fs::write(own.join("mammouth.models.csv"), format!("shortcode,id\n{rows}"))?;
            points.push(Point::new(count, self.gateway(&at, &own).await?, ""));
        }
        Ok(points)
    }

    /// The plugin that is asked, and copies of `echo` under other ids beside it.
    async fn plugins(&self) -> Result<Vec<Point>, Box<dyn Error>> {
        let mut points = Vec::new();
        let echo = std::fs::read(self.plugins.join("echo.so"))?;
        for count in [1, 10, 50] {
            let at = self.dir.join(format!("plugins-{count}"));
            let own = at.join("plugins");
            std::fs::create_dir_all(&own)?;
            std::fs::copy(self.plugins.join("mammouth.so"), own.join("mammouth.so"))?;
            for n in 1..count {
                let id = format!("e{n:03}");
                std::fs::write(own.join(format!("{id}.so")), renamed(&echo, &id))?;
            }
            points.push(Point::new(count, self.gateway(&at, &own).await?, ""));
        }
        Ok(points)
    }

    /// Requests that belong to one session, with others beside it on disk.
    async fn sessions(&self) -> Result<Vec<Point>, Box<dyn Error>> {
        let mut points = Vec::new();
        for count in [1, 1_000, 10_000] {
            let at = self.dir.join(format!("sessions-{count}"));
            let sessions = at.join("data/.sessions");
            std::fs::create_dir_all(&sessions)?;
            for n in 1..count {
                std::fs::write(sessions.join(format!("gpt41-s{n}.json")), "{\"history\":[]}")?;
            }
            let gateway = self.gateway(&at, self.plugins).await?;
            points.push(Point::new(count, gateway, ",\"session_id\":\"bench\""));
        }
        Ok(points)
    }

    async fn streams(&self) -> Result<Vec<Point>, Box<dyn Error>> {
        let mut points = Vec::new();
        for count in [1, 10, 100, 1_000] {
            let at = self.dir.join(format!("streams-{count}"));
            let mut point = Point::new(count, self.gateway(&at, self.plugins).await?, "");
            for _ in 0..count {
                let body = body("idle/gpt-4.1", 10, ",\"stream\":true");
                let idle = post(point.port, "/v1/chat/completions", &body);
                let mut client = Client::new(point.port, idle).await?;
                client.open().await?;
                point.open.push(client);
            }
            points.push(point);
        }
        Ok(points)
    }

    /// One gateway, asked with bodies of all sizes.
    async fn bodies(&self) -> Result<Vec<Point>, Box<dyn Error>> {
        let (gateway, port) = self.gateway(&self.dir.join("bodies"), self.plugins).await?;
        let gateway = Rc::new(gateway);
        let point = |size: usize| Point {
            size,
            gateway: Rc::clone(&gateway),
            port,
            request: request(port, size * 200, ""),
            open: Vec::new(),
        };
        Ok([1, 10, 100, 1_000].map(point).into())
    }
}

/// A chat request of about `words` words.
fn request(port: u16, words: usize, more: &str) -> Vec<u8> {
    post(port, "/v1/chat/completions", &body("plain/gpt-4.1", words, more))
}

/// A copy of the plugin `echo` under another id of the same length.
fn renamed(echo: &[u8], id: &str) -> Vec<u8> {
    let old = b"\"id\": \"echo\"";
    let new = format!("\"id\": \"{id}\"");
    let mut copy = echo.to_vec();
    let mut at = 0;
    while let Some(found) = copy[at..].windows(old.len()).position(|window| window == old) {
        at += found;
        copy[at..at + old.len()].copy_from_slice(new.as_bytes());
    }
    copy
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn report(curves: &[Curve]) -> std::io::Result<()> {
    println!("| what grows | size | CPU µs per request | against the first | |\n|---|---|---|---|---|");
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"400\" font-family=\"sans-serif\" font-size=\"12\">\n",
    );
    let colours = ["#1b6ca8", "#d68910", "#c0392b", "#27ae60", "#8e44ad"];
    let most = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1).fold(1.0, f64::max);
    for (index, curve) in curves.iter().enumerate() {
        let first = curve.points[0].1;
        let place = |(size, cost): (f64, f64)| {
            (60.0 + 130.0 * (size + 1.0).log10(), 360.0 - 320.0 * (cost + 1.0).log10() / (most + 1.0).log10())
        };
        let mut line = String::new();
        for point in &curve.points {
            let ratio = point.1 / first;
            let flat = curve.name == "body KB" || (ratio - 1.0).abs() <= FLAT;
            let verdict = if flat { "" } else { "not flat" };
            println!("| {} | {} | {:.1} | {ratio:.2} | {verdict} |", curve.name, point.0, point.1);
            let (x, y) = place(*point);
            let _ = write!(line, "{x:.1},{y:.1} ");
        }
        let colour = colours[index % colours.len()];
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{line}\"/>"
        );
        let _ =
            writeln!(svg, "<text x=\"70\" y=\"{}\" fill=\"{colour}\">{}</text>", 20 + index * 16, curve.name);
    }
    svg.push_str("<text x=\"240\" y=\"392\">size (logarithmic)</text>\n<text x=\"8\" y=\"200\">µs (log)</text>\n</svg>\n");
    std::fs::create_dir_all("build")?;
    std::fs::write(PLOT, svg)?;
    println!("plot: {PLOT}");
    Ok(())
}
