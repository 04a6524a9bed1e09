//! Runs the lookups of all queries: composes the requests and handles their outcomes.
//!
//! Each outcome is evaluated once. A lookup for GETs evaluates the reply first, because it may end there; only
//! then it asks the next candidates.

use std::ops::RangeInclusive;

use crate::contact::{Contact, Family, is_dialable};
use crate::id::{Key, NodeId};
use crate::lookup::{Lookup, Step};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::Families;
use crate::node::purpose::{Outcome, Purpose, QueryId};
use crate::node::query::Query;
use crate::node::query::read_quorum::Phase;
use crate::node::rpc::outbound::Report;
use crate::node::timers::Timer;
use crate::pending::Passed;
use crate::time::{Now, Time};
use crate::wire::peer::{Content, RecordBlock, Reply, Request, Want};

impl Query {
    /// The candidate `id` of the lookup has not replied yet, or never will.
    fn on_no_reply(&mut self, id: &NodeId, outcome: &Outcome<'_>) {
        let Some(lookup) = self.lookup_mut() else { return };
        match outcome {
            Outcome::Passed(Passed::Hedge) => lookup.on_hedge(id),
            Outcome::Passed(Passed::GiveUp) => lookup.on_give_up(id),
            Outcome::Passed(Passed::Timeout) => lookup.on_timeout(id),
            Outcome::Failed | Outcome::Refused(_) | Outcome::Reply { .. } => lookup.on_failure(id),
        }
        if let Query::Read(read) = self {
            read.quorum.on_no_response(id);
        }
    }
}

/// When the PUT of `record` began: the peer has computed its age after it was asked, at `asked`, and before its answer
/// arrived. The age of a tombstone says nothing.
fn begun_within(asked: Time, arrived: Time, record: &RecordBlock<'_>) -> RangeInclusive<Time> {
    if record.content == Content::Tombstone {
        return Time::ZERO..=Time::ZERO;
    }
    let age = record.age.span();
    asked.earlier(age)..=arrived.earlier(age)
}

impl Node {
    /// A lookup of the `width` nodes nearest to `key`, which starts with contacts of this node.
    pub(crate) fn look_up(&mut self, key: Key, width: usize) -> Lookup {
        self.look_up_in(key, width, None)
    }

    /// The same, among the nodes of one address family if `overlay` names one.
    pub(super) fn look_up_in(&mut self, key: Key, width: usize, overlay: Option<Family>) -> Lookup {
        self.gather_nearest(&key, self.params.k, overlay);
        Lookup::new(self.me.id, key, width, self.params.alpha, &self.nearby)
    }

