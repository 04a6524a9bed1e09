//! The loop over real sockets of this machine, with a small service behind it.
//!
//! Loop and clients share the test's thread: [`until`] lets all of them move in turn, as often as
//! it takes. The service always wants to be woken at once, so no turn waits; nothing sleeps, and
//! what never happens ends in a panic after a bounded number of turns.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mio::Events;

use crate::id::{Key, NodeId, RpcId};
use crate::identity::Puzzle;
use crate::limits::{API_OUTBOX_MAX, API_OWED_MAX, PEER_OUTBOX_MAX, VALUE_SIZE_MAX};
use crate::net::clock::Clock;
use crate::net::tls::tests::identity;
use crate::net::{Ended, EventLoop, Helper, Listeners, LoopError, Options, Service};
use crate::node::action::{Actions, ClientId, ConnId, DialError, DialId, Origin};
use crate::node::params::Endpoint;
use crate::node::persisted::{Batch, Saved};
use crate::time::{Now, Time};
use crate::wire::Source;
use crate::wire::api::{ApiReply, ApiRequest, Confirm};
use crate::wire::frame::{Frame, next_frame};
use crate::wire::peer::{PeerMessage, Request};

/// Turns after which a test has failed: seconds, where milliseconds are expected.
const TURNS_MAX: usize = 2_000_000;

/// Answers every GET with one value, at once or when it is told to, and notes what happens.
struct Echo {
    value: Arc<[u8]>,
    manner: Manner,
    foreseen: RefCell<Vec<Key>>,
    asked: Vec<(ClientId, Key)>,
    puts: usize,
    met: Vec<(ConnId, NodeId, Origin)>,
    heard: Vec<(ConnId, u16, usize)>,
    closed: Vec<ConnId>,
    failed: Vec<(DialId, DialError)>,
    saved: Vec<Saved>,
    wishes: Vec<Wish>,
    left: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// GETs are answered as they come.
    Prompt,
    /// GETs wait for [`Wish::Answer`].
    Patient,
    /// No request is wanted.
    Busy,
}

/// What the service does when it is woken next.
enum Wish {
    Dial(Endpoint, Option<NodeId>),
    Send(ConnId, usize),
    Close(ConnId),
    Answer(ClientId, Key),
    Save(Batch),
}

impl Service for Echo {
    fn wants_requests(&self) -> bool {
        self.manner != Manner::Busy
    }

