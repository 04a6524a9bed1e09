//! TLS sessions that verify the id of the peer.
//!
//! Source: `PROTOCOL.md` 5. TLS 1.3 only, both sides with raw public keys (RFC 7250), X25519,
//! AES-128-GCM or ChaCha20-Poly1305, ALPN `dht/1`. Session resumption and early data are disabled, since
//! both bypass the verifier.
//!
//! A [`Session`] has no socket: the caller passes encrypted bytes in and out, and decrypted bytes leave in
//! the same call.
//!
//! Guarantee: [`Session::peer`] is `Some` only after the handshake is complete *and* the ALPN was agreed.
//! rustls itself accepts a peer without ALPN. No plaintext leaves the session before that.
//!
//! In TLS 1.3 the client completes the handshake before the server has verified the client. So a dialler
//! can have a verified peer that refuses it; the first message after the handshake tells.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use rustls::client::{AlwaysResolvesClientRawPublicKeys, ClientConfig, Resumption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConnection, Connection, InconsistentKeys, OtherError, ServerConnection};

use crate::id::NodeId;
use crate::identity::{Identity, Puzzle};
use crate::net::provider::provider;
use crate::net::verifier::{KeyFault, Verifier, public_key, server_name, spki};

/// The application protocol that both sides must agree on.
const ALPN: &[u8] = b"dht/1";

/// Bytes of TLS records that may wait for one socket. Further plaintext waits in the outbox.
const TLS_BUFFER_MAX: usize = 64 << 10;

/// The TLS configurations of this node.
pub(super) struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Configurations that present the key of `identity` and require that the peer's id solves `puzzle`.
    ///
    /// # Errors
    ///
    /// If the secret key of `identity` is invalid or does not match its public key.
    pub(super) fn new(identity: &Identity, puzzle: Puzzle) -> Result<Self, rustls::Error> {
        let provider = Arc::new(provider());
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.pkcs8().to_vec()));
        let signing = provider.key_provider.load_private_key(secret)?;
        let public = spki(identity.public());
        if signing.public_key().is_none_or(|of_secret| of_secret.as_ref() != public) {
            return Err(InconsistentKeys::KeyMismatch.into());
        }
        let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], signing));
        let verifier = Arc::new(Verifier { puzzle, algorithms: provider.signature_verification_algorithms });

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own.clone())));
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_early_data = false;
        client.enable_sni = false;

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// A session for a connection that this node dialled. The peer must have the id `expect`.
    pub(super) fn dial(&self, expect: Option<&NodeId>) -> Session {
        let name = ServerName::try_from(server_name(expect)).expect("hex digits and letters make a host name");
        let tls = ClientConnection::new(self.client.clone(), name).expect("the configuration is valid");
        Session::new(tls.into())
    }

    /// A session for a connection that a peer dialled.
    pub(super) fn accept(&self) -> Session {
        Session::new(ServerConnection::new(self.server.clone()).expect("the configuration is valid").into())
    }
}

/// One end of a TLS connection.
pub(super) struct Session {
    tls: Connection,
    peer: Option<NodeId>,
    has_ended: bool,
}

impl Session {
    fn new(mut tls: Connection) -> Self {
        tls.set_buffer_limit(Some(TLS_BUFFER_MAX));
        Self { tls, peer: None, has_ended: false }
    }

    /// The id of the peer, once it is verified.
    pub(super) fn peer(&self) -> Option<NodeId> {
        self.peer
    }

    /// Decrypts `bytes` and appends the plaintext to `inbox`.
    ///
    /// # Errors
    ///
    /// [`TlsFault`] of the peer. Then the caller must write the output, which may have an alert, and close
    /// the connection. Plaintext before the fault is in `inbox`.
    pub(super) fn receive(&mut self, mut bytes: &[u8], inbox: &mut Vec<u8>) -> Result<(), TlsFault> {
        // After a close_notify, rustls reads no more bytes.
        while !bytes.is_empty() {
            match self.tls.read_tls(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(TlsFault::Overlong),
            }
            let state = self.tls.process_new_packets().map_err(TlsFault::from);
            // The last bytes of the handshake may be followed by plaintext, of a peer that is refused.
            self.identify_peer()?;
            self.take_plaintext(inbox);
            self.has_ended = state?.peer_has_closed();
        }
        Ok(())
    }

    /// Whether the peer has announced the end of its output.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Encrypts the start of `plaintext`, up to the bound of the buffer; returns its length, which is 0
    /// after a fault.
    pub(super) fn send(&mut self, plaintext: &[u8]) -> usize {
        self.tls.writer().write(plaintext).unwrap_or(0)
    }

