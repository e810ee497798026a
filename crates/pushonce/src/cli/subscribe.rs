//! `pushonce subscribe`: prints the messages of topics as they arrive.

mod stats;

use anyhow::bail;
use clap::ValueEnum;
use pushonce_client::{
    CertificateFingerprint, CertificateTrust, Scheme, ServerAddress, Subscriber, SubscriberEvent,
    Transport,
};
use pushonce_core::{Delivery, Message, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{self, Encoding};
use tokio_util::sync::CancellationToken;

use super::access_token::TokenArgs;
use super::trust::TrustArgs;
use crate::output::{self, OutputError, escape};
use stats::Stats;

/// What to subscribe to, from which position, and how.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Topics to subscribe to
    #[arg(required = true, value_parser = str::parse::<Topic>)]
    topics: Vec<Topic>,
    /// Start of the subscription: now, start, last:N, or a position EPOCH:OFFSET
    #[arg(long, default_value = "now", value_parser = parse_start)]
    from: StartFrom,
    /// Delivery mode: all messages, latest (the newest whenever the client can receive one), or rate:N (the
    /// newest, at most N times a second) [default: that of the namespace]
    #[arg(long, value_name = "WORD")]
    delivery: Option<Delivery>,
    /// Also report the messages that latest and rate skip
    #[arg(long)]
    conflated: bool,
    /// Also print the subscriber count when it changes, at most once a second (not over grpc)
    #[arg(long)]
    audience: bool,
    /// Exit after this number of messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print one line a second with rates, latencies, gaps and disconnects, instead of the messages
    #[arg(long)]
    stats: bool,
    /// Transport [default: that of the server address, else ws]
    #[arg(long)]
    transport: Option<TransportArg>,
    /// Receive deltas from one message to the next instead of whole messages (not over grpc); the
    /// output is the same
    #[arg(long)]
    delta: bool,
    /// Receive messages as datagrams, so that no message waits for a lost one (over quic, with
    /// --delivery latest or rate:N)
    #[arg(long)]
    datagrams: bool,
    /// Address of a node, with the port of the transport: http://127.0.0.1:7080 or
    /// https://HOST:7443 (ws), quic://127.0.0.1:7443, http://127.0.0.1:7090 or https://HOST:7090 (grpc); may be repeated. PUSHONCE_SERVER has no effect
    /// here, because it names gRPC ports [default: the usual port of the transport on this machine]
    #[arg(long, env = "PUSHONCE_SUBSCRIBE_SERVER", value_delimiter = ',')]
    server: Vec<ServerAddress>,
    /// SHA-256 of the certificate in hexadecimal, as GET /dev/certificate returns it, in place of --ca; not
    /// needed for QUIC on loopback
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<CertificateFingerprint>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum TransportArg {
    Ws,
    Quic,
    Grpc,
}

fn parse_start(text: &str) -> Result<StartFrom, String> {
    match text {
        "now" => Ok(StartFrom::Now),
        "start" => Ok(StartFrom::Start),
        _ => match text.strip_prefix("last:") {
            Some(count) => count
                .parse()
                .map(StartFrom::Last)
                .map_err(|_| format!("expected last:N, not {text:?}")),
            None => text.parse().map(StartFrom::Position).map_err(|_| {
                format!("expected now, start, last:N or a position EPOCH:OFFSET, not {text:?}")
            }),
        },
    }
}

impl Args {
    fn transport_or_default(&self) -> TransportArg {
        let quic = self.server.first().is_some_and(|server| server.scheme == Scheme::Quic);
        self.transport.unwrap_or(if quic { TransportArg::Quic } else { TransportArg::Ws })
    }

    fn servers_or_default(&self, transport: TransportArg) -> anyhow::Result<Vec<ServerAddress>> {
        if !self.server.is_empty() {
            return Ok(self.server.clone());
        }
        let default_server = match transport {
            TransportArg::Ws => "http://127.0.0.1:7080",
            TransportArg::Quic => "quic://127.0.0.1:7443",
            TransportArg::Grpc => "http://127.0.0.1:7090",
        };
        Ok(vec![default_server.parse()?])
    }
}

pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let transport_arg = args.transport_or_default();
    let transport = match transport_arg {
        TransportArg::Ws => Transport::Ws,
        TransportArg::Quic => Transport::Quic,
        TransportArg::Grpc => Transport::Grpc,
    };
    let mut builder =
        Subscriber::builder(args.servers_or_default(transport_arg)?).transport(transport);
    builder = builder.trust(match args.fingerprint {
        Some(fingerprint) => CertificateTrust::Fingerprint(fingerprint),
        None => args.trust.load()?,
    });
    if let Some(token) = args.token.provider() {
        builder = builder.token(token);
    }
    let &Args { delivery, conflated, audience, delta, datagrams, .. } = &args;
    let options = SubscribeOptions {
        delivery,
        report_conflated: conflated,
        report_audience: audience,
        accept_deltas: delta,
        use_datagrams: datagrams,
    };
    if transport_arg == TransportArg::Grpc && (audience || delta || datagrams) {
        bail!(
            "gRPC delivers whole messages only: remove --audience, --delta and \
             --datagrams, or use --transport ws or quic"
        );
    }
    for topic in &args.topics {
        builder = builder.topic_with_options(topic.clone(), args.from, options);
    }
    let mut subscriber = builder.connect()?;
    let printed = tokio::select! {
        printed = print_events(&mut subscriber, &args, json) => printed,
        () = shutdown.cancelled() => Ok(()),
    };
    subscriber.close().await;
    printed
}

