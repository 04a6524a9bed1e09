//! Key files: an Ed25519 key as PKCS#8 in PEM, readable by its owner alone.
//!
//! An existing file is never overwritten: without its key its signed values cannot be replaced.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dht::identity::{key_from_pem, key_to_pem};
use ed25519_dalek::SigningKey;

/// Largest file in bytes. An Ed25519 key has about 120, other kinds of keys a few thousand.
const SIZE_MAX: usize = 64 << 10;

/// Reads the key in the file at `path`.
///
/// # Errors
///
/// [`KeyFileError`] if the file cannot be read or contains anything else.
pub(crate) fn read(path: &Path) -> Result<SigningKey, KeyFileError> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(SIZE_MAX + 1).expect("a small number");
    File::open(path).and_then(|file| file.take(bound).read_to_end(&mut bytes)).map_err(at(path))?;
    if bytes.len() > SIZE_MAX {
        return Err(KeyFileError::TooLarge { path: path.to_owned() });
    }
    let key = std::str::from_utf8(&bytes).ok().and_then(key_from_pem);
    key.ok_or_else(|| KeyFileError::NotEd25519 { path: path.to_owned() })
}

/// Writes `key` to a new file at `path`. Removes a file that it could not write completely.
///
/// # Errors
///
/// [`KeyFileError`] if the file exists, or the system refuses.
pub(crate) fn create(path: &Path, key: &SigningKey) -> Result<(), KeyFileError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeyFileError::Exists { path: path.to_owned() });
        }
        opened => opened.map_err(at(path))?,
    };
    let written = file.write_all(key_to_pem(key).as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|cause| {
        let _ = fs::remove_file(path); // report the first error
        at(path)(cause)
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |cause| KeyFileError::Io { path, cause }
}

/// Why a key file cannot be used.
#[derive(Debug)]
pub(crate) enum KeyFileError {
    /// An I/O error.
    Io { path: PathBuf, cause: io::Error },
    /// It is larger than any key.
    TooLarge { path: PathBuf },
    /// It contains another kind of key, or none.
    NotEd25519 { path: PathBuf },
    /// The file to create exists.
    Exists { path: PathBuf },
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
            KeyFileError::TooLarge { path } => {
                write!(f, "{} has more than {SIZE_MAX} bytes, expected an Ed25519 key", path.display())
            }
            KeyFileError::NotEd25519 { path } => {
                write!(f, "{} is no Ed25519 key, expected PKCS#8 in PEM as `keygen` writes it", path.display())
            }
            KeyFileError::Exists { path } => write!(f, "{} is there already, and is left as it is", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of this test, removed when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dht-cli-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory for this test");
            Self(path)
        }

        fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).expect("a file for this test");
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_new_key_file_is_private_and_never_overwritten() {
        let scratch = Scratch::new("once");
        let path = scratch.0.join("key.pem");
        let (first, second) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        create(&path, &first).expect("a new file");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path, &second), Err(KeyFileError::Exists { .. })));
        assert_eq!(read(&path).expect("it was just written"), first);
    }

    #[test]
    fn a_file_without_an_ed25519_key_is_refused() {
        let scratch = Scratch::new("none");
        let refusal = |path: &Path| read(path).expect_err("no key").to_string();
        let rsa = b"-----BEGIN RSA PRIVATE KEY-----\nMAoCAQACAQECAQM=\n-----END RSA PRIVATE KEY-----\n";
        for other in [&rsa[..], b"", b"\xff\xfe", &vec![b'x'; SIZE_MAX]] {
            let path = scratch.write("other", other);
            let expected = "is no Ed25519 key, expected PKCS#8 in PEM as `keygen` writes it";
            assert_eq!(refusal(&path), format!("{} {expected}", path.display()));
        }
        let large = scratch.write("large", &vec![b'x'; SIZE_MAX + 1]);
        assert_eq!(refusal(&large), format!("{} has more than 65536 bytes, expected an Ed25519 key", large.display()));
        assert!(refusal(&scratch.0.join("nowhere")).contains("nowhere: "));
        assert!(matches!(read(&scratch.0), Err(KeyFileError::Io { .. })), "a directory is not a file");
    }
}
