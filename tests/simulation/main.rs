//! Whole networks in virtual time with loss, failures and partitions, and the properties that must hold
//! despite them.
//!
//! Every test names its seeds. A violation that a [`World`] finds ends the test with the seed, the
//! virtual time and the node; the same test replays it.

mod clocks;
mod disks;
mod endurance;
mod families;
mod growth;
mod last_node;
mod partitions;
mod restarts;
mod shielded;
mod sleepers;
mod stalls;

use std::ops::Range;
use std::process::{Command, Output};
use std::time::Duration;

use dht::id::Key;
use dht::node::Status;
use dht::node::params::Serving;
use dht::record::Class;
use dht::sim::{Answer, Chance, Death, Faults, Number, RequestId, Scenario, Violation, World};
use dht::wire::api::{ApiRequest, Confirm, Put};

type Run = Result<(), Violation>;

const SECOND: Duration = Duration::from_secs(1);

fn node(number: u32) -> Number {
    Number(number)
}

fn percent(percent: f64) -> Chance {
    Chance::percent(percent).expect("a literal from 0 to 100")
}

fn loss(chance: f64) -> Faults {
    Faults { loss: percent(chance), ..Faults::NONE }
}

/// A network without faults of `nodes` nodes that have joined.
fn world(nodes: u32, seed: u64) -> Result<World, Violation> {
    let mut world = World::new(Scenario::calm(nodes, seed));
    world.join_all()?;
    Ok(world)
}

fn key(number: u8) -> Key {
    Key::new([number; 32])
}

fn value_of(nth: usize) -> [u8; 8] {
    (nth as u64).to_be_bytes()
}

fn found(value: &[u8]) -> Answer {
    Answer::Success(value.into())
}

/// `count` PUTs of random keys at random nodes, all confirmed; returns the keys.
fn put_many(world: &mut World, count: usize, replication: u8) -> Result<Vec<Key>, Violation> {
    let keys: Vec<Key> = (0..count).map(|_| world.any_key()).collect();
    let unconfirmed = put_all(world, keys.iter().copied().enumerate(), replication)?;
    assert_eq!(unconfirmed, [], "all PUTs are confirmed");
    Ok(keys)
}

/// The same where messages get lost: a PUT that is not confirmed is repeated, up to four times.
fn put_many_repeatedly(world: &mut World, count: usize, replication: u8) -> Result<Vec<Key>, Violation> {
    let keys: Vec<Key> = (0..count).map(|_| world.any_key()).collect();
    let mut unconfirmed: Vec<(usize, Key)> = keys.iter().copied().enumerate().collect();
    for _ in 0..5 {
        unconfirmed = put_all(world, unconfirmed, replication)?;
    }
    assert_eq!(unconfirmed, [], "all PUTs are confirmed in the end");
    Ok(keys)
}

/// A PUT of each numbered key at a random node; returns those that were not confirmed.
fn put_all(
    world: &mut World,
    keys: impl IntoIterator<Item = (usize, Key)>,
    replication: u8,
) -> Result<Vec<(usize, Key)>, Violation> {
    let (mut asked, mut asks) = (Vec::new(), Vec::new());
    for (nth, key) in keys {
        let (at, value) = (world.any_alive(), value_of(nth));
        let put = Put { ttl: 0, replication, confirm: Confirm::Yes, class: Class::Plain, key, value: &value };
        asks.push(world.ask(at, &ApiRequest::Put(put))?);
        asked.push((nth, key));
        world.run_for(SECOND / 100)?;
    }
    let answers = await_all(world, &asks)?;
    let done = |answer: &Answer| matches!(answer, Answer::Success(_));
    Ok(asked.into_iter().zip(answers).filter(|(_, answer)| !done(answer)).map(|(key, _)| key).collect())
}

/// `count` GETs of `keys` in turn at random nodes; returns how many found the value.
fn get_many(world: &mut World, count: usize, keys: &[Key]) -> Result<usize, Violation> {
    let mut asks = Vec::new();
    for nth in 0..count {
        let at = world.any_alive();
        asks.push(world.ask(at, &ApiRequest::Get { key: keys[nth % keys.len()] })?);
        world.run_for(SECOND / 100)?;
    }
    let answers = await_all(world, &asks)?;
    let right = |(nth, answer): (usize, Answer)| answer == found(&value_of(nth % keys.len()));
    Ok(answers.into_iter().enumerate().map(right).filter(|right| *right).count())
}

