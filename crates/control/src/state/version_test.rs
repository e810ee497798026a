//! The cluster version: raised by one when every member supports the next, and never lowered.

use pushonce_core::{BuildInfo, UnsupportedVersion};

use super::state_test::bootstrap_command;
use super::*;
use crate::member::tests::profile;
use crate::{JoinCredential, Profile};

const ONE: ClusterVersion = ClusterVersion(1);
const TWO: ClusterVersion = ClusterVersion(2);
/// A build that supports only the first version, and one that also supports the next.
const OLD: VersionRange = VersionRange { min: ONE, max: ONE };
const NEW: VersionRange = VersionRange { min: ONE, max: TWO };

fn build(supported: VersionRange) -> BuildInfo {
    BuildInfo { release: "0.1.0".to_owned(), supported }
}

fn bootstrapped(supported: VersionRange) -> ControlState {
    let profile = Profile { build: build(supported), ..profile("n1") };
    let mut state = ControlState::default();
    let command = BootstrapCommand { profile, cluster_version: ONE, ..bootstrap_command() };
    assert_eq!(state.apply(1, ControlCommand::Bootstrap(command)), CommandReply::Done);
    state
}

/// Starts the process of a node.
fn start(state: &mut ControlState, node: u64, count: u64, supported: VersionRange) -> CommandReply {
    let name = format!("n{node}");
    let joining = JoinCommand {
        incarnation: Incarnation(node.into()),
        run: ProcessRun { count, token: count },
        cluster: None,
        node: None,
        profile: Profile { build: build(supported), ..profile(&name) },
        times: None,
        log: None,
        credential: JoinCredential::None,
    };
    state.apply(state.version() + 1, ControlCommand::Join(joining))
}

fn finalize(state: &mut ControlState, to: ClusterVersion) -> CommandReply {
    state.apply(state.version() + 1, ControlCommand::Finalize { to })
}

fn rejected(rejection: CommandRejection) -> CommandReply {
    CommandReply::Rejected(rejection)
}

#[test]
fn version_is_raised_when_every_member_supports_it_and_old_builds_are_rejected() {
    let mut state = bootstrapped(NEW);
    assert!(matches!(start(&mut state, 2, 1, OLD), CommandReply::Joined(_)));
    let members = vec![NodeId(2)];
    let rejection = CommandRejection::NotSupportedByAll { to: TWO, members };
    assert!(
        rejection.to_string().contains("n2") && rejection.to_string().contains("run a build"),
        "{rejection}"
    );
    assert_eq!(finalize(&mut state, TWO), rejected(rejection.clone()));

    // Upgrades and downgrades are possible until the version is raised.
    assert!(matches!(start(&mut state, 2, 2, NEW), CommandReply::Joined(_)));
    assert!(matches!(start(&mut state, 2, 3, OLD), CommandReply::Joined(_)));
    assert_eq!(finalize(&mut state, TWO), rejected(rejection));
    assert!(matches!(start(&mut state, 2, 4, NEW), CommandReply::Joined(_)));
    assert_eq!(finalize(&mut state, TWO), CommandReply::Version(TWO));
    assert_eq!(
        finalize(&mut state, TWO),
        CommandReply::Version(TWO),
        "repeating the command changes nothing"
    );
    assert_eq!(state.view().unwrap().cluster_version, TWO);

    let error = UnsupportedVersion { found: TWO, supported: OLD };
    assert_eq!(start(&mut state, 2, 5, OLD), rejected(CommandRejection::Unsupported(error)));
    assert_eq!(start(&mut state, 3, 1, OLD), rejected(CommandRejection::Unsupported(error)));
    assert!(matches!(start(&mut state, 3, 1, NEW), CommandReply::Joined(_)));
}

#[test]
fn version_never_decreases_and_is_raised_by_one() {
    let mut state = bootstrapped(NEW);
    let three = ClusterVersion(3);
    let rejection = CommandRejection::NotNextVersion { to: three, cluster: ONE };
    assert_eq!(finalize(&mut state, three), rejected(rejection));
    assert_eq!(finalize(&mut state, TWO), CommandReply::Version(TWO));
    let rejection = CommandRejection::NotNextVersion { to: ONE, cluster: TWO };
    assert_eq!(finalize(&mut state, ONE), rejected(rejection));
}

#[test]
fn removed_member_does_not_block_the_version() {
    let mut state = bootstrapped(NEW);
    assert!(matches!(start(&mut state, 2, 1, OLD), CommandReply::Joined(_)));
    let index = state.version() + 1;
    assert_eq!(state.apply(index, ControlCommand::Remove(NodeId(2))), CommandReply::Done);
    assert_eq!(finalize(&mut state, TWO), CommandReply::Version(TWO));
}

#[test]
fn node_without_a_version_is_rejected() {
    let mut state = bootstrapped(NEW);
    let none = VersionRange::default();
    let rejection = CommandRejection::NoVersionAnnounced { cluster: ONE };
    assert_eq!(start(&mut state, 2, 1, none), rejected(rejection));
}

#[test]
fn snapshot_carries_the_cluster_version_and_an_older_build_rejects_it() {
    let mut state = bootstrapped(NEW);
    let before = state.snapshot();
    assert_eq!(ControlState::restore_within(OLD, &before).as_ref(), Ok(&state));
    assert_eq!(ControlState::restore_within(NEW, &before).as_ref(), Ok(&state));
    finalize(&mut state, TWO);
    let after = state.snapshot();
    let error = UnsupportedVersion { found: TWO, supported: OLD };
    assert_eq!(
        ControlState::restore_within(OLD, &after),
        Err(VersionedDecodeError::Unsupported(error))
    );
    assert_eq!(ControlState::restore_within(NEW, &after), Ok(state));
}

#[test]
fn builds_that_support_a_version_decode_the_same_commands() {
    let command = ControlCommand::Finalize { to: TWO };
    let entry = command.encode(ONE);
    assert_eq!(ControlCommand::decode_within(OLD, &entry), Ok((ONE, command.clone())));
    assert_eq!(ControlCommand::decode_within(NEW, &entry), Ok((ONE, command.clone())));
    let entry = command.encode(TWO);
    assert!(matches!(
        ControlCommand::decode_within(OLD, &entry),
        Err(VersionedDecodeError::Unsupported(_))
    ));
    assert_eq!(ControlCommand::decode_within(NEW, &entry), Ok((TWO, command)));
}

/// The version can then be requested on a node with the old build, which reports that node as the obstacle.
#[test]
fn next_version_is_requested_when_any_member_supports_it() {
    let mut state = bootstrapped(OLD);
    assert!(matches!(start(&mut state, 2, 1, OLD), CommandReply::Joined(_)));
    let next = |state: &ControlState| state.view().expect("the cluster exists").next_version();
    assert_eq!(next(&state), ONE);
    assert!(matches!(start(&mut state, 2, 2, NEW), CommandReply::Joined(_)));
    assert_eq!(next(&state), TWO);
    let members = vec![NodeId(1)];
    assert_eq!(
        finalize(&mut state, TWO),
        rejected(CommandRejection::NotSupportedByAll { to: TWO, members })
    );
}
