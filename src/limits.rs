//! Limits that constrain each other, that several modules use, or that tests need; with the proofs that
//! they fit together.
//!
//! They follow from the protocol, or protect the process with any configuration. What a user may set is in
//! `node::params::Params` and in the options of the hosts. A limit with a single user is a constant beside
//! that user. The unit of a number is in its name, its type or its description.
//!
//! # The queues between a client and a peer
//!
//! All queues on the way of a request and back. 429 means that the sender gets ERROR 429 and sends again
//! later. None drops a message in silence, and no bound is taken for an answer of a peer.
//!
//! | queue | bound | at the bound | slower |
//! | --- | --- | --- | --- |
//! | input of clients | 8 MiB in all: [`API_INPUT_MAX`], [`API_READ_MIN`] each | they are read slowly | client |
//! | requests without an answer | 1 024 a connection: [`API_OWED_MAX`] | its connection is not read | client |
//! | answers to clients | [`API_ANSWERS_MAX`] each, [`API_ANSWERS_TOTAL_MAX`] (4) | a request waits unread | client |
//! | GETs and PUTs in flight | 4 096, 256 a connection: [`CLIENT_REQUESTS_MAX`] | a request waits unread | client |
//! | values of these PUTs | 64 MiB, 4 MiB a connection | a request waits unread | client |
//! | keys not on disk | 262 144 | a request waits unread; STORE: 429 | client, peer |
//! | packs of old tombstones not on disk | 64 | no tombstone turns old for a second | the own sweep |
//! | replies that wait for the disk | 16 384 | a request waits unread; STORE: 429 | client, peer |
//! | GETs that share a lookup | the GETs in flight | as there | client |
//! | PUTs that wait for a retry | 65 536 | the record is left to replication | no sender |
//! | OFFER entries that wait | 16 000: [`ENTRIES_WAITING_MAX`] | scans pause | replication |
//! | hand-overs that wait | 8 000 | left to the next round | replication |
//! | hand-overs in flight | 32: [`COPIES_IN_FLIGHT_MAX`]; [`COPIES_TO_ONE_MAX`] | they wait | replication |
//! | records wanted from peers | 8 000: [`ASKED_FOR_MAX`]; [`ASKED_OF_ONE_MAX`] | OFFER: 429 | peer |
//! | requests to peers that wait | 16 384: [`CALLS_WAITING_MAX`] (1) | queries and maintenance wait | all callers |
//! | answers that a peer owes | 1 MiB a peer (2) | a request waits for an answer | requests to it |
//! | requests to peers in flight | 16 384: [`PENDING_MAX`] | a request waits for a pause | all callers |
//! | dials, and requests for one dial | 256: [`DIALS_MAX`] (5), 256 | a request waits for a pause | new peers |
//! | output for a peer | 4 MiB a connection: [`PEER_OUTBOX_MAX`] | a request pauses; reply: 429 | both nodes |
//! | 429 for a peer | 1 MiB a connection (3) | no reply | peer |
//! | TLS records for a socket | 64 KiB a connection | they stay in the output | as above |
//! | input of a peer | socket buffer | never: it is always read | no sender |
//!
//! 1. Further ones are those that were in flight and were refused.
//! 2. [`VALUES_OWED_MAX`], [`LISTINGS_OWED_MAX`] and [`ACKNOWLEDGEMENTS_OWED_MAX`], in bytes of the largest
//!    possible answers: a quarter of the output for a peer, so only requests (STORE, OFFER) can fill that.
//! 3. Room for 27 000. A peer that keeps the bounds has at most 16 384 requests in flight.
//! 4. [`API_ANSWERS_EXPECTED_MAX`] while its answers have the size that they had lately. A client that does not
//!    read is closed after 30 s.
//! 5. Requests use all but [`PROBES_MAX`] of them, which are for verifying contacts.
//!
//! A request to a peer waits for `request_timeout` at most. The bounds without a name here are in `node/query`,
//! `node/records`, `node/replication`, `node/rpc` and `net`, beside their users.

use std::time::Duration;

use crate::id::KEY_SIZE;

// ── layouts (`PROTOCOL.md` 1 and 2) ──────────────────────────────────────────────────────────

/// Size of the header of every message, in bytes: size u16, type u16.
pub const HEADER_SIZE: usize = 4;

/// The largest size that fits the 16 bits of a header, in bytes, header included.
pub const FRAME_SIZE_MAX: usize = u16::MAX as usize;

/// Size of the header of the long form, in bytes: zero u16, type u16, size u32.
pub const LONG_HEADER_SIZE: usize = 8;