fn await_all(world: &mut World, asks: &[RequestId]) -> Result<Vec<Answer>, Violation> {
    asks.iter().map(|ask| world.await_answer(*ask)).collect()
}

/// Advances until `goal` is reached, for at most `within`; returns whether it was.
fn run_until(world: &mut World, within: Duration, goal: impl Fn(&World) -> bool) -> Result<bool, Violation> {
    let latest = world.now() + within;
    while !goal(world) && world.now() < latest {
        world.run_for(SECOND)?;
    }
    Ok(goal(world))
}

/// The number of nodes that can be reached from `start` through the routing tables.
fn findable(world: &World, start: Number) -> usize {
    let mut found = vec![start];
    let mut next = 0;
    while let Some(number) = found.get(next) {
        let contacts = world.node(*number).into_iter().flat_map(|node| node.table().iter());
        let known: Vec<Number> = contacts.filter_map(|contact| world.number_of(&contact.id)).collect();
        for number in known {
            if !found.contains(&number) {
                found.push(number);
            }
        }
        next += 1;
    }
    found.len()
}

fn status(world: &World, number: Number) -> Status {
    world.node(number).expect("it lives").status()
}

// ── loss ─────────────────────────────────────────────────────────────────────────────────────

/// Goal: lost messages cost time, but never an answer.
///
/// Method: 1 000 nodes join while the network loses one message and one dial in twenty, and goes on to do
/// so. As soon as all have joined, 500 records are PUT and read 2 000 times, all at random nodes.
fn every_get_finds_its_record_at_five_percent_loss(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = World::new(Scenario { faults: loss(5.0), ..Scenario::calm(1_000, seed) });
        world.join_all()?;
        let keys = put_many_repeatedly(&mut world, 500, 0)?;
        assert_eq!(
            get_many(&mut world, 2_000, &keys)?,
            2_000,
            "dht-sim --nodes 1000 --loss 5 --puts 500 --gets 2000 --seed {seed} is much the same"
        );
        world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn at_five_percent_loss_every_get_finds_its_record_seed_0() -> Run {
    every_get_finds_its_record_at_five_percent_loss(0..1)
}

#[test]
fn at_five_percent_loss_every_get_finds_its_record_seed_1() -> Run {
    every_get_finds_its_record_at_five_percent_loss(1..2)
}

#[test]
#[ignore = "long: 9 networks of 1 000 nodes; scripts/check.sh --long runs it"]
fn at_five_percent_loss_every_get_finds_its_record_seeds_2_to_10() -> Run {
    every_get_finds_its_record_at_five_percent_loss(2..11)
}

#[test]
#[ignore = "long: 9 networks of 1 000 nodes; scripts/check.sh --long runs it"]
fn at_five_percent_loss_every_get_finds_its_record_seeds_11_to_19() -> Run {
    every_get_finds_its_record_at_five_percent_loss(11..20)
}

#[test]
fn connections_that_stall_and_break_lose_no_record() -> Run {
    for seed in 0..3 {
        let faults = Faults { loss: percent(1.0), stalls: percent(1.0), breaks: percent(1.0), ..Faults::NONE };
        let mut world = World::new(Scenario { faults, ..Scenario::calm(200, seed) });
        world.join_all()?;
        let keys = put_many(&mut world, 100, 0)?;
        assert_eq!(get_many(&mut world, 200, &keys)?, 200, "seed {seed}");
        world.check_invariants()?;
    }
    Ok(())
}

// ── failures ─────────────────────────────────────────────────────────────────────────────────

/// Goal: records survive the simultaneous failure of half the network.
///
/// Method: 300 nodes join while the network loses 5 % of all messages, and have a minute to fill their
/// tables. PUTs with replication 20, repeated until they are confirmed. Then every second host fails silently. The loss
/// ends; the other nodes read.
fn records_survive_the_failure_of_half_the_nodes_under_loss(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = World::new(Scenario { faults: loss(5.0), ..Scenario::calm(300, seed) });
        world.join_all()?;
        world.run_for(SECOND * 60)?;
        let keys = put_many_repeatedly(&mut world, 20, 20)?;
        world.kill(Death::Host, (0..300).step_by(2).map(Number));
        world.heal();
        assert_eq!(
            get_many(&mut world, 40, &keys)?,
            40,
            "dht-sim --nodes 300 --loss 5 --vanish 50 --replication 20 --seed {seed} is much the same"
        );
        world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn records_survive_the_failure_of_half_the_nodes_under_loss_seeds_0_to_2() -> Run {
    records_survive_the_failure_of_half_the_nodes_under_loss(0..3)
}

#[test]
#[ignore = "long: 7 networks of 300 nodes; scripts/check.sh --long runs it"]
fn records_survive_the_failure_of_half_the_nodes_under_loss_seeds_3_to_9() -> Run {
    records_survive_the_failure_of_half_the_nodes_under_loss(3..10)
}

fn records_survive_the_kill_of_half_of_1000_nodes(seed: u64) -> Run {
    let mut world = world(1_000, seed)?;
    let keys = put_many(&mut world, 200, 20)?;
    world.kill(Death::Process, (0..1_000).step_by(2).map(Number));
    assert_eq!(get_many(&mut world, 400, &keys)?, 400, "seed {seed}");
    Ok(())
}

#[test]
fn records_survive_the_kill_of_half_of_1000_nodes_seed_0() -> Run {
    records_survive_the_kill_of_half_of_1000_nodes(0)
}

#[test]
#[ignore = "long: a network of 1 000 nodes; scripts/check.sh --long runs it"]
fn records_survive_the_kill_of_half_of_1000_nodes_seed_1() -> Run {
    records_survive_the_kill_of_half_of_1000_nodes(1)
}

#[test]
fn a_dead_bootstrap_does_not_affect_nodes_that_have_joined() -> Run {
    let mut world = World::new(Scenario::calm(32, 1));
    world.spawn(&[])?;
    for _ in 1..32 {
        world.spawn(&[node(0)])?;
    }
    world.await_joined()?;
    world.run_for(SECOND * 30)?;
    world.kill(Death::Process, [node(0)]);
    let keys = put_many(&mut world, 100, 0)?;
    assert_eq!(get_many(&mut world, 100, &keys)?, 100);

    let newcomer = world.spawn(&[node(17)])?;
    world.await_joined()?;
    assert_eq!(world.get(newcomer, keys[3])?, found(&value_of(3)), "any node is a bootstrap");
    Ok(())
}

#[test]
fn a_node_that_leaves_is_removed_from_all_tables_and_its_records_are_found() -> Run {
    let mut world = world(50, 3)?;
    let keys = put_many(&mut world, 50, 0)?;
    for number in 10..15 {
        world.leave(node(number))?;
        world.run_for(SECOND * 2)?;
        assert!(world.node(node(number)).is_none(), "no request was pending; it waited only for its disk");
    }
    let gone: Vec<_> = (10..15).map(|number| world.id_of(node(number))).collect();
    for number in world.alive().collect::<Vec<_>>() {
        let table = world.node(number).expect("it lives").table();
        assert!(gone.iter().all(|id| !table.contains(id)), "{number} still has a contact that said GOODBYE");
    }
    assert_eq!(get_many(&mut world, 50, &keys)?, 50);
    Ok(())
}

/// Goal: a full outbox never turns into "not found".
///
/// Method: for six of ten replies the outbox has no room, so that ERROR 429 is sent instead. Most PUTs
/// are confirmed, and every GET of a confirmed value finds it.
fn replies_without_room_delay_answers_and_change_none(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let faults = Faults { refusals: percent(60.0), ..Faults::NONE };
        let mut world = World::new(Scenario { faults, ..Scenario::calm(30, seed) });
        world.join_all()?;
        let keys: Vec<Key> = (0..60).map(|_| world.any_key()).collect();
        let put = |key| Put { ttl: 0, replication: 5, confirm: Confirm::Yes, class: Class::Plain, key, value: b"v" };
        let mut asks = Vec::new();
        for key in &keys {
            let at = world.any_alive();
            asks.push(world.ask(at, &ApiRequest::Put(put(*key)))?);
            world.run_for(SECOND / 100)?;
        }
        let outcomes = await_all(&mut world, &asks)?;
        let confirmed = keys.iter().zip(outcomes).filter(|(_, outcome)| *outcome == found(b""));
        let confirmed: Vec<Key> = confirmed.map(|(key, _)| *key).collect();
        assert!(confirmed.len() >= 30, "{} PUTs are confirmed, seed {seed}", confirmed.len());
        for key in confirmed {
            let at = world.any_alive();
            assert_eq!(world.get(at, key)?, found(b"v"), "seed {seed}");
        }
    }
    Ok(())
}

#[test]
fn replies_without_room_delay_answers_and_change_none_seeds_20_to_29() -> Run {
    replies_without_room_delay_answers_and_change_none(20..30)
}

#[test]
#[ignore = "long: 100 networks; scripts/check.sh --long runs it"]
fn replies_without_room_delay_answers_and_change_none_seeds_30_to_129() -> Run {
    replies_without_room_delay_answers_and_change_none(30..130)
}

/// Goal: nodes whose outbox is always full hide no value from the others, and confirm none that is lost.
///
/// Method: 60 confirmed values on 30 nodes; then every fifth node has no room for any reply. All values are
/// found through all other nodes, and so are those of 30 more PUTs that are confirmed. When there is room again,
/// all of them are found through the nodes that were full.
fn nodes_whose_outbox_is_always_full_hide_no_value(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = world(30, seed)?;
        world.run_for(SECOND * 30)?;
        let keys = put_many(&mut world, 60, 5)?;
        let mut confirmed: Vec<(usize, Key)> = keys.into_iter().enumerate().collect();
        let is_full = |Number(number): Number| number % 5 == 4;
        world.fill(is_full);
        let free: Vec<Number> = world.alive().filter(|number| !is_full(*number)).collect();
        let mut asks = Vec::new();
        for (nth, key) in &confirmed {
            asks.push(world.ask(free[nth % free.len()], &ApiRequest::Get { key: *key })?);
        }
        for (nth, answer) in await_all(&mut world, &asks)?.into_iter().enumerate() {
            assert_eq!(answer, found(&value_of(nth)), "seed {seed}");
        }
        for nth in 60..90 {
            let (key, at) = (world.any_key(), free[nth % free.len()]);
            if world.put(at, key, &value_of(nth), 5)? == found(b"") {
                assert_eq!(world.get(free[(nth + 7) % free.len()], key)?, found(&value_of(nth)), "seed {seed}");
                confirmed.push((nth, key));
            }
        }
        world.heal();
        let was_full: Vec<Number> = world.alive().filter(|number| is_full(*number)).collect();
        for (nth, key) in confirmed {
            assert_eq!(world.get(was_full[nth % was_full.len()], key)?, found(&value_of(nth)), "seed {seed}");
        }
        world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn nodes_whose_outbox_is_always_full_hide_no_value_seeds_0_to_9() -> Run {
    nodes_whose_outbox_is_always_full_hide_no_value(0..10)
}

#[test]
#[ignore = "long: 100 networks; scripts/check.sh --long runs it"]
fn nodes_whose_outbox_is_always_full_hide_no_value_seeds_10_to_109() -> Run {
    nodes_whose_outbox_is_always_full_hide_no_value(10..110)
}

/// Goal: a GET never returns an older value than one that was confirmed before it, also if it shares a lookup.
///
/// Method: one node is asked for one key every 5 ms, far quicker than a lookup ends, while other nodes
/// overwrite it. Some replies are refused, so that lookups end late.
fn gets_that_share_lookups_see_what_was_confirmed_before_them(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let faults = Faults { refusals: percent(10.0), ..Faults::NONE };
        let mut world = World::new(Scenario { faults, ..Scenario::calm(40, seed) });
        world.join_all()?;
        let key = world.any_key();
        let holds = |world: &World, number: Number| {
            world.node(number).is_some_and(|node| node.storage().find(world.now(), &key).is_some())
        };
        let (mut confirmed, mut asks) = (0, Vec::new());
        for nth in 1..30_usize {
            let writer = world.any_alive();
            let value = value_of(nth);
            let put = Put { ttl: 0, replication: 3, confirm: Confirm::Yes, class: Class::Plain, key, value: &value };
            let ask = world.ask(writer, &ApiRequest::Put(put))?;
            while world.answer(ask).is_none() {
                let reader = world.alive().find(|number| *number != writer && !holds(&world, *number));
                if let Some(reader) = reader {
                    asks.push((confirmed, world.ask(reader, &ApiRequest::Get { key })?));
                }
                world.run_for(SECOND / 200)?;
            }
            if world.answer(ask) == Some(&found(b"")) {
                confirmed = nth;
            }
        }
        let (mut shared, asked) = (0, asks.len());
        for (before, ask) in asks {
            match world.await_answer(ask)? {
                Answer::Success(value) => {
                    let read = u64::from_be_bytes((&*value).try_into().expect("eight bytes"));
                    assert!(read >= before as u64, "{read} was read after {before} was confirmed, seed {seed}");
                    shared += 1;
                }
                Answer::Failure => assert_eq!(before, 0, "seed {seed}"),
            }
        }
        assert!(shared > 100, "{shared} of {asked} GETs found a value, seed {seed}");
    }
    Ok(())
}

#[test]
fn gets_that_share_lookups_see_what_was_confirmed_before_them_seeds_0_to_9() -> Run {
    gets_that_share_lookups_see_what_was_confirmed_before_them(0..10)
}

#[test]
#[ignore = "long: 100 networks; scripts/check.sh --long runs it"]
fn gets_that_share_lookups_see_what_was_confirmed_before_them_seeds_10_to_109() -> Run {
    gets_that_share_lookups_see_what_was_confirmed_before_them(10..110)
}

/// Goal: nodes that leave in the same second hand their records over to nodes that stay.
///
/// Method: half of the nodes, all but one, or a random group leave within a second; every tenth of a network
/// is killed meanwhile. Records have 3 replicas, and more if nodes are killed.
fn records_survive_groups_of_nodes_that_leave_at_the_same_time(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let nodes = 8 + u32::try_from(seed % 3).expect("small") * 4;
        let mut world = world(nodes, seed)?;
        let killed = if seed.is_multiple_of(4) { nodes / 10 } else { 0 };
        let keys = put_many(&mut world, 60, if killed > 0 { 8 } else { 3 })?;
        world.run_for(SECOND * 2)?;
        let stay = if seed.is_multiple_of(5) { 1 } else { nodes / 2 };
        world.kill(Death::Process, (0..killed).map(Number));
        for number in killed..nodes - stay {
            world.leave(node(number))?;
            if seed.is_multiple_of(2) {
                world.run_for(SECOND / nodes)?;
            }
        }
        world.run_for(SECOND * 12)?;
        assert_eq!(world.alive().count(), stay as usize, "seed {seed}");
        assert_eq!(get_many(&mut world, 60, &keys)?, 60, "seed {seed}");
    }
    Ok(())
}

