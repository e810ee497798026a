//! Runs the `pushonce` binary as a command line tool and captures its output.

use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::binary;
use crate::wait::secs;

/// The output of a command that exited.
#[derive(Debug)]
pub struct CommandOutput {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: String,
    /// The standard error output: the log and the error message.
    pub stderr: String,
}

/// Runs `pushonce` with `args` and with `input` on standard input, and waits until it exits.
pub async fn pushonce<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> CommandOutput {
    run(args, input, Stdio::piped()).await
}

/// As [`pushonce`] without input, with its standard output redirected: `stdout` of the result is empty.
pub async fn pushonce_with_stdout<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    stdout: Stdio,
) -> CommandOutput {
    run(args, "", stdout).await
}

/// As [`pushonce`], with a standard input that stays open until the command exits.
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
    let mut child = command.kill_on_drop(true).spawn().expect("start the binary");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A command that fails may exit before it reads its input.
    let _ = stdin.write_all(input.as_bytes()).await;
    (child, stdin)
}

pub(crate) async fn wait_output(child: Child) -> CommandOutput {
    let output =
        timeout(secs(60), child.wait_with_output()).await.expect("the command exits within 60 s");
    let output = output.expect("read the output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8 output");
    CommandOutput {
        status: output.status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl CommandOutput {
    /// The standard output. Panics unless the command succeeded.
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// The standard output. Panics unless the command exited with this code.
    pub fn expect_exit_code(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self.stdout
    }

    /// Checks that the command failed with exit code 1, did not panic, and printed all of these messages.
    pub fn expect_failure(self, messages: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        for &message in messages {
            assert!(self.stderr.contains(message), "{message:?} is not in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}
