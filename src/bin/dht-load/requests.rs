//! Chooses and writes the requests of a run.

use super::connection::{Awaited, Connection, Wanted};
use super::keys::{Draw, Keys, Values};
use super::plan::{Operation, Plan};
use dht::time::Time;

/// How to choose the next key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// At random.
    Drawn,
    /// In the order of the list.
    InTurn,
}

/// Draws requests and writes them to connections.
#[derive(Debug)]
pub(crate) struct Requests<'a> {
    plan: &'a Plan,
    keys: &'a Keys,
    choice: Choice,
    draw: Draw,
    values: Values,
    /// Number of requests so far.
    asked: u64,
    /// Buffer for the value of a PUT.
    value: Vec<u8>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(plan: &'a Plan, keys: &'a Keys, choice: Choice) -> Self {
        let values = Values::new(plan.value_size);
        Self { plan, keys, choice, draw: Draw::new(plan.seed), values, asked: 0, value: Vec::new() }
    }

    /// Number of keys to choose from.
    pub(crate) fn keys_count(&self) -> usize {
        self.keys.count()
    }

    /// Writes the next request, whose latency starts at `since`, to the outbox of `connection`.
    pub(crate) fn ask(&mut self, connection: &mut Connection, since: Time) {
        let at = match self.choice {
            Choice::Drawn => self.draw.below(self.keys.count()),
            Choice::InTurn => usize::try_from(self.asked).unwrap_or(usize::MAX) % self.keys.count(),
        };
        self.asked += 1;
        let plan = self.plan;
        let what = if self.draws_put() {
            let key = self.keys.at(at);
            self.values.write(key, self.asked, &mut self.value);
            plan.protocol.write_put(key, plan.put, &self.value, &mut connection.outbox);
            if plan.protocol.answers_puts(plan.put) { Wanted::Stored } else { Wanted::Nothing }
        } else {
            plan.protocol.write_get(self.keys.at(at), &mut connection.outbox);
            Wanted::Value
        };
        let key = u32::try_from(at).expect("KEYS_MAX is less than 2^32");
        connection.awaited.push_back(Awaited { key, since, what });
    }

    /// Appends a GET of the last key if the last request to `connection` is a PUT without an answer.
    /// The answer to the GET shows when the server has processed the PUTs before it.
    pub(crate) fn seal(&self, connection: &mut Connection) {
        let Some(&Awaited { key, since, what: Wanted::Nothing }) = connection.awaited.back() else {
            return;
        };
        self.plan.protocol.write_get(self.keys.at(key as usize), &mut connection.outbox);
        connection.awaited.push_back(Awaited { key, since, what: Wanted::Marker });
    }

    fn draws_put(&mut self) -> bool {
        match self.plan.operation {
            Operation::Get => false,
            Operation::Put => true,
            Operation::Mix { put_percent } => self.draw.below(100) < usize::from(put_percent),
        }
    }
}
