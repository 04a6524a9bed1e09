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

/// Longest salt of a signed record, in bytes (`PROTOCOL.md` 4).
pub const SALT_SIZE_MAX: usize = 64;

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

/// Requests to peers that may be without an answer, over all peers.
///
/// 4 096 client requests with alpha = 3 ask at most 12 288 at once; the rest is for upkeep.
pub const PENDING_MAX: usize = 16_384;

// ── node ─────────────────────────────────────────────────────────────────────────────────────

/// Client requests under way; at the bound the host reads no API connection until one ends.
pub const CLIENT_REQUESTS_MAX: usize = 4_096;

/// Bytes of values in PUTs under way; at the bound the host reads no API connection either.
pub const CLIENT_PUT_BYTES_MAX: usize = 64 << 20;

/// First and longest pause between two attempts to spread what too few nodes hold.
pub const PUT_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// See [`PUT_RETRY_PAUSE`].
pub const PUT_RETRY_PAUSE_MAX: Duration = Duration::from_mins(5);

/// PUTs kept because too few nodes hold them, besides the requests of clients: what a node can
/// take in while it is cut off. Beyond it records are held here all the same, for upkeep to find.
pub const PUT_RETRIES_MAX: usize = 1 << 16;

/// Attempts among them that are under way: a node that comes back floods nobody.
pub const PUT_RETRIES_IN_FLIGHT_MAX: usize = 32;

/// Repairs under way after GETs. Each hands out at most k copies; what finds no place is repaired
/// by the next GET.
pub const REPAIRS_MAX: usize = 64;

/// Keys whose last version read or written through a node it remembers: some 2 MB.
pub const VERSIONS_REMEMBERED_MAX: usize = 1 << 14;

/// Who waits for a record to be on disk, peers and PUTs of this node. At the bound clients wait,
/// and peers are told to come later.
pub const DISK_WAITERS_MAX: usize = 1 << 14;

/// An answer is never called late sooner than that, however quick its peer usually is: a turn of a
/// busy host takes as long, and to ask another for nothing costs both.
pub const HEDGE_MIN: Duration = Duration::from_millis(10);

/// Nobody goes on without an answer sooner than that, however quick its peer usually is
/// (`THREATS.md` E7): longer than a disk, a lost segment or a busy moment of the other host takes.
pub const GIVE_UP_MIN: Duration = Duration::from_millis(200);

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

/// How long the GETs of a node that has just started, and has met nobody yet, wait for somebody
/// before they are answered by what is held of an earlier run: whoever is there has answered by
/// then, and a dial to nobody is over.
pub const START_PATIENCE: Duration = Duration::from_secs(2);

/// Lookups for upkeep under way at once, however stale the table is.
pub const UPKEEP_LOOKUPS_MAX: usize = 2;

/// Pause between two lookups of upkeep. Joining itself is one lookup; what it leaves of the table
/// is filled within minutes, so that a network that starts at once is not flooded by it: in a
/// large one, to fill a table takes four times the requests and connections of joining.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(10);

/// Pause before contacts that fell asleep are asked again.
pub const UNRESPONSIVE_PAUSE: Duration = Duration::from_secs(10);

/// Contacts asked at a time whether they woke up.
pub const UNRESPONSIVE_PER_TURN_MAX: usize = 8;

/// A near contact that was not heard for about so long is asked whether it is there: a neighbour
/// that falls silent is missed after a minute, for a message or two a minute and neighbour.
pub const NEIGHBOUR_SILENCE_MAX: Duration = Duration::from_mins(1);

/// A near contact whose connection broke is asked at once whether it is there, but no more often than
/// that.
pub const SUSPECT_PAUSE: Duration = Duration::from_secs(30);

/// A node that has joined takes part without having heard all its neighbours after so long
/// (`PROTOCOL.md` 2, Settled).
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Neighbours that are asked what they hold before a node counts as settled.
pub const SETTLE_NEIGHBOURS: usize = 3;

/// Records being fetched from neighbours, over all of them.
pub const FETCHES_IN_FLIGHT_MAX: usize = 32;

