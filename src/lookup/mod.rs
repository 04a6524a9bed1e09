//! One iterative search for the nodes nearest to a key (Kademlia, section 2.3).
//!
//! A [`Lookup`] answers one question, [`Lookup::step`]: whom to ask next, wait, or done? It sends
//! nothing, knows no clock, no RPC ids and no values; whoever drives it does, and reports back
//! what became of each request: an answer, silence, or failure.
//!
//! The laws it keeps, whatever the answers say and in whatever order they come:
//!
//! * It is done only when the nearest `width` candidates that have not failed or fallen silent
//!   have all answered. Answers from afar never end it while a nearer candidate is pending.
//! * No more than `alpha` requests are under way, but for those that are late: others are asked in
//!   their place meanwhile, and still they are waited for.
//! * Whoever takes too long for it is passed over: another is asked beyond the nearest `width`, and
//!   the search may be done once `width` others have answered. As long as they have not, even such a
//!   one is waited for until it is silent.
//! * Whoever knows how many answers would do asks for no more than these ([`Lookup::step_frugally`]),
//!   as long as all goes well: until somebody is silent or fails, who is asked is not known to be
//!   quick, or an answer names nobody nearer. Who is asked, and what it takes to be done, is the
//!   same: only the order is another, among candidates that are about as near.
//! * Nobody is asked twice, and oneself never. Those who were asked are never forgotten, so a
//!   search asks at most [`CANDIDATES_MAX`] nodes and always ends.
//! * Candidates beyond the nearest `width` are kept, for nearer ones may fail.
//! * A known candidate keeps the address that it was first named with: whoever names it again
//!   cannot send the search elsewhere.
//!
//! Each candidate carries the [`Path`] that led to it. There is one path today.

use std::time::Duration;

use crate::contact::Contact;
use crate::id::{Distance, Key, NodeId};
use crate::limits::{CANDIDATES_MAX, K_MAX};

/// So many candidates in a row count as equally near: the quickest of them is asked first. The next
/// so many are about twice as far away, and must be twice as quick.
const EQUALLY_NEAR: usize = 3;

/// Candidates that are compared by how quick they are: fewer than hold a record as a rule, so that
/// the quickest of them has what the nearest has.
const COMPARED_MAX: usize = 2 * EQUALLY_NEAR;

/// Round trip times within one such step are equally quick: what lies between two machines differs
/// by more, what a busy one adds by less.
const EQUALLY_QUICK: Duration = Duration::from_millis(8);

/// What a lookup wants done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this candidate, and take another step: there may be more to ask.
    Ask(Contact),
    /// Nothing until one of those who were asked has answered, or is given up.
    Wait,
    /// Nothing any more: [`Lookup::answered`] has the result.
    Done,
}

/// How a search came upon a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Which of the search's paths it was found on.
    pub number: u8,
    /// How many hops it is from us along that path: 1 for those we knew at the start.
    pub hops: u8,
}

// A hop needs an answer, and nobody answers twice: no path has more hops than this.
const _: () = assert!(CANDIDATES_MAX < u8::MAX as usize);

impl Path {
    /// The path of those whom we know without asking.
    const START: Path = Path { number: 0, hops: 1 };

    /// The path to those whom a candidate on this one names.
    fn onward(self) -> Path {
        Path { number: self.number, hops: self.hops + 1 }
    }
}

/// One iterative search.
#[derive(Clone, Debug)]
pub struct Lookup {
    me: NodeId,
    target: Key,
    width: usize,
    alpha: usize,
    /// Nearest first; no two at one distance, for no two have one id.
    candidates: Vec<Candidate>,
    in_flight: usize,
    asked: usize,
    /// Whether something went otherwise than well: all of `alpha` are asked at a time.
    hurries: bool,
}

impl Lookup {
    /// A search for `target` by the node `me` that begins with `start`, in any order.
    ///
    /// It wants answers from the `width` nearest nodes (k; fewer where fewer will do) and has
    /// up to `alpha` requests under way.
    ///
    /// # Panics
    ///
    /// If `width` or `alpha` is zero: such a search would never ask anybody.
    pub fn new(me: NodeId, target: Key, width: usize, alpha: usize, start: &[Contact]) -> Self {
        assert!(width > 0, "a search wants an answer");
        assert!(alpha > 0, "a search asks somebody");
        let candidates = Vec::with_capacity(start.len().min(CANDIDATES_MAX));
        let mut lookup = Self { me, target, width, alpha, candidates, in_flight: 0, asked: 0, hurries: false };
        for contact in start {
            lookup.add(*contact, Path::START);
        }
        lookup
    }

    /// The key that is searched.
    pub fn target(&self) -> &Key {
        &self.target
    }

