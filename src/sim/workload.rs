//! A trial of a world: values that are PUT and PUT again, and how many of them can be read.
//!
//! Each value names its key and the round in which it was written, so that a value that is read
//! says which one it is. A value counts as readable if a GET, at a node that takes part, finds it
//! as it was last confirmed, or newer.

use std::time::Duration;

use crate::id::Key;
use crate::limits::TTL_LONGEST;
use crate::record::Class;
use crate::sim::{Answer, Ask, Number, Violation, World};
use crate::time::Time;
use crate::wire::api::{ApiRequest, Confirm, Put};

/// Requests of clients that begin in one virtual second.
const REQUESTS_PER_SECOND: u32 = 100;

/// A PUT whose node dies, or that is not confirmed, is made so often, each time at another node.
const PUT_ATTEMPTS: u32 = 5;

/// How often it is looked whether all holders agree.
const AGREEMENT_PAUSE: Duration = Duration::from_secs(10);

/// Values under random keys.
#[derive(Debug)]
pub struct Workload {
    values: Vec<Written>,
    replication: u8,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    key: Key,
    /// The last round that was confirmed.
    round: u32,
    /// The last round that was begun.
    begun: u32,
}

/// How many of those asked for were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// GETs that were answered with the newest value.
    pub found: u32,
    /// GETs whose node lived to answer them.
    pub asked: u32,
}

impl Share {
    /// Whether at least `permille` of a thousand were found.
    pub fn is_at_least(self, permille: u32) -> bool {
        u64::from(self.found) * 1_000 >= u64::from(self.asked) * u64::from(permille)
    }
}

impl std::ops::AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.found += other.found;
        self.asked += other.asked;
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = 100.0 * f64::from(self.found) / f64::from(self.asked.max(1));
        write!(f, "{}/{} {percent:.2} %", self.found, self.asked)
    }
}

impl Workload {
    /// `count` keys of `world`, to be held by `replication` nodes each; nothing is PUT yet.
    pub fn new(world: &mut World, count: u32, replication: u8) -> Self {
        let values = (0..count).map(|_| Written { key: world.any_key(), round: 0, begun: 0 }).collect();
        Self { values, replication }
    }

    /// PUTs a new value under every key, with the longest life there is, each at some node of
    /// `nodes`; returns how many were confirmed.
    pub fn put_all(&mut self, world: &mut World, nodes: impl Fn(Number) -> bool) -> Result<u32, Violation> {
        let mut missing: Vec<usize> = (0..self.values.len()).collect();
        for written in &mut self.values {
            written.begun += 1;
        }
        for _ in 0..PUT_ATTEMPTS {
            let mut asks = Vec::new();
            for nth in missing {
                let Some(at) = world.any_of(&nodes) else { break };
                let written = self.values[nth];
                let value = value_of(nth, written.begun);
                let put = Put {
                    ttl: u16::try_from(TTL_LONGEST.as_secs()).expect("it has 16 bits"),
                    replication: self.replication,
                    confirm: Confirm::Yes,
                    class: Class::Plain,
                    key: written.key,
                    value: &value,
                };
                asks.push((nth, world.ask(at, &ApiRequest::Put(put))?));
                world.run_for(Duration::from_secs(1) / REQUESTS_PER_SECOND)?;
            }
            missing = Vec::new();
            for (nth, ask) in asks {
                match world.await_answer(ask)? {
                    Answer::Success(_) => self.values[nth].round = self.values[nth].begun,
                    Answer::Failure => missing.push(nth),
                }
            }
            if missing.is_empty() {
                break;
            }
        }
        let confirmed = self.values.iter().filter(|written| written.round == written.begun).count();
        Ok(u32::try_from(confirmed).expect("a count of 32 bits made them"))
    }

    /// GETs `count` values, drawn by the world's chance, each at some node of `nodes`.
    pub fn read(&self, world: &mut World, count: u32, nodes: impl Fn(Number) -> bool) -> Result<Share, Violation> {
        let mut asks: Vec<(usize, Number, Ask)> = Vec::new();
        for _ in 0..count {
            let Some(at) = world.any_of(&nodes) else { break };
            let nth = world.any_below(self.values.len());
            asks.push((nth, at, world.ask(at, &ApiRequest::Get { key: self.values[nth].key })?));
            world.run_for(Duration::from_secs(1) / REQUESTS_PER_SECOND)?;
        }
        let mut share = Share::default();
        for (nth, at, ask) in asks {
            let answer = world.await_answer(ask)?;
            if world.answer(ask).is_none() {
                log::debug!("node {at} died before it answered");
                continue;
            }
            share.asked += 1;
            let Written { round, begun, .. } = self.values[nth];
            if (round..=begun).any(|round| answer == Answer::Success(value_of(nth, round).into())) {
                share.found += 1;
            } else {
                log::debug!("node {at} did not find value {nth}");
            }
        }
        Ok(share)
    }

    /// Goes on until all holders of each value hold the same, for at most `within`; returns how
    /// long that took.
    ///
    /// # Errors
    ///
    /// [`Violation`] with two holders that disagree even then.
    pub fn await_agreement(&self, world: &mut World, within: Duration) -> Result<Duration, Violation> {
        let began: Time = world.now();
        loop {
            let disagreement = self.values.iter().find_map(|written| world.check_agreement(&written.key).err());
            match disagreement {
                None => return Ok(world.now().since(began)),
                Some(violation) if world.now() >= began + within => return Err(violation),
                Some(_) => world.run_for(AGREEMENT_PAUSE)?,
            }
        }
    }
}

/// What is PUT under the `nth` key in that round: 100 bytes.
fn value_of(nth: usize, round: u32) -> [u8; 100] {
    let mut value = [0; 100];
    value[..8].copy_from_slice(&(nth as u64).to_be_bytes());
    value[8..12].copy_from_slice(&round.to_be_bytes());
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_compared_in_thousandths_and_told_in_percent() {
        let share = Share { found: 1_998, asked: 2_000 };
        assert!(share.is_at_least(999) && !share.is_at_least(1_000));
        assert_eq!(share.to_string(), "1998/2000 99.90 %");
        assert!(Share::default().is_at_least(1_000), "of nothing all is found");
    }

    #[test]
    fn values_of_other_keys_and_other_rounds_differ() {
        let values = [value_of(0, 1), value_of(1, 1), value_of(0, 2)];
        assert!(values[0] != values[1] && values[0] != values[2] && values[1] != values[2]);
    }
}
