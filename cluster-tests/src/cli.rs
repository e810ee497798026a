//! The binary as a command: what a person types, and what comes back.

use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::binary;
use crate::wait::secs;

/// A command that has ended.
#[derive(Debug)]
pub struct CommandOutput {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said beside that: its log, and why it failed.
    pub stderr: String,
}

/// Runs `pushonce` with `args`, with `input` piped in, and waits for its end.
pub async fn pushonce<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> CommandOutput {
    run(args, input, Stdio::piped()).await
}

/// As [`pushonce`] without input, with its output to somewhere else: `out` of what comes back is empty.
pub async fn pushonce_with_stdout<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    stdout: Stdio,
) -> CommandOutput {
    run(args, "", stdout).await
}

/// As [`pushonce`], with an input that stays open until the command ends.
pub async fn pushonce_with_open_stdin<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> CommandOutput {
    let (child, _stdin) = start(args, input, Stdio::piped()).await;
    wait_output(child).await
}

async fn run<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
    stdout: Stdio,
) -> CommandOutput {
    let (child, stdin) = start(args, input, stdout).await;
    drop(stdin);
    wait_output(child).await
}

async fn start<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
    stdout: Stdio,
) -> (Child, ChildStdin) {
    let mut command = Command::from(binary::current_command());
    for arg in args {
        command.arg(arg.as_ref());
    }
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    // A command that has failed does not read to the end.
    let _ = stdin.write_all(input.as_bytes()).await;
    (child, stdin)
}

async fn wait_output(child: Child) -> CommandOutput {
    let output = timeout(secs(60), child.wait_with_output()).await.expect("the command ends");
    let output = output.expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    CommandOutput {
        status: output.status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl CommandOutput {
    /// What it printed. It must have ended well.
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// What it printed before it ended with this status.
    pub fn expect_exit_code(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self.stdout
    }

    /// Why it failed, which must be told in these words. It must not have ended well.
    pub fn expect_failure(self, messages: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        for &message in messages {
            assert!(self.stderr.contains(message), "{message:?} is not in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}
