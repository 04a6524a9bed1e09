//! The layers of the crate as a test: what each module may import and which names it must not use.
//!
//! [`ROWS`] has the rules; `src/lib.rs` has a diagram of the layers. The checker parses the sources
//! with `syn`, without `#[cfg(test)]` items. It expands `use` trees and finds paths through `crate`,
//! `super`, `self` and `dht` everywhere, macros included. A re-export would hide the origin of an item,
//! so no module re-exports items of another module. The checker does not resolve types or methods.
//!
//! Each row contains a breach of its rule, and a test plants each banned name once. So these tests
//! fail if the checker stops working.
//!
//! Other tests bound the size of files and functions, and the dependencies between the parts of
//! `src/node`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{GenericArgument, PathArguments, Type, UseTree, Visibility};

// ── the rules ────────────────────────────────────────────────────────────────────────────────

/// The rules of a module, which is a file or a directory directly in `src`.
struct Row {
    module: &'static str,
    /// The other modules of this crate that it may import. A path includes everything below it.
    imports: &'static [&'static [&'static str]],
    /// Names that its code must not use.
    bans: &'static [&'static [Name]],
    breach: Breach,
}

/// A banned name.
#[derive(Clone, Copy)]
enum Name {
    /// These consecutive segments anywhere in a path.
    Path(&'static str),
    /// A crate.
    Crate(&'static str),
    /// A word in an identifier, singular or plural.
    Word(&'static str),
}

const BASE_TYPES: &[&str] = &["contact", "counters", "id", "identity", "limits", "time"];
const LAYOUTS: &[&str] = &["record", "wire"];
const STRUCTURES: &[&str] = &["lookup", "pending", "routing", "storage"];
const NODE: &[&str] = &["node"];
const HOSTS: &[&str] = &["net", "disk", "sim"];
const PROGRAMS: &[&str] = &["config", "cli"];

/// Sockets, files, threads: everything that uses the operating system. `IpAddr` and `SocketAddr` are
/// data and allowed everywhere.
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

/// The clock and the randomness of the operating system: a seed must replay a run exactly.
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

/// Only node, hosts and programs log.
const LOG: &[Name] = &[Name::Crate("log"), Name::Crate("env_logger")];

/// Layer 1 does not know the requests of clients.
const CLIENTS: &[Name] = &[Name::Path("wire::api")];

/// Programs do not know the messages between nodes.
const PEERS: &[Name] = &[Name::Path("wire::peer")];

/// Terms of Kademlia, which hosts do not know.
const KADEMLIA: &[Name] = &[Name::Word("alpha"), Name::Word("bucket"), Name::Word("replication")];

const ROWS: &[Row] = &[
    // ── layer 0, base types
    base_type("id", ("use crate::wire::Kind;", "import `wire`")),
    base_type("identity", ("fn f() { std::fs::read(\"\"); }", "name `std::fs`")),
    base_type("time", ("use std::time::{Duration, Instant};", "name `Instant`")),
    base_type("contact", ("fn f(a: impl std::net::ToSocketAddrs) {}", "name `ToSocketAddrs`")),
    base_type("counters", ("fn f() { log::info!(\"\"); }", "name `log`")),
    base_type("limits", ("use crate::record::Ttl;", "import `record`")),
    layout("record", ("use crate::storage::Storage;", "import `storage`")),
    layout("wire", ("fn f() -> Result<(), String> {}", "name `String` as an error")),
    // ── layer 1, data structures and protocols: they do not import each other
    structure("routing", ("use crate::lookup::Lookup;", "import `lookup`")),
    structure("lookup", ("use crate::pending::Pending;", "import `pending`")),
    structure("storage", ("use crate::node::Node;", "import `node`")),
    structure("pending", ("use crate::wire::api::ApiReply;", "name `wire::api`")),
    // ── layer 2, node logic
    Row {
        module: "node",
        imports: &[BASE_TYPES, LAYOUTS, STRUCTURES],
        bans: &[OUTSIDE, CHANCE],
        breach: ("use crate::net::EventLoop;", "import `net`"),
    },
    // ── layer 3, hosts: they do not import each other
    host("net", ("use crate::storage::Storage;", "import `storage`")),
    host("disk", ("use crate::net::tls::Session;", "import `net`")),
    Row {
        module: "sim",
        imports: &[BASE_TYPES, LAYOUTS, STRUCTURES, NODE],
        bans: &[OUTSIDE, CHANCE],
        breach: ("fn f() { std::fs::read(\"\"); }", "name `std::fs`"),
    },
    // ── layer 4, programs
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
    // The root of the library re-exports nothing.
    Row { module: "lib", imports: &[], bans: &[], breach: ("pub use node::Node;", "import `node`") },
];

/// A source that breaks a rule, and the complaint about its first line.
type Breach = (&'static str, &'static str);

const fn base_type(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[BASE_TYPES], bans: &[OUTSIDE, CHANCE, LOG], breach }
}

const fn layout(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[BASE_TYPES, LAYOUTS], bans: &[OUTSIDE, CHANCE, LOG], breach }
}

const fn structure(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[BASE_TYPES, LAYOUTS], bans: &[OUTSIDE, CHANCE, LOG, CLIENTS], breach }
}

