//! The command line: arguments → [`Command`], understood completely or refused.
//!
//! Reads standard input for a VALUE `-`, and otherwise no file and no socket.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use dht::cli::{self, ADDRESS_DEFAULT, UsageError, number};
use dht::id::{KEY_SIZE, Key};
use dht::identity::PublicKey;
use dht::limits::{SALT_SIZE_MAX, VALUE_SIZE_MAX};
use dht::record::Ttl;
use dht::record::envelope::payload_size_max;
use dht::wire::api::Confirm;
use getopts::{Matches, Options};

/// Seconds without data from the node: three times the default of its `request_timeout`.
const TIMEOUT_DEFAULT_SECS: u16 = 30;

/// TTL of a signed value. The signature covers it, so the node cannot choose it.
const SIGNED_TTL_DEFAULT_SECS: u16 = 3600;

/// TTL of a deletion: at least the remaining life of the value that it deletes.
const DELETED_TTL_DEFAULT_SECS: u16 = u16::MAX;

const HEX_DIGITS: &str = "64 hex digits";

const BRIEF: &str = "\
usage: dht-cli [options] put KEY VALUE
       dht-cli [options] get KEY
       dht-cli [options] put --hashed VALUE          KEY is the value's SHA-256; prints it
       dht-cli [options] get --hashed HEXKEY
       dht-cli [options] put --sign FILE VALUE       KEY is derived from owner and salt; prints it
       dht-cli [options] get --signed PUBKEY
       dht-cli [options] delete --sign FILE
       dht-cli keygen FILE                           creates a key pair; prints its PUBKEY
       dht-cli pubkey FILE

KEY is text of at most 32 bytes, padded with zeros. VALUE is text, or `-` for standard input.
FILE contains an Ed25519 key. HEXKEY and PUBKEY are 64 hex digits. An argument that begins with a
dash must follow `--`.

Exit status: 0 done or found; 1 not found or not confirmed; 2 wrong usage or unusable FILE;
3 no answer, or an answer that fails verification.";

/// What the command line asks for.
pub(crate) enum Command {
    /// Create a key pair and write it to a new file.
    MakeKey {
        path: PathBuf,
    },
    /// Print the public key of the key in a file.
    ShowKey {
        path: PathBuf,
    },
    Run(Request),
}

/// A request to a node.
pub(crate) struct Request {
    pub(crate) address: String,
    pub(crate) timeout: Duration,
    pub(crate) verb: Verb,
}

pub(crate) enum Verb {
    Get(Wanted),
    Put(Given),
}

/// What a GET asks for: the key, and what the value must prove.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Plain { key: Key },
    Hashed { key: Key },
    Signed { owner: PublicKey, salt: String },
}

/// What a PUT stores.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Empty for a deletion, which only the owner can request.
    pub(crate) value: Vec<u8>,
    pub(crate) proof: Proof,
    /// 0 for the node's default.
    pub(crate) replication: u8,
    pub(crate) confirm: Confirm,
}

/// The key of a value, and what the value will prove. A TTL of 0 is the node's default.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Plain { key: Key, ttl: u16 },
    Hashed { ttl: u16 },
    Signed { key_file: PathBuf, salt: String, ttl: Ttl },
}

/// A form of a command: the option that distinguishes it from other forms of the same command, the
/// words that follow the command, and the other options that it takes.
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

/// The plain form of each command comes last.
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
        "put, delete: TTL in seconds, up to 65535 (default: the node's; {SIGNED_TTL_DEFAULT_SECS} for a signed value, \
         {DELETED_TTL_DEFAULT_SECS} for a deletion)"
    );
    options.optopt("a", "address", &format!("the node's module API (default: {ADDRESS_DEFAULT})"), "HOST:PORT");
    options.optopt("", "ttl", &ttl, "S");
    options.optopt("", "replication", "put, delete: number of replicas (default: the node's)", "N");
    options.optflag("", "confirm", "put, delete: wait until that many replicas have stored the value");
    options.optflag("", "raw-key", "KEY is 64 hex digits");
    options.optflag("", "hashed", "the value is immutable");
    options.optopt("", "sign", "put, delete: sign the value; only the owner of this key can replace it", "FILE");
    options.optopt("", "signed", "get: the value that this owner signed", "PUBKEY");
    options.optopt("", "salt", "distinguishes values of one owner: text of at most 64 bytes (default: none)", "TEXT");
    options.optopt("", "timeout", &format!("seconds to wait for the node (default: {TIMEOUT_DEFAULT_SECS})"), "S");
    options
}

