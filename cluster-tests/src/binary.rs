//! Locates or builds the `pushonce` binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which build of the binary a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinaryBuild {
    /// The build under test.
    #[default]
    Current,
    /// A build that also supports the next cluster version.
    Next,
    /// A build that also supports the two cluster versions after the current one.
    AfterNext,
}

/// A command for the current build, without arguments and without the `PUSHONCE_*` variables of the test
/// process.
pub(crate) fn current_command() -> Command {
    command_for_build(BinaryBuild::Current)
}

/// As [`current_command`], for the given build.
pub(crate) fn command_for_build(build: BinaryBuild) -> Command {
    let mut command =
        Command::new(path_for_build(build).expect("the scenario checks that the binary exists"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PUSHONCE_") {
            command.env_remove(name);
        }
    }
    command
}

/// The variable that names an up-to-date binary, set by scripts that have already built it.
const BINARY_PATH_VAR: &str = "CLUSTER_TESTS_BINARY";

/// The path of a build's binary. The error names the variable and the feature that provide it.
pub(crate) fn path_for_build(build: BinaryBuild) -> Result<PathBuf, String> {
    let (variable, feature) = match build {
        BinaryBuild::Current => return Ok(current_path().to_owned()),
        BinaryBuild::Next => ("CLUSTER_TESTS_NEXT_BINARY", "next-version"),
        BinaryBuild::AfterNext => ("CLUSTER_TESTS_AFTER_NEXT_BINARY", "version-after-next"),
    };
    std::env::var_os(variable).map(PathBuf::from).ok_or_else(|| {
        format!("{variable} is not set; it must name a binary built with the feature {feature}")
    })
}

/// The binary of this checkout. It is built once per test process, so that a test never runs an outdated
/// binary.
fn current_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os(BINARY_PATH_VAR).map_or_else(build_current, PathBuf::from))
}

fn build_current() -> PathBuf {
    let program = std::env::current_exe().expect("the path of the test program");
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM.
    let mut folders = program.ancestors().skip(1).filter(|folder| !folder.ends_with("deps"));
    let profile = folders.next().expect("the directory of the build profile");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "-p", "pushonce", "--bin", "pushonce"]);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    // Cargo sets these variables for the test's package. Build scripts read them, so passing them on would
    // rebuild half of the dependencies here, and again in the next build outside.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let status = command.status().expect("start cargo");
    assert!(status.success(), "building the pushonce binary failed");
    profile.join("pushonce")
}
