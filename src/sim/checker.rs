//! The laws that must hold after every event, each a function with a name.
//!
//! A function takes no more of the world than its law speaks of, so that each can be shown a
//! world in which the law is broken. What it finds is a [`Breach`], with the numbers seen.
//!
//! [`after_event`] is asked about the node that an event touched, [`after_change`] too if its
//! table changed; [`in_depth`] looks at each record, contact and connection, and is asked about
//! all nodes now and then.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::contact::Contact;
use crate::id::{KEY_BITS, Key, NodeId};
use crate::node::Node;
use crate::record::envelope::Unverified;
use crate::record::{Record, Version};
use crate::storage::StorageFault;
use crate::time::Time;
use crate::wire::Source;
use crate::wire::frame::next_frame;

/// How often a node may be woken while time stands still. Work that is bounded by turn takes
/// several turns, but it ends.
const TURNS_WITHOUT_TIME_MAX: u32 = 1_000;

/// Which law was broken, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A node is in its own table.
    TableHoldsOwner,
    /// A bucket has more than k contacts.
    BucketOverfull {
        /// The leading bits that its contacts share with the owner.
        bucket: usize,
        /// Contacts found.
        found: usize,
        /// The bound.
        k: usize,
    },
    /// A table names somebody who does not listen there.
    FalseContact {
        /// Who, and where.
        contact: Contact,
    },
    /// A lookup has more requests under way than alpha.
    LookupTooWide {
        /// Requests under way.
        in_flight: usize,
        /// The bound.
        alpha: usize,
    },
    /// The deadline of requests to peers has passed, and nobody was told.
    RequestsOverdue {
        /// How many.
        count: usize,
    },
    /// Connections stay as they are for ever, should the other side say nothing.
    ConnectionsUnwatched {
        /// How many.
        count: usize,
    },
    /// The node is woken again and again while time stands still.
    Restless {
        /// How often.
        turns: u32,
    },
    /// What was sent is not one whole message.
    NotOneFrame {
        /// Bytes sent.
        size: usize,
    },
    /// The records held break the storage's own laws.
    StorageBroken(StorageFault),
    /// The records held take more than they may.
    StorageOverfull {
        /// What they take.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// There are more connections than there may be.
    TooManyConnections {
        /// Connections found.
        found: usize,
        /// The bound.
        bound: usize,
    },
    /// A node knows of other connections than it has.
    ConnectionsForgotten {
        /// Those it knows of.
        known: usize,
        /// Those that are open at its end.
        open: usize,
    },
    /// A client has waited longer for its answer than it has to.
    Unanswered {
        /// Since when.
        since: Time,
        /// How long it may take.
        within: Duration,
    },
    /// An answer that nobody waits for, or that speaks of another key.
    StrangeAnswer,
    /// A node has not joined although there was time, and somebody to join.
    NeverJoined,
    /// A node wants more than one batch written at a time.
    BatchesInFlight {
        /// How many.
        count: usize,
    },
    /// What a node wanted kept does not prove what it claims.
    PersistedUnverified {
        /// The key of the record.
        key: Key,
        /// What is wrong with it.
        error: Unverified,
    },
    /// Somebody was told, under `durability = always`, that a record is held, and it is on too few
    /// disks.
    NotDurable {
        /// Disks that it is on, or a later one.
        copies: usize,
        /// How many were promised.
        promised: usize,
    },
    /// A client read an older value after a newer one that was still to be had.
    WentBack {
        /// How many held the newer one, as far as that matters.
        known: usize,
    },
    /// A record is served, or would be, when its life is over.
    Outlived {
        /// When it is served, or until when it is held.
        found: Time,
        /// When its life ends at the latest.
        end: Time,
    },
    /// Two nodes hold different records of one key.
    ReplicasDisagree {
        /// The key.
        key: Key,
        /// The versions held.
        versions: [Version; 2],
    },
}

/// What a law says of what it was shown.
pub type Verdict = Result<(), Breach>;

