//! Nodes that restart together: what they store may have been replaced while they were off, and they may lack values that
//! were written then. No node, restarted or not, may answer a GET by what they know. A value that is written through one
//! of them counts from its confirmation.

use std::ops::Range;
use std::time::Duration;

use dht::id::Key;
use dht::record::Class;
use dht::sim::{Answer, Death, Number, RequestId, Scenario, Violation, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use crate::{Run, SECOND, await_all, found, node, put_many, value_of};

const NODES: u32 = 10;

/// Keys that are written before, and while nodes are off.
const OVERWRITTEN: usize = 30;

/// Keys that are only written while nodes are off.
const NEW: usize = 10;

const REPLICATION: u8 = 4;

/// Nodes are watched after the restart for so many steps of 200 ms.
const STEPS: usize = 50;

/// A GET of the key with that number, and the PUT of it that was confirmed before.
struct Read {
    at: Number,
    nth: usize,
    newest: usize,
    ask: RequestId,
}

/// The value of the key with that number in the PUT with that number.
fn value(put: usize, nth: usize) -> [u8; 8] {
    value_of(nth + put * 1_000)
}

/// Starts the network, writes the values that are overwritten later, and returns all keys.
fn start(world: &mut World) -> Result<Vec<Key>, Violation> {
    world.join_all()?;
    world.run_for(SECOND * 30)?;
    let mut keys = put_many(world, OVERWRITTEN, REPLICATION)?;
    keys.extend((0..NEW).map(|_| world.any_key()));
    Ok(keys)
}

/// Writes the value of each key at some node that runs, with that TTL.
fn write_all(world: &mut World, keys: &[Key], ttl: u16) -> Run {
    let seed = world.scenario().seed;
    for (nth, key) in keys.iter().enumerate() {
        let at = world.any_alive();
        let value = value(1, nth);
        let put = put_of(*key, &value, ttl);
        let asked = world.ask(at, &ApiRequest::Put(put))?;
        assert_eq!(world.await_answer(asked)?, found(b""), "seed {seed}: key {nth} at {at}");
    }
    Ok(())
}

fn put_of(key: Key, value: &[u8], ttl: u16) -> Put<'_> {
    Put { ttl, replication: REPLICATION, confirm: Confirm::Yes, class: Class::Plain, key, value }
}

/// Method: every value is written while some nodes are off, or all but one, for a second or so long that the others have
/// forgotten them. Then they restart together. From that moment on every node reads, and restarted nodes write.
fn no_node_is_misled_by_nodes_that_restart_together(off: u32, seeds: Range<u64>) -> Run {
    let restarted = || (0..off).map(node);
    let (mut confirmed, networks) = (0, seeds.clone().count());
    for seed in seeds {
        // The last survivor does not confirm anything before it knows that the others do not run. If it has a fast clock,
        // its record may be larger than that of a later PUT, which nodes that do not know it yet have confirmed.
        let is_last = off == NODES - 1;
        let calm = Scenario::calm(NODES, seed);
        let skew_max = if is_last { Duration::ZERO } else { calm.skew_max };
        let mut world = World::new(Scenario { skew_max, ..calm });
        let keys = start(&mut world)?;
        // If all replicas of a record are off, a node with a slow clock that cannot know it would draw a smaller version.
        world.run_for(skew_max * 2)?;
        world.kill(if seed % 3 == 0 && !is_last { Death::Host } else { Death::Process }, restarted());
        world.run_for(SECOND * if seed % 2 == 0 && !is_last { 1 } else { 90 })?;
        write_all(&mut world, &keys, 0)?;
        for number in restarted() {
            world.restart(number, &[])?;
        }
        let mut puts = Vec::new();
        for (nth, number) in restarted().enumerate() {
            puts.push(world.ask(number, &ApiRequest::Put(put_of(keys[nth], &value(2, nth), 0)))?);
        }
        let mut reads = Vec::new();
        for _ in 0..STEPS {
            for at in (0..NODES).map(node) {
                let nth = world.any_below(keys.len());
                let is_confirmed = puts.get(nth).is_some_and(|put| world.answer(*put) == Some(&found(b"")));
                let ask = world.ask(at, &ApiRequest::Get { key: keys[nth] })?;
                reads.push(Read { at, nth, newest: if is_confirmed { 2 } else { 1 }, ask });
            }
            world.run_for(SECOND / 5)?;
        }
        confirmed += await_all(&mut world, &puts)?.iter().filter(|answer| **answer == found(b"")).count();
        for Read { at, nth, newest, ask } in reads {
            let answer = world.await_answer(ask)?;
            let is_right = (newest..=2).any(|put| answer == found(&value(put, nth)));
            assert!(is_right, "seed {seed}: key {nth} at {at}, after PUT {newest}: {answer:?}");
        }
    }
    // A PUT fails if the clock of its node is slow, and nodes get the record of the earlier PUT while it runs.
    assert!(confirmed > networks, "{confirmed} PUTs were confirmed");
    Ok(())
}