/// Reads the arguments, without the program's own name, and a VALUE `-` from `input`.
///
/// # Errors
///
/// [`UsageError`]: the first fault.
pub(crate) fn read_args(
    arguments: impl IntoIterator<Item = OsString>,
    input: impl Read,
) -> Result<Command, UsageError> {
    let matches = cli::parse("dht-cli", BRIEF, options(), arguments)?;
    let form = form_of(&matches)?;
    let word = |at: usize| matches.free[1 + at].as_str();
    let verb = match form.what {
        What::MakeKey => return Ok(Command::MakeKey { path: word(0).into() }),
        What::ShowKey => return Ok(Command::ShowKey { path: word(0).into() }),
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
            let size_max = payload_size_max(salt(&matches)?.as_bytes());
            let proof = signed(&matches, SIGNED_TTL_DEFAULT_SECS)?;
            Verb::Put(given(&matches, proof, value(word(0), size_max, input)?)?)
        }
        What::Delete => {
            let proof = signed(&matches, DELETED_TTL_DEFAULT_SECS)?;
            Verb::Put(given(&matches, proof, Vec::new())?)
        }
    };
    let timeout = number(&matches, "timeout", 1..=u16::MAX)?.unwrap_or(TIMEOUT_DEFAULT_SECS);
    let address = cli::address(&matches)?;
    Ok(Command::Run(Request { address, timeout: Duration::from_secs(timeout.into()), verb }))
}

/// The form of the command line, with all of its words and no option of another form.
fn form_of(matches: &Matches) -> Result<&'static Form, UsageError> {
    const COMMANDS: &str = "`put`, `get`, `delete`, `keygen` or `pubkey`";
    let Some((command, words)) = matches.free.split_first() else {
        return Err(UsageError::invalid("command", "none", COMMANDS));
    };
    let of_command = || FORMS.iter().filter(|form| form.command == command);
    let is_present = |form: &&Form| form.mark.is_none_or(|mark| matches.opt_present(mark));
    let Some(form) = of_command().find(is_present) else {
        let expected = of_command().next().map_or(COMMANDS.to_owned(), |form| format!("`{form}`"));
        return Err(UsageError::value("command", command, expected));
    };
    let foreign = |option: &&str| form.mark != Some(option) && !form.options.contains(option);
    if let Some(option) = FORM_OPTIONS.into_iter().filter(foreign).find(|option| matches.opt_present(option)) {
        return Err(UsageError::Conflict { option, with: format!("`{form}`") });
    }
    if words.len() == form.words.len() {
        return Ok(form);
    }
    let expected = if form.words.is_empty() { "none".to_owned() } else { form.words.join(" ") };
    Err(UsageError::invalid(format!("arguments of `{form}`"), words.len().to_string(), expected))
}

fn given(matches: &Matches, proof: Proof, value: Vec<u8>) -> Result<Given, UsageError> {
    let replication = number(matches, "replication", 0..=u8::MAX)?.unwrap_or(0);
    let confirm = if matches.opt_present("confirm") { Confirm::Yes } else { Confirm::No };
    Ok(Given { value, proof, replication, confirm })
}

fn signed(matches: &Matches, ttl_default: u16) -> Result<Proof, UsageError> {
    let key_file = matches.opt_str("sign").expect("the form has --sign").into();
    let ttl = number(matches, "ttl", 1..=u16::MAX)?.unwrap_or(ttl_default);
    let ttl = Ttl::from_secs(ttl).expect("neither the range nor a default includes 0");
    Ok(Proof::Signed { key_file, salt: salt(matches)?, ttl })
}

