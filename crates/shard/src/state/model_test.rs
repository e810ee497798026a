//! A shard of three replicas whose nodes know cluster settings of different age: leaders with old views,
//! restarts, and namespaces that move to the owner's memory and back, in any order.

use proptest::collection::vec;
use proptest::prelude::*;
use pushonce_consensus::EntryId;
use pushonce_core::{ContentType, History, Namespace, Namespaces, Offset, ShardCount, Term};

use super::*;
use crate::expiry::due_entry;
use crate::memory::OwnerMemory;

const NODES: usize = 3;
const TOPICS: [&str; 3] = ["chat/1", "chat/2", "score"];
const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// An event in the model.
#[derive(Clone, Debug)]
enum ModelStep {
    /// The control group commits longer histories and the durability of `chat`; with `force`, a move to memory drops
    /// the stored messages.
    ChangeSettings { more: u32, in_memory: bool, force: bool },
    /// A node receives the newest settings.
    RefreshSettings { node: usize },
    /// A node restarts with the settings on its disk, and restores its replica from a snapshot.
    Restart { node: usize, settings: usize },
    /// Another node becomes the leader.
    ChangeLeader { node: usize },
    /// The leader proposes its due entries.
    ProposeDue,
    /// A publish to the leader. With `overtaken`, due entries are committed between the choice of the
    /// message's durability and its entry.
    Publish { topic: usize, overtaken: bool },
    /// An operator purges or deletes a topic.
    Remove { topic: usize, removal: TopicRemoval },
}

fn steps() -> impl Strategy<Value = Vec<ModelStep>> {
    let node = 0..NODES;
    let step = prop_oneof![
        1 => (0..4u32, any::<bool>(), any::<bool>()).prop_map(|(more, in_memory, force)| {
            ModelStep::ChangeSettings { more, in_memory, force }
        }),
        2 => node.clone().prop_map(|node| ModelStep::RefreshSettings { node }),
        1 => (node.clone(), 0..99usize)
            .prop_map(|(node, settings)| ModelStep::Restart { node, settings }),
        1 => node.prop_map(|node| ModelStep::ChangeLeader { node }),
        2 => Just(ModelStep::ProposeDue),
        8 => (0..TOPICS.len(), any::<bool>())
            .prop_map(|(topic, overtaken)| ModelStep::Publish { topic, overtaken }),
        1 => (0..TOPICS.len(), prop_oneof![Just(TopicRemoval::Purge), Just(TopicRemoval::Delete)])
            .prop_map(|(topic, removal)| ModelStep::Remove { topic, removal }),
    ];
    vec(step, 1..80)
}

struct ModelNode {
    state: ShardState,
    memory: OwnerMemory,
    applied: usize,
    /// The newest settings that the node knows; `None` after a start.
    known_settings: Option<ShardSettings>,
}

struct ShardModel {
    /// The settings that the control group committed, in order.
    committed: Vec<ShardSettings>,
    log: Vec<(EntryId, EntryBatch)>,
    nodes: Vec<ModelNode>,
    leader: usize,
    term: u64,
    /// By topic, the acknowledged messages that the log must have, each with the revision of the settings
    /// under which it was acknowledged.
    acknowledged: BTreeMap<Topic, Vec<(Position, u64)>>,
    /// By topic, the last position that was acknowledged.
    last_acknowledged: BTreeMap<Topic, Position>,
}

fn settings(revision: u64, count_max: u32, in_memory: bool, force: bool) -> ShardSettings {
    let history = History { count_max, ..History::default() };
    let durability = if in_memory { Durability::Memory } else { Durability::Replicated };
    let default = Namespace { history, ..Namespace::default() };
    let named = [("chat".to_owned(), Namespace { durability, ..default.clone() })].into();
    let drop_stored = if in_memory && force { ["chat".to_owned()].into() } else { BTreeSet::new() };
    let namespaces = Namespaces { revision, default, named, drop_stored };
    ShardSettings { shards: ShardCount::new(1).unwrap(), namespaces }
}

impl ModelNode {
    fn new(known_settings: Option<ShardSettings>) -> ModelNode {
        let (state, memory) = (ShardState::new(ShardId(0)), OwnerMemory::default());
        ModelNode { state, memory, applied: 0, known_settings }
    }

