//! The version of a cluster: raised by one, when every member supports the next, and never lowered.

use pushonce_core::{Build, UnsupportedVersion};

use super::state_test::founding;
use super::*;
use crate::member::tests::profile;

const ONE: ClusterVersion = ClusterVersion(1);
const TWO: ClusterVersion = ClusterVersion(2);
/// Of a build that supports the first version, and of one that supports the next, too.
const OLD: VersionRange = VersionRange { min: ONE, max: ONE };
const NEW: VersionRange = VersionRange { min: ONE, max: TWO };

fn build(supported: VersionRange) -> Build {
    Build { release: "0.1.0".to_owned(), supported }
}

fn founded(supported: VersionRange) -> State {
    let profile = Profile { build: build(supported), ..profile("n1") };
    let mut state = State::default();
    let founding = Founding { profile, cluster_version: ONE, ..founding() };
    assert_eq!(state.apply(1, Command::Found(founding)), Answer::Done);
    state
}

/// A start of the process of a node.
fn start(state: &mut State, node: u64, count: u64, supported: VersionRange) -> Answer {
    let name = format!("n{node}");
    let joining = Joining {
        incarnation: Incarnation(node.into()),
        run: Run { count, token: count },
        cluster: None,
        node: None,
        profile: Profile { build: build(supported), ..profile(&name) },
        times: None,
        log: None,
    };
    state.apply(state.version() + 1, Command::Join(joining))
}

fn finalize(state: &mut State, to: ClusterVersion) -> Answer {
    state.apply(state.version() + 1, Command::Finalize { to })
}

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

#[test]
fn the_version_is_raised_when_every_member_supports_it_and_old_builds_are_refused_then() {
    let mut state = founded(NEW);
    assert!(matches!(start(&mut state, 2, 1, OLD), Answer::Joined(_)));
    let members = vec![NodeId(2)];
    let why = Refusal::NotSupportedByAll { to: TWO, members };
    assert!(why.to_string().contains("n2") && why.to_string().contains("run a build"), "{why}");
    assert_eq!(finalize(&mut state, TWO), refused(why.clone()));

    // Forward, back, and forward again: all is possible until it is raised.
    assert!(matches!(start(&mut state, 2, 2, NEW), Answer::Joined(_)));
    assert!(matches!(start(&mut state, 2, 3, OLD), Answer::Joined(_)));
    assert_eq!(finalize(&mut state, TWO), refused(why));
    assert!(matches!(start(&mut state, 2, 4, NEW), Answer::Joined(_)));
    assert_eq!(finalize(&mut state, TWO), Answer::Version(TWO));
    assert_eq!(finalize(&mut state, TWO), Answer::Version(TWO), "saying it again changes nothing");
    assert_eq!(state.view().unwrap().cluster_version, TWO);

    let why = UnsupportedVersion { found: TWO, supported: OLD };
    assert_eq!(start(&mut state, 2, 5, OLD), refused(Refusal::Unsupported(why)));
    assert_eq!(start(&mut state, 3, 1, OLD), refused(Refusal::Unsupported(why)));
    assert!(matches!(start(&mut state, 3, 1, NEW), Answer::Joined(_)));
}

#[test]
fn the_version_never_goes_down_and_skips_none() {
    let mut state = founded(NEW);
    let three = ClusterVersion(3);
    let why = Refusal::NotTheNextVersion { to: three, cluster: ONE };
    assert_eq!(finalize(&mut state, three), refused(why));
    assert_eq!(finalize(&mut state, TWO), Answer::Version(TWO));
    let why = Refusal::NotTheNextVersion { to: ONE, cluster: TWO };
    assert_eq!(finalize(&mut state, ONE), refused(why));
}

#[test]
fn a_member_that_is_removed_does_not_hold_the_version_back() {
    let mut state = founded(NEW);
    assert!(matches!(start(&mut state, 2, 1, OLD), Answer::Joined(_)));
    let index = state.version() + 1;
    assert_eq!(state.apply(index, Command::Remove(NodeId(2))), Answer::Done);
    assert_eq!(finalize(&mut state, TWO), Answer::Version(TWO));
}

#[test]
fn a_node_that_names_no_version_does_not_come_in() {
    let mut state = founded(NEW);
    let none = VersionRange::default();
    let why = Refusal::Unversioned { cluster: ONE };
    assert_eq!(start(&mut state, 2, 1, none), refused(why));
}

#[test]
fn a_snapshot_has_the_version_of_the_cluster_and_an_older_build_refuses_it() {
    let mut state = founded(NEW);
    let before = state.snapshot();
    assert_eq!(State::restore_within(OLD, &before).as_ref(), Ok(&state));
    assert_eq!(State::restore_within(NEW, &before).as_ref(), Ok(&state));
    finalize(&mut state, TWO);
    let after = state.snapshot();
    let why = UnsupportedVersion { found: TWO, supported: OLD };
    assert_eq!(State::restore_within(OLD, &after), Err(Unreadable::Version(why)));
    assert_eq!(State::restore_within(NEW, &after), Ok(state));
}

#[test]
fn builds_that_support_a_version_read_the_same_commands_of_it() {
    let command = Command::Finalize { to: TWO };
    let entry = command.encode(ONE);
    assert_eq!(Command::decode_within(OLD, &entry), Ok((ONE, command.clone())));
    assert_eq!(Command::decode_within(NEW, &entry), Ok((ONE, command.clone())));
    let entry = command.encode(TWO);
    assert!(matches!(Command::decode_within(OLD, &entry), Err(Unreadable::Version(_))));
    assert_eq!(Command::decode_within(NEW, &entry), Ok((TWO, command)));
}

/// So that it can be asked for at a node with the old build, which says then that it is the one.
#[test]
fn the_next_version_is_asked_for_when_the_build_of_any_member_supports_it() {
    let mut state = founded(OLD);
    assert!(matches!(start(&mut state, 2, 1, OLD), Answer::Joined(_)));
    let next = |state: &State| state.view().expect("founded").next_version();
    assert_eq!(next(&state), ONE);
    assert!(matches!(start(&mut state, 2, 2, NEW), Answer::Joined(_)));
    assert_eq!(next(&state), TWO);
    let members = vec![NodeId(1)];
    assert_eq!(finalize(&mut state, TWO), refused(Refusal::NotSupportedByAll { to: TWO, members }));
}
