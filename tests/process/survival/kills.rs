//! Repeated kill -9 under load loses no value that was confirmed with `durability = always`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::survival::homes::{self, Home};
use crate::survival::writers::{Progress, Writer, expect_all};

/// Nodes that are dead at the same time, at most: fewer than the replicas of a value.
const DEAD_MAX: usize = 4;

/// Confirmed PUTs between two kills or starts, at least.
const PUTS_BETWEEN: u64 = 10;

/// Kills and starts nodes at random until `kills` were killed; all run at the end.
fn kill_and_restart(homes: &mut [Home], kills: usize, rng: &mut StdRng, progress: &Progress) {
    let mut killed = 0;
    while killed < kills {
        progress.await_more(PUTS_BETWEEN);
        let dead: Vec<usize> = (0..homes.len()).filter(|at| homes[*at].server.is_none()).collect();
        if dead.len() == DEAD_MAX || (!dead.is_empty() && rng.random_bool(0.5)) {
            homes[dead[rng.random_range(0..dead.len())]].start();
        } else {
            let alive: Vec<usize> = (0..homes.len()).filter(|at| homes[*at].server.is_some()).collect();
            homes[alive[rng.random_range(0..alive.len())]].kill();
            killed += 1;
        }
    }
    for home in homes.iter_mut().filter(|home| home.server.is_none()) {
        home.start();
        home.server().log_line("settled records=");
    }
}

#[test]
fn forty_kills_under_load_lose_no_confirmed_value() {
    kills_under_load_lose_no_confirmed_value(40);
}

#[test]
#[ignore = "long: 200 kills; scripts/check.sh --long runs it"]
fn two_hundred_kills_under_load_lose_no_confirmed_value() {
    kills_under_load_lose_no_confirmed_value(200);
}

fn kills_under_load_lose_no_confirmed_value(kills: usize) {
    let mut homes = homes::start_network(16, "durability = always");
    let apis: Vec<SocketAddr> = homes.iter().map(|home| home.api).collect();
    let (progress, over) = (Progress::default(), AtomicBool::new(false));
    let writers = thread::scope(|scope| {
        let spawn = |number| {
            let (apis, progress, over) = (&apis, &progress, &over);
            scope.spawn(move || {
                let mut writer = Writer::new(40, StdRng::seed_from_u64(number));
                while !over.load(Ordering::Relaxed) {
                    let at = writer.any_below(apis.len());
                    writer.write(apis[at], progress);
                    let at = writer.any_below(apis.len());
                    writer.read(apis[at]);
                }
                writer
            })
        };
        let writers: Vec<_> = (0..4).map(spawn).collect();
        let _over = OnDrop(&over);
        kill_and_restart(&mut homes, kills, &mut StdRng::seed_from_u64(200), &progress);
        over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect::<Vec<_>>()
    });
    expect_all(&writers, &apis);
}

/// Ends the load, also if the killing thread panics.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
