//! One iterative lookup of the nodes closest to a key (Kademlia, section 2.3).
//!
//! A [`Lookup`] answers one question, [`Lookup::step`]: ask which candidate next, wait, or done? It sends
//! nothing and knows neither clocks nor RPC ids nor values. Its *driver* sends the requests and reports the
//! outcome of each: an answer, a deadline that has passed, or a failure.
//!
//! A candidate is *unresponsive* if its request has timed out or failed. It is *given up* if its answer is
//! overdue, but may still come before the timeout.
//!
//! Rules, for all reports in any order:
//!
//! * The lookup is done only when the closest `width` candidates have all answered; unresponsive ones and
//!   those given up do not count among them. Answers of far candidates never end it while a closer one owes
//!   its answer.
//! * At most `alpha` requests are in flight. A request whose answer is late ([`Lookup::on_hedge`]) leaves
//!   this count, so another candidate is asked meanwhile; its answer is still awaited. That candidate may be one
//!   beyond the closest `width`: so the last few answers do not wait for one timeout after the other.
//! * An overdue candidate ([`Lookup::on_give_up`]) no longer blocks termination: the next one is asked, and
//!   the lookup may finish with `width` other answers. While there are fewer, it waits for that candidate
//!   until the timeout.
//! * A driver that knows how many answers suffice uses [`Lookup::step_frugally`], which has no more
//!   requests than that in flight. It returns to `alpha` requests, the lookup *hurries*, when a candidate
//!   is overdue or unresponsive, when the round-trip time of the next candidate is unknown, or when an
//!   answer names no candidate closer than those known. The same candidates are needed in both modes; only
//!   the order differs, among candidates of about the same distance.
//! * No node is asked twice, and the own node never. A candidate that was asked is not forgotten, so a
//!   lookup asks at most [`CANDIDATES_MAX`] nodes and always ends.
//! * Candidates beyond the closest `width` are remembered, because closer ones may fail.
//! * A candidate keeps the address with which it was first named, so a later answer cannot redirect the
//!   lookup.
//!
//! Each candidate has the [`Path`] on which it was found. Today every lookup has one path.

use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Distance, Key, NodeId};
use crate::limits::{CANDIDATES_MAX, K_MAX};

/// This many candidates in a row count as equally close, and the one with the shortest round-trip time is
/// asked first. The next group is about twice as far away; a candidate in it must be twice as quick to be
/// preferred.
const EQUALLY_NEAR: usize = 3;

/// Candidates whose round-trip times are compared. They are fewer than the usual number of replicas, so the
/// quickest of them stores what the closest one stores.
const COMPARED_MAX: usize = 2 * EQUALLY_NEAR;

/// Round-trip times that differ by less than this step count as equal. The distance between machines makes
/// a larger difference, a busy machine a smaller one.
const EQUALLY_QUICK: Duration = Duration::from_millis(8);

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this candidate, and then take another step, which may ask another one.
    Ask(Contact),
    /// Wait until a request gets its answer, misses a deadline or fails.
    Wait,
    /// The lookup has ended; [`Lookup::answered`] is its result.
    Done,
}

/// How a lookup found a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The number of the path.
    pub number: u8,
    /// Hops from this node along the path; 1 for contacts that were known at the start.
    pub hops: u8,
}

// Each hop needs an answer of another candidate, so a path has at most as many hops as there are
// candidates.
const _: () = assert!(CANDIDATES_MAX < u8::MAX as usize);

impl Path {
    /// The path of the contacts that are known at the start.
    const START: Path = Path { number: 0, hops: 1 };

    /// The path of the contacts that a candidate on this path names.
    fn onward(self) -> Path {
        Path { number: self.number, hops: self.hops + 1 }
    }
}

/// One iterative lookup.
#[derive(Clone, Debug)]
pub struct Lookup {
    me: NodeId,
    target: Key,
    width: usize,
    alpha: usize,
    /// The closest first. Distances are unique, because ids are.
    candidates: Vec<Candidate>,
    in_flight: usize,
    asked: usize,
    /// Whether [`Lookup::step_frugally`] may have `alpha` requests in flight.
    hurries: bool,
}

