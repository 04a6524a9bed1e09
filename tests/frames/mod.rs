//! The golden frames: each message of `PROTOCOL.md` 1 and 2, written by hand from its tables.
//!
//! Nothing here was made by the encoder. Values are the nine digits whose CRC-32 is known to all
//! the world, `cbf43926`; these digits in an envelope, signed by another program with the key of
//! RFC 8032, 7.1, test 1; or a run of the letter `v`. The checks of the last two were computed by
//! another program.

use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest};
use dht::wire::codec::WireError;
use dht::wire::frame::Frame;
use dht::wire::peer::PeerMessage;

/// A message as it goes over the wire.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) source: Source,
    pub(crate) bytes: Vec<u8>,
}

/// Any message of either port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Request(ApiRequest<'a>),
    Reply(ApiReply<'a>),
    Peer(PeerMessage<'a>),
}

impl<'a> Message<'a> {
    pub(crate) fn decode(source: Source, frame: Frame<'a>) -> Result<Self, WireError> {
        match source {
            Source::Module => ApiRequest::decode(frame).map(Message::Request),
            Source::Server => ApiReply::decode(frame).map(Message::Reply),
            Source::Peer => PeerMessage::decode(frame).map(Message::Peer),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Message::Request(request) => request.encode(&mut out),
            Message::Reply(reply) => reply.encode(&mut out),
            Message::Peer(message) => message.encode(&mut out),
        }
        out
    }
}

// What the frames are written with.
const RPC: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf b0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
const KEY: &str = "000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1eff";
const NETWORK: &str = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf d0d1d2d3d4d5d6d7d8d9dadbdcdddedf";
/// 192.0.2.7:7402.
const CONTACT_V4: &str =
    "00000000000000000000ffffc0000207 1cea 1111111111111111111111111111111111111111111111111111111111111111";
/// `[2001:db8::9]:7402`.
const CONTACT_V6: &str =
    "20010db8000000000000000000000009 1cea 2222222222222222222222222222222222222222222222222222222222222222";
/// A plain record of the version 018bcfe568000007.
const ENTRY: &str = "000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f 00 018bcfe568000007 cbf43926";
/// The tombstone of a signed record.
const TOMBSTONE_ENTRY: &str =
    "ff0102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1eff 05 018bcfe568000008 00000000";
/// TTL 3600, replication 8, flags 0.
const PLAIN: &str = "0e10 08 00";
/// Version, age 1 000 ms.
const VERSION_AND_AGE: &str = "018bcfe568000007 000003e8";
/// The check of `123456789`, and the value.
const NINE: &str = "cbf43926 313233343536373839";

/// The digits' own key: their SHA-256.
const NINE_KEY: &str = "15e2b0d3c33891ebb0f1ef609ec41942 0c20e320ce94c65fbc8c3312448eb225";
/// The key of the owner with the salt `salt`.
const OWNED_KEY: &str = "8409e9612de9df5aa80e22a6199bfc31 3650a4e4d34ef358961e7eaa0d457814";
/// The digits as their owner sealed them: public key, sequence, TTL, salt, signature, payload.
pub(crate) const ENVELOPE: &str = "d75a980182b10ab7d54bfed3c964073a 0ee172f3daa62325af021a68f707511a \
    018bcfe568000007 0e10 04 73616c74 \
    f0c0fd27826b1cc9aee3750a6ebfce30 f86ee69744115228095c739bcd3b3308 \
    49680ccf73c48ebe60538c707b98e0e8 690138b8b1131ab6a3a748dfa56c4604 313233343536373839";

/// All golden frames.
pub(crate) fn all() -> Vec<Golden> {
    let mut all = module_frames();
    all.extend(server_frames());
    all.extend(meeting_frames());
    all.extend(store_frames());
    all.extend(request_frames());
    all.extend(reply_frames());
    all.extend(value_frames());
    all
}

/// The golden frame of that name.
pub(crate) fn named(name: &str) -> Golden {
    all().into_iter().find(|golden| golden.name == name).expect("a name that stands below")
}

fn module_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str], letters| golden(Source::Module, name, parts, letters);
    vec![
        // ttl 60, replication 3
        frame("PUT", &["0031 028a", "003c 03 00", KEY, "313233343536373839"], 0),
        frame("PUT, confirm", &["0029 028a", "0000 00 01", KEY], 1),
        // TTL 0: what the envelope says
        frame("PUT, signed", &["00a0 028a", "0000 03 02", OWNED_KEY, ENVELOPE], 0),
        frame("PUT, signed, confirm", &["00a0 028a", "0e10 03 03", OWNED_KEY, ENVELOPE], 0),
        frame("PUT, hashed", &["0031 028a", "003c 03 04", NINE_KEY, "313233343536373839"], 0),
        frame("PUT, hashed, confirm", &["0031 028a", "003c 03 05", NINE_KEY, "313233343536373839"], 0),
        frame("PUT, largest", &["ffff 028a", "ffff ff 00", KEY], 65_495),
        frame("GET", &["0024 028b", KEY], 0),
    ]
}

