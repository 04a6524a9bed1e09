//! What the command lines of all programs have in common: help, version, numbers, addresses and
//! the errors.
//!
//! A program lists its options and its commands and reads the rest itself. Nothing here reads a
//! file or resolves a name.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

use getopts::{Fail, Matches, Options};

/// Address of a node's module API unless its configuration says otherwise.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:7401";

/// Exit status of a program that was called wrongly or that has a wrong configuration.
pub const EXIT_USAGE: u8 = 2;

/// Reads `arguments`, without the program's own name. Adds `-h` and `-V` to `options`; `brief`
/// precedes the options in the help.
///
/// # Errors
///
/// [`UsageError::Option`] for the first option that is wrong, and [`UsageError::Help`] for `-h` and `-V`.
pub fn parse<A: AsRef<OsStr>>(
    program: &str,
    brief: &str,
    mut options: Options,
    arguments: impl IntoIterator<Item = A>,
) -> Result<Matches, UsageError> {
    options.optflag("h", "help", "print this help and exit").optflag("V", "version", "print the version and exit");
    let matches = options.parse(arguments).map_err(UsageError::Option)?;
    if matches.opt_present("help") {
        return Err(UsageError::Help(options.usage(brief)));
    }
    if matches.opt_present("version") {
        return Err(UsageError::Help(format!("{program} {}\n", env!("CARGO_PKG_VERSION"))));
    }
    Ok(matches)
}

/// The number that `option` has, if the option is present.
///
/// # Errors
///
/// [`UsageError::Invalid`] if its value is not a number in `range`.
pub fn number<N: FromStr + PartialOrd + fmt::Display>(
    matches: &Matches,
    option: &str,
    range: RangeInclusive<N>,
) -> Result<Option<N>, UsageError> {
    let Some(text) = matches.opt_str(option) else { return Ok(None) };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            Err(UsageError::value(format!("--{option}"), &text, expected))
        }
    }
}

/// The address that `--address` has, or the default.
///
/// # Errors
///
/// [`UsageError::Invalid`] if it is not `HOST:PORT`. Whether the host exists is not examined.
pub fn address(matches: &Matches) -> Result<String, UsageError> {
    host_and_port(&address_text(matches))
}

/// The addresses that `--address` has, separated by commas, or the default.
///
/// # Errors
///
/// As [`address`].
pub fn addresses(matches: &Matches) -> Result<Vec<String>, UsageError> {
    address_text(matches).split(',').map(host_and_port).collect()
}

fn address_text(matches: &Matches) -> String {
    matches.opt_str("address").unwrap_or_else(|| ADDRESS_DEFAULT.to_owned())
}

fn host_and_port(text: &str) -> Result<String, UsageError> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(UsageError::value("--address", text, format!("HOST:PORT, such as {ADDRESS_DEFAULT}"))),
    }
}