/// Size of the fields of a DHT PUT between header and key, in bytes: TTL, replication, flags.
pub const PUT_FIELDS_SIZE: usize = 4;

/// Size of the id of a request between peers, in bytes.
pub const RPC_ID_SIZE: usize = 32;

/// Size of a record block without its value, in bytes.
pub const RECORD_FIELDS_SIZE: usize = 52;

/// Size of a contact, in bytes: address 16, port 2, node id 32.
pub const CONTACT_SIZE: usize = 50;

/// Size of an entry, in bytes: key 32, flags 1, version 8, crc 4.
pub const ENTRY_SIZE: usize = 45;

/// The largest value of a record, in bytes: what one DHT PUT can carry.
///
/// A STORE of this value is too large for a 16-bit size, which is why the peer protocol has a long form.
pub const VALUE_SIZE_MAX: usize = FRAME_SIZE_MAX - HEADER_SIZE - PUT_FIELDS_SIZE - KEY_SIZE;

/// The longest salt of a signed record, in bytes (`PROTOCOL.md` 4).
pub const SALT_SIZE_MAX: usize = 64;

/// The largest number of contacts in one message.
pub const CONTACTS_MAX: usize = 20;

/// The largest number of entries in one OFFER or SYNC REPLY, and of keys in one WANT.
pub const ENTRIES_MAX: usize = 500;

/// Bridges that a node remembers, and that one BRIDGES names: if one fails, another one is known.
pub const BRIDGES_MAX: usize = 4;

/// The longest agent text of a HELLO, in bytes.
pub const AGENT_SIZE_MAX: usize = 64;

/// The largest message between peers, in bytes: a FIND VALUE REPLY with all contacts and the largest value.
pub const PEER_MESSAGE_SIZE_MAX: usize = 66_588;

/// The largest answer to FIND NODE, and to FIND VALUE without a value, in bytes: all contacts and a head.
pub const HEAD_REPLY_SIZE_MAX: usize = HEADER_SIZE + RPC_ID_SIZE + 1 + CONTACTS_MAX * CONTACT_SIZE + RECORD_FIELDS_SIZE;

/// The largest answer to OFFER, in bytes.
pub const WANT_SIZE_MAX: usize = HEADER_SIZE + RPC_ID_SIZE + ENTRIES_MAX * KEY_SIZE;

/// The largest answer to SYNC, in bytes.
pub const SYNC_REPLY_SIZE_MAX: usize = HEADER_SIZE + RPC_ID_SIZE + 1 + ENTRIES_MAX * ENTRY_SIZE;

/// The largest answer to SYNC of one key, in bytes.
pub const PROBE_REPLY_SIZE_MAX: usize = HEADER_SIZE + RPC_ID_SIZE + 1 + ENTRY_SIZE;

/// The answer to STORE, in bytes: key, outcome, flags and version. That to PING and ERROR are smaller.
pub const STORE_REPLY_SIZE: usize = HEADER_SIZE + RPC_ID_SIZE + KEY_SIZE + 1 + 1 + 8;

const _: () = {
    assert!(VALUE_SIZE_MAX == 65_495);
    assert!(HEADER_SIZE + KEY_SIZE + VALUE_SIZE_MAX <= FRAME_SIZE_MAX);
    assert!(LONG_HEADER_SIZE + RPC_ID_SIZE + 1 + RECORD_FIELDS_SIZE + VALUE_SIZE_MAX <= PEER_MESSAGE_SIZE_MAX);
    assert!(
        LONG_HEADER_SIZE + RPC_ID_SIZE + 1 + CONTACTS_MAX * CONTACT_SIZE + RECORD_FIELDS_SIZE + VALUE_SIZE_MAX
            == PEER_MESSAGE_SIZE_MAX
    );
    assert!(HEADER_SIZE + RPC_ID_SIZE + ENTRIES_MAX * ENTRY_SIZE <= FRAME_SIZE_MAX);
    assert!(HEADER_SIZE + RPC_ID_SIZE + CONTACTS_MAX * CONTACT_SIZE <= FRAME_SIZE_MAX);
};

// ── records (`PROTOCOL.md` 3) ────────────────────────────────────────────────────────────────

/// The longest life of a record: the largest TTL that fits 16 bits.
pub const TTL_LONGEST: Duration = Duration::from_secs(u16::MAX as u64);

/// How far the time in a version may be ahead of a node's wall clock. The node ignores a version that is
/// farther ahead, so no writer can lock a key by writing the far future into it.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(10);

