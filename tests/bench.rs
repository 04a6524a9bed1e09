//! `scripts/bench.sh`: every mode runs for a short time with the programs under test. No test asserts how fast
//! anything is, because other tests run at the same time.

#[path = "common/mod.rs"]
#[expect(dead_code, reason = "the script starts the servers")]
mod common;

use std::io::{self, Write};
use std::process::Command;

use common::Scratch;
use common::process::{Finished, run};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench.sh");
const INSTRUCTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench/test_instructions.py");

/// Runs a script that needs Python with the programs under test. `None` if this machine has no Python; a message
/// then says so, and the test harness does not capture it.
fn run_script(program: &str, arguments: &[&str]) -> Option<Finished> {
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(io::stderr(), "\nSKIPPED: no python3 here, so {program} {arguments:?} is not tested\n");
        return None;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("DHT_SERVER", env!("CARGO_BIN_EXE_dht-server")).env("DHT_LOAD", env!("CARGO_BIN_EXE_dht-load"));
    Some(run(&mut command, b""))
}

/// Runs one mode and expects success, `expected` in the printed tables, and a JSON report.
fn expect_success(mode: &[&str], expected: &[&str]) {
    let scratch = Scratch::new();
    let json = scratch.path("report.json").to_string_lossy().into_owned();
    let arguments = [mode, &["--rounds", "1", "--json", &json]].concat();
    let Some(finished) = run_script(SCRIPT, &arguments) else { return };
    let printed = String::from_utf8(finished.stdout).expect("text");
    assert_eq!(finished.code, Some(0), "{printed}{}", finished.stderr);
    for expected in expected.iter().chain(&["the speed probe took", "No failures."]) {
        assert!(printed.contains(expected), "{expected} in {printed}");
    }
    let read = run(Command::new("python3").args(["-m", "json.tool", &json]), b"");
    assert_eq!((read.code, read.stderr.as_str()), (Some(0), ""));
    let report = String::from_utf8(read.stdout).expect("text");
    assert!(report.contains("\"p99_9\": "), "{report}");
}

#[test]
fn local_compares_a_server_with_the_echo() {
    let rows = ["| 1 × 1 ", "| 500 × 16 ", "| connect, GET, close (50) ", "| 50 × 16, PUT, interval ", "| dht-server "];
    expect_success(&["local", "--seconds", "0.1"], &rows);
}

#[test]
fn network_asks_nodes_that_do_not_hold_the_values() {
    let rows = ["| GET, one at a time | read_quorum = 1 ", "| PUT, 32 in flight ", "| 100 % ", "| alone "];
    expect_success(&["network", "3", "--seconds", "0.1", "--idle-seconds", "0.2"], &rows);
}

#[test]
fn churn_measures_before_during_and_after() {
    let rows = ["| GET  | before ", "| GET  | during ", "| PUT  | after "];
    expect_success(&["churn", "12", "--seconds", "1", "--every", "0.5", "--rate", "100"], &rows);
}

#[test]
fn fairness_and_memory_print_their_tables() {
    expect_success(
        &["fairness", "--seconds", "0.2"],
        &["| alone ", "| beside the heavy client ", "| ratio within a round "],
    );
    expect_success(&["memory", "--seconds", "0.2", "--records", "1000"], &["| 1 000 ", "| records expire "]);
}

#[test]
fn wrong_usage_names_what_was_found_and_what_was_expected() {
    for (arguments, expected) in [
        (&["loca"][..], "'loca'"),
        (&["network", "2"], "found `2`, expected a number from 3 to 256"),
        (&["churn", "x"], "found `x`, expected a number from 12 to 256"),
        (&["local", "--rounds", "0"], "argument --rounds: found `0`, expected a number from 1 to 1000"),
        (&["local", "--seconds", "nan"], "argument --seconds: found `nan`, expected a number from 0.05 to 600"),
        (&["local", "7"], "unrecognized arguments: 7"),
        (&[], "MODE"),
    ] {
        let Some(finished) = run_script(SCRIPT, arguments) else { return };
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(finished.stderr.contains(expected), "{expected} in {}", finished.stderr);
    }
}

#[test]
fn instruction_counts_fail_only_on_the_compiler_of_the_record() {
    let Some(finished) = run_script("python3", &["-B", INSTRUCTIONS]) else { return };
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}
