//! A network that grows: nodes that stored a record are no longer among the closest to its key, and an overwrite does
//! not reach them. No GET may return what they have kept.

use std::ops::Range;
use std::time::Duration;

use dht::node::params::Params;
use dht::sim::{Number, Scenario, World};

use crate::{Run, SECOND, found, node, put_many, value_of};

/// How the network grows.
#[derive(Clone, Copy)]
struct Growth {
    k: usize,
    replication: u8,
    from: u32,
    to: u32,
    /// Between two newcomers.
    pause: Duration,
}

/// Newcomers come faster than the nodes look around: routing tables are thin.
const FAST: Growth = Growth { k: 20, replication: 8, from: 20, to: 120, pause: Duration::from_millis(150) };

/// Newcomers displace the replicas.
const SMALL: Growth = Growth { k: 4, replication: 4, from: 4, to: 24, pause: Duration::from_millis(500) };

/// Method: values are PUT while the network is small. Then it grows; before the overwrite every node reads every value,
/// and so stores what it believes to be in its scope. Then a client overwrites the values, and every node reads them.
fn no_node_reads_what_was_overwritten(growth: Growth, seeds: Range<u64>) -> Run {
    let Growth { k, replication, from, to, pause } = growth;
    for seed in seeds {
        let params = Params { k, replication_default: replication, replication_min: 3, ..Params::default() };
        let mut world = World::new(Scenario { params, ..Scenario::calm(from, seed) });
        world.join_all()?;
        let keys = put_many(&mut world, 30, 0)?;
        for number in from..to {
            world.spawn(&[node(number / 2)])?;
            world.run_for(pause)?;
        }
        world.await_joined()?;
        world.run_for(SECOND * 10)?;
        for (nth, key) in keys.iter().enumerate() {
            let nodes: Vec<Number> = world.alive().collect();
            for at in nodes {
                assert_eq!(world.get(at, *key)?, found(&value_of(nth)), "seed {seed}: key {nth} at {at}");
            }
        }
        for (nth, key) in keys.iter().enumerate() {
            let at = world.any_alive();
            assert_eq!(world.put(at, *key, &value_of(100 + nth), 0)?, found(b""));
        }
        for (nth, key) in keys.iter().enumerate() {
            let nodes: Vec<Number> = world.alive().collect();
            for at in nodes {
                assert_eq!(world.get(at, *key)?, found(&value_of(100 + nth)), "seed {seed}: key {nth} at {at}");
            }
        }
    }
    Ok(())
}

#[test]
fn after_fast_growth_no_node_reads_what_was_overwritten_seeds_0_to_2() -> Run {
    no_node_reads_what_was_overwritten(FAST, 0..3)
}

#[test]
#[ignore = "long: 17 networks of 120 nodes; scripts/check.sh --long runs it"]
fn after_fast_growth_no_node_reads_what_was_overwritten_seeds_3_to_19() -> Run {
    no_node_reads_what_was_overwritten(FAST, 3..20)
}

#[test]
fn with_small_buckets_no_node_reads_what_was_overwritten_seeds_0_to_9() -> Run {
    no_node_reads_what_was_overwritten(SMALL, 0..10)
}
