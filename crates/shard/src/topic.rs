//! One topic: its order, and as much of its past as its bounds allow.
//!
//! The bounds are the shard's settings, not the topic's: they are given with every call, so they
//! hold for a topic that has had no message since they changed.

use std::collections::VecDeque;
use std::sync::Arc;

use pushonce_core::{
    Epoch, FetchError, Gap, GapReason, History, Message, Offset, Page, Position, Timestamp, Topic,
    Want,
};
use serde::{Deserialize, Serialize};

use crate::Item;

/// What a replica holds of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub topic: Topic,
    /// Its newest position.
    pub head: Position,
    /// How many messages its history has.
    pub count: usize,
    /// How many bytes their payloads have.
    pub bytes: u64,
}

/// One life of a topic. Its messages are neighbours, and the newest, if there is one, is the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Log {
    head: Position,
    /// The topic may have had an earlier life, which readers of then do not know the end of.
    reborn: bool,
    messages: VecDeque<Arc<Message>>,
    bytes: u64,
    /// The time of the newest entry that had a message for it.
    used: Timestamp,
}

impl Log {
    /// A topic that begins with the entry at `index`: the epoch is the index, so that no two lives
    /// of a topic share one. `reborn` says whether it may have had an earlier life.
    pub(crate) fn begin(index: u64, reborn: bool) -> Log {
        Log {
            head: Position { epoch: Epoch(index), offset: Offset(0) },
            reborn,
            messages: VecDeque::new(),
            bytes: 0,
            used: Timestamp(0),
        }
    }

    /// Gives the next place to a message, and forgets what the bounds no longer allow; the message
    /// itself as well, if it alone is over them.
    pub(crate) fn append(
        &mut self,
        time: Timestamp,
        item: Item,
        history: &History,
    ) -> Arc<Message> {
        let Item { topic: _, content_type, key, stamp: _, payload } = item;
        self.head = self.head.next();
        self.used = time;
        self.bytes += payload.len() as u64;
        let message = Message { position: self.head, time, content_type, key, payload };
        let message = Arc::new(message);
        self.messages.push_back(message.clone());
        self.forget(time, history);
        message
    }

    /// Drops the oldest messages that are over a bound. `now` is log time, and so are the times of the
    /// messages: an age is the time that the log has measured since.
    pub(crate) fn forget(&mut self, now: Timestamp, history: &History) {
        for oldest in self.messages.drain(..self.hidden(now, history)) {
            self.bytes = self.bytes.saturating_sub(oldest.payload.len() as u64);
        }
    }

    /// How many of the oldest messages are over a bound: no reader gets them, and the next entry
    /// that looks at the topic drops them.
    fn hidden(&self, now: Timestamp, history: &History) -> usize {
        let (mut count, mut bytes) = (self.messages.len(), self.bytes);
        let is_over = |oldest: &&Arc<Message>| {
            let over = count > history.count_max as usize
                || bytes > u64::from(history.bytes_max)
                || now.0.saturating_sub(oldest.time.0) > history.age_max_ms;
            count -= 1;
            bytes = bytes.saturating_sub(oldest.payload.len() as u64);
            over
        };
        self.messages.iter().take_while(is_over).count()
    }

    /// Whether the oldest message is over a bound.
    pub(crate) fn is_over(&self, now: Timestamp, history: &History) -> bool {
        self.hidden(now, history) > 0
    }

    /// The same messages as those of a life that begins at `epoch`.
    pub(crate) fn reborn(&mut self, epoch: Epoch) {
        self.head.epoch = epoch;
        self.reborn = true;
        for message in &mut self.messages {
            let mut moved = Message::clone(message);
            moved.position.epoch = epoch;
            *message = Arc::new(moved);
        }
    }

    /// Whether it has no past, and nobody has published to it for so long that it is dropped.
    pub(crate) fn is_unused(&self, now: Timestamp, history: &History) -> bool {
        self.messages.is_empty() && now.0.saturating_sub(self.used.0) > history.expire_after_ms
    }