/// What holds of a node after every event that touched it.
pub fn after_event(node: &Node, now: Time) -> Verdict {
    for lookup in node.lookups() {
        no_lookup_exceeds_its_parallelism(lookup.in_flight(), node.params().alpha)?;
    }
    let (_, overdue) = node.requests(now);
    no_request_is_overdue(overdue)?;
    storage_is_within_its_bound(node.storage().bytes(), node.params().storage_bytes_max)
}

/// What holds of a node after every event that may have changed whom it knows.
pub fn after_change(node: &Node) -> Verdict {
    let contacts = || node.table().iter().chain(node.table().unresponsive());
    no_table_holds_its_owner(node.me().id, contacts())?;
    no_bucket_exceeds_k(node.me().id, contacts(), node.params().k)
}

/// What holds of a node always, and takes longer to find out. `listener` says who listens at an
/// address.
pub fn in_depth(node: &Node, now: Time, listener: impl Fn(SocketAddr) -> Option<NodeId>) -> Verdict {
    after_event(node, now)?;
    after_change(node)?;
    every_contact_listens_there(node.table().iter().chain(node.table().unresponsive()), listener)?;
    every_connection_has_a_deadline(node.connections_without_deadline())?;
    node.storage().check_invariants().map_err(Breach::StorageBroken)
}

/// A node is never in its own table.
pub fn no_table_holds_its_owner<'a>(owner: NodeId, mut contacts: impl Iterator<Item = &'a Contact>) -> Verdict {
    holds(!contacts.any(|contact| contact.id == owner), || Breach::TableHoldsOwner)
}

/// Of the contacts that share so many leading bits with the owner, a table has no more than k.
pub fn no_bucket_exceeds_k<'a>(owner: NodeId, contacts: impl Iterator<Item = &'a Contact>, k: usize) -> Verdict {
    let mut sizes = [0_usize; KEY_BITS];
    for contact in contacts {
        let Some(bucket) = owner.key().distance(contact.id.key()).shared_bits() else { continue };
        sizes[bucket] += 1;
        let found = sizes[bucket];
        holds(found <= k, || Breach::BucketOverfull { bucket, found, k })?;
    }
    Ok(())
}

/// Whoever is in a table was met at its address; nobody moves in this world, so it is still its.
pub fn every_contact_listens_there<'a>(
    mut contacts: impl Iterator<Item = &'a Contact>,
    listener: impl Fn(SocketAddr) -> Option<NodeId>,
) -> Verdict {
    let stranger = contacts.find(|contact| listener(contact.address) != Some(contact.id));
    stranger.map_or(Ok(()), |contact| Err(Breach::FalseContact { contact: *contact }))
}

/// A lookup has at most alpha requests under way.
pub fn no_lookup_exceeds_its_parallelism(in_flight: usize, alpha: usize) -> Verdict {
    holds(in_flight <= alpha, || Breach::LookupTooWide { in_flight, alpha })
}

/// A request that missed its deadline is reported at the deadline.
pub fn no_request_is_overdue(count: usize) -> Verdict {
    holds(count == 0, || Breach::RequestsOverdue { count })
}

/// Whatever becomes of a connection, its end is in sight: `without` have no deadline.
pub fn every_connection_has_a_deadline(without: usize) -> Verdict {
    holds(without == 0, || Breach::ConnectionsUnwatched { count: without })
}

/// A node that is woken gets on with what it was woken for.
pub fn no_node_is_restless(turns: u32) -> Verdict {
    holds(turns <= TURNS_WITHOUT_TIME_MAX, || Breach::Restless { turns })
}

/// What is sent is one whole message that `source` may send.
pub fn every_message_fits_its_frame(source: Source, bytes: &[u8]) -> Verdict {
    let whole = matches!(next_frame(source, bytes), Ok(Some((_, size))) if size == bytes.len());
    holds(whole, || Breach::NotOneFrame { size: bytes.len() })
}

