//! What can be wrong in a configuration file, said so that it can be put right.

use std::fmt::{self, Write};
use std::io;
use std::path::PathBuf;

use crate::node::params::ParamsError;

use super::ini::{SECTION, Section, Syntax};
use super::load::CONFIG_SIZE_MAX;
use super::value::Misread;

/// A mistake, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Counted from 1; `None` if the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong there.
    pub mistake: Mistake,
}

/// One way to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
    /// The file is larger than 1 MiB.
    TooLarge,
    /// A value that is no text.
    NotUtf8 {
        /// The key's present name.
        key: &'static str,
    },
    /// The line is no INI.
    Syntax {
        /// The line, or its value.
        found: String,
        /// What it should have been.
        expected: Syntax,
    },
    /// A value that its key cannot have.
    Value {
        /// The key's present name.
        key: &'static str,
        /// The value, and what would have been right.
        misread: Misread,
    },
    /// A key that was set before.
    Twice {
        /// The key, as it stands here.
        found: String,
        /// The line that set it first.
        first: usize,
    },
    /// Values that do not fit together.
    Misfit(ParamsError),
    /// A key that nobody knows: a warning.
    UnknownKey {
        /// The key.
        found: String,
        /// The known key that is spelled most like it.
        nearest: &'static str,
    },
    /// A key where nobody reads it: a warning.
    Misplaced {
        /// The key.
        found: String,
        /// Where it should have been.
        expected: Section,
    },
}

/// Whether a file with a mistake can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The rest of the file is understood without it.
    Warning,
    /// It cannot.
    Error,
}

impl ConfigError {
    /// Whether the file can be used all the same.
    pub fn severity(&self) -> Severity {
        match self.mistake {
            Mistake::UnknownKey { .. } | Mistake::Misplaced { .. } => Severity::Warning,
            Mistake::Unreadable(_)
            | Mistake::TooLarge
            | Mistake::NotUtf8 { .. }
            | Mistake::Syntax { .. }
            | Mistake::Value { .. }
            | Mistake::Twice { .. }
            | Mistake::Misfit(_) => Severity::Error,
        }
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
            Self::Unreadable(kind) => write!(f, "found no way to read it ({kind}), expected a text file"),
            Self::TooLarge => write!(f, "found a larger file, expected at most {CONFIG_SIZE_MAX} bytes"),
            Self::NotUtf8 { key } => write!(f, "found bytes that are no UTF-8 for {key}, expected text in UTF-8"),
            Self::Syntax { found, expected } => write!(f, "found {}, expected {expected}", Shown(found)),
            Self::Value { key, misread: Misread { found, expected } } => {
                write!(f, "found {} for {key}, expected {expected}", Shown(found))
            }
            Self::Twice { found, first } => {
                write!(f, "found {} again, expected it once: it is set in line {first}", Shown(found))
            }
            Self::Misfit(error) => write!(f, "found {error}"),
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

/// A text from the file in back quotes: what would break the line is escaped, and what is
/// longer than a line is cut.
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
    fn what_is_shown_of_a_file_stays_on_one_short_line() {
        assert_eq!(Shown("a\u{1b}[2Jb\rc").to_string(), r"`a\u{1b}[2Jb\rc`");
        assert_eq!(Shown(r"C:\däta").to_string(), r"`C:\däta`");
        assert_eq!(Shown("").to_string(), "nothing");
        assert_eq!(Shown(&"x".repeat(5_000)).to_string(), format!("`{}…`", "x".repeat(100)));
        assert_eq!(Shown(&"x".repeat(100)).to_string(), format!("`{}`", "x".repeat(100)));
    }
}
