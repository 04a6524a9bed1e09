//! Networks over IPv4, over IPv6, and over both.

use std::net::TcpListener;

use super::{client, expect_one_network, numbered, observe, put_of};
use crate::common::client::Answer;
use crate::common::{Cluster, Server, eventually, free_port};
use dht::wire::api::Confirm;

#[test]
fn a_network_can_use_ipv6_only() {
    let lines = |_| "p2p_address = [::1]:0\napi_address = [::1]:0".to_owned();
    let nodes = Cluster::start(5, lines).servers;
    for observer in &mut observe(&nodes, 4) {
        assert!(observer.contacts().iter().all(|contact| contact.address.is_ipv6()));
    }
    expect_one_network(&nodes);
}

/// The configuration lines of a node that listens on both address families.
fn dual() -> String {
    let port = free_port();
    format!("p2p_address = 127.0.0.1:{port}, [::1]:{port}\n")
}

#[test]
fn nodes_can_listen_on_both_address_families() {
    let founder = Server::start(&dual());
    let port = founder.p2p().port();
    let join = |bootstrap: &str| Server::start(&(dual() + &format!("bootstrap = {bootstrap}:{port}")));
    let nodes = [join("127.0.0.1"), join("[::1]"), join("localhost"), founder];
    for node in &nodes[..3] {
        node.log_line("joined contacts=");
    }
    observe(&nodes, 3);
    expect_one_network(&nodes);
}

#[test]
fn nodes_of_one_address_family_share_a_network_with_dual_stack_nodes() {
    let founder = Server::start(&dual());
    let port = founder.p2p().port();
    let join = |lines: &str, bootstrap: &str| Server::start(&format!("{lines}\nbootstrap = {bootstrap}:{port}"));
    let nodes = [
        join("p2p_address = 127.0.0.1:0", "127.0.0.1"),
        join("p2p_address = [::1]:0", "[::1]"),
        join(&dual(), "[::1]"),
        join("p2p_address = 127.0.0.1:0", "127.0.0.1"),
        founder,
    ];
    for node in &nodes[..4] {
        node.log_line("joined contacts=");
    }
    let mut observers = observe(&nodes, 2);
    assert!(observers[0].contacts().iter().all(|contact| contact.address.is_ipv4()));
    assert!(observers[1].contacts().iter().all(|contact| contact.address.is_ipv6()));
    expect_one_network(&nodes);
}

/// Whether this host has an IPv6 loopback address. Says so if not.
fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("SKIPPED: this host has no address ::1, so that nothing is tested here");
    }
    has
}

/// Goal: a value that was confirmed in one family is read in its newest version in the other, right after.
///
/// Method: five nodes of each family and one dual-stack node; records have three replicas. Until all nodes
/// know the bridge, which they do within seconds, values may be missed. Then twelve are written in one family,
/// overwritten in the other, and read after each step in the family that did not write.
#[test]
fn confirmed_values_cross_families_through_one_dual_stack_node() {
    if !has_ipv6() {
        return;
    }
    let bridge = Server::start(&dual());
    let port = bridge.p2p().port();
    let start = |ip: &str| Server::start(&format!("p2p_address = {ip}:0\nbootstrap = {ip}:{port}"));
    let families = ["127.0.0.1", "[::1]"].map(|ip| (0..5).map(|_| start(ip)).collect::<Vec<_>>());
    for node in families.iter().flatten() {
        node.log_line("settled");
    }
    bridge.log_line("bridge between address families is_bridge=true");
    let mut attempt = 0;
    eventually("all values cross", || {
        attempt += 1;
        let crosses = |writer: usize, number: usize, value: &[u8]| {
            let key = numbered("families", 100 * attempt + number);
            let mut client_of_writer = client(&families[writer][number % 5]);
            // A PUT that follows another one within a millisecond, at another node, may be superseded by it.
            eventually("a confirmation", || {
                let answer = client_of_writer.ask(&put_of(key, 3, value, Confirm::Yes));
                (answer == Answer::Success(key, Vec::new())).then_some(())
            });
            client(&families[1 - writer][(number + 2) % 5]).get(key).as_deref() == Some(value)
        };
        (0..12)
            .all(|number| crosses(number % 2, number, b"old") && crosses(1 - number % 2, number, b"new"))
            .then_some(())
    });
}
