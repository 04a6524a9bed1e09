//! Who may import whom, and what may never be named: the floors of the house as a test.
//!
//! The law is the table [`LAW`]; the picture of it stands in `src/lib.rs`. The sources are read
//! as text: comments, literals and `#[cfg(test)]` items are left out, `use` trees are unfolded,
//! and paths through `crate`, `super`, `self` and `dht` are seen wherever they stand. A re-export
//! would let an item through under a false name, so no module makes one of another module's
//! items. What only a type checker could see, this does not.
//!
//! Each row carries a breach of itself, and each banned name is planted once: a checker that
//! has gone blind fails before the house does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

// ── the law ──────────────────────────────────────────────────────────────────────────────────

/// What one module, a file or a directory right below `src`, may do.
struct Row {
    module: &'static str,
    /// All that it may import from this crate beside itself; a path stands for all beneath it.
    imports: &'static [&'static [&'static str]],
    /// What its code may not name.
    bans: &'static [&'static [Name]],
    breach: Breach,
}

/// A name that a floor must not know.
#[derive(Clone, Copy)]
enum Name {
    /// These segments, next to each other, anywhere in a path.
    Path(&'static str),
    /// A crate.
    Crate(&'static str),
    /// A word within an identifier, in the singular or the plural.
    Word(&'static str),
    /// `String` where the error of a `Result` stands.
    StringError,
}

const GROUND: &[&str] = &["contact", "counters", "id", "identity", "limits", "time"];
const BYTES: &[&str] = &["record", "wire"];
const MACHINES: &[&str] = &["lookup", "pending", "routing", "storage"];
const NODE: &[&str] = &["node"];
const HOSTS: &[&str] = &["net", "disk", "sim"];
const ROOF: &[&str] = &["config", "cli"];

/// Sockets, and everything else that talks to the operating system. `IpAddr` and `SocketAddr`
/// are data, and welcome everywhere.
const OUTSIDE: &[Name] = &[
    Name::Path("TcpStream"),
    Name::Path("TcpListener"),
    Name::Path("UdpSocket"),
    Name::Path("ToSocketAddrs"),
    Name::Path("std::io"),
    Name::Path("std::fs"),
    Name::Path("std::thread"),
    Name::Crate("mio"),
    Name::Crate("rustls"),
    Name::Crate("socket2"),
];

/// Real time and the operating system's randomness: a seed must replay a run exactly.
const CHANCE: &[Name] = &[
    Name::Path("Instant"),
    Name::Path("SystemTime"),
    Name::Path("SysRng"),
    Name::Path("ThreadRng"),
    Name::Path("rand::rng"),
    Name::Path("rand::random"),
    Name::Path("rand::make_rng"),
    Name::Crate("getrandom"),
];

/// Logging belongs to node, hosts and roof.
const LOG: &[Name] = &[Name::Crate("log"), Name::Crate("env_logger")];

/// What concerns clients concerns the node, and no machine.
const CLIENTS: &[Name] = &[Name::Path("wire::api")];

/// What nodes say to each other is no program's affair.
const PEERS: &[Name] = &[Name::Path("wire::peer")];

/// Kademlia's words, which hosts have no use for.
const KADEMLIA: &[Name] = &[Name::Word("alpha"), Name::Word("bucket"), Name::Word("replication")];

const LAW: &[Row] = &[
    // ── floor 0, ground
    ground("id", ("use crate::wire::Kind;", "import `wire`")),
    ground("identity", ("fn f() { std::fs::read(\"\"); }", "name `std::fs`")),
    ground("time", ("use std::time::{Duration, Instant};", "name `Instant`")),
    ground("contact", ("fn f(a: impl std::net::ToSocketAddrs) {}", "name `ToSocketAddrs`")),
    ground("counters", ("fn f() { log::info!(\"\"); }", "name `log`")),
    ground("limits", ("use crate::record::Ttl;", "import `record`")),
    layout("record", ("use crate::storage::Storage;", "import `storage`")),
    layout("wire", ("fn f() -> Result<(), String> {}", "name `String` as an error")),
    // ── floor 1, machines: strangers to each other
    machine("routing", ("use crate::lookup::Lookup;", "import `lookup`")),
    machine("lookup", ("use crate::pending::Pending;", "import `pending`")),
    machine("storage", ("use crate::node::Node;", "import `node`")),
    machine("pending", ("use crate::wire::api::ApiReply;", "name `wire::api`")),
    // ── floor 2, the node: the only place where machines meet
    Row {
        module: "node",
        imports: &[GROUND, BYTES, MACHINES],
        bans: &[OUTSIDE, CHANCE],
        breach: ("use crate::net::EventLoop;", "import `net`"),
    },
    // ── floor 3, hosts: strangers to each other
    host("net", ("use crate::storage::Storage;", "import `storage`")),
    host("disk", ("use crate::net::tls::Session;", "import `net`")),
    Row {
        module: "sim",
        imports: &[GROUND, BYTES, MACHINES, NODE],
        bans: &[OUTSIDE, CHANCE],
        breach: ("fn f() { std::fs::read(\"\"); }", "name `std::fs`"),
    },
    // ── roof
    Row {
        module: "config",
        imports: &[&["id", "limits", "record", "node::params"]],
        bans: &[],
        breach: ("use crate::node::Node;", "import `node::Node`"),
    },
    Row {
        module: "cli",
        imports: &[&["id", "limits", "node::params"]],
        bans: &[],
        breach: ("use crate::config::Settings;", "import `config`"),
    },
    program("main", ("use dht::routing::Table;", "import `routing`")),
    program("bin", ("use dht::wire::peer::PeerMessage;", "name `wire::peer`")),
    // The map of the house has no back doors.
    Row { module: "lib", imports: &[], bans: &[], breach: ("pub use node::Node;", "import `node`") },
];

/// A source that breaks a row, and what is said about its first line.
type Breach = (&'static str, &'static str);

const fn ground(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[GROUND], bans: &[OUTSIDE, CHANCE, LOG], breach }
}

const fn layout(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[GROUND, BYTES], bans: &[OUTSIDE, CHANCE, LOG, &[Name::StringError]], breach }
}

const fn machine(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[GROUND, BYTES], bans: &[OUTSIDE, CHANCE, LOG, CLIENTS], breach }
}

