//! Every citation of the protocol page or the threat model names something that the page has.
//!
//! The pages are `src/wire/PROTOCOL.md` and `src/THREATS.md`. What they have is read from them:
//! sections (`## 3. Title`), other chapters (`## Title`), parts of a section (`### Title`), labels
//! (`### B6: title`), the numbered rules of a section, and the rows of its table of flags.
//!
//! A citation is a mention of a page's file name in any file of the tree, with what it names behind
//! it, separated by commas, `and` or `to`. Comment signs and line ends do not matter:
//!
//! ```text
//! page 2 · page 1 and 2 · page 1, rule 3 · page 1, rules 1 and 2 · page 1, flag 0 · page 2, Scope
//! page, Header · page B6 · section 2 of page
//! ```
//!
//! A citation that names nothing says in the words before it that it means the whole page: `the page`,
//! `all of` or `those of`. A path to the file is no citation. In [`TACIT`] directories the page is
//! understood: `section 2, Scope` is a citation of it there, unless a paper is named before.
//!
//! The tables of messages and of error codes on the protocol page are compared with the code, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use dht::wire::Source;
use dht::wire::peer::ErrorCode;

/// The file name of the protocol page; written so that this line is no citation.
const PROTOCOL: &str = concat!("PROTOCOL", ".md");

/// The file name of the threat model.
const THREATS: &str = concat!("THREATS", ".md");

/// The pages, with their place in the tree.
const PAGES: [(&str, &str); 2] = [(PROTOCOL, "src/wire/"), (THREATS, "src/")];

/// What is searched for citations.
const SEARCHED: [&str; 5] = ["src", "tests", "scripts", "README.md", "config.ini"];

/// Directories in which `section N` is one of that page.
const TACIT: [(&str, &str); 1] = [("tests/node/", PROTOCOL)];

/// What stands before a citation of the page as a whole.
const WHOLE: [&str; 3] = ["page ", "all of ", "those of "];

/// What separates the parts of a citation.
const SEPARATORS: [&str; 5] = [", and ", " and ", " to ", ", ", " or "];

// ── pages ────────────────────────────────────────────────────────────────────────────────────

/// What a page has that can be cited.
#[derive(Debug, Default)]
struct Page {
    sections: BTreeMap<u32, Section>,
    /// Chapters without a number.
    chapters: BTreeSet<String>,
    labels: BTreeSet<String>,
}

/// What a section has that can be cited.
#[derive(Debug, Default)]
struct Section {
    parts: BTreeSet<String>,
    rules: BTreeSet<u32>,
    flags: BTreeSet<u32>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut number = None;
        let mut part = String::new();
        let mut is_code = false;
        for line in text.lines() {
            is_code ^= line.starts_with("```");
            if is_code {
                continue;
            }
            if let Some(title) = line.strip_prefix("## ") {
                part.clear();
                number = title.split_once(". ").and_then(|(number, _)| number.parse().ok());
                match number {
                    Some(number) => drop(page.sections.insert(number, Section::default())),
                    None => drop(page.chapters.insert(title.to_owned())),
                }
            } else if let Some(title) = line.strip_prefix("### ") {
                title.clone_into(&mut part);
                page.add_part(number, title);
            } else if let Some(section) = number.and_then(|number| page.sections.get_mut(&number)) {
                if part == "Rules" {
                    section.rules.extend(line.split_once(". ").and_then(|(rule, _)| rule.parse::<u32>().ok()));
                } else if part.ends_with("flags") {
                    section.flags.extend(cells(line).first().and_then(|flag| flag.parse::<u32>().ok()));
                }
            }
        }
        page
    }

    fn add_part(&mut self, section: Option<u32>, title: &str) {
        match title.split_once(": ") {
            Some((label, _)) if is_label(label) => drop(self.labels.insert(label.to_owned())),
            _ => {
                if let Some(section) = section.and_then(|number| self.sections.get_mut(&number)) {
                    section.parts.insert(title.to_owned());
                }
            }
        }
    }
}

/// The cells of a row of a table; none, if `line` is no row.
fn cells(line: &str) -> Vec<&str> {
    let inner = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
    inner.map(|inner| inner.split(" | ").collect()).unwrap_or_default()
}

/// Whether `word` is a capital letter and a number.
fn is_label(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|first| first.is_ascii_uppercase())
        && !letters.as_str().is_empty()
        && letters.all(|digit| digit.is_ascii_digit())
}

