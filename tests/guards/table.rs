//! The list of guards, and which tests are run when one is removed.

/// A line that enforces a rule.
pub(crate) struct Guard {
    /// The rule, in a few words: no two guards have the same. `GUARD` selects by a part of it.
    pub(crate) name: &'static str,
    /// The source file.
    pub(crate) file: &'static str,
    /// The line without its indent: exactly one line of the file reads so.
    pub(crate) line: &'static str,
    /// What replaces the line, to remove the guard.
    pub(crate) mutation: &'static str,
    /// Tests that fail without the guard, by the names of their functions; others may fail as well.
    pub(crate) tests: &'static [&'static str],
}

/// The tests that are run for a guard in a file below one of `dirs`.
pub(crate) struct Suite {
    pub(crate) dirs: &'static [&'static str],
    /// Top modules of the library whose unit tests are run.
    pub(crate) modules: &'static [&'static str],
    /// The test binary that is run as well: a folder of `tests`.
    pub(crate) binary: Option<&'static str>,
}

pub(crate) const SUITES: &[Suite] = &[
    Suite { dirs: &["src/record/", "src/storage/"], modules: &["record", "storage"], binary: Some("model") },
    Suite { dirs: &["src/lookup/"], modules: &["lookup"], binary: None },
    Suite { dirs: &["src/node/"], modules: &["node"], binary: Some("node") },
];

const RECORD: &str = "src/record/mod.rs";
const STORAGE: &str = "src/storage/mod.rs";
const HELD: &str = "src/storage/held.rs";
const ASIDE: &str = "src/node/records/aside.rs";
const BRIDGES: &str = "src/node/rpc/bridges.rs";
const FAMILIES: &str = "src/node/rpc/families.rs";
const RELAY: &str = "src/node/query/relay.rs";
const CLOCK: &str = "src/node/membership/clock.rs";
const LOOKUP: &str = "src/lookup/mod.rs";
const GET: &str = "src/node/query/read_quorum.rs";
const PUT: &str = "src/node/query/write_quorum.rs";
const SPREAD: &str = "src/node/query/write_quorum/spread.rs";
const PUTTING: &str = "src/node/query/put.rs";
const ACCEPT: &str = "src/node/records/accept.rs";
const HUNG: &str = "src/node/records/hung_disk.rs";
const INBOUND: &str = "src/node/rpc/inbound.rs";
const JOIN: &str = "src/node/membership/join.rs";
const SYNC: &str = "src/node/replication/sync.rs";
const GETTING: &str = "src/node/query/get.rs";
const TURNS: &str = "src/node/query/put_turns.rs";
const SLEEP: &str = "src/node/membership/sleep.rs";
const PEERS: &str = "src/node/rpc/peers.rs";
const CALLS: &str = "src/node/rpc/outbound.rs";
const UNHEARD: &str = "src/node/query/unheard.rs";
const WAITING: &str = "src/node/rpc/waiting.rs";
const ALONE: &str = "src/node/membership/alone.rs";

