//! The messages of one stream to one shard, kept in their order while the owner moves. Pure.
//!
//! Messages are handed over without waiting for each other, so an owner that loses its shard
//! refuses some that others overtook. "Not the owner" and "unavailable" mean that nothing happened,
//! so such a message waits for an owner again. Three rules keep the order. While anything is under
//! way to one node, nothing is handed to another. After a refusal nothing is handed over until all
//! that was under way has come back, and then one message at a time until one is taken. What was
//! refused is tried again, in its place, unless a later message of the same topic may have its
//! place already: then it is refused for good. Nothing happened to it, and its publisher knows
//! better than this line whether it still matters. A message with a number of its producer's cannot
//! be overtaken, since the shard takes none behind it before it: so it is tried again all the same.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use pushonce_core::{
    NodeId, Owners, Placed, Publish, PublishError, Refusal, ShardId, Stamp, Topic,
};
use tokio::time::Instant;

use crate::route::{self, Asked, Next, Refused};

/// How long a node that refused is left alone when nobody names a better one. An owner whose lease
/// lapsed for a moment comes back under the same claim, so waiting for news alone could wait in
/// vain.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Line {
    shard: ShardId,
    entries: VecDeque<Entry>,
    /// The number of the first entry; the numbers of one line are never used twice.
    first: u64,
    /// Entries before this index are not waiting.
    cursor: usize,
    flying: usize,
    asked: Option<Asked>,
    refused: Option<Refused>,
    /// Whether something was refused, and the rest that was under way is waited for.
    holding: bool,
    /// Whether nothing was taken since a refusal: then one message goes at a time, to find out.
    probing: bool,
    /// What the last refusal said.
    why: Option<String>,
    pause_until: Option<Instant>,
}

struct Entry {
    ticket: u64,
    publish: Publish,
    until: Instant,
    state: State,
}

impl Entry {
    fn is_numbered(&self) -> bool {
        matches!(self.publish.stamp, Some(Stamp::Sequence(_)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Flying,
    Refused,
    Settled { may_be_placed: bool },
}

/// A message to hand over now.
pub(crate) struct Submission {
    pub number: u64,
    pub to: NodeId,
    pub publish: Publish,
}

/// The end of a message: its ticket and its outcome.
pub(crate) type Outcome = (u64, Result<Placed, PublishError>);

impl Line {
    pub(crate) fn new(shard: ShardId) -> Line {
        Line {
            shard,
            entries: VecDeque::new(),
            first: 0,
            cursor: 0,
            flying: 0,
            asked: None,
            refused: None,
            holding: false,
            probing: false,
            why: None,
            pause_until: None,
        }
    }

    /// Puts a message at the end of the line. Untaken by `until`, it is refused.
    pub(crate) fn push(&mut self, ticket: u64, publish: Publish, until: Instant) {
        self.entries.push_back(Entry { ticket, publish, until, state: State::Waiting });
    }

    /// The next message that may be handed over now. To be called until there is none.
    pub(crate) fn submit(&mut self, owners: &Owners, now: Instant) -> Option<Submission> {
        if self.probing && self.flying > 0 {
            return None;
        }
        let index = self.first_waiting()?;
        let asked = self.whom(owners, now)?;
        if self.flying > 0 && self.asked.is_some_and(|before| before.node != asked.node) {
            return None;
        }
        self.asked = Some(asked);
        self.flying += 1;
        self.cursor = index + 1;
        let entry = &mut self.entries[index];
        entry.state = State::Flying;
        let publish = entry.publish.clone();
        Some(Submission { number: self.first + index as u64, to: asked.node, publish })
    }

    /// What the asked node answered.
    pub(crate) fn landed(
        &mut self,
        number: u64,
        result: Result<Placed, PublishError>,
        now: Instant,
        out: &mut Vec<Outcome>,
    ) {
        let Some(index) = number.checked_sub(self.first).map(|index| index as usize) else {
            return;
        };
        if self.entries.get(index).is_none_or(|entry| entry.state != State::Flying) {
            return;
        }
        self.flying -= 1;
        match result {
            Err(PublishError::Refused(Refusal::NotOwner { owner })) => {
                self.turned_away(index, owner, "it was not the owner", now);
            }
            Err(PublishError::Refused(Refusal::Unavailable(why))) => {
                self.turned_away(index, None, &why, now);
            }
            result => {
                self.probing = self.holding;
                self.settle(index, result, out);
            }
        }
        if self.flying == 0 {
            self.came_back(out);
        }
        self.forget_settled();
    }

    /// Ends what has waited too long.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.until > now {
                break;
            }
            if entry.state == State::Waiting {
                let last = self.why.as_deref().unwrap_or("no owner is known");
                let why = format!("no owner of {} took the message in time; {last}", self.shard);
                self.settle(index, Err(Refusal::Unavailable(why).into()), out);
            }
        }
        self.forget_settled();
    }

