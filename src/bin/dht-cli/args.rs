//! The command line: arguments → [`Order`], understood completely or refused.
//!
//! No file is read here and no node asked; of the world only standard input, for a VALUE `-`.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use dht::id::{KEY_SIZE, Key};
use dht::identity::PublicKey;
use dht::limits::{SALT_SIZE_MAX, VALUE_SIZE_MAX};
use dht::record::Ttl;
use dht::record::envelope::payload_size_max;
use dht::wire::api::Confirm;
use getopts::{Matches, Options};

/// Where a node serves modules unless its configuration says otherwise.
const ADDRESS_DEFAULT: &str = "127.0.0.1:7401";

/// Seconds without a sign of the node: three times what it takes at most to answer, by default.
const TIMEOUT_DEFAULT_SECS: u16 = 30;

/// Life of a signed value: its TTL is signed, so it cannot be left to the node.
const SIGNED_TTL_DEFAULT_SECS: u16 = 3600;

/// Life of a deletion: as long as anything that it deletes may live.
const DELETED_TTL_DEFAULT_SECS: u16 = u16::MAX;

const BRIEF: &str = "\
usage: dht-cli [options] put KEY VALUE
       dht-cli [options] get KEY
       dht-cli [options] put --hashed VALUE          KEY is the value's SHA-256, and printed
       dht-cli [options] get --hashed HEXKEY
       dht-cli [options] put --sign FILE VALUE       KEY follows from owner and salt, and is printed
       dht-cli [options] get --signed PUBKEY
       dht-cli [options] delete --sign FILE
       dht-cli keygen FILE                           a new key pair; prints its PUBKEY
       dht-cli pubkey FILE

KEY is text of at most 32 bytes, filled up with zeros. VALUE is text, or `-` for standard input.
FILE holds an Ed25519 key. HEXKEY and PUBKEY are 64 hex digits. What begins with a dash goes
behind `--`.

Exit status: 0 done or found; 1 not found or not confirmed; 2 wrong usage, or a FILE of no use;
3 no answer, or one that does not prove what was asked for.";

/// What the command line asks for.
pub(crate) enum Order {
    /// Print [`usage`].
    Help,
    /// Print the version.
    Version,
    /// Draw a key pair, and write it to a new file.
    MakeKey {
        path: PathBuf,
    },
    /// Print the public half of the key in a file.
    ShowKey {
        path: PathBuf,
    },
    Run(Request),
}

/// What a node is wanted for.
pub(crate) struct Request {
    pub(crate) address: String,
    pub(crate) timeout: Duration,
    pub(crate) verb: Verb,
}

pub(crate) enum Verb {
    Get(Wanted),
    Put(Given),
}

/// What a GET is after: where it is, and what it has to prove.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Plain { key: Key },
    Hashed { key: Key },
    Signed { owner: PublicKey, salt: String },
}

/// What a PUT brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Empty if it deletes what is there, which only an owner can.
    pub(crate) value: Vec<u8>,
    pub(crate) proof: Proof,
    /// 0 for the node's default.
    pub(crate) replication: u8,
    pub(crate) confirm: Confirm,
}

/// Where a value goes, and what it will prove. A TTL of 0 is the node's default.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Plain { key: Key, ttl: u16 },
    Hashed { ttl: u16 },
    Signed { key_file: PathBuf, salt: String, ttl: Ttl },
}

/// A form of a command: the option that tells it from the others of its name, the words behind it,
/// and the options that it takes besides.
#[derive(Debug)]
pub(crate) struct Form {
    what: What,
    command: &'static str,
    mark: Option<&'static str>,
    words: &'static [&'static str],
    options: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
enum What {
    Get,
    GetHashed,
    GetSigned,
    Put,
    PutHashed,
    PutSigned,
    Delete,
    MakeKey,
    ShowKey,
}

