//! Tests of the event loop with real sockets on the loopback interface and a small service.
//!
//! The loop and the clients run in the test's thread: [`run_until`] runs them alternately until a condition
//! holds. The deadline of the service is always due, so no turn blocks. No test sleeps. A condition that
//! never holds causes a panic after a bounded number of turns.

mod fairness;
mod peers;
mod unread;

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mio::Events;

use crate::id::{Key, NodeId, RpcId};
use crate::identity::Puzzle;
use crate::limits::{ANSWER_SIZE_MAX, API_ANSWERS_EXPECTED_MAX, ENTRIES_MAX, PEER_OUTBOX_MAX, VALUE_SIZE_MAX};
use crate::net::clock::Clock;
use crate::net::slice::FIRST_OUTPUT_SLICE;
use crate::net::tls::tests::identity;
use crate::net::{Ended, EventLoop, Helper, Listeners, LoopError, Options, Service};
use crate::node::action::{Actions, ClientId, ConnId, DialError, DialId, Origin, Taken};
use crate::node::params::Endpoint;
use crate::node::persisted::{Batch, Saved};
use crate::time::{Now, Time};
use crate::wire::Source;
use crate::wire::api::{ApiReply, ApiRequest, Confirm};
use crate::wire::codec::List;
use crate::wire::frame::{Frame, next_frame};
use crate::wire::peer::{PeerMessage, Reply, Request};

/// Turns before a test fails. They take seconds; a passing test takes milliseconds.
const TURNS_MAX: usize = 2_000_000;

/// Answers every GET with the same value, and records the calls of the loop.
struct Echo {
    value: Arc<[u8]>,
    behaviour: Behaviour,
    prefetched: RefCell<Vec<Key>>,
    gets: Vec<(ClientId, Key)>,
    puts: usize,
    secured: Vec<(ConnId, NodeId, Origin)>,
    frames: Vec<(ConnId, u16, usize)>,
    closed: Vec<ConnId>,
    unsent: Vec<RpcId>,
    failed_dials: Vec<(DialId, DialError)>,
    saved: Vec<Saved>,
    /// When it wants its next timeout.
    deadline: Option<Time>,
    timeouts: usize,
    commands: Vec<Command>,
    has_left: bool,
    /// Requests that are still taken.
    room: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    /// GETs are answered immediately.
    Immediate,
    /// GETs are answered by [`Command::Answer`].
    Deferred,
    /// No request is wanted.
    Busy,
}

/// What the service does at its next timeout.
enum Command {
    Dial(Endpoint, Option<NodeId>),
    /// Sends that many PINGs.
    Send(ConnId, usize),
    /// Sends that many replies to PINGs.
    Reply(ConnId, usize),
    /// Sends that many messages of 16 KB.
    Long(ConnId, usize),
    Close(ConnId),
    Answer(ClientId, Key),
    Save(Batch),
}

impl Service for Echo {
    fn wants_requests(&self) -> bool {
        self.behaviour != Behaviour::Busy && self.room > 0
    }

    fn wants_requests_of(&self, _: u64) -> bool {
        self.wants_requests()
    }

