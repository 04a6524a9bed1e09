//! Clients: what they ask, and what they were told.

use std::time::Duration;

use super::{Answer, Ask, Request, Wish, World};
use crate::id::Key;
use crate::node::action::ClientId;
use crate::record::{Class, Ttl, crc_of};
use crate::sim::report::Kind;
use crate::sim::{Number, Violation};
use crate::wire::Source;
use crate::wire::api::{ApiRequest, Confirm, Put};
use crate::wire::frame::next_frame;

/// Clients.
impl World {
    /// A client asks the node `at`, and waits.
    ///
    /// # Panics
    ///
    /// If the node does not live, or wants no requests.
    pub fn ask(&mut self, at: Number, request: &ApiRequest<'_>) -> Result<Ask, Violation> {
        let node = self.node(at).expect("clients ask nodes that live");
        assert!(node.wants_requests(), "the host would not read this request");
        let (key, owed, wish) = match request {
            ApiRequest::Put(put) => (put.key, put.confirm == Confirm::Yes, self.enter(put)),
            ApiRequest::Get { key } => (*key, true, Wish::Get),
        };
        let ask = Ask(self.requests.len());
        let life = self.hosts[at.index()].life;
        self.requests.push(Request { at, life, key, wish, since: self.now, owed, answer: None });
        if owed {
            self.owed.push_back(ask);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        request.encode(&mut bytes);
        self.log.add(self.now, Kind::Asked, at, &bytes);
        let frame = next_frame(Source::Module, &bytes);
        let (frame, size) = frame.expect("a request that was encoded").expect("all of it");
        assert_eq!(size, bytes.len(), "one request was encoded");
        let request = ApiRequest::decode(frame).expect("a request that was encoded");
        let client = ClientId { connection: at.0.into(), request: ask.0 as u64 };
        let asked = self.touch(at, |node, now, out| node.on_request(now, client, request, out));
        self.bytes = bytes;
        asked.map(|()| ask)
    }

    /// Enters the value of a PUT into the ledger. What is signed names its life itself, and is not
    /// judged.
    fn enter(&mut self, put: &Put<'_>) -> Wish {
        let params = &self.scenario.params;
        let ttl = Ttl::from_secs(put.ttl).unwrap_or(params.ttl_default).clamp(params.ttl_min, params.ttl_max);
        let default = if put.replication == 0 { params.replication_default } else { put.replication };
        let replication = default.max(params.replication_min);
        let crc = crc_of(put.value);
        if put.class != Class::Signed {
            self.history.put(self.now, put.key, crc, Duration::from_secs(ttl.as_secs().into()));
        }
        Wish::Put { crc, replication }
    }

    /// What the client of `ask` was told, if it was.
    pub fn answer(&self, ask: Ask) -> Option<&Answer> {
        self.requests[ask.0].answer.as_ref()
    }

    /// Goes on until `ask` is answered; FAILURE if its node dies before.
    pub fn await_answer(&mut self, ask: Ask) -> Result<Answer, Violation> {
        loop {
            let request = &self.requests[ask.0];
            if let Some(answer) = &request.answer {
                return Ok(answer.clone());
            }
            assert!(request.owed, "nobody waits for this answer");
            if self.hosts[request.at.index()].life != request.life || !self.step(None)? {
                return Ok(Answer::Failure);
            }
        }
    }

    /// A client asks for a confirmed PUT, with the node's own TTL, and waits for the answer.
    pub fn put(&mut self, at: Number, key: Key, value: &[u8], replication: u8) -> Result<Answer, Violation> {
        let put = Put { ttl: 0, replication, confirm: Confirm::Yes, class: Class::Plain, key, value };
        let ask = self.ask(at, &ApiRequest::Put(put))?;
        self.await_answer(ask)
    }

    /// A client asks for a GET, and waits for the answer.
    pub fn get(&mut self, at: Number, key: Key) -> Result<Answer, Violation> {
        let ask = self.ask(at, &ApiRequest::Get { key })?;
        self.await_answer(ask)
    }
}
