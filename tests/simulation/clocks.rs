//! Networks in which a minority of the wall clocks is wrong, that is, off by more than `CLOCK_SKEW_MAX`.
//!
//! Invariant: what was confirmed through a node with a right clock is, at nodes with right clocks, never lost or
//! hidden while its life lasts, and only a PUT that was not refused and was not issued earlier replaces it.

use super::*;

use dht::node::params::{Durability, Params};
use dht::time::Time;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// More than any of the tests takes, and less than `TTL_LONGEST` by more than the smallest wrong clocks.
const TTL: u16 = 50_000;

/// A PUT without an answer has ended after this time.
const PUT_TIME_MAX: Duration = Duration::from_secs(30);

/// After this time a node whose clock was put right, or that was restarted, has synchronized.
const SETTLED: Duration = Duration::from_mins(2);

/// A PUT of a test.
struct Write {
    nth: usize,
    issued: Time,
    ask: Option<RequestId>,
    /// When it was answered, or at the latest ended without an answer.
    ended: Time,
    answer: Option<Answer>,
    /// Whether the clock of its node was right.
    is_right: bool,
}

impl Write {
    fn is_confirmed(&self) -> bool {
        matches!(self.answer, Some(Answer::Success(_)))
    }
}

/// A network with some wrong clocks, and what was written.
struct Clocks {
    world: World,
    nodes: u32,
    /// These nodes may have wrong clocks: the last ones.
    wrong: u32,
    /// For each node, since when its clock is right and it runs; `None` while the clock is wrong.
    right_since: Vec<Option<Time>>,
    keys: Vec<Key>,
    writes: Vec<Vec<Write>>,
    written: usize,
}

impl Clocks {
    /// 16 to 24 nodes that have joined with right clocks, of which up to a quarter may get wrong ones; each of
    /// `keys` keys was written.
    fn start(keys: usize, seed: u64) -> Result<Self, Violation> {
        let nodes = 16 + u32::try_from(seed % 9).expect("small");
        Self::start_nodes(nodes, nodes / 4, keys, seed)
    }

    /// `nodes` nodes that have joined with right clocks, of which up to `wrong` may get wrong ones; each of `keys`
    /// keys was written.
    fn start_nodes(nodes: u32, wrong: u32, keys: usize, seed: u64) -> Result<Self, Violation> {
        let params = Params { durability: Durability::Always, ..Params::default() };
        let mut world = World::new(Scenario { params, ..Scenario::calm(nodes, seed) });
        world.tell_boots();
        world.join_all()?;
        world.run_for(SECOND * 90)?;
        let keys: Vec<Key> = (0..keys).map(|_| world.any_key()).collect();
        let right_since = vec![Some(Time::ZERO); nodes as usize];
        let writes = keys.iter().map(|_| Vec::new()).collect();
        let mut clocks = Self { world, nodes, wrong, right_since, keys, writes, written: 0 };
        for at in 0..clocks.keys.len() {
            let through = clocks.any_right();
            clocks.put_confirmed(through, at)?;
        }
        Ok(clocks)
    }

    fn seed(&self) -> u64 {
        self.world.scenario().seed
    }

    fn is_right(&self, number: Number) -> bool {
        self.right_since[number.0 as usize]
            .is_some_and(|since| since == Time::ZERO || self.world.now() >= since + SETTLED)
    }

    /// A random node whose clock is never wrong.
    fn any_right(&mut self) -> Number {
        node(u32::try_from(self.world.any_below((self.nodes - self.wrong) as usize)).expect("small"))
    }

    /// A random one of the others.
    fn any_wrong(&mut self) -> Number {
        node(self.nodes - 1 - u32::try_from(self.world.any_below(self.wrong as usize)).expect("small"))
    }

    /// Puts the clock of a node right, but for some seconds.
    fn set_right(&mut self, number: Number) {
        let millis = i64::try_from(self.world.any_below(10_000)).expect("small") - 5_000;
        self.world.set_wall_ahead(number, millis);
        self.right_since[number.0 as usize] = Some(self.world.now());
    }

