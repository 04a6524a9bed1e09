//! All connections of an event loop: by slot, by id, and in queues of pending work.
//!
//! A slot is reused; an id is not. An id has the slot in its low bits and a counter in its high bits, so
//! it is found in one step, and the id of a freed connection finds nothing.
//!
//! Each connection is at most once in each queue and at most once in the ordered set of deadlines. The
//! set is lazy: if a deadline becomes later, its entry is updated only when the old deadline has passed.
//! So a request costs nothing there.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use slab::Slab;

use crate::net::account::{Account, Usage};
use crate::net::client::Client;
use crate::net::conn::{ConnectionInfo, Phase, Queued, Side, Timeout};
use crate::net::listener::Pool;
use crate::time::Time;

/// Bits of an id for its slot. The other 40 bits count all connections of the process.
const SLOT_BITS: u32 = 24;

/// The connections of an event loop.
#[derive(Default)]
pub(super) struct Connections {
    slots: Slab<ConnectionInfo>,
    opened: u64,
    clients: usize,
    api_idle_timeout: Duration,
    /// Connections with an event, to be served in this turn.
    ready: VecDeque<usize>,
    /// Connections to be served after those.
    deferred: VecDeque<usize>,
    /// Connections whose next request the service has no room for; the one that has waited longest first.
    parked: VecDeque<usize>,
    /// Connections with new output, to be flushed in this turn.
    to_flush: Vec<usize>,
    /// Connections to be flushed after those.
    deferred_flushes: VecDeque<usize>,
    closed: Vec<usize>,
    deadlines: BTreeSet<(Time, usize)>,
    /// What all clients hold.
    pub(super) account: Account,
}

impl Connections {
    /// No connections. An idle client times out after `api_idle_timeout`.
    pub(super) fn new(api_idle_timeout: Duration) -> Self {
        Self { api_idle_timeout, ..Self::default() }
    }

    /// The slot of the next connection.
    pub(super) fn next_slot(&self) -> usize {
        self.slots.vacant_key()
    }

    /// Adds a connection.
    pub(super) fn insert(&mut self, socket: TcpStream, address: SocketAddr, side: Side, now: Time) -> usize {
        let slot = self.slots.vacant_key();
        assert!(slot < 1 << SLOT_BITS, "the bounds on connections are far below");
        self.opened += 1;
        self.clients += usize::from(matches!(side, Side::Client(_)));
        let id = self.opened << SLOT_BITS | slot as u64;
        self.slots.insert(ConnectionInfo::new(id, socket, address, side, now));
        self.arm(slot);
        slot
    }

    /// The number of connections in `pool`.
    pub(super) fn len(&self, pool: Pool) -> usize {
        match pool {
            Pool::Clients => self.clients,
            Pool::Peers => self.slots.len() - self.clients,
        }
    }

    /// Whether there are no connections.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot of the connection `id`; `None` if it was freed.
    pub(super) fn find(&self, id: u64) -> Option<usize> {
        let slot = usize::try_from(id & ((1 << SLOT_BITS) - 1)).ok()?;
        self.slots.get(slot).is_some_and(|conn| conn.id == id).then_some(slot)
    }

    /// The connection in `slot`, if there is one.
    pub(super) fn get(&mut self, slot: usize) -> Option<&mut ConnectionInfo> {
        self.slots.get_mut(slot)
    }

    /// The connection in `slot`.
    ///
    /// # Panics
    ///
    /// If the slot is free. No connection is freed before the end of a turn.
    pub(super) fn at(&mut self, slot: usize) -> &mut ConnectionInfo {
        &mut self.slots[slot]
    }

    /// All slots in use.
    pub(super) fn slots(&self) -> Vec<usize> {
        self.slots.iter().map(|(slot, _)| slot).collect()
    }

    /// Queues `slot` to be served.
    pub(super) fn queue_ready(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if conn.queued == Queued::No {
            conn.queued = Queued::Ready;
            let queue = if conn.deferred.input { &mut self.deferred } else { &mut self.ready };
            queue.push_back(slot);
        }
    }

