//! The binary as a command: what a person types, and what comes back.

use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::binary;
use crate::wait::secs;

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub out: String,
    /// What it said beside that: its log, and why it failed.
    pub err: String,
}

/// Runs `pushonce` with `args`, with `input` piped in, and waits for its end.
pub async fn pushonce<S: AsRef<str>>(args: impl IntoIterator<Item = S>, input: &str) -> Done {
    run(args, input, Stdio::piped()).await
}

/// As [`pushonce`] without input, with its output to somewhere else: `out` of what comes back is empty.
pub async fn pushonce_into<S: AsRef<str>>(args: impl IntoIterator<Item = S>, to: Stdio) -> Done {
    run(args, "", to).await
}

/// As [`pushonce`], with an input that stays open until the command ends.
pub async fn pushonce_piped<S: AsRef<str>>(args: impl IntoIterator<Item = S>, input: &str) -> Done {
    let (child, _stdin) = start(args, input, Stdio::piped()).await;
    done(child).await
}

async fn run<S: AsRef<str>>(args: impl IntoIterator<Item = S>, input: &str, out: Stdio) -> Done {
    let (child, stdin) = start(args, input, out).await;
    drop(stdin);
    done(child).await
}

async fn start<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
    out: Stdio,
) -> (Child, ChildStdin) {
    let mut command = Command::from(binary::command());
    for arg in args {
        command.arg(arg.as_ref());
    }
    command.stdin(Stdio::piped()).stdout(out).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    // A command that has failed does not read to the end.
    let _ = stdin.write_all(input.as_bytes()).await;
    (child, stdin)
}

async fn done(child: Child) -> Done {
    let ended = timeout(secs(60), child.wait_with_output()).await.expect("the command ends");
    let output = ended.expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Done { status: output.status, out: text(output.stdout), err: text(output.stderr) }
}

impl Done {
    /// What it printed. It must have ended well.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }

    /// What it printed before it ended with this status.
    pub fn exited(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self.out
    }

    /// Why it failed, which must be told in these words. It must not have ended well.
    pub fn failed(self, words: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        for &word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}
