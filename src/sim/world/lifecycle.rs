//! Births and deaths, and the disks that outlive them.

use std::time::Duration;

use rand::RngExt;

use super::{SimHost, World, derived};
use crate::node::params::{Bootstrap, Endpoint, Params, Serving};
use crate::node::persisted::Saved;
use crate::node::{Me, Node, Status};
use crate::sim::checker::Breach;
use crate::sim::churn::Churn;
use crate::sim::disk::{Disk, Room};
use crate::sim::network::{self, Death};
use crate::sim::queue::What;
use crate::sim::report::Kind;
use crate::sim::{Faults, Number, Violation};

/// In each second a growing world becomes larger by half, and by so many nodes at least.
const BIRTHS_MIN: usize = 8;

/// Nodes that a new one is told of, at most.
const BOOTSTRAPS_MAX: usize = 3;

/// A node that has not joined for so long, in a world where it could, never will: some rounds of
/// the longest pause between two attempts.
const JOIN_TIME_MAX: Duration = Duration::from_mins(10);

/// Births and deaths.
impl World {
    /// A node is born that joins through the nodes `through`; without any it founds a network.
    pub fn spawn(&mut self, through: &[Number]) -> Result<Number, Violation> {
        self.spawn_as(Serving::Yes, through)
    }

    /// As [`World::spawn`]; the node serves, or is a client.
    pub fn spawn_as(&mut self, serving: Serving, through: &[Number]) -> Result<Number, Violation> {
        let number = Number(self.population());
        let skew = i64::try_from(self.scenario.skew_max.as_millis()).expect("clocks are less than an age apart");
        self.network.add_host(serving == Serving::Yes);
        self.hosts.push(SimHost {
            id: self.id_of(number),
            node: None,
            life: 0,
            wake: None,
            turns: 0,
            changes: 0,
            disk: Disk::default(),
            wall_ahead_millis: self.rng.random_range(-skew..=skew),
        });
        self.give_birth(number, serving, through)?;
        Ok(number)
    }

    /// A node that serves lives again where one died: the same id, at the same address, with what
    /// is on its disk.
    ///
    /// # Panics
    ///
    /// If it lives.
    pub fn restart(&mut self, number: Number, through: &[Number]) -> Result<(), Violation> {
        assert!(self.node(number).is_none(), "{number} lives");
        self.network.revive(number);
        self.give_birth(number, Serving::Yes, through)
    }

    /// As [`World::restart`], with a new disk: nothing is left of what it knew.
    pub fn restart_empty(&mut self, number: Number, through: &[Number]) -> Result<(), Violation> {
        self.hosts[number.index()].disk = Disk::default();
        self.restart(number, through)
    }

    fn give_birth(&mut self, number: Number, serving: Serving, through: &[Number]) -> Result<(), Violation> {
        let bootstrap = |at: &Number| Bootstrap { at: Endpoint::Address(network::address_of(*at)), pin: None };
        let bootstraps = through.iter().map(bootstrap).collect();
        let params = Params { serving, bootstraps, ..self.scenario.params.clone() };
        let now = self.now_at(number);
        let host = &self.hosts[number.index()];
        let port = if serving == Serving::Yes { network::PORT } else { 0 };
        let seed = derived(self.scenario.seed, "node", number.0, host.life);
        let mut node = Node::new(Me { id: host.id, port }, params, seed, now);
        for contact in host.disk.contacts(|number| self.hosts[number.index()].id) {
            node.remember(now, contact);
        }
        for persisted in host.disk.keys() {
            let restored = node.restore(now, persisted.clone());
            self.judge(number, restored.map_err(|error| Breach::PersistedUnverified { key: persisted.key, error }))?;
        }
        self.hosts[number.index()].node = Some(Box::new(node));
        self.born = self.now;
        self.log.add(self.now, Kind::Born, number, &[]);
        self.plan_end(number);
        self.settle(number)
    }

    /// Nodes are born until there are as many as the scenario wants, ever more of them in each
    /// second, each told of up to three others; goes on until all have joined.
    pub fn join_all(&mut self) -> Result<(), Violation> {
        let wanted = self.scenario.nodes as usize;
        while self.hosts.len() < wanted {
            let births = (self.hosts.len() / 2).max(BIRTHS_MIN).min(wanted - self.hosts.len());
            for _ in 0..births {
                let through = self.any_bootstraps();
                self.spawn(&through)?;
                self.run_for(Duration::from_secs(1) / u32::try_from(births).expect("few are born in a second"))?;
            }
        }
        self.await_joined()
    }

    /// Some nodes that live, to join through; nobody, if nobody does.
    fn any_bootstraps(&mut self) -> Vec<Number> {
        if self.alive().next().is_none() {
            return Vec::new();
        }
        (0..self.rng.random_range(1..=BOOTSTRAPS_MAX)).map(|_| self.any_alive()).collect()
    }

