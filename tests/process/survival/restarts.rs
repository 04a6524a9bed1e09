//! Regular stops and starts: one node after the other, and all at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dht::id::Key;
use dht::wire::api::ApiRequest;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::eventually;
use crate::survival::homes;
use crate::survival::writers::{Outcome, Progress, Writer, ask, expect_all, put};

/// Values whose TTL outlasts the restart; see also [`BRIEF`].
const LASTING: usize = 200;
/// Values whose TTL ends during the restart.
const BRIEF: usize = 20;

/// No node is restarting.
const NOBODY: usize = usize::MAX;

#[test]
fn a_rolling_restart_loses_no_value_and_fails_requests_only_at_the_restarting_node() {
    let mut homes = homes::start_network(16, "");
    let apis: Vec<SocketAddr> = homes.iter().map(|home| home.api).collect();
    let (progress, over) = (Progress::default(), AtomicBool::new(false));
    let restarting = AtomicUsize::new(NOBODY);
    let writers = thread::scope(|scope| {
        let spawn = |number| {
            let (apis, progress, over, restarting) = (&apis, &progress, &over, &restarting);
            scope.spawn(move || {
                let mut writer = Writer::new(40, StdRng::seed_from_u64(number));
                while !over.load(Ordering::Relaxed) {
                    let at = writer.any_below(apis.len());
                    let before = restarting.load(Ordering::SeqCst);
                    let outcome = [writer.write(apis[at], progress), writer.read(apis[at])];
                    let excused = [before, restarting.load(Ordering::SeqCst)].contains(&at);
                    let nothing_to_read = writer.confirmed.is_empty();
                    let well = outcome.iter().all(|outcome| matches!(outcome, Outcome::Success(_)));
                    assert!(well || excused || nothing_to_read, "node {at} outcome {outcome:?}");
                }
                writer
            })
        };
        let writers: Vec<_> = (0..4).map(spawn).collect();
        let roll = thread::Builder::new().spawn_scoped(scope, || {
            for (at, home) in homes.iter_mut().enumerate() {
                progress.await_more(50);
                restarting.store(at, Ordering::SeqCst);
                home.stop();
                home.start();
                home.server().log_line("settled records=");
                restarting.store(NOBODY, Ordering::SeqCst);
            }
        });
        let rolled = roll.expect("a thread").join();
        over.store(true, Ordering::Relaxed);
        let writers = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect::<Vec<_>>();
        rolled.expect("all were restarted");
        writers
    });
    expect_all(&writers, &apis);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a value must not be found after the end of its life")]
fn all_stopped_and_started_again_have_what_has_life_left_and_nothing_else() {
    let mut homes = homes::start_network(16, "");
    let apis: Vec<SocketAddr> = homes.iter().map(|home| home.api).collect();
    let mut rng = StdRng::seed_from_u64(16);
    let keys: Vec<Key> = (0..LASTING + BRIEF).map(|_| Key::new(rng.random())).collect();
    let write = |number: usize, ttl| {
        let value = number.to_be_bytes();
        let outcome = ask(apis[number % 16], &put(keys[number], ttl, 8, &value));
        assert_eq!(outcome, Outcome::Success(Vec::new()), "{number}");
    };
    let read = |number: usize| ask(apis[(number + 5) % 16], &ApiRequest::Get { key: keys[number] });
    (0..LASTING).for_each(|number| write(number, 3600));
    (LASTING..LASTING + BRIEF).for_each(|number| write(number, 2));
    let brief_end = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for home in &mut homes {
            scope.spawn(|| home.stop());
        }
    });
    for home in &mut homes {
        home.start();
    }
    for home in &homes {
        home.server().log_line("settled records=");
    }
    for number in 0..LASTING {
        assert_eq!(read(number), Outcome::Success(number.to_be_bytes().to_vec()), "{number}");
    }
    for number in LASTING..LASTING + BRIEF {
        eventually("a life ends", || {
            let begun = Instant::now();
            let outcome = read(number);
            assert!(
                outcome == Outcome::Failure || begun < brief_end,
                "{number}: {outcome:?} after the end of its life"
            );
            (outcome == Outcome::Failure).then_some(())
        });
    }
}
