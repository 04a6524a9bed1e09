//! Windows INI text → entries, each with its line number.
//!
//! The grammar, line by line (LF or CR LF; a byte order mark is skipped):
//!
//! ```text
//! line    = blank | comment | header [comment] | key "=" value [comment]
//! comment = (";" | "#") anything
//! header  = "[" name "]"
//! value   = '"' anything but '"' '"' | text
//! ```
//!
//! White space around names, keys and values is ignored, and so is the case of names and keys. After
//! an unquoted value a comment must follow white space (or begin the value, which is then empty): the
//! `#` of `host:port#id` and the `;` of `a;b` belong to the value. A value that contains ` ;`, ` #` or
//! outer white space is quoted; there are no escapes, so `"C:\data"` contains one backslash.
//!
//! Lines of other sections are ignored. Headers are always validated, because the lines after a broken
//! header belong to no known section.

use std::fmt;

/// The section of this program.
pub(super) const SECTION: &str = "dht";

const COMMENT_SIGNS: [char; 2] = [';', '#'];

/// The part of the file that contains an entry. Entries of other sections are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The lines before the first header: for all programs that share the file.
    Global,
    /// The section `[dht]`, which may occur more than once.
    Dht,
}

/// A key with its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) section: Section,
    /// In lower case; never empty.
    pub(super) key: String,
    /// Without quotes, comment and outer white space; may be empty.
    pub(super) value: &'a str,
}

/// A line that does not follow the grammar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) found: &'a str,
    pub(super) expected: Syntax,
}

/// The expected form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// A header.
    Header,
    /// A key with its value.
    KeyValue,
    /// A value in quotes.
    Quoted,
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Syntax::Header => "[section], followed by nothing but a comment",
            Syntax::KeyValue => "key = value",
            Syntax::Quoted => "a closing \", followed by nothing but a comment",
        })
    }
}

/// Reads the entries of `text` in both sections, in the order of their lines.
pub(super) fn parse(text: &str) -> Vec<Result<Entry<'_>, SyntaxError<'_>>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut section = Some(Section::Global); // `None`: in a section of another program
    let mut parsed = Vec::new();
    for (line, content) in (1..).zip(text.lines().map(str::trim)) {
        if is_comment(content) {
            continue;
        }
        if let Some(header) = content.strip_prefix('[') {
            let (inside, behind) = header.split_once(']').unwrap_or((header, "]"));
            let name = without_comment(inside).trim_start();
            // A broken header still opens its section, so that mistakes after it are found too.
            section = name.eq_ignore_ascii_case(SECTION).then_some(Section::Dht);
            if name.is_empty() || name.len() < inside.trim().len() || !is_comment(behind) {
                parsed.push(Err(SyntaxError { line, found: content, expected: Syntax::Header }));
            }
        } else if let Some(section) = section {
            parsed.push(entry(line, section, content));
        }
    }
    parsed
}

fn entry(line: usize, section: Section, content: &str) -> Result<Entry<'_>, SyntaxError<'_>> {
    let wrong = |found, expected| SyntaxError { line, found, expected };
    let (key, text) = content.split_once('=').ok_or(wrong(content, Syntax::KeyValue))?;
    let (key, text) = (key.trim_end(), text.trim_start());
    if key.is_empty() {
        return Err(wrong(content, Syntax::KeyValue));
    }
    let value = match text.strip_prefix('"') {
        None => without_comment(text),
        Some(quoted) => match quoted.split_once('"') {
            Some((value, behind)) if is_comment(behind) => value,
            _ => return Err(wrong(text, Syntax::Quoted)),
        },
    };
    Ok(Entry { line, section, key: key.to_ascii_lowercase(), value })
}

/// Whether `text` is blank or a comment.
fn is_comment(text: &str) -> bool {
    let text = text.trim_start();
    text.is_empty() || text.starts_with(COMMENT_SIGNS)
}