    fn foresee<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.foreseen.borrow_mut().extend(keys);
    }

    fn on_request(&mut self, _: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions) {
        match request {
            ApiRequest::Get { key } => {
                self.asked.push((client, key));
                if self.manner == Manner::Prompt {
                    self.answer(client, key, out);
                }
            }
            ApiRequest::Put(put) => {
                self.puts += 1;
                if put.confirm == Confirm::Yes {
                    out.reply_failure(client, put.key);
                }
            }
        }
    }

    fn on_secured(&mut self, _: Now, conn: ConnId, peer: NodeId, _: SocketAddr, origin: Origin, _: &mut Actions) {
        self.met.push((conn, peer, origin));
    }

    fn on_dial_failed(&mut self, _: Now, dial: DialId, error: DialError, _: &mut Actions) {
        self.failed.push((dial, error));
    }

    fn on_frame(&mut self, _: Now, conn: ConnId, frame: Frame<'_>, _: &mut Actions) {
        self.heard.push((conn, frame.kind.number, frame.body.len()));
    }

    fn on_closed(&mut self, _: Now, conn: ConnId, _: &mut Actions) {
        self.closed.push(conn);
    }

    fn on_saved(&mut self, _: Now, saved: Saved, _: &mut Actions) {
        self.saved.push(saved);
    }

    fn on_timeout(&mut self, _: Now, out: &mut Actions) {
        for wish in std::mem::take(&mut self.wishes) {
            match wish {
                Wish::Dial(to, expect) => out.dial(DialId(7), to, expect),
                Wish::Send(conn, times) => {
                    for _ in 0..times {
                        out.send(conn, &PeerMessage::Request(RpcId::new([9; 32]), Request::Ping), None);
                    }
                }
                Wish::Close(conn) => out.close(conn, None),
                Wish::Answer(client, key) => self.answer(client, key, out),
                Wish::Save(batch) => out.save(batch),
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        Some(Time::ZERO)
    }

    fn leave(&mut self, _: Now, out: &mut Actions) {
        for (client, key) in std::mem::take(&mut self.asked) {
            self.answer(client, key, out);
        }
        self.left = true;
    }

    fn has_left(&self) -> bool {
        self.left
    }
}

impl Echo {
    fn answer(&self, client: ClientId, key: Key, out: &mut Actions) {
        out.reply_value(client, key, &self.value);
    }
}

/// A loop with its echo.
struct Host {
    event_loop: EventLoop<Echo>,
    events: Events,
    api: SocketAddr,
    p2p: SocketAddr,
    id: NodeId,
}

impl Host {
    fn new() -> Self {
        Self::with(1, |_| {})
    }

    /// The host whose secret is `byte`, on free ports.
    fn with(byte: u8, change: fn(&mut Options)) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("a literal");
        let mut options =
            Options { api_address: any, p2p_addresses: vec![any], puzzle: Puzzle::new(0), ..Options::default() };
        change(&mut options);
        let listeners = Listeners::bind(&options).expect("free ports");
        let (api, p2p) = (listeners.api_address(), listeners.p2p_addresses().next().expect("one address"));
        let echo = Echo {
            value: Arc::from(&b"bernd"[..]),
            manner: Manner::Prompt,
            foreseen: RefCell::default(),
            asked: Vec::new(),
            puts: 0,
            met: Vec::new(),
            heard: Vec::new(),
            closed: Vec::new(),
            failed: Vec::new(),
            saved: Vec::new(),
            wishes: Vec::new(),
            left: false,
        };
        let identity = identity(byte);
        let event_loop = EventLoop::new(options, listeners, &identity, Clock::start(), echo).expect("a loop");
        Self { event_loop, events: Events::with_capacity(64), api, p2p, id: identity.id() }
    }

    fn echo(&mut self) -> &mut Echo {
        &mut self.event_loop.service
    }

    fn turn(&mut self) -> Option<Ended> {
        self.event_loop.turn(&mut self.events).expect("a poll")
    }

    fn dial(&mut self, to: SocketAddr, expect: Option<NodeId>) {
        self.echo().wishes.push(Wish::Dial(Endpoint::Address(to), expect));
    }
}

/// A client of the API, which never waits.
struct Module {
    socket: TcpStream,
    unsent: Vec<u8>,
    received: Vec<u8>,
    reads: bool,
    ended: bool,
}

impl Module {
    fn new(api: SocketAddr) -> Self {
        let socket = TcpStream::connect(api).expect("the backlog has room");
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, unsent: Vec::new(), received: Vec::new(), reads: true, ended: false }
    }

    fn asking(host: &Host, requests: &[Vec<u8>]) -> Self {
        let mut module = Self::new(host.api);
        module.ask(requests);
        module
    }

    fn ask(&mut self, requests: &[Vec<u8>]) {
        for request in requests {
            self.unsent.extend(request);
        }
    }

    /// Writes and reads what it can.
    fn pump(&mut self) {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.unsent.clear();
                    break;
                }
            }
        }
        let mut buffer = vec![0; 65_536];
        while self.reads && !self.ended {
            match self.socket.read(&mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    let _ = self.socket.shutdown(Shutdown::Both);
                }
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a connection must end in order, not by {error}"),
            }
        }
    }

    /// The keys and the lengths of the values of the answers so far.
    fn answers(&self) -> Vec<(Key, Option<usize>)> {
        let (mut at, mut answers) = (0, Vec::new());
        while let Some((frame, len)) = next_frame(Source::Server, &self.received[at..]).expect("answers") {
            at += len;
            answers.push(match ApiReply::decode(frame).expect("an answer") {
                ApiReply::Success { key, value } => (key, Some(value.len())),
                ApiReply::Failure { key } => (key, None),
            });
        }
        answers
    }
}

/// Lets the host and its client move until `done`.
fn until(host: &mut Host, module: &mut Module, mut done: impl FnMut(&Host, &Module) -> bool) {
    for _ in 0..TURNS_MAX {
        if done(host, module) {
            return;
        }
        host.turn();
        module.pump();
    }
    panic!("it never happened");
}

/// Lets two hosts move until `done`.
fn until_both(a: &mut Host, b: &mut Host, mut done: impl FnMut(&mut Echo, &mut Echo) -> bool) {
    for _ in 0..TURNS_MAX {
        if done(a.echo(), b.echo()) {
            return;
        }
        a.turn();
        b.turn();
    }
    panic!("it never happened");
}