// ── citations ────────────────────────────────────────────────────────────────────────────────

/// Reads what a citation names, from its first word on.
struct Citation<'a> {
    page: &'a Page,
    rest: &'a str,
    /// The section that rules, flags and parts belong to.
    section: Option<u32>,
}

/// What is wrong with a citation: what it names that the page does not have, and what it has instead.
type Wrong = String;

impl<'a> Citation<'a> {
    fn new(page: &'a Page, rest: &'a str) -> Self {
        Self { page, rest, section: None }
    }

    /// Reads all that is named; returns how many things that are.
    fn read(&mut self) -> Result<usize, Wrong> {
        let mut found = 0;
        while self.item()? {
            found += 1;
            let Some((separator, next)) = separated(self.rest) else { break };
            self.rest = next;
            // Behind a comma alone a capital letter begins a name, elsewhere perhaps a sentence.
            if separator != ", " && next.starts_with(char::is_uppercase) && !self.begins_with_a_name() {
                break;
            }
        }
        Ok(found)
    }

    /// Reads one thing that is named; `false` if what comes next is prose.
    fn item(&mut self) -> Result<bool, Wrong> {
        for (word, are_many) in [("rule ", false), ("rules ", true), ("flag ", false), ("flags ", true)] {
            if let Some(numbers) = self.rest.strip_prefix(word).filter(|numbers| begins_with_a_digit(numbers)) {
                self.rest = numbers;
                self.numbers(word.trim_end_matches(['s', ' ']), are_many)?;
                return Ok(true);
            }
        }
        match self.rest.chars().next() {
            Some(first) if first.is_ascii_digit() => {
                let number = self.number()?;
                if !self.page.sections.contains_key(&number) {
                    return Err(format!("has no section {number}; sections are {}", list(self.page.sections.keys())));
                }
                self.section = Some(number);
            }
            Some(first) if first.is_uppercase() => self.name()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the number of a rule or a flag; if `are_many`, as long as more follow.
    fn numbers(&mut self, word: &str, are_many: bool) -> Result<(), Wrong> {
        loop {
            let number = self.number()?;
            let Some((section, there)) =
                self.section.and_then(|section| Some((section, self.page.sections.get(&section)?)))
            else {
                return Err(format!("is cited for {word} {number}, but for no section before it"));
            };
            let all = if word == "rule" { &there.rules } else { &there.flags };
            if !all.contains(&number) {
                return Err(format!("has no {word} {number} of section {section}; it has {word}s {}", list(all)));
            }
            match separated(self.rest).filter(|(_, next)| are_many && begins_with_a_digit(next)) {
                Some((_, next)) => self.rest = next,
                None => return Ok(()),
            }
        }
    }

    fn number(&mut self) -> Result<u32, Wrong> {
        let digits = self.rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(digits);
        if rest.strip_prefix('.').is_some_and(begins_with_a_digit) {
            return Err(format!("has no {number}{}; sections have no numbers below them", &rest[..2]));
        }
        self.rest = rest;
        number.parse().map_err(|_| format!("has no section {number}"))
    }

    /// Reads a label, a chapter, or a part of the section before it: the longest that is there.
    fn name(&mut self) -> Result<(), Wrong> {
        if let Some(name) = self.names().filter(|name| begins_with(self.rest, name)).max_by_key(|name| name.len()) {
            self.rest = &self.rest[name.len()..];
            return Ok(());
        }
        let (found, there) = (first_word(self.rest), list(self.names()));
        Err(match self.section {
            Some(section) => format!("has no {found:?} in section {section}; it has {there}"),
            None => format!("has no {found:?}; it has {there}"),
        })
    }

    /// Whether a name comes next, be it a wrong label.
    fn begins_with_a_name(&self) -> bool {
        is_label(first_word(self.rest)) || self.names().any(|name| begins_with(self.rest, name))
    }

    /// The names that may come next.
    fn names(&self) -> impl Iterator<Item = &'a String> {
        let page = self.page;
        let parts = self.section.and_then(|section| page.sections.get(&section)).map(|section| &section.parts);
        parts.unwrap_or(&page.chapters).iter().chain(&page.labels)
    }
}

/// What separates the beginning of `text` from what is named before, and what comes behind that.
fn separated(text: &str) -> Option<(&'static str, &str)> {
    SEPARATORS.into_iter().find_map(|separator| Some((separator, text.strip_prefix(separator)?)))
}

fn first_word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default()
}

