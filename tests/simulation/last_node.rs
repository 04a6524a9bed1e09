//! Networks whose nodes stop: the last one that runs, and all of them at once.

use std::ops::Range;

use dht::node::params::{Durability, Params};
use dht::sim::{Scenario, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use super::{Class, Run, SECOND, findable, get_many, node, put_many, run_until};

/// Goal: nodes that all stop in the same moment and all start again are one network, without bootstraps.
///
/// Method: the disks of all nodes are writing when the nodes leave, in the same moment or within a second. The
/// nodes start again within some seconds and have nothing but their disks.
fn all_nodes_that_leave_at_once_find_each_other_again(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let nodes = 2 + u32::try_from(seed % 7).expect("small");
        let params = Params { durability: Durability::Always, ..Params::default() };
        let mut world = World::new(Scenario { params, ..Scenario::calm(nodes, seed) });
        world.join_all()?;
        world.run_for(SECOND * 90)?;
        let keys = put_many(&mut world, 20, 8)?;
        for _ in 0..2 {
            for number in 0..nodes {
                let (key, confirm, class) = (world.any_key(), Confirm::No, Class::Plain);
                let put = Put { ttl: 0, replication: 8, confirm, class, key, value: b"late" };
                world.ask(node(number), &ApiRequest::Put(put))?;
            }
            world.run_for(SECOND / 500)?;
        }
        for number in 0..nodes {
            world.leave(node(number))?;
            if seed.is_multiple_of(3) {
                world.run_for(SECOND / nodes)?;
            }
        }
        world.run_for(SECOND * 12)?;
        assert_eq!(world.alive().count(), 0, "seed {seed}");
        for number in 0..nodes {
            world.restart(node((number + u32::try_from(seed % 5).expect("small")) % nodes), &[])?;
            world.run_for(SECOND * u32::try_from(seed % 3).expect("small"))?;
        }
        let whole = |world: &World| (0..nodes).all(|number| findable(world, node(number)) == nodes as usize);
        assert!(run_until(&mut world, SECOND * 120, whole)?, "seed {seed}");
        assert_eq!(get_many(&mut world, 40, &keys)?, 40, "seed {seed}");
    }
    Ok(())
}

#[test]
fn all_nodes_that_leave_at_once_find_each_other_again_seeds_0_to_99() -> Run {
    all_nodes_that_leave_at_once_find_each_other_again(0..100)
}
