//! The loop of a run.
//!
//! ```text
//! 1   start the measurement after the warm-up; report at the end
//! 2   poll: until an event, the next scheduled request or the next sweep
//! 3   now = clock.mono()
//! 4   each event: connected → send the first batch; writable → write the rest; readable → verify the
//!     answers, and after the last answer send the next batch
//! 5   open loop: send all requests that are due
//! 6   every 100 ms: close connections that exceed the timeout, print the progress
//! ```

use std::io::ErrorKind;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::connection::{Connection, Stage, source};
use super::keys::Keys;
use super::load::{LoadError, Loss};
use super::plan::{Connecting, Extent, Pace, Plan, Progress};
use super::report::{Measurement, Report, per_second};
use super::requests::{Choice, Requests};
use super::schedule::Schedule;
use super::tally::Tally;
use super::verify::{Verdict, Verifier};
use dht::net::clock::Clock;
use dht::time::Time;

/// Largest read, in bytes: a batch of small values, or four of the largest values.
const READ_SIZE: usize = 256 << 10;

/// Largest number of events per poll; the next poll returns the rest.
const EVENTS_PER_POLL: usize = 1024;

/// Longest poll, and the interval at which connections are checked against the timeout.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// The system may wake the process a millisecond late, so an open loop polls without waiting when the
/// next request is due within this time.
const SPIN: Duration = Duration::from_millis(2);

/// Interval of the progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Consecutive connections that may end without an answer, beyond one per server and connection of
/// the plan. Few, because each may have taken the whole timeout.
const FRUITLESS_MAX: usize = 2;

/// A run of a plan.
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    clock: Clock,
    poll: Poll,
    connections: Vec<Connection>,
    requests: Requests<'a>,
    verifier: Verifier<'a>,
    schedule: Option<Schedule>,
    buffer: Vec<u8>,
    /// Open loop: the connection to try next.
    cursor: usize,
    /// Open loop: the connections with unsent requests.
    touched: Vec<usize>,
    /// Number of dials.
    dialled: u32,
    /// Number of connections that ended without an answer since the last answer.
    fruitless: usize,
    /// Number of requests that were sent or given up.
    issued: u64,
    /// The number of requests of the run.
    issued_max: u64,
    /// The measurement, after the warm-up.
    measurement: Option<Measurement>,
    swept: Time,
    shown: Shown,
}

/// The last progress line.
struct Shown {
    at: Time,
    ended: u64,
}

impl<'a> Run<'a> {
    /// Opens all connections.
    pub(crate) fn new(plan: &'a Plan, keys: &'a Keys, choice: Choice) -> Result<Self, LoadError> {
        let clock = Clock::start();
        let now = clock.mono();
        let mut run = Self {
            plan,
            clock,
            poll: Poll::new().map_err(LoadError::Loop)?,
            connections: Vec::with_capacity(plan.connections),
            requests: Requests::new(plan, keys, choice),
            verifier: Verifier::new(plan, keys),
            schedule: match plan.pace {
                Pace::Closed => None,
                Pace::Open { rate } => Some(Schedule::new(now, rate)),
            },
            buffer: vec![0; READ_SIZE],
            cursor: 0,
            touched: Vec::new(),
            dialled: 0,
            fruitless: 0,
            issued: 0,
            issued_max: match plan.extent {
                Extent::Requests(count) => count,
                Extent::Time { .. } => u64::MAX,
            },
            measurement: None,
            swept: now,
            shown: Shown { at: now, ended: 0 },
        };
        for slot in 0..plan.connections {
            let connection = run.dial(slot, slot % plan.servers.len(), now)?;
            run.connections.push(connection);
        }
        Ok(run)
    }

