//! One topic on its way through this node: one way in, many ways out, one position between.
//!
//! The same whatever the node is to the topic. At the owner the way in is its own shard; at the head
//! of a region the ways out are the links of the region; at an edge the way out is the sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_core::{Gap, Message, NodeId, Page, Position, ShardId, Upstream, Watching};

use super::audience::Tally;
use super::continuity::{Replay, accept, reason, seen_from};
use super::effect::{Out, chunks};
use super::recent::Recent;

/// A topic that somebody follows.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) shard: ShardId,
    /// Everything up to here came in and was passed on; `None` until the first upstream says where
    /// it begins.
    pub(crate) reached: Option<Position>,
    pub(crate) stage: Stage,
    pub(crate) recent: Recent,
    /// By node; the sink is the one of this node itself.
    pub(crate) outlets: BTreeMap<NodeId, Outlet>,
    /// Since when there is no outlet.
    pub(crate) idle_since: Option<Instant>,
    /// When the upstream was last asked.
    pub(crate) asked_at: Option<Instant>,
    /// Since when it is not live, as far as that was looked at.
    lapsed: Option<Instant>,
    pub(super) tally: Tally,
}

/// How it stands with the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is nobody to ask.
    Unrouted,
    /// Asked, not answered yet.
    Asked(Origin),
    /// Everything new comes from there.
    Live(Origin),
    /// The answer was no answer; to be asked again then.
    Refused {
        /// When.
        until: Instant,
    },
}

/// Where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This node's own shard.
    Here,
    /// A link, under the number the topic has there.
    Node {
        /// The peer.
        node: NodeId,
        /// The number this node gave it.
        number: u32,
    },
}

/// One way out.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// What the peer calls the topic; 0 for the sink.
    pub(crate) number: u32,
    pub(crate) standing: Standing,
    /// It was told where its deliveries begin.
    begun: bool,
    /// It is the sink, and was told that the topic is stale.
    stale: bool,
    /// Whom the peer speaks for; of the sink that is known elsewhere.
    pub(super) watching: Watching,
    /// How many it was told that there are in the whole cluster, while it wants to know.
    pub(super) told: Option<u64>,
}

/// How far an outlet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Wants everything after the position, or only what is new.
    Waiting(Option<Position>),
    /// What it misses is being read.
    Reading {
        /// The position it misses everything after.
        after: Position,
        /// Which read; an answer to another is of the past.
        ticket: u64,
    },
    /// Has everything up to here.
    At(Position),
}

impl Flow {
    pub(crate) fn new(shard: ShardId, reached: Option<Position>, recent: Recent) -> Flow {
        Flow {
            shard,
            reached,
            stage: Stage::Unrouted,
            recent,
            outlets: BTreeMap::new(),
            idle_since: None,
            asked_at: None,
            lapsed: None,
            tally: Tally::default(),
        }
    }

    /// Whether time changes nothing about it: it is live, and each way out has what came in.
    pub(crate) fn is_at_rest(&self) -> bool {
        let live = matches!(self.stage, Stage::Live(_)) && self.lapsed.is_none();
        live && !self.outlets.is_empty() && self.outlets.values().all(Outlet::is_level)
    }

    /// How long it has not been live, up to the times this is asked.
    pub(crate) fn lapsed_for(&mut self, now: Instant) -> Duration {
        if matches!(self.stage, Stage::Live(_)) {
            self.lapsed = None;
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.lapsed.get_or_insert(now))
    }

    /// What the sink, the outlet of this node itself, was told of the topic last; to be changed with
    /// what it is told. `None` before it was told where its deliveries begin.
    pub(crate) fn sink_is_stale(&mut self, me: NodeId) -> Option<&mut bool> {
        self.outlets.get_mut(&me).filter(|sink| sink.begun).map(|sink| &mut sink.stale)
    }

    /// Whether any way out is another node's.
    pub(crate) fn feeds_peers(&self, me: NodeId) -> bool {
        self.outlets.keys().any(|&to| to != me)
    }

    /// Whether the way in is what the routes say.
    pub(crate) fn comes_from(&self, route: Upstream) -> bool {
        let (Stage::Asked(origin) | Stage::Live(origin)) = self.stage else { return false };
        match origin {
            Origin::Here => route == Upstream::Local,
            Origin::Node { node, .. } => route == Upstream::Node(node),
        }
    }

    /// Whether the way in is the link to `node`.
    pub(crate) fn comes_over(&self, node: NodeId) -> bool {
        self.comes_from(Upstream::Node(node))
    }