#[test]
fn records_survive_groups_of_nodes_that_leave_at_the_same_time_seeds_0_to_19() -> Run {
    records_survive_groups_of_nodes_that_leave_at_the_same_time(0..20)
}

#[test]
#[ignore = "long: 100 networks; scripts/check.sh --long runs it"]
fn records_survive_groups_of_nodes_that_leave_at_the_same_time_seeds_20_to_119() -> Run {
    records_survive_groups_of_nodes_that_leave_at_the_same_time(20..120)
}

// ── joining ──────────────────────────────────────────────────────────────────────────────────

/// Goal: joining is a state, not a message. A node without a contact tries again without end.
///
/// Method: 150 nodes join through one bootstrap each while the network loses three of ten messages and
/// dials; groups form that hardly know each other. Then the loss ends. A minute later every node can
/// reach every other, and after two bucket refreshes all agree on the nearest nodes.
fn the_network_does_not_split_when_join_messages_are_lost(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut world = World::new(Scenario { faults: loss(30.0), ..Scenario::calm(150, seed) });
        world.spawn(&[])?;
        for number in 1..150 {
            world.spawn(&[node(number / 2)])?;
            world.run_for(SECOND / 10)?;
        }
        world.await_joined()?;
        world.heal();
        world.run_for(SECOND * 60)?;
        for start in [1, 75, 149] {
            assert_eq!(findable(&world, node(start)), 150, "from node {start}, seed {seed}");
        }
        world.run_for(SECOND * 7_200)?;
        let keys = put_many(&mut world, 50, 0)?;
        assert_eq!(get_many(&mut world, 100, &keys)?, 100, "seed {seed}");
    }
    Ok(())
}

