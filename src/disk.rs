//! What survives a restart: for now, the node's key.
//!
//! A data directory belongs to one process at a time, held by a lock that the system lets go of
//! when the process ends, however it ends. A key is on disk whole or not at all: it is written
//! beside its place and moved there. This reads no clock, draws no randomness and never runs
//! while the event loop does.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use sha2::{Digest, Sha256};

use crate::identity::{Identity, PublicKey, Puzzle};

/// The file that the holder of a data directory keeps locked; its text is the holder's pid.
const LOCK_FILE: &str = "lock";

/// The node's key: PKCS#8, PEM.
const KEY_FILE: &str = "node_key.pem";

/// Largest file that can be a key: an Ed25519 key has some 120 bytes, the largest RSA keys 13 000.
const KEY_FILE_SIZE_MAX: u64 = 64 << 10;

/// A node's directory, held as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// What became of the global `hostkey` of a configuration.
#[derive(Debug)]
pub enum HostKey {
    /// It is an Ed25519 key, and so the node's.
    Ed25519(Identity),
    /// It holds another key, such as the course's RSA key: left alone.
    NotEd25519,
    /// There is no such file: left alone.
    Missing,
}

impl DataDir {
    /// Makes the directory at `path`, unless it is there, and takes hold of it for the process `pid`.
    ///
    /// # Errors
    ///
    /// [`DiskError::Held`] if another process holds it, [`DiskError::Io`] if the system refuses.
    pub fn open(path: &Path, pid: u32) -> Result<Self, DiskError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let lock_path = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let mut lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&lock_path).ok().and_then(|text| text.trim().parse().ok());
                return Err(DiskError::Held { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{pid}")).map_err(at(&lock_path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The node's key, which is made of `entropy` if this is its first start: keys are drawn
    /// until one solves `puzzle`, 2^bits of them on average.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if the key that is there is none, or does not solve `puzzle`, or if the
    /// system refuses.
    pub fn identity(&self, puzzle: Puzzle, entropy: [u8; 32]) -> Result<Identity, DiskError> {
        let path = self.path.join(KEY_FILE);
        match read_key(&path) {
            Ok(Some(key)) => judged(&path, &key, puzzle),
            Ok(None) => Err(DiskError::NotEd25519 { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = draw_key(puzzle, entropy);
                self.write_key(&key)?;
                judged(&path, &key, puzzle)
            }
            Err(source) => Err(DiskError::Io { path, source }),
        }
    }

    /// Writes the key so that after a crash at any point it is there whole or not at all.
    fn write_key(&self, key: &SigningKey) -> Result<(), DiskError> {
        let path = self.path.join(KEY_FILE);
        let beside = self.path.join("node_key.pem.new");
        // Version 1 of PKCS#8, without the public key: the form that all tools read.
        let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
        let text = pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes of a secret can be written as PKCS#8");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?; // a file left by a crash keeps its mode
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(at(&path))
    }
}

/// The identity in the global `hostkey` at `path`, if it holds an Ed25519 key.
///
/// # Errors
///
/// [`DiskError::Puzzle`] if its id does not solve `puzzle`, [`DiskError::Io`] if the file is
/// there and cannot be read.
pub fn host_key(path: &Path, puzzle: Puzzle) -> Result<HostKey, DiskError> {
    match read_key(path) {
        Ok(Some(key)) => judged(path, &key, puzzle).map(HostKey::Ed25519),
        Ok(None) => Ok(HostKey::NotEd25519),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HostKey::Missing),
        Err(source) => Err(DiskError::Io { path: path.to_owned(), source }),
    }
}

/// Why a data directory or a key cannot be used.
#[derive(Debug)]
pub enum DiskError {
    /// The directory belongs to another process.
    Held {
        /// The directory.
        path: PathBuf,
        /// The other process, if it has said who it is.
        holder: Option<u32>,
    },
    /// The file is no Ed25519 key.
    NotEd25519 {
        /// The file.
        path: PathBuf,
    },
    /// The id of the key does not solve the puzzle of the network.
    Puzzle {
        /// The key's file.
        path: PathBuf,
        /// Zero bits that its id has to show.
        found: u8,
        /// Zero bits that the network asks for.
        expected: u8,
    },
    /// The system refused.
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { path, holder: Some(pid) } => {
                write!(f, "{} belongs to the running process {pid}", path.display())
            }
            Self::Held { path, holder: None } => write!(f, "{} belongs to another running process", path.display()),
            Self::NotEd25519 { path } => {
                write!(f, "{} is no Ed25519 key, expected PKCS#8 in PEM", path.display())
            }
            Self::Puzzle { path, found, expected } => write!(
                f,
                "the id of {} shows {found} zero bits, expected pow_bits = {expected}; move the file away for a new key",
                path.display()
            ),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Held { .. } | Self::NotEd25519 { .. } | Self::Puzzle { .. } => None,
        }
    }
}

