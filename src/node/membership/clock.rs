//! The wall clock of this node, compared with those of its peers and with its own monotonic clock.
//!
//! A wall clock may be wrong at any node at any time. Nothing here corrects it: versions and lives always follow
//! the own clock. But a wrong clock is noticed and reported:
//!
//! - Each peer that this node has dialled tells its wall clock: in its HELLO, and by TIME when the connection
//!   is old. This node remembers it as the offset of the peer's wall clock to its own monotonic clock, for
//!   [`SAMPLE_LIFE`]. So a wall clock that is set is noticed at once, and no new sample is needed for it.
//! - The clocks of peers may be set too: hosts start with wrong ones and set them soon after. A peer whose clock differs
//!   is asked again every [`DIFFERENCE_PAUSE`]. A peer that asks for the time is asked back, because a node whose clock
//!   was set asks. If a PUT is contradicted, all are asked, and what they said long ago does not speak for it.
//! - With one or two peers a difference of more than [`CLOCK_DIFFERENCE_MAX`] is reported with the peer, because
//!   either clock may be wrong. With three or more the median decides: the own clock is wrong, or single peers
//!   are.
//! - A wall clock that is set by more than [`CLOCK_DIFFERENCE_MAX`] makes the node look at its records again
//!   ([`crate::node::records`]) and synchronize: with the other setting it would have accepted others. If peers show
//!   that as much time has passed for them, the host was suspended while even the monotonic clock stood still, and
//!   the records have become older by it.
//!
//! Non-goal: telling the time. Liars that this node has dialled can make it report a wrong clock, and refuse PUTs
//! for it, and not answer for a record of which another peer claims a newer version; they cannot change a version or a
//! life.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use log::{Level, info, log, warn};

use crate::contact::{Group, is_private};
use crate::id::NodeId;
use crate::limits::{CLOCK_DIFFERENCE_MAX, CLOCK_SKEW_MAX};
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::params::AddressGroups;
use crate::node::purpose::{Outcome, Purpose};
use crate::node::query::contradictions::OwnClock;
use crate::node::rpc::outbound::Report;
use crate::node::timers::Timer;
use crate::record::Version;
use crate::time::{ClockOffset, Now, Time, WallTime};
use crate::wire::peer::Reply;

/// How long a sample counts. Clocks drift by seconds a day; an hour of old samples shows that a clock was set.
const SAMPLE_LIFE: Duration = Duration::from_hours(1);

/// Peers whose clocks are compared. More would not change the median.
const SAMPLES_MAX: usize = 16;

/// Peers are asked for the time again after this pause, so that a few lost replies do not matter.
const ASK_PAUSE: Duration = Duration::from_mins(20);

/// A peer whose clock differs from the own one is asked again after this pause. Meanwhile it may have been set.
const DIFFERENCE_PAUSE: Duration = Duration::from_secs(5);

/// A peer that asks for the time is asked back, unless it has told its own in this time. So two nodes do not ask each
/// other again and again.
const ASKED_BACK_PAUSE: Duration = Duration::from_millis(500);

/// What peers said longer ago does not outweigh those that contradict a PUT.
const EVIDENCE_LIFE: Duration = Duration::from_secs(15);

/// From this many samples on the median tells which clock is wrong.
const JUDGES_MIN: usize = 3;

/// How long after the start of a node its peers confirm no age that the wall clock has told. The first ones that it
/// meets may have clocks that are wrong by as much; it knows most of its contacts after some minutes.
const TRUST_PAUSE: Duration = Duration::from_mins(10);

/// Pause between two log lines about the own clock.
const REPORT_PAUSE: Duration = Duration::from_mins(10);

/// Pause between two log lines about peers whose clocks differ from all others.
const DEVIATION_PAUSE: Duration = Duration::from_mins(1);

/// Earlier settings of the own clock that are remembered.
const OFFSETS_MAX: usize = 8;

