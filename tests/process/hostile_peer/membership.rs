//! Which nodes a server names to others, seen by a peer and by other servers.

use super::{Harness, NETWORK, fit_key, node};
use crate::common::client::{Answer, Client, key};
use crate::common::{Server, eventually};
use crate::scripted_peer::connection::Ending;
use crate::scripted_peer::message::{self, Contact, short};
use crate::scripted_peer::neighbour::Behaviour;

#[test]
fn a_node_names_contacts_at_the_addresses_where_it_dialled_them() {
    let mut harness = Harness::start("");
    let nodes = ["one", "two", "three"].map(|name| (name, harness.introduce(name, None)));
    let mut named = harness.named();
    named.sort_by_key(|contact| contact.id);
    let mut expected = nodes.each_ref().map(|(name, node)| Contact { address: node.address, id: fit_key(name).id() });
    expected.sort_by_key(|contact| contact.id);
    assert_eq!(named, expected);
}

#[test]
fn contacts_are_named_nearest_first_without_the_caller() {
    let harness = Harness::start("rpc_timeout = 9 s");
    let nodes: Vec<_> = (0..4).map(|number| format!("node {number}")).collect();
    let _held: Vec<_> = nodes.iter().map(|name| harness.introduce(name, None)).collect();
    let [smaller, _] = harness.keys_around("the one who asks");
    let (_asker, mut asker) = harness.meet(&smaller);
    let target = [0x5a; 32];
    let distance = |id: [u8; 32]| std::array::from_fn::<u8, 32, _>(|at| id[at] ^ target[at]);
    let mut expected: Vec<_> = nodes.iter().map(|name| fit_key(name).id()).collect();
    expected.sort_by_key(|id| distance(*id));
    let named = Contact::read_all(asker.ask(message::FIND_NODE, &target).rest());
    assert_eq!(named.iter().map(|contact| contact.id).collect::<Vec<_>>(), expected);
}

#[test]
fn a_node_that_has_said_goodbye_is_no_longer_named() {
    let mut harness = Harness::start("rpc_timeout = 9 s");
    let [smaller, _] = harness.keys_around("the one who leaves");
    let (_leaver, mut conn) = harness.meet(&smaller);
    assert_eq!(harness.named().len(), 1);
    conn.send(&short(message::GOODBYE, &[]));
    conn.expect_pong(); // a request may still be answered, and comes behind the GOODBYE
    assert_eq!(harness.named(), []);
}

#[test]
fn a_server_that_stops_says_goodbye_to_all_peers_and_closes() {
    let mut harness = Harness::start("");
    let neighbour = harness.introduce("the one who stays", None);
    assert!(harness.server.terminate().success());
    neighbour.expect(message::GOODBYE);
    let (messages, ending) = harness.observer.expect_end();
    let kinds: Vec<_> = messages.iter().map(|message| message.kind).collect();
    assert_eq!((kinds, ending), (vec![message::GOODBYE], Ending::Closed));
}

#[test]
fn a_node_that_does_not_serve_uses_the_network_and_is_never_named() {
    let mut harness = Harness::start("");
    let bootstrap = format!("bootstrap = {}\n", harness.server.p2p());
    let client = Server::start(&(bootstrap.clone() + "serving = no"));
    client.log_line("joined contacts=1");
    let mut api = Client::connect(client.api());
    assert_eq!(api.put_confirmed(key("by a client"), b"value"), Answer::Success(key("by a client"), Vec::new()));
    assert_eq!(api.get(key("by a client")), Some(b"value".to_vec()));
    assert_eq!(api.get(key("by nobody")), None);
    assert_eq!(Client::connect(harness.server.api()).get(key("by a client")), Some(b"value".to_vec()));
    assert_eq!(harness.named(), []);

    let server = Server::start(&bootstrap);
    server.log_line("joined contacts=1");
    api.put(key("by a client again"), b"value"); // with others about, it still holds nothing itself
    assert_eq!(api.get(key("by a client again")), Some(b"value".to_vec()));
    let named = eventually("the server is dialled back", || Some(harness.named()).filter(|named| !named.is_empty()));
    assert_eq!(named.iter().map(|contact| contact.address).collect::<Vec<_>>(), [server.p2p()]);
}

#[test]
fn a_contact_named_by_a_peer_is_named_again_only_after_a_successful_dial() {
    let mut harness = Harness::start("");
    let nobody = Contact { address: ([127, 0, 0, 1], 9).into(), id: [9; 32] };
    let liar =
        harness.introduce_one(Behaviour { names: vec![nobody], ..Behaviour::of_node(node("the liar"), NETWORK) });
    assert_eq!(Client::connect(harness.server.api()).get(key("anything")), None);
    liar.expect(message::FIND_VALUE);
    assert_eq!(harness.named(), [Contact { address: liar.address, id: fit_key("the liar").id() }]);
}
