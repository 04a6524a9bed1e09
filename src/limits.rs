//! Every bound of the house, with its reason, and the proof that they fit together.
//!
//! What a user may set stands in `node::params::Params` and in the hosts' options;
//! here stands what follows from the protocol or guards the process whatever the configuration
//! says. A number with a unit carries it in its name or its type.

use std::time::Duration;

use crate::id::KEY_SIZE;

// ── layouts (`PROTOCOL.md` 1 and 2) ──────────────────────────────────────────────────────────

/// Header of every message: u16 size, u16 type.
pub const HEADER_SIZE: usize = 4;

/// Largest message that the 16-bit size can announce, header included.
pub const FRAME_SIZE_MAX: usize = u16::MAX as usize;

/// Header of the long form: u16 zero, u16 type, u32 size.
pub const LONG_HEADER_SIZE: usize = 8;

/// What a DHT PUT carries between header and key: TTL, replication, flags.
pub const PUT_FIELDS_SIZE: usize = 4;

/// The id of a request between peers: 256 random bits.
pub const RPC_ID_SIZE: usize = 32;

/// The record block without its value.
pub const RECORD_FIELDS_SIZE: usize = 52;

/// A contact on the wire: address 16, port 2, node id 32.
pub const CONTACT_SIZE: usize = 50;

/// An entry on the wire: key 32, flags 1, version 8, check 4.
pub const ENTRY_SIZE: usize = 45;

/// Largest value of a record, in bytes: what one DHT PUT can carry.
///
/// A STORE of such a value is longer than a 16-bit size can say, which is why the peer port has
/// a long form; DHT SUCCESS has four bytes to spare.
pub const VALUE_SIZE_MAX: usize = FRAME_SIZE_MAX - HEADER_SIZE - PUT_FIELDS_SIZE - KEY_SIZE;

/// Contacts in one message: the largest k.
pub const CONTACTS_MAX: usize = 20;

/// Entries in one OFFER or SYNC REPLY, keys in one WANT.
pub const ENTRIES_MAX: usize = 500;

/// Longest agent text of a HELLO, in bytes.
pub const AGENT_SIZE_MAX: usize = 64;

/// Largest message between peers: a FIND VALUE REPLY with all contacts and the largest value.
pub const PEER_MESSAGE_SIZE_MAX: usize = 66_588;

const _: () = {
    assert!(VALUE_SIZE_MAX == 65_495);
    assert!(HEADER_SIZE + KEY_SIZE + VALUE_SIZE_MAX <= FRAME_SIZE_MAX);
    assert!(LONG_HEADER_SIZE + RPC_ID_SIZE + RECORD_FIELDS_SIZE + VALUE_SIZE_MAX <= PEER_MESSAGE_SIZE_MAX);
    assert!(
        LONG_HEADER_SIZE + RPC_ID_SIZE + 1 + CONTACTS_MAX * CONTACT_SIZE + RECORD_FIELDS_SIZE + VALUE_SIZE_MAX
            == PEER_MESSAGE_SIZE_MAX
    );
    assert!(HEADER_SIZE + RPC_ID_SIZE + ENTRIES_MAX * ENTRY_SIZE <= FRAME_SIZE_MAX);
    assert!(HEADER_SIZE + RPC_ID_SIZE + CONTACTS_MAX * CONTACT_SIZE <= FRAME_SIZE_MAX);
};

// ── records (`PROTOCOL.md` 3) ────────────────────────────────────────────────────────────────

/// Longest life of a record: what the 16-bit TTL can say.
pub const TTL_LONGEST: Duration = Duration::from_secs(u16::MAX as u64);

/// How far the time in a version may lie ahead of the own wall clock. Beyond it a record is
/// ignored: nobody can lock a key by writing the far future into it.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(10);

// ── machines ─────────────────────────────────────────────────────────────────────────────────

/// The largest k, alpha and replication: as many contacts as one message carries.
pub const K_MAX: usize = CONTACTS_MAX;

/// Candidates that one lookup remembers. Beyond the k nearest it must keep some that may yet be
/// needed when nearer ones fail; four times the largest k outlives half of a network.
pub const CANDIDATES_MAX: usize = 4 * K_MAX;

/// Failures in a row after which a contact that nothing replaces is forgotten. Until then it
/// stays as a way back: everything fails at once when the own link does (Kademlia, 4.1).
pub const CONTACT_FAILURES_MAX: u8 = 5;

/// Candidates that one bucket keeps for a place that becomes free (the replacement cache of
/// Kademlia, 4.1). The newest are tried first, so a few are enough, also when every second is
/// dead; k of them would add half again to the memory of a table.
pub const REPLACEMENTS_MAX: usize = 8;

/// Requests to peers that may be without an answer, over all peers.
///
/// 4 096 client requests with alpha = 3 ask at most 12 288 at once; the rest is for upkeep.
pub const PENDING_MAX: usize = 16_384;

// ── node ─────────────────────────────────────────────────────────────────────────────────────

/// Client requests under way; at the bound the host reads no API connection until one ends.
pub const CLIENT_REQUESTS_MAX: usize = 4_096;

/// Bytes of values in PUTs under way; at the bound the host reads no API connection either.
pub const CLIENT_PUT_BYTES_MAX: usize = 64 << 20;

/// Connections that the node may be opening. A lookup opens few; a thousand lookups at once
/// must not open a thousand connections.
pub const DIALS_MAX: usize = 256;

