//! Values stay readable in their newest version despite churn, simultaneous crashes and partitions.

use std::time::Duration;

use dht::sim::{Churn, Death, Number, Scenario, Share, Violation, Workload, World};

use crate::{Run, SECOND, node, world};

const HOUR: Duration = Duration::from_hours(1);

fn anywhere(_: Number) -> bool {
    true
}

/// A network whose values are all confirmed.
fn endow(nodes: u32, seed: u64, count: u32, replication: u8) -> Result<(World, Workload), Violation> {
    let mut world = world(nodes, seed)?;
    world.run_for(SECOND * 60)?;
    let mut trial = Workload::new(&mut world, count, replication);
    assert_eq!(trial.put_all(&mut world, anywhere)?, count, "all are confirmed in a calm world");
    Ok((world, trial))
}

/// Goal: values outlive nodes whose mean lifetime is ten minutes.
///
/// Method: 200 nodes for `hours`, six mean lifetimes each; every ten minutes 100 GETs at nodes that take
/// part. The program runs the large one: `dht-sim --nodes 1000 --session 60m --hours 24`.
fn readable_under_churn(hours: u32, seed: u64, replication: u8) -> Result<Share, Violation> {
    let (mut world, trial) = endow(200, seed, 100, replication)?;
    world.begin_churn(Churn::of(HOUR / 6));
    let mut readable = Share::default();
    for _ in 0..6 * hours {
        world.run_for(HOUR / 6)?;
        readable += trial.read(&mut world, 100, anywhere)?;
    }
    assert_eq!(world.figures().stale_reads, 0, "seed {seed}");
    Ok(readable)
}

fn values_with_20_copies_stay_readable_under_churn(hours: u32) -> Run {
    let readable = readable_under_churn(hours, 1, 20)?;
    assert!(readable.is_at_least(999), "{readable}");
    Ok(())
}

fn values_with_5_copies_are_99_percent_readable_under_churn(hours: u32) -> Run {
    let readable = readable_under_churn(hours, 2, 5)?;
    assert!(readable.is_at_least(990), "{readable}");
    Ok(())
}

#[test]
fn values_with_20_copies_stay_readable_under_an_hour_of_churn() -> Run {
    values_with_20_copies_stay_readable_under_churn(1)
}

#[test]
#[ignore = "long: 200 nodes for 18 mean lifetimes; scripts/check.sh --long runs it"]
fn values_with_20_copies_stay_readable_under_three_hours_of_churn() -> Run {
    values_with_20_copies_stay_readable_under_churn(3)
}

#[test]
fn values_with_5_copies_are_99_percent_readable_under_an_hour_of_churn() -> Run {
    values_with_5_copies_are_99_percent_readable_under_churn(1)
}

#[test]
#[ignore = "long: 200 nodes for 18 mean lifetimes; scripts/check.sh --long runs it"]
fn values_with_5_copies_are_99_percent_readable_under_three_hours_of_churn() -> Run {
    values_with_5_copies_are_99_percent_readable_under_churn(3)
}

#[test]
fn after_a_simultaneous_crash_of_a_third_of_the_nodes_all_values_are_readable() -> Run {
    for (seed, death) in [(1, Death::Process), (2, Death::Host)] {
        let (mut world, trial) = endow(300, seed, 200, 20)?;
        world.kill(death, (0..300).step_by(10).flat_map(|tenth| (tenth..tenth + 3).map(Number)));
        let readable = trial.read(&mut world, 1_000, anywhere)?;
        assert!(readable.is_at_least(999), "{death:?}: {readable}");
        world.check_invariants()?;
    }
    Ok(())
}

/// Goal: after a partition all replicas agree, and no client ever reads an older value after a newer one.
///
/// Method: of 100 nodes 30 are cut off for 20 minutes. Both sides write and read all values. After the
/// partition has healed the test reads all values until the replicas agree.
#[test]
fn after_a_partition_all_replicas_agree_within_an_interval_and_no_read_goes_back() -> Run {
    for seed in 0..3 {
        let (mut world, mut trial) = endow(100, seed, 30, 20)?;
        let small = |number: Number| number.0 < 30;
        world.partition(|number| u8::from(small(number)));
        world.run_for(HOUR / 6)?;
        trial.put_all(&mut world, small)?;
        world.run_for(SECOND * 30)?; // wall clocks here are less apart than that
        trial.put_all(&mut world, |number| !small(number))?;
        trial.read(&mut world, 200, anywhere)?;
        world.run_for(HOUR / 6)?;

        world.heal();
        trial.read(&mut world, 200, anywhere)?;
        let interval = Scenario::calm(0, 0).params.replicate_interval;
        trial.await_agreement(&mut world, interval)?;
        let readable = trial.read(&mut world, 500, anywhere)?;
        assert!(readable.is_at_least(1_000), "seed {seed}: {readable}");
        assert_eq!(world.figures().stale_reads, 0, "seed {seed}");
        world.check_invariants()?;
    }
    Ok(())
}

#[test]
fn churn_keeps_the_number_of_nodes_about_constant() -> Run {
    let mut world = world(100, 1)?;
    world.begin_churn(Churn::of(HOUR / 2));
    for minutes in 0..120 {
        world.run_for(SECOND * 60)?;
        let alive = world.alive().count();
        assert!((60..=110).contains(&alive), "{alive} nodes live after {minutes} minutes");
    }
    world.end_churn();
    world.run_for(HOUR)?;
    let born = world.number_of(&world.id_of(node(100)));
    assert_eq!(born, Some(node(100)), "some are born anew");
    assert_eq!(world.alive().count(), 100, "all restarts and births have happened");
    Ok(())
}