const fn host(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[BASE_TYPES, LAYOUTS, NODE], bans: &[KADEMLIA], breach }
}

const fn program(module: &'static str, breach: Breach) -> Row {
    Row { module, imports: &[BASE_TYPES, LAYOUTS, NODE, HOSTS, PROGRAMS], bans: &[PEERS], breach }
}

/// Largest number of lines of a source file.
const FILE_LINES_MAX: usize = 700;

/// Largest number of lines of a function: one screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Largest number of lines of the parser of the configuration, without its tests. A larger parser would
/// not be worth its own code.
const PARSER_LINES_MAX: usize = 150;

/// The entries of the top level, except names that begin with a dot.
const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "config.ini", "scripts", "src", "tests"];

/// Largest number of dependencies between the parts of `src/node`.
const NODE_EDGES_MAX: usize = 50;

// ── the sources ──────────────────────────────────────────────────────────────────────────────

#[test]
fn every_module_follows_the_rules_of_its_layer() {
    let breaches: Vec<String> = sources().iter().flat_map(|(file, source)| complaints(file, source)).collect();
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn every_row_has_its_module() {
    let modules: BTreeSet<String> = sources().iter().map(|(file, _)| module_of(file).to_owned()).collect();
    for row in ROWS {
        assert!(modules.contains(row.module), "`{}` has a row in tests/architecture.rs but no source", row.module);
    }
}

#[test]
fn no_source_file_is_too_long() {
    for (file, source) in sources() {
        let lines = source.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{file} has {lines} lines, at most {FILE_LINES_MAX} are allowed");
    }
}

#[test]
fn no_function_is_too_long() {
    let mut found = Vec::new();
    for (file, source) in sources() {
        for Function { name, line, lines } in Items::of(&file, &source).functions {
            if lines > FUNCTION_LINES_MAX {
                found.push(format!(
                    "{file}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX} are allowed"
                ));
            }
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_parts_of_the_node_depend_on_each_other_within_bounds() {
    let parts = Parts::of(&sources());
    let cycles = parts.cycles();
    println!("src/node: {} parts, {} edges, cycles: {cycles:?}", parts.edges.len(), parts.edge_count());
    println!("{}", parts.lines().join("\n"));
    assert!(parts.edge_count() <= NODE_EDGES_MAX, "{} edges, at most {NODE_EDGES_MAX} are allowed", parts.edge_count());
    assert!(cycles.is_empty(), "parts that depend on each other in a cycle: {cycles:?}");
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
            "`{entry}` does not belong to the top level"
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
                let file =
                    path.strip_prefix(top_level()).expect("it is below the top level").to_str().expect("a plain name");
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

/// The entries of the top level that git tracks; `None` without git or outside a repository.
fn committed() -> Option<BTreeSet<String>> {
    let listing = Command::new("git").arg("ls-files").current_dir(top_level()).output().ok()?;
    let listing = String::from_utf8(listing.stdout).ok()?;
    let first = |line: &str| line.split('/').next().unwrap_or(line).to_owned();
    let entries: BTreeSet<String> = listing.lines().map(first).collect();
    (!entries.is_empty()).then_some(entries)
}

/// The entries of the top level in the file system, without the results of building and running.
fn present() -> BTreeSet<String> {
    let names = fs::read_dir(top_level()).expect("the top level").map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "target" && !name.starts_with("dht-data-")).collect()
}

// ── tests of the checker ─────────────────────────────────────────────────────────────────────

#[test]
fn each_row_finds_the_breach_planted_in_it() {
    for Row { module, breach: (source, expected), .. } in ROWS {
        let file = format!("src/{module}.rs");
        assert_eq!(complaints(&file, source), [format!("{file}:1: `{module}` may not {expected}")]);
    }
}

#[test]
fn each_banned_name_is_found() {
    for row in ROWS {
        for ban in row.bans.iter().copied().flatten() {
            let source = match ban {
                Name::Path(path) => format!("fn f() {{ let _ = {path}::g; }}"),
                Name::Crate(name) => format!("use {name}::*;"),
                Name::Word(word) => format!("fn best_{word}s() {{}}"),
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
    assert_eq!(complaints("src/helpers/mod.rs", ""), ["src/helpers/mod.rs: `helpers` has no row in ROWS"]);
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
        "fn f() { m!({ use crate::{id::Key, node::{self, Node}}; }) }",
        "#[m(crate::node::Node)] fn f() {}",
        "fn f() { #[cfg(test)] { crate::sim::f() } <crate::node::Node as Clone>::clone() }",
    ] {
        let found = complaints("src/id.rs", source);
        assert_eq!(found, ["src/id.rs:1: `id` may not import `node`"], "{source}");
    }
    let boxed = complaints("src/id.rs", "fn f() -> std::io::Result<Result<(), Box<dyn std::error::Error>>> {}");
    assert!(boxed.contains(&"src/id.rs:1: `id` may not name `Box` as an error".to_owned()), "{boxed:?}");
    assert_eq!(complaints("src/id.rs", "use super as root;"), ["src/id.rs:1: `id` may not import `crate`"]);
    let reexport = complaints("src/wire/mod.rs", "pub(crate) use crate::id::Key;");
    assert_eq!(reexport, ["src/wire/mod.rs:1: `wire` may not re-export `id`"]);
}

#[test]
fn names_that_resemble_a_breach_are_accepted() {
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
    assert!(complaints("src/node/tests.rs", "use crate::sim::World;").is_empty(), "a file of tests");
    assert!(complaints("src/net/conn.rs", "fn alphabet(tokenbucketed: u8) {}").is_empty(), "not a term of Kademlia");
}

#[test]
fn the_length_of_a_function_includes_signature_and_end() {
    let source = "impl S {\n    #[inline]\n    fn f(\n        &self,\n    ) {\n        fn g() {}\n    }\n}\n#[cfg(test)]\nfn h() {}\n";
    let functions = Items::of("src/id.rs", source).functions;
    let found: Vec<_> = functions.iter().map(|function| (&*function.name, function.line, function.lines)).collect();
    assert_eq!(found, [("f", 3, 5), ("g", 6, 1)]);
}

#[test]
fn parts_of_the_node_and_their_cycles_are_found() {
    let source = |file: &str, text: &str| (format!("src/node/{file}"), text.to_owned());
    let parts = Parts::of(&[
        source("mod.rs", "mod get; use crate::node::rpc::Peers; pub use crate::node::status::Status;"),
        source("get.rs", "use super::rpc::{inbound, outbound::send}; fn f(s: super::Status, n: &super::Node) {}"),
        source("rpc/mod.rs", "use self::outbound::send; use super::Node;"),
        source(
            "rpc/outbound.rs",
            "use super::inbound; use crate::node::put; fn f() { m!(crate::node::status::new()) }",
        ),
        source("rpc/tests.rs", "use crate::node::get::Get;"),
        source("put.rs", "fn f() { super::query::start() } #[cfg(test)] mod tests { use crate::node::get::Get; }"),
        source("query/mod.rs", "use crate::node::rpc;"),
        source("status.rs", "use crate::id::Key;"),
        ("src/net/mod.rs".to_owned(), "use crate::node::get;".to_owned()),
    ]);
    let shown =
        ["get → mod rpc status", "mod → rpc status", "put → query", "query → rpc", "rpc → mod put status", "status →"];
    assert_eq!(parts.lines(), shown);
    assert_eq!(parts.edge_count(), 10);
    assert_eq!(parts.cycles(), [["put", "query", "rpc"]]);
}

// ── the checker ──────────────────────────────────────────────────────────────────────────────

/// The breaches in `source`, the text of `file`, one line each.
fn complaints(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    let Some(row) = ROWS.iter().find(|row| row.module == module) else {
        return vec![format!("{file}: `{module}` has no row in ROWS")];
    };
    if is_test(file) {
        return Vec::new();
    }
    let items = Items::of(file, source);
    let mut found = Vec::new();
    for path in &items.paths {
        let faults = row.fault_of_import(path).into_iter().chain(row.faults_of_naming(path));
        found.extend(faults.map(|fault| (path.line, fault)));
    }
    found.extend(items.untyped_errors.into_iter().map(|(line, name)| (line, format!("name `{name}` as an error"))));
    found.sort();
    found.dedup();
    found.into_iter().map(|(line, fault)| format!("{file}:{line}: `{module}` may not {fault}")).collect()
}

/// `wire` for `src/wire/frame.rs`, `id` for `src/id.rs`.
fn module_of(file: &str) -> &str {
    let below = file.strip_prefix("src/").expect("a source file");
    below.split('/').next().expect("a path has a first part").trim_end_matches(".rs")
}

/// Whether `file` contains only tests.
fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

impl Row {
    /// The fault of `path` as an import from this crate.
    fn fault_of_import(&self, path: &FoundPath) -> Option<String> {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        let (&"crate", below) = segments.split_first()? else {
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
        // If the row allows a part of the module, the complaint names the part.
        let in_parts = allowed.any(|allowed| allowed[0] == target);
        let shown = if in_parts { below[..below.len().min(2)].join("::") } else { target.to_owned() };
        Some(format!("import `{shown}`"))
    }

    /// The banned names in `path`.
    fn faults_of_naming(&self, path: &FoundPath) -> impl Iterator<Item = String> {
        let bans = self.bans.iter().copied().flatten();
        bans.filter_map(|ban| match ban {
            Name::Path(name) => {
                let banned = segments_of(name);
                path.segments.windows(banned.len()).any(|window| window == banned).then_some(name)
            }
            // A single identifier may be a variable with that name.
            Name::Crate(name) => {
                let names_crate = path.form != Form::Inline || path.segments.len() > 1;
                (names_crate && path.segments[0] == *name).then_some(name)
            }
            Name::Word(word) => path.segments.iter().any(|segment| has_word(segment, word)).then_some(word),
        })
        .map(|name| format!("name `{name}`"))
    }
}

fn segments_of(path: &str) -> Vec<&str> {
    path.split("::").collect()
}

/// Whether `word` or its plural is one of the words of `identifier`, in upper or lower case.
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

// ── the parts of the node ────────────────────────────────────────────────────────────────────

/// The parts of `src/node`, which are its folders and the files directly in it, and their dependencies.
struct Parts {
    /// For each part the other parts whose items it names; `mod` is `mod.rs`.
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Parts {
    fn of(sources: &[(String, String)]) -> Self {
        let of_node = sources.iter().filter(|(file, _)| file.starts_with("src/node/") && !is_test(file));
        let files: Vec<(&str, Items)> =
            of_node.map(|(file, source)| (part_of(file), Items::of(file, source))).collect();
        let mut edges: BTreeMap<_, _> = files.iter().map(|(part, _)| ((*part).to_owned(), BTreeSet::new())).collect();
        // The name directly below `crate::node`.
        let name_of = |path: &FoundPath| match &path.segments[..] {
            [root, node, name, ..] if root == "crate" && node == "node" => Some(name.clone()),
            _ => None,
        };
        // The part that defines an item is the target, not `mod.rs`, which re-exports it.
        let root = files.iter().filter(|(part, _)| *part == "mod").flat_map(|(_, items)| &items.paths);
        let reexports = root.filter(|path| path.form == Form::Reexport);
        let origins: BTreeMap<String, String> =
            reexports.filter_map(|path| path.segments.last().cloned().zip(name_of(path))).collect();
        for (part, items) in &files {
            for name in items.paths.iter().filter_map(name_of) {
                let name = origins.get(&name).unwrap_or(&name);
                let target = if edges.contains_key(name) { name } else { "mod" };
                if target != *part {
                    edges.get_mut(*part).expect("a part").insert(target.to_owned());
                }
            }
        }
        Self { edges }
    }

    /// Each part with its targets.
    fn lines(&self) -> Vec<String> {
        let line = |(part, targets): (&String, &BTreeSet<String>)| {
            targets.iter().fold(format!("{part} →"), |line, target| line + " " + target)
        };
        self.edges.iter().map(line).collect()
    }

    fn edge_count(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }

    /// The groups of parts in which each part reaches every other part. Edges to `mod.rs` do not count
    /// here, because every part may implement methods of its `Node`.
    fn cycles(&self) -> Vec<Vec<&str>> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|part| (part.as_str(), self.reached_from(part))).collect();
        let mut cycles: Vec<Vec<&str>> = reached
            .iter()
            .map(|(part, targets)| targets.iter().copied().filter(|target| reached[target].contains(part)).collect())
            .filter(|cycle: &Vec<&str>| !cycle.is_empty())
            .collect();
        cycles.sort_unstable();
        cycles.dedup();
        cycles
    }

    /// All parts on paths from `part`; `part` itself only if it is in a cycle.
    fn reached_from<'a>(&'a self, part: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![part];
        while let Some(part) = next.pop() {
            let targets = self.edges[part].iter().map(String::as_str);
            next.extend(targets.filter(|target| *target != "mod" && reached.insert(*target)));
        }
        reached
    }
}

/// `rpc` for `src/node/rpc/peers.rs`, `timers` for `src/node/timers.rs`.
fn part_of(file: &str) -> &str {
    let below = file.strip_prefix("src/node/").expect("a file of the node");
    below.split('/').next().expect("a path has a first part").trim_end_matches(".rs")
}

// ── parsing ──────────────────────────────────────────────────────────────────────────────────

/// What the checker needs of a file, without its `#[cfg(test)]` items.
struct Items {
    /// The crate's own name in the file: `crate`, or `dht` in programs.
    roots: &'static [&'static str],
    /// The module that contains the current item, from the root of the crate.
    scope: Vec<String>,
    paths: Vec<FoundPath>,
    /// `String` and `Box` as the error of a `Result`, with their lines.
    untyped_errors: Vec<(usize, String)>,
    functions: Vec<Function>,
}

/// A path in the code. A path into this crate begins with `crate`, whatever its form in the source.
struct FoundPath {
    segments: Vec<String>,
    line: usize,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In an expression, a type or a pattern.
    Inline,
    /// A leaf of a `use` tree.
    Use,
    /// A leaf of a `pub use` tree.
    Reexport,
}

/// A function with a body.
struct Function {
    name: String,
    line: usize,
    /// From the signature to the closing brace.
    lines: usize,
}

impl Items {
    fn of(file: &str, source: &str) -> Self {
        let module = module_of(file);
        let roots: &[&str] = if matches!(module, "main" | "bin") { &["dht"] } else { &["crate", "dht"] };
        let below = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let scope = if module == "lib" { Vec::new() } else { below.split('/').map(str::to_owned).collect() };
        let mut items = Self { roots, scope, paths: Vec::new(), untyped_errors: Vec::new(), functions: Vec::new() };
        let tokens: TokenStream = source.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let parsed: syn::File = syn::parse2(without_tests(tokens)).unwrap_or_else(|error| panic!("{file}: {error}"));
        items.visit_file(&parsed);
        items
    }

    /// Adds a path, and replaces `self`, `super` and the crate's name at its beginning.
    fn push(&mut self, mut segments: Vec<String>, line: usize, form: Form) {
        let first = segments[0].as_str();
        let is_path = form != Form::Inline || segments.len() > 1;
        // The root of the library names its modules without `crate::`.
        let at_root = self.scope.is_empty() && ROWS.iter().any(|row| row.module == first);
        if self.roots.contains(&first) {
            "crate".clone_into(&mut segments[0]);
        } else if first == "crate" {
            "self".clone_into(&mut segments[0]); // the root of a program, which is not part of the library
        } else if matches!(first, "self" | "super") && is_path {
            let ups = segments.iter().filter(|segment| *segment == "super").count();
            let around = self.scope[..self.scope.len().saturating_sub(ups)].iter().cloned();
            let below = segments.into_iter().filter(|segment| !matches!(&**segment, "self" | "super"));
            segments = ["crate".to_owned()].into_iter().chain(around).chain(below).collect();
        } else if at_root && is_path {
            segments.insert(0, "crate".to_owned());
        }
        self.paths.push(FoundPath { segments, line, form });
    }

    /// Adds each leaf of a `use` tree.
    fn push_leaves(&mut self, tree: &UseTree, mut prefix: Vec<String>, form: Form) {
        let (ident, below) = match tree {
            UseTree::Path(path) => (&path.ident, Some(&*path.tree)),
            UseTree::Name(name) => (&name.ident, None),
            UseTree::Rename(rename) => (&rename.ident, None),
            UseTree::Glob(glob) => {
                prefix.push("*".to_owned());
                return self.push(prefix, line_of(glob.star_token.span), form);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.push_leaves(tree, prefix.clone(), form));
            }
        };
        if ident != "self" || prefix.is_empty() {
            prefix.push(ident.to_string());
        }
        match below {
            Some(tree) => self.push_leaves(tree, prefix, form),
            None => self.push(prefix, line_of(ident.span()), form),
        }
    }

    /// Adds the paths in the tokens of a macro; `prefix` precedes each of them.
    fn push_tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let is_colon = |at: usize| matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            at += 1;
            match tree {
                TokenTree::Ident(ident) => {
                    let mut segments = [prefix, &[ident.to_string()]].concat();
                    while let (true, true, Some(TokenTree::Ident(next))) =
                        (is_colon(at), is_colon(at + 1), trees.get(at + 2))
                    {
                        segments.push(next.to_string());
                        at += 3;
                    }
                    if let (true, true, Some(TokenTree::Group(group))) =
                        (is_colon(at), is_colon(at + 1), trees.get(at + 2))
                    {
                        self.push_tokens(group.stream(), &segments);
                        at += 3;
                    } else {
                        self.push(segments, line_of(ident.span()), Form::Inline);
                    }
                }
                TokenTree::Group(group) => self.push_tokens(group.stream(), &[]),
                TokenTree::Punct(punct) if punct.as_char() == '\'' => at += 1, // a lifetime
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn push_function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = line_of(signature.fn_token.span);
        let lines = body.brace_token.span.close().end().line + 1 - line;
        self.functions.push(Function { name: signature.ident.to_string(), line, lines });
    }
}

impl<'ast> Visit<'ast> for Items {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let form = if matches!(item.vis, Visibility::Inherited) { Form::Use } else { Form::Reexport };
        self.visit_visibility(&item.vis);
        self.push_leaves(&item.tree, Vec::new(), form);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.scope.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.scope.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.push(segments, line_of(path.segments[0].ident.span()), Form::Inline);
        visit::visit_path(self, path);
    }

    /// A single identifier may be a banned name too.
    fn visit_ident(&mut self, ident: &'ast Ident) {
        self.push(vec![ident.to_string()], line_of(ident.span()), Form::Inline);
    }

    fn visit_lifetime(&mut self, _: &'ast syn::Lifetime) {}

    fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
        if let PathArguments::AngleBracketed(arguments) = &segment.arguments
            && segment.ident == "Result"
            && let Some(GenericArgument::Type(Type::Path(error))) = arguments.args.iter().nth(1)
            && let Some(name) = error.path.segments.last().map(|last| &last.ident)
            && (name == "String" || name == "Box")
        {
            self.untyped_errors.push((line_of(name.span()), name.to_string()));
        }
        visit::visit_path_segment(self, segment);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.push_tokens(item.tokens.clone(), &[]);
    }

    fn visit_meta_list(&mut self, meta: &'ast syn::MetaList) {
        self.visit_path(&meta.path);
        self.push_tokens(meta.tokens.clone(), &[]);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.push_function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.push_function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.push_function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn line_of(span: Span) -> usize {
    span.start().line
}

/// `tokens` without the items that have the attribute `#[cfg(test)]`.
fn without_tests(tokens: TokenStream) -> TokenStream {
    let mut rest = tokens.into_iter().peekable();
    let mut remaining = Vec::new();
    while let Some(tree) = rest.next() {
        match (&tree, rest.peek()) {
            (TokenTree::Punct(mark), Some(TokenTree::Group(attribute)))
                if mark.as_char() == '#' && attribute.stream().to_string().replace(' ', "") == "cfg(test)" =>
            {
                // The item ends with its braces or its semicolon, or with both.
                let is_end = |tree: &TokenTree| match tree {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    TokenTree::Punct(punct) => punct.as_char() == ';',
                    TokenTree::Ident(_) | TokenTree::Literal(_) => false,
                };
                rest.find(is_end);
                rest.next_if(|tree| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ';'));
            }
            (TokenTree::Group(group), _) => {
                let mut filtered = Group::new(group.delimiter(), without_tests(group.stream()));
                filtered.set_span(group.span());
                remaining.push(filtered.into());
            }
            _ => remaining.push(tree),
        }
    }
    remaining.into_iter().collect()
}