    /// The next thing to do. A candidate that this returns counts as asked from now on.
    ///
    /// Asked next is the nearest fresh one of the `width` nearest that are not given up; so the
    /// search turns to nearer nodes as soon as it hears of them (Kademlia, section 2.3).
    pub fn step(&mut self) -> Step {
        let owes = |(_, candidate): (usize, &Candidate)| matches!(candidate.state, State::Asked | State::Late);
        let next = self.fresh().next();
        match next {
            Some(at) if self.in_flight < self.alpha => self.ask(at),
            Some(_) => Step::Wait,
            None if self.needed().any(owes) || self.may_need_given_up() => Step::Wait,
            None => Step::Done,
        }
    }

    /// The next thing to do, if `enough` more answers may well end the search before it is done, and
    /// `quickness` says what an answer of those takes that are known.
    ///
    /// As long as all goes well no more than `enough` requests are under way, though one at least;
    /// and of candidates that are about as near the quickest is asked first. One that is not known
    /// is never passed over: it is a reason to hurry.
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

    /// What is searched was found somewhere: all goes well again, and there is no hurry.
    pub fn calm_down(&mut self) {
        self.hurries = false;
    }

    /// `from` answered and named `contacts`, of which the first [`K_MAX`] are heard; a candidate
    /// that had fallen silent may still do so.
    ///
    /// Returns whether the answer counts. It does not if `from` is no candidate, was never
    /// asked, has failed, or has answered before; what it named is then ignored.
    pub fn on_answer(&mut self, from: &NodeId, contacts: impl IntoIterator<Item = Contact>) -> bool {
        let Some(at) = self.find(from) else { return false };
        if !self.tell(at, Event::Answer) {
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

    /// `from` takes longer than most: another may be asked meanwhile. Its answer is still waited for.
    pub fn on_hedge(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.tell(at, Event::Hedge);
        }
    }

    /// `from` takes too long for whoever searches: it is passed over, and its answer still counts.
    pub fn on_give_up(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.hurries = true;
            self.tell(at, Event::GiveUp);
        }
    }

    /// The request to `from` missed its deadline. Another may be asked in its place; should it
    /// answer late, that still counts.
    pub fn on_timeout(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.hurries = true;
            self.tell(at, Event::Timeout);
        }
    }

    /// `from` can never answer: it could not be dialled, refused, or is gone. Another takes its
    /// place, for good.
    pub fn on_failure(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.hurries = true;
            self.tell(at, Event::Failure);
        }
    }

    /// The candidates that have answered, nearest first; there may be more than `width`.
    pub fn answered(&self) -> impl Iterator<Item = &Contact> {
        self.candidates
            .iter()
            .filter(|candidate| candidate.state == State::Answered)
            .map(|candidate| &candidate.contact)
    }

    /// The candidates that were not given up, nearest first, whether or not they were asked.
    pub fn nearest(&self) -> impl Iterator<Item = &Contact> {
        self.hopeful().map(|candidate| &candidate.contact)
    }

    /// Those of the nearest `width` candidates that were not given up, nearest first, who were never
    /// asked: a search that wants fewer answers is done without them.
    pub fn unasked(&self, width: usize) -> impl Iterator<Item = &Contact> {
        let nearest = self.hopeful().take(width);
        nearest.filter(|candidate| candidate.state == State::Fresh).map(|candidate| &candidate.contact)
    }

    /// Requests under way, at most alpha: those without an answer that are neither late nor worse.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Candidates asked since the search began, at most [`CANDIDATES_MAX`].
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// How the search came upon `id`; `None` if it is no candidate.
    pub fn path_of(&self, id: &NodeId) -> Option<Path> {
        self.find(id).map(|at| self.candidates[at].path)
    }

    /// The candidates that were not given up, nearest first.
    fn hopeful(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| !candidate.state.is_given_up())
    }

    /// Those who must have answered before the search is done, as far as it knows: the nearest
    /// `width` that are neither given up nor tardy, and where they stand.
    fn needed(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        let out = |state: State| state.is_given_up() || state == State::GivenUp;
        self.candidates.iter().enumerate().filter(move |(_, candidate)| !out(candidate.state)).take(self.width)
    }

    /// Whether somebody is tardy whose answer would be one of too few.
    fn may_need_given_up(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.state == State::GivenUp)
            && self.answered().take(self.width).count() < self.width
    }

    /// Where those of them stand that were not asked.
    fn fresh(&self) -> impl Iterator<Item = usize> {
        self.needed().filter(|(_, candidate)| candidate.state == State::Fresh).map(|(at, _)| at)
    }

    /// Asks the candidate at `at`.
    fn ask(&mut self, at: usize) -> Step {
        self.tell(at, Event::Ask);
        self.asked += 1;
        Step::Ask(self.candidates[at].contact)
    }

    /// Where the candidate `id` stands.
    fn find(&self, id: &NodeId) -> Option<usize> {
        self.index_of(&id.key().distance(&self.target)).ok()
    }

    /// Where the candidate at `distance` stands, or would have to be inserted.
    fn index_of(&self, distance: &Distance) -> Result<usize, usize> {
        self.candidates.binary_search_by(|candidate| candidate.distance.cmp(distance))
    }

    /// Makes `contact` a candidate, unless it is one, or is oneself, or is farther away than all
    /// that a full list could forget for it.
    fn add(&mut self, contact: Contact, path: Path) {
        if contact.id == self.me {
            return;
        }
        let distance = contact.id.key().distance(&self.target);
        let Err(at) = self.index_of(&distance) else { return };
        if self.candidates.len() == CANDIDATES_MAX {
            // Whoever was asked stays: forgotten, it could be named and asked again.
            match self.candidates.iter().rposition(|candidate| candidate.state == State::Fresh) {
                Some(farthest) if farthest >= at => self.candidates.remove(farthest),
                Some(_) | None => return,
            };
        }
        self.candidates.insert(at, Candidate { distance, contact, path, state: State::Fresh });
    }

    /// Tells the candidate at `at` what happened to it; returns whether that changed anything.
    fn tell(&mut self, at: usize, event: Event) -> bool {
        let before = self.candidates[at].state;
        let after = before.on(event);
        self.candidates[at].state = after;
        self.in_flight += usize::from(after == State::Asked);
        self.in_flight -= usize::from(before == State::Asked);
        before != after
    }
}