/// What this node knows of wall clocks.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The offset of the own wall clock to the monotonic clock, when it was last set.
    offset: ClockOffset,
    /// What both clocks showed when they were last compared: once in each turn of the host.
    compared: (Time, WallTime),
    samples: BTreeMap<NodeId, Sample>,
    /// Whether the own clock was reported to differ, and when.
    reported: Option<Time>,
    /// Peers with deviating clocks that were noticed since the last log line about them.
    deviations: u64,
    deviation_reported: Option<Time>,
    /// Offsets that the own clock had before, the last [`OFFSETS_MAX`] of them.
    earlier: VecDeque<ClockOffset>,
    /// The last time the own clock was set forward, until peers confirm or deny it.
    jump: Option<Jump>,
    /// What the samples said when one was added, or the own clock was set.
    verdict: OwnClock,
    /// How many samples agreed with the own clock then.
    agreeing: usize,
    /// When all peers were last asked for the time.
    asked: Option<Time>,
    /// When this node started.
    started: Time,
}

/// The wall clock of a peer.
#[derive(Clone, Copy, Debug)]
struct Sample {
    address: SocketAddr,
    /// How far the peer's wall clock is ahead of the own monotonic clock.
    offset: ClockOffset,
    at: Time,
    /// When the peer is asked again.
    ask_at: Time,
}

/// The own wall clock was set forward.
#[derive(Clone, Debug)]
struct Jump {
    by: Duration,
    /// What the clocks of peers showed before.
    before: BTreeMap<NodeId, ClockOffset>,
    /// How many peers have to show that as much time has passed for them.
    missing: usize,
}

impl Clocks {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            offset: now.offset(),
            compared: (now.mono, now.wall),
            samples: BTreeMap::new(),
            reported: None,
            deviations: 0,
            deviation_reported: None,
            earlier: VecDeque::new(),
            jump: None,
            verdict: OwnClock::Unknown,
            agreeing: 0,
            asked: None,
            started: now.mono,
        }
    }

    /// Whether `id` has told its time as a peer that this node had dialled.
    pub(crate) fn knows(&self, id: &NodeId) -> bool {
        self.samples.contains_key(id)
    }

    /// Whether the clock of the peer `id` is wrong, while most others agree with the own one.
    pub(crate) fn is_wrong_at(&self, now: Now, id: &NodeId) -> bool {
        let differs = |sample: &Sample| (sample.offset - now.offset()).size() > CLOCK_SKEW_MAX;
        self.verdict == OwnClock::Right && self.samples.get(id).is_some_and(differs)
    }

    /// Whether the clock of the peer `id` is known to be right; or nothing is known, because too few peers have told
    /// their time, or most disagree with the own clock.
    pub(crate) fn may_be_right_at(&self, now: Now, id: &NodeId) -> bool {
        self.verdict != OwnClock::Right || self.knows(id) && !self.is_wrong_at(now, id)
    }

    /// The samples that count: not outdated, and on a public network the newest one of each address group.
    fn judges(&self, now: Now, groups: AddressGroups) -> Vec<(NodeId, ClockOffset)> {
        let mut newest: BTreeMap<Group, (Time, NodeId)> = BTreeMap::new();
        let mut judges = Vec::new();
        for (id, sample) in &self.samples {
            let ip = sample.address.ip();
            if now.mono - sample.at > SAMPLE_LIFE {
                continue;
            }
            if groups == AddressGroups::Public && is_private(ip) {
                judges.push(*id);
            } else {
                let entry = newest.entry(Group::of(ip)).or_insert((sample.at, *id));
                *entry = (*entry).max((sample.at, *id));
            }
        }
        judges.extend(newest.into_values().map(|(_, id)| id));
        judges.into_iter().map(|id| (id, self.samples[&id].offset - now.offset())).collect()
    }
}

/// The verdict of `differences`, which say how far other clocks are ahead of the own one.
fn verdict(differences: &[(NodeId, ClockOffset)]) -> OwnClock {
    if differences.len() < JUDGES_MIN {
        return OwnClock::Unknown;
    }
    let mut sorted: Vec<ClockOffset> = differences.iter().map(|(_, offset)| *offset).collect();
    sorted.sort_unstable();
    // Of the two in the middle the smaller one: a clock that half of the peers agree with is not called wrong.
    let lower = sorted[(sorted.len() - 1) / 2];
    let upper = sorted[sorted.len() / 2];
    let median = if lower.size() <= upper.size() { lower } else { upper };
    if median.size() > CLOCK_DIFFERENCE_MAX { OwnClock::Wrong(median) } else { OwnClock::Right }
}

