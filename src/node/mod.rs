//! The node: connects the routing table, the storage, lookups and the protocol.
//!
//! [`Node`] is a complete participant of the network without a clock, a socket or a file. Its host
//! calls one method for each event, lends the node an [`Actions`], and performs the actions that the
//! node adds to it. The event loop and the simulator run the same node.
//!
//! Guarantees:
//!
//! - The same calls in the same order produce the same actions.
//! - No call blocks, and each call does a bounded amount of work.
//!
//! Non-goals, which the host is responsible for:
//!
//! - authenticating peers: the node trusts the id that [`Node::on_secured`] reports;
//! - finding where messages begin and end;
//! - ordering the answers on one API connection.
//!
//! # Where to look
//!
//! | part | responsibility |
//! | --- | --- |
//! | `query/` | GETs and PUTs of clients, lookups, read quorum, read repair, retries of PUTs, relays of records |
//! | `rpc/` | connections to peers, their address `families`, requests to them (`outbound`) and by them (`inbound`) |
//! | `replication/` | offering records to other replicas (`schedule`, `offer`), fetching missed records (`sync`) |
//! | `membership/` | joining, leaving, liveness of contacts, wall clocks, sleep of the own process |
//! | `records/` | accepting records, setting doubtful ones aside, persistence, verification after a restart |
//! | `status` | the membership status, and what the node may do for a client |
//! | `purpose` | what a request to a peer is for, and how it ends |
//! | [`action`], [`replies`] | what the host has to do: messages, dials, batches for the disk |
//! | [`persisted`] | what survives a restart |
//! | [`params`] | what a user may configure |
//! | `timers` | deadlines of the node itself, of its connections and of PUTs to retry |

pub mod action;
mod membership;
pub mod params;
pub mod persisted;
mod purpose;
mod query;
mod records;
mod replication;
pub mod replies;
mod rpc;
mod status;
mod timers;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::contact::Contact;
use crate::counters::NodeCounters;
use crate::id::{KeySeed, NodeId};
use crate::limits::PENDING_MAX;
use crate::lookup::Lookup;
use crate::node::action::{Actions, Caller, ClientId, ConnId, Fault, Taken};
use crate::node::membership::address_book::AddressBook;
use crate::node::membership::alone::Absences;
use crate::node::membership::clock::Clocks;
use crate::node::membership::dialled::DialledBy;
use crate::node::membership::join::Join;
use crate::node::membership::liveness::Liveness;
use crate::node::membership::sleep::Sleep;
use crate::node::params::Params;
use crate::node::query::Queries;
use crate::node::query::put_retry::PutRetries;
use crate::node::query::session::Versions;
use crate::node::query::unheard::Unheard;
use crate::node::records::aside::SetAside;
use crate::node::records::dropped::DroppedTombstones;
use crate::node::records::missed::Missed;
use crate::node::records::packs::fingerprint_key;
use crate::node::records::persistence::Saving;
use crate::node::records::verification::Verification;
use crate::node::replication::copies::Copies;
use crate::node::replication::offer::Offers;
use crate::node::replication::schedule::Schedule;
use crate::node::replication::sync::Syncing;
use crate::node::replication::wanted::Wanted;
use crate::node::rpc::families::Reach;
use crate::node::rpc::outbound::Call;
use crate::node::rpc::peers::{Ending, Peers};
use crate::node::rpc::waiting::Waiting;
pub use crate::node::status::Status;
use crate::node::timers::{Timer, Timers};
use crate::pending::Pending;
use crate::record::Version;
use crate::routing::Table;
use crate::storage::Storage;
use crate::time::{BootTime, Now, Time};
use crate::wire::api::ApiRequest;
use crate::wire::frame::Frame;
use crate::wire::peer::PeerMessage;

/// Records that one sweep looks at because they have expired or are due. The others wait for the next turn,
/// and are not found meanwhile. Each costs about three microseconds, in a storage of a million records with
/// a tombstone to add.
const EXPIRED_PER_TURN_MAX: usize = 256;

