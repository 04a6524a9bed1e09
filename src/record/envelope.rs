//! What a record that certifies itself proves, and how it is verified: in one place, for all who
//! take a record from elsewhere, be it a client, a peer or the disk.
//!
//! A *signed* value is an envelope (`PROTOCOL.md` 4):
//!
//! ```text
//! 0    public key 32 (Ed25519)
//! 32   sequence u64: the record's version
//! 40   TTL u16: the record's, at least 1
//! 42   salt length u8, 0..=64; then the salt
//! ..   signature 64 over "dht-rec-1" ‖ key ‖ sequence ‖ TTL ‖ payload
//! ..   payload, to the end; an empty one deletes what was there before
//! ```
//!
//! Its key is SHA-256("dht-own-1" ‖ public key ‖ salt length ‖ salt), so only the owner of the key
//! pair can write there. The key of a *hashed* record is SHA-256 of its value.
//!
//! One value would be both at once: the very bytes whose digest is an owner's key, as a hashed
//! record, would sit at that key without a signature. They are refused.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::id::Key;
use crate::identity::{PUBLIC_KEY_SIZE, PublicKey};
use crate::limits::{SALT_SIZE_MAX, VALUE_SIZE_MAX};
use crate::record::{Class, Ttl, Version};
use crate::wire::codec::{Reader, WireError};

/// What the key of a signed record is the digest of, before the public key and the salt.
const OWNER_TAG: &[u8] = b"dht-own-1";

/// What is signed, before the fields of the record.
const RECORD_TAG: &[u8] = b"dht-rec-1";

/// Bytes of a signature.
const SIGNATURE_SIZE: usize = 64;

/// Bytes of an envelope besides its salt and its payload.
pub const ENVELOPE_SIZE_MIN: usize = PUBLIC_KEY_SIZE + 8 + 2 + 1 + SIGNATURE_SIZE;

/// The value of a signed record, taken apart; nothing of it is verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Who signed it.
    pub owner: PublicKey,
    /// Which of several values it is: the record's version.
    pub sequence: Version,
    /// How long it lives in all.
    pub ttl: Ttl,
    /// Tells several keys of one owner apart; at most [`SALT_SIZE_MAX`] bytes.
    pub salt: &'a [u8],
    /// What the owner has to say; nothing, if the record deletes those before it.
    pub payload: &'a [u8],
    signature: [u8; SIGNATURE_SIZE],
}

impl<'a> Envelope<'a> {
    /// Takes `value` apart.
    ///
    /// # Errors
    ///
    /// [`Unverified::Layout`] if it is no envelope.
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

    /// The key that its owner may write.
    pub fn key(&self) -> Key {
        owned_key(&self.owner, self.salt)
    }

    /// Whether the owner has signed it. Strict: neither a key of small order nor a second form of
    /// the same signature will do.
    fn is_signed(&self) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(self.owner.as_bytes()).is_ok_and(|owner| {
            owner.verify_strict(&signed_bytes(&self.key(), self.sequence, self.ttl, self.payload), &signature).is_ok()
        })
    }
}

/// The key that the owner of `owner` may write with `salt`.
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

/// The key of a hashed record.
pub fn hashed_key(value: &[u8]) -> Key {
    Key::new(Sha256::digest(value).into())
}

/// Largest payload, in bytes, that an envelope with `salt` can hold.
pub const fn payload_size_max(salt: &[u8]) -> usize {
    VALUE_SIZE_MAX - ENVELOPE_SIZE_MIN - salt.len()
}

/// The value of a signed record: an envelope around `payload`.
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
    value.push(u8::try_from(salt.len()).expect("owned_key has checked it"));
    value.extend_from_slice(salt);
    value.extend_from_slice(&signature.to_bytes());
    value.extend_from_slice(payload);
    value
}

/// Whether a record of `class` is there to delete those before it: whoever reads it is shown nothing.
pub fn deletes(class: Class, value: &[u8]) -> bool {
    class == Class::Signed && Envelope::read(value).is_ok_and(|envelope| envelope.payload.is_empty())
}

/// Verifies what a record claims by its class: nothing, if it is plain. The cheap checks first,
/// the signature last.
///
/// # Errors
///
/// [`Unverified`] if the claim does not hold. Such a record must not be kept, served or passed on.
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

/// Verifies a hashed record: its key is the digest of `value`, and belongs to no owner.
///
/// # Errors
///
/// [`Unverified`] if not.
pub fn verify_hashed(key: &Key, value: &[u8]) -> Result<(), Unverified> {
    if names_an_owner(value) {
        return Err(Unverified::NamesAnOwner);
    }
    let expected = hashed_key(value);
    if expected == *key { Ok(()) } else { Err(Unverified::Key { expected }) }
}

