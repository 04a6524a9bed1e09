//! Verifies the key of the other side in every TLS handshake, as client and as server.
//!
//! Source: `PROTOCOL.md` 5. A key is accepted if it is exactly the 44-byte Ed25519
//! `SubjectPublicKeyInfo`, if its id solves the puzzle, and if it is the expected id. Only a client can
//! expect an id. The signature over the handshake proves that the other side has the secret key.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};

use crate::id::{Key, NodeId};
use crate::identity::{PUBLIC_KEY_SIZE, PublicKey, Puzzle};

/// The 12 bytes before the key in an Ed25519 `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The server name of a peer with an unknown id.
const ANY_ID: &str = "any.invalid";

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// It is not exactly the 44-byte `SubjectPublicKeyInfo` of an Ed25519 key.
    NotEd25519,
    /// The peer has another id than the expected one.
    UnexpectedId {
        /// The id of the peer.
        found: NodeId,
        /// The expected id.
        expected: NodeId,
    },
    /// Its id does not solve the puzzle.
    Puzzle {
        /// Leading zero bits of the id.
        found: u8,
        /// Leading zero bits that are required.
        expected: u8,
    },
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEd25519 => f.write_str("its key is not an Ed25519 key of 44 bytes"),
            Self::UnexpectedId { found, expected } => write!(f, "its id is {found:.8}, expected {expected:.8}"),
            Self::Puzzle { found, expected } => write!(f, "its id shows {found} zero bits, expected {expected}"),
        }
    }
}

impl std::error::Error for KeyFault {}

impl From<KeyFault> for rustls::Error {
    fn from(fault: KeyFault) -> Self {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
    }
}

/// Verifies the key of the other side, for both roles of TLS.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The puzzle that an id must solve.
    pub(super) puzzle: Puzzle,
    /// The accepted signature algorithms.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Verifies `key`, which must be the only certificate, and returns its id.
    fn verify(&self, key: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<NodeId, KeyFault> {
        if !further.is_empty() {
            return Err(KeyFault::NotEd25519);
        }
        let id = public_key(key)?.id();
        if !self.puzzle.is_solved_by(&id) {
            return Err(KeyFault::Puzzle { found: Puzzle::solved_bits(&id), expected: self.puzzle.bits() });
        }
        Ok(id)
    }
}

/// The methods that rustls declares in both traits below.
macro_rules! verify_signatures {
    () => {
        /// TLS 1.2 is not compiled in; the verifier refuses it nevertheless.
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _key: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            if signed.scheme != SignatureScheme::ED25519 {
                return Err(KeyFault::NotEd25519.into());
            }
            let key = SubjectPublicKeyInfoDer::from(key.as_ref());
            verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = self.verify(key, further)?;
        match expected_id(&name.to_str()) {
            Some(expected) if expected != found => Err(KeyFault::UnexpectedId { found, expected }.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    verify_signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(key, further)?;
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures!();
}

/// Encodes the expected id as a server name, which rustls passes to the verifier. A label of a host name
/// has at most 63 characters, so the 64 digits need two labels.
pub(super) fn server_name(expect: Option<&NodeId>) -> String {
    expect.map_or(ANY_ID.to_owned(), |id| {
        let digits = id.to_string();
        let (first, last) = digits.split_at(32);
        format!("{first}.{last}.invalid")
    })
}

/// Decodes the id in a server name; `None` if any id is accepted.
fn expected_id(name: &str) -> Option<NodeId> {
    if name == ANY_ID {
        return None;
    }
    let digits = name.strip_suffix(".invalid").map(|labels| labels.replace('.', ""));
    Some(NodeId::new(digits.and_then(|digits| Key::from_hex(&digits)).expect("server_name wrote it")))
}

/// Encodes `key` as a `SubjectPublicKeyInfo`.
pub(super) fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// Decodes the key in a `SubjectPublicKeyInfo`.
pub(super) fn public_key(spki: &CertificateDer<'_>) -> Result<PublicKey, KeyFault> {
    let key = spki.strip_prefix(&SPKI_PREFIX).and_then(|key| <[u8; PUBLIC_KEY_SIZE]>::try_from(key).ok());
    key.map(PublicKey::new).ok_or(KeyFault::NotEd25519)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_encodes_the_expected_id() {
        let id = PublicKey::new([5; 32]).id();
        assert_eq!(expected_id(&server_name(Some(&id))), Some(id));
        assert_eq!(expected_id(&server_name(None)), None);
        for name in [server_name(Some(&id)), server_name(None)] {
            assert!(ServerName::try_from(name.as_str()).is_ok(), "{name}");
        }
    }

    #[test]
    fn only_the_exact_44_bytes_of_an_ed25519_key_are_accepted() {
        let key = PublicKey::new([5; 32]);
        let whole = spki(&key);
        assert_eq!(whole.len(), 44);
        assert_eq!(public_key(&CertificateDer::from(whole.clone())), Ok(key));
        let longer = [&whole[..], &[0]].concat();
        for wrong in [&whole[..43], &longer[..], &whole[1..], &[]] {
            assert_eq!(public_key(&CertificateDer::from(wrong)), Err(KeyFault::NotEd25519));
        }
        for at in 0..SPKI_PREFIX.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            assert_eq!(public_key(&CertificateDer::from(wrong)), Err(KeyFault::NotEd25519));
        }
    }
}
