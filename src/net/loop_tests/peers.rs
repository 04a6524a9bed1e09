//! Tests of connections to peers.

use super::*;
use crate::net::conn::{CloseReason, Timeout};
use crate::net::peer::{Dial, dial_error};

#[test]
fn two_nodes_verify_each_other_and_exchange_complete_messages() {
    let (mut a, mut b, of_a, of_b) = connected_hosts();
    a.echo().commands.push(Command::Send(of_a, 3_000));
    b.echo().commands.push(Command::Send(of_b, 1));
    run_both_until(&mut a, &mut b, |a, b| b.frames.len() == 3_000 && a.frames.len() == 1);
    assert!(b.echo().frames.iter().all(|frame| *frame == (of_b, 660, 32)));
    assert_eq!(a.echo().frames, [(of_a, 660, 32)]);
}

#[test]
fn a_close_action_takes_effect_after_all_messages_and_is_reported_only_to_the_peer() {
    let (mut a, mut b, of_a, of_b) = connected_hosts();
    a.echo().commands.extend([Command::Send(of_a, 100), Command::Close(of_a), Command::Send(of_a, 1)]);
    run_both_until(&mut a, &mut b, |_, b| !b.closed.is_empty());
    assert_eq!(b.echo().closed, [of_b]);
    assert_eq!(b.echo().frames.len(), 100);
    run_both_until(&mut a, &mut b, |_, _| true);
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
fn the_service_learns_of_requests_that_have_no_room_in_an_outbox() {
    let (mut a, mut b, of_a, _) = connected_hosts();
    let ping = 36;
    let fits = PEER_OUTBOX_MAX / ping;
    a.echo().commands.push(Command::Send(of_a, fits + 10));
    run_both_until(&mut a, &mut b, |a, b| b.frames.len() == fits && a.unsent.len() == 10);
    assert_eq!(a.event_loop.counters.outbox_drops, 10);
}

#[test]
fn a_peer_gets_an_error_instead_of_a_reply_that_has_no_room_in_an_outbox() {
    let (mut a, mut b, of_a, _) = connected_hosts();
    let pong = 36;
    let fits = PEER_OUTBOX_MAX / pong;
    a.echo().commands.push(Command::Reply(of_a, fits + 10));
    run_both_until(&mut a, &mut b, |_, b| b.frames.len() == fits + 10);
    let errors = b.echo().frames.iter().filter(|(_, kind, _)| *kind == crate::wire::ERROR.number).count();
    assert_eq!((errors, a.event_loop.counters.outbox_drops), (10, 10));
}

/// Bytes that the kernel buffers in each direction; it takes about twice as many. With a smaller buffer than a
/// segment of the loopback interface, the kernel itself would wait for timers.
const SMALL_BUFFER: usize = 64 << 10;

fn shrink_buffers(host: &mut Host, conn: ConnId) {
    let slot = host.event_loop.connections.find(conn.0).expect("the connection is open");
    let socket = socket2::SockRef::from(&host.event_loop.connections.at(slot).socket.stream);
    socket.set_send_buffer_size(SMALL_BUFFER).expect("a socket");
    socket.set_recv_buffer_size(SMALL_BUFFER).expect("a socket");
}

/// Neither waits for the other before it reads, although the sockets hold a small part of an outbox.
#[test]
fn two_nodes_that_send_each_other_64_mib_at_once_with_small_socket_buffers_finish() {
    let (mut a, mut b, of_a, of_b) = connected_hosts();
    shrink_buffers(&mut a, of_a);
    shrink_buffers(&mut b, of_b);
    let size = 4 + 32 + 32 * ENTRIES_MAX;
    let (mut sent, count) = (0, (64 << 20) / size);
    while sent < count {
        // As many as an outbox has room for; further ones follow when they have arrived.
        let some = (count - sent).min(PEER_OUTBOX_MAX / size);
        a.echo().commands.push(Command::Long(of_a, some));
        b.echo().commands.push(Command::Long(of_b, some));
        sent += some;
        run_both_until(&mut a, &mut b, |a, b| a.frames.len() == sent && b.frames.len() == sent);
    }
    assert_eq!((a.event_loop.counters.outbox_drops, b.event_loop.counters.outbox_drops), (0, 0));
}

/// An address at which nothing listens.
fn nowhere() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("the listener is bound")
}

#[test]
fn a_dial_distinguishes_a_refusal_from_an_unexpected_peer() {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    a.dial(nowhere(), None);
    run_both_until(&mut a, &mut b, |a, _| !a.failed_dials.is_empty());
    assert_eq!(a.echo().failed_dials, [(DialId(7), DialError::Refused)]);

    a.echo().failed_dials.clear();
    let (to, other) = (b.p2p, identity(3).id());
    a.dial(to, Some(other));
    run_both_until(&mut a, &mut b, |a, _| !a.failed_dials.is_empty());
    assert_eq!(a.echo().failed_dials, [(DialId(7), DialError::NotAuthentic)]);
    assert!(a.echo().secured.is_empty());
}

/// The only dial of `host` fails by `error`, sooner or later.
fn expect_failed_dial(host: &mut Host, error: DialError) {
    let turns = (0..TURNS_MAX).find(|_| {
        host.turn();
        !host.echo().failed_dials.is_empty()
    });
    assert!(turns.is_some());
    assert_eq!(host.echo().failed_dials, [(DialId(7), error)]);
}