    fn prefetch<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.prefetched.borrow_mut().extend(keys);
    }

    fn on_request(&mut self, _: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions) -> Taken {
        if !self.wants_requests() {
            return Taken::NoRoom;
        }
        self.room -= 1;
        match request {
            ApiRequest::Get { key } => {
                self.gets.push((client, key));
                if self.behaviour == Behaviour::Immediate {
                    self.answer(client, key, out);
                }
            }
            ApiRequest::Put(put) => {
                self.puts += 1;
                self.deadline = Some(Time::ZERO);
                if put.confirm == Confirm::Yes {
                    out.reply_failure(client, put.key);
                }
            }
        }
        if self.behaviour == Behaviour::Deferred { Taken::InFlight } else { Taken::Done }
    }

    fn on_secured(&mut self, _: Now, conn: ConnId, peer: NodeId, _: SocketAddr, origin: Origin, _: &mut Actions) {
        self.secured.push((conn, peer, origin));
    }

    fn on_dial_failed(&mut self, _: Now, dial: DialId, error: DialError, _: &mut Actions) {
        self.failed_dials.push((dial, error));
    }

    fn on_frame(&mut self, _: Now, conn: ConnId, frame: Frame<'_>, _: &mut Actions) {
        self.frames.push((conn, frame.kind.number, frame.body.len()));
    }

    fn on_unsent(&mut self, _: Now, _: ConnId, rpc: RpcId, _: &mut Actions) {
        self.unsent.push(rpc);
    }

    fn on_closed(&mut self, _: Now, conn: ConnId, _: &mut Actions) {
        self.closed.push(conn);
    }

    fn on_saved(&mut self, _: Now, saved: Saved, _: &mut Actions) {
        self.saved.push(saved);
    }

    fn on_timeout(&mut self, _: Now, out: &mut Actions) {
        self.timeouts += 1;
        for command in std::mem::take(&mut self.commands) {
            match command {
                Command::Dial(to, expect) => out.dial(DialId(7), to, expect),
                Command::Send(conn, times) => {
                    for _ in 0..times {
                        out.send(conn, &PeerMessage::Request(RpcId::new([9; 32]), Request::Ping), None);
                    }
                }
                Command::Reply(conn, times) => {
                    for _ in 0..times {
                        out.send(conn, &PeerMessage::Reply(RpcId::new([9; 32]), Reply::Pong), None);
                    }
                }
                Command::Long(conn, times) => {
                    let keys = [Key::new([7; 32]); ENTRIES_MAX];
                    for _ in 0..times {
                        let long = Reply::Wanted(List::lend(&keys));
                        out.send(conn, &PeerMessage::Reply(RpcId::new([9; 32]), long), None);
                    }
                }
                Command::Close(conn) => out.close(conn, None),
                Command::Answer(client, key) => self.answer(client, key, out),
                Command::Save(batch) => out.save(Arc::new(batch)),
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.deadline
    }

    fn leave(&mut self, _: Now, out: &mut Actions) {
        for (client, key) in std::mem::take(&mut self.gets) {
            self.answer(client, key, out);
        }
        self.has_left = true;
    }

    fn has_left(&self) -> bool {
        self.has_left
    }
}

impl Echo {
    /// Answers the recorded GETs at the next timeout.
    fn answer_gets(&mut self) {
        let gets = std::mem::take(&mut self.gets);
        self.commands.extend(gets.into_iter().map(|(id, key)| Command::Answer(id, key)));
    }

    fn answer(&self, client: ClientId, key: Key, out: &mut Actions) {
        out.reply_value(client, key, &self.value);
    }
}

/// An event loop with an echo service.
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

    /// A host with the secret key `byte`, on free ports.
    fn with(byte: u8, change: fn(&mut Options)) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("a literal");
        let mut options =
            Options { api_address: any, p2p_addresses: vec![any], puzzle: Puzzle::new(0), ..Options::default() };
        change(&mut options);
        let listeners = Listeners::bind(&options).expect("free ports");
        let (api, p2p) = (listeners.api_address(), listeners.p2p_addresses().next().expect("one address"));
        let echo = Echo {
            value: Arc::from(&b"bernd"[..]),
            behaviour: Behaviour::Immediate,
            prefetched: RefCell::default(),
            gets: Vec::new(),
            puts: 0,
            secured: Vec::new(),
            frames: Vec::new(),
            closed: Vec::new(),
            unsent: Vec::new(),
            failed_dials: Vec::new(),
            saved: Vec::new(),
            deadline: Some(Time::ZERO),
            timeouts: 0,
            commands: Vec::new(),
            has_left: false,
            room: usize::MAX,
        };
        let identity = identity(byte);
        let mut event_loop = EventLoop::new(options, listeners, &identity, Clock::start(), echo).expect("a loop");
        event_loop.pace.late_after = Duration::MAX; // the deadline of the service is always overdue
        Self { event_loop, events: Events::with_capacity(64), api, p2p, id: identity.id() }
    }

    fn echo(&mut self) -> &mut Echo {
        &mut self.event_loop.service
    }

    fn turn(&mut self) -> Option<Ended> {
        self.event_loop.turn(&mut self.events).expect("a poll")
    }

    fn dial(&mut self, to: SocketAddr, expect: Option<NodeId>) {
        self.echo().commands.push(Command::Dial(Endpoint::Address(to), expect));
    }
}

