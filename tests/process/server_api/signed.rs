//! Values that certify themselves: `PROTOCOL.md` 1, flags 1 and 2; `PROTOCOL.md` 4; what `dht-cli` makes
//! and believes of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use dht::id::Key;
use dht::identity::PublicKey;
use dht::record::envelope::{hashed_key, owned_key, seal};
use dht::record::{Class, Ttl, Version};
use dht::time::WallTime;
use dht::wire::Source;
use dht::wire::api::{ApiReply, ApiRequest, Confirm, Put};
use dht::wire::frame::next_frame;
use ed25519_dalek::SigningKey;

use super::programs::{dht_cli, dht_cli_fed};
use crate::common::client::{Answer, Client, key};
use crate::common::process::Finished;
use crate::common::{PATIENCE, Scratch, Server};

// ── signing ──────────────────────────────────────────────────────────────────────────────────

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

/// The key of [`owner`] without a salt.
fn own_key() -> Key {
    owned_key(&PublicKey::of(&owner()), b"")
}

fn ttl(secs: u16) -> Ttl {
    Ttl::from_secs(secs).expect("not zero")
}

/// The version of the moment `millis` milliseconds from now.
#[expect(clippy::disallowed_methods, reason = "versions speak of the calendar, and the server reads it")]
fn version_in(millis: i64) -> Version {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later than 1970").as_millis();
    let then = u64::try_from(now).expect("64 bits of milliseconds").saturating_add_signed(millis);
    Version::draw(WallTime::from_millis(then), 0, None)
}

/// An envelope of [`owner`] with a TTL of a minute.
fn sealed(version: Version, payload: &[u8]) -> Vec<u8> {
    seal(&owner(), version, ttl(60), b"", payload)
}

/// PUTs `value` and waits for the answer; returns whether it was SUCCESS.
fn is_taken(client: &mut Client, class: Class, key: Key, ttl: u16, value: &[u8]) -> bool {
    let answer = client.ask(&ApiRequest::Put(Put { ttl, replication: 1, confirm: Confirm::Yes, class, key, value }));
    assert!(
        matches!(&answer, Answer::Success(of, empty) if *of == key && empty.is_empty())
            || answer == Answer::Failure(key)
    );
    answer != Answer::Failure(key)
}

// ── values that the server accepts ───────────────────────────────────────────────────────────

#[test]
fn a_signed_value_is_served_unchanged_and_only_its_owner_replaces_it() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let first = sealed(version_in(-1_000), b"first");
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &first));
    assert!(client.get(own_key()) == Some(first.clone()));

    assert!(!is_taken(&mut client, Class::Plain, own_key(), 60, b"anybody"));
    assert!(client.get(own_key()) == Some(first), "a plain value does not replace it");

    let second = sealed(version_in(0), b"second");
    assert!(is_taken(&mut client, Class::Signed, own_key(), 60, &second), "the PUT may say the TTL too");
    assert!(client.get(own_key()) == Some(second));
}

#[test]
fn a_signed_value_replaces_a_plain_one() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    client.put(own_key(), b"anybody was here");
    let value = sealed(version_in(-60_000), b"mine");
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &value), "of whatever version");
    assert!(client.get(own_key()) == Some(value));
}

#[test]
fn a_replay_of_an_older_signed_value_is_refused() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let (old, new) = (sealed(version_in(-2_000), b"old"), sealed(version_in(-1_000), b"new"));
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &old));
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &new));
    assert!(!is_taken(&mut client, Class::Signed, own_key(), 0, &old), "a replay");
    assert!(client.get(own_key()) == Some(new));
}

#[test]
fn a_value_that_does_not_verify_is_refused_and_the_connection_stays() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let value = sealed(version_in(0), b"payload");
    let changed = |at: usize| {
        let mut changed = value.clone();
        changed[at] ^= 1;
        changed
    };
    // Public key, sequence, TTL, salt length, signature, payload.
    for at in [0, 32, 41, 42, 43, 106, 107] {
        assert!(!is_taken(&mut client, Class::Signed, own_key(), 0, &changed(at)), "byte {at}");
    }
    assert!(!is_taken(&mut client, Class::Signed, own_key(), 0, &value[..106]), "no envelope");
    assert!(!is_taken(&mut client, Class::Signed, key("another key"), 0, &value));
    assert!(!is_taken(&mut client, Class::Signed, own_key(), 61, &value), "another TTL than was signed");
    assert_eq!(client.get(own_key()), None);
    assert_eq!(client.get(key("another key")), None);
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &value), "as it was sealed it is taken");
}