/// Two hosts, the first of which has dialled the second, and their ends of the connection.
fn two_that_met() -> (Host, Host, ConnId, ConnId) {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    let (to, expect) = (b.p2p, Some(b.id));
    a.dial(to, expect);
    until_both(&mut a, &mut b, |a, b| !a.met.is_empty() && !b.met.is_empty());
    let (of_a, met_b, dialled) = a.echo().met[0];
    let (of_b, met_a, accepted) = b.echo().met[0];
    assert_eq!((met_b, met_a), (b.id, a.id));
    assert_eq!((dialled, accepted), (Origin::Dialled(DialId(7)), Origin::Accepted));
    (a, b, of_a, of_b)
}

fn key(number: usize) -> Key {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Key::new(bytes)
}

/// DHT GET (651).
fn get(number: usize) -> Vec<u8> {
    [&[0, 36, 2, 0x8b], &key(number).as_bytes()[..]].concat()
}

/// DHT PUT (650) of five bytes under the key 0.
fn put(flags: u8) -> Vec<u8> {
    [&[0, 45, 2, 0x8a, 0, 1, 1, flags], &key(0).as_bytes()[..], b"bernd"].concat()
}

#[test]
fn a_put_is_not_answered_and_the_get_behind_it_is() {
    let mut host = Host::new();
    let mut module = Module::asking(&host, &[put(0), get(1)]);
    until(&mut host, &mut module, |_, module| module.received.len() >= 41);
    assert_eq!(module.answers(), [(key(1), Some(5))]);
    assert_eq!(host.echo().puts, 1);
}

#[test]
fn ten_thousand_pipelined_gets_are_answered_in_their_order() {
    let mut host = Host::new();
    let gets: Vec<_> = (0..10_000).map(get).collect();
    let mut module = Module::asking(&host, &gets);
    until(&mut host, &mut module, |_, module| module.received.len() >= 10_000 * 41);
    let expected: Vec<_> = (0..10_000).map(|number| (key(number), Some(5))).collect();
    assert_eq!(module.answers(), expected);
}

#[test]
fn the_service_is_told_what_will_come_when_several_requests_have_come_together() {
    let mut host = Host::new();
    let mut alone = Module::asking(&host, &[get(1)]);
    until(&mut host, &mut alone, |_, module| module.answers().len() == 1);
    assert_eq!(*host.echo().foreseen.borrow(), []);
    let mut together = Module::asking(&host, &[get(2), put(0), get(3)]);
    until(&mut host, &mut together, |_, module| module.answers().len() == 2);
    assert_eq!(*host.echo().foreseen.borrow(), [key(2), key(0), key(3)]);
}

#[test]
fn a_get_may_come_byte_by_byte() {
    let mut host = Host::new();
    let mut module = Module::asking(&host, &[get(3)]);
    let bytes = std::mem::take(&mut module.unsent);
    for byte in bytes {
        assert!(module.received.is_empty());
        module.unsent.push(byte);
        module.pump();
        host.turn();
        host.turn();
    }
    until(&mut host, &mut module, |_, module| module.received.len() >= 41);
    assert_eq!(module.answers(), [(key(3), Some(5))]);
}

#[test]
fn answers_keep_the_order_of_requests_when_the_service_does_not() {
    let mut host = Host::new();
    host.echo().manner = Manner::Patient;
    let mut module = Module::asking(&host, &[get(0), get(1), put(1), get(3)]);
    until(&mut host, &mut module, |host, _| host.event_loop.service.asked.len() == 3);
    assert!(module.received.is_empty());
    let asked = host.echo().asked.clone();
    host.echo().wishes.extend(asked.into_iter().rev().map(|(client, key)| Wish::Answer(client, key)));
    until(&mut host, &mut module, |_, module| module.answers().len() == 4);
    assert_eq!(module.answers(), [(key(0), Some(5)), (key(1), Some(5)), (key(0), None), (key(3), Some(5))]);
}

#[test]
fn what_precedes_a_half_close_is_answered_before_the_end() {
    let mut host = Host::new();
    host.echo().manner = Manner::Patient;
    let mut module = Module::asking(&host, &[put(0), get(1), get(2)]);
    module.unsent.extend([0, 36, 2]); // and half a request
    module.pump();
    module.socket.shutdown(Shutdown::Write).expect("it is open");
    until(&mut host, &mut module, |host, _| host.event_loop.service.asked.len() == 2);
    let asked = host.echo().asked.clone();
    host.echo().wishes.extend(asked.into_iter().map(|(client, key)| Wish::Answer(client, key)));
    until(&mut host, &mut module, |_, module| module.ended);
    assert_eq!(module.answers(), [(key(1), Some(5)), (key(2), Some(5))]);
    assert!(host.event_loop.connections.is_empty());
}

