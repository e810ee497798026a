//! The site process, controlled by this one.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The process of the site; dropping it ends the process.
pub(super) struct SiteProcess {
    pub(super) address: SocketAddr,
    stdin: ChildStdin,
    stdout_lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

/// What the site has counted since its start.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct SiteCounters {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    pub(super) cpu_nanos: u64,
}

#[derive(Deserialize)]
struct SiteStarted {
    address: SocketAddr,
}

#[derive(Deserialize)]
struct SiteChanged {}

impl SiteProcess {
    pub(super) async fn start(
        program: &Path,
        page: u32,
        state: u32,
        publish_to: Option<SocketAddr>,
    ) -> anyhow::Result<SiteProcess> {
        let mut command = Command::new(program);
        command.args(["bench", "origin", "--page", &page.to_string()]);
        command.args(["--state", &state.to_string()]);
        if let Some(node) = publish_to {
            command.args(["--publish-to", &node.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the site")?;
        let stdin = child.stdin.take().context("the site has no standard input")?;
        let stdout = child.stdout.take().context("the site has no standard output")?;
        let mut stdout_lines = BufReader::new(stdout).lines();
        let started: SiteStarted = read_json_line(&mut stdout_lines).await?;
        Ok(SiteProcess { address: started.address, stdin, stdout_lines, _child: child })
    }

    /// Makes a change, and waits until the site has sent it.
    pub(super) async fn change(&mut self) -> anyhow::Result<()> {
        let _done: SiteChanged = self.send_command("change\n").await?;
        Ok(())
    }

    pub(super) async fn counters(&mut self) -> anyhow::Result<SiteCounters> {
        self.send_command("tell\n").await
    }

    async fn send_command<T: DeserializeOwned>(&mut self, command: &str) -> anyhow::Result<T> {
        self.stdin.write_all(command.as_bytes()).await?;
        read_json_line(&mut self.stdout_lines).await
    }
}

async fn read_json_line<T: DeserializeOwned>(
    stdout_lines: &mut Lines<BufReader<ChildStdout>>,
) -> anyhow::Result<T> {
    let line =
        stdout_lines.next_line().await?.context("the site has ended; its messages are above")?;
    Ok(serde_json::from_str(&line)?)
}
