use std::collections::BTreeSet;

use proptest::prelude::*;
use pushonce_core::{History, InvalidNamespace, ShardId, Topic};

use super::*;
use crate::member::tests::profile;
use crate::{InvalidProfile, Profile, Run};

const CLUSTER: ClusterId = ClusterId(77);

pub(crate) fn founding() -> Founding {
    Founding {
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        run: Run::default(),
        profile: profile("n1"),
        shards: ShardCount::DEFAULT,
        replicas: 3,
        spread: Spread::Zones,
        namespaces: Namespaces::default(),
        times: ConsensusTimes::LAN,
        log: None,
        cluster_version: VersionRange::SUPPORTED.min,
    }
}

fn newcomer(incarnation: u128, name: &str) -> Joining {
    Joining {
        incarnation: Incarnation(incarnation),
        run: Run::default(),
        cluster: None,
        node: None,
        profile: profile(name),
        times: None,
        log: None,
    }
}

fn drain(node: NodeId) -> Command {
    Command::Drain { node, force: true }
}

/// A cluster whose active members n1, n2, … have these regions and zones.
pub(crate) fn view_of(labels: &[(&str, &str)]) -> ClusterView {
    let mut cluster = Log::founded();
    for index in 1..labels.len() as u128 {
        let joined = cluster.join(newcomer(index + 1, &format!("n{}", index + 1))).unwrap();
        cluster.done(Command::Activate(joined.node));
    }
    let mut view = cluster.state.view().unwrap();
    for (member, (region, zone)) in view.members.values_mut().zip(labels) {
        member.region = (*region).to_owned();
        member.zone = (*zone).to_owned();
    }
    view
}

/// A state with the index of its last entry.
struct Log {
    state: State,
    index: u64,
}

impl Log {
    fn founded() -> Log {
        let mut log = Log { state: State::default(), index: 4 };
        log.done(Command::Found(founding()));
        log
    }

    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        self.state.apply(self.index, command)
    }

    fn done(&mut self, command: Command) {
        assert_eq!(self.apply(command), Answer::Done);
    }

    fn refused(&mut self, command: Command) -> Refusal {
        let before = self.state.clone();
        match self.apply(command) {
            Answer::Refused(refusal) => {
                assert_eq!(self.state, before, "a refusal changes nothing");
                refusal
            }
            answer => panic!("not refused: {answer:?}"),
        }
    }

    /// Checks the index in the answer and leaves it out: it differs each time the same node joins.
    fn join(&mut self, joining: Joining) -> Result<Joined, Refusal> {
        match self.apply(Command::Join(joining)) {
            Answer::Joined(joined) => {
                assert_eq!(joined.index, self.index, "where it was committed");
                Ok(Joined { index: 0, ..joined })
            }
            Answer::Refused(refusal) => Err(refusal),
            answer => panic!("a join is answered with an id, not {answer:?}"),
        }
    }

    fn view(&self) -> ClusterView {
        self.state.view().unwrap()
    }
}

#[test]
fn the_founder_is_active_and_holds_every_shard() {
    let log = Log::founded();
    let view = log.view();
    assert_eq!(view.version, 5);
    assert_eq!(view.members[&NodeId(1)].state, MemberState::Active);
    assert!(view.shards.ids().all(|shard| view.placement.of(shard) == [NodeId(1)]));
    assert_eq!(view.placement.replicas, Placement::propose(&view));
}

#[test]
fn a_cluster_is_founded_once() {
    let mut log = Log::founded();
    let before = log.state.clone();
    log.done(Command::Found(founding()));
    assert_eq!(log.state, before);
    let other = Founding { cluster: ClusterId(78), ..founding() };
    assert_eq!(log.refused(Command::Found(other)), Refusal::AlreadyFounded(CLUSTER));
}

#[test]
fn before_the_founding_every_command_is_refused() {
    let mut state = State::default();
    let answer = state.apply(1, Command::Join(newcomer(2, "n2")));
    assert_eq!(answer, Answer::Refused(Refusal::NotFounded));
    assert_eq!(state.view(), None);
}

