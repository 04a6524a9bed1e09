//! A Kademlia distributed hash table that speaks the VoidPhone module API.
//!
//! This page is the map of the house: read it first. One sentence: **a pure machine in the
//! middle, a thin host around it, a law about what may touch what, and tests that drive time by
//! hand.** The very same [`node::Node`] runs in the mio loop of `dht-server` and, twenty thousand
//! times over, in a deterministic simulator.
//!
//! # Floors
//!
//! ```text
//!             main.rs  cli.rs  config/  bin/*                        roof
//!                  │                    │
//!         ┌────────┴───────┐    ┌───────┴───────┐
//!         │ net  (mio,TLS) │    │ sim (no I/O)  │                    floor 3: hosts, strangers to each other
//!         │ disk           │    │               │
//!         └────────┬───────┘    └───────┬───────┘
//!                  └─────────┬──────────┘
//!                      node  (pure)                                  floor 2: decisions
//!           ┌────────┬───────┴───┬─────────┐
//!        routing   lookup     storage   pending  (pure)              floor 1: machines, strangers to each other
//!           └────────┴─────┬─────┴─────────┘
//!    id  identity  time  contact  counters  limits  record  wire     floor 0: ground
//! ```
//!
//! Who may import whom, and what a floor may never name, is a table in `tests/architecture.rs`,
//! which reads the sources and fails on a breach. In short: floors 0 to 2 know no clock, no
//! operating system's randomness, no socket, no file and no thread; time, randomness and I/O
//! come in as arguments. That is why a run replays from its seed.
//!
//! # Vocabulary
//!
//! Kademlia's words where it has them: a [`id::Key`] is a point of a space of 256 bits, a
//! [`id::NodeId`] sits at one; a [`contact::Contact`] says where a node is to be found; a
//! [`routing::Table`] of buckets knows contacts; a [`lookup::Lookup`] finds the nodes nearest to
//! a key; a [`record::Record`] is a value with a version and a life. An *RPC* is a request
//! between nodes; a *client* is a module, or a person, on the API. A contact is *live*, or fell
//! *asleep* when it failed. A node is *joining* until somebody answers, *settling* while it learns
//! what it missed, then *settled*. A key is in *scope* when too few known nodes are nearer to it
//! for another to be responsible. A record that ended leaves a *tombstone*; one that *certifies
//! itself*, being signed or hashed, gives way to no plain one.
//!
//! # One turn of the loop
//!
//! [`net`] describes it in full: wait for sockets; read each a bounded bit; split
//! the bytes into messages ([`wire::frame`]); hand each to the node; perform the actions it
//! wants; write what is to be written; close what is to be closed. One thread, no locks.
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
//!     └ query/lookup.rs → rpc/outbound.rs      FIND VALUE × read_quorum: one value, heads; the quick
//!     │                             peers first (rpc/rtt.rs), another one for each that is late;
//!     │                             × alpha where a peer names nobody nearer, or fails
//! node::Node::on_frame
//!  └ query/get.rs record_heard      verified; query/read_quorum.rs compares, fetches, decides
//!     └ enough agree, or the lookup is done: the largest record, or FAILURE
//!        └ query/read_repair.rs     STORE to the replicas that were behind
//! ```
//!
//! # A record afterwards
//!
//! ```text
//! storage::Storage::store            the larger record stays (record::Record::compare), or a tombstone wins
//!  ├ records/persistence.rs          a batch of changed keys → Action::Save → disk::Saver → redb
//!  │                                 → Node::on_saved: replies that waited for the disk leave
//!  ├ replication/schedule.rs         when it is due, when a neighbour fails or comes: whom to offer it to
//!  │  └ replication/offer.rs         OFFER → WANT → STORE; a peer with a larger record STOREs that back
//!  └ storage::Storage::sweep         its life ends: a tombstone, until no older version can be alive
//! disk::Store → Node::restore        after a restart; then replication/sync.rs: SYNC with the neighbours
//! ```
//!
//! # Where to look
//!
//! The protocol: [`wire::protocol`]. Threats and faults: [`threats`]. A message's layout: [`wire`].
//! A bound: [`limits`]. A setting: [`config`] and [`node::params`]. What a node does unasked:
//! `node/replication/` and `node/membership/`. How it is tested: `tests/`, whose names are sentences,
//! and [`sim`]. How fast it is: `src/bin/dht-load`.

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