/// Records that wait to be fetched. Beyond it no neighbour is asked what else it holds.
pub const FETCHES_WAITING_MAX: usize = 4 * ENTRIES_MAX;

/// Contacts that came, and as many that went, whose records one walk over the storage looks for.
/// More than a table holds; whoever finds no place waits for the next round.
pub const CHANGES_MAX: usize = 1_024;

/// Records that a walk over the storage looks at in one turn: each costs some microseconds.
pub const SCANNED_PER_TURN_MAX: usize = 512;

/// Pause between two turns of a walk that is not over: contacts that come and go all the time cost
/// a part of the processor, however much is held.
pub const SCAN_PAUSE: Duration = Duration::from_millis(5);

/// After a walk for contacts that came and went, the next one waits so many times as long as it
/// took: a peer that comes and goes every second costs those who hold much a small part of their
/// processor and of their line. Where little is held a walk takes one turn, and nothing waits.
pub const CHANGES_REST: u32 = 4;

/// Offers under way, over all peers; one to each.
pub const OFFERS_IN_FLIGHT_MAX: usize = 32;

/// Entries that wait for their OFFER: a full one for each of many targets. Beyond it the walks
/// that find them stand still.
pub const ENTRIES_WAITING_MAX: usize = 32 * ENTRIES_MAX;

/// Copies that wait until they are sent to those who lack them: what three full OFFERs to each of
/// a few may want. Whoever finds no place is offered the record in the next round.
pub const COPIES_WAITING_MAX: usize = 16 * ENTRIES_MAX;

/// Copies on their way to those who lack them; of the largest values they fill half an outbox.
pub const COPIES_IN_FLIGHT_MAX: usize = 32;

/// Copies among them to one peer: one that does not answer shall not hold up those for the others.
pub const COPIES_TO_ONE_MAX: usize = COPIES_IN_FLIGHT_MAX / 2;

/// Keys that this node has asked for, remembered so that two that offer a record at once do not
/// both send it.
pub const ASKED_FOR_MAX: usize = 16 * ENTRIES_MAX;

/// Keys among them asked of one peer: whoever offers much and sends nothing leaves room for others.
pub const ASKED_OF_ONE_MAX: usize = 2 * ENTRIES_MAX;

/// Tombstones looked at for one page of a SYNC: most are not told, as those of signed records, and
/// there may be a million of them.
pub const TOMBSTONES_PER_PAGE_MAX: usize = 16 * ENTRIES_MAX;

/// A record is not offered more often than that for the sake of its short life: one that has less
/// than twice as long to live is left to itself.
pub const OFFER_PAUSE_MIN: Duration = Duration::from_secs(15);

/// A node that was cut off offers all that it holds when it settles again, to whom it knows by
/// then; and so much later to whom it has met meanwhile.
pub const ROUND_AFTER_CUT_OFF: Duration = Duration::from_mins(5);

/// A node that was cut off settles again no more often than that: contacts that come and go time and
/// again, on purpose perhaps, shall not keep it from taking part, nor have it offer all it holds.
pub const SETTLE_PAUSE: Duration = Duration::from_mins(5);

/// A record that is held although others are responsible for it is offered to one of them so soon:
/// in a settled network it is rare, and where a network has just come together again it is old.
pub const STRAY_PAUSE: Duration = Duration::from_mins(1);

/// A record is offered to all who shall hold it no more often than that, whoever seems to lack it.
pub const WIDEN_PAUSE: Duration = Duration::from_secs(10);

/// A record that so many others were heard to hold since it was last offered is not offered in
/// this round; fewer, if fewer shall hold it. One liar must not silence the holders.
pub const HEARD_ENOUGH: usize = 8;

/// PUTs that were kept and are due which one turn looks at.
pub const UPKEEP_RECORDS_PER_TURN_MAX: usize = 32;

/// Records that expire, or are found to be due, in one turn: the rest waits for the next, unread
/// meanwhile. Each costs some three microseconds, with a million of them held and a tombstone laid.
pub const EXPIRED_PER_TURN_MAX: usize = 256;