/// A client of the API that never blocks.
struct Client {
    socket: TcpStream,
    unsent: Vec<u8>,
    received: Vec<u8>,
    reads: bool,
    ended: bool,
}

impl Client {
    fn new(api: SocketAddr) -> Self {
        let socket = TcpStream::connect(api).expect("the backlog has room");
        socket.set_nonblocking(true).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        Self { socket, unsent: Vec::new(), received: Vec::new(), reads: true, ended: false }
    }

    /// A client that sends `requests`.
    fn with_requests(host: &Host, requests: &[Vec<u8>]) -> Self {
        let mut client = Self::new(host.api);
        client.send(requests);
        client
    }

    fn send(&mut self, requests: &[Vec<u8>]) {
        for request in requests {
            self.unsent.extend(request);
        }
    }

    /// Writes and reads until the socket would block.
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
                Err(error) => panic!("a connection must end without an error: {error}"),
            }
        }
    }

    /// The replies so far: the key, and the length of the value after success.
    fn replies(&self) -> Vec<(Key, Option<usize>)> {
        let (mut at, mut replies) = (0, Vec::new());
        while let Some((frame, len)) = next_frame(Source::Server, &self.received[at..]).expect("replies") {
            at += len;
            replies.push(match ApiReply::decode(frame).expect("a reply") {
                ApiReply::Success { key, value } => (key, Some(value.len())),
                ApiReply::Failure { key } => (key, None),
            });
        }
        replies
    }
}

/// A host whose service has `behaviour`, and a client that sends `requests`.
fn start(behaviour: Behaviour, requests: &[Vec<u8>]) -> (Host, Client) {
    let mut host = Host::new();
    host.echo().behaviour = behaviour;
    let client = Client::with_requests(&host, requests);
    (host, client)
}

/// Runs the host and its client until `done`.
fn run_until(host: &mut Host, client: &mut Client, mut done: impl FnMut(&Host, &Client) -> bool) {
    for _ in 0..TURNS_MAX {
        if done(host, client) {
            return;
        }
        host.turn();
        client.pump();
    }
    panic!("the condition never held");
}

/// Runs two hosts until `done`.
fn run_both_until(a: &mut Host, b: &mut Host, mut done: impl FnMut(&mut Echo, &mut Echo) -> bool) {
    for _ in 0..TURNS_MAX {
        if done(a.echo(), b.echo()) {
            return;
        }
        a.turn();
        b.turn();
    }
    panic!("the condition never held");
}

/// Two hosts after the first one has dialled the second, and both ids of their connection.
fn connected_hosts() -> (Host, Host, ConnId, ConnId) {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    let (to, expect) = (b.p2p, Some(b.id));
    a.dial(to, expect);
    run_both_until(&mut a, &mut b, |a, b| !a.secured.is_empty() && !b.secured.is_empty());
    let (of_a, met_b, dialled) = a.echo().secured[0];
    let (of_b, met_a, accepted) = b.echo().secured[0];
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
    put_value(flags, b"bernd")
}

/// DHT PUT of `value` under the key 0.
fn put_value(flags: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(40 + value.len()).expect("a value that fits").to_be_bytes();
    [&[high, low, 2, 0x8a, 0, 1, 1, flags], &key(0).as_bytes()[..], value].concat()
}

#[test]
fn a_put_without_confirmation_gets_no_reply_and_the_next_get_does() {
    let (mut host, mut client) = start(Behaviour::Immediate, &[put(0), get(1)]);
    run_until(&mut host, &mut client, |_, client| client.received.len() >= 41);
    assert_eq!(client.replies(), [(key(1), Some(5))]);
    assert_eq!(host.echo().puts, 1);
}

