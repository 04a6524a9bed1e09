//! Where others connect: bound before the node is made, because its HELLO names the port.
//!
//! mio is edge-triggered: a listener that was not drained is remembered as ready, and nobody else
//! will remind us. Out of file descriptors, or of whatever else the kernel needs for a
//! connection, accepting pauses for all listeners; it is tried again after [`ACCEPT_PAUSE`] and as
//! soon as a connection is closed, while everything else goes on.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use log::{info, warn};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::limits::{ACCEPT_PAUSE, LISTEN_BACKLOG};
use crate::net::Options;
use crate::time::Time;

/// Which connections come in by a listener, and which bound counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// Modules.
    Clients,
    /// Other nodes.
    Peers,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "clients",
            Self::Peers => "peers",
        })
    }
}

/// All listeners of a host.
#[derive(Debug)]
pub struct Listeners {
    list: Vec<Listener>,
    paused_until: Option<Time>,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    pool: Pool,
    ready: bool,
}

impl Listeners {
    /// Binds all addresses of `options`. Port 0 is any free port; every further 0 of the peers'
    /// addresses is the port that the first one got, since a HELLO can name only one.
    ///
    /// # Errors
    ///
    /// [`BindError`] with the first address that cannot be had.
    pub fn bind(options: &Options) -> Result<Self, BindError> {
        let mut list = vec![Listener::bind(options.api_address, Pool::Clients)?];
        let mut port = 0;
        for address in &options.p2p_addresses {
            let mut address = *address;
            if address.port() == 0 {
                address.set_port(port);
            }
            let listener = Listener::bind(address, Pool::Peers)?;
            port = listener.address.port();
            list.push(listener);
        }
        Ok(Self { list, paused_until: None })
    }

    /// Where modules connect.
    pub fn api_address(&self) -> SocketAddr {
        self.list[0].address
    }

    /// Where peers connect.
    pub fn p2p_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.list.iter().filter(|listener| listener.pool == Pool::Peers).map(|listener| listener.address)
    }

    /// Wants to be told of connections under `token` and those after it.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        for (at, listener) in self.list.iter_mut().enumerate() {
            registry.register(&mut listener.socket, Token(token.0 + at), Interest::READABLE)?;
        }
        Ok(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Somebody waits at the listener `at`.
    pub(super) fn mark(&mut self, at: usize) {
        if let Some(listener) = self.list.get_mut(at) {
            listener.ready = true;
        }
    }

    /// The next moment at which somebody can be accepted, if anybody waits.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let waits = self.list.iter().any(|listener| listener.ready);
        waits.then(|| self.paused_until.unwrap_or(Time::ZERO))
    }

    /// A connection was closed: there may be room now.
    pub(super) fn resume(&mut self) {
        self.paused_until = self.paused_until.map(|_| Time::ZERO);
    }

    /// Stops listening.
    pub(super) fn close(&mut self) {
        self.list.clear();
    }

    /// The next connection that waits at the listener `at`.
    pub(super) fn accept(&mut self, at: usize, now: Time) -> Option<(TcpStream, SocketAddr, Pool)> {
        let listener = self.list.get_mut(at).filter(|listener| listener.ready)?;
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        loop {
            match listener.socket.accept() {
                Ok((socket, address)) => {
                    if self.paused_until.take().is_some() {
                        info!("accepting again");
                    }
                    return Some((socket, address, listener.pool));
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        listener.ready = false;
                        return None;
                    }
                    // Each of these took one connection off the queue, or none was lost.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => {}
                    _ => {
                        if self.paused_until.is_none() {
                            warn!("accepting paused addr={} error=\"{error}\"", listener.address);
                        }
                        self.paused_until = Some(now + ACCEPT_PAUSE);
                        return None;
                    }
                },
            }
        }
    }
}

impl Listener {
    fn bind(address: SocketAddr, pool: Pool) -> Result<Self, BindError> {
        let listen = || -> io::Result<Self> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                // So that a node may listen on both families under one port.
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(LISTEN_BACKLOG)?;
            let socket = TcpListener::from_std(socket.into());
            let address = socket.local_addr()?;
            Ok(Self { socket, address, pool, ready: false })
        };
        listen().map_err(|source| BindError { address, source })
    }
}

/// An address at which this host cannot listen.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen at {}: {}", self.address, self.source)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(p2p: &[&str]) -> Options {
        let address = |text: &str| text.parse().expect("a literal of this test");
        Options {
            api_address: address("127.0.0.1:0"),
            p2p_addresses: p2p.iter().map(|text| address(text)).collect(),
            ..Options::default()
        }
    }

    #[test]
    fn port_zero_becomes_one_port_for_both_families() {
        let listeners = Listeners::bind(&options(&["127.0.0.1:0", "[::1]:0"])).expect("free ports");
        let bound: Vec<_> = listeners.p2p_addresses().collect();
        assert_eq!(bound.len(), 2);
        assert_ne!(bound[0].port(), 0);
        assert_eq!(bound[0].port(), bound[1].port());
        assert_ne!(listeners.api_address().port(), 0);
    }

    #[test]
    fn a_taken_address_is_named() {
        let held = Listeners::bind(&options(&["127.0.0.1:0"])).expect("free ports");
        let taken = held.p2p_addresses().next().expect("one address").to_string();
        let error = Listeners::bind(&options(&[&taken])).expect_err("taken");
        assert!(error.to_string().starts_with(&format!("cannot listen at {taken}: ")), "{error}");
    }
}
