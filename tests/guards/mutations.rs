//! Removes each guard in a private copy of the sources, and runs the tests that should fail then.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::table::{GUARDS, Guard, SUITES, Suite};
use crate::{lines_of, suite_of};

/// What the copy consists of. The programs in `src/bin` are left out: no suite needs them, and each
/// would be linked for each guard.
const COPIED: [&str; 6] = ["Cargo.toml", "Cargo.lock", "config.ini", "README.md", "src", "tests"];
const LEFT_OUT: &str = "src/bin";

/// Seconds that one build or one run of tests may take: a mutation can make a test run for ever.
const SECONDS_MAX: &str = "1800";

#[test]
#[ignore = "builds and runs the tests once for each guard"]
fn each_guard_that_is_removed_breaks_its_tests() {
    let part = std::env::var("GUARD").unwrap_or_default();
    let guards: Vec<&Guard> = GUARDS.iter().filter(|guard| guard.name.contains(&part)).collect();
    assert!(!guards.is_empty(), "no guard has a name that contains {part:?}");
    let copy = Copy::new();
    for suite in SUITES.iter().filter(|suite| guards.iter().any(|guard| suite.is_of(guard))) {
        assert_eq!(copy.failing_tests(suite), Ok(BTreeSet::new()), "without any mutation, below {:?}", suite.dirs);
    }
    let mut faults = Vec::new();
    for (number, guard) in (1..).zip(&guards) {
        say(&format!("{number} of {}: {}", guards.len(), guard.name));
        for fault in copy.run_without(guard) {
            say(&format!("    FAULT: {fault}"));
            faults.push(format!("{}: {fault}", guard.name));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Prints past the capture of output: the run takes long, and what fails is of interest also when
/// all is right.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A private copy of the sources, removed when it is dropped.
struct Copy {
    root: PathBuf,
    /// Where it is built: kept for the next run.
    target: PathBuf,
    /// Held as long as this run uses both.
    _lock: File,
}

impl Copy {
    fn new() -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guards");
        fs::create_dir_all(&home).expect("a directory for the copy");
        let lock = File::create(home.join("lock")).expect("a file to lock");
        lock.try_lock().expect("no other run of the guards uses this directory");
        let copy = Self { root: home.join("copy"), target: home.join("target"), _lock: lock };
        // An earlier run that was killed may have left a mutation there.
        let _ = fs::remove_dir_all(&copy.root);
        fs::create_dir(&copy.root).expect("a directory for the copy");
        for path in COPIED {
            copy.take(path);
        }
        copy
    }

    /// Copies the file or directory `path` of the package.
    fn take(&self, path: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if path == LEFT_OUT {
            return;
        }
        if !from.is_dir() {
            fs::copy(&from, self.root.join(path)).expect("a source can be copied");
            return;
        }
        fs::create_dir(self.root.join(path)).expect("a directory of the copy");
        for entry in fs::read_dir(from).expect("a directory of this package") {
            let name = entry.expect("it can be listed").file_name().into_string().expect("the name is UTF-8");
            self.take(&format!("{path}/{name}"));
        }
    }

    /// Removes `guard`, runs its suite, and puts the guard back; returns what is wrong.
    fn run_without(&self, guard: &Guard) -> Vec<String> {
        let suite = suite_of(guard).expect("the comparison with the sources has found it");
        let path = self.root.join(guard.file);
        let text = fs::read_to_string(&path).expect("a file of the copy");
        let found: Vec<usize> = lines_of(&text, guard.line).collect();
        let [at] = found[..] else { return vec![format!("the line stands in the sources {} times", found.len())] };
        let mut lines: Vec<&str> = text.lines().collect();
        lines[at - 1] = guard.mutation;
        fs::write(&path, lines.join("\n") + "\n").expect("a file of the copy");
        let failing = self.failing_tests(suite);
        fs::write(&path, text).expect("a file of the copy");
        let failing = match failing {
            Ok(failing) => failing,
            Err(fault) => return vec![fault],
        };
        for test in &failing {
            say(&format!("    {test}"));
        }
        if failing.is_empty() {
            return vec!["its removal breaks no test".to_owned()];
        }
        let fails = |name: &str| failing.iter().any(|test| test.rsplit("::").next() == Some(name));
        let not_failing = guard.tests.iter().filter(|name| !fails(name));
        not_failing.map(|name| format!("`{name}` does not fail without it")).collect()
    }

    /// Builds and runs the tests of `suite`; returns those that fail, with the paths of their modules.
    fn failing_tests(&self, suite: &Suite) -> Result<BTreeSet<String>, String> {
        let binary: Vec<&str> = suite.binary.iter().flat_map(|binary| ["--test", binary]).collect();
        self.build(&[&["--no-run", "--lib"], &binary[..]].concat())?;
        let modules: Vec<String> = suite.modules.iter().map(|module| format!("{module}::")).collect();
        let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
        let mut failing = self.run(&[&["--lib", "--"], &modules[..]].concat())?;
        if !binary.is_empty() {
            failing.extend(self.run(&binary)?);
        }
        Ok(failing)
    }

    fn build(&self, arguments: &[&str]) -> Result<(), String> {
        let output = self.cargo_test(arguments);
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<&str> = stderr.lines().skip_while(|line| !line.starts_with("error")).take(20).collect();
        Err(format!("it does not compile, {}\n{}", output.status, errors.join("\n")))
    }

    fn run(&self, arguments: &[&str]) -> Result<BTreeSet<String>, String> {
        let output = self.cargo_test(arguments);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let name = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
        let failing: BTreeSet<String> = stdout.lines().filter_map(name).collect();
        if output.status.success() != failing.is_empty() {
            return Err(format!("cargo test {arguments:?} ended with {}; failing tests: {failing:?}", output.status));
        }
        Ok(failing)
    }

    fn cargo_test(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.current_dir(&self.root).args([SECONDS_MAX, env!("CARGO"), "test", "--target-dir"]).arg(&self.target);
        // The cases that a property test draws are the same in each run.
        command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
        command.env("RUST_BACKTRACE", "0").args(arguments).output().expect("`timeout` and cargo can be run")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
