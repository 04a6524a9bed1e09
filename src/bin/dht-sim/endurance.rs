//! The long run: values must stay readable while nodes crash, are partitioned, join and leave.
//!
//! The order: clients PUT the values; a percentage of the nodes crashes at the same time; a percentage
//! is cut off for a time while both sides write; then nodes join and leave for hours.

use std::time::Duration;

use dht::limits::TTL_LONGEST;
use dht::sim::{Churn, Death, Number, Share, Workload, World};

use crate::{Failure, kill};

/// Time between the last join and the first PUT, for the routing tables to fill.
const REST: Duration = Duration::from_mins(1);

const HOUR: Duration = Duration::from_hours(1);

/// GETs per ten seconds while a partition heals.
const GETS_PER_LOOK: u32 = 50;

/// What happens to the values, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Endurance {
    /// Number of values.
    pub(crate) values: u32,
    /// Number of replicas of each; 0 for the nodes' default.
    pub(crate) replication: u8,
    /// Number of GETs that measure the share of readable values.
    pub(crate) gets: u32,
    /// Percentage of the nodes that crash at the same time.
    pub(crate) crash: f64,
    /// Percentage of the nodes that are cut off, and for how long.
    pub(crate) partition: (f64, Duration),
    /// Average life of a node, if nodes join and leave.
    pub(crate) session: Option<Duration>,
    /// Hours of joining and leaving.
    pub(crate) hours: u32,
}

impl Endurance {
    /// Runs all phases and prints the share of readable values after each.
    pub(crate) fn run(&self, world: &mut World) -> Result<(), Failure> {
        world.run_for(REST)?;
        let mut trial = Workload::new(world, self.values, self.replication);
        let confirmed = trial.put_all(world, anywhere)?;
        println!("values {confirmed}/{}", self.values);
        if self.crash > 0.0 {
            self.crash(world, &trial)?;
        }
        if self.partition.0 > 0.0 {
            self.part(world, &mut trial)?;
        }
        self.live(world, &mut trial)
    }

    fn crash(&self, world: &mut World, trial: &Workload) -> Result<(), Failure> {
        kill(world, &[(Death::Host, self.crash)]);
        println!("readable after a crash {}", trial.read(world, self.gets, anywhere)?);
        Ok(())
    }

    /// Partitions the network, writes all values on both sides, heals the partition, and waits until all
    /// replicas agree.
    fn part(&self, world: &mut World, trial: &mut Workload) -> Result<(), Failure> {
        let (percent, span) = self.partition;
        let population = world.alive().last().map_or(0, |last| last.0 + 1);
        let small = |number: Number| f64::from(number.0) < f64::from(population) * percent / 100.0;
        world.partition(|number| u8::from(small(number)));
        world.run_for(span / 2)?;
        let few = trial.put_all(world, small)?;
        world.run_for(REST)?; // longer than the skew of the wall clocks
        let many = trial.put_all(world, |number| !small(number))?;
        // Each side reads the values that it wrote. Later reads of older values are counted.
        trial.read(world, self.gets, anywhere)?;
        world.run_for(span / 2)?;
        println!("parted {percent} %: values confirmed {few} and {many}");

        world.heal();
        let interval = world.scenario().params.replicate_interval;
        let mut healing = Share::default();
        let healed = world.now();
        let agreed = loop {
            match trial.await_agreement(world, Duration::ZERO) {
                Ok(_) => break world.now().since(healed),
                Err(violation) if world.now() > healed + interval => return Err(violation.into()),
                Err(_) => healing += trial.read(world, GETS_PER_LOOK, anywhere)?,
            }
            world.run_for(Duration::from_secs(10))?;
        };
        println!("healed: all replicas agree after {} s, readable until then {healing}", agreed.as_secs());
        println!("readable after a partition {}", trial.read(world, self.gets, anywhere)?);
        Ok(())
    }

    /// Runs for hours. Writes each value again when less than an hour of its life is left.
    fn live(&self, world: &mut World, trial: &mut Workload) -> Result<(), Failure> {
        if let Some(session) = self.session {
            world.begin_churn(Churn::of(session));
        }
        let renewal = u32::try_from(TTL_LONGEST.as_secs() / HOUR.as_secs()).expect("some hours") - 1;
        let mut all = Share::default();
        for hour in 1..=self.hours {
            let end = world.now() + HOUR;
            let before = world.figures().nodes.upkeep_bytes;
            if hour % renewal == 0 {
                trial.put_all(world, anywhere)?;
            }
            world.run_for(end.since(world.now()))?;
            let readable = trial.read(world, self.gets, anywhere)?;
            println!("hour {hour} nodes {} readable {readable}", world.alive().count());
            // The bytes of nodes that died within the hour are not included.
            let bytes = world.figures().nodes.upkeep_bytes.saturating_sub(before);
            let copies = copies(world);
            let each = bytes.checked_div(copies).unwrap_or(0);
            println!("hour {hour} upkeep {bytes} bytes, {each} for each of {copies} copies");
            all += readable;
        }
        if self.hours > 0 {
            println!("readable in all {all}");
        }
        Ok(())
    }
}

/// Number of stored replicas of all records.
fn copies(world: &World) -> u64 {
    world.alive().filter_map(|number| world.node(number)).map(|node| node.storage().len() as u64).sum()
}

fn anywhere(_: Number) -> bool {
    true
}