    /// Runs the loop until the end of the plan.
    pub(crate) fn run(mut self) -> Result<Report, LoadError> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut now = self.clock.mono();
        loop {
            if let Some(report) = self.step(now)? {
                return Ok(report);
            }
            match self.poll.poll(&mut events, Some(self.poll_timeout(now))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                polled => polled.map_err(LoadError::Loop)?,
            }
            now = self.clock.mono();
            for event in &events {
                self.on_event(event, now)?;
            }
            self.issue(now)?;
            if now - self.swept >= SWEEP_INTERVAL {
                self.sweep(now)?;
            }
        }
    }

    /// Starts or ends the measurement when that is due.
    fn step(&mut self, now: Time) -> Result<Option<Report>, LoadError> {
        let (warm_up, measured) = match self.plan.extent {
            Extent::Requests(_) => (Duration::ZERO, Duration::MAX),
            Extent::Time { warm_up, measured } => (warm_up, measured),
        };
        let Some(measurement) = &self.measurement else {
            if now >= Time::ZERO + warm_up {
                self.verifier.tally = Tally::new();
                if let Some(schedule) = &mut self.schedule {
                    schedule.reset();
                }
                self.measurement = Some(Measurement::begin(&self.plan.pids, self.clock.mono())?);
            }
            return Ok(None);
        };
        let all_ended = self.issued == self.issued_max && self.verifier.ended == self.issued;
        if !all_ended && now - measurement.begun < measured {
            return Ok(None);
        }
        let spent = measurement.end(&self.plan.pids, self.clock.mono())?;
        let behind = self.schedule.as_ref().map(Schedule::behind);
        Ok(Some(Report::new(self.plan, self.requests.keys_count(), &mut self.verifier.tally, spent, behind)))
    }

    /// How long the next poll may wait.
    fn poll_timeout(&self, now: Time) -> Duration {
        let Some(schedule) = self.schedule.as_ref().filter(|_| self.issued < self.issued_max) else {
            return SWEEP_INTERVAL;
        };
        let left = schedule.next_at() - now;
        match left.checked_sub(SPIN) {
            Some(sleep) => (sleep + SPIN / 2).min(SWEEP_INTERVAL),
            None if self.connections.iter().any(|connection| connection.has_room(self.plan.pipeline)) => Duration::ZERO,
            None => SWEEP_INTERVAL, // the next answer makes room and ends the poll
        }
    }

    fn on_event(&mut self, event: &Event, now: Time) -> Result<(), LoadError> {
        let Token(slot) = event.token();
        let connection = &mut self.connections[slot];
        if connection.stage == Stage::Connecting {
            match connection.socket.take_error() {
                Ok(None) if event.is_writable() => connection.stage = Stage::Open,
                Ok(None) => return Ok(()),
                Ok(Some(cause)) | Err(cause) => return self.lose(slot, Loss::Refused(cause), now),
            }
            self.next_batch(slot, now)?;
        } else if event.is_writable() && !connection.outbox.is_empty() {
            self.flush(slot, now)?;
        }
        if event.is_readable() {
            return self.read(slot, event.is_read_closed());
        }
        Ok(())
    }

    /// Reads until no data is left, because mio is edge-triggered. A read that does not fill the buffer
    /// was the last one, unless the end of the stream follows.
    fn read(&mut self, slot: usize, is_closing: bool) -> Result<(), LoadError> {
        loop {
            let connection = &mut self.connections[slot];
            if connection.stage == Stage::Connecting {
                return Ok(()); // a new connection has replaced it
            }
            let read = connection.read(&mut self.buffer);
            let now = self.clock.mono();
            let count = match read {
                Ok(None) => return Ok(()),
                Ok(Some(0)) => return self.lose(slot, Loss::Closed, now),
                Ok(Some(count)) => count,
                Err(cause) => return self.lose(slot, Loss::Broken(cause), now),
            };
            if self.verifier.read(connection, &self.buffer[..count], now).is_err() {
                return self.lose(slot, Loss::Senseless, now);
            }
            if connection.stage == Stage::Proven {
                self.fruitless = 0;
            }
            if connection.awaited.is_empty() {
                self.go_on(slot, now)?;
            }
            if count < self.buffer.len() && !is_closing {
                return Ok(());
            }
        }
    }

    /// Continues after the last answer of a batch.
    fn go_on(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        match self.plan.connecting {
            Connecting::Once => self.next_batch(slot, now),
            Connecting::Each if self.issued == self.issued_max => Ok(()),
            Connecting::Each => self.redial(slot, self.connections[slot].server, now),
        }
    }

    /// Closed loop: sends the next batch of a connection.
    fn next_batch(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        let connection = &mut self.connections[slot];
        let (most, since) = match self.plan.connecting {
            Connecting::Once => (self.plan.pipeline as u64, now),
            Connecting::Each => (1, connection.dialled),
        };
        let count = most.min(self.issued_max - self.issued);
        if self.schedule.is_some() || count == 0 {
            return Ok(());
        }
        self.issued += count;
        connection.heard = now;
        for _ in 0..count {
            self.requests.ask(connection, since);
        }
        self.send(slot, now)
    }

    /// Open loop: sends the requests that are due, as far as the connections have room. Gives up those
    /// that have waited for the whole timeout.
    fn issue(&mut self, now: Time) -> Result<(), LoadError> {
        let Some(schedule) = &mut self.schedule else {
            return Ok(());
        };
        let given_up = schedule.give_up(now, self.plan.timeout).min(self.issued_max - self.issued);
        self.verifier.give_up(given_up);
        self.issued += given_up;
        while self.issued < self.issued_max && schedule.next_at() <= now {
            let count = self.connections.len();
            let mut slots = (0..count).map(|at| (self.cursor + at) % count);
            let Some(slot) = slots.find(|slot| self.connections[*slot].has_room(self.plan.pipeline)) else {
                break;
            };
            self.cursor = slot + 1;
            let connection = &mut self.connections[slot];
            if connection.awaited.is_empty() {
                connection.heard = now;
            }
            self.requests.ask(connection, schedule.take(now));
            self.issued += 1;
            self.touched.push(slot);
        }
        schedule.note(schedule.waiting(now).min(self.issued_max - self.issued));
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched.iter().try_for_each(|slot| self.send(*slot, now))?;
        touched.clear();
        self.touched = touched;
        Ok(())
    }

    /// Sends the requests in the outbox of a connection.
    fn send(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        self.requests.seal(&mut self.connections[slot]);
        self.flush(slot, now)
    }

    fn flush(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        match self.connections[slot].flush() {
            Ok(count) => {
                self.verifier.tally.bytes_out += count as u64;
                Ok(())
            }
            Err(cause) => self.lose(slot, Loss::Broken(cause), now),
        }
    }

    /// Closes connections that exceed the timeout, and prints the progress.
    fn sweep(&mut self, now: Time) -> Result<(), LoadError> {
        self.swept = now;
        for slot in 0..self.connections.len() {
            let connection = &self.connections[slot];
            if connection.waits() && now - connection.heard > self.plan.timeout {
                self.lose(slot, Loss::TimedOut(self.plan.timeout), now)?;
            }
        }
        let since = now - self.shown.at;
        if self.plan.progress == Progress::Shown && since >= PROGRESS_INTERVAL {
            let rate = per_second(self.verifier.ended - self.shown.ended, since);
            let failures = self.verifier.tally.errors.total();
            eprintln!("{now}  {rate:.0} requests/s  {} answers  {failures} failures", self.verifier.tally.answers());
            self.shown = Shown { at: now, ended: self.verifier.ended };
        }
        Ok(())
    }

    // ── connections ──────────────────────────────────────────────────────────────────────────

    /// Counts the unanswered requests of a lost connection as failed, and opens another one.
    fn lose(&mut self, slot: usize, loss: Loss, now: Time) -> Result<(), LoadError> {
        let verdict = match loss {
            Loss::Refused(_) => {
                self.verifier.tally.errors.connect += 1;
                Verdict::Closed
            }
            Loss::Closed | Loss::Broken(_) => Verdict::Closed,
            Loss::Senseless => Verdict::Senseless,
            Loss::TimedOut(_) => Verdict::Timeout,
        };
        let connection = &mut self.connections[slot];
        for awaited in connection.awaited.drain(..) {
            self.verifier.close(awaited, verdict, now);
        }
        let server = connection.server;
        if connection.stage != Stage::Proven {
            self.count_fruitless(server, loss)?;
        }
        self.redial(slot, (server + 1) % self.plan.servers.len(), now)
    }

    fn redial(&mut self, slot: usize, server: usize, now: Time) -> Result<(), LoadError> {
        self.connections[slot] = self.dial(slot, server, now)?;
        Ok(())
    }

    /// Starts to connect to `server` or, if the system refuses, to the next one.
    fn dial(&mut self, slot: usize, mut server: usize, now: Time) -> Result<Connection, LoadError> {
        loop {
            let address = self.plan.servers[server];
            self.dialled = self.dialled.wrapping_add(1);
            let source = source(self.plan.connecting, address, self.dialled);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let dialled = Connection::dial(server, address, source, now).and_then(|mut connection| {
                self.poll.registry().register(&mut connection.socket, Token(slot), interest)?;
                Ok(connection)
            });
            match dialled {
                Ok(connection) => return Ok(connection),
                Err(cause) => {
                    self.verifier.tally.errors.connect += 1;
                    self.count_fruitless(server, Loss::Refused(cause))?;
                }
            }
            server = (server + 1) % self.plan.servers.len();
        }
    }

    /// Counts a connection that ended without an answer; too many in a row end the run.
    fn count_fruitless(&mut self, server: usize, loss: Loss) -> Result<(), LoadError> {
        self.fruitless += 1;
        if self.fruitless <= self.plan.connections * self.plan.servers.len() + FRUITLESS_MAX {
            return Ok(());
        }
        Err(LoadError::Unreachable { server: self.plan.servers[server], loss, answers: self.verifier.tally.answers() })
    }
}
