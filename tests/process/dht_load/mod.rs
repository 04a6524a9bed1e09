//! The program `dht-load` with the real server, with its own echo, and with fake servers.
//!
//! A run has a number of requests rather than a duration; where a test must wait, it waits for an event.

mod fake_server;

use std::net::SocketAddr;
use std::process::Command;

use crate::common::client::{Answer, Client, get, key};
use crate::common::process::{Finished, Process, run};
use crate::common::{Scratch, Server, free_port};
use dht::limits::VALUE_SIZE_MAX;
use fake_server::FakeServer;

fn command(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dht-load"));
    command.args(arguments.split_whitespace());
    command
}

/// The JSON that a run printed, and how the program ended.
struct Run {
    json: String,
    finished: Finished,
}

/// Runs `dht-load` with `arguments` and `--json` against `server`.
fn load(server: SocketAddr, arguments: &str) -> Run {
    let finished = run(&mut command(&format!("{arguments} --json -a {server}")), b"");
    let json = String::from_utf8(finished.stdout.clone()).expect("text");
    Run { json, finished }
}

/// The same for a run that must have no failure.
fn load_without_failures(server: SocketAddr, arguments: &str) -> Run {
    let run = load(server, arguments);
    assert_eq!(run.finished.code, Some(0), "{arguments}: {} {}", run.finished.stderr, run.json);
    assert_eq!(run.number("failures"), 0, "{}", run.json);
    run
}

impl Run {
    /// The text behind the first `name`, up to the end of the member.
    fn text(&self, name: &str) -> &str {
        let (_, after) =
            self.json.split_once(&format!("\"{name}\": ")).unwrap_or_else(|| panic!("{name}: {}", self.json));
        after.split([',', '}']).next().expect("a split has a first part")
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_else(|_| panic!("{name} in {}", self.json))
    }
}

// ── measurements ─────────────────────────────────────────────────────────────────────────────

#[test]
fn every_request_is_answered_and_counted() {
    let server = Server::start("");
    for (arguments, requests) in [
        ("get -n 5000 -c 7 -p 3 --preload --verify --keys 100", 5000),
        ("put -n 5000 -c 7 -p 3 --keys 100", 5000),
        ("put -n 500 -c 7 -p 3 --keys 100 --confirm", 500),
        ("mix -n 5000 -c 7 -p 16 --keys 100 --verify --mix 50", 5000),
        ("mix -n 5000 -c 1 --keys 100 --verify --confirm", 5000),
        ("get -n 3 -c 10 -p 10 --keys 100 --verify", 3),
    ] {
        let run = load_without_failures(server.api(), arguments);
        assert_eq!(run.number("answers"), requests, "{arguments}: {}", run.json);
        assert_eq!((run.text("protocol"), run.text("keys"), run.text("value_bytes")), ("\"dht\"", "100", "64"));
        assert_eq!((run.text("behind"), run.text("server_cpu_seconds")), ("null", "null"), "neither option was given");
        assert!(run.text("p50").parse::<f64>().expect("a number") > 0.0, "{}", run.json);
    }
}

#[test]
fn byte_counts_match_the_protocol() {
    let server = Server::start("");
    let run = load_without_failures(server.api(), "get -n 1000 -c 2 -p 5 --keys 10 --value 100 --preload");
    assert_eq!((run.number("bytes_out"), run.number("bytes_in")), (36_000, 136_000));
    let run = load_without_failures(server.api(), "put -n 1000 -c 2 -p 5 --keys 10 --value 100 --confirm");
    assert_eq!((run.number("bytes_out"), run.number("bytes_in")), (140_000, 36_000));
    let run = load_without_failures(server.api(), "put -n 1000 -c 1 -p 5 --keys 10 --value 100");
    assert_eq!((run.number("bytes_out"), run.number("bytes_in")), (147_200, 27_200), "200 batches, a GET behind each");
}

