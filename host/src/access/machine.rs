//! What this machine is called: the names and addresses that `Host` may hold and the certificate covers.

use std::net::IpAddr;

/// The machine's own name and addresses at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The host name, lower case, without a trailing dot; `None` if there is none but `localhost`.
    pub name: Option<String>,
    /// Every address of every interface, loopback among them.
    pub addresses: Vec<IpAddr>,
}

impl Machine {
    /// This machine now. What cannot be found out is left out.
    pub fn here() -> Self {
        let name = rustix::system::uname()
            .nodename()
            .to_str()
            .ok()
            .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
            .filter(|name| !matches!(name.as_str(), "" | "localhost" | "(none)"));
        let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()
            .unwrap_or_default()
            .into_iter()
            .map(|interface| interface.ip().to_canonical())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { name, addresses }
    }
}
