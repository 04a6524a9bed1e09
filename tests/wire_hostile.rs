//! What strangers may send: every prefix, every extension and seeded mutations of each golden
//! frame, each way to be malformed on its own, and bytes of no meaning at all.
//!
//! The laws: nothing panics; what cannot be a message is refused with what was found; and what
//! is a message is written in one way only, so it encodes to the very bytes it was read from.

mod frames;

use dht::record::crc_of;
use dht::wire::Source;
use dht::wire::api::ApiReply;
use dht::wire::codec::{List, WireError};
use dht::wire::frame::next_frame;
use dht::wire::peer::{PeerMessage, Reply, Request};
use frames::{Golden, Message, all, named};
use proptest::prelude::*;

/// Cuts and extensions of the largest frames are tried in their first fields only; behind these
/// comes nothing but the value.
const FIELDS_SIZE: usize = 1_200;

/// Reads the first message of `bytes`, if a whole one has arrived, and holds it to the law that
/// it encodes to what it was read from. Says how many bytes it took.
fn read(source: Source, bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some((frame, size)) = next_frame(source, bytes)? else {
        return Ok(None);
    };
    let message = Message::decode(source, frame)?;
    assert!(message.encode() == bytes[..size], "{message:?} is written in two ways: {:02x?}", &bytes[..size]);
    if let Message::Peer(message) = message {
        assert!(encode_anew(message) == bytes[..size], "an item is written in two ways: {message:?}");
    }
    Ok(Some(size))
}

/// Encodes `message` from items that were read one by one: a list that was received as a whole
/// keeps its bytes.
fn encode_anew(message: PeerMessage<'_>) -> Vec<u8> {
    fn encode(message: PeerMessage<'_>) -> Vec<u8> {
        Message::Peer(message).encode()
    }
    match message {
        PeerMessage::Request(rpc, Request::Offer(entries)) => {
            let entries: Vec<_> = entries.iter().collect();
            encode(PeerMessage::Request(rpc, Request::Offer(List::lend(&entries))))
        }
        PeerMessage::Reply(rpc, Reply::Nodes(contacts)) => {
            let contacts: Vec<_> = contacts.iter().collect();
            encode(PeerMessage::Reply(rpc, Reply::Nodes(List::lend(&contacts))))
        }
        PeerMessage::Reply(rpc, Reply::Value { contacts, is_tentative, record }) => {
            let contacts: Vec<_> = contacts.iter().collect();
            encode(PeerMessage::Reply(rpc, Reply::Value { contacts: List::lend(&contacts), is_tentative, record }))
        }
        PeerMessage::Reply(rpc, Reply::Wanted(keys)) => {
            let keys: Vec<_> = keys.iter().collect();
            encode(PeerMessage::Reply(rpc, Reply::Wanted(List::lend(&keys))))
        }
        PeerMessage::Reply(rpc, Reply::Synced { more, entries }) => {
            let entries: Vec<_> = entries.iter().collect();
            encode(PeerMessage::Reply(rpc, Reply::Synced { more, entries: List::lend(&entries) }))
        }
        other => encode(other),
    }
}

/// Why `bytes`, one whole message or its header, are refused.
#[track_caller]
fn refusal(source: Source, bytes: &[u8]) -> WireError {
    read(source, bytes).expect_err("malformed")
}