/// Of each command the plain form comes last.
#[rustfmt::skip]
const FORMS: [Form; 9] = [
    form(What::GetSigned, "get", Some("signed"), &[], &["salt"]),
    form(What::GetHashed, "get", Some("hashed"), &["HEXKEY"], &[]),
    form(What::Get, "get", None, &["KEY"], &["raw-key"]),
    form(What::PutSigned, "put", Some("sign"), &["VALUE"], &["salt", "ttl", "replication", "confirm"]),
    form(What::PutHashed, "put", Some("hashed"), &["VALUE"], &["ttl", "replication", "confirm"]),
    form(What::Put, "put", None, &["KEY", "VALUE"], &["raw-key", "ttl", "replication", "confirm"]),
    form(What::Delete, "delete", Some("sign"), &[], &["salt", "ttl", "replication", "confirm"]),
    form(What::MakeKey, "keygen", None, &["FILE"], &[]),
    form(What::ShowKey, "pubkey", None, &["FILE"], &[]),
];

/// All options that not every form takes.
const FORM_OPTIONS: [&str; 8] = ["ttl", "replication", "confirm", "raw-key", "hashed", "sign", "signed", "salt"];

const fn form(
    what: What,
    command: &'static str,
    mark: Option<&'static str>,
    words: &'static [&'static str],
    options: &'static [&'static str],
) -> Form {
    Form { what, command, mark, words, options }
}

/// As the command line calls it: `put --sign`.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mark {
            Some(mark) => write!(f, "{} --{mark}", self.command),
            None => f.write_str(self.command),
        }
    }
}

fn options() -> Options {
    let mut options = Options::new();
    let ttl = format!(
        "put, delete: seconds the value lives, up to 65535 (the node's default; {SIGNED_TTL_DEFAULT_SECS} if it is \
         signed, {DELETED_TTL_DEFAULT_SECS} if it is deleted)"
    );
    options.optopt("a", "address", &format!("the node's module API ({ADDRESS_DEFAULT})"), "HOST:PORT");
    options.optopt("", "ttl", &ttl, "S");
    options.optopt("", "replication", "put, delete: nodes that shall hold it (the node's default)", "N");
    options.optflag("", "confirm", "put, delete: wait until that many nodes hold it");
    options.optflag("", "raw-key", "KEY is 64 hex digits");
    options.optflag("", "hashed", "a value that nobody can replace");
    options.optopt("", "sign", "put, delete: a value that only the owner of this key can replace", "FILE");
    options.optopt("", "signed", "get: the value of this owner", "PUBKEY");
    options.optopt("", "salt", "tells values of one owner apart: text of at most 64 bytes (none)", "TEXT");
    options.optopt("", "timeout", &format!("seconds to wait for the node ({TIMEOUT_DEFAULT_SECS})"), "S");
    options.optflag("h", "help", "print this and exit");
    options.optflag("V", "version", "print the version and exit");
    options
}

/// What `--help` prints.
pub(crate) fn usage() -> String {
    options().usage(BRIEF)
}

/// Reads the arguments, without the program's own name, and perhaps a value from `input`.
///
/// # Errors
///
/// [`UsageError`]: the first thing that is wrong.
pub(crate) fn read_order(arguments: impl IntoIterator<Item = OsString>, input: impl Read) -> Result<Order, UsageError> {
    let matches = options().parse(arguments).map_err(UsageError::Option)?;
    if matches.opt_present("help") {
        return Ok(Order::Help);
    }
    if matches.opt_present("version") {
        return Ok(Order::Version);
    }
    let form = form_of(&matches)?;
    let word = |at: usize| matches.free[1 + at].as_str();
    let verb = match form.what {
        What::MakeKey => return Ok(Order::MakeKey { path: word(0).into() }),
        What::ShowKey => return Ok(Order::ShowKey { path: word(0).into() }),
        What::Get => Verb::Get(Wanted::Plain { key: plain_key(&matches, word(0))? }),
        What::GetHashed => Verb::Get(Wanted::Hashed { key: raw_key(word(0))? }),
        What::GetSigned => Verb::Get(Wanted::Signed { owner: public_key(&matches)?, salt: salt(&matches)? }),
        What::Put => {
            let proof = Proof::Plain { key: plain_key(&matches, word(0))?, ttl: plain_ttl(&matches)? };
            Verb::Put(given(&matches, proof, value(word(1), VALUE_SIZE_MAX, input)?)?)
        }
        What::PutHashed => {
            let proof = Proof::Hashed { ttl: plain_ttl(&matches)? };
            Verb::Put(given(&matches, proof, value(word(0), VALUE_SIZE_MAX, input)?)?)
        }
        What::PutSigned => {
            let most = payload_size_max(salt(&matches)?.as_bytes());
            let proof = signed(&matches, SIGNED_TTL_DEFAULT_SECS)?;
            Verb::Put(given(&matches, proof, value(word(0), most, input)?)?)
        }
        What::Delete => {
            let proof = signed(&matches, DELETED_TTL_DEFAULT_SECS)?;
            Verb::Put(given(&matches, proof, Vec::new())?)
        }
    };
    let timeout = number(&matches, "timeout", 1, u16::MAX)?.unwrap_or(TIMEOUT_DEFAULT_SECS);
    let address = address(matches.opt_str("address").unwrap_or_else(|| ADDRESS_DEFAULT.to_owned()))?;
    Ok(Order::Run(Request { address, timeout: Duration::from_secs(timeout.into()), verb }))
}

