//! Verifying the certified records of an earlier run in the background.
//!
//! A node listens as soon as its records are in memory. They are verified afterwards, [`VERIFIED_PER_TURN_MAX`] in each
//! turn, so that a request waits less than half a millisecond for them. A record that is asked for before its turn is
//! verified at once: the storage gives no other record to the node ([`crate::storage`]).
//!
//! A record that does not prove what its class claims is dropped, also on disk. The first ones are logged with the key
//! and the fault of one of them, and all are counted.

use std::time::Duration;

use log::{info, warn};

use crate::limits::VERIFIED_PER_TURN_MAX;
use crate::node::Node;
use crate::node::timers::Timer;
use crate::storage::Refuted;
use crate::time::{Now, Time};

/// From this duration on, the progress and the end are logged.
const LONG: Duration = Duration::from_secs(2);

/// Pause between two lines about the progress, or about dropped records.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// How far the background has come.
#[derive(Debug, Default)]
pub(crate) struct Verification {
    /// `None` while no record is unverified.
    pass: Option<Pass>,
    /// Records that were dropped and are not logged yet.
    dropped: Option<Refuted>,
    /// When the next line about dropped records may be logged.
    warn_at: Time,
}

/// From the first unverified record until none is left.
#[derive(Debug)]
struct Pass {
    begun: Time,
    /// How many records were unverified in the beginning.
    records: usize,
    /// [`crate::counters::NodeCounters::records_refuted`] in the beginning.
    refuted: u64,
    /// When the next line about the progress is logged.
    log_at: Time,
}

impl Node {
    /// Verifies the next records.
    pub(crate) fn verify(&mut self) {
        self.storage.verify_some(VERIFIED_PER_TURN_MAX);
    }

    /// Goes on in the next turn, if any record is unverified. The node calls this at the end of each turn, so that records
    /// that were set aside and come back are noticed too.
    pub(crate) fn plan_to_verify(&mut self, now: Now) {
        let left = self.storage.unverified();
        if left > 0 {
            self.timers.hasten(Timer::Verify, now.mono);
        }
        if left > 0 || self.verification.pass.is_some() || self.storage.has_refuted() {
            self.report_verification(now, left);
        }
    }

    /// Counts and logs what was verified.
    #[cold]
    fn report_verification(&mut self, now: Now, left: usize) {
        let before = self.counters.records_refuted;
        if let Some(refuted) = self.storage.take_refuted() {
            self.counters.records_refuted += refuted.records;
            let dropped = self.verification.dropped.get_or_insert(Refuted { records: 0, ..refuted });
            dropped.records += refuted.records;
        }
        let Verification { pass, dropped, warn_at } = &mut self.verification;
        if (left == 0 || *warn_at <= now.mono)
            && let Some(Refuted { records, key, fault }) = dropped.take()
        {
            *warn_at = now.mono + LOG_PAUSE;
            warn!("records dropped: they do not prove what they claim records={records} key={key} fault=\"{fault}\"");
        }
        let refuted = self.counters.records_refuted;
        let Pass { begun, records, refuted: before, log_at } =
            pass.get_or_insert(Pass { begun: now.mono, records: left, refuted: before, log_at: now.mono + LONG });
        if left == 0 {
            let (took, dropped) = (now.mono.since(*begun), refuted - *before);
            if took > LONG {
                info!("verified records={records} dropped={dropped} took_ms={}", took.as_millis());
            }
            *pass = None;
        } else if *log_at <= now.mono {
            *log_at = now.mono + LOG_PAUSE;
            info!("verifying records left={left} of={records}");
        }
    }
}
