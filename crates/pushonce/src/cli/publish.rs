//! `pushonce publish`: one message, or every line of standard input.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use pushonce_client::{Acknowledgement, Failure, PublishStream, Publisher, Server};
use pushonce_core::{ContentType, Key, Placed, Publish, Topic};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::output::{self, OutputError};

/// What to publish, and through whom.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to
    #[arg(value_parser = str::parse::<Topic>)]
    topic: Topic,
    /// The payload; without it every line of standard input is one message
    data: Option<String>,
    /// A name for the message: published again under it, it stands once [only with DATA]
    #[arg(long, value_parser = |text: &str| Key::new(text), requires = "data")]
    key: Option<Key>,
    /// What the payload is [default: JSON if it is JSON, else text]
    #[arg(long, value_name = "TYPE", value_parser = |text: &str| ContentType::parse(text))]
    content_type: Option<ContentType>,
    /// gRPC address of a node; may be given more than once
    #[arg(
        long,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    server: Vec<Server>,
}

pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let publisher = Publisher::new(args.server.clone());
    match &args.data {
        Some(data) => {
            let placed = publisher.publish(args.message(data.clone().into())).await?;
            Ok(report(json, &placed)?)
        }
        None => lines(&args, publisher, json, shutdown).await,
    }
}

impl Args {
    fn message(&self, payload: Bytes) -> Publish {
        let content_type =
            self.content_type.clone().unwrap_or_else(|| ContentType::guess(&payload));
        let (topic, key) = (self.topic.clone(), self.key.clone());
        Publish { topic, content_type, key, stamp: None, payload }
    }
}

/// Every line goes out without waiting for the one before; the places come in the same order.
async fn lines(
    args: &Args,
    publisher: Publisher,
    json: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() {
        bail!("nothing to publish: give DATA, or pipe lines in");
    }
    let mut stream = publisher.stream().await?;
    let (sent, acknowledgements) = tokio::sync::mpsc::channel(PublishStream::IN_FLIGHT_MAX);
    let reporter = tokio::spawn(report_all(acknowledgements, json));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line.context("standard input")?,
            () = shutdown.cancelled() => None,
        };
        let Some(line) = line else { break };
        let acknowledgement = stream.send(args.message(line.into())).await?;
        if sent.send(acknowledgement).await.is_err() {
            break;
        }
    }
    drop(sent);
    reporter.await?
}

async fn report_all(
    mut acknowledgements: tokio::sync::mpsc::Receiver<Acknowledgement>,
    json: bool,
) -> anyhow::Result<()> {
    let mut line = 0_u64;
    while let Some(acknowledgement) = acknowledgements.recv().await {
        line += 1;
        let outcome = acknowledgement
            .await
            .unwrap_or_else(|_| Err(Failure::Unknown("the stream ended".to_owned())));
        report(json, &outcome.with_context(|| format!("line {line}"))?)?;
    }
    Ok(())
}

fn report(json: bool, placed: &Placed) -> Result<(), OutputError> {
    if json {
        let acknowledged = json!({
            "position": placed.position.to_string(),
            "time": placed.time.0,
            "durability": placed.durability.as_str(),
        });
        output::line(acknowledged)
    } else {
        output::line(placed.position)
    }
}
