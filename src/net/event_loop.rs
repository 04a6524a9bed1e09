//! The event loop: one turn after the other, as described in [`net`](crate::net).
//!
//! This file waits, accepts, watches deadlines and leaves. `input` and `output` contain the other methods
//! of [`EventLoop`].

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
use crate::id::RpcId;
use crate::identity::Identity;
use crate::limits::READ_BUFFER_SIZE;
use crate::net::client::Client;
use crate::net::clock::Clock;
use crate::net::conn::{CloseReason, Incoming, Phase, Side, Timeout};
use crate::net::connections::Connections;
use crate::net::listener::{Listeners, Pool};
use crate::net::peer::Peer;
use crate::net::rate_limited_log::RateLimitedLog;
use crate::net::resolver::Resolver;
use crate::net::slice::{PACE, Pace};
use crate::net::timer::WakeTimer;
use crate::net::tls::Tls;
use crate::net::{Options, Service};
use crate::node::action::{Actions, ConnId, DialError, DialId};
use crate::node::persisted::{Batch, Saved};
use crate::time::{Now, Time};

/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 1_024;

/// Connections accepted in one turn from one listener, so that a flood of them does not delay the others.
const ACCEPTS_PER_TURN: usize = 2;

/// Batches in the channel to the disk writer, besides the one that it writes, and results in the channel
/// back: the node waits for the result of a batch before it sends the next one.
const BATCHES_WAITING_MAX: usize = 1;

/// The token of signals.
const SIGNALS: Token = Token(usize::MAX - 1);

/// The token by which helper threads wake the loop.
const HELPERS: Token = Token(usize::MAX - 2);

/// The token of the timer.
const TIMER: Token = Token(usize::MAX - 3);

/// The token of the first listener. Larger ones are listeners or the three tokens above, smaller ones are
/// slots.
const LISTENERS: Token = Token(usize::MAX / 2);

/// One service, its sockets and its clock.
pub struct EventLoop<S> {
    pub(super) service: S,
    pub(super) options: Options,
    pub(super) tls: Tls,
    pub(super) now: Now,
    pub(super) poll: Poll,
    pub(super) connections: Connections,
    pub(super) resolver: Resolver,
    /// Without a disk writer every batch fails.
    pub(super) disk_writer: Option<DiskChannels>,
    /// Passed to the service at each call.
    pub(super) actions: Actions,
    /// Reported to the service in step 8.
    pub(super) notices: VecDeque<Notice>,
    /// The buffer for the reads of all sockets.
    pub(super) buffer: Vec<u8>,
    pub(super) counters: HostCounters,
    pub(super) limited_log: RateLimitedLog,
    pub(super) clock: Clock,
    pub(super) pace: Pace,
    /// Until when deferred connections are served in this turn, if any were.
    deferred_until: Option<Time>,
    /// Whether deferred output had no time in this turn, so that it comes before deferred input in the next one.
    pub(super) is_output_next: bool,
    /// Whether this turn is late, so that all connections with an event are served before its deadlines.
    pub(super) is_late: bool,
    timer: WakeTimer,
    waker: Arc<Waker>,
    listeners: Listeners,
    /// Full pools whose first refusal was logged.
    full: Vec<Pool>,
    signals: Option<Signals>,
    leaving_until: Option<Time>,
}

/// The loop's ends of the channels to the disk writer.
pub(super) struct DiskChannels {
    pub(super) batches: SyncSender<Arc<Batch>>,
    pub(super) results: Receiver<Saved>,
}

/// An event that is reported to the service in step 8, and not while its actions are performed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// A dial failed.
    DialFailed(DialId, DialError),
    /// A connection ended.
    Closed(ConnId),
    /// A request found no room in the outbox of its connection.
    Unsent(ConnId, RpcId),
    /// A batch was written, or was not.
    Saved(Saved),
}

/// How a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After the first signal: the service has left and all output is sent, or the time for that is over.
    Left,
    /// After a second signal: the loop ended at once.
    Forced,
}