#[test]
fn ids_are_counted_up_and_the_same_directory_keeps_its_own() {
    let mut log = Log::founded();
    let second = log.join(newcomer(2, "n2")).unwrap();
    let third = log.join(newcomer(3, "n3")).unwrap();
    assert_eq!((second.node, third.node), (NodeId(2), NodeId(3)));
    assert_eq!(log.join(newcomer(2, "n2")).unwrap(), second);
    assert_eq!(log.view().members[&NodeId(2)].state, MemberState::Joining);
}

#[test]
fn a_repeat_that_says_nothing_new_makes_no_new_version() {
    let mut log = Log::founded();
    log.join(newcomer(2, "n2")).unwrap();
    let version = log.view().version;
    log.join(newcomer(2, "n2")).unwrap();
    assert_eq!(log.view().version, version);
}

#[test]
fn who_comes_again_may_have_moved_and_stays_what_it_was() {
    let mut log = Log::founded();
    let joined = log.join(newcomer(2, "n2")).unwrap();
    log.done(Command::Activate(joined.node));
    let mut moved = newcomer(2, "n2");
    moved.cluster = Some(CLUSTER);
    moved.node = Some(joined.node);
    moved.log = marked(9, 50);
    moved.profile.addresses.peer = "elsewhere:7091".to_owned();
    assert_eq!(log.join(moved).unwrap(), joined);
    let member = &log.view().members[&joined.node];
    assert_eq!(member.addresses.peer, "elsewhere:7091");
    assert_eq!(member.state, MemberState::Active);
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let mut log = Log::founded();
    let foreign = Joining { cluster: Some(ClusterId(5)), ..newcomer(2, "n2") };
    let refusal = log.refused(Command::Join(foreign));
    assert_eq!(refusal, Refusal::Foreign { theirs: ClusterId(5), ours: CLUSTER });
    assert!(refusal.to_string().contains("empty data directory"));
}

#[test]
fn a_removed_node_never_comes_back_and_its_id_is_never_given_again() {
    let mut log = Log::founded();
    let removed = log.join(newcomer(2, "n2")).unwrap().node;
    log.done(Command::Remove(removed));
    assert!(log.view().member(removed).is_none());
    assert_eq!(log.refused(Command::Join(newcomer(2, "n2"))), Refusal::Removed(removed));
    let wiped = Joining { node: Some(removed), ..newcomer(9, "n2") };
    assert_eq!(log.refused(Command::Join(wiped)), Refusal::Removed(removed));
    assert_eq!(log.join(newcomer(3, "n2")).unwrap().node, NodeId(3));
}

#[test]
fn an_id_with_another_directory_is_refused() {
    let mut log = Log::founded();
    log.join(newcomer(2, "n2")).unwrap();
    let copied = Joining { node: Some(NodeId(1)), ..newcomer(2, "n2") };
    assert_eq!(log.refused(Command::Join(copied)), Refusal::NotThatNode(NodeId(1)));
    let invented = Joining { node: Some(NodeId(40)), ..newcomer(8, "n8") };
    assert_eq!(log.refused(Command::Join(invented)), Refusal::NotThatNode(NodeId(40)));
}

#[test]
fn a_name_belongs_to_one_living_member() {
    let mut log = Log::founded();
    let refusal = log.refused(Command::Join(newcomer(2, "n1")));
    assert_eq!(refusal, Refusal::NameTaken { name: "n1".to_owned(), holder: NodeId(1) });
    assert!(refusal.to_string().contains("choose another --name"));
    log.join(newcomer(2, "n2")).unwrap();
    let renamed = newcomer(2, "n1");
    assert!(matches!(log.refused(Command::Join(renamed)), Refusal::NameTaken { .. }));
}

#[test]
fn a_full_cluster_takes_nobody_new_but_who_is_in_may_come_again() {
    let mut log = Log::founded();
    let max = Rules::of(VersionRange::SUPPORTED.max).members_max;
    for index in 2..=max as u128 {
        log.join(newcomer(index, &format!("n{index}"))).unwrap();
    }
    let refusal = log.refused(Command::Join(newcomer(5_000, "late")));
    assert_eq!(refusal, Refusal::Full { max: 1_000 });
    assert_eq!(log.join(newcomer(2, "n2")).unwrap().node, NodeId(2));
}

