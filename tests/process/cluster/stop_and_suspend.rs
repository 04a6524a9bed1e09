//! Nodes that are stopped, or suspended for a while, and the nodes that stay.

use super::{client, expect_one_network, numbered, observe, put_confirmed};
use crate::common::{Cluster, eventually};

#[test]
fn stopped_nodes_leave_the_tables_and_no_value_is_lost() {
    let mut nodes = Cluster::start(6, |_| String::new()).servers;
    observe(&nodes, 5);
    for number in 0..20 {
        put_confirmed(&mut client(&nodes[number % 6]), numbered("leaving", number), 3, b"value");
    }
    for at in [3, 0] {
        let mut leaver = nodes.remove(at);
        assert!(leaver.terminate().success());
        for number in 0..20 {
            let key = numbered("leaving", number);
            assert_eq!(client(&nodes[number % nodes.len()]).get(key), Some(b"value".to_vec()), "{number}");
        }
    }
    for observer in &mut observe(&nodes, 3) {
        assert_eq!(observer.contacts().len(), 3, "the stopped nodes are no longer named");
    }
    expect_one_network(&nodes);
}

#[test]
fn a_suspended_node_does_not_fail_requests_and_is_a_contact_again_once_resumed() {
    let nodes = Cluster::start(8, |_| "rpc_timeout = 300 ms".to_owned()).servers;
    observe(&nodes, 7);
    for number in 0..20 {
        put_confirmed(&mut client(&nodes[number % 8]), numbered("before", number), 8, b"value");
    }
    let still = &nodes[3];
    still.signal("STOP");
    let others: Vec<_> = nodes.iter().filter(|node| node.pid() != still.pid()).collect();
    for number in 0..20 {
        let (one, another) = (others[number % 7], others[(number + 3) % 7]);
        put_confirmed(&mut client(one), numbered("meanwhile", number), 8, b"value");
        assert_eq!(client(another).get(numbered("meanwhile", number)), Some(b"value".to_vec()));
        assert_eq!(client(another).get(numbered("before", number)), Some(b"value".to_vec()));
    }
    still.signal("CONT");
    for number in 0..20 {
        assert_eq!(client(still).get(numbered("meanwhile", number)), Some(b"value".to_vec()));
    }
    let mut observers = observe(&nodes, 0);
    let id = observers[3].id;
    for observer in observers.iter_mut().filter(|observer| observer.id != id) {
        eventually("it is named again", || observer.contacts().iter().any(|contact| contact.id == id).then_some(()));
    }
    expect_one_network(&nodes);
}