    fn set_1970(&mut self, number: Number) {
        let now = i64::try_from(self.world.wall().as_millis()).expect("before the year 300 million");
        self.set_wrong(number, -now);
    }

    fn set_wrong(&mut self, number: Number, millis: i64) {
        self.world.set_wall_ahead(number, millis);
        self.right_since[number.0 as usize] = None;
    }

    /// Sets the clock of a node: right, wrong by minutes to years, or to 1970.
    fn set_anyhow(&mut self, number: Number) {
        const WRONG_BY: [i64; 9] =
            [11 * MINUTE, 2 * HOUR, 13 * HOUR, 16 * HOUR, 17 * HOUR, 18 * HOUR, 20 * HOUR, 3 * DAY, 400 * DAY];
        match self.world.any_below(2 * WRONG_BY.len() + 3) {
            at if at < WRONG_BY.len() => self.set_wrong(number, WRONG_BY[at]),
            at if at < 2 * WRONG_BY.len() => self.set_wrong(number, -WRONG_BY[at - WRONG_BY.len()]),
            at if at == 2 * WRONG_BY.len() => self.set_1970(number),
            _ => self.set_right(number),
        }
    }

    /// Sets the clock of a node while it runs, or while its process or its host is restarted.
    fn disturb(&mut self) -> Run {
        let number = self.any_wrong();
        let restart = self.world.any_below(3);
        if restart > 0 {
            self.world.kill(Death::Process, [number]);
            let seconds = u32::try_from(self.world.any_below(30)).expect("small");
            self.world.run_for(SECOND * seconds)?;
        }
        self.set_anyhow(number);
        if restart == 2 {
            self.world.reboot(number);
        }
        if restart > 0 {
            let through = self.any_right();
            self.world.restart(number, &[through])?;
        }
        Ok(())
    }

    /// Sends a PUT of the key `at`.
    fn put(&mut self, through: Number, at: usize, confirm: Confirm) -> Run {
        let (nth, issued) = (self.written, self.world.now());
        self.written += 1;
        let value = value_of(nth);
        let put = Put { ttl: TTL, replication: 8, confirm, class: Class::Plain, key: self.keys[at], value: &value };
        let ask = self.world.ask(through, &ApiRequest::Put(put))?;
        let ask = (confirm == Confirm::Yes).then_some(ask);
        let (ended, is_right) = (issued + PUT_TIME_MAX, self.is_right(through));
        self.writes[at].push(Write { nth, issued, ask, ended, answer: None, is_right });
        Ok(())
    }

    /// Awaits the answer to the last PUT of the key `at`, which asked for a confirmation.
    fn await_put(&mut self, at: usize) -> Result<bool, Violation> {
        let write = self.writes[at].last_mut().expect("a PUT");
        let answer = self.world.await_answer(write.ask.expect("a confirmed PUT"))?;
        write.ended = self.world.now();
        write.answer = Some(answer);
        Ok(write.is_confirmed())
    }

    /// A confirmed PUT through a node with a right clock: it must succeed, unless a PUT that has not ended
    /// supersedes it.
    fn put_confirmed(&mut self, through: Number, at: usize) -> Run {
        self.put(through, at, Confirm::Yes)?;
        let (seed, now) = (self.seed(), self.world.now());
        let (_, before) = self.writes[at].split_last().expect("a PUT");
        let may_fail = before.iter().any(|other| other.ended > now);
        let is_confirmed = self.await_put(at)?;
        assert!(is_confirmed || may_fail, "seed {seed}: PUT of key {at} through {through} failed, sent at {now}");
        Ok(())
    }

    /// Whether a node with a right clock may return this write: it was not refused, and nothing that was issued
    /// after it has ended was confirmed through a node with a right clock.
    fn may_be_read(&self, at: usize, write: &Write) -> bool {
        let replaces = |later: &Write| later.is_right && later.is_confirmed() && later.issued >= write.ended;
        write.answer != Some(Answer::Failure) && !self.writes[at].iter().any(replaces)
    }