    /// Goes on until all have joined.
    pub fn await_joined(&mut self) -> Result<(), Violation> {
        let latest = self.now + JOIN_TIME_MAX;
        loop {
            let lonely = self.alive().find(|number| !self.has_joined(*number));
            let Some(lonely) = lonely else { return Ok(()) };
            if self.now >= latest {
                return Err(self.violation(lonely, Breach::NeverJoined));
            }
            self.run_for(Duration::from_secs(1))?;
        }
    }

    /// Whether the node lives and has joined.
    pub fn has_joined(&self, number: Number) -> bool {
        self.node(number).is_some_and(|node| node.status() == Status::Settled)
    }

    /// Nodes die. What was not on their disks yet is lost.
    pub fn kill(&mut self, death: Death, numbers: impl IntoIterator<Item = Number>) {
        let numbers: Vec<Number> = numbers.into_iter().collect();
        for number in &numbers {
            self.bury(*number);
        }
        for (at, conn) in self.network.kill(&mut self.rng, self.now, death, &numbers) {
            self.queue.foresee(at, What::Closed(conn));
        }
        self.harmed = Some(self.now);
    }

    fn bury(&mut self, number: Number) {
        let host = &mut self.hosts[number.index()];
        if let Some(node) = host.node.take() {
            self.figures.nodes += *node.counters(); // what the dead have done counts too
        }
        host.wake = None;
        host.life += 1;
        host.disk.crash();
        self.log.add(self.now, Kind::Killed, number, &[]);
    }

    /// A node leaves in peace; its process ends when it is done.
    pub fn leave(&mut self, number: Number) -> Result<(), Violation> {
        self.harmed = Some(self.now);
        self.touch(number, Node::leave)
    }

    /// Parts the world: nodes of different sides do not reach each other, and the connections
    /// between them fall silent.
    pub fn part(&mut self, side_of: impl Fn(Number) -> u8) {
        self.network.part(side_of);
        self.harmed = Some(self.now);
    }

    /// Nothing goes wrong any more, and all reach each other.
    pub fn heal(&mut self) {
        self.network.part(|_| 0);
        self.network.faults = Faults::NONE;
        self.harmed = Some(self.now);
    }
}

/// Disks.
impl World {
    /// From now on the disk of a node, alive or dead, has so much room.
    pub fn make_room(&mut self, number: Number, room: Room) {
        self.hosts[number.index()].disk.room = room;
    }

    /// A batch is through, unless the node of that life is gone.
    pub(super) fn end_save(&mut self, number: Number, life: u32) -> Result<(), Violation> {
        let host = &mut self.hosts[number.index()];
        if host.life != life {
            return Ok(());
        }
        let Some(saved) = host.disk.end() else { return Ok(()) };
        let kind = match saved {
            Saved::Durable => Kind::Saved,
            Saved::Failed => Kind::SaveFailed,
        };
        self.log.add(self.now, kind, number, &[]);
        self.touch(number, |node, now, out| node.on_saved(now, saved, out))
    }

    /// A host that ends in peace waits for its disk.
    pub(super) fn flush_disk(&mut self, number: Number) {
        self.hosts[number.index()].disk.end();
    }
}

/// Churn.
impl World {
    /// From now on nodes come and go like this; those who live now, too.
    pub fn begin_churn(&mut self, churn: Churn) {
        self.churn = Some(churn);
        let alive: Vec<Number> = self.alive().collect();
        for number in alive {
            self.plan_end(number);
        }
    }

    /// Nobody ends any more by himself; whoever is about to come still comes.
    pub fn end_churn(&mut self) {
        self.churn = None;
    }

    fn plan_end(&mut self, number: Number) {
        if let Some(churn) = self.churn {
            let at = self.now + churn.draw_session(&mut self.rng);
            self.queue.foresee(at, What::Ends { at: number, life: self.hosts[number.index()].life });
        }
    }

    /// The session of a node is over, if there is churn; the last one stays.
    pub(super) fn end_session(&mut self, number: Number, life: u32) -> Result<(), Violation> {
        let alone = self.alive().nth(1).is_none();
        let Some(churn) = self.churn.filter(|_| self.hosts[number.index()].life == life && !alone) else {
            return Ok(());
        };
        let back = churn.draw_return(&mut self.rng).then_some(number);
        let at = self.now + self.scenario.params.leave_timeout + churn.draw_pause(&mut self.rng);
        self.queue.foresee(at, What::Comes(back));
        match churn.draw_end(&mut self.rng) {
            None => self.leave(number),
            Some(death) => {
                self.kill(death, [number]);
                Ok(())
            }
        }
    }

    /// The one that died there comes back, or somebody new comes.
    pub(super) fn come(&mut self, back: Option<Number>) -> Result<(), Violation> {
        let through = self.any_bootstraps();
        match back {
            None => self.spawn(&through).map(|_| ()),
            Some(number) if self.node(number).is_none() => self.restart(number, &through),
            Some(_) => Ok(()),
        }
    }
}