/// `text` up to the first comment sign at its start or after white space.
fn without_comment(text: &str) -> &str {
    let mut after_space = true;
    let comment = text.find(|sign: char| {
        let begins = after_space && COMMENT_SIGNS.contains(&sign);
        after_space = sign.is_whitespace();
        begins
    });
    text[..comment.unwrap_or(text.len())].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(usize, Section, String, &str)> {
        let whole = parse(text).into_iter().map(|parsed| parsed.expect("valid INI"));
        whole.map(|entry| (entry.line, entry.section, entry.key, entry.value)).collect()
    }

    fn value(line: &str) -> String {
        let (_, _, key, value) = entries(line).pop().expect("one entry");
        assert_eq!(key, "key");
        value.to_owned()
    }

    fn mistakes(text: &str) -> Vec<(usize, String, Syntax)> {
        parse(text).into_iter().filter_map(Result::err).map(|e| (e.line, e.found.to_owned(), e.expected)).collect()
    }

    #[test]
    fn only_entries_of_the_two_sections_are_read() {
        let text = "a=1\n[gossip]\nb=2\n[dht]\nc=3\n\n[onion]\nd=4\n[dht]\ne=5\n";
        let section = |line, key: &str, value| (line, Section::Dht, key.to_owned(), value);
        assert_eq!(
            entries(text),
            [(1, Section::Global, "a".to_owned(), "1"), section(5, "c", "3"), section(10, "e", "5")]
        );
    }

    #[test]
    fn lines_of_other_sections_are_not_validated() {
        assert_eq!(mistakes("[gossip]\nno equals sign\n= 3\nk = \"open\n[dht]\nk = 3"), []);
    }

    #[test]
    fn names_and_keys_are_read_without_regard_to_case_and_white_space() {
        assert_eq!(entries("  [ DhT ] ; ours\n\t KeY \t=\t a b \t"), [(2, Section::Dht, "key".to_owned(), "a b")]);
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_are_ignored() {
        assert_eq!(entries("\u{feff}[dht]\r\nk = 7\r\n"), [(2, Section::Dht, "k".to_owned(), "7")]);
    }

    #[test]
    fn a_comment_has_its_own_line_or_follows_white_space() {
        assert_eq!(entries("; k = 1\n  # k = 2\n\n"), []);
        assert_eq!(value("key = 1 ; one"), "1");
        assert_eq!(value("key = 1\t# one"), "1");
        assert_eq!(value("key = a;b#c"), "a;b#c");
        assert_eq!(value("key = host:7402#00ff ; a pin"), "host:7402#00ff");
        assert_eq!(value("key = ; nothing"), "");
        assert_eq!(value("key =#nothing"), "");
        assert_eq!(value("key = a = b"), "a = b");
    }

    #[test]
    fn quotes_preserve_comment_signs_and_white_space() {
        assert_eq!(value("key = \" a ; b # c \" ; d"), " a ; b # c ");
        assert_eq!(value("key = \"a\"#b"), "a");
        assert_eq!(value("key = \"\""), "");
        assert_eq!(value("key = \"C:\\data\\\""), "C:\\data\\");
        assert_eq!(value("key = a \"b\" c"), "a \"b\" c");
    }

    #[test]
    fn a_line_that_violates_the_grammar_is_reported_with_its_number() {
        let wrong = |line, found: &str, expected| (line, found.to_owned(), expected);
        assert_eq!(
            mistakes("[dht]\nalpha\n= 3\nk = \"3\nk = \"3\" 4\n[]\n[dht] k\n[dht\n[dht ; [1]"),
            [
                wrong(2, "alpha", Syntax::KeyValue),
                wrong(3, "= 3", Syntax::KeyValue),
                wrong(4, "\"3", Syntax::Quoted),
                wrong(5, "\"3\" 4", Syntax::Quoted),
                wrong(6, "[]", Syntax::Header),
                wrong(7, "[dht] k", Syntax::Header),
                wrong(8, "[dht", Syntax::Header),
                wrong(9, "[dht ; [1]", Syntax::Header),
            ]
        );
    }

    #[test]
    fn mistakes_after_an_unclosed_header_are_found_too() {
        assert_eq!(mistakes("[gossip]\n[dht ; mine\nalpha").len(), 2);
        assert_eq!(mistakes("[gossip\nalpha").len(), 1);
    }
}