    /// Answers a question about the past, as far as the bounds allow at `now`.
    ///
    /// `After` names what is missing between the position asked about and the oldest message left;
    /// `Last` and `All` ask for what there is, so nothing of it can be missing.
    pub(crate) fn page(
        &self,
        want: Want,
        now: Timestamp,
        history: &History,
    ) -> Result<Page, FetchError> {
        let hidden = self.hidden(now, history);
        match want {
            Want::After(reached) => self.after(reached, hidden),
            Want::Last(n) => {
                let skipped = self.messages.len().saturating_sub(n as usize);
                Ok(self.page_from(skipped.max(hidden), None))
            }
            Want::All => Ok(self.page_from(hidden, None)),
        }
    }

    /// The page of a topic that has given out nothing yet: nothing of it is kept, so no bound counts.
    pub(crate) fn empty_page(index: u64, want: Want) -> Result<Page, FetchError> {
        Log::begin(index, true).page(want, Timestamp(0), &History::default())
    }

    fn after(&self, reached: Position, hidden: usize) -> Result<Page, FetchError> {
        let Position { epoch, offset } = reached;
        let before_any_epoch = epoch == Epoch(0) && reached != Position::ZERO;
        if reached > self.head || before_any_epoch {
            return Err(FetchError::Future { asked: reached, head: self.head });
        }
        // An earlier epoch's offset may be forged, and as large as it likes.
        let next = Offset(offset.0.saturating_add(1));
        let first = self.first(hidden);
        let reborn = self.reborn;
        #[cfg(feature = "planted-bugs")]
        let reborn = reborn && !crate::state::planted::hides_earlier_lives();
        if epoch != self.head.epoch && (reborn || reached != Position::ZERO) {
            let gap = self.gap(Position { epoch, offset: next }, first, GapReason::Epoch);
            return Ok(self.page_from(hidden, Some(gap)));
        }
        let gap = (next < first).then(|| self.gap(self.at(next), first, GapReason::Expired));
        let skipped = usize::try_from(next.0.saturating_sub(first.0)).unwrap_or(usize::MAX);
        Ok(self.page_from(hidden.saturating_add(skipped), gap))
    }

    fn page_from(&self, skipped: usize, gap: Option<Gap>) -> Page {
        let messages = self.messages.iter().skip(skipped).cloned().collect();
        Page { messages, head: self.head, gap }
    }

    /// What is missing from `from` up to the oldest message that is shown, `first`. A topic that lost
    /// nothing of its own epoch names the place before its first: what follows it is its first
    /// message.
    fn gap(&self, from: Position, first: Offset, reason: GapReason) -> Gap {
        let last = Offset(first.0.saturating_sub(1));
        Gap { from, to: self.at(last), reason }
    }

    /// The offset of the oldest message that is not hidden; of the next one to come when there is none.
    fn first(&self, hidden: usize) -> Offset {
        self.messages.get(hidden).map_or(self.head.offset.next(), |oldest| oldest.position.offset)
    }

    fn at(&self, offset: Offset) -> Position {
        Position { epoch: self.head.epoch, offset }
    }

    /// Whether what the type says of its parts holds, and one more message has a place.
    pub(crate) fn is_whole(&self) -> bool {
        let Position { epoch, offset: Offset(head) } = self.head;
        let places = (0..).map(|back| head.checked_sub(back).filter(|place| *place > 0));
        let in_place = |(message, place): (&Arc<Message>, Option<u64>)| {
            message.position.epoch == epoch && Some(message.position.offset.0) == place
        };
        head < u64::MAX
            && self.messages.iter().rev().zip(places).all(in_place)
            && self.bytes == self.messages.iter().map(|m| m.payload.len() as u64).sum::<u64>()
    }

    /// What a reader could get at `now`.
    pub(crate) fn info(&self, topic: &Topic, now: Timestamp, history: &History) -> Info {
        let hidden = self.hidden(now, history);
        let passed: u64 =
            self.messages.iter().take(hidden).map(|message| message.payload.len() as u64).sum();
        Info {
            topic: topic.clone(),
            head: self.head,
            count: self.messages.len() - hidden,
            bytes: self.bytes.saturating_sub(passed),
        }
    }
}

#[cfg(test)]
mod topic_test;
