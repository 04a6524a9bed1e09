//! A short partition, which the nodes of one side do not notice: after it, all nodes read what was written on the other.

use std::ops::Range;

use dht::record::Class;
use dht::sim::{Number, Scenario, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use crate::{Run, SECOND, await_all, found, put_many, value_of};

const NODES: u32 = 7;

const KEYS: usize = 40;

/// Method: one to three of the nodes are cut off for four to seven seconds. A second before the end, clients overwrite
/// all values on the larger side. 15 seconds after the end all nodes read the newer values.
fn all_nodes_read_what_was_written_during_a_short_partition(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = World::new(Scenario::calm(NODES, seed));
        world.join_all()?;
        world.run_for(SECOND * 30)?;
        for round in 1..4 {
            let keys = put_many(&mut world, KEYS, 8)?;
            let mut cut_off: Vec<Number> = world.alive().collect();
            while cut_off.len() > 1 + round % 3 {
                let other = world.any_below(cut_off.len());
                cut_off.swap_remove(other);
            }
            let side_of = |number: Number| u8::from(cut_off.contains(&number));
            let before = SECOND * 3 + SECOND / 1_000 * u32::try_from(world.any_below(3_000)).expect("small");
            world.partition(side_of);
            world.run_for(before)?;
            let writer = world.alive().find(|number| side_of(*number) == 0).expect("it has no more than three");
            let mut asks = Vec::new();
            for (nth, key) in keys.iter().enumerate() {
                let value = value_of(1_000 * round + nth);
                let put = Put {
                    ttl: 0,
                    replication: 8,
                    confirm: Confirm::Yes,
                    class: Class::Plain,
                    key: *key,
                    value: &value,
                };
                asks.push(world.ask(writer, &ApiRequest::Put(put))?);
            }
            world.run_for(SECOND)?;
            world.heal();
            let answers = await_all(&mut world, &asks)?;
            world.run_for(SECOND * 15)?;
            let nodes: Vec<Number> = world.alive().collect();
            for (nth, key) in keys.iter().enumerate().filter(|(nth, _)| answers[*nth] == found(b"")) {
                for at in &nodes {
                    let newer = found(&value_of(1_000 * round + nth));
                    assert_eq!(world.get(*at, *key)?, newer, "seed {seed}, round {round}: key {nth} at {at}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn all_nodes_read_what_was_written_during_a_short_partition_seeds_0_to_9() -> Run {
    all_nodes_read_what_was_written_during_a_short_partition(0..10)
}

#[test]
#[ignore = "long: 90 networks of 7 nodes; scripts/check.sh --long runs it"]
fn all_nodes_read_what_was_written_during_a_short_partition_seeds_10_to_99() -> Run {
    all_nodes_read_what_was_written_during_a_short_partition(10..100)
}