#[test]
fn the_network_does_not_split_when_join_messages_are_lost_seeds_0_and_1() -> Run {
    the_network_does_not_split_when_join_messages_are_lost(0..2)
}

#[test]
#[ignore = "long: 3 networks of 150 nodes for two hours; scripts/check.sh --long runs it"]
fn the_network_does_not_split_when_join_messages_are_lost_seeds_2_to_4() -> Run {
    the_network_does_not_split_when_join_messages_are_lost(2..5)
}

#[test]
fn a_node_joins_once_its_bootstrap_starts() -> Run {
    let mut world = World::new(Scenario::calm(2, 5));
    let early = world.spawn(&[node(1)])?;
    world.run_for(SECOND * 90)?;
    assert_eq!(status(&world, early), Status::Joining);
    world.spawn(&[])?;
    assert!(run_until(&mut world, SECOND * 90, |world| world.has_joined(early))?, "the longest pause is a minute");
    Ok(())
}

#[test]
fn a_node_that_restarts_empty_reads_and_writes_as_before() -> Run {
    let mut world = world(40, 9)?;
    let keys = put_many(&mut world, 40, 0)?;
    let again = node(13);
    world.kill(Death::Process, [again]);
    world.run_for(SECOND * 5)?;
    world.restart_empty(again, &[node(1)])?;
    world.await_joined()?;
    assert_eq!(world.put(again, key(8), b"after", 0)?, found(b""));
    assert_eq!(world.get(node(2), key(8))?, found(b"after"));
    for (nth, key) in keys.iter().enumerate() {
        assert_eq!(world.get(again, *key)?, found(&value_of(nth)), "it knows nothing and finds all");
    }
    Ok(())
}

