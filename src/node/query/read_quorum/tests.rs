//! What a GET decides, rule by rule, and a property test beside its own list of responses.

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::id::Key;
use crate::record::{Ttl, Version, crc_of};

const KEY: Key = Key::new([9; 32]);

fn contact(n: u8) -> Contact {
    Contact::new(NodeId::new(Key::new([n; 32])), SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from(n) + 1)))
}

fn peer(n: u8) -> Replica {
    Replica::Peer(contact(n))
}

fn found(class: Class, version: u64, value: &[u8]) -> Found {
    let record = Record {
        key: KEY,
        class,
        version: Version::from_bits(version),
        ttl: Ttl::from_secs(60).expect("not zero"),
        replication: 3,
        crc: crc_of(value),
        value: value.into(),
    };
    Found { record, expires: Time::from_nanos(1) }
}

fn value(version: u64, value: &[u8]) -> Response {
    Response::Value(found(Class::Plain, version, value))
}

fn head(version: u64, value: &[u8]) -> Response {
    Response::Head(found(Class::Plain, version, value).head())
}

fn over(version: u64) -> Response {
    let rank = Rank { class: Class::Plain, life: Life::Over, version: Version::from_bits(version) };
    Response::Head(Head { rank, crc: 0, replication: 1 })
}

fn read(quorum: u8) -> QuorumRead {
    QuorumRead::new(Reads::Quorum, quorum, 1, 3)
}

fn seen(class: Class, version: u64) -> Precedence {
    Rank { class, life: Life::Alive, version: Version::from_bits(version) }.precedence()
}

fn won(read: &QuorumRead) -> Option<Vec<u8>> {
    match read.winner()? {
        Winner::Record { found, .. } => Some(found.record.value.to_vec()),
        Winner::Over(_) => None,
    }
}

#[test]
fn one_candidate_at_a_time_is_asked_for_the_value_until_a_replica_is_known() {
    let mut read = read(2);
    assert!(read.asks_value_of(&contact(1).id));
    assert!(!read.asks_value_of(&contact(2).id));
    assert!(read.asks_value_of(&contact(1).id), "a second request to it asks for the same");
    read.on_response(peer(1), Response::Nothing);
    assert!(read.asks_value_of(&contact(3).id), "the first stores nothing");
    read.on_no_response(&contact(3).id);
    assert!(read.asks_value_of(&contact(4).id), "the second has not responded in time");
    read.on_response(peer(4), value(1, b"v"));
    assert!(!read.asks_value_of(&contact(5).id));
}

#[test]
fn a_get_ends_early_when_a_quorum_agrees_and_the_value_is_known() {
    for quorum in 1..=3 {
        let mut read = read(quorum);
        for n in 1..=quorum {
            assert_eq!(read.next(Phase::LookingUp), Next::Wait, "{n} of {quorum}");
            read.on_response(peer(n), if n == 1 { value(5, b"v") } else { head(5, b"v") });
        }
        assert_eq!(read.next(Phase::LookingUp), Next::Answer);
        assert_eq!(won(&read), Some(b"v".to_vec()));
    }
}

#[test]
fn the_quorum_is_at_most_the_replication_which_is_at_least_the_configured_minimum() {
    for (replication, replication_min, ends) in [(1, 1, true), (1, 3, false), (3, 1, false)] {
        let mut read = QuorumRead::new(Reads::Quorum, 2, replication_min, 3);
        let mut one = found(Class::Plain, 5, b"v");
        one.record.replication = replication;
        read.on_response(peer(1), Response::Value(one));
        assert_eq!(read.next(Phase::LookingUp) == Next::Answer, ends, "{replication} of {replication_min}");
    }
}

#[test]
fn the_record_that_this_node_stores_counts_as_one_response() {
    let mut read = read(2);
    read.on_response(Replica::Me, value(5, b"v"));
    assert_eq!(read.next(Phase::LookingUp), Next::Wait);
    read.on_response(peer(1), head(5, b"v"));
    assert_eq!(read.next(Phase::LookingUp), Next::Answer);
}

#[test]
fn an_agreement_on_a_smaller_record_does_not_end_a_get() {
    let mut read = read(2);
    read.on_response(peer(1), value(5, b"v"));
    read.on_response(peer(2), head(6, b"w"));
    read.on_response(peer(3), head(5, b"v"));
    assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(2)));
    assert_eq!(read.next(Phase::LookingUp), Next::Wait);
    read.on_response(peer(2), value(6, b"w"));
    assert_eq!(read.next(Phase::LookingUp), Next::Wait);
    read.on_response(peer(4), head(6, b"w"));
    assert_eq!(read.next(Phase::LookingUp), Next::Answer);
    assert_eq!(won(&read), Some(b"w".to_vec()));
}

