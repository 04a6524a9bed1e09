//! Homes of nodes: ports and directories that outlast processes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::common::{Scratch, Server, free_port};

/// The home of one node.
pub(crate) struct Home {
    scratch: Scratch,
    lines: String,
    pub(crate) api: SocketAddr,
    pub(crate) p2p: SocketAddr,
    /// The process of the node while it runs.
    pub(crate) server: Option<Server>,
}

impl Home {
    fn new() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (api, p2p) = (at(free_port()), at(free_port()));
        Self { scratch: Scratch::new(), lines: String::new(), api, p2p, server: None }
    }

    /// The home of a node that founds a network which no other node joins. `lines` go into its
    /// configuration.
    pub(crate) fn alone(lines: &str) -> Self {
        let mut home = Self::new();
        home.configure(lines);
        home
    }

    /// Puts `lines` into the configuration, from the next start on.
    pub(crate) fn configure(&mut self, lines: &str) {
        self.lines = format!("api_address = {}\np2p_address = {}\n{lines}\n", self.api, self.p2p);
    }

    /// The path of the file `name` in the data directory.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.scratch.path("data").join(name)
    }

    /// Starts the process; it listens when this returns.
    pub(crate) fn start(&mut self) {
        assert!(self.server.is_none(), "a process runs already");
        self.server = Some(Server::start_in(&self.scratch, &self.lines));
    }

    /// The running process.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("a process runs")
    }

    /// Stops the process as an operator does; it must exit with success.
    pub(crate) fn stop(&mut self) {
        let mut server = self.server.take().expect("a process runs");
        let status = server.terminate();
        assert!(status.success(), "{status} after SIGTERM");
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        self.server.take().expect("a process runs").kill_hard();
    }
}

/// Starts `count` nodes, each with `lines` in its configuration; all have settled when this returns. The
/// first four are the bootstraps of all. The first node founds the network, so it gets its bootstraps from
/// its second start on: without them, and without a contact that it remembers, it would found another one.
pub(crate) fn start_network(count: usize, lines: &str) -> Vec<Home> {
    let mut homes: Vec<Home> = (0..count).map(|_| Home::new()).collect();
    let addresses: Vec<SocketAddr> = homes.iter().map(|home| home.p2p).collect();
    for (at, home) in homes.iter_mut().enumerate() {
        let others = addresses.iter().take(4).filter(|address| **address != home.p2p);
        let bootstraps: Vec<String> = others.map(ToString::to_string).collect();
        let with_bootstraps = format!("bootstrap = {}\n{lines}", bootstraps.join(", "));
        home.configure(if at == 0 { lines } else { &with_bootstraps });
        home.start();
        home.configure(&with_bootstraps);
    }
    for home in &homes[1..] {
        home.server().log_line("settled records=");
    }
    homes
}
