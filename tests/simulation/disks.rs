//! What survives a restart, and how a failing disk affects a node.

use std::time::Duration;

use dht::node::params::{Durability, Params};
use dht::record::Class;
use dht::sim::{Answer, Death, DiskSpace, Number, Scenario, Violation, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use crate::{Run, SECOND, await_all, found, key, node, put_many, value_of};

/// A network without faults of `nodes` nodes that have joined and persist records as `durability` says.
fn world(nodes: u32, seed: u64, durability: Durability) -> Result<World, Violation> {
    let params = Params { durability, ..Params::default() };
    let mut world = World::new(Scenario { params, ..Scenario::calm(nodes, seed) });
    world.join_all()?;
    world.run_for(SECOND * 90)?;
    Ok(world)
}

/// Kills all nodes at once, and restarts them a minute later; each joins through another one.
fn restart_all(world: &mut World) -> Run {
    let all: Vec<Number> = world.alive().collect();
    world.kill(Death::Process, all.iter().copied());
    world.run_for(SECOND * 60)?;
    for number in &all {
        let through = all[(number.0 as usize + 1) % all.len()];
        world.restart(*number, &[through])?;
    }
    world.await_joined()
}

#[test]
fn with_durability_always_confirmed_values_survive_the_kill_of_all_nodes() -> Run {
    for seed in 0..3 {
        let mut world = world(20, seed, Durability::Always)?;
        let keys = put_many(&mut world, 50, 5)?;
        restart_all(&mut world)?;
        for (nth, key) in keys.iter().enumerate() {
            let at = world.any_alive();
            assert_eq!(world.get(at, *key)?, found(&value_of(nth)), "value {nth} at node {at}, seed {seed}");
        }
        world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn a_lone_founder_confirms_only_values_that_are_on_its_disk() -> Run {
    let mut world = world(1, 1, Durability::Always)?;
    assert_eq!(world.put(node(0), key(1), b"alone", 0)?, found(b""));
    world.kill(Death::Process, [node(0)]);
    world.restart(node(0), &[])?;
    assert_eq!(world.get(node(0), key(1))?, found(b"alone"));
    Ok(())
}

#[test]
fn a_killed_node_loses_only_what_it_did_not_confirm() -> Run {
    let mut world = world(1, 1, Durability::Interval(SECOND))?;
    assert_eq!(world.put(node(0), key(1), b"early", 0)?, found(b""));
    let quiet = Put { ttl: 0, replication: 0, confirm: Confirm::No, class: Class::Plain, key: key(2), value: b"late" };
    world.ask(node(0), &ApiRequest::Put(quiet))?;
    world.run_for(SECOND / 4)?;
    world.kill(Death::Process, [node(0)]);
    world.restart(node(0), &[])?;
    world.run_for(SECOND)?;
    let held = |world: &World, nth| {
        let storage = world.node(node(0)).expect("it lives").storage();
        storage.find(world.now(), &key(nth)).map(|held| held.record.value.to_vec())
    };
    assert_eq!(held(&world, 1).as_deref(), Some(&b"early"[..]));
    assert_eq!(held(&world, 2), None);
    Ok(())
}

/// Stores a value with this TTL at some node; it is confirmed.
fn put_for(world: &mut World, number: u8, value: &[u8], ttl: u16) -> Run {
    let put = Put { ttl, replication: 12, confirm: Confirm::Yes, class: Class::Plain, key: key(number), value };
    let at = world.any_alive();
    let asked = world.ask(at, &ApiRequest::Put(put))?;
    assert_eq!(world.await_answer(asked)?, found(b""), "value {number}");
    Ok(())
}

/// Goal: no older value returns as long as it may be alive, although nodes return that have missed its successor, and
/// although the others know only fingerprints of the keys by then.
///
/// Method: every two hours some values with the longest life are stored. A quarter of the nodes is off while values with
/// short lives replace them and end. The nodes that know this restart too, before the others return.
#[test]
fn no_older_value_returns_in_18_hours_with_nodes_that_are_off_for_two() -> Run {
    let mut world = world(12, 1, Durability::Interval(SECOND))?;
    let mut stored = 0;
    for round in 0..9 {
        let new = stored..stored + 4;
        stored = new.end;
        for number in new.clone() {
            put_for(&mut world, number, b"older", u16::MAX)?;
        }
        world.run_for(SECOND * 60)?;
        let off: Vec<Number> = (0..3).map(|nth| node((3 * round + nth) % 12)).collect();
        world.kill(Death::Process, off.iter().copied());
        for number in new {
            put_for(&mut world, number, b"newer", 60)?;
        }
        world.run_for(SECOND * 6_000)?;
        let others: Vec<Number> = world.alive().collect();
        for number in others {
            world.kill(Death::Process, [number]);
            let through = world.any_alive();
            world.restart(number, &[through])?;
            world.run_for(SECOND * 60)?;
        }
        for node in world.alive().filter_map(|number| world.node(number)) {
            assert_eq!(node.storage().tombstones(key(0)..=key(255)).count(), 0, "they are old");
        }
        for number in off {
            let through = world.any_alive();
            world.restart(number, &[through])?;
        }
        world.run_for(SECOND * 300)?;
        for number in 0..stored {
            assert_eq!(world.replicas(&key(number)), [], "value {number} in round {round}");
            let at = world.any_alive();
            assert_eq!(world.get(at, key(number))?, Answer::Failure, "value {number} in round {round}");
        }
    }
    world.check_invariants()
}

#[test]
fn with_durability_none_a_node_restarts_empty() -> Run {
    let mut world = world(1, 1, Durability::None)?;
    assert_eq!(world.put(node(0), key(1), b"in memory", 0)?, found(b""));
    world.run_for(SECOND * 10)?;
    world.kill(Death::Process, [node(0)]);
    world.restart(node(0), &[])?;
    assert!(world.replicas(&key(1)).is_empty());
    Ok(())
}

#[test]
fn a_node_that_left_restarts_with_its_records_and_a_new_disk_starts_empty() -> Run {
    for empty in [false, true] {
        let mut world = world(1, 1, Durability::Interval(SECOND))?;
        assert_eq!(world.put(node(0), key(1), b"kept", 0)?, found(b""));
        world.leave(node(0))?;
        world.run_for(SECOND * 15)?;
        assert!(world.node(node(0)).is_none(), "it has left");
        if empty {
            world.restart_empty(node(0), &[])?;
        } else {
            world.restart(node(0), &[])?;
        }
        assert_eq!(world.replicas(&key(1)).is_empty(), empty);
    }
    Ok(())
}

#[test]
fn the_time_a_node_is_off_counts_towards_the_ttl_of_its_records() -> Run {
    for (off, alive) in [(3_000, true), (3_600, false)] {
        let mut world = world(1, 1, Durability::Interval(SECOND))?;
        assert_eq!(world.put(node(0), key(1), b"an hour", 0)?, found(b""));
        world.run_for(SECOND * 2)?;
        world.kill(Death::Process, [node(0)]);
        world.run_for(SECOND * off)?;
        world.restart(node(0), &[])?;
        assert_eq!(!world.replicas(&key(1)).is_empty(), alive, "after {off} s");
        world.run_for(SECOND * 601)?;
        assert!(world.replicas(&key(1)).is_empty(), "its life is over");
    }
    Ok(())
}

#[test]
fn a_restarted_node_joins_through_its_remembered_contacts() -> Run {
    let mut world = world(20, 4, Durability::Interval(SECOND))?;
    let lonely = node(7);
    world.kill(Death::Process, [lonely]);
    world.run_for(SECOND * 5)?;
    world.restart(lonely, &[])?;
    world.await_joined()?;
    world.run_for(SECOND * 30)?;
    assert!(world.node(lonely).expect("it lives").table().live() > 10, "it had no bootstraps, and no others did");
    Ok(())
}

/// Goal: a node never confirms a record that no disk stores, serves the records it has, and stores again
/// once there is room.
#[test]
fn while_all_disks_are_full_puts_fail_and_gets_go_on() -> Run {
    let mut world = world(20, 2, Durability::Always)?;
    let keys = put_many(&mut world, 20, 5)?;
    for number in 0..20 {
        world.set_disk_space(node(number), DiskSpace::Full);
    }
    assert_eq!(world.put(node(3), key(1), b"nowhere", 5)?, Answer::Failure);
    for (nth, key) in keys.iter().enumerate() {
        let at = world.any_alive();
        assert_eq!(world.get(at, *key)?, found(&value_of(nth)), "value {nth} at node {at}");
    }
    for number in 0..20 {
        world.set_disk_space(node(number), DiskSpace::Available);
    }
    world.run_for(SECOND * 10)?;
    assert_eq!(world.put(node(3), key(1), b"at last", 5)?, found(b""));
    assert_eq!(world.get(node(12), key(1))?, found(b"at last"));
    world.check_invariants()
}

#[test]
fn nodes_with_full_disks_refuse_copies_and_others_store_them() -> Run {
    let mut world = world(30, 3, Durability::Always)?;
    for number in (0..30).step_by(3) {
        world.set_disk_space(node(number), DiskSpace::Full);
    }
    world.run_for(Duration::from_mins(2))?;
    let asks = (0..40).map(|nth| {
        let (key, value) = (world.any_key(), value_of(nth));
        let at = node(3 * (u32::try_from(nth).expect("it is small") % 10) + 1);
        let put = dht::wire::api::Put {
            ttl: 0,
            replication: 5,
            confirm: dht::wire::api::Confirm::Yes,
            class: dht::record::Class::Plain,
            key,
            value: &value,
        };
        world.ask(at, &dht::wire::api::ApiRequest::Put(put))
    });
    let asks = asks.collect::<Result<Vec<_>, _>>()?;
    let confirmed = await_all(&mut world, &asks)?;
    assert!(confirmed.iter().all(|answer| *answer == found(b"")), "{confirmed:?}");
    Ok(())
}

#[test]
fn a_seed_replays_disks_and_churn() -> Run {
    let digest = |seed| -> Result<String, Violation> {
        let mut world = world(40, seed, Durability::Always)?;
        put_many(&mut world, 20, 5)?;
        world.begin_churn(dht::sim::Churn::of(Duration::from_mins(10)));
        world.run_for(Duration::from_mins(30))?;
        world.set_disk_space(node(3), DiskSpace::Full);
        world.run_for(Duration::from_mins(5))?;
        Ok(world.digest())
    };
    assert_eq!(digest(1)?, digest(1)?);
    assert_ne!(digest(1)?, digest(2)?);
    Ok(())
}

/// Method: the disks of three nodes fail, and clients overwrite all values. Then all nodes read: while the disks fail, when
/// they have just recovered, and later from these three nodes alone, since the others are killed.
#[test]
fn no_node_reads_what_was_overwritten_while_its_disk_failed() -> Run {
    for seed in 0..10 {
        let mut world = world(10, seed, Durability::Always)?;
        let keys = put_many(&mut world, 40, 4)?;
        let all: Vec<Number> = world.alive().collect();
        let failing = &all[..3];
        for number in failing {
            world.set_disk_space(*number, DiskSpace::Full);
        }
        let mut asks = Vec::new();
        for (nth, key) in keys.iter().enumerate() {
            let (at, value) = (world.any_alive(), value_of(100 + nth));
            let put =
                Put { ttl: 0, replication: 4, confirm: Confirm::Yes, class: Class::Plain, key: *key, value: &value };
            asks.push(world.ask(at, &ApiRequest::Put(put))?);
        }
        let answers = await_all(&mut world, &asks)?;
        let confirmed: Vec<usize> = (0..keys.len()).filter(|nth| answers[*nth] == found(b"")).collect();
        assert!(confirmed.len() > 30, "seed {seed}: {}", confirmed.len());
        let read_at = |world: &mut World, nodes: &[Number], nth: usize| -> Run {
            for at in nodes {
                assert_eq!(world.get(*at, keys[nth])?, found(&value_of(100 + nth)), "seed {seed}: key {nth} at {at}");
            }
            Ok(())
        };
        for space in [DiskSpace::Full, DiskSpace::Available] {
            for number in failing {
                world.set_disk_space(*number, space);
            }
            confirmed.iter().try_for_each(|nth| read_at(&mut world, &all, *nth))?;
        }
        world.run_for(SECOND * 60)?;
        world.kill(Death::Process, all[3..].iter().copied());
        world.run_for(SECOND * 60)?;
        let stores = |world: &World, at: Number, nth: usize| {
            world.node(at).is_some_and(|node| node.storage().find(world.now(), &keys[nth]).is_some())
        };
        for nth in confirmed {
            if failing.iter().any(|at| stores(&world, *at, nth)) {
                read_at(&mut world, failing, nth)?;
            }
        }
    }
    Ok(())
}