const fn host(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[GROUND, BYTES, NODE], bans: &[KADEMLIA], breach }
}

const fn program(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[GROUND, BYTES, NODE, HOSTS, ROOF], bans: &[PEERS], breach }
}

/// Most lines of a source file.
const FILE_LINES_MAX: usize = 700;

/// Most lines of the configuration's parser, tests aside: an own parser is worth having only
/// while it is this small.
const PARSER_LINES_MAX: usize = 150;

/// All that the top level holds, beside names that begin with a dot.
const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "config.ini", "scripts", "src", "tests"];

// ── the house ────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_floors_hold() {
    let breaches: Vec<String> = sources().iter().flat_map(|(file, source)| complaints(file, source)).collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn every_row_has_its_module() {
    let modules: BTreeSet<String> = sources().iter().map(|(file, _)| module_of(file).to_owned()).collect();
    for row in LAW {
        assert!(modules.contains(row.module), "`{}` has a row in tests/architecture.rs and no source", row.module);
    }
}

#[test]
fn no_source_file_outgrows_its_reader() {
    for (file, source) in sources() {
        let lines = source.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{file} has {lines} lines, at most {FILE_LINES_MAX} are wanted");
    }
}

#[test]
fn the_parser_of_the_configuration_stays_small() {
    let sources = sources();
    let source_of = |name| sources.iter().find(|(file, _)| file == name);
    let (file, source) = source_of("src/config/ini.rs").or_else(|| source_of("src/config.rs")).expect("a parser");
    let lines = source.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    assert!(lines <= PARSER_LINES_MAX, "{file} has {lines} lines before its tests, at most {PARSER_LINES_MAX}");
}

#[test]
fn the_top_level_holds_nothing_else() {
    for entry in committed().unwrap_or_else(present) {
        assert!(
            entry.starts_with('.') || TOP_LEVEL.contains(&entry.as_str()),
            "`{entry}` has no place at the top level"
        );
    }
}

