//! Tests of connections to peers.

use super::*;

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

/// Neither waits for the other before it reads.
#[test]
fn two_nodes_that_send_each_other_more_than_all_buffers_hold_finish() {
    let (mut a, mut b, of_a, of_b) = connected_hosts();
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

#[test]
fn a_dial_distinguishes_an_unreachable_from_an_unexpected_peer() {
    let (mut a, mut b) = (Host::new(), Host::with(2, |_| {}));
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("the listener is bound")
    };
    a.dial(nowhere, None);
    run_both_until(&mut a, &mut b, |a, _| !a.failed_dials.is_empty());
    assert_eq!(a.echo().failed_dials, [(DialId(7), DialError::Unreachable)]);

    a.echo().failed_dials.clear();
    let (to, other) = (b.p2p, identity(3).id());
    a.dial(to, Some(other));
    run_both_until(&mut a, &mut b, |a, _| !a.failed_dials.is_empty());
    assert_eq!(a.echo().failed_dials, [(DialId(7), DialError::NotAuthentic)]);
    assert!(a.echo().secured.is_empty());
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