    /// Reads the key `at` at `reader`, whose clock is right.
    fn check(&mut self, reader: Number, at: usize) -> Run {
        let (seed, now) = (self.seed(), self.world.now());
        let answer = self.world.get(reader, self.keys[at])?;
        let Answer::Success(value) = &answer else {
            panic!("seed {seed} time {now}: key {at} is hidden at {reader}");
        };
        let write = self.writes[at].iter().find(|write| **value == value_of(write.nth)).expect("a written value");
        assert!(
            self.may_be_read(at, write),
            "seed {seed} time {now}: key {at} at {reader} has value {} issued {} right {} answer {:?}",
            write.nth,
            write.issued,
            write.is_right,
            write.answer
        );
        Ok(())
    }

    /// Reads all keys, each at one of the nodes that always have right clocks.
    fn check_all(&mut self) -> Run {
        for at in 0..self.keys.len() {
            let reader = self.any_right();
            self.check(reader, at)?;
        }
        Ok(())
    }

    /// Reads all keys at the first `readers` nodes.
    fn check_everywhere(&mut self, readers: u32) -> Run {
        for number in (0..readers).map(node) {
            for at in 0..self.keys.len() {
                self.check(number, at)?;
            }
        }
        Ok(())
    }

    /// A PUT through a node that may have a wrong clock. What is confirmed is read at nodes with right clocks, unless
    /// another PUT had not ended when it began: either may be the later one.
    fn put_through_wrong(&mut self, at: usize) -> Run {
        let through = self.any_wrong();
        if !self.world.node(through).is_some_and(dht::node::Node::wants_requests) {
            return Ok(());
        }
        if self.world.any_below(2) == 0 {
            return self.put(through, at, Confirm::No);
        }
        self.put(through, at, Confirm::Yes)?;
        if self.await_put(at)? {
            let (confirmed, before) = self.writes[at].split_last().expect("a PUT");
            let concurrent = before.iter().filter(|other| other.ended > confirmed.issued);
            let may_be_read: Vec<Answer> =
                concurrent.chain([confirmed]).map(|write| found(&value_of(write.nth))).collect();
            for _ in 0..2 {
                let reader = self.any_right();
                let answer = self.world.get(reader, self.keys[at])?;
                let (seed, now) = (self.seed(), self.world.now());
                let is_read = may_be_read.contains(&answer);
                assert!(is_read, "seed {seed} time {now}: confirmed through {through}, read at {reader}: {answer:?}");
            }
        }
        Ok(())
    }

    /// Random writes while random clocks are set.
    fn write_while_clocks_are_set(&mut self, rounds: usize) -> Run {
        for _ in 0..rounds {
            self.disturb()?;
            for _ in 0..2 {
                let at = self.world.any_below(self.keys.len());
                self.put_through_wrong(at)?;
                let at = if self.world.any_below(2) == 0 { at } else { self.world.any_below(self.keys.len()) };
                let through = self.any_right();
                self.put_confirmed(through, at)?;
            }
            let seconds = u32::try_from(self.world.any_below(60)).expect("small");
            self.world.run_for(SECOND * seconds)?;
            self.check_all()?;
        }
        Ok(())
    }

    /// Reads all keys at the first `readers` nodes for some hours.
    fn check_for(&mut self, half_hours: usize, readers: u32) -> Run {
        for _ in 0..half_hours {
            self.world.run_for(SECOND * 1_800)?;
            self.check_everywhere(readers)?;
        }
        Ok(())
    }
}

/// Goal: the invariant of this file, while a minority of the clocks is set to anything and hours after. Nodes whose
/// clocks were wrong are read once these are right.
fn wrong_clocks_harm_no_values_of_right_ones(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut clocks = Clocks::start(8, seed)?;
        clocks.write_while_clocks_are_set(24)?;
        if seed.is_multiple_of(2) {
            clocks.check_for(5, clocks.nodes - clocks.wrong)?;
        }
        for number in clocks.nodes - clocks.wrong..clocks.nodes {
            clocks.set_right(node(number));
            clocks.world.run_for(SECOND * 5)?;
        }
        clocks.world.run_for(SETTLED)?;
        clocks.check_everywhere(clocks.nodes)?;
        clocks.check_for(5, clocks.nodes)?;
    }
    Ok(())
}