#[test]
fn a_malformed_request_ends_its_connection_after_the_answers_before_it_and_no_other() {
    let malformed: [Vec<u8>; 8] = [
        vec![0, 3, 2, 0x8b],
        vec![0, 36, 0, 1],
        vec![0, 40, 2, 0x8a],
        vec![0, 37, 2, 0x8b],
        vec![0, 36, 2, 0x8c],
        vec![0, 36, 2, 0x8d],
        put(6),
        put(0x80),
    ];
    let mut host = Host::new();
    let mut honest = Module::asking(&host, &[get(0)]);
    until(&mut host, &mut honest, |_, module| module.answers().len() == 1);
    for (number, bytes) in malformed.into_iter().enumerate() {
        host.echo().manner = Manner::Patient;
        host.echo().asked.clear();
        let mut module = Module::asking(&host, &[get(1)]);
        module.unsent.extend(bytes);
        module.ask(&[get(2), get(3)]); // and goes on as if nothing were
        until(&mut host, &mut module, |host, _| host.event_loop.counters.faults == number as u64 + 1);
        let (client, asked) = host.echo().asked[0];
        host.echo().wishes.push(Wish::Answer(client, asked));
        until(&mut host, &mut module, |_, module| module.ended);
        assert_eq!(module.answers(), [(key(1), Some(5))], "malformed message {number}");
        assert_eq!(host.echo().asked.len(), 1, "nothing behind it is heard");
    }
    host.echo().manner = Manner::Prompt;
    honest.ask(&[get(9)]);
    until(&mut host, &mut honest, |_, module| module.answers().len() == 2);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_loses_nothing() {
    let mut host = Host::new();
    host.echo().value = vec![7; VALUE_SIZE_MAX].into();
    let gets: Vec<_> = (0..2_000).map(get).collect();
    let mut module = Module::asking(&host, &gets);
    module.reads = false;
    let mut last = (usize::MAX, 0);
    // It has come to rest when many turns change nothing.
    until(&mut host, &mut module, |host, _| {
        let asked = host.event_loop.service.asked.len();
        last = if last.0 == asked { (asked, last.1 + 1) } else { (asked, 0) };
        last.1 == 1_000
    });
    let asked = host.echo().asked.len();
    assert!(asked < 2_000, "{asked} requests taken from somebody who does not read");
    let slot = host.event_loop.connections.slots()[0];
    let conn = host.event_loop.connections.at(slot);
    let crate::net::conn::Side::Client(client) = &mut conn.side else { panic!("a client") };
    assert!(client.outbox().len() <= API_OUTBOX_MAX + 65_535, "{} bytes held", client.outbox().len());
    module.reads = true;
    until(&mut host, &mut module, |_, module| module.received.len() == 2_000 * (36 + VALUE_SIZE_MAX));
    let expected: Vec<_> = (0..2_000).map(|number| (key(number), Some(VALUE_SIZE_MAX))).collect();
    assert_eq!(module.answers(), expected);
}

#[test]
fn no_more_requests_are_taken_than_may_be_owed() {
    let mut host = Host::new();
    host.echo().manner = Manner::Patient;
    let gets: Vec<_> = (0..API_OWED_MAX + 10).map(get).collect();
    let mut module = Module::asking(&host, &gets);
    until(&mut host, &mut module, |host, _| host.event_loop.service.asked.len() >= API_OWED_MAX);
    for _ in 0..100 {
        host.turn();
    }
    let asked = std::mem::take(&mut host.echo().asked);
    assert_eq!(asked.len(), API_OWED_MAX);
    host.echo().manner = Manner::Prompt;
    host.echo().wishes.extend(asked.into_iter().map(|(client, key)| Wish::Answer(client, key)));
    until(&mut host, &mut module, |_, module| module.answers().len() == API_OWED_MAX + 10);
}

#[test]
fn nobody_is_read_while_the_service_wants_no_requests() {
    let mut host = Host::new();
    host.echo().manner = Manner::Busy;
    let mut module = Module::asking(&host, &[get(1), get(2)]);
    for _ in 0..100 {
        host.turn();
        module.pump();
    }
    assert!(host.echo().asked.is_empty());
    assert!(!host.event_loop.connections.has_work(), "and nothing spins meanwhile");
    host.echo().manner = Manner::Prompt;
    until(&mut host, &mut module, |_, module| module.answers().len() == 2);
}

#[test]
fn an_answer_for_a_client_that_is_gone_finds_nobody() {
    let mut host = Host::new();
    host.echo().manner = Manner::Patient;
    let mut module = Module::asking(&host, &[get(1)]);
    until(&mut host, &mut module, |host, _| host.event_loop.service.asked.len() == 1);
    let (client, asked) = host.echo().asked[0];
    host.echo().wishes.push(Wish::Answer(client, asked));
    drop(module);
    let mut other = Module::new(host.api);
    until(&mut host, &mut other, |host, _| host.event_loop.connections.slots().len() == 1);
    host.echo().wishes.push(Wish::Answer(client, asked));
    until(&mut host, &mut other, |host, _| host.event_loop.counters.replies_late == 1);
    assert!(other.received.is_empty(), "least of all a stranger in the same slot");
}

#[test]
fn a_full_pool_closes_its_door_and_opens_it_again() {
    let mut host = Host::with(1, |options| options.api_connections_max = 1);
    let mut first = Module::asking(&host, &[get(1)]);
    until(&mut host, &mut first, |_, module| module.answers().len() == 1);
    let mut second = Module::new(host.api);
    until(&mut host, &mut second, |_, module| module.ended);
    assert_eq!(host.event_loop.counters.refused, 1);
    drop(first);
    let mut third = Module::new(host.api);
    until(&mut host, &mut third, |host, _| host.event_loop.connections.is_empty());
    let mut fourth = Module::asking(&host, &[get(1)]);
    until(&mut host, &mut fourth, |_, module| module.answers().len() == 1);
}

#[test]
fn a_silent_client_is_closed() {
    let mut host = Host::with(1, |options| options.api_idle_timeout = Duration::ZERO);
    let mut module = Module::new(host.api);
    until(&mut host, &mut module, |_, module| module.ended);
}

#[test]
fn leaving_sends_what_is_owed_and_ends() {
    let mut host = Host::new();
    host.echo().manner = Manner::Patient;
    let mut idle = Module::new(host.api);
    let mut module = Module::asking(&host, &[get(1), get(2)]);
    until(&mut host, &mut module, |host, _| host.event_loop.service.asked.len() == 2);
    module.ask(&[get(3)]);
    module.pump();
    host.event_loop.leave();
    let mut ended = None;
    for _ in 0..TURNS_MAX {
        ended = ended.or(host.turn());
        module.pump();
        idle.pump();
        if ended.is_some() && module.ended && idle.ended {
            break;
        }
    }
    assert_eq!(ended, Some(Ended::Left));
    assert_eq!(module.answers(), [(key(1), Some(5)), (key(2), Some(5))], "the third came too late");
    assert!(idle.ended);
}

#[test]
fn two_nodes_prove_themselves_and_messages_come_whole() {
    let (mut a, mut b, of_a, of_b) = two_that_met();
    a.echo().wishes.push(Wish::Send(of_a, 3_000));
    b.echo().wishes.push(Wish::Send(of_b, 1));
    until_both(&mut a, &mut b, |a, b| b.heard.len() == 3_000 && a.heard.len() == 1);
    assert!(b.echo().heard.iter().all(|heard| *heard == (of_b, 660, 32)));
    assert_eq!(a.echo().heard, [(of_a, 660, 32)]);
}

#[test]
fn an_action_closes_after_what_was_sent_and_only_the_other_side_is_told() {
    let (mut a, mut b, of_a, of_b) = two_that_met();
    a.echo().wishes.extend([Wish::Send(of_a, 100), Wish::Close(of_a), Wish::Send(of_a, 1)]);
    until_both(&mut a, &mut b, |_, b| !b.closed.is_empty());
    assert_eq!(b.echo().closed, [of_b]);
    assert_eq!(b.echo().heard.len(), 100);
    until_both(&mut a, &mut b, |_, _| true);
    for _ in 0..TURNS_MAX {
        if a.event_loop.connections.is_empty() && b.event_loop.connections.is_empty() {
            break;
        }
        a.turn();
        b.turn();
    }
    assert!(a.event_loop.connections.is_empty());
    assert!(a.echo().closed.is_empty());
}

#[test]
fn an_outbox_at_its_bound_drops_whole_messages_and_counts_them() {
    let (mut a, mut b, of_a, _) = two_that_met();
    let ping = 36;
    let fits = PEER_OUTBOX_MAX / ping;
    a.echo().wishes.push(Wish::Send(of_a, fits + 10));
    until_both(&mut a, &mut b, |_, b| b.heard.len() == fits);
    assert_eq!(a.event_loop.counters.outbox_drops, 10);
}

#[test]
fn nobody_and_somebody_else_are_told_apart() {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("it is bound")
    };
    a.dial(nowhere, None);
    until_both(&mut a, &mut b, |a, _| !a.failed.is_empty());
    assert_eq!(a.echo().failed, [(DialId(7), DialError::Unreachable)]);

    a.echo().failed.clear();
    let (to, other) = (b.p2p, identity(3).id());
    a.dial(to, Some(other));
    until_both(&mut a, &mut b, |a, _| !a.failed.is_empty());
    assert_eq!(a.echo().failed, [(DialId(7), DialError::NotAuthentic)]);
    assert!(a.echo().met.is_empty());
}

