//! Settings of namespaces: defaults, revision, limits.

use pushonce_core::{Durability, History, InvalidNamespace, Namespace, NamespaceChange, Topic};

use super::state_test::{CommandLog, join_command};
use super::*;
use crate::MoveToMemory;

/// A change of the history count limit only.
pub(super) fn count(history_count_max: u32) -> NamespaceChange {
    NamespaceChange { history_count_max: Some(history_count_max), ..NamespaceChange::default() }
}

fn set(name: Option<&str>, change: Option<NamespaceChange>) -> ControlCommand {
    ControlCommand::SetNamespace {
        name: name.map(str::to_owned),
        change,
        move_to_memory: MoveToMemory::Reject,
    }
}

fn into_memory(move_to_memory: MoveToMemory) -> ControlCommand {
    let durability = Some(Durability::Memory);
    let change = Some(NamespaceChange { durability, ..NamespaceChange::default() });
    ControlCommand::SetNamespace { name: Some("chat".to_owned()), change, move_to_memory }
}

#[test]
fn namespace_uses_the_default_settings_unless_it_has_its_own() {
    let mut log = CommandLog::bootstrapped();
    let count_max_of = |log: &CommandLog, topic: &str| {
        log.view().namespaces.for_topic(&Topic::new(topic).unwrap()).history.count_max
    };
    log.apply(set(None, Some(count(7))));
    log.apply(set(Some("chat"), Some(count(3))));
    assert_eq!((count_max_of(&log, "chat/7"), count_max_of(&log, "score")), (3, 7));
    let bytes = NamespaceChange { history_bytes_max: Some(9), ..NamespaceChange::default() };
    let history = History { count_max: 3, bytes_max: 9, ..History::default() };
    let settings = Namespace { history, ..Namespace::default() };
    assert_eq!(log.apply(set(Some("chat"), Some(bytes))), CommandReply::Namespace(settings));
    log.apply(set(Some("chat"), None));
    assert_eq!(count_max_of(&log, "chat/7"), 7);
    log.apply(set(None, None));
    let revision = log.index;
    assert_eq!(log.view().namespaces, Namespaces { revision, ..Namespaces::default() });
}

#[test]
fn namespaces_revision_is_the_index_of_their_last_change() {
    let mut log = CommandLog::bootstrapped();
    assert_eq!(log.view().namespaces.revision, log.index);
    log.apply(set(Some("chat"), Some(count(3))));
    let changed = log.index;
    log.apply(set(Some("chat"), Some(count(3))));
    log.join(join_command(2, "n2")).unwrap();
    log.apply_rejected(set(Some("chat"), Some(count(u32::MAX))));
    assert_eq!(log.view().namespaces.revision, changed, "another command changed the revision");
    let restored = ControlState::restore(&log.state.snapshot()).unwrap();
    assert_eq!(restored.view(), log.state.view());
}

#[test]
fn invalid_namespace_settings_are_rejected() {
    let mut log = CommandLog::bootstrapped();
    let rejection = log.apply_rejected(set(Some("a/b"), Some(count(1))));
    assert_eq!(rejection, CommandRejection::Namespace(InvalidNamespace::Name));
    for name in [None, Some("chat")] {
        let rejection = log.apply_rejected(set(name, Some(count(u32::MAX))));
        let max = History::COUNT_CAP;
        assert_eq!(rejection, CommandRejection::Namespace(InvalidNamespace::HistoryCount { max }));
    }
}

#[test]
fn two_namespaces_cannot_differ_in_case_only() {
    let mut log = CommandLog::bootstrapped();
    log.apply(set(Some("chat"), Some(count(1))));
    let rejection = log.apply_rejected(set(Some("Chat"), Some(count(1))));
    let (name, other) = ("Chat".to_owned(), "chat".to_owned());
    assert_eq!(rejection, CommandRejection::NamespaceDiffersInCase { name, other });
    log.apply(set(Some("chat"), Some(count(2))));
    log.apply(set(Some("chat"), None));
    log.apply(set(Some("Chat"), Some(count(1))));
}

#[test]
fn only_a_named_namespace_can_live_in_memory() {
    let mut log = CommandLog::bootstrapped();
    let memory =
        NamespaceChange { durability: Some(Durability::Memory), ..NamespaceChange::default() };
    let rejection = log.apply_rejected(set(None, Some(memory)));
    assert_eq!(rejection, CommandRejection::Namespace(InvalidNamespace::DefaultInMemory));
    assert_eq!(
        log.apply_rejected(into_memory(MoveToMemory::Reject)),
        CommandRejection::WouldLoseStoredMessages("chat".to_owned())
    );
    log.apply(into_memory(MoveToMemory::KeepStored));
    assert!(log.view().namespaces.in_memory_names().iter().eq(["chat"]));
    let again = log.apply(into_memory(MoveToMemory::Reject));
    assert!(
        matches!(again, CommandReply::Namespace(_)),
        "the namespace is already in memory: {again:?}"
    );
    log.apply(set(Some("chat"), None));
    assert!(log.view().namespaces.in_memory_names().is_empty());
}

#[test]
fn stored_messages_are_dropped_only_after_a_forced_move_to_memory() {
    let mut log = CommandLog::bootstrapped();
    let drop_stored = |log: &CommandLog| log.view().namespaces.drop_stored.contains("chat");
    log.apply(into_memory(MoveToMemory::KeepStored));
    assert!(!drop_stored(&log));
    log.apply(into_memory(MoveToMemory::DropStored));
    assert_eq!((drop_stored(&log), log.view().namespaces.revision), (true, log.index));
    // Shards may not have applied the forced move yet.
    log.apply(set(Some("chat"), Some(count(3))));
    log.apply(into_memory(MoveToMemory::Reject));
    assert!(drop_stored(&log));
    let replicated =
        NamespaceChange { durability: Some(Durability::Replicated), ..NamespaceChange::default() };
    for back in [Some(replicated), None] {
        log.apply(into_memory(MoveToMemory::DropStored));
        log.apply(set(Some("chat"), back));
        assert!(!drop_stored(&log));
        log.apply(into_memory(MoveToMemory::KeepStored));
        assert!(!drop_stored(&log), "an earlier forced move permits nothing");
    }
}

#[test]
fn number_of_namespaces_with_own_settings_is_limited() {
    let mut log = CommandLog::bootstrapped();
    for nth in 0..Rules::for_version(VersionRange::supported().max).namespaces_max {
        log.apply(set(Some(&nth.to_string()), Some(count(1))));
    }
    let rejection = log.apply_rejected(set(Some("one more"), Some(count(1))));
    assert_eq!(rejection, CommandRejection::TooManyNamespaces { max: 1_000 });
    assert!(matches!(log.apply(set(Some("0"), Some(count(2)))), CommandReply::Namespace(_)));
    log.apply(set(Some("1"), None));
    assert!(matches!(log.apply(set(Some("one more"), Some(count(1)))), CommandReply::Namespace(_)));
}
