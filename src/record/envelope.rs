//! Certified records: the layout of signed values, and the only place that verifies what a record proves.
//!
//! Every certified record that comes from a client, a peer or the disk passes [`verify`], unless the same
//! record is stored already. One from the disk passes it when it is first needed ([`crate::storage`]).
//!
//! A *signed* value is an envelope (`PROTOCOL.md` 4):
//!
//! ```text
//! 0    public key 32 (Ed25519)
//! 32   sequence u64: the version of the record
//! 40   TTL u16: the TTL of the record, at least 1
//! 42   salt length u8, 0..=64; then the salt
//! ..   signature 64 over "dht-rec-1" ‖ key ‖ sequence ‖ TTL ‖ payload
//! ..   payload, to the end; an empty one deletes the value
//! ```
//!
//! Its key is SHA-256("dht-own-1" ‖ public key ‖ salt length ‖ salt), so only the owner of the key pair can
//! write there. The key of a *hashed* record is SHA-256 of its value.
//!
//! One kind of value is refused as a hashed record: bytes whose SHA-256 is the key of an owner. Such a
//! record would be under the key of that owner without a signature.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::id::Key;
use crate::identity::{PUBLIC_KEY_SIZE, PublicKey};
use crate::limits::{SALT_SIZE_MAX, VALUE_SIZE_MAX};
use crate::record::{Class, Record, Ttl, Version};
use crate::wire::codec::{Reader, WireError};

/// Prefix of what is hashed into the key of a signed record.
const OWNER_TAG: &[u8] = b"dht-own-1";

/// Prefix of what is signed.
const RECORD_TAG: &[u8] = b"dht-rec-1";

/// Size of an Ed25519 signature, in bytes.
const SIGNATURE_SIZE: usize = 64;

/// Size of an envelope without salt and payload, in bytes.
pub const ENVELOPE_SIZE_MIN: usize = PUBLIC_KEY_SIZE + 8 + 2 + 1 + SIGNATURE_SIZE;

/// The fields of a signed value. Nothing is verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The public key of the signer.
    pub owner: PublicKey,
    /// The version of the record.
    pub sequence: Version,
    /// The TTL of the record.
    pub ttl: Ttl,
    /// Distinguishes several keys of one owner; at most [`SALT_SIZE_MAX`] bytes.
    pub salt: &'a [u8],
    /// The content. An empty payload deletes the value.
    pub payload: &'a [u8],
    signature: [u8; SIGNATURE_SIZE],
}

impl<'a> Envelope<'a> {
    /// Reads the fields of `value`.
    ///
    /// # Errors
    ///
    /// [`Unverified::Layout`], [`Unverified::Salt`] or [`Unverified::NoLife`] if it is no envelope.
    pub fn read(value: &'a [u8]) -> Result<Self, Unverified> {
        let mut reader = Reader::new(value);
        let owner = PublicKey::new(reader.array("public key")?);
        let sequence = Version::from_bits(reader.u64("sequence")?);
        let ttl = Ttl::from_secs(reader.u16("ttl")?).ok_or(Unverified::NoLife)?;
        let salt_size = usize::from(reader.u8("salt length")?);
        if salt_size > SALT_SIZE_MAX {
            return Err(Unverified::Salt { found: salt_size });
        }
        let salt = reader.bytes("salt", salt_size)?;
        let signature = reader.array("signature")?;
        Ok(Self { owner, sequence, ttl, salt, payload: reader.rest(), signature })
    }

    /// The key under which the owner may write this envelope.
    pub fn key(&self) -> Key {
        owned_key(&self.owner, self.salt)
    }

    /// Whether the signature is the owner's. The check is strict: public keys of small order and second
    /// forms of a signature are refused.
    fn is_signed(&self) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(self.owner.as_bytes()).is_ok_and(|owner| {
            owner.verify_strict(&signed_bytes(&self.key(), self.sequence, self.ttl, self.payload), &signature).is_ok()
        })
    }
}

