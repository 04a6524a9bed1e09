//! The configuration: INI text → [`Settings`], or every mistake of the file at once.
//!
//! A file is either understood completely or refused, with a [`ConfigError`] for each mistake: its
//! line, what was found and what was expected. An unknown key in `[dht]` is a warning, because the file
//! may be older or newer than the program; `--check-config` treats warnings as mistakes.
//!
//! Other VoidPhone modules share the file. Their sections are not validated.
//!
//! `node::params` states the defaults of a node, [`Settings`] those of the hosts, and the shipped
//! `config.ini` documents both; tests compare the three. Nothing here resolves a name, opens a socket
//! or creates a directory.

mod error;
mod ini;
mod keys;
mod load;
mod settings;
mod value;

pub use error::{ConfigError, Mistake};
pub use ini::{Section, Syntax};
pub use settings::Settings;
pub use value::{Expected, Misread};