#[test]
fn a_claim_is_ignored_after_its_replica_did_not_deliver_the_value() {
    for (answer, is_ignored) in
        [(Some(Response::Invalid), true), (Some(Response::Nothing), true), (Some(head(7, b"w")), false), (None, false)]
    {
        let mut read = read(2);
        read.on_response(peer(1), value(5, b"v"));
        read.on_response(peer(2), head(7, b"w"));
        assert_eq!(read.next(Phase::LookedUp), Next::Fetch(contact(2)));
        match answer {
            Some(response) => read.on_response(peer(2), response),
            None => read.on_no_response(&contact(2).id),
        }
        assert_eq!(read.next(Phase::LookedUp), Next::Answer);
        assert_eq!(won(&read), Some(b"v".to_vec()));
        read.on_response(peer(2), value(7, b"w"));
        assert_eq!(won(&read), Some(if is_ignored { b"v".to_vec() } else { b"w".to_vec() }), "late, but valid");
    }
}

#[test]
fn a_value_that_one_replica_does_not_deliver_is_fetched_from_the_next_one_that_claims_it() {
    let mut read = read(3);
    assert!(read.asks_value_of(&contact(1).id));
    read.on_response(peer(2), head(5, b"v"));
    read.on_response(peer(3), head(5, b"v"));
    read.on_response(peer(4), head(5, b"v"));
    assert_eq!(read.next(Phase::LookingUp), Next::Wait, "one value at a time");
    read.on_no_response(&contact(1).id);
    assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(2)), "the quickest first");
    assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(3)), "and one more after one loss");
    assert_eq!(read.next(Phase::LookingUp), Next::Wait);
    read.on_no_response(&contact(2).id);
    assert_eq!(read.next(Phase::LookingUp), Next::Fetch(contact(4)));
    read.on_response(peer(3), value(5, b"v"));
    assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, Some(b"v".to_vec())));
}

#[test]
fn several_false_claims_are_fetched_at_the_same_time_after_the_lookup() {
    let mut read = read(2);
    for n in 1..=9 {
        read.on_response(peer(n), head(n.into(), b"lie"));
    }
    let asked: Vec<Next> = (0..4).map(|_| read.next(Phase::LookedUp)).collect();
    assert_eq!(asked, [Next::Fetch(contact(9)), Next::Fetch(contact(8)), Next::Fetch(contact(7)), Next::Wait]);
}

#[test]
fn of_two_records_with_the_same_version_both_values_are_fetched_and_the_larger_one_wins() {
    let mut read = read(2);
    read.on_response(peer(1), value(5, b"b"));
    for (n, other) in [(2, b"a"), (3, b"c")] {
        read.on_response(peer(n), head(5, other));
        assert_eq!(read.next(Phase::LookedUp), Next::Fetch(contact(n)));
        read.on_response(peer(n), value(5, other));
    }
    assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, Some(b"c".to_vec())));
}

#[test]
fn a_tombstone_hides_plain_versions_up_to_its_own_and_no_certified_record() {
    for (version, hidden) in [(4, true), (5, true), (6, false)] {
        let mut read = read(1);
        read.on_response(peer(1), over(5));
        read.on_response(peer(2), value(version, b"v"));
        assert_eq!(read.next(Phase::LookingUp) == Next::Wait, hidden);
        assert_eq!(read.next(Phase::LookedUp), Next::Answer);
        assert_eq!(won(&read), (!hidden).then(|| b"v".to_vec()));
    }
    let mut read = read(1);
    read.on_response(peer(1), over(5));
    read.on_response(peer(2), Response::Value(found(Class::Signed, 1, b"v")));
    assert_eq!((read.next(Phase::LookingUp), won(&read)), (Next::Answer, Some(b"v".to_vec())));
}

#[test]
fn tombstones_that_agree_do_not_end_a_get_before_its_lookup() {
    let mut read = read(2);
    read.on_response(peer(1), over(5));
    read.on_response(peer(2), over(5));
    assert_eq!(read.next(Phase::LookingUp), Next::Wait);
    assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, None));
}

#[test]
fn one_hashed_value_ends_a_get_unless_it_must_ask_all_nodes() {
    for (reads, next) in [(Reads::Quorum, Next::Answer), (Reads::Secure, Next::Wait)] {
        let mut read = QuorumRead::new(reads, 3, 3, 3);
        read.on_response(peer(1), Response::Value(found(Class::Hashed, 0, b"v")));
        assert_eq!(read.next(Phase::LookingUp), next);
        assert_eq!(read.next(Phase::LookedUp), Next::Answer);
    }
}

#[test]
fn a_version_older_than_one_that_clients_have_seen_does_not_end_a_get_early() {
    let mut read = read(2);
    read.remember(Some(seen(Class::Plain, 6)));
    read.on_response(peer(1), value(5, b"v"));
    read.on_response(peer(2), head(5, b"v"));
    assert_eq!(read.next(Phase::LookingUp), Next::Wait);
    assert_eq!((read.next(Phase::LookedUp), won(&read)), (Next::Answer, Some(b"v".to_vec())));
    read.remember(Some(seen(Class::Plain, 5)));
    assert_eq!(read.next(Phase::LookingUp), Next::Answer);
}

