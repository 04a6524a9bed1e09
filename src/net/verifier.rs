//! Whose key is good enough: the judgement inside every handshake, on both sides.
//!
//! Source: `PROTOCOL.md` 5. A good key is exactly the 44-byte Ed25519 `SubjectPublicKeyInfo`, its
//! id solves the puzzle, and it is the expected one where somebody was expected. That its owner
//! holds the secret too is checked by the signature over the handshake. Clients and servers are
//! judged alike; only a client can expect anybody.

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

/// What precedes the 32 bytes of the key in an Ed25519 `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The server name of a peer whose id is not known beforehand.
const ANYBODY: &str = "any.invalid";

/// Why a key is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// It is not exactly the 44-byte `SubjectPublicKeyInfo` of an Ed25519 key.
    NotEd25519,
    /// Another node was expected.
    Stranger {
        /// Who was met.
        found: NodeId,
        /// Who was expected.
        expected: NodeId,
    },
    /// Its id does not solve the puzzle.
    Puzzle {
        /// Zero bits it has to show.
        found: u8,
        /// Zero bits that are asked for.
        expected: u8,
    },
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEd25519 => f.write_str("its key is not an Ed25519 key of 44 bytes"),
            Self::Stranger { found, expected } => write!(f, "its id is {found:.8}, expected {expected:.8}"),
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

/// Judges the key of the other side, whichever side that is.
#[derive(Debug)]
pub(super) struct Verifier {
    /// What an id must solve.
    pub(super) puzzle: Puzzle,
    /// How signatures are checked.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn judge(&self, key: &CertificateDer<'_>, beside: &[CertificateDer<'_>]) -> Result<NodeId, KeyFault> {
        if !beside.is_empty() {
            return Err(KeyFault::NotEd25519);
        }
        let id = public_key(key)?.id();
        if !self.puzzle.is_solved_by(&id) {
            return Err(KeyFault::Puzzle { found: Puzzle::solved_bits(&id), expected: self.puzzle.bits() });
        }
        Ok(id)
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(KeyFault::NotEd25519.into());
        }
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signed,
            &self.algorithms,
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = self.judge(key, beside)?;
        match expected_id(&name.to_str()) {
            Some(expected) if expected != found => Err(KeyFault::Stranger { found, expected }.into()),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        beside: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(key, beside)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// TLS 1.2 is not even compiled in; the verifier refuses it all the same.
fn no_tls12() -> rustls::Error {
    PeerIncompatible::SupportedVersionsExtensionRequired.into()
}

/// How the expected id travels to the verifier: a label of a host name holds 63 letters, so the
/// 64 digits take two.
pub(super) fn server_name(expect: Option<&NodeId>) -> String {
    expect.map_or(ANYBODY.to_owned(), |id| {
        let digits = id.to_string();
        let (first, last) = digits.split_at(32);
        format!("{first}.{last}.invalid")
    })
}

/// The id in a server name; `None` where anybody will do.
fn expected_id(name: &str) -> Option<NodeId> {
    if name == ANYBODY {
        return None;
    }
    let digits = name.strip_suffix(".invalid").map(|labels| labels.replace('.', ""));
    Some(NodeId::new(digits.and_then(|digits| Key::from_hex(&digits)).expect("server_name wrote it")))
}

/// `key` as TLS carries it.
pub(super) fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// The key that TLS carried.
pub(super) fn public_key(spki: &CertificateDer<'_>) -> Result<PublicKey, KeyFault> {
    let key = spki.strip_prefix(&SPKI_PREFIX).and_then(|key| <[u8; PUBLIC_KEY_SIZE]>::try_from(key).ok());
    key.map(PublicKey::new).ok_or(KeyFault::NotEd25519)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_id_travels_in_a_name_and_comes_out_whole() {
        let id = PublicKey::new([5; 32]).id();
        assert_eq!(expected_id(&server_name(Some(&id))), Some(id));
        assert_eq!(expected_id(&server_name(None)), None);
        for name in [server_name(Some(&id)), server_name(None)] {
            assert!(ServerName::try_from(name.as_str()).is_ok(), "{name}");
        }
    }

    #[test]
    fn only_the_44_bytes_of_an_ed25519_key_are_one() {
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
