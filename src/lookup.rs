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
    /// Whether something went otherwise than well: all of `alpha` are asked at a time from then on.
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
            None if self.needed().any(owes) || self.hopes_for_the_tardy() => Step::Wait,
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
        match quickest(rtts) {
            Some(at) => self.ask(at),
            None => {
                self.hurries = true;
                self.step()
            }
        }
    }

    /// Wants answers from the `width` nearest nodes at least.
    pub fn widen(&mut self, width: usize) {
        self.width = self.width.max(width);
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
    pub fn on_lateness(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.tell(at, Event::Lateness);
        }
    }

    /// `from` takes too long for whoever searches: it is passed over, and its answer still counts.
    pub fn on_tardiness(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.hurries = true;
            self.tell(at, Event::Tardiness);
        }
    }

    /// The request to `from` missed its deadline. Another may be asked in its place; should it
    /// answer late, that still counts.
    pub fn on_silence(&mut self, from: &NodeId) {
        if let Some(at) = self.find(from) {
            self.hurries = true;
            self.tell(at, Event::Silence);
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
        self.candidates.iter().filter(|candidate| !candidate.state.is_given_up()).map(|candidate| &candidate.contact)
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

    /// Those who must have answered before the search is done, as far as it knows: the nearest
    /// `width` that are neither given up nor tardy, and where they stand.
    fn needed(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        let out = |state: State| state.is_given_up() || state == State::Tardy;
        self.candidates.iter().enumerate().filter(move |(_, candidate)| !out(candidate.state)).take(self.width)
    }

    /// Whether somebody is tardy whose answer would be one of too few.
    fn hopes_for_the_tardy(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.state == State::Tardy)
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
        self.place_of(&id.key().distance(&self.target)).ok()
    }

    /// Where the candidate at `distance` stands, or would have to be inserted.
    fn place_of(&self, distance: &Distance) -> Result<usize, usize> {
        self.candidates.binary_search_by(|candidate| candidate.distance.cmp(distance))
    }

    /// Makes `contact` a candidate, unless it is one, or is oneself, or is farther away than all
    /// that a full list could forget for it.
    fn add(&mut self, contact: Contact, path: Path) {
        if contact.id == self.me {
            return;
        }
        let distance = contact.id.key().distance(&self.target);
        let Err(at) = self.place_of(&distance) else { return };
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
    for (place, (at, rtt)) in candidates.take(COMPARED_MAX).enumerate() {
        let Some(rtt) = rtt else { break };
        let cost = (1 + rtt.as_nanos() / EQUALLY_QUICK.as_nanos()) << (place / EQUALLY_NEAR);
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, at));
        }
        // Nobody farther away costs less.
        if best.is_some_and(|(least, _)| least <= 1 << ((place + 1) / EQUALLY_NEAR)) {
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
    Tardy,
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
    Lateness,
    Tardiness,
    Silence,
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
        use State::{Answered, Asked, Failed, Fresh, Late, Silent, Tardy};
        match (self, event) {
            (Fresh, Event::Ask) => Asked,
            (Asked | Late | Tardy | Answered | Silent | Failed, Event::Ask) => {
                unreachable!("{self:?}, and asked again")
            }
            (Asked | Late | Tardy | Silent, Event::Answer) => Answered,
            (Asked, Event::Lateness) => Late,
            (Asked | Late, Event::Tardiness) => Tardy,
            (Asked | Late | Tardy, Event::Silence) => Silent,
            // A fresh candidate can fail too: someone else may have found that it is gone.
            (Fresh | Asked | Late | Tardy | Silent, Event::Failure) => Failed,
            // What was not asked can neither answer nor owe one; what is final stays.
            (Fresh, Event::Answer | Event::Lateness | Event::Tardiness | Event::Silence)
            | (Late, Event::Lateness)
            | (Tardy, Event::Lateness | Event::Tardiness)
            | (Silent, Event::Lateness | Event::Tardiness | Event::Silence)
            | (
                Answered | Failed,
                Event::Answer | Event::Lateness | Event::Tardiness | Event::Silence | Event::Failure,
            ) => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    const TARGET: Key = Key::new([0; 32]);

    /// The contact at distance `distance` from [`TARGET`].
    fn at(distance: u16) -> Contact {
        let mut key = [0; 32];
        key[30..].copy_from_slice(&distance.to_be_bytes());
        Contact::new(NodeId::new(Key::new(key)), SocketAddr::from((Ipv4Addr::LOCALHOST, distance)))
    }

    fn id(distance: u16) -> NodeId {
        at(distance).id
    }

    fn me() -> NodeId {
        NodeId::new(Key::new([0xff; 32]))
    }

    fn lookup(width: usize, alpha: usize, start: impl IntoIterator<Item = u16>) -> Lookup {
        Lookup::new(me(), TARGET, width, alpha, &start.into_iter().map(at).collect::<Vec<_>>())
    }

    #[test]
    fn while_an_answer_is_late_another_is_asked_and_it_is_still_waited_for() {
        let mut lookup = lookup(2, 1, [1, 2]);
        assert_eq!(lookup.step(), Step::Ask(at(1)));
        assert_eq!(lookup.step(), Step::Wait);
        lookup.on_lateness(&id(1));
        assert_eq!(lookup.in_flight(), 0);
        assert_eq!(lookup.step(), Step::Ask(at(2)));
        assert!(answer(&mut lookup, 2, []));
        assert_eq!(lookup.step(), Step::Wait, "the nearer one may answer yet");
        assert!(answer(&mut lookup, 1, []));
        assert_eq!(lookup.step(), Step::Done);
    }

    #[test]
    fn as_many_are_asked_as_will_do_while_all_is_well() {
        for enough in 1..=4 {
            let mut lookup = lookup(8, 3, 1..=9);
            assert_eq!(ask_known(&mut lookup, enough, |_| 1), (1..=3).map(at).take(enough).collect::<Vec<_>>());
            assert_eq!(lookup.step_frugally(enough, known(|_| 1)), Step::Wait);
        }
    }

    #[test]
    fn one_that_is_late_makes_room_for_one_and_one_that_fails_for_alpha() {
        let mut lookup = lookup(8, 3, 1..=9);
        assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(1)]);
        lookup.on_lateness(&id(1));
        assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(2)]);
        lookup.on_failure(&id(2));
        assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(3), at(4), at(5)]);
        assert_eq!(lookup.in_flight(), 3);
    }

    #[test]
    fn an_answer_that_names_nobody_nearer_makes_a_search_hurry_and_one_without_contacts_does_not() {
        for (named, asked) in [(vec![], 1), (vec![1], 1), (vec![5, 9], 3)] {
            let mut lookup = lookup(8, 3, 2..=9);
            assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(2)]);
            answer(&mut lookup, 2, named.clone());
            assert_eq!(ask_known(&mut lookup, 1, |_| 1).len(), asked, "{named:?}");
        }
    }

    #[test]
    fn the_quickest_of_the_three_nearest_is_asked_and_of_the_next_three_one_that_is_twice_as_quick() {
        let of = |millis: [u64; 7]| {
            let mut lookup = lookup(8, 3, 1..=7);
            ask_known(&mut lookup, 1, |distance| millis[usize::from(distance) - 1])
        };
        assert_eq!(of([90, 80, 40, 40, 40, 40, 1]), [at(3)]);
        assert_eq!(of([90, 80, 90, 81, 50, 20, 1]), [at(6)]);
        assert_eq!(of([7, 1, 1, 1, 1, 1, 1]), [at(1)], "a few milliseconds say nothing");
    }

    #[test]
    fn one_that_is_not_known_is_never_passed_over() {
        let mut lookup = lookup(8, 3, 1..=7);
        let quickness = |id: &NodeId| known(|_| 50)(id).filter(|_| *id != self::id(2));
        assert_eq!(lookup.step_frugally(2, quickness), Step::Ask(at(1)));
        assert_eq!(lookup.step_frugally(2, quickness), Step::Ask(at(2)));
        assert_eq!(lookup.step_frugally(2, quickness), Step::Ask(at(3)), "it is a reason to hurry");
        assert_eq!(lookup.step_frugally(2, quickness), Step::Wait);
    }

    #[test]
    fn a_tardy_one_is_passed_over_and_waited_for_only_while_too_few_have_answered() {
        let mut lookup = lookup(2, 3, 1..=3);
        assert_eq!(ask_all(&mut lookup), contacts(&[1, 2]));
        lookup.on_tardiness(&id(1));
        assert_eq!(ask_all(&mut lookup), contacts(&[3]));
        lookup.on_silence(&id(3));
        answer(&mut lookup, 2, []);
        assert_eq!(lookup.step(), Step::Wait, "one of two has answered");
        let mut other = lookup.clone();
        answer(&mut other, 3, []);
        assert_eq!(other.step(), Step::Done);
        assert!(answer(&mut lookup, 1, []));
        assert_eq!(lookup.step(), Step::Done);
    }

    #[test]
    fn a_search_that_is_widened_wants_more_answers() {
        let mut lookup = lookup(1, 3, 1..=3);
        assert_eq!(ask_all(&mut lookup), contacts(&[1]));
        lookup.widen(2);
        assert_eq!(ask_all(&mut lookup), contacts(&[2]));
        lookup.widen(1);
        answer(&mut lookup, 1, []);
        assert_eq!(lookup.step(), Step::Wait);
    }

    /// How quick each is, in milliseconds, by its distance.
    fn known(millis: impl Fn(u16) -> u64) -> impl Fn(&NodeId) -> Option<Duration> {
        move |id| {
            (0..100).find(|distance| self::id(*distance) == *id).map(|distance| Duration::from_millis(millis(distance)))
        }
    }

    /// Takes frugal steps until there is nobody to ask; returns who was asked.
    fn ask_known(lookup: &mut Lookup, enough: usize, millis: impl Fn(u16) -> u64 + Copy) -> Vec<Contact> {
        std::iter::from_fn(|| match lookup.step_frugally(enough, known(millis)) {
            Step::Ask(contact) => Some(contact),
            Step::Wait | Step::Done => None,
        })
        .collect()
    }

    fn answer(lookup: &mut Lookup, from: u16, contacts: impl IntoIterator<Item = u16>) -> bool {
        lookup.on_answer(&id(from), contacts.into_iter().map(at))
    }

    /// Takes steps until there is nobody to ask; returns who was asked.
    fn ask_all(lookup: &mut Lookup) -> Vec<Contact> {
        std::iter::from_fn(|| match lookup.step() {
            Step::Ask(contact) => Some(contact),
            Step::Wait | Step::Done => None,
        })
        .collect()
    }

    fn contacts(distances: &[u16]) -> Vec<Contact> {
        distances.iter().copied().map(at).collect()
    }

    fn answered(lookup: &Lookup) -> Vec<Contact> {
        lookup.answered().copied().collect()
    }

    #[test]
    fn a_search_that_knows_nobody_is_done() {
        assert_eq!(lookup(20, 3, []).step(), Step::Done);
    }

    #[test]
    fn far_answers_do_not_end_a_search_while_a_nearer_candidate_is_pending() {
        let mut lookup = lookup(2, 3, [1, 50, 60]);
        assert_eq!(ask_all(&mut lookup), contacts(&[1, 50]), "only the two nearest are needed");
        assert!(answer(&mut lookup, 50, [2, 60]));
        assert_eq!(ask_all(&mut lookup), contacts(&[2]));
        assert_eq!(lookup.step(), Step::Wait, "1 and 2 are pending, whatever 50 said");
        assert!(answer(&mut lookup, 2, []));
        assert_eq!(lookup.step(), Step::Wait, "two have answered, and 1 is nearer than one of them");
        assert!(answer(&mut lookup, 1, []));
        assert_eq!(lookup.step(), Step::Done);
        assert_eq!(answered(&lookup), contacts(&[1, 2, 50]));
    }

    #[test]
    fn a_far_candidate_that_is_pending_does_not_hold_a_search_up() {
        let mut lookup = lookup(1, 2, [90]);
        assert_eq!(ask_all(&mut lookup), contacts(&[90]));
        lookup.add(at(1), Path::START);
        assert_eq!(ask_all(&mut lookup), contacts(&[1]));
        assert!(answer(&mut lookup, 1, []));
        assert_eq!((lookup.step(), lookup.in_flight()), (Step::Done, 1));
    }

    #[test]
    fn a_candidate_beyond_the_nearest_takes_the_place_of_one_that_fails() {
        let mut lookup = lookup(2, 2, [1, 2, 3, 4]);
        assert_eq!(ask_all(&mut lookup), contacts(&[1, 2]));
        lookup.on_failure(&id(1));
        assert_eq!(ask_all(&mut lookup), contacts(&[3]));
        lookup.on_silence(&id(3));
        assert_eq!(ask_all(&mut lookup), contacts(&[4]));
        assert!(answer(&mut lookup, 2, []) && answer(&mut lookup, 4, []));
        assert_eq!(lookup.step(), Step::Done);
        assert_eq!(answered(&lookup), contacts(&[2, 4]));
    }

    #[test]
    fn no_more_than_alpha_are_asked_until_one_answers_fails_or_falls_silent() {
        let mut lookup = lookup(20, 3, 1..=9);
        assert_eq!(ask_all(&mut lookup), contacts(&[1, 2, 3]));
        assert!(answer(&mut lookup, 2, []));
        assert_eq!(ask_all(&mut lookup), contacts(&[4]));
        lookup.on_failure(&id(1));
        assert_eq!(ask_all(&mut lookup), contacts(&[5]));
        lookup.on_silence(&id(3));
        lookup.on_silence(&id(3));
        assert_eq!(ask_all(&mut lookup), contacts(&[6]), "one place is freed, once");
        assert_eq!((lookup.step(), lookup.in_flight(), lookup.asked()), (Step::Wait, 3, 6));
    }

    #[test]
    fn a_late_answer_counts_and_what_it_names_is_asked() {
        let mut lookup = lookup(2, 1, [5, 6]);
        assert_eq!(ask_all(&mut lookup), contacts(&[5]));
        lookup.on_silence(&id(5));
        assert_eq!(ask_all(&mut lookup), contacts(&[6]));
        assert!(answer(&mut lookup, 5, [1]));
        assert_eq!(answered(&lookup), contacts(&[5]));
        assert!(answer(&mut lookup, 6, []));
        assert_eq!(ask_all(&mut lookup), contacts(&[1]));
    }

    #[test]
    fn a_failure_is_final_and_so_is_an_answer() {
        let mut lookup = lookup(2, 2, [1, 2]);
        ask_all(&mut lookup);
        lookup.on_failure(&id(1));
        assert!(!answer(&mut lookup, 1, [7]));
        assert!(answer(&mut lookup, 2, []));
        lookup.on_failure(&id(2));
        lookup.on_silence(&id(2));
        assert!(!answer(&mut lookup, 2, [8]), "it has answered already");
        assert_eq!((lookup.step(), lookup.in_flight()), (Step::Done, 0));
        assert_eq!(answered(&lookup), contacts(&[2]));
    }

    #[test]
    fn who_was_not_asked_is_not_heard() {
        let mut lookup = lookup(1, 1, [3, 4]);
        assert_eq!(ask_all(&mut lookup), contacts(&[3]));
        assert!(!answer(&mut lookup, 9, [1]), "a stranger");
        assert!(!answer(&mut lookup, 4, [1]), "a candidate that was not asked");
        lookup.on_silence(&id(9));
        lookup.on_failure(&id(9));
        assert_eq!((lookup.path_of(&id(1)), lookup.step()), (None, Step::Wait));
    }

    #[test]
    fn a_known_candidate_keeps_the_address_it_was_first_named_with() {
        let mut lookup = lookup(3, 1, [8]);
        ask_all(&mut lookup);
        let elsewhere = |distance| Contact::new(id(distance), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        assert!(lookup.on_answer(&id(8), [at(5), elsewhere(5), elsewhere(8)]));
        assert_eq!(ask_all(&mut lookup), contacts(&[5]));
        assert_eq!(answered(&lookup), contacts(&[8]));
    }

    #[test]
    fn oneself_is_no_candidate() {
        let myself = Contact { id: me(), ..at(1) };
        let mut lookup = Lookup::new(me(), *me().key(), 20, 3, &[myself, at(3)]);
        assert_eq!(ask_all(&mut lookup), contacts(&[3]));
        assert!(lookup.on_answer(&id(3), [myself]));
        assert_eq!(lookup.step(), Step::Done);
    }

    #[test]
    fn one_answer_brings_at_most_the_largest_k() {
        let mut lookup = lookup(CANDIDATES_MAX, CANDIDATES_MAX, [999]);
        ask_all(&mut lookup);
        assert!(answer(&mut lookup, 999, 1..900));
        assert_eq!(ask_all(&mut lookup).len(), K_MAX);
    }

    #[test]
    fn a_candidate_is_one_hop_farther_than_whoever_named_it_first() {
        let mut lookup = lookup(20, 2, [8, 9]);
        ask_all(&mut lookup);
        assert!(answer(&mut lookup, 9, [4]));
        ask_all(&mut lookup);
        assert!(answer(&mut lookup, 4, [2, 8]));
        assert!(answer(&mut lookup, 8, [2]));
        let hops = |distance| lookup.path_of(&id(distance)).map(|path| path.hops);
        assert_eq!([8, 9, 4, 2, 3].map(hops), [Some(1), Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn a_full_list_forgets_its_farthest_fresh_candidate_and_never_one_that_was_asked() {
        let full = u16::try_from(CANDIDATES_MAX).expect("a small bound");
        let start = (1..full).map(|near| 100 + near).chain([999]);
        let mut lookup = lookup(CANDIDATES_MAX, CANDIDATES_MAX - 1, start);
        assert_eq!(ask_all(&mut lookup).len(), CANDIDATES_MAX - 1, "all but the one at 999");

        assert!(answer(&mut lookup, 101, [1000]));
        assert_eq!(lookup.path_of(&id(1000)), None, "farther than all that could give way");
        assert!(answer(&mut lookup, 102, [1]));
        assert_eq!(lookup.path_of(&id(999)), None, "gave way");
        assert!(lookup.path_of(&id(1)).is_some());
        assert_eq!(ask_all(&mut lookup), contacts(&[1]));
        assert!(answer(&mut lookup, 103, [2]));
        assert_eq!(lookup.path_of(&id(2)), None, "all were asked, none can give way");
        assert_eq!(lookup.candidates.len(), CANDIDATES_MAX);
    }

    /// What the world may tell a search, sensible or not.
    #[derive(Clone, Debug)]
    enum Told {
        Answer(u16, Vec<u16>),
        Lateness(u16),
        Silence(u16),
        Failure(u16),
    }

    fn told() -> impl Strategy<Value = Told> {
        let who = || 0..200_u16;
        prop_oneof![
            3 => (who(), proptest::collection::vec(who(), 0..30)).prop_map(|(from, named)| Told::Answer(from, named)),
            1 => who().prop_map(Told::Lateness),
            1 => who().prop_map(Told::Silence),
            1 => who().prop_map(Told::Failure),
        ]
    }

    proptest! {
        /// Whatever a search is told, by anyone and in any order: its list stays sorted, without
        /// doubles and bounded, its parallelism holds, and it asks nobody twice.
        #[test]
        fn the_laws_hold_whatever_a_search_is_told(
            start in proptest::collection::vec(0..200_u16, 0..100),
            width in 1..=K_MAX,
            alpha in 1..=5_usize,
            told in proptest::collection::vec(told(), 0..200),
        ) {
            let mut lookup = lookup(width, alpha, start);
            let mut asked = Vec::new();
            for told in told {
                asked.extend(ask_all(&mut lookup).iter().map(|contact| contact.id));
                match told {
                    Told::Answer(from, named) => {
                        let counts = answer(&mut lookup, from, named);
                        prop_assert!(!counts || asked.contains(&id(from)));
                    }
                    Told::Lateness(from) => lookup.on_lateness(&id(from)),
                    Told::Silence(from) => lookup.on_silence(&id(from)),
                    Told::Failure(from) => lookup.on_failure(&id(from)),
                }
                prop_assert!(lookup.candidates.is_sorted_by(|a, b| a.distance < b.distance));
                prop_assert!(lookup.candidates.len() <= CANDIDATES_MAX);
                let pending = lookup.candidates.iter().filter(|candidate| candidate.state == State::Asked).count();
                prop_assert_eq!(lookup.in_flight(), pending);
                prop_assert!(pending <= alpha);
            }
            prop_assert_eq!(lookup.asked(), asked.len());
            asked.sort_unstable();
            prop_assert!(asked.is_sorted_by(|a, b| a < b), "somebody was asked twice");
        }

        /// A liar that names ever new nodes, each nearer than the last, does not keep a search
        /// going for ever.
        #[test]
        fn a_search_ends_however_many_nearer_nodes_are_invented(alpha in 1..=5_usize, per_answer in 1..=K_MAX) {
            let mut lookup = lookup(K_MAX, alpha, [u16::MAX]);
            let mut invented = (0..u16::MAX).rev();
            while lookup.step() != Step::Done {
                let pending = lookup.candidates.iter().find(|candidate| candidate.state == State::Asked);
                let from = pending.expect("a search that is not done has asked somebody").contact.id;
                lookup.on_answer(&from, invented.by_ref().take(per_answer).map(at));
                prop_assert!(lookup.asked() <= CANDIDATES_MAX);
            }
        }
    }
}