/// The envelope in `value`, verified: for whoever has nothing but the value of a signed record and
/// its key, and so takes version and TTL from the envelope itself.
///
/// # Errors
///
/// [`Unverified`] if it does not verify.
pub fn open<'a>(key: &Key, value: &'a [u8]) -> Result<Envelope<'a>, Unverified> {
    let envelope = Envelope::read(value)?;
    verify(key, Class::Signed, envelope.sequence, envelope.ttl, value)?;
    Ok(envelope)
}

/// Whether `value` is what the key of some owner is the digest of.
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
    /// A signed value is no envelope.
    Layout(WireError),
    /// The salt is longer than [`SALT_SIZE_MAX`] bytes.
    Salt {
        /// The bytes it claims to have.
        found: usize,
    },
    /// The TTL in the envelope is 0.
    NoLife,
    /// The record is under another key than its value belongs to.
    Key {
        /// The key that it belongs to.
        expected: Key,
    },
    /// The version is another one than was signed.
    Sequence {
        /// What was signed.
        sealed: Version,
        /// What the record says.
        found: Version,
    },
    /// The TTL is another one than was signed.
    Ttl {
        /// What was signed.
        sealed: Ttl,
        /// What the record says.
        found: Ttl,
    },
    /// The signature is not the owner's.
    Signature,
    /// A hashed record has a version; it has none but 0.
    HashedVersion {
        /// What the record says.
        found: Version,
    },
    /// A hashed record would sit at the key of an owner.
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
            Self::NamesAnOwner => write!(f, "the key belongs to whoever owns the public key in the value"),
        }
    }
}