#[test]
fn a_name_is_dialled_at_one_address_after_the_other() {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    // Where localhost has an IPv6 address too, nobody listens there.
    let to = Endpoint::Name { host: Arc::from("localhost"), port: b.p2p.port() };
    a.echo().wishes.push(Wish::Dial(to, None));
    until_both(&mut a, &mut b, |a, _| !a.met.is_empty());
    assert_eq!(a.echo().met[0].1, b.id);
    assert!(a.echo().failed.is_empty());
}

#[test]
fn a_stranger_who_speaks_no_tls_is_turned_away_and_never_met() {
    let mut host = Host::new();
    let mut stranger = Module::new(host.p2p);
    stranger.ask(&[get(1)]);
    until(&mut host, &mut stranger, |_, module| module.ended);
    assert_eq!(host.event_loop.counters.faults, 1);
    assert!(host.echo().met.is_empty());
    assert!(host.echo().closed.is_empty());
}

#[test]
fn a_peer_that_sends_no_messages_is_dropped_and_the_service_told() {
    let (mut a, mut b, of_a, of_b) = two_that_met();
    let slot = a.event_loop.connections.find(of_a.0).expect("it is open");
    let crate::net::conn::Side::Peer(peer) = &mut a.event_loop.connections.at(slot).side else { panic!("a peer") };
    peer.push(&[0, 3, 0, 0], &[]);
    a.event_loop.connections.touch(slot);
    until_both(&mut a, &mut b, |a, b| !a.closed.is_empty() && !b.closed.is_empty());
    assert_eq!((&a.echo().closed[..], &b.echo().closed[..]), (&[of_a][..], &[of_b][..]));
    assert_eq!(b.event_loop.counters.faults, 1);
}