/// The own clock.
impl Node {
    /// Notices that the wall clock was set, or that this process did not run. Each call of the host that may
    /// cause an answer begins with this.
    pub(crate) fn notice_time(&mut self, now: Now, out: &mut Actions) {
        // The host reads the clocks once for all requests of a turn.
        if (now.mono, now.wall) != self.clocks.compared {
            self.time_has_passed(now, out);
        }
    }

    #[inline(never)]
    fn time_has_passed(&mut self, now: Now, out: &mut Actions) {
        self.clocks.compared = (now.mono, now.wall);
        self.storage.set_wall(now.wall);
        if (now.offset() - self.clocks.offset).size() > CLOCK_DIFFERENCE_MAX {
            self.clock_was_set(now, out);
        }
        self.notice_sleep(now, out);
    }

    #[cold]
    fn clock_was_set(&mut self, now: Now, out: &mut Actions) {
        let step = now.offset() - self.clocks.offset;
        let before = now.wall_with(self.clocks.offset);
        let is_same = |earlier: &ClockOffset| (now.offset() - *earlier).size() <= CLOCK_DIFFERENCE_MAX;
        let returns = self.clocks.earlier.iter().any(is_same);
        self.clocks.earlier.push_back(self.clocks.offset);
        if self.clocks.earlier.len() > OFFSETS_MAX {
            self.clocks.earlier.pop_front();
        }
        self.clocks.offset = now.offset();
        warn!("wall clock was set by_seconds={}", step.as_secs());
        self.recheck_records(now, before);
        self.versions.forget_impossible(now.wall);
        self.refuse_impossible_puts(now, out);
        let before_step: BTreeMap<NodeId, ClockOffset> =
            self.clocks.samples.iter().map(|(id, sample)| (*id, sample.offset)).collect();
        // Most of them, so that a few whose clocks were set by as much do not confirm each other's suspension.
        let missing = (before_step.len() / 2 + 1).max(JUDGES_MIN).min(before_step.len());
        // A clock that returns to an earlier setting, or was earlier than the last save, was wrong and is put right.
        // The clocks of peers may be put right as well, so that they seem to confirm a suspension.
        let may_be_suspension = step.is_ahead() && !returns && !self.set_aside.is_before_last_save(before);
        self.clocks.jump = may_be_suspension.then(|| Jump { by: step.size(), before: before_step, missing });
        self.ask_all_for_time(now);
        self.ask_for_time(now, out);
        self.catch_up(now, out);
    }

    /// With another setting of the clock this node would have accepted other records: what it stores may be old.
    fn catch_up(&mut self, now: Now, out: &mut Actions) {
        if self.status.has_joined() {
            self.sleep.falls_behind(now);
            self.join.falls_behind();
            self.settle_again(now, out);
        }
    }

    /// Whether most peers say that the own wall clock is wrong.
    pub(crate) fn clock_differs(&self) -> bool {
        matches!(self.clocks.verdict, OwnClock::Wrong(_))
    }

    /// Whether most contacts agree with the own wall clock, so that it confirms the ages that it has told. After a start
    /// the first three samples may be those of peers whose clocks are wrong by as much.
    pub(crate) fn clock_agrees(&self) -> bool {
        self.clocks.verdict == OwnClock::Right && 2 * self.clocks.agreeing > self.table.live().min(SAMPLES_MAX)
    }

    /// What the peers say about the own wall clock.
    pub(crate) fn own_clock(&self) -> OwnClock {
        self.clocks.verdict
    }

    /// Whether other nodes will refuse `version` because its time is too far ahead of their clocks, or this node
    /// refuses it for its own.
    pub(crate) fn is_too_early(&self, now: Now, version: Version) -> bool {
        let earliest = match self.clocks.verdict {
            OwnClock::Wrong(offset) if !offset.is_ahead() => now.wall.before(offset.size()),
            OwnClock::Unknown | OwnClock::Right | OwnClock::Wrong(_) => now.wall,
        };
        version.is_too_early(earliest)
    }

    /// Whether `version` is too far ahead for the wall clock of this node, but not for those of most peers.
    pub(crate) fn is_possible_for_peers(&self, now: Now, version: Version) -> bool {
        let OwnClock::Wrong(offset) = self.clocks.verdict else { return false };
        offset.is_ahead() && version.time().since(now.wall) <= offset.size() + CLOCK_SKEW_MAX
    }
}