#[test]
fn values_of_the_largest_size_are_put_and_got_whole() {
    let server = Server::start("");
    let arguments = format!("-c 3 -p 4 --keys 5 --value {VALUE_SIZE_MAX} --verify");
    assert_eq!(
        load_without_failures(server.api(), &format!("mix -n 300 --preload --mix 50 {arguments}")).number("answers"),
        300
    );
    assert_eq!(load_without_failures(server.api(), &format!("get -n 300 {arguments}")).number("answers"), 300);
}

#[test]
fn an_open_loop_sends_every_due_request() {
    let server = Server::start("");
    for arguments in [
        "get -n 500 -c 3 -p 2 --keys 10 --preload --verify --rate 5000",
        "put -n 500 -c 3 -p 2 --keys 10 --rate 5000",
        "mix -n 500 -c 1 --keys 10 --verify --rate 100000000",
    ] {
        let run = load_without_failures(server.api(), arguments);
        assert_eq!(run.number("answers"), 500, "{arguments}: {}", run.json);
        assert_eq!(run.number("at_end"), 0, "all were sent: {}", run.json);
    }
}

#[test]
fn an_open_loop_above_the_capacity_reports_how_far_it_fell_behind() {
    let server = Server::start("");
    let run = load_without_failures(server.api(), "get -n 2000 -c 1 --keys 10 --preload --rate 100000000");
    assert!(run.number("requests_max") > 1000, "a request at a time, and all were due at once: {}", run.json);
    let micros = |name| run.text(name).parse::<f64>().expect("a number");
    assert!(micros("wait_max_us") > 0.0 && micros("max") >= micros("wait_max_us"), "waits count: {}", run.json);
}

#[test]
fn requests_of_an_open_loop_that_wait_past_the_timeout_are_given_up() {
    let server = Server::start("");
    load_without_failures(server.api(), "put -n 1000 -c 1 --keys 10");
    let run = load(server.api(), "get -n 1000000 -c 1 --keys 10 --rate 100000000 --timeout 0.2");
    assert_eq!(run.finished.code, Some(1), "{}", run.finished.stderr);
    assert!(run.number("unsent") > 0, "{}", run.json);
    assert_eq!(run.number("answers") + run.number("failures"), 1_000_000, "{}", run.json);
}

#[test]
fn each_request_can_use_its_own_connection() {
    let mut server = Server::start("");
    load_without_failures(server.api(), "get -n 300 -c 4 --keys 10 --preload --verify --connect-each");
    let run = load_without_failures(server.api(), "get -n 300 -c 4 --keys 10 --verify --connect-each");
    assert_eq!((run.number("answers"), run.text("connect_each")), (300, "true"));
    assert!(server.terminate().success(), "{:?}", server.log());
}

#[test]
fn connections_are_distributed_over_all_servers() {
    let servers = [FakeServer::start(fake_server::short_value), FakeServer::start(fake_server::short_value)];
    let both = format!("get -n 100 -c 4 -p 5 --keys 10 -a {},{}", servers[0].address(), servers[1].address());
    let finished = run(&mut command(&both), b"");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(servers.iter().all(|server| server.connections() == 2));
}

#[test]
fn of_two_addresses_the_reachable_one_is_measured_although_the_other_fails() {
    let server = Server::start("");
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let both = format!("get -n 1000 -c 4 --keys 10 --json -a {gone},{}", server.api());
    load_without_failures(server.api(), "put -n 1000 -c 1 --keys 10 --confirm");
    let finished = run(&mut command(&both), b"");
    let json = String::from_utf8(finished.stdout.clone()).expect("text");
    let run = Run { json, finished };
    assert_eq!(run.number("answers"), 1000, "{} {}", run.json, run.finished.stderr);
    assert_eq!((run.number("connect"), run.finished.code), (2, Some(1)), "it says that two did not connect");
}

