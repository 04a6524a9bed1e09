//! Clients: their requests and the replies.

use std::time::Duration;

use super::{Answer, Operation, Request, RequestId, World};
use crate::id::Key;
use crate::node::action::{ClientId, Taken};
use crate::record::{Class, Ttl, crc_of};
use crate::sim::report::EventKind;
use crate::sim::{Number, Violation};
use crate::wire::Source;
use crate::wire::api::{ApiRequest, Confirm, Put};
use crate::wire::frame::next_frame;

/// Clients.
impl World {
    /// Sends a request of a client to the node `at`. Does not wait for the reply.
    ///
    /// # Panics
    ///
    /// If the node does not run or accepts no requests.
    pub fn ask(&mut self, at: Number, request: &ApiRequest<'_>) -> Result<RequestId, Violation> {
        let node = self.node(at).expect("clients send requests to running nodes");
        assert!(node.wants_requests(), "the host would not read this request");
        let (key, expects_reply, operation) = match request {
            ApiRequest::Put(put) => (put.key, put.confirm == Confirm::Yes, self.record_put(put)),
            ApiRequest::Get { key } => (*key, true, Operation::Get),
        };
        let id = RequestId(self.requests.len());
        let incarnation = self.hosts[at.index()].incarnation;
        let since = self.now;
        self.requests.push(Request { at, incarnation, key, operation, since, expects_reply, answer: None });
        if expects_reply {
            self.unanswered.push_back(id);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        request.encode(&mut bytes);
        self.digest.add(self.now, EventKind::Requested, at, &bytes);
        let frame = next_frame(Source::Module, &bytes);
        let (frame, size) = frame.expect("an encoded request").expect("a complete frame");
        assert_eq!(size, bytes.len(), "one request was encoded");
        let request = ApiRequest::decode(frame).expect("an encoded request");
        let client = ClientId { connection: id.0 as u64, request: id.0 as u64 };
        let called = self.call(at, |node, now, out| {
            let taken = node.on_request(now, client, request, out);
            assert_ne!(taken, Taken::NoRoom, "the host would pass this request on later");
        });
        self.bytes = bytes;
        called.map(|()| id)
    }

    /// Records the value of a PUT in the history. Signed values contain their TTL and are not checked.
    fn record_put(&mut self, put: &Put<'_>) -> Operation {
        let params = &self.scenario.params;
        let ttl = Ttl::from_secs(put.ttl).unwrap_or(params.ttl_default).clamp(params.ttl_min, params.ttl_max);
        let default = if put.replication == 0 { params.replication_default } else { put.replication };
        let replication = default.max(params.replication_min);
        let crc = crc_of(put.value);
        if put.class != Class::Signed {
            self.history.put(self.now, put.key, crc, Duration::from_secs(ttl.as_secs().into()));
        }
        Operation::Put { crc, replication }
    }

    /// The reply to the request `id`, if there is one.
    pub fn answer(&self, id: RequestId) -> Option<&Answer> {
        self.requests[id.0].answer.as_ref()
    }

    /// Runs until the request `id` is answered. The result is FAILURE if its node stops before.
    pub fn await_answer(&mut self, id: RequestId) -> Result<Answer, Violation> {
        loop {
            let request = &self.requests[id.0];
            if let Some(answer) = &request.answer {
                return Ok(answer.clone());
            }
            assert!(request.expects_reply, "this request gets no reply");
            if self.hosts[request.at.index()].incarnation != request.incarnation || !self.step(None)? {
                return Ok(Answer::Failure);
            }
        }
    }

    /// Sends a confirmed PUT with the node's default TTL, and runs until it is answered.
    pub fn put(&mut self, at: Number, key: Key, value: &[u8], replication: u8) -> Result<Answer, Violation> {
        let put = Put { ttl: 0, replication, confirm: Confirm::Yes, class: Class::Plain, key, value };
        let id = self.ask(at, &ApiRequest::Put(put))?;
        self.await_answer(id)
    }

    /// Sends a GET, and runs until it is answered.
    pub fn get(&mut self, at: Number, key: Key) -> Result<Answer, Violation> {
        let id = self.ask(at, &ApiRequest::Get { key })?;
        self.await_answer(id)
    }
}