/// The form that is meant, with all of its words there, and no option of another.
fn form_of(matches: &Matches) -> Result<&'static Form, UsageError> {
    let Some((command, words)) = matches.free.split_first() else {
        return Err(UsageError::NoCommand);
    };
    let of_command = || FORMS.iter().filter(|form| form.command == command);
    let is_meant = |form: &&Form| form.mark.is_none_or(|mark| matches.opt_present(mark));
    let Some(form) = of_command().find(is_meant) else {
        return Err(match of_command().find_map(|form| form.mark) {
            Some(option) => UsageError::OptionMissing { command: command.clone(), option },
            None => UsageError::Command { found: command.clone() },
        });
    };
    let foreign = |option: &&str| form.mark != Some(option) && !form.options.contains(option);
    if let Some(option) = FORM_OPTIONS.into_iter().filter(foreign).find(|option| matches.opt_present(option)) {
        return Err(UsageError::Foreign { option, form });
    }
    if words.len() == form.words.len() { Ok(form) } else { Err(UsageError::Words { form, found: words.len() }) }
}

fn given(matches: &Matches, proof: Proof, value: Vec<u8>) -> Result<Given, UsageError> {
    let replication = number(matches, "replication", 0, u8::MAX.into())?.unwrap_or(0);
    let replication = u8::try_from(replication).expect("the number was read as one up to 255");
    let confirm = if matches.opt_present("confirm") { Confirm::Yes } else { Confirm::No };
    Ok(Given { value, proof, replication, confirm })
}

fn signed(matches: &Matches, ttl_default: u16) -> Result<Proof, UsageError> {
    let key_file = matches.opt_str("sign").expect("it marks the form").into();
    let ttl = number(matches, "ttl", 1, u16::MAX)?.unwrap_or(ttl_default);
    let ttl = Ttl::from_secs(ttl).expect("the number was read as one from 1, and no default is 0");
    Ok(Proof::Signed { key_file, salt: salt(matches)?, ttl })
}

/// The value that `text` is, or names, of 1 to `most` bytes.
fn value(text: &str, most: usize, input: impl Read) -> Result<Vec<u8>, UsageError> {
    let mut bytes = Vec::new();
    if text == "-" {
        // One byte beyond the bound tells a value that is too long from the longest.
        let bound = u64::try_from(most + 1).expect("a value has 16 bits of bytes");
        input.take(bound).read_to_end(&mut bytes).map_err(UsageError::Input)?;
    } else {
        bytes.extend_from_slice(text.as_bytes());
    }
    match bytes.len() {
        0 => Err(UsageError::ValueEmpty { most }),
        size if size <= most => Ok(bytes),
        _ => Err(UsageError::ValueTooLong { most }),
    }
}

fn number(matches: &Matches, option: &'static str, least: u16, most: u16) -> Result<Option<u16>, UsageError> {
    let Some(text) = matches.opt_str(option) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(UsageError::Number { option, found: text, least, most }),
    }
}

