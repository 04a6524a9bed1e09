//! The invariants that must hold after every event, each a named function.
//!
//! A function takes only the part of the world that its invariant is about, so that a test can call it with
//! values that break the invariant. The result is a [`BrokenInvariant`] with the values that were found.
//!
//! [`after_event`] is called for the node of each event, and [`after_table_change`] if the event changed the
//! node's table. [`all_of_node`] inspects each record, contact and connection, and is called for all nodes at
//! intervals.

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

/// Maximum number of times that a node is woken while time stands still. Work that is bounded per turn takes
/// several turns, but not more.
const WAKES_WITHOUT_TIME_MAX: u32 = 1_000;

/// Which invariant is broken, and the values that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokenInvariant {
    /// A node is in its own table.
    TableContainsOwner,
    /// A bucket has more than k contacts.
    BucketOverfull {
        /// The number of leading bits that its contacts share with the owner.
        bucket: usize,
        /// The number of contacts.
        found: usize,
        /// The bound.
        k: usize,
    },
    /// A table has a contact with an address at which that node does not listen.
    WrongContact {
        /// The contact.
        contact: Contact,
    },
    /// A lookup has more than alpha requests in flight.
    LookupTooWide {
        /// Requests in flight.
        in_flight: usize,
        /// The bound.
        alpha: usize,
    },
    /// The deadline of requests to peers has passed, and the node has not handled that.
    RequestsOverdue {
        /// The number of requests.
        count: usize,
    },
    /// Connections have no deadline, so they never end if the peer sends nothing.
    ConnectionsWithoutDeadline {
        /// The number of connections.
        count: usize,
    },
    /// The node is woken again and again while time stands still.
    Spinning {
        /// How often it was woken.
        wakes: u32,
    },
    /// The bytes that were sent are not one complete message.
    NotOneFrame {
        /// The number of bytes.
        size: usize,
    },
    /// An invariant of the storage itself is broken.
    StorageBroken(StorageFault),
    /// The records take more memory than allowed.
    StorageOverfull {
        /// The size of the records.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// There are more connections than allowed.
    TooManyConnections {
        /// The number of connections.
        found: usize,
        /// The bound.
        bound: usize,
    },
    /// A node knows other connections than those that are open at its end.
    ConnectionsDiffer {
        /// Connections that the node knows.
        known: usize,
        /// Connections that are open at its end.
        open: usize,
    },
    /// A client has waited too long for its reply.
    Unanswered {
        /// When it sent the request.
        since: Time,
        /// The bound.
        within: Duration,
    },
    /// A reply to a request that is not unanswered, or with another key.
    UnexpectedReply,
    /// A node has not joined although a node that it could join through was reachable for long enough.
    NeverJoined,
    /// A node has more than one batch for its disk in flight.
    BatchesInFlight {
        /// The number of batches.
        count: usize,
    },
    /// A persisted record does not verify.
    PersistedUnverified {
        /// The key of the record.
        key: Key,
        /// What is wrong with it.
        error: Unverified,
    },
    /// Under `durability = always`, a record was confirmed that is on too few disks.
    NotDurable {
        /// The number of disks with the record or a newer one.
        copies: usize,
        /// The number that was promised.
        promised: usize,
    },
    /// A client read an older value after a newer one that was available.
    StaleRead {
        /// The number of replicas of the newer value that the node must have known.
        known: usize,
    },
    /// A record is served or stored after the end of its life.
    Outlived {
        /// When it is served, or until when it is stored.
        found: Time,
        /// The latest end of its life.
        end: Time,
    },
    /// Two nodes store different records of one key.
    ReplicasDisagree {
        /// The key.
        key: Key,
        /// The versions of both records.
        versions: [Version; 2],
    },
}

/// Whether an invariant holds.
pub type CheckResult = Result<(), BrokenInvariant>;

/// The invariants of a node after every event at it.
pub fn after_event(node: &Node, now: Time) -> CheckResult {
    for lookup in node.lookups() {
        no_lookup_exceeds_its_parallelism(lookup.in_flight(), node.params().alpha)?;
    }
    let (_, overdue) = node.requests(now);
    no_request_is_overdue(overdue)?;
    storage_is_within_its_bound(node.storage().bytes(), node.params().storage_bytes_max)
}

/// The invariants of a node after every change of its table.
pub fn after_table_change(node: &Node) -> CheckResult {
    let contacts = || node.table().iter().chain(node.table().unresponsive());
    no_table_contains_its_owner(node.me().id, contacts())?;
    no_bucket_exceeds_k(node.me().id, contacts(), node.params().k)
}