/// The identity of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me {
    /// SHA-256 of the public key.
    pub id: NodeId,
    /// The port on which it accepts peers; 0 if it accepts none.
    pub port: u16,
}

/// A node of the network.
#[derive(Debug)]
pub struct Node {
    me: Me,
    params: Params,
    rng: StdRng,
    counters: NodeCounters,
    table: Table,
    storage: Storage,
    pending: Pending<Call>,
    /// Requests to peers that have no room yet.
    waiting: Waiting,
    peers: Peers,
    /// Which peers can dial one address family only, and the bridges between the families.
    reach: Reach,
    queries: Queries,
    timers: Timers<Timer>,
    status: Status,
    join: Join,
    address_book: AddressBook,
    absences: Absences,
    sleep: Sleep,
    clocks: Clocks,
    liveness: Liveness,
    dialled_by: DialledBy,
    schedule: Schedule,
    offers: Offers,
    /// Copies in flight to other nodes.
    copies: Copies,
    /// Records on their way to this node.
    wanted: Wanted,
    /// Records that were neither handed over nor on disk when this node left.
    lost_records: usize,
    syncing: Syncing,
    saving: Saving,
    /// Records that are not used, because the wall clock makes them doubtful.
    set_aside: SetAside,
    dropped_tombstones: DroppedTombstones,
    missed: Missed,
    verification: Verification,
    /// The moment [`Time::ZERO`] since the boot of the host, if the host knows.
    boot: Option<BootTime>,
    /// PUTs that too few replicas store.
    put_retries: PutRetries,
    /// Close nodes that PUTs went on without.
    unheard: Unheard,
    /// The newest version of each key that clients have read or written through this node.
    versions: Versions,
    /// The 16 bits below the milliseconds of every version that this node draws.
    version_tail: u16,
    /// The version that this node drew last, for any key.
    last_version: Version,
    /// When this node last logged a PUT that failed.
    put_failure_logged: Option<Time>,
    /// Scratch space for the nearest contacts, so that a lookup allocates nothing for them.
    nearby: Vec<Contact>,
}

/// Methods that the host calls. A method that concerns one part alone is in the file of that part:
/// `booted`, `restore`, `remember` and `on_saved` in `records/persistence.rs`, `restored` in `records/aside.rs`,
/// `on_secured` and `on_dial_failed` in `rpc/peers.rs`, `leave` in `membership/leave.rs`.
impl Node {
    /// A new node. If it has bootstraps, its first deadline is `now`. All random numbers of the node
    /// come from `seed`.
    ///
    /// # Panics
    ///
    /// If [`Params::validate`] refuses `params`: the caller must have validated them.
    pub fn new(me: Me, params: Params, seed: [u8; 32], now: Now) -> Self {
        if let Err(error) = params.validate() {
            panic!("parameters that were not checked: {error}");
        }
        let mut rng = StdRng::from_seed(seed);
        let keys = KeySeed::new(rng.random());
        let mut timers = Timers::default();
        if !params.bootstraps.is_empty() {
            timers.set(Timer::Join, now.mono);
        }
        let mut storage = Storage::new(me.id, params.storage_bytes_max, keys.clone());
        storage.set_wall(now.wall);
        storage.set_fingerprint_key(fingerprint_key(&seed));
        Self {
            me,
            counters: NodeCounters::default(),
            table: Table::new(me.id, params.k),
            storage,
            waiting: Waiting::default(),
            pending: Pending::new(PENDING_MAX, params.request_timeout, keys.clone()),
            peers: Peers::new(keys.clone()),
            reach: Reach::default(),
            queries: Queries::new(keys.clone()),
            timers,
            status: if params.bootstraps.is_empty() { Status::Settled } else { Status::Joining },
            sleep: Sleep::new(),
            clocks: Clocks::new(now),
            join: Join::new(now, params.bootstraps.len()),
            address_book: AddressBook::default(),
            absences: Absences::new(now, params.bootstraps.len()),
            liveness: Liveness::default(),
            dialled_by: DialledBy::default(),
            schedule: Schedule::default(),
            offers: Offers::default(),
            copies: Copies::default(),
            wanted: Wanted::default(),
            lost_records: 0,
            syncing: Syncing::default(),
            saving: Saving::new(keys.clone()),
            set_aside: SetAside::default(),
            dropped_tombstones: DroppedTombstones::default(),
            missed: Missed::default(),
            verification: Verification::default(),
            boot: None,
            put_retries: PutRetries::default(),
            unheard: Unheard::default(),
            versions: Versions::new(keys),
            version_tail: rng.random(),
            last_version: Version::from_bits(0),
            put_failure_logged: None,
            nearby: Vec::new(),
            params,
            rng,
        }
    }