#[test]
fn two_nodes_that_dial_each_other_at_once_end_with_one_connection() -> Run {
    for seed in 0..10 {
        let mut world = World::new(Scenario::calm(2, seed));
        world.spawn(&[node(1)])?;
        world.spawn(&[node(0)])?;
        world.run_for(SECOND * 10)?;
        for number in [node(0), node(1)] {
            let node = world.node(number).expect("it lives");
            assert_eq!(node.connections(), 1, "node {number}, seed {seed}");
            assert_eq!(node.table().live(), 1, "node {number}, seed {seed}");
        }
    }
    Ok(())
}

#[test]
fn a_node_that_does_not_serve_reads_and_writes_but_is_in_no_table() -> Run {
    let mut world = world(40, 2)?;
    let client = world.spawn_as(Serving::No, &[node(0)])?;
    world.await_joined()?;
    world.run_for(SECOND * 30)?;
    assert_eq!(world.put(client, key(9), b"from a client", 0)?, found(b""));
    assert_eq!(world.get(node(20), key(9))?, found(b"from a client"));
    assert_eq!(world.get(client, key(9))?, found(b"from a client"));
    assert!(!world.replicas(&key(9)).contains(&client), "it stores no records");
    let id = world.id_of(client);
    for number in world.alive() {
        assert!(!world.node(number).expect("it lives").table().contains(&id), "the table of {number}");
    }
    Ok(())
}