impl std::error::Error for Unverified {}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::Verifier;
    use proptest::prelude::*;

    /// RFC 8032, 7.1, test 1: a key that all the world knows.
    const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    /// An envelope of that key and its record's key, made by another program.
    const KNOWN_KEY: &str = "8409e9612de9df5aa80e22a6199bfc313650a4e4d34ef358961e7eaa0d457814";
    const KNOWN: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a 018bcfe568000007 0e10 \
        04 73616c74 f0c0fd27826b1cc9aee3750a6ebfce30f86ee69744115228095c739bcd3b3308 \
        49680ccf73c48ebe60538c707b98e0e8690138b8b1131ab6a3a748dfa56c4604 313233343536373839";

    /// The points whose multiples are few: all encodings of them, also those that are not canonical.
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

    /// The order of the group of signatures, little endian.
    const GROUP_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

    /// Where the fields of an envelope begin; behind the salt length all moves with the salt.
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

    /// A signed record as somebody might present it.
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

        /// The same with `bytes` in its value at `at`.
        fn with(&self, at: usize, bytes: &[u8]) -> Self {
            let mut changed = self.clone();
            changed.value[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        }

        /// The same at the key that its value names.
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
        fn what_is_sealed_verifies_and_is_read_back(
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
        fn no_byte_of_a_signed_record_can_be_changed(
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
        fn no_bytes_of_any_kind_break_the_reader(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let key = Envelope::read(&value).map_or(Key::new([0; 32]), |envelope| envelope.key());
            prop_assert!(open(&key, &value).is_err());
        }

        /// As a hashed record, too, nothing can be changed.
        #[test]
        fn a_hashed_value_belongs_to_its_digest_alone(
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
    fn a_known_envelope_is_made_and_verified() {
        let owner = SigningKey::from_bytes(&hex(SECRET));
        let record = Presented::sealed(&owner, 0x018b_cfe5_6800_0007, ttl(3600), b"salt", b"123456789");
        assert_eq!(record.value, hex::<120>(KNOWN));
        assert_eq!(record.key, Key::new(hex(KNOWN_KEY)));
        assert_eq!(record.verify(), Ok(()));
        let digest = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(hashed_key(b"123456789"), Key::new(hex(digest)));
    }

    #[test]
    fn each_refusal_says_what_was_wrong() {
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

    /// Otherwise whoever knows a public key could sit at its owner's key, without a signature.
    #[test]
    fn a_hashed_record_cannot_sit_at_an_owners_key() {
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
    fn an_envelope_holds_as_much_as_a_value_may_have() {
        let owner = SigningKey::from_bytes(&hex(SECRET));
        for size in [0, SALT_SIZE_MAX] {
            let salt = vec![1; size];
            let record = Presented::sealed(&owner, 1, ttl(1), &salt, &vec![7; payload_size_max(&salt)]);
            assert_eq!(record.value.len(), VALUE_SIZE_MAX);
            assert_eq!(record.verify(), Ok(()));
        }
    }

    // ── forgeries ────────────────────────────────────────────────────────────────────────────

    /// A generator whose sequence nobody will change under this test (`SplitMix64`).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            usize::try_from(self.roll() % bound as u64).expect("below a usize")
        }

        fn bytes<const N: usize>(&mut self) -> [u8; N] {
            std::array::from_fn(|_| self.roll().to_be_bytes()[0])
        }

        fn record(&mut self, owner: &SigningKey) -> Presented {
            let (salt, payload): ([u8; SALT_SIZE_MAX], [u8; 64]) = (self.bytes(), self.bytes());
            let secs = ttl(u16::try_from(1 + self.below(65_535)).expect("16 bits"));
            Presented::sealed(owner, self.roll(), secs, &salt[..self.below(65)], &payload[..self.below(65)])
        }
    }

    /// What a forger who holds `record`, and a key pair of his own, may present instead.
    fn forgeries(record: &Presented, forger: &SigningKey, dice: &mut Dice) -> Vec<(&'static str, Presented)> {
        let signature_at = record.signature_at();
        let payload_at = signature_at + SIGNATURE_SIZE;
        let change = u8::try_from(1 + dice.below(255)).expect("a byte");
        let flip = |at: usize| record.with(at, &[record.value[at] ^ change]);

        let sequence = dice.roll();
        let sequence =
            Presented { version: Version::from_bits(sequence), ..record.with(SEQUENCE_AT, &sequence.to_be_bytes()) };
        let secs = ttl(record.ttl.as_secs() % 65_535 + 1);
        let longer = Presented { ttl: secs, ..record.with(TTL_AT, &secs.as_secs().to_be_bytes()) };
        let another_salt = record.with(SALT_SIZE_AT, &[(record.value[SALT_SIZE_AT] + 1) % 65]);
        let payload = &record.value[payload_at..];
        let resealed = Presented::sealed(forger, record.version.bits(), record.ttl, b"", payload);
        let his_key = record.with(0, PublicKey::of(forger).as_bytes());
        let his_signature = record.with(signature_at, &resealed.value[SALT_AT..SALT_AT + SIGNATURE_SIZE]);
        let cut = Presented { value: record.value[..dice.below(record.value.len())].to_vec(), ..record.clone() };
        let grown = Presented { value: [&record.value[..], &[change]].concat(), ..record.clone() };
        let mut all = vec![
            ("a bad signature", flip(signature_at + dice.below(SIGNATURE_SIZE))),
            ("a signature S + L", plus_group_order(record)),
            ("another sequence", sequence),
            (
                "a sequence that was not signed",
                Presented { version: Version::from_bits(dice.roll()), ..record.clone() },
            ),
            ("another TTL", longer),
            ("a TTL that was not signed", Presented { ttl: secs, ..record.clone() }),
            ("another's record at this key", Presented { key: record.key, ..resealed }),
            ("another's key under this signature", his_key.clone()),
            ("another's key, at his key", his_key.at_its_key()),
            ("another's signature", his_signature),
            ("a replay at another key", Presented { key: Key::new(dice.bytes()), ..record.clone() }),
            ("an end that is missing", cut),
            ("a longer payload", grown),
            ("another salt length", another_salt),
            ("a key of small order", small_order(record, dice)),
        ];
        if signature_at > SALT_AT {
            let salt = flip(SALT_AT + dice.below(signature_at - SALT_AT));
            all.push(("another salt, at its key", salt.at_its_key()));
            all.push(("another salt", salt));
        }
        if payload_at < record.value.len() {
            all.push(("another payload", flip(payload_at + dice.below(record.value.len() - payload_at))));
        }
        all
    }

    /// The signature in its second form: S plus the order of the group.
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

    /// A record of a "key" that signs everything, for those who look at the equation alone.
    fn small_order(record: &Presented, dice: &mut Dice) -> Presented {
        let owner: [u8; 32] = hex(SMALL_ORDER[dice.below(SMALL_ORDER.len())]);
        let mut signature = [0; SIGNATURE_SIZE];
        signature[..32].copy_from_slice(&hex::<32>(SMALL_ORDER[dice.below(SMALL_ORDER.len())]));
        record.with(0, &owner).with(record.signature_at(), &signature).at_its_key()
    }

    /// Whether a verifier that is not strict would take the signature.
    fn satisfies_the_equation(record: &Presented) -> bool {
        let envelope = Envelope::read(&record.value).expect("an envelope");
        let signed = signed_bytes(&record.key, envelope.sequence, envelope.ttl, envelope.payload);
        VerifyingKey::from_bytes(record.owner().as_bytes())
            .is_ok_and(|owner| owner.verify(&signed, &Signature::from_bytes(&envelope.signature)).is_ok())
    }

    #[test]
    fn of_a_hundred_thousand_forgeries_and_replays_none_verifies() {
        let mut dice = Dice(1);
        let (mut tried, mut lax) = (0, 0);
        while tried < 100_000 {
            let (owner, forger) = (SigningKey::from_bytes(&dice.bytes()), SigningKey::from_bytes(&dice.bytes()));
            let record = dice.record(&owner);
            assert_eq!(record.verify(), Ok(()), "what they are forged from");
            for (kind, forged) in forgeries(&record, &forger, &mut dice) {
                assert!(forged.verify().is_err(), "{kind}: {forged:?}");
                tried += 1;
                lax += usize::from(kind == "a key of small order" && satisfies_the_equation(&forged));
            }
        }
        assert!(lax > 0, "some keys of small order must be a danger, or they test nothing");
    }
}