    /// Whether the node takes another request of any client, whatever it asks for. If not, it still answers
    /// GETs of records that it may return at once.
    pub fn wants_requests(&self) -> bool {
        self.queries.has_room() && !self.saving.is_busy() && !self.status.is_leaving()
    }

    /// The same for a client on `connection`. Each connection has a share of the requests in flight, so that
    /// no client takes all the room.
    pub fn wants_requests_of(&self, connection: u64) -> bool {
        self.wants_requests() && self.queries.has_room_for(connection)
    }

    /// A client sent a request. The node answers it by one [`action::Action::Reply`], now or later. It
    /// never answers a PUT that does not ask for a confirmation, nor a request that it has no room for.
    pub fn on_request(&mut self, now: Now, client: ClientId, request: ApiRequest<'_>, out: &mut Actions) -> Taken {
        self.notice_time(now, out);
        let taken = match request {
            ApiRequest::Get { key } => self.start_get(now, client, key, out),
            ApiRequest::Put(put) => self.start_put(now, client, &put, out),
        };
        self.finish(now, out);
        taken
    }

    /// A complete message arrived from a peer. The node decodes it; a malformed message closes the
    /// connection.
    pub fn on_frame(&mut self, now: Now, conn: ConnId, frame: Frame<'_>, out: &mut Actions) {
        self.notice_time(now, out);
        self.receive(now, conn, frame, out);
        self.finish(now, out);
    }

    fn receive(&mut self, now: Now, conn: ConnId, frame: Frame<'_>, out: &mut Actions) {
        let Some((peer, greeted)) = self.heard_on(now, conn) else { return };
        let name = frame.kind.name;
        let fault = match PeerMessage::decode(frame) {
            Err(error) => Fault::Malformed { name, error },
            Ok(PeerMessage::Hello(hello)) if !greeted => return self.on_hello(now, conn, &hello, out),
            Ok(PeerMessage::Hello(_)) => Fault::SecondHello,
            Ok(_) if !greeted => Fault::BeforeHello { name },
            Ok(PeerMessage::Goodbye) => {
                self.on_goodbye(now, conn, out);
                return self.consider_alone(now, out);
            }
            Ok(PeerMessage::Bridges(bridges)) => return self.on_bridges(now, conn, &bridges, out),
            Ok(PeerMessage::Request(rpc, request)) => {
                self.contact_heard(now, conn, &peer.peer, out);
                return self.serve(now, &Caller { id: peer.peer, conn, rpc }, request, out);
            }
            Ok(PeerMessage::Reply(rpc, reply)) => return self.on_reply(now, conn, &peer, rpc, reply, out),
        };
        self.malformed(now, conn, fault, PeerMessage::rpc_of(frame), out);
    }

    /// A connection ended: the peer closed it, or the host did because of a fault of the peer.
    pub fn on_closed(&mut self, now: Now, conn: ConnId, out: &mut Actions) {
        let peer = self.peers.find(conn).map(|conn| conn.peer);
        self.conn_ended(now, conn, Ending::Closed, out);
        if let Some(peer) = peer {
            self.suspect(now, &peer, out);
        }
        self.consider_alone(now, out);
        self.finish(now, out);
    }