fn begins_with_a_digit(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

fn begins_with(text: &str, name: &str) -> bool {
    text.strip_prefix(name).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

fn list<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

// ── files ────────────────────────────────────────────────────────────────────────────────────

/// The text of a file on one line, without the signs that begin its comments.
struct Prose {
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Prose {
    fn of(source: &str) -> Self {
        let mut prose = Self { text: String::new(), lines: Vec::new() };
        for line in source.lines() {
            prose.lines.push(prose.text.len());
            prose.text.push_str(line.trim().trim_start_matches(['/', '!', '#', ';', '*']).trim());
            prose.text.push(' ');
        }
        prose
    }

    fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|line| *line <= at)
    }
}

/// How many citations `source` has; or, of each that is wrong, what is wrong with it.
fn judge(file: &str, source: &str, pages: &BTreeMap<&str, Page>) -> (usize, Vec<String>) {
    let prose = Prose::of(source);
    let mut complaints = Vec::new();
    let mut count = 0;
    let mut note = |at: usize, name: &str, outcome: Result<(), Wrong>| {
        count += 1;
        if let Err(wrong) = outcome {
            complaints.push(format!("{file}:{}: {name} {wrong}", prose.line_of(at)));
        }
    };
    for (name, page) in pages {
        for (at, _) in prose.text.match_indices(name) {
            let (before, after) = (&prose.text[..at], &prose.text[at + name.len()..]);
            if !before.ends_with(['/', '"']) {
                note(at, name, mention(page, before.trim_end_matches('`'), after.trim_start_matches('`')));
            }
        }
    }
    if let Some((_, name)) = TACIT.iter().find(|(directory, _)| file.starts_with(directory)) {
        for (at, word) in prose.text.match_indices("ection") {
            let after = &prose.text[at + word.len()..];
            let numbers = after.strip_prefix("s ").or(after.strip_prefix(' '));
            let numbers = numbers.filter(|numbers| begins_with_a_digit(numbers));
            if let Some(numbers) = numbers.filter(|_| !names_a_paper(&prose.text[..at])) {
                note(at, name, Citation::new(&pages[name], numbers).read().map(drop));
            }
        }
    }
    (count, complaints)
}

/// Judges a mention of `page` between `before` and `after`.
fn mention(page: &Page, before: &str, after: &str) -> Result<(), Wrong> {
    if let Some(words) = before.strip_suffix(" of ")
        && let Some((_, numbers)) = words.rsplit_once("ection")
        && let Some(numbers) = numbers.strip_prefix("s ").or(numbers.strip_prefix(' '))
        && numbers.split([' ', ',']).all(|word| matches!(word, "" | "and" | "or" | "to") || begins_with_a_digit(word))
    {
        return Citation::new(page, numbers).read().map(drop);
    }
    let named = after.strip_prefix(", ").filter(|named| named.starts_with(char::is_uppercase));
    let named = named.or(after.strip_prefix(' ')).unwrap_or_default();
    // A capital letter behind a space alone begins a sentence, unless it begins a label.
    let is_prose = after.starts_with(' ') && named.starts_with(char::is_uppercase) && !is_label(first_word(named));
    if !is_prose && Citation::new(page, named).read()? > 0 || WHOLE.iter().any(|whole| before.ends_with(whole)) {
        return Ok(());
    }
    Err(format!("is cited for no section; name one ({}), or write \"the page\" before it", list(page.sections.keys())))
}

/// Whether `before`, which ends in front of `section`, names another text than a page.
fn names_a_paper(before: &str) -> bool {
    let before = before.trim_end_matches(['s', 'S']).trim_end().trim_end_matches([',', '(']);
    let mut words = before.rsplit(' ');
    let (last, before_last) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    last.ends_with("Kademlia") || before_last.ends_with("RFC") && last.chars().all(|digit| digit.is_ascii_digit())
}

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page_text(name: &str) -> String {
    let (_, directory) = PAGES.iter().find(|(page, _)| *page == name).expect("a page");
    fs::read_to_string(tree().join(directory).join(name)).expect("the page is in the tree")
}

fn pages() -> BTreeMap<&'static str, Page> {
    PAGES.iter().map(|(name, _)| (*name, Page::read(&page_text(name)))).collect()
}

/// All files that are searched and are text, with their paths from the top level.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut paths: Vec<_> = SEARCHED.iter().map(|path| tree().join(path)).collect();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if let Ok(text) = String::from_utf8(fs::read(&path).expect("a file")) {
            let file = path.strip_prefix(tree()).expect("it lies beneath").to_str().expect("a plain name");
            found.push((file.replace('\\', "/"), text));
        }
    }
    found.sort();
    found
}