/// All invariants of a node, including those that take longer to check. `listener` returns the node that
/// listens at an address.
pub fn all_of_node(node: &Node, now: Time, listener: impl Fn(SocketAddr) -> Option<NodeId>) -> CheckResult {
    after_event(node, now)?;
    after_table_change(node)?;
    every_contact_listens_at_its_address(node.table().iter().chain(node.table().unresponsive()), listener)?;
    every_connection_has_a_deadline(node.connections_without_deadline())?;
    node.storage().check_invariants().map_err(BrokenInvariant::StorageBroken)
}

/// A node is never in its own table.
pub fn no_table_contains_its_owner<'a>(owner: NodeId, mut contacts: impl Iterator<Item = &'a Contact>) -> CheckResult {
    holds(!contacts.any(|contact| contact.id == owner), BrokenInvariant::TableContainsOwner)
}

/// A table has at most k contacts with the same number of leading bits shared with the owner.
pub fn no_bucket_exceeds_k<'a>(owner: NodeId, contacts: impl Iterator<Item = &'a Contact>, k: usize) -> CheckResult {
    let mut sizes = [0_usize; KEY_BITS];
    for contact in contacts {
        let Some(bucket) = owner.key().distance(contact.id.key()).shared_bits() else { continue };
        sizes[bucket] += 1;
        let found = sizes[bucket];
        holds(found <= k, BrokenInvariant::BucketOverfull { bucket, found, k })?;
    }
    Ok(())
}

/// A contact in a table listens at its address: the node has verified that, and no node of a world changes
/// its address.
pub fn every_contact_listens_at_its_address<'a>(
    mut contacts: impl Iterator<Item = &'a Contact>,
    listener: impl Fn(SocketAddr) -> Option<NodeId>,
) -> CheckResult {
    let wrong = contacts.find(|contact| listener(contact.address) != Some(contact.id));
    wrong.map_or(Ok(()), |contact| Err(BrokenInvariant::WrongContact { contact: *contact }))
}

/// A lookup has at most alpha requests in flight.
pub fn no_lookup_exceeds_its_parallelism(in_flight: usize, alpha: usize) -> CheckResult {
    holds(in_flight <= alpha, BrokenInvariant::LookupTooWide { in_flight, alpha })
}

/// A request times out at its deadline.
pub fn no_request_is_overdue(count: usize) -> CheckResult {
    holds(count == 0, BrokenInvariant::RequestsOverdue { count })
}

/// Every connection has a deadline; `count` connections have none.
pub fn every_connection_has_a_deadline(count: usize) -> CheckResult {
    holds(count == 0, BrokenInvariant::ConnectionsWithoutDeadline { count })
}

/// A node that is woken makes progress.
pub fn no_node_spins(wakes: u32) -> CheckResult {
    holds(wakes <= WAKES_WITHOUT_TIME_MAX, BrokenInvariant::Spinning { wakes })
}

/// The bytes that are sent are one complete message that `source` may send.
pub fn every_message_is_one_frame(source: Source, bytes: &[u8]) -> CheckResult {
    let is_one = matches!(next_frame(source, bytes), Ok(Some((_, size))) if size == bytes.len());
    holds(is_one, BrokenInvariant::NotOneFrame { size: bytes.len() })
}

/// The records take no more memory than allowed.
pub fn storage_is_within_its_bound(bytes: usize, bytes_max: usize) -> CheckResult {
    holds(bytes <= bytes_max, BrokenInvariant::StorageOverfull { bytes, bytes_max })
}

/// A node has no more connections than allowed.
pub fn connections_are_bounded(found: usize, bound: usize) -> CheckResult {
    holds(found <= bound, BrokenInvariant::TooManyConnections { found, bound })
}

/// A node knows exactly the connections that are open at its end.
pub fn a_node_knows_its_open_connections(known: usize, open: usize) -> CheckResult {
    holds(known == open, BrokenInvariant::ConnectionsDiffer { known, open })
}

/// A node waits for the result of one batch before it writes the next one.
pub fn one_batch_in_flight_at_a_time(count: usize) -> CheckResult {
    holds(count == 1, BrokenInvariant::BatchesInFlight { count })
}

/// Under `durability = always`, a confirmed record or a newer one is on the `promised` number of disks.
pub fn a_confirmed_record_is_on_disk(copies: usize, promised: usize) -> CheckResult {
    holds(copies >= promised, BrokenInvariant::NotDurable { copies, promised })
}

/// A client that reads an older value than before through the same node gets the newest available value:
/// `known` is the number of replicas of the newer value that the node must have known.
pub fn no_older_value_follows_a_newer_one(known: usize) -> CheckResult {
    holds(known == 0, BrokenInvariant::StaleRead { known })
}

/// A record is served and stored only until the `end` of its life.
pub fn no_record_outlives_its_value(found: Time, end: Time) -> CheckResult {
    holds(found <= end, BrokenInvariant::Outlived { found, end })
}

