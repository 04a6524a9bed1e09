//! Where nodes live: ports and directories that outlast processes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::common::{Scratch, Server, free_port};

/// Where one node lives.
pub(crate) struct Home {
    scratch: Scratch,
    lines: String,
    pub(crate) api: SocketAddr,
    pub(crate) p2p: SocketAddr,
    /// The process that lives here, if one does.
    pub(crate) server: Option<Server>,
}

impl Home {
    fn new() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (api, p2p) = (at(free_port()), at(free_port()));
        Self { scratch: Scratch::new(), lines: String::new(), api, p2p, server: None }
    }

    /// A home for a node that founds a network and is never joined. `lines` go into its configuration.
    pub(crate) fn alone(lines: &str) -> Self {
        let mut home = Self::new();
        home.configure(lines);
        home
    }

    /// From its next start on, `lines` are in the configuration of the node that lives here.
    pub(crate) fn configure(&mut self, lines: &str) {
        self.lines = format!("api_address = {}\np2p_address = {}\n{lines}\n", self.api, self.p2p);
    }

    /// Where the file `name` of the data directory is, if it is there.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.scratch.path("data").join(name)
    }

    /// Starts a process here; it listens when this returns.
    pub(crate) fn start(&mut self) {
        assert!(self.server.is_none(), "somebody lives here");
        self.server = Some(Server::start_in(&self.scratch, &self.lines));
    }

    /// The process that lives here.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("somebody lives here")
    }

    /// Ends the process as an operator does; it must end well.
    pub(crate) fn stop(&mut self) {
        let mut server = self.server.take().expect("somebody lives here");
        let status = server.terminate();
        assert!(status.success(), "{status} after SIGTERM");
    }

    /// Kills the process, which it cannot notice.
    pub(crate) fn kill(&mut self) {
        self.server.take().expect("somebody lives here").kill_hard();
    }
}

/// So many homes with a node in each, all of which have settled. `lines` go into the configuration
/// of each. The first founds the network, the next three are everybody's bootstraps with it.
pub(crate) fn start_network(count: usize, lines: &str) -> Vec<Home> {
    let mut homes: Vec<Home> = (0..count).map(|_| Home::new()).collect();
    let addresses: Vec<SocketAddr> = homes.iter().map(|home| home.p2p).collect();
    for (at, home) in homes.iter_mut().enumerate() {
        let others = addresses.iter().take(4).filter(|address| **address != home.p2p);
        let bootstraps: Vec<String> = others.map(ToString::to_string).collect();
        let bootstrap = if at == 0 { String::new() } else { format!("bootstrap = {}\n", bootstraps.join(", ")) };
        home.configure(&format!("{bootstrap}{lines}"));
        home.start();
    }
    for home in &homes[1..] {
        home.server().log_line("settled records=");
    }
    homes
}
