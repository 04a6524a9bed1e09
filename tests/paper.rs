//! Kademlia as specification: one test for each rule, named by the section that states it.
//!
//! The sections are those of P. Maymounkov and D. Mazières, "Kademlia: A Peer-to-peer Information
//! System Based on the XOR Metric", IPTPS 2002.

/// The routing table: sections 2.1 to 2.4 and 4.1.
mod routing {
    use std::time::Duration;

    use dht::contact::Contact;
    use dht::id::{KEY_SIZE, Key, NodeId};
    use dht::limits::CONTACT_FAILURES_MAX;
    use dht::routing::{Observed, Suggested, Table};
    use dht::time::Time;

    const K: usize = 4;
    const HOUR: Duration = Duration::from_hours(1);

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    fn me() -> Key {
        Key::new([0b0101_0101; KEY_SIZE])
    }

    /// The `n`th contact of those that share exactly `shared` bits with the node's own id.
    fn contact_in(shared: usize, n: u8) -> Contact {
        let id = NodeId::new(me().diverging_at(shared, &Key::new([n; KEY_SIZE])));
        Contact::new(id, ([192, 0, 2, n], 7402).into())
    }

    fn table() -> Table {
        Table::new(NodeId::new(me()), K)
    }

    /// A table that has met the first K contacts of bucket 0, in order.
    fn table_with_one_full_bucket() -> Table {
        let mut table = table();
        for n in 0..4 {
            assert_eq!(table.observe(at(0), contact_in(0, n)), Observed::Added);
        }
        table
    }

    fn closest(table: &Table, target: &Key, n: usize) -> Vec<Contact> {
        let mut found = Vec::new();
        table.closest(target, n, &mut found);
        found
    }

    /// The contact that would have to make room in bucket 0: the least recently seen.
    fn least_recently_seen(table: &mut Table) -> Contact {
        let probe = contact_in(0, 200);
        let Observed::Full { suspect } = table.observe(at(0), probe) else { panic!("bucket 0 must be full") };
        table.remove(&probe.id);
        suspect
    }

    #[test]
    fn s2_1_distance_is_xor() {
        let mut table = table();
        let (first, second) = (contact_in(1, 0), contact_in(0, 0));
        table.observe(at(0), second);
        table.observe(at(0), first);
        assert_eq!(closest(&table, &me(), 2), [first, second]);
        assert_eq!(closest(&table, second.id.key(), 2), [second, first]);
    }

    #[test]
    fn s2_2_each_distance_range_has_its_own_bucket_of_k_contacts() {
        let mut table = table();
        for shared in 0..10 {
            for n in 0..8 {
                table.observe(at(0), contact_in(shared, n));
            }
        }
        assert_eq!(table.live(), 10 * K);
        assert_eq!(table.overfull_bucket(), None);
    }

    #[test]
    fn s2_2_a_contact_that_is_seen_again_moves_to_the_tail() {
        let mut table = table_with_one_full_bucket();
        assert_eq!(table.observe(at(1), contact_in(0, 0)), Observed::Refreshed);
        assert_eq!(least_recently_seen(&mut table), contact_in(0, 1));
        assert!(table.heard(&contact_in(0, 1).id));
        assert_eq!(least_recently_seen(&mut table), contact_in(0, 2));
    }

    #[test]
    fn s2_2_a_newcomer_enters_at_the_tail_while_there_is_room() {
        let mut table = table_with_one_full_bucket();
        table.remove(&contact_in(0, 0).id);
        assert_eq!(table.observe(at(1), contact_in(0, 9)), Observed::Added);
        for n in [1, 2, 3, 9] {
            let suspect = least_recently_seen(&mut table);
            assert_eq!(suspect, contact_in(0, n));
            table.heard(&suspect.id);
        }
    }

