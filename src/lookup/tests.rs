//! Tests of [`Lookup`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;

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
fn a_late_answer_is_awaited_while_another_candidate_is_asked() {
    let mut lookup = lookup(2, 1, [1, 2]);
    assert_eq!(lookup.step(), Step::Ask(at(1)));
    assert_eq!(lookup.step(), Step::Wait);
    lookup.on_hedge(&id(1));
    assert_eq!(lookup.in_flight(), 0);
    assert_eq!(lookup.step(), Step::Ask(at(2)));
    assert!(answer(&mut lookup, 2, []));
    assert_eq!(lookup.step(), Step::Wait, "the nearer one may answer yet");
    assert!(answer(&mut lookup, 1, []));
    assert_eq!(lookup.step(), Step::Done);
}

#[test]
fn while_the_last_answers_are_late_farther_candidates_are_asked_in_their_place() {
    let mut lookup = lookup(2, 3, 1..6);
    assert_eq!(ask_all(&mut lookup), contacts(&[1, 2]));
    lookup.on_hedge(&id(2));
    assert_eq!(ask_all(&mut lookup), contacts(&[3]));
    lookup.on_hedge(&id(3));
    assert_eq!(ask_all(&mut lookup), contacts(&[4]));
    assert!(answer(&mut lookup, 1, []));
    assert!(answer(&mut lookup, 4, []));
    assert_eq!(lookup.step(), Step::Wait, "the two late ones are closer");
    assert!(answer(&mut lookup, 2, []));
    assert_eq!(lookup.step(), Step::Done, "the answer of 3 is not needed any more");
}

#[test]
fn frugal_steps_ask_no_more_candidates_than_answers_are_needed() {
    for enough in 1..=4 {
        let mut lookup = lookup(8, 3, 1..=9);
        assert_eq!(ask_known(&mut lookup, enough, |_| 1), (1..=3).map(at).take(enough).collect::<Vec<_>>());
        assert_eq!(lookup.step_frugally(enough, known(|_| 1)), Step::Wait);
    }
}

#[test]
fn a_late_answer_lets_frugal_steps_ask_one_more_and_a_failure_up_to_alpha() {
    let mut lookup = lookup(8, 3, 1..=9);
    assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(1)]);
    lookup.on_hedge(&id(1));
    assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(2)]);
    lookup.on_failure(&id(2));
    assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(3), at(4), at(5)]);
    assert_eq!(lookup.in_flight(), 3);
}

#[test]
fn calming_down_returns_to_as_few_requests_as_are_needed() {
    let mut lookup = lookup(8, 3, 1..=9);
    assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(1)]);
    lookup.on_failure(&id(1));
    assert_eq!(ask_known(&mut lookup, 1, |_| 1).len(), 3);
    answer(&mut lookup, 2, []);
    lookup.calm_down();
    assert_eq!(ask_known(&mut lookup, 1, |_| 1), [], "two are in flight, and one more answer suffices");
}

#[test]
fn an_answer_that_names_only_farther_nodes_makes_a_lookup_hurry_and_an_empty_one_does_not() {
    for (named, asked) in [(vec![], 1), (vec![1], 1), (vec![5, 9], 3)] {
        let mut lookup = lookup(8, 3, 2..=9);
        assert_eq!(ask_known(&mut lookup, 1, |_| 1), [at(2)]);
        answer(&mut lookup, 2, named.clone());
        assert_eq!(ask_known(&mut lookup, 1, |_| 1).len(), asked, "{named:?}");
    }
}

#[test]
fn the_quickest_of_the_three_closest_is_asked_unless_one_of_the_next_three_is_twice_as_quick() {
    let of = |millis: [u64; 7]| {
        let mut lookup = lookup(8, 3, 1..=7);
        ask_known(&mut lookup, 1, |distance| millis[usize::from(distance) - 1])
    };
    assert_eq!(of([90, 80, 40, 40, 40, 40, 1]), [at(3)]);
    assert_eq!(of([90, 80, 90, 81, 50, 20, 1]), [at(6)]);
    assert_eq!(of([7, 1, 1, 1, 1, 1, 1]), [at(1)], "a few milliseconds say nothing");
}

