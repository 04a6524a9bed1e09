//! PUT: those of the k nearest who shall not hold the record, and may hold an older one.

use dht::id::{Key, RpcId};
use dht::node::action::ConnId;
use dht::node::params::Params;
use dht::record::{Class, Life, Rank, Version};
use dht::wire::api::Put;
use dht::wire::peer::{Content, Entry, ErrorCode, RecordBlock, Reply, Request};

use crate::harness::{
    Stage, block, confirmed, key, millis, nodes, secs, stored, success, synced, value_of, version_at,
};

/// A question to a bystander, and whom it went to.
type Question = (u8, ConnId, RpcId);

/// A node among the peers 1 to 8, which do what the test says; each has answered once, in no time.
fn among_scripted() -> Stage {
    let mut stage = Stage::among(Params { replication_min: 1, ..Params::default() }, 1..=8);
    (1..=8).for_each(|peer| stage.script(peer));
    stage.get(key(9));
    assert_eq!(search(&mut stage).len(), 8);
    stage.forget_deeds();
    stage
}

/// A confirmed PUT of the key 1 that the peers 1, 2 and 3 shall hold.
fn thrice() -> Put<'static> {
    Put { replication: 3, ..confirmed(1, b"value") }
}

/// The search of a PUT finds nothing; returns whom it has asked.
fn search(stage: &mut Stage) -> Vec<u8> {
    let asked = std::cell::RefCell::new(Vec::new());
    stage.answer_find_value(|peer, _| {
        asked.borrow_mut().push(peer);
        Some(nodes(&[]))
    });
    asked.into_inner()
}

/// Whom the node asks what they hold of the key 1.
fn questions(stage: &mut Stage) -> Vec<Question> {
    let only = |request: &Request<'_>| (*request == Request::Sync { from: key(1), to: key(1) }).then_some(());
    let asked = stage.all_asked(only);
    asked.into_iter().map(|(conn, rpc, ())| (stage.number_at(conn), conn, rpc)).collect()
}

/// Takes all copies; returns who took one, and its version.
fn take_copies(stage: &mut Stage) -> Vec<(u8, Version)> {
    let copies = stage.copies();
    for (conn, rpc, copy) in &copies {
        stage.reply(*conn, *rpc, stored(copy));
    }
    copies.iter().map(|(conn, _, copy)| (stage.number_at(*conn), copy.version)).collect()
}

fn takers(stage: &mut Stage) -> Vec<u8> {
    take_copies(stage).into_iter().map(|(peer, _)| peer).collect()
}

fn entry(key: Key, life: Life, version: Version) -> Entry {
    Entry { key, rank: Rank { class: Class::Plain, life, version }, crc: 0 }
}

/// All of `questions` but the first are answered by nothing; returns the first.
fn all_but_one(stage: &mut Stage, questions: &[Question]) -> Question {
    for (_, conn, rpc) in &questions[1..] {
        stage.reply(*conn, *rpc, synced(&[]));
    }
    questions[0]
}

/// A PUT's search may end when as many have answered as shall hold the record; the others of the k
/// nearest are asked beside the copies.
#[test]
fn a_put_searches_as_many_as_shall_hold_it_and_asks_the_others_while_its_copies_are_under_way() {
    let mut stage = among_scripted();
    let client = stage.put(thrice());
    assert_eq!(search(&mut stage), [1, 3, 2]);
    let asked = questions(&mut stage);
    assert_eq!(asked.iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [5, 4, 7, 6, 8]);
    assert_eq!(takers(&mut stage), [1, 3, 2]);
    let (_, conn, rpc) = all_but_one(&mut stage, &asked);
    assert_eq!(stage.answer(client), None, "one may hold an older record");
    stage.reply(conn, rpc, synced(&[]));
    assert_eq!(stage.answer(client), success(1, b""));
    assert_eq!(stage.node.counters().puts_held, 1);
}