/// Why a command line is not carried out.
#[derive(Debug)]
pub enum UsageError {
    /// Nothing is wrong: the user asks for this text, the help or the version.
    Help(String),
    /// An option that the program does not have, that lacks its value, that takes none, or that is
    /// given twice.
    Option(Fail),
    /// A part of the command line is missing or has the wrong form.
    Invalid {
        /// The part, as the help names it.
        what: String,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// An option that another option, or the command, excludes.
    Conflict {
        /// The option, without its dashes.
        option: &'static str,
        /// What excludes it.
        with: String,
    },
    /// Standard input, which holds a part of the request, cannot be read.
    Input(io::Error),
}

impl UsageError {
    /// An [`UsageError::Invalid`] that describes `found` in words.
    pub fn invalid(what: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), found: found.into(), expected: expected.into() }
    }

    /// An [`UsageError::Invalid`] that quotes `found` from the command line.
    pub fn value(what: impl Into<String>, found: &str, expected: impl Into<String>) -> Self {
        Self::invalid(what, format!("`{found}`"), expected)
    }

    /// Prints the error on standard error, or the help on standard output; returns the exit status.
    pub fn report(&self, program: &str) -> ExitCode {
        if let Self::Help(text) = self {
            let printed = io::stdout().write_all(text.as_bytes());
            return printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
        eprintln!("{program}: {self}\nTry `{program} -h`.");
        ExitCode::from(EXIT_USAGE)
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help(text) => f.write_str(text),
            Self::Option(Fail::UnrecognizedOption(name)) => {
                write!(f, "found unknown option `{name}`, expected one that -h lists")
            }
            Self::Option(Fail::ArgumentMissing(name)) => {
                write!(f, "found option `{name}` without a value, expected one")
            }
            Self::Option(Fail::OptionDuplicated(name)) => write!(f, "found option `{name}` twice, expected it once"),
            Self::Option(Fail::UnexpectedArgument(name)) => {
                write!(f, "found a value for option `{name}`, expected none")
            }
            Self::Option(other @ Fail::OptionMissing(_)) => other.fmt(f),
            Self::Invalid { what, found, expected } => write!(f, "{what}: found {found}, expected {expected}"),
            Self::Conflict { option, with } => write!(f, "--{option} cannot be combined with {with}"),
            Self::Input(cause) => write!(f, "standard input: {cause}"),
        }
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Matches, UsageError> {
        let mut options = Options::new();
        options.optopt("a", "address", "", "HOST:PORT").optopt("n", "count", "", "N");
        parse("program", "usage: program [options]", options, line.split_whitespace())
    }

    fn matches(line: &str) -> Matches {
        parsed(line).expect(line)
    }

    fn text(line: &str) -> String {
        match parsed(line) {
            Err(UsageError::Help(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn help_precedes_version_and_both_end_with_a_newline() {
        for line in ["-h", "--help", "-V -h"] {
            let help = text(line);
            assert!(help.starts_with("usage: program [options]\n") && help.ends_with('\n'), "{help}");
            assert!(["-h, --help", "-V, --version", "-n, --count N"].iter().all(|option| help.contains(option)));
        }
        assert_eq!(text("--version"), concat!("program ", env!("CARGO_PKG_VERSION"), "\n"));
    }

    #[test]
    fn a_number_is_within_its_range_and_its_type() {
        assert_eq!(number(&matches("-n 7"), "count", 1..=7_u8).expect("a number"), Some(7));
        assert_eq!(number(&matches("-n 0.5"), "count", 0.0..=1.0).expect("a number"), Some(0.5));
        assert_eq!(number::<u8>(&matches(""), "count", 1..=7).expect("no number"), None);
        for wrong in ["0", "8", "256", "x", "-1", "7.0"] {
            let error = number(&matches(&format!("--count={wrong}")), "count", 1..=7_u8).expect_err(wrong);
            assert_eq!(error.to_string(), format!("--count: found `{wrong}`, expected a number from 1 to 7"));
        }
        assert!(number(&matches("-n NaN"), "count", 0.0..=1.0).is_err());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(address(&matches("")).expect("the default"), ADDRESS_DEFAULT);
        assert_eq!(addresses(&matches("-a a:1,[::1]:2")).expect("two"), ["a:1", "[::1]:2"]);
        for wrong in ["localhost", ":1", "a:", "a:65536"] {
            let expected = format!("--address: found `{wrong}`, expected HOST:PORT, such as 127.0.0.1:7401");
            assert_eq!(address(&matches(&format!("-a {wrong}"))).expect_err(wrong).to_string(), expected);
            assert!(addresses(&matches(&format!("-a a:1,{wrong}"))).is_err());
        }
    }

    #[test]
    fn an_option_is_known_and_given_once_with_its_value() {
        for (line, complaint) in [
            ("--frobnicate", "found unknown option `frobnicate`, expected one that -h lists"),
            ("-n", "found option `n` without a value, expected one"),
            ("-n 1 -n 2", "found option `count` twice, expected it once"),
            ("--help=me", "found a value for option `help`, expected none"),
        ] {
            assert_eq!(parsed(line).expect_err(line).to_string(), complaint);
        }
    }
}