#[test]
fn what_is_to_be_saved_reaches_the_keeper_and_the_outcome_comes_back() {
    let mut host = Host::new();
    let (wanted, outcome) = host.event_loop.attach_disk_writer();
    let wake = host.event_loop.waker();
    let batch = Batch { contacts: Some(Vec::new()), ..Batch::default() };
    host.echo().wishes.push(Wish::Save(batch.clone()));
    let mut module = Module::new(host.api);
    let mut found = None;
    until(&mut host, &mut module, |_, _| {
        found = found.take().or_else(|| wanted.try_recv().ok());
        found.is_some()
    });
    assert_eq!(found.as_deref(), Some(&batch));
    outcome.send(Saved::Durable).expect("the loop listens");
    wake();
    until(&mut host, &mut module, |host, _| !host.event_loop.service().saved.is_empty());
    assert_eq!(host.echo().saved, [Saved::Durable]);
}

#[test]
fn without_a_keeper_nothing_is_saved() {
    let mut host = Host::new();
    host.echo().wishes.push(Wish::Save(Batch::default()));
    let mut module = Module::new(host.api);
    until(&mut host, &mut module, |host, _| !host.event_loop.service().saved.is_empty());
    assert_eq!(host.echo().saved, [Saved::Failed]);
}

#[test]
fn a_keeper_that_is_gone_ends_the_loop() {
    let mut host = Host::new();
    drop(host.event_loop.attach_disk_writer());
    host.event_loop.waker()();
    let ended = (0..TURNS_MAX).find_map(|_| host.event_loop.turn(&mut host.events).err());
    assert!(matches!(ended, Some(LoopError::HelperGone { helper: Helper::DiskWriter })), "{ended:?}");
}