/// The sources below `src`, each with its path from the top level, in order.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![top_level().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(top_level()).expect("it lies beneath").to_str().expect("a plain name");
                found.push((file.replace('\\', "/"), fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    found.sort();
    found
}

fn top_level() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The top level as git knows it; `None` without git, or where it knows nothing of this place.
fn committed() -> Option<BTreeSet<String>> {
    let listing = Command::new("git").arg("ls-files").current_dir(top_level()).output().ok()?;
    let listing = String::from_utf8(listing.stdout).ok()?;
    let first = |line: &str| line.split('/').next().unwrap_or(line).to_owned();
    let entries: BTreeSet<String> = listing.lines().map(first).collect();
    (!entries.is_empty()).then_some(entries)
}

/// The top level as it lies there, without what building and running leave behind.
fn present() -> BTreeSet<String> {
    let names = fs::read_dir(top_level()).expect("the top level").map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "target" && !name.starts_with("dht-data-")).collect()
}

// ── the checker, checked ─────────────────────────────────────────────────────────────────────

#[test]
fn each_row_finds_the_breach_planted_in_it() {
    for Row { module, breach: (source, expected), .. } in LAW {
        let file = format!("src/{module}.rs");
        assert_eq!(complaints(&file, source), [format!("{file}:1: `{module}` may not {expected}")]);
    }
}

#[test]
fn each_banned_name_is_found() {
    for row in LAW {
        for ban in row.bans.iter().copied().flatten() {
            let source = match ban {
                Name::Path(path) => format!("fn f() {{ let _ = {path}::g; }}"),
                Name::Crate(name) => format!("use {name}::*;"),
                Name::Word(word) => format!("fn best_{word}s() {{}}"),
                Name::StringError => "fn f() -> Result<u8, String>;".to_owned(),
            };
            assert_eq!(complaints(&format!("src/{}.rs", row.module), &source).len(), 1, "`{}`: {source}", row.module);
        }
    }
}

#[test]
fn a_breach_is_one_line() {
    let source = "use crate::{\n    config::Settings, id::Key};";
    assert_eq!(complaints("src/wire/frame.rs", source), ["src/wire/frame.rs:2: `wire` may not import `config`"]);
}

#[test]
fn a_file_without_a_row_is_a_breach() {
    assert_eq!(complaints("src/helpers/mod.rs", ""), ["src/helpers/mod.rs: `helpers` has no row in the law"]);
}

#[test]
fn a_breach_is_found_however_it_is_written() {
    for source in [
        "use crate::{id::{self, Key}, node::{self as n}};",
        "use ::dht::node;",
        "use super::node::Node;",
        "use super::{id, node::*};",
        "mod inner { use super::super::node::Node; }",
        "mod inner { mod most { fn f(n: super::super::super::node::Node) {} } }",
        "fn f<'a>(c: char) -> &'a crate::node::Node { if c == '\"' || c == '\\'' { } }",
        "struct S { n: Vec<crate::node::Node>, }",
        "#[cfg(test)] mod tests { use crate::sim::World; } use crate::node::Node;",
        "#[cfg(test)] use crate::sim::World; #[cfg(not(test))] use crate::node::Node;",
        "#[cfg(test)] fn f(_: [u8; 4]) {} use crate::node::Node;",
        "/* a /* nested */ comment */ use crate::node::Node; // crate::sim",
        "const TEXT: &str = r#\"a \" crate::sim \"#; use crate::node::Node;",
        "macro_rules! m { () => { $crate::node::Node } }",
    ] {
        let found = complaints("src/id.rs", source);
        assert_eq!(found, ["src/id.rs:1: `id` may not import `node`"], "{source}");
    }
    assert_eq!(complaints("src/id.rs", "use super as house;"), ["src/id.rs:1: `id` may not import `crate`"]);
    let reexport = complaints("src/wire/mod.rs", "pub(crate) use crate::id::Key;");
    assert_eq!(reexport, ["src/wire/mod.rs:1: `wire` may not re-export `id`"]);
}