/// The golden frame `name` with the bytes at `at` replaced by `bytes`.
fn with(name: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = named(name).bytes;
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The golden frame `name`, in the short form, cut or filled with zeros to `size` bytes, which
/// its header says.
fn resized(name: &str, size: u16) -> Vec<u8> {
    let mut frame = named(name).bytes;
    frame.resize(size.into(), 0);
    frame[..2].copy_from_slice(&size.to_be_bytes());
    frame
}

/// Makes the header say how many bytes there are, in the form that can, and the check of a
/// record fit its value: what remains wrong then is wrong further inside.
fn mend(bytes: &mut Vec<u8>) {
    let long = bytes.len() >= 8 && bytes[..2] == [0, 0];
    match (long, u16::try_from(bytes.len())) {
        (true, _) => {
            let size = u32::try_from(bytes.len()).expect("frames are small");
            bytes[4..8].copy_from_slice(&size.to_be_bytes());
        }
        (false, Ok(size)) if size >= 4 => bytes[..2].copy_from_slice(&size.to_be_bytes()),
        (false, _) => bytes.truncate(65_535),
    }
    let header = if long { 8 } else { 4 };
    let number = bytes.get(2..4).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
    let block = match number {
        Some(661) => header + 32,
        Some(673) => header + 33 + 50 * usize::from(bytes.get(header + 32).copied().unwrap_or(0)),
        _ => return,
    };
    if let Some((fields, value)) = bytes.get_mut(block..).and_then(|block| block.split_at_mut_checked(52)) {
        fields[48..].copy_from_slice(&crc_of(value).to_be_bytes());
    }
}

// ── every prefix, every extension ────────────────────────────────────────────────────────────

#[test]
fn a_message_is_not_there_before_its_last_byte() {
    for Golden { name, source, bytes } in all() {
        for cut in 0..bytes.len() {
            assert_eq!(next_frame(source, &bytes[..cut]), Ok(None), "{name} at {cut} bytes");
        }
        assert_eq!(read(source, &bytes), Ok(Some(bytes.len())), "{name}");
    }
}

#[test]
fn what_follows_a_message_is_left_to_the_next() {
    for Golden { name, source, bytes } in all() {
        for trail in [&[0][..], &[0xff; 9], &bytes] {
            let stream = [&bytes, trail].concat();
            assert_eq!(read(source, &stream), Ok(Some(bytes.len())), "{name}");
        }
    }
}

/// A sender who ends a message early, and says so in its header, may hit upon another message;
/// it never hits upon a panic, or upon two ways to write one.
#[test]
fn a_message_cut_inside_is_refused_or_another_message() {
    for Golden { name, source, bytes } in all() {
        for cut in 4..bytes.len().min(FIELDS_SIZE) {
            let mut frame = bytes[..cut].to_vec();
            mend(&mut frame);
            if let Ok(found) = read(source, &frame) {
                assert_eq!(found, Some(cut), "{name}");
            }
        }
    }
}

#[test]
fn a_message_with_bytes_behind_its_last_field_is_refused() {
    let open_ended = ["PUT", "SUCCESS", "HELLO", "STORE", "VALUE"];
    for Golden { name, source, bytes } in all() {
        for more in [1, 7, 65_536] {
            let mut frame = bytes.clone();
            frame.resize(bytes.len() + more, b'w');
            mend(&mut frame);
            match read(source, &frame) {
                Ok(Some(_)) if frame.len() < bytes.len() + more => {} // cut again: a header can say no more
                Ok(Some(size)) => {
                    assert_eq!(size, frame.len(), "{name}");
                    assert!(open_ended.iter().any(|open| name.starts_with(open)), "{name} took {more} more bytes");
                }
                Ok(None) => panic!("{name} is whole, with {more} more bytes"),
                Err(_) => {}
            }
        }
    }
}

// ── mutations ────────────────────────────────────────────────────────────────────────────────

/// A generator whose sequence nobody will change under these tests (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound.max(1) as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_be_bytes()[0]
    }
}

/// Changes `bytes` in one way, mostly near their front, where the fields are.
fn mutate(bytes: &mut Vec<u8>, others: &[Golden], dice: &mut Dice) {
    let reach = if dice.below(4) == 0 { bytes.len() } else { bytes.len().min(150) };
    let at = dice.below(reach);
    let edge = [0, 1, 4, 8, 20, 21, 127, 128, 254, 255][dice.below(10)];
    let run = dice.below(60);
    match dice.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = edge,
        2 if at < bytes.len() => bytes[at] = dice.byte(),
        3 => bytes.truncate(bytes.len() - run.min(bytes.len())),
        4 => bytes.resize(bytes.len() + run, edge),
        5 => drop(bytes.splice(at..(at + run).min(bytes.len()), [])),
        _ => {
            let other = &others[dice.below(others.len())].bytes;
            let from = dice.below(other.len());
            let part = &other[from..(from + run).min(other.len())];
            bytes.splice(at..(at + part.len()).min(bytes.len()), part.iter().copied());
        }
    }
}