impl Lookup {
    /// A lookup of `target` by the node `me` that starts from the contacts `start`, in any order.
    ///
    /// It needs the answers of the closest `width` nodes, which is k, or less if fewer answers suffice. At
    /// most `alpha` requests are in flight.
    ///
    /// # Panics
    ///
    /// If `width` or `alpha` is 0.
    pub fn new(me: NodeId, target: Key, width: usize, alpha: usize, start: &[Contact]) -> Self {
        assert!(width > 0, "a lookup needs an answer");
        assert!(alpha > 0, "a lookup asks a candidate");
        let candidates = Vec::with_capacity(start.len().min(CANDIDATES_MAX));
        let mut lookup = Self { me, target, width, alpha, candidates, in_flight: 0, asked: 0, hurries: false };
        for contact in start {
            lookup.add(*contact, Path::START);
        }
        lookup
    }

    /// The key that is looked up.
    pub fn target(&self) -> &Key {
        &self.target
    }

    /// The next step. The lookup counts a candidate that this returns as asked.
    ///
    /// Of the closest `width` candidates that are neither late nor unresponsive, the closest one that was not
    /// asked comes next. So the lookup turns to closer nodes as soon as it knows them (Kademlia, section 2.3).
    pub fn step(&mut self) -> Step {
        let owes = |(_, candidate): (usize, &Candidate)| matches!(candidate.state, State::InFlight | State::Hedged);
        let next = self.fresh().next();
        match next {
            Some(at) if self.in_flight < self.alpha => self.ask(at),
            Some(_) => Step::Wait,
            None if self.needed().any(owes) || self.may_need_given_up() => Step::Wait,
            None => Step::Done,
        }
    }

    /// The next step, for a driver that probably needs only `enough` more answers and knows the round-trip
    /// times of some candidates by `quickness`.
    ///
    /// Until the lookup hurries, at most `enough` requests are in flight, but at least one may be; of
    /// candidates of about the same distance the quickest is asked first. A candidate with an unknown
    /// round-trip time is never skipped: when it is the next one, the lookup hurries.
    pub fn step_frugally(&mut self, enough: usize, quickness: impl Fn(&NodeId) -> Option<Duration>) -> Step {
        if self.hurries || self.fresh().next().is_none() {
            return self.step();
        }
        if self.in_flight >= enough.clamp(1, self.alpha) {
            return Step::Wait;
        }
        let rtts = self.fresh().map(|at| (at, quickness(&self.candidates[at].contact.id)));
        if let Some(at) = quickest(rtts) {
            return self.ask(at);
        }
        self.hurries = true;
        self.step()
    }

    /// The lookup no longer hurries. The driver calls this when it has found a replica, so that the
    /// remaining answers may come one by one.
    pub fn calm_down(&mut self) {
        self.hurries = false;
    }

    /// `from` has answered and named `contacts`, of which the first [`K_MAX`] are used. The answer counts
    /// even after the timeout.
    ///
    /// Returns whether the answer counts. It does not, and its contacts are ignored, if `from` is no
    /// candidate, was never asked, has failed, or has answered before.
    pub fn on_answer(&mut self, from: &NodeId, contacts: impl IntoIterator<Item = Contact>) -> bool {
        let Some(at) = self.find(from) else { return false };
        if !self.apply(at, Event::Answer) {
            return false;
        }
        let onward = self.candidates[at].path.onward();
        let nearest = self.candidates[0].distance;
        let mut named = false;
        for contact in contacts.into_iter().take(K_MAX) {
            named = true;
            self.add(contact, onward);
        }
        self.hurries |= named && self.candidates[0].distance == nearest;
        true
    }

    /// The answer of `from` is late: another candidate may be asked meanwhile, and the answer is still
    /// awaited.
    pub fn on_hedge(&mut self, from: &NodeId) {
        self.report(from, Event::Hedge);
    }

    /// The answer of `from` is overdue: the lookup may finish without it, but the answer still counts.
    pub fn on_give_up(&mut self, from: &NodeId) {
        self.report(from, Event::GiveUp);
    }

    /// The request to `from` has timed out: another candidate takes its place. A late answer still counts.
    pub fn on_timeout(&mut self, from: &NodeId) {
        self.report(from, Event::Timeout);
    }

    /// `from` cannot answer, because it could not be dialled, has refused, or is gone: another candidate
    /// takes its place, and no later answer counts.
    pub fn on_failure(&mut self, from: &NodeId) {
        self.report(from, Event::Failure);
    }

