//! The loop of a run.
//!
//! ```text
//! 1   poll: until something is wanted, or for a while
//! 2   now = clock.now()
//! 3   has the warm-up ended? begin to count. Is the run over? report
//! 4   each event: connected → first batch; room → write on; bytes → judge the answers; all in?
//!     next batch
//! 5   open loop: send what is wanted by now
//! 6   now and then: give up connections that are silent for too long; tell who watches
//! ```

use std::io::ErrorKind;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::connection::{Line, Stage, source};
use super::keys::Keys;
use super::load::{LoadError, Loss};
use super::plan::{Connecting, Extent, Pace, Plan, Progress};
use super::report::{Report, Stretch, per_second};
use super::requests::{Asker, Choice};
use super::schedule::Schedule;
use super::tally::Tally;
use super::verify::{Judge, Verdict};
use dht::net::clock::Clock;
use dht::time::Time;

/// Bytes that one read may bring: whatever a batch of small values may, and four of the largest.
const READ_SIZE: usize = 256 << 10;

/// Events of one poll: a further one brings the rest.
const EVENTS_PER_POLL: usize = 1024;

/// How long a poll waits at most, and how often silent connections are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// The system wakes us up to a millisecond late: an open loop that has less than this left spins.
const SPIN: Duration = Duration::from_millis(2);

/// From one line for who watches to the next.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Connections that may end without an answer, one after the other, beyond the one that each line
/// tries with each server: few, for each may have cost the whole timeout.
const IN_VAIN_MAX: usize = 2;

/// A plan that is being carried out.
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    clock: Clock,
    poll: Poll,
    lines: Vec<Line>,
    asker: Asker<'a>,
    judge: Judge<'a>,
    schedule: Option<Schedule>,
    buffer: Vec<u8>,
    /// The line that an open loop tries next, and those that it has written to.
    cursor: usize,
    touched: Vec<usize>,
    /// Connections that were dialled.
    dialled: u32,
    /// Connections without an answer since the last answer.
    in_vain: usize,
    /// Requests that were sent, or given up.
    issued: u64,
    /// All that may be.
    issued_max: u64,
    /// What is counted, once it is.
    stretch: Option<Stretch>,
    swept: Time,
    shown: Shown,
}

/// What who watches was told last.
struct Shown {
    at: Time,
    over: u64,
}

impl<'a> Run<'a> {
    /// Dials all connections.
    pub(crate) fn new(plan: &'a Plan, keys: &'a Keys, choice: Choice) -> Result<Self, LoadError> {
        let clock = Clock::start();
        let now = clock.mono();
        let mut run = Self {
            plan,
            clock,
            poll: Poll::new().map_err(LoadError::Loop)?,
            lines: Vec::with_capacity(plan.connections),
            asker: Asker::new(plan, keys, choice),
            judge: Judge::new(plan, keys),
            schedule: match plan.pace {
                Pace::Closed => None,
                Pace::Open { rate } => Some(Schedule::new(now, rate)),
            },
            buffer: vec![0; READ_SIZE],
            cursor: 0,
            touched: Vec::new(),
            dialled: 0,
            in_vain: 0,
            issued: 0,
            issued_max: match plan.extent {
                Extent::Requests(count) => count,
                Extent::Time { .. } => u64::MAX,
            },
            stretch: None,
            swept: now,
            shown: Shown { at: now, over: 0 },
        };
        for slot in 0..plan.connections {
            let line = run.dial(slot, slot % plan.servers.len(), now)?;
            run.lines.push(line);
        }
        Ok(run)
    }

