//! The course's client, and its usual requests, with five nodes.

use dht::wire::api::Confirm;

use super::{client, eventually_found, numbered, put_confirmed, put_of};
use crate::common::client::{encode, get, key, put};
use crate::common::process::run;
use crate::common::{Cluster, Server, dht_client, eventually};

fn five() -> Vec<Server> {
    Cluster::start(5, |_| String::new()).servers
}

#[test]
fn the_courses_client_is_served_by_five_nodes() {
    let nodes = five();
    let put_and_get = ["-s", "-g", "--ttl", "15", "-k", "both", "-d", "at once"];
    let Some(mut both) = dht_client(nodes[2].api(), &put_and_get) else { return };
    let printed = String::from_utf8(run(&mut both, b"").stdout).expect("text");
    assert_eq!(printed, "PUT sent: 7 bytes, TTL 15 s, replication 1\nGET sent\nSUCCESS: at once\n");

    let mut putting = dht_client(nodes[0].api(), &["-s", "--ttl", "60", "-k", "far"]).expect("python3 was there");
    assert_eq!(run(&mut putting, b"").code, Some(0));
    assert_eq!(eventually_found(&nodes[4], key("far")), b"bernd");
    let mut getting = dht_client(nodes[4].api(), &["-g", "-k", "far"]).expect("python3 was there");
    assert_eq!(run(&mut getting, b"").stdout, b"GET sent\nSUCCESS: bernd\n");

    let mut missing = dht_client(nodes[3].api(), &["-g", "-k", "nobody"]).expect("python3 was there");
    let finished = run(&mut missing, b"");
    assert_eq!((finished.code, &finished.stdout[..]), (Some(1), &b"GET sent\nFAILURE: the key was not found\n"[..]));
}

#[test]
fn a_put_at_any_node_is_read_there_at_once_and_soon_at_all_others() {
    let nodes = five();
    for (at, node) in nodes.iter().enumerate() {
        let key = numbered("habits", at);
        let mut client = client(node);
        client.send(&put(key, 60, b"value")); // replication 1, and not confirmed
        assert_eq!(client.get(key), Some(b"value".to_vec()), "at node {at}");
        for other in &nodes {
            assert_eq!(eventually_found(other, key), b"value");
        }
    }
}

#[test]
fn a_put_counts_although_its_client_closes_right_behind_it() {
    let nodes = five();
    client(&nodes[0]).put(key("and gone"), b"value");
    assert_eq!(eventually_found(&nodes[4], key("and gone")), b"value");
}

#[test]
fn an_unknown_key_is_a_failure_at_every_node() {
    for node in five() {
        assert_eq!(client(&node).get(key("nobody")), None);
    }
}

#[test]
fn a_later_put_replaces_the_value_everywhere() {
    let nodes = five();
    for (number, node) in nodes.iter().enumerate() {
        let value = [u8::try_from(number).expect("there are five")];
        put_confirmed(&mut client(node), key("replaced"), 20, &value);
        for other in &nodes {
            assert_eq!(client(other).get(key("replaced")), Some(value.to_vec()));
        }
    }
}

/// All five nodes hold the older value. The later PUT asks for three copies, yet replaces all five.
#[test]
fn a_later_put_with_fewer_copies_replaces_the_value_everywhere() {
    let nodes = five();
    put_confirmed(&mut client(&nodes[0]), key("fewer"), 20, b"older");
    put_confirmed(&mut client(&nodes[3]), key("fewer"), 1, b"newer");
    for node in &nodes {
        eventually("the newer value is read", || client(node).get(key("fewer")).filter(|value| value == b"newer"));
    }
}

#[test]
fn a_value_with_ttl_1_expires_on_every_node_and_one_with_ttl_0_stays() {
    let nodes = five();
    let mut first = client(&nodes[0]);
    first.send(&encode(&put_of(key("stays"), 20, b"value", Confirm::Yes)));
    first.answer();
    first.send(&put(key("default"), 0, b"value"));
    first.send(&[put(key("goes"), 1, b"value"), get(key("goes"))].concat());
    assert_eq!(format!("{:?}", first.answer()), format!("SUCCESS {} 5 bytes \"value\"", key("goes")));
    for node in &nodes {
        let mut client = client(node);
        eventually("the value is gone", || client.get(key("goes")).is_none().then_some(()));
    }
    for node in &nodes {
        assert_eq!(client(node).get(key("goes")), None, "it came back");
        assert_eq!(client(node).get(key("stays")), Some(b"value".to_vec()));
        assert_eq!(eventually_found(node, key("default")), b"value");
    }
}
