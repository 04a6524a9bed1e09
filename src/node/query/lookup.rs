//! What a module's GET and its PUT have in common: both search the nodes nearest to a key.
//!
//! [`crate::node::query::get`] and [`crate::node::query::put`] say what is asked for on the way, and what becomes of it.

use crate::id::Key;
use crate::lookup::Lookup;
use crate::node::Node;
use crate::node::action::Actions;
use crate::node::query::{Query, QueryId};
use crate::node::timers::Timer;
use crate::time::Now;

impl Node {
    /// A search for the `width` nodes nearest to `key` that begins with whom this node knows.
    pub(in crate::node) fn look_up(&mut self, key: Key, width: usize) -> Lookup {
        self.table.closest(&key, self.params.k, &mut self.nearby);
        Lookup::new(self.me.id, key, width, self.params.alpha, &self.nearby)
    }

    /// A search is done.
    pub(in crate::node) fn lookup_done(&mut self, now: Now, query: QueryId, out: &mut Actions) {
        match self.queries.find(query) {
            Some(Query::Get(_)) => self.value_looked_up(now, query, out),
            Some(Query::Put(_)) => self.spread_put(now, query, out),
            Some(Query::Join(lookup) | Query::Refresh(lookup)) => {
                let (target, answered) = (*lookup.target(), lookup.answered().copied().collect::<Vec<_>>());
                self.end_query(query);
                self.own_lookup_done(now, target, &answered);
            }
            None => {}
        }
    }

    /// Whether `query` is of a client, or was: nobody else asks for values.
    pub(in crate::node) fn may_find_value(&mut self, query: QueryId) -> bool {
        matches!(self.queries.find(query), Some(Query::Get(_) | Query::Put(_)) | None)
    }

    pub(in crate::node) fn end_query(&mut self, query: QueryId) {
        self.queries.remove(query);
        self.timers.cancel(Timer::Answer(query));
        self.timers.cancel(Timer::Retry(query));
    }
}