/// The clocks of peers.
impl Node {
    /// The peer `id` at `address`, which this node has dialled now or before, has told its wall clock.
    pub(crate) fn clock_heard(&mut self, now: Now, id: NodeId, address: SocketAddr, wall: WallTime, out: &mut Actions) {
        let offset = now.offset_of(wall);
        let clocks = &mut self.clocks;
        if clocks.samples.len() >= SAMPLES_MAX
            && !clocks.samples.contains_key(&id)
            && let Some(oldest) = clocks.samples.iter().min_by_key(|(id, sample)| (sample.at, **id)).map(|(id, _)| *id)
        {
            clocks.samples.remove(&oldest);
        }
        let ask_at = self.next_question(now, offset);
        self.clocks.samples.insert(id, Sample { address, offset, at: now.mono, ask_at });
        self.timers.hasten(Timer::AskTime, ask_at);
        self.confirm_jump(now, id, offset, out);
        self.compare_clocks(now, out);
    }

    /// When a peer is asked for the time again whose clock has that offset.
    fn next_question(&mut self, now: Now, offset: ClockOffset) -> Time {
        let differs = (offset - now.offset()).size() > CLOCK_DIFFERENCE_MAX;
        now.mono + self.jitter(if differs { DIFFERENCE_PAUSE } else { ASK_PAUSE })
    }

    /// Asks all peers for the time, as soon as this node acts again.
    fn ask_all_for_time(&mut self, now: Now) {
        self.clocks.asked = Some(now.mono);
        self.clocks.samples.values_mut().for_each(|sample| sample.ask_at = now.mono);
        self.timers.hasten(Timer::AskTime, now.mono);
    }

    /// `id` has asked for the time, perhaps because its clock was set: it is asked back.
    pub(crate) fn was_asked_for_time(&mut self, now: Now, id: &NodeId) {
        let is_old = |sample: &&mut Sample| now.mono - sample.at >= ASKED_BACK_PAUSE;
        if let Some(sample) = self.clocks.samples.get_mut(id).filter(is_old) {
            sample.ask_at = now.mono;
            self.timers.hasten(Timer::AskTime, now.mono);
        }
    }

    /// A PUT is contradicted: asks all peers again, if what they said about the own clock is old. Returns whether it is.
    pub(crate) fn ask_again_if_evidence_is_old(&mut self, now: Now) -> bool {
        let is_old = self.clocks.asked.is_none_or(|at| now.mono - at >= EVIDENCE_LIFE);
        if is_old {
            self.ask_all_for_time(now);
        }
        is_old
    }

    /// Asks the peers for the time whose samples are remembered, if it is time for that.
    pub(crate) fn ask_for_time(&mut self, now: Now, out: &mut Actions) {
        self.clocks.samples.retain(|_, sample| now.mono - sample.at <= SAMPLE_LIFE);
        let due = self.clocks.samples.iter().filter(|(_, sample)| sample.ask_at <= now.mono);
        let due: Vec<(NodeId, ClockOffset)> = due.map(|(id, sample)| (*id, sample.offset)).collect();
        for (id, offset) in due {
            let ask_at = self.next_question(now, offset);
            self.clocks.samples.entry(id).and_modify(|sample| sample.ask_at = ask_at);
            let contact = self.table.find(&id).copied().filter(|_| self.peers.tells_time(&id));
            if let Some(contact) = contact.filter(|_| self.may_call()) {
                self.call(now, contact, Purpose::AskTime, out);
            }
        }
        match self.clocks.samples.values().map(|sample| sample.ask_at).min() {
            Some(next) => self.timers.set(Timer::AskTime, next),
            None => self.timers.cancel(Timer::AskTime),
        }
        self.compare_clocks(now, out); // the own clock may have been set; a report may be due again
    }

    /// A peer has told its time, or will not.
    pub(crate) fn on_time_outcome(&mut self, now: Now, Report { call, outcome }: Report<'_>, out: &mut Actions) {
        if let Outcome::Reply { reply: Reply::Time(wall), address } = outcome {
            self.clock_heard(now, call.to.id, address, wall, out);
        }
    }

