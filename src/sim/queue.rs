//! What will happen, and in which order.
//!
//! The law: what happens next is what is due first, and of several things due at one moment
//! what was foreseen first. So equal runs have equal orders, whatever the heap does inside.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::node::action::{ConnId, DialError, DialId};
use crate::sim::Number;
use crate::time::Time;

/// All that is foreseen.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Event>,
    foreseen: u64,
}

/// Something that will happen.
#[derive(Debug)]
pub(super) enum What {
    /// The node asked to be woken.
    Wake(Number),
    /// A dial ends, of the node that lived its `life`th life then.
    Dialled { from: Number, life: u32, dial: DialId, outcome: Outcome },
    /// A handshake ends at the acceptor's end.
    Accepted(ConnId),
    /// Bytes arrive.
    Arrives(ConnId, Box<[u8]>),
    /// The other side has closed.
    Closed(ConnId),
    /// A batch of the node that lived its `life`th life then is through.
    Saved { at: Number, life: u32 },
    /// The session of that node is over.
    Ends { at: Number, life: u32 },
    /// The node of that number comes back, or somebody new comes.
    Comes(Option<Number>),
}

/// How a dial ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// Somebody is there.
    Met(Number),
    /// Nobody is, or somebody else.
    Failed(DialError),
}

impl Queue {
    /// `what` will happen at `at`.
    pub(super) fn foresee(&mut self, at: Time, what: What) {
        let nth = self.foreseen;
        self.foreseen += 1;
        self.heap.push(Event { at, nth, what });
    }

    /// Takes the next event out, if there is one, and one by `until`.
    pub(super) fn next(&mut self, until: Option<Time>) -> Option<(Time, What)> {
        self.heap.peek().filter(|event| until.is_none_or(|until| event.at <= until))?;
        self.heap.pop().map(|event| (event.at, event.what))
    }
}

#[derive(Debug)]
struct Event {
    at: Time,
    /// How many events were foreseen before it.
    nth: u64,
    what: What,
}

// A world of 20 000 nodes has half a million of them in its queue.
const _: () = assert!(size_of::<Event>() <= 48);

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The greatest is the next one, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.nth).cmp(&(self.at, self.nth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_then_what_was_foreseen_first() {
        let at = Time::from_nanos;
        let mut queue = Queue::default();
        for (nanos, number) in [(7, 1), (5, 2), (7, 3), (5, 4)] {
            queue.foresee(at(nanos), What::Wake(Number(number)));
        }
        assert!(queue.next(Some(at(4))).is_none(), "it is not due yet");
        let order = std::iter::from_fn(|| queue.next(None)).map(|(at, what)| match what {
            What::Wake(number) => (at.as_nanos(), number.0),
            _ => unreachable!("this test foresees nothing else"),
        });
        assert_eq!(order.collect::<Vec<_>>(), [(5, 2), (5, 4), (7, 1), (7, 3)]);
    }
}
