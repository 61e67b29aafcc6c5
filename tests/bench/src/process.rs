//! The processes that are measured, and what the system says about them.

use std::{
    error::Error,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::client::{Client, post};

/// A process that ends with the bench.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's master ends its workers when it is told to, not when it is killed.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Seconds of processor time of the process and its children.
    pub fn cpu(&self) -> f64 {
        tree(self.0.id()).into_iter().map(ticks).sum::<u64>() as f64 / 100.0
    }

    /// Resident MiB of the process and its children; `peak`: the most there ever was.
    pub fn resident(&self, peak: bool) -> f64 {
        let name = if peak { "VmHWM:" } else { "VmRSS:" };
        let kib = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.trim().split(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
        };
        tree(self.0.id()).into_iter().map(kib).sum::<f64>() / 1024.0
    }

    /// Measures the peak anew from here.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn reset_peak(&self) -> std::io::Result<()> {
        std::fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5")
    }
}

fn tree(root: u32) -> Vec<u32> {
    let path = format!("/proc/{root}/task/{root}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let mut all = vec![root];
    all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).flat_map(tree));
    all
}

/// What the system counts for a process, also for threads that have ended, in steps of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    number(11) + number(12)
}

/// A port that is free now.
pub fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Starts the mock upstream.
pub async fn mock() -> Result<(Process, u16), Box<dyn Error>> {
    let port = free_port()?;
    let child = Command::new(std::env::current_exe()?).args(["mock", &port.to_string()]).spawn()?;
    let process = Process(child);
    answers(port, "/open", "").await?;
    Ok((process, port))
}

/// Starts nginx as a plain proxy with an access log.
pub async fn nginx(dir: &Path, upstream: u16) -> Result<(Process, u16), Box<dyn Error>> {
    let port = free_port()?;
    let at = dir.display();
    let config = format!(
        "daemon off; worker_processes 2; pid {at}/nginx.pid; error_log {at}/nginx.err;
events {{ worker_connections 8192; }}
http {{ access_log {at}/nginx.log; keepalive_requests 100000000; client_max_body_size 64m;
  client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 256; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://mock; proxy_http_version 1.1;
    proxy_set_header Connection \"\"; proxy_buffering off; proxy_read_timeout 600s; }} }} }}"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, config)?;
    let child = Command::new("nginx").arg("-c").arg(&file).stderr(Stdio::null()).spawn();
    let process = Process(child.map_err(|error| format!("nginx cannot be started ({error}); install it"))?);
    answers(port, "/plain/v1/chat/completions", "{}").await?;
    Ok((process, port))
}

/// Starts the gateway with everything on: a provider for each scene of the mock.
pub async fn gateway(
    binary: &Path,
    plugins: &Path,
    dir: &Path,
    upstream: u16,
) -> Result<(Process, u16), Box<dyn Error>> {
    let data = dir.join("data");
    std::fs::create_dir_all(&data)?;
    let mut config = String::from("[limits]\nmax_in_flight = 16384\n");
    for scene in ["plain", "paced", "burst", "idle"] {
        config.push_str(&format!(
            "[provider.{scene}]\nplugin = \"mammouth\"\noffer = \"always\"\nkey_env = \"BENCH_KEY\"\nbase_url = \"http://127.0.0.1:{upstream}/{scene}/v1\"\n"
        ));
    }
    std::fs::write(data.join("sigorest.toml"), config)?;
    if !data.join("memory.json").exists() {
        std::fs::write(
            data.join("memory.json"),
            r#"{"content":"You are a helpful assistant.","cache":false}"#,
        )?;
    }
    let port = free_port()?;
    let log = std::fs::File::create(dir.join("gateway.log"))?;
    let child = Command::new(binary)
        .args(["-http-port", &port.to_string(), "-https-port", "0", "-data-dir"])
        .arg(&data)
        .arg("-plugin-dir")
        .arg(plugins)
        .env_clear()
        .env("BENCH_KEY", "sk-bench")
        .env("OLLAMA_HOST", format!("http://127.0.0.1:{upstream}/ollama"))
        .stderr(log)
        .spawn()?;
    let process = Process(child);
    answers(port, "/v1/chat/completions", &body("plain/gpt-4.1", 10, "")).await?;
    Ok((process, port))
}

/// A chat request of about `words` words.
pub fn body(model: &str, words: usize, more: &str) -> String {
    let text = "word ".repeat(words);
    format!("{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]{more}}}")
}

/// Waits until a request is answered with 200.
async fn answers(port: u16, path: &str, body: &str) -> Result<(), Box<dyn Error>> {
    let mut last = String::new();
    for _ in 0..4000 {
        match Client::new(port, post(port, path, body)).await {
            Ok(mut client) => match client.exchange().await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            },
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("nothing answers on port {port}: {last}").into())
}
