//! When the sweep looks at each record, to a quarter of a second.
//!
//! Time is divided into *ticks*. A record that is due at a moment belongs to the tick that ends at that moment or after
//! it. The records of a tick form a doubly linked list through their slots ([`Place`]), and an ordered map has the first
//! record of each tick that has any.
//!
//! Guarantees:
//!
//! - No record is looked at before it is due. It may be looked at up to one tick later.
//! - A record that is looked at and not due until later goes to a later tick, so a sweep looks at it once.
//! - The order depends on the calls alone: ticks come one after the other; within a tick the record that was inserted
//!   last comes first or, after [`Schedule::of`], the one in the lowest slot.
//! - Insertion and removal take one search among the ticks at most, and change one or two other records.
//!
//! Memory: a record takes the 12 bytes of its place. A tick with records takes [`TICK_BYTES`]. No record lives longer
//! than [`TTL_LONGEST`], so at most [`TICKS_MAX`] ticks have records: 6.3 MB, however many records there are.

use std::collections::BTreeMap;

use crate::limits::TTL_LONGEST;
use crate::storage::Held;
use crate::storage::slots::{Slot, Slots};
use crate::time::Time;

const TICK_NANOS: u64 = 250_000_000;

/// Bytes of memory that a tick with records takes. A node of the ordered map may be half empty, and has a head of its
/// own.
pub(super) const TICK_BYTES: usize = size_of::<(Tick, Slot)>() * 3;

/// The largest number of ticks that have records, but for records that the sweep is late to look at.
pub(super) const TICKS_MAX: usize = (TTL_LONGEST.as_nanos() / TICK_NANOS as u128) as usize + 1;

/// The number of a quarter of a second, counted from the start of the host. 32 bits last for 34 years. All moments
/// after them belong to the last tick, which does not end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u32);

impl Tick {
    const LAST: Tick = Tick(u32::MAX);

    /// The first tick that does not end before `moment`.
    pub(super) fn of(moment: Time) -> Self {
        u32::try_from(moment.as_nanos().div_ceil(TICK_NANOS)).map_or(Tick::LAST, Tick)
    }

    /// The moment at which the sweep may look at its records.
    pub(super) fn end(self) -> Time {
        if self == Tick::LAST { Time::from_nanos(u64::MAX) } else { Time::from_nanos(u64::from(self.0) * TICK_NANOS) }
    }
}

/// The tick of a record, and its neighbours in the list of the tick. Numbers of slots, or [`NONE`]: an `Option` takes
/// twice the memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    tick: Tick,
    previous: u32,
    next: u32,
}

/// No slot has this number.
const NONE: u32 = u32::MAX;

impl Place {
    pub(super) fn tick(self) -> Tick {
        self.tick
    }
}

fn slot(number: u32) -> Option<Slot> {
    (number != NONE).then(|| Slot::new(number))
}

/// The first record of each tick that has any.
#[derive(Debug)]
pub(super) struct Schedule {
    firsts: BTreeMap<Tick, Slot>,
}

impl Schedule {
    pub(super) const fn new() -> Self {
        Self { firsts: BTreeMap::new() }
    }

    /// The schedule of all of `records`, each in the tick in which it is due. Takes 8 bytes per record meanwhile.
    pub(super) fn of(records: &mut Slots<Held>) -> Self {
        let mut order: Vec<(Tick, Slot)> = records.iter().map(|(slot, held)| (held.due, slot)).collect();
        order.sort_unstable();
        let mut firsts = Vec::new();
        for list in order.chunk_by(|(one, _), (other, _)| one == other) {
            firsts.push(list[0]);
            let mut previous = NONE;
            for (at, (tick, slot)) in list.iter().enumerate() {
                let next = list.get(at + 1).map_or(NONE, |(_, next)| next.number());
                records[*slot].place = Place { tick: *tick, previous, next };
                previous = slot.number();
            }
        }
        Self { firsts: firsts.into_iter().collect() }
    }

    /// Inserts the record in `slot`, which has no place, into the tick in which it is due.
    pub(super) fn insert(&mut self, slot: Slot, records: &mut Slots<Held>) {
        let tick = records[slot].due;
        let next = self.firsts.insert(tick, slot);
        if let Some(next) = next {
            records[next].place.previous = slot.number();
        }
        records[slot].place = Place { tick, previous: NONE, next: next.map_or(NONE, Slot::number) };
    }

    /// Removes the record in `slot` from its place.
    pub(super) fn remove(&mut self, slot: Slot, records: &mut Slots<Held>) {
        let Place { tick, previous, next } = records[slot].place;
        let neighbours = (self::slot(previous), self::slot(next));
        if let Some(next) = neighbours.1 {
            records[next].place.previous = previous;
        }
        match neighbours {
            (Some(previous), _) => records[previous].place.next = next,
            (None, Some(next)) => drop(self.firsts.insert(tick, next)),
            (None, None) => drop(self.firsts.remove(&tick)),
        }
    }

    /// The record that the sweep looks at next, and the moment from which it may.
    pub(super) fn first(&self) -> Option<(Time, Slot)> {
        self.firsts.first_key_value().map(|(tick, slot)| (tick.end(), *slot))
    }