    /// The upstream said where it begins. A beginning ahead of what was reached, without a word about
    /// what is between, is a gap.
    pub(crate) fn begin(&mut self, head: Position, out: &mut Out<'_>) {
        let Stage::Asked(origin) = self.stage else { return };
        self.stage = Stage::Live(origin);
        match self.reached {
            None => self.reached = Some(head),
            Some(reached) if head > reached && !head.next().follows(reached) => {
                let reason = reason(reached, head);
                self.lose(Gap { from: reached.next(), to: head, reason }, out);
            }
            Some(_) => {}
        }
    }

    /// Passes on what follows; says whether there was a hole, at which it stopped.
    pub(crate) fn pass(&mut self, messages: Vec<Arc<Message>>, out: &mut Out<'_>) -> bool {
        let Some(reached) = self.reached.as_mut() else { return true };
        let accepted = accept(reached, messages);
        for message in &accepted.messages {
            self.recent.push(message.clone());
        }
        for (&to, outlet) in &mut self.outlets {
            outlet.deliver(to, &accepted.messages, out);
        }
        accepted.hole
    }

    /// Goes on after a gap, and says so.
    pub(crate) fn lose(&mut self, gap: Gap, out: &mut Out<'_>) {
        self.reached = Some(gap.to);
        self.recent.clear();
        for (&to, outlet) in &mut self.outlets {
            outlet.lose(to, &gap, out);
        }
    }

    /// Begins a waiting outlet, if what it misses is at hand; else says after which position history
    /// must be read for it.
    pub(crate) fn serve(&mut self, to: NodeId, out: &mut Out<'_>) -> Option<Position> {
        let (Stage::Live(_), Some(reached)) = (self.stage, self.reached) else { return None };
        let outlet = self.outlets.get_mut(&to)?;
        let Standing::Waiting(after) = outlet.standing else { return None };
        let from = after.unwrap_or(reached);
        // A topic without messages may have had some that this outlet missed: history tells.
        let may_have_ended = after == Some(Position::ZERO) && reached == Position::ZERO;
        #[cfg(feature = "planted-bugs")]
        let may_have_ended = may_have_ended && !crate::planted::trusts_zero();
        // One that is ahead of this node came from another upstream: what it has is left out.
        let missing = match from >= reached {
            true => (!may_have_ended).then(Vec::new),
            false => self.recent.after(from),
        };
        let Some(missing) = missing else { return Some(from) };
        outlet.begin(to, from, out);
        outlet.deliver(to, &missing, out);
        None
    }

    /// Gives an outlet the history that was read for it, at most `bytes_max` of it: the rest is asked
    /// for again, so that catching up pauses when its link is full. Says whether that brought it further; else
    /// the answer is older than what the outlet has, and asking again at once would be no use.
    pub(crate) fn catch_up(
        &mut self,
        to: NodeId,
        ticket: u64,
        page: Page,
        bytes_max: usize,
        out: &mut Out<'_>,
    ) -> bool {
        let Some(outlet) = self.outlets.get_mut(&to) else { return false };
        let Some(after) = outlet.reads(ticket) else { return false };
        let replay = Replay::of(after, page);
        outlet.begin(to, after, out);
        if let Some(gap) = &replay.gap {
            outlet.lose(to, gap, out);
        }
        let Standing::At(mut position) = outlet.standing else { return false };
        if replay.messages.is_empty() {
            // Between nothing and the beginning of an epoch there is nothing to be told.
            position = position.max(replay.end);
            outlet.standing = Standing::At(position);
        }
        let part = chunks(&replay.messages, bytes_max).next().map_or_else(Vec::new, <[_]>::to_vec);
        let accepted = accept(&mut position, part);
        outlet.deliver(to, &accepted.messages, out);
        if self.reached.is_some_and(|reached| position < reached) {
            outlet.standing = Standing::Waiting(Some(position));
        } else {
            // Nobody here has less than anybody was given: who comes next would go backwards.
            self.pass(accepted.messages, out);
        }
        position > after
    }

    /// What an outlet misses cannot be read now.
    pub(crate) fn put_off(&mut self, to: NodeId, ticket: u64) {
        if let Some(outlet) = self.outlets.get_mut(&to)
            && let Some(after) = outlet.reads(ticket)
        {
            outlet.standing = Standing::Waiting(Some(after));
        }
    }

    /// The outlets that wait.
    pub(crate) fn waiting(&self) -> Vec<NodeId> {
        let waits = |outlet: &Outlet| matches!(outlet.standing, Standing::Waiting(_));
        self.outlets.iter().filter(|(_, outlet)| waits(outlet)).map(|(&to, _)| to).collect()
    }
}

impl Outlet {
    pub(crate) fn new(number: u32, after: Option<Position>) -> Outlet {
        let standing = Standing::Waiting(after);
        let (watching, told) = (Watching::default(), None);
        Outlet { number, standing, begun: false, stale: false, watching, told }
    }