// ── partitions ───────────────────────────────────────────────────────────────────────────────

#[test]
fn the_halves_of_a_partitioned_network_merge_again() -> Run {
    let mut world = world(60, 4)?;
    let old = put_many(&mut world, 20, 20)?;
    world.partition(|number| u8::from(number.0 < 30));
    let alone = |world: &World| {
        let live = |number| world.node(node(number)).map(|node| node.table().live());
        (0..60).all(|number| live(number) < Some(30))
    };
    while !alone(&world) {
        // A node notices that a contact is gone when it sends it a request.
        for number in 0..60 {
            let key = world.any_key();
            world.ask(node(number), &ApiRequest::Get { key })?;
        }
        world.run_for(SECOND * 10)?;
    }
    assert_eq!(world.put(node(3), key(1), b"one side", 0)?, found(b""));
    assert_eq!(world.put(node(33), key(2), b"the other", 0)?, found(b""));

    world.heal();
    let whole = |world: &World| (0..60).all(|number| findable(world, node(number)) == 60);
    assert!(run_until(&mut world, SECOND * 300, whole)?);
    assert_eq!(get_many(&mut world, 60, &old)?, 60);
    assert_eq!(world.get(node(40), key(1))?, found(b"one side"));
    assert_eq!(world.get(node(4), key(2))?, found(b"the other"));
    world.check_invariants()
}

