//! A Kademlia distributed hash table that speaks the VoidPhone module API.
//!
//! This page is the architecture; read it first. The core is deterministic: it knows no clock, no
//! socket and no file. Two hosts run it, and a test enforces which module may use which. The same
//! [`node::Node`] runs in the mio event loop of `dht-server` and, in thousands of copies, in a
//! simulator with virtual time.
//!
//! # Layers
//!
//! ```text
//!             main.rs  cli.rs  config/  bin/*                        layer 4: programs
//!                  │                    │
//!         ┌────────┴───────┐    ┌───────┴───────┐
//!         │ net  (mio,TLS) │    │ sim (no I/O)  │                    layer 3: hosts
//!         │ disk           │    │               │
//!         └────────┬───────┘    └───────┬───────┘
//!                  └─────────┬──────────┘
//!                      node  (pure)                                  layer 2: node logic
//!           ┌────────┬───────┴───┬─────────┐
//!        routing   lookup     storage   pending  (pure)              layer 1: data structures and protocols
//!           └────────┴─────┬─────┴─────────┘
//!    id  identity  time  contact  counters  limits  record  wire     layer 0: base types
//! ```
//!
//! A module uses layers below its own. The modules of layer 1 do not use each other, nor do the
//! hosts. `tests/architecture.rs` holds the table of these rules, reads the sources and fails where
//! one is broken. Layers 0 to 2 use no clock, no randomness of the operating system, no socket, no
//! file and no thread: time, randomness and I/O come in as arguments. So a seed replays a run.
//!
//! Within [`node`], each folder owns its state, and the folders use each other in one direction only.
//!
//! # Vocabulary
//!
//! The terms are Kademlia's where it has them. A [`id::Key`] is a point in a space of 256 bits, and a
//! [`id::NodeId`] is the point of a node. A [`contact::Contact`] is the id and the address of a node.
//! A [`routing::Table`] of buckets stores contacts; a [`lookup::Lookup`] finds the nodes nearest to a
//! key. A [`record::Record`] is a value with a version and a life; a node that stores it is a
//! *replica*. An *RPC* is a request between nodes. A *client* is a program on the module API.
//!
//! A contact is *live*, or *unresponsive* after failures. A node is *joining* until a peer answers,
//! *settling* while it learns what it missed, then *settled*. A key is in *scope* of a node if fewer
//! live contacts than the replication of the record are nearer to it. A record that has ended leaves
//! a *tombstone*. Signed and hashed records certify themselves: no plain record replaces them.
//!
//! # One turn of the loop
//!
//! [`net`] describes it in full. The loop waits for sockets, reads a bounded number of bytes from
//! each, splits them into messages ([`wire::frame`]), and hands each message to the node. It performs
//! the actions that the node returns, writes the output of this turn, and closes the connections that have
//! ended. There is one thread and no lock.
//!
//! # One PUT
//!
//! ```text
//! net: bytes → wire::frame::next_frame → wire::api       a WireError closes the connection
//! node::Node::on_request
//!  └ query/put.rs start_put         verify, or clamp and draw the version; from here on a GET at
//!     │                             this node sees the value
//!     └ query/lookup.rs → rpc/outbound.rs      FIND VALUE (heads) × alpha, until as many nodes have
//!     │                             answered as shall store the record
//! node::Node::on_frame
//!  └ rpc/outbound.rs on_reply       pending takes the request; the lookup takes the contacts; … done
//!     ├ query/relay.rs              where nodes share no address family: RELAY to a bridge, which stores
//!     │                             the record in the other family by a PUT of its own
//!     └ query/put.rs spread_put     STORE to the nearest; one that fails or refuses is replaced;
//!        │                          SYNC of that key to the others of the k nearest: a node with an
//!        │                          older record gets a copy too
//!        ├ SUCCESS, only if the client asked for it
//!        └ too few replicas?        query/put_retry.rs: tried again until the life of the record ends
//! ```
//!
//! # One GET
//!
//! ```text
//! node::Node::on_request
//!  └ query/get.rs start_get         written here, or stored and in scope, and nothing newer was
//!     │                             seen (query/session.rs)? SUCCESS. Done.
//!     │                             a lookup of this key is running, without an answer yet? It is joined
//!     └ query/lookup.rs → rpc/outbound.rs      FIND VALUE × read_quorum: one value, heads; the quick
//!     │                             peers first (rpc/rtt.rs), another one for each that is late;
//!     │                             × alpha where a peer names no nearer node, or fails
//! node::Node::on_frame
//!  └ query/get.rs on_reply          verified; query/read_quorum.rs compares, fetches, decides
//!     └ enough agree, or the lookup is done: the largest record, or FAILURE, to all that wait for it
//!        └ query/read_repair.rs     STORE to the replicas that were behind
//! ```
//!
//! # A record afterwards
//!
//! ```text
//! storage::Storage::store            the larger record stays (record::Record::compare), or a tombstone wins
//!  ├ records/persistence.rs          a batch of changed keys → Action::Save → disk::DiskWriter → disk::Store
//!  │                                 → Node::on_saved: replies that waited for the disk leave
//!  ├ replication/schedule.rs         when it is due, when a neighbour fails or comes: whom to offer it to
//!  │  └ replication/offer.rs         OFFER → WANT → STORE; a peer with a larger record STOREs that back
//!  └ storage::Storage::sweep         its life ends: a tombstone, until no older version can be alive
//!     └ records/packs.rs             after an hour: a fingerprint of its key, on disk in a pack with others
//! disk::Store → Node::restore        after a restart; then replication/sync.rs: SYNC with the neighbours
//!  └ storage/unverified.rs           a signed or hashed record is verified before it is given to anybody;
//!                                    records/verification.rs: the others a few at a time
//! ```
//!
//! # Where to look
//!
//! The protocol: [`wire::protocol`]. Threats and faults: [`threats`]. A message's layout: [`wire`].
//! A bound: [`limits`], with all queues between a client and a peer. A setting: [`config`] and [`node::params`]. What a node does unasked:
//! `node/replication/` and `node/membership/`. Tests: `tests/`, where each name is a
//! sentence about behaviour, and [`sim`]. How fast it is: `src/bin/dht-load`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod contact;
pub mod counters;
pub mod disk;
pub mod id;
pub mod identity;
pub mod limits;
pub mod lookup;
pub mod net;
pub mod node;
pub mod pending;
pub mod record;
pub mod routing;
pub mod sim;
pub mod storage;
#[doc = include_str!("THREATS.md")]
pub mod threats {}
pub mod time;
pub mod wire;