/// Wall clocks that differ by less agree: network delay, drift, and a clock that is adjusted in small steps.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(30);

// ── layer 1: data structures and protocols ──────────────────────────────────────────────────────

/// The largest k, alpha and replication: all contacts of a bucket fit one message.
pub const K_MAX: usize = CONTACTS_MAX;

/// Candidates that one lookup remembers. It needs some beyond the k closest, in case that closer ones fail;
/// with four times the largest k it succeeds even if half of the network has failed.
pub const CANDIDATES_MAX: usize = 4 * K_MAX;

/// Failures in a row after which a contact that nothing has replaced is forgotten. It is remembered until
/// then, because all contacts fail at once when a node's own link fails (Kademlia, section 4.1).
pub const CONTACT_FAILURES_MAX: u8 = 5;

/// Failures of a contact within this time count as one. Requests that wait for the same dial fail together; without this
/// pause, a busy node would forget a contact that was silent for four seconds.
pub const CONTACT_FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Requests to peers without a reply, to all peers together. Further requests wait ([`CALLS_WAITING_MAX`]).
///
/// 4 096 requests of clients with alpha = 3 have at most 12 288 in flight; the rest is for maintenance.
pub const PENDING_MAX: usize = 16_384;

/// Bytes of values that one peer may owe this node: 11 of the largest answers. With the two bounds that follow they
/// are a quarter of the outbox of that peer; the rest is for what the peer itself sends.
pub const VALUES_OWED_MAX: usize = PEER_OUTBOX_MAX / 16 * 3;

/// Bytes of contacts, heads and entries that one peer may owe this node: 180 of the largest heads.
pub const LISTINGS_OWED_MAX: usize = PEER_OUTBOX_MAX / 64 * 3;

/// Bytes of acknowledgements that one peer may owe this node: one WANT, and 630 replies to STORE.
pub const ACKNOWLEDGEMENTS_OWED_MAX: usize = PEER_OUTBOX_MAX / 64;

// ── layer 2: node ────────────────────────────────────────────────────────────────────────────────

/// Requests of clients in flight; one connection may have a 16th of them. At the bound a request waits in
/// its connection, unless the node can answer it at once.
pub const CLIENT_REQUESTS_MAX: usize = 4_096;

/// Requests to peers that wait to be sent, because a peer or this node has no room for them; an id and a
/// purpose each, about 200 bytes. At this bound, queries and maintenance take no further steps until one leaves.
pub const CALLS_WAITING_MAX: usize = PENDING_MAX;

/// The pause before a GET looks up its key again, if no node has answered.
pub const GET_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The pause before the first retry of a PUT that too few nodes store; each further pause is twice as long.
pub const PUT_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two retries of a PUT.
pub const PUT_RETRY_PAUSE_MAX: Duration = Duration::from_mins(5);

/// Retried PUTs in flight at a time, so that a node whose link works again does not flood its peers.
pub const PUT_RETRIES_IN_FLIGHT_MAX: usize = 32;

/// A reply does not count as late before this time, even if the peer is usually quicker. One turn of a busy
/// host takes about as long, and asking a second node without need costs both nodes a request.
pub const HEDGE_MIN: Duration = Duration::from_millis(10);

/// Dials in flight. One lookup needs few; a thousand lookups must not open a thousand connections.
pub const DIALS_MAX: usize = 256;

/// Dials in flight that only verify a contact (dial-back, replacement), so that they cannot use up all
/// dials of lookups. Lookups leave room for them: a PUT finds only nodes that others have dialled back.
pub const PROBES_MAX: usize = 32;

/// The smallest `peer_connections_max`. A lookup and a PUT use k connections each, and k nodes dial back a newcomer: with
/// fewer connections than that, nodes would not know each other.
pub const PEER_CONNECTIONS_MIN: u64 = 3 * K_MAX as u64;

/// From the end of the TLS handshake to the HELLO of the peer.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a peer without any message for this time is closed. Opening it again costs half a
/// millisecond; an open connection costs memory on both sides.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// How long GETs wait for a first peer after the start of a node. Then they are answered from the records
/// of an earlier run. A peer that is up has answered by then, and a dial of one that is down has failed.
pub const START_PATIENCE: Duration = Duration::from_secs(2);

/// How long a joining node that has met only nodes that have not settled waits for others: long enough for a TCP and a TLS
/// handshake and a HELLO over a link with a round trip of a second, and for nodes that start a few seconds later.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two lookups that refresh buckets. Joining needs one lookup; the rest of the table fills
/// within minutes. If all nodes of a large network start at once and fill their tables at once, that takes
/// four times the requests and connections of joining.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(10);

