//! A shard of three replicas whose nodes know the cluster settings to different degrees: leaders with
//! old views, restarts, and namespaces that go into the owner's memory and back, in any order.

use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_consensus::At;
use pushonce_core::{ContentType, History, Namespace, Namespaces, Offset, ShardCount, Term};

use super::*;
use crate::memory::Memory;
use crate::upkeep::due;

const NODES: usize = 3;
const TOPICS: [&str; 3] = ["chat/1", "chat/2", "score"];
const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    /// The control group commits longer histories, and where `chat` lives.
    Change { more: u32, in_memory: bool },
    /// A node sees the newest settings.
    View { node: usize },
    /// A node starts again, with the settings that its disk had, and its replica from a snapshot.
    Restart { node: usize, settings: usize },
    /// Another node leads.
    Lead { node: usize },
    /// The leader proposes what is due.
    Upkeep,
    /// A publish to the leader; with `overtaken`, what is due is committed between the decision where the
    /// message goes and its entry.
    Publish { topic: usize, overtaken: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = 0..NODES;
    let step = prop_oneof![
        1 => (0..4u32, any::<bool>())
            .prop_map(|(more, in_memory)| Step::Change { more, in_memory }),
        2 => node.clone().prop_map(|node| Step::View { node }),
        1 => (node.clone(), 0..99usize)
            .prop_map(|(node, settings)| Step::Restart { node, settings }),
        1 => node.prop_map(|node| Step::Lead { node }),
        2 => Just(Step::Upkeep),
        8 => (0..TOPICS.len(), any::<bool>())
            .prop_map(|(topic, overtaken)| Step::Publish { topic, overtaken }),
    ];
    vec(step, 1..80)
}

struct Node {
    state: State,
    memory: Memory,
    applied: usize,
    /// The newest settings it knows of; `None` after a start.
    known: Option<ShardSettings>,
}

struct World {
    /// As the control group committed them.
    committed: Vec<ShardSettings>,
    log: Vec<(At, Batch)>,
    nodes: Vec<Node>,
    leader: usize,
    term: u64,
    /// Of each topic, the acknowledged messages that the log has to have, with the revision of the
    /// settings under which each was acknowledged.
    stored: BTreeMap<Topic, Vec<(Position, u64)>>,
    /// The last position that was acknowledged.
    reached: BTreeMap<Topic, Position>,
}

fn settings(revision: u64, count_max: u32, in_memory: bool) -> ShardSettings {
    let history = History { count_max, ..History::default() };
    let durability = if in_memory { Durability::Memory } else { Durability::Replicated };
    let default = Namespace { history, ..Namespace::default() };
    let named = [("chat".to_owned(), Namespace { durability, ..default.clone() })].into();
    let namespaces = Namespaces { revision, default, named };
    ShardSettings { shards: ShardCount::new(1).unwrap(), namespaces }
}

impl Node {
    fn new(known: Option<ShardSettings>) -> Node {
        let (state, memory) = (State::new(ShardId(0)), Memory::default());
        Node { state, memory, applied: 0, known }
    }

    fn apply(&mut self, at: At, batch: Batch) -> Applied {
        let (before, renews) = (self.revision(), batch.renews_memory);
        let entry = batch.encode(VersionRange::SUPPORTED.max);
        let (version, batch) = Batch::decode(&entry).unwrap();
        self.state.adopt(version);
        let applied = self.state.apply(at.index, batch);
        self.memory.follow(at, NOW, self.state.settings(), renews);
        self.applied += 1;
        assert!(self.revision() >= before, "settings went back");
        applied
    }

    fn revision(&self) -> u64 {
        self.state.settings().map_or(0, |settings| settings.revision())
    }
}

impl World {
    fn new() -> World {
        let first = settings(1, 1, false);
        World {
            nodes: (0..NODES).map(|_| Node::new(Some(first.clone()))).collect(),
            committed: vec![first],
            log: Vec::new(),
            leader: 0,
            term: 1,
            stored: BTreeMap::new(),
            reached: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change { more, in_memory } => {
                let last = self.committed.last().unwrap();
                let count_max = last.namespaces.default.history.count_max + more;
                self.committed.push(settings(last.revision() + 3, count_max, in_memory));
            }
            Step::View { node } => self.nodes[node].known = self.committed.last().cloned(),
            Step::Restart { node, settings } => {
                let replica = &self.nodes[node];
                let (state, applied) = (replica.state.snapshot(), replica.applied);
                let known = self.committed.get(settings % (self.committed.len() + 1)).cloned();
                let state = State::restore(&state).unwrap();
                self.nodes[node] = Node { state, applied, ..Node::new(known) };
                if node == self.leader {
                    self.lead(node);
                }
            }
            Step::Lead { node } => self.lead(node),
            Step::Upkeep => self.upkeep(),
            Step::Publish { topic, overtaken } => self.publish(TOPICS[topic], overtaken),
        }
    }

    /// A leader first applies what its predecessors committed.
    fn lead(&mut self, node: usize) {
        (self.leader, self.term) = (node, self.term + 1);
        self.catch_up(node);
    }