#[test]
fn a_signed_value_of_the_far_future_does_not_lock_its_key() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    for far in [Version::from_bits(u64::MAX), version_in(11 * 60_000)] {
        assert!(!is_taken(&mut client, Class::Signed, own_key(), 0, &sealed(far, b"for ever")));
    }
    let value = sealed(version_in(0), b"today");
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &value));
    assert!(client.get(own_key()) == Some(value));
}

#[test]
fn an_empty_payload_deletes_the_value() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &sealed(version_in(-2_000), b"payload")));
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &sealed(version_in(-1_000), b"")));
    assert_eq!(client.get(own_key()), None);
    assert!(!is_taken(&mut client, Class::Plain, own_key(), 60, b"anybody"), "the key is still its owner's");
    assert_eq!(client.get(own_key()), None);
    let again = sealed(version_in(0), b"again");
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &again));
    assert!(client.get(own_key()) == Some(again));
}

#[test]
fn a_hashed_value_is_stored_only_at_its_digest_and_never_replaced() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let value = b"what it says is what it is";
    let digest = hashed_key(value);
    assert!(!is_taken(&mut client, Class::Hashed, key("elsewhere"), 60, value));
    assert_eq!(client.get(key("elsewhere")), None);

    assert!(is_taken(&mut client, Class::Hashed, digest, 60, value));
    assert!(!is_taken(&mut client, Class::Plain, digest, 60, b"something else"));
    assert_eq!(client.get(digest).as_deref(), Some(&value[..]));
    assert!(is_taken(&mut client, Class::Hashed, digest, 60, value), "the same bytes may come again");
}

/// The bytes whose digest is an owner's key are no valid hashed value.
#[test]
fn a_hashed_value_at_the_key_of_an_owner_is_refused() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let trap = [&b"dht-own-1"[..], PublicKey::of(&owner()).as_bytes(), &[0]].concat();
    assert_eq!(hashed_key(&trap), own_key());
    assert!(!is_taken(&mut client, Class::Hashed, own_key(), 60, &trap));
    assert_eq!(client.get(own_key()), None);
}

// ── dht-cli ──────────────────────────────────────────────────────────────────────────────────

/// A key file, and its public key in hex.
struct KeyFile {
    scratch: Scratch,
    public: String,
}

impl KeyFile {
    /// Makes a key file, without a node.
    fn generate() -> Self {
        let scratch = Scratch::new();
        let made = dht_cli(nobody(), &["keygen", scratch.path("key.pem").to_str().expect("a plain name")]);
        assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
        Self { scratch, public: line_of(&made) }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path("key.pem")
    }

    fn name(&self) -> String {
        self.path().to_str().expect("a plain name").to_owned()
    }
}

/// An address that `dht-cli` must not connect to.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