fn plain_ttl(matches: &Matches) -> Result<u16, UsageError> {
    Ok(number(matches, "ttl", 0, u16::MAX)?.unwrap_or(0))
}

/// Checks that `text` is made of a host and a port; whether the host exists is for later.
fn address(text: String) -> Result<String, UsageError> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text),
        _ => Err(UsageError::Address { found: text }),
    }
}

fn plain_key(matches: &Matches, text: &str) -> Result<Key, UsageError> {
    if matches.opt_present("raw-key") { raw_key(text) } else { padded_key(text) }
}

/// The key as the course's client makes it: the text's UTF-8 bytes, filled up with zeros.
fn padded_key(text: &str) -> Result<Key, UsageError> {
    let mut bytes = [0; KEY_SIZE];
    let head = bytes.get_mut(..text.len()).ok_or(UsageError::KeyTooLong { bytes: text.len() })?;
    head.copy_from_slice(text.as_bytes());
    Ok(Key::new(bytes))
}

fn raw_key(text: &str) -> Result<Key, UsageError> {
    Key::from_hex(text).ok_or_else(|| UsageError::Digits { what: "the raw key", found: text.to_owned() })
}

fn public_key(matches: &Matches) -> Result<PublicKey, UsageError> {
    let text = matches.opt_str("signed").expect("it marks the form");
    PublicKey::from_hex(&text).ok_or(UsageError::Digits { what: "the public key", found: text })
}

fn salt(matches: &Matches) -> Result<String, UsageError> {
    let salt = matches.opt_str("salt").unwrap_or_default();
    if salt.len() <= SALT_SIZE_MAX { Ok(salt) } else { Err(UsageError::SaltTooLong { bytes: salt.len() }) }
}

