//! A network of 32 nodes loses its bootstrap, then a quarter of the other nodes, but no value.

use dht::id::Key;
use dht::wire::api::Confirm;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{client, observe, put_confirmed, put_of};
use crate::common::client::encode;
use crate::common::{Cluster, Server, eventually};

const PUTS: usize = 500;
const REPLICATION: u8 = 8;

/// Values of 100 bytes for random keys.
fn draw_values(rng: &mut StdRng) -> Vec<(Key, Vec<u8>)> {
    let draw = |_| (Key::new(rng.random()), rng.random::<[u8; 32]>().repeat(4)[..100].to_vec());
    (0..PUTS).map(draw).collect()
}

/// Expects each of `values` at one of `nodes`, drawn anew for each value.
fn expect_found(rng: &mut StdRng, nodes: &[Server], values: &[(Key, Vec<u8>)]) {
    let mut clients: Vec<_> = nodes.iter().map(client).collect();
    for (number, (key, value)) in values.iter().enumerate() {
        let at = rng.random_range(0..clients.len());
        assert!(clients[at].get(*key).as_ref() == Some(value), "value {number} {key} at {}", nodes[at].id());
    }
}

#[test]
fn a_network_of_32_nodes_loses_its_bootstrap_and_eight_nodes_but_no_value() {
    let mut rng = StdRng::seed_from_u64(32);
    let mut nodes = Cluster::start(32, |_| String::new()).servers;
    observe(&nodes, 20);
    nodes.remove(0).kill_hard();

    let values = draw_values(&mut rng);
    let mut clients: Vec<_> = nodes.iter().map(client).collect();
    let (confirmed, plain) = values.split_at(PUTS / 2);
    for (key, value) in confirmed {
        put_confirmed(&mut clients[rng.random_range(0..nodes.len())], *key, REPLICATION, value);
    }
    for (key, value) in plain {
        let put = encode(&put_of(*key, REPLICATION, value, Confirm::No));
        clients[rng.random_range(0..nodes.len())].send(&put);
    }
    let mut observers = observe(&nodes, 20);
    for (key, _) in &values {
        // A confirmed value has its replicas already; an unconfirmed one may still be in flight.
        eventually("a value is spread", || {
            let holders = observers.iter_mut().filter_map(|observer| observer.holds(*key).then_some(())).count();
            (holders >= usize::from(REPLICATION)).then_some(())
        });
    }
    expect_found(&mut rng, &nodes, &values);

    for _ in 0..8 {
        nodes.swap_remove(rng.random_range(0..nodes.len())).kill_hard();
    }
    expect_found(&mut rng, &nodes, &values);

    let bootstrap = nodes[rng.random_range(0..nodes.len())].p2p();
    let newcomer = Server::start(&format!("bootstrap = {bootstrap}"));
    newcomer.log_line("joined contacts=");
    expect_found(&mut rng, &[newcomer], &values[..100]);
}