#[test]
fn wrong_clocks_harm_no_values_of_right_ones_seeds_0_to_9() -> Run {
    wrong_clocks_harm_no_values_of_right_ones(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn wrong_clocks_harm_no_values_of_right_ones_seeds_10_to_99() -> Run {
    wrong_clocks_harm_no_values_of_right_ones(10..100)
}

/// Goal: a quarter of the nodes whose clocks are wrong by the same time hide no value at nodes with right clocks:
/// neither by tombstones of their own, nor by agreeing on the old value of a key that is written meanwhile, nor after
/// their clocks are put right.
///
/// Method: the clocks are set while the nodes run, or while their hosts boot. At 16 hours ahead a life of TTL seems to
/// have ended, while its tombstone still counts. At 13 hours ahead it seems to end within the next hour.
fn clocks_that_are_wrong_together_hide_no_later_value(seeds: Range<u64>) -> Run {
    const WRONG_BY: [i64; 7] = [16 * HOUR, 3 * DAY, -11 * MINUTE, -3 * DAY, -2 * HOUR, 400 * DAY, 13 * HOUR];
    for seed in seeds {
        let mut clocks = Clocks::start(12, seed)?;
        clocks.world.run_for(SECOND * 660)?;
        let wrong = clocks.nodes - clocks.wrong..clocks.nodes;
        let wrong_by = WRONG_BY[usize::try_from(seed % 7).expect("small")];
        for number in wrong.clone().map(node) {
            let reboots = seed / 7 % 2 == 1;
            if reboots {
                clocks.world.kill(Death::Process, [number]);
                clocks.world.reboot(number);
            }
            clocks.set_wrong(number, wrong_by);
            if reboots {
                let through = clocks.any_right();
                clocks.world.restart(number, &[through])?;
            }
        }
        clocks.world.run_for(SECOND * 30)?;
        clocks.check_everywhere(clocks.nodes - clocks.wrong)?;
        if wrong_by == 13 * HOUR {
            clocks.check_for(2, clocks.nodes - clocks.wrong)?;
        }
        for at in 0..clocks.keys.len() {
            let through = clocks.any_right();
            clocks.put_confirmed(through, at)?;
        }
        clocks.check_everywhere(clocks.nodes - clocks.wrong)?;
        for number in wrong.map(node) {
            clocks.set_right(number);
            clocks.check_all()?;
        }
        clocks.world.run_for(SETTLED)?;
        clocks.check_everywhere(clocks.nodes)?;
    }
    Ok(())
}

#[test]
fn clocks_that_are_wrong_together_hide_no_later_value_seeds_0_to_9() -> Run {
    clocks_that_are_wrong_together_hide_no_later_value(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn clocks_that_are_wrong_together_hide_no_later_value_seeds_10_to_99() -> Run {
    clocks_that_are_wrong_together_hide_no_later_value(10..100)
}

/// Goal: what was written while all clocks were two hours ahead does not replace what was written after they were put
/// right, when the calendar reaches those versions.
fn versions_of_fast_clocks_do_not_come_back(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut clocks = Clocks::start(12, seed)?;
        let all = clocks.nodes;
        for number in (0..all).map(node) {
            clocks.set_wrong(number, 2 * HOUR);
        }
        clocks.world.run_for(SECOND * 30)?;
        for at in 0..clocks.keys.len() {
            let through = clocks.any_right();
            clocks.put_confirmed(through, at)?;
        }
        for number in (0..all).map(node) {
            clocks.set_right(number);
        }
        clocks.world.run_for(SETTLED)?;
        for at in 0..clocks.keys.len() {
            let through = clocks.any_right();
            clocks.put_confirmed(through, at)?;
        }
        clocks.world.run_for(SECOND * 2 * 3_600)?;
        clocks.check_everywhere(all)?;
        for number in (0..all).map(node) {
            clocks.world.set_wall_ahead(number, MINUTE);
            clocks.world.run_for(SECOND * u32::try_from(seed % 4).expect("small"))?;
        }
        clocks.world.run_for(SETTLED)?;
        clocks.check_everywhere(all)?;
    }
    Ok(())
}

#[test]
fn versions_of_fast_clocks_do_not_come_back_seeds_0_to_9() -> Run {
    versions_of_fast_clocks_do_not_come_back(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn versions_of_fast_clocks_do_not_come_back_seeds_10_to_99() -> Run {
    versions_of_fast_clocks_do_not_come_back(10..100)
}

/// Goal: hosts whose clocks are wrong for some seconds after their start mislead no node whose clock is right.
///
/// Method: in a small network all nodes but one restart in turn with a wrong clock, which is put right 4 s later. So no
/// more than one clock is wrong at any time.
fn clocks_that_are_put_right_after_the_start_mislead_nobody(seeds: Range<u64>) -> Run {
    const WRONG_BY: [i64; 4] = [-20 * MINUTE, 25 * HOUR, -25 * HOUR, 20 * MINUTE];
    for seed in seeds {
        let nodes = 4 + u32::try_from(seed % 5).expect("small");
        let mut clocks = Clocks::start_nodes(nodes, nodes - 1, 6, seed)?;
        let wrong_by = WRONG_BY[clocks.world.any_below(WRONG_BY.len())];
        for number in (1..nodes).map(node) {
            clocks.world.kill(Death::Process, [number]);
            clocks.world.run_for(SECOND)?;
            clocks.set_wrong(number, wrong_by);
            clocks.world.restart(number, &[node(0)])?;
            clocks.world.run_for(SECOND * 4)?;
            clocks.set_right(number);
            clocks.world.run_for(SECOND * 6)?;
            for at in 0..clocks.keys.len() {
                clocks.put_confirmed(node(0), at)?;
            }
            clocks.check_everywhere(1)?;
        }
        clocks.world.run_for(SECOND * 10)?;
        for number in (0..nodes).map(node) {
            for at in 0..clocks.keys.len() {
                clocks.put_confirmed(number, at)?;
            }
            clocks.check_everywhere(nodes)?;
        }
    }
    Ok(())
}

#[test]
fn clocks_that_are_put_right_after_the_start_mislead_nobody_seeds_0_to_9() -> Run {
    clocks_that_are_put_right_after_the_start_mislead_nobody(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn clocks_that_are_put_right_after_the_start_mislead_nobody_seeds_10_to_99() -> Run {
    clocks_that_are_put_right_after_the_start_mislead_nobody(10..100)
}

/// Goal: nodes that all start at 1970 after a power cut lose nothing.
///
/// Method: all processes are killed at once. All hosts boot anew with clocks at 1970, and the nodes start. Then
/// their clocks are put right, one after another.
fn all_nodes_at_1970_lose_nothing(seeds: Range<u64>) -> Run {
    for seed in seeds {
        let mut clocks = Clocks::start(12, seed)?;
        clocks.world.run_for(SECOND * 60)?;
        let all = clocks.nodes;
        clocks.world.kill(Death::Process, (0..all).map(node));
        clocks.world.run_for(SECOND * 60)?;
        for number in (0..all).map(node) {
            clocks.world.reboot(number);
            clocks.set_1970(number);
            clocks.world.restart(number, &[])?;
            clocks.world.run_for(SECOND / 10)?;
        }
        clocks.world.run_for(SECOND * u32::try_from(seed % 4).expect("small") * 40)?;
        for number in (0..all).map(node) {
            clocks.set_right(number);
            clocks.world.run_for(SECOND * u32::try_from(seed % 3).expect("small") * 10)?;
        }
        clocks.world.run_for(SETTLED)?;
        clocks.check_everywhere(all)?;
        clocks.check_for(2, all)?;
    }
    Ok(())
}

#[test]
fn all_nodes_at_1970_lose_nothing_seeds_0_to_9() -> Run {
    all_nodes_at_1970_lose_nothing(0..10)
}

#[test]
#[ignore = "long: 90 networks; scripts/check.sh --long runs it"]
fn all_nodes_at_1970_lose_nothing_seeds_10_to_99() -> Run {
    all_nodes_at_1970_lose_nothing(10..100)
}
