//! The TLS of `PROTOCOL.md` 5, implemented a second time from the document and not from `src/net/tls.rs`,
//! so that a fault is not repeated here.
//!
//! Unlike a node this side accepts every key: each test checks the id itself. It can also speak TLS
//! incorrectly, see [`Dialect`].

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rustls::client::ClientSessionMemoryCache;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, client, server,
};
use sha2::{Digest, Sha256};

use crate::scripted_peer::message::unhex;

/// SHA-256 of something.
pub(crate) type Hash = [u8; 32];

/// The bytes before a public key: SEQUENCE { SEQUENCE { 1.3.101.112 }, BIT STRING }.
const SPKI_HEAD: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// The bytes before a secret key: SEQUENCE { 0, SEQUENCE { 1.3.101.112 }, OCTET STRING { OCTET STRING }
/// }.
const PKCS8_HEAD: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// A self-signed certificate of `CN=peer.invalid`, made by another program with the secret key of 32
/// sevens.
const CERTIFICATE: &str = "308201493081fca003020102020101300506032b657030173115301306035504030c0c706565722e696e76616c6964\
    3020170d3236313132313032303435345a180f32313236313032383032303435345a30173115301306035504030c0c706565722e696e7661\
    6c6964302a300506032b6570032100ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22ca36b3069301d060355\
    1d0e041604144c5ece4023a0341ee2acffcc4d17154a854f02e5301f0603551d230418301680144c5ece4023a0341ee2acffcc4d17154a85\
    4f02e5300f0603551d130101ff040530030101ff30160603551d11040f300d820b616e792e696e76616c6964300506032b65700341007fe6\
    5459b35f622fee820a215f953e3359e8d5f29e49cbccb3174410f814eadf4e696769d4babf4b663752a9fc6db88cb5651cb5098760d6d2cb\
    70065524d70e";

/// SHA-256 of `bytes`.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The puzzle bits of an id.
pub(crate) fn puzzle_bits(id: &Hash) -> u32 {
    let digest = hash(id);
    let zeros = digest.iter().take_while(|byte| **byte == 0).count();
    8 * u32::try_from(zeros).expect("at most 32") + digest.get(zeros).map_or(0, |byte| byte.leading_zeros())
}

/// A node's key pair.
#[derive(Clone, Copy)]
pub(crate) struct KeyPair {
    secret: [u8; 32],
    public: [u8; 32],
}

impl KeyPair {
    fn of(secret: [u8; 32]) -> Self {
        Self { secret, public: SigningKey::from_bytes(&secret).verifying_key().to_bytes() }
    }

    /// An endless sequence of keys for `name`, the same in every run.
    pub(crate) fn named(name: &str) -> impl Iterator<Item = Self> {
        let seed = hash(name.as_bytes());
        (0_u64..).map(move |number| Self::of(hash(&[&seed[..], &number.to_be_bytes()].concat())))
    }

    /// The node id that this key proves.
    pub(crate) fn id(&self) -> Hash {
        hash(&self.public)
    }

    /// The key as TLS sends it: in `certificate`, or raw (RFC 7250).
    fn shown(&self, certificate: Option<CertificateDer<'static>>) -> Arc<CertifiedKey> {
        let raw = || [SPKI_HEAD, &self.public].concat().into();
        let secret = PrivatePkcs8KeyDer::from([PKCS8_HEAD, &self.secret].concat());
        let signing = ring::sign::any_eddsa_type(&secret).expect("an Ed25519 key");
        Arc::new(CertifiedKey::new(vec![certificate.unwrap_or_else(raw)], signing))
    }
}

/// How a peer speaks TLS.
#[derive(Clone)]
pub(crate) struct Dialect {
    pub(crate) proof: Proof,
    pub(crate) alpn: &'static [&'static str],
    pub(crate) provider: CryptoProvider,
    /// The session tickets that it has received.
    pub(crate) tickets: Arc<ClientSessionMemoryCache>,
}

/// How a peer proves its id.
#[derive(Clone)]
pub(crate) enum Proof {
    /// As a node does.
    RawKey(KeyPair),
    /// By an X.509 certificate.
    Certificate,
    /// Not at all. Only the side that dials can do this: the other side must send a key.
    Nothing,
}

impl Dialect {
    /// As a node speaks it.
    pub(crate) fn of_node(key: &KeyPair) -> Self {
        Self {
            proof: Proof::RawKey(*key),
            alpn: &["dht/1"],
            provider: ring::default_provider(),
            tickets: Arc::new(ClientSessionMemoryCache::new(8)),
        }
    }

    /// The configuration of sessions that this peer opens.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyKey(self.proof.clone())))
            .with_client_cert_resolver(Arc::new(self.proof.clone()));
        config.alpn_protocols = self.protocols();
        config.enable_sni = false;
        config.resumption = client::Resumption::store(self.tickets.clone());
        Arc::new(config)
    }

    /// The configuration of sessions that this peer accepts, with `tickets` tickets in each.
    pub(crate) fn server(&self, tickets: usize) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(AnyKey(self.proof.clone())))
            .with_cert_resolver(Arc::new(self.proof.clone()));
        config.alpn_protocols = self.protocols();
        config.send_tls13_tickets = tickets;
        Arc::new(config)
    }

    fn protocols(&self) -> Vec<Vec<u8>> {
        self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
    }
}

/// The server name with which a peer dials a node that it does not know yet.
pub(crate) fn any_name() -> ServerName<'static> {
    ServerName::try_from("any.invalid").expect("a host name")
}

impl Proof {
    fn key(&self) -> Option<Arc<CertifiedKey>> {
        match self {
            Proof::RawKey(key) => Some(key.shown(None)),
            Proof::Certificate => Some(KeyPair::of([7; 32]).shown(Some(unhex(CERTIFICATE).into()))),
            Proof::Nothing => None,
        }
    }

    fn is_raw(&self) -> bool {
        matches!(self, Proof::RawKey(_))
    }
}

/// Without the secret key.
impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof")
    }
}

impl client::ResolvesClientCert for Proof {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn only_raw_public_keys(&self) -> bool {
        self.is_raw()
    }

    fn has_certs(&self) -> bool {
        !matches!(self, Proof::Nothing)
    }
}

impl server::ResolvesServerCert for Proof {
    fn resolve(&self, _hello: server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn only_raw_public_keys(&self) -> bool {
        self.is_raw()
    }
}

/// Accepts every key whose owner can sign with it. It asks for a raw key unless its own side uses a
/// certificate.
#[derive(Debug)]
struct AnyKey(Proof);

impl AnyKey {
    fn wants_raw_keys(&self) -> bool {
        !matches!(self.0, Proof::Certificate)
    }

    fn check(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.wants_raw_keys() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key.as_ref()), signed, &algorithms)
    }
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _key: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("only TLS 1.3 is compiled in")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.wants_raw_keys()
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _key: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("only TLS 1.3 is compiled in")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.wants_raw_keys()
    }
}
