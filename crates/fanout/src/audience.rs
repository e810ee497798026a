//! How many watch a topic: on this node, as lanes and readers count, and in the whole cluster, as
//! upstream says.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use pushonce_core::{Topic, Watching};

use crate::feed::lock;
use crate::frames::{Form, Frames};
use crate::{Encode, Wire};

/// The sessions of one topic. To come or to go costs two additions, and a lock once for all who do so
/// until upstream has looked.
#[derive(Default)]
pub(crate) struct Seats {
    sessions: AtomicU64,
    /// Those of them that want to be told how many there are in the whole cluster.
    asking: AtomicU64,
    /// Stands among the changed.
    marked: AtomicBool,
}

/// The topics whose seats changed since upstream looked.
#[derive(Default)]
pub(crate) struct Changed(Mutex<HashSet<Topic>>);

/// How many watch in the whole cluster, and the frames that say so.
pub(crate) struct Sum {
    pub(crate) sessions: u64,
    /// Made on first need, for all who asked.
    frames: Frames,
}

impl Seats {
    pub(crate) fn add(&self, one: Watching, topic: &Topic, changed: &Changed) {
        self.sessions.fetch_add(one.sessions, Ordering::SeqCst);
        self.asking.fetch_add(one.asks.into(), Ordering::SeqCst);
        self.mark(topic, changed);
    }

    pub(crate) fn remove(&self, one: Watching, topic: &Topic, changed: &Changed) {
        self.sessions.fetch_sub(one.sessions, Ordering::SeqCst);
        self.asking.fetch_sub(one.asks.into(), Ordering::SeqCst);
        self.mark(topic, changed);
    }

    /// After the change: whoever takes the mark off then sees it.
    fn mark(&self, topic: &Topic, changed: &Changed) {
        if !self.marked.swap(true, Ordering::SeqCst) {
            lock(&changed.0).insert(topic.clone());
        }
    }

    /// What upstream is to know. The mark goes before the look: what changes later is marked again.
    pub(crate) fn look(&self) -> Watching {
        self.marked.store(false, Ordering::SeqCst);
        let sessions = self.sessions.load(Ordering::SeqCst);
        Watching { sessions, asks: self.asking.load(Ordering::SeqCst) > 0 }
    }
}

impl Changed {
    /// At most so many, in no order.
    pub(crate) fn take(&self, topics_max: usize) -> Vec<Topic> {
        let mut changed = lock(&self.0);
        if changed.len() <= topics_max {
            return changed.drain().collect();
        }
        let part: Vec<Topic> = changed.iter().take(topics_max).cloned().collect();
        part.iter().for_each(|topic| drop(changed.take(topic)));
        part
    }
}

impl Sum {
    pub(crate) fn new(sessions: u64) -> Sum {
        Sum { sessions, frames: Frames::default() }
    }

    /// The frame that says it, made at the first call for each wire.
    pub(crate) fn frame(&self, wire: Wire, topic: &Topic, encode: &dyn Encode) -> Bytes {
        self.frames.get(Form::Whole(wire), || encode.audience(wire, topic, self.sessions))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_change_is_missed_while_upstream_looks() {
        let (seats, changed) = (Seats::default(), Changed::default());
        let topic = Topic::new("a").expect("valid");
        let one = Watching { sessions: 1, asks: true };
        let mut known = Watching::default();
        let mut look = || {
            if !changed.take(1).is_empty() {
                known = seats.look();
            }
            known
        };
        thread::scope(|scope| {
            let come_and_go = || {
                for _ in 0..20_000 {
                    seats.add(one, &topic, &changed);
                    seats.remove(one, &topic, &changed);
                }
                seats.add(one, &topic, &changed);
            };
            let threads = [scope.spawn(come_and_go), scope.spawn(come_and_go)];
            while threads.iter().any(|thread| !thread.is_finished()) {
                assert!(look().sessions <= 2);
            }
        });
        assert_eq!(look(), Watching { sessions: 2, asks: true });
    }
}