/// Reads `count` mutations of each golden frame; says how many of them were messages.
fn read_mutations(count: usize, seed: u64) -> usize {
    let golden = all();
    let mut dice = Dice(seed);
    let mut messages = 0;
    for Golden { source, bytes, .. } in &golden {
        for _ in 0..count {
            let mut frame = bytes.clone();
            for _ in 0..=dice.below(3) {
                mutate(&mut frame, &golden, &mut dice);
            }
            if dice.below(4) > 0 {
                mend(&mut frame);
            }
            messages += usize::from(matches!(read(*source, &frame), Ok(Some(_))));
        }
    }
    messages
}

#[test]
fn a_hundred_thousand_mutations_are_refused_or_written_as_they_were_read() {
    let frames = all().len();
    let count = 100_000_usize.div_ceil(frames);
    let messages = read_mutations(count, 1);
    assert!(messages > 10_000, "only {messages} were messages: most must reach the fields");
    assert!(messages < 90_000, "{messages} were messages: some must be refused");
}

#[test]
#[ignore = "takes half a minute: run it after a change of the codec"]
fn ten_million_mutations_are_refused_or_written_as_they_were_read() {
    let count = 10_000_000_usize.div_ceil(all().len());
    assert!(read_mutations(count, 2) > 1_000_000);
}

// ── bytes of no meaning ──────────────────────────────────────────────────────────────────────

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Module), Just(Source::Server), Just(Source::Peer)]
}