/// What is wrong with the command line, with what was found.
#[derive(Debug)]
pub(crate) enum UsageError {
    Option(getopts::Fail),
    NoCommand,
    Command { found: String },
    OptionMissing { command: String, option: &'static str },
    Foreign { option: &'static str, form: &'static Form },
    Words { form: &'static Form, found: usize },
    Number { option: &'static str, found: String, least: u16, most: u16 },
    Address { found: String },
    KeyTooLong { bytes: usize },
    SaltTooLong { bytes: usize },
    Digits { what: &'static str, found: String },
    ValueEmpty { most: usize },
    ValueTooLong { most: usize },
    Input(io::Error),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COMMANDS: &str = "expected `put`, `get`, `delete`, `keygen` or `pubkey`";
        match self {
            UsageError::Option(fail) => fail.fmt(f),
            UsageError::NoCommand => write!(f, "no command, {COMMANDS}"),
            UsageError::Command { found } => write!(f, "found `{found}`, {COMMANDS}"),
            UsageError::OptionMissing { command, option } => write!(f, "found `{command}` without --{option}"),
            UsageError::Foreign { option, form } => write!(f, "found --{option}, which `{form}` does not take"),
            UsageError::Words { form, found } => {
                let expected = if form.words.is_empty() { "none".to_owned() } else { form.words.join(" ") };
                write!(f, "arguments of `{form}`: found {found}, expected {expected}")
            }
            UsageError::Number { option, found, least, most } => {
                write!(f, "found `{found}` for --{option}, expected a number from {least} to {most}")
            }
            UsageError::Address { found } => {
                write!(f, "found `{found}` for --address, expected HOST:PORT, such as {ADDRESS_DEFAULT}")
            }
            UsageError::KeyTooLong { bytes } => write!(f, "the key has {bytes} bytes, expected at most {KEY_SIZE}"),
            UsageError::SaltTooLong { bytes } => {
                write!(f, "the salt has {bytes} bytes, expected at most {SALT_SIZE_MAX}")
            }
            UsageError::Digits { what, found } => write!(f, "found `{found}` for {what}, expected 64 hex digits"),
            UsageError::ValueEmpty { most } => write!(f, "the value is empty, expected 1 to {most} bytes"),
            UsageError::ValueTooLong { most } => write!(f, "the value is too long, expected 1 to {most} bytes"),
            UsageError::Input(cause) => write!(f, "standard input: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(line: &str, input: &[u8]) -> Result<Order, UsageError> {
        read_order(line.split_whitespace().map(Into::into), input)
    }

    fn request(line: &str, input: &[u8]) -> Request {
        match order(line, input) {
            Ok(Order::Run(request)) => request,
            Ok(_) => panic!("`{line}` asks for no request"),
            Err(error) => panic!("`{line}`: {error}"),
        }
    }

    fn wanted(line: &str) -> Wanted {
        match request(line, b"").verb {
            Verb::Get(wanted) => wanted,
            Verb::Put(_) => panic!("`{line}` is a GET"),
        }
    }

    fn given(line: &str, input: &[u8]) -> Given {
        match request(line, input).verb {
            Verb::Put(given) => given,
            Verb::Get(_) => panic!("`{line}` is a PUT"),
        }
    }

    fn complaint(line: &str, input: &[u8]) -> String {
        order(line, input).err().expect("a usage error").to_string()
    }

    fn padded(text: &str) -> Key {
        padded_key(text).expect("a short text")
    }

    fn ttl(secs: u16) -> Ttl {
        Ttl::from_secs(secs).expect("not zero")
    }

    #[test]
    fn a_put_carries_what_the_command_line_says() {
        let proof = Proof::Plain { key: padded("hello"), ttl: 60 };
        let expected = Given { value: b"world".to_vec(), proof, replication: 3, confirm: Confirm::Yes };
        assert_eq!(given("put --ttl 60 --replication 3 --confirm hello world", b""), expected);
    }

    #[test]
    fn what_is_not_said_is_left_to_the_node() {
        let proof = Proof::Plain { key: padded("hello"), ttl: 0 };
        let expected = Given { value: b"world".to_vec(), proof, replication: 0, confirm: Confirm::No };
        assert_eq!(given("put hello world", b""), expected);
        let get = request("get hello -a node:1 --timeout 2", b"");
        assert_eq!((get.address.as_str(), get.timeout), ("node:1", Duration::from_secs(2)));
        assert_eq!(request("get hello", b"").address, ADDRESS_DEFAULT);
    }

    #[test]
    fn a_value_is_signed_with_a_file_a_salt_and_a_life_of_its_own() {
        let signed =
            |salt: &str, secs| Proof::Signed { key_file: "k.pem".into(), salt: salt.to_owned(), ttl: ttl(secs) };
        let put = given("put --sign k.pem world", b"");
        assert_eq!((put.value, put.proof), (b"world".to_vec(), signed("", 3600)));
        let put = given("put --sign k.pem --salt s --ttl 7 --replication 5 --confirm -", b"world");
        assert_eq!((&put.value[..], put.proof), (&b"world"[..], signed("s", 7)));
        assert_eq!((put.replication, put.confirm), (5, Confirm::Yes));
        let delete = given("delete --sign k.pem --salt s", b"");
        assert_eq!((delete.value, delete.proof), (Vec::new(), signed("s", 65_535)), "it outlives what it deletes");
    }

    #[test]
    fn a_hashed_value_needs_no_key() {
        let put = given("put --hashed world --ttl 9", b"");
        assert_eq!((put.value, put.proof), (b"world".to_vec(), Proof::Hashed { ttl: 9 }));
        let hex = "0f".repeat(KEY_SIZE);
        assert_eq!(wanted(&format!("get --hashed {hex}")), Wanted::Hashed { key: Key::new([0x0f; KEY_SIZE]) });
    }

    #[test]
    fn a_signed_value_is_wanted_of_its_owner() {
        let hex = "0f".repeat(32);
        let owner = PublicKey::new([0x0f; 32]);
        assert_eq!(wanted(&format!("get --signed {hex}")), Wanted::Signed { owner, salt: String::new() });
        let salted = Wanted::Signed { owner, salt: "s".to_owned() };
        assert_eq!(wanted(&format!("get --salt s --signed {hex}")), salted);
        assert_eq!(complaint("get --signed 0f", b""), "found `0f` for the public key, expected 64 hex digits");
    }

    #[test]
    fn a_key_file_is_named() {
        assert!(matches!(order("keygen a.pem", b""), Ok(Order::MakeKey { path }) if path == *"a.pem"));
        assert!(matches!(order("pubkey a.pem", b""), Ok(Order::ShowKey { path }) if path == *"a.pem"));
    }

    #[test]
    fn a_dash_reads_the_value_from_standard_input_up_to_the_longest() {
        for (line, most) in [
            ("put k -", 65_495),
            ("put --hashed -", 65_495),
            ("put --sign k.pem -", 65_388),
            ("put --sign k.pem --salt salt -", 65_384),
        ] {
            let longest = vec![0xff; most];
            assert!(given(line, &longest).value == longest, "{line}");
            let expected = format!("expected 1 to {most} bytes");
            assert_eq!(complaint(line, &vec![0xff; most + 1]), format!("the value is too long, {expected}"));
            assert_eq!(complaint(line, b""), format!("the value is empty, {expected}"), "only `delete` says nothing");
        }
    }

    #[test]
    fn a_key_is_text_of_at_most_32_bytes_or_64_hex_digits() {
        let text = "k".repeat(KEY_SIZE);
        assert_eq!(wanted(&format!("get {text}")), Wanted::Plain { key: Key::new([b'k'; KEY_SIZE]) });
        assert_eq!(complaint(&format!("get {text}k"), b""), "the key has 33 bytes, expected at most 32");
        let hex = "0f".repeat(KEY_SIZE);
        assert_eq!(wanted(&format!("get --raw-key {hex}")), Wanted::Plain { key: Key::new([0x0f; KEY_SIZE]) });
        assert_eq!(complaint("get --raw-key 0f", b""), "found `0f` for the raw key, expected 64 hex digits");
        assert_eq!(complaint("get --hashed k", b""), "found `k` for the raw key, expected 64 hex digits");
    }

    #[test]
    fn a_wrong_command_line_is_told_what_was_expected() {
        let commands = "expected `put`, `get`, `delete`, `keygen` or `pubkey`";
        assert_eq!(complaint("", b""), format!("no command, {commands}"));
        assert_eq!(complaint("fetch k", b""), format!("found `fetch`, {commands}"));
        assert_eq!(complaint("get", b""), "arguments of `get`: found 0, expected KEY");
        assert_eq!(complaint("put k", b""), "arguments of `put`: found 1, expected KEY VALUE");
        assert_eq!(complaint("put --sign f k v", b""), "arguments of `put --sign`: found 2, expected VALUE");
        assert_eq!(complaint("delete --sign f k", b""), "arguments of `delete --sign`: found 1, expected none");
        assert_eq!(complaint("delete k", b""), "found `delete` without --sign");
        assert_eq!(complaint("get k --ttl 5", b""), "found --ttl, which `get` does not take");
        assert_eq!(complaint("get --sign f", b""), "found --sign, which `get` does not take");
        assert_eq!(complaint("put --sign f --hashed v", b""), "found --hashed, which `put --sign` does not take");
        assert_eq!(complaint("put k v --salt s", b""), "found --salt, which `put` does not take");
        assert_eq!(complaint("keygen f --confirm", b""), "found --confirm, which `keygen` does not take");
        assert_eq!(complaint("put k v --ttl 65536", b""), "found `65536` for --ttl, expected a number from 0 to 65535");
        assert_eq!(complaint("put --sign f v --ttl 0", b""), "found `0` for --ttl, expected a number from 1 to 65535");
        let salt = "s".repeat(65);
        let complained = complaint(&format!("put --sign f v --salt {salt}"), b"");
        assert_eq!(complained, "the salt has 65 bytes, expected at most 64");
        assert_eq!(
            complaint("get k -a localhost", b""),
            "found `localhost` for --address, expected HOST:PORT, such as 127.0.0.1:7401"
        );
        assert_eq!(complaint("get k --timeout 0", b""), "found `0` for --timeout, expected a number from 1 to 65535");
    }
}
