//! Nodes that restart together: what they store may have been replaced while they were off, and they may lack values that
//! were written then. No node, restarted or not, may answer a GET by what they know. A value that is written through one
//! of them counts from its confirmation.

use std::ops::Range;

use dht::record::Class;
use dht::sim::{Death, Number, RequestId, Scenario, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use crate::{Run, SECOND, found, node, put_many, value_of};

const NODES: u32 = 10;

/// The nodes that restart.
const RESTARTED: Range<u32> = 0..4;

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

/// Method: every value is written while [`RESTARTED`] are off, for a second or so long that the others have forgotten
/// them. Then they restart together. From that moment on every node reads, and restarted nodes write.
fn no_node_is_misled_by_nodes_that_restart_together(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = World::new(Scenario::calm(NODES, seed));
        world.join_all()?;
        world.run_for(SECOND * 30)?;
        let mut keys = put_many(&mut world, OVERWRITTEN, REPLICATION)?;
        keys.extend((0..NEW).map(|_| world.any_key()));
        world.kill(if seed % 3 == 0 { Death::Host } else { Death::Process }, RESTARTED.map(node));
        world.run_for(SECOND * if seed % 2 == 0 { 1 } else { 90 })?;
        for (nth, key) in keys.iter().enumerate() {
            let at = world.any_alive();
            assert_eq!(world.put(at, *key, &value(1, nth), REPLICATION)?, found(b""), "seed {seed}: key {nth} at {at}");
        }
        for number in RESTARTED.map(node) {
            world.restart(number, &[])?;
        }
        let mut puts = Vec::new();
        for (nth, number) in RESTARTED.map(node).enumerate() {
            let value = value(2, nth);
            let (ttl, replication, confirm, class) = (0, REPLICATION, Confirm::Yes, Class::Plain);
            let put = Put { ttl, replication, confirm, class, key: keys[nth], value: &value };
            puts.push(world.ask(number, &ApiRequest::Put(put))?);
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
        for put in puts {
            assert_eq!(world.await_answer(put)?, found(b""), "seed {seed}");
        }
        for Read { at, nth, newest, ask } in reads {
            let answer = world.await_answer(ask)?;
            let is_right = (newest..=2).any(|put| answer == found(&value(put, nth)));
            assert!(is_right, "seed {seed}: key {nth} at {at}, after PUT {newest}: {answer:?}");
        }
    }
    Ok(())
}

#[test]
fn no_node_is_misled_by_nodes_that_restart_together_seeds_0_to_9() -> Run {
    no_node_is_misled_by_nodes_that_restart_together(0..10)
}

#[test]
#[ignore = "long: 90 networks of 10 nodes; scripts/check.sh --long runs it"]
fn no_node_is_misled_by_nodes_that_restart_together_seeds_10_to_99() -> Run {
    no_node_is_misled_by_nodes_that_restart_together(10..100)
}
