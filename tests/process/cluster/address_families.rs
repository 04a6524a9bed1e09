//! Networks over IPv4, over IPv6, and over both.

use super::{expect_one_network, observe};
use crate::common::{Cluster, Server, free_port};

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
