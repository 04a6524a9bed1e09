//! Signed and hashed records, and forgeries of them (`PROTOCOL.md` 3 and 4). The envelope is built here a
//! second time, by hand.

use dht::id::Key;
use dht::record::Class;
use dht::wire::api::{ApiRequest, Confirm, Put};
use ed25519_dalek::{Signer, SigningKey};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Harness, client_of};
use crate::common::client::{Answer, Client};
use crate::scripted_peer::connection::PeerConnection;
use crate::scripted_peer::message::{self, Record};
use crate::scripted_peer::tls::{Hash, hash};

const SIGNED: u8 = 1;
const HASHED: u8 = 2;

/// Forged and replayed records in one test.
const FORGED: usize = 100_000;

/// Requests in flight at the same time.
const PIPELINE: usize = 500;

/// The owner of signed records.
struct Owner(SigningKey);

impl Owner {
    fn named(name: &str) -> Self {
        Self(SigningKey::from_bytes(&hash(name.as_bytes())))
    }

    fn key(&self, salt: &[u8]) -> Hash {
        let size = u8::try_from(salt.len()).expect("a short salt");
        hash(&[b"dht-own-1", &self.0.verifying_key().to_bytes()[..], &[size], salt].concat())
    }

    /// A signed record with a TTL of an hour.
    fn record(&self, salt: &[u8], sequence: u64, payload: &[u8]) -> Record {
        self.record_for(self.key(salt), salt, sequence, 3600, payload)
    }

    /// As [`Self::record`], for any key and TTL.
    fn record_for(&self, key: Hash, salt: &[u8], sequence: u64, ttl: u16, payload: &[u8]) -> Record {
        let (sequence_bytes, ttl_bytes) = (sequence.to_be_bytes(), ttl.to_be_bytes());
        let signed = [b"dht-rec-1", &key[..], &sequence_bytes, &ttl_bytes, payload].concat();
        let signature = self.0.sign(&signed).to_bytes();
        let size = u8::try_from(salt.len()).expect("a short salt");
        let owner = self.0.verifying_key().to_bytes();
        let value = [&owner[..], &sequence_bytes, &ttl_bytes, &[size], salt, &signature, payload].concat();
        Record { ttl, flags: SIGNED, version: sequence, ..Record::new(key, value, 0) }
    }
}

/// The outcome of a STORE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Held,
    Larger { flags: u8, version: u64 },
    Error(u16),
}

fn read_stored(reply: &message::Message) -> Stored {
    let rest = reply.rest();
    match reply.kind {
        message::STORE_REPLY if rest[32] == 0 => Stored::Held,
        message::STORE_REPLY => Stored::Larger {
            flags: rest[33],
            version: u64::from_be_bytes(*rest[34..].first_chunk().expect("a version")),
        },
        message::ERROR => Stored::Error(u16::from_be_bytes(*rest.first_chunk().expect("a code"))),
        kind => panic!("{kind} is no answer to a STORE"),
    }
}

fn store(conn: &mut PeerConnection, record: &Record) -> Stored {
    read_stored(&conn.ask(message::STORE, &record.bytes()))
}

/// The record of `key` that the server holds.
fn held(conn: &mut PeerConnection, key: &Hash) -> Option<Record> {
    let reply = conn.ask(message::FIND_VALUE, &[&key[..], &[0]].concat());
    (reply.kind == message::FIND_VALUE_REPLY).then(|| Record::read(&reply.rest()[1..]))
}

fn checked(mut record: Record, change: impl FnOnce(&mut Vec<u8>)) -> Record {
    change(&mut record.value);
    record.check = crc32fast::hash(&record.value);
    record
}