#[test]
fn a_candidate_of_unknown_speed_is_never_skipped() {
    let mut lookup = lookup(8, 3, 1..=7);
    let quickness = |id: &NodeId| known(|_| 50)(id).filter(|_| *id != self::id(2));
    assert_eq!(lookup.step_frugally(2, quickness), Step::Ask(at(1)));
    assert_eq!(lookup.step_frugally(2, quickness), Step::Ask(at(2)));
    assert_eq!(lookup.step_frugally(2, quickness), Step::Ask(at(3)), "it is a reason to hurry");
    assert_eq!(lookup.step_frugally(2, quickness), Step::Wait);
}

#[test]
fn an_overdue_candidate_is_skipped_and_awaited_only_while_too_few_have_answered() {
    let mut lookup = lookup(2, 3, 1..=3);
    assert_eq!(ask_all(&mut lookup), contacts(&[1, 2]));
    lookup.on_give_up(&id(1));
    assert_eq!(ask_all(&mut lookup), contacts(&[3]));
    lookup.on_timeout(&id(3));
    answer(&mut lookup, 2, []);
    assert_eq!(lookup.step(), Step::Wait, "one of two has answered");
    let mut other = lookup.clone();
    answer(&mut other, 3, []);
    assert_eq!(other.step(), Step::Done);
    assert!(answer(&mut lookup, 1, []));
    assert_eq!(lookup.step(), Step::Done);
}

#[test]
fn a_finished_lookup_names_the_closest_candidates_that_it_never_asked() {
    let mut lookup = lookup(2, 3, 1..=6);
    assert_eq!(ask_all(&mut lookup), contacts(&[1, 2]));
    answer(&mut lookup, 1, []);
    lookup.on_failure(&id(2));
    assert_eq!(ask_all(&mut lookup), contacts(&[3]));
    answer(&mut lookup, 3, []);
    assert_eq!(lookup.step(), Step::Done);
    assert_eq!(lookup.unasked(4).copied().collect::<Vec<_>>(), contacts(&[4, 5]));
}

/// The round-trip times of all candidates, in milliseconds by their distance.
fn known(millis: impl Fn(u16) -> u64) -> impl Fn(&NodeId) -> Option<Duration> {
    move |id| {
        (0..100).find(|distance| self::id(*distance) == *id).map(|distance| Duration::from_millis(millis(distance)))
    }
}

/// Takes frugal steps until none asks a candidate; returns the candidates that were asked.
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

/// Takes steps until none asks a candidate; returns the candidates that were asked.
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
fn a_lookup_without_candidates_is_done() {
    assert_eq!(lookup(20, 3, []).step(), Step::Done);
}

