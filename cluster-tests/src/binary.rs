//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which build of the binary a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinaryBuild {
    /// The one under test.
    #[default]
    Current,
    /// One that supports the next cluster version, too.
    Next,
    /// One that supports the two after the present.
    AfterNext,
}

/// The binary under test, with nothing said yet, and deaf to what the environment of the tests says to
/// nodes.
pub(crate) fn current_command() -> Command {
    command_for_build(BinaryBuild::Current)
}

/// The same of a build.
pub(crate) fn command_for_build(build: BinaryBuild) -> Command {
    let mut command =
        Command::new(path_for_build(build).expect("the row asked whether there is one"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PUSHONCE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Names the binary to test, for whoever has built it, and knows that it is today's.
const BINARY_PATH_VAR: &str = "CLUSTER_TESTS_BINARY";

/// The binary of a build; `Err` names the variable and the feature that provide it.
pub(crate) fn path_for_build(build: BinaryBuild) -> Result<PathBuf, String> {
    let (variable, feature) = match build {
        BinaryBuild::Current => return Ok(current_path().to_owned()),
        BinaryBuild::Next => ("CLUSTER_TESTS_NEXT_BINARY", "next-version"),
        BinaryBuild::AfterNext => ("CLUSTER_TESTS_AFTER_NEXT_BINARY", "version-after-next"),
    };
    std::env::var_os(variable).map(PathBuf::from).ok_or_else(|| {
        format!("{variable} names no binary that was built with the feature {feature}")
    })
}

/// The binary of this checkout, built if it is not, once a test process: a story must never run
/// against yesterday's.
fn current_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os(BINARY_PATH_VAR).map_or_else(build_current, PathBuf::from))
}

fn build_current() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows where it is");
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM.
    let mut folders = program.ancestors().skip(1).filter(|folder| !folder.ends_with("deps"));
    let profile = folders.next().expect("the folder of the profile");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "-p", "pushonce", "--bin", "pushonce"]);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    // What cargo says to a test about its package is news to the build scripts that read it: with
    // it, half of the dependencies would be built again in here, and once more outside.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the binary does not build");
    profile.join("pushonce")
}
