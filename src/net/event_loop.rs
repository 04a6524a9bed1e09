//! The loop itself: one turn after the other, as the head of [`net`](crate::net) describes it.
//!
//! This file waits, accepts, watches deadlines and leaves. Input is in `input`, output
//! in `output`; both are parts of [`EventLoop`].

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use log::{debug, warn};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::contact::canonical;
use crate::counters::HostCounters;
use crate::identity::Identity;
use crate::limits::{ACCEPTS_PER_TURN, BATCHES_WAITING_MAX, EVENTS_PER_TURN, READ_BUFFER_SIZE};
use crate::net::alarm::Alarm;
use crate::net::client::Client;
use crate::net::clock::Clock;
use crate::net::conn::{Fault, Incoming, Patience, Phase, Side};
use crate::net::connections::Connections;
use crate::net::listener::{Listeners, Pool};
use crate::net::names::Names;
use crate::net::peer::Peer;
use crate::net::rate_limited_log::StrangerLog;
use crate::net::tls::Tls;
use crate::net::{Options, Service};
use crate::node::action::{Actions, ConnId, DialError, DialId};
use crate::node::persisted::{Batch, Saved};
use crate::time::{Now, Time};

/// Signals come in under this token.
const SIGNALS: Token = Token(usize::MAX - 1);

/// Helper threads wake the loop under this token.
const HELPERS: Token = Token(usize::MAX - 2);

/// The alarm rings under this token.
const ALARM: Token = Token(usize::MAX - 3);

/// The first listener's token; all above it are listeners or the three above, all below are slots.
const LISTENERS: Token = Token(usize::MAX / 2);

/// One service, its sockets and its clock.
pub struct EventLoop<S> {
    pub(super) service: S,
    pub(super) options: Options,
    pub(super) tls: Tls,
    pub(super) now: Now,
    pub(super) poll: Poll,
    pub(super) connections: Connections,
    pub(super) names: Names,
    /// Without a disk writer every batch fails.
    pub(super) disk_writer: Option<DiskChannels>,
    /// Lent to the service at each verb.
    pub(super) actions: Actions,
    /// What the service is to be told in step 8.
    pub(super) notices: VecDeque<Notice>,
    /// All sockets are read into this.
    pub(super) buffer: Vec<u8>,
    pub(super) counters: HostCounters,
    pub(super) strangers: StrangerLog,
    clock: Clock,
    alarm: Alarm,
    waker: Arc<Waker>,
    listeners: Listeners,
    /// Pools that are full and have been said to be.
    full: Vec<Pool>,
    signals: Option<Signals>,
    /// When the service wants to be woken, as it said before this turn.
    service_due: Option<Time>,
    leaving_until: Option<Time>,
}

/// The loop's ends of the channels to the disk writer.
pub(super) struct DiskChannels {
    pub(super) batches: SyncSender<Arc<Batch>>,
    pub(super) results: Receiver<Saved>,
}

/// Something that the service is told in step 8, and not in the middle of its own actions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// No connection came of a dial.
    DialFailed(DialId, DialError),
    /// A connection ended.
    Closed(ConnId),
    /// What became of a batch.
    Saved(Saved),
}

/// How a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to, the service has left; what it owed is sent, as far as time allowed.
    Left,
    /// Asked twice, the loop ended at once.
    Forced,
}

impl<S: Service> EventLoop<S> {
    /// A loop that serves `service` behind `listeners`, as the node that `identity` proves.
    /// `clock` is the one whose time the service was made with.
    ///
    /// # Errors
    ///
    /// [`LoopError`] if the system refuses, or if `identity` cannot prove itself.
    pub fn new(
        options: Options,
        mut listeners: Listeners,
        identity: &Identity,
        clock: Clock,
        service: S,
    ) -> Result<Self, LoopError> {
        let tls = Tls::new(identity, options.puzzle).map_err(|source| LoopError::Identity { source })?;
        let poll = Poll::new()?;
        listeners.register(poll.registry(), LISTENERS)?;
        let waker = Arc::new(Waker::new(poll.registry(), HELPERS)?);
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        Ok(Self {
            service,
            tls,
            now: clock.now(),
            poll,
            connections: Connections::new(Patience { api_idle: options.api_idle_timeout }),
            names: Names::new(waker.clone()),
            disk_writer: None,
            actions: Actions::new(),
            notices: VecDeque::new(),
            buffer: vec![0; READ_BUFFER_SIZE],
            counters: HostCounters::default(),
            strangers: StrangerLog::default(),
            clock,
            alarm,
            waker,
            listeners,
            full: Vec::new(),
            signals: None,
            service_due: None,
            leaving_until: None,
            options,
        })
    }