    /// Carries the plan out.
    pub(crate) fn run(mut self) -> Result<Report, LoadError> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut now = self.clock.mono();
        loop {
            if let Some(report) = self.step(now)? {
                return Ok(report);
            }
            match self.poll.poll(&mut events, Some(self.patience(now))) {
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

    /// Begins to count, or ends, when that is due.
    fn step(&mut self, now: Time) -> Result<Option<Report>, LoadError> {
        let (warm_up, measured) = match self.plan.extent {
            Extent::Requests(_) => (Duration::ZERO, Duration::MAX),
            Extent::Time { warm_up, measured } => (warm_up, measured),
        };
        let Some(stretch) = &self.stretch else {
            if now >= Time::ZERO + warm_up {
                self.judge.tally = Tally::new();
                if let Some(schedule) = &mut self.schedule {
                    schedule.forgive();
                }
                self.stretch = Some(Stretch::begin(&self.plan.pids, self.clock.mono())?);
            }
            return Ok(None);
        };
        let all_over = self.issued == self.issued_max && self.judge.over == self.issued;
        if !all_over && now - stretch.begun < measured {
            return Ok(None);
        }
        let spent = stretch.end(&self.plan.pids, self.clock.mono())?;
        let behind = self.schedule.as_ref().map(Schedule::behind);
        Ok(Some(Report::new(self.plan, self.asker.keys_count(), &mut self.judge.tally, spent, behind)))
    }

    /// How long a poll may wait.
    fn patience(&self, now: Time) -> Duration {
        let Some(schedule) = self.schedule.as_ref().filter(|_| self.issued < self.issued_max) else {
            return SWEEP_INTERVAL;
        };
        let left = schedule.next_at() - now;
        match left.checked_sub(SPIN) {
            Some(sleep) => (sleep + SPIN / 2).min(SWEEP_INTERVAL),
            None if self.lines.iter().any(|line| line.has_room(self.plan.pipeline)) => Duration::ZERO,
            None => SWEEP_INTERVAL, // an answer, which makes room, will wake us
        }
    }

    fn on_event(&mut self, event: &Event, now: Time) -> Result<(), LoadError> {
        let Token(slot) = event.token();
        let line = &mut self.lines[slot];
        if line.stage == Stage::Connecting {
            match line.socket.take_error() {
                Ok(None) if event.is_writable() => line.stage = Stage::Open,
                Ok(None) => return Ok(()),
                Ok(Some(cause)) | Err(cause) => return self.lose(slot, Loss::Refused(cause), now),
            }
            self.next_batch(slot, now)?;
        } else if event.is_writable() && !line.outbox.is_empty() {
            self.flush(slot, now)?;
        }
        if event.is_readable() {
            return self.read(slot, event.is_read_closed());
        }
        Ok(())
    }

    /// Reads until there is nothing left: mio is edge-triggered, and a read that does not fill the
    /// buffer has taken all, unless the end stands behind it.
    fn read(&mut self, slot: usize, is_closing: bool) -> Result<(), LoadError> {
        loop {
            let line = &mut self.lines[slot];
            if line.stage == Stage::Connecting {
                return Ok(()); // it is a new one
            }
            let read = line.read(&mut self.buffer);
            let now = self.clock.mono();
            let count = match read {
                Ok(None) => return Ok(()),
                Ok(Some(0)) => return self.lose(slot, Loss::Closed, now),
                Ok(Some(count)) => count,
                Err(cause) => return self.lose(slot, Loss::Broken(cause), now),
            };
            if self.judge.read(line, &self.buffer[..count], now).is_err() {
                return self.lose(slot, Loss::Senseless, now);
            }
            if line.stage == Stage::Proven {
                self.in_vain = 0;
            }
            if line.awaited.is_empty() {
                self.go_on(slot, now)?;
            }
            if count < self.buffer.len() && !is_closing {
                return Ok(());
            }
        }
    }

    /// All answers of a line are in.
    fn go_on(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        match self.plan.connecting {
            Connecting::Once => self.next_batch(slot, now),
            Connecting::Each if self.issued == self.issued_max => Ok(()),
            Connecting::Each => self.redial(slot, self.lines[slot].server, now),
        }
    }

    /// Closed loop: sends the next batch of a line.
    fn next_batch(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        let line = &mut self.lines[slot];
        let (most, since) = match self.plan.connecting {
            Connecting::Once => (self.plan.pipeline as u64, now),
            Connecting::Each => (1, line.dialled),
        };
        let count = most.min(self.issued_max - self.issued);
        if self.schedule.is_some() || count == 0 {
            return Ok(());
        }
        self.issued += count;
        line.heard = now;
        for _ in 0..count {
            self.asker.ask(line, since);
        }
        self.send(slot, now)
    }

    /// Open loop: sends all that is wanted by now and finds room; gives up what has waited too long.
    fn issue(&mut self, now: Time) -> Result<(), LoadError> {
        let Some(schedule) = &mut self.schedule else {
            return Ok(());
        };
        let given_up = schedule.give_up(now, self.plan.timeout).min(self.issued_max - self.issued);
        self.judge.give_up(given_up);
        self.issued += given_up;
        while self.issued < self.issued_max && schedule.next_at() <= now {
            let count = self.lines.len();
            let mut slots = (0..count).map(|at| (self.cursor + at) % count);
            let Some(slot) = slots.find(|slot| self.lines[*slot].has_room(self.plan.pipeline)) else {
                break;
            };
            self.cursor = slot + 1;
            let line = &mut self.lines[slot];
            if line.awaited.is_empty() {
                line.heard = now;
            }
            self.asker.ask(line, schedule.take(now));
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

    /// Sends what was asked on a line.
    fn send(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        self.asker.seal(&mut self.lines[slot]);
        self.flush(slot, now)
    }

    fn flush(&mut self, slot: usize, now: Time) -> Result<(), LoadError> {
        match self.lines[slot].flush() {
            Ok(count) => {
                self.judge.tally.bytes_out += count as u64;
                Ok(())
            }
            Err(cause) => self.lose(slot, Loss::Broken(cause), now),
        }
    }

    /// Gives up connections that are silent for too long, and tells who watches.
    fn sweep(&mut self, now: Time) -> Result<(), LoadError> {
        self.swept = now;
        for slot in 0..self.lines.len() {
            let line = &self.lines[slot];
            if line.waits() && now - line.heard > self.plan.timeout {
                self.lose(slot, Loss::Silent(self.plan.timeout), now)?;
            }
        }
        let since = now - self.shown.at;
        if self.plan.progress == Progress::Shown && since >= PROGRESS_INTERVAL {
            let rate = per_second(self.judge.over - self.shown.over, since);
            let failures = self.judge.tally.errors.total();
            eprintln!("{now}  {rate:.0} requests/s  {} answers  {failures} failures", self.judge.tally.answers());
            self.shown = Shown { at: now, over: self.judge.over };
        }
        Ok(())
    }

    // ── connections ──────────────────────────────────────────────────────────────────────────

    /// A connection is over, and with it all that it is owed; another one takes its place.
    fn lose(&mut self, slot: usize, loss: Loss, now: Time) -> Result<(), LoadError> {
        let verdict = match loss {
            Loss::Refused(_) => {
                self.judge.tally.errors.connect += 1;
                Verdict::Closed
            }
            Loss::Closed | Loss::Broken(_) => Verdict::Closed,
            Loss::Senseless => Verdict::Senseless,
            Loss::Silent(_) => Verdict::Timeout,
        };
        let line = &mut self.lines[slot];
        for awaited in line.awaited.drain(..) {
            self.judge.close(awaited, verdict, now);
        }
        let server = line.server;
        if line.stage != Stage::Proven {
            self.note_in_vain(server, loss)?;
        }
        self.redial(slot, (server + 1) % self.plan.servers.len(), now)
    }

    fn redial(&mut self, slot: usize, server: usize, now: Time) -> Result<(), LoadError> {
        self.lines[slot] = self.dial(slot, server, now)?;
        Ok(())
    }

    /// Begins to connect to `server`, or to the next one that the system lets us dial.
    fn dial(&mut self, slot: usize, mut server: usize, now: Time) -> Result<Line, LoadError> {
        loop {
            let address = self.plan.servers[server];
            self.dialled = self.dialled.wrapping_add(1);
            let source = source(self.plan.connecting, address, self.dialled);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let dialled = Line::dial(server, address, source, now).and_then(|mut line| {
                self.poll.registry().register(&mut line.socket, Token(slot), interest)?;
                Ok(line)
            });
            match dialled {
                Ok(line) => return Ok(line),
                Err(cause) => {
                    self.judge.tally.errors.connect += 1;
                    self.note_in_vain(server, Loss::Refused(cause))?;
                }
            }
            server = (server + 1) % self.plan.servers.len();
        }
    }

    /// A connection brought nothing.
    fn note_in_vain(&mut self, server: usize, loss: Loss) -> Result<(), LoadError> {
        self.in_vain += 1;
        if self.in_vain <= self.plan.connections * self.plan.servers.len() + IN_VAIN_MAX {
            return Ok(());
        }
        Err(LoadError::Unreachable { server: self.plan.servers[server], loss, answers: self.judge.tally.answers() })
    }
}
