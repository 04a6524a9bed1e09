//! `scripts/bench.sh`: every mode runs for a short time with the programs under test. No test asserts how fast
//! anything is, because other tests run at the same time.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench.sh");
const INSTRUCTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/bench/test_instructions.py");

/// The directory for the files of one mode; the drop removes it.
struct Scratch(PathBuf);

impl Scratch {
    fn of(mode: &str) -> Self {
        let name = format!("bench-{}-{mode}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a directory for this test");
        Self(path)
    }

    /// The path of the file `name`, as an argument of a command.
    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `command` to its end; it has nothing to read.
fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a script that needs Python with the programs under test. `None` if this machine has no Python; a message
/// then says so, and the test harness does not capture it.
fn run_script(program: &str, arguments: &[&str]) -> Option<Output> {
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(io::stderr(), "\nSKIPPED: no python3 here, so {program} {arguments:?} is not tested\n");
        return None;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("DHT_SERVER", env!("CARGO_BIN_EXE_dht-server")).env("DHT_LOAD", env!("CARGO_BIN_EXE_dht-load"));
    Some(run(&mut command))
}

fn text(printed: Vec<u8>) -> String {
    String::from_utf8(printed).expect("text")
}

/// Runs one mode and expects success, `expected` in the printed tables, and a JSON report.
fn expect_success(mode: &[&str], expected: &[&str]) {
    let scratch = Scratch::of(mode[0]);
    let json = scratch.path("report.json");
    let arguments = [mode, &["--rounds", "1", "--json", &json]].concat();
    let Some(finished) = run_script(SCRIPT, &arguments) else { return };
    let printed = text(finished.stdout);
    assert_eq!(finished.status.code(), Some(0), "{printed}{}", text(finished.stderr));
    for expected in expected.iter().chain(&["the speed probe took", "No failures."]) {
        assert!(printed.contains(expected), "{expected} in {printed}");
    }
    let read = run(Command::new("python3").args(["-m", "json.tool", &json]));
    assert_eq!((read.status.code(), text(read.stderr).as_str()), (Some(0), ""));
    let report = text(read.stdout);
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
fn persistence_stores_records_and_starts_again_with_them() {
    let rows = ["| interval, 4 × 64 ", "| always, 50 × 1, confirmed ", "| bytes written per PUT ", "| dht-server "];
    expect_success(&["persistence", "--records", "1000", "--seconds", "0.1"], &rows);
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
        assert_eq!(finished.status.code(), Some(2), "{arguments:?}");
        let complaint = text(finished.stderr);
        assert!(complaint.contains(expected), "{expected} in {complaint}");
    }
}

#[test]
fn instruction_counts_fail_only_on_the_compiler_of_the_record() {
    let Some(finished) = run_script("python3", &["-B", INSTRUCTIONS]) else { return };
    assert_eq!(finished.status.code(), Some(0), "{}", text(finished.stderr));
}
