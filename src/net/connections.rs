//! All connections of a host: by slot, by id, and by what is to be done about them.
//!
//! A slot is used again; an id never is. It carries its slot in its low bits and a count in its
//! high ones, so it is found in one step and a stale one finds nobody.
//!
//! A connection stands at most once in each list, and its deadline at most once in the order of
//! deadlines. That order is lazy: a deadline that moves into the future is not touched until the
//! old one has come, so that a request costs nothing there.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use mio::Interest;
use mio::net::TcpStream;
use slab::Slab;

use crate::net::conn::{ConnectionInfo, Overdue, Patience, Phase, Queued, Side};
use crate::net::listener::Pool;
use crate::time::Time;

/// Bits of an id that say its slot; the 40 others count all connections of a process's life.
const SLOT_BITS: u32 = 24;

/// The connections of a host.
pub(super) struct Connections {
    slots: Slab<ConnectionInfo>,
    minted: u64,
    clients: usize,
    patience: Patience,
    ready: VecDeque<usize>,
    unwelcome: Vec<usize>,
    touched: Vec<usize>,
    over: Vec<usize>,
    deadlines: BTreeSet<(Time, usize)>,
}

impl Connections {
    /// None yet.
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            slots: Slab::new(),
            minted: 0,
            clients: 0,
            patience,
            ready: VecDeque::new(),
            unwelcome: Vec::new(),
            touched: Vec::new(),
            over: Vec::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// The slot that the next connection will have.
    pub(super) fn next_slot(&self) -> usize {
        self.slots.vacant_key()
    }

    /// Adds a connection.
    pub(super) fn insert(
        &mut self,
        socket: TcpStream,
        address: SocketAddr,
        side: Side,
        phase: Phase,
        interest: Interest,
        now: Time,
    ) -> usize {
        let slot = self.slots.vacant_key();
        assert!(slot < 1 << SLOT_BITS, "the bounds on connections are far below");
        self.minted += 1;
        self.clients += usize::from(matches!(side, Side::Client(_)));
        let id = self.minted << SLOT_BITS | slot as u64;
        self.slots.insert(ConnectionInfo::new(id, socket, address, side, phase, interest, now));
        self.arm(slot);
        slot
    }

    /// How many there are in `pool`.
    pub(super) fn len(&self, pool: Pool) -> usize {
        match pool {
            Pool::Clients => self.clients,
            Pool::Peers => self.slots.len() - self.clients,
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot of the connection `id`, if it is not gone.
    pub(super) fn find(&self, id: u64) -> Option<usize> {
        let slot = usize::try_from(id & ((1 << SLOT_BITS) - 1)).ok()?;
        self.slots.get(slot).is_some_and(|conn| conn.id == id).then_some(slot)
    }

    /// The connection in `slot`, if there is one.
    pub(super) fn get(&mut self, slot: usize) -> Option<&mut ConnectionInfo> {
        self.slots.get_mut(slot)
    }

    /// The connection in `slot`, which the caller knows to be there: none is freed before the
    /// end of a turn.
    pub(super) fn at(&mut self, slot: usize) -> &mut ConnectionInfo {
        &mut self.slots[slot]
    }

    /// All slots in use.
    pub(super) fn slots(&self) -> Vec<usize> {
        self.slots.iter().map(|(slot, _)| slot).collect()
    }

    /// Has `slot` served soon, after all that wait already.
    pub(super) fn wake(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if conn.queued == Queued::No {
            conn.queued = Queued::Ready;
            self.ready.push_back(slot);
        }
    }

    /// Has `slot` served once the service wants requests again.
    pub(super) fn park(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if conn.queued == Queued::No {
            conn.queued = Queued::Unwelcome;
            self.unwelcome.push(slot);
        }
    }

    /// The service wants requests again.
    pub(super) fn unpark(&mut self) {
        for slot in self.unwelcome.drain(..) {
            self.slots[slot].queued = Queued::Ready;
            self.ready.push_back(slot);
        }
    }

    /// Whether anything can be done without waiting for an event.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.touched.is_empty()
    }

    /// Whether anybody waits for the service to want requests again.
    pub(super) fn has_parked(&self) -> bool {
        !self.unwelcome.is_empty()
    }

    /// How many wait to be served.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The next that is to be served.
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        let slot = self.ready.pop_front()?;
        self.slots[slot].queued = Queued::No;
        Some(slot)
    }

    /// Has `slot` flushed in this turn.
    pub(super) fn touch(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if !conn.touched {
            conn.touched = true;
            self.touched.push(slot);
        }
    }

    /// The next that is to be flushed.
    pub(super) fn next_touched(&mut self) -> Option<usize> {
        let slot = self.touched.pop()?;
        self.slots[slot].touched = false;
        Some(slot)
    }