/// The value of 1 to `size_max` bytes: `text`, or `input` if `text` is `-`.
fn value(text: &str, size_max: usize, input: impl Read) -> Result<Vec<u8>, UsageError> {
    let mut bytes = Vec::new();
    if text == "-" {
        // One byte more than the bound shows that the input is too long.
        let bound = u64::try_from(size_max + 1).expect("a value has fewer than 2^16 bytes");
        input.take(bound).read_to_end(&mut bytes).map_err(UsageError::Input)?;
    } else {
        bytes.extend_from_slice(text.as_bytes());
    }
    let refuse = |found| Err(UsageError::invalid("VALUE", found, format!("1 to {size_max} bytes")));
    match bytes.len() {
        0 => refuse("0 bytes".to_owned()),
        size if size <= size_max => Ok(bytes),
        _ => refuse(format!("more than {size_max} bytes")),
    }
}

fn plain_ttl(matches: &Matches) -> Result<u16, UsageError> {
    Ok(number(matches, "ttl", 0..=u16::MAX)?.unwrap_or(0))
}

fn plain_key(matches: &Matches, text: &str) -> Result<Key, UsageError> {
    if matches.opt_present("raw-key") { raw_key(text) } else { padded_key(text) }
}

/// The key that the course's client derives from a text: its UTF-8 bytes, padded with zeros.
fn padded_key(text: &str) -> Result<Key, UsageError> {
    let mut bytes = [0; KEY_SIZE];
    bytes.get_mut(..text.len()).ok_or_else(|| too_long("KEY", text, KEY_SIZE))?.copy_from_slice(text.as_bytes());
    Ok(Key::new(bytes))
}

fn raw_key(text: &str) -> Result<Key, UsageError> {
    Key::from_hex(text).ok_or_else(|| UsageError::value("raw key", text, HEX_DIGITS))
}

fn public_key(matches: &Matches) -> Result<PublicKey, UsageError> {
    let text = matches.opt_str("signed").expect("the form has --signed");
    PublicKey::from_hex(&text).ok_or_else(|| UsageError::value("--signed", &text, HEX_DIGITS))
}

fn salt(matches: &Matches) -> Result<String, UsageError> {
    let salt = matches.opt_str("salt").unwrap_or_default();
    if salt.len() <= SALT_SIZE_MAX { Ok(salt) } else { Err(too_long("--salt", &salt, SALT_SIZE_MAX)) }
}

