//! The identity of a node: its key pair, the node id derived from it, and the puzzle that limits how many
//! ids a peer can make.
//!
//! Source: `PROTOCOL.md` 5. These types are shared by all who use Ed25519 keys: `disk` stores the node's
//! own key pair, `net` proves the ids of peers, and owners of signed records have keys of their own. This
//! module draws no key, reads no file and verifies no signature.

use std::fmt;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::der::zeroize::Zeroizing;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use sha2::{Digest, Sha256};

use crate::id::{Key, NodeId};

/// Size of an Ed25519 public key, in bytes.
pub const PUBLIC_KEY_SIZE: usize = 32;

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY_SIZE]);

impl PublicKey {
    /// The key with these bytes. They are not checked: perhaps no secret key belongs to them.
    pub const fn new(bytes: [u8; PUBLIC_KEY_SIZE]) -> Self {
        Self(bytes)
    }

    /// The public key of the key pair `key`.
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }

    /// Reads 64 hex digits in upper or lower case; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        Key::from_hex(text).map(|digits| Self(*digits.as_bytes()))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; PUBLIC_KEY_SIZE] {
        &self.0
    }

    /// The id of the node that owns this key: SHA-256 of its bytes.
    pub fn id(&self) -> NodeId {
        NodeId::new(Key::new(Sha256::digest(self.0).into()))
    }
}

/// Writes 64 hex digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Key::new(self.0).fmt(f)
    }
}

/// The text of a key file: PKCS#8 in PEM (RFC 8410). The memory of the text is wiped when it is dropped.
pub fn key_to_pem(key: &SigningKey) -> Zeroizing<String> {
    // Version 1 of PKCS#8, without the public key: all tools can read this form.
    let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
    pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes of a secret can be written as PKCS#8")
}

/// The Ed25519 key in the text of a key file; `None` if the text is anything else.
pub fn key_from_pem(text: &str) -> Option<SigningKey> {
    SigningKey::from_pkcs8_pem(text).ok()
}

/// The static puzzle (S/Kademlia, section 4.1): SHA-256 of a node id must begin with a number of zero bits.
/// So each id costs work, and a peer cannot choose a position in the key space for free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Puzzle {
    bits: u8,
}

impl Puzzle {
    /// The puzzle of `bits` leading zero bits; with 0 every id solves it.
    pub const fn new(bits: u8) -> Self {
        Self { bits }
    }

    /// The leading zero bits that the puzzle demands.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The leading zero bits of SHA-256 of `id`, at most 255.
    pub fn solved_bits(id: &NodeId) -> u8 {
        let digest = Sha256::digest(id.key().as_bytes());
        let mut bits = 0_u8;
        for byte in digest {
            bits = bits.saturating_add(u8::try_from(byte.leading_zeros()).expect("a byte has 8 bits"));
            if byte != 0 {
                break;
            }
        }
        bits
    }

    /// Whether `id` solves the puzzle.
    pub fn is_solved_by(self, id: &NodeId) -> bool {
        Self::solved_bits(id) >= self.bits
    }
}

/// The key pair of this node.
pub struct Identity {
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl Identity {
    /// The identity with the secret key `pkcs8` (PKCS#8, DER) and its public key `public`.
    pub fn new(pkcs8: Vec<u8>, public: PublicKey) -> Self {
        Self { pkcs8, public }
    }

    /// The secret key (PKCS#8, DER).
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The id of the node.
    pub fn id(&self) -> NodeId {
        self.public.id()
    }
}

/// Prints the id and never the secret key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_the_sha_256_of_the_public_key() {
        let id = PublicKey::new([0; 32]).id();
        assert_eq!(id.to_string(), "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925");
    }

    #[test]
    fn a_public_key_is_written_and_read_as_64_hex_digits() {
        let key = PublicKey::new(std::array::from_fn(|at| u8::try_from(at).expect("32 bytes")));
        let text = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(key.to_string(), text);
        assert_eq!(PublicKey::from_hex(&text.to_uppercase()), Some(key));
        assert_eq!(PublicKey::from_hex(&text[1..]), None);
    }

    /// RFC 8410, section 10.3: the example without the public key.
    #[test]
    fn a_key_file_has_the_pem_form_of_rfc_8410() {
        let text = "-----BEGIN PRIVATE KEY-----\n\
                    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                    -----END PRIVATE KEY-----\n";
        let key = key_from_pem(text).expect("an Ed25519 key");
        assert_eq!(key_to_pem(&key).as_str(), text);
        let public = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        assert_eq!(PublicKey::of(&key).to_string(), public);
        assert!(key_from_pem(&text.replace("MC4", "MC5")).is_none());
        assert!(key_from_pem("-----BEGIN RSA PRIVATE KEY-----\nMAoCAQACAQECAQM=\n").is_none());
    }

    #[test]
    fn the_puzzle_counts_the_leading_zero_bits_of_the_hash_of_the_id() {
        let solved = |tail: u16| {
            let mut bytes = [0; 32];
            bytes[30..].copy_from_slice(&tail.to_be_bytes());
            NodeId::new(Key::new(bytes))
        };
        for id in (0..1000).map(solved) {
            let digest = Sha256::digest(id.key().as_bytes());
            let first = u32::from_be_bytes(*digest.first_chunk().expect("32 bytes"));
            assert_eq!(u32::from(Puzzle::solved_bits(&id)), first.leading_zeros(), "{id}");
            assert!(Puzzle::new(Puzzle::solved_bits(&id)).is_solved_by(&id));
            assert!(!Puzzle::new(Puzzle::solved_bits(&id) + 1).is_solved_by(&id));
            assert!(Puzzle::new(0).is_solved_by(&id));
        }
    }

    #[test]
    fn the_debug_form_of_an_identity_hides_the_secret_key() {
        let identity = Identity::new(vec![42; 48], PublicKey::new([7; 32]));
        assert!(!format!("{identity:?}").contains("42, 42"));
    }
}
