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
//!         │ disk           │    │               │                    (load: measures them, from outside)
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
//! net: bytes → wire::frame::next_frame → wire::api                a WireError closes the connection
//! node::Node::on_request
//!  └ node/put.rs start_put        verify, or clamp and draw the version; what is being written is
//!     │                           read back at once
//!     └ routing closest → lookup → node/ask.rs                    FIND VALUE (heads) × alpha,
//!     │                             until as many as shall hold it have answered
//! node::Node::on_frame
//!  └ node/ask.rs on_reply         pending takes the request; the lookup takes the contacts; … done
//!     └ node/put.rs spread_put    STORE to the nearest; one that fails or refuses is replaced;
//!        │                        SYNC of that key to the others of the k nearest: whoever holds an
//!        │                        older record gets a copy too
//!        ├ SUCCESS, only if the client asked to be told
//!        └ too few hold it?       node/keeping.rs: kept here, and tried again until its life ends
//! ```
//!
//! # One GET
//!
//! ```text
//! node::Node::on_request
//!  └ node/get.rs start_get        being written here, or held and in scope, and nothing newer was
//!     │                           seen (node/versions.rs)? SUCCESS. Done.
//!     └ lookup → node/ask.rs                                      FIND VALUE × read_quorum: one value, heads
//!     │                             the quick ones first (node/rtt.rs), another for one that is late,
//!     │                             × alpha where nobody nearer is named or somebody fails
//! node::Node::on_frame
//!  └ node/get.rs record_heard     verified; node/reading.rs compares, fetches, and says when it ends
//!     └ enough agree, or the search is done: the largest, or FAILURE
//!        └ node/repair.rs         STORE to those who were behind
//! ```
//!
//! # A record afterwards
//!
//! ```text
//! storage::Storage::store          the larger one is held (record::Record::compare), or a tombstone wins
//!  ├ node/saving.rs                a batch of changed keys → Action::Save → disk::Saver → redb
//!  │                               → Node::on_saved: whoever waits for the disk is told
//!  ├ node/replicating.rs           when it is due, when a neighbour dies or comes: whom to offer it to
//!  │  └ node/offering.rs           OFFER → WANT → STORE; who has a larger one STOREs that back
//!  └ storage::Storage::sweep       its life ends: a tombstone, until no older version can be alive
//! disk::Store → Node::restore      after a restart; then node/syncing.rs: SYNC with the neighbours
//! ```
//!
//! # Where to look
//!
//! A message's layout: [`wire`]. A bound: [`limits`]. A setting: [`config`] and
//! [`node::params`]. What a node does of its own accord: `node/upkeep.rs`, which names the files
//! beside it. How it is tested: `tests/`, whose names are sentences, and [`sim`]. How fast it is:
//! [`load`].

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod contact;
pub mod counters;
pub mod disk;
pub mod id;
pub mod identity;
pub mod limits;
pub mod load;
pub mod lookup;
pub mod net;
pub mod node;
pub mod pending;
pub mod record;
pub mod routing;
pub mod sim;
pub mod storage;
pub mod time;
pub mod wire;
