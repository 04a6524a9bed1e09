//! Ways to join a network: by host name, by pin, late, and again.

use super::{Observer, client, eventually_found, expect_one_network, put_confirmed};
use crate::common::client::{Answer, key};
use crate::common::{Cluster, Scratch, Server, free_port};
use crate::scripted_peer::message::hex;

/// A server that joins through `bootstrap`, with the configuration `lines`.
fn join(bootstrap: &str, lines: &str) -> Server {
    Server::start(&format!("bootstrap = {bootstrap}\n{lines}"))
}

#[test]
fn a_bootstrap_may_be_a_host_name() {
    let founder = Server::start("");
    let node = join(&format!("localhost:{}", founder.p2p().port()), "");
    node.log_line("joined contacts=1");
    expect_one_network(&[founder, node]);
}

#[test]
fn a_pinned_bootstrap_is_joined_only_if_its_id_matches() {
    let founder = Server::start("");
    let right = hex(&Observer::of(&founder).id);
    let wrong = "0".repeat(64);
    let misled = join(&format!("{}#{wrong}", founder.p2p()), "request_timeout = 3 s");
    let refused = misled.log_line("peer refused");
    assert!(refused.contains(&format!("its id is {right:.8}, expected 00000000")), "{refused}");

    let node = join(&format!("{}#{right}", founder.p2p()), "");
    node.log_line("joined contacts=1");
    put_confirmed(&mut client(&founder), key("k"), 3, b"value");
    assert_eq!(client(&node).get(key("k")), Some(b"value".to_vec()));
    assert_eq!(client(&misled).get(key("k")), None);
    assert!(!misled.log().iter().any(|line| line.contains("joined")), "{:#?}", misled.log());
}

#[test]
fn nodes_can_share_one_bootstrap_list_that_names_all_of_them() {
    let ports = [(); 3].map(|()| free_port());
    let list = ports.map(|port| format!("127.0.0.1:{port}")).join(", ");
    let nodes = ports.map(|port| join(&list, &format!("p2p_address = 127.0.0.1:{port}")));
    for node in &nodes {
        node.log_line("bootstrap is this node");
        node.log_line("joined contacts=");
    }
    expect_one_network(&nodes);
}

#[test]
fn a_node_that_is_its_own_only_bootstrap_founds_a_network() {
    let port = free_port();
    let founder = join(&format!("127.0.0.1:{port}"), &format!("p2p_address = 127.0.0.1:{port}"));
    founder.log_line("bootstrap is this node");
    assert_eq!(client(&founder).put_confirmed(key("k"), b"value"), Answer::Success(key("k"), Vec::new()));
    assert_eq!(client(&founder).get(key("nobody")), None);
    let node = join(&founder.p2p().to_string(), "");
    node.log_line("joined contacts=1");
    assert_eq!(client(&node).get(key("k")), Some(b"value".to_vec()));
}

#[test]
fn a_bootstrap_that_starts_later_gets_the_values_put_before() {
    let port = free_port();
    let node = join(&format!("127.0.0.1:{port}"), "");
    let mut early = client(&node);
    early.put(key("early"), b"value");
    assert_eq!(early.get(key("early")), Some(b"value".to_vec()));
    let founder = Server::start(&format!("p2p_address = 127.0.0.1:{port}"));
    node.log_line("joined contacts=1");
    assert_eq!(eventually_found(&founder, key("early")), b"value");
}

#[test]
fn a_node_that_lost_its_only_peer_joins_again_once_it_returns() {
    let (scratch, port) = (Scratch::new(), free_port());
    let lines = format!("p2p_address = 127.0.0.1:{port}");
    let mut founder = Server::start_in(&scratch, &lines);
    let node = join(&founder.p2p().to_string(), "");
    node.log_line("joined contacts=1");
    put_confirmed(&mut client(&node), key("before"), 3, b"value");

    founder.kill_hard();
    assert_eq!(client(&node).get(key("nobody")), None, "there is no node to ask");
    node.log_line("joining again");
    assert_eq!(client(&node).get(key("before")), Some(b"value".to_vec()), "it goes on serving");
    client(&node).put(key("meanwhile"), b"value");

    let founder = Server::start_in(&scratch, &lines);
    node.nth_log_line("joined contacts=", 1);
    assert_eq!(eventually_found(&founder, key("before")), b"value");
    assert_eq!(eventually_found(&founder, key("meanwhile")), b"value");
    expect_one_network(&[founder, node]);
}

#[test]
fn a_node_that_lost_its_bootstrap_joins_again_through_a_remembered_contact() {
    let (scratch, port) = (Scratch::new(), free_port());
    let founder = Server::start("");
    let bootstrap = founder.p2p().to_string();
    let lines = format!("bootstrap = {bootstrap}\np2p_address = 127.0.0.1:{port}");
    let mut other = Server::start_in(&scratch, &lines);
    let node = join(&bootstrap, "");
    for server in [&other, &node] {
        server.log_line("joined contacts=");
    }
    super::observe(std::slice::from_ref(&node), 2);

    { founder }.kill_hard();
    other.kill_hard();
    assert_eq!(client(&node).get(key("nobody")), None);
    node.log_line("joining again");
    let other = Server::start_in(&scratch, &lines);
    node.nth_log_line("joined contacts=", 1);
    other.log_line("joined contacts=1");
    expect_one_network(&[other, node]);
}

#[test]
fn a_node_can_join_through_any_other_node() {
    let mut nodes = Cluster::start(2, |_| String::new()).servers;
    for _ in 0..4 {
        let last = nodes.last().expect("there are two").p2p().to_string();
        nodes.push(join(&last, ""));
    }
    for node in &nodes[1..] {
        node.log_line("joined contacts=");
    }
    super::observe(&nodes, 5);
    expect_one_network(&nodes);
}