    /// Whether it has everything that came in.
    pub(crate) fn is_level(&self) -> bool {
        matches!(self.standing, Standing::At(_))
    }

    /// After which position read `ticket` was begun, if that is the one it waits for.
    pub(crate) fn reads(&self, ticket: u64) -> Option<Position> {
        match self.standing {
            Standing::Reading { after, ticket: mine } if mine == ticket => Some(after),
            _ => None,
        }
    }

    fn begin(&mut self, to: NodeId, from: Position, out: &mut Out<'_>) {
        self.standing = Standing::At(from);
        if !self.begun {
            self.begun = true;
            out.live(to, self.number, from);
        }
    }

    fn deliver(&mut self, to: NodeId, messages: &[Arc<Message>], out: &mut Out<'_>) {
        let Standing::At(position) = self.standing else { return };
        let had = messages.iter().take_while(|message| message.position <= position).count();
        if let Some(last) = messages[had..].last() {
            self.standing = Standing::At(last.position);
            out.deliver(to, self.number, &messages[had..]);
        }
    }

    fn lose(&mut self, to: NodeId, gap: &Gap, out: &mut Out<'_>) {
        let Standing::At(position) = self.standing else { return };
        if gap.to > position {
            self.standing = Standing::At(gap.to);
            out.lost(to, self.number, seen_from(gap, position));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::effect::Effect;
    use crate::engine::testing::{message, topic};

    const ME: NodeId = NodeId(1);

    /// A flow that stands at 1:8 and has forgotten what was before, with a sink that reads.
    fn reading(after: u64, ticket: u64) -> Flow {
        let reached = Position::new(1, 8);
        let mut flow = Flow::new(ShardId(0), Some(reached), Recent::new(0, 0));
        flow.stage = Stage::Live(Origin::Here);
        let mut outlet = Outlet::new(0, None);
        outlet.standing = Standing::Reading { after: Position::new(1, after), ticket };
        flow.outlets.insert(ME, outlet);
        flow
    }

    fn catch_up(flow: &mut Flow, ticket: u64, offsets: &[u64], bytes_max: usize) -> Vec<Effect> {
        let (topic, mut effects) = (topic("a"), Vec::new());
        let messages = offsets.iter().map(|&offset| message(1, offset)).collect();
        let page = Page { messages, head: Position::new(1, 8), gap: None };
        let mut out = Out { me: ME, topic: &topic, effects: &mut effects };
        flow.catch_up(ME, ticket, page, bytes_max, &mut out);
        effects
    }

    #[test]
    fn the_answer_to_an_earlier_read_is_not_taken_for_the_answer_to_this_one() {
        let mut flow = reading(2, 7);
        assert!(catch_up(&mut flow, 6, &[6, 7, 8], 1_000).is_empty());
        assert_eq!(flow.outlets[&ME].reads(7), Some(Position::new(1, 2)));
    }

    #[test]
    fn who_stands_before_everything_is_level_with_an_epoch_without_messages() {
        let mut flow = reading(0, 7);
        let (head, topic, mut effects) = (Position::new(9, 0), topic("a"), Vec::new());
        flow.reached = Some(head);
        let sink = flow.outlets.get_mut(&ME).expect("it is there");
        sink.standing = Standing::Reading { after: Position::ZERO, ticket: 7 };
        let page = Page { messages: vec![], head, gap: None };
        let mut out = Out { me: ME, topic: &topic, effects: &mut effects };
        flow.catch_up(ME, 7, page, 1_000, &mut out);
        assert_eq!(flow.outlets[&ME].standing, Standing::At(head));
        assert!(matches!(&effects[..], [Effect::Live(..)]), "no gap: {effects:?}");
    }

    #[test]
    fn who_stood_before_everything_asks_history_whether_the_topic_ended_meanwhile() {
        let mut flow = reading(0, 7);
        flow.reached = Some(Position::ZERO);
        let (topic, mut effects) = (topic("a"), Vec::new());
        let mut out = Out { me: ME, topic: &topic, effects: &mut effects };
        for (after, asks) in [(Some(Position::ZERO), Some(Position::ZERO)), (None, None)] {
            flow.outlets.insert(ME, Outlet::new(0, after));
            assert_eq!(flow.serve(ME, &mut out), asks, "after {after:?}");
        }
    }

    #[test]
    fn an_outlet_that_got_a_part_waits_for_the_rest() {
        let mut flow = reading(5, 7);
        let effects = catch_up(&mut flow, 7, &[6, 7, 8], 2 * message(1, 6).payload.len());
        assert!(
            matches!(&effects[..], [Effect::Live(..), Effect::Deliver(_, part)] if part.len() == 2)
        );
        let rest = Standing::Waiting(Some(Position::new(1, 7)));
        assert_eq!(flow.outlets[&ME].standing, rest);
    }
}