fn too_long(what: &str, text: &str, size_max: usize) -> UsageError {
    UsageError::invalid(what, format!("{} bytes", text.len()), format!("at most {size_max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str, input: &[u8]) -> Result<Command, UsageError> {
        read_args(line.split_whitespace().map(Into::into), input)
    }

    fn request(line: &str, input: &[u8]) -> Request {
        match command(line, input) {
            Ok(Command::Run(request)) => request,
            Ok(_) => panic!("`{line}` is not a request"),
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
        command(line, input).err().expect("a usage error").to_string()
    }

    fn padded(text: &str) -> Key {
        padded_key(text).expect("a short text")
    }

    fn ttl(secs: u16) -> Ttl {
        Ttl::from_secs(secs).expect("not zero")
    }

    #[test]
    fn a_put_has_the_fields_of_the_command_line() {
        let proof = Proof::Plain { key: padded("hello"), ttl: 60 };
        let expected = Given { value: b"world".to_vec(), proof, replication: 3, confirm: Confirm::Yes };
        assert_eq!(given("put --ttl 60 --replication 3 --confirm hello world", b""), expected);
    }

    #[test]
    fn the_node_chooses_what_a_put_leaves_open() {
        let proof = Proof::Plain { key: padded("hello"), ttl: 0 };
        let expected = Given { value: b"world".to_vec(), proof, replication: 0, confirm: Confirm::No };
        assert_eq!(given("put hello world", b""), expected);
        let get = request("get hello -a node:1 --timeout 2", b"");
        assert_eq!((get.address.as_str(), get.timeout), ("node:1", Duration::from_secs(2)));
        assert_eq!(request("get hello", b"").address, ADDRESS_DEFAULT);
    }

    #[test]
    fn a_put_of_a_signed_value_names_key_file_salt_and_ttl() {
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
    fn a_get_of_a_signed_value_names_its_owner_and_salt() {
        let hex = "0f".repeat(32);
        let owner = PublicKey::new([0x0f; 32]);
        assert_eq!(wanted(&format!("get --signed {hex}")), Wanted::Signed { owner, salt: String::new() });
        let salted = Wanted::Signed { owner, salt: "s".to_owned() };
        assert_eq!(wanted(&format!("get --salt s --signed {hex}")), salted);
        assert_eq!(complaint("get --signed 0f", b""), "--signed: found `0f`, expected 64 hex digits");
    }

    #[test]
    fn key_commands_name_a_file() {
        assert!(matches!(command("keygen a.pem", b""), Ok(Command::MakeKey { path }) if path == *"a.pem"));
        assert!(matches!(command("pubkey a.pem", b""), Ok(Command::ShowKey { path }) if path == *"a.pem"));
    }

    #[test]
    fn a_dash_reads_a_value_of_up_to_the_largest_size_from_standard_input() {
        for (line, size_max) in [
            ("put k -", 65_495),
            ("put --hashed -", 65_495),
            ("put --sign k.pem -", 65_388),
            ("put --sign k.pem --salt salt -", 65_384),
        ] {
            let longest = vec![0xff; size_max];
            assert!(given(line, &longest).value == longest, "{line}");
            let expected = format!("expected 1 to {size_max} bytes");
            let too_long = format!("VALUE: found more than {size_max} bytes, {expected}");
            assert_eq!(complaint(line, &vec![0xff; size_max + 1]), too_long);
            assert_eq!(complaint(line, b""), format!("VALUE: found 0 bytes, {expected}"), "only `delete` stores none");
        }
    }

    #[test]
    fn a_key_is_text_of_at_most_32_bytes_or_64_hex_digits() {
        let text = "k".repeat(KEY_SIZE);
        assert_eq!(wanted(&format!("get {text}")), Wanted::Plain { key: Key::new([b'k'; KEY_SIZE]) });
        assert_eq!(complaint(&format!("get {text}k"), b""), "KEY: found 33 bytes, expected at most 32");
        let hex = "0f".repeat(KEY_SIZE);
        assert_eq!(wanted(&format!("get --raw-key {hex}")), Wanted::Plain { key: Key::new([0x0f; KEY_SIZE]) });
        assert_eq!(complaint("get --raw-key 0f", b""), "raw key: found `0f`, expected 64 hex digits");
        assert_eq!(complaint("get --hashed k", b""), "raw key: found `k`, expected 64 hex digits");
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_was_expected() {
        let commands = "expected `put`, `get`, `delete`, `keygen` or `pubkey`";
        let long_salt = format!("put --sign f v --salt {}", "s".repeat(65));
        for (line, expected) in [
            ("", format!("command: found none, {commands}").as_str()),
            ("fetch k", &format!("command: found `fetch`, {commands}")),
            ("get", "arguments of `get`: found 0, expected KEY"),
            ("put k", "arguments of `put`: found 1, expected KEY VALUE"),
            ("put --sign f k v", "arguments of `put --sign`: found 2, expected VALUE"),
            ("delete --sign f k", "arguments of `delete --sign`: found 1, expected none"),
            ("delete k", "command: found `delete`, expected `delete --sign`"),
            ("get k --ttl 5", "--ttl cannot be combined with `get`"),
            ("get --sign f", "--sign cannot be combined with `get`"),
            ("put --sign f --hashed v", "--hashed cannot be combined with `put --sign`"),
            ("put k v --salt s", "--salt cannot be combined with `put`"),
            ("keygen f --confirm", "--confirm cannot be combined with `keygen`"),
            ("put k v --ttl 65536", "--ttl: found `65536`, expected a number from 0 to 65535"),
            ("put --sign f v --ttl 0", "--ttl: found `0`, expected a number from 1 to 65535"),
            (&long_salt, "--salt: found 65 bytes, expected at most 64"),
            ("get k -a localhost", "--address: found `localhost`, expected HOST:PORT, such as 127.0.0.1:7401"),
            ("get k --timeout 0", "--timeout: found `0`, expected a number from 1 to 65535"),
        ] {
            assert_eq!(complaint(line, b""), expected, "{line}");
        }
    }
}