/// Two replicas of a key store the same record.
pub fn replicas_agree(one: &Record, other: &Record) -> CheckResult {
    let versions = [one.version, other.version];
    holds(one.compare(other).is_eq(), BrokenInvariant::ReplicasDisagree { key: one.key, versions })
}

/// A client gets its reply within `within`.
pub fn every_request_is_answered(now: Time, since: Time, within: Duration) -> CheckResult {
    holds(now <= since + within, BrokenInvariant::Unanswered { since, within })
}

fn holds(invariant: bool, broken: BrokenInvariant) -> CheckResult {
    if invariant { Ok(()) } else { Err(broken) }
}

impl fmt::Display for BrokenInvariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableContainsOwner => write!(f, "the node is in its own table"),
            Self::BucketOverfull { bucket, found, k } => write!(f, "bucket {bucket} has {found} contacts, k is {k}"),
            Self::WrongContact { contact } => write!(f, "the table has {contact}, which does not listen there"),
            Self::LookupTooWide { in_flight, alpha } => {
                write!(f, "a lookup has {in_flight} requests in flight, alpha is {alpha}")
            }
            Self::RequestsOverdue { count } => write!(f, "{count} requests to peers are overdue"),
            Self::ConnectionsWithoutDeadline { count } => write!(f, "{count} connections have no deadline"),
            Self::Spinning { wakes } => write!(f, "woken {wakes} times while time stood still"),
            Self::NotOneFrame { size } => write!(f, "{size} bytes were sent that are not one message"),
            Self::StorageBroken(fault) => fault.fmt(f),
            Self::StorageOverfull { bytes, bytes_max } => {
                write!(f, "the records take {bytes} bytes, {bytes_max} are allowed")
            }
            Self::TooManyConnections { found, bound } => write!(f, "{found} connections, {bound} are allowed"),
            Self::ConnectionsDiffer { known, open } => write!(f, "knows {known} connections, {open} are open"),
            Self::Unanswered { since, within } => {
                write!(f, "a client waits since {since}, {} s are allowed", within.as_secs_f64())
            }
            Self::UnexpectedReply => write!(f, "a reply that no client waits for"),
            Self::NeverJoined => write!(f, "has not joined"),
            Self::BatchesInFlight { count } => write!(f, "{count} batches for the disk are in flight"),
            Self::PersistedUnverified { key, error } => {
                write!(f, "persisted a record of {key} that does not verify: {error}")
            }
            Self::NotDurable { copies, promised } => {
                write!(f, "a confirmed record is on {copies} disks, {promised} were promised")
            }
            Self::StaleRead { known } => {
                write!(f, "an older value was read after a newer one that {known} replicas store")
            }
            Self::Outlived { found, end } => write!(f, "a record is alive at {found}, and its life ends at {end}"),
            Self::ReplicasDisagree { key, versions: [one, other] } => {
                write!(f, "versions {} and {} of {key} are stored", one.bits(), other.bits())
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

    /// A contact whose id has the first byte `first` and the last byte `last`.
    fn contact(first: u8, last: u8) -> Contact {
        let mut bytes = [0; KEY_SIZE];
        (bytes[0], bytes[KEY_SIZE - 1]) = (first, last);
        Contact::new(NodeId::new(Key::new(bytes)), SocketAddr::from(([10, 0, 0, last], 4000)))
    }

    #[test]
    fn a_table_that_contains_its_owner_is_found() {
        let (owner, other) = (contact(0, 1), contact(0, 2));
        assert_eq!(no_table_contains_its_owner(owner.id, [other].iter()), Ok(()));
        assert_eq!(
            no_table_contains_its_owner(owner.id, [other, owner].iter()),
            Err(BrokenInvariant::TableContainsOwner)
        );
    }

    #[test]
    fn a_bucket_of_more_than_k_contacts_is_found() {
        let owner = contact(0, 0).id;
        let mut contacts = vec![contact(0x80, 1), contact(0x80, 2), contact(0x40, 3)];
        assert_eq!(no_bucket_exceeds_k(owner, contacts.iter(), 2), Ok(()));
        contacts.push(contact(0xc0, 4));
        let broken = BrokenInvariant::BucketOverfull { bucket: 0, found: 3, k: 2 };
        assert_eq!(no_bucket_exceeds_k(owner, contacts.iter(), 2), Err(broken));
    }

    #[test]
    fn a_contact_that_does_not_listen_at_its_address_is_found() {
        let (there, gone) = (contact(1, 1), contact(1, 2));
        let listener = |address| (address == there.address).then_some(there.id);
        assert_eq!(every_contact_listens_at_its_address([there].iter(), listener), Ok(()));
        let broken = BrokenInvariant::WrongContact { contact: gone };
        assert_eq!(every_contact_listens_at_its_address([there, gone].iter(), listener), Err(broken));
        let elsewhere = Contact { id: gone.id, address: there.address };
        assert!(every_contact_listens_at_its_address([elsewhere].iter(), listener).is_err());
    }

    #[test]
    fn a_lookup_wider_than_alpha_is_found() {
        assert_eq!(no_lookup_exceeds_its_parallelism(3, 3), Ok(()));
        assert!(no_lookup_exceeds_its_parallelism(4, 3).is_err());
    }

    #[test]
    fn an_overdue_request_is_found() {
        assert_eq!(no_request_is_overdue(0), Ok(()));
        assert_eq!(no_request_is_overdue(1), Err(BrokenInvariant::RequestsOverdue { count: 1 }));
    }

    #[test]
    fn a_connection_without_a_deadline_is_found() {
        assert_eq!(every_connection_has_a_deadline(0), Ok(()));
        assert_eq!(every_connection_has_a_deadline(2), Err(BrokenInvariant::ConnectionsWithoutDeadline { count: 2 }));
    }

    #[test]
    fn a_node_that_is_woken_forever_while_time_stands_still_is_found() {
        assert_eq!(no_node_spins(WAKES_WITHOUT_TIME_MAX), Ok(()));
        assert!(no_node_spins(WAKES_WITHOUT_TIME_MAX + 1).is_err());
    }

    #[test]
    fn a_message_that_is_truncated_or_has_trailing_bytes_is_found() {
        let mut bytes = Vec::new();
        PeerMessage::Goodbye.encode(&mut bytes);
        assert_eq!(every_message_is_one_frame(Source::Peer, &bytes), Ok(()));
        for wrong in [&bytes[..3], &[&bytes[..], &[0]].concat(), &[0, 4, 0, 0]] {
            let broken = BrokenInvariant::NotOneFrame { size: wrong.len() };
            assert_eq!(every_message_is_one_frame(Source::Peer, wrong), Err(broken));
        }
    }

    #[test]
    fn a_storage_or_connections_beyond_the_bound_are_found() {
        assert_eq!(storage_is_within_its_bound(10, 10), Ok(()));
        assert!(storage_is_within_its_bound(11, 10).is_err());
        assert_eq!(connections_are_bounded(10, 10), Ok(()));
        assert!(connections_are_bounded(11, 10).is_err());
    }

    #[test]
    fn a_difference_between_known_and_open_connections_is_found() {
        assert_eq!(a_node_knows_its_open_connections(2, 2), Ok(()));
        assert!(a_node_knows_its_open_connections(1, 2).is_err());
        assert!(a_node_knows_its_open_connections(2, 1).is_err());
    }

    #[test]
    fn a_client_without_a_reply_is_found() {
        let since = Time::ZERO + SECOND;
        assert_eq!(every_request_is_answered(since + SECOND, since, SECOND), Ok(()));
        let broken = BrokenInvariant::Unanswered { since, within: SECOND };
        assert_eq!(every_request_is_answered(since + SECOND * 2, since, SECOND), Err(broken));
    }

    #[test]
    fn a_second_batch_in_flight_is_found() {
        assert_eq!(one_batch_in_flight_at_a_time(1), Ok(()));
        assert_eq!(one_batch_in_flight_at_a_time(2), Err(BrokenInvariant::BatchesInFlight { count: 2 }));
    }

    #[test]
    fn a_confirmed_record_on_too_few_disks_is_found() {
        assert_eq!(a_confirmed_record_is_on_disk(3, 3), Ok(()));
        let broken = BrokenInvariant::NotDurable { copies: 2, promised: 3 };
        assert_eq!(a_confirmed_record_is_on_disk(2, 3), Err(broken));
    }

    #[test]
    fn an_older_value_while_the_newer_one_is_available_is_found() {
        assert_eq!(no_older_value_follows_a_newer_one(0), Ok(()));
        assert_eq!(no_older_value_follows_a_newer_one(1), Err(BrokenInvariant::StaleRead { known: 1 }));
    }

    #[test]
    fn a_record_that_outlives_its_value_is_found() {
        let end = Time::ZERO + SECOND;
        let late = end + Duration::from_nanos(1);
        assert_eq!(no_record_outlives_its_value(end, end), Ok(()));
        assert_eq!(no_record_outlives_its_value(late, end), Err(BrokenInvariant::Outlived { found: late, end }));
    }

    #[test]
    fn replicas_that_disagree_are_found() {
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
            let broken = BrokenInvariant::ReplicasDisagree { key: other.key, versions };
            assert_eq!(replicas_agree(&record(1, b"a"), &other), Err(broken));
        }
    }
}