/// Dials among them that only verify a contact (dial-back, replacement): they may never starve
/// a lookup.
pub const PROBES_MAX: usize = 32;

/// Requests that wait for a connection to one peer.
pub const WAITING_PER_PEER_MAX: usize = 256;

/// From TLS to the peer's HELLO.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a peer over which nothing came for so long is closed: opening it again costs
/// half a millisecond, keeping it costs both sides memory.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// First and longest pause between two attempts to join.
pub const JOIN_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// See [`JOIN_BACKOFF_MIN`].
pub const JOIN_BACKOFF_MAX: Duration = Duration::from_mins(1);

/// Lookups for upkeep under way at once, however stale the table is.
pub const UPKEEP_LOOKUPS_MAX: usize = 2;

/// Pause between two lookups of upkeep. Joining itself is one lookup; what it leaves of the table
/// is filled within minutes, so that a network that starts at once is not flooded by it: in a
/// large one, to fill a table takes four times the requests and connections of joining.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(10);

/// Pause before contacts that fell asleep are asked again.
pub const ASLEEP_PAUSE: Duration = Duration::from_secs(10);

/// Contacts asked at a time whether they woke up.
pub const ASLEEP_PER_TURN_MAX: usize = 8;

/// Newly met nodes that wait for the records that belong to them. Whoever does not find a place
/// gets its records when they are next stored.
pub const HANDOVERS_MAX: usize = 64;

/// Records on their way to newly met nodes: handing over never fills an outbox.
pub const HANDOVERS_UNDER_WAY_MAX: usize = 32;

/// Records handed to newly met nodes, or spread after joining, in one turn of upkeep.
pub const UPKEEP_RECORDS_PER_TURN_MAX: usize = 32;

/// Records that expire in one turn: the rest waits for the next, unread meanwhile.
pub const EXPIRED_PER_TURN_MAX: usize = 1_024;

// ── hosts ────────────────────────────────────────────────────────────────────────────────────

/// Connections accepted in one turn from one listener.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Bytes read from one connection in one turn: a flood waits for its next turn like all others.
pub const READ_BYTES_PER_TURN: usize = 256 << 10;

/// Messages served from one connection in one turn.
pub const FRAMES_PER_TURN: usize = 1_024;

/// Requests of one API connection that are without their answer (`PROTOCOL.md` 1, rule 3).
pub const API_OWED_MAX: usize = 1_024;

/// Bytes of finished answers held for one API connection; beyond it the connection is not read.
pub const API_OUTBOX_MAX: usize = 1 << 20;

/// Bytes that wait for one peer; a message that would not fit is dropped and counted.
pub const PEER_OUTBOX_MAX: usize = 4 << 20;

/// From the dial to the TCP connection.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// From the TCP connection to the end of the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// From the first byte of a message to its last.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause of accepting when the process is out of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TLS handshakes taken a step further in one turn: one costs some 200 microseconds, a hundred
/// times a request of an established peer, whom a flood of them must not starve.
pub const HANDSHAKES_PER_TURN: usize = 4;

/// From the decision to close a connection to the last byte that it still had to send.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the other side may take to hear that a connection has ended. Until then what it
/// still sends is read and thrown away: the kernel answers bytes that nobody reads with a reset,
/// which would take with it what the other side has not read yet.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections that the kernel may hold for one listener until they are accepted.
pub const LISTEN_BACKLOG: i32 = 1_024;

/// Events taken from the kernel in one turn.
pub const EVENTS_PER_TURN: usize = 1_024;

/// The one buffer that all sockets are read into. A read that does not fill it has drained its
/// socket, so it holds more than any one message.
pub const READ_BUFFER_SIZE: usize = 128 << 10;

/// Memory that a buffer of a connection may keep while it is empty.
pub const BUFFER_KEPT_MAX: usize = 64 << 10;

/// Bytes of TLS records that may wait for one socket; the plaintext waits in front of them.
pub const TLS_BUFFER_MAX: usize = 64 << 10;

/// Log lines a second that strangers can cause; the others are counted and the count is logged.
pub const STRANGER_LOG_LINES_PER_SECOND: u32 = 10;

/// Addresses of one host name that are tried, in their order.
pub const NAME_ADDRESSES_MAX: usize = 8;

/// Host names that wait to be resolved: more than any list of bootstraps.
pub const NAMES_WAITING_MAX: usize = 64;

// ── roof ─────────────────────────────────────────────────────────────────────────────────────

/// Largest configuration file, in bytes: a thousand times the shipped one, and no device file.
pub const CONFIG_SIZE_MAX: usize = 1 << 20;

/// Bootstraps in a configuration: each may wait for its name at the same time.
pub const BOOTSTRAPS_MAX: usize = 32;

/// Addresses that peers are accepted on: two families of a few interfaces.
pub const P2P_ADDRESSES_MAX: usize = 16;

const _: () = {
    assert!(API_OUTBOX_MAX >= FRAME_SIZE_MAX);
    assert!(PEER_OUTBOX_MAX >= 2 * PEER_MESSAGE_SIZE_MAX);
    assert!(PROBES_MAX < DIALS_MAX);
    assert!(READ_BUFFER_SIZE > PEER_MESSAGE_SIZE_MAX);
    assert!(READ_BYTES_PER_TURN >= READ_BUFFER_SIZE);
    assert!(PENDING_MAX >= 3 * CLIENT_REQUESTS_MAX);
    assert!(CANDIDATES_MAX > K_MAX);
    assert!(BOOTSTRAPS_MAX < NAMES_WAITING_MAX);
};