proptest! {
    #[test]
    fn any_bytes_are_incomplete_refused_or_a_message(
        source in source(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(Some(size)) = read(source, &bytes) {
            prop_assert!(size <= bytes.len());
        }
    }

    /// As above, behind a header that is right: the fields get to see the bytes.
    #[test]
    fn any_body_is_refused_or_a_message(
        source in source(),
        number in prop_oneof![650..=653_u16, 660..=680_u16],
        body in proptest::collection::vec(prop_oneof![0..9_u8, any::<u8>()], 0..300),
    ) {
        let mut frame = [&[0, 0], &number.to_be_bytes()[..], &body].concat();
        let size = u16::try_from(frame.len()).expect("a small body");
        frame[..2].copy_from_slice(&size.to_be_bytes());
        prop_assert_ne!(read(source, &frame), Ok(None));
        mend(&mut frame);
        prop_assert_ne!(read(source, &frame), Ok(None));
    }

    #[test]
    fn any_long_header_is_awaited_only_up_to_the_largest_message(number in 655..685_u16, size in any::<u32>()) {
        let header = [&[0, 0], &number.to_be_bytes()[..], &size.to_be_bytes()].concat();
        let awaited = read(Source::Peer, &header) == Ok(None);
        let largest = match number {
            661 => 65_587,
            673 => 66_588,
            _ => 0,
        };
        prop_assert_eq!(awaited, (65_540..=largest).contains(&size));
    }
}

// ── each way to be malformed: the module API, rule 10 ────────────────────────────────────────

#[test]
fn a_size_below_the_header_is_refused() {
    for source in [Source::Module, Source::Server, Source::Peer] {
        for size in 0..4_u8 {
            if (source, size) == (Source::Peer, 0) {
                continue; // announces the long form
            }
            for kind in [650_u16, 652, 660, 9999] {
                let header = [&[0, size], &kind.to_be_bytes()[..]].concat();
                assert_eq!(refusal(source, &header), WireError::SizeBelowHeader { size: size.into() });
            }
        }
    }
}

#[test]
fn a_type_that_its_source_does_not_send_is_refused_at_the_header() {
    let sent: [(Source, &[u16]); 3] = [
        (Source::Module, &[650, 651]),
        (Source::Server, &[652, 653]),
        (
            Source::Peer,
            &[660, 661, 662, 663, 664, 665, 666, 667, 668, 669, 670, 671, 672, 673, 674, 676, 677, 679, 680],
        ),
    ];
    for (source, kinds) in sent {
        for number in (0..=u16::MAX).filter(|number| !kinds.contains(number)) {
            let header = [&[0, 36], &number.to_be_bytes()[..]].concat();
            assert_eq!(refusal(source, &header), WireError::UnknownKind { number });
        }
    }
}

#[test]
fn a_put_of_forty_bytes_or_less_is_refused() {
    for size in 4..=40 {
        let expected = WireError::BodySize { name: "DHT PUT", found: usize::from(size) - 4, min: 37, max: 65_531 };
        assert_eq!(refusal(Source::Module, &resized("PUT", size)), expected);
    }
    assert_eq!(read(Source::Module, &resized("PUT", 41)), Ok(Some(41)));
}

#[test]
fn a_get_of_other_than_36_bytes_is_refused() {
    for size in (4..=100).filter(|size| *size != 36) {
        let expected = WireError::BodySize { name: "DHT GET", found: usize::from(size) - 4, min: 32, max: 32 };
        assert_eq!(refusal(Source::Module, &resized("GET", size)), expected);
    }
}

#[test]
fn success_or_failure_from_a_client_is_refused() {
    for (name, number) in [("SUCCESS", 652), ("SUCCESS, confirmed", 652), ("FAILURE", 653)] {
        assert_eq!(refusal(Source::Module, &named(name).bytes), WireError::UnknownKind { number });
    }
}

#[test]
fn an_undefined_flag_of_a_put_is_refused_and_so_is_a_value_both_signed_and_hashed() {
    for flags in 0..=u8::MAX {
        let put = with("PUT", 7, &[flags]);
        if (0..=5).contains(&flags) {
            assert_eq!(read(Source::Module, &put), Ok(Some(put.len())), "{flags}");
            continue;
        }
        let expected = "1 (confirm), 2 (signed) or 4 (hashed), or 1 with one of the others";
        let expected = WireError::Field { field: "flags", found: flags.into(), expected };
        assert_eq!(refusal(Source::Module, &put), expected);
    }
}

#[test]
fn an_answer_of_a_size_that_no_answer_has_is_refused() {
    let success = |found| WireError::BodySize { name: "DHT SUCCESS", found, min: 32, max: 65_527 };
    assert_eq!(refusal(Source::Server, &resized("SUCCESS", 35)), success(31));
    assert_eq!(refusal(Source::Server, &resized("SUCCESS", 65_532)), success(65_528));
    let failure = |found| WireError::BodySize { name: "DHT FAILURE", found, min: 32, max: 32 };
    assert_eq!(refusal(Source::Server, &resized("FAILURE", 35)), failure(31));
    assert_eq!(refusal(Source::Server, &resized("FAILURE", 37)), failure(33));
}

#[test]
fn an_answer_is_no_request_and_a_request_no_answer() {
    for Golden { name, source, bytes } in all() {
        let (frame, _) = next_frame(source, &bytes).expect("golden").expect("whole");
        let number = frame.kind.number;
        for other in [Source::Module, Source::Server, Source::Peer].into_iter().filter(|other| *other != source) {
            assert_eq!(Message::decode(other, frame), Err(WireError::UnknownKind { number }), "{name} as {other:?}");
        }
    }
}

// ── each way to be malformed: between peers, section 2 ───────────────────────────────────────

#[test]
fn a_peer_message_of_a_size_that_its_type_cannot_have_is_refused() {
    // name of a frame, of its type, fewest and most bytes of the whole message
    let sizes = [
        ("PING", "PING", 36, 36),
        ("FIND NODE", "FIND NODE", 68, 68),
        ("FIND VALUE", "FIND VALUE", 69, 69),
        ("HELLO", "HELLO", 50, 114),
        ("GOODBYE", "GOODBYE", 4, 4),
        ("OFFER", "OFFER", 81, 22_536),
        ("SYNC", "SYNC", 100, 100),
        ("TIME", "TIME", 36, 36),
        ("TIME REPLY", "TIME REPLY", 44, 44),
        ("PING REPLY", "PING REPLY", 36, 36),
        ("STORE REPLY", "STORE REPLY", 78, 78),
        ("FIND NODE REPLY", "FIND NODE REPLY", 36, 1_036),
        ("WANT", "WANT", 36, 16_036),
        ("SYNC REPLY", "SYNC REPLY", 37, 22_537),
        ("ERROR", "ERROR", 38, 38),
        // the short form ends before they do
        ("STORE", "STORE", 89, 65_583),
        ("VALUE", "FIND VALUE REPLY", 89, 66_584),
    ];
    for (frame, name, min, max) in sizes {
        for size in [min - 1, max + 1].into_iter().filter(|size| (4..=65_535).contains(size)) {
            let header = resized(frame, u16::try_from(size).expect("a short form"));
            let expected = WireError::BodySize { name, found: size - 4, min: min - 4, max: max - 4 };
            assert_eq!(refusal(Source::Peer, &header[..4]), expected, "{size} bytes, refused at the header");
        }
    }
}

#[test]
fn the_long_form_is_refused_where_it_is_not_needed_not_known_or_too_large() {
    let long = |number: u16, size: u32| {
        let header = [&[0, 0], &number.to_be_bytes()[..], &size.to_be_bytes()].concat();
        refusal(Source::Peer, &header)
    };
    for size in [0, 7, 8, 96, 65_535, 65_539] {
        let expected = WireError::LongFormUnneeded { size: usize::try_from(size).expect("small") };
        assert_eq!(long(661, size), expected);
        assert_eq!(long(673, size), expected);
    }
    for (number, name) in [(660, "PING"), (664, "HELLO"), (665, "GOODBYE"), (666, "OFFER"), (677, "SYNC REPLY")] {
        assert_eq!(long(number, 65_540), WireError::LongFormOf { name });
    }
    let store = |found| WireError::BodySize { name: "STORE", found, min: 85, max: 65_579 };
    assert_eq!(long(661, 65_588), store(65_580));
    assert_eq!(long(661, u32::MAX), store(4_294_967_287));
    let value = |found| WireError::BodySize { name: "FIND VALUE REPLY", found, min: 85, max: 66_580 };
    assert_eq!(long(673, 66_589), value(66_581));
    assert_eq!(long(650, 65_540), WireError::UnknownKind { number: 650 });
}

#[test]
fn an_agent_that_is_not_utf8_is_refused() {
    let agent = |found| WireError::Field { field: "agent", found, expected: "UTF-8" };
    assert_eq!(refusal(Source::Peer, &with("HELLO", 50, &[0xff])), agent(0xff));
    assert_eq!(refusal(Source::Peer, &with("HELLO", 63, &[0xc3])), agent(0xc3), "it ends inside a letter");
}

/// Where the record block of the golden frames STORE and VALUE begins.
const IN_STORE: usize = 36;
const IN_VALUE: usize = 37;

/// What is wrong with the golden STORE and VALUE when the bytes of the record block at `at` are
/// replaced by `bytes`.
#[track_caller]
fn in_the_record_block(at: usize, bytes: &[u8]) -> WireError {
    let in_store = refusal(Source::Peer, &with("STORE", IN_STORE + at, bytes));
    let in_value = refusal(Source::Peer, &with("VALUE", IN_VALUE + at, bytes));
    assert_eq!(in_store, in_value);
    in_store
}

#[test]
fn a_ttl_of_zero_is_refused() {
    let expected = WireError::Field { field: "ttl", found: 0, expected: "1 to 65535" };
    assert_eq!(in_the_record_block(0, &[0, 0]), expected);
}

#[test]
fn a_replication_of_zero_is_refused() {
    let expected = WireError::Field { field: "replication", found: 0, expected: "1 to 255" };
    assert_eq!(in_the_record_block(2, &[0]), expected);
}

#[test]
fn flags_that_no_record_has_are_refused() {
    let flags = |found, expected| WireError::Field { field: "record flags", found, expected };
    for both in (0..=u8::MAX).filter(|flags| flags & 3 == 3) {
        assert_eq!(in_the_record_block(3, &[both]), flags(both.into(), "signed or hashed"));
    }
    for undefined in (0x10..=u8::MAX).filter(|flags| flags & 3 != 3) {
        let expected = flags(undefined.into(), "a value, a head or a plain tombstone");
        assert_eq!(in_the_record_block(3, &[undefined]), expected);
    }
    // a tombstone is no head, and only plain records leave one to others
    for strange in [4 | 8, 4 | 8 | 1, 4 | 1, 4 | 2] {
        let expected = flags(strange.into(), "a value, a head or a plain tombstone");
        assert_eq!(in_the_record_block(3, &[strange]), expected);
    }
}

#[test]
fn a_check_that_does_not_fit_the_value_is_refused() {
    let expected = WireError::Crc { sent: 0xcbf4_3927, computed: 0xcbf4_3926 };
    assert_eq!(in_the_record_block(48, &[0xcb, 0xf4, 0x39, 0x27]), expected);
    assert!(matches!(in_the_record_block(52, b"0"), WireError::Crc { sent: 0xcbf4_3926, .. }));
}

#[test]
fn a_store_of_a_head_or_a_tombstone_is_refused() {
    for (name, found) in [("VALUE, head", 8), ("VALUE, tombstone", 4)] {
        let reply = named(name).bytes;
        let block = &reply[IN_VALUE..];
        // one byte behind it, or the size alone would be refused
        let mut store = [&named("STORE").bytes[..IN_STORE], block, &[0]].concat();
        store[1] = 89;
        let expected = WireError::Field { field: "record flags", found, expected: "a record with its value" };
        assert_eq!(refusal(Source::Peer, &store), expected);
    }
}

#[test]
fn a_record_without_a_value_must_say_so_and_one_that_says_so_must_have_none() {
    let size = |found| WireError::Field { field: "value size", found, expected: "1 to 65495" };
    assert_eq!(refusal(Source::Peer, &resized("VALUE", 89)), size(0));
    assert_eq!(refusal(Source::Peer, &with("VALUE", IN_VALUE + 3, &[8])), WireError::Trailing { left: 9 });
    assert_eq!(refusal(Source::Peer, &with("VALUE", IN_VALUE + 3, &[4])), WireError::Trailing { left: 9 });
}

#[test]
fn a_value_larger_than_any_put_can_carry_is_refused() {
    // The room that contacts leave in the long form is not for the value.
    let mut reply = [&[0, 0, 2, 0xa1, 0, 0, 0, 0], &named("VALUE").bytes[4..]].concat();
    reply.resize(8 + 33 + 52 + 65_496, b'v');
    mend(&mut reply);
    let expected = WireError::Field { field: "value size", found: 65_496, expected: "1 to 65495" };
    assert_eq!(refusal(Source::Peer, &reply), expected);
}

#[test]
fn more_than_twenty_contacts_are_refused() {
    let nodes = resized("FIND NODE REPLY, largest", 36 + 21 * 50);
    let expected = WireError::BodySize { name: "FIND NODE REPLY", found: 1_082, min: 32, max: 1_032 };
    assert_eq!(refusal(Source::Peer, &nodes), expected);
    for count in (21..0x80).chain(0x80 + 21..=u8::MAX) {
        let expected = "at most 20 contacts, perhaps with bit 7";
        let expected = WireError::Field { field: "count", found: count.into(), expected };
        assert_eq!(refusal(Source::Peer, &with("VALUE, largest of all", 40, &[count])), expected);
    }
}

#[test]
fn contacts_that_are_counted_but_not_there_are_refused() {
    let expected = WireError::Truncated { field: "contacts", need: 1_000, left: 161 };
    assert_eq!(refusal(Source::Peer, &with("VALUE, with contacts", 36, &[20])), expected);
    // one too many swallows the record's first 50 bytes; of the other 11, four are read before its key
    let expected = WireError::Truncated { field: "key", need: 32, left: 7 };
    assert_eq!(refusal(Source::Peer, &with("VALUE, with contacts", 36, &[3])), expected);
}

#[test]
fn a_part_of_a_contact_a_key_or_an_entry_is_refused() {
    for (name, whole, item) in
        [("FIND NODE REPLY", 36, 50), ("WANT", 36, 32), ("OFFER", 36, 45), ("SYNC REPLY", 37, 45)]
    {
        for part in 1..item {
            let frame = resized(name, whole + item + part);
            assert_eq!(refusal(Source::Peer, &frame), WireError::Trailing { left: part.into() }, "{name}");
        }
    }
}

#[test]
fn an_empty_offer_and_lists_of_501_are_refused() {
    let size = |name, found, min, max| WireError::BodySize { name, found, min, max };
    assert_eq!(refusal(Source::Peer, &resized("OFFER", 36)), size("OFFER", 32, 77, 22_532));
    assert_eq!(refusal(Source::Peer, &resized("OFFER", 36 + 501 * 45)), size("OFFER", 22_577, 77, 22_532));
    assert_eq!(refusal(Source::Peer, &resized("WANT", 36 + 501 * 32)), size("WANT", 16_064, 32, 16_032));
    assert_eq!(refusal(Source::Peer, &resized("SYNC REPLY", 37 + 501 * 45)), size("SYNC REPLY", 22_578, 33, 22_533));
}

#[test]
fn flags_that_no_held_record_has_are_refused() {
    for flags in (0..=u8::MAX).filter(|flags| ![0, 1, 2, 4, 5, 6].contains(flags)) {
        let found = flags.into();
        let expected = WireError::Field { field: "flags", found, expected: "signed or hashed, or a tombstone" };
        assert_eq!(refusal(Source::Peer, &with("STORE REPLY", 69, &[flags])), expected);
        assert_eq!(refusal(Source::Peer, &with("OFFER", 68, &[flags])), expected);
        assert_eq!(
            refusal(Source::Peer, &with("OFFER, largest", 22_536 - 13, &[flags])),
            expected,
            "in the last entry"
        );
        assert_eq!(refusal(Source::Peer, &with("SYNC REPLY", 69, &[flags])), expected);
    }
}

#[test]
fn a_byte_that_names_none_of_its_choices_is_refused() {
    for found in 2..=u8::MAX {
        let field = |field, expected| WireError::Field { field, found: found.into(), expected };
        assert_eq!(refusal(Source::Peer, &with("STORE REPLY", 68, &[found])), field("outcome", "0 or 1"));
        assert_eq!(refusal(Source::Peer, &with("SYNC REPLY", 36, &[found])), field("more", "0 or 1"));
        if found > 7 {
            assert_eq!(refusal(Source::Peer, &with("FIND VALUE", 68, &[found])), field("want", "bits 0 to 2"));
        }
    }
}

/// A contact that was told in two ways would be two contacts: an IPv4 address has one form only.
#[test]
fn an_ipv4_contact_is_the_ipv4_address_and_an_ipv6_contact_is_not() {
    let bytes = named("FIND NODE REPLY").bytes;
    let (frame, _) = next_frame(Source::Peer, &bytes).expect("golden").expect("whole");
    let Ok(PeerMessage::Reply(_, Reply::Nodes(contacts))) = PeerMessage::decode(frame) else {
        panic!("golden");
    };
    let is_v4: Vec<bool> = contacts.iter().map(|contact| contact.address.is_ipv4()).collect();
    assert_eq!(is_v4, [true, false]);
}

/// The client of another server reads at most what a PUT can have brought there.
#[test]
fn an_answer_of_the_largest_size_is_read_whole() {
    let bytes = named("SUCCESS, largest").bytes;
    let (frame, _) = next_frame(Source::Server, &bytes).expect("golden").expect("whole");
    let Ok(ApiReply::Success { value, .. }) = ApiReply::decode(frame) else {
        panic!("golden");
    };
    assert_eq!(value.len(), 65_495);
}