#[test]
fn what_only_looks_like_a_breach_is_none() {
    for source in [
        "//! [`crate::node::Node`]\n/// use crate::node;\nuse crate::limits::KEY_SIZE;",
        "const A: &str = \"use crate::node::Node; \\\" crate::node::Node\";",
        "const A: &[u8] = b\"crate::node\"; const B: &str = r##\"\"# crate::node::Node\"##; const C: u8 = b'\\'';",
        "mod inner { use super::Key; fn f(k: super::super::id::Key) -> impl Sized + use<> {} }",
        "#[cfg(test)]\n#[expect(dead_code)]\nmod tests { use crate::node::Node; use std::fs; }",
        "#[cfg(test)] use crate::node::{Node, Params};",
        "pub(crate) fn log(&self) { self.log; } pub(in crate::id) use inner::Key;",
        "fn f<'node>(io: &'node str) -> std::net::SocketAddr { io.parse() }",
    ] {
        assert_eq!(complaints("src/id.rs", source), Vec::<String>::new(), "{source}");
    }
    assert!(complaints("src/main.rs", "use crate::Options; fn f() { crate::start(dht::net::run) }").is_empty());
    assert!(complaints("src/node/tests.rs", "use crate::sim::World;").is_empty(), "a test module of its own");
    assert!(complaints("src/net/conn.rs", "fn alphabet(tokenbucketed: u8) {}").is_empty(), "no word of Kademlia");
}

// ── the checker ──────────────────────────────────────────────────────────────────────────────

/// What is wrong with `source`, the text of `file`: one line each.
fn complaints(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    let Some(row) = LAW.iter().find(|row| row.module == module) else {
        return vec![format!("{file}: `{module}` has no row in the law")];
    };
    if file.ends_with("/tests.rs") {
        return Vec::new();
    }
    let tokens = without_tests(&tokens(source));
    let mut found = Vec::new();
    for path in Paths::of(file, &tokens) {
        let faults = row.fault_of_import(&path).into_iter().chain(row.faults_of_naming(&path));
        found.extend(faults.map(|fault| (path.line, fault)));
    }
    if row.bans.iter().copied().flatten().any(|ban| matches!(ban, Name::StringError)) {
        let errors = tokens.windows(3).filter(|window| window.iter().map(|token| token.text).eq([",", "String", ">"]));
        found.extend(errors.map(|window| (window[1].line, "name `String` as an error".to_owned())));
    }
    found.dedup();
    found.into_iter().map(|(line, fault)| format!("{file}:{line}: `{module}` may not {fault}")).collect()
}

/// `wire` for `src/wire/frame.rs`, `id` for `src/id.rs`.
fn module_of(file: &str) -> &str {
    let below = file.strip_prefix("src/").expect("a source file");
    below.split('/').next().expect("a path has a first part").trim_end_matches(".rs")
}

impl Row {
    /// What the row has against `path` as an import from this crate.
    fn fault_of_import(&self, path: &FoundPath<'_>) -> Option<String> {
        let (&"crate", below) = path.segments.split_first()? else {
            return None;
        };
        let Some(&target) = below.first() else {
            return (path.form != Form::Inline).then(|| "import `crate`".to_owned()); // else it is `pub(crate)`
        };
        if target == self.module {
            return None;
        }
        let mut allowed = self.imports.iter().copied().flatten().map(|path| segments_of(path));
        if allowed.clone().any(|allowed| below.starts_with(&allowed)) {
            return (path.form == Form::Reexport).then(|| format!("re-export `{target}`"));
        }
        // Where a part of a module may be imported, the fault is the part.
        let in_parts = allowed.any(|allowed| allowed[0] == target);
        let shown = if in_parts { below[..below.len().min(2)].join("::") } else { target.to_owned() };
        Some(format!("import `{shown}`"))
    }

    /// The names in `path` that the row bans.
    fn faults_of_naming(&self, path: &FoundPath<'_>) -> impl Iterator<Item = String> {
        let bans = self.bans.iter().copied().flatten();
        bans.filter_map(|ban| match ban {
            Name::Path(name) => {
                let wanted = segments_of(name);
                path.segments.windows(wanted.len()).any(|window| window == wanted).then_some(name)
            }
            // A lone word may be a variable of that name.
            Name::Crate(name) => {
                let names_crate = path.form != Form::Inline || path.segments.len() > 1;
                (names_crate && path.segments[0] == *name).then_some(name)
            }
            Name::Word(word) => path.segments.iter().any(|segment| has_word(segment, word)).then_some(word),
            Name::StringError => None,
        })
        .map(|name| format!("name `{name}`"))
    }
}

