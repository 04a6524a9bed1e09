//! Networks of IPv4-only, IPv6-only and dual-stack nodes: what is confirmed in one family is read in the other.

use super::*;

use dht::node::params::Families;

/// The nodes of a network with two address families.
struct Mixed {
    world: World,
    v4: Vec<Number>,
    v6: Vec<Number>,
    bridges: Vec<Number>,
}

impl Mixed {
    /// `single` nodes of each family and `bridges` dual-stack nodes, which have joined one after another. The
    /// first node is a dual-stack one.
    fn start(single: usize, bridges: usize, scenario: Scenario) -> Result<Self, Violation> {
        let mut world = World::new(scenario);
        let founder = world.spawn_in(Families::Both, Serving::Yes, &[])?;
        let mut mixed = Self { world, v4: Vec::new(), v6: Vec::new(), bridges: vec![founder] };
        for _ in 1..bridges {
            mixed.spawn(Families::Both)?;
        }
        for _ in 0..single {
            mixed.spawn(Families::V4)?;
            mixed.spawn(Families::V6)?;
        }
        mixed.world.await_joined()?;
        mixed.world.run_for(SECOND * 90)?;
        Ok(mixed)
    }

    /// Starts a node that joins through a dual-stack node.
    fn spawn(&mut self, families: Families) -> Result<Number, Violation> {
        let through = self.bridges[self.world.any_below(self.bridges.len())];
        let number = self.world.spawn_in(families, Serving::Yes, &[through])?;
        match families {
            Families::V4 => self.v4.push(number),
            Families::V6 => self.v6.push(number),
            Families::Both => self.bridges.push(number),
        }
        self.world.run_for(SECOND / 4)?;
        Ok(number)
    }

    /// A random node of one family; of IPv4, if `nth` is even.
    fn single(&mut self, nth: usize) -> Number {
        let nodes = if nth.is_multiple_of(2) { &self.v4 } else { &self.v6 };
        nodes[self.world.any_below(nodes.len())]
    }

    /// A confirmed PUT at `at`; it must succeed.
    fn put(&mut self, at: Number, key: Key, value: &[u8]) -> Run {
        let seed = self.world.scenario().seed;
        assert_eq!(self.world.put(at, key, value, 0)?, found(b""), "PUT at {at}, seed {seed}");
        Ok(())
    }

    /// How many of `keys` are not read in their newest version at a node of the family that did not write it.
    fn missed_across(
        &mut self,
        keys: &[Key],
        nth: usize,
        newest: impl Fn(usize) -> [u8; 8],
    ) -> Result<usize, Violation> {
        let mut missed = 0;
        for (at, key) in keys.iter().enumerate() {
            let reader = self.single(nth + at + 1);
            missed += usize::from(self.world.get(reader, *key)? != found(&newest(at)));
        }
        Ok(missed)
    }
}

/// Goal: a value that was confirmed in one family is readable in its newest version in the other.
///
/// Method: each key is written in one family, and then overwritten in the other. After each confirmation a
/// node of the family that did not write reads it.
fn confirmed_values_cross_families(single: usize, bridges: usize, keys: usize, seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut mixed = Mixed::start(single, bridges, Scenario::calm(0, seed))?;
        let keys: Vec<Key> = (0..keys).map(|_| mixed.world.any_key()).collect();
        for round in 0..3 {
            let value = |at: usize| value_of(100 * round + at);
            for (at, key) in keys.iter().enumerate() {
                let writer = mixed.single(round + at);
                mixed.put(writer, *key, &value(at))?;
            }
            let missed = mixed.missed_across(&keys, round, value)?;
            assert_eq!(missed, 0, "of {} values, round {round}, seed {seed}", keys.len());
        }
        mixed.world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn values_cross_families_through_one_of_17_nodes() -> Run {
    confirmed_values_cross_families(8, 1, 40, 0..3)
}

#[test]
fn values_cross_families_through_one_of_101_nodes() -> Run {
    confirmed_values_cross_families(50, 1, 40, 0..1)
}

/// What happens to a node of a network with two families.
#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    Killed(Death),
    Leaves,
    Starts,
}