/// Prints what arrives, until the subscriber ends or `--count` is reached.
async fn print_events(subscriber: &mut Subscriber, args: &Args, json: bool) -> anyhow::Result<()> {
    let mut remaining = args.count.unwrap_or(u64::MAX);
    let mut stats = args.stats.then(|| (Stats::default(), stats::interval()));
    while remaining > 0 {
        let event = match &mut stats {
            None => subscriber.next().await,
            Some((stats, interval)) => tokio::select! {
                event = subscriber.next() => event.inspect(|event| stats.record(event)),
                _ = interval.tick() => {
                    stats.print(json)?;
                    continue;
                }
            },
        };
        let Some(event) = event else { bail!("the session ended and is not retried") };
        match event {
            SubscriberEvent::Message { topic, message } => {
                remaining -= 1;
                if stats.is_none() {
                    print_message(json, &topic, &message)?;
                }
            }
            SubscriberEvent::Audience { topic, count } => {
                print_audience(json, topic, count)?;
            }
            SubscriberEvent::Stale { topic, since } => {
                tracing::warn!(
                    %topic, %since,
                    "the server lost contact with the topic's owner: newer messages may exist"
                );
            }
            SubscriberEvent::Live { topic, .. } => {
                tracing::info!(%topic, "the server receives the topic again")
            }
            SubscriberEvent::Gap { topic, gap } => {
                tracing::warn!(%topic, %gap, "messages are missing")
            }
            SubscriberEvent::Rejected { topic: Some(topic), code, message } => {
                bail!("{topic}: {code}: {message}")
            }
            SubscriberEvent::Rejected { code, message, .. } => bail!("{code}: {message}"),
            SubscriberEvent::Disconnected { server, reason: why, retry_in: Some(pause) } => {
                tracing::warn!(%server, error = why, retry_in = ?pause, "not connected, retrying");
            }
            SubscriberEvent::Disconnected { server, reason, retry_in: None } => {
                bail!("{server}: {reason}")
            }
            SubscriberEvent::Connected { server } => tracing::info!(%server, "connected"),
            SubscriberEvent::Subscribed { topic, position, .. } => {
                tracing::info!(%topic, %position, "subscribed");
            }
            other => tracing::debug!(event = ?other, "ignored an unknown event"),
        }
    }
    match stats {
        Some((mut stats, _)) => Ok(stats.print(json)?),
        None => Ok(()),
    }
}

/// Prints the frame that a JSON client gets, or a line with the position and the payload.
fn print_message(json: bool, topic: &Topic, message: &Message) -> Result<(), OutputError> {
    if json {
        return output::write_json(message_json(topic, message));
    }
    output::write_line(message_text(topic, message))
}

fn message_text(topic: &Topic, message: &Message) -> String {
    format!("{topic}\t{}\t{}", message.position, escape::escape_bytes(&message.payload))
}

/// The frame on one line. The line breaks of a JSON payload, which the frame contains as published, are white
/// space outside of strings, and strings contain none.
fn message_json(topic: &Topic, message: &Message) -> String {
    let frame = client::encode_message(Encoding::Json, topic, message);
    String::from_utf8_lossy(&frame).replace(['\n', '\r'], " ")
}

/// Prints a subscriber count; it has no position.
fn print_audience(json: bool, topic: Topic, count: u64) -> Result<(), OutputError> {
    if json {
        let event = client::ServerEvent::Audience { topic, count };
        return output::write_json(String::from_utf8_lossy(&Encoding::Json.encode_event(&event)));
    }
    output::write_line(format!("{topic}\taudience\t{count}"))
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ContentType, Position, Timestamp};

    use super::*;

    #[test]
    fn every_start_position_is_parsed() {
        assert_eq!(parse_start("now"), Ok(StartFrom::Now));
        assert_eq!(parse_start("start"), Ok(StartFrom::Start));
        assert_eq!(parse_start("last:5"), Ok(StartFrom::Last(5)));
        assert_eq!(parse_start("12:4051"), Ok(StartFrom::Position(Position::new(12, 4051))));
        for text in ["", "last:", "last:x", "yesterday", "12"] {
            assert!(parse_start(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn payload_with_line_breaks_is_printed_on_one_line() {
        let topic = Topic::new("a").expect("valid");
        let message = |content_type, payload: &'static str| Message {
            position: Position::new(1, 1),
            time: Timestamp(7),
            content_type,
            key: None,
            payload: payload.into(),
        };
        let json = message(ContentType::Json, "{\n  \"a\": \"x\\ny\"\r\n}");
        let text = message(ContentType::Text, "one\ntwo");
        assert_eq!(message_text(&topic, &text), "a\t1:1\tone\\ntwo");
        for message in [json, text] {
            let line = message_json(&topic, &message);
            assert!(!line.contains(['\n', '\r']));
            let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            let encoding = Encoding::Json;
            let frame = client::encode_message(encoding, &topic, &message);
            let frame: serde_json::Value = serde_json::from_slice(&frame).expect("JSON");
            assert_eq!(read, frame);
        }
    }
}