    /// Old contacts are worth more than new ones: the longer a node has been up, the longer it stays up.
    #[test]
    fn s2_2_a_full_bucket_keeps_its_oldest_contact_while_it_answers() {
        let mut table = table_with_one_full_bucket();
        let (oldest, newcomer) = (contact_in(0, 0), contact_in(0, 9));

        assert_eq!(table.observe(at(60), newcomer), Observed::Full { suspect: oldest });
        assert!(table.heard(&oldest.id));

        assert!(table.contains(&oldest.id));
        assert!(!table.contains(&newcomer.id));
    }

    #[test]
    fn s2_2_a_newcomer_replaces_an_oldest_contact_that_does_not_answer() {
        let mut table = table_with_one_full_bucket();
        let (oldest, newcomer) = (contact_in(0, 0), contact_in(0, 9));

        assert_eq!(table.observe(at(60), newcomer), Observed::Full { suspect: oldest });
        assert_eq!(table.failed(at(1), &oldest.id), None);

        assert!(!table.contains(&oldest.id));
        assert!(table.contains(&newcomer.id));
        assert_eq!(least_recently_seen(&mut table), contact_in(0, 1));
    }

    /// "One cannot flush nodes' routing state by flooding the system with new nodes."
    #[test]
    fn s2_2_a_flood_of_new_nodes_displaces_no_contact() {
        let mut table = table_with_one_full_bucket();
        for n in 10..250 {
            table.suggest(contact_in(0, n));
            table.observe(at(u64::from(n)), contact_in(0, n));
        }
        for n in 0..4 {
            assert!(table.contains(&contact_in(0, n).id));
        }
        assert_eq!(table.live(), K);
    }

    #[test]
    fn s2_3_find_node_answers_with_the_k_closest_of_several_buckets() {
        let mut table = table();
        for shared in 0..3 {
            for n in 0..3 {
                table.observe(at(0), contact_in(shared, n));
            }
        }
        let target = contact_in(1, 2);
        let found = closest(&table, target.id.key(), K);
        assert_eq!(found[..3], [contact_in(1, 2), contact_in(1, 0), contact_in(1, 1)]);
        assert!((0..3).any(|n| found[3] == contact_in(2, n)), "the next nearest range is bucket 2");
    }

    #[test]
    fn s2_3_find_node_answers_with_fewer_than_k_only_if_no_more_are_known() {
        let mut table = table();
        table.observe(at(0), contact_in(0, 1));
        table.observe(at(0), contact_in(9, 1));
        assert_eq!(closest(&table, contact_in(3, 0).id.key(), K), [contact_in(9, 1), contact_in(0, 1)]);
    }

    #[test]
    fn s2_3_a_bucket_without_a_lookup_in_the_past_hour_is_refreshed() {
        let mut table = table();
        table.observe(at(0), contact_in(0, 1));
        table.looked_up(at(5), contact_in(0, 7).id.key());
        assert_eq!(table.next_refresh(HOUR), Some(at(3605)));
        assert_eq!(table.stale_bucket(at(3604), HOUR), None);
        assert_eq!(table.stale_bucket(at(3605), HOUR), Some(0));

        table.looked_up(at(3606), &me().diverging_at(0, &Key::new([0x77; KEY_SIZE])));
        assert_eq!(table.stale_bucket(at(3606), HOUR), None);
    }

    /// A node that has joined "refreshes all k-buckets further away than its closest neighbor".
    #[test]
    fn s2_3_after_joining_all_buckets_further_away_than_the_closest_neighbour_are_refreshed() {
        let mut table = table();
        for shared in [0, 3, 4, 6, 6, 6] {
            let n = u8::try_from(table.live()).expect("a small table");
            table.observe(at(0), contact_in(shared, n));
        }
        table.looked_up(at(1), &me());
        let mut refreshed = Vec::new();
        while let Some(bucket) = table.stale_bucket(at(2), HOUR) {
            refreshed.push(bucket);
            table.looked_up(at(2), &me().diverging_at(bucket, &Key::new([0; KEY_SIZE])));
        }
        // The self-lookup has refreshed buckets 4 to 6: they hold the K nearest.
        assert_eq!(refreshed, [3, 2, 1, 0]);
    }