impl Mixed {
    /// Applies a random change to a random node: often to a bridge, of which one always lives. Enough nodes of
    /// each family stay.
    fn disturb(&mut self) -> Run {
        let change = match self.world.any_below(6) {
            0 => Change::None,
            1 => Change::Killed(Death::Process),
            2 => Change::Killed(Death::Host),
            3 => Change::Leaves,
            _ => Change::Starts,
        };
        let families = [Families::V4, Families::V6, Families::Both, Families::Both][self.world.any_below(4)];
        let (nodes, fewest, most) = match families {
            Families::V4 => (&mut self.v4, 6, 12),
            Families::V6 => (&mut self.v6, 6, 12),
            Families::Both => (&mut self.bridges, 1, 4),
        };
        match change {
            Change::Starts if nodes.len() < most => {
                let number = self.spawn(families)?;
                // A bridge that has just started has dialled nobody, and the others do not know it.
                if families == Families::Both {
                    self.world.run_for(SECOND * 20)?;
                }
                let joined = run_until(&mut self.world, SECOND * 40, |world| world.has_joined(number))?;
                assert!(joined, "{number} joins, seed {}", self.world.scenario().seed);
            }
            Change::Killed(_) | Change::Leaves if nodes.len() > fewest => {
                let number = nodes.swap_remove(self.world.any_below(nodes.len()));
                match change {
                    Change::Killed(death) => self.world.kill(death, [number]),
                    Change::Leaves | Change::None | Change::Starts => self.world.leave(number)?,
                }
            }
            Change::Killed(_) | Change::Leaves | Change::None | Change::Starts => {}
        }
        Ok(())
    }
}