/// The key that `owner` may write with `salt`.
///
/// # Panics
///
/// If the salt is longer than [`SALT_SIZE_MAX`] bytes.
pub fn owned_key(owner: &PublicKey, salt: &[u8]) -> Key {
    assert!(salt.len() <= SALT_SIZE_MAX, "a salt of {} bytes", salt.len());
    let size = u8::try_from(salt.len()).expect("SALT_SIZE_MAX is a byte");
    let digest = Sha256::new().chain_update(OWNER_TAG).chain_update(owner.as_bytes()).chain_update([size]);
    Key::new(digest.chain_update(salt).finalize().into())
}

/// The key of a hashed record with this value.
pub fn hashed_key(value: &[u8]) -> Key {
    Key::new(Sha256::digest(value).into())
}

/// The largest payload of an envelope with `salt`, in bytes.
pub const fn payload_size_max(salt: &[u8]) -> usize {
    VALUE_SIZE_MAX - ENVELOPE_SIZE_MIN - salt.len()
}

/// Makes the value of a signed record: an envelope around `payload`, signed by `owner`.
///
/// # Panics
///
/// If the salt is longer than [`SALT_SIZE_MAX`] bytes, or the payload than [`payload_size_max`].
pub fn seal(owner: &SigningKey, sequence: Version, ttl: Ttl, salt: &[u8], payload: &[u8]) -> Vec<u8> {
    assert!(
        payload.len() <= payload_size_max(salt),
        "a payload of {} bytes with a salt of {}",
        payload.len(),
        salt.len()
    );
    let public = PublicKey::of(owner);
    let key = owned_key(&public, salt);
    let signature = owner.sign(&signed_bytes(&key, sequence, ttl, payload));
    let mut value = Vec::with_capacity(ENVELOPE_SIZE_MIN + salt.len() + payload.len());
    value.extend_from_slice(public.as_bytes());
    value.extend_from_slice(&sequence.bits().to_be_bytes());
    value.extend_from_slice(&ttl.as_secs().to_be_bytes());
    value.push(u8::try_from(salt.len()).expect("owned_key has asserted it"));
    value.extend_from_slice(salt);
    value.extend_from_slice(&signature.to_bytes());
    value.extend_from_slice(payload);
    value
}

/// Whether a record of `class` with this value deletes the value of its key: readers get none.
pub fn deletes(class: Class, value: &[u8]) -> bool {
    class == Class::Signed && Envelope::read(value).is_ok_and(|envelope| envelope.payload.is_empty())
}

/// Verifies what a record claims by its class; a plain record claims nothing. The signature comes last,
/// because it costs the most.
///
/// # Errors
///
/// [`Unverified`] if the claim is false. Nodes must not store, serve or pass on such a record.
pub fn verify(key: &Key, class: Class, version: Version, ttl: Ttl, value: &[u8]) -> Result<(), Unverified> {
    match class {
        Class::Plain => Ok(()),
        Class::Hashed if version != Version::from_bits(0) => Err(Unverified::HashedVersion { found: version }),
        Class::Hashed => verify_hashed(key, value),
        Class::Signed => {
            let envelope = Envelope::read(value)?;
            if envelope.key() != *key {
                return Err(Unverified::Key { expected: envelope.key() });
            }
            if envelope.sequence != version {
                return Err(Unverified::Sequence { sealed: envelope.sequence, found: version });
            }
            if envelope.ttl != ttl {
                return Err(Unverified::Ttl { sealed: envelope.ttl, found: ttl });
            }
            if envelope.is_signed() { Ok(()) } else { Err(Unverified::Signature) }
        }
    }
}

/// The same for a whole record.
///
/// # Errors
///
/// Those of [`verify`].
pub fn verify_record(record: &Record) -> Result<(), Unverified> {
    verify(&record.key, record.class, record.version, record.ttl, &record.value)
}

