//! A server rejects a peer that cannot prove an id as `PROTOCOL.md` 5 requires, or that belongs to
//! another network. It logs one line, and adds no contact.

use std::io::{Read, Write, read_to_string};
use std::net::{SocketAddr, TcpListener};

use rustls::AlertDescription as Alert;
use rustls::crypto::ring::{cipher_suite, kx_group};

use super::{Harness, NETWORK, POW_BITS, UndialledPort, client_of, fit_key, node};
use crate::common::client::{Client, key};
use crate::scripted_peer::connection::{Ending, PeerConnection, accept, connect};
use crate::scripted_peer::message::{self, Hello, hex, unhex};
use crate::scripted_peer::neighbour::{Behaviour, Neighbour};
use crate::scripted_peer::tls::{Dialect, Hash, KeyPair, Proof, hash, puzzle_bits};

/// The hello of a TLS 1.2 client: suites, curves and signatures, but no list of versions.
const TLS12_HELLO: &str = "1603010054 01000050 0303 2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a 00 \
    0004 c02bc02f 0100 0023 000a0006 0004 001d0017 000d0006 0004 04030807 000b0002 0100 00170000 ff010001 00";

/// Dials the server like a node, but in `dialect`; the server must reject it. Returns the local address,
/// and how the connection ended.
fn dial_in_vain(harness: &Harness, dialect: &Dialect, port: &UndialledPort) -> (SocketAddr, Ending) {
    let socket = connect(harness.server.p2p());
    let local = socket.local_addr().expect("it is connected");
    let ending = match PeerConnection::dial_over(socket, dialect, usize::MAX) {
        Err(ending) => ending,
        // In TLS 1.3 the side that dials completes its handshake before the other side has verified it.
        Ok(mut conn) => {
            conn.send(&Hello::of_node(NETWORK, port.port()).bytes());
            let (messages, ending) = conn.expect_end();
            assert_eq!(messages, [], "the server sent messages to a peer that it should have rejected");
            ending
        }
    };
    (local, ending)
}

#[test]
fn a_peer_with_unsupported_tls_is_rejected() {
    let harness = Harness::start("");
    let port = UndialledPort::new();
    let with = |change: fn(&mut Dialect)| {
        let mut dialect = node("another TLS");
        change(&mut dialect);
        dial_in_vain(&harness, &dialect, &port)
    };

    let mut plain = connect(harness.server.p2p());
    let plain_at = plain.local_addr().expect("it is connected");
    plain.write_all(&Hello::of_node(NETWORK, port.port()).bytes()).expect("the server reads");
    let answer = read_to_string(plain).unwrap_or_default();
    assert!(!answer.contains("dht-server"), "{answer:?}");

    let mut old = connect(harness.server.p2p());
    let old_at = old.local_addr().expect("it is connected");
    old.write_all(&unhex(&TLS12_HELLO.replace(' ', ""))).expect("the server reads");
    let mut alert = Vec::new();
    let _ = old.read_to_end(&mut alert);
    assert_eq!(hex(&alert), "15030300020246", "the alert protocol_version, and the end");

    let (certified_at, certified) = with(|dialect| dialect.proof = Proof::Certificate);
    assert!(matches!(certified, Ending::Alert(_)), "{certified:?}");
    let (nobody_at, nobody) = with(|dialect| dialect.proof = Proof::Nothing);
    assert!(matches!(nobody, Ending::Alert(_)), "{nobody:?}");
    let (cipher_at, cipher) =
        with(|dialect| dialect.provider.cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384]);
    assert_eq!(cipher, Ending::Alert(Alert::HandshakeFailure));
    let (group_at, group) = with(|dialect| dialect.provider.kx_groups = vec![kx_group::SECP256R1]);
    assert_eq!(group, Ending::Alert(Alert::HandshakeFailure));

    let refused = "peer refused";
    let all = [plain_at, old_at, certified_at, nobody_at, cipher_at, group_at].map(|address| (address, refused));
    harness.expect_no_trace(&[port], &all);
}

#[test]
fn a_peer_with_another_alpn_protocol_is_rejected() {
    let harness = Harness::start("");
    let port = UndialledPort::new();
    let with =
        |alpn: &'static [&'static str]| dial_in_vain(&harness, &Dialect { alpn, ..node("another protocol") }, &port);
    // rustls accepts a peer that names no protocol: the node itself must check.
    let (none_at, none) = with(&[]);
    assert!(matches!(none, Ending::Closed | Ending::Cut), "{none:?}");
    let (other_at, other) = with(&["dht/2", "h2"]);
    assert_eq!(other, Ending::Alert(Alert::NoApplicationProtocol));
    let (closed_at, closed) = with(&["dht-ca/1"]);
    assert_eq!(closed, Ending::Alert(Alert::NoApplicationProtocol));

    let refused =
        [(none_at, "it did not agree on ALPN dht/1"), (other_at, "peer refused"), (closed_at, "peer refused")];
    harness.expect_no_trace(&[port], &refused);
}