    fn catch_up(&mut self, node: usize) {
        for nth in self.nodes[node].applied..self.log.len() {
            let (at, batch) = self.log[nth].clone();
            self.nodes[node].apply(at, batch);
        }
    }

    fn due(&self) -> Option<Batch> {
        let Node { state, memory, known, .. } = &self.nodes[self.leader];
        due(state, memory, Term(self.term), known.as_ref(), NOW, false)
    }

    fn upkeep(&mut self) {
        while let Some(entry) = self.due() {
            self.propose(entry);
        }
    }

    fn propose(&mut self, batch: Batch) -> Applied {
        let at = At { index: 2 * self.log.len() as u64 + 1, term: Term(self.term) };
        self.log.push((at, batch.clone()));
        let was_in_memory = self.is_in_memory();
        let applied = self.nodes[self.leader].apply(at, batch);
        if self.is_in_memory() && !was_in_memory {
            // Said by force: what `chat` has stored is dropped.
            self.stored.retain(|topic, _| topic.namespace() != "chat");
        }
        applied
    }

    fn is_in_memory(&self) -> bool {
        let settings = self.nodes[self.leader].state.settings();
        settings.is_some_and(|settings| settings.any_in_memory())
    }

    /// As the owner does: where a message goes is decided by the settings of the log.
    fn publish(&mut self, name: &str, overtaken: bool) {
        let topic = Topic::new(name).unwrap();
        let goes_to_memory = self.is_in_memory() && topic.namespace() == "chat";
        if overtaken {
            self.upkeep();
        }
        let item = Item {
            topic: topic.clone(),
            content_type: ContentType::Text,
            key: None,
            stamp: None,
            payload: "x".into(),
        };
        if !goes_to_memory {
            let outcome = self.propose(Batch::new(NOW, vec![item.clone()])).outcomes[0];
            match outcome {
                Ok(placed) => return self.acknowledged(topic, placed),
                Err(Rejected::NoSettings) => return,
                Err(rejected) => assert_eq!(rejected, Rejected::InMemory),
            }
        }
        let Node { memory, state, .. } = &mut self.nodes[self.leader];
        if memory.holds(Term(self.term), &topic) {
            let placed = memory.take(NOW, item, state.dedupe()).0.unwrap();
            self.acknowledged(topic, placed);
        }
    }

    fn acknowledged(&mut self, topic: Topic, placed: Placed) {
        let before = self.reached.insert(topic.clone(), placed.position);
        assert!(before.is_none_or(|before| before < placed.position), "{topic} went back");
        if placed.durability == Durability::Replicated {
            let revision = self.nodes[self.leader].revision();
            self.stored.entry(topic).or_default().push((placed.position, revision));
        }
    }

    /// Bounds only rise here, so whatever was acknowledged under some settings, up to their bound, is
    /// there for good.
    fn is_kept(&self) {
        let state = &self.nodes[self.leader].state;
        for (topic, stored) in &self.stored {
            let page = state.page(topic, Want::All, NOW).unwrap();
            let kept: Vec<_> = page.messages.iter().map(|message| message.position).collect();
            for settings in &self.committed {
                let under = stored.iter().filter(|(_, revision)| *revision >= settings.revision());
                let under: Vec<_> = under.map(|(position, _)| *position).collect();
                let count_max = settings.namespaces.default.history.count_max as usize;
                let wanted = &under[under.len().saturating_sub(count_max)..];
                assert!(kept.ends_with(wanted), "{topic} has {kept:?}, not {wanted:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn old_settings_shorten_no_history_and_replicated_messages_survive_every_change(steps in steps()) {
        let mut world = World::new();
        world.upkeep();
        for step in steps {
            world.step(step);
            world.is_kept();
        }
        for node in 0..NODES {
            world.catch_up(node);
        }
        let digests: Vec<_> = world.nodes.iter().map(|node| node.state.digest()).collect();
        prop_assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

#[test]
fn an_item_of_another_shard_is_refused_on_every_replica() {
    let mut state = State::new(ShardId(1));
    let mut settings = settings(1, 10, false);
    settings.shards = ShardCount::DEFAULT;
    let mine = |nth: &u32| Topic::new(&format!("score/{nth}")).unwrap().shard(settings.shards);
    let inside = (0..).find(|nth| mine(nth) == ShardId(1)).unwrap();
    let outside = (0..).find(|nth| mine(nth) != ShardId(1)).unwrap();
    let item = |nth: u32| Item {
        topic: Topic::new(&format!("score/{nth}")).unwrap(),
        content_type: ContentType::Text,
        key: None,
        stamp: None,
        payload: "x".into(),
    };
    let early = state.apply(1, Batch::new(NOW, vec![item(inside)]));
    assert_eq!(early.outcomes, [Err(Rejected::NoSettings)]);
    state.apply(2, Batch::with_settings(NOW, settings));
    let applied = state.apply(3, Batch::new(NOW, vec![item(outside), item(inside)]));
    assert_eq!(applied.outcomes[0], Err(Rejected::WrongShard));
    let placed = applied.outcomes[1].unwrap();
    assert_eq!((placed.position.epoch.0, placed.position.offset), (3, Offset(1)));
    assert_eq!(state.topics("", None, NOW).count(), 1);
}
