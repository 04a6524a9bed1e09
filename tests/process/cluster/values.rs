//! Values of all sizes, in both forms of the wire format; and a network with the default puzzle.

use super::{client, expect_one_network, numbered, observe, put_confirmed};
use crate::common::Cluster;
use crate::scripted_peer::tls::puzzle_bits;

/// Sizes at which a layout changes: the smallest; what one `recv(4096)` of a client can hold; a page;
/// around the limits of the short form of STORE and FIND VALUE REPLY; the largest.
const SIZES: [usize; 8] = [1, 4060, 4096, 65_446, 65_447, 65_448, 65_494, 65_495];

/// Bytes that differ from their neighbours, and from those of other sizes.
fn value_of(size: usize) -> Vec<u8> {
    (size..2 * size).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

#[test]
fn values_of_all_sizes_are_read_whole_at_any_node() {
    let nodes = Cluster::start(8, |_| String::new()).servers;
    let mut observers = observe(&nodes, 7);
    for (number, size) in SIZES.into_iter().enumerate() {
        let key = numbered("values", number);
        put_confirmed(&mut client(&nodes[number]), key, 3, &value_of(size));
        let holders = observers.iter_mut().filter_map(|observer| observer.holds(key).then_some(())).count();
        assert!((3..8).contains(&holders), "{holders} hold {size} bytes: some node must have to ask for them");
        for node in &nodes {
            assert!(client(node).get(key) == Some(value_of(size)), "{size} bytes at {}", node.id());
        }
    }
}

#[test]
fn nodes_with_the_default_puzzle_form_a_network() {
    let nodes = Cluster::start(3, |_| "pow_bits = 12".to_owned()).servers;
    for observer in observe(&nodes, 1) {
        assert!(puzzle_bits(&observer.id) >= 12);
    }
    expect_one_network(&nodes);
}
