//! Guards: single lines that enforce the rules of records, lookups, GET and PUT, and of a node that runs alone.
//!
//! Each row of [`GUARDS`] names such a line, a mutation that removes the guard, and tests that must
//! fail without it. Every `cargo test` compares the list with the sources and reports each line that
//! was moved or reworded; its row then has to be adapted. The mutations are built and run on demand:
//!
//! ```text
//! cargo test --test guards -- --ignored                       all of them
//! GUARD=tombstone cargo test --test guards -- --ignored       those whose name contains "tombstone"
//! ```
//!
//! They run in a private copy of the sources, one after the other, with a target directory of their
//! own that is kept for the next run. For each guard the run prints which tests fail. It fails if
//! the removal of a guard breaks no test, if a named test does not fail, or if a mutation does not
//! compile.

mod mutations;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use table::{GUARDS, Guard, SUITES, Suite};

/// The text of each Rust file below `src` and `tests`, by its path.
type Sources = BTreeMap<String, String>;

#[test]
fn every_guard_stands_in_the_sources_and_so_do_its_tests() {
    let faults = compare(GUARDS, &sources());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A comparison that finds no fault at all would pass with any list.
#[test]
fn each_kind_of_mismatch_is_reported() {
    const RIGHT: Guard = Guard {
        name: "right",
        file: "src/record/mod.rs",
        line: "a < b",
        mutation: "a <= b",
        tests: &["smaller_is_smaller"],
    };
    let text = |lines: &[&str]| lines.join("\n");
    let sources = Sources::from([
        ("src/record/mod.rs".into(), text(&["    a < b", "c", "c", "", "    #[test]", "fn smaller_is_smaller() {}"])),
        ("src/config/mod.rs".into(), text(&["a < b", "#[test]", "fn elsewhere() {}", "fn helper() {}"])),
        ("src/lookup/mod.rs".into(), text(&["#[test]", "fn twice() {}", "#[test]", "fn twice() {}"])),
    ]);
    let of = |guards: &[Guard]| compare(guards, &sources);
    assert_eq!(of(&[RIGHT]), Vec::<String>::new());
    let expect = |guard: Guard, message: &str| {
        let faults = of(&[guard]);
        assert!(matches!(&faults[..], [fault] if fault.contains(message)), "{faults:#?} instead of {message}");
    };
    expect(Guard { line: "a > b", ..RIGHT }, "right: expected one line of src/record/mod.rs to read\n    a > b\n");
    expect(Guard { line: "a > b", ..RIGHT }, "found none; the most similar one is 1:\n    a < b");
    expect(Guard { line: "c", ..RIGHT }, "found 2 of them: [2, 3]");
    expect(Guard { file: "src/record/gone.rs", ..RIGHT }, "no such file");
    expect(Guard { file: "src/config/mod.rs", ..RIGHT }, "no suite for src/config/mod.rs");
    expect(Guard { mutation: "a < b", ..RIGHT }, "the mutation changes nothing");
    expect(Guard { tests: &[], ..RIGHT }, "no test is named");
    expect(Guard { tests: &["gone"], ..RIGHT }, "expected one test `gone`, found 0");
    expect(Guard { tests: &["helper"], ..RIGHT }, "expected one test `helper`, found 0");
    expect(Guard { tests: &["twice"], ..RIGHT }, "expected one test `twice`, found 2");
    expect(Guard { tests: &["elsewhere"], ..RIGHT }, "`elsewhere` is in src/config/mod.rs, outside the suite");
    let faults = of(&[RIGHT, RIGHT]);
    assert_eq!(faults, ["right: the name is used twice"]);
}

/// What is wrong with `guards`, beside the sources: one message for each fault.
fn compare(guards: &[Guard], sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for guard in guards {
        if !names.insert(guard.name) {
            faults.push(format!("{}: the name is used twice", guard.name));
        }
        let found = [check_line(guard, sources), check_suite(guard)].into_iter().flatten();
        faults.extend(found.chain(check_tests(guard, sources)).map(|fault| format!("{}: {fault}", guard.name)));
    }
    faults
}

fn check_line(guard: &Guard, sources: &Sources) -> Option<String> {
    let Guard { file, line, mutation, .. } = guard;
    let Some(text) = sources.get(*file) else { return Some(format!("no such file: {file}")) };
    let found: Vec<usize> = lines_of(text, line).collect();
    let found = match found[..] {
        [_] => return (line == mutation).then(|| "the mutation changes nothing".to_owned()),
        [] => {
            let (number, similar) = most_similar(text, line);
            format!("none; the most similar one is {number}:\n    {similar}")
        }
        [..] => format!("{} of them: {found:?}", found.len()),
    };
    Some(format!("expected one line of {file} to read\n    {line}\nfound {found}"))
}

fn check_suite(guard: &Guard) -> Option<String> {
    suite_of(guard).is_none().then(|| format!("no suite for {}", guard.file))
}

fn check_tests(guard: &Guard, sources: &Sources) -> Vec<String> {
    if guard.tests.is_empty() {
        return vec!["no test is named".to_owned()];
    }
    let fault = |test: &&str| {
        let files = files_with_test(test, sources);
        match files[..] {
            [file] if suite_of(guard).is_some_and(|suite| !suite.contains(file)) => {
                Some(format!("`{test}` is in {file}, outside the suite"))
            }
            [_] => None,
            _ => Some(format!("expected one test `{test}`, found {}: {files:?}", files.len())),
        }
    };
    guard.tests.iter().filter_map(fault).collect()
}

/// The numbers of the lines of `text` that read `line`, but for their indent.
fn lines_of(text: &str, line: &str) -> impl Iterator<Item = usize> {
    (1..).zip(text.lines()).filter(move |(_, found)| found.trim_start() == line).map(|(number, _)| number)
}

/// The line of `text` that has the most words of `line`, and its number.
fn most_similar<'a>(text: &'a str, line: &str) -> (usize, &'a str) {
    let words = |line: &'a str| line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let shared = |found: &'a str| words(found).filter(|word| line.contains(word)).count();
    let lines = (1..).zip(text.lines().map(str::trim_start));
    lines.max_by_key(|(_, found)| shared(found)).unwrap_or_default()
}