#[test]
fn answers_of_far_nodes_do_not_end_a_lookup_while_a_closer_candidate_is_pending() {
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
fn a_pending_far_candidate_does_not_delay_the_end() {
    let mut lookup = lookup(1, 2, [90]);
    assert_eq!(ask_all(&mut lookup), contacts(&[90]));
    lookup.add(at(1), Path::START);
    assert_eq!(ask_all(&mut lookup), contacts(&[1]));
    assert!(answer(&mut lookup, 1, []));
    assert_eq!((lookup.step(), lookup.in_flight()), (Step::Done, 1));
}

#[test]
fn the_next_candidate_replaces_one_that_fails() {
    let mut lookup = lookup(2, 2, [1, 2, 3, 4]);
    assert_eq!(ask_all(&mut lookup), contacts(&[1, 2]));
    lookup.on_failure(&id(1));
    assert_eq!(ask_all(&mut lookup), contacts(&[3]));
    lookup.on_timeout(&id(3));
    assert_eq!(ask_all(&mut lookup), contacts(&[4]));
    assert!(answer(&mut lookup, 2, []) && answer(&mut lookup, 4, []));
    assert_eq!(lookup.step(), Step::Done);
    assert_eq!(answered(&lookup), contacts(&[2, 4]));
}

#[test]
fn at_most_alpha_requests_are_in_flight_until_one_ends() {
    let mut lookup = lookup(20, 3, 1..=9);
    assert_eq!(ask_all(&mut lookup), contacts(&[1, 2, 3]));
    assert!(answer(&mut lookup, 2, []));
    assert_eq!(ask_all(&mut lookup), contacts(&[4]));
    lookup.on_failure(&id(1));
    assert_eq!(ask_all(&mut lookup), contacts(&[5]));
    lookup.on_timeout(&id(3));
    lookup.on_timeout(&id(3));
    assert_eq!(ask_all(&mut lookup), contacts(&[6]), "one more may be asked, once");
    assert_eq!((lookup.step(), lookup.in_flight(), lookup.asked()), (Step::Wait, 3, 6));
}

#[test]
fn an_answer_after_the_timeout_counts_and_so_do_its_contacts() {
    let mut lookup = lookup(2, 1, [5, 6]);
    assert_eq!(ask_all(&mut lookup), contacts(&[5]));
    lookup.on_timeout(&id(5));
    assert_eq!(ask_all(&mut lookup), contacts(&[6]));
    assert!(answer(&mut lookup, 5, [1]));
    assert_eq!(answered(&lookup), contacts(&[5]));
    assert!(answer(&mut lookup, 6, []));
    assert_eq!(ask_all(&mut lookup), contacts(&[1]));
}

#[test]
fn failures_and_answers_are_final() {
    let mut lookup = lookup(2, 2, [1, 2]);
    ask_all(&mut lookup);
    lookup.on_failure(&id(1));
    assert!(!answer(&mut lookup, 1, [7]));
    assert!(answer(&mut lookup, 2, []));
    lookup.on_failure(&id(2));
    lookup.on_timeout(&id(2));
    assert!(!answer(&mut lookup, 2, [8]), "it has answered already");
    assert_eq!((lookup.step(), lookup.in_flight()), (Step::Done, 0));
    assert_eq!(answered(&lookup), contacts(&[2]));
}

#[test]
fn an_answer_from_a_node_that_was_not_asked_is_ignored() {
    let mut lookup = lookup(1, 1, [3, 4]);
    assert_eq!(ask_all(&mut lookup), contacts(&[3]));
    assert!(!answer(&mut lookup, 9, [1]), "a stranger");
    assert!(!answer(&mut lookup, 4, [1]), "a candidate that was not asked");
    lookup.on_timeout(&id(9));
    lookup.on_failure(&id(9));
    assert_eq!((lookup.path_of(&id(1)), lookup.step()), (None, Step::Wait));
}

#[test]
fn a_candidate_keeps_the_address_with_which_it_was_first_named() {
    let mut lookup = lookup(3, 1, [8]);
    ask_all(&mut lookup);
    let moved = |distance| Contact::new(id(distance), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    assert!(lookup.on_answer(&id(8), [at(5), moved(5), moved(8)]));
    assert_eq!(ask_all(&mut lookup), contacts(&[5]));
    assert_eq!(answered(&lookup), contacts(&[8]));
}

#[test]
fn the_own_node_is_never_a_candidate() {
    let myself = Contact { id: me(), ..at(1) };
    let mut lookup = Lookup::new(me(), *me().key(), 20, 3, &[myself, at(3)]);
    assert_eq!(ask_all(&mut lookup), contacts(&[3]));
    assert!(lookup.on_answer(&id(3), [myself]));
    assert_eq!(lookup.step(), Step::Done);
}

#[test]
fn at_most_20_contacts_of_an_answer_are_used() {
    let mut lookup = lookup(CANDIDATES_MAX, CANDIDATES_MAX, [999]);
    ask_all(&mut lookup);
    assert!(answer(&mut lookup, 999, 1..900));
    assert_eq!(ask_all(&mut lookup).len(), K_MAX);
}

#[test]
fn a_candidate_is_one_hop_farther_than_the_node_that_first_named_it() {
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
fn a_full_list_drops_its_farthest_fresh_candidate_and_never_one_that_was_asked() {
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

/// How many nodes a random lookup can meet: more than it can remember.
const NODES: u16 = 200;

/// What a driver may report, plausible or not.
#[derive(Clone, Debug)]
enum Report {
    Answer(About, Vec<u16>),
    Hedge(About),
    GiveUp(About),
    Timeout(About),
    Failure(About),
    CalmDown,
}

/// Which node a report is about.
#[derive(Clone, Debug)]
enum About {
    /// One of those that were asked, if there are any.
    Asked(Index),
    Any(u16),
}

/// How the steps before a report are taken: frugally, with this many answers missing, or plainly.
type Missing = Option<usize>;

/// The round-trip time of each node by its distance, if it is known.
type Rtts = [Option<Duration>];

/// The candidates at the start of a lookup, and what happens then, in a network of few or of many nodes.
fn course() -> impl Strategy<Value = (Vec<u16>, Vec<(Missing, Report)>)> {
    prop_oneof![1..30_u16, Just(NODES)].prop_flat_map(|nodes| {
        let turn = (proptest::option::of(0..6_usize), report(nodes));
        (proptest::collection::vec(0..nodes, 0..100), proptest::collection::vec(turn, 0..200))
    })
}

fn report(nodes: u16) -> impl Strategy<Value = Report> {
    let from = || prop_oneof![6 => any::<Index>().prop_map(About::Asked), 1 => (0..nodes).prop_map(About::Any)];
    let named = proptest::collection::vec(0..nodes, 0..30);
    prop_oneof![
        6 => (from(), named).prop_map(|(from, named)| Report::Answer(from, named)),
        1 => from().prop_map(Report::Hedge),
        1 => from().prop_map(Report::GiveUp),
        1 => from().prop_map(Report::Timeout),
        1 => from().prop_map(Report::Failure),
        3 => Just(Report::CalmDown),
    ]
}

fn rtts() -> impl Strategy<Value = Vec<Option<Duration>>> {
    let rtt = (0..100_u64).prop_map(Duration::from_millis);
    proptest::collection::vec(proptest::option::weighted(0.95, rtt), usize::from(NODES))
}

/// The state of a candidate, as its driver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fresh,
    InFlight,
    Hedged,
    GivenUp,
    Answered,
    TimedOut,
    Failed,
}

/// A driver that notes what it has asked and reported, and checks each step of a lookup against the rules in
/// the module docs. It never reads the state of the lookup.
struct Driver {
    width: usize,
    alpha: usize,
    /// By distance.
    candidates: BTreeMap<u16, Fate>,
    asked: BTreeSet<u16>,
    /// Whether the lookup hurries.
    hurries: bool,
}

impl Driver {
    fn new(width: usize, alpha: usize, start: &[u16]) -> Self {
        let mut driver = Self { width, alpha, candidates: BTreeMap::new(), asked: BTreeSet::new(), hurries: false };
        for distance in start {
            driver.add(*distance);
        }
        driver
    }

    /// Adds a candidate. A full list drops its farthest fresh candidate, if that one is farther away.
    fn add(&mut self, distance: u16) {
        if self.candidates.contains_key(&distance) {
            return;
        }
        if self.candidates.len() == CANDIDATES_MAX {
            let farthest = self.candidates.iter().rfind(|(_, fate)| **fate == Fate::Fresh).map(|(at, _)| *at);
            match farthest {
                Some(farthest) if farthest > distance => self.candidates.remove(&farthest),
                Some(_) | None => return,
            };
        }
        self.candidates.insert(distance, Fate::Fresh);
    }

    fn distance_of(&self, from: &About) -> u16 {
        match from {
            About::Asked(index) if !self.asked.is_empty() => {
                *self.asked.iter().nth(index.index(self.asked.len())).expect("the index is below their number")
            }
            About::Asked(_) => 0,
            About::Any(distance) => *distance,
        }
    }

    /// Reports to `lookup`, and notes the consequences.
    fn report(&mut self, lookup: &mut Lookup, report: Report) -> Result<(), TestCaseError> {
        use Fate::{Answered, Failed, Fresh, GivenUp, Hedged, InFlight, TimedOut};
        match report {
            Report::Answer(from, named) => {
                let from = self.distance_of(&from);
                let counts = self.change(from, &[InFlight, Hedged, GivenUp, TimedOut], Answered);
                prop_assert_eq!(answer(lookup, from, named.iter().copied()), counts);
                if counts {
                    let nearest = self.candidates.keys().next().copied();
                    for distance in named.iter().take(K_MAX) {
                        self.add(*distance);
                    }
                    self.hurries |= !named.is_empty() && self.candidates.keys().next().copied() == nearest;
                }
            }
            Report::Hedge(from) => {
                let from = self.distance_of(&from);
                lookup.on_hedge(&id(from));
                self.change(from, &[InFlight], Hedged);
            }
            Report::GiveUp(from) => {
                let from = self.distance_of(&from);
                lookup.on_give_up(&id(from));
                self.hurries |= self.candidates.contains_key(&from);
                self.change(from, &[InFlight, Hedged], GivenUp);
            }
            Report::Timeout(from) => {
                let from = self.distance_of(&from);
                lookup.on_timeout(&id(from));
                self.hurries |= self.candidates.contains_key(&from);
                self.change(from, &[InFlight, Hedged, GivenUp], TimedOut);
            }
            Report::Failure(from) => {
                let from = self.distance_of(&from);
                lookup.on_failure(&id(from));
                self.hurries |= self.candidates.contains_key(&from);
                self.change(from, &[Fresh, InFlight, Hedged, GivenUp, TimedOut], Failed);
            }
            Report::CalmDown => {
                lookup.calm_down();
                self.hurries = false;
            }
        }
        Ok(())
    }

    /// Changes the fate of the candidate at `distance` to `after` if it is one of `before`; returns whether it was.
    fn change(&mut self, distance: u16, before: &[Fate], after: Fate) -> bool {
        let fate = self.candidates.get_mut(&distance).filter(|fate| before.contains(fate));
        fate.map(|fate| *fate = after).is_some()
    }

    /// Takes steps until the lookup waits or is done, and checks each.
    fn drive(&mut self, lookup: &mut Lookup, missing: Missing, rtts: &Rtts) -> Result<Step, TestCaseError> {
        loop {
            let step = match missing {
                Some(missing) => lookup.step_frugally(missing, |id| rtts[usize::from(distance_of(id))]),
                None => lookup.step(),
            };
            match step {
                Step::Ask(contact) => self.check_ask(distance_of(&contact.id), missing, rtts)?,
                Step::Wait => self.check_wait(missing)?,
                Step::Done => self.check_done()?,
            }
            prop_assert_eq!(lookup.in_flight(), self.count(Fate::InFlight));
            prop_assert_eq!(lookup.asked(), self.asked.len());
            if matches!(step, Step::Wait | Step::Done) {
                return Ok(step);
            }
        }
    }

    fn check_ask(&mut self, distance: u16, missing: Missing, rtts: &Rtts) -> Result<(), TestCaseError> {
        prop_assert!(self.asked.insert(distance), "no node is asked twice");
        prop_assert!(self.count(Fate::InFlight) < self.most_in_flight(missing), "too many are in flight");
        let fresh = self.fresh();
        match missing {
            Some(_) if !self.hurries => {
                check_choice(distance, &fresh, rtts)?;
                self.hurries = rtts[usize::from(fresh[0])].is_none();
            }
            Some(_) | None => prop_assert_eq!(Some(&distance), fresh.first(), "the nearest is asked"),
        }
        prop_assert!(self.change(distance, &[Fate::Fresh], Fate::InFlight), "only a fresh candidate is asked");
        Ok(())
    }

    fn check_wait(&self, missing: Missing) -> Result<(), TestCaseError> {
        let owes = |fate: &Fate| matches!(fate, Fate::InFlight | Fate::Hedged);
        if !self.fresh().is_empty() {
            prop_assert!(self.count(Fate::InFlight) >= self.most_in_flight(missing), "another may be asked");
        } else if !self.needed().any(|(_, fate)| owes(fate)) {
            prop_assert!(self.count(Fate::GivenUp) > 0, "no answer is awaited");
            prop_assert!(self.count(Fate::Answered) < self.width, "enough have answered without those given up");
        }
        Ok(())
    }

    fn check_done(&self) -> Result<(), TestCaseError> {
        prop_assert!(self.needed().all(|(_, fate)| *fate == Fate::Answered), "a nearer one is pending");
        let enough = self.count(Fate::GivenUp) == 0 || self.count(Fate::Answered) >= self.width;
        prop_assert!(enough, "a candidate that was given up may still answer, and too few others have");
        Ok(())
    }

    /// The largest number of requests in flight. A lookup waits only at this number, if it has a candidate to ask.
    fn most_in_flight(&self, missing: Missing) -> usize {
        match missing {
            Some(missing) if !self.hurries => missing.clamp(1, self.alpha),
            Some(_) | None => self.alpha,
        }
    }

    /// The closest `width` candidates that are neither unresponsive nor given up.
    fn needed(&self) -> impl Iterator<Item = (&u16, &Fate)> {
        let out = |fate: &Fate| matches!(fate, Fate::GivenUp | Fate::TimedOut | Fate::Failed);
        self.candidates.iter().filter(move |(_, fate)| !out(fate)).take(self.width)
    }

    /// The candidates that may be asked. Each one that is late lets one more be asked.
    fn fresh(&self) -> Vec<u16> {
        let expected =
            self.candidates.iter().filter(|(_, fate)| matches!(fate, Fate::Fresh | Fate::InFlight | Fate::Answered));
        let closest = expected.take(self.width);
        closest.filter(|(_, fate)| **fate == Fate::Fresh).map(|(distance, _)| *distance).collect()
    }

    fn count(&self, fate: Fate) -> usize {
        self.candidates.values().filter(|other| **other == fate).count()
    }

    /// The contacts of all candidates with one of these fates, nearest first.
    fn with(&self, fates: &[Fate]) -> Vec<Contact> {
        self.candidates.iter().filter(|(_, fate)| fates.contains(fate)).map(|(distance, _)| at(*distance)).collect()
    }
}

/// Checks the choice of a lookup that does not hurry, among its `fresh` candidates, the closest first. It asks
/// the quickest one; a candidate about twice as far away has to be twice as quick. It asks none behind a
/// candidate of unknown speed.
fn check_choice(chosen: u16, fresh: &[u16], rtts: &Rtts) -> Result<(), TestCaseError> {
    let known = fresh.iter().take(COMPARED_MAX).map_while(|distance| rtts[usize::from(*distance)]);
    let known: Vec<Duration> = known.collect();
    let index = fresh.iter().position(|distance| *distance == chosen).expect("a fresh candidate is asked");
    prop_assert!(index < known.len().max(1), "a candidate of unknown speed is skipped");
    let weighed = |index: usize, rtt: Duration| rtt * (1 << (index / EQUALLY_NEAR));
    for (other, rtt) in known.iter().enumerate().filter(|(other, _)| *other != index) {
        prop_assert!(weighed(index, known[index]) < weighed(other, *rtt + EQUALLY_QUICK), "another is quicker");
        prop_assert!(other > index || weighed(index, known[index]) < weighed(other, *rtt), "a nearer one is as quick");
    }
    Ok(())
}

fn distance_of(id: &NodeId) -> u16 {
    let [.., high, low] = *id.key().as_bytes();
    u16::from_be_bytes([high, low])
}

proptest! {
    /// Goal: the rules in the module docs hold for all reports, about any node and in any order.
    ///
    /// Method: a [`Driver`] checks each step. At the end all candidates that were asked answer, those given up
    /// last, so that each lookup ends.
    #[test]
    fn the_rules_hold_whatever_is_reported(
        (start, turns) in course(),
        width in 1..=K_MAX,
        alpha in 1..=5_usize,
        rtts in rtts(),
        missing in proptest::option::of(0..6_usize),
    ) {
        let mut lookup = lookup(width, alpha, start.iter().copied());
        let mut driver = Driver::new(width, alpha, &start);
        for (missing, report) in turns {
            driver.drive(&mut lookup, missing, &rtts)?;
            driver.report(&mut lookup, report)?;
            prop_assert!(lookup.candidates.is_sorted_by(|a, b| a.distance < b.distance));
            prop_assert!(lookup.candidates.len() <= CANDIDATES_MAX);
        }
        while driver.drive(&mut lookup, missing, &rtts)? == Step::Wait {
            let pending = [driver.with(&[Fate::InFlight, Fate::Hedged]), driver.with(&[Fate::GivenUp])].concat();
            let from = About::Any(distance_of(&pending[0].id));
            driver.report(&mut lookup, Report::Answer(from, Vec::new()))?;
        }
        prop_assert_eq!(answered(&lookup), driver.with(&[Fate::Answered]));
        let responsive = driver.with(&[Fate::Fresh, Fate::InFlight, Fate::Hedged, Fate::GivenUp, Fate::Answered]);
        prop_assert_eq!(lookup.nearest().copied().collect::<Vec<_>>(), responsive);
    }

    /// A peer that invents ever closer nodes cannot make a lookup run for ever.
    #[test]
    fn a_lookup_ends_although_a_peer_invents_ever_closer_nodes(alpha in 1..=5_usize, per_answer in 1..=K_MAX) {
        let mut lookup = lookup(K_MAX, alpha, [u16::MAX]);
        let mut invented = (0..u16::MAX).rev();
        while lookup.step() != Step::Done {
            let pending = lookup.candidates.iter().find(|candidate| candidate.state == State::InFlight);
            let from = pending.expect("a lookup that is not done has asked a candidate").contact.id;
            lookup.on_answer(&from, invented.by_ref().take(per_answer).map(at));
            prop_assert!(lookup.asked() <= CANDIDATES_MAX);
        }
    }
}