    /// Has SIGINT and SIGTERM stop this loop, instead of ending the process.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn watch_signals(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        self.poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// What a helper thread calls to have this loop listen to it; may be called from anywhere.
    pub fn waker(&self) -> impl Fn() + Send + use<S> {
        let waker = self.waker.clone();
        move || {
            let _ = waker.wake(); // it fails only for a loop that is gone
        }
    }

    /// Creates the channels to a disk writer and returns its ends: the batches to write, and a sender for
    /// their results in the same order. The disk writer must call [`EventLoop::waker`] after each result
    /// and when it ends. Without a disk writer every batch fails.
    pub fn attach_disk_writer(&mut self) -> (Receiver<Arc<Batch>>, SyncSender<Saved>) {
        let (batches, wanted) = sync_channel(BATCHES_WAITING_MAX);
        let (saved, results) = sync_channel(BATCHES_WAITING_MAX);
        self.disk_writer = Some(DiskChannels { batches, results });
        (wanted, saved)
    }

    /// Turns until a signal ends it.
    ///
    /// # Errors
    ///
    /// If the system can no longer tell what is ready, or a helper thread is gone.
    pub fn run(&mut self) -> Result<Ended, LoopError> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            if let Some(ended) = self.turn(&mut events)? {
                return Ok(ended);
            }
        }
    }

    /// What is served.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// What was counted.
    pub fn counters(&self) -> &HostCounters {
        &self.counters
    }

    /// One turn: the numbers are those of the head of [`net`](crate::net).
    pub(super) fn turn(&mut self, events: &mut Events) -> Result<Option<Ended>, LoopError> {
        let timeout = self.timeout()?; // 1
        if let Err(error) = self.poll.poll(events, timeout) {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error.into());
            }
            events.clear(); // 2
        }
        self.now = self.clock.now(); // 3
        for event in events.iter() {
            if self.note(event)? == Some(Ended::Forced) {
                return Ok(Some(Ended::Forced));
            }
        } // 4
        self.accept(); // 5
        self.serve_ready(); // 6
        self.expire(); // 7
        self.tell(); // 8
        self.part_if_left();
        self.flush_touched(); // 9
        if self.connections.reap() > 0 {
            self.listeners.resume();
        } // 10
        Ok(self.leaving_until.and_then(|until| {
            let is_over = self.service.has_left() && self.connections.is_empty();
            (is_over || until <= self.now.mono).then_some(Ended::Left)
        }))
    }

    /// Calls a verb of the service and performs what follows.
    pub(super) fn call(&mut self, verb: impl FnOnce(&mut S, Now, &mut Actions)) {
        verb(&mut self.service, self.now, &mut self.actions);
        self.perform();
    }

    /// Begins to leave: nobody is accepted and no request is read any more.
    pub(super) fn leave(&mut self) {
        debug!("leaving clients={} peers={}", self.connections.len(Pool::Clients), self.connections.len(Pool::Peers));
        self.leaving_until = Some(self.now.mono + self.options.leave_timeout);
        self.listeners.close();
        for slot in self.connections.slots() {
            let conn = self.connections.at(slot);
            if conn.phase == Phase::Open && matches!(conn.side, Side::Client(_)) {
                self.drain(slot);
            }
        }
        self.call(S::leave);
    }

    /// How long to wait for what happens outside: not at all while there is work; else for ever, for
    /// the alarm will ring by the first deadline.
    fn timeout(&mut self) -> io::Result<Option<Duration>> {
        self.service_due = self.service.next_deadline();
        let unparks = self.connections.has_parked() && self.service.wants_requests();
        if unparks || self.connections.has_work() || !self.notices.is_empty() {
            return Ok(Some(Duration::ZERO));
        }
        let deadlines =
            [self.service_due, self.connections.next_deadline(), self.listeners.next_deadline(), self.leaving_until];
        match Time::first_of(deadlines) {
            Some(at) if at <= self.now.mono => return Ok(Some(Duration::ZERO)),
            Some(at) => self.alarm.ring_by(self.now.mono, at)?,
            None => {}
        }
        Ok(None)
    }

    /// Takes note of what mio has to tell.
    fn note(&mut self, event: &Event) -> Result<Option<Ended>, LoopError> {
        match event.token() {
            SIGNALS => return Ok(self.on_signals()),
            ALARM => self.alarm.rang(),
            HELPERS => {
                self.dial_resolved()?;
                self.take_saved()?;
            }
            Token(at) if at >= LISTENERS.0 => self.listeners.mark(at - LISTENERS.0),
            Token(slot) => {
                let Some(conn) = self.connections.get(slot) else { return Ok(None) };
                let ending = event.is_read_closed() || event.is_error();
                if ending || event.is_readable() {
                    conn.mark(if ending { Incoming::Ending } else { Incoming::Ready });
                    self.connections.wake(slot);
                }
                if event.is_writable() || event.is_error() {
                    self.connections.touch(slot);
                }
            }
        }
        Ok(None)
    }

    /// The first signal asks to leave, the second to end.
    fn on_signals(&mut self) -> Option<Ended> {
        let signals = self.signals.as_mut().map_or(0, |signals| signals.pending().count());
        for _ in 0..signals {
            if self.leaving_until.is_some() {
                warn!("ended by a second signal");
                return Some(Ended::Forced);
            }
            self.leave();
        }
        None
    }

    fn accept(&mut self) {
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let Some((socket, address, pool)) = self.listeners.accept(at, self.now.mono) else {
                    break;
                };
                self.admit(socket, canonical(address), pool);
            }
        }
    }

    /// Takes a connection in, if its pool has room.
    fn admit(&mut self, mut socket: TcpStream, address: SocketAddr, pool: Pool) {
        let max = match pool {
            Pool::Clients => self.options.api_connections_max,
            Pool::Peers => self.options.peer_connections_max,
        };
        if self.connections.len(pool) >= max {
            self.counters.refused += 1;
            if !self.full.contains(&pool) {
                self.full.push(pool);
                self.strangers.warn(self.now.mono, format_args!("{pool} refused connected={max} addr={address}"));
            }
            return;
        }
        self.full.retain(|full| *full != pool);
        let token = Token(self.connections.next_slot());
        let _ = socket.set_nodelay(true); // it works without, only slower
        if self.poll.registry().register(&mut socket, token, Interest::READABLE).is_err() {
            self.counters.refused += 1;
            return;
        }
        self.counters.accepted += 1;
        let (side, phase) = match pool {
            Pool::Clients => (Side::Client(Client::default()), Phase::Open),
            Pool::Peers => (Side::Peer(Box::new(Peer::new(self.tls.accept(), None))), Phase::Handshaking),
        };
        self.connections.insert(socket, address, side, phase, Interest::READABLE, self.now.mono);
    }

    fn expire(&mut self) {
        while let Some((slot, overdue)) = self.connections.next_overdue(self.now.mono) {
            self.end(slot, &Fault::Overdue(overdue));
            self.connections.arm(slot);
        }
        // What has become due in this turn is seen in the next one, which does not wait.
        if self.service_due.is_some_and(|at| at <= self.now.mono) {
            self.call(S::on_timeout);
        }
    }

    /// Tells the service what has happened since. What follows from that is told in the next turn.
    fn tell(&mut self) {
        for _ in 0..self.notices.len() {
            match self.notices.pop_front() {
                Some(Notice::DialFailed(dial, error)) => {
                    self.call(|service, now, out| service.on_dial_failed(now, dial, error, out));
                }
                Some(Notice::Closed(conn)) => self.call(|service, now, out| service.on_closed(now, conn, out)),
                Some(Notice::Saved(saved)) => self.call(|service, now, out| service.on_saved(now, saved, out)),
                None => return,
            }
        }
    }

    /// Closes all connections once the service has said its last word.
    fn part_if_left(&mut self) {
        if self.leaving_until.is_none() || !self.service.has_left() {
            return;
        }
        for slot in self.connections.slots() {
            match self.connections.at(slot).phase {
                Phase::Open => self.drain(slot),
                Phase::Connecting | Phase::Handshaking => self.connections.finish(slot, self.now.mono),
                Phase::Draining | Phase::Lingering | Phase::Over => {}
            }
        }
    }
}

/// Why a loop cannot be made, or go on.
#[derive(Debug)]
pub enum LoopError {
    /// The system refused.
    Io {
        /// What it said.
        source: io::Error,
    },
    /// The key pair of the node is none.
    Identity {
        /// What TLS said.
        source: rustls::Error,
    },
    /// A helper thread has ended, by a panic: what it was asked will never be answered.
    HelperGone {
        /// Which.
        helper: Helper,
    },
}

/// A thread that does what would block the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// It resolves names.
    Names,
    /// It saves batches.
    DiskWriter,
}

impl From<io::Error> for LoopError {
    fn from(source: io::Error) -> Self {
        Self::Io { source }
    }
}

impl fmt::Display for LoopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { source } => write!(f, "the event loop failed: {source}"),
            Self::Identity { source } => write!(f, "the node's key cannot be used: {source}"),
            Self::HelperGone { helper: Helper::Names } => write!(f, "the thread that resolves names is gone"),
            Self::HelperGone { helper: Helper::DiskWriter } => write!(f, "the thread that writes to disk is gone"),
        }
    }
}

impl std::error::Error for LoopError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source } => Some(source),
            Self::Identity { source } => Some(source),
            Self::HelperGone { .. } => None,
        }
    }
}