    /// When [`Line::expire`] or [`Line::submit`] has something to do though nothing was heard. What
    /// is under way needs no alarm: whoever was asked has a deadline of its own.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let waiting = || self.entries.iter().find(|entry| entry.state == State::Waiting);
        let stuck = if self.flying == 0 { waiting() } else { None };
        let pause = stuck.and(self.pause_until);
        [stuck.map(|entry| entry.until), pause].into_iter().flatten().min()
    }

    /// The asked node cannot take the message: another may, or the same one later.
    fn turned_away(&mut self, index: usize, hint: Option<NodeId>, why: &str, now: Instant) {
        self.entries[index].state = State::Refused;
        self.refused = self.asked.map(|asked| asked.refused(hint));
        self.pause_until = Some(now + PAUSE);
        self.holding = true;
        self.probing = true;
        self.why = self.asked.map(|asked| format!("{} said: {why}", asked.node));
    }

    /// Whom to ask; after a pause the claimed owner again, though it has refused.
    fn whom(&mut self, owners: &Owners, now: Instant) -> Option<Asked> {
        if let Next::Ask(asked) = route::next(self.shard, owners, self.refused.as_ref()) {
            return Some(asked);
        }
        if self.pause_until.is_some_and(|until| until > now) {
            return None;
        }
        self.refused = None;
        self.pause_until = None;
        match route::next(self.shard, owners, None) {
            Next::Ask(asked) => Some(asked),
            Next::Wait => None,
        }
    }

    fn first_waiting(&mut self) -> Option<usize> {
        while self.entries.get(self.cursor)?.state != State::Waiting {
            self.cursor += 1;
        }
        Some(self.cursor)
    }

    /// Nothing is under way any more: what was refused waits again, in its place in the line,
    /// unless it was overtaken.
    fn came_back(&mut self, out: &mut Vec<Outcome>) {
        if !self.holding {
            return;
        }
        self.holding = false;
        self.cursor = 0;
        let mut overtaken: HashSet<Topic> = HashSet::new();
        for index in (0..self.entries.len()).rev() {
            let topic = self.entries[index].publish.topic.clone();
            match self.entries[index].state {
                State::Settled { may_be_placed: true } => {
                    overtaken.insert(topic);
                }
                State::Refused
                    if overtaken.contains(&topic) && !self.entries[index].is_numbered() =>
                {
                    let why = "the topic's owner changed, and a later message of this stream to it \
                               came first";
                    self.settle(index, Err(Refusal::Unavailable(why.to_owned()).into()), out);
                }
                State::Refused => self.entries[index].state = State::Waiting,
                _ => {}
            }
        }
    }

    fn settle(
        &mut self,
        index: usize,
        result: Result<Placed, PublishError>,
        out: &mut Vec<Outcome>,
    ) {
        let may_be_placed = !matches!(result, Err(PublishError::Refused(_)));
        let entry = &mut self.entries[index];
        entry.state = State::Settled { may_be_placed };
        out.push((entry.ticket, result));
    }

    fn forget_settled(&mut self) {
        while let Some(Entry { state: State::Settled { .. }, .. }) = self.entries.front() {
            self.entries.pop_front();
            self.first += 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[path = "line/line_test.rs"]
mod line_test;