/// Keys whose state is not on disk. At the bound clients wait, and peers are told to come later.
pub const UNSAVED_MAX: usize = 1 << 18;

/// Keys, and bytes of values, in one batch for the disk: enough to share the cost of a commit, few
/// enough that gathering them does not hold up a turn.
pub const SAVE_KEYS_MAX: usize = 4_096;
/// See [`SAVE_KEYS_MAX`].
pub const SAVE_BYTES_MAX: usize = 4 << 20;

/// Pause before a disk that failed is tried again.
pub const SAVE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Contacts that survive a restart: enough that some of them live, however long the node was off.
pub const CONTACTS_PERSISTED_MAX: usize = 256;

/// The table is written to disk so long after it has changed: it changes all the time, and most of
/// what it was a minute ago still holds.
pub const CONTACTS_SAVE_PAUSE: Duration = Duration::from_mins(1);

/// Contacts of an earlier run that are dialled at a time, while nobody has answered.
pub const REMEMBERED_DIALS: usize = 8;

// ── hosts ────────────────────────────────────────────────────────────────────────────────────

/// Connections accepted in one turn from one listener.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Bytes read from one connection in one turn: a flood waits for its next turn like all others.
pub const READ_BYTES_PER_TURN: usize = 256 << 10;

/// Requests of a client that are decoded together, and keys that a storage brings near at a time:
/// about as many reads of memory as a processor has under way, and few enough that what the first of
/// them brings is still near when the last has come.
pub const BATCH_MAX: usize = 16;

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

/// A value up to this size is copied behind its head when a client is answered; for a larger one
/// the copy costs more than one more part of a write.
pub const VALUE_COPIED_MAX: usize = 8 << 10;

/// Values that one write takes from where they are held: as many of the largest as a client may be
/// owed bytes.
pub const VALUES_SHARED_MAX: usize = 16;

/// Bytes of TLS records that may wait for one socket; the plaintext waits in front of them.
pub const TLS_BUFFER_MAX: usize = 64 << 10;

/// Log lines a second that strangers can cause; the others are counted and the count is logged.
pub const STRANGER_LOG_LINES_PER_SECOND: u32 = 10;

/// Addresses of one host name that are tried, in their order.
pub const NAME_ADDRESSES_MAX: usize = 8;

/// Host names that wait to be resolved: more than any list of bootstraps.
pub const NAMES_WAITING_MAX: usize = 64;

/// Memory that the store on disk may use for pages of its file. It is read once, at the start, and
/// then written batch after batch, each of which touches pages all over it.
pub const STORE_CACHE_SIZE: usize = 16 << 20;

/// Keys read from the store at a time while it is loaded: 16 MB, if all have the largest value.
pub const STORE_KEYS_PER_READ: usize = 256;

/// Batches on their way to disk, beside the one that is being written, and reports on their way
/// back: the node waits for what became of one before it wants the next.
pub const BATCHES_WAITING_MAX: usize = 1;

// ── roof ─────────────────────────────────────────────────────────────────────────────────────

/// Bootstraps in a configuration: each may wait for its name at the same time.
pub const BOOTSTRAPS_MAX: usize = 32;

const _: () = {
    assert!(API_OUTBOX_MAX >= FRAME_SIZE_MAX);
    assert!(PEER_OUTBOX_MAX >= 2 * PEER_MESSAGE_SIZE_MAX);
    assert!(PROBES_MAX < DIALS_MAX);
    assert!(COPIES_IN_FLIGHT_MAX * PEER_MESSAGE_SIZE_MAX <= PEER_OUTBOX_MAX);
    assert!(ENTRIES_WAITING_MAX >= ENTRIES_MAX + K_MAX);
    assert!(READ_BUFFER_SIZE > PEER_MESSAGE_SIZE_MAX);
    assert!(READ_BYTES_PER_TURN >= READ_BUFFER_SIZE);
    assert!(PENDING_MAX >= 3 * CLIENT_REQUESTS_MAX);
    assert!(CANDIDATES_MAX > K_MAX);
    assert!(BOOTSTRAPS_MAX < NAMES_WAITING_MAX);
};