#[test]
fn a_profile_nobody_could_use_is_refused_also_by_the_state() {
    let mut log = Log::founded();
    let heavy = Profile { weight: u32::MAX, ..profile("n2") };
    let joining = Joining { profile: heavy, ..newcomer(2, "n2") };
    let refusal = log.refused(Command::Join(joining));
    assert_eq!(refusal, Refusal::Profile(InvalidProfile::Weight { max: Profile::WEIGHT_MAX }));
}

#[test]
fn the_last_holder_of_shards_cannot_be_removed_and_a_stranger_neither() {
    let mut log = Log::founded();
    log.join(newcomer(2, "n2")).unwrap();
    assert_eq!(log.refused(Command::Remove(NodeId(1))), Refusal::LastHolder(NodeId(1)));
    assert_eq!(log.refused(Command::Remove(NodeId(7))), Refusal::NotAMember(NodeId(7)));
    log.done(Command::Activate(NodeId(2)));
    log.done(Command::Remove(NodeId(1)));
    log.done(Command::Remove(NodeId(1)));
}

#[test]
fn a_drained_node_is_a_member_that_holds_nothing_until_it_takes_its_share_back() {
    let mut log = Log::founded();
    let node = log.join(newcomer(2, "n2")).unwrap().node;
    log.done(Command::Activate(node));
    log.done(drain(node));
    let version = log.view().version;
    log.done(drain(node));
    assert_eq!(log.view().version, version, "said again it changes nothing");
    assert_eq!(log.view().members[&node].state, MemberState::Draining);
    assert!(Placement::propose(&log.view()).iter().all(|list| list == &[NodeId(1)]));
    // That it is level makes it active only once.
    log.done(Command::Activate(node));
    assert_eq!(log.view().members[&node].state, MemberState::Draining);
    log.done(Command::Undrain(node));
    log.done(Command::Undrain(node));
    assert_eq!(log.view().members[&node].state, MemberState::Active);
}

#[test]
fn two_drains_at_once_do_not_leave_fewer_copies_than_configured() {
    let mut log = Log::founded();
    for nth in 2..=4 {
        let node = log.join(newcomer(nth, &format!("n{nth}"))).unwrap().node;
        log.done(Command::Activate(node));
    }
    // Each node that was asked saw three others.
    let ask = |node| Command::Drain { node: NodeId(node), force: false };
    log.done(ask(3));
    let few = Refusal::TooFewCopies { node: NodeId(4), left: 2, wanted: 3 };
    assert_eq!(log.refused(ask(4)), few);
    log.done(ask(3));
    log.done(drain(NodeId(4)));
}

#[test]
fn the_last_holder_cannot_be_drained_and_who_is_gone_neither() {
    let mut log = Log::founded();
    let node = log.join(newcomer(2, "n2")).unwrap().node;
    assert_eq!(log.refused(drain(NodeId(1))), Refusal::LastHolder(NodeId(1)));
    log.done(Command::Activate(node));
    log.done(drain(NodeId(1)));
    assert_eq!(log.refused(drain(node)), Refusal::LastHolder(node));
    log.done(Command::Remove(NodeId(1)));
    for command in [drain(NodeId(1)), Command::Undrain(NodeId(1))] {
        assert_eq!(log.refused(command), Refusal::NotAMember(NodeId(1)));
    }
}

#[test]
fn who_is_gone_is_told_from_a_stranger() {
    let mut log = Log::founded();
    let node = log.join(newcomer(2, "n2")).unwrap().node;
    assert!(!log.view().is_gone(node));
    log.done(Command::Remove(node));
    assert!(log.view().is_gone(node));
    assert!(!log.view().is_gone(NodeId(3)), "the next to join");
}

