//! Starting and stopping of nodes, their disks, and churn.

use std::time::Duration;

use rand::RngExt;

use super::sleep::Turns;
use super::{SimHost, World, derived};
use crate::node::params::{Bootstrap, Endpoint, Families, Params, Serving};
use crate::node::persisted::Saved;
use crate::node::{Me, Node, Status};
use crate::record::envelope::verify_record;
use crate::sim::checker::BrokenInvariant;
use crate::sim::churn::Churn;
use crate::sim::disk::{Disk, DiskSpace};
use crate::sim::network::{self, Death};
use crate::sim::queue::Event;
use crate::sim::report::EventKind;
use crate::sim::{Faults, Number, Violation};
use crate::time::Time;

/// While [`World::join_all`] runs, the number of nodes grows by half each second, and at least by this number.
const STARTS_MIN: usize = 8;

/// Maximum number of bootstraps of a new node.
const BOOTSTRAPS_MAX: usize = 3;

/// After this time a node must have joined if that is possible: several of the longest pauses between two
/// attempts.
const JOIN_TIME_MAX: Duration = Duration::from_mins(10);

/// Starting and stopping.
impl World {
    /// Starts a new node that joins through the nodes `through`. Without any it founds a network.
    pub fn spawn(&mut self, through: &[Number]) -> Result<Number, Violation> {
        self.spawn_as(Serving::Yes, through)
    }

    /// As [`World::spawn`], for a node that stores records of others or does not.
    pub fn spawn_as(&mut self, serving: Serving, through: &[Number]) -> Result<Number, Violation> {
        self.spawn_in(self.scenario.params.families, serving, through)
    }

    /// As [`World::spawn_as`], for a host with these address families.
    pub fn spawn_in(&mut self, families: Families, serving: Serving, through: &[Number]) -> Result<Number, Violation> {
        let number = Number(self.population());
        let skew =
            i64::try_from(self.scenario.skew_max.as_millis()).expect("the maximum skew has 64 bits of milliseconds");
        self.network.add_host(serving == Serving::Yes, families);
        self.hosts.push(SimHost {
            id: self.id_of(number),
            node: None,
            incarnation: 0,
            wake: None,
            wakes: 0,
            table_changes: 0,
            disk: Disk::default(),
            wall_ahead_millis: self.rng.random_range(-skew..=skew),
            boots: 0,
            turns: Turns::InTime,
            awake_since: Time::ZERO,
        });
        self.start(number, serving, through)?;
        Ok(number)
    }

    /// Starts a stopped, serving node again, with the same id, address and disk.
    ///
    /// # Panics
    ///
    /// If it runs.
    pub fn restart(&mut self, number: Number, through: &[Number]) -> Result<(), Violation> {
        assert!(self.node(number).is_none(), "{number} runs");
        self.network.revive(number);
        self.start(number, Serving::Yes, through)
    }

    /// As [`World::restart`], with an empty disk.
    pub fn restart_empty(&mut self, number: Number, through: &[Number]) -> Result<(), Violation> {
        self.hosts[number.index()].disk = Disk::default();
        self.restart(number, through)
    }

