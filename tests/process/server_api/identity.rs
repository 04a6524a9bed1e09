//! The node's key, and its data directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::process::run;
use crate::common::{Scratch, Server, dht_server};

#[test]
fn the_first_start_makes_a_private_node_key_and_later_starts_use_it() {
    let scratch = Scratch::new();
    let mut server = Server::start_in(&scratch, "");
    let id = server.id();
    assert_eq!(id.len(), 8, "{id}");
    let key = scratch.path("data/node_key.pem");
    let mode = fs::metadata(&key).expect("the key was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(fs::read_to_string(&key).expect("it is text").starts_with("-----BEGIN PRIVATE KEY-----\n"));

    assert!(server.terminate().success());
    let mut server = Server::start_in(&scratch, "");
    assert_eq!(server.id(), id);
    server.kill_hard();
    assert_eq!(Server::start_in(&scratch, "").id(), id, "a node that was killed left nothing in the way");
}

#[test]
fn each_data_directory_has_its_own_key() {
    assert_ne!(Server::start("").id(), Server::start("").id());
}

#[test]
fn a_second_node_on_a_data_directory_names_the_process_that_uses_it() {
    let scratch = Scratch::new();
    let server = Server::start_in(&scratch, "");
    let config = scratch.path("config.ini");
    let second = run(dht_server().arg("-c").arg(&config), b"");
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    let data = scratch.path("data");
    let fault = format!("{} belongs to the running process {}", data.display(), server.pid());
    assert!(second.stderr.contains(&fault), "{}", second.stderr);
    assert_eq!(second.stdout, b"");
}

#[test]
fn a_damaged_node_key_is_reported_and_neither_used_nor_replaced() {
    const DAMAGED: &str = "-----BEGIN PRIVATE KEY-----\nnot a key\n-----END PRIVATE KEY-----\n";
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("data")).expect("a new directory");
    let key = scratch.write("data/node_key.pem", DAMAGED);
    let node = run(dht_server().arg("-c").arg(scratch.write_config("")), b"");
    assert_eq!(node.code, Some(1), "{}", node.stderr);
    let fault = format!("{} is no Ed25519 key, expected PKCS#8 in PEM", key.display());
    assert!(node.stderr.contains(&fault), "{}", node.stderr);
    assert_eq!(fs::read_to_string(&key).expect("it is still there"), DAMAGED);
}

#[test]
fn a_node_key_that_does_not_solve_the_puzzle_is_reported() {
    let scratch = Scratch::new();
    assert!(Server::start_in(&scratch, "pow_bits = 0").terminate().success());
    let node = run(dht_server().arg("-c").arg(scratch.write_config("pow_bits = 32")), b"");
    assert_eq!(node.code, Some(1), "{}", node.stderr);
    assert!(node.stderr.contains("expected pow_bits = 32"), "{}", node.stderr);
}

/// A configuration in `scratch` with a global `hostkey`.
fn config_with_hostkey(scratch: &Scratch, hostkey: &str) -> std::path::PathBuf {
    let config = scratch.write_config("");
    let section = fs::read_to_string(&config).expect("it was just written");
    scratch.write("config.ini", &format!("hostkey = {hostkey}\n{section}"))
}

#[test]
fn an_ed25519_hostkey_becomes_the_node_key() {
    let (first, second) = (Scratch::new(), Scratch::new());
    let server = Server::start_in(&first, "");
    let key = fs::read_to_string(first.path("data/node_key.pem")).expect("it was made");
    second.write("hostkey.pem", &key);
    let same = Server::start_from(&config_with_hostkey(&second, "hostkey.pem"));
    assert_eq!(same.id(), server.id());
    assert!(!second.path("data/node_key.pem").exists(), "no unused key is made");
}

#[test]
fn any_other_hostkey_is_ignored_with_a_log_line() {
    const RSA: &str = "-----BEGIN RSA PRIVATE KEY-----\nMAoCAQACAQECAQM=\n-----END RSA PRIVATE KEY-----\n";
    let scratch = Scratch::new();
    let rsa = scratch.write("hostkey.pem", RSA);
    for hostkey in ["hostkey.pem", "nowhere.pem"] {
        let mut server = Server::start_from(&config_with_hostkey(&scratch, hostkey));
        assert!(server.log_line(hostkey).contains("hostkey"));
        assert!(server.terminate().success());
    }
    assert_eq!(fs::read_to_string(rsa).expect("it is still there"), RSA);
    assert!(!scratch.path("nowhere.pem").exists());
}