fn server_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str], letters| golden(Source::Server, name, parts, letters);
    vec![
        frame("SUCCESS", &["002d 028c", KEY, "313233343536373839"], 0),
        frame("SUCCESS, confirmed", &["0024 028c", KEY], 0),
        frame("SUCCESS, largest", &["fffb 028c", KEY], 65_495),
        frame("FAILURE", &["0024 028d", KEY], 0),
    ]
}

/// HELLO, GOODBYE and BRIDGES, which carry no rpc id.
fn meeting_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str], letters| golden(Source::Peer, name, parts, letters);
    // protocol 1, serving, port 7402, 1 700 000 000 000 ms since 1970, "dht-server/0.1"
    let agent = "6468742d7365727665722f302e31";
    vec![
        frame("HELLO", &["0040 0298", "0001 0001", NETWORK, "1cea", "0000018bcfe56800", agent], 0),
        // a client of another protocol, with unknown flags, without an agent
        frame("HELLO, shortest", &["0032 0298", "0002 8002", NETWORK, "0000", "0000000000000000"], 0),
        frame("HELLO, longest", &["0072 0298", "0001 0001", NETWORK, "1cea", "0000018bcfe56800"], 64),
        // serving, both families, a bridge
        frame("HELLO, bridge", &["0040 0298", "0001 000f", NETWORK, "1cea", "0000018bcfe56800", agent], 0),
        frame("GOODBYE", &["0004 0299"], 0),
        frame("BRIDGES", &["006a 02a2", "0003", CONTACT_V4, CONTACT_V6], 0),
        frame("BRIDGES, none", &["0006 02a2", "000f"], 0),
        frame("BRIDGES, largest", &["00ce 02a2", "0005", &CONTACT_V6.repeat(4)], 0),
    ]
}

fn store_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str], letters| golden(Source::Peer, name, parts, letters);
    vec![
        frame("STORE", &["0061 0295", RPC, PLAIN, KEY, VERSION_AND_AGE, NINE], 0),
        frame("STORE, signed", &["00d0 0295", RPC, "0e10 08 01", OWNED_KEY, VERSION_AND_AGE, "0a54d40d", ENVELOPE], 0),
        // version 0, TTL 1, replication 20, all of its age
        frame("STORE, hashed", &["0061 0295", RPC, "0001 14 02", NINE_KEY, "0000000000000000 ffffffff", NINE], 0),
        frame("STORE, largest short", &["ffff 0295", RPC, PLAIN, KEY, VERSION_AND_AGE, "c8c30403"], 65_447),
        frame("STORE, smallest long", &["0000 0295 00010004", RPC, PLAIN, KEY, VERSION_AND_AGE, "f2a5a93a"], 65_448),
        frame("STORE, largest", &["0000 0295 00010033", RPC, PLAIN, KEY, VERSION_AND_AGE, "5aa307aa"], 65_495),
        frame("RELAY", &["0062 029c", RPC, "06", PLAIN, KEY, VERSION_AND_AGE, NINE], 0),
        frame("RELAY, largest short", &["ffff 029c", RPC, "04", PLAIN, KEY, VERSION_AND_AGE, "1b3ff362"], 65_446),
        frame("RELAY, largest", &["0000 029c 00010034", RPC, "04", PLAIN, KEY, VERSION_AND_AGE, "5aa307aa"], 65_495),
    ]
}

fn request_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str]| golden(Source::Peer, name, parts, 0);
    vec![
        frame("PING", &["0024 0294", RPC]),
        frame("FIND NODE", &["0044 0296", RPC, KEY]),
        frame("FIND VALUE", &["0045 0297", RPC, KEY, "00"]),
        frame("FIND VALUE, contacts", &["0045 0297", RPC, KEY, "01"]),
        frame("FIND VALUE, head", &["0045 0297", RPC, KEY, "02"]),
        frame("FIND VALUE, contacts and head", &["0045 0297", RPC, KEY, "03"]),
        frame("FIND VALUE, catching up", &["0045 0297", RPC, KEY, "04"]),
        frame("OFFER", &["007e 029a", RPC, ENTRY, TOMBSTONE_ENTRY]),
        frame("OFFER, largest", &["5808 029a", RPC, &ENTRY.repeat(500)]),
        frame("SYNC", &["0064 029b", RPC, KEY, OTHER_KEY]),
        frame("TIME", &["0024 029d", RPC]),
    ]
}