    /// Has `slot` freed at the end of this turn.
    pub(super) fn finish(&mut self, slot: usize, now: Time) {
        let conn = &mut self.slots[slot];
        if conn.phase != Phase::Over {
            conn.enter(Phase::Over, now);
            self.over.push(slot);
        }
    }

    /// Frees what is over; returns how many.
    pub(super) fn reap(&mut self) -> usize {
        if self.over.is_empty() {
            return 0;
        }
        let slots = &self.slots;
        self.ready.retain(|slot| slots[*slot].phase != Phase::Over);
        self.unwelcome.retain(|slot| slots[*slot].phase != Phase::Over);
        self.touched.retain(|slot| slots[*slot].phase != Phase::Over);
        let reaped = self.over.len();
        for slot in self.over.drain(..) {
            let conn = self.slots.remove(slot);
            self.clients -= usize::from(matches!(conn.side, Side::Client(_)));
            if let Some(at) = conn.scheduled {
                self.deadlines.remove(&(at, slot));
            }
        }
        reaped
    }

    /// Sees to it that the deadline of `slot` is looked at in time.
    pub(super) fn arm(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if conn.scheduled.is_some() && !conn.is_pressed() {
            return; // it has only moved into the future
        }
        let Some((at, _)) = conn.deadline(self.patience) else {
            return;
        };
        if let Some(scheduled) = conn.scheduled {
            if scheduled <= at {
                return;
            }
            self.deadlines.remove(&(scheduled, slot));
        }
        conn.scheduled = Some(at);
        self.deadlines.insert((at, slot));
    }

    /// A moment not later than the first deadline.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next connection whose deadline has passed, and which one it was.
    pub(super) fn next_overdue(&mut self, now: Time) -> Option<(usize, Overdue)> {
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let (_, slot) = self.deadlines.pop_first()?;
            let conn = &mut self.slots[slot];
            conn.scheduled = None;
            match conn.deadline(self.patience) {
                Some((at, overdue)) if at <= now => return Some((slot, overdue)),
                _ => self.arm(slot),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::client::Client;
    use crate::net::conn::Rest;
    use std::time::Duration;

    fn connections() -> Connections {
        Connections::new(Patience { api_idle: Duration::from_mins(1) })
    }

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    /// A connection to nobody: nothing in these tests reads or writes.
    fn insert(connections: &mut Connections, now: Time) -> usize {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let socket = TcpStream::connect(address).expect("somebody listens");
        let client = Side::Client(Client::default());
        connections.insert(socket, address, client, Phase::Open, Interest::READABLE, now)
    }

    #[test]
    fn an_id_that_is_gone_finds_nobody_although_its_slot_is_used_again() {
        let mut connections = connections();
        let slot = insert(&mut connections, at(0));
        let id = connections.at(slot).id;
        assert_eq!(connections.find(id), Some(slot));
        connections.finish(slot, at(1));
        assert_eq!(connections.find(id), Some(slot), "nothing is freed within a turn");
        assert_eq!(connections.reap(), 1);
        assert_eq!(connections.find(id), None);
        assert_eq!(connections.next_deadline(), None);
        assert_eq!(insert(&mut connections, at(2)), slot);
        assert_eq!(connections.find(id), None);
        assert_eq!(connections.len(Pool::Clients), 1);
    }

    #[test]
    fn what_is_over_is_in_no_list() {
        let mut connections = connections();
        let (a, b, c) =
            (insert(&mut connections, at(0)), insert(&mut connections, at(0)), insert(&mut connections, at(0)));
        connections.wake(a);
        connections.wake(a);
        connections.wake(b);
        connections.park(c);
        connections.touch(a);
        connections.finish(a, at(0));
        connections.finish(c, at(0));
        connections.reap();
        connections.unpark();
        assert_eq!((connections.next_ready(), connections.next_ready()), (Some(b), None));
        assert_eq!(connections.next_touched(), None);
    }

    #[test]
    fn a_deadline_that_moved_into_the_future_is_found_there() {
        let mut connections = connections();
        let slot = insert(&mut connections, at(0));
        assert_eq!(connections.next_overdue(at(59)), None);
        connections.at(slot).note_rest(Rest::NewHalf, at(55));
        connections.arm(slot);
        assert_eq!(connections.deadlines.len(), 1);
        connections.at(slot).note_rest(Rest::Nothing, at(58));
        let answered = connections.next_overdue(at(60));
        assert_eq!(answered, Some((slot, Overdue::Silence)), "a minute of silence");
        assert_eq!(connections.next_overdue(at(60)), None);
    }

    #[test]
    fn half_a_message_must_become_whole_in_time() {
        let mut connections = connections();
        let slot = insert(&mut connections, at(0));
        connections.at(slot).note_rest(Rest::NewHalf, at(3));
        connections.at(slot).note_rest(Rest::SameHalf, at(12));
        connections.arm(slot);
        assert_eq!(connections.next_overdue(at(12)), None);
        assert_eq!(connections.next_overdue(at(13)), Some((slot, Overdue::Frame)));
    }
}