#[test]
fn an_old_copy_of_a_directory_is_refused_and_the_process_that_repeats_itself_is_not() {
    let mut log = Log::founded();
    let run = |count, token| Joining { run: Run { count, token }, ..newcomer(2, "n2") };
    let node = log.join(run(1, 11)).unwrap().node;
    log.join(run(3, 33)).unwrap();
    assert_eq!(log.join(run(3, 33)).unwrap().node, node);
    // A copy of the directory as it was before its last start, and one from before that.
    for copy in [run(3, 34), run(2, 22)] {
        let refusal = log.refused(Command::Join(copy.clone()));
        let run = copy.run.count;
        assert_eq!(refusal, Refusal::Superseded { node, run, known: 3 });
    }
    log.join(run(4, 44)).unwrap();
}

#[test]
fn a_table_is_taken_once_and_only_if_it_follows_the_present_one() {
    let mut log = Log::founded();
    log.join(newcomer(2, "n2")).unwrap();
    log.done(Command::Activate(NodeId(2)));
    let replicas = Placement::propose(&log.view());
    let place = |version, replicas: &Vec<Vec<NodeId>>| Command::Place {
        version,
        replicas: replicas.clone(),
    };
    assert_eq!(log.refused(place(3, &replicas)), Refusal::StaleTable);
    log.done(place(2, &replicas));
    log.done(place(2, &replicas));
    assert_eq!(log.view().placement.of(ShardId(0)).len(), 2);

    let with = |list: &[u64]| {
        let mut table = replicas.clone();
        table[3] = list.iter().copied().map(NodeId).collect();
        table
    };
    for list in [&[][..], &[1, 1], &[9]] {
        assert_eq!(log.refused(place(3, &with(list))), Refusal::StaleTable);
    }
    assert_eq!(log.refused(place(3, &replicas[1..].to_vec())), Refusal::StaleTable);
}

/// Changes the bound of the history in messages, and nothing else.
fn count(history_count_max: u32) -> NamespaceChange {
    NamespaceChange { history_count_max: Some(history_count_max), ..NamespaceChange::default() }
}

fn set(name: Option<&str>, change: Option<NamespaceChange>) -> Command {
    Command::SetNamespace { name: name.map(str::to_owned), change, drops_stored: false }
}

#[test]
fn a_namespace_has_the_defaults_settings_until_it_has_its_own_and_again_after() {
    let mut log = Log::founded();
    let of = |log: &Log, topic: &str| {
        log.view().namespaces.of(&Topic::new(topic).unwrap()).history.count_max
    };
    log.apply(set(None, Some(count(7))));
    log.apply(set(Some("chat"), Some(count(3))));
    assert_eq!((of(&log, "chat/7"), of(&log, "score")), (3, 7));
    let bytes = NamespaceChange { history_bytes_max: Some(9), ..NamespaceChange::default() };
    let history = History { count_max: 3, bytes_max: 9, ..History::default() };
    let settings = Namespace { history, ..Namespace::default() };
    assert_eq!(log.apply(set(Some("chat"), Some(bytes))), Answer::Namespace(settings));
    log.apply(set(Some("chat"), None));
    assert_eq!(of(&log, "chat/7"), 7);
    log.apply(set(None, None));
    let revision = log.index;
    assert_eq!(log.view().namespaces, Namespaces { revision, ..Namespaces::default() });
}

#[test]
fn the_revision_of_the_namespaces_is_the_index_that_changed_them_last() {
    let mut log = Log::founded();
    assert_eq!(log.view().namespaces.revision, log.index);
    log.apply(set(Some("chat"), Some(count(3))));
    let changed = log.index;
    log.apply(set(Some("chat"), Some(count(3))));
    log.join(newcomer(2, "n2")).unwrap();
    log.refused(set(Some("chat"), Some(count(u32::MAX))));
    assert_eq!(log.view().namespaces.revision, changed, "nothing else changes it");
    let restored = State::restore(&log.state.snapshot()).unwrap();
    assert_eq!(restored.view(), log.state.view());
}

#[test]
fn settings_no_namespace_can_have_are_refused() {
    let mut log = Log::founded();
    let refusal = log.refused(set(Some("a/b"), Some(count(1))));
    assert_eq!(refusal, Refusal::Namespace(InvalidNamespace::Name));
    for name in [None, Some("chat")] {
        let refusal = log.refused(set(name, Some(count(u32::MAX))));
        let max = History::COUNT_CAP;
        assert_eq!(refusal, Refusal::Namespace(InvalidNamespace::HistoryCount { max }));
    }
}