#[test]
fn ten_thousand_pipelined_gets_are_answered_in_order() {
    let gets: Vec<_> = (0..10_000).map(get).collect();
    let (mut host, mut client) = start(Behaviour::Immediate, &gets);
    run_until(&mut host, &mut client, |_, client| client.received.len() >= 10_000 * 41);
    let expected: Vec<_> = (0..10_000).map(|number| (key(number), Some(5))).collect();
    assert_eq!(client.replies(), expected);
}

#[test]
fn the_service_prefetches_the_keys_of_requests_that_arrive_together() {
    let (mut host, mut alone) = start(Behaviour::Immediate, &[get(1)]);
    run_until(&mut host, &mut alone, |_, client| client.replies().len() == 1);
    assert_eq!(*host.echo().prefetched.borrow(), []);
    let mut together = Client::with_requests(&host, &[get(2), put(0), get(3)]);
    run_until(&mut host, &mut together, |_, client| client.replies().len() == 2);
    assert_eq!(*host.echo().prefetched.borrow(), [key(2), key(0), key(3)]);
}

#[test]
fn a_get_can_arrive_byte_by_byte() {
    let (mut host, mut client) = start(Behaviour::Immediate, &[get(3)]);
    let bytes = std::mem::take(&mut client.unsent);
    for byte in bytes {
        assert!(client.received.is_empty());
        client.unsent.push(byte);
        client.pump();
        host.turn();
        host.turn();
    }
    run_until(&mut host, &mut client, |_, client| client.received.len() >= 41);
    assert_eq!(client.replies(), [(key(3), Some(5))]);
}

#[test]
fn replies_are_sent_in_the_order_of_requests_although_the_service_answers_in_another() {
    let (mut host, mut client) = start(Behaviour::Deferred, &[get(0), get(1), put(1), get(3)]);
    run_until(&mut host, &mut client, |host, _| host.event_loop.service.gets.len() == 3);
    assert!(client.received.is_empty());
    host.echo().gets.reverse();
    host.echo().answer_gets();
    run_until(&mut host, &mut client, |_, client| client.replies().len() == 4);
    assert_eq!(client.replies(), [(key(0), Some(5)), (key(1), Some(5)), (key(0), None), (key(3), Some(5))]);
}

#[test]
fn requests_before_a_half_close_are_answered_before_the_end() {
    let (mut host, mut client) = start(Behaviour::Deferred, &[put(0), get(1), get(2)]);
    client.unsent.extend([0, 36, 2]); // an incomplete request
    client.pump();
    client.socket.shutdown(Shutdown::Write).expect("the connection is open");
    run_until(&mut host, &mut client, |host, _| host.event_loop.service.gets.len() == 2);
    host.echo().answer_gets();
    run_until(&mut host, &mut client, |_, client| client.ended);
    assert_eq!(client.replies(), [(key(1), Some(5)), (key(2), Some(5))]);
    assert!(host.event_loop.connections.is_empty());
}