    /// The moment of [`Node::next_deadline`] has come.
    pub fn on_timeout(&mut self, now: Now, out: &mut Actions) {
        self.notice_time(now, out);
        self.pass_deadlines(now, out);
        self.pass_waits(now, out);
        while let Some(conn) = self.peers.deadlines.take_next(now.mono) {
            self.on_conn_deadline(now, conn, out);
        }
        // A timer that is set again for `now` waits for the next call, so that this one ends. In a late turn
        // several timers of one request are due: each stays set until its turn comes, and may be unset before.
        for timer in self.timers.due(now.mono) {
            if !self.timers.take(timer, now.mono) {
                continue;
            }
            match timer {
                Timer::Heartbeat => self.on_heartbeat(now, out),
                Timer::AskTime => self.ask_for_time(now, out),
                Timer::Undialled => self.report_undialled(now),
                Timer::Join => self.join(now, out),
                Timer::Refresh => self.refresh(now, out),
                Timer::RetryPuts => self.retry_puts(now, out),
                Timer::Watch => self.watch(now, out),
                Timer::Families => self.tell_families(now, out),
                Timer::Settle => self.settle_without_the_rest(now),
                Timer::Sync => self.sync(now, out),
                Timer::Replicate => self.replicate(now, out),
                Timer::Retry(query) => self.retry(now, query, out),
                Timer::Save => self.save(now, out),
                Timer::Disk => self.disk_hangs(now, out),
                Timer::Tombstones => {} // see below
                Timer::Missed => self.fetch_missed(now, out),
                Timer::Unheard => self.ask_unheard(now, out),
                Timer::TurnOld => self.turn_old(now),
                Timer::Leave => self.go(now, out),
                Timer::Verify => self.verify(),
                Timer::Answer(query) => self.answer_in_time(now, query, out),
                Timer::Follow(query) => self.follow(now, query, out),
            }
        }
        self.consider_alone(now, out);
        let due = self.storage.sweep(now, EXPIRED_PER_TURN_MAX);
        self.begin_round(now, &due);
        self.note_dropped_tombstones(now);
        self.plan_to_turn_old(now);
        self.drop_packs(now);
        self.plan_to_verify(now);
        self.finish(now, out);
    }

    /// Each call of the host ends with this.
    pub(crate) fn finish(&mut self, now: Now, out: &mut Actions) {
        // Most GETs have changed nothing. The conditions here save calls, 40 of 800 instructions.
        if self.storage.has_changed() {
            self.note_changes(now, None);
        }
        self.note_contacts(now);
        if self.status == Status::Leaving {
            self.leave_if_done(now, out);
        }
    }

    /// The moment at which the host must call `on_timeout`, if it calls nothing else before. `None` if
    /// the node has left, or only waits for messages.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.has_left() {
            return None;
        }
        Time::first_of([
            self.timers.next(),
            self.peers.deadlines.next(),
            self.pending.next_deadline(),
            self.waiting.next_deadline(),
            self.storage.next_due(),
        ])
    }

    /// Whether the node has left: it wants no more actions.
    pub fn has_left(&self) -> bool {
        self.status == Status::Left
    }
}

/// What an observer may read.
impl Node {
    /// Its identity.
    pub fn me(&self) -> Me {
        self.me
    }

    /// Its parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Its membership status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Its counters.
    pub fn counters(&self) -> &NodeCounters {
        &self.counters
    }

    /// Its routing table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The records that it stores.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The lookups in flight.
    pub fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.queries.lookups()
    }

    /// The number of requests to peers without a reply, and how many of them are overdue at `now`.
    pub fn requests(&self, now: Time) -> (usize, usize) {
        (self.pending.len(), self.pending.overdue(now))
    }

    /// The number of requests to peers that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The bytes of the largest answers that `peer` owes this node.
    pub fn owed_by(&self, peer: &NodeId) -> usize {
        self.pending.owed_by(peer)
    }

    /// The number of open connections to peers.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    /// The number of connections that have no deadline: 0, unless there is a bug.
    pub fn connections_without_deadline(&self) -> usize {
        self.peers.without_deadline()
    }
}