#[test]
fn no_node_is_misled_by_nodes_that_restart_together_seeds_0_to_9() -> Run {
    no_node_is_misled_by_nodes_that_restart_together(4, 0..10)
}

#[test]
#[ignore = "long: 90 networks of 10 nodes; scripts/check.sh --long runs it"]
fn no_node_is_misled_by_nodes_that_restart_together_seeds_10_to_99() -> Run {
    no_node_is_misled_by_nodes_that_restart_together(4, 10..100)
}

#[test]
fn no_node_is_misled_when_all_others_restart_together_seeds_0_to_9() -> Run {
    no_node_is_misled_by_nodes_that_restart_together(NODES - 1, 0..10)
}

#[test]
#[ignore = "long: 90 networks of 10 nodes; scripts/check.sh --long runs it"]
fn no_node_is_misled_when_all_others_restart_together_seeds_10_to_99() -> Run {
    no_node_is_misled_by_nodes_that_restart_together(NODES - 1, 10..100)
}

/// Method: some nodes are off while all values are written; then the others are killed as well. The former start first, the
/// others up to two seconds later. With a short `ttl`, the values written last have ended by then.
fn no_node_is_misled_by_nodes_that_start_before_the_others(off: u32, ttl: u16, seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = World::new(Scenario::calm(NODES, seed));
        let keys = start(&mut world)?;
        let (early, late) = ((0..off).map(node), (off..NODES).map(node));
        world.kill(Death::Process, early.clone());
        world.run_for(SECOND * 30)?;
        write_all(&mut world, &keys, ttl)?;
        world.run_for(SECOND * 5)?;
        world.kill(Death::Process, late.clone());
        let mut reads = Vec::new();
        for number in early.chain(late) {
            world.restart(number, &[])?;
            if number == node(off - 1) {
                let pause = u32::try_from(world.any_below(20)).expect("it is small");
                world.run_for(SECOND / 10 * pause)?;
            }
            for at in world.alive().collect::<Vec<_>>() {
                let nth = world.any_below(keys.len());
                reads.push((at, nth, world.ask(at, &ApiRequest::Get { key: keys[nth] })?));
            }
        }
        for _ in 0..STEPS {
            for at in (0..NODES).map(node) {
                let nth = world.any_below(keys.len());
                reads.push((at, nth, world.ask(at, &ApiRequest::Get { key: keys[nth] })?));
            }
            world.run_for(SECOND / 5)?;
        }
        for (at, nth, ask) in reads {
            let expected = if ttl == 0 { found(&value(1, nth)) } else { Answer::Failure };
            assert_eq!(world.await_answer(ask)?, expected, "seed {seed}: key {nth} at {at}, {off} were off");
        }
    }
    Ok(())
}

#[test]
fn no_node_is_misled_by_nodes_that_start_before_the_others_seeds_0_to_9() -> Run {
    no_node_is_misled_by_nodes_that_start_before_the_others(4, 0, 0..10)
}

#[test]
#[ignore = "long: 90 networks of 10 nodes; scripts/check.sh --long runs it"]
fn no_node_is_misled_by_nodes_that_start_before_the_others_seeds_10_to_99() -> Run {
    no_node_is_misled_by_nodes_that_start_before_the_others(4, 0, 10..100)
}

#[test]
fn no_node_is_misled_when_most_start_before_the_others_seeds_0_to_9() -> Run {
    no_node_is_misled_by_nodes_that_start_before_the_others(7, 0, 0..10)
}

#[test]
#[ignore = "long: 90 networks of 10 nodes; scripts/check.sh --long runs it"]
fn no_node_is_misled_when_most_start_before_the_others_seeds_10_to_99() -> Run {
    no_node_is_misled_by_nodes_that_start_before_the_others(7, 0, 10..100)
}

#[test]
fn no_older_value_returns_from_nodes_that_start_before_the_others_seeds_0_to_9() -> Run {
    no_node_is_misled_by_nodes_that_start_before_the_others(6, 2, 0..10)
}

#[test]
#[ignore = "long: 90 networks of 10 nodes; scripts/check.sh --long runs it"]
fn no_older_value_returns_from_nodes_that_start_before_the_others_seeds_10_to_99() -> Run {
    no_node_is_misled_by_nodes_that_start_before_the_others(6, 2, 10..100)
}