/// Pause before unresponsive contacts are pinged again, and before the same peer is dialled back again.
pub const UNRESPONSIVE_PAUSE: Duration = Duration::from_secs(10);

/// How long after its first peer has answered, or after it last got a record that it had missed, a node counts as
/// settled, even if it has not heard from all its neighbours (`PROTOCOL.md` 2, Settled).
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a node settles at most. A neighbour that sends records one by one delays it no longer.
pub const SETTLE_MAX: Duration = Duration::from_mins(10);

/// Records that a scan of the storage looks at in one turn; each costs some microseconds.
pub const SCANNED_PER_TURN_MAX: usize = 512;

/// Records of an earlier run that are verified in one step of a turn, unless a request asks for each of them. Verifying
/// a signature takes about 50 µs, so a step takes less than half a millisecond.
pub const VERIFIED_PER_TURN_MAX: usize = 8;

/// Pause between two turns of a scan. Contacts that come and go continuously then cost only a part of the
/// processor, however many records are stored.
pub const SCAN_PAUSE: Duration = Duration::from_millis(5);

/// After a scan for contacts that came or went, the next one waits this number of times as long as the scan
/// took. So a contact that comes and goes every second costs a node with many records a small part of its
/// processor and its link. With few records a scan takes one turn, and the pause is short.
pub const CHANGES_REST: u32 = 4;

/// Entries that wait for their OFFER: a full OFFER to each of 32 peers. At this bound, the scans that add
/// entries pause.
pub const ENTRIES_WAITING_MAX: usize = 32 * ENTRIES_MAX;

/// STOREs in flight after a WANT. With the largest values they fill half of an outbox.
pub const COPIES_IN_FLIGHT_MAX: usize = 32;

/// STOREs in flight among them to one peer, so that a peer that does not reply cannot delay those for other
/// peers.
pub const COPIES_TO_ONE_MAX: usize = COPIES_IN_FLIGHT_MAX / 2;

/// Keys that this node has wanted and is about to receive, so that it does not want them from a second peer
/// that offers them.
pub const ASKED_FOR_MAX: usize = 16 * ENTRIES_MAX;

/// Keys among them wanted from one peer, so that a peer that offers many records and sends none leaves room
/// for others.
pub const ASKED_OF_ONE_MAX: usize = 2 * ENTRIES_MAX;

/// A node that was cut off offers all its records to its known contacts when it settles again, and once
/// more after this time, to contacts that it has met since.
pub const ROUND_AFTER_CUT_OFF: Duration = Duration::from_mins(5);

/// The shortest time between two times that a node settles again. Contacts that come and go, perhaps on
/// purpose, must not keep it in the state Settling, nor make it offer all its records each time.
pub const SETTLE_PAUSE: Duration = Duration::from_mins(5);

/// Delay before offering an out-of-scope record to a node that is responsible for it. Such records are rare
/// in a settled network; after a partition has healed they are probably old.
pub const STRAY_PAUSE: Duration = Duration::from_mins(1);

/// Keys in one batch for the disk: enough to share the cost of a commit, few enough that collecting them
/// does not delay a turn.
pub const SAVE_KEYS_MAX: usize = 4_096;

/// The largest sum of the values in one batch for the disk, in bytes.
pub const SAVE_BYTES_MAX: usize = 4 << 20;

/// Contacts of an earlier run that are dialled at a time, while no peer has answered.
pub const REMEMBERED_DIALS: usize = 8;

// ── layer 3: hosts ───────────────────────────────────────────────────────────────────────────────

/// Requests of a client that are decoded together, and keys that the storage prefetches at a time. A
/// processor can wait for about this many reads of memory at once; with more, the first ones would leave
/// the cache before they are used.
pub const BATCH_MAX: usize = 16;

/// Requests of one API connection without an answer (`PROTOCOL.md` 1, rule 3).
pub const API_OWED_MAX: usize = 1_024;

/// The largest answer to a client, in bytes: SUCCESS with the largest value.
pub const ANSWER_SIZE_MAX: usize = HEADER_SIZE + KEY_SIZE + VALUE_SIZE_MAX;

/// Bytes of answers that one API connection is expected to hold at most: 16 answers of the largest size, or more
/// smaller ones. At this bound, the connection is not read.
pub const API_ANSWERS_EXPECTED_MAX: usize = 1 << 20;