/// With and without bytes of the dialler unread: the system then sends a reset, or an end.
#[test]
fn a_connection_that_the_remote_host_closes_during_the_handshake_is_a_refusal() {
    for reads in [false, true] {
        let mut host = Host::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        host.dial(listener.local_addr().expect("it is bound"), None);
        host.turn();
        host.turn();
        let (mut accepted, _) = listener.accept().expect("the dial has connected");
        if reads {
            accepted.set_nonblocking(true).expect("a socket");
            let mut hello = [0; 4_096];
            while !accepted.read(&mut hello).is_ok_and(|len| len > 0) {
                host.turn();
            }
        }
        drop(accepted);
        expect_failed_dial(&mut host, DialError::Refused);
    }
}

/// No handshake is completed, and nothing is closed: the other host may have stopped, or the way to it.
#[test]
fn a_silent_remote_host_is_not_a_refusal() {
    let mut host = Host::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    host.dial(listener.local_addr().expect("it is bound"), None);
    for _ in 0..3 {
        host.turn();
    }
    let (_accepted, _) = listener.accept().expect("the dial has connected");
    let slot = (0..16).find(|slot| host.event_loop.connections.get(*slot).is_some()).expect("one connection");
    host.event_loop.end(slot, &CloseReason::Timeout(Timeout::Handshake));
    host.turn();
    assert_eq!(host.echo().failed_dials, [(DialId(7), DialError::Unreachable)]);
}

/// A link-local address without an interface cannot be dialled, and the name is too long for any resolver.
#[test]
fn a_fault_of_this_host_is_told_from_a_refusal() {
    let too_long = Endpoint::Name { host: "x".repeat(300).into(), port: 7 };
    let no_route = Endpoint::Address("[fe80::1]:7".parse().expect("a literal"));
    for to in [no_route, too_long] {
        let mut host = Host::new();
        host.echo().commands.push(Command::Dial(to, None));
        expect_failed_dial(&mut host, DialError::LocalFault);
    }
}

#[test]
fn a_name_is_refused_only_if_all_its_addresses_refuse() {
    use DialError::{LocalFault, NotAuthentic, Refused, Unreachable};
    for (one, other, told) in [
        (Refused, Refused, Refused),
        (Refused, Unreachable, Unreachable),
        (Unreachable, NotAuthentic, NotAuthentic),
        (Refused, LocalFault, LocalFault),
        (Unreachable, LocalFault, LocalFault),
    ] {
        for [first, second] in [[one, other], [other, one]] {
            let mut dial = Dial::new(DialId(7), None, Vec::new());
            dial.failed(first);
            dial.failed(second);
            assert_eq!(dial.error(), told, "{first:?}, {second:?}");
        }
    }
    assert_eq!(Dial::new(DialId(7), None, Vec::new()).error(), LocalFault, "no address was tried");
}

#[test]
fn errors_of_this_host_are_no_refusal() {
    use rustix::io::Errno;
    let of = |errno: Errno| dial_error(&errno.into());
    for refused in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::CONNABORTED, Errno::PIPE] {
        assert_eq!(of(refused), DialError::Refused, "{refused}");
    }
    assert_eq!(of(Errno::TIMEDOUT), DialError::Unreachable);
    for local in [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::NETDOWN,
        Errno::ADDRNOTAVAIL,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::PERM,
        Errno::ACCESS,
        Errno::INVAL,
    ] {
        assert_eq!(of(local), DialError::LocalFault, "{local}");
    }
}

#[test]
fn a_name_is_dialled_at_all_its_addresses() {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    // If localhost also has an IPv6 address, no node listens there.
    let to = Endpoint::Name { host: Arc::from("localhost"), port: b.p2p.port() };
    a.echo().commands.push(Command::Dial(to, None));
    run_both_until(&mut a, &mut b, |a, _| !a.secured.is_empty());
    assert_eq!(a.echo().secured[0].1, b.id);
    assert!(a.echo().failed_dials.is_empty());
}

#[test]
fn a_connection_without_tls_is_refused_and_not_reported() {
    let mut host = Host::new();
    let mut client = Client::new(host.p2p);
    client.send(&[get(1)]);
    run_until(&mut host, &mut client, |_, client| client.ended);
    assert_eq!(host.event_loop.counters.faults, 1);
    assert!(host.echo().secured.is_empty());
    assert!(host.echo().closed.is_empty());
}

#[test]
fn a_peer_with_a_malformed_message_is_dropped_and_reported() {
    let (mut a, mut b, of_a, of_b) = connected_hosts();
    let slot = a.event_loop.connections.find(of_a.0).expect("the connection is open");
    let crate::net::conn::Side::Peer(peer) = &mut a.event_loop.connections.at(slot).side else { panic!("a peer") };
    peer.push(&[0, 3, 0, 0], &[]);
    a.event_loop.connections.queue_flush(slot);
    run_both_until(&mut a, &mut b, |a, b| !a.closed.is_empty() && !b.closed.is_empty());
    assert_eq!((&a.echo().closed[..], &b.echo().closed[..]), (&[of_a][..], &[of_b][..]));
    assert_eq!(b.event_loop.counters.faults, 1);
}