    /// Only the range with the node's own id is split. So a node knows few nodes of the far half of the
    /// space, and all of its neighbourhood.
    #[test]
    fn s2_4_only_the_range_of_the_nodes_own_id_is_split() {
        let mut table = table();
        for n in 0..100 {
            table.observe(at(0), contact_in(0, n));
        }
        let neighbours = [(5, 0), (5, 1), (6, 0), (6, 1), (7, 0), (8, 0)];
        for (shared, n) in neighbours {
            assert_eq!(table.observe(at(0), contact_in(shared, n)), Observed::Added);
        }
        assert_eq!(table.live(), K + neighbours.len());
    }

    #[test]
    fn s4_1_a_full_bucket_keeps_newcomers_as_replacements_and_tries_the_newest_first() {
        let mut table = table_with_one_full_bucket();
        for n in [10, 11, 12] {
            assert_eq!(table.suggest(contact_in(0, n)), Suggested::Queued);
        }
        assert_eq!(table.failed(at(1), &contact_in(0, 0).id), Some(contact_in(0, 12)));
        assert_eq!(table.failed(at(1), &contact_in(0, 12).id), Some(contact_in(0, 11)));
        assert_eq!(table.observe(at(9), contact_in(0, 11)), Observed::Added);
        assert!(!table.contains(&contact_in(0, 0).id), "its place is taken");
    }

    /// If all requests fail because the node's own link did, the table must not be lost.
    #[test]
    fn s4_1_a_failed_contact_without_a_replacement_stays_but_is_not_named() {
        let mut table = table_with_one_full_bucket();
        for n in 0..4 {
            assert_eq!(table.failed(at(1), &contact_in(0, n).id), None);
        }
        assert_eq!(table.len(), K);
        assert_eq!(closest(&table, &me(), K), []);

        assert!(table.heard(&contact_in(0, 2).id));
        assert_eq!(closest(&table, &me(), K), [contact_in(0, 2)]);
    }

    #[test]
    fn s4_1_a_contact_is_forgotten_after_five_failures_in_a_row() {
        assert_eq!(CONTACT_FAILURES_MAX, 5);
        let mut table = table();
        let contact = contact_in(0, 1);
        table.observe(at(0), contact);
        for n in 0..4 {
            table.failed(at(10 * n), &contact.id);
        }
        assert!(table.heard(&contact.id), "an answer ends the row");
        for failures in 1..=5 {
            let now = 40 + 10 * failures;
            for _ in 0..9 {
                table.failed(at(now), &contact.id); // requests that fail together
            }
            assert_eq!(table.contains(&contact.id), failures < 5, "after {failures}");
        }
    }
}

/// The iterative lookup: section 2.3, and the proof of section 3.
mod lookup {
    use std::collections::VecDeque;
    use std::net::{Ipv4Addr, SocketAddr};

    use dht::contact::Contact;
    use dht::id::{Key, NodeId};
    use dht::limits::K_MAX;
    use dht::lookup::{Lookup, Step};
    use proptest::prelude::*;
    use proptest::sample::Index;
    use sha2::{Digest, Sha256};

    const K: usize = K_MAX;
    const ALPHA: usize = 3;
    const TARGET: Key = Key::new([0; 32]);

    /// An id that no reply names.
    fn outsider() -> NodeId {
        NodeId::new(Key::new([0xff; 32]))
    }

    fn contact(id: NodeId) -> Contact {
        Contact::new(id, SocketAddr::from((Ipv4Addr::LOCALHOST, 7402)))
    }

    /// The contact at distance `distance` from [`TARGET`].
    fn at(distance: u8) -> Contact {
        let mut key = [0; 32];
        key[31] = distance;
        contact(NodeId::new(Key::new(key)))
    }

    fn search(start: impl IntoIterator<Item = u8>) -> Lookup {
        Lookup::new(outsider(), TARGET, K, ALPHA, &start.into_iter().map(at).collect::<Vec<_>>())
    }

