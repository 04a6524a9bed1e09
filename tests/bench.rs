//! `scripts/bench.sh` is kept alive: every mode runs, shortly, with the programs under test. How fast anything was is not judged: other tests run beside it.

#[path = "common/mod.rs"]
#[expect(dead_code, reason = "servers are started by the script")]
mod common;

use std::io::{self, Write};
use std::process::Command;

use common::Scratch;
use common::process::{Finished, run};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench.sh");

/// Runs the script; nothing if this machine cannot, which is said past the test's own capture of
/// its output.
fn bench(arguments: &[&str]) -> Option<Finished> {
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(io::stderr(), "\nSKIPPED: no python3 here, so {SCRIPT} {arguments:?} is not tested\n");
        return None;
    }
    let mut command = Command::new(SCRIPT);
    command.args(arguments);
    command.env("DHT_SERVER", env!("CARGO_BIN_EXE_dht-server")).env("DHT_LOAD", env!("CARGO_BIN_EXE_dht-load"));
    Some(run(&mut command, b""))
}

/// Runs one mode, which is to find no fault; its tables must have `expected`, and its report must be JSON.
fn expect_well(mode: &[&str], expected: &[&str]) {
    let scratch = Scratch::new();
    let json = scratch.path("report.json").to_string_lossy().into_owned();
    let Some(finished) = bench(&[mode, &["--rounds", "1", "--json", &json]].concat()) else { return };
    let printed = String::from_utf8(finished.stdout).expect("text");
    assert_eq!(finished.code, Some(0), "{printed}{}", finished.stderr);
    for expected in expected.iter().chain(&["the same work took", "No failures."]) {
        assert!(printed.contains(expected), "{expected} in {printed}");
    }
    let read = run(Command::new("python3").args(["-m", "json.tool", &json]), b"");
    assert_eq!((read.code, read.stderr.as_str()), (Some(0), ""));
    let report = String::from_utf8(read.stdout).expect("text");
    assert!(report.contains("\"p99_9\": "), "{report}");
}

#[test]
fn local_sets_a_server_beside_the_echo() {
    let rows = ["| 1 × 1 ", "| 500 × 16 ", "| connect, GET, close (50) ", "| 50 × 16, PUT, interval ", "| dht-server "];
    expect_well(&["local", "--seconds", "0.1"], &rows);
}

#[test]
fn network_asks_nodes_for_what_they_do_not_hold() {
    let rows = ["| GET, one at a time | read_quorum = 1 ", "| PUT, 32 in flight ", "| 100 % ", "| alone "];
    expect_well(&["network", "3", "--seconds", "0.1", "--idle-seconds", "0.2"], &rows);
}

#[test]
fn churn_looks_before_during_and_after() {
    let rows = ["| GET  | before ", "| GET  | during ", "| PUT  | after "];
    expect_well(&["churn", "12", "--seconds", "1", "--every", "0.5", "--rate", "100"], &rows);
}

#[test]
fn fairness_and_memory_have_their_tables() {
    expect_well(
        &["fairness", "--seconds", "0.2"],
        &["| alone ", "| beside the loud client ", "| ratio within a round "],
    );
    expect_well(&["memory", "--seconds", "0.2", "--records", "1000"], &["| 1 000 ", "| records expire "]);
}

#[test]
fn what_is_wrong_is_told_with_what_was_expected() {
    for (arguments, expected) in [
        (&["loca"][..], "'loca'"),
        (&["network", "2"], "found `2`, expected a number from 3 to 256"),
        (&["churn", "x"], "found `x`, expected a number from 12 to 256"),
        (&["local", "--rounds", "0"], "argument --rounds: found `0`, expected a number from 1 to 1000"),
        (&["local", "--seconds", "nan"], "argument --seconds: found `nan`, expected a number from 0.05 to 600"),
        (&["local", "7"], "unrecognized arguments: 7"),
        (&[], "MODE"),
    ] {
        let Some(finished) = bench(arguments) else { return };
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(finished.stderr.contains(expected), "{expected} in {}", finished.stderr);
    }
}