/// Verifies a hashed record: its key is SHA-256 of `value`, and `value` names no owner.
///
/// # Errors
///
/// [`Unverified::Key`] or [`Unverified::NamesAnOwner`].
pub fn verify_hashed(key: &Key, value: &[u8]) -> Result<(), Unverified> {
    if names_an_owner(value) {
        return Err(Unverified::NamesAnOwner);
    }
    let expected = hashed_key(value);
    if expected == *key { Ok(()) } else { Err(Unverified::Key { expected }) }
}

/// The verified envelope in `value`, for callers that know only the key and the value of a signed record.
/// Version and TTL are those of the envelope.
///
/// # Errors
///
/// [`Unverified`] if it does not verify.
pub fn open<'a>(key: &Key, value: &'a [u8]) -> Result<Envelope<'a>, Unverified> {
    let envelope = Envelope::read(value)?;
    verify(key, Class::Signed, envelope.sequence, envelope.ttl, value)?;
    Ok(envelope)
}

/// Whether SHA-256 of `value` is the key of an owner.
fn names_an_owner(value: &[u8]) -> bool {
    let salt_size = value.strip_prefix(OWNER_TAG).and_then(|owner| owner.get(PUBLIC_KEY_SIZE));
    salt_size.is_some_and(|&size| {
        usize::from(size) <= SALT_SIZE_MAX && value.len() == OWNER_TAG.len() + PUBLIC_KEY_SIZE + 1 + usize::from(size)
    })
}

fn signed_bytes(key: &Key, sequence: Version, ttl: Ttl, payload: &[u8]) -> Vec<u8> {
    let sequence = sequence.bits().to_be_bytes();
    [RECORD_TAG, key.as_bytes(), &sequence, &ttl.as_secs().to_be_bytes(), payload].concat()
}

/// Why a record does not prove what its class claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unverified {
    /// The value is too short for an envelope.
    Layout(WireError),
    /// The salt is longer than [`SALT_SIZE_MAX`] bytes.
    Salt {
        /// The length that the envelope announces.
        found: usize,
    },
    /// The TTL in the envelope is 0.
    NoLife,
    /// The record is not under the key that its value belongs to.
    Key {
        /// The key that the value belongs to.
        expected: Key,
    },
    /// The version of the record is not the signed one.
    Sequence {
        /// The signed version.
        sealed: Version,
        /// The version of the record.
        found: Version,
    },
    /// The TTL of the record is not the signed one.
    Ttl {
        /// The signed TTL.
        sealed: Ttl,
        /// The TTL of the record.
        found: Ttl,
    },
    /// The signature is not the owner's.
    Signature,
    /// A hashed record has another version than 0.
    HashedVersion {
        /// The version of the record.
        found: Version,
    },
    /// The key of a hashed record is the key of an owner.
    NamesAnOwner,
}

impl From<WireError> for Unverified {
    fn from(error: WireError) -> Self {
        Self::Layout(error)
    }
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(error) => write!(f, "no envelope: {error}"),
            Self::Salt { found } => write!(f, "a salt of {found} bytes, expected at most {SALT_SIZE_MAX}"),
            Self::NoLife => write!(f, "a signed TTL of 0, expected 1 to 65535"),
            Self::Key { expected } => write!(f, "the value belongs to the key {expected}"),
            Self::Sequence { sealed, found } => {
                write!(f, "version {}, expected the signed {}", found.bits(), sealed.bits())
            }
            Self::Ttl { sealed, found } => {
                write!(f, "TTL {}, expected the signed {}", found.as_secs(), sealed.as_secs())
            }
            Self::Signature => write!(f, "the signature is not the owner's"),
            Self::HashedVersion { found } => write!(f, "version {} of a hashed record, expected 0", found.bits()),
            Self::NamesAnOwner => write!(f, "the key belongs to the owner of the public key in the value"),
        }
    }
}

