//! The command line of `dht-server`: arguments → [`Command`].
//!
//! Promises that a command line is either understood completely or refused with what was found
//! and what would have been right. It reads no file; the other programs have grammars of their own.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use getopts::{Fail, Options};

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a node.
    Run {
        /// Its configuration file.
        config: PathBuf,
    },
    /// Judge a configuration file, warnings included, and do nothing else.
    CheckConfig {
        /// The file.
        config: PathBuf,
    },
    /// Print [`usage`].
    Help,
    /// Print [`version`].
    Version,
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it did what was asked.
    Success,
    /// 1: something failed at run time.
    Runtime,
    /// 2: the command line or the configuration is wrong.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Success => 0,
            Exit::Runtime => 1,
            Exit::Usage => 2,
        })
    }
}

/// Reads the arguments, without the program's own name.
///
/// # Errors
///
/// The first [`CliError`]; `-h` and `-V` excuse a missing `-c`, and nothing else.
pub fn parse<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command, CliError> {
    let matches = options().parse(arguments)?;
    if let Some(argument) = matches.free.first() {
        return Err(CliError::Surplus { argument: argument.clone() });
    }
    if matches.opt_present("help") {
        return Ok(Command::Help);
    }
    if matches.opt_present("version") {
        return Ok(Command::Version);
    }
    let config = matches.opt_str("config").map(PathBuf::from).ok_or(CliError::ConfigMissing)?;
    if matches.opt_present("check-config") {
        return Ok(Command::CheckConfig { config });
    }
    Ok(Command::Run { config })
}

/// What `--help` prints.
pub fn usage() -> String {
    options().usage(&format!("Usage: {GRAMMAR}\n\nA node of a Kademlia DHT that serves VoidPhone modules."))
}

/// What `--version` prints.
pub fn version() -> &'static str {
    concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"))
}

const GRAMMAR: &str = "dht-server -c FILE [--check-config] | -h | -V";

fn options() -> Options {
    let mut options = Options::new();
    options
        .optopt("c", "config", "the configuration; config.ini explains every key", "FILE")
        .optflag("", "check-config", "judge FILE, warnings included, and exit: 0 if it is right, 2 if not")
        .optflag("h", "help", "print this and exit")
        .optflag("V", "version", "print the version and exit");
    options
}

/// Why a command line was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliError {
    /// No file is named.
    ConfigMissing,
    /// An option that nobody knows.
    UnknownOption {
        /// Without its dashes.
        option: String,
    },
    /// An option that stands at the end but needs a value.
    ValueMissing {
        /// Without its dashes.
        option: String,
    },
    /// A value for an option that takes none.
    SurplusValue {
        /// Without its dashes.
        option: String,
    },
    /// An option that stands there twice.
    Repeated {
        /// Without its dashes.
        option: String,
    },
    /// An argument that belongs to no option.
    Surplus {
        /// The first of them.
        argument: String,
    },
}

impl From<Fail> for CliError {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::ArgumentMissing(option) => Self::ValueMissing { option },
            Fail::UnrecognizedOption(option) => Self::UnknownOption { option },
            Fail::OptionMissing(_) => Self::ConfigMissing,
            Fail::OptionDuplicated(option) => Self::Repeated { option },
            Fail::UnexpectedArgument(option) => Self::SurplusValue { option },
        }
    }
}

/// `found …, expected …`, on one line.
impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigMissing => write!(f, "found no -c FILE, expected {GRAMMAR}"),
            Self::UnknownOption { option } => write!(f, "found unknown option `{option}`, expected {GRAMMAR}"),
            Self::ValueMissing { option } => write!(f, "found option `{option}` without a value, expected -c FILE"),
            Self::SurplusValue { option } => write!(f, "found a value for option `{option}`, expected none"),
            Self::Repeated { option } => write!(f, "found option `{option}` twice, expected it once"),
            Self::Surplus { argument } => write!(f, "found surplus argument `{argument}`, expected {GRAMMAR}"),
        }
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        parse(arguments).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_node_runs_on_the_file_behind_c() {
        let run = Ok(Command::Run { config: "a b.ini".into() });
        for arguments in [&["-c", "a b.ini"][..], &["-ca b.ini"], &["--config", "a b.ini"], &["--config=a b.ini"]] {
            assert_eq!(parse(arguments), run, "{arguments:?}");
        }
    }

    #[test]
    fn a_file_can_be_judged_without_running() {
        let check = Ok(Command::CheckConfig { config: "x.ini".into() });
        assert_eq!(parse(["-c", "x.ini", "--check-config"]), check);
        assert_eq!(parse(["--check-config", "-c", "x.ini"]), check);
    }

    #[test]
    fn help_and_version_need_no_file() {
        assert_eq!(parse(["-h"]), Ok(Command::Help));
        assert_eq!(parse(["--help", "-V"]), Ok(Command::Help));
        assert_eq!(parse(["-V"]), Ok(Command::Version));
        assert_eq!(parse(["--version"]), Ok(Command::Version));
        assert!(version().starts_with("dht-server "));
        for option in ["-c", "--config FILE", "--check-config", "-h", "--help", "-V", "--version"] {
            assert!(usage().contains(option), "{option}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_was_expected() {
        let grammar = "expected dht-server -c FILE [--check-config] | -h | -V";
        assert_eq!(refusal(&[]), format!("found no -c FILE, {grammar}"));
        assert_eq!(refusal(&["--check-config"]), format!("found no -c FILE, {grammar}"));
        assert_eq!(refusal(&["--port", "7"]), format!("found unknown option `port`, {grammar}"));
        assert_eq!(refusal(&["-h", "-x"]), format!("found unknown option `x`, {grammar}"));
        assert_eq!(refusal(&["-c"]), "found option `c` without a value, expected -c FILE");
        assert_eq!(refusal(&["-c", "a", "-c", "b"]), "found option `config` twice, expected it once");
        assert_eq!(refusal(&["--help=me"]), "found a value for option `help`, expected none");
        assert_eq!(refusal(&["-c", "a", "b"]), format!("found surplus argument `b`, {grammar}"));
        assert_eq!(refusal(&["config.ini"]), format!("found surplus argument `config.ini`, {grammar}"));
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        assert!(parse([OsStr::from_bytes(b"-c"), OsStr::from_bytes(b"\xff")]).is_err());
    }
}