fn segments_of(path: &str) -> Vec<&str> {
    path.split("::").collect()
}

/// Whether `word` or its plural is one of the words of `identifier`, in whichever case.
fn has_word(identifier: &str, word: &str) -> bool {
    let mut spaced = String::new();
    for letter in identifier.chars() {
        if letter.is_uppercase() && !spaced.ends_with(char::is_uppercase) {
            spaced.push('_');
        }
        spaced.push(letter);
    }
    let lower = spaced.to_lowercase();
    lower.split('_').any(|part| part.strip_prefix(word).is_some_and(|end| end.is_empty() || end == "s"))
}

// ── paths ────────────────────────────────────────────────────────────────────────────────────

/// A path in the code. One into this crate begins with `crate`, however it was written.
struct FoundPath<'a> {
    segments: Vec<&'a str>,
    line: usize,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// It stands in an expression, a type or a pattern.
    Inline,
    /// A leaf of a `use` tree.
    Use,
    /// A leaf of a `pub use` tree.
    Reexport,
}

/// Collects the paths of one file.
struct Paths<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    /// The crate's own name here: `crate`, and in programs `dht`.
    roots: &'static [&'static str],
    /// The module around the current token, from the crate's root.
    scope: Vec<&'a str>,
    /// The depths of braces at which inline modules began.
    inline: Vec<usize>,
    depth: usize,
    found: Vec<FoundPath<'a>>,
}