    /// Compares the own clock with those of peers, reports a difference, and draws the conclusions for records
    /// of uncertain age.
    fn compare_clocks(&mut self, now: Now, out: &mut Actions) {
        let differences = self.clocks.judges(now, self.params.address_groups);
        let verdict = verdict(&differences);
        self.clocks.verdict = verdict;
        self.clocks.agreeing = differences.iter().filter(|(_, offset)| offset.size() <= CLOCK_DIFFERENCE_MAX).count();
        if self.clock_agrees() && now.mono - self.clocks.started >= TRUST_PAUSE {
            self.trust_ages();
        }
        match verdict {
            OwnClock::Right => {
                if self.set_aside.trust_all() {
                    self.catch_up(now, out);
                }
            }
            OwnClock::Wrong(_) => {
                if self.doubt_ages(now) > 0 && self.status.has_joined() {
                    self.settle_again(now, out);
                }
            }
            OwnClock::Unknown => {}
        }
        self.clocks.report(now, verdict, &differences);
    }

    /// `id` has told its clock again. If it and enough others show that as much time has passed for them as the
    /// own wall clock was set forward, the host was suspended: the records are older by that time.
    fn confirm_jump(&mut self, now: Now, id: NodeId, offset: ClockOffset, out: &mut Actions) {
        let Some(jump) = &mut self.clocks.jump else { return };
        let Some(before) = jump.before.remove(&id) else { return };
        let passed = offset - before;
        if !passed.is_ahead() || passed.size().abs_diff(jump.by) > CLOCK_DIFFERENCE_MAX {
            self.clocks.jump = None; // less time has passed for a peer, so the own clock was set
            return;
        }
        jump.missing -= 1;
        if jump.missing > 0 {
            return;
        }
        let by = jump.by;
        self.clocks.jump = None;
        info!("records have become older reason=\"the host was suspended\" seconds={}", by.as_secs());
        self.storage.make_older(now.mono, by);
        if self.status.has_joined() {
            self.settle_after_sleep(now, by, out);
        }
    }
}

/// Reports.
impl Clocks {
    fn report(&mut self, now: Now, verdict: OwnClock, differences: &[(NodeId, ClockOffset)]) {
        let is_due = |last: Option<Time>, pause| last.is_none_or(|at| now.mono - at >= pause);
        let deviates = |(_, offset): &&(NodeId, ClockOffset)| offset.size() > CLOCK_DIFFERENCE_MAX;
        let deviating = differences.iter().find(deviates);
        match (verdict, deviating) {
            (OwnClock::Wrong(offset), _) if is_due(self.reported, REPORT_PAUSE) => {
                self.reported = Some(now.mono);
                let (behind_seconds, peers) = (offset.as_secs(), differences.len());
                let level = if offset.size() > CLOCK_SKEW_MAX / 2 { Level::Error } else { Level::Warn };
                log!(
                    level,
                    "wall clock of this node differs from those of its peers behind_seconds={behind_seconds} peers={peers}"
                );
            }
            (OwnClock::Unknown, Some((peer, offset))) if is_due(self.reported, REPORT_PAUSE) => {
                self.reported = Some(now.mono);
                let ahead_seconds = offset.as_secs();
                warn!(
                    "wall clock of a peer differs from that of this node peer={peer:.8} ahead_seconds={ahead_seconds}"
                );
            }
            (OwnClock::Right, Some((peer, offset))) => {
                self.recovered();
                self.deviations += 1;
                if is_due(self.deviation_reported, DEVIATION_PAUSE) {
                    self.deviation_reported = Some(now.mono);
                    let (ahead_seconds, count) = (offset.as_secs(), std::mem::take(&mut self.deviations));
                    info!(
                        "wall clock of a single peer differs peer={peer:.8} ahead_seconds={ahead_seconds} noticed={count}"
                    );
                }
            }
            (_, None) if !differences.is_empty() => self.recovered(),
            (_, None) | (OwnClock::Unknown | OwnClock::Wrong(_), Some(_)) => {}
        }
    }

    /// No clock differs any more, or only that of a single peer.
    fn recovered(&mut self) {
        if self.reported.take().is_some() {
            info!("wall clocks of this node and its peers agree again");
        }
    }
}
