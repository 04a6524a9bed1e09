//! The queue of future events.
//!
//! Guarantee: the next event is the one with the earliest time and, of several events with the same time,
//! the one that was scheduled first. So the order is the same in every run of the same scenario.

use std::collections::BTreeMap;

use crate::contact::Family;
use crate::node::action::{ConnId, DialError, DialId};
use crate::sim::Number;
use crate::time::Time;

/// All future events.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By time, and then by the order of scheduling.
    events: BTreeMap<(Time, u64), Event>,
    scheduled: u64,
}

/// A future event. Where it names an incarnation of a node, it has no effect on a later one.
#[derive(Debug)]
pub(super) enum Event {
    /// The deadline of a node.
    Wake(Number),
    /// The end of a dial. The acceptor listens at its address of that family, unless it stops before the
    /// handshake ends.
    Dialled { from: Number, incarnation: u32, dial: DialId, acceptor: Result<(Number, Family), DialError> },
    /// The end of a handshake at the acceptor's end.
    Accepted(ConnId),
    /// The arrival of a message.
    Arrives(ConnId, Box<[u8]>),
    /// The arrival of the news that the other side has closed.
    Closed(ConnId),
    /// The end of a write to disk.
    Saved { at: Number, incarnation: u32 },
    /// The end of a node's session.
    SessionEnds { at: Number, incarnation: u32 },
    /// The return of a node, or the start of a new one.
    Starts(Option<Number>),
}

// A world of 20 000 nodes has half a million of them in its queue.
const _: () = assert!(size_of::<((Time, u64), Event)>() <= 48);

impl Queue {
    /// Schedules `event` at `at`.
    pub(super) fn schedule(&mut self, at: Time, event: Event) {
        self.events.insert((at, self.scheduled), event);
        self.scheduled += 1;
    }

    /// Removes the next event, if it is due by `until`.
    pub(super) fn next(&mut self, until: Option<Time>) -> Option<(Time, Event)> {
        let next = self.events.first_entry()?;
        let (at, _) = *next.key();
        until.is_none_or(|until| at <= until).then(|| (at, next.remove()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_ordered_by_time_and_then_by_scheduling() {
        let at = Time::from_nanos;
        let mut queue = Queue::default();
        for (nanos, number) in [(7, 1), (5, 2), (7, 3), (5, 4)] {
            queue.schedule(at(nanos), Event::Wake(Number(number)));
        }
        assert!(queue.next(Some(at(4))).is_none(), "no event is due yet");
        let order = std::iter::from_fn(|| queue.next(None)).map(|(at, event)| match event {
            Event::Wake(number) => (at.as_nanos(), number.0),
            _ => unreachable!("this test schedules no other events"),
        });
        assert_eq!(order.collect::<Vec<_>>(), [(5, 2), (5, 4), (7, 1), (7, 3)]);
    }
}