    fn apply(&mut self, at: EntryId, batch: EntryBatch) -> ApplyOutcome {
        let (before, renews) = (self.revision(), batch.starts_memory_epoch);
        let entry = batch.encode(VersionRange::supported().max);
        let (version, batch) = EntryBatch::decode(&entry).unwrap();
        self.state.raise_version(version);
        let removals = batch.removals.clone();
        let applied = self.state.apply(at.index, batch);
        self.memory.apply_entry(at, NOW, self.state.settings(), renews);
        for (topic, removal) in removals {
            self.memory.remove(at.index, &topic, removal);
        }
        self.applied += 1;
        assert!(self.revision() >= before, "the revision of the settings decreased");
        applied
    }

    fn revision(&self) -> u64 {
        self.state.settings().map_or(0, |settings| settings.revision())
    }
}

impl ShardModel {
    fn new() -> ShardModel {
        let initial = settings(1, 1, false, false);
        ShardModel {
            nodes: (0..NODES).map(|_| ModelNode::new(Some(initial.clone()))).collect(),
            committed: vec![initial],
            log: Vec::new(),
            leader: 0,
            term: 1,
            acknowledged: BTreeMap::new(),
            last_acknowledged: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: ModelStep) {
        match step {
            ModelStep::ChangeSettings { more, in_memory, force } => {
                let last = self.committed.last().unwrap();
                let count_max = last.namespaces.default.history.count_max + more;
                let force = force || last.namespaces.drop_stored.contains("chat");
                self.committed.push(settings(last.revision() + 3, count_max, in_memory, force));
            }
            ModelStep::RefreshSettings { node } => {
                self.nodes[node].known_settings = self.committed.last().cloned()
            }
            ModelStep::Restart { node, settings } => {
                let replica = &self.nodes[node];
                let (state, applied) = (replica.state.snapshot(), replica.applied);
                let known = self.committed.get(settings % (self.committed.len() + 1)).cloned();
                let state = ShardState::restore(&state).unwrap();
                self.nodes[node] = ModelNode { state, applied, ..ModelNode::new(known) };
                if node == self.leader {
                    self.become_leader(node);
                }
            }
            ModelStep::ChangeLeader { node } => self.become_leader(node),
            ModelStep::ProposeDue => self.propose_due_entries(),
            ModelStep::Publish { topic, overtaken } => self.publish(TOPICS[topic], overtaken),
            ModelStep::Remove { topic, removal } => self.remove(TOPICS[topic], removal),
        }
    }

    /// A new leader first applies the entries of its predecessors.
    fn become_leader(&mut self, node: usize) {
        (self.leader, self.term) = (node, self.term + 1);
        self.catch_up(node);
    }

    fn catch_up(&mut self, node: usize) {
        for nth in self.nodes[node].applied..self.log.len() {
            let (at, batch) = self.log[nth].clone();
            self.nodes[node].apply(at, batch);
        }
    }

    fn due_entry(&self) -> Option<EntryBatch> {
        let ModelNode { state, memory, known_settings, .. } = &self.nodes[self.leader];
        due_entry(state, memory, Term(self.term), known_settings.as_ref(), NOW, false)
    }

    fn propose_due_entries(&mut self) {
        while let Some(entry) = self.due_entry() {
            self.propose(entry);
        }
    }

    fn propose(&mut self, batch: EntryBatch) -> ApplyOutcome {
        let at = EntryId { index: 2 * self.log.len() as u64 + 1, term: Term(self.term) };
        self.log.push((at, batch.clone()));
        let was_in_memory = self.is_in_memory();
        let applied = self.nodes[self.leader].apply(at, batch);
        if self.is_in_memory() && !was_in_memory && self.is_forced() {
            self.acknowledged.retain(|topic, _| topic.namespace() != "chat");
        }
        applied
    }

    fn is_in_memory(&self) -> bool {
        let settings = self.nodes[self.leader].state.settings();
        settings.is_some_and(|settings| settings.has_memory_namespace())
    }

    fn is_forced(&self) -> bool {
        let settings = self.nodes[self.leader].state.settings();
        settings.is_some_and(|settings| settings.namespaces.drop_stored.contains("chat"))
    }

    /// Publishes as the owner does: the settings of the log decide where a message goes.
    fn publish(&mut self, name: &str, overtaken: bool) {
        let topic = Topic::new(name).unwrap();
        let goes_to_memory = self.is_in_memory() && topic.namespace() == "chat";
        if overtaken {
            self.propose_due_entries();
        }
        let item = EntryItem {
            topic: topic.clone(),
            content_type: ContentType::Text,
            key: None,
            publish_id: None,
            payload: "x".into(),
        };
        if !goes_to_memory {
            let outcome = self.propose(EntryBatch::new(NOW, vec![item.clone()])).outcomes[0];
            match outcome {
                Ok(placed) => return self.record_ack(topic, placed),
                Err(ItemRejection::NoSettings) => return,
                Err(rejected) => assert_eq!(rejected, ItemRejection::NamespaceInMemory),
            }
        }
        let ModelNode { memory, state, .. } = &mut self.nodes[self.leader];
        if memory.holds(Term(self.term), &topic) {
            let placed = memory.place_if_new(NOW, item, state.dedupe()).0.unwrap();
            self.record_ack(topic, placed);
        }
    }

    fn remove(&mut self, name: &str, removal: TopicRemoval) {
        let topic = Topic::new(name).unwrap();
        let in_memory = self.is_in_memory() && topic.namespace() == "chat";
        self.acknowledged.remove(&topic);
        self.propose(EntryBatch::removing(NOW, topic.clone(), removal, in_memory));
        let ModelNode { memory, state, .. } = &self.nodes[self.leader];
        let pages = [
            memory.fetch_history(&topic, HistoryRange::All, NOW),
            state.fetch_history(&topic, HistoryRange::All, NOW),
        ];
        for page in pages {
            assert_eq!(page.unwrap().messages, [], "{topic} still has messages");
        }
    }

    fn record_ack(&mut self, topic: Topic, ack: Acknowledgement) {
        let before = self.last_acknowledged.insert(topic.clone(), ack.position);
        assert!(
            before.is_none_or(|before| before < ack.position),
            "the position of {topic} decreased"
        );
        if ack.durability == Durability::Replicated {
            let revision = self.nodes[self.leader].revision();
            self.acknowledged.entry(topic).or_default().push((ack.position, revision));
        }
    }

    /// Limits only rise here, so messages acknowledged under some settings, up to their limit, stay retained.
    fn assert_retained(&self) {
        let state = &self.nodes[self.leader].state;
        for (topic, stored) in &self.acknowledged {
            let page = state.fetch_history(topic, HistoryRange::All, NOW).unwrap();
            let retained: Vec<_> = page.messages.iter().map(|message| message.position).collect();
            for settings in &self.committed {
                let under = stored.iter().filter(|(_, revision)| *revision >= settings.revision());
                let under: Vec<_> = under.map(|(position, _)| *position).collect();
                let count_max = settings.namespaces.default.history.count_max as usize;
                let expected = &under[under.len().saturating_sub(count_max)..];
                assert!(retained.ends_with(expected), "{topic} has {retained:?}, not {expected:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn stale_settings_shorten_no_history_and_replicated_messages_survive_durability_changes(steps in steps()) {
        let mut model = ShardModel::new();
        model.propose_due_entries();
        for step in steps {
            model.step(step);
            model.assert_retained();
        }
        for node in 0..NODES {
            model.catch_up(node);
        }
        let digests: Vec<_> = model.nodes.iter().map(|node| node.state.digest()).collect();
        prop_assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

#[test]
fn item_of_another_shard_is_rejected_on_every_replica() {
    let mut state = ShardState::new(ShardId(1));
    let mut settings = settings(1, 10, false, false);
    settings.shards = ShardCount::DEFAULT;
    let shard_of = |nth: &u32| Topic::new(&format!("score/{nth}")).unwrap().shard(settings.shards);
    let inside = (0..).find(|nth| shard_of(nth) == ShardId(1)).unwrap();
    let outside = (0..).find(|nth| shard_of(nth) != ShardId(1)).unwrap();
    let item = |nth: u32| EntryItem {
        topic: Topic::new(&format!("score/{nth}")).unwrap(),
        content_type: ContentType::Text,
        key: None,
        publish_id: None,
        payload: "x".into(),
    };
    let early = state.apply(1, EntryBatch::new(NOW, vec![item(inside)]));
    assert_eq!(early.outcomes, [Err(ItemRejection::NoSettings)]);
    state.apply(2, EntryBatch::with_settings(NOW, settings));
    let applied = state.apply(3, EntryBatch::new(NOW, vec![item(outside), item(inside)]));
    assert_eq!(applied.outcomes[0], Err(ItemRejection::WrongShard));
    let placed = applied.outcomes[1].unwrap();
    assert_eq!((placed.position.epoch.0, placed.position.offset), (3, Offset(1)));
    assert_eq!(state.list_topics("", None, NOW).count(), 1);
}