impl<'a> Paths<'a> {
    fn of(file: &'a str, tokens: &'a [Token<'a>]) -> Vec<FoundPath<'a>> {
        let module = module_of(file);
        let roots: &[&str] = if matches!(module, "main" | "bin") { &["dht"] } else { &["crate", "dht"] };
        let below = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let scope = if module == "lib" { Vec::new() } else { below.split('/').collect() };
        let mut paths = Self { tokens, at: 0, roots, scope, inline: Vec::new(), depth: 0, found: Vec::new() };
        while paths.at < tokens.len() {
            paths.step();
        }
        paths.found
    }

    fn text(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    /// Takes the next path, `use` or other token.
    fn step(&mut self) {
        let token = self.tokens[self.at];
        match token.text {
            // `use<'a>` captures lifetimes and imports nothing.
            "use" if self.text(self.at + 1) != "<" => {
                let public = self.at > 0 && matches!(self.text(self.at - 1), "pub" | ")");
                self.at += 1;
                self.take_tree(Vec::new(), if public { Form::Reexport } else { Form::Use });
                return;
            }
            "mod" if self.text(self.at + 2) == "{" => {
                self.inline.push(self.depth);
                self.scope.push(self.text(self.at + 1));
                self.at += 1;
            }
            "{" => self.depth += 1,
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                if self.inline.pop_if(|began| *began == self.depth).is_some() {
                    self.scope.pop();
                }
            }
            word if is_word(word) => return self.take_inline(),
            _ => {}
        }
        self.at += 1;
    }

    fn take_inline(&mut self) {
        let line = self.tokens[self.at].line;
        let mut segments = vec![self.text(self.at)];
        self.at += 1;
        while self.text(self.at) == "::" && is_word(self.text(self.at + 1)) {
            segments.push(self.text(self.at + 1));
            self.at += 2;
        }
        self.push(segments, line, Form::Inline);
    }

    /// Takes a `use` tree beneath `prefix`: one path for each leaf.
    fn take_tree(&mut self, mut prefix: Vec<&'a str>, form: Form) {
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match token.text {
                "::" => {}
                "{" => {
                    while self.at < self.tokens.len() && self.text(self.at) != "}" {
                        self.take_tree(prefix.clone(), form);
                        self.at += usize::from(self.text(self.at) == ",");
                    }
                    self.at += 1;
                    return;
                }
                segment => {
                    if segment != "self" || prefix.is_empty() {
                        prefix.push(segment);
                    }
                    if self.text(self.at) != "::" {
                        self.at += if self.text(self.at) == "as" { 2 } else { 0 };
                        return self.push(prefix, token.line, form);
                    }
                }
            }
        }
    }

    /// Keeps a path, with its beginning made plain.
    fn push(&mut self, mut segments: Vec<&'a str>, line: usize, form: Form) {
        let first = segments[0];
        // In the crate's root a module needs no `crate::` in front of it.
        let at_root = self.scope.is_empty() && LAW.iter().any(|row| row.module == first);
        if self.roots.contains(&first) {
            segments[0] = "crate";
        } else if first == "crate" {
            segments[0] = "self"; // a program's own root, which is no part of the library
        } else if matches!(first, "self" | "super") && (form != Form::Inline || segments.len() > 1) {
            let ups = segments.iter().filter(|segment| **segment == "super").count();
            let around = &self.scope[..self.scope.len().saturating_sub(ups)];
            let below = segments.iter().copied().filter(|segment| !matches!(*segment, "self" | "super"));
            segments = ["crate"].into_iter().chain(around.iter().copied()).chain(below).collect();
        } else if at_root && (form != Form::Inline || segments.len() > 1) {
            segments.insert(0, "crate");
        }
        self.found.push(FoundPath { segments, line, form });
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

// ── tokens ───────────────────────────────────────────────────────────────────────────────────

/// A word, a `::` or another single character of code, and its line.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// The code of `source`: no comments, no literals of text, no lifetimes.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_len(rest);
        let len = match skipped {
            Some(len) => len,
            None if is_word(rest) => rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len()),
            None if rest.starts_with("::") => 2,
            None => first.len_utf8(),
        };
        let (text, after) = rest.split_at(len);
        if skipped.is_none() {
            found.push(Token { text, line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    found
}

/// The length of what `text` begins with, if that is no code.
fn skipped_len(text: &str) -> Option<usize> {
    let end_of = |found: Option<usize>, mark: &str| found.map_or(text.len(), |at| at + mark.len());
    if text.starts_with(char::is_whitespace) {
        return Some(text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len()));
    }
    if text.starts_with("//") {
        return Some(end_of(text.find('\n'), "\n"));
    }
    if text.starts_with("/*") {
        return Some(block_comment_len(text));
    }
    let quoted = text.trim_start_matches(['b', 'c', 'r']);
    let prefix = text.len() - quoted.len();
    let hashes = quoted.len() - quoted.trim_start_matches('#').len();
    let raw = text[..prefix].ends_with('r');
    if prefix > 2 || (hashes > 0 && !raw) {
        return None;
    }
    let inside = &quoted[hashes..];
    if raw && inside.starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        return Some(end_of(text[start..].find(&end).map(|at| at + start), &end));
    }
    match inside.chars().next()? {
        '"' => Some(prefix + string_len(inside)),
        '\'' => Some(prefix + quote_len(inside)),
        _ => None,
    }
}

fn block_comment_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        match text.get(at..at + 2) {
            Some("/*") => depth += 1,
            Some("*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            '"' if !escaped => return at + 1,
            _ => escaped = letter == '\\' && !escaped,
        }
    }
    text.len()
}

/// The length of a character in quotes, or of a lifetime.
fn quote_len(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    let first = letters.next().map(|(_, letter)| letter);
    let second = letters.next();
    match (first, second) {
        (Some('\\'), Some((escaped, _))) => text[escaped + 1..].find('\'').map_or(text.len(), |at| escaped + at + 2),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => text[1..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(text.len(), |at| at + 1),
    }
}

/// `tokens` without the items that stand under `#[cfg(test)]`.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        let marked = rest.len() >= MARK.len() && rest.iter().zip(MARK).all(|(token, mark)| token.text == mark);
        if marked {
            rest = &rest[MARK.len()..];
            rest = &rest[item_len(rest)..];
        } else {
            kept.push(*token);
            rest = after;
        }
    }
    kept
}

/// The length of the item that `tokens` begin with: up to its semicolon or its closing brace.
fn item_len(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}
