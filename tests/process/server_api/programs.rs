//! The client programs `dht-cli` and `scripts/dht_client.py`. Signed and hashed values of `dht-cli` are
//! in `signed.rs`.

use std::net::SocketAddr;
use std::process::Command;

use dht::limits::VALUE_SIZE_MAX;

use crate::common::client::{Client, key};
use crate::common::process::{Finished, Process, run};
use crate::common::{Server, dht_client, eventually, free_port};

// ── dht-cli ──────────────────────────────────────────────────────────────────────────────────

pub(super) fn dht_cli_fed(api: SocketAddr, arguments: &[&str], input: &[u8]) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_dht-cli")).arg("-a").arg(api.to_string()).args(arguments), input)
}

pub(super) fn dht_cli(api: SocketAddr, arguments: &[&str]) -> Finished {
    dht_cli_fed(api, arguments, b"")
}

#[test]
fn dht_cli_gets_what_it_put_and_prints_nothing_else() {
    let server = Server::start("");
    let put = dht_cli(server.api(), &["put", "hello", "world"]);
    assert_eq!((put.code, &put.stdout[..], put.stderr.as_str()), (Some(0), &b""[..], ""));
    let get = dht_cli(server.api(), &["get", "hello"]);
    assert_eq!((get.code, &get.stdout[..], get.stderr.as_str()), (Some(0), &b"world"[..], ""));
}

#[test]
fn dht_cli_exits_with_success_once_a_confirmed_put_is_held() {
    let server = Server::start("");
    let put = dht_cli(server.api(), &["put", "hello", "world", "--ttl", "60", "--replication", "5", "--confirm"]);
    assert_eq!((put.code, put.stderr.as_str()), (Some(0), ""));
    assert_eq!(Client::connect(server.api()).get(key("hello")).as_deref(), Some(&b"world"[..]));
}

#[test]
fn dht_cli_reads_any_bytes_as_a_value_from_standard_input() {
    let server = Server::start("");
    let value: Vec<u8> = (0..VALUE_SIZE_MAX).map(|at| at.to_le_bytes()[0]).collect();
    let put = dht_cli_fed(server.api(), &["put", "binary", "-", "--confirm"], &value);
    assert_eq!((put.code, put.stderr.as_str()), (Some(0), ""));
    let get = dht_cli(server.api(), &["get", "binary"]);
    assert_eq!(get.code, Some(0));
    assert!(get.stdout == value);

    let refused = dht_cli_fed(server.api(), &["put", "binary", "-"], &[&value[..], b"x"].concat());
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn dht_cli_accepts_a_raw_key() {
    let server = Server::start("");
    let hex = key("hello").to_string();
    assert_eq!(dht_cli(server.api(), &["--raw-key", "put", &hex, "world"]).code, Some(0));
    assert_eq!(dht_cli(server.api(), &["get", "hello"]).stdout, b"world");
    assert_eq!(dht_cli(server.api(), &["--raw-key", "get", &hex]).stdout, b"world");
    assert_eq!(dht_cli(server.api(), &["--raw-key", "get", "hello"]).code, Some(2));
}

#[test]
fn the_exit_status_of_dht_cli_names_the_kind_of_fault() {
    let server = Server::start("");
    let not_found = dht_cli(server.api(), &["get", "nobody"]);
    assert_eq!((not_found.code, &not_found.stdout[..]), (Some(1), &b""[..]));
    assert!(not_found.stderr.contains("not found"), "{}", not_found.stderr);

    let too_long = "a key of more than thirty-two bytes";
    for usage in [
        &["get"][..],
        &["put", "k"],
        &["list"],
        &["get", too_long],
        &["put", "k", "v", "--ttl", "x"],
        &["delete", "k"],
        &["get", "--signed", "k"],
        &["put", "--sign", "no such file", "v"],
    ] {
        let refused = dht_cli(server.api(), usage);
        assert_eq!((refused.code, &refused.stdout[..]), (Some(2), &b""[..]), "{usage:?}");
    }

    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let unreachable = dht_cli(nobody, &["get", "hello"]);
    assert_eq!((unreachable.code, &unreachable.stdout[..]), (Some(3), &b""[..]));
    assert!(unreachable.stderr.contains(&nobody.to_string()), "{}", unreachable.stderr);
}

// ── dht_client.py ────────────────────────────────────────────────────────────────────────────

#[test]
fn the_courses_client_puts_and_gets_on_one_connection() {
    let server = Server::start("api_connections_max = 1");
    let Some(mut client) = dht_client(server.api(), &["-s", "-g"]) else { return };
    let finished = run(&mut client, b"");
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    let printed = String::from_utf8(finished.stdout).expect("text");
    assert_eq!(printed, "PUT sent: 5 bytes, TTL 1 s, replication 1\nGET sent\nSUCCESS: bernd\n");
}

#[test]
fn a_value_of_the_courses_client_stays_after_it_has_closed() {
    let server = Server::start("");
    let put = ["-s", "-k", "hello", "-d", "world", "--ttl", "60"];
    let Some(mut client) = dht_client(server.api(), &put) else { return };
    assert_eq!(run(&mut client, b"").code, Some(0));
    let mut other = Client::connect(server.api());
    eventually("the value is there, though its client is gone", || other.get(key("hello")));
    let mut client = dht_client(server.api(), &["-g", "-k", "hello"]).expect("python3 was there");
    let finished = run(&mut client, b"");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, b"GET sent\nSUCCESS: world\n");
}

#[test]
fn the_courses_client_reports_an_unknown_key() {
    let server = Server::start("");
    let Some(mut client) = dht_client(server.api(), &["-g", "-k", "nobody"]) else { return };
    let finished = run(&mut client, b"");
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert_eq!(finished.stdout, b"GET sent\nFAILURE: the key was not found\n");
}

#[test]
fn the_courses_client_repeats_over_its_connection_after_enter() {
    let server = Server::start("api_connections_max = 1");
    let Some(mut command) = dht_client(server.api(), &["-s", "-g", "-c", "-k", "again", "--ttl", "60"]) else { return };
    let mut client = Process::spawn(&mut command);
    for round in 0..2 {
        client.stdout().nth_line_with("SUCCESS: bernd", round);
        client.feed(b"\n");
    }
    client.stdout().nth_line_with("SUCCESS: bernd", 2);
    client.end_input();
    assert_eq!(client.wait().code(), Some(0));
    assert!(!server.log().iter().any(|line| line.contains("clients refused")), "it made one connection");
}
