//! How often requests that are served from here allocate: a GET never, a PUT of an existing key
//! once, for its value.
//!
//! A node alone is driven as the loop drives it: one [`Actions`] is lent to every verb, and the
//! answers are taken out of it. What the kernel is handed is not part of this.

use dht::id::{Key, NodeId};
use dht::node::action::{Actions, ClientId};
use dht::node::params::{Durability, Params};
use dht::node::{Me, Node};
use dht::record::Class;
use dht::time::{Now, Time, WallTime};
use dht::wire::api::{ApiRequest, Confirm, Put};

const NOW: Now = Now { mono: Time::ZERO, wall: WallTime::from_millis(1_700_000_000_000) };
const KEYS: u8 = 100;
const ROUNDS: u64 = 20;

struct Lone {
    node: Node,
    out: Actions,
    requests: u64,
}

impl Lone {
    /// A founder that nobody has joined, with a value of `size` bytes under each key.
    fn holding(size: usize) -> Self {
        let me = Me { id: NodeId::new(Key::new([128; 32])), port: 7402 };
        let params = Params { durability: Durability::None, ..Params::default() };
        let mut lone = Self { node: Node::new(me, params, [7; 32], NOW), out: Actions::new(), requests: 0 };
        let value = vec![1; size];
        for _ in 0..2 {
            for key in 0..KEYS {
                lone.put(key, &value);
                assert_eq!(lone.get(key), 36 + size, "the value is there");
            }
        }
        lone
    }

    fn put(&mut self, key: u8, value: &[u8]) {
        let (confirm, class, key) = (Confirm::No, Class::Plain, Key::new([key; 32]));
        self.ask(ApiRequest::Put(Put { ttl: 3_600, replication: 1, confirm, class, key, value }));
        assert!(self.out.is_empty(), "nobody waits for it");
    }

    /// Returns how many bytes the answer has.
    fn get(&mut self, key: u8) -> usize {
        self.ask(ApiRequest::Get { key: Key::new([key; 32]) });
        let bytes = self.out.answers().parts().map(<[u8]>::len).sum();
        self.out.answers().clear();
        bytes
    }

    fn ask(&mut self, request: ApiRequest<'_>) {
        self.requests += 1;
        let client = ClientId { connection: 1, request: self.requests };
        if request.is_answered() {
            self.out.expect(client);
        }
        self.node.on_request(NOW, client, request, &mut self.out);
        assert!(!self.out.is_awaited(), "it is answered at once");
    }
}

#[test]
fn a_get_that_is_served_here_allocates_nothing() {
    for size in [1, 100, 60_000] {
        let mut lone = Lone::holding(size);
        let allocated = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                for key in 0..KEYS {
                    assert_eq!(lone.get(key), 36 + size);
                }
            }
        });
        assert_eq!(allocated.count_total, 0, "values of {size} bytes");
    }
}

#[test]
fn a_put_of_an_existing_key_allocates_its_value_alone() {
    for size in [1, 100, 60_000] {
        let mut lone = Lone::holding(size);
        let value = vec![2; size];
        let allocated = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                for key in 0..KEYS {
                    lone.put(key, &value);
                }
            }
        });
        assert_eq!(allocated.count_total, ROUNDS * u64::from(KEYS), "values of {size} bytes");
    }
}