    fn start(&mut self, number: Number, serving: Serving, through: &[Number]) -> Result<(), Violation> {
        let address = |at: &Number| Endpoint::Address(self.network.address_for(number, *at));
        let bootstrap = |at: &Number| Bootstrap { at: address(at), pin: None };
        let bootstraps = through.iter().map(bootstrap).collect();
        let families = self.network.families(number);
        let params = Params { serving, families, bootstraps, ..self.scenario.params.clone() };
        let now = self.now_at(number);
        let host = &self.hosts[number.index()];
        let port = if serving == Serving::Yes { network::PORT } else { 0 };
        let seed = derived(self.scenario.seed, "node", number.0, host.incarnation);
        let mut node = Node::new(Me { id: host.id, port }, params, seed, now);
        if let Some(boot) = self.boot_of(number) {
            node.booted(boot);
        }
        for contact in host.disk.contacts(|number| self.hosts[number.index()].id) {
            node.remember(now, contact);
        }
        for pack in host.disk.packs() {
            node.restore_pack(now, pack.clone());
        }
        for persisted in host.disk.keys() {
            let verified = persisted.record.as_ref().map_or(Ok(()), |kept| verify_record(&kept.record));
            let key = persisted.key;
            self.require(number, verified.map_err(|error| BrokenInvariant::PersistedUnverified { key, error }))?;
            node.restore(now, persisted.clone());
        }
        node.restored(now);
        self.hosts[number.index()].node = Some(Box::new(node));
        self.last_start = self.now;
        self.digest.add(self.now, EventKind::Started, number, &[]);
        self.schedule_end(number);
        self.after_event(number)
    }

    /// Starts the nodes of the scenario, more of them in each second, with up to three bootstraps each, and
    /// runs until all have joined.
    pub fn join_all(&mut self) -> Result<(), Violation> {
        let wanted = self.scenario.nodes as usize;
        while self.hosts.len() < wanted {
            let starts = (self.hosts.len() / 2).max(STARTS_MIN).min(wanted - self.hosts.len());
            for _ in 0..starts {
                let through = self.any_bootstraps();
                self.spawn(&through)?;
                self.run_for(Duration::from_secs(1) / u32::try_from(starts).expect("numbers have 32 bits"))?;
            }
        }
        self.await_joined()
    }

    /// Random running nodes to join through; empty if no node runs.
    fn any_bootstraps(&mut self) -> Vec<Number> {
        if self.alive().next().is_none() {
            return Vec::new();
        }
        (0..self.rng.random_range(1..=BOOTSTRAPS_MAX)).map(|_| self.any_alive()).collect()
    }

    /// Runs until all nodes have joined.
    pub fn await_joined(&mut self) -> Result<(), Violation> {
        let latest = self.now + JOIN_TIME_MAX;
        loop {
            let joining = self.alive().find(|number| !self.has_joined(*number));
            let Some(joining) = joining else { return Ok(()) };
            if self.now >= latest {
                return Err(self.violation(joining, BrokenInvariant::NeverJoined));
            }
            self.run_for(Duration::from_secs(1))?;
        }
    }

    /// Whether the node runs and has joined.
    pub fn has_joined(&self, number: Number) -> bool {
        self.node(number).is_some_and(|node| node.status() == Status::Settled)
    }

    /// Stops nodes without leaving. Batches that are not on their disks yet are lost.
    pub fn kill(&mut self, death: Death, numbers: impl IntoIterator<Item = Number>) {
        let numbers: Vec<Number> = numbers.into_iter().collect();
        for number in &numbers {
            self.stop(*number);
        }
        for (at, conn) in self.network.kill(&mut self.rng, self.now, death, &numbers) {
            self.queue.schedule(at, Event::Closed(conn));
        }
        self.last_disruption = Some(self.now);
    }

    fn stop(&mut self, number: Number) {
        self.wake_up(number);
        let host = &mut self.hosts[number.index()];
        if let Some(node) = host.node.take() {
            self.figures.nodes += *node.counters();
        }
        host.wake = None;
        host.turns = Turns::InTime;
        host.incarnation += 1;
        host.disk.crash();
        self.digest.add(self.now, EventKind::Killed, number, &[]);
    }

    /// Makes a node leave gracefully. Its process ends when it has left.
    pub fn leave(&mut self, number: Number) -> Result<(), Violation> {
        self.last_disruption = Some(self.now);
        self.call(number, Node::leave)
    }

    /// Partitions the network: nodes of different sides do not reach each other, and the connections between
    /// them become silent.
    pub fn partition(&mut self, side_of: impl Fn(Number) -> u8) {
        self.network.partition(side_of);
        self.last_disruption = Some(self.now);
    }