#[test]
fn only_by_name_may_topics_live_in_memory() {
    let mut log = Log::founded();
    let memory =
        NamespaceChange { durability: Some(Durability::Memory), ..NamespaceChange::default() };
    let refusal = log.refused(set(None, Some(memory)));
    assert_eq!(refusal, Refusal::Namespace(InvalidNamespace::DefaultInMemory));
    let into_memory = |drops_stored| Command::SetNamespace {
        name: Some("chat".to_owned()),
        change: Some(memory),
        drops_stored,
    };
    assert_eq!(log.refused(into_memory(false)), Refusal::DropsStored("chat".to_owned()));
    log.apply(into_memory(true));
    assert!(log.view().namespaces.in_memory().iter().eq(["chat"]));
    let again = log.apply(into_memory(false));
    assert!(matches!(again, Answer::Namespace(_)), "it is there already: {again:?}");
    log.apply(set(Some("chat"), None));
    assert!(log.view().namespaces.in_memory().is_empty());
}

#[test]
fn only_so_many_namespaces_have_settings_of_their_own() {
    let mut log = Log::founded();
    for nth in 0..Rules::of(VersionRange::SUPPORTED.max).namespaces_max {
        log.apply(set(Some(&nth.to_string()), Some(count(1))));
    }
    let refusal = log.refused(set(Some("one more"), Some(count(1))));
    assert_eq!(refusal, Refusal::TooManyNamespaces { max: 1_000 });
    assert!(matches!(log.apply(set(Some("0"), Some(count(2)))), Answer::Namespace(_)));
    log.apply(set(Some("1"), None));
    assert!(matches!(log.apply(set(Some("one more"), Some(count(1)))), Answer::Namespace(_)));
}

#[test]
fn a_snapshot_restores_what_it_was_made_of_and_nothing_else_is_taken() {
    let mut log = Log::founded();
    log.join(newcomer(2, "n2")).unwrap();
    let snapshot = log.state.snapshot();
    assert_eq!(State::restore(&snapshot).as_ref(), Ok(&log.state));
    for end in 0..snapshot.len() {
        assert!(State::restore(&snapshot[..end]).is_err(), "cut after {end} bytes");
    }
    assert!(State::restore(&[&snapshot[..], b"x"].concat()).is_err());
}