#[test]
fn a_node_that_loses_all_contacts_goes_on_serving_and_joins_again_once_they_return() -> Run {
    let mut world = world(20, 6)?;
    let lonely = node(7);
    assert_eq!(world.put(node(2), key(3), b"kept", 20)?, found(b""));
    world.partition(|number| u8::from(number == lonely));
    let mut ask = 0;
    while status(&world, lonely) == Status::Settled && ask < 60 {
        let key = world.any_key();
        world.get(lonely, key)?;
        ask += 1;
    }
    assert_eq!(status(&world, lonely), Status::Joining);
    assert_eq!(world.get(lonely, key(3))?, found(b"kept"), "what it holds it gives");

    world.heal();
    assert!(run_until(&mut world, SECOND * 120, |world| world.has_joined(lonely))?);
    assert_eq!(world.put(lonely, key(4), b"back", 0)?, found(b""));
    assert_eq!(world.get(node(11), key(4))?, found(b"back"));
    Ok(())
}

// ── records ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_record_with_a_ttl_of_one_second_expires_everywhere() -> Run {
    let mut world = world(100, 1)?;
    let put = Put { ttl: 1, replication: 8, confirm: Confirm::Yes, class: Class::Plain, key: key(5), value: b"short" };
    world.ask(node(1), &ApiRequest::Put(put))?;
    world.run_for(SECOND * 9 / 10)?;
    assert_eq!(world.get(node(1), key(5))?, found(b"short"), "it lives a whole second");
    world.run_for(SECOND)?;
    assert_eq!(world.replicas(&key(5)), []);
    for number in [1, 2, 50, 99] {
        assert_eq!(world.get(node(number), key(5))?, Answer::Failure, "at node {number}");
    }
    Ok(())
}

#[test]
fn a_client_reads_its_own_put_while_the_copies_are_in_flight() -> Run {
    let mut world = world(100, 1)?;
    for (nth, value) in [&b"first"[..], b"second", b"third"].into_iter().enumerate() {
        let put = Put { ttl: 0, replication: 0, confirm: Confirm::No, class: Class::Plain, key: key(6), value };
        world.ask(node(3), &ApiRequest::Put(put))?;
        let ask = world.ask(node(3), &ApiRequest::Get { key: key(6) })?;
        assert_eq!(world.answer(ask), Some(&found(value)), "no time has passed since PUT {nth}");
    }
    world.run_for(SECOND * 10)?;
    for number in 0..100 {
        assert_eq!(world.get(node(number), key(6))?, found(b"third"), "at node {number}");
    }
    Ok(())
}

#[test]
fn a_record_is_copied_to_a_new_node_that_is_nearer_than_its_replicas() -> Run {
    let mut world = world(60, 8)?;
    let late = node(60);
    let key = *world.id_of(late).key(); // no node will be nearer to this key
    assert_eq!(world.put(node(1), key, b"handed over", 3)?, found(b""));
    assert_eq!(world.spawn(&[node(5)])?, late);
    assert!(run_until(&mut world, SECOND * 60, |world| world.replicas(&key).contains(&late))?);
    assert_eq!(world.get(late, key)?, found(b"handed over"));
    Ok(())
}