/// Goal: while one bridge lives, each confirmed value is readable in its newest version in the other family two
/// seconds later, whichever nodes come, leave and crash.
///
/// Method: four keys are overwritten in alternating families, each time right after a random change. A PUT
/// may fail, because a crashed node may owe answers, but few do.
fn values_cross_families_while_nodes_come_and_go(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut mixed = Mixed::start(8, 1 + usize::try_from(seed % 3).expect("small"), Scenario::calm(0, seed))?;
        let keys: Vec<Key> = (0..4).map(|_| mixed.world.any_key()).collect();
        let mut failed = 0;
        for nth in 0..32 {
            mixed.disturb()?;
            let (key, value, writer) = (keys[nth % 4], value_of(nth), mixed.single(nth / 4 + nth));
            if mixed.world.put(writer, key, &value, 0)? == Answer::Failure {
                failed += 1;
                continue;
            }
            mixed.world.run_for(SECOND * 2)?;
            let reader = mixed.single(nth / 4 + nth + 1);
            let read = mixed.world.get(reader, key)?;
            assert_eq!(read, found(&value), "PUT {nth} at {writer}, GET at {reader}, seed {seed}");
        }
        assert!(failed <= 4, "{failed} of 32 PUTs fail, seed {seed}");
        mixed.world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn values_cross_families_while_nodes_come_and_go_seeds_0_to_9() -> Run {
    values_cross_families_while_nodes_come_and_go(0..10)
}

#[test]
#[ignore = "long: 100 networks; scripts/check.sh --long runs it"]
fn values_cross_families_while_nodes_come_and_go_seeds_10_to_109() -> Run {
    values_cross_families_while_nodes_come_and_go(10..110)
}

/// The keys that nodes of one family overwrite again and again, and for each the last number that was confirmed.
struct Overwritten {
    keys: Vec<(Number, Key)>,
    confirmed: Vec<usize>,
    round: usize,
}

impl Overwritten {
    /// `per_node` keys for each node of one family.
    fn new(mixed: &mut Mixed, per_node: usize) -> Self {
        let writers: Vec<Number> = mixed.v4.iter().chain(&mixed.v6).copied().collect();
        let each = writers.iter().flat_map(|writer| std::iter::repeat_n(*writer, per_node));
        let keys: Vec<(Number, Key)> = each.map(|writer| (writer, mixed.world.any_key())).collect();
        Self { confirmed: vec![0; keys.len()], keys, round: 0 }
    }

    /// Overwrites all keys at the same time; returns how many PUTs fail.
    fn write(&mut self, mixed: &mut Mixed) -> Result<usize, Violation> {
        self.round += 1;
        let value = value_of(self.round);
        let mut asks = Vec::new();
        for (writer, key) in &self.keys {
            let (confirm, class, key) = (Confirm::Yes, Class::Plain, *key);
            let put = Put { ttl: 0, replication: 3, confirm, class, key, value: &value };
            asks.push(mixed.world.ask(*writer, &ApiRequest::Put(put))?);
        }
        let mut failed = 0;
        for (confirmed, answer) in self.confirmed.iter_mut().zip(await_all(&mut mixed.world, &asks)?) {
            match answer {
                Answer::Success(_) => *confirmed = self.round,
                Answer::Failure => failed += 1,
            }
        }
        Ok(failed)
    }

    /// How many GETs at all nodes of the other family than the writer's miss the last confirmed value.
    fn missed_across(&self, mixed: &mut Mixed) -> Result<usize, Violation> {
        let (mut asks, mut newest) = (Vec::new(), Vec::new());
        for ((writer, key), confirmed) in self.keys.iter().zip(&self.confirmed) {
            let readers = if mixed.v4.contains(writer) { mixed.v6.clone() } else { mixed.v4.clone() };
            for reader in readers {
                asks.push(mixed.world.ask(reader, &ApiRequest::Get { key: *key })?);
                newest.push(*confirmed);
            }
        }
        let answers = await_all(&mut mixed.world, &asks)?;
        let read = |answer: &Answer| match answer {
            Answer::Success(value) => usize::from_be_bytes(value[..].try_into().expect("a number")),
            Answer::Failure => 0,
        };
        Ok(answers.iter().zip(newest).filter(|(answer, newest)| read(answer) < *newest).count())
    }
}

/// Goal: while one bridge runs, each confirmed value is readable in its newest version in the other family, also
/// if another bridge is stopped, and if the one that runs has just restarted and waits itself for the stopped one.
///
/// Method: the first of two bridges is killed and restarted, then the second one is stopped, and continued later.
/// Meanwhile each node of one family overwrites three keys at the same time, again and again. All nodes of the
/// other family read them.
fn values_cross_families_while_one_of_two_bridges_is_stopped(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut mixed = Mixed::start(5, 2, Scenario::calm(0, seed))?;
        let (restarted, stopped) = (mixed.bridges[0], mixed.bridges[1]);
        let mut values = Overwritten::new(&mut mixed, 3);
        let check = |mixed: &mut Mixed, values: &mut Overwritten, what: &str, failed_max: usize| {
            let failed = values.write(mixed)?;
            let missed = values.missed_across(mixed)?;
            assert_eq!(missed, 0, "GETs, {what}, round {}, seed {seed}", values.round);
            assert!(failed <= failed_max, "{failed} PUTs fail, {what}, round {}, seed {seed}", values.round);
            Ok::<_, Violation>(())
        };
        check(&mut mixed, &mut values, "all run", 0)?;
        mixed.world.kill(Death::Process, [restarted]);
        check(&mut mixed, &mut values, "one is dead", 3)?;
        mixed.world.restart(restarted, &[stopped])?;
        mixed.world.run_for(SECOND * u32::try_from(2 + seed % 4).expect("small"))?;
        mixed.world.suspend([stopped]);
        for pause in [0, 3, 5, 15, 60] {
            mixed.world.run_for(SECOND * pause)?;
            check(&mut mixed, &mut values, "one is stopped", if pause == 0 { 3 } else { 0 })?;
        }
        mixed.world.resume([stopped])?;
        for pause in [0, 3, 60] {
            mixed.world.run_for(SECOND * pause)?;
            check(&mut mixed, &mut values, "it runs again", if pause == 0 { 3 } else { 0 })?;
        }
        mixed.world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn values_cross_families_while_one_of_two_bridges_is_stopped_seeds_0_to_9() -> Run {
    values_cross_families_while_one_of_two_bridges_is_stopped(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn values_cross_families_while_one_of_two_bridges_is_stopped_seeds_10_to_99() -> Run {
    values_cross_families_while_one_of_two_bridges_is_stopped(10..100)
}

/// Goal: a value that is confirmed while the only bridge is stopped is read in the other family when the bridge runs
/// again: none is confirmed in one family alone.
///
/// Method: the only bridge is stopped for 5 to 50 s. Meanwhile each node of one family overwrites three keys at the
/// same time, again and again. After the bridge runs again, all PUTs are confirmed, and all values are read.
fn no_value_is_confirmed_in_one_family_alone_while_the_only_bridge_is_stopped(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut mixed = Mixed::start(5, 1, Scenario::calm(0, seed))?;
        let bridge = mixed.bridges[0];
        let mut values = Overwritten::new(&mut mixed, 3);
        assert_eq!(values.write(&mut mixed)?, 0, "seed {seed}");
        mixed.world.suspend([bridge]);
        let woken_at = mixed.world.now() + SECOND * u32::try_from(5 + seed * 7 % 46).expect("small");
        while mixed.world.now() + SECOND * 11 < woken_at {
            let failed = values.write(&mut mixed)?;
            assert_eq!(failed, values.keys.len(), "no PUT is confirmed, seed {seed}");
        }
        mixed.world.run_for(woken_at.since(mixed.world.now()))?;
        mixed.world.resume([bridge])?;
        for pause in [0, 10, 60] {
            mixed.world.run_for(SECOND * pause)?;
            let failed = values.write(&mut mixed)?;
            let missed = values.missed_across(&mut mixed)?;
            assert_eq!(missed, 0, "GETs, {pause} s later, round {}, seed {seed}", values.round);
            assert!(pause == 0 || failed == 0, "{failed} PUTs fail {pause} s later, seed {seed}");
        }
        mixed.world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn no_value_is_confirmed_in_one_family_alone_while_the_only_bridge_is_stopped_seeds_0_to_9() -> Run {
    no_value_is_confirmed_in_one_family_alone_while_the_only_bridge_is_stopped(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn no_value_is_confirmed_in_one_family_alone_while_the_only_bridge_is_stopped_seeds_10_to_99() -> Run {
    no_value_is_confirmed_in_one_family_alone_while_the_only_bridge_is_stopped(10..100)
}

/// Goal: where all nodes share a family, the mechanism costs nothing.
///
/// Method: the same network runs as IPv4-only nodes, as dual-stack nodes, and as a mixture. Nodes come and go.
/// The counts of events, messages, bytes and requests are the same.
#[test]
fn a_network_that_shares_a_family_sends_the_same_messages_as_one_of_ipv4_only() -> Run {
    let figures = |families_of: fn(u32) -> Families, seed| {
        let mut world = World::new(Scenario { faults: loss(1.0), ..Scenario::calm(0, seed) });
        for number in 0..60 {
            let through: Vec<Number> = (0..number.min(2)).map(Number).collect();
            world.spawn_in(families_of(number), Serving::Yes, &through)?;
            world.run_for(SECOND / 4)?;
        }
        world.await_joined()?;
        let keys = put_many(&mut world, 40, 0)?;
        world.kill(Death::Host, [node(7), node(8)]);
        world.leave(node(9))?;
        world.run_for(SECOND * 120)?;
        put_many(&mut world, 40, 0)?;
        get_many(&mut world, 80, &keys)?;
        Ok::<_, Violation>(world.figures())
    };
    for seed in 0..3 {
        let v4_only = figures(|_| Families::V4, seed)?;
        assert_eq!(figures(|_| Families::Both, seed)?, v4_only, "all dual-stack, seed {seed}");
        let mixture = |number: u32| if number.is_multiple_of(3) { Families::Both } else { Families::V4 };
        assert_eq!(figures(mixture, seed)?, v4_only, "a mixture, seed {seed}");
    }
    Ok(())
}

/// Goal: the load of the only bridge among 50 + 50 nodes is that of one PUT for each PUT of the network.
///
/// Method: 200 PUTs at random nodes of one family. The requests that the bridge sends and serves are counted.
#[test]
fn the_only_bridge_of_50_and_50_nodes_serves_and_sends_the_requests_of_one_put_for_each_put() -> Run {
    let mut mixed = Mixed::start(50, 1, Scenario::calm(0, 1))?;
    let bridge = mixed.bridges[0];
    let counted = |mixed: &Mixed| {
        let counters = *mixed.world.node(bridge).expect("it lives").counters();
        (counters.rpcs_sent, counters.rpcs_served)
    };
    let (sent, served) = counted(&mixed);
    for nth in 0..200 {
        let (writer, key) = (mixed.single(nth), mixed.world.any_key());
        mixed.put(writer, key, &value_of(nth))?;
    }
    let (sent, served) = (counted(&mixed).0 - sent, counted(&mixed).1 - served);
    println!("for 200 PUTs the bridge sends {sent} and serves {served} requests");
    // A lookup, eight copies, and version probes of the other twelve of the 20 closest; one RELAY, and now and
    // then a request as a neighbour of the key.
    assert!((200 * 9..=200 * 35).contains(&sent), "{sent} for 200 PUTs");
    assert!((200..=200 * 3).contains(&served), "{served} for 200 PUTs");
    Ok(())
}