// ── the tree ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn every_citation_names_what_its_page_has() {
    let pages = pages();
    let (mut count, mut complaints) = (0, Vec::new());
    for (file, text) in files() {
        let (found, wrong) = judge(&file, &text, &pages);
        count += found;
        complaints.extend(wrong);
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    assert!(count >= 100, "only {count} citations were found: the checker overlooks some");
}

#[test]
fn the_pages_keep_their_section_numbers_rules_flags_and_labels() {
    let pages = pages();
    let (protocol, threats) = (&pages[PROTOCOL], &pages[THREATS]);
    assert_eq!(list(protocol.sections.keys()), "1, 2, 3, 4, 5");
    assert_eq!(list(&protocol.sections[&1].rules), list(1..=10));
    assert_eq!(list(&protocol.sections[&1].flags), "0, 1, 2");
    let labels = |letter: char, last: u32| (1..=last).map(move |number| format!("{letter}{number}"));
    let all = [('A', 12), ('B', 10), ('C', 7), ('D', 10), ('E', 12)];
    let all: BTreeSet<String> = all.into_iter().flat_map(|(letter, last)| labels(letter, last)).collect();
    assert_eq!(threats.labels, all);
}

/// Rows `| type | message | layout | size |`, where the size is that of the whole message.
#[test]
fn the_tables_of_messages_are_those_of_the_code() {
    let text = page_text(PROTOCOL);
    let mut rows = BTreeMap::new();
    for row in text.lines().map(cells).filter(|row| row.len() == 4) {
        if let Ok(number) = row[0].parse::<u16>() {
            assert_eq!(rows.insert(number, (row[1], row[3])), None, "type {number} has two rows");
        }
    }
    let mut expected = BTreeMap::new();
    for number in 0..=u16::MAX {
        let sources = [Source::Module, Source::Server, Source::Peer];
        if let Some(kind) = sources.into_iter().find_map(|source| source.kind(number)) {
            let whole = |body: usize| if body + 4 <= 65_535 { body + 4 } else { body + 8 };
            let (least, most) = (whole(kind.body_min), whole(kind.body_max));
            let size = if least == most { least.to_string() } else { format!("{least} to {most}") };
            expected.insert(number, (kind.name, size));
        }
    }
    let found: BTreeMap<_, _> =
        rows.into_iter().map(|(number, (name, size))| (number, (name, size.to_owned()))).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let text = page_text(PROTOCOL);
    let rows = text.lines().map(cells).filter(|row| row.len() == 2);
    let codes: Vec<u16> = rows.filter_map(|row| row[0].parse().ok()).collect();
    let expected = [
        ErrorCode::MALFORMED,
        ErrorCode::NOT_VERIFIED,
        ErrorCode::NOT_FOUND,
        ErrorCode::OUT_OF_SCOPE,
        ErrorCode::GONE,
        ErrorCode::TOO_EARLY,
        ErrorCode::TOO_MANY,
        ErrorCode::SERVER_ERROR,
        ErrorCode::LEAVING,
        ErrorCode::FULL,
    ];
    assert_eq!(codes, expected.map(|code| code.0));
}

// ── the checker, checked ─────────────────────────────────────────────────────────────────────

/// A page with two sections, of which the first has rules, flags and parts, one chapter and two labels.
const SMALL: &str = "# Title\n\n## Header\n\n## 1. First\n\n### Rules\n\n1. **One.**\n2. Two\n   goes on\n\n\
    ### PUT flags\n\n| bit | name |\n| --- | --- |\n| 0 | confirm |\n\n### Long form\n\n```text\n## 7. Code\n```\n\n\
    ## 2. Second\n\n### Scope\n\n### Scope and more\n\n### B6: a threat\n\n### E12: another\n";

/// What is wrong in `source`, where `@` stands for the name of the page.
fn complaints_of(file: &str, source: &str) -> Vec<String> {
    let pages = PAGES.iter().map(|(name, _)| (*name, Page::read(SMALL))).collect();
    judge(file, &source.replace('@', PROTOCOL), &pages).1
}