/// Which of the candidates, nearest first, is to be asked for being quick; `None` if the nearest is
/// not known.
fn quickest(candidates: impl Iterator<Item = (usize, Option<Duration>)>) -> Option<usize> {
    let mut best = None;
    for (index, (at, rtt)) in candidates.take(COMPARED_MAX).enumerate() {
        let Some(rtt) = rtt else { break };
        let cost = (1 + rtt.as_nanos() / EQUALLY_QUICK.as_nanos()) << (index / EQUALLY_NEAR);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, at));
        }
        // Nobody farther away costs less.
        if best.is_some_and(|(least, _)| least <= 1 << ((index + 1) / EQUALLY_NEAR)) {
            break;
        }
    }
    best.map(|(_, at)| at)
}

/// A node that may be among the nearest.
#[derive(Clone, Debug)]
struct Candidate {
    /// To the target; computed once.
    distance: Distance,
    contact: Contact,
    path: Path,
    state: State,
}

/// What a lookup knows of one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Named, never asked. Every candidate starts here.
    Fresh,
    /// Asked, no answer yet.
    Asked,
    /// Asked, and no answer for longer than most take.
    Late,
    /// Late, and too late for whoever searches; its answer still counts.
    GivenUp,
    /// Answered. Final.
    Answered,
    /// Missed its deadline; a late answer still counts.
    Silent,
    /// Will never answer. Final.
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
    /// Whether nothing is waited for any more.
    fn is_given_up(self) -> bool {
        matches!(self, State::Silent | State::Failed)
    }

    /// The only place where a candidate changes state.
    #[must_use]
    fn on(self, event: Event) -> Self {
        use State::{Answered, Asked, Failed, Fresh, GivenUp, Late, Silent};
        match (self, event) {
            (Fresh, Event::Ask) => Asked,
            (Asked | Late | GivenUp | Answered | Silent | Failed, Event::Ask) => {
                unreachable!("{self:?}, and asked again")
            }
            (Asked | Late | GivenUp | Silent, Event::Answer) => Answered,
            (Asked, Event::Hedge) => Late,
            (Asked | Late, Event::GiveUp) => GivenUp,
            (Asked | Late | GivenUp, Event::Timeout) => Silent,
            // A fresh candidate can fail too: someone else may have found that it is gone.
            (Fresh | Asked | Late | GivenUp | Silent, Event::Failure) => Failed,
            // What was not asked can neither answer nor owe one; what is final stays.
            (Fresh, Event::Answer | Event::Hedge | Event::GiveUp | Event::Timeout)
            | (Late, Event::Hedge)
            | (GivenUp, Event::Hedge | Event::GiveUp)
            | (Silent, Event::Hedge | Event::GiveUp | Event::Timeout)
            | (Answered | Failed, Event::Answer | Event::Hedge | Event::GiveUp | Event::Timeout | Event::Failure) => {
                self
            }
        }
    }
}

#[cfg(test)]
mod tests;
