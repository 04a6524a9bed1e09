//! The cryptography of TLS: one signature, one key exchange, two ciphers (`PROTOCOL.md` 5).
//!
//! The default provider of rustls also supports RSA and three more curves. The protocol accepts none of
//! them, so they would only add attack surface and memory.

use std::sync::Arc;

use rand::TryRng;
use rand::rngs::SysRng;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use rustls::{Error, SignatureScheme};
use webpki::ring::ED25519;

/// Ed25519, X25519, and AES-128-GCM or ChaCha20-Poly1305.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![kx_group::X25519],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &System,
        key_provider: &Ed25519,
    }
}

/// The signature algorithm of certificates and of handshakes.
static SIGNATURES: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: &[ED25519], mapping: &[(SignatureScheme::ED25519, &[ED25519])] };

/// The operating system's randomness.
#[derive(Debug)]
struct System;

impl SecureRandom for System {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        SysRng.try_fill_bytes(bytes).map_err(|_| GetRandomFailed)
    }
}

/// Loads Ed25519 secret keys in PKCS#8.
#[derive(Debug)]
struct Ed25519;

impl KeyProvider for Ed25519 {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        match key {
            PrivateKeyDer::Pkcs8(key) => any_eddsa_type(&key),
            _ => Err(Error::General("the secret key is not PKCS#8".to_owned())),
        }
    }
}