/// The Ed25519 key in the file at `path`; `None` if it holds anything else.
fn read_key(path: &Path) -> io::Result<Option<SigningKey>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(SigningKey::from_pkcs8_pem(&text).ok())
}

/// The first key of those that follow from `entropy` whose id solves `puzzle`.
fn draw_key(puzzle: Puzzle, entropy: [u8; 32]) -> SigningKey {
    let mut draws = (0_u64..).map(|draw| {
        let secret = Sha256::new().chain_update(entropy).chain_update(draw.to_be_bytes()).finalize();
        SigningKey::from_bytes(&secret.into())
    });
    draws.find(|key| puzzle.is_solved_by(&public(key).id())).expect("there are more draws than any puzzle needs")
}

fn judged(path: &Path, key: &SigningKey, puzzle: Puzzle) -> Result<Identity, DiskError> {
    let public = public(key);
    if !puzzle.is_solved_by(&public.id()) {
        let found = Puzzle::solved_bits(&public.id());
        return Err(DiskError::Puzzle { path: path.to_owned(), found, expected: puzzle.bits() });
    }
    let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
    let der = pair.to_pkcs8_der().expect("32 bytes of a secret can be written as PKCS#8");
    Ok(Identity::new(der.as_bytes().to_vec(), public))
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::new(key.verifying_key().to_bytes())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EASY: Puzzle = Puzzle::new(4);

    /// A directory of this test alone, gone when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dht-disk-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory for this test");
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).expect("a file for this test");
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let scratch = Scratch::new("made-once");
        let path = scratch.0.join("data");
        let first = {
            let dir = DataDir::open(&path, 1).expect("nobody holds it");
            dir.identity(EASY, [1; 32]).expect("a new key").id()
        };
        let dir = DataDir::open(&path, 2).expect("the first holder is gone");
        let again = dir.identity(EASY, [2; 32]).expect("the key of the first start");
        assert_eq!(again.id(), first);
        assert!(EASY.is_solved_by(&first));
        assert!(!path.join("node_key.pem.new").exists());
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&path.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_second_process_learns_who_holds_the_directory() {
        let scratch = Scratch::new("held");
        let path = scratch.0.join("data");
        let _held = DataDir::open(&path, 4711).expect("nobody holds it");
        let error = DataDir::open(&path, 4712).expect_err("it is held");
        assert!(matches!(error, DiskError::Held { holder: Some(4711), .. }), "{error}");
    }

    #[test]
    fn a_key_that_falls_short_is_named_and_left_alone() {
        let scratch = Scratch::new("short");
        let dir = DataDir::open(&scratch.0, 1).expect("nobody holds it");
        let id = dir.identity(Puzzle::new(0), [3; 32]).expect("a new key").id();
        let shown = Puzzle::solved_bits(&id);
        let error = dir.identity(Puzzle::new(shown + 1), [4; 32]).expect_err("it shows too little");
        assert!(
            matches!(error, DiskError::Puzzle { found, expected, .. } if found == shown && expected == shown + 1),
            "{error}"
        );
        assert_eq!(dir.identity(Puzzle::new(shown), [5; 32]).expect("it is still there").id(), id);
    }

    #[test]
    fn what_is_no_ed25519_key_is_refused() {
        let scratch = Scratch::new("not-ed25519");
        let dir = DataDir::open(&scratch.0, 1).expect("nobody holds it");
        scratch.write(KEY_FILE, "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n");
        let error = dir.identity(EASY, [6; 32]).expect_err("no key");
        assert!(matches!(error, DiskError::NotEd25519 { .. }), "{error}");
    }

    #[test]
    fn a_hostkey_is_used_only_if_it_is_an_ed25519_key() {
        let scratch = Scratch::new("hostkey");
        let rsa = "-----BEGIN RSA PRIVATE KEY-----\nMAoCAQACAQECAQM=\n-----END RSA PRIVATE KEY-----\n";
        let rsa = scratch.write("hostkey.pem", rsa);
        assert!(matches!(host_key(&rsa, EASY), Ok(HostKey::NotEd25519)));
        assert!(matches!(host_key(&scratch.0.join("nowhere.pem"), EASY), Ok(HostKey::Missing)));

        let dir = DataDir::open(&scratch.0, 1).expect("nobody holds it");
        let id = dir.identity(EASY, [7; 32]).expect("a new key").id();
        let found = host_key(&scratch.0.join(KEY_FILE), EASY).expect("a key that was just written");
        assert!(matches!(found, HostKey::Ed25519(identity) if identity.id() == id));
    }
}