/// Section 1, rule 9: a later PUT replaces the value everywhere, also where so few copies as it
/// asks for would not go.
#[test]
fn whoever_holds_an_older_record_gets_a_copy_too() {
    let mut stage = among_scripted();
    let client = stage.put(thrice());
    let older = RecordBlock { content: Content::Head, replication: 8, ..block(1, b"older") };
    stage.answer_find_value(|peer, _| Some(if peer == 2 { value_of(older) } else { nodes(&[]) }));
    assert_eq!(takers(&mut stage), [1, 3, 2]);
    let asked = questions(&mut stage);
    let (peer, conn, rpc) = all_but_one(&mut stage, &asked);
    stage.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, older.version)]));
    assert_eq!(stage.answer(client), None, "as many hold it as shall, and two who agree on the older one can be read");
    assert_eq!(takers(&mut stage), [peer]);
    assert_eq!(stage.answer(client), success(1, b""));
    assert_eq!(stage.node.counters().puts_held, 1);
}

#[test]
fn a_bystander_that_holds_nothing_older_gets_no_copy() {
    let newer = version_at(1_000);
    for told in [entry(key(2), Life::Alive, version_at(0)), entry(key(1), Life::Over, version_at(0))] {
        let mut stage = among_scripted();
        let client = stage.put(thrice());
        search(&mut stage);
        assert_eq!(takers(&mut stage).len(), 3);
        let asked = questions(&mut stage);
        let (_, conn, rpc) = all_but_one(&mut stage, &asked);
        stage.reply(conn, rpc, synced(&[told, entry(key(1), Life::Alive, newer)]));
        assert_eq!((stage.answer(client), stage.copies()), (success(1, b""), vec![]), "{told:?}");
    }
}

/// However late it is: it may hold an older record until it says otherwise, or says nothing.
#[test]
fn a_bystander_is_waited_for_until_it_is_silent() {
    let older = entry(key(1), Life::Alive, version_at(0));
    for answers in [true, false] {
        let mut stage = among_scripted();
        let client = stage.put(thrice());
        search(&mut stage);
        assert_eq!(takers(&mut stage).len(), 3);
        let asked = questions(&mut stage);
        let (slow, conn, rpc) = all_but_one(&mut stage, &asked);
        stage.pass(millis(1_999));
        assert_eq!(stage.answer(client), None);
        if answers {
            stage.reply(conn, rpc, synced(&[older]));
            assert_eq!(takers(&mut stage), [slow]);
        } else {
            stage.pass(millis(1));
        }
        assert_eq!(stage.answer(client), success(1, b""));
    }
}

#[test]
fn a_bystander_that_refuses_is_not_waited_for() {
    let mut stage = among_scripted();
    let client = stage.put(thrice());
    search(&mut stage);
    takers(&mut stage);
    let asked = questions(&mut stage);
    let (_, conn, rpc) = all_but_one(&mut stage, &asked);
    stage.reply(conn, rpc, Reply::Error(ErrorCode::LEAVING));
    assert_eq!(stage.answer(client), success(1, b""));
}

/// Section 3: a version that a faster clock drew is overtaken, once; a liar who tells of ever larger
/// ones keeps no PUT from its end.
#[test]
fn a_version_ahead_of_our_clock_that_a_bystander_holds_is_overtaken_once() {
    let mut stage = among_scripted();
    let client = stage.put(thrice());
    search(&mut stage);
    let first = stage.copies();
    let [(_, conn, rpc), ..] = questions(&mut stage)[..] else { panic!("somebody is asked") };
    stage.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(300_000))]));
    search(&mut stage);
    for (conn, rpc, copy) in first {
        stage.reply(conn, rpc, stored(&copy));
    }
    assert_eq!(stage.answer(client), None, "replies to the first spreading do not count");
    let above = Version::from_bits(version_at(300_000).bits() + 1);
    assert_eq!(take_copies(&mut stage), [(1, above), (3, above), (2, above)]);
    let asked = questions(&mut stage);
    let (_, conn, rpc) = all_but_one(&mut stage, &asked);
    stage.reply(conn, rpc, synced(&[entry(key(1), Life::Alive, version_at(400_000))]));
    assert_eq!((stage.answer(client), search(&mut stage)), (success(1, b""), vec![]));
    stage.pass(secs(30));
    assert_eq!(stage.copies(), []);
}
