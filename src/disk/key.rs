//! The node's key, and the host's key.
//!
//! After a crash at any point, the key file is complete or does not exist: a new key is written to
//! another file, which is then renamed. This module draws no randomness: the caller passes the entropy
//! for a new key.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, KeypairBytes};
use sha2::{Digest, Sha256};

use crate::disk::{DataDir, DiskError, io_error, move_into_place, owner_only};
use crate::identity::{Identity, PublicKey, Puzzle, key_from_pem, key_to_pem};

/// The file of the node's key: PKCS#8 in PEM.
const KEY_FILE: &str = "node_key.pem";

/// Maximum size of a key file. An Ed25519 key takes some 120 bytes, the largest RSA keys 13 000.
const KEY_FILE_SIZE_MAX: u64 = 64 << 10;

/// What the `hostkey` file of the configuration contains.
#[derive(Debug)]
pub enum HostKey {
    /// An Ed25519 key, which becomes the node's key.
    Ed25519(Identity),
    /// Another kind of key, such as the course's RSA key. It is ignored.
    NotEd25519,
    /// The file does not exist.
    Missing,
}

impl DataDir {
    /// Reads the node's key. On the first start, generates it from `entropy`: keys are drawn until
    /// one solves `puzzle`, which takes 2^bits draws on average.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if the file contains no Ed25519 key, if the key does not solve `puzzle`, or if
    /// the system refuses.
    pub fn identity(&self, puzzle: Puzzle, entropy: [u8; 32]) -> Result<Identity, DiskError> {
        let path = self.path.join(KEY_FILE);
        match read_key(&path) {
            Ok(Some(key)) => identity_of(&path, &key, puzzle),
            Ok(None) => Err(DiskError::NotEd25519 { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = draw_key(puzzle, entropy);
                write_key(&path, &key).map_err(io_error(&path))?;
                identity_of(&path, &key, puzzle)
            }
            Err(source) => Err(DiskError::Io { path, source }),
        }
    }
}

/// Writes `key` to a new file and moves the file to `path`.
fn write_key(path: &Path, key: &SigningKey) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file = owner_only().truncate(true).open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?; // a file from before a crash may have another mode
    file.write_all(key_to_pem(key).as_bytes())?;
    move_into_place(&new, path)
}

/// Reads the host's key from the `hostkey` file at `path`.
///
/// # Errors
///
/// [`DiskError::Puzzle`] if the id of an Ed25519 key does not solve `puzzle`, [`DiskError::Io`] if the
/// file exists but cannot be read.
pub fn host_key(path: &Path, puzzle: Puzzle) -> Result<HostKey, DiskError> {
    match read_key(path) {
        Ok(Some(key)) => identity_of(path, &key, puzzle).map(HostKey::Ed25519),
        Ok(None) => Ok(HostKey::NotEd25519),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HostKey::Missing),
        Err(source) => Err(DiskError::Io { path: path.to_owned(), source }),
    }
}

/// Reads an Ed25519 key from the file at `path`; `None` if the file contains anything else.
fn read_key(path: &Path) -> io::Result<Option<SigningKey>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(key_from_pem(&text))
}

/// Derives keys from `entropy` and returns the first one whose id solves `puzzle`.
fn draw_key(puzzle: Puzzle, entropy: [u8; 32]) -> SigningKey {
    let mut draws = (0_u64..).map(|draw| {
        let secret = Sha256::new().chain_update(entropy).chain_update(draw.to_be_bytes()).finalize();
        SigningKey::from_bytes(&secret.into())
    });
    draws.find(|key| puzzle.is_solved_by(&PublicKey::of(key).id())).expect("there are more draws than any puzzle needs")
}

/// The identity with `key` from the file at `path`, if its id solves `puzzle`.
fn identity_of(path: &Path, key: &SigningKey, puzzle: Puzzle) -> Result<Identity, DiskError> {
    let public = PublicKey::of(key);
    if !puzzle.is_solved_by(&public.id()) {
        let found = Puzzle::solved_bits(&public.id());
        return Err(DiskError::Puzzle { path: path.to_owned(), found, expected: puzzle.bits() });
    }
    let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
    let der = pair.to_pkcs8_der().expect("32 bytes of a secret can be written as PKCS#8");
    Ok(Identity::new(der.as_bytes().to_vec(), public))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::Scratch;
    use std::fs;

    const EASY: Puzzle = Puzzle::new(4);

    #[test]
    fn a_key_is_generated_once_and_read_at_the_next_start() {
        let scratch = Scratch::new("made-once");
        let path = scratch.0.join("data");
        let first = {
            let dir = DataDir::open(&path, 1).expect("no other process has the lock");
            dir.identity(EASY, [1; 32]).expect("a new key").id()
        };
        let dir = DataDir::open(&path, 2).expect("the first lock is released");
        let again = dir.identity(EASY, [2; 32]).expect("the key of the first start");
        assert_eq!(again.id(), first);
        assert!(EASY.is_solved_by(&first));
        assert!(!path.join("node_key.pem.new").exists());
        let mode = |path: &Path| fs::metadata(path).expect("the file exists").permissions().mode() & 0o777;
        assert_eq!(mode(&path.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_key_that_does_not_solve_the_puzzle_is_refused_and_not_replaced() {
        let scratch = Scratch::new("short");
        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
        let id = dir.identity(Puzzle::new(0), [3; 32]).expect("a new key").id();
        let shown = Puzzle::solved_bits(&id);
        let error = dir.identity(Puzzle::new(shown + 1), [4; 32]).expect_err("one zero bit is missing");
        assert!(
            matches!(error, DiskError::Puzzle { found, expected, .. } if found == shown && expected == shown + 1),
            "{error}"
        );
        assert_eq!(dir.identity(Puzzle::new(shown), [5; 32]).expect("the file is unchanged").id(), id);
    }

    #[test]
    fn a_file_without_an_ed25519_key_is_refused() {
        let scratch = Scratch::new("not-ed25519");
        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
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

        let dir = DataDir::open(&scratch.0, 1).expect("no other process has the lock");
        let id = dir.identity(EASY, [7; 32]).expect("a new key").id();
        let found = host_key(&scratch.0.join(KEY_FILE), EASY).expect("a key that was just written");
        assert!(matches!(found, HostKey::Ed25519(identity) if identity.id() == id));
    }
}