impl std::error::Error for Unverified {}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::Verifier;
    use proptest::prelude::*;

    /// The secret key of RFC 8032, section 7.1, test 1.
    const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    /// An envelope of that key pair and the key of its record, made by another program.
    const KNOWN_KEY: &str = "8409e9612de9df5aa80e22a6199bfc313650a4e4d34ef358961e7eaa0d457814";
    const KNOWN: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a 018bcfe568000007 0e10 \
        04 73616c74 f0c0fd27826b1cc9aee3750a6ebfce30f86ee69744115228095c739bcd3b3308 \
        49680ccf73c48ebe60538c707b98e0e8690138b8b1131ab6a3a748dfa56c4604 313233343536373839";

    /// All encodings of the points of small order, also those that are not canonical.
    const SMALL_ORDER: [&str; 14] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];

    /// The order of the group, little endian.
    const GROUP_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

    /// Offsets of the fields of an envelope; what follows the salt moves with its length.
    const SEQUENCE_AT: usize = 32;
    const TTL_AT: usize = 40;
    const SALT_SIZE_AT: usize = 42;
    const SALT_AT: usize = 43;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
        let pair = |at: usize| std::str::from_utf8(&digits[2 * at..2 * at + 2]).expect("hex is ASCII");
        assert_eq!(digits.len(), 2 * N);
        std::array::from_fn(|at| u8::from_str_radix(pair(at), 16).expect("two hex digits"))
    }

    fn ttl(secs: u16) -> Ttl {
        Ttl::from_secs(secs).expect("not zero")
    }

    /// A signed record as a peer might send it.
    #[derive(Clone, Debug)]
    struct Presented {
        key: Key,
        version: Version,
        ttl: Ttl,
        value: Vec<u8>,
    }

    impl Presented {
        fn sealed(owner: &SigningKey, version: u64, ttl: Ttl, salt: &[u8], payload: &[u8]) -> Self {
            let version = Version::from_bits(version);
            let key = owned_key(&PublicKey::of(owner), salt);
            Self { key, version, ttl, value: seal(owner, version, ttl, salt, payload) }
        }

        fn verify(&self) -> Result<(), Unverified> {
            verify(&self.key, Class::Signed, self.version, self.ttl, &self.value)
        }

        fn signature_at(&self) -> usize {
            SALT_AT + usize::from(self.value[SALT_SIZE_AT])
        }

        fn owner(&self) -> PublicKey {
            PublicKey::new(*self.value.first_chunk().expect("an envelope"))
        }

        /// The same record with `bytes` at offset `at` of its value.
        fn with(&self, at: usize, bytes: &[u8]) -> Self {
            let mut changed = self.clone();
            changed.value[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        }

        /// The same record under the key that its value names.
        fn at_its_key(&self) -> Self {
            let key = Envelope::read(&self.value).expect("an envelope").key();
            Self { key, ..self.clone() }
        }
    }

    prop_compose! {
        fn presented()(
            secret in any::<[u8; 32]>(),
            version in any::<u64>(),
            secs in 1..=u16::MAX,
            salt in proptest::collection::vec(any::<u8>(), 0..=SALT_SIZE_MAX),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) -> Presented {
            Presented::sealed(&SigningKey::from_bytes(&secret), version, ttl(secs), &salt, &payload)
        }
    }

    proptest! {
        #[test]
        fn a_sealed_envelope_verifies_and_reads_back(
            secret in any::<[u8; 32]>(),
            version in any::<u64>(),
            secs in 1..=u16::MAX,
            salt in proptest::collection::vec(any::<u8>(), 0..=SALT_SIZE_MAX),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let owner = SigningKey::from_bytes(&secret);
            let record = Presented::sealed(&owner, version, ttl(secs), &salt, &payload);
            prop_assert_eq!(record.verify(), Ok(()));
            let envelope = open(&record.key, &record.value).expect("it verifies");
            prop_assert_eq!((envelope.owner, envelope.key()), (PublicKey::of(&owner), record.key));
            prop_assert_eq!((envelope.sequence, envelope.ttl), (record.version, record.ttl));
            prop_assert_eq!((envelope.salt, envelope.payload), (&salt[..], &payload[..]));
        }

        #[test]
        fn a_signed_record_with_any_byte_changed_does_not_verify(
            record in presented(),
            at in any::<proptest::sample::Index>(),
            change in 1..=u8::MAX,
        ) {
            let mut key = *record.key.as_bytes();
            key[at.index(key.len())] ^= change;
            let elsewhere = Presented { key: Key::new(key), ..record.clone() };
            prop_assert!(elsewhere.verify().is_err());

            let version = record.version.bits() ^ (u64::from(change) << (8 * at.index(8)));
            let other_version = Presented { version: Version::from_bits(version), ..record.clone() };
            prop_assert!(other_version.verify().is_err());

            if let Some(ttl) = Ttl::from_secs(record.ttl.as_secs() ^ (u16::from(change) << (8 * at.index(2)))) {
                let other_ttl = Presented { ttl, ..record.clone() };
                prop_assert!(other_ttl.verify().is_err());
            }

            let at = at.index(record.value.len());
            let changed = record.with(at, &[record.value[at] ^ change]);
            prop_assert!(changed.verify().is_err(), "byte {} of the value", at);
        }

        #[test]
        fn random_bytes_are_refused_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let key = Envelope::read(&value).map_or(Key::new([0; 32]), |envelope| envelope.key());
            prop_assert!(open(&key, &value).is_err());
        }

        /// Neither version nor value of a hashed record can be changed.
        #[test]
        fn a_hashed_record_verifies_only_under_its_digest_and_version_0(
            value in proptest::collection::vec(any::<u8>(), 1..200),
            at in any::<proptest::sample::Index>(),
            change in 1..=u8::MAX,
        ) {
            let key = hashed_key(&value);
            let hashed = |key: &Key, version, value: &[u8]| {
                verify(key, Class::Hashed, Version::from_bits(version), ttl(60), value)
            };
            prop_assert_eq!(hashed(&key, 0, &value), Ok(()));
            let found = Version::from_bits(change.into());
            prop_assert_eq!(hashed(&key, change.into(), &value), Err(Unverified::HashedVersion { found }));
            let mut other = value;
            let at = at.index(other.len());
            other[at] ^= change;
            prop_assert_eq!(hashed(&key, 0, &other), Err(Unverified::Key { expected: hashed_key(&other) }));
        }
    }

    #[test]
    fn sealing_makes_the_envelope_that_another_program_made() {
        let owner = SigningKey::from_bytes(&hex(SECRET));
        let record = Presented::sealed(&owner, 0x018b_cfe5_6800_0007, ttl(3600), b"salt", b"123456789");
        assert_eq!(record.value, hex::<120>(KNOWN));
        assert_eq!(record.key, Key::new(hex(KNOWN_KEY)));
        assert_eq!(record.verify(), Ok(()));
        let digest = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(hashed_key(b"123456789"), Key::new(hex(digest)));
    }

    #[test]
    fn each_refusal_names_the_field_and_what_was_expected() {
        let owner = SigningKey::from_bytes(&hex(SECRET));
        let record = Presented::sealed(&owner, 7, ttl(60), b"salt", b"payload");
        let refusal = |record: &Presented| record.verify().expect_err("it was changed").to_string();
        let cut = Presented { value: record.value[..40].to_vec(), ..record.clone() };
        assert_eq!(refusal(&cut), "no envelope: ttl needs 2 bytes, 0 left in the body");
        assert_eq!(refusal(&record.with(TTL_AT, &[0, 0])), "a signed TTL of 0, expected 1 to 65535");
        assert_eq!(refusal(&record.with(SALT_SIZE_AT, &[65])), "a salt of 65 bytes, expected at most 64");
        let elsewhere = Presented { key: Key::new([7; 32]), ..record.clone() };
        assert_eq!(refusal(&elsewhere), format!("the value belongs to the key {}", record.key));
        let later = Presented { version: Version::from_bits(8), ..record.clone() };
        assert_eq!(refusal(&later), "version 8, expected the signed 7");
        let longer = Presented { ttl: ttl(61), ..record.clone() };
        assert_eq!(refusal(&longer), "TTL 61, expected the signed 60");
        let last = record.value.len() - 1;
        assert_eq!(refusal(&record.with(last, b"D")), "the signature is not the owner's");
    }

    /// Otherwise a node that knows a public key could store a record under its owner's key without a
    /// signature.
    #[test]
    fn a_hashed_record_is_refused_under_the_key_of_an_owner() {
        let owner = PublicKey::of(&SigningKey::from_bytes(&hex(SECRET)));
        for size in [0, 1, 4, SALT_SIZE_MAX] {
            let salt = vec![b's'; size];
            let trap = [OWNER_TAG, owner.as_bytes(), &[u8::try_from(size).expect("a byte")], &salt].concat();
            assert_eq!(hashed_key(&trap), owned_key(&owner, &salt), "that is the trap");
            assert_eq!(verify_hashed(&owned_key(&owner, &salt), &trap), Err(Unverified::NamesAnOwner));

            for harmless in [&trap[1..], &trap[..trap.len() - 1], &[&trap[..], b"s"].concat()] {
                assert_eq!(verify_hashed(&hashed_key(harmless), harmless), Ok(()), "it is no owner's key");
            }
        }
        let too_long = [OWNER_TAG, owner.as_bytes(), &[65], &[b's'; 65]].concat();
        assert_eq!(verify_hashed(&hashed_key(&too_long), &too_long), Ok(()), "no owner has a salt of 65 bytes");
    }

    #[test]
    fn the_largest_payload_fills_the_largest_value() {
        let owner = SigningKey::from_bytes(&hex(SECRET));
        for size in [0, SALT_SIZE_MAX] {
            let salt = vec![1; size];
            let record = Presented::sealed(&owner, 1, ttl(1), &salt, &vec![7; payload_size_max(&salt)]);
            assert_eq!(record.value.len(), VALUE_SIZE_MAX);
            assert_eq!(record.verify(), Ok(()));
        }
    }

    // ── forgeries ────────────────────────────────────────────────────────────────────────────

    /// A random number generator written out here, so that its sequence never changes (`SplitMix64`).
    struct Generator(u64);

    impl Generator {
        fn draw(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            usize::try_from(self.draw() % bound as u64).expect("below a usize")
        }

        fn bytes<const N: usize>(&mut self) -> [u8; N] {
            std::array::from_fn(|_| self.draw().to_be_bytes()[0])
        }

        fn record(&mut self, owner: &SigningKey) -> Presented {
            let (salt, payload): ([u8; SALT_SIZE_MAX], [u8; 64]) = (self.bytes(), self.bytes());
            let secs = ttl(u16::try_from(1 + self.below(65_535)).expect("16 bits"));
            Presented::sealed(owner, self.draw(), secs, &salt[..self.below(65)], &payload[..self.below(65)])
        }
    }

    /// What a forger with `record` and a key pair of his own may send instead.
    fn forgeries(record: &Presented, forger: &SigningKey, generator: &mut Generator) -> Vec<(&'static str, Presented)> {
        let signature_at = record.signature_at();
        let payload_at = signature_at + SIGNATURE_SIZE;
        let change = u8::try_from(1 + generator.below(255)).expect("a byte");
        let flip = |at: usize| record.with(at, &[record.value[at] ^ change]);

        let sequence = generator.draw();
        let sequence =
            Presented { version: Version::from_bits(sequence), ..record.with(SEQUENCE_AT, &sequence.to_be_bytes()) };
        let secs = ttl(record.ttl.as_secs() % 65_535 + 1);
        let longer = Presented { ttl: secs, ..record.with(TTL_AT, &secs.as_secs().to_be_bytes()) };
        let another_salt = record.with(SALT_SIZE_AT, &[(record.value[SALT_SIZE_AT] + 1) % 65]);
        let payload = &record.value[payload_at..];
        let resealed = Presented::sealed(forger, record.version.bits(), record.ttl, b"", payload);
        let his_key = record.with(0, PublicKey::of(forger).as_bytes());
        let his_signature = record.with(signature_at, &resealed.value[SALT_AT..SALT_AT + SIGNATURE_SIZE]);
        let cut = Presented { value: record.value[..generator.below(record.value.len())].to_vec(), ..record.clone() };
        let grown = Presented { value: [&record.value[..], &[change]].concat(), ..record.clone() };
        let mut all = vec![
            ("a bad signature", flip(signature_at + generator.below(SIGNATURE_SIZE))),
            ("a signature S + L", plus_group_order(record)),
            ("another sequence", sequence),
            (
                "a sequence that was not signed",
                Presented { version: Version::from_bits(generator.draw()), ..record.clone() },
            ),
            ("another TTL", longer),
            ("a TTL that was not signed", Presented { ttl: secs, ..record.clone() }),
            ("another's record at this key", Presented { key: record.key, ..resealed }),
            ("another's key under this signature", his_key.clone()),
            ("another's key, at his key", his_key.at_its_key()),
            ("another's signature", his_signature),
            ("a replay at another key", Presented { key: Key::new(generator.bytes()), ..record.clone() }),
            ("an end that is missing", cut),
            ("a longer payload", grown),
            ("another salt length", another_salt),
            ("a key of small order", small_order(record, generator)),
        ];
        if signature_at > SALT_AT {
            let salt = flip(SALT_AT + generator.below(signature_at - SALT_AT));
            all.push(("another salt, at its key", salt.at_its_key()));
            all.push(("another salt", salt));
        }
        if payload_at < record.value.len() {
            all.push(("another payload", flip(payload_at + generator.below(record.value.len() - payload_at))));
        }
        all
    }

    /// The second form of the signature: S plus the order of the group.
    fn plus_group_order(record: &Presented) -> Presented {
        let at = record.signature_at() + 32;
        let mut carry = 0;
        let sum: Vec<u8> = std::iter::zip(&record.value[at..at + 32], hex::<32>(GROUP_ORDER))
            .map(|(&s, l)| {
                let sum = u16::from(s) + u16::from(l) + carry;
                carry = sum >> 8;
                sum.to_le_bytes()[0]
            })
            .collect();
        record.with(at, &sum)
    }

    /// A record of a public key of small order: it satisfies the equation of the signature for any payload.
    fn small_order(record: &Presented, generator: &mut Generator) -> Presented {
        let owner: [u8; 32] = hex(SMALL_ORDER[generator.below(SMALL_ORDER.len())]);
        let mut signature = [0; SIGNATURE_SIZE];
        signature[..32].copy_from_slice(&hex::<32>(SMALL_ORDER[generator.below(SMALL_ORDER.len())]));
        record.with(0, &owner).with(record.signature_at(), &signature).at_its_key()
    }

    /// Whether a verifier that is not strict would accept the signature.
    fn satisfies_the_equation(record: &Presented) -> bool {
        let envelope = Envelope::read(&record.value).expect("an envelope");
        let signed = signed_bytes(&record.key, envelope.sequence, envelope.ttl, envelope.payload);
        VerifyingKey::from_bytes(record.owner().as_bytes())
            .is_ok_and(|owner| owner.verify(&signed, &Signature::from_bytes(&envelope.signature)).is_ok())
    }

    #[test]
    fn none_of_100_000_forgeries_and_replays_verifies() {
        let mut generator = Generator(1);
        let (mut tried, mut lax) = (0, 0);
        while tried < 100_000 {
            let (owner, forger) =
                (SigningKey::from_bytes(&generator.bytes()), SigningKey::from_bytes(&generator.bytes()));
            let record = generator.record(&owner);
            assert_eq!(record.verify(), Ok(()), "what they are forged from");
            for (kind, forged) in forgeries(&record, &forger, &mut generator) {
                assert!(forged.verify().is_err(), "{kind}: {forged:?}");
                tried += 1;
                lax += usize::from(kind == "a key of small order" && satisfies_the_equation(&forged));
            }
        }
        assert!(lax > 0, "some keys of small order must be a danger, or they test nothing");
    }
}