#[test]
fn replicas_with_a_smaller_record_and_near_nodes_without_one_are_behind() {
    let mut read = read(2);
    let responses = [
        value(5, b"v"),
        head(5, b"v"),
        head(4, b"u"),
        over(4),
        over(9),
        Response::Nothing,
        Response::Nothing,
        Response::Invalid,
    ];
    for (n, response) in (1..).zip(responses) {
        read.on_response(peer(n), response);
    }
    let near = [contact(7).id, contact(8).id];
    let behind: Vec<Contact> = read.behind(&found(Class::Plain, 5, b"v"), &near).collect();
    assert_eq!(behind, [contact(3), contact(4), contact(7)]);
}

fn response() -> impl Strategy<Value = Response> {
    let class = prop_oneof![3 => Just(Class::Plain), 1 => Just(Class::Signed)];
    let record = (class, 0..3_u64, 0..2_u8).prop_map(|(class, version, value)| found(class, version, &[value]));
    let head = record.clone().prop_map(|found| Response::Head(found.head()));
    let over = (0..3_u64).prop_map(over);
    prop_oneof![1 => Just(Response::Nothing), 1 => Just(Response::Invalid), 2 => over, 4 => head, 4 => record.prop_map(Response::Value)]
}

/// The claim of a reply: whether it is signed, its version, whether it is a tombstone. The later of two
/// replies of one peer must not claim less.
fn claim(response: &Response) -> Option<(bool, u64, bool)> {
    let rank = response.head()?.rank;
    Some((rank.class == Class::Signed, rank.version.bits(), rank.life == Life::Over))
}

/// The valid reply of a peer that sent these replies in this order: the last one, or none after an
/// invalid reply or one that claims less than before. A head does not replace its own value.
fn believed(replies: &[Response]) -> Option<&Response> {
    replies.iter().try_fold(&Response::Nothing, |last, response| match (last, response) {
        (_, Response::Invalid) => None,
        (Response::Value(found), Response::Head(head)) if found.head() == *head => Some(last),
        _ => (claim(response) >= claim(last)).then_some(response),
    })
}

/// The largest valid value, unless a valid tombstone hides it.
fn expected(replies: &[Vec<Response>]) -> Option<Vec<u8>> {
    let believed: Vec<&Response> = replies.iter().filter_map(|replies| believed(replies)).collect();
    let values = believed.iter().filter_map(|response| match response {
        Response::Value(found) => claim(response).zip(Some(found.record.value.to_vec())),
        Response::Nothing | Response::Head(_) | Response::Invalid => None,
    });
    let (largest, value) = values.max()?;
    let is_hidden = believed.iter().filter_map(|response| claim(response)).any(|claim| claim.2 && claim > largest);
    (!is_hidden).then_some(value)
}

proptest! {
    /// Goal: a GET ends after any replies in any order, with the largest value that was delivered.
    ///
    /// Method: the test keeps its own list of replies. No peer answers a fetch, so all claims are
    /// dismissed.
    #[test]
    fn a_get_ends_with_the_largest_value_that_was_delivered(
        all in proptest::collection::vec((0..5_u8, response()), 0..32),
        quorum in 1..=3_u8,
    ) {
        let mut read = read(quorum);
        let mut replies = vec![Vec::new(); 5];
        for (n, response) in all {
            replies[usize::from(n)].push(response.clone());
            read.on_response(peer(n), response);
        }
        let mut steps = 0;
        while let Next::Fetch(contact) = read.next(Phase::LookedUp) {
            read.on_no_response(&contact.id);
            steps += 1;
            prop_assert!(steps <= replies.len(), "each is asked once");
        }
        prop_assert_eq!(read.next(Phase::LookedUp), Next::Answer);
        prop_assert_eq!(won(&read), expected(&replies));
    }
}

#[test]
fn tentative_replicas_do_not_end_a_get_early_unless_the_record_is_hashed() {
    for (class, ends) in [(Class::Plain, false), (Class::Signed, false), (Class::Hashed, true)] {
        let mut read = read(2);
        let old = found(class, 5, b"old");
        for nth in [1, 2] {
            read.on_response(peer(nth), Response::Value(old.clone()));
            read.on_tentative(&peer(nth));
        }
        read.on_response(peer(3), Response::Head(old.head()));
        assert_eq!(read.next(Phase::LookingUp) == Next::Answer, ends, "{class:?}");
        assert_eq!(read.next(Phase::LookedUp), Next::Answer, "{class:?}");
        read.on_response(peer(4), Response::Head(old.head()));
        assert_eq!(read.next(Phase::LookingUp), Next::Answer, "{class:?}");
    }
}