/// The records held take no more than they may.
pub fn storage_is_within_its_bound(bytes: usize, bytes_max: usize) -> Verdict {
    holds(bytes <= bytes_max, || Breach::StorageOverfull { bytes, bytes_max })
}

/// A node has no more connections than it may have, but for those whose HELLO it awaits.
pub fn connections_are_bounded(found: usize, bound: usize) -> Verdict {
    holds(found <= bound, || Breach::TooManyConnections { found, bound })
}

/// A node knows of every connection that is open at its end, and of no other.
pub fn no_connection_is_forgotten(known: usize, open: usize) -> Verdict {
    holds(known == open, || Breach::ConnectionsForgotten { known, open })
}

/// A node awaits the end of one batch before it wants the next one written.
pub fn one_batch_in_flight_at_a_time(count: usize) -> Verdict {
    holds(count == 1, || Breach::BatchesInFlight { count })
}

/// Under `durability = always` whoever is told that a record is held finds it on so many disks as
/// were `promised`, or a later one.
pub fn what_is_confirmed_is_on_disk(copies: usize, promised: usize) -> Verdict {
    holds(copies >= promised, || Breach::NotDurable { copies, promised })
}

/// A client that is given an older value than before, through the same node, is given the newest
/// that is to be had: `known` nodes that cannot have been missed hold the newer one.
pub fn no_older_value_follows_a_newer_one(known: usize) -> Verdict {
    holds(known == 0, || Breach::WentBack { known })
}

/// A record that is read at `now` has some life left, by its PUT.
pub fn no_record_is_served_beyond_its_life(now: Time, end: Time) -> Verdict {
    holds(now <= end, || Breach::Outlived { found: now, end })
}

/// A record is held until `expires`, and not beyond its life, by its PUT.
pub fn no_record_is_held_beyond_its_life(expires: Time, end: Time) -> Verdict {
    holds(expires <= end, || Breach::Outlived { found: expires, end })
}

/// Two nodes that hold a key hold the same record.
pub fn replicas_agree(one: &Record, other: &Record) -> Verdict {
    let versions = [one.version, other.version];
    holds(one.compare(other).is_eq(), || Breach::ReplicasDisagree { key: one.key, versions })
}

/// A client that asked at `since` is answered within `within`.
pub fn every_request_is_answered(now: Time, since: Time, within: Duration) -> Verdict {
    holds(now <= since + within, || Breach::Unanswered { since, within })
}

