//! The configuration: INI text → [`Settings`], or every mistake of the file at once.
//!
//! Promises that a file is either understood completely or refused, with a [`ConfigError`] for
//! each mistake: where it stands, what was found, what would have been right. A key of `[dht]`
//! that nobody knows is a warning, because a file may be older or newer than the program;
//! whoever checks a file on purpose (`--check-config`) counts warnings as mistakes.
//!
//! Other modules share the file: what stands in their sections is never judged.
//!
//! The defaults of a node are stated in `node::params`, the hosts' in [`Settings`], and the
//! shipped `config.ini` is the manual of both; tests hold the three together. Nothing here
//! resolves a name, opens a socket or makes a directory.

mod error;
mod ini;
mod keys;
mod load;
mod settings;
mod value;

pub use error::{ConfigError, Mistake, Severity};
pub use ini::{Section, Syntax};
pub use settings::Settings;
pub use value::{Expected, Misread};
