//! A workload: values that clients PUT repeatedly, and the share of them that is readable.
//!
//! Each value contains the number of its key and of the round in which it was written, so a read value
//! identifies itself. A value is readable if a GET through a joined node returns the value of the last
//! confirmed round or a newer one.

use std::time::Duration;

use crate::id::Key;
use crate::limits::TTL_LONGEST;
use crate::record::Class;
use crate::sim::{Answer, Number, RequestId, Violation, World};
use crate::time::Time;
use crate::wire::api::{ApiRequest, Confirm, Put};

/// Requests that clients send in one virtual second.
const REQUESTS_PER_SECOND: u32 = 100;

/// Attempts of a PUT that is not confirmed, each through another node.
const PUT_ATTEMPTS: u32 = 5;

/// Interval at which agreement of the replicas is checked.
const AGREEMENT_PAUSE: Duration = Duration::from_secs(10);

/// Values under random keys.
#[derive(Debug)]
pub struct Workload {
    values: Vec<Value>,
    replication: u8,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    key: Key,
    /// The last confirmed round.
    confirmed: u32,
    /// The last round of which a PUT was sent.
    sent: u32,
}

/// The share of GETs that found their value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// GETs that returned the last confirmed value or a newer one.
    pub found: u32,
    /// GETs that got a reply.
    pub asked: u32,
}

impl Share {
    /// Whether at least `permille` of each thousand were found.
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
    /// `count` random keys for values with `replication` replicas each. Sends no PUT yet.
    pub fn new(world: &mut World, count: u32, replication: u8) -> Self {
        let values = (0..count).map(|_| Value { key: world.any_key(), confirmed: 0, sent: 0 }).collect();
        Self { values, replication }
    }

    /// PUTs a new value under every key, with the longest TTL, each through a random one of `nodes`; returns
    /// the number of confirmed PUTs.
    pub fn put_all(&mut self, world: &mut World, nodes: impl Fn(Number) -> bool) -> Result<u32, Violation> {
        let mut unconfirmed: Vec<usize> = (0..self.values.len()).collect();
        for value in &mut self.values {
            value.sent += 1;
        }
        for _ in 0..PUT_ATTEMPTS {
            let mut requests = Vec::new();
            for nth in unconfirmed {
                let Some(at) = world.any_of(&nodes) else { break };
                let Value { key, sent, .. } = self.values[nth];
                let value = value_of(nth, sent);
                let put = Put {
                    ttl: u16::try_from(TTL_LONGEST.as_secs()).expect("it has 16 bits"),
                    replication: self.replication,
                    confirm: Confirm::Yes,
                    class: Class::Plain,
                    key,
                    value: &value,
                };
                requests.push((nth, world.ask(at, &ApiRequest::Put(put))?));
                world.run_for(Duration::from_secs(1) / REQUESTS_PER_SECOND)?;
            }
            unconfirmed = Vec::new();
            for (nth, request) in requests {
                match world.await_answer(request)? {
                    Answer::Success(_) => self.values[nth].confirmed = self.values[nth].sent,
                    Answer::Failure => unconfirmed.push(nth),
                }
            }
            if unconfirmed.is_empty() {
                break;
            }
        }
        let confirmed = self.values.iter().filter(|value| value.confirmed == value.sent).count();
        Ok(u32::try_from(confirmed).expect("the number of values has 32 bits"))
    }

    /// GETs `count` random values, each through a random one of `nodes`.
    pub fn read(&self, world: &mut World, count: u32, nodes: impl Fn(Number) -> bool) -> Result<Share, Violation> {
        let mut requests: Vec<(usize, Number, RequestId)> = Vec::new();
        for _ in 0..count {
            let Some(at) = world.any_of(&nodes) else { break };
            let nth = world.any_below(self.values.len());
            requests.push((nth, at, world.ask(at, &ApiRequest::Get { key: self.values[nth].key })?));
            world.run_for(Duration::from_secs(1) / REQUESTS_PER_SECOND)?;
        }
        let mut share = Share::default();
        for (nth, at, request) in requests {
            let answer = world.await_answer(request)?;
            if world.answer(request).is_none() {
                log::debug!("node {at} stopped before it answered");
                continue;
            }
            share.asked += 1;
            let Value { confirmed, sent, .. } = self.values[nth];
            if (confirmed..=sent).any(|round| answer == Answer::Success(value_of(nth, round).into())) {
                share.found += 1;
            } else {
                log::debug!("node {at} did not find value {nth}");
            }
        }
        Ok(share)
    }

    /// Runs until all replicas of each value agree, for at most `within`; returns the time that this took.
    ///
    /// # Errors
    ///
    /// [`Violation`] with a replica that still disagrees after `within`.
    pub fn await_agreement(&self, world: &mut World, within: Duration) -> Result<Duration, Violation> {
        let began: Time = world.now();
        loop {
            let disagreement = self.values.iter().find_map(|value| world.check_agreement(&value.key).err());
            match disagreement {
                None => return Ok(world.now().since(began)),
                Some(violation) if world.now() >= began + within => return Err(violation),
                Some(_) => world.run_for(AGREEMENT_PAUSE)?,
            }
        }
    }
}

/// The value of the `nth` key in this round: 100 bytes.
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
    fn a_share_is_compared_in_thousandths_and_printed_in_percent() {
        let share = Share { found: 1_998, asked: 2_000 };
        assert!(share.is_at_least(999) && !share.is_at_least(1_000));
        assert_eq!(share.to_string(), "1998/2000 99.90 %");
        assert!(Share::default().is_at_least(1_000), "without GETs, none failed");
    }

    #[test]
    fn values_of_different_keys_or_rounds_differ() {
        let values = [value_of(0, 1), value_of(1, 1), value_of(0, 2)];
        assert!(values[0] != values[1] && values[0] != values[2] && values[1] != values[2]);
    }
}