fn reply_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str]| golden(Source::Peer, name, parts, 0);
    vec![
        frame("PING REPLY", &["0024 029e", RPC]),
        frame("STORE REPLY", &["004e 029f", RPC, KEY, "00 00 018bcfe568000007"]),
        // a larger one, which is signed
        frame("STORE REPLY, larger", &["004e 029f", RPC, KEY, "01 01 018bcfe568000008"]),
        frame("STORE REPLY, hashed", &["004e 029f", RPC, KEY, "00 02 0000000000000000"]),
        frame("STORE REPLY, tombstone", &["004e 029f", RPC, KEY, "01 04 018bcfe568000008"]),
        frame("FIND NODE REPLY", &["0088 02a0", RPC, CONTACT_V4, CONTACT_V6]),
        frame("FIND NODE REPLY, no contacts", &["0024 02a0", RPC]),
        frame("FIND NODE REPLY, largest", &["040c 02a0", RPC, &CONTACT_V6.repeat(20)]),
        frame("WANT", &["0064 02a4", RPC, OTHER_KEY, KEY]),
        frame("WANT, nothing", &["0024 02a4", RPC]),
        frame("WANT, largest", &["3ea4 02a4", RPC, &KEY.repeat(500)]),
        frame("SYNC REPLY", &["007f 02a5", RPC, "01", ENTRY, TOMBSTONE_ENTRY]),
        frame("SYNC REPLY, nothing", &["0025 02a5", RPC, "00"]),
        frame("SYNC REPLY, largest", &["5809 02a5", RPC, "00", &ENTRY.repeat(500)]),
        // 1 700 000 000 000 ms since 1970
        frame("TIME REPLY", &["002c 02a7", RPC, "0000018bcfe56800"]),
        frame("ERROR", &["0026 02a8", RPC, "0196"]),
        // an answer to no request, with an unknown code
        frame("ERROR, unknown", &["0026 02a8", &"00".repeat(32), "ffff"]),
    ]
}

/// FIND VALUE REPLY: the one reply with a value.
fn value_frames() -> Vec<Golden> {
    let frame = |name, parts: &[&str], letters| golden(Source::Peer, name, parts, letters);
    let twenty = CONTACT_V4.repeat(20);
    vec![
        frame("VALUE", &["0062 02a1", RPC, "00", PLAIN, KEY, VERSION_AND_AGE, NINE], 0),
        frame(
            "VALUE, with contacts",
            &["00c6 02a1", RPC, "02", CONTACT_V4, CONTACT_V6, PLAIN, KEY, VERSION_AND_AGE, NINE],
            0,
        ),
        frame(
            "VALUE, tentative",
            &["00c6 02a1", RPC, "82", CONTACT_V4, CONTACT_V6, PLAIN, KEY, VERSION_AND_AGE, NINE],
            0,
        ),
        frame("VALUE, head", &["0059 02a1", RPC, "00", "0e10 08 08", KEY, VERSION_AND_AGE, "cbf43926"], 0),
        frame(
            "VALUE, signed head with a contact",
            &["008b 02a1", RPC, "01", CONTACT_V6, "0e10 08 09", KEY, VERSION_AND_AGE, "cbf43926"],
            0,
        ),
        frame("VALUE, tombstone", &["0059 02a1", RPC, "00", "0e10 08 04", KEY, VERSION_AND_AGE, "cbf43926"], 0),
        frame("VALUE, largest short", &["ffff 02a1", RPC, "00", PLAIN, KEY, VERSION_AND_AGE, "1b3ff362"], 65_446),
        frame(
            "VALUE, smallest long",
            &["0000 02a1 00010004", RPC, "00", PLAIN, KEY, VERSION_AND_AGE, "c8c30403"],
            65_447,
        ),
        frame(
            "VALUE, largest of all",
            &["0000 02a1 0001041c", RPC, "14", &twenty, PLAIN, KEY, VERSION_AND_AGE, "5aa307aa"],
            65_495,
        ),
    ]
}

/// The frame written as `parts`, in hex, with `letters` times the letter `v` behind them.
fn golden(source: Source, name: &'static str, parts: &[&str], letters: usize) -> Golden {
    let mut bytes = hex(&parts.concat());
    bytes.resize(bytes.len() + letters, b'v');
    Golden { name, source, bytes }
}

/// The bytes that the digits of `text` say; blanks only group them.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex is ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two hex digits")).collect()
}