    /// The records of all ticks up to `last`, in their order.
    pub(super) fn until(&self, last: Tick, records: &Slots<Held>) -> impl Iterator<Item = Slot> {
        let next = |from: &Slot| slot(records[*from].place.next);
        self.firsts.range(..=last).flat_map(move |(_, first)| std::iter::successors(Some(*first), next))
    }

    /// How many of `records` are in the list of their tick, behind the record that they name. A list is followed up to
    /// the first one that is not, so it ends.
    pub(super) fn count_sound(&self, records: &Slots<Held>) -> usize {
        let mut sound = 0;
        for (tick, first) in &self.firsts {
            let (mut previous, mut at) = (NONE, Some(*first));
            while let Some(here) = at {
                let place = records[here].place;
                if place.tick != *tick || place.previous != previous {
                    break;
                }
                sound += 1;
                previous = here.number();
                at = slot(place.next);
            }
        }
        sound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Class, Record, Ttl, Version};
    use crate::storage::quota::Quota;
    use proptest::prelude::*;
    use std::cell::Cell;

    #[test]
    fn a_moment_belongs_to_the_tick_that_ends_at_it_or_after_it() {
        for (nanos, end) in [(0, 0), (1, 1), (TICK_NANOS, 1), (TICK_NANOS + 1, 2), (2 * TICK_NANOS - 1, 2)] {
            assert_eq!(Tick::of(Time::from_nanos(nanos)).end(), Time::from_nanos(end * TICK_NANOS), "{nanos}");
        }
        let last = u64::from(u32::MAX) * TICK_NANOS;
        assert_eq!(Tick::of(Time::from_nanos(last - TICK_NANOS)).end(), Time::from_nanos(last - TICK_NANOS));
        for moment in [last, last + 1, u64::MAX].map(Time::from_nanos) {
            assert_eq!(Tick::of(moment).end(), Time::from_nanos(u64::MAX), "the last tick does not end");
        }
    }

    fn due_in(tick: u32) -> Held {
        let record = Record {
            key: crate::id::Key::new([0; 32]),
            class: Class::Plain,
            version: Version::from_bits(0),
            ttl: Ttl::from_secs(60).expect("not zero"),
            replication: 8,
            crc: 0,
            value: b"v"[..].into(),
        };
        let (expires, quota, heard) = (Time::from_nanos(u64::MAX), Quota::PEER, Cell::new(0));
        Held { record, expires, quota, due: Tick(tick), place: Place::default(), heard }
    }

    /// Everything, in the order of the schedule.
    fn order(schedule: &Schedule, records: &Slots<Held>) -> Vec<(u32, Slot)> {
        schedule.until(Tick::LAST, records).map(|slot| (records[slot].place.tick.0, slot)).collect()
    }

    proptest! {
        /// Each step inserts a record that is due in a tick, or removes one.
        #[test]
        fn a_schedule_is_like_a_list_sorted_by_ticks_and_built_anew_it_is_sorted_by_slots_too(
            steps in proptest::collection::vec((0..4_u32, proptest::option::of(any::<proptest::sample::Index>())), 0..60),
        ) {
            let (mut schedule, mut records, mut model) = (Schedule::new(), Slots::new(), Vec::new());
            for (tick, removed) in steps {
                if let Some(at) = removed.filter(|_| !model.is_empty()).map(|at| at.index(model.len())) {
                    let (_, slot) = model.remove(at);
                    schedule.remove(slot, &mut records);
                    records.remove(slot);
                } else {
                    let slot = records.insert(due_in(tick));
                    schedule.insert(slot, &mut records);
                    model.insert(model.partition_point(|(other, _)| *other < tick), (tick, slot));
                }
                prop_assert_eq!(order(&schedule, &records), model.clone());
                let first = model.first().map(|(tick, slot)| (Tick(*tick).end(), *slot));
                prop_assert_eq!(schedule.first(), first);
                let until = |last| model.iter().filter(move |(tick, _)| *tick <= last).map(|(_, slot)| *slot);
                prop_assert!(schedule.until(Tick(2), &records).eq(until(2)));
                prop_assert_eq!(schedule.count_sound(&records), records.len());
                let mut ticks: Vec<u32> = model.iter().map(|(tick, _)| *tick).collect();
                ticks.dedup();
                prop_assert_eq!(schedule.firsts.len(), ticks.len(), "a tick without records takes no memory");
            }
            let anew = Schedule::of(&mut records);
            model.sort_unstable();
            prop_assert_eq!(order(&anew, &records), model);
            prop_assert_eq!(anew.count_sound(&records), records.len());
        }
    }

    #[test]
    fn a_broken_list_is_not_sound() {
        let mut records = Slots::new();
        let slots = [1, 1, 2].map(|tick| records.insert(due_in(tick)));
        let schedule = Schedule::of(&mut records);
        let sound = records[slots[0]].place;
        let broken = [
            Place { next: NONE, ..sound },
            Place { next: slots[0].number(), ..sound },
            Place { next: slots[2].number(), ..sound },
            Place { previous: slots[1].number(), ..sound },
            Place { tick: Tick(2), ..sound },
        ];
        for place in broken {
            records[slots[0]].place = place;
            assert_ne!(schedule.count_sound(&records), 3, "{place:?}");
        }
    }
}