    /// Queues `slot` to be served when the service has room for its next request.
    pub(super) fn park(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if conn.queued == Queued::No {
            conn.queued = Queued::Parked;
            self.parked.push_back(slot);
        }
    }

    /// Removes the connection from the queue that has been parked longest and that `is_wanted` by its id.
    pub(super) fn next_parked(&mut self, is_wanted: impl Fn(u64) -> bool) -> Option<usize> {
        let at = self.parked.iter().position(|slot| is_wanted(self.slots[*slot].id))?;
        let slot = self.parked.remove(at)?;
        self.slots[slot].queued = Queued::No;
        Some(slot)
    }

    /// Whether any connection is parked that `is_wanted` by its id.
    pub(super) fn has_parked(&self, is_wanted: impl Fn(u64) -> bool) -> bool {
        self.parked.iter().any(|slot| is_wanted(self.slots[*slot].id))
    }

    /// The number of parked connections.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Whether any connection can be served or flushed without waiting for an event.
    pub(super) fn has_work(&self) -> bool {
        let is_served = !self.ready.is_empty() || !self.deferred.is_empty();
        is_served || !self.to_flush.is_empty() || !self.deferred_flushes.is_empty()
    }

    /// The number of connections with an event.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Removes the next connection from the queue of those with an event.
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        let slot = self.ready.pop_front()?;
        self.slots[slot].queued = Queued::No;
        Some(slot)
    }

    /// The number of deferred connections that are queued to be served.
    pub(super) fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// Removes the next connection from the queue of those that are served later.
    pub(super) fn next_deferred(&mut self) -> Option<usize> {
        let slot = self.deferred.pop_front()?;
        self.slots[slot].queued = Queued::No;
        Some(slot)
    }

    /// Queues `slot` to be flushed.
    pub(super) fn queue_flush(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if !conn.flush_queued {
            conn.flush_queued = true;
            if conn.deferred.output {
                self.deferred_flushes.push_back(slot);
            } else {
                self.to_flush.push(slot);
            }
        }
    }

    /// Removes the next connection from the queue of those with new output.
    pub(super) fn next_to_flush(&mut self) -> Option<usize> {
        let slot = self.to_flush.pop()?;
        self.slots[slot].flush_queued = false;
        Some(slot)
    }

    /// Whether any connection is queued to be flushed later.
    pub(super) fn has_deferred_flush(&self) -> bool {
        !self.deferred_flushes.is_empty()
    }

    /// Removes the next connection from the queue of those that are flushed later.
    pub(super) fn next_deferred_flush(&mut self) -> Option<usize> {
        let slot = self.deferred_flushes.pop_front()?;
        self.slots[slot].flush_queued = false;
        Some(slot)
    }

    /// Brings the account up to date with what the client in `slot` holds.
    pub(super) fn count(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        let usage = conn.usage();
        if let Side::Client(client) = &mut conn.side
            && client.counted != usage
        {
            self.account.change(client.counted, usage);
            client.counted = usage;
        }
    }

    /// Queues the client in `slot` to be served, if it waits for room for its answers and there is some.
    pub(super) fn wake_if_room(&mut self, slot: usize) {
        let room = self.account.room();
        let conn = &mut self.slots[slot];
        if conn.queued == Queued::Full && matches!(&conn.side, Side::Client(client) if client.room(room).is_some()) {
            conn.queued = Queued::No;
            self.queue_ready(slot);
        }
    }

    /// The client behind whose last progress is longest ago.
    pub(super) fn least_recent_reader(&self) -> Option<usize> {
        let behind = self.slots.iter().filter_map(|(slot, conn)| Some((conn.behind_since()?, slot)));
        behind.min().map(|(_, slot)| slot)
    }

    /// Closes the connection in `slot`. It is freed at the end of this turn; what a client holds is freed now.
    pub(super) fn close(&mut self, slot: usize, now: Time) {
        let conn = &mut self.slots[slot];
        if conn.phase != Phase::Closed {
            conn.enter(Phase::Closed, now);
            self.closed.push(slot);
            if let Side::Client(client) = &mut conn.side {
                self.account.change(client.counted, Usage::default());
                *client = Client::default();
            }
        }
    }

    /// Closes a lingering connection of `pool`: it has got all its output, and only its end is awaited. Returns whether
    /// there was one.
    pub(super) fn close_lingering(&mut self, pool: Pool, now: Time) -> bool {
        let lingers = |conn: &ConnectionInfo| conn.phase == Phase::Lingering && conn.pool() == pool;
        let slot = self.slots.iter().find(|(_, conn)| lingers(conn)).map(|(slot, _)| slot);
        if let Some(slot) = slot {
            self.close(slot, now);
        }
        slot.is_some()
    }

    /// Frees all closed connections; returns their number.
    pub(super) fn free_closed(&mut self) -> usize {
        if self.closed.is_empty() {
            return 0;
        }
        let slots = &self.slots;
        for queue in [&mut self.ready, &mut self.deferred, &mut self.parked, &mut self.deferred_flushes] {
            queue.retain(|slot| slots[*slot].phase != Phase::Closed);
        }
        self.to_flush.retain(|slot| slots[*slot].phase != Phase::Closed);
        let freed = self.closed.len();
        for slot in self.closed.drain(..) {
            let conn = self.slots.remove(slot);
            if let Side::Client(client) = &conn.side {
                self.clients -= 1;
                self.account.change(client.counted, Usage::default());
            }
            if let Some(at) = conn.scheduled {
                self.deadlines.remove(&(at, slot));
            }
        }
        freed
    }

    /// Updates the entry of `slot` in the set of deadlines, if its deadline has become earlier.
    pub(super) fn arm(&mut self, slot: usize) {
        let conn = &mut self.slots[slot];
        if conn.scheduled.is_some() && !conn.may_be_due_earlier() {
            return;
        }
        let Some((at, _)) = conn.deadline(self.api_idle_timeout) else {
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

    /// A time that is not later than the first deadline.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next connection whose deadline has passed, and what timed out.
    pub(super) fn next_timeout(&mut self, now: Time) -> Option<(usize, Timeout)> {
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let (_, slot) = self.deadlines.pop_first()?;
            let conn = &mut self.slots[slot];
            conn.scheduled = None;
            match conn.deadline(self.api_idle_timeout) {
                Some((at, timeout)) if at <= now => return Some((slot, timeout)),
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
    use crate::net::conn::Partial;

    fn connections() -> Connections {
        Connections::new(Duration::from_mins(1))
    }

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    /// A connection of a client that never sends anything.
    fn insert(connections: &mut Connections, now: Time) -> usize {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let socket = TcpStream::connect(address).expect("the listener has room");
        let client = Side::Client(Client::default());
        connections.insert(socket, address, client, now)
    }

    #[test]
    fn the_id_of_a_freed_connection_finds_nothing_although_its_slot_is_reused() {
        let mut connections = connections();
        let slot = insert(&mut connections, at(0));
        let id = connections.at(slot).id;
        assert_eq!(connections.find(id), Some(slot));
        connections.close(slot, at(1));
        assert_eq!(connections.find(id), Some(slot), "no connection is freed within a turn");
        assert_eq!(connections.free_closed(), 1);
        assert_eq!(connections.find(id), None);
        assert_eq!(connections.next_deadline(), None);
        assert_eq!(insert(&mut connections, at(2)), slot);
        assert_eq!(connections.find(id), None);
        assert_eq!(connections.len(Pool::Clients), 1);
    }

    #[test]
    fn a_freed_connection_is_in_no_queue() {
        let mut connections = connections();
        let [a, b, c, d] = std::array::from_fn(|_| insert(&mut connections, at(0)));
        connections.queue_ready(a);
        connections.queue_ready(a);
        connections.queue_ready(b);
        connections.park(c);
        connections.at(d).deferred.input = true;
        connections.queue_ready(d);
        connections.queue_flush(a);
        connections.at(d).deferred.output = true;
        connections.queue_flush(d);
        for slot in [a, c, d] {
            connections.close(slot, at(0));
        }
        connections.free_closed();
        assert_eq!((connections.next_ready(), connections.next_ready()), (Some(b), None));
        assert_eq!((connections.next_parked(|_| true), connections.next_deferred()), (None, None));
        assert_eq!((connections.next_to_flush(), connections.next_deferred_flush()), (None, None));
    }

    #[test]
    fn a_closed_client_holds_nothing_and_a_freed_one_counts_for_nothing() {
        let mut connections = connections();
        let [a, b] = std::array::from_fn(|_| insert(&mut connections, at(0)));
        for slot in [a, b] {
            connections.at(slot).client().outbox().push(&vec![7; 50_000], &[]);
            connections.count(slot);
        }
        assert_eq!(connections.account.all().finished, 100_000);
        connections.close(a, at(0));
        assert_eq!(connections.at(a).usage(), Usage::default());
        assert_eq!(connections.account.all().finished, 50_000);
        connections.at(a).inbox.reserve_exact(100);
        connections.count(a);
        connections.free_closed();
        assert_eq!(connections.account.all(), connections.at(b).usage());
    }

    #[test]
    fn of_the_parked_connections_that_are_wanted_the_one_that_waits_longest_is_next() {
        let mut connections = connections();
        let [a, b, c] = std::array::from_fn(|_| insert(&mut connections, at(0)));
        for slot in [a, b, c] {
            connections.park(slot);
        }
        let unwanted = connections.at(a).id;
        assert_eq!(connections.next_parked(|id| id != unwanted), Some(b));
        connections.park(b);
        assert_eq!(connections.next_parked(|id| id != unwanted), Some(c));
        assert_eq!(connections.next_parked(|id| id != unwanted), Some(b));
        assert!(connections.has_parked(|id| id == unwanted) && !connections.has_parked(|id| id != unwanted));
    }

    #[test]
    fn a_connection_whose_input_is_not_read_yet_does_not_time_out() {
        for (phase, timeout) in [(Phase::Open, Timeout::Frame), (Phase::Handshaking, Timeout::Handshake)] {
            let mut connections = connections();
            let slot = insert(&mut connections, at(0));
            connections.at(slot).enter(phase, at(1));
            connections.at(slot).note_partial(Partial::New, at(1));
            connections.arm(slot);
            connections.queue_ready(slot);
            assert_eq!(connections.next_timeout(at(100)), None);
            connections.next_ready();
            connections.arm(slot);
            assert_eq!(connections.next_timeout(at(100)), Some((slot, timeout)));
        }
    }

    #[test]
    fn a_deadline_that_becomes_later_fires_at_its_new_time() {
        let mut connections = connections();
        let slot = insert(&mut connections, at(0));
        assert_eq!(connections.next_timeout(at(59)), None);
        connections.at(slot).note_partial(Partial::New, at(55));
        connections.arm(slot);
        assert_eq!(connections.deadlines.len(), 1);
        connections.at(slot).note_partial(Partial::No, at(58));
        let timeout = connections.next_timeout(at(60));
        assert_eq!(timeout, Some((slot, Timeout::Idle)), "a minute without traffic");
        assert_eq!(connections.next_timeout(at(60)), None);
    }

    #[test]
    fn an_incomplete_message_times_out() {
        let mut connections = connections();
        let slot = insert(&mut connections, at(0));
        connections.at(slot).note_partial(Partial::New, at(3));
        connections.at(slot).note_partial(Partial::Same, at(12));
        connections.arm(slot);
        assert_eq!(connections.next_timeout(at(12)), None);
        assert_eq!(connections.next_timeout(at(13)), Some((slot, Timeout::Frame)));
    }
}
