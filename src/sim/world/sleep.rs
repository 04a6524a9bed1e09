//! Sleep: the processes of nodes are stopped for a while, and continued.
//!
//! A node that sleeps has no turns. What happens at its host meanwhile waits: frames and closes in the sockets, in
//! their order, and the ends of its dials and of its writes to disk. Dials to it time out. All clocks go on. Its
//! connections stay open, unless they break ([`World::break_connections`]). When its process continues, its timers
//! are due, and it gets what has waited: which of the two comes first is random. A client may ask before both.
//!
//! The sockets have room for all frames that arrive meanwhile.

use rand::RngExt;

use super::World;
use crate::limits::DIAL_TIMEOUT;
use crate::node::action::DialError;
use crate::sim::queue::Event;
use crate::sim::{Chance, Number, Violation};
use crate::time::Time;

/// Whether the process of a node gets its turns.
#[derive(Debug, Default)]
pub(super) enum Turns {
    /// It does.
    #[default]
    InTime,
    /// It is stopped. What has happened at its host since, and when, in order.
    None(Vec<(Time, Event)>),
    /// It continues, and its timers are due.
    Late,
}

/// Stopping and continuing.
impl World {
    /// Stops the processes of running nodes without ending them.
    ///
    /// # Panics
    ///
    /// If a node does not run or is asleep.
    pub fn suspend(&mut self, numbers: impl IntoIterator<Item = Number>) {
        for number in numbers {
            assert!(self.node(number).is_some() && !self.is_asleep(number), "{number} does not run");
            let host = &mut self.hosts[number.index()];
            host.turns = Turns::None(Vec::new());
            host.wake = None;
            self.asleep += 1;
            self.network.set_accepts(number, false);
        }
        self.last_disruption = Some(self.now);
    }

    /// Continues the processes of sleeping nodes.
    ///
    /// # Panics
    ///
    /// If a node is not asleep.
    pub fn resume(&mut self, numbers: impl IntoIterator<Item = Number>) -> Result<(), Violation> {
        for number in numbers {
            let waiting = self.wake_up(number).expect("only sleeping nodes are continued");
            let timers_first = self.rng.random_bool(0.5);
            if timers_first {
                self.after_event(number)?;
            }
            for (at, event) in waiting {
                let event = late(event, self.now.since(at) > DIAL_TIMEOUT);
                self.queue.schedule(self.now, event);
            }
            if !timers_first {
                self.after_event(number)?;
            }
        }
        Ok(())
    }

    /// Breaks this part of the connections of a node.
    pub fn break_connections(&mut self, number: Number, part: Chance) {
        for (at, conn) in self.network.break_links(&mut self.rng, self.now, number, part) {
            self.queue.schedule(at, Event::Closed(conn));
        }
        self.last_disruption = Some(self.now);
    }

    /// Whether the process of a node is stopped.
    pub fn is_asleep(&self, number: Number) -> bool {
        matches!(self.hosts[number.index()].turns, Turns::None(_))
    }

    /// The node gets turns from now on. Returns what has waited for it; `None` if it was not asleep.
    pub(super) fn wake_up(&mut self, number: Number) -> Option<Vec<(Time, Event)>> {
        let host = &mut self.hosts[number.index()];
        if !matches!(host.turns, Turns::None(_)) {
            return None;
        }
        let is_due = host.node.as_ref().and_then(|node| node.next_deadline()).is_some_and(|next| next <= self.now);
        let turns = std::mem::replace(&mut host.turns, if is_due { Turns::Late } else { Turns::InTime });
        host.awake_since = self.now;
        self.asleep -= 1;
        self.network.set_accepts(number, true);
        self.last_disruption = Some(self.now);
        let Turns::None(waiting) = turns else { unreachable!("it was asleep") };
        Some(waiting)
    }

    /// Returns `event`, unless it has to wait because its node sleeps.
    pub(super) fn unless_asleep(&mut self, event: Event) -> Option<Event> {
        if self.asleep == 0 {
            return Some(event);
        }
        let number = match event {
            Event::Wake(number) => Some(number),
            Event::Dialled { from, .. } => Some(from),
            Event::Saved { at, .. } | Event::SessionEnds { at, .. } => Some(at),
            Event::Accepted(conn) | Event::Arrives(conn, _) | Event::Closed(conn) => self.network.host_of(conn),
            Event::Starts(_) => None,
        };
        let turns = number.map(|number| &mut self.hosts[number.index()].turns);
        let Some(Turns::None(waiting)) = turns else { return Some(event) };
        // The deadline of a node that continues is known then.
        if !matches!(event, Event::Wake(_)) {
            waiting.push((self.now, event));
        }
        None
    }
}

/// What has become of an event that has waited. A dial times out in the handshake.
fn late(event: Event, too_late: bool) -> Event {
    match event {
        Event::Dialled { from, incarnation, dial, acceptor: Ok(_) } if too_late => {
            Event::Dialled { from, incarnation, dial, acceptor: Err(DialError::Unreachable) }
        }
        event => event,
    }
}