    /// The candidates that have answered, the closest first; perhaps more than `width`.
    pub fn answered(&self) -> impl Iterator<Item = &Contact> {
        self.candidates
            .iter()
            .filter(|candidate| candidate.state == State::Answered)
            .map(|candidate| &candidate.contact)
    }

    /// The candidates that are not unresponsive, the closest first, asked or not.
    pub fn nearest(&self) -> impl Iterator<Item = &Contact> {
        self.responsive().map(|candidate| &candidate.contact)
    }

    /// Of the closest `width` candidates that are not unresponsive, those that were never asked, the
    /// closest first. A lookup that needed fewer answers has ended without them.
    pub fn unasked(&self, width: usize) -> impl Iterator<Item = &Contact> {
        let nearest = self.responsive().take(width);
        nearest.filter(|candidate| candidate.state == State::Fresh).map(|candidate| &candidate.contact)
    }

    /// Of the closest `width` candidates that are not unresponsive, those whose answer is overdue or late, and may still
    /// come before the timeout. The lookup may have ended without them.
    pub fn overdue(&self, width: usize) -> impl Iterator<Item = &Contact> {
        let owes = |state| matches!(state, State::InFlight | State::Hedged | State::GivenUp);
        let nearest = self.responsive().take(width);
        nearest.filter(move |candidate| owes(candidate.state)).map(|candidate| &candidate.contact)
    }

    /// Requests in flight, at most `alpha`: those without an answer of which no deadline has passed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Candidates asked since the start of the lookup, at most [`CANDIDATES_MAX`].
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Candidates that were asked and have not answered in time. They may store anything.
    pub fn silent(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.state == State::TimedOut).count()
    }

    /// The path on which `id` was found; `None` if it is no candidate.
    pub fn path_of(&self, id: &NodeId) -> Option<Path> {
        self.find(id).map(|at| self.candidates[at].path)
    }

    /// The candidates that are not unresponsive, the closest first.
    fn responsive(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| !candidate.state.is_unresponsive())
    }

    /// The candidates that must have answered before the lookup is done, with their indexes: the closest
    /// `width` that are neither unresponsive nor given up.
    fn needed(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        let out = |state: State| state.is_unresponsive() || state == State::GivenUp;
        self.candidates.iter().enumerate().filter(move |(_, candidate)| !out(candidate.state)).take(self.width)
    }

    /// Whether a candidate was given up whose answer is needed, because fewer than `width` have answered.
    fn may_need_given_up(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.state == State::GivenUp)
            && self.answered().take(self.width).count() < self.width
    }

    /// The indexes of the candidates to ask: those not asked among the closest `width` that have answered or are
    /// expected to answer in time. So one that is late lets another one be asked.
    fn fresh(&self) -> impl Iterator<Item = usize> {
        let expected = |state: State| matches!(state, State::Fresh | State::InFlight | State::Answered);
        let closest = self.candidates.iter().enumerate().filter(move |(_, candidate)| expected(candidate.state));
        closest.take(self.width).filter(|(_, candidate)| candidate.state == State::Fresh).map(|(at, _)| at)
    }

    /// Asks the candidate at `at`.
    fn ask(&mut self, at: usize) -> Step {
        self.apply(at, Event::Ask);
        self.asked += 1;
        Step::Ask(self.candidates[at].contact)
    }

    /// Notes what happened to the request to `from`, if that is a candidate.
    fn report(&mut self, from: &NodeId, event: Event) {
        if let Some(at) = self.find(from) {
            self.hurries |= !matches!(event, Event::Hedge);
            self.apply(at, event);
        }
    }

    /// The index of the candidate `id`.
    fn find(&self, id: &NodeId) -> Option<usize> {
        self.index_of(&id.key().distance(&self.target)).ok()
    }

    /// The index of the candidate at `distance`, or the index at which it has to be inserted.
    fn index_of(&self, distance: &Distance) -> Result<usize, usize> {
        self.candidates.binary_search_by(|candidate| candidate.distance.cmp(distance))
    }

    /// Adds `contact`, unless it is a candidate already or this node. A full list drops its farthest
    /// candidate that was not asked, if that one is farther away.
    fn add(&mut self, contact: Contact, path: Path) {
        if contact.id == self.me {
            return;
        }
        let distance = contact.id.key().distance(&self.target);
        let Err(at) = self.index_of(&distance) else { return };
        if self.candidates.len() == CANDIDATES_MAX {
            // A candidate that was asked stays: if it were forgotten, it could be named and asked again.
            match self.candidates.iter().rposition(|candidate| candidate.state == State::Fresh) {
                Some(farthest) if farthest >= at => self.candidates.remove(farthest),
                Some(_) | None => return,
            };
        }
        self.candidates.insert(at, Candidate { distance, contact, path, state: State::Fresh });
    }

    /// Changes the state of the candidate at `at`; returns whether that made a difference.
    fn apply(&mut self, at: usize, event: Event) -> bool {
        let before = self.candidates[at].state;
        let after = before.on(event);
        self.candidates[at].state = after;
        self.in_flight += usize::from(after == State::InFlight);
        self.in_flight -= usize::from(before == State::InFlight);
        before != after
    }
}

