//! The mistakes that a configuration file may contain, and their messages.

use std::fmt::{self, Write};
use std::io;
use std::path::PathBuf;

use crate::node::params::ParamsError;

use super::ini::{SECTION, Section, Syntax};
use super::load::CONFIG_SIZE_MAX;
use super::value::Misread;

/// A mistake and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the command line names it.
    pub path: PathBuf,
    /// Counted from 1; `None` if the mistake concerns the whole file.
    pub line: Option<usize>,
    /// The mistake.
    pub mistake: Mistake,
}

/// The kinds of mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
    /// The file is larger than 1 MiB.
    TooLarge,
    /// A value is not UTF-8.
    NotUtf8 {
        /// The current name of the key.
        key: &'static str,
    },
    /// The line does not follow the INI grammar.
    Syntax {
        /// The line, or its value.
        found: String,
        /// The expected form.
        expected: Syntax,
    },
    /// A value is not valid for its key.
    Value {
        /// The current name of the key.
        key: &'static str,
        /// The value and the valid values.
        misread: Misread,
    },
    /// A key is set twice.
    Twice {
        /// The key, as this line spells it.
        found: String,
        /// The line that sets it first.
        first: usize,
    },
    /// Values contradict each other.
    Contradiction(ParamsError),
    /// A key is unknown: a warning.
    UnknownKey {
        /// The key.
        found: String,
        /// The known key with the most similar spelling.
        nearest: &'static str,
    },
    /// A key is in the wrong section: a warning.
    Misplaced {
        /// The key.
        found: String,
        /// The right section.
        expected: Section,
    },
}

impl ConfigError {
    /// Whether the file can be used nevertheless: the program ignores the line.
    pub fn is_warning(&self) -> bool {
        matches!(self.mistake, Mistake::UnknownKey { .. } | Mistake::Misplaced { .. })
    }
}

/// `file:line: found …, expected …`, on one line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, mistake } = self;
        match line {
            Some(line) => write!(f, "{}:{line}: {mistake}", path.display()),
            None => write!(f, "{}: {mistake}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(kind) => write!(f, "cannot be read ({kind}), expected a text file"),
            Self::TooLarge => write!(f, "found a larger file, expected at most {CONFIG_SIZE_MAX} bytes"),
            Self::NotUtf8 { key } => write!(f, "found invalid UTF-8 for {key}, expected text in UTF-8"),
            Self::Syntax { found, expected } => write!(f, "found {}, expected {expected}", Shown(found)),
            Self::Value { key, misread: Misread { found, expected } } => {
                write!(f, "found {} for {key}, expected {expected}", Shown(found))
            }
            Self::Twice { found, first } => {
                write!(f, "found {} again, expected it once: line {first} sets it", Shown(found))
            }
            Self::Contradiction(error) => write!(f, "found {error}"),
            Self::UnknownKey { found, nearest } => {
                write!(f, "found {}, expected a key of [{SECTION}]: the nearest is `{nearest}`", Shown(found))
            }
            Self::Misplaced { found, expected: Section::Dht } => {
                write!(f, "found {} before any section, expected it in [{SECTION}]", Shown(found))
            }
            Self::Misplaced { found, expected: Section::Global } => {
                write!(f, "found {} in [{SECTION}], expected it before the first section", Shown(found))
            }
        }
    }
}

/// A text from the file in back quotes, with control characters escaped and a long text truncated.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 100;
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        f.write_char('`')?;
        for c in self.0.chars().take(CHARS_MAX) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        f.write_str(if self.0.chars().nth(CHARS_MAX).is_some() { "…`" } else { "`" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_stays_on_one_short_line() {
        assert_eq!(Shown("a\u{1b}[2Jb\rc").to_string(), r"`a\u{1b}[2Jb\rc`");
        assert_eq!(Shown(r"C:\däta").to_string(), r"`C:\däta`");
        assert_eq!(Shown("").to_string(), "nothing");
        assert_eq!(Shown(&"x".repeat(5_000)).to_string(), format!("`{}…`", "x".repeat(100)));
        assert_eq!(Shown(&"x".repeat(100)).to_string(), format!("`{}`", "x".repeat(100)));
    }
}