pub(crate) const GUARDS: &[Guard] = &[
    // ── all other nodes are silent
    Guard {
        name: "silence: the own copy alone confirms no PUT",
        file: PUT,
        line: "let reachable = if is_unheard { 0 } else { reached + usize::from(me.is_some()) };",
        mutation: "let reachable = reached + usize::from(me.is_some()); let _ = is_unheard;",
        tests: &["a_put_that_no_other_node_answers_is_not_confirmed_by_the_own_copy"],
    },
    // ── no room for a copy
    Guard {
        name: "room: a PUT needs no node without room",
        file: SPREAD,
        line: "if is_over { all.saturating_sub(self.unable).max(all / 2 + 1).min(all) } else { all }",
        mutation: "if is_over { all } else { all }",
        tests: &["a_put_is_confirmed_without_the_minority_that_has_no_room"],
    },
    Guard {
        name: "room: but it needs more than half of the nodes",
        file: SPREAD,
        line: "if is_over { all.saturating_sub(self.unable).max(all / 2 + 1).min(all) } else { all }",
        mutation: "if is_over { all.saturating_sub(self.unable).max(1).min(all) } else { all }",
        tests: &["a_put_is_confirmed_without_the_minority_that_has_no_room"],
    },
    Guard {
        name: "room: all other nodes get their chance before",
        file: SPREAD,
        line: "if is_over { all.saturating_sub(self.unable).max(all / 2 + 1).min(all) } else { all }",
        mutation: "if is_over || true { all.saturating_sub(self.unable).max(all / 2 + 1).min(all) } else { all }",
        tests: &["after_an_error_reply_the_copy_goes_to_the_next_target_and_the_contact_stays"],
    },
    Guard {
        name: "room: a PUT does without a node that refuses by its clock, if the own one is right",
        file: PUT,
        line: "Some(Err(ErrorCode::TOO_EARLY | ErrorCode::GONE)) => is_right,",
        mutation: "Some(Err(ErrorCode::TOO_EARLY | ErrorCode::GONE)) => false && is_right,",
        tests: &["a_node_that_refuses_a_version_by_its_clock_does_not_block_puts_if_the_own_clock_is_right"],
    },
    Guard {
        name: "room: and only then",
        file: PUT,
        line: "let is_right = spread.clock == OwnClock::Right;",
        mutation: "let is_right = true;",
        tests: &["a_node_that_refuses_a_version_by_its_clock_does_not_block_puts_if_the_own_clock_is_right"],
    },
    Guard {
        name: "room: a PUT does without a node that does not answer its copy",
        file: PUT,
        line: "None => self.attempt > 1 || !self.stale_replicas.contains(from),",
        mutation: "None => false && from == from,",
        tests: &["a_put_is_confirmed_without_a_node_that_does_not_store_it"],
    },
    Guard {
        name: "room: a stale replica that does not answer is looked up again before",
        file: PUT,
        line: "None => self.attempt > 1 || !self.stale_replicas.contains(from),",
        mutation: "None => true || from == from,",
        tests: &["a_stale_replica_that_does_not_answer_its_copy_is_looked_up_again_first"],
    },
    Guard {
        name: "room: a PUT does not wait long for a node that is too busy to be asked",
        file: WAITING,
        line: "let is_passed = is_long && self.put_of(call.purpose).is_some();",
        mutation: "let is_passed = is_long && matches!(call.purpose, Purpose::Copy(_));",
        tests: &["a_put_is_confirmed_without_a_node_that_is_too_busy_for_its_lookup_for_rpc_timeout"],
    },
    // ── nodes that did not say what they store
    Guard {
        name: "unheard: a PUT notes the nodes that it goes on without",
        file: CALLS,
        line: "self.note_unheard(now, call.to, call.purpose);",
        mutation: "let _ = now;",
        tests: &["a_node_that_a_put_went_on_without_is_asked_what_it_stores_when_it_is_back"],
    },
    Guard {
        name: "unheard: they are asked when they are back",
        file: "src/node/membership/liveness.rs",
        line: "self.ask_if_unheard(&contact.id, now.mono);",
        mutation: "let _ = contact;",
        tests: &["a_node_that_a_put_went_on_without_is_asked_what_it_stores_when_it_is_back"],
    },
    Guard {
        name: "unheard: it notes close contacts that are unresponsive",
        file: PUTTING,
        line: "self.note_unresponsive(now, query);",
        mutation: "let _ = query;",
        tests: &["a_contact_that_was_unresponsive_during_a_put_is_asked_what_it_stores_when_it_is_back"],
    },
    Guard {
        name: "unheard: one that stores an older record is asked again",
        file: UNHEARD,
        line: "if told == Told::Newest || written.older == OLDER_MAX {",
        mutation: "if told != Told::Nothing || written.older == OLDER_MAX {",
        tests: &["a_node_that_says_that_it_stores_an_older_record_is_asked_again_up_to_three_times"],
    },
    Guard {
        name: "unheard: one that is in no table is asked too",
        file: UNHEARD,
        line: "nodes.map(|(id, untold)| *self.table.find(id).unwrap_or(&untold.contact)).collect();",
        mutation: "nodes.filter_map(|(id, _)| self.table.find(id).copied()).collect();",
        tests: &["a_node_that_a_put_went_on_without_is_asked_although_it_is_in_no_table"],
    },
    Guard {
        name: "unheard: an unresponsive one is pinged",
        file: UNHEARD,
        line: "self.ping(now, contact, out);",
        mutation: "let _ = &mut *out;",
        tests: &["a_contact_that_was_unresponsive_during_a_put_is_pinged_until_it_answers"],
    },
    Guard {
        name: "unheard: replicas of a record with fewer of them note the former ones",
        file: "src/node/records/accept.rs",
        line: "self.note_former_replicas(now, key, rank.precedence(), former);",
        mutation: "let _ = former;",
        tests: &["a_replica_of_a_record_with_fewer_replicas_asks_former_ones_that_were_unresponsive"],
    },
    Guard {
        name: "unheard: one that stores what is over is told so",
        file: "src/node/query/get.rs",
        line: "self.tell_over(now, read.key, over, behind);",
        mutation: "let _ = (over, behind);",
        tests: &["a_node_that_a_put_went_on_without_is_told_that_the_record_is_over"],
    },
    Guard {
        name: "unheard: it remembers what the PUT has written",
        file: UNHEARD,
        line: "let newest = self.versions.newest(&key).max(self.unheard.newest(&peer.id, &key));",
        mutation: "let newest = self.versions.newest(&key);",
        tests: &["a_node_that_a_put_went_on_without_gets_the_record_although_many_others_were_read_since"],
    },
    Guard {
        name: "silence: a PUT does not wait for room at a node whose answers are overdue",
        file: WAITING,
        line: "if is_behind && self.put_of(call.purpose).is_some() {",
        mutation: "if false && is_behind && self.put_of(call.purpose).is_some() {",
        tests: &["a_put_does_not_wait_for_room_at_a_peer_whose_answers_are_overdue"],
    },
    Guard {
        name: "silence: a request that a PUT has gone on without is sent again",
        file: CALLS,
        line: "let Some(call) = self.pending.in_flight_mut(&rpc) else { return };",
        mutation: "let Some(call) = self.pending.in_flight_mut(&rpc).filter(|call| !call.expired) else { return };",
        tests: &["a_node_that_was_too_busy_for_a_lookup_is_asked_again_while_the_put_runs"],
    },
    // ── a disk that hangs
    Guard {
        name: "hung disk: nobody waits longer than rpc_timeout for it",
        file: HUNG,
        line: "self.timers.set(Timer::Disk, now.mono + self.params.rpc_timeout);",
        mutation: "let _ = now;",
        tests: &[
            "a_store_that_has_waited_for_the_disk_for_rpc_timeout_is_refused_and_its_record_kept",
            "while_all_is_written_again_a_store_is_refused_after_rpc_timeout_too",
            "a_put_goes_on_without_the_own_copy_if_the_disk_hangs",
        ],
    },
    Guard {
        name: "hung disk: those that come later do not wait",
        file: HUNG,
        line: "saving.disk = Disk::Hangs;",
        mutation: "saving.disk = Disk::Works;",
        tests: &["a_store_that_has_waited_for_the_disk_for_rpc_timeout_is_refused_and_its_record_kept"],
    },
    Guard {
        name: "hung disk: it hangs no more after a batch",
        file: HUNG,
        line: "_ if still_hangs => Disk::Hangs,",
        mutation: "_ if before == Disk::Hangs => Disk::Hangs,",
        tests: &["when_a_hung_disk_works_again_copies_are_acknowledged_again"],
    },
    Guard {
        name: "hung disk: clients do not wait for it",
        file: "src/node/records/persistence.rs",
        line: "self.is_full() && self.disk == Disk::Works",
        mutation: "self.is_full()",
        tests: &["when_too_much_waits_for_a_hung_disk_clients_do_not_wait_for_it_and_new_records_are_refused"],
    },
    Guard {
        name: "hung disk: unsaved keys have a bound",
        file: ACCEPT,
        line: "if self.saving.is_blocked() {",
        mutation: "if false {",
        tests: &["when_too_much_waits_for_a_hung_disk_clients_do_not_wait_for_it_and_new_records_are_refused"],
    },
    Guard {
        name: "hung disk: a slow one does not hang",
        file: HUNG,
        line: "if answered > 0 || self.saving.waiters == 0 {",
        mutation: "if self.saving.waiters == 0 {",
        tests: &["a_disk_that_answers_some_who_wait_does_not_hang"],
    },
    Guard {
        name: "silence: a GET that nobody answers is looked up again",
        file: GETTING,
        line: "if !has_enough && (is_unheard && others_may_exist || is_unproven) {",
        mutation: "if false && (is_unheard && others_may_exist || is_unproven) {",
        tests: &[
            "a_get_that_no_node_answers_fails_at_its_deadline_and_no_earlier",
            "a_get_that_no_node_answers_waits_and_gets_the_value_when_they_answer_again",
        ],
    },
    // ── two requests of one key at a time
    Guard {
        name: "shared lookups: a GET joins none whose requests have left",
        file: "src/node/query/mod.rs",
        line: "Some(Query::Read(read)) if read.since == now => {",
        mutation: "Some(Query::Read(read)) => { let _ = now;",
        tests: &[
            "a_get_that_comes_later_does_not_see_an_answer_to_an_earlier_request",
            "after_a_sleep_a_get_joins_no_lookup_that_began_before",
        ],
    },
    Guard {
        name: "decided: a PUT that enough nodes store keeps its version",
        file: PUT,
        line: "*decision = Decision::Stored;",
        mutation: "let _ = decision;",
        tests: &["a_put_that_enough_nodes_store_overtakes_nothing"],
    },
    Guard {
        name: "fewer replicas: the former ones are offered the newer record",
        file: "src/node/records/accept.rs",
        line: "if let Some(former) = former.filter(|_| stored == Stored::Held) {",
        mutation: "if let Some(former) = former.filter(|_| false) {",
        tests: &["a_record_that_replaces_one_with_more_replicas_is_offered_to_all_of_them"],
    },
    Guard {
        name: "decided: the record of a PUT that enough nodes store is read from them",
        file: GETTING,
        line: "self.queries.writing(key).filter(|put| !put.was_stored())",
        mutation: "self.queries.writing(key)",
        tests: &["the_record_of_a_put_that_enough_nodes_store_is_read_from_them"],
    },
    Guard {
        name: "sleep: the record of a PUT in flight is not returned unasked",
        file: GETTING,
        line: "Some(put) => !self.sleep.is_behind_since(put.taken()),",
        mutation: "Some(_) => true,",
        tests: &["after_a_sleep_the_record_of_a_put_in_flight_is_not_returned_unasked"],
    },
    Guard {
        name: "sleep: no record is returned that is older than one written since",
        file: GETTING,
        line: "quorum.remember(self.newest);",
        mutation: "let _ = self.newest;",
        tests: &["a_woken_node_returns_no_record_that_is_older_than_one_written_since"],
    },
    Guard {
        name: "raised: a PUT is not raised above one that began later",
        file: PUT,
        line: "if *within.end() <= taken {",
        mutation: "if *within.start() <= taken {",
        tests: &[
            "a_version_is_raised_only_above_one_whose_put_began_before_this_one",
            "a_put_is_raised_above_a_record_only_if_that_surely_began_before",
        ],
    },
    Guard {
        name: "raised: a lookup that leaves the order open is repeated",
        file: PUTTING,
        line: "if self.queries.put(query).is_some_and(Put::looks_again) {",
        mutation: "if self.queries.put(query).is_none() {",
        tests: &["a_put_is_raised_above_a_record_only_if_that_surely_began_before"],
    },
    Guard {
        name: "raised: all nodes that store a smaller version get a copy",
        file: PUT,
        line: "replicas.into_iter().chain(overtaken).for_each(|id| self.note_stale(id));",
        mutation: "let _ = (replicas, overtaken);",
        tests: &["all_that_store_a_smaller_version_than_the_raised_one_get_a_copy"],
    },
    Guard {
        name: "turns: one PUT of a key makes attempts at a time",
        file: TURNS,
        line: "if !self.put(running)?.is_parked() {",
        mutation: "if false && !self.put(running)?.is_parked() {",
        tests: &["of_two_puts_at_once_the_later_one_is_read_everywhere"],
    },
    Guard {
        name: "turns: a PUT that stands for a confirmed one is on disk before the answer",
        file: TURNS,
        line: "put.earlier.are_awaited |= are_awaited;",
        mutation: "let _ = are_awaited;",
        tests: &["a_put_that_stands_for_a_confirmed_one_is_on_disk_before_the_answer"],
    },
    Guard {
        name: "superseded: a PUT waits for its copies in flight, whose takers get the larger record",
        file: PUT,
        line: "return if spread.copies_in_flight > 0 { Next::Wait } else { Next::Superseded(by) };",
        mutation: "return Next::Superseded(by);",
        tests: &[
            "a_superseded_put_ends",
            "of_two_puts_at_two_nodes_the_larger_one_is_read_everywhere",
            "peers_that_have_taken_a_superseded_copy_get_the_larger_record",
        ],
    },
    // ── which of two records wins
    Guard {
        name: "order of records: a class that certifies itself comes first",
        file: RECORD,
        line: "(self.precedence(), value).cmp(&(other.rank().precedence(), &other.value))",
        mutation: "(other.rank().precedence(), value).cmp(&(other.rank().precedence(), &other.value))",
        tests: &[
            "a_certified_record_wins_over_every_plain_version",
            "merging_is_commutative_associative_and_idempotent",
        ],
    },
    Guard {
        name: "order of records: the value decides between equal versions",
        file: RECORD,
        line: "(self.precedence(), value).cmp(&(other.rank().precedence(), &other.value))",
        mutation: "let _ = value; self.precedence().cmp(&other.rank().precedence())",
        tests: &["merging_is_commutative_associative_and_idempotent", "ten_thousand_schedules_keep_every_promise"],
    },
    Guard {
        name: "equal records: the later end is kept",
        file: STORAGE,
        line: "if expires > held.expires {",
        mutation: "if expires > held.expires && false {",
        tests: &["of_equal_records_the_later_end_and_the_larger_replication_remain"],
    },
    Guard {
        name: "equal records: an earlier end is not taken over",
        file: STORAGE,
        line: "if expires > held.expires {",
        mutation: "if expires != held.expires {",
        tests: &["a_storage_behaves_like_two_plain_lists"],
    },
    // ── lives
    Guard {
        name: "version: one from the future is ignored",
        file: RECORD,
        line: "self.time().as_millis() > wall.as_millis().saturating_add(skew)",
        mutation: "self.time().as_millis() > wall.as_millis().saturating_add(skew) && false",
        tests: &[
            "a_version_is_too_early_only_if_it_is_beyond_the_clock_skew",
            "ten_thousand_schedules_keep_every_promise",
        ],
    },
    Guard {
        name: "life: it is bounded by the version",
        file: RECORD,
        line: "let is_too_old = class != Class::Hashed && version.is_too_old(now.wall);",
        mutation: "let is_too_old = class != Class::Hashed && version.is_too_old(WallTime::from_millis(0));",
        tests: &["a_life_ends_with_its_ttl_or_by_the_time_in_its_version"],
    },
    Guard {
        name: "life: a copy carries its age",
        file: RECORD,
        line: "let age = ttl.millis().saturating_sub(left);",
        mutation: "let age = ttl.millis().saturating_sub(left).min(0);",
        tests: &["passing_a_record_on_never_prolongs_its_life", "ten_thousand_schedules_keep_every_promise"],
    },
    Guard {
        name: "restart: the time since the record was saved counts",
        file: ASIDE,
        line: "self.restore_aged(now, record, age.after(off), source);",
        mutation: "self.restore_aged(now, record, age, source);",
        tests: &["under_the_same_boot_a_record_ages_by_the_monotonic_clock"],
    },
    // ── wrong clocks
    Guard {
        name: "clock: a version that becomes possible as time passes is dropped",
        file: ASIDE,
        line: "Doubt::Version { expires } if expires <= now.mono || record.is_plausible(before) => {",
        mutation: "Doubt::Version { expires } if expires <= now.mono => {",
        tests: &["a_version_that_becomes_possible_only_because_time_passes_is_dropped"],
    },
    Guard {
        name: "clock: records whose versions are not possible are set aside",
        file: ASIDE,
        line: "let set_aside = self.set_aside_impossible(now);",
        mutation: "let set_aside = if self.storage.len() == usize::MAX { self.set_aside_impossible(now) } else { 0 };",
        tests: &["a_version_of_a_fast_clock_does_not_block_its_key_when_the_clock_is_right"],
    },
    Guard {
        name: "clock: a refused PUT is not kept among the records that are set aside",
        file: ASIDE,
        line: "self.set_aside.records.remove(key);",
        mutation: "",
        tests: &["a_refused_put_that_was_set_aside_does_not_come_back_with_the_clock"],
    },
    Guard {
        name: "clock: a slow node gives no record that others have replaced",
        file: ASIDE,
        line: "self.set_aside.outdated.insert(*key, older.version);",
        mutation: "let _ = older.version;",
        tests: &["a_record_whose_successor_only_a_slow_clock_refuses_is_not_given_to_others"],
    },
    Guard {
        name: "clock: a node whose clock was set synchronizes before it answers",
        file: CLOCK,
        line: "self.sleep.falls_behind(now);",
        mutation: "",
        tests: &["a_node_whose_clock_was_set_synchronizes_before_its_answers_count"],
    },
    Guard {
        name: "clock: a minority confirms no suspension",
        file: CLOCK,
        line: "let missing = (before_step.len() / 2 + 1).max(JUDGES_MIN).min(before_step.len());",
        mutation: "let missing = before_step.len().min(JUDGES_MIN);",
        tests: &["a_jump_that_only_a_minority_confirms_makes_no_record_older"],
    },
    Guard {
        name: "clock: what seems to have ended waits for the neighbours",
        file: ASIDE,
        line: "let is_uncertain = self.set_aside.is_before_last_save(now.wall) || has_ended(by_wall);",
        mutation: "let is_uncertain = self.set_aside.is_before_last_save(now.wall);",
        tests: &["a_record_that_seems_to_have_ended_while_the_node_was_off_waits_for_the_neighbours"],
    },
    Guard {
        name: "clock: a record whose version is too old is hidden",
        file: STORAGE,
        line: "record.version < self.oldest && record.class != Class::Hashed",
        mutation: "record.version < Version::from_bits(0) && record.class != Class::Hashed",
        tests: &["a_record_whose_version_is_too_old_is_hidden_until_the_clock_is_put_right_or_its_life_ends"],
    },
    Guard {
        name: "clock: a hidden record leaves no tombstone",
        file: RECORD,
        line: "if has_ended && !record.version.is_too_old(wall) { Self::of(record.rank()) } else { Self::default() }",
        mutation: "if has_ended { Self::of(record.rank()) } else { Self::default() }",
        tests: &["a_record_that_ends_while_it_is_hidden_leaves_no_tombstone"],
    },
    Guard {
        name: "clock: a record of a wrong age leaves no tombstone",
        file: RECORD,
        line: "let has_ended = WallTime::from_millis(end).before(CLOCK_SKEW_MAX) <= wall;",
        mutation: "let has_ended = end > 0;",
        tests: &["a_record_that_ends_long_before_its_ttl_has_passed_since_its_version_leaves_no_tombstone"],
    },
    Guard {
        name: "families: RELAYs that run at the same time are one failure",
        file: BRIDGES,
        line: "if begun < before.last {",
        mutation: "if false {",
        tests: &["requests_that_run_at_the_same_time_count_as_one_failure"],
    },
    Guard {
        name: "families: a silent or restarting bridge is evidence of another family",
        file: BRIDGES,
        line: "Absent::Lost(Loss::Silent | Loss::Restarted) => ABSENCE_MAX,",
        mutation: "Absent::Lost(Loss::Silent | Loss::Restarted) => SEEK_TIME,",
        tests: &[
            "the_evidence_of_a_bridge_lasts_longer_if_it_may_run",
            "no_put_is_confirmed_while_the_only_bridge_is_silent_until_it_is_given_up",
            "no_put_is_confirmed_while_a_bridge_that_has_restarted_is_none_yet",
        ],
    },
    Guard {
        name: "families: no PUT is confirmed in one family while there is evidence of the other",
        file: FAMILIES,
        line: "_ if self.reach.bridges.are_expected(now.mono) => WayAcross::Sought,",
        mutation: "_ if false => WayAcross::Sought,",
        tests: &[
            "no_put_is_confirmed_while_the_only_bridge_is_silent_until_it_is_given_up",
            "no_put_is_confirmed_while_a_node_dials_the_first_bridge_that_it_is_told",
        ],
    },
    Guard {
        name: "families: a bridge that is late but alive keeps its connection",
        file: RELAY,
        line: "if is_late && !self.peers.heard_since(&bridge, report.call.since) {",
        mutation: "if false && is_late {",
        tests: &["a_bridge_that_is_late_is_pinged_and_keeps_its_connection_if_it_answers"],
    },
    Guard {
        name: "clock: an age that nothing confirms leads to no tombstone",
        file: HELD,
        line: "let is_certain = self.heard.get() & LASTING == 0;",
        mutation: "let is_certain = self.heard.get() & (UNVERIFIED | REFUTED) == 0;",
        tests: &["a_record_of_an_uncertain_age_leaves_no_tombstone"],
    },
    Guard {
        name: "clock: the first peers confirm no age",
        file: CLOCK,
        line: "if self.clock_agrees() && now.mono - self.clocks.started >= TRUST_PAUSE {",
        mutation: "if self.clock_agrees() {",
        tests: &["a_record_whose_age_is_not_confirmed_leaves_no_tombstone_when_it_ends"],
    },
    Guard {
        name: "clock: a minority of the contacts confirms no age",
        file: CLOCK,
        line: "self.clocks.verdict == OwnClock::Right && 2 * self.clocks.agreeing > self.table.live().min(SAMPLES_MAX)",
        mutation: "self.clocks.verdict == OwnClock::Right",
        tests: &["three_peers_that_are_no_majority_of_the_contacts_confirm_no_age"],
    },
    Guard {
        name: "clock: what ended meanwhile leaves a tombstone if the contacts agree",
        file: ASIDE,
        line: "if is_wrong && !has_ended || self.clock_agrees() {",
        mutation: "if is_wrong && !has_ended {",
        tests: &["what_ended_while_the_node_was_off_leaves_a_tombstone_if_three_peers_agree_with_its_clock"],
    },
    Guard {
        name: "clock: an age that a wrong clock has told is forgotten",
        file: ASIDE,
        line: "let age = age.min(age_at(now.mono, record.ttl, life_ends));",
        mutation: "let age = age_at(now.mono, record.ttl, life_ends);",
        tests: &["a_record_whose_age_a_wrong_clock_has_told_goes_on_from_the_age_at_the_save"],
    },
    Guard {
        name: "clock: a node catches up with neighbours whose clocks are known",
        file: CLOCK,
        line: "self.verdict != OwnClock::Right || self.samples.contains_key(id) && !self.is_wrong_at(now, id)",
        mutation: "self.verdict != OwnClock::Right || !self.is_wrong_at(now, id)",
        tests: &["a_node_whose_clock_was_set_also_asks_three_neighbours_whose_clocks_are_known_to_be_right"],
    },
    Guard {
        name: "clock: an outdated PUT sends no copy",
        file: PUT,
        line: "let may_copy = spread.larger.is_none() && !is_outdated;",
        mutation: "let _ = is_outdated; let may_copy = spread.larger.is_none();",
        tests: &["a_slow_clock_sends_no_copy_of_a_put_once_its_lookup_has_met_a_version_of_right_clocks"],
    },
    Guard {
        name: "clock: a node that most peers call fast refuses",
        file: CLOCK,
        line: "OwnClock::Wrong(offset) if !offset.is_ahead() => now.wall.before(offset.size()),",
        mutation: "OwnClock::Wrong(offset) if !offset.is_ahead() => now.wall,",
        tests: &["a_node_that_three_peers_call_too_fast_refuses_puts"],
    },
    Guard {
        name: "clock: two peers do not judge",
        file: CLOCK,
        line: "if differences.len() < JUDGES_MIN {",
        mutation: "if differences.is_empty() {",
        tests: &["two_peers_do_not_judge_and_an_address_group_counts_once"],
    },
    Guard {
        name: "clock: a contradicted PUT is not confirmed",
        file: "src/node/query/contradictions.rs",
        line: "OwnClock::Unknown => !self.all.is_empty() && self.all.len() >= peers,",
        mutation: "OwnClock::Unknown => self.all.len() > usize::MAX - 1 && self.all.len() >= peers,",
        tests: &[
            "a_put_is_not_confirmed_while_replicas_store_versions_far_ahead",
            "a_version_far_ahead_that_a_probe_meets_contradicts_a_put",
        ],
    },
    Guard {
        name: "clock: what was overwritten while it was set aside does not come back",
        file: ACCEPT,
        line: "self.set_aside.written_again(now, &key, rank.class, age);",
        mutation: "let _ = age;",
        tests: &["a_record_that_was_overwritten_while_it_was_set_aside_does_not_come_back"],
    },
    Guard {
        name: "clock: what is older than it does not overwrite it",
        file: ASIDE,
        line: "aside.record.class == Class::Plain && age_at(now.mono, aside.record.ttl, expires) > age",
        mutation: "aside.record.class == Class::Plain && age_at(now.mono, aside.record.ttl, expires) > age || true",
        tests: &["a_record_that_was_set_aside_comes_back_though_an_older_one_was_stored_meanwhile"],
    },
    Guard {
        name: "restart: a record that ended meanwhile leaves a tombstone",
        file: "src/storage/loading.rs",
        line: "self.bury(now, key, Tombstone::of_ended(&record, now.wall));",
        mutation: "let _ = record;",
        tests: &["a_restored_record_keeps_its_age_and_an_ended_one_leaves_a_tombstone"],
    },
    Guard {
        name: "restart: a record is verified before it is found",
        file: STORAGE,
        line: "if held.is_unverified() { self.proven(held) } else { Some(held) }",
        mutation: "Some(held)",
        tests: &[
            "a_restored_record_is_verified_by_whatever_reads_it_first",
            "a_restored_record_that_proves_nothing_is_not_read_and_is_refuted_once",
        ],
    },
    Guard {
        name: "restart: an unverified record leaves no tombstone",
        file: HELD,
        line: "let is_certain = self.heard.get() & LASTING == 0;",
        mutation: "let is_certain = self.heard.get() & AGE_UNCERTAIN == 0;",
        tests: &["an_unverified_record_that_has_ended_gives_way_without_a_tombstone"],
    },
    Guard {
        name: "restart: a record that was set aside is not verified by coming back",
        file: ASIDE,
        line: "self.storage.mark_unverified(&key);",
        mutation: "let _ = key;",
        tests: &["records_that_were_set_aside_are_verified_when_they_come_back"],
    },
    Guard {
        name: "disk: a changed key is named",
        file: STORAGE,
        line: "to.extend(self.changed.drain(..));",
        mutation: "to.extend(self.changed.drain(..0));",
        tests: &["a_tombstone_lapses_when_no_older_version_can_be_alive", "ten_thousand_schedules_keep_every_promise"],
    },
    // ── tombstones
    Guard {
        name: "tombstone: one is laid",
        file: STORAGE,
        line: "if self.tombstones.add(now, key, tombstone) {",
        mutation: "if now.mono < Time::ZERO && self.tombstones.add(now, key, tombstone) {",
        tests: &[
            "an_ended_version_blocks_itself_and_older_ones_before_and_after_the_sweep",
            "ten_thousand_schedules_keep_every_promise",
        ],
    },
    Guard {
        name: "tombstone: an old one is found by its fingerprint",
        file: "src/storage/tombstones.rs",
        line: "if self.old.is_empty() { None } else { self.find_old_among_others(now, key) }",
        mutation: "if self.old.is_empty() || now > Time::ZERO { None } else { self.find_old_among_others(now, key) }",
        tests: &[
            "many_tombstones_turn_old_and_are_found_listed_and_removed_as_in_a_sorted_map",
            "ten_thousand_schedules_keep_every_promise",
        ],
    },
    Guard {
        name: "tombstone: a peer that offers what is over is told so",
        file: "src/node/replication/offer.rs",
        line: "self.offers.add(offerer, entry.key, Reach::Over);",
        mutation: "let _ = offerer;",
        tests: &[
            "a_peer_that_offers_a_record_that_is_over_is_told_so",
            "an_older_record_does_not_come_back_with_a_node_that_was_off_for_hours",
        ],
    },
    Guard {
        name: "tombstone: what a neighbour does not list is offered to it",
        file: "src/node/replication/sync.rs",
        line: "self.offers.add(page.neighbour, key, Reach::Each);",
        mutation: "let _ = key;",
        tests: &["a_record_that_a_page_does_not_list_is_offered_to_the_neighbour_at_once_if_its_version_is_old"],
    },
    Guard {
        name: "tombstone: an old one is on disk in its pack",
        file: "src/node/records/packs.rs",
        line: "self.unsaved.insert(id, Arc::new(Pack { id, fingerprint_key, tombstones }));",
        mutation: "drop(Pack { id, fingerprint_key, tombstones });",
        tests: &["after_an_hour_a_tombstone_has_moved_to_a_pack_and_refuses_the_same_versions"],
    },
    Guard {
        name: "tombstone: a failed batch with a pack is written again",
        file: "src/node/records/packs.rs",
        line: "self.unsaved.extend(by_id(packs));",
        mutation: "let _ = by_id(packs);",
        tests: &["a_pack_is_on_disk_no_later_than_the_removals_of_its_keys_whatever_fails"],
    },
    Guard {
        name: "tombstone: they take a quarter of the storage at most",
        file: "src/storage/room.rs",
        line: "while self.bytes() > self.bytes_max || self.tombstones.bytes() > tombstones_max {",
        mutation: "while self.bytes() > self.bytes_max.max(tombstones_max) {",
        tests: &["tombstones_take_a_quarter_of_the_bound_at_most"],
    },
    Guard {
        name: "tombstone: the oldest gives way first",
        file: "src/storage/sorted.rs",
        line: "let is_it = |entry: &Entry<K>| entry.period() == period && entry.key >= from;",
        mutation: "let is_it = |entry: &Entry<K>| entry.period() >= period && entry.key >= from;",
        tests: &["the_oldest_tombstones_are_removed_first"],
    },
    Guard {
        name: "tombstone: one that gives way is counted",
        file: "src/storage/room.rs",
        line: "self.tombstones_dropped += 1;",
        mutation: "self.tombstones_dropped += 0;",
        tests: &["tombstones_take_a_quarter_of_the_bound_at_most"],
    },
    Guard {
        name: "tombstone: a record that ended leaves one",
        file: STORAGE,
        line: "self.remove_for(now, slot, tombstone);",
        mutation: "self.remove_for(now, slot, Tombstone::of_older(self.records[slot].record.rank()));",
        tests: &[
            "an_ended_version_blocks_itself_and_older_ones_before_and_after_the_sweep",
            "ten_thousand_schedules_keep_every_promise",
        ],
    },
    Guard {
        name: "tombstone: a record that ended leaves one before the sweep",
        file: STORAGE,
        line: "let slot = self.live_slot(now, &key);",
        mutation: "let slot = self.records.slot(&key); \
                   let ended = slot.filter(|slot| self.records[*slot].expires <= now.mono); \
                   if let Some(ended) = ended { self.remove_for(now, ended, Tombstone::default()); } \
                   let slot = self.records.slot(&key);",
        tests: &[
            "an_ended_version_blocks_itself_and_older_ones_before_and_after_the_sweep",
            "an_ended_signed_version_blocks_every_plain_one",
        ],
    },
    Guard {
        name: "tombstone: it beats its own plain version",
        file: RECORD,
        line: "signed.or(plain.filter(|plain| plain.version >= record.version))",
        mutation: "signed.or(plain.filter(|plain| plain.version > record.version))",
        tests: &["an_ended_version_blocks_itself_and_older_ones_before_and_after_the_sweep"],
    },
    Guard {
        name: "tombstone: it beats its own signed version",
        file: RECORD,
        line: "signed.filter(|signed| signed.version >= record.version)",
        mutation: "signed.filter(|signed| signed.version > record.version)",
        tests: &["a_replay_of_a_known_record_needs_no_signature_check", "ten_thousand_schedules_keep_every_promise"],
    },
    Guard {
        name: "tombstone: a signed one beats plain records",
        file: RECORD,
        line: "signed.or(plain.filter(|plain| plain.version >= record.version))",
        mutation: "plain.filter(|plain| plain.version >= record.version)",
        tests: &["an_ended_signed_version_blocks_every_plain_one"],
    },
    Guard {
        name: "tombstone: a plain version beneath a signed record is a floor",
        file: RECORD,
        line: "let is_hidden = upper.class.certifies_itself() && !lower.class.certifies_itself();",
        mutation: "let is_hidden = upper.class.certifies_itself() && !lower.class.certifies_itself() && false;",
        tests: &["a_plain_version_beside_a_certified_record_leaves_a_tombstone_in_either_order"],
    },
    // ── lookups
    Guard {
        name: "lookup: no more than alpha requests are in flight",
        file: LOOKUP,
        line: "Some(at) if self.in_flight < self.alpha => self.ask(at),",
        mutation: "Some(at) if self.in_flight <= self.alpha => self.ask(at),",
        tests: &["at_most_alpha_requests_are_in_flight_until_one_ends", "the_rules_hold_whatever_is_reported"],
    },
    Guard {
        name: "lookup: it waits for the nearest, however many others have answered",
        file: LOOKUP,
        line: "None if self.needed().any(owes) || self.may_need_given_up() => Step::Wait,",
        mutation: "None if self.in_flight > 0 && self.needed().all(owes) || self.may_need_given_up() => Step::Wait,",
        tests: &[
            "answers_of_far_nodes_do_not_end_a_lookup_while_a_closer_candidate_is_pending",
            "the_rules_hold_whatever_is_reported",
        ],
    },
    Guard {
        name: "lookup: a candidate that was asked is not forgotten",
        file: LOOKUP,
        line: "match self.candidates.iter().rposition(|candidate| candidate.state == State::Fresh) {",
        mutation: "match self.candidates.iter().rposition(|candidate| candidate.state != State::Failed) {",
        tests: &[
            "a_full_list_drops_its_farthest_fresh_candidate_and_never_one_that_was_asked",
            "a_lookup_ends_although_a_peer_invents_ever_closer_nodes",
        ],
    },
    Guard {
        name: "lookup: an overdue candidate is passed over",
        file: LOOKUP,
        line: "let out = |state: State| state.is_unresponsive() || state == State::GivenUp;",
        mutation: "let out = |state: State| state.is_unresponsive();",
        tests: &[
            "an_overdue_candidate_is_skipped_and_awaited_only_while_too_few_have_answered",
            "the_rules_hold_whatever_is_reported",
        ],
    },
    Guard {
        name: "lookup: it waits for an overdue candidate while too few have answered",
        file: LOOKUP,
        line: "None if self.needed().any(owes) || self.may_need_given_up() => Step::Wait,",
        mutation: "None if self.needed().any(owes) => Step::Wait,",
        tests: &[
            "an_overdue_candidate_is_skipped_and_awaited_only_while_too_few_have_answered",
            "the_rules_hold_whatever_is_reported",
        ],
    },
    Guard {
        name: "frugal lookup: no more are asked than will do",
        file: LOOKUP,
        line: "if self.in_flight >= enough.clamp(1, self.alpha) {",
        mutation: "if self.in_flight >= enough.max(self.alpha) {",
        tests: &["frugal_steps_ask_no_more_candidates_than_answers_are_needed", "the_rules_hold_whatever_is_reported"],
    },
    Guard {
        name: "frugal lookup: the quickest of those about as near is asked",
        file: LOOKUP,
        line: "if best.is_none_or(|(least, _)| cost < least) {",
        mutation: "if best.is_none_or(|(least, _): (u128, usize)| cost < least && false) {",
        tests: &[
            "the_quickest_of_the_three_closest_is_asked_unless_one_of_the_next_three_is_twice_as_quick",
            "the_rules_hold_whatever_is_reported",
        ],
    },
    Guard {
        name: "frugal lookup: a candidate of unknown speed is not passed over",
        file: LOOKUP,
        line: "let Some(rtt) = rtt else { break };",
        mutation: "let Some(rtt) = rtt else { continue };",
        tests: &["a_candidate_of_unknown_speed_is_never_skipped", "the_rules_hold_whatever_is_reported"],
    },
    Guard {
        name: "frugal lookup: an answer that names nobody nearer makes it hurry",
        file: LOOKUP,
        line: "self.hurries |= named && self.candidates[0].distance == nearest;",
        mutation: "let _ = (named, nearest);",
        tests: &[
            "an_answer_that_names_only_farther_nodes_makes_a_lookup_hurry_and_an_empty_one_does_not",
            "the_rules_hold_whatever_is_reported",
        ],
    },
    Guard {
        name: "frugal lookup: it no longer hurries once a replica was found",
        file: LOOKUP,
        line: "self.hurries = false;",
        mutation: "",
        tests: &["calming_down_returns_to_as_few_requests_as_are_needed", "the_rules_hold_whatever_is_reported"],
    },
    Guard {
        name: "lookup: another candidate is asked for each that is late",
        file: LOOKUP,
        line: "let expected = |state: State| matches!(state, State::Fresh | State::InFlight | State::Answered);",
        mutation: "let expected = |state: State| !state.is_unresponsive() && state != State::GivenUp;",
        tests: &["while_the_last_answers_are_late_farther_candidates_are_asked_in_their_place"],
    },
    // ── settling
    Guard {
        name: "settling: it goes on while missed records come",
        file: SYNC,
        line: "self.settle_later(now);",
        mutation: "let _ = now;",
        tests: &["a_node_settles_30_s_after_the_last_record_that_it_has_fetched_and_after_10_minutes_at_most"],
    },
    Guard {
        name: "settling: a record that comes late is asked for again",
        file: SYNC,
        line: "if is_late && self.range.is_some() {",
        mutation: "if is_late && self.range.is_none() {",
        tests: &["a_record_that_comes_late_is_asked_for_again_while_the_node_settles"],
    },
    Guard {
        name: "settling: a neighbour whose page is late is asked again",
        file: SYNC,
        line: "} else if matches!(outcome, Outcome::Passed(_)) && self.has_asked_all_contacts() {",
        mutation: "} else if from == Key::new([1; KEY_SIZE]) {",
        tests: &["a_node_goes_on_settling_while_all_neighbours_are_slow"],
    },
    Guard {
        name: "settling: records that neighbours send by themselves count",
        file: INBOUND,
        line: "self.settle_later(now); // this node had missed it",
        mutation: "let _ = now;",
        tests: &["a_node_settles_later_because_of_records_that_neighbours_send_by_themselves"],
    },
    Guard {
        name: "settling: what is known to be missing is not returned alone",
        file: JOIN,
        line: "self.remember_seen(entry.key, entry.rank.precedence());",
        mutation: "let _ = entry;",
        tests: &["a_node_that_settles_early_does_not_return_alone_what_it_knows_to_be_replaced"],
    },
    Guard {
        name: "GET: a signed record whose successor has ended here is not found",
        file: GETTING,
        line: "record.class == Class::Signed && self.storage.tombstone(now, &record.key).is_some_and(is_over)",
        mutation: "false && self.storage.tombstone(now, &record.key).is_some_and(is_over)",
        tests: &["a_get_finds_no_signed_record_whose_successor_has_ended_here"],
    },
    Guard {
        name: "unsettled: what a node stores that has not settled is tentative",
        file: ACCEPT,
        line: "!self.status.is_settled() || self.missed.contains(key) || !self.table.surely_fewer_closer(key, self.params.k)",
        mutation: "self.missed.contains(key) || !self.table.surely_fewer_closer(key, self.params.k)",
        tests: &["what_a_settling_node_stores_is_tentative"],
    },
    Guard {
        name: "unsettled: the own record does not count either",
        file: GETTING,
        line: "quorum.on_tentative(&Replica::Me);",
        mutation: "let _ = quorum;",
        tests: &["the_own_record_of_a_settling_node_does_not_count_among_those_that_agree"],
    },
    Guard {
        name: "unsettled: the own record is not returned alone while peers are late",
        file: GETTING,
        line: "(is_about_to_join || self.join.is_behind()) && !self.is_only_node()",
        mutation: "is_about_to_join && !self.is_only_node()",
        tests: &["a_settling_node_does_not_return_its_own_record_alone_while_its_peers_are_late"],
    },
    Guard {
        name: "unsettled: a node waits for peers that have settled",
        file: JOIN,
        line: "if now.mono < until && !self.join.was_settled && self.table.iter().all(is_new) {",
        mutation: "if now.mono < until && self.table.is_empty() && self.table.iter().all(is_new) {",
        tests: &["a_node_that_has_met_only_peers_that_have_not_settled_waits_for_the_other_dials"],
    },
    Guard {
        name: "unsettled: it asks them for their records first",
        file: SYNC,
        line: "self.nearby.sort_by_key(order); // otherwise nearest first",
        mutation: "let _ = order;",
        tests: &["a_settling_node_asks_peers_that_have_settled_for_their_records_first"],
    },
    Guard {
        name: "unsettled: it asks all others too, if too few have settled",
        file: SYNC,
        line: "let counts = |id: &NodeId| !peers.is_unsettled(now, id) && (!is_behind || clocks.may_be_right_at(now, id));",
        mutation: "let counts = |id: &NodeId| !is_behind || clocks.may_be_right_at(now, id);",
        tests: &["a_settling_node_asks_peers_that_have_settled_for_their_records_first"],
    },
    Guard {
        name: "missed: a record whose successor was refused is tentative",
        file: ACCEPT,
        line: "!self.status.is_settled() || self.missed.contains(key) || !self.table.surely_fewer_closer(key, self.params.k)",
        mutation: "!self.status.is_settled() || !self.table.surely_fewer_closer(key, self.params.k)",
        tests: &["after_a_refusal_the_older_record_is_tentative_and_not_returned_alone"],
    },
    Guard {
        name: "missed: it is not returned alone",
        file: GETTING,
        line: "self.missed.replaces(key, known.rank().precedence()) && self.status.has_joined()",
        mutation: "false && self.missed.replaces(key, known.rank().precedence())",
        tests: &["after_a_refusal_the_older_record_is_tentative_and_not_returned_alone"],
    },
    Guard {
        name: "missed: a node that accepts records again settles once more",
        file: "src/node/records/missed.rs",
        line: "self.timers.hasten(Timer::Missed, now.mono + RETRIED);",
        mutation: "",
        tests: &["a_node_that_accepts_records_again_asks_its_neighbours_for_what_it_has_refused"],
    },
    Guard {
        name: "missed: what is stored is not missed any more",
        file: ACCEPT,
        line: "self.missed.stored(&key, rank.precedence());",
        mutation: "",
        tests: &["a_node_that_gets_what_it_has_refused_returns_it_alone"],
    },
    Guard {
        name: "busy: a PUT goes on without a peer that refuses its copy for long",
        file: WAITING,
        line: "let is_passed = is_long && self.put_of(call.purpose).is_some();",
        mutation: "let is_passed = is_long && self.key_of_put(call.purpose).is_none();",
        tests: &["a_node_that_is_too_busy_for_a_copy_is_replaced_by_the_next_target_after_rpc_timeout"],
    },
    Guard {
        name: "late: a node with an older record that answers a probe late gets a copy",
        file: UNHEARD,
        line: "let is_older = rank.life == Life::Alive && Some(rank.precedence()) < newest;",
        mutation: "let is_older = false && rank.life == Life::Alive && Some(rank.precedence()) < newest;",
        tests: &["a_node_that_answers_a_version_probe_after_the_put_has_ended_gets_a_copy_if_its_record_is_older"],
    },
    Guard {
        name: "unsettled: it waits for all nodes that it remembers",
        file: JOIN,
        line: "if self.peers.are_expected() || !self.address_book.remembered().iter().all(is_met) {",
        mutation: "if self.peers.are_expected() || false && self.address_book.remembered().iter().all(is_met) {",
        tests: &["a_node_that_has_met_only_peers_that_have_not_settled_waits_for_all_that_it_remembers"],
    },
    // ── connections
    Guard {
        name: "duplicates: the newer connection stays until the peer answers on the older one",
        file: PEERS,
        line: "if now.mono - survivor.last_heard >= self.params.rpc_timeout",
        mutation: "if survivor.peer == self.me.id",
        tests: &["a_newer_connection_stays_until_the_peer_has_answered_on_an_older_one_that_was_silent"],
    },
    // ── GET
    Guard {
        name: "GET: it ends early only when a quorum agrees",
        file: GET,
        line: "self.agreeing(&head) >= self.needed(&head).into()",
        mutation: "self.agreeing(&head) >= usize::from(self.needed(&head)).min(1)",
        tests: &["a_get_ends_early_when_a_quorum_agrees_and_the_value_is_known"],
    },
    Guard {
        name: "GET: a tentative replica does not count among those that agree",
        file: GET,
        line: "let counts = |node: &&Responder| !node.is_tentative || head.rank.class == Class::Hashed;",
        mutation: "let counts = |_: &&Responder| true;",
        tests: &["tentative_replicas_do_not_end_a_get_early_unless_the_record_is_hashed"],
    },
    Guard {
        name: "GET: a node answers alone only where it surely is a replica",
        file: ACCEPT,
        line: "self.table.surely_fewer_closer(key, usize::from(replication))",
        mutation: "self.table.fewer_closer(key, usize::from(replication))",
        tests: &["a_local_record_in_scope_is_not_served_alone_where_this_node_may_know_few_nodes"],
    },
    Guard {
        name: "GET: a record cannot lower the quorum below the smallest replication",
        file: GET,
        line: "Class::Plain | Class::Signed => self.quorum.min(head.replication.max(self.replication_min)),",
        mutation: "Class::Plain | Class::Signed => self.quorum.min(head.replication),",
        tests: &["the_quorum_is_at_most_the_replication_which_is_at_least_the_configured_minimum"],
    },
    Guard {
        name: "GET: nothing older than what was seen before ends it early",
        file: GET,
        line: "if self.reads == Reads::Secure || !self.is_in_hand(&head) || !self.allows(head.rank) {",
        mutation: "if self.reads == Reads::Secure || !self.is_in_hand(&head) {",
        tests: &["a_version_older_than_one_that_clients_have_seen_does_not_end_a_get_early"],
    },
    Guard {
        name: "GET: a peer that takes back what it claimed is not believed",
        file: GET,
        line: "if node.response == Response::Invalid || order(now) < order(before) {",
        mutation: "if node.response == Response::Invalid {",
        tests: &[
            "a_claim_is_ignored_after_its_replica_did_not_deliver_the_value",
            "a_get_ends_with_the_largest_value_that_was_delivered",
        ],
    },
    // ── PUT
    Guard {
        name: "PUT: it is confirmed only when the stale replicas have answered their copies",
        file: PUT,
        line: "let no_stale_one = stale_replicas.is_empty() || awaited == 0 && !spread.has_overdue(stale_replicas);",
        mutation: "let no_stale_one = stale_replicas.len() < usize::MAX;",
        tests: &["a_confirmation_is_backed_by_replicas_and_by_no_known_stale_one", "a_stale_replica_gets_a_copy_too"],
    },
    Guard {
        name: "PUT: it is confirmed only when each close node has answered the lookup, or failed",
        file: PUT,
        line: "let all_heard = spread.probes_in_flight == 0 && spread.unheard.is_empty();",
        mutation: "let all_heard = spread.probes_in_flight == 0;",
        tests: &["a_put_waits_for_a_close_node_that_answers_its_lookup_late"],
    },
    Guard {
        name: "PUT: a stale replica whose answer is overdue is awaited",
        file: SPREAD,
        line: "peers.iter().any(|id| self.overdue.contains(id))",
        mutation: "false && peers.iter().any(|id| self.overdue.contains(id))",
        tests: &[
            "a_confirmation_is_backed_by_replicas_and_by_no_known_stale_one",
            "a_slow_stale_replica_is_awaited_though_others_store_the_record",
        ],
    },
    Guard {
        name: "PUT: a node that answers its lookup when it is over gets its copy",
        file: "src/node/query/lookup.rs",
        line: "self.on_late_answer(now, peer, record.map(|record| (record.key, record.rank())), out);",
        mutation: "let _ = record;",
        tests: &["a_node_that_answers_the_lookup_of_a_put_after_its_end_gets_the_record"],
    },
    Guard {
        name: "PUT: it is confirmed only when the version probes have ended",
        file: PUT,
        line: "let all_heard = spread.probes_in_flight == 0 && spread.unheard.is_empty();",
        mutation: "let all_heard = spread.unheard.is_empty();",
        tests: &[
            "a_confirmation_is_backed_by_replicas_and_by_no_known_stale_one",
            "a_put_sends_version_probes_to_the_other_close_nodes_while_its_copies_are_in_flight",
        ],
    },
    Guard {
        name: "PUT: a single claim of a newer record does not end it",
        file: SPREAD,
        line: "largest.filter(|_| self.newer_claims.len() > replicas)",
        mutation: "largest",
        tests: &[
            "a_confirmation_is_backed_by_replicas_and_by_no_known_stale_one",
            "one_claim_of_a_larger_record_does_not_end_a_signed_put",
        ],
    },
    // ── the last node that runs
    Guard {
        name: "alone: silence does not show that the others have stopped",
        file: ALONE,
        line: "self.was_left || failures.any(|failure| self.counted(Some(*failure)) == Some(Absence::Refused))",
        mutation: "self.was_left || failures.any(|failure| self.counted(Some(*failure)).is_some())",
        tests: &["silence_and_faults_of_this_host_do_not_make_a_node_the_last_one"],
    },
    Guard {
        name: "alone: the last goodbye is as good as a refusal",
        file: ALONE,
        line: "self.absences.was_left = true;",
        mutation: "",
        tests: &["the_goodbye_of_the_last_contact_counts_as_a_refusal"],
    },
    Guard {
        name: "alone: a fault of this host says nothing about a contact",
        file: ALONE,
        line: "DialError::LocalFault => return None,",
        mutation: "DialError::LocalFault => Absence::Silent,",
        tests: &["a_contact_that_this_host_could_not_dial_may_run"],
    },
    Guard {
        name: "alone: every known contact must have failed",
        file: ALONE,
        line: "&& self.absent_contacts().all(|contact| absences.is_absent(contact))",
        mutation: "",
        tests: &["all_remembered_contacts_must_have_failed_and_are_tried_within_seconds"],
    },
    Guard {
        name: "alone: a bootstrap must have failed too",
        file: ALONE,
        line: "&& self.other_bootstraps().all(|number| absences.counted(absences.bootstraps[number]).is_some())",
        mutation: "",
        tests: &["a_bootstrap_that_this_host_could_not_dial_may_run"],
    },
    Guard {
        name: "alone: not while a serving peer is connected",
        file: ALONE,
        line: "&& !self.peers.has_serving()",
        mutation: "",
        tests: &["the_last_node_waits_again_as_soon_as_a_peer_connects"],
    },
    Guard {
        name: "alone: a process that restarts at once is awaited",
        file: ALONE,
        line: "self.absences.reset(now, now.mono + ALONE_PAUSE);",
        mutation: "self.absences.reset(now, now.mono);",
        tests: &["a_contact_that_is_back_in_a_moment_is_never_taken_for_stopped"],
    },
    Guard {
        name: "alone: nodes that all start are awaited",
        file: ALONE,
        line: "counts_from: now.mono + ALONE_START_PAUSE,",
        mutation: "counts_from: now.mono,",
        tests: &["after_a_start_refusals_count_only_after_five_seconds"],
    },
    Guard {
        name: "alone: a visitor does not shorten the pause after the start",
        file: ALONE,
        line: "let counts_from = self.absences.counts_from.max(now.mono + ALONE_PAUSE);",
        mutation: "let counts_from = now.mono + ALONE_PAUSE;",
        tests: &["a_peer_that_comes_and_goes_during_the_start_does_not_make_refusals_count_earlier"],
    },
    Guard {
        name: "alone: only a node that serves",
        file: ALONE,
        line: "let may_be = self.status == Status::Joining && self.params.serving == Serving::Yes && absences.has_refusal();",
        mutation: "let may_be = self.status == Status::Joining && absences.has_refusal(); let _ = Serving::Yes;",
        tests: &["a_node_that_does_not_serve_goes_on_waiting"],
    },
    // ── sleep
    Guard {
        name: "sleep: a PUT that has failed for its client, and its retry, are not raised above a later PUT",
        file: PUT,
        line: "!self.is_latest || self.decision != Decision::Open || !matches!(self.origin, PutOrigin::Client { .. })",
        mutation: "!self.is_latest",
        tests: &[
            "the_version_of_a_put_that_has_failed_for_its_client_is_not_raised",
            "the_version_of_a_retry_is_not_raised_above_a_later_put",
        ],
    },
    Guard {
        name: "sleep: a contact that was replaced and sends is a contact again",
        file: PEERS,
        line: "} else if self.peers.route(&contact.id).is_some() {",
        mutation: "} else if false && self.peers.route(&contact.id).is_some() {",
        tests: &["a_contact_that_was_replaced_and_sends_on_the_connection_that_this_node_dialled_is_a_contact_again"],
    },
    Guard {
        name: "silence: a request that waits for a dial is sent when the peer connects",
        file: PEERS,
        line: "self.send_instead_of_dialling(now, &conn.peer, out);",
        mutation: "",
        tests: &["a_request_that_waits_for_a_dial_is_sent_when_the_peer_connects"],
    },
    Guard {
        name: "silence: a request that is sent again keeps its deadline",
        file: CALLS,
        line: "let (cut_offs, timeout_at) = (call.cut_offs + 1, Some(request.deadlines.timeout_at));",
        mutation: "let (cut_offs, timeout_at) = (call.cut_offs + 1, None);",
        tests: &["a_request_that_is_sent_again_keeps_its_deadline"],
    },
    Guard {
        name: "silence: a request of an unresponsive contact does not make it live",
        file: "src/node/membership/liveness.rs",
        line: "if self.table.is_unresponsive(id)",
        mutation: "if false && self.table.is_unresponsive(id)",
        tests: &["an_unresponsive_contact_is_live_again_only_when_it_has_answered"],
    },
    Guard {
        name: "silence: a connection of an unresponsive contact does not make it live",
        file: PEERS,
        line: "Observed::Unresponsive => self.ping(now, contact, out),",
        mutation: "Observed::Unresponsive => drop(self.table.heard(&contact.id)),",
        tests: &["an_unresponsive_contact_is_live_again_only_when_it_has_answered"],
    },
    Guard {
        name: "silence: a contact that is connected and does not answer is not forgotten",
        file: "src/node/membership/liveness.rs",
        line: "let is_kept = self.table.is_unresponsive(id) && self.peers.route(id).is_some();",
        mutation: "let is_kept = false;",
        tests: &["a_contact_that_is_connected_and_does_not_answer_is_not_forgotten"],
    },
    Guard {
        name: "silence: a second PING without an answer counts, whatever connections the peer opens",
        file: CALLS,
        line: "} else if is_lost && call.cut_offs == 0 {",
        mutation: "} else if is_lost {",
        tests: &["a_contact_that_connects_again_and_again_and_answers_nothing_becomes_unresponsive"],
    },
    Guard {
        name: "sleep: a silent connection says nothing of a peer that was heard since",
        file: CALLS,
        line: "let has_reconnected = self.peers.heard_since(&call.to.id, call.since);",
        mutation: "let has_reconnected = false;",
        tests: &["a_silent_connection_does_not_count_against_a_peer_that_sends_on_another_one"],
    },
    Guard {
        name: "sleep: a dial that fails says nothing of a peer that has connected since",
        file: PEERS,
        line: "Some(conn) if error == DialError::Unreachable => self.dial_back(now, conn, out),",
        mutation: "",
        tests: &[
            "a_dial_that_fails_does_not_count_against_a_peer_that_has_connected_since",
            "a_peer_that_connects_while_a_dial_of_it_fails_is_dialled_once_more",
        ],
    },
    Guard {
        name: "sleep: the own record does not count among silent nodes",
        file: GETTING,
        line: "let may_be_all = read.is_unheard() || read.gaps() >= replication_min;",
        mutation: "let may_be_all = replication_min == 0;",
        tests: &[
            "after_a_sleep_the_own_record_does_not_count_if_the_connections_to_as_many_nodes_have_ended",
            "after_a_sleep_the_own_record_does_not_count_while_as_many_nodes_are_silent_as_it_has_replicas",
        ],
    },
    Guard {
        name: "sleep: a SYNC from before does not count",
        file: "src/node/replication/sync.rs",
        line: "if self.join.joined.is_some_and(|since| call.begun < since) {",
        mutation: "if false && self.join.joined.is_some_and(|since| call.begun < since) {",
        tests: &["a_reply_to_a_sync_from_before_another_sleep_does_not_end_the_new_synchronization"],
    },
    Guard {
        name: "sleep: the node synchronizes twice",
        file: SLEEP,
        line: "self.sleep.again_at = Some(now.mono + SYNC_AGAIN_AFTER);",
        mutation: "let _ = SYNC_AGAIN_AFTER;",
        tests: &["a_node_synchronizes_again_seven_seconds_after_waking"],
    },
    Guard {
        name: "sleep: a node without contacts waits before it answers",
        file: GETTING,
        line: "Access::Isolated => self.table.live() == 0 && !self.join.may_hear_more(now),",
        mutation: "Access::Isolated => true,",
        tests: &["a_woken_node_without_contacts_waits_before_it_answers_from_its_storage"],
    },
];