    /// Announces the end of the output to the peer.
    pub(super) fn close(&mut self) {
        self.tls.send_close_notify();
    }

    /// Whether there are encrypted bytes to write.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Writes encrypted bytes to `wire`, not necessarily all.
    ///
    /// # Errors
    ///
    /// Those of `wire`.
    pub(super) fn write_to(&mut self, wire: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(wire)
    }

    fn take_plaintext(&mut self, inbox: &mut Vec<u8>) {
        let mut reader = self.tls.reader();
        // An error only means that there is no more plaintext for now.
        while let Ok(chunk) = reader.fill_buf() {
            let len = chunk.len();
            if len == 0 {
                return;
            }
            inbox.extend_from_slice(chunk);
            reader.consume(len);
        }
    }

    /// Stores the id of the peer when the handshake is complete.
    fn identify_peer(&mut self) -> Result<(), TlsFault> {
        if self.peer.is_some() || self.tls.is_handshaking() {
            return Ok(());
        }
        if self.tls.alpn_protocol() != Some(ALPN) {
            return Err(TlsFault::NoAlpn);
        }
        let key = self.tls.peer_certificates().and_then(<[_]>::first).ok_or(KeyFault::NotEd25519);
        self.peer = Some(key.and_then(public_key).map_err(TlsFault::Key)?.id());
        Ok(())
    }
}

/// What the peer of a session did wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TlsFault {
    /// Its key was refused.
    Key(KeyFault),
    /// It did not agree on the ALPN.
    NoAlpn,
    /// It sent a record that is longer than TLS allows.
    Overlong,
    /// It refused this node.
    Alert(rustls::AlertDescription),
    /// It violated TLS or this network's profile of it.
    Tls(rustls::Error),
}

impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ref inner))) => {
                inner.downcast_ref::<KeyFault>().map_or(Self::Tls(error.clone()), |fault| Self::Key(*fault))
            }
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            error => Self::Tls(error),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(fault) => fault.fmt(f),
            Self::NoAlpn => f.write_str("it did not agree on ALPN dht/1"),
            Self::Overlong => f.write_str("it sent a message longer than TLS allows"),
            Self::Alert(alert) => write!(f, "it sent the alert {alert:?}"),
            Self::Tls(rustls::Error::InvalidMessage(what)) => write!(f, "not TLS: {what:?}"),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::identity::PublicKey;
    use ed25519_dalek::SigningKey;
    use ed25519_dalek::pkcs8::{EncodePrivateKey, KeypairBytes};
    use rustls::{HandshakeKind, PeerIncompatible, RootCertStore};

    const NO_PUZZLE: Puzzle = Puzzle::new(0);

    /// The identity whose secret is `byte`, 32 times.
    pub(in crate::net) fn identity(byte: u8) -> Identity {
        let key = SigningKey::from_bytes(&[byte; 32]);
        let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
        let der = pair.to_pkcs8_der().expect("a secret key can be encoded");
        Identity::new(der.as_bytes().to_vec(), PublicKey::new(key.verifying_key().to_bytes()))
    }

    fn tls(byte: u8, puzzle: Puzzle) -> Tls {
        Tls::new(&identity(byte), puzzle).expect("a valid key pair")
    }

    /// One end of a connection in memory.
    struct End {
        session: Session,
        inbox: Vec<u8>,
        fault: Option<TlsFault>,
    }

    impl End {
        fn new(session: Session) -> Self {
            Self { session, inbox: Vec::new(), fault: None }
        }

        /// A dialler with a `config` that differs from a node's.
        fn with_config(config: ClientConfig) -> Self {
            let name = ServerName::try_from(server_name(None)).expect("a name");
            Self::new(Session::new(ClientConnection::new(Arc::new(config), name).expect("a client").into()))
        }

        fn written(&mut self) -> Vec<u8> {
            let mut wire = Vec::new();
            while self.session.wants_write() {
                self.session.write_to(&mut wire).expect("a vector accepts all bytes");
            }
            wire
        }

        fn receive(&mut self, bytes: &[u8]) {
            if self.fault.is_none() {
                self.fault = self.session.receive(bytes, &mut self.inbox).err();
            }
        }
    }

    /// Exchanges bytes in both directions until neither side has output.
    fn exchange(dialler: &mut End, acceptor: &mut End) {
        loop {
            let (there, back) = (dialler.written(), acceptor.written());
            if there.is_empty() && back.is_empty() {
                return;
            }
            acceptor.receive(&there);
            dialler.receive(&back);
        }
    }

    /// The fault that node number 2 finds in `dialler`.
    fn fault_of(mut dialler: End) -> Option<TlsFault> {
        let mut acceptor = End::new(tls(2, NO_PUZZLE).accept());
        exchange(&mut dialler, &mut acceptor);
        assert_eq!(acceptor.fault.is_none(), acceptor.session.peer().is_some(), "verified or refused");
        acceptor.fault
    }

    #[test]
    fn both_sides_verify_the_id_of_the_other_and_exchange_bytes() {
        let mut dialler = End::new(tls(1, NO_PUZZLE).dial(Some(&identity(2).id())));
        let mut acceptor = End::new(tls(2, NO_PUZZLE).accept());
        exchange(&mut dialler, &mut acceptor);
        assert_eq!(dialler.session.peer(), Some(identity(2).id()));
        assert_eq!(acceptor.session.peer(), Some(identity(1).id()));

        let long = vec![7; 50_000];
        assert_eq!(dialler.session.send(&long), long.len());
        assert_eq!(acceptor.session.send(b"short"), 5);
        exchange(&mut dialler, &mut acceptor);
        assert_eq!((acceptor.inbox, dialler.inbox), (long, b"short".to_vec()));
        assert_eq!((dialler.fault, acceptor.fault), (None, None));
    }

    #[test]
    fn no_plaintext_of_a_refused_peer_leaves_the_session() {
        let mut config = Arc::unwrap_or_clone(tls(1, NO_PUZZLE).client);
        config.alpn_protocols.clear();
        let (mut dialler, mut acceptor) = (End::with_config(config), End::new(tls(2, NO_PUZZLE).accept()));
        acceptor.receive(&dialler.written());
        dialler.receive(&acceptor.written());
        assert_eq!(dialler.session.send(b"a message"), 9, "the dialler has completed the handshake");
        acceptor.receive(&dialler.written());
        assert_eq!((acceptor.fault, acceptor.inbox), (Some(TlsFault::NoAlpn), Vec::new()));
    }

    #[test]
    fn no_id_is_verified_before_the_last_byte_of_the_handshake() {
        let mut dialler = End::new(tls(1, NO_PUZZLE).dial(None));
        let mut acceptor = End::new(tls(2, NO_PUZZLE).accept());
        acceptor.receive(&dialler.written());
        dialler.receive(&acceptor.written());
        assert_eq!(dialler.session.peer(), Some(identity(2).id()), "the dialler completes the handshake first");
        let last = dialler.written();
        for byte in &last[..last.len() - 1] {
            acceptor.receive(&[*byte]);
            assert_eq!(acceptor.session.peer(), None);
        }
        acceptor.receive(&last[last.len() - 1..]);
        assert_eq!(acceptor.session.peer(), Some(identity(1).id()));
    }

    #[test]
    fn a_session_encrypts_no_more_than_its_buffer_has_room_for() {
        let mut dialler = End::new(tls(1, NO_PUZZLE).dial(None));
        let mut acceptor = End::new(tls(2, NO_PUZZLE).accept());
        exchange(&mut dialler, &mut acceptor);
        let taken = dialler.session.send(&vec![0; 2 * TLS_BUFFER_MAX]);
        assert!(taken <= TLS_BUFFER_MAX, "{taken} bytes taken");
        assert_eq!(dialler.session.send(b"more"), 0);
    }

    #[test]
    fn a_peer_with_an_unexpected_id_is_refused() {
        let (found, expected) = (identity(2).id(), identity(3).id());
        let mut dialler = End::new(tls(1, NO_PUZZLE).dial(Some(&expected)));
        let mut acceptor = End::new(tls(2, NO_PUZZLE).accept());
        exchange(&mut dialler, &mut acceptor);
        assert_eq!(dialler.fault, Some(TlsFault::Key(KeyFault::UnexpectedId { found, expected })));
        assert!(matches!(acceptor.fault, Some(TlsFault::Alert(_))), "{:?}", acceptor.fault);
        assert_eq!((dialler.session.peer(), acceptor.session.peer()), (None, None));
    }

    #[test]
    fn an_id_that_does_not_solve_the_puzzle_is_refused_by_both_sides() {
        let shown = Puzzle::solved_bits(&identity(1).id());
        let wanted = Puzzle::new(shown + 1);
        let fault = Some(TlsFault::Key(KeyFault::Puzzle { found: shown, expected: shown + 1 }));

        let mut dialler = End::new(tls(1, NO_PUZZLE).dial(None));
        let mut acceptor = End::new(tls(2, wanted).accept());
        exchange(&mut dialler, &mut acceptor);
        assert_eq!(acceptor.fault, fault);

        let mut dialler = End::new(tls(2, wanted).dial(None));
        let mut acceptor = End::new(tls(1, NO_PUZZLE).accept());
        exchange(&mut dialler, &mut acceptor);
        assert_eq!(dialler.fault, fault);
    }

    #[test]
    fn a_key_without_its_secret_key_is_refused() {
        let valid = tls(1, NO_PUZZLE);
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity(1).pkcs8().to_vec()));
        let signing = provider().key_provider.load_private_key(secret).expect("a key");
        let swapped = CertifiedKey::new(vec![CertificateDer::from(spki(identity(3).public()))], signing);
        let mut config = (*valid.client).clone();
        config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(swapped)));
        assert!(matches!(fault_of(End::with_config(config)), Some(TlsFault::Tls(_))));
    }

    #[test]
    fn a_secret_key_of_another_public_key_is_refused() {
        let mixed = Identity::new(identity(1).pkcs8().to_vec(), *identity(2).public());
        assert!(Tls::new(&mixed, NO_PUZZLE).is_err());
    }

    #[test]
    fn a_peer_without_the_alpn_is_refused() {
        let with_alpn = |alpn: &[&[u8]]| {
            let mut config = (*tls(1, NO_PUZZLE).client).clone();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            fault_of(End::with_config(config))
        };
        assert_eq!(with_alpn(&[b"dht/1"]), None);
        assert_eq!(with_alpn(&[]), Some(TlsFault::NoAlpn));
        assert_eq!(with_alpn(&[b"http/1.1"]), Some(TlsFault::Tls(rustls::Error::NoApplicationProtocol)));

        let mut config = (*tls(2, NO_PUZZLE).server).clone();
        config.alpn_protocols.clear();
        let mut acceptor = End::new(Session::new(ServerConnection::new(Arc::new(config)).expect("a server").into()));
        let mut dialler = End::new(tls(1, NO_PUZZLE).dial(None));
        exchange(&mut dialler, &mut acceptor);
        assert_eq!(dialler.fault, Some(TlsFault::NoAlpn), "the dialler verifies the ALPN too");
    }

    #[test]
    fn x509_certificates_are_refused() {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let fault = fault_of(End::with_config(config)).expect("refused");
        let expected = rustls::Error::PeerIncompatible(PeerIncompatible::IncorrectCertificateTypeExtension);
        assert_eq!(fault, TlsFault::Tls(expected));
    }

    #[test]
    fn bytes_other_than_tls_1_3_are_refused_with_at_most_an_alert() {
        let refused = |bytes: &[u8]| {
            let mut acceptor = End::new(tls(2, NO_PUZZLE).accept());
            acceptor.receive(bytes);
            assert!(acceptor.session.peer().is_none());
            let answer = acceptor.written();
            assert!(answer.is_empty() || answer[0] == 0x15, "an alert record: {answer:02x?}");
            acceptor.fault.expect("refused")
        };
        assert!(matches!(refused(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), TlsFault::Tls(_)));
        assert!(matches!(refused(&[0; 64]), TlsFault::Tls(_)));
        assert!(matches!(refused(&tls12_hello()), TlsFault::Tls(rustls::Error::PeerIncompatible(_))));
    }

    /// The `ClientHello` of a peer that supports only TLS 1.2 (RFC 5246, section 7.4.1.2).
    fn tls12_hello() -> Vec<u8> {
        let groups = [0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x1d]; // X25519
        let signatures = [0x00, 0x0d, 0, 4, 0, 2, 0x08, 0x07]; // Ed25519
        let mut body = vec![0x03, 0x03];
        body.extend([0x42; 32]); // random
        body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session; ECDHE with AES-128; no compression
        body.extend([0, 16]);
        body.extend(groups);
        body.extend(signatures);
        let len = u8::try_from(body.len()).expect("a short hello");
        let mut record = vec![0x16, 0x03, 0x01, 0, len + 4, 0x01, 0, 0, len];
        record.extend(body);
        record
    }

    #[test]
    fn sessions_are_never_resumed() {
        let mut config = (*tls(1, NO_PUZZLE).client).clone();
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let acceptors = tls(2, NO_PUZZLE);
        for attempt in 1..=2 {
            let name = ServerName::try_from(server_name(None)).expect("a name");
            let connection = ClientConnection::new(config.clone(), name).expect("a client");
            let mut dialler = End::new(Session::new(connection.into()));
            let mut acceptor = End::new(acceptors.accept());
            exchange(&mut dialler, &mut acceptor);
            assert_eq!(acceptor.session.tls.handshake_kind(), Some(HandshakeKind::Full), "attempt {attempt}");
            assert_eq!(dialler.session.tls.handshake_kind(), Some(HandshakeKind::Full), "attempt {attempt}");
        }
    }
}
