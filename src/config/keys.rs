//! The keys of a configuration: the name of each, its range and its field in [`Settings`].

use std::path::PathBuf;
use std::time::Duration;

use crate::limits::{K_MAX, PEER_CONNECTIONS_MIN};
use crate::node::params::{Reads, Serving};

use super::settings::{Settings, network_of};
use super::value::{self, Misread};

/// Reads a value into its field.
pub(super) type Read = fn(&mut Settings, &str) -> Result<(), Misread>;

/// The keys of the section: the name of each and its range.
pub(super) const KEYS: &[(&str, Read)] = &[
    ("api_address", |s, v| set(&mut s.api_address, value::address(v))),
    ("api_allow_remote", |s, v| set(&mut s.api_allow_remote, value::yes_or_no(v))),
    ("api_connections_max", |s, v| set(&mut s.api_connections_max, value::number(v, 1..=65_536))),
    ("api_idle_timeout", |s, v| set(&mut s.api_idle_timeout, value::span(v, millis(100)..=hours(168)))),
    ("p2p_address", |s, v| set(&mut s.p2p_addresses, value::addresses(v))),
    ("advertise_port", |s, v| set(&mut s.advertise_port, value::port(v))),
    ("serving", |s, v| set(&mut s.params.serving, value::yes_or_no(v).map(serving_of))),
    ("bootstrap", |s, v| set(&mut s.params.bootstraps, value::bootstraps(v))),
    ("network", |s, v| set(&mut s.params.network, value::text(v, 1..=64).map(network_of))),
    ("pow_bits", |s, v| set(&mut s.pow_bits, value::number(v, 0..=32))),
    ("data_dir", |s, v| set(&mut s.data_dir, value::path(v))),
    ("k", |s, v| set(&mut s.params.k, value::number(v, 1..=K_MAX as u64))),
    ("alpha", |s, v| set(&mut s.params.alpha, value::number(v, 1..=K_MAX as u64))),
    ("replication_default", |s, v| set(&mut s.params.replication_default, value::number(v, 1..=K_MAX as u64))),
    ("replication_min", |s, v| set(&mut s.params.replication_min, value::number(v, 1..=K_MAX as u64))),
    ("ttl_default", |s, v| set(&mut s.params.ttl_default, value::ttl(v))),
    ("ttl_min", |s, v| set(&mut s.params.ttl_min, value::ttl(v))),
    ("ttl_max", |s, v| set(&mut s.params.ttl_max, value::ttl(v))),
    ("request_timeout", |s, v| set(&mut s.params.request_timeout, value::span(v, millis(100)..=hours(1)))),
    ("rpc_timeout", |s, v| set(&mut s.params.rpc_timeout, value::span(v, millis(10)..=millis(60_000)))),
    ("refresh_interval", |s, v| set(&mut s.params.refresh_interval, value::span(v, millis(1_000)..=hours(24)))),
    ("read_quorum", |s, v| set(&mut s.params.read_quorum, value::number(v, 1..=K_MAX as u64))),
    ("secure", |s, v| set(&mut s.params.reads, value::yes_or_no(v).map(reads_of))),
    ("replicate_interval", |s, v| set(&mut s.params.replicate_interval, value::span(v, millis(1_000)..=hours(24)))),
    ("durability", |s, v| set(&mut s.params.durability, value::durability(v))),
    ("address_groups", |s, v| set(&mut s.params.address_groups, value::address_groups(v))),
    ("leave_timeout", |s, v| set(&mut s.params.leave_timeout, value::span(v, millis(100)..=hours(1)))),
    ("storage_bytes_max", |s, v| set(&mut s.params.storage_bytes_max, value::size(v, 1 << 20..=1 << 40))),
    ("peer_connections_max", |s, v| {
        set(&mut s.params.peer_connections_max, value::number(v, PEER_CONNECTIONS_MIN..=65_536))
    }),
];

/// The global key that all VoidPhone modules share.
pub(super) const HOSTKEY: (&str, Read) =
    ("hostkey", |s, v| set(&mut s.hostkey, Ok((!v.is_empty()).then(|| PathBuf::from(v)))));

/// Names of keys in earlier programs of the course: old name, current name.
pub(super) const OLD_NAMES: &[(&str, &str)] = &[("listen_address", "p2p_address"), ("bootstrapper", "bootstrap")];

/// The key of the section with this current or old `name`.
pub(super) fn key_of(name: &str) -> Option<(&'static str, Read)> {
    let name = OLD_NAMES.iter().find(|(old, _)| *old == name).map_or(name, |(_, present)| present);
    KEYS.iter().find(|(key, _)| *key == name).copied()
}

/// The key of the section whose spelling is most similar to `name`.
pub(super) fn nearest_key(name: &str) -> &'static str {
    let (key, _) = KEYS.iter().min_by_key(|(key, _)| edit_distance(key, name)).expect("the section has keys");
    key
}

/// The Levenshtein distance: the number of bytes to insert, remove or replace. Only the beginning of
/// a very long `name` counts.
fn edit_distance(known: &str, name: &str) -> usize {
    const NAME_SIZE_MAX: usize = 64;
    let known = known.as_bytes();
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (removed, found) in (1..).zip(name.bytes().take(NAME_SIZE_MAX)) {
        let mut diagonal = row[0];
        row[0] = removed;
        for (at, &letter) in known.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != found);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[known.len()]
}

fn set<T>(field: &mut T, value: Result<T, Misread>) -> Result<(), Misread> {
    *field = value?;
    Ok(())
}

fn serving_of(yes: bool) -> Serving {
    if yes { Serving::Yes } else { Serving::No }
}

fn reads_of(secure: bool) -> Reads {
    if secure { Reads::Secure } else { Reads::Quorum }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn hours(hours: u64) -> Duration {
    Duration::from_hours(hours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_with_the_fewest_letters_to_change() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("alpha", ""), 5);
        assert_eq!(edit_distance("k", "k"), 0);
        assert_eq!(nearest_key("read_qorum"), "read_quorum");
        assert_eq!(
            nearest_key(&"secure".repeat(1_000)),
            nearest_key(&"secure".repeat(11)),
            "only the beginning counts"
        );
    }
}