#[test]
fn the_later_of_two_puts_wins_at_any_node() -> Run {
    let mut world = world(100, 2)?;
    for seconds in [0, 30] {
        assert_eq!(world.put(node(10), key(7), b"earlier", 8)?, found(b""), "after {seconds} s");
        world.run_for(SECOND * 30)?; // wall clocks here are less apart than that
        assert_eq!(world.put(node(90), key(7), b"later", 8)?, found(b""));
        for number in (0..100).step_by(9) {
            assert_eq!(world.get(node(number), key(7))?, found(b"later"), "at node {number}");
        }
        world.run_for(SECOND * 30)?;
    }
    Ok(())
}

#[test]
fn values_up_to_the_largest_size_are_read_whole() -> Run {
    let mut world = world(30, 1)?;
    for size in [1, 4_096, 65_447, 65_448, 65_494, 65_495] {
        let value = vec![7; size];
        let key = world.any_key();
        assert_eq!(world.put(node(1), key, &value, 8)?, found(b""), "{size} bytes");
        for number in [2, 15, 29] {
            assert_eq!(world.get(node(number), key)?, found(&value), "{size} bytes at node {number}");
        }
    }
    Ok(())
}

// ── the simulator itself ─────────────────────────────────────────────────────────────────────

#[test]
fn the_digest_depends_only_on_the_seed() -> Run {
    let digest = |seed| -> Result<String, Violation> {
        let faults = Faults { loss: percent(3.0), stalls: percent(1.0), breaks: percent(1.0), ..Faults::NONE };
        let mut world = World::new(Scenario { faults, ..Scenario::calm(80, seed) });
        world.join_all()?;
        let keys = put_many(&mut world, 20, 0)?;
        world.kill(Death::Host, (0..80).step_by(3).map(Number));
        world.kill(Death::Process, (1..80).step_by(3).map(Number));
        get_many(&mut world, 20, &keys)?;
        Ok(world.digest())
    };
    assert_eq!(digest(1)?, digest(1)?);
    assert_ne!(digest(1)?, digest(2)?);
    Ok(())
}

fn dht_sim(arguments: &str) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_dht-sim")).args(arguments.split_whitespace()).output();
    output.expect("the program that this test was built with")
}

#[test]
fn dht_sim_prints_figures_and_a_digest_determined_by_its_command_line() {
    let lines = |arguments| {
        let output = dht_sim(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().filter(|line| !line.starts_with("wall ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = lines("--nodes 50 --seed 1 --loss 2 --puts 20 --gets 40");
    assert_eq!(first, lines("--nodes 50 --seed 1 --loss 2 --puts 20 --gets 40"));
    assert!(first.contains(&"found 40/40".to_owned()), "{first:#?}");
    assert!(first.iter().any(|line| line.starts_with("digest ")), "{first:#?}");
    assert_ne!(first.last(), lines("--nodes 50 --seed 2 --loss 2 --puts 20 --gets 40").last());
}

#[test]
fn dht_sim_reports_the_readable_values_of_each_hour() {
    let output = dht_sim("--nodes 40 --seed 1 --values 20 --gets 40 --replication 20 --session 2h --hours 2");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    for line in ["values 20/20", "hour 1 nodes ", "hour 1 upkeep ", "hour 2 nodes ", "readable in all "] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}: {text}");
    }
}

#[test]
fn dht_sim_exits_with_status_2_for_wrong_usage_and_1_for_a_failed_run() {
    assert_eq!(dht_sim("--nodes 50").status.code(), Some(2));
    assert_eq!(dht_sim("--nodes fifty --seed 1").status.code(), Some(2));
    let failed = dht_sim("--nodes 30 --seed 1 --puts 20 --gets 20 --loss 100");
    assert_eq!(failed.status.code(), Some(1), "no node can join a network that loses all messages");
    let said = String::from_utf8(failed.stderr).expect("text");
    assert!(said.contains("replay: dht-sim --nodes 30 --seed 1 --puts 20 --gets 20 --loss 100"), "{said}");
}
