//! Networks whose nodes stop: the last one that runs, and all of them at once.

use std::ops::Range;

use dht::node::Status;
use dht::node::params::{Durability, Params};
use dht::sim::{Answer, Death, Number, Scenario, Violation, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use super::{
    Class, Run, SECOND, await_all, findable, found, get_many, node, put_many, run_until, status, value_of, world,
};

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

/// Whether a node answers a GET of a key that nobody stores at once, and a confirmed PUT.
fn answers_at_once(world: &mut World, at: Number) -> Result<bool, Violation> {
    let (missing, new) = (world.any_key(), world.any_key());
    let (confirm, class) = (Confirm::Yes, Class::Plain);
    let put = Put { ttl: 0, replication: 8, confirm, class, key: new, value: b"alone" };
    let asks = [world.ask(at, &ApiRequest::Get { key: missing })?, world.ask(at, &ApiRequest::Put(put))?];
    // A PUT may wait for a batch before it that is synced.
    world.run_for(SECOND / 2)?;
    let answers = asks.map(|ask| world.answer(ask).cloned());
    assert!(answers == [None, None] || answers == [Some(Answer::Failure), Some(found(b""))], "{answers:?}");
    await_all(world, &asks)?;
    Ok(answers[0].is_some())
}

/// Goal: the last node that runs answers at once, and hands over what it confirmed alone when others are back.
///
/// Method: the processes of all nodes but one are killed, at once or one after the other, or they leave; every
/// fourth time one host fails silently. The last node is any of them, sometimes the founder. It writes a new key,
/// and overwrites one that others store. The others start again with their disks, which have the old value.
fn the_last_node_answers_at_once(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let nodes = 2 + u32::try_from(seed % 5).expect("small");
        let mut world = world(nodes, seed)?;
        world.run_for(SECOND * 70)?;
        let (old, new) = (world.any_key(), world.any_key());
        assert_eq!(world.put(node(0), old, b"old", 8)?, found(b""), "seed {seed}");
        world.run_for(SECOND * 5)?;
        let last = node(u32::try_from(seed / 5).expect("small") % nodes);
        let others: Vec<Number> = (0..nodes).map(node).filter(|number| *number != last).collect();
        for (nth, number) in others.iter().enumerate() {
            match (seed % 4, nth) {
                (0, _) => world.leave(*number)?,
                (1, 1) => world.kill(Death::Host, [*number]),
                _ => world.kill(Death::Process, [*number]),
            }
            if seed.is_multiple_of(3) {
                world.run_for(SECOND * 2)?;
            }
        }
        let is_alone = |world: &World| status(world, last) == Status::Joining && world.alive().count() == 1;
        for _ in 0..40 {
            // It notices silent contacts when it asks them.
            let key = world.any_key();
            world.ask(last, &ApiRequest::Get { key })?;
            world.run_for(SECOND)?;
        }
        assert!(is_alone(&world), "seed {seed}");
        assert!(answers_at_once(&mut world, last)?, "seed {seed}");
        assert_eq!(world.put(last, new, b"new", 8)?, found(b""), "seed {seed}");
        assert_eq!(world.put(last, old, b"newer", 8)?, found(b""), "seed {seed}");

        for number in &others {
            world.restart(*number, &[])?;
        }
        let whole = |world: &World| (0..nodes).all(|number| findable(world, node(number)) == nodes as usize);
        assert!(run_until(&mut world, SECOND * 120, whole)?, "seed {seed}");
        world.run_for(SECOND * 60)?;
        for number in 0..nodes {
            assert_eq!(world.get(node(number), old)?, found(b"newer"), "seed {seed} node {number}");
            assert_eq!(world.get(node(number), new)?, found(b"new"), "seed {seed} node {number}");
        }
        let replicas = world.replicas(&new).len();
        assert_eq!(replicas, nodes as usize, "seed {seed}");
        world.check_agreement(&old)?;
    }
    Ok(())
}

#[test]
fn the_last_node_answers_at_once_seeds_0_to_99() -> Run {
    the_last_node_answers_at_once(0..100)
}

/// Goal: a node that is cut off does not take itself for the last one.
///
/// Method: the node, sometimes the founder, is partitioned from all others, or their hosts fail silently. Its
/// requests wait for as long as that lasts.
fn a_node_that_is_cut_off_goes_on_waiting(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let nodes = 2 + u32::try_from(seed % 5).expect("small");
        let mut world = world(nodes, seed)?;
        world.run_for(SECOND * 70)?;
        let cut_off = node(u32::try_from(seed / 5).expect("small") % nodes);
        if seed.is_multiple_of(2) {
            world.partition(|number| u8::from(number == cut_off));
        } else {
            world.kill(Death::Host, (0..nodes).map(node).filter(|number| *number != cut_off));
        }
        for _ in 0..60 {
            let key = world.any_key();
            world.ask(cut_off, &ApiRequest::Get { key })?;
            world.run_for(SECOND)?;
        }
        assert_eq!(status(&world, cut_off), Status::Joining, "seed {seed}");
        for _ in 0..3 {
            assert!(!answers_at_once(&mut world, cut_off)?, "seed {seed}");
            world.run_for(SECOND * 30)?;
        }
    }
    Ok(())
}

#[test]
fn a_node_that_is_cut_off_goes_on_waiting_seeds_0_to_99() -> Run {
    a_node_that_is_cut_off_goes_on_waiting(0..100)
}

/// Goal: nodes that all restart answer no GET of a stored key by FAILURE, in whatever order they start.
///
/// Method: one node is down while the others store 10 records. All are killed. That node starts first and lacks
/// the records; the others refuse its dials until they start, one after the other within four seconds. A client at
/// each node that runs reads all the time.
fn nodes_that_all_restart_find_what_they_store(seeds: Range<u64>) -> Run {
    const NODES: u32 = 5;
    for seed in seeds {
        let mut world = world(NODES, seed)?;
        world.run_for(SECOND * 70)?;
        let order = (0..NODES).map(|nth| node((nth * 2 + u32::try_from(seed).expect("small")) % NODES));
        let order: Vec<Number> = order.collect();
        world.kill(Death::Process, [order[0]]);
        world.run_for(SECOND * 5)?;
        let keys = put_many(&mut world, 10, 8)?;
        world.run_for(SECOND * 5)?;
        world.kill(Death::Process, order[1..].iter().copied());
        world.run_for(SECOND)?;
        let mut asks = Vec::new();
        let first_pause = u32::try_from(seed % 4).expect("small") * 10;
        for (nth, number) in order.iter().enumerate() {
            world.restart(*number, &[])?;
            for _ in 0..if nth == 0 { first_pause } else { 3 } {
                world.run_for(SECOND / 10)?;
                for at in world.alive().collect::<Vec<_>>() {
                    let key = keys[asks.len() % keys.len()];
                    asks.push(world.ask(at, &ApiRequest::Get { key })?);
                }
            }
        }
        for (nth, answer) in await_all(&mut world, &asks)?.into_iter().enumerate() {
            assert_eq!(answer, found(&value_of(nth % keys.len())), "seed {seed} GET {nth}");
        }
    }
    Ok(())
}

#[test]
fn nodes_that_all_restart_find_what_they_store_seeds_0_to_99() -> Run {
    nodes_that_all_restart_find_what_they_store(0..100)
}
