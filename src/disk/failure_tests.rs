//! Each call of a history on a simulated disk fails in turn: alone, with calls after it, or with all that follow. The
//! process goes on, and is killed at some later call. What was written must be there after that.

use std::io::ErrorKind;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::disk::crash_tests::{History, STEPS};
use crate::disk::files::Files;
use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::disk::store::tests::{batch, persisted};
use crate::disk::store::{Store, Trust};

/// What the calls that fail do before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing, or a part of a write.
    Nothing,
    /// All: the caller does not learn that it is done.
    All,
}

/// Calls that fail in a row: how many, and why.
type Failures = &'static [(u64, ErrorKind)];

/// What happens to a history.
const SCENARIOS: [(Failures, Before); 10] = [
    (&[(1, ErrorKind::Other)], Before::Nothing),
    (&[(1, ErrorKind::Other)], Before::All),
    (&[(1, ErrorKind::StorageFull)], Before::All),
    (&[(5, ErrorKind::Other)], Before::All),
    (&[(30, ErrorKind::ReadOnlyFilesystem)], Before::Nothing),
    (&[(u64::MAX, ErrorKind::ReadOnlyFilesystem)], Before::Nothing),
    (&[(u64::MAX, ErrorKind::Other)], Before::All),
    (&[(1, ErrorKind::StorageFull), (1, ErrorKind::Other)], Before::All),
    (&[(2, ErrorKind::QuotaExceeded), (1, ErrorKind::Other)], Before::Nothing),
    (&[(1, ErrorKind::StorageFull), (u64::MAX, ErrorKind::Other)], Before::Nothing),
];

/// The faults from the call `from` on.
fn faults(failures: Failures, mut from: u64) -> Vec<Fault> {
    let fault = |&(times, kind): &(u64, ErrorKind)| {
        let until = from.saturating_add(times);
        let fault = Fault { from, until, kind };
        from = until;
        fault
    };
    failures.iter().map(fault).collect()
}

/// The failures begin at the call `from`, and the process is killed at the call `killed`; returns whether a call failed.
fn fail(seed: u64, (failures, before): (Failures, Before), from: u64, killed: u64) -> bool {
    let mut history = History::new(seed, None);
    history.disk.inject_all(&faults(failures, from));
    history.disk.kill_at(killed);
    if before == Before::All {
        history.disk.act_before_failure();
    }
    for number in 0..STEPS {
        history.step(number);
        if history.disk.is_killed() {
            break;
        }
    }
    let mut rng = StdRng::seed_from_u64(seed << 32 | from);
    history.expect_recovery_from_kill(&mut rng);
    history.expect_recovery_from_power_failure(&mut rng);
    history.has_failed
}

/// A failure at each call of a history, and a kill at a call after it.
fn fail_everywhere(seed: u64, scenario: (Failures, Before)) {
    let calls = History::new(seed, None).run(false).disk.calls();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut failed = 0;
    for from in 0..calls {
        let last = if rng.random_bool(0.5) { from + 40 } else { 2 * calls };
        failed += u64::from(fail(seed, scenario, from, rng.random_range(from + 1..=last)));
    }
    assert!(failed > calls / 2, "{scenario:?}: {failed} of {calls}");
}

#[test]
fn a_failure_of_any_call_and_a_kill_at_a_later_one_lose_nothing_that_was_written() {
    (20..).zip(SCENARIOS).for_each(|(seed, scenario)| fail_everywhere(seed, scenario));
}

#[test]
#[ignore = "takes minutes"]
fn failures_of_each_call_of_two_hundred_histories_lose_nothing_that_was_written() {
    (1_000..1_200).zip(SCENARIOS.into_iter().cycle()).for_each(|(seed, scenario)| fail_everywhere(seed, scenario));
}

/// The names in the data directory.
fn names(disk: &SimulatedDisk) -> Vec<String> {
    disk.list("").expect("the disk works").into_iter().map(|(name, _)| name).collect()
}

/// Somebody has damaged the store. While the system refuses to create a new one, the damaged one keeps its name, and no
/// further files appear.
#[test]
fn a_store_is_begun_anew_once_whatever_call_fails() {
    let damaged = || {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, 2_048).expect("a new store");
        store.write(&batch((0..30).map(|number| persisted(number, 200)))).expect("the disk works");
        store.kill();
        disk.remove("records/00000001.log").expect("it is there");
        disk
    };
    for before in [Before::Nothing, Before::All] {
        for calls in 0.. {
            let disk = damaged();
            if before == Before::All {
                disk.act_before_failure();
            }
            let from = disk.calls() + calls;
            disk.inject(Some(Fault { from, until: from + 1, kind: ErrorKind::Other }));
            let first = Store::anew_on_simulated(&disk, 2_048);
            disk.inject(None);
            let is_done = first.is_ok();
            let store = first.or_else(|_| Store::anew_on_simulated(&disk, 2_048)).expect("the disk works");
            assert!(store.is_empty());
            store.kill();
            assert_eq!(names(&disk), ["records", "records.aside"], "call {calls}, {before:?}");
            Store::on_simulated(&disk, 2_048).expect("the store is intact").kill();
            if is_done {
                assert!(calls > 20, "{calls} calls fail");
                break;
            }
        }
    }
    let disk = damaged();
    disk.set_capacity(disk.used() + 10);
    Store::anew_on_simulated(&disk, 2_048).expect_err("the disk is full");
    assert!(Store::on_simulated(&disk, 2_048).expect_err("it is damaged").fault().is_damage());
}

/// The writes of a large batch that came before the failed one are cut off again, although that call fails too.
#[test]
fn a_large_batch_that_cannot_be_withdrawn_does_not_make_the_store_look_damaged() {
    let mut failures = 0;
    for calls in 0..20 {
        let disk = SimulatedDisk::default();
        let mut store = Store::on_simulated(&disk, 1 << 22).expect("a new store");
        store.write(&batch([persisted(1, 100)])).expect("the disk works");
        disk.set_capacity(disk.used() + 1_500_000);
        disk.act_before_failure();
        let from = disk.calls() + calls;
        disk.inject(Some(Fault { from, until: from + 1, kind: ErrorKind::Other }));
        store.write(&batch((2..42).map(|number| persisted(number, 60_000)))).expect_err("the disk is full");
        assert_ne!(store.trust(), Trust::Nothing, "{calls} calls");
        failures += u32::from(!store.is_usable());
        store.kill();
        let left = Store::on_simulated(&disk.after_kill(), 1 << 22).expect("the store is intact");
        assert_eq!(left.all(), [persisted(1, 100)]);
    }
    assert!(failures > 3, "{failures}");
}