impl<S: Service> EventLoop<S> {
    /// An event loop for `service` with the sockets of `listeners` and the key of `identity`. The service
    /// must have been created with the time of `clock`.
    ///
    /// # Errors
    ///
    /// [`LoopError`] if the system refuses or the key of `identity` is invalid.
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
        let timer = WakeTimer::new(poll.registry(), TIMER)?;
        Ok(Self {
            service,
            tls,
            now: clock.now(),
            poll,
            connections: Connections::new(options.api_idle_timeout),
            resolver: Resolver::new(waker.clone()),
            disk_writer: None,
            actions: Actions::new(),
            notices: VecDeque::new(),
            buffer: vec![0; READ_BUFFER_SIZE],
            counters: HostCounters::default(),
            limited_log: RateLimitedLog::default(),
            clock,
            pace: PACE,
            deferred_until: None,
            is_output_next: false,
            is_late: false,
            timer,
            waker,
            listeners,
            full: Vec::new(),
            signals: None,
            leaving_until: None,
            options,
        })
    }

    /// Makes SIGINT and SIGTERM stop this loop instead of ending the process.
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

    /// A function that wakes this loop. Helper threads call it.
    pub fn waker(&self) -> impl Fn() + Send + use<S> {
        let waker = self.waker.clone();
        move || {
            let _ = waker.wake(); // fails only if the loop is gone
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

    /// Runs until a signal ends the loop.
    ///
    /// # Errors
    ///
    /// If the poll fails, or a helper thread has panicked.
    pub fn run(&mut self) -> Result<Ended, LoopError> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            if let Some(ended) = self.turn(&mut events)? {
                return Ok(ended);
            }
        }
    }

    /// The service.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The counters of this loop.
    pub fn counters(&self) -> &HostCounters {
        &self.counters
    }

    /// One turn. The numbers are those in the documentation of [`net`](crate::net).
    pub(super) fn turn(&mut self, events: &mut Events) -> Result<Option<Ended>, LoopError> {
        let due = Time::first_of([self.service.next_deadline(), self.connections.next_deadline()]);
        let timeout = self.timeout(due)?; // 1
        self.await_events(events, timeout)?; // 2
        self.now = self.clock.now(); // 3
        self.deferred_until = None;
        self.is_late = due.is_some_and(|at| self.now.mono - at >= self.pace.late_after);
        if self.take_events(events)? == Some(Ended::Forced) {
            return Ok(Some(Ended::Forced));
        } // 4
        self.accept(); // 5
        self.serve_ready(); // 6
        self.handle_deadlines(); // 7
        self.report_notices(); // 8
        self.close_all_if_left();
        self.flush_queued(); // 9
        self.close_least_recent_readers();
        if self.connections.free_closed() > 0 {
            self.listeners.resume();
        } // 10
        Ok(self.leaving_until.and_then(|until| {
            let is_done = self.service.has_left() && self.connections.is_empty();
            (is_done || until <= self.now.mono).then_some(Ended::Left)
        }))
    }

    /// Polls; once more if a signal interrupts it: a process that was stopped reads what came before it looks at
    /// deadlines.
    fn await_events(&mut self, events: &mut Events, mut timeout: Option<Duration>) -> io::Result<()> {
        while let Err(error) = self.poll.poll(events, timeout) {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
            timeout = Some(Duration::ZERO);
        }
        Ok(())
    }

    /// Handles the events of the poll; in a late turn, those for which it had no room as well.
    fn take_events(&mut self, events: &mut Events) -> Result<Option<Ended>, LoopError> {
        let connections = self.connections.len(Pool::Clients) + self.connections.len(Pool::Peers);
        for _ in 0..=connections / events.capacity() {
            for event in events.iter() {
                if self.on_event(event)? == Some(Ended::Forced) {
                    return Ok(Some(Ended::Forced));
                }
            }
            if !self.is_late || events.iter().count() < events.capacity() {
                break;
            }
            self.await_events(events, Some(Duration::ZERO))?;
        }
        Ok(None)
    }

    /// Begins the `time` for deferred connections in this turn, if it has not begun; returns when it ends.
    pub(super) fn begin_deferred(&mut self, time: Duration) -> Time {
        *self.deferred_until.get_or_insert_with(|| self.clock.mono() + time)
    }

    /// Whether the time for deferred connections in this turn has begun, and is over.
    pub(super) fn is_time_over(&self) -> bool {
        self.deferred_until.is_some_and(|until| until <= self.clock.mono())
    }

    /// Calls a method of the service and performs its actions.
    pub(super) fn call(&mut self, method: impl FnOnce(&mut S, Now, &mut Actions)) {
        method(&mut self.service, self.now, &mut self.actions);
        self.perform();
    }

    /// Begins to leave: no connection is accepted and no request is read any more.
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

    /// The timeout of the poll: zero if there is work, else none, since the timer fires at the first
    /// deadline: `due`, or one of the loop itself.
    fn timeout(&mut self, due: Option<Time>) -> io::Result<Option<Duration>> {
        let is_wanted = |id| self.service.wants_requests_of(id);
        let unparks = self.service.wants_requests() && self.connections.has_parked(is_wanted);
        if unparks || self.connections.has_work() || !self.notices.is_empty() {
            return Ok(Some(Duration::ZERO));
        }
        match Time::first_of([due, self.listeners.next_deadline(), self.leaving_until]) {
            Some(at) if at <= self.now.mono => return Ok(Some(Duration::ZERO)),
            Some(at) => self.timer.fire_by(self.now.mono, at)?,
            None => {}
        }
        Ok(None)
    }

    /// Handles an event of the poll.
    fn on_event(&mut self, event: &Event) -> Result<Option<Ended>, LoopError> {
        match event.token() {
            SIGNALS => return Ok(self.on_signals()),
            TIMER => self.timer.fired(),
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
                    self.connections.queue_ready(slot);
                }
                if event.is_writable() || event.is_error() {
                    self.connections.queue_flush(slot);
                }
            }
        }
        Ok(None)
    }

    /// The first signal begins to leave, the second one ends the loop.
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

    /// Adds an accepted connection. In a full pool it takes the place of a lingering one, which is freed at the end of
    /// this turn; if none lingers, it is refused.
    fn admit(&mut self, mut socket: TcpStream, address: SocketAddr, pool: Pool) {
        let max = match pool {
            Pool::Clients => self.options.api_connections_max,
            Pool::Peers => self.options.peer_connections_max,
        };
        if self.connections.len(pool) >= max && !self.connections.close_lingering(pool, self.now.mono) {
            self.counters.refused += 1;
            if !self.full.contains(&pool) {
                self.full.push(pool);
                self.limited_log.warn(self.now.mono, format_args!("{pool} refused connected={max} addr={address}"));
            }
            return;
        }
        self.full.retain(|full| *full != pool);
        if self.register(&mut socket, Interest::READABLE).is_err() {
            self.counters.refused += 1;
            return;
        }
        self.counters.accepted += 1;
        let side = match pool {
            Pool::Clients => Side::Client(Client::default()),
            Pool::Peers => Side::Peer(Box::new(Peer::new(self.tls.accept(), None))),
        };
        self.connections.insert(socket, address, side, self.now.mono);
    }

    /// Registers the socket of the next connection.
    pub(super) fn register(&self, socket: &mut TcpStream, interest: Interest) -> io::Result<()> {
        let _ = socket.set_nodelay(true); // without it the connection works, but slower
        self.poll.registry().register(socket, Token(self.connections.next_slot()), interest)
    }

    fn handle_deadlines(&mut self) {
        while let Some((slot, timeout)) = self.connections.next_timeout(self.now.mono) {
            match timeout {
                Timeout::Unread => self.end_unless_read(slot),
                _ => self.end(slot, &CloseReason::Timeout(timeout)),
            }
            self.connections.arm(slot);
        }
        // Also what a message of this turn made due, such as a batch that a peer waits for.
        if self.service.next_deadline().is_some_and(|at| at <= self.now.mono) {
            self.call(S::on_timeout);
        }
    }

    /// Reports the notices so far to the service. New ones are reported in the next turn.
    fn report_notices(&mut self) {
        for _ in 0..self.notices.len() {
            match self.notices.pop_front() {
                Some(Notice::DialFailed(dial, error)) => {
                    self.call(|service, now, out| service.on_dial_failed(now, dial, error, out));
                }
                Some(Notice::Closed(conn)) => self.call(|service, now, out| service.on_closed(now, conn, out)),
                Some(Notice::Unsent(conn, rpc)) => {
                    self.call(|service, now, out| service.on_unsent(now, conn, rpc, out));
                }
                Some(Notice::Saved(saved)) => self.call(|service, now, out| service.on_saved(now, saved, out)),
                None => return,
            }
        }
    }

    /// Closes all connections once the service has left.
    fn close_all_if_left(&mut self) {
        if self.leaving_until.is_none() || !self.service.has_left() {
            return;
        }
        for slot in self.connections.slots() {
            match self.connections.at(slot).phase {
                Phase::Open => self.drain(slot),
                Phase::Connecting | Phase::Handshaking => self.connections.close(slot, self.now.mono),
                Phase::Draining | Phase::Lingering | Phase::Closed => {}
            }
        }
    }
}

/// Why a loop cannot be created, or ended with an error.
#[derive(Debug)]
pub enum LoopError {
    /// The system refused an operation.
    Io {
        /// The system's error.
        source: io::Error,
    },
    /// The key pair of the node is invalid.
    Identity {
        /// The error of TLS.
        source: rustls::Error,
    },
    /// A helper thread has panicked, so its pending results will never arrive.
    HelperGone {
        /// The thread.
        helper: Helper,
    },
}

/// A thread for operations that would block the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// Resolves names.
    Resolver,
    /// Writes batches to disk.
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
            Self::HelperGone { helper: Helper::Resolver } => write!(f, "the thread that resolves names is gone"),
            Self::HelperGone { helper: Helper::DiskWriter } => write!(f, "the thread that writes to disk is gone"),
        }
    }
}

impl std::error::Error for LoopError {}