#[test]
fn keys_may_come_from_a_file() {
    let server = Server::start("");
    let scratch = Scratch::new();
    let mut client = Client::connect(server.api());
    for text in ["a", "b"] {
        assert_eq!(client.put_confirmed(key(text), b"value"), Answer::Success(key(text), Vec::new()));
    }
    let file = scratch.write("keys", &format!("{}\n{}\n", key("a"), key("b")));
    let run = load_without_failures(server.api(), &format!("get -n 100 -c 2 --keys-from {}", file.display()));
    assert_eq!((run.number("answers"), run.number("keys")), (100, 2));
    let file = scratch.write("other", &format!("{}\n", key("c")));
    let run = load(server.api(), &format!("get -n 100 -c 2 --keys-from {}", file.display()));
    assert_eq!((run.finished.code, run.number("failure")), (Some(1), 100), "no node has that key");
}

#[test]
fn the_cpu_time_of_the_server_is_reported_if_its_pid_is_given() {
    let server = Server::start("");
    let run = load_without_failures(
        server.api(),
        &format!("put -n 5000 -c 5 -p 5 --keys 10 --confirm --pid {}", server.pid()),
    );
    for name in ["server_cpu_seconds", "server_cpu_ns_per_answer", "generator_cpu_ns_per_answer"] {
        assert!(run.text(name).parse::<f64>().expect("a number") > 0.0, "{name}: {}", run.json);
    }
    let nobody = load(server.api(), "get -n 1 --pid 4294967295");
    assert_eq!(nobody.finished.code, Some(3));
    assert!(nobody.finished.stderr.contains("process 4294967295"), "{}", nobody.finished.stderr);
}

#[test]
fn without_json_a_report_is_printed_and_with_progress_a_line_each_second() {
    let server = Server::start("");
    let mut process = Process::spawn(&mut command(&format!("put -t 3600 -c 2 --progress -a {}", server.api())));
    process.stderr().line_with("requests/s");
    process.stderr().nth_line_with("0 failures", 1);
    process.kill();
    let finished = run(&mut command(&format!("put -n 10 -c 2 -a {}", server.api())), b"");
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    let report = String::from_utf8(finished.stdout).expect("text");
    assert!(report.starts_with("put dht  2 connections × 1"), "{report}");
    assert!(report.contains("answers    10 = "), "{report}");
}

// ── faulty servers ───────────────────────────────────────────────────────────────────────────

#[test]
fn a_wrong_value_is_detected_only_with_verify() {
    let fake = FakeServer::start(fake_server::wrong_value);
    let seen = load(fake.address(), "get -n 100 -c 2 -p 5 --keys 10 --verify");
    assert_eq!((seen.finished.code, seen.number("answers"), seen.number("wrong_value")), (Some(1), 0, 100));
    load_without_failures(fake.address(), "get -n 100 -c 2 -p 5 --keys 10");
}

#[test]
fn answers_for_another_key_and_failures_are_counted_as_failures() {
    let fake = FakeServer::start(fake_server::wrong_key);
    let run = load(fake.address(), "get -n 100 -c 2 -p 5 --keys 10");
    assert_eq!((run.finished.code, run.number("wrong_key"), run.number("failures")), (Some(1), 100, 100));
    let fake = FakeServer::start(fake_server::failure);
    let run = load(fake.address(), "get -n 100 -c 2 -p 5 --keys 10");
    assert_eq!((run.finished.code, run.number("failure"), run.number("failures")), (Some(1), 100, 100));
}

#[test]
fn a_server_that_refuses_the_preload_is_not_measured() {
    let fake = FakeServer::start(fake_server::failure);
    let run = load(fake.address(), "get -n 100 --keys 10 --preload");
    assert_eq!((run.finished.code, run.json.as_str()), (Some(1), ""));
    let complaint = "preload: 10 of 10 keys could not be stored: failure=10";
    assert!(run.finished.stderr.contains(complaint), "{}", run.finished.stderr);
}