#[test]
fn a_peer_whose_id_does_not_solve_the_puzzle_is_rejected() {
    let harness = Harness::start("");
    let port = UndialledPort::new();
    let unfit = |bits| KeyPair::named("unfit").find(|key| puzzle_bits(&key.id()) == bits).expect("no end of keys");
    let (near_at, near) = dial_in_vain(&harness, &Dialect::of_node(&unfit(POW_BITS - 1)), &port);
    let (far_at, far) = dial_in_vain(&harness, &Dialect::of_node(&unfit(0)), &port);
    assert!(matches!((near, far), (Ending::Alert(_), Ending::Alert(_))));
    // An id with exactly the required bits is accepted.
    let mut enough =
        PeerConnection::dial(harness.server.p2p(), &Dialect::of_node(&unfit(POW_BITS))).expect("a handshake");
    enough.greet(&Hello::of_client(NETWORK));
    enough.expect_pong();

    let refused = [(near_at, "its id shows 3 zero bits, expected 4"), (far_at, "its id shows 0 zero bits, expected 4")];
    harness.expect_no_trace(&[port], &refused);
}

#[test]
fn a_peer_of_another_network_or_protocol_version_is_rejected() {
    let harness = Harness::start("");
    let port = UndialledPort::new();
    let with = |change: fn(&mut Hello)| {
        let mut hello = Hello::of_node(NETWORK, port.port());
        change(&mut hello);
        let mut conn = PeerConnection::dial(harness.server.p2p(), &node("of elsewhere")).expect("a handshake");
        let said = conn.greet(&hello);
        // Serving, IPv4, tells the time, knows distant nodes.
        assert_eq!((said.protocol, said.flags, said.port), (1, 1 | 2 | 16 | 32, harness.server.p2p().port()));
        assert_eq!(said.network, hash(NETWORK.as_bytes()));
        assert_eq!(conn.expect_end(), (vec![], Ending::Closed));
        conn.local()
    };
    let network = with(|hello| hello.network = hash(b"voidphone2"));
    let newer = with(|hello| hello.protocol = 2);
    let older = with(|hello| hello.protocol = 0);

    let refused = [(network, "another network"), (newer, "protocol 2, expected 1"), (older, "protocol 0, expected 1")];
    harness.expect_no_trace(&[port], &refused);
}

#[test]
fn a_peer_that_sends_nothing_or_half_a_message_is_disconnected_in_time() {
    let harness = Harness::start("");
    let mut silent = connect(harness.server.p2p());
    let mut half_hello = connect(harness.server.p2p());
    half_hello.write_all(b"\x16\x03\x01\x02\x00\x01\x00").expect("the server reads");
    let mut rude = PeerConnection::dial(harness.server.p2p(), &node("without a HELLO")).expect("a handshake");
    let mut halting = client_of(harness.server.p2p(), "with half a message");
    halting.send(&message::rpc(message::PING, &[1; 32], &[])[..20]);
    // A peer without requests may stay silent.
    let mut patient = client_of(harness.server.p2p(), "with nothing to say");

    let said = Hello::read(&rude.receive().expect("the server's HELLO"));
    assert_eq!(said.protocol, 1);
    let from = [&silent, &half_hello].map(|socket| socket.local_addr().expect("it is connected"));
    for socket in [&mut silent, &mut half_hello] {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).expect("the end, in time");
    }
    assert_eq!(rude.expect_end(), (vec![], Ending::Closed));
    assert_eq!(halting.expect_end(), (vec![], Ending::Closed));
    patient.expect_pong();

    let refused = [
        (from[0], "no handshake within 5 s"),
        (from[1], "no handshake within 5 s"),
        (rude.local(), "no HELLO within 5 s"),
        (halting.local(), "half a message for 10 s"),
    ];
    harness.expect_no_trace(&[], &refused);
}