fn holds(law: bool, breach: impl FnOnce() -> Breach) -> Verdict {
    if law { Ok(()) } else { Err(breach()) }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableHoldsOwner => write!(f, "the node is in its own table"),
            Self::BucketOverfull { bucket, found, k } => write!(f, "bucket {bucket} has {found} contacts, k is {k}"),
            Self::FalseContact { contact } => write!(f, "the table names {contact}, who does not listen there"),
            Self::LookupTooWide { in_flight, alpha } => {
                write!(f, "a lookup has {in_flight} requests under way, alpha is {alpha}")
            }
            Self::RequestsOverdue { count } => write!(f, "{count} requests to peers are overdue"),
            Self::ConnectionsUnwatched { count } => write!(f, "{count} connections have no deadline"),
            Self::Restless { turns } => write!(f, "woken {turns} times while time stood still"),
            Self::NotOneFrame { size } => write!(f, "{size} bytes were sent that are not one message"),
            Self::StorageBroken(fault) => fault.fmt(f),
            Self::StorageOverfull { bytes, bytes_max } => {
                write!(f, "the records take {bytes} bytes, {bytes_max} are allowed")
            }
            Self::TooManyConnections { found, bound } => write!(f, "{found} connections, {bound} are allowed"),
            Self::ConnectionsForgotten { known, open } => write!(f, "knows of {known} connections, {open} are open"),
            Self::Unanswered { since, within } => {
                write!(f, "a client waits since {since}, {} s are allowed", within.as_secs_f64())
            }
            Self::StrangeAnswer => write!(f, "an answer that nobody waits for"),
            Self::NeverJoined => write!(f, "has not joined"),
            Self::BatchesInFlight { count } => write!(f, "{count} batches on their way to the disk"),
            Self::PersistedUnverified { key, error } => {
                write!(f, "kept a record of {key} that does not verify: {error}")
            }
            Self::NotDurable { copies, promised } => {
                write!(f, "a record that was confirmed is on {copies} disks, {promised} were promised")
            }
            Self::WentBack { known } => {
                write!(f, "an older value was read after a newer one that {known} nodes hold")
            }
            Self::Outlived { found, end } => write!(f, "a record is alive at {found}, and its life ends at {end}"),
            Self::ReplicasDisagree { key, versions: [one, other] } => {
                write!(f, "versions {} and {} of {key} are held", one.bits(), other.bits())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KEY_SIZE;
    use crate::record::{Class, Ttl, crc_of};
    use crate::wire::peer::PeerMessage;

    const SECOND: Duration = Duration::from_secs(1);

    /// A contact whose id has `first` for its first byte and `last` for its last one.
    fn contact(first: u8, last: u8) -> Contact {
        let mut bytes = [0; KEY_SIZE];
        (bytes[0], bytes[KEY_SIZE - 1]) = (first, last);
        Contact::new(NodeId::new(Key::new(bytes)), SocketAddr::from(([10, 0, 0, last], 4000)))
    }

    #[test]
    fn a_table_that_holds_its_owner_is_found() {
        let (owner, other) = (contact(0, 1), contact(0, 2));
        assert_eq!(no_table_holds_its_owner(owner.id, [other].iter()), Ok(()));
        assert_eq!(no_table_holds_its_owner(owner.id, [other, owner].iter()), Err(Breach::TableHoldsOwner));
    }

    #[test]
    fn a_bucket_of_more_than_k_contacts_is_found() {
        let owner = contact(0, 0).id;
        let mut contacts = vec![contact(0x80, 1), contact(0x80, 2), contact(0x40, 3)];
        assert_eq!(no_bucket_exceeds_k(owner, contacts.iter(), 2), Ok(()));
        contacts.push(contact(0xc0, 4));
        let breach = Breach::BucketOverfull { bucket: 0, found: 3, k: 2 };
        assert_eq!(no_bucket_exceeds_k(owner, contacts.iter(), 2), Err(breach));
    }

    #[test]
    fn a_contact_who_does_not_listen_at_its_address_is_found() {
        let (there, gone) = (contact(1, 1), contact(1, 2));
        let listener = |address| (address == there.address).then_some(there.id);
        assert_eq!(every_contact_listens_there([there].iter(), listener), Ok(()));
        let breach = Breach::FalseContact { contact: gone };
        assert_eq!(every_contact_listens_there([there, gone].iter(), listener), Err(breach));
        let elsewhere = Contact { id: gone.id, address: there.address };
        assert!(every_contact_listens_there([elsewhere].iter(), listener).is_err());
    }

    #[test]
    fn a_lookup_wider_than_alpha_is_found() {
        assert_eq!(no_lookup_exceeds_its_parallelism(3, 3), Ok(()));
        assert!(no_lookup_exceeds_its_parallelism(4, 3).is_err());
    }

    #[test]
    fn an_overdue_request_is_found() {
        assert_eq!(no_request_is_overdue(0), Ok(()));
        assert_eq!(no_request_is_overdue(1), Err(Breach::RequestsOverdue { count: 1 }));
    }

    #[test]
    fn a_connection_without_a_deadline_is_found() {
        assert_eq!(every_connection_has_a_deadline(0), Ok(()));
        assert_eq!(every_connection_has_a_deadline(2), Err(Breach::ConnectionsUnwatched { count: 2 }));
    }

    #[test]
    fn a_node_that_is_woken_for_ever_while_time_stands_still_is_found() {
        assert_eq!(no_node_is_restless(TURNS_WITHOUT_TIME_MAX), Ok(()));
        assert!(no_node_is_restless(TURNS_WITHOUT_TIME_MAX + 1).is_err());
    }

    #[test]
    fn a_message_that_is_cut_or_followed_by_something_is_found() {
        let mut bytes = Vec::new();
        PeerMessage::Goodbye.encode(&mut bytes);
        assert_eq!(every_message_fits_its_frame(Source::Peer, &bytes), Ok(()));
        for wrong in [&bytes[..3], &[&bytes[..], &[0]].concat(), &[0, 4, 0, 0]] {
            let breach = Breach::NotOneFrame { size: wrong.len() };
            assert_eq!(every_message_fits_its_frame(Source::Peer, wrong), Err(breach));
        }
    }

    #[test]
    fn what_exceeds_its_bound_is_found() {
        assert_eq!(storage_is_within_its_bound(10, 10), Ok(()));
        assert!(storage_is_within_its_bound(11, 10).is_err());
        assert_eq!(connections_are_bounded(10, 10), Ok(()));
        assert!(connections_are_bounded(11, 10).is_err());
    }

    #[test]
    fn a_connection_that_was_forgotten_is_found() {
        assert_eq!(no_connection_is_forgotten(2, 2), Ok(()));
        assert!(no_connection_is_forgotten(1, 2).is_err());
        assert!(no_connection_is_forgotten(2, 1).is_err());
    }

    #[test]
    fn a_client_without_an_answer_is_found() {
        let since = Time::ZERO + SECOND;
        assert_eq!(every_request_is_answered(since + SECOND, since, SECOND), Ok(()));
        let breach = Breach::Unanswered { since, within: SECOND };
        assert_eq!(every_request_is_answered(since + SECOND * 2, since, SECOND), Err(breach));
    }

    #[test]
    fn a_second_batch_before_the_end_of_the_first_is_found() {
        assert_eq!(one_batch_in_flight_at_a_time(1), Ok(()));
        assert_eq!(one_batch_in_flight_at_a_time(2), Err(Breach::BatchesInFlight { count: 2 }));
    }

    #[test]
    fn a_confirmed_record_that_is_on_too_few_disks_is_found() {
        assert_eq!(what_is_confirmed_is_on_disk(3, 3), Ok(()));
        let breach = Breach::NotDurable { copies: 2, promised: 3 };
        assert_eq!(what_is_confirmed_is_on_disk(2, 3), Err(breach));
    }

    #[test]
    fn an_older_value_while_the_newer_one_is_to_be_had_is_found() {
        assert_eq!(no_older_value_follows_a_newer_one(0), Ok(()));
        assert_eq!(no_older_value_follows_a_newer_one(1), Err(Breach::WentBack { known: 1 }));
    }

    #[test]
    fn a_record_that_outlives_its_value_is_found() {
        let end = Time::ZERO + SECOND;
        let late = end + Duration::from_nanos(1);
        for law in [no_record_is_served_beyond_its_life, no_record_is_held_beyond_its_life] {
            assert_eq!(law(end, end), Ok(()));
            assert_eq!(law(late, end), Err(Breach::Outlived { found: late, end }));
        }
    }

    #[test]
    fn holders_that_disagree_are_found() {
        let record = |version, value: &[u8]| Record {
            key: Key::new([7; KEY_SIZE]),
            class: Class::Plain,
            version: Version::from_bits(version),
            ttl: Ttl::from_secs(60).expect("not zero"),
            replication: 8,
            crc: crc_of(value),
            value: value.into(),
        };
        assert_eq!(replicas_agree(&record(1, b"a"), &record(1, b"a")), Ok(()));
        for other in [record(2, b"a"), record(1, b"b")] {
            let versions = [Version::from_bits(1), other.version];
            let breach = Breach::ReplicasDisagree { key: other.key, versions };
            assert_eq!(replicas_agree(&record(1, b"a"), &other), Err(breach));
        }
    }
}
