//! Nodes behind a firewall that nobody can dial. They serve, as far as they know, and are contacts of nobody.

use std::ops::Range;

use dht::id::Key;
use dht::sim::{Answer, Number, Scenario, World};

use crate::{Run, SECOND, found, node, value_of};

const KEYS: usize = 20;

/// Overwrites all keys at `writer` by the values of that `round`.
fn overwrite(world: &mut World, keys: &[Key], round: usize, writer: Number, replication: u8) -> Run {
    for (nth, key) in keys.iter().enumerate() {
        let answer = world.put(writer, *key, &value_of(1_000 * round + nth), replication)?;
        assert!(matches!(answer, Answer::Success(_)), "round {round}: PUT of key {nth} at {writer}");
    }
    Ok(())
}

fn check(world: &mut World, keys: &[Key], round: usize, reader: Number) -> Run {
    let seed = world.scenario().seed;
    for (nth, key) in keys.iter().enumerate() {
        let answer = world.get(reader, *key)?;
        assert_eq!(answer, found(&value_of(1_000 * round + nth)), "seed {seed}, round {round}: key {nth} at {reader}");
    }
    Ok(())
}

/// Goal: a node that nobody can dial answers no value that was overwritten, and confirms only what others can read.
///
/// Method: a fifth of the nodes, at least one, come behind firewalls. Any node overwrites all keys, and any node reads
/// them.
fn nodes_that_nobody_can_dial_mislead_nobody(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let nodes = 2 + u32::try_from(seed % 8).expect("small") * 3;
        let mut world = World::new(Scenario::calm(nodes, seed));
        world.join_all()?;
        world.run_for(SECOND * 10)?;
        let keys: Vec<Key> = (0..KEYS).map(|_| world.any_key()).collect();
        let replication = [1, 3, 20][world.any_below(3)];
        let first = world.any_alive();
        overwrite(&mut world, &keys, 0, first, replication)?;
        for _ in 0..nodes.div_ceil(5) {
            let through = node(u32::try_from(world.any_below(nodes as usize)).expect("small"));
            let number = world.spawn(&[through])?;
            world.shield(number);
        }
        world.run_for(SECOND * 30)?;
        for round in 1..6 {
            let writer = world.any_alive();
            overwrite(&mut world, &keys, round, writer, replication)?;
            let readers: Vec<Number> = world.alive().collect();
            for reader in readers {
                check(&mut world, &keys, round, reader)?;
            }
        }
    }
    Ok(())
}

#[test]
fn nodes_that_nobody_can_dial_mislead_nobody_seeds_0_to_9() -> Run {
    nodes_that_nobody_can_dial_mislead_nobody(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn nodes_that_nobody_can_dial_mislead_nobody_seeds_10_to_99() -> Run {
    nodes_that_nobody_can_dial_mislead_nobody(10..100)
}
