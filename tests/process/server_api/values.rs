//! Values of all sizes, and answers that are never split: rule 4.

use dht::limits::VALUE_SIZE_MAX;

use crate::common::Server;
use crate::common::client::{Client, get, key};

/// Sizes at which a layout changes: the smallest; what one `recv(4096)` of a client can hold; a page;
/// around the limit of the short form of STORE; the largest.
const SIZES: [usize; 7] = [1, 4_060, 4_096, 65_447, 65_448, 65_494, VALUE_SIZE_MAX];

/// Bytes that differ from their neighbours, and from those of other sizes.
fn value_of(size: usize) -> Vec<u8> {
    (size..2 * size).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

#[test]
fn values_of_all_sizes_come_back_whole() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    for size in SIZES {
        client.put(key(&format!("{size}")), &value_of(size));
    }
    for size in SIZES {
        assert!(client.get(key(&format!("{size}"))) == Some(value_of(size)), "{size} bytes");
    }
}

#[test]
fn an_answer_of_4096_bytes_comes_in_a_single_recv() {
    let server = Server::start("");
    let mut client = Client::connect(server.api());
    let value = value_of(4_060);
    client.put(key("k"), &value);
    for _ in 0..100 {
        client.send(&get(key("k")));
        let mut answer = [0; 4_096];
        assert_eq!(client.receive(&mut answer), 4_096);
        assert!(answer[36..] == value);
    }
}