#[test]
fn the_encoding_of_commands_is_frozen() {
    // Another value would make a node read an old log differently.
    let encoded = |command: Command| command.encode(ClusterVersion::FIRST).to_vec();
    assert_eq!(encoded(Command::Activate(NodeId(2))), [0, 1, 2, 2]);
    let place = Command::Place { version: 3, replicas: vec![vec![NodeId(1), NodeId(2)]] };
    assert_eq!(encoded(place), [0, 1, 3, 3, 1, 2, 1, 2]);
    assert_eq!(encoded(Command::Remove(NodeId(300))), [0, 1, 4, 172, 2]);
    let unset =
        Command::SetNamespace { name: Some("a".to_owned()), change: None, drops_stored: false };
    assert_eq!(encoded(unset), [0, 1, 5, 1, 1, b'a', 0, 0]);
    let set = Command::SetNamespace { name: None, change: Some(count(3)), drops_stored: false };
    assert_eq!(encoded(set), [0, 1, 5, 0, 1, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encoded(drain(NodeId(3))), [0, 1, 6, 3, 1]);
    assert_eq!(encoded(Command::Undrain(NodeId(3))), [0, 1, 7, 3]);
}

/// Commands that often meet: few directories, few names, few ids.
fn command() -> impl Strategy<Value = Command> {
    let join = (2..6u128, prop::option::of(1..6u64), 1..6u64, any::<bool>()).prop_map(
        |(incarnation, node, name, ours)| {
            let node = node.map(NodeId);
            let cluster = Some(if ours { CLUSTER } else { ClusterId(1) });
            Command::Join(Joining { node, cluster, ..newcomer(incarnation, &format!("n{name}")) })
        },
    );
    let place = (1..5u64, prop::collection::vec(1..6u64, 1..4)).prop_map(|(version, nodes)| {
        let list: Vec<NodeId> = nodes.into_iter().map(NodeId).collect();
        Command::Place { version, replicas: vec![list; 16] }
    });
    prop_oneof![
        4 => join,
        2 => (1..6u64).prop_map(|node| Command::Activate(NodeId(node))),
        1 => (1..6u64).prop_map(|node| Command::Remove(NodeId(node))),
        1 => (1..6u64).prop_map(|node| drain(NodeId(node))),
        1 => (1..6u64).prop_map(|node| Command::Undrain(NodeId(node))),
        2 => place,
        1 => Just(Command::Found(founding())),
        1 => (prop::option::of("[ab]"), prop::option::of((0..3u32).prop_map(count)))
            .prop_map(|(name, change)| Command::SetNamespace { name, change, drops_stored: true }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_asked_ids_names_and_directories_stay_unique(
        commands in prop::collection::vec(command(), 0..40),
    ) {
        let mut log = Log::founded();
        let mut given = BTreeMap::from([(Incarnation(1), NodeId(1))]);
        for command in commands {
            let before = log.state.clone();
            let incarnation = match &command {
                Command::Join(joining) => Some(joining.incarnation),
                _ => None,
            };
            let answer = log.apply(command);
            if let (Answer::Joined(joined), Some(incarnation)) = (answer, incarnation) {
                let first = *given.entry(incarnation).or_insert(joined.node);
                prop_assert_eq!(first, joined.node);
            }
            let ids: std::collections::BTreeSet<_> = given.values().collect();
            prop_assert_eq!(ids.len(), given.len(), "an id was given twice");
            let view = log.view();
            let names: std::collections::BTreeSet<_> =
                view.members.values().map(|m| &m.name).collect();
            prop_assert_eq!(names.len(), view.members.len(), "a name was given twice");
            prop_assert!(!view.shard_holders().is_empty());
            prop_assert_eq!(log.state != before, view.version == log.index);
            prop_assert_eq!(State::restore(&log.state.snapshot()), Ok(log.state.clone()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = State::restore(&bytes);
        let _ = Command::decode(&bytes);
        let _ = Answer::decode(&bytes);
    }

    #[test]
    fn a_command_is_read_as_it_was_written(command in command()) {
        let version = VersionRange::SUPPORTED.max;
        prop_assert_eq!(Command::decode(&command.encode(version)), Ok((version, command)));
    }
}

fn marked(log: u64, writes: u64) -> Option<LogMark> {
    Some(LogMark { log, writes })
}

/// The second node of a cluster, as it says that it has a log.
fn in_use(log: &mut Log) -> Joining {
    let joined = log.join(newcomer(2, "n2")).unwrap();
    let again = Joining { node: Some(joined.node), log: marked(9, 50), ..newcomer(2, "n2") };
    assert_eq!(log.join(again.clone()), Ok(joined));
    again
}

#[test]
fn a_node_that_was_in_use_is_refused_without_its_log() {
    let mut log = Log::founded();
    let n2 = in_use(&mut log);
    let lost = Refusal::LogLost { node: NodeId(2) };
    let cases = [
        Joining { node: None, log: None, ..n2.clone() },
        Joining { log: None, ..n2.clone() },
        Joining { log: marked(10, 99), ..n2.clone() },
    ];
    for joining in cases {
        assert_eq!(log.refused(Command::Join(joining)), lost);
    }
    let older = Joining { log: marked(9, 49), ..n2.clone() };
    let rolled_back = Refusal::LogRolledBack { node: NodeId(2), writes: 49, known: 50 };
    assert_eq!(log.refused(Command::Join(older)), rolled_back);
    assert!(log.join(Joining { log: marked(9, 51), ..n2 }).is_ok());
}

#[test]
fn an_active_member_that_never_said_that_it_has_a_log_is_not_let_in_as_new() {
    let mut log = Log::founded();
    let joined = log.join(newcomer(2, "n2")).unwrap();
    assert_eq!(log.join(newcomer(2, "n2")), Ok(joined), "it had no log yet, and no vote");
    log.done(Command::Activate(joined.node));
    let refused = log.refused(Command::Join(newcomer(2, "n2")));
    assert_eq!(refused, Refusal::LogLost { node: joined.node });
}

#[test]
fn a_node_with_other_times_is_refused_and_a_new_one_is_told_the_times() {
    let mut log = Log::founded();
    let slow = Joining { times: Some(ConsensusTimes::WAN), ..newcomer(2, "n2") };
    let refusal = Refusal::OtherTimes { said: ConsensusTimes::WAN, cluster: ConsensusTimes::LAN };
    assert_eq!(log.refused(Command::Join(slow)), refusal);
    let joined = log.join(newcomer(2, "n2")).unwrap();
    assert_eq!(joined.times.current, ConsensusTimes::LAN);
}

#[test]
fn times_change_when_every_member_holds_the_first_step_or_is_gone() {
    let mut log = Log::founded();
    for n in 2..=3 {
        let joined = log.join(newcomer(n, &format!("n{n}"))).unwrap();
        log.done(Command::Activate(joined.node));
    }
    log.done(Command::SetTimes(ConsensusTimes::WAN));
    let step = log.view().times;
    assert_eq!((step.current, step.next), (ConsensusTimes::LAN, Some(ConsensusTimes::WAN)));
    let other = ConsensusTimes { heartbeat_ms: 100, ..ConsensusTimes::LAN };
    let missing = vec![NodeId(1), NodeId(2), NodeId(3)];
    let busy = Refusal::TimesChanging { to: ConsensusTimes::WAN, missing };
    assert_eq!(log.refused(Command::SetTimes(other)), busy);

    log.done(Command::HoldsTimes { node: NodeId(1), version: step.version });
    log.done(Command::HoldsTimes { node: NodeId(2), version: step.version });
    let newcomer = log.join(newcomer(4, "n4")).unwrap();
    assert_eq!(newcomer.times, step, "it is told the step, so it is not waited for");
    assert_eq!(log.view().times, step);
    log.done(Command::Remove(NodeId(3)));
    let after = log.view().times;
    assert_eq!((after.current, after.next), (ConsensusTimes::WAN, None));
}

#[test]
fn a_recovered_cluster_has_only_the_survivors_and_reuses_no_id() {
    let mut log = Log::founded();
    for n in 2..=3 {
        let joined = log.join(newcomer(n, &format!("n{n}"))).unwrap();
        log.done(Command::Activate(joined.node));
    }
    let (me, lost) = (NodeId(2), [NodeId(1), NodeId(3)].into());
    assert_eq!(log.state.recover(me, &lost, 1 << 40), Ok(()));
    let view = log.view();
    assert_eq!(view.members.keys().collect::<Vec<_>>(), [&me]);
    assert_eq!(view.version, 1 << 40);
    // A node that the lost ones let in without this one's knowledge.
    assert!(view.is_gone(NodeId(4)));
    log.index = 1 << 40;
    let back = log.refused(Command::Join(newcomer(3, "n3")));
    assert_eq!(back, Refusal::Removed(NodeId(3)));
    assert!(log.join(newcomer(9, "new")).unwrap().node > NodeId(1000));
    assert_eq!(State::restore(&log.state.snapshot()), Ok(log.state));
}

#[test]
fn a_recovery_that_makes_no_sense_changes_nothing() {
    use super::RecoverError::{Itself, NoHolder, NotAMember, NotFounded};
    let lost = |id| BTreeSet::from([NodeId(id)]);
    assert_eq!(State::default().recover(NodeId(1), &lost(2), 99), Err(NotFounded));
    let mut log = Log::founded();
    let joined = log.join(newcomer(2, "n2")).unwrap();
    let before = log.state.clone();
    let mut refused = |me, id| log.state.recover(NodeId(me), &lost(id), 99);
    assert_eq!(refused(1, 1), Err(Itself(NodeId(1))));
    assert_eq!(refused(1, 7), Err(NotAMember(NodeId(7))));
    assert_eq!(refused(2, 1), Err(NoHolder(joined.node)));
    assert_eq!(log.state, before);
}