/// The files with a test function of this name, one for each such function.
fn files_with_test<'a>(name: &str, sources: &'a Sources) -> Vec<&'a str> {
    let head = format!("fn {name}(");
    let tests_in = |text: &str| {
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        lines.windows(2).filter(|pair| pair[0] == "#[test]" && pair[1].starts_with(&head)).count()
    };
    sources.iter().flat_map(|(path, text)| std::iter::repeat_n(path.as_str(), tests_in(text))).collect()
}

fn suite_of(guard: &Guard) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| suite.is_of(guard))
}

impl Suite {
    /// Whether it is run when `guard` is removed.
    fn is_of(&self, guard: &Guard) -> bool {
        self.dirs.iter().any(|dir| guard.file.starts_with(dir))
    }

    /// Whether it runs the tests of the file `path`.
    fn contains(&self, path: &str) -> bool {
        let unit = |module: &&str| path.starts_with(&format!("src/{module}/")) || path == format!("src/{module}.rs");
        self.modules.iter().any(unit) || self.binary.is_some_and(|name| path.starts_with(&format!("tests/{name}/")))
    }
}

fn sources() -> Sources {
    let mut sources = Sources::new();
    for dir in ["src", "tests"] {
        read_below(dir, &mut sources);
    }
    sources
}

/// Adds the Rust files below the directory `dir` of the package.
fn read_below(dir: &str, sources: &mut Sources) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join(dir)).expect("a directory of this package") {
        let entry = entry.expect("it can be listed");
        let path = format!("{dir}/{}", entry.file_name().into_string().expect("the name is UTF-8"));
        if entry.path().is_dir() {
            read_below(&path, sources);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path()).expect("a source can be read");
            sources.insert(path, text);
        }
    }
}
