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

/// One measured curve.
struct Curve {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// Measures every curve, prints a table and writes the plot.
pub async fn all(binary: &Path, plugins: &Path) -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("sigorest-growth-{}", std::process::id()));
    let (_mock, upstream) = process::mock().await?;
    let mut curves = Vec::new();
    let mut curve = Curve { name: "models", points: Vec::new() };
    for count in [10, 100, 1_000, 10_000] {
        let at = dir.join(format!("models-{count}"));
        let rows: String = (0..count).map(|n| format!("m{n},model-{n}\n")).collect();
        let own = at.join("plugins");
        copy(plugins, &own)?;
        std::fs::write(own.join("mammouth.models.csv"), format!("shortcode,id\n{rows}"))?;
        let (gateway, port) = process::gateway(binary, &own, &at, upstream).await?;
        curve.points.push((f64::from(count), cost(&gateway, port, 190).await?));
    }
    curves.push(curve);
    let mut curve = Curve { name: "sessions on disk", points: Vec::new() };
    for count in [0, 1_000, 10_000] {
        let at = dir.join(format!("sessions-{count}"));
        let sessions = at.join("data/.sessions");
        std::fs::create_dir_all(&sessions)?;
        for n in 0..count {
            std::fs::write(sessions.join(format!("gpt41-s{n}.json")), "{\"history\":[]}")?;
        }
        let (gateway, port) = process::gateway(binary, plugins, &at, upstream).await?;
        curve.points.push((f64::from(count), cost(&gateway, port, 190).await?));
    }
    curves.push(curve);
    let (gateway, port) = process::gateway(binary, plugins, &dir.join("streams"), upstream).await?;
    let mut curve = Curve { name: "open idle streams", points: Vec::new() };
    let mut open = Vec::new();
    for count in [1usize, 10, 100, 1_000] {
        while open.len() < count {
            let request = post(port, "/v1/chat/completions", &body("idle/gpt-4.1", 10, ",\"stream\":true"));
            let mut client = Client::new(port, request).await?;
            client.open().await?;
            open.push(client);
        }
        curve.points.push((count as f64, cost(&gateway, port, 190).await?));
    }
    drop(open);
    curves.push(curve);
    let mut curve = Curve { name: "body KB", points: Vec::new() };
    for kilobytes in [1usize, 10, 100, 1_000] {
        curve.points.push((kilobytes as f64, cost(&gateway, port, kilobytes * 200).await?));
    }
    curves.push(curve);
    report(&curves)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
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
async fn cost(gateway: &Process, port: u16, words: usize) -> Result<f64, Box<dyn Error>> {
    let mut client =
        Client::new(port, post(port, "/v1/chat/completions", &body("plain/gpt-4.1", words, ""))).await?;
    let mut tries = Vec::new();
    for _ in 0..5 {
        let (before, began, mut count) = (gateway.cpu(), Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(600) {
            client.exchange().await?;
            count += 1;
        }
        tries.push((gateway.cpu() - before) * 1e6 / f64::from(count));
    }
    tries.sort_by(f64::total_cmp);
    Ok(tries[2])
}

fn report(curves: &[Curve]) -> std::io::Result<()> {
    println!("| what grows | size | CPU µs per request | against the first |\n|---|---|---|---|");
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"400\" font-family=\"sans-serif\" font-size=\"12\">\n",
    );
    let colours = ["#1b6ca8", "#c0392b", "#27ae60", "#8e44ad"];
    let most = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1).fold(1.0, f64::max);
    for (index, curve) in curves.iter().enumerate() {
        let first = curve.points[0].1;
        let place = |(size, cost): (f64, f64)| {
            (60.0 + 130.0 * (size + 1.0).log10(), 360.0 - 320.0 * (cost + 1.0).log10() / (most + 1.0).log10())
        };
        let mut line = String::new();
        for point in &curve.points {
            println!("| {} | {} | {:.1} | {:.2} |", curve.name, point.0, point.1, point.1 / first);
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
