//! What stays of a tombstone after its first hour.
//!
//! A *fingerprint* of 64 bits stands for the key. It is the start of SHA-256 of a secret of this node and the key, so
//! nobody else can choose keys with equal fingerprints. Two given keys have the same one with a probability of 2^-64: a
//! key that no tombstone is about meets one of a million old tombstones with a probability of 5 * 10^-14. Then this
//! node alone refuses a record of that key, and only if its version is not newer than one that has ended an hour ago or
//! earlier. A record that is stored already stays ([`crate::storage::Storage::state`]), unless the wall clock is set just
//! then.

use sha2::{Digest, Sha256};

use crate::id::Key;
use crate::record::{Tombstone, TombstoneClass, Version};

/// Bytes of a [`FingerprintKey`].
pub const FINGERPRINT_KEY_SIZE: usize = 16;

/// The length of an [`Epoch`] in milliseconds: 4.7 hours. The versions of which tombstones are needed are in six epochs
/// at most.
const EPOCH: u64 = 1 << 24;

/// Keys the fingerprints of a node: random, and kept on disk with the old tombstones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FingerprintKey([u8; FINGERPRINT_KEY_SIZE]);

impl FingerprintKey {
    /// The key with these bytes.
    pub fn new(bytes: [u8; FINGERPRINT_KEY_SIZE]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn bytes(self) -> [u8; FINGERPRINT_KEY_SIZE] {
        self.0
    }
}

/// Stands for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    /// The fingerprint with these bytes.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The fingerprint of `key`.
    pub fn of(secret: FingerprintKey, key: &Key) -> Self {
        let digest: [u8; 32] = Sha256::new().chain_update(secret.0).chain_update(key.as_bytes()).finalize().into();
        Self(*digest.first_chunk().expect("8 of 32 bytes"))
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }
}

/// Versions of about the same time: their old tombstones are in the same packs on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch of a version.
    pub fn of(version: Version) -> Self {
        Self(u32::try_from(version.time().as_millis() / EPOCH).expect("24 of 48 bits"))
    }
}

/// The newest version of one class that is over, of a key that only its fingerprint names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldTombstone {
    /// Stands for the key.
    pub fingerprint: Fingerprint,
    /// The class of the version.
    pub class: TombstoneClass,
    /// The version.
    pub version: Version,
}

impl OldTombstone {
    /// Which versions are over.
    pub fn tombstone(self) -> Tombstone {
        Tombstone::of_class(self.class, self.version)
    }
}