#[test]
fn a_malformed_request_ends_only_its_connection_and_only_after_the_earlier_replies() {
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
    let (mut host, mut honest) = start(Behaviour::Immediate, &[get(0)]);
    run_until(&mut host, &mut honest, |_, client| client.replies().len() == 1);
    for (number, bytes) in malformed.into_iter().enumerate() {
        host.echo().behaviour = Behaviour::Deferred;
        host.echo().gets.clear();
        let mut client = Client::with_requests(&host, &[get(1)]);
        client.unsent.extend(bytes);
        client.send(&[get(2), get(3)]); // these are not processed
        run_until(&mut host, &mut client, |host, _| host.event_loop.counters.faults == number as u64 + 1);
        let (id, requested) = host.echo().gets[0];
        host.echo().commands.push(Command::Answer(id, requested));
        run_until(&mut host, &mut client, |_, client| client.ended);
        assert_eq!(client.replies(), [(key(1), Some(5))], "malformed message {number}");
        assert_eq!(host.echo().gets.len(), 1, "no request after it is processed");
    }
    host.echo().behaviour = Behaviour::Immediate;
    honest.send(&[get(9)]);
    run_until(&mut host, &mut honest, |_, client| client.replies().len() == 2);
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_loses_no_reply() {
    let mut host = Host::new();
    host.echo().value = vec![7; VALUE_SIZE_MAX].into();
    let gets: Vec<_> = (0..2_000).map(get).collect();
    let mut client = Client::with_requests(&host, &gets);
    client.reads = false;
    let mut last = (usize::MAX, 0);
    // The loop has stopped reading when the number of GETs stays the same for many turns.
    run_until(&mut host, &mut client, |host, _| {
        let gets = host.event_loop.service.gets.len();
        last = if last.0 == gets { (gets, last.1 + 1) } else { (gets, 0) };
        last.1 == 1_000
    });
    let count = host.echo().gets.len();
    assert!(count < 2_000, "{count} requests read from a client that does not read replies");
    let slot = host.event_loop.connections.slots()[0];
    let conn = host.event_loop.connections.at(slot);
    let crate::net::conn::Side::Client(state) = &mut conn.side else { panic!("a client") };
    assert!(state.outbox().len() <= API_ANSWERS_EXPECTED_MAX, "{} unsent bytes", state.outbox().len());
    client.reads = true;
    run_until(&mut host, &mut client, |_, client| client.received.len() == 2_000 * (36 + VALUE_SIZE_MAX));
    let expected: Vec<_> = (0..2_000).map(|number| (key(number), Some(VALUE_SIZE_MAX))).collect();
    assert_eq!(client.replies(), expected);
}

#[test]
fn no_more_requests_are_read_than_there_is_room_for_their_answers() {
    const MAX: usize = API_ANSWERS_EXPECTED_MAX / ANSWER_SIZE_MAX;
    let gets: Vec<_> = (0..MAX + 10).map(get).collect();
    let (mut host, mut client) = start(Behaviour::Deferred, &gets);
    run_until(&mut host, &mut client, |host, _| host.event_loop.service.gets.len() >= MAX);
    for _ in 0..100 {
        host.turn();
    }
    assert_eq!(host.echo().gets.len(), MAX);
    host.echo().behaviour = Behaviour::Immediate;
    host.echo().answer_gets();
    run_until(&mut host, &mut client, |_, client| client.replies().len() == MAX + 10);
}

#[test]
fn no_client_is_read_while_the_service_wants_no_requests() {
    let (mut host, mut client) = start(Behaviour::Busy, &[get(1), get(2)]);
    for _ in 0..100 {
        host.turn();
        client.pump();
    }
    assert!(host.echo().gets.is_empty());
    assert!(!host.event_loop.connections.has_work(), "and the loop does not spin");
    host.echo().behaviour = Behaviour::Immediate;
    run_until(&mut host, &mut client, |_, client| client.replies().len() == 2);
}

#[test]
fn requests_that_wait_for_room_are_taken_from_one_client_after_the_other() {
    let (mut host, mut first) = start(Behaviour::Busy, &[get(1), get(2), get(3)]);
    let mut second = Client::with_requests(&host, &[get(4), get(5), get(6)]);
    run_until(&mut host, &mut first, |host, _| {
        second.pump();
        host.event_loop.connections.parked() == 2
    });
    host.echo().behaviour = Behaviour::Deferred;
    for count in 1..=6 {
        host.echo().room = 1;
        run_until(&mut host, &mut first, |host, _| host.event_loop.service.gets.len() == count);
    }
    let takers: Vec<u64> = host.echo().gets.iter().map(|(client, _)| client.connection).collect();
    assert!(takers.windows(2).all(|two| two[0] != two[1]), "{takers:?}");
}

#[test]
fn a_reply_to_a_closed_connection_is_dropped_and_counted() {
    let (mut host, mut client) = start(Behaviour::Deferred, &[get(1)]);
    run_until(&mut host, &mut client, |host, _| host.event_loop.service.gets.len() == 1);
    let (id, requested) = host.echo().gets[0];
    host.echo().commands.push(Command::Answer(id, requested));
    drop(client);
    let mut other = Client::new(host.api);
    run_until(&mut host, &mut other, |host, _| host.event_loop.connections.slots().len() == 1);
    host.echo().commands.push(Command::Answer(id, requested));
    run_until(&mut host, &mut other, |host, _| host.event_loop.counters.replies_late == 1);
    assert!(other.received.is_empty(), "the new connection in the same slot must not get the reply");
}

#[test]
fn a_full_pool_refuses_connections_until_one_is_closed() {
    let mut host = Host::with(1, |options| options.api_connections_max = 1);
    let mut first = Client::with_requests(&host, &[get(1)]);
    run_until(&mut host, &mut first, |_, client| client.replies().len() == 1);
    let mut second = Client::new(host.api);
    run_until(&mut host, &mut second, |_, client| client.ended);
    assert_eq!(host.event_loop.counters.refused, 1);
    drop(first);
    let mut third = Client::new(host.api);
    run_until(&mut host, &mut third, |host, _| host.event_loop.connections.is_empty());
    let mut fourth = Client::with_requests(&host, &[get(1)]);
    run_until(&mut host, &mut fourth, |_, client| client.replies().len() == 1);
}

#[test]
fn an_idle_client_is_closed() {
    let mut host = Host::with(1, |options| options.api_idle_timeout = Duration::ZERO);
    let mut client = Client::new(host.api);
    run_until(&mut host, &mut client, |_, client| client.ended);
}

#[test]
fn leaving_sends_the_outstanding_replies_and_ends() {
    let mut host = Host::new();
    host.echo().behaviour = Behaviour::Deferred;
    let mut idle = Client::new(host.api);
    let mut client = Client::with_requests(&host, &[get(1), get(2)]);
    run_until(&mut host, &mut client, |host, _| host.event_loop.service.gets.len() == 2);
    client.send(&[get(3)]);
    client.pump();
    host.event_loop.leave();
    let mut ended = None;
    for _ in 0..TURNS_MAX {
        ended = ended.or(host.turn());
        client.pump();
        idle.pump();
        if ended.is_some() && client.ended && idle.ended {
            break;
        }
    }
    assert_eq!(ended, Some(Ended::Left));
    assert_eq!(
        client.replies(),
        [(key(1), Some(5)), (key(2), Some(5))],
        "the third request was sent after the loop began to leave"
    );
    assert!(idle.ended);
}

#[test]
fn what_a_request_makes_due_is_done_in_its_turn() {
    let (mut host, mut client) = start(Behaviour::Immediate, &[put(0)]);
    host.echo().deadline = None;
    run_until(&mut host, &mut client, |host, _| host.event_loop.service().puts == 1);
    assert_eq!(host.echo().timeouts, 1);
}

#[test]
fn a_batch_reaches_the_disk_writer_and_its_result_reaches_the_service() {
    let mut host = Host::new();
    let (batches, results) = host.event_loop.attach_disk_writer();
    let wake = host.event_loop.waker();
    let batch = Batch { contacts: Some(Vec::new()), ..Batch::default() };
    host.echo().commands.push(Command::Save(batch.clone()));
    let mut client = Client::new(host.api);
    let mut found = None;
    run_until(&mut host, &mut client, |_, _| {
        found = found.take().or_else(|| batches.try_recv().ok());
        found.is_some()
    });
    assert_eq!(found.as_deref(), Some(&batch));
    results.send(Saved::Durable).expect("the loop has the receiver");
    wake();
    run_until(&mut host, &mut client, |host, _| !host.event_loop.service().saved.is_empty());
    assert_eq!(host.echo().saved, [Saved::Durable]);
}

#[test]
fn without_a_disk_writer_every_batch_fails() {
    let mut host = Host::new();
    host.echo().commands.push(Command::Save(Batch::default()));
    let mut client = Client::new(host.api);
    run_until(&mut host, &mut client, |host, _| !host.event_loop.service().saved.is_empty());
    assert_eq!(host.echo().saved, [Saved::Failed]);
}

#[test]
fn the_loop_ends_when_the_disk_writer_has_panicked() {
    let mut host = Host::new();
    drop(host.event_loop.attach_disk_writer());
    host.event_loop.waker()();
    let ended = (0..TURNS_MAX).find_map(|_| host.event_loop.turn(&mut host.events).err());
    assert!(matches!(ended, Some(LoopError::HelperGone { helper: Helper::DiskWriter })), "{ended:?}");
}