/// The only line that a program printed.
fn line_of(finished: &Finished) -> String {
    let text = String::from_utf8(finished.stdout.clone()).expect("text");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn dht_cli_makes_a_private_key_file_and_never_overwrites_one() {
    let file = KeyFile::generate();
    assert!(PublicKey::from_hex(&file.public).is_some());
    let mode = std::fs::metadata(file.path()).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(line_of(&dht_cli(nobody(), &["pubkey", &file.name()])), file.public);

    let again = dht_cli(nobody(), &["keygen", &file.name()]);
    assert_eq!((again.code, &again.stdout[..]), (Some(2), &b""[..]));
    assert!(again.stderr.contains("is there already, and is left as it is"), "{}", again.stderr);
    assert_eq!(line_of(&dht_cli(nobody(), &["pubkey", &file.name()])), file.public);
}

#[test]
fn dht_cli_reports_an_unusable_key_file_before_it_connects() {
    let scratch = Scratch::new();
    let rsa = "-----BEGIN RSA PRIVATE KEY-----\nMAoCAQACAQECAQM=\n-----END RSA PRIVATE KEY-----\n";
    for (file, fault) in [
        (scratch.write("rsa.pem", rsa), "is no Ed25519 key, expected PKCS#8 in PEM"),
        (scratch.write("large.pem", &"x".repeat(100_000)), "has more than 65536 bytes, expected an Ed25519 key"),
        (scratch.path("nowhere.pem"), "nowhere.pem: "),
    ] {
        let file = file.to_str().expect("a plain name");
        for arguments in [&["put", "--sign", file, "v"][..], &["delete", "--sign", file], &["pubkey", file]] {
            let refused = dht_cli(nobody(), arguments);
            assert_eq!((refused.code, &refused.stdout[..]), (Some(2), &b""[..]), "{arguments:?}");
            assert!(refused.stderr.contains(fault), "{arguments:?}: {}", refused.stderr);
        }
    }
}

#[test]
fn dht_cli_gets_its_signed_value_and_names_the_owner() {
    let server = Server::start("");
    let file = KeyFile::generate();
    let payload: Vec<u8> = (0..=u8::MAX).collect();
    let put = dht_cli_fed(server.api(), &["put", "--sign", &file.name(), "-", "--confirm"], &payload);
    assert_eq!((put.code, put.stderr.as_str()), (Some(0), ""));
    let owner = PublicKey::from_hex(&file.public).expect("64 digits");
    assert_eq!(line_of(&put), owned_key(&owner, b"").to_string());

    let get = dht_cli(server.api(), &["get", "--signed", &file.public]);
    assert_eq!(get.code, Some(0), "{}", get.stderr);
    assert!(get.stdout == payload);
    assert!(get.stderr.starts_with(&format!("signed by {}, sequence ", file.public)), "{}", get.stderr);
}

#[test]
fn dht_cli_replaces_and_deletes_its_signed_value() {
    let server = Server::start("");
    let file = KeyFile::generate();
    let payload = || dht_cli(server.api(), &["get", "--signed", &file.public]);
    for value in ["first", "second", "third"] {
        assert_eq!(dht_cli(server.api(), &["put", "--sign", &file.name(), value]).code, Some(0));
        assert_eq!(payload().stdout, value.as_bytes());
    }
    let delete = dht_cli(server.api(), &["delete", "--sign", &file.name(), "--confirm"]);
    assert_eq!((delete.code, delete.stderr.as_str()), (Some(0), ""));
    let gone = payload();
    assert_eq!((gone.code, &gone.stdout[..]), (Some(1), &b""[..]));
    assert!(gone.stderr.contains("not found"), "{}", gone.stderr);

    assert_eq!(dht_cli(server.api(), &["put", "--sign", &file.name(), "again", "--confirm"]).code, Some(0));
    assert_eq!(payload().stdout, b"again");
}

#[test]
fn dht_cli_stores_values_of_one_owner_under_different_salts() {
    let server = Server::start("");
    let file = KeyFile::generate();
    for salt in ["one", "two"] {
        let put = dht_cli(server.api(), &["put", "--sign", &file.name(), "--salt", salt, salt, "--confirm"]);
        assert_eq!(put.code, Some(0), "{}", put.stderr);
    }
    for salt in ["one", "two"] {
        let get = dht_cli(server.api(), &["get", "--signed", &file.public, "--salt", salt]);
        assert_eq!(get.stdout, salt.as_bytes());
    }
    assert_eq!(dht_cli(server.api(), &["get", "--signed", &file.public]).code, Some(1));
}

/// The local clock may be behind the clock of the last writer.
#[test]
fn dht_cli_signs_with_a_sequence_above_the_stored_one() {
    let server = Server::start("");
    let scratch = Scratch::new();
    let file = scratch.write("key.pem", &dht::identity::key_to_pem(&owner()));
    let file = file.to_str().expect("a plain name");
    let ahead = version_in(5 * 60_000);
    let mut client = Client::connect(server.api());
    assert!(is_taken(&mut client, Class::Signed, own_key(), 0, &sealed(ahead, b"ahead")));
    let put = dht_cli(server.api(), &["put", "--sign", file, "further", "--confirm"]);
    assert_eq!(put.code, Some(0), "{}", put.stderr);
    let get = dht_cli(server.api(), &["get", "--signed", &PublicKey::of(&owner()).to_string()]);
    assert_eq!(get.stdout, b"further");
    assert!(get.stderr.contains(&format!("sequence {}", ahead.bits() + 1)), "{}", get.stderr);
}

#[test]
fn dht_cli_gets_its_hashed_value() {
    let server = Server::start("");
    let put = dht_cli(server.api(), &["put", "--hashed", "123456789", "--confirm"]);
    assert_eq!((put.code, put.stderr.as_str()), (Some(0), ""));
    let digest = line_of(&put);
    assert_eq!(digest, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
    for arguments in [["get", "--hashed", &digest], ["get", "--raw-key", &digest]] {
        let get = dht_cli(server.api(), &arguments);
        assert_eq!((get.code, &get.stdout[..], get.stderr.as_str()), (Some(0), &b"123456789"[..], ""));
    }
}

// ── dht-cli with a lying or an old node ──────────────────────────────────────────────────────

/// A node that answers the requests of one connection as the test says, and closes it where the test has
/// no answer.
struct FakeNode {
    api: SocketAddr,
    thread: JoinHandle<()>,
}

impl FakeNode {
    fn start(answer: impl Fn(ApiRequest<'_>) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let api = listener.local_addr().expect("it is bound");
        let thread = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            client.set_read_timeout(Some(PATIENCE)).expect("a bound that is not zero");
            let mut inbox = Vec::new();
            let mut chunk = [0; 4096];
            loop {
                while let Some((frame, size)) = next_frame(Source::Module, &inbox).expect("dht-cli speaks the protocol")
                {
                    let request = ApiRequest::decode(frame).expect("dht-cli speaks the protocol");
                    let Some(answer) = answer(request) else { return };
                    client.write_all(&answer).expect("dht-cli reads");
                    inbox.drain(..size);
                }
                match client.read(&mut chunk).expect("dht-cli ends in time") {
                    0 => return,
                    count => inbox.extend_from_slice(&chunk[..count]),
                }
            }
        });
        Self { api, thread }
    }

    /// Runs `dht-cli` against it.
    fn run_cli(self, arguments: &[&str]) -> Finished {
        let finished = dht_cli(self.api, arguments);
        self.thread.join().expect("it has played its part");
        finished
    }
}

fn bytes_of(reply: &ApiReply<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    reply.encode(&mut bytes);
    bytes
}

/// A fake node that has `value` for every key.
fn with_value(value: Vec<u8>) -> FakeNode {
    FakeNode::start(move |request| match request {
        ApiRequest::Get { key } => Some(bytes_of(&ApiReply::Success { key, value: &value })),
        ApiRequest::Put(_) => None,
    })
}

#[test]
fn dht_cli_rejects_a_value_that_does_not_verify() {
    let public = PublicKey::of(&owner()).to_string();
    let mut forged = sealed(version_in(0), b"payload");
    forged[110] ^= 1;
    let another = seal(&SigningKey::from_bytes(&[7; 32]), version_in(0), ttl(60), b"", b"payload");
    for (value, fault) in [
        (forged, "the signature is not the owner's"),
        (another, "the value belongs to the key"),
        (b"plain".to_vec(), "no envelope"),
    ] {
        let refused = with_value(value).run_cli(&["get", "--signed", &public]);
        assert_eq!((refused.code, &refused.stdout[..]), (Some(3), &b""[..]), "{fault}");
        assert!(refused.stderr.contains("does not verify") && refused.stderr.contains(fault), "{}", refused.stderr);
    }
    let deleted = with_value(sealed(version_in(0), b"")).run_cli(&["get", "--signed", &public]);
    assert_eq!(deleted.code, Some(1), "{}", deleted.stderr);

    let digest = hashed_key(b"value").to_string();
    let other = with_value(b"another value".to_vec()).run_cli(&["get", "--hashed", &digest]);
    assert_eq!((other.code, &other.stdout[..]), (Some(3), &b""[..]));
    assert!(other.stderr.contains("the value belongs to the key"), "{}", other.stderr);
    assert_eq!(with_value(b"value".to_vec()).run_cli(&["get", "--hashed", &digest]).stdout, b"value");
}

#[test]
fn dht_cli_reports_a_node_that_does_not_know_the_flags() {
    let file = KeyFile::generate();
    let old_node = || {
        FakeNode::start(|request| match request {
            ApiRequest::Get { key } => Some(bytes_of(&ApiReply::Failure { key })),
            ApiRequest::Put(put) => {
                assert_ne!(put.class, Class::Plain);
                None
            }
        })
    };
    for arguments in [
        &["put", "--hashed", "value"][..],
        &["put", "--hashed", "value", "--confirm"],
        &["put", "--sign", &file.name(), "value"],
        &["delete", "--sign", &file.name(), "--confirm"],
    ] {
        let closed = old_node().run_cli(arguments);
        assert_eq!((closed.code, &closed.stdout[..]), (Some(3), &b""[..]), "{arguments:?}");
        assert!(closed.stderr.contains("it may not know signed and hashed values"), "{}", closed.stderr);
    }
}
