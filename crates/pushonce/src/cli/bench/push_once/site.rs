//! The site as this process sees it: a child that does what it is told.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Ends when it is dropped.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    words: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

/// What the site has done since it began.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Told {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    pub(super) cpu_nanos: u64,
}

#[derive(Deserialize)]
struct Begun {
    address: SocketAddr,
}

#[derive(Deserialize)]
struct Changed {}

impl Site {
    pub(super) async fn start(
        page: u32,
        state: u32,
        publish_to: Option<SocketAddr>,
    ) -> anyhow::Result<Site> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "origin", "--page", &page.to_string()]);
        command.args(["--state", &state.to_string()]);
        if let Some(node) = publish_to {
            command.args(["--publish-to", &node.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the site does not start")?;
        let words = child.stdin.take().context("the site has no input")?;
        let answers = child.stdout.take().context("the site has no output")?;
        let mut answers = BufReader::new(answers).lines();
        let begun: Begun = line(&mut answers).await?;
        Ok(Site { address: begun.address, words, answers, _child: child })
    }

    /// Returns when the site has done its part.
    pub(super) async fn change(&mut self) -> anyhow::Result<()> {
        let _done: Changed = self.say("change\n").await?;
        Ok(())
    }

    pub(super) async fn told(&mut self) -> anyhow::Result<Told> {
        self.say("tell\n").await
    }

    async fn say<T: DeserializeOwned>(&mut self, word: &str) -> anyhow::Result<T> {
        self.words.write_all(word.as_bytes()).await?;
        line(&mut self.answers).await
    }
}

async fn line<T: DeserializeOwned>(
    answers: &mut Lines<BufReader<ChildStdout>>,
) -> anyhow::Result<T> {
    let line = answers.next_line().await?.context("the site has ended; what it said is above")?;
    Ok(serde_json::from_str(&line)?)
}