#[test]
fn an_answer_outside_the_protocol_ends_the_run() {
    let fake = FakeServer::start(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let run = load(fake.address(), "get -n 100 -c 2");
    assert_eq!(run.finished.code, Some(3), "{}", run.json);
    let complaint = format!("{}: sent bytes that are not an answer", fake.address());
    assert!(run.finished.stderr.contains(&complaint), "{}", run.finished.stderr);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let fake = FakeServer::start(|_| Vec::new());
    for arguments in ["get -n 1000000 -c 4", "get -n 1000000 -c 4 -p 1000 --rate 200"] {
        let run = load(fake.address(), &format!("{arguments} --timeout 0.05"));
        assert_eq!(run.finished.code, Some(3), "{}", run.json);
        let complaint = format!("{}: sent nothing for 0.05 s", fake.address());
        assert!(run.finished.stderr.contains(&complaint), "{}", run.finished.stderr);
    }
}

#[test]
fn an_unreachable_server_is_reported_at_once() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for arguments in ["get -t 3600", "get -n 10 --preload", "get -t 3600 --rate 10", "get -t 3600 --connect-each"] {
        let run = load(nobody, arguments);
        assert_eq!((run.finished.code, run.json.as_str()), (Some(3), ""), "{arguments}");
        let complaint = format!("{nobody}: cannot connect: ");
        assert!(run.finished.stderr.contains(&complaint), "{}", run.finished.stderr);
    }
}

#[test]
fn a_server_that_dies_ends_the_run() {
    for arguments in ["put -t 3600 -c 20 -p 4", "put -t 3600 -c 20 --rate 1000", "put -t 3600 --connect-each"] {
        let mut server = Server::start("");
        let mut process = Process::spawn(&mut command(&format!("{arguments} --progress -a {}", server.api())));
        process.stderr().line_with("requests/s");
        server.kill_hard();
        assert_eq!(process.wait().code(), Some(3), "{arguments}");
        process.stderr().line_with(&format!("{}: ", server.api()));
        process.stderr().line_with(" answers");
    }
}

#[test]
fn a_wrong_command_line_exits_with_status_2() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for arguments in ["", "fetch", "get -c 0", "get -n 1 -t 1", "get --keys-from /nowhere/keys", "get --frobnicate"] {
        let run = load(nobody, arguments);
        assert_eq!((run.finished.code, run.json.as_str()), (Some(2), ""), "{arguments}: {}", run.finished.stderr);
    }
    let help = run(&mut command("--help"), b"");
    assert_eq!(help.code, Some(0));
    assert!(String::from_utf8(help.stdout).expect("text").contains("--connect-each"));
}

// ── the echo ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_echo_answers_every_get_and_ends_on_sigterm() {
    let mut echo = Process::spawn(&mut command("echo -a 127.0.0.1:0"));
    let listening = echo.stderr().line_with("listening api=");
    let (_, address) = listening.split_once("api=").expect("it was found by that");
    let address: SocketAddr = address.parse().expect("an address");
    let mut client = Client::connect(address);
    client.put(key("k"), b"dropped");
    assert_eq!(client.get(key("k")), Some(vec![b'v'; 64]));
    client.send(&get(key("a"))[..20]);
    client.send(&[&get(key("a"))[20..], &get(key("b"))[..]].concat());
    for text in ["a", "b"] {
        assert_eq!(client.answer(), Answer::Success(key(text), vec![b'v'; 64]));
    }
    assert_eq!(load_without_failures(address, "get -n 10000 -c 20 -p 16").number("bytes_in"), 1_000_000);
    assert_eq!(load_without_failures(address, "get -n 100 -c 5 --connect-each").number("answers"), 100);
    echo.signal("TERM");
    echo.wait();
}

#[test]
fn the_echo_supports_values_of_any_size() {
    let echo = Process::spawn(&mut command("echo -a 127.0.0.1:0 --value 60000"));
    let listening = echo.stderr().line_with("listening api=");
    let address = listening.split_once("api=").expect("it was found by that").1.parse().expect("an address");
    let run = load_without_failures(address, "get -n 500 -c 5 -p 16 --value 60000");
    assert_eq!(run.number("bytes_in"), 500 * 60_036, "more than a kernel takes at once");
}