/// Bytes of answers that one API connection can hold, if all its requests in flight get the largest answer. This
/// is more than what is expected, so that small answers, whose size is not known before they come, can be
/// waited for at the same time.
pub const API_ANSWERS_MAX: usize = 4 << 20;

/// Bytes of answers that all API connections can hold together: `net::account` counts them.
///
/// It is half of what 1 024 clients that never read may add to the process (see the proofs below).
pub const API_ANSWERS_TOTAL_MAX: usize = 32 << 20;

/// Bytes of requests of all API connections that were read and are not taken yet. Beyond that, [`API_READ_MIN`]
/// bytes are read at a time.
pub const API_INPUT_MAX: usize = 8 << 20;

/// Bytes read from an API connection at a time while the input of all is at its bound: a hundred GETs.
pub const API_READ_MIN: usize = 4 << 10;

/// Bytes that wait for one peer. Instead of a reply that does not fit the peer gets ERROR 429, and a request
/// that does not fit is sent again later.
pub const PEER_OUTBOX_MAX: usize = 4 << 20;

/// From the start of a dial to the TCP connection.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The size of the one buffer for reads of all sockets, in bytes. It is larger than any message: requests that fit
/// are decoded in it.
pub const READ_BUFFER_SIZE: usize = 128 << 10;

/// The largest memory of an empty buffer of a peer, in bytes; a larger one is freed.
pub const BUFFER_KEPT_MAX: usize = 64 << 10;

/// The same for a buffer of a client. There are many clients, and most are idle.
pub const CLIENT_BUFFER_KEPT_MAX: usize = 4 << 10;

/// Values that one write takes from the storage without a copy: as many of the largest size as an API
/// connection may be owed.
pub const VALUES_SHARED_MAX: usize = 16;

/// Log lines per second about unknown peers and clients; further ones are counted, and the log states their
/// number.
pub const STRANGER_LOG_LINES_PER_SECOND: u32 = 10;

/// Host names that wait to be resolved; more than a configuration can have bootstraps.
pub const NAMES_WAITING_MAX: usize = 64;

// ── layer 4: programs ────────────────────────────────────────────────────────────────────────────

/// Bootstraps in a configuration. The names of all of them may wait to be resolved at the same time.
pub const BOOTSTRAPS_MAX: usize = 32;

const _: () = {
    assert!(VALUES_SHARED_MAX * ANSWER_SIZE_MAX <= API_ANSWERS_EXPECTED_MAX);
    assert!(API_ANSWERS_EXPECTED_MAX <= API_ANSWERS_MAX && API_ANSWERS_MAX < API_ANSWERS_TOTAL_MAX);
    // What 1 024 clients that never read add, in bytes. A request in flight takes some 10 KB without its answer.
    let in_flight = 1_024 + API_ANSWERS_TOTAL_MAX / ANSWER_SIZE_MAX;
    let buffers = API_INPUT_MAX + 1_024 * (API_READ_MIN + CLIENT_BUFFER_KEPT_MAX);
    assert!(API_ANSWERS_TOTAL_MAX + buffers + in_flight * 10_000 <= 80_000_000);
    assert!(PEER_OUTBOX_MAX >= 2 * PEER_MESSAGE_SIZE_MAX);
    assert!(4 * (VALUES_OWED_MAX + LISTINGS_OWED_MAX + ACKNOWLEDGEMENTS_OWED_MAX) <= PEER_OUTBOX_MAX);
    assert!(VALUES_OWED_MAX >= PEER_MESSAGE_SIZE_MAX);
    assert!(LISTINGS_OWED_MAX >= SYNC_REPLY_SIZE_MAX && SYNC_REPLY_SIZE_MAX >= HEAD_REPLY_SIZE_MAX);
    assert!(ACKNOWLEDGEMENTS_OWED_MAX >= WANT_SIZE_MAX + COPIES_TO_ONE_MAX * STORE_REPLY_SIZE);
    assert!(PROBES_MAX < DIALS_MAX);
    assert!(COPIES_IN_FLIGHT_MAX * PEER_MESSAGE_SIZE_MAX <= PEER_OUTBOX_MAX);
    assert!(ENTRIES_WAITING_MAX >= ENTRIES_MAX + 2 * K_MAX);
    assert!(READ_BUFFER_SIZE > PEER_MESSAGE_SIZE_MAX);
    assert!(PENDING_MAX >= 3 * CLIENT_REQUESTS_MAX);
    assert!(CANDIDATES_MAX > K_MAX);
    assert!(BOOTSTRAPS_MAX < NAMES_WAITING_MAX);
};
