//! `pushonce publish`: publishes one message, or every line of standard input.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use pushonce_client::{AcknowledgementFuture, PublishStream, Publisher, ServerAddress};
use pushonce_core::{Acknowledgement, ContentType, MessageKey, Publish, Topic};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use super::access_token::TokenArgs;
use super::trust::TrustArgs;
use crate::output::{self, OutputError};

/// What to publish, and the servers to use.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Topic to publish to
    #[arg(value_parser = str::parse::<Topic>)]
    topic: Topic,
    /// Payload. Without it and without --file, every line of standard input is one message
    data: Option<OsString>,
    /// File whose content is the payload of one message; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// Idempotency key: a message published again with its key is stored once [only with DATA or --file]
    #[arg(long, value_parser = |text: &str| MessageKey::new(text))]
    key: Option<MessageKey>,
    /// Type of the payload [default: JSON if it is JSON, else text]
    #[arg(long, value_name = "TYPE", value_parser = |text: &str| ContentType::parse(text))]
    content_type: Option<ContentType>,
    /// gRPC address of a node; may be repeated
    #[arg(
        long,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    server: Vec<ServerAddress>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let builder = Publisher::builder(args.server.clone()).trust(args.trust.load()?);
    let publisher = match args.token.provider() {
        Some(token) => builder.token(token).build()?,
        None => builder.build()?,
    };
    let payload = match (&args.data, &args.file) {
        (Some(data), _) => Some(Bytes::from(data.clone().into_vec())),
        (None, Some(file)) => Some(read_payload(file)?),
        (None, None) => None,
    };
    match payload {
        Some(payload) => {
            let acknowledgement = tokio::select! {
                placed = publisher.publish(args.to_publish(payload)) => placed?,
                () = shutdown.cancelled() => bail!("interrupted: the outcome is unknown"),
            };
            Ok(print_acknowledgement(json, &acknowledgement)?)
        }
        None if args.key.is_some() => {
            bail!("--key applies to one message: give DATA or --file, not lines of standard input")
        }
        None => publish_lines(&args, publisher, json, shutdown).await,
    }
}

/// Reads the content of a file, or standard input to its end.
fn read_payload(file: &Path) -> anyhow::Result<Bytes> {
    let mut payload = Vec::new();
    // One byte more than the largest payload, so that a larger one is rejected and not truncated.
    let max = Publish::PAYLOAD_BYTES_CAP as u64 + 1;
    let result = if file == Path::new("-") {
        std::io::stdin().lock().take(max).read_to_end(&mut payload)
    } else {
        File::open(file).and_then(|file| file.take(max).read_to_end(&mut payload))
    };
    result.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(payload.into())
}

/// Reads a line of any bytes, without its line break; `None` at the end of the input.
///
/// # Errors
/// When a line is longer than the largest payload; the rest of it is not read.
async fn next_line(input: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let max = Publish::PAYLOAD_BYTES_CAP as u64 + 2;
    let count =
        input.take(max).read_until(b'\n', &mut line).await.context("cannot read standard input")?;
    if count == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_some() {
        line.pop_if(|last| *last == b'\r');
    }
    if line.len() > Publish::PAYLOAD_BYTES_CAP {
        bail!("a line is longer than {} bytes, the largest payload", Publish::PAYLOAD_BYTES_CAP);
    }
    Ok(Some(line))
}

impl Args {
    fn to_publish(&self, payload: Bytes) -> Publish {
        let content_type =
            self.content_type.clone().unwrap_or_else(|| ContentType::detect(&payload));
        let (topic, key) = (self.topic.clone(), self.key.clone());
        Publish { topic, content_type, key, publish_id: None, payload }
    }
}

/// Publishes every line without waiting for the previous one; acknowledgements arrive in the same order.
async fn publish_lines(
    args: &Args,
    publisher: Publisher,
    json: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() {
        bail!("nothing to publish: give DATA, or pipe lines in");
    }
    let mut stream = publisher.stream().await?;
    let (acknowledgement_sender, acknowledgement_receiver) =
        tokio::sync::mpsc::channel(PublishStream::IN_FLIGHT_MAX);
    let mut report_task = tokio::spawn(report_acknowledgements(acknowledgement_receiver, json));
    let mut input = BufReader::new(tokio::io::stdin());
    let mut number = 0_u64;
    let result = loop {
        let line = tokio::select! {
            line = next_line(&mut input) => line,
            // A line was rejected: the next line may arrive much later.
            ended = &mut report_task => return ended?,
            () = shutdown.cancelled() => Ok(None),
        };
        number += 1;
        let send_line = async {
            let Some(line) = line? else { return anyhow::Ok(None) };
            Ok(Some(stream.send(args.to_publish(line.into())).await?))
        };
        match send_line.await.with_context(|| format!("line {number}")) {
            Ok(Some(acknowledgement)) => {
                if acknowledgement_sender.send(acknowledgement).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The outcomes of the previous lines come first.
    drop(acknowledgement_sender);
    report_task.await??;
    result
}

async fn report_acknowledgements(
    mut acknowledgements: tokio::sync::mpsc::Receiver<AcknowledgementFuture>,
    json: bool,
) -> anyhow::Result<()> {
    let mut line = 0_u64;
    while let Some(acknowledgement) = acknowledgements.recv().await {
        line += 1;
        let acknowledgement = acknowledgement.await.with_context(|| format!("line {line}"))?;
        print_acknowledgement(json, &acknowledgement)?;
    }
    Ok(())
}

fn print_acknowledgement(json: bool, acknowledgement: &Acknowledgement) -> Result<(), OutputError> {
    if json {
        let acknowledged = json!({
            "position": acknowledgement.position.to_string(),
            "time": acknowledgement.time.0,
            "durability": acknowledgement.durability.as_str(),
        });
        output::write_json(acknowledged)
    } else {
        output::write_line(acknowledgement.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_arbitrary_bytes_are_read_without_line_endings() {
        let mut input: &[u8] = b"one\n\xff\xfe\r\n\nlast";
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).await.expect("short lines") {
            lines.push(line);
        }
        assert_eq!(lines, [&b"one"[..], b"\xff\xfe", b"", b"last"]);
    }

    #[tokio::test]
    async fn line_larger_than_the_largest_payload_is_rejected() {
        let longest = vec![b'x'; Publish::PAYLOAD_BYTES_CAP];
        let mut input = &[&longest[..], b"\n"].concat()[..];
        assert_eq!(next_line(&mut input).await.expect("fits"), Some(longest.clone()));
        let mut input = &[&longest[..], b"x\n"].concat()[..];
        let message = next_line(&mut input).await.expect_err("a line that is too long").to_string();
        assert!(message.contains("1048576 bytes"), "{message}");
    }
}
