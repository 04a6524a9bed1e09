//! The long run: values that shall stay readable while nodes crash, part, come and go.
//!
//! What the command line asks for happens in this order: the values are PUT; so many nodes crash at
//! once; so many are cut off for a while, and both sides write; then nodes come and go for hours.

use std::time::Duration;

use dht::limits::TTL_LONGEST;
use dht::sim::{Churn, Death, Number, Share, Workload, World};

use crate::{Failure, kill};

/// From the last birth to the first PUT: tables fill.
const REST: Duration = Duration::from_mins(1);

const HOUR: Duration = Duration::from_hours(1);

/// GETs between two looks at the clock, while a parted network comes together.
const GETS_PER_LOOK: u32 = 50;

/// What happens to the values, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Endurance {
    /// How many there are.
    pub(crate) values: u32,
    /// Nodes that shall hold each; 0 for the nodes' own default.
    pub(crate) replication: u8,
    /// GETs by which their share is measured.
    pub(crate) gets: u32,
    /// Percent of the nodes that crash at once.
    pub(crate) crash: f64,
    /// Percent of the nodes that are cut off, and for how long.
    pub(crate) partition: (f64, Duration),
    /// How long a node lives on average, if they come and go.
    pub(crate) session: Option<Duration>,
    /// How many hours all this goes on.
    pub(crate) hours: u32,
}

impl Endurance {
    /// Does it all; prints what was readable when.
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

    /// Parts the world, has both sides write all values, heals it, and waits until all agree.
    fn part(&self, world: &mut World, trial: &mut Workload) -> Result<(), Failure> {
        let (percent, span) = self.partition;
        let population = world.alive().last().map_or(0, |last| last.0 + 1);
        let small = |number: Number| f64::from(number.0) < f64::from(population) * percent / 100.0;
        world.part(|number| u8::from(small(number)));
        world.run_for(span / 2)?;
        let few = trial.put_all(world, small)?;
        world.run_for(REST)?; // wall clocks here are less apart than that
        let many = trial.put_all(world, |number| !small(number))?;
        // Each side reads what it wrote. Whoever reads an older value later is counted.
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
        println!("healed: all holders agree after {} s, readable until then {healing}", agreed.as_secs());
        println!("readable after a partition {}", trial.read(world, self.gets, anywhere)?);
        Ok(())
    }

    /// Lets hours pass; each value is written again when less than an hour of its life is left.
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
            // Of those that died meanwhile nothing is known.
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

/// Records held, each as often as there are nodes that hold it.
fn copies(world: &World) -> u64 {
    world.alive().filter_map(|number| world.node(number)).map(|node| node.storage().len() as u64).sum()
}

fn anywhere(_: Number) -> bool {
    true
}