/// One of the attempts to replace `genuine`, which `owner` signed with `salt`. It is never `genuine`
/// itself, nor a record that `owner` signed later.
fn forge(rng: &mut StdRng, owner: &Owner, other: &Owner, salt: &[u8], genuine: &Record) -> Record {
    let later = genuine.version + rng.random_range(1..1_000);
    let payload = rng.random::<[u8; 8]>();
    match rng.random_range(0..10) {
        0 => checked(owner.record(salt, later, &payload), |value| {
            let at = rng.random_range(0..value.len());
            value[at] ^= 1 << rng.random_range(0..8);
        }),
        1 => Record { key: rng.random(), ..owner.record(salt, later, &payload) },
        2 => owner.record(salt, genuine.version - rng.random_range(1..1_000_000), &payload),
        3 => Record { ttl: rng.random_range(60..3600), ..owner.record(salt, later, &payload) },
        4 => Record { version: later + 1, ..owner.record(salt, later, &payload) },
        5 => other.record_for(genuine.key, salt, later, 3600, &payload),
        6 => Record { key: genuine.key, ..owner.record(&payload, later, &payload) },
        7 => checked(owner.record(salt, later, &payload), |value| {
            value.truncate(rng.random_range(1..value.len()));
        }),
        8 => Record { flags: HASHED, version: 0, ..Record::new(genuine.key, payload.to_vec(), 0) },
        _ => Record { version: later, ..Record::new(genuine.key, payload.to_vec(), 0) },
    }
}

#[test]
fn of_a_hundred_thousand_forged_and_replayed_records_none_is_stored() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the forger");
    let (owner, other) = (Owner::named("the owner"), Owner::named("another"));
    let genuine = owner.record(b"salt", harness.wall << 16, b"genuine");
    assert_eq!(store(&mut conn, &genuine), Stored::Held);

    let mut rng = StdRng::seed_from_u64(4);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..FORGED / PIPELINE {
        for _ in 0..PIPELINE {
            let forged = forge(&mut rng, &owner, &other, b"salt", &genuine);
            conn.request(message::STORE, &forged.bytes());
        }
        for _ in 0..PIPELINE {
            let stored = read_stored(&conn.receive().expect("a reply"));
            assert!(
                matches!(stored, Stored::Error(403) | Stored::Larger { flags: SIGNED, .. }),
                "a forged record: {stored:?}"
            );
            *seen.entry(matches!(stored, Stored::Error(_))).or_insert(0) += 1;
        }
    }
    assert!(seen.values().all(|count| *count > FORGED / 10), "both refusals were met: {seen:?}");
    let record = held(&mut conn, &genuine.key).expect("it is still held");
    assert_eq!((record.version, &record.value), (genuine.version, &genuine.value));
    let found = Client::connect(harness.server.api()).get(Key::new(genuine.key));
    assert_eq!(found, Some(genuine.value));
}

#[test]
fn only_the_owner_replaces_or_deletes_a_signed_record() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the messenger");
    let owner = Owner::named("the owner");
    let version = harness.wall << 16;
    for (later, payload) in [(0, &b"first"[..]), (1, b"second")] {
        let record = owner.record(b"", version + later, payload);
        assert_eq!(store(&mut conn, &record), Stored::Held);
        assert_eq!(Client::connect(harness.server.api()).get(Key::new(record.key)), Some(record.value));
    }
    let last = owner.record(b"", version + 2, b"");
    assert_eq!(store(&mut conn, &last), Stored::Held);
    assert_eq!(Client::connect(harness.server.api()).get(Key::new(last.key)), None, "an empty payload deletes");
    let replay = owner.record(b"", version + 1, b"second");
    assert_eq!(store(&mut conn, &replay), Stored::Larger { flags: SIGNED, version: version + 2 });
}

