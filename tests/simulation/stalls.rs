//! A node that stalls for some seconds, too short to notice it, while others overwrite what it stores. PUTs go on without
//! it, and the nodes that took them tell it when it is back: it may be no replica of the newer records, so no other rule
//! would bring them to it.

use std::ops::Range;
use std::time::Duration;

use dht::id::Key;
use dht::record::Class;
use dht::sim::{Answer, Number, RequestId, Scenario, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

use crate::{Run, SECOND, await_all, found, node, value_of};

const KEYS: usize = 60;

/// The numbers of replicas that clients ask for: some records have far fewer than those that they replace.
const REPLICATIONS: [u8; 3] = [3, 8, 20];

/// A node that is back knows what was confirmed without it after this time: a request that was sent just before may have
/// to time out, and the next one follows a second later.
const TOLD: Duration = Duration::from_secs(4);

/// What was written under a key.
struct Written {
    key: Key,
    /// The PUTs of it since the start, the first with number 0.
    puts: Vec<RequestId>,
    /// The TTL of each in seconds; 0 stands for an hour.
    ttls: Vec<u16>,
}

fn value(nth: usize, put: usize) -> [u8; 8] {
    value_of(nth + put * 1_000)
}

/// Writes the next value of a key at any other node than `stalled`, for a random number of replicas, with that TTL.
fn overwrite(world: &mut World, all: &mut [Written], nth: usize, stalled: Number, ttl: u16) -> Run {
    let at = world.any_of(|number| number != stalled).expect("others run");
    let replication = REPLICATIONS[world.any_below(3)];
    let Written { key, puts, ttls } = &mut all[nth];
    let value = value(nth, puts.len());
    let put = Put { ttl, replication, confirm: Confirm::Yes, class: Class::Plain, key: *key, value: &value };
    ttls.push(ttl);
    puts.push(world.ask(at, &ApiRequest::Put(put))?);
    Ok(())
}

/// Goal: four seconds after it is back, a node that has stalled answers no value that was overwritten meanwhile.
///
/// Method: one node stalls for 2.1 to 4.9 s, three times. Meanwhile all keys are overwritten, many at the same moment,
/// some by values that live for three seconds. Nothing is written after that. The node reads all keys.
fn a_node_that_has_stalled_soon_knows_what_it_missed(nodes: u32, seeds: Range<u64>) -> Run {
    let mut confirmed = 0;
    for seed in seeds {
        let mut world = World::new(Scenario::calm(nodes, seed));
        world.join_all()?;
        world.run_for(SECOND * 10)?;
        let mut all: Vec<Written> =
            (0..KEYS).map(|_| Written { key: world.any_key(), puts: Vec::new(), ttls: Vec::new() }).collect();
        let stalled = node(u32::try_from(world.any_below(nodes as usize)).expect("it is small"));
        for nth in 0..KEYS {
            overwrite(&mut world, &mut all, nth, stalled, 0)?;
        }
        for _ in 0..3 {
            world.run_for(SECOND * 12)?; // all PUTs have been answered
            world.suspend([stalled]);
            let tenths = 21 + world.any_below(28);
            let burst = world.any_below(tenths);
            for tenth in 0..tenths {
                let other = KEYS / 2 + tenth % (KEYS / 2);
                for nth in if tenth == burst { 0..KEYS / 2 } else { other..other + 1 } {
                    let ttl = if world.any_below(3) == 0 { 3 } else { 0 };
                    overwrite(&mut world, &mut all, nth, stalled, ttl)?;
                }
                world.run_for(SECOND / 10)?;
            }
            let was_confirmed = |world: &World, put: &RequestId| world.answer(*put) == Some(&found(b""));
            let newest: Vec<Option<usize>> =
                all.iter().map(|written| written.puts.iter().rposition(|put| was_confirmed(&world, put))).collect();
            world.resume([stalled])?;
            world.run_for(TOLD)?;
            let gets = all.iter().map(|written| world.ask(stalled, &ApiRequest::Get { key: written.key }));
            let gets = gets.collect::<Result<Vec<_>, _>>()?;
            for (nth, answer) in await_all(&mut world, &gets)?.into_iter().enumerate() {
                let Some(newest) = newest[nth] else { continue };
                confirmed += usize::from(newest > 0);
                let Written { puts, ttls, .. } = &all[nth];
                let may_be = |put| answer == found(&value(nth, put)) || (ttls[put] > 0 && answer == Answer::Failure);
                let is_right = (newest..puts.len()).any(may_be);
                assert!(is_right, "seed {seed}: key {nth}, after PUT {newest}, {stalled} has stalled: {answer:?}");
            }
        }
    }
    assert!(confirmed > 0, "no value was overwritten while the node stalled");
    Ok(())
}

#[test]
fn a_node_that_has_stalled_soon_knows_what_it_missed_seeds_0_to_4() -> Run {
    a_node_that_has_stalled_soon_knows_what_it_missed(6, 0..5)?;
    a_node_that_has_stalled_soon_knows_what_it_missed(30, 0..5)
}

#[test]
#[ignore = "long: 180 networks; scripts/check.sh --long runs it"]
fn a_node_that_has_stalled_soon_knows_what_it_missed_seeds_5_to_94() -> Run {
    a_node_that_has_stalled_soon_knows_what_it_missed(6, 5..95)?;
    a_node_that_has_stalled_soon_knows_what_it_missed(30, 5..95)
}