    /// The request of `query` to the lookup candidate `id`; `None` if the query has ended.
    pub(crate) fn lookup_request(&mut self, query: QueryId, id: &NodeId) -> Option<Request<'static>> {
        Some(match self.queries.find(query)? {
            Query::Get(_) => return None,
            Query::Read(read) => {
                let head_only = !read.quorum.asks_value_of(id);
                let want = Want { contacts: read.quorum.goes_past_replicas(), head_only, ..Want::default() };
                Request::FindValue { key: read.key, want }
            }
            Query::Put(put) => {
                Request::FindValue { key: put.key(), want: Want { contacts: true, head_only: true, ..Want::default() } }
            }
            Query::Maintenance(lookup) => Request::FindNode { target: *lookup.target() },
        })
    }

    /// The request to a candidate has had an outcome.
    pub(crate) fn on_lookup_outcome(&mut self, now: Now, query: QueryId, report: Report<'_>, out: &mut Actions) {
        let peer = report.call.to;
        let Outcome::Reply { reply, address } = report.outcome else {
            return self.on_no_reply(now, query, report, out);
        };
        let (record, contacts, is_tentative) = match reply {
            Reply::Nodes(contacts) => (None, contacts, false),
            Reply::Value { contacts, is_tentative, record } => (Some(record), contacts, is_tentative),
            Reply::Pong
            | Reply::Time(_)
            | Reply::Stored { .. }
            | Reply::Wanted(_)
            | Reply::Synced { .. }
            | Reply::Error(_) => return,
        };
        let is_over = record.is_some_and(|record| self.is_over_here(now, &record));
        match self.queries.find(query) {
            Some(Query::Read(read)) => read.on_reply(now, peer, record.as_ref().filter(|_| !is_over), is_tentative),
            Some(Query::Put(_)) => {
                if let (Some(put), Some(record)) = (self.queries.put(query), record)
                    && record.key == put.key()
                {
                    put.on_head(now, peer.id, record.rank(), begun_within(report.call.since, now.mono, &record));
                }
            }
            Some(Query::Maintenance(_) | Query::Get(_)) => {}
            None => {
                self.on_late_answer(now, peer, record.map(|record| (record.key, record.rank())), out);
                return;
            }
        }
        if self.heard_by_put(now, query, &peer.id, out) {
            return;
        }
        let families = match self.queries.put(query).and_then(|put| put.overlay) {
            Some(family) => Families::of(family),
            None => self.families(),
        };
        let usable = move |contact: &Contact| is_dialable(contact.address, address) && families.reach(contact.address);
        if let Some(lookup) = self.queries.lookup(query) {
            lookup.on_answer(&peer.id, contacts.iter().filter(usable).take(self.params.k));
        }
        self.advance(now, query, out);
    }

    /// The candidate has not replied yet, or never will.
    fn on_no_reply(&mut self, now: Now, query: QueryId, report: Report<'_>, out: &mut Actions) {
        let Report { call, outcome } = report;
        let Some(running) = self.queries.find(query) else { return };
        if matches!(outcome, Outcome::Passed(Passed::GiveUp)) && !matches!(running, Query::Put(_)) {
            return; // a GET waits: the candidate may store the value
        }
        running.on_no_reply(&call.to.id, &outcome);
        let is_late = matches!(outcome, Outcome::Passed(Passed::Hedge | Passed::GiveUp));
        let may_answer = is_late && now.mono < call.begun + self.params.rpc_timeout;
        if may_answer || !self.heard_by_put(now, query, &call.to.id, out) {
            self.advance(now, query, out);
        }
    }

    /// If `query` is a PUT that sends copies already, it continues: `peer` has answered its lookup late, or will not
    /// answer it in time. Returns whether it is one.
    fn heard_by_put(&mut self, now: Now, query: QueryId, peer: &NodeId, out: &mut Actions) -> bool {
        let Some(put) = self.queries.put(query).filter(|put| put.is_spreading()) else { return false };
        put.heard(peer);
        self.advance_put(now, query, out);
        true
    }

    /// Continues a query after an outcome: answers GETs if possible; otherwise its lookup takes the
    /// next steps.
    pub(crate) fn advance(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        self.read_on(now, query, out);
        self.drive(now, query, out);
    }

    /// Takes the next steps of a lookup, until it waits or is done. It also waits if there is no room for another
    /// request: a candidate that was not asked has said nothing.
    fn drive(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        loop {
            if !self.may_call() {
                return self.queries.wait_for_room(query);
            }
            let enough = self.queries.read(query).and_then(|read| read.quorum.replicas_missing());
            let Some(lookup) = self.queries.lookup(query) else { return };
            let step = match enough {
                Some(enough) => lookup.step_frugally(enough, |id| self.peers.smoothed_rtt(id)),
                None => lookup.step(),
            };
            match step {
                Step::Ask(contact) => self.call(now, contact, Purpose::Lookup(query), out),
                Step::Wait => return,
                Step::Done => return self.lookup_done(now, query, out),
            }
        }
    }

    /// Continues the queries that waited for room.
    pub(crate) fn resume_waiting_for_room(&mut self, now: Now, out: &mut Actions) {
        while self.may_call()
            && let Some(query) = self.queries.take_waiting_for_room()
        {
            if self.queries.put(query).is_some_and(|put| put.is_spreading()) {
                self.advance_put(now, query, out);
            } else {
                self.advance(now, query, out);
            }
        }
    }

    fn lookup_done(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        match self.queries.find(query) {
            Some(Query::Read(read)) => {
                read.phase = Phase::LookedUp;
                self.read_on(now, query, out);
            }
            Some(Query::Put(_)) => self.spread_put(now, query, out),
            Some(Query::Maintenance(lookup)) => {
                let (target, answered) = (*lookup.target(), lookup.answered().copied().collect::<Vec<_>>());
                self.end_query(query);
                self.maintenance_done(now, target, &answered, out);
            }
            Some(Query::Get(_)) | None => {}
        }
    }

    /// The pause of a query is over: its next attempt begins.
    pub(crate) fn retry(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        match self.queries.find(query) {
            Some(Query::Put(_)) => self.retry_put(now, query, out),
            Some(Query::Read(_)) => self.look_up_again(now, query, out),
            Some(Query::Get(_) | Query::Maintenance(_)) | None => {}
        }
    }

    /// The time of the request of a client is over: it gets its answer.
    pub(crate) fn answer_in_time(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        match self.queries.find(query) {
            Some(Query::Get(_)) => self.give_up_get(now, query, out),
            Some(Query::Put(_)) => self.put_timed_out(now, query, out),
            Some(Query::Maintenance(_) | Query::Read(_)) | None => {}
        }
    }

    /// Ends a query and its timers. Returns the query, if it was running.
    pub(crate) fn end_query(&mut self, query: QueryId) -> Option<Query> {
        self.timers.cancel(Timer::Answer(query));
        self.timers.cancel(Timer::Retry(query));
        self.queries.remove(query)
    }
}
