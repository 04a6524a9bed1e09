//! The timer that wakes the loop at its first deadline: a timer of the system, as a source of the poll.
//!
//! A poll with a timeout would set up and remove a kernel timer each time. This timer is set only when
//! the first deadline becomes earlier. When the deadline becomes later, the timer fires too early once,
//! which costs one turn without work. Most deadlines move into the future with each request, so the loop
//! usually polls without any call for the timer. It runs on the same clock as the loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::time::Time;

/// A timer that makes its token readable when it fires.
pub(super) struct WakeTimer {
    timer: OwnedFd,
    /// When it fires; `None` if it is not set.
    fires_at: Option<Time>,
}

impl WakeTimer {
    /// A timer that is not set, registered under `token`.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK.union(TimerfdFlags::CLOEXEC))?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, fires_at: None })
    }

    /// Makes the timer fire at `at` at the latest. `at` must be later than `now`.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn fire_by(&mut self, now: Time, at: Time) -> io::Result<()> {
        if self.fires_at.is_some_and(|fires_at| fires_at <= at) {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(at - now) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.fires_at = Some(at);
        Ok(())
    }

    /// Handles the event of the timer. Its descriptor need not be read: setting the timer again resets it.
    pub(super) fn fired(&mut self) {
        self.fires_at = None;
    }
}

/// Converts `span` to the system's type. Longer spans than it can represent are reduced to its maximum.
fn timespec(span: Duration) -> Timespec {
    let tv_sec = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: span.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    const TOKEN: Token = Token(7);

    const SOON: Time = Time::from_nanos(1_000_000);

    const NEVER: Time = Time::from_nanos(u64::MAX);

    /// A poll with a timer.
    fn poll() -> (Poll, WakeTimer) {
        let poll = Poll::new().expect("the system has a poll");
        let timer = WakeTimer::new(poll.registry(), TOKEN).expect("the system has timers");
        (poll, timer)
    }

    fn wait(poll: &mut Poll, timeout: Option<Duration>) -> Vec<Token> {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, timeout).expect("no signal interrupts");
        events.iter().map(mio::event::Event::token).collect()
    }

    #[test]
    fn the_timer_fires_once_each_time_it_is_set() {
        let (mut poll, mut timer) = poll();
        for _ in 0..3 {
            timer.fire_by(Time::ZERO, SOON).expect("the timer can be set");
            assert_eq!(wait(&mut poll, None), [TOKEN]);
            assert_eq!(wait(&mut poll, Some(Duration::ZERO)), []);
            timer.fired();
        }
    }

    #[test]
    fn the_timer_fires_at_the_earliest_of_its_deadlines() {
        let (mut poll, mut timer) = poll();
        for at in [NEVER, SOON, NEVER] {
            timer.fire_by(Time::ZERO, at).expect("the timer can be set");
        }
        assert_eq!(wait(&mut poll, None), [TOKEN]);
    }
}
