//! The moment at which the loop wakes by itself: one timer of the system, as a source of the poll.
//!
//! A wait that is told how long it may last sets up a timer and takes it down again, each time it
//! waits. This one is set when the first deadline comes nearer, and not when it moves away: then it
//! rings too early once, which costs a turn in which nothing is due. So a loop whose deadlines all move
//! into the future with each request, as most do, waits for its sockets alone.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::time::Time;

/// A timer that makes its token readable.
pub(super) struct Alarm {
    timer: OwnedFd,
    /// When it rings, unless it has.
    rings: Option<Time>,
}

impl Alarm {
    /// An alarm that is not set, known to the poll by `token`.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK.union(TimerfdFlags::CLOEXEC))?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, rings: None })
    }

    /// Has it ring at `at` at the latest, which lies after `now`.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn ring_by(&mut self, now: Time, at: Time) -> io::Result<()> {
        if self.rings.is_some_and(|rings| rings <= at) {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(at - now) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.rings = Some(at);
        Ok(())
    }

    /// It has rung. What it says need not be read: it rings anew once it is set anew.
    pub(super) fn rang(&mut self) {
        self.rings = None;
    }
}

/// `span` as the system wants it: at most as long as it can tell, which is longer than any wait.
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

    /// A poll with an alarm; the test waits for it without a timeout.
    fn poll() -> (Poll, Alarm) {
        let poll = Poll::new().expect("the system polls");
        let alarm = Alarm::new(poll.registry(), TOKEN).expect("the system has timers");
        (poll, alarm)
    }

    fn wait(poll: &mut Poll, timeout: Option<Duration>) -> Vec<Token> {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, timeout).expect("nothing interrupts");
        events.iter().map(mio::event::Event::token).collect()
    }

    #[test]
    fn it_rings_once_for_each_time_that_it_is_set() {
        let (mut poll, mut alarm) = poll();
        for _ in 0..3 {
            alarm.ring_by(Time::ZERO, SOON).expect("it can be set");
            assert_eq!(wait(&mut poll, None), [TOKEN]);
            assert_eq!(wait(&mut poll, Some(Duration::ZERO)), []);
            alarm.rang();
        }
    }

    #[test]
    fn it_rings_by_the_first_of_all_moments() {
        let (mut poll, mut alarm) = poll();
        for at in [NEVER, SOON, NEVER] {
            alarm.ring_by(Time::ZERO, at).expect("it can be set");
        }
        assert_eq!(wait(&mut poll, None), [TOKEN]);
    }
}
