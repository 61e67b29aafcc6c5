//! How cost grows: processor time a request by models, plugins, sessions, open streams and body size.

use std::{
    error::Error,
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, post},
    process::{self, Process, body},
};

/// Where the plot goes, beside the other results of a build.
const PLOT: &str = "build/growth.svg";

/// Most that the cost of a request may differ between the sizes of what it does not depend on.
const FLAT: f64 = 0.15;

/// One measured curve.
struct Curve {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn new(name: &'static str) -> Self {
        Self { name, points: Vec::new() }
    }
}

/// Measures every curve, prints a table and writes the plot.
pub async fn all(binary: &Path, plugins: &Path) -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("sigorest-growth-{}", std::process::id()));
    let (_mock, upstream) = process::mock().await?;
    let bench = Bench { binary, plugins, dir: &dir, upstream };
    let mut curves = vec![bench.models().await?, bench.plugins().await?, bench.sessions().await?];
    curves.extend(bench.streams_and_bodies().await?);
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
    async fn models(&self) -> Result<Curve, Box<dyn Error>> {
        let mut curve = Curve::new("models");
        for count in [10, 100, 1_000, 10_000] {
            let at = self.dir.join(format!("models-{count}"));
            let rows: String = (0..count).map(|n| format!("m{n},model-{n}\n")).collect();
            let own = at.join("plugins");
            copy(self.plugins, &own)?;
            std::fs::write(own.join("mammouth.models.csv"), format!("shortcode,id\n{rows}"))?;
            let (gateway, port) = process::gateway(self.binary, &own, &at, self.upstream).await?;
            curve.points.push((f64::from(count), cost(&gateway, port, 190, "").await?));
        }
        Ok(curve)
    }

    /// The plugin that is asked, and copies of `echo` under other ids beside it.
    async fn plugins(&self) -> Result<Curve, Box<dyn Error>> {
        let mut curve = Curve::new("plugins");
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
            let (gateway, port) = process::gateway(self.binary, &own, &at, self.upstream).await?;
            curve.points.push((f64::from(count), cost(&gateway, port, 190, "").await?));
        }
        Ok(curve)
    }

    /// Requests that belong to one session, with others beside it on disk.
    async fn sessions(&self) -> Result<Curve, Box<dyn Error>> {
        let mut curve = Curve::new("sessions on disk");
        for count in [1, 1_000, 10_000] {
            let at = self.dir.join(format!("sessions-{count}"));
            let sessions = at.join("data/.sessions");
            std::fs::create_dir_all(&sessions)?;
            for n in 1..count {
                std::fs::write(sessions.join(format!("gpt41-s{n}.json")), "{\"history\":[]}")?;
            }
            let (gateway, port) = process::gateway(self.binary, self.plugins, &at, self.upstream).await?;
            let one = ",\"session_id\":\"bench\"";
            curve.points.push((f64::from(count), cost(&gateway, port, 190, one).await?));
        }
        Ok(curve)
    }

    async fn streams_and_bodies(&self) -> Result<[Curve; 2], Box<dyn Error>> {
        let at = self.dir.join("streams");
        let (gateway, port) = process::gateway(self.binary, self.plugins, &at, self.upstream).await?;
        let mut streams = Curve::new("open idle streams");
        let mut open = Vec::new();
        for count in [1usize, 10, 100, 1_000] {
            while open.len() < count {
                let body = body("idle/gpt-4.1", 10, ",\"stream\":true");
                let mut client = Client::new(port, post(port, "/v1/chat/completions", &body)).await?;
                client.open().await?;
                open.push(client);
            }
            streams.points.push((count as f64, cost(&gateway, port, 190, "").await?));
        }
        drop(open);
        let mut bodies = Curve::new("body KB");
        for kilobytes in [1usize, 10, 100, 1_000] {
            bodies.points.push((kilobytes as f64, cost(&gateway, port, kilobytes * 200, "").await?));
        }
        Ok([streams, bodies])
    }
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

/// Processor µs per request: the median of five tries.
async fn cost(gateway: &Process, port: u16, words: usize, more: &str) -> Result<f64, Box<dyn Error>> {
    let request = post(port, "/v1/chat/completions", &body("plain/gpt-4.1", words, more));
    let mut client = Client::new(port, request).await?;
    let mut tries = Vec::new();
    for _ in 0..5 {
        let (before, began, mut count) = (gateway.cpu(), Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(1200) {
            client.exchange().await?;
            count += 1;
        }
        tries.push((gateway.cpu() - before) * 1e6 / f64::from(count));
    }
    tries.sort_by(f64::total_cmp);
    Ok(tries[2])
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