    /// Puts a node behind a firewall: from now on nobody can dial it. Its connections go on, and it can dial others.
    pub fn shield(&mut self, number: Number) {
        self.network.shield(number);
        self.last_disruption = Some(self.now);
    }

    /// From now on the nodes that `is_full` selects have no room for any reply: they send ERROR 429 instead.
    pub fn fill(&mut self, is_full: impl Fn(Number) -> bool) {
        self.network.fill(is_full);
        self.last_disruption = Some(self.now);
    }

    /// Ends all faults and the partition, and empties all outboxes.
    pub fn heal(&mut self) {
        self.network.fill(|_| false);
        self.network.partition(|_| 0);
        self.network.faults = Faults::NONE;
        self.last_disruption = Some(self.now);
    }
}

/// Disks.
impl World {
    /// Sets whether the disk of a node has space. The node may be stopped.
    pub fn set_disk_space(&mut self, number: Number, space: DiskSpace) {
        self.hosts[number.index()].disk.space = space;
    }

    /// Ends the write of a batch and reports the result, unless the node has stopped.
    pub(super) fn end_save(&mut self, number: Number, incarnation: u32) -> Result<(), Violation> {
        let host = &mut self.hosts[number.index()];
        if host.incarnation != incarnation {
            return Ok(());
        }
        let Some(saved) = host.disk.end() else { return Ok(()) };
        let kind = match saved {
            Saved::Durable | Saved::Written => EventKind::Saved,
            Saved::Failed | Saved::Lost => EventKind::SaveFailed,
        };
        self.digest.add(self.now, kind, number, &[]);
        self.call(number, |node, now, out| node.on_saved(now, saved, out))
    }

    /// Ends the write of a batch before a process that has left ends.
    pub(super) fn flush_disk(&mut self, number: Number) {
        self.hosts[number.index()].disk.end();
    }
}

/// Churn.
impl World {
    /// Begins churn, which also affects the nodes that run now.
    pub fn begin_churn(&mut self, churn: Churn) {
        self.churn = Some(churn);
        let alive: Vec<Number> = self.alive().collect();
        for number in alive {
            self.schedule_end(number);
        }
    }

    /// Ends churn: no more sessions end. Replacements that are already scheduled still start.
    pub fn end_churn(&mut self) {
        self.churn = None;
    }

    fn schedule_end(&mut self, number: Number) {
        if let Some(churn) = self.churn {
            let at = self.now + churn.draw_session(&mut self.rng);
            let incarnation = self.hosts[number.index()].incarnation;
            self.queue.schedule(at, Event::SessionEnds { at: number, incarnation });
        }
    }

    /// Ends the session of a node and schedules its replacement, if there is churn. The last node stays.
    pub(super) fn end_session(&mut self, number: Number, incarnation: u32) -> Result<(), Violation> {
        let is_last = self.alive().nth(1).is_none();
        let is_current = self.hosts[number.index()].incarnation == incarnation;
        let Some(churn) = self.churn.filter(|_| is_current && !is_last) else {
            return Ok(());
        };
        let returning = churn.draw_return(&mut self.rng).then_some(number);
        let at = self.now + self.scenario.params.leave_timeout + churn.draw_pause(&mut self.rng);
        self.queue.schedule(at, Event::Starts(returning));
        match churn.draw_end(&mut self.rng) {
            None => self.leave(number),
            Some(death) => {
                self.kill(death, [number]);
                Ok(())
            }
        }
    }

    /// Starts the stopped node `returning` again, or a new node.
    pub(super) fn start_replacement(&mut self, returning: Option<Number>) -> Result<(), Violation> {
        let through = self.any_bootstraps();
        match returning {
            None => self.spawn(&through).map(|_| ()),
            Some(number) if self.node(number).is_none() => self.restart(number, &through),
            Some(_) => Ok(()),
        }
    }
}