#[test]
fn a_right_citation_is_accepted_however_it_is_written() {
    for source in [
        "//! Source: `@` 1.",
        "/// (`@` 1 and 2): as said",
        "// `@` 1, rule 1, and 2, Scope.",
        "// `@` 1, rules 1 and 2) is",
        "// `@` 1, rules 1 to 2",
        "// `@` 1, flag 0, and RFC 6298",
        "// `@` 1, Long form, and prose",
        "// `@` 2, Scope and more",
        "// `@` 2, Scope",
        "// `@`, Header, and 2, Scope",
        "// `@` 2; `@` B6, which is another",
        "// `@` B6 and E12: two",
        "//! @ 2, if bit 0",
        "# @ 2, written by hand",
        "; see @ 2",
        "// is said (`@`\n// 2, Scope)",
        "/// `@` 2,\n    /// Scope",
        "//! Section 2 of `@` a second time",
        "//! sections 1 and 2 of `@`",
        "// what the page `@` says",
        "//! Sections cited are those of `@`, unless",
        "[here](src/wire/@)",
        "#[doc = include_str!(\"@\")]",
    ] {
        assert_eq!(complaints_of("src/a.rs", source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn a_planted_wrong_citation_is_found_with_its_file_and_line() {
    for (source, found) in [
        ("// `@` 3", "has no section 3; sections are 1, 2"),
        ("// `@` 1 and 7", "has no section 7; sections are 1, 2"),
        ("// `@` 2.1", "has no 2.1; sections have no numbers below them"),
        ("// `@` 1, rule 3", "has no rule 3 of section 1; it has rules 1, 2"),
        ("// `@` 2, rule 1", "has no rule 1 of section 2; it has rules "),
        ("// `@` 1, rules 1 and 4", "has no rule 4 of section 1; it has rules 1, 2"),
        ("// `@` 1, flags 0 and 1, and 2", "has no flag 1 of section 1; it has flags 0"),
        ("// `@` B6 and B7", "has no \"B7\"; it has Header, B6, E12"),
        ("// `@` B6, rule 1", "is cited for rule 1, but for no section before it"),
        ("// `@` B6, Setled", "has no \"Setled\"; it has Header, B6, E12"),
        ("// rule 1 of section 8 of `@`", "has no section 8; sections are 1, 2"),
        ("// `@` 1, Scope", "has no \"Scope\" in section 1; it has Long form, PUT flags, Rules, B6, E12"),
        ("// `@` 2, Scopes", "has no \"Scopes\" in section 2; it has Scope, Scope and more, B6, E12"),
        ("// `@`, Footer", "has no \"Footer\"; it has Header, B6, E12"),
        ("// `@` B7", "has no \"B7\"; it has Header, B6, E12"),
        ("// section 4 of `@`", "has no section 4; sections are 1, 2"),
        ("// sections 2 and 4 of `@`", "has no section 4; sections are 1, 2"),
        (
            "// section 9 of a paper, and all that of `@`",
            "is cited for no section; name one (1, 2), or write \"the page\" before it",
        ),
        ("// as `@` says", "is cited for no section; name one (1, 2), or write \"the page\" before it"),
        ("// see `@`.\n// 2 of them", "is cited for no section; name one (1, 2), or write \"the page\" before it"),
        ("// see `@` Section", "is cited for no section; name one (1, 2), or write \"the page\" before it"),
    ] {
        let source = format!("fn f() {{}}\n\n{source}\n");
        assert_eq!(complaints_of("src/a.rs", &source), [format!("src/a.rs:3: {PROTOCOL} {found}")], "{source}");
    }
}

#[test]
fn where_a_page_is_understood_its_sections_are_checked_and_those_of_papers_are_not() {
    let source = "/// Section 3: no.\n/// (sections 1 and 2, Scope; section 9)\n/// Kademlia, section 2.3 (RFC 6298, section 4)\n";
    let expected =
        |line, section| format!("tests/node/a.rs:{line}: {PROTOCOL} has no section {section}; sections are 1, 2");
    assert_eq!(complaints_of("tests/node/a.rs", source), [expected(1, 3), expected(2, 9)]);
    assert_eq!(complaints_of("src/a.rs", source), Vec::<String>::new());
    for (directory, _) in TACIT {
        assert!(tree().join(directory).is_dir(), "{directory} has moved: its citations are not checked any more");
    }
}

#[test]
fn a_wrong_citation_in_any_searched_place_is_found() {
    let places: BTreeSet<String> = files().into_iter().map(|(file, _)| file).collect();
    for place in SEARCHED {
        assert!(places.iter().any(|file| file.starts_with(place)), "{place} is not searched");
    }
}