#[test]
fn a_peer_that_proves_another_id_when_dialled_back_does_not_enter_the_table() {
    let mut harness = Harness::start("");
    let impostor = Neighbour::start(Behaviour::of_node(node("somebody else"), NETWORK));
    let mut conn = PeerConnection::dial(harness.server.p2p(), &node("somebody")).expect("a handshake");
    conn.greet(&Hello::of_node(NETWORK, impostor.address.port()));

    let dialled = impostor.next().1.expect_err("the server must not send messages to another id");
    assert!(matches!(dialled, Ending::Alert(_)), "{dialled:?}");
    let expected =
        format!("its id is {:.8}, expected {:.8}", hex(&fit_key("somebody else").id()), hex(&fit_key("somebody").id()));
    let refused = harness.server.log_line(&format!("addr={} ", impostor.address));
    assert!(refused.contains(&expected), "{expected:?} in {refused}");
    assert_eq!(harness.named(), []);
    conn.expect_pong(); // and its own connection is as good as before
    harness.expect_no_trace(&[], &[(impostor.address, &expected)]);
}

/// A server whose only bootstraps are `hostile`.
fn harness_with_bootstraps(hostile: &[String]) -> Harness {
    Harness::start(&format!("bootstrap = {}\nrequest_timeout = 3 s", hostile.join(", ")))
}

#[test]
fn a_bootstrap_with_a_wrong_identity_or_network_is_never_joined() {
    let neighbour = |dialect| Neighbour::start(Behaviour::of_node(dialect, NETWORK));
    let unfit = KeyPair::named("unfit").find(|key| puzzle_bits(&key.id()) == 1).expect("there is no end of keys");
    let other = fit_key("other");
    let pinned: Hash = fit_key("pinned").id();
    // The side that detects the fault first reports it; where that is the fake bootstrap, its TLS rejects
    // the server.
    let liars = [
        (neighbour(Dialect { alpn: &[], ..Dialect::of_node(&other) }), Some("it did not agree on ALPN dht/1")),
        (neighbour(Dialect { alpn: &["dht/2"], ..Dialect::of_node(&other) }), None),
        (neighbour(Dialect { proof: Proof::Certificate, ..Dialect::of_node(&other) }), None),
        (neighbour(Dialect::of_node(&unfit)), Some("its id shows 1 zero bits, expected 4")),
        (neighbour(Dialect::of_node(&other)), Some("its id is")),
    ];
    let foreign = Neighbour::start(Behaviour::of_node(Dialect::of_node(&other), "elsewhere"));
    let mut bootstraps: Vec<_> = liars.iter().map(|(liar, _)| liar.address.to_string()).collect();
    bootstraps[4] += "#";
    bootstraps[4] += &hex(&pinned);
    bootstraps.push(foreign.address.to_string());

    let mut harness = harness_with_bootstraps(&bootstraps);
    for (liar, text) in &liars {
        liar.next().1.expect_err("the server must not speak to it");
        if let Some(text) = text {
            let line = harness.server.log_line(&format!("addr={} ", liar.address));
            assert!(line.contains(text), "{text:?} in {line}");
        }
    }
    assert!(harness.server.log_line(&format!("addr={} ", foreign.address)).contains("another network"));
    let mut client = Client::connect(harness.server.api());
    assert_eq!(client.get(key("anything")), None, "it has not joined, and holds nothing");
    assert_eq!(harness.named(), []);
    assert!(harness.server.terminate().success());
    assert!(!harness.server.log().iter().any(|line| line.contains("joined")), "{:#?}", harness.server.log());
}

#[test]
fn a_bootstrap_without_tls_is_never_joined() {
    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = [&plain, &silent].map(|listener| listener.local_addr().expect("it is bound"));
    let mut harness = harness_with_bootstraps(&at.map(|address| address.to_string()));
    accept(&plain).write_all(b"SSH-2.0-sshd\r\n").expect("the server reads");
    let _held = accept(&silent);
    assert!(harness.server.log_line(&format!("addr={} ", at[0])).contains("not TLS"));
    assert_eq!(harness.named(), []);
    // The server dials again: the first answer has not broken it.
    let _again = accept(&plain);
    harness.observer.expect_pong();
    assert!(!harness.server.log().iter().any(|line| line.contains("joined")), "{:#?}", harness.server.log());
}

#[test]
fn a_bootstrap_that_matches_its_pin_is_joined() {
    let pinned = fit_key("pinned");
    let neighbour = Neighbour::start(Behaviour::of_node(Dialect::of_node(&pinned), NETWORK));
    let bootstrap = format!("{}#{}", neighbour.address, hex(&pinned.id()));
    let mut harness = harness_with_bootstraps(&[bootstrap]);
    harness.server.log_line("joined contacts=1");
    assert_eq!(harness.named(), [message::Contact { address: neighbour.address, id: pinned.id() }]);
}
