//! The node's key, and the host's.
//!
//! A key is on disk whole or not at all: it is written beside its place and moved there. This
//! draws no randomness: a new key is made of what it is lent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, KeypairBytes};
use sha2::{Digest, Sha256};

use crate::disk::{DataDir, DiskError, at};
use crate::identity::{Identity, PublicKey, Puzzle, key_from_pem, key_to_pem};

/// The node's key: PKCS#8, PEM.
const KEY_FILE: &str = "node_key.pem";

/// Largest file that can be a key: an Ed25519 key has some 120 bytes, the largest RSA keys 13 000.
const KEY_FILE_SIZE_MAX: u64 = 64 << 10;

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
        let text = key_to_pem(key);
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

/// The Ed25519 key in the file at `path`; `None` if it holds anything else.
fn read_key(path: &Path) -> io::Result<Option<SigningKey>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(key_from_pem(&text))
}

/// The first key of those that follow from `entropy` whose id solves `puzzle`.
fn draw_key(puzzle: Puzzle, entropy: [u8; 32]) -> SigningKey {
    let mut draws = (0_u64..).map(|draw| {
        let secret = Sha256::new().chain_update(entropy).chain_update(draw.to_be_bytes()).finalize();
        SigningKey::from_bytes(&secret.into())
    });
    draws.find(|key| puzzle.is_solved_by(&PublicKey::of(key).id())).expect("there are more draws than any puzzle needs")
}

fn judged(path: &Path, key: &SigningKey, puzzle: Puzzle) -> Result<Identity, DiskError> {
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

    const EASY: Puzzle = Puzzle::new(4);

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
