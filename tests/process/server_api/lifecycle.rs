//! How a node starts and stops.

use super::Joining;
use crate::common::client::{Answer, Client, get, key, put};
use crate::common::process::run;
use crate::common::{Scratch, Server, dht_server, eventually, free_port};

// ── stop ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn sigterm_and_sigint_stop_a_node_with_status_0() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start("");
        let mut client = Client::connect(server.api());
        client.put(key("k"), b"value");
        assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]));
        server.signal(signal);
        client.expect_end();
        assert_eq!(server.wait().code(), Some(0), "SIG{signal}");
    }
}

/// A client with two pending answers of `joining`: a FAILURE, then a value.
fn owed(joining: &Joining) -> Client {
    let mut client = Client::connect(joining.server.api());
    client.send(&[put(key("held"), 60, b"here"), get(key("slow")), get(key("held"))].concat());
    let mut other = Client::connect(joining.server.api());
    // Once another client reads the value of the first request, the server has read all three.
    eventually("the server has read it all", || other.get(key("held")));
    client
}

/// Stops a node with these settings while answers are pending: it sends all of them.
fn expect_answers_at_the_end(settings: &str) {
    let mut joining = Joining::start(settings);
    let mut client = owed(&joining);
    joining.server.signal("TERM");
    assert_eq!(client.answer(), Answer::Failure(key("slow")));
    assert_eq!(client.answer(), Answer::Success(key("held"), b"here".to_vec()));
    client.expect_end();
    assert_eq!(joining.server.wait().code(), Some(0));
}

#[test]
fn pending_answers_are_sent_before_the_process_ends() {
    expect_answers_at_the_end("request_timeout = 500ms");
}

#[test]
fn at_leave_timeout_pending_requests_are_answered_with_failure_and_the_process_ends() {
    expect_answers_at_the_end("request_timeout = 1h\nleave_timeout = 200ms");
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let mut joining = Joining::start("request_timeout = 1h\nleave_timeout = 1h");
    let mut client = owed(&joining);
    joining.server.signal("TERM");
    joining.server.log_line("leaving owed=1");
    joining.server.signal("INT");
    client.expect_end();
    assert_eq!(joining.server.wait().code(), Some(1));
    joining.server.log_line("by a second signal");
}

#[test]
fn a_leaving_node_accepts_no_more_clients() {
    let port = free_port();
    let mut joining =
        Joining::start(&format!("api_address = 127.0.0.1:{port}\nrequest_timeout = 1h\nleave_timeout = 1h"));
    let _client = owed(&joining);
    joining.server.signal("TERM");
    joining.server.log_line("leaving owed=1");
    let refused = std::net::TcpStream::connect(joining.server.api()).expect_err("there is no listener");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    joining.server.kill_hard();
}

// ── start ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_node_starts_again_on_its_ports_at_once() {
    let scratch = Scratch::new();
    let ports = format!("api_address = 127.0.0.1:{}\np2p_address = 127.0.0.1:{}", free_port(), free_port());
    let mut server = Server::start_in(&scratch, &ports);
    let mut client = Client::connect(server.api());
    assert_eq!(client.get(key("k")), None);
    assert!(server.terminate().success()); // it has closed first: the kernel keeps the connection for a while
    let again = Server::start_in(&scratch, &ports);
    assert_eq!(Client::connect(again.api()).get(key("k")), None);
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let server = Server::start("");
    for (key, address) in [("api_address", server.api()), ("p2p_address", server.p2p())] {
        let scratch = Scratch::new();
        let config = scratch.write_config(&format!("{key} = {address}"));
        let second = run(dht_server().arg("-c").arg(config), b"");
        assert_eq!(second.code, Some(1), "{}", second.stderr);
        let fault = format!("cannot listen at {address}: ");
        assert!(second.stderr.contains(&fault), "{}", second.stderr);
    }
}

#[test]
fn a_node_can_listen_on_ipv6() {
    let server = Server::start("api_address = [::1]:0\np2p_address = [::1]:0");
    assert!(server.api().is_ipv6() && server.p2p().is_ipv6());
    let mut client = Client::connect(server.api());
    client.put(key("k"), b"value");
    assert_eq!(client.get(key("k")).as_deref(), Some(&b"value"[..]));
}