/// The candidate to be asked because it is quick; `None` if the round-trip time of the first one is
/// unknown. `candidates` are the indexes with the round-trip times, the closest candidate first.
fn quickest(candidates: impl Iterator<Item = (usize, Option<Duration>)>) -> Option<usize> {
    let mut best = None;
    for (index, (at, rtt)) in candidates.take(COMPARED_MAX).enumerate() {
        let Some(rtt) = rtt else { break };
        let cost = (1 + rtt.as_nanos() / EQUALLY_QUICK.as_nanos()) << (index / EQUALLY_NEAR);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, at));
        }
        // No candidate of a later group costs less.
        if best.is_some_and(|(least, _)| least <= 1 << ((index + 1) / EQUALLY_NEAR)) {
            break;
        }
    }
    best.map(|(_, at)| at)
}

/// A node that may be one of the closest.
#[derive(Clone, Debug)]
struct Candidate {
    /// The distance to the target.
    distance: Distance,
    contact: Contact,
    path: Path,
    state: State,
}

/// What the lookup knows of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not asked. Every candidate starts in this state.
    Fresh,
    /// Asked; no deadline has passed.
    InFlight,
    /// Asked; the answer is later than usual, and is awaited.
    Hedged,
    /// Asked; the answer is overdue, and the lookup may finish without it.
    GivenUp,
    /// Has answered. Final.
    Answered,
    /// The request has timed out. A late answer still counts.
    TimedOut,
    /// Cannot answer. Final.
    Failed,
}

/// What can happen to a candidate.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ask,
    Answer,
    Hedge,
    GiveUp,
    Timeout,
    Failure,
}

impl State {
    /// Whether the lookup does without this candidate: its request has timed out or failed.
    fn is_unresponsive(self) -> bool {
        matches!(self, State::TimedOut | State::Failed)
    }

    /// The only function that changes the state of a candidate.
    #[must_use]
    fn on(self, event: Event) -> Self {
        use State::{Answered, Failed, Fresh, GivenUp, Hedged, InFlight, TimedOut};
        match (self, event) {
            (Fresh, Event::Ask) => InFlight,
            (InFlight | Hedged | GivenUp | Answered | TimedOut | Failed, Event::Ask) => {
                unreachable!("{self:?}, and asked again")
            }
            (InFlight | Hedged | GivenUp | TimedOut, Event::Answer) => Answered,
            (InFlight, Event::Hedge) => Hedged,
            (InFlight | Hedged, Event::GiveUp) => GivenUp,
            (InFlight | Hedged | GivenUp, Event::Timeout) => TimedOut,
            // A candidate that was not asked can fail too: another query may have found that it is gone.
            (Fresh | InFlight | Hedged | GivenUp | TimedOut, Event::Failure) => Failed,
            // A candidate that was not asked cannot answer or be late; final states stay.
            (Fresh, Event::Answer | Event::Hedge | Event::GiveUp | Event::Timeout)
            | (Hedged, Event::Hedge)
            | (GivenUp, Event::Hedge | Event::GiveUp)
            | (TimedOut, Event::Hedge | Event::GiveUp | Event::Timeout)
            | (Answered | Failed, Event::Answer | Event::Hedge | Event::GiveUp | Event::Timeout | Event::Failure) => {
                self
            }
        }
    }
}

#[cfg(test)]
mod tests;
