//! What a module's GET and its PUT have in common: both search the nodes nearest to a key.
//!
//! [`crate::node::query::get`] and [`crate::node::query::put`] say what is asked for on the way, and what becomes of it.

use crate::id::Key;
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::query::{Job, JobId};
use crate::node::timers::Timer;
use crate::time::Now;

impl Node {
    /// A search for the `width` nodes nearest to `key` that begins with whom this node knows.
    pub(in crate::node) fn search(&mut self, key: Key, width: usize) -> Lookup {
        self.table.closest(&key, self.params.k, &mut self.nearby);
        Lookup::new(self.me.id, key, width, self.params.alpha, &self.nearby)
    }

    /// A search is done.
    pub(in crate::node) fn search_done(&mut self, now: Now, job: JobId, out: &mut Actions) {
        match self.jobs.find(job) {
            Some(Job::Get(_)) => self.searched_value(now, job, out),
            Some(Job::Put(_)) => self.spread_put(now, job, out),
            Some(Job::Join(lookup) | Job::Refresh(lookup)) => {
                let (target, answered) = (*lookup.target(), lookup.answered().copied().collect::<Vec<_>>());
                self.end_job(job);
                self.upkeep_search_done(now, target, &answered);
            }
            None => {}
        }
    }

    /// Whether `job` is of a client, or was: nobody else asks for values.
    pub(in crate::node) fn may_find_value(&mut self, job: JobId) -> bool {
        matches!(self.jobs.find(job), Some(Job::Get(_) | Job::Put(_)) | None)
    }

    pub(in crate::node) fn end_job(&mut self, job: JobId) {
        self.jobs.remove(job);
        self.timers.cancel(Timer::Answer(job));
        self.timers.cancel(Timer::Retry(job));
    }
}