    /// Takes steps until the lookup has no node to ask; returns the nodes that it asked.
    fn ask_all(lookup: &mut Lookup) -> Vec<Contact> {
        std::iter::from_fn(|| match lookup.step() {
            Step::Ask(contact) => Some(contact),
            Step::Wait | Step::Done => None,
        })
        .collect()
    }

    #[test]
    fn s2_3_a_lookup_begins_by_asking_the_alpha_closest_known_nodes_in_parallel() {
        let mut lookup = search([40, 10, 30, 20]);
        assert_eq!(ask_all(&mut lookup), [at(10), at(20), at(30)]);
        assert_eq!((lookup.step(), lookup.in_flight()), (Step::Wait, ALPHA));
    }

    /// The lookup need not wait for all alpha replies before it asks new nodes.
    #[test]
    fn s2_3_nodes_learned_from_an_answer_are_asked_nearest_first() {
        let mut lookup = search([10, 20, 30, 40]);
        ask_all(&mut lookup);
        lookup.on_answer(&at(30).id, [at(7), at(5), at(35)]);
        assert_eq!(ask_all(&mut lookup), [at(5)]);
        lookup.on_answer(&at(10).id, []);
        assert_eq!(ask_all(&mut lookup), [at(7)]);
    }

    #[test]
    fn s2_3_nodes_that_fail_to_respond_are_left_out_until_they_respond() {
        let mut lookup = search([10, 20]);
        ask_all(&mut lookup);
        lookup.on_answer(&at(20).id, []);
        lookup.on_timeout(&at(10).id);
        assert_eq!(lookup.step(), Step::Done);
        assert_eq!(lookup.answered().collect::<Vec<_>>(), [&at(20)]);

        lookup.on_answer(&at(10).id, []);
        assert_eq!(lookup.answered().collect::<Vec<_>>(), [&at(10), &at(20)]);
    }

    /// Of 25 known nodes the 20 closest are asked, and no others.
    #[test]
    fn s2_3_a_lookup_ends_once_the_k_closest_seen_nodes_have_answered() {
        let mut lookup = search(1..=25);
        let mut heard = 0;
        while lookup.step() != Step::Done {
            heard += 1;
            ask_all(&mut lookup);
            assert!(lookup.on_answer(&at(heard).id, []), "candidate {heard} was asked");
        }
        assert_eq!((usize::from(heard), lookup.asked()), (K, K));
    }

    /// Nodes that know each other as in section 2.2: up to k of each bucket.
    struct Network {
        ids: Vec<NodeId>,
    }

    impl Network {
        /// The k contacts closest to `target` that `node` knows. Of a bucket with more than k nodes each
        /// node knows another k.
        fn closest(&self, node: NodeId, target: &Key) -> Vec<Contact> {
            let mut buckets = vec![Vec::new(); 256];
            for id in &self.ids {
                if let Some(bucket) = id.key().distance(node.key()).shared_bits() {
                    buckets[bucket].push(*id);
                }
            }
            for bucket in &mut buckets {
                // The ids end in random bits: the xor with the node's own id shuffles them.
                bucket.sort_by_cached_key(|id| reversed(id).distance(&reversed(&node)));
                bucket.truncate(K);
            }
            let mut known = buckets.concat();
            known.sort_by_cached_key(|id| id.key().distance(target));
            known.into_iter().take(K).map(contact).collect()
        }
    }

    fn reversed(id: &NodeId) -> Key {
        let mut bytes = *id.key().as_bytes();
        bytes.reverse();
        Key::new(bytes)
    }