#[test]
fn a_plain_record_never_replaces_a_signed_one() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the messenger");
    let signed = Owner::named("the owner").record(b"", harness.wall << 16, b"signed");
    assert_eq!(store(&mut conn, &signed), Stored::Held);

    let plain = Record::new(signed.key, b"plain".to_vec(), harness.wall + 60_000);
    assert_eq!(store(&mut conn, &plain), Stored::Larger { flags: SIGNED, version: signed.version });
    let mut client = Client::connect(harness.server.api());
    assert_eq!(client.put_confirmed(Key::new(signed.key), b"plain"), Answer::Failure(Key::new(signed.key)));
    client.put(Key::new(signed.key), b"plain, not confirmed");
    assert_eq!(client.get(Key::new(signed.key)), Some(signed.value));
}

#[test]
fn a_version_of_the_far_future_does_not_lock_a_key() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the prophet");
    let mut client = Client::connect(harness.server.api());
    let key = [9; 32];
    for version in [u64::MAX, (harness.wall + 11 * 60_000) << 16] {
        let record = Record { version, ..Record::new(key, b"future".to_vec(), 0) };
        assert_eq!(store(&mut conn, &record), Stored::Error(425));
        let signed = Owner::named("the owner").record(b"", version, b"future");
        assert_eq!(store(&mut conn, &signed), Stored::Error(425));
    }
    assert_eq!(client.put_confirmed(Key::new(key), b"honest"), Answer::Success(Key::new(key), Vec::new()));
    assert_eq!(client.get(Key::new(key)), Some(b"honest".to_vec()));
}

#[test]
fn a_put_that_does_not_verify_is_refused() {
    let harness = Harness::start("");
    let mut client = Client::connect(harness.server.api());
    let signed = Owner::named("the owner").record(b"", harness.wall << 16, b"payload");
    let mut ask = |class, key, value: &[u8]| {
        let key = Key::new(key);
        let put = Put { ttl: 0, replication: 0, confirm: Confirm::Yes, class, key, value };
        client.ask(&ApiRequest::Put(put)) == Answer::Success(key, Vec::new())
    };
    let mut changed = signed.value.clone();
    *changed.last_mut().expect("a payload") ^= 1;
    assert!(!ask(Class::Signed, signed.key, &changed));
    assert!(!ask(Class::Signed, [1; 32], &signed.value));
    assert!(!ask(Class::Hashed, [1; 32], b"value"));
    assert!(ask(Class::Signed, signed.key, &signed.value));
    assert!(ask(Class::Hashed, hash(b"value"), b"value"));
    assert_eq!(client.get(Key::new(hash(b"value"))), Some(b"value".to_vec()));
    assert_eq!(client.get(Key::new(signed.key)), Some(signed.value));
}

/// The bytes whose digest is an owner's key would otherwise occupy that key as a hashed record.
#[test]
fn a_hashed_record_at_the_key_of_an_owner_is_refused() {
    let harness = Harness::start("");
    let mut conn = client_of(harness.server.p2p(), "the squatter");
    let owner = Owner::named("the owner");
    let preimage = [b"dht-own-1", &owner.0.verifying_key().to_bytes()[..], &[0]].concat();
    assert_eq!(hash(&preimage), owner.key(b""));
    let squat = Record { flags: HASHED, version: 0, ..Record::new(owner.key(b""), preimage, 0) };
    assert_eq!(store(&mut conn, &squat), Stored::Error(403));
}

#[test]
fn a_forged_record_of_a_neighbour_is_not_relayed_to_a_client() {
    let harness = Harness::start("");
    let owner = Owner::named("the owner");
    let mut forged = owner.record(b"", harness.wall << 16, b"genuine");
    *forged.value.last_mut().expect("a payload") ^= 1;
    forged.check = crc32fast::hash(&forged.value);
    let _liar = harness.introduce("the liar", Some(forged.clone()));
    let mut client = Client::connect(harness.server.api());
    assert_eq!(client.get(Key::new(forged.key)), None);

    let genuine = owner.record(b"", harness.wall << 16, b"genuine");
    let _honest = harness.introduce("the honest one", Some(genuine.clone()));
    assert_eq!(client.get(Key::new(genuine.key)), Some(genuine.value));
}
