//! The clocks of hosts: wall clocks that are set at run time, and boots.

use super::World;
use crate::sim::Number;
use crate::time::{BootTime, Now, Time, WallTime};

/// The wall clock at the start of every world, in milliseconds since 1970.
const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// Clocks.
impl World {
    /// From now on each node that starts knows the boot of its host. Before that, a restarted node can tell the
    /// age of its records by its wall clock only.
    pub fn tell_boots(&mut self) {
        self.tells_boots = true;
    }

    /// Boots the host of a stopped node anew: no age of a record can be told by its monotonic clock any more.
    ///
    /// # Panics
    ///
    /// If the node runs.
    pub fn reboot(&mut self, number: Number) {
        assert!(self.node(number).is_none(), "{number} runs");
        self.hosts[number.index()].boots += 1;
    }

    /// Sets the wall clock of a host, which may run: from now on it is that far ahead of the right time, or behind
    /// if `millis` is negative. The world does not check any more that no record outlives its value.
    pub fn set_wall_ahead(&mut self, number: Number, millis: i64) {
        self.hosts[number.index()].wall_ahead_millis = millis;
        self.wall_was_set = true;
        self.last_disruption = Some(self.now);
    }

    /// The right time.
    pub fn wall(&self) -> WallTime {
        let millis =
            u64::try_from(self.now.since(Time::ZERO).as_millis()).expect("virtual time has 64 bits of nanoseconds");
        WallTime::from_millis(EPOCH_MILLIS + millis)
    }

    /// What the clocks of a host show.
    pub(super) fn now_at(&self, number: Number) -> Now {
        let wall = self.wall().as_millis().saturating_add_signed(self.hosts[number.index()].wall_ahead_millis);
        Now { mono: self.now, wall: WallTime::from_millis(wall) }
    }

    /// The start of the monotonic clock since the boot of a host. All boots of all hosts count from the start of
    /// the world; only moments of the same boot of the same host are compared.
    pub(super) fn boot_of(&self, number: Number) -> Option<BootTime> {
        let boot = self.hosts[number.index()].boots;
        self.tells_boots.then_some(BootTime { boot, millis: 0 })
    }
}