    /// What happens to a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Answered,
        AnsweredLate,
        Silent,
        Failed,
    }

    fn any_key() -> impl Strategy<Value = Key> {
        any::<[u8; 32]>().prop_map(Key::new)
    }

    /// The number of wanted answers, and the fates of nodes that do not answer in time. Of any k contacts
    /// at least the wanted number answers, the node itself included.
    fn wanted_and_dead() -> impl Strategy<Value = (usize, Vec<(Index, Fate)>)> {
        let fate = || prop_oneof![Just(Fate::AnsweredLate), Just(Fate::Silent), Just(Fate::Failed)];
        (1..K).prop_flat_map(move |wanted| {
            (Just(wanted), proptest::collection::vec((any::<Index>(), fate()), 0..K - wanted))
        })
    }

    proptest! {
        /// Goal: a lookup finds the closest nodes that answer, all of them and in order.
        ///
        /// Method: a static network, some of whose nodes fail, never answer or answer late; requests in
        /// flight end in any order.
        #[test]
        fn s2_3_a_lookup_finds_the_closest_nodes_that_answer(
            ids in proptest::collection::btree_set(any_key(), K..250),
            (wanted, dead) in wanted_and_dead(),
            target in any_key(),
            chances in proptest::collection::vec(any::<Index>(), 1..100),
        ) {
            let network = Network { ids: ids.into_iter().map(NodeId::new).collect() };
            let me = network.ids[0];
            let fate = |id: NodeId| {
                let dead = dead.iter().find(|(index, _)| *index.get(&network.ids) == id);
                dead.map_or(Fate::Answered, |(_, fate)| *fate)
            };
            let mut chances = chances.iter().cycle();
            let (mut asked, mut heard, mut in_flight) = (Vec::new(), Vec::new(), Vec::new());

            let mut lookup = Lookup::new(me, target, wanted, ALPHA, &network.closest(me, &target));
            loop {
                match lookup.step() {
                    Step::Done => break,
                    Step::Ask(contact) => {
                        prop_assert!(contact.id != me && !asked.contains(&contact.id));
                        asked.push(contact.id);
                        in_flight.push((contact.id, fate(contact.id)));
                    }
                    Step::Wait => {
                        let chance = chances.next().expect("a cycle has no end");
                        let (id, fate) = in_flight.swap_remove(chance.index(in_flight.len()));
                        match fate {
                            Fate::Answered => {
                                prop_assert!(lookup.on_answer(&id, network.closest(id, &target)));
                                heard.push(id);
                            }
                            Fate::AnsweredLate => {
                                lookup.on_timeout(&id);
                                in_flight.push((id, Fate::Answered));
                            }
                            Fate::Silent => lookup.on_timeout(&id),
                            Fate::Failed => lookup.on_failure(&id),
                        }
                    }
                }
                prop_assert!(lookup.in_flight() <= ALPHA);
            }

            let answers = |id: &&NodeId| **id != me && (fate(**id) == Fate::Answered || heard.contains(*id));
            let mut closest: Vec<NodeId> = network.ids.iter().filter(answers).copied().collect();
            closest.sort_by_key(|id| id.key().distance(&target));
            closest.truncate(wanted);
            let found: Vec<NodeId> = lookup.answered().take(wanted).map(|contact| contact.id).collect();
            prop_assert_eq!(found, closest);
        }
    }

    /// Each hop at least halves the remaining distance.
    #[test]
    fn s3_a_lookup_takes_at_most_log_n_hops() {
        let key_of = |n: u32| Key::new(Sha256::digest(n.to_be_bytes()).into());
        let network = Network { ids: (0..1024).map(key_of).map(NodeId::new).collect() };
        for (me, target) in (0..1024).step_by(64).zip((5000..).map(key_of)) {
            let me = network.ids[me];
            let mut lookup = Lookup::new(me, target, K, ALPHA, &network.closest(me, &target)[..1]);
            let mut in_flight = VecDeque::new();
            loop {
                match lookup.step() {
                    Step::Done => break,
                    Step::Ask(contact) => in_flight.push_back(contact.id),
                    Step::Wait => {
                        let id = in_flight.pop_front().expect("a lookup waits for a reply");
                        lookup.on_answer(&id, network.closest(id, &target));
                    }
                }
            }
            let closest = lookup.answered().next().expect("every node answers");
            let hops = lookup.path_of(&closest.id).expect("it is a candidate").hops;
            assert!(hops <= 10, "{hops} hops among 2^10 nodes");
        }
    }
}
