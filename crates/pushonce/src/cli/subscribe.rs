//! `pushonce subscribe`: print topics as they come.

use anyhow::bail;
use clap::ValueEnum;
use pushonce_client::{Event, Scheme, Server, Subscriber, Transport, Trust};
use pushonce_core::{Delivery, From, Message, Options, Topic};
use pushonce_proto::client::{self, Encoding};
use tokio_util::sync::CancellationToken;

use crate::output::{self, OutputError};

/// What to subscribe to, where to begin, and how.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The topics
    #[arg(required = true, value_parser = str::parse::<Topic>)]
    topics: Vec<Topic>,
    /// Where to begin: now, start, last:N, or a position EPOCH:OFFSET
    #[arg(long, default_value = "now", value_parser = from)]
    from: From,
    /// Which messages: all, latest (the newest there is when this can take one), or rate:N (the newest,
    /// N a second at most) [default: as the namespace has it]
    #[arg(long, value_name = "WORD")]
    delivery: Option<Delivery>,
    /// Also tell which messages latest and rate pass over
    #[arg(long)]
    conflated: bool,
    /// Print how many watch as well, whenever that changes, once a second at most (not over grpc)
    #[arg(long)]
    audience: bool,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// What carries them [default: what the address says, else ws]
    #[arg(long)]
    transport: Option<Carrier>,
    /// Ask for what changed from one message to the next instead of whole messages (not over grpc);
    /// what is printed is the same
    #[arg(long)]
    delta: bool,
    /// Ask for messages as datagrams, of which none waits for one that was lost (over quic, with
    /// --delivery latest or rate:N)
    #[arg(long)]
    datagrams: bool,
    /// Address of a node, of the transport's port: http://127.0.0.1:7080 (ws),
    /// quic://127.0.0.1:7443, http://127.0.0.1:7090 (grpc); may be given more than once. The variable
    /// is not the PUSHONCE_SERVER of the other commands: that names gRPC ports
    #[arg(long, env = "PUSHONCE_SUBSCRIBE_SERVER", value_delimiter = ',')]
    server: Vec<Server>,
    /// SHA-256 of the QUIC certificate in hexadecimal, as GET /dev/certificate says it; not needed
    /// on loopback
    #[arg(long, value_name = "HEX", value_parser = fingerprint)]
    fingerprint: Option<Fingerprint>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Carrier {
    Ws,
    Quic,
    Grpc,
}

#[derive(Clone, Copy)]
struct Fingerprint([u8; 32]);

fn from(text: &str) -> Result<From, String> {
    match text {
        "now" => Ok(From::Now),
        "start" => Ok(From::Start),
        _ => match text.strip_prefix("last:") {
            Some(count) => {
                count.parse().map(From::Last).map_err(|_| format!("last:N, not {text:?}"))
            }
            None => text.parse().map(From::Position).map_err(|_| {
                format!("now, start, last:N or a position EPOCH:OFFSET, not {text:?}")
            }),
        },
    }
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    let mut hash = [0; 32];
    let wrong = || "a fingerprint is 64 hexadecimal digits".to_owned();
    if digits.len() != 64 || !digits.is_ascii() {
        return Err(wrong());
    }
    for (byte, pair) in hash.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(&digits[pair * 2..pair * 2 + 2], 16).map_err(|_| wrong())?;
    }
    Ok(Fingerprint(hash))
}

impl Args {
    fn carrier(&self) -> Carrier {
        let quic = self.server.first().is_some_and(|server| server.scheme == Scheme::Quic);
        self.transport.unwrap_or(if quic { Carrier::Quic } else { Carrier::Ws })
    }

    fn servers(&self, carrier: Carrier) -> anyhow::Result<Vec<Server>> {
        if !self.server.is_empty() {
            return Ok(self.server.clone());
        }
        let usual = match carrier {
            Carrier::Ws => "http://127.0.0.1:7080",
            Carrier::Quic => "quic://127.0.0.1:7443",
            Carrier::Grpc => "http://127.0.0.1:7090",
        };
        Ok(vec![usual.parse()?])
    }
}

pub(super) async fn run(args: Args, json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let carrier = args.carrier();
    let transport = match carrier {
        Carrier::Ws => Transport::Ws,
        Carrier::Quic => Transport::Quic,
        Carrier::Grpc => Transport::Grpc,
    };
    let mut builder = Subscriber::builder(args.servers(carrier)?).transport(transport);
    if let Some(Fingerprint(hash)) = args.fingerprint {
        builder = builder.trust(Trust::Fingerprint(hash));
    }
    let Args { delivery, conflated, audience, delta, datagrams, .. } = args;
    let options = Options { delivery, conflated, audience, delta, datagrams };
    if carrier == Carrier::Grpc && (audience || delta || datagrams) {
        bail!(
            "gRPC brings messages, whole, and nothing else: leave --audience, --delta and \
             --datagrams out, or take --transport ws or quic"
        );
    }
    for topic in &args.topics {
        builder = builder.topic_with(topic.clone(), args.from, options);
    }
    let mut subscriber = builder.connect()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = subscriber.next() => event,
            () = shutdown.cancelled() => return Ok(()),
        };
        let Some(event) = event else { bail!("the session ended and is not tried again") };
        match event {
            Event::Message { topic, message } => {
                left -= 1;
                show(message_line(json, &topic, &message))?;
            }
            Event::Audience { topic, count } => {
                show(audience_line(json, topic, count))?;
            }
            Event::Stale { topic, since } => {
                tracing::warn!(%topic, "the server has lost touch with the owner; whether there is more after {since} it cannot say");
            }
            Event::Live { topic, .. } => tracing::info!(%topic, "the server hears of it again"),
            Event::Gap { topic, gap } => tracing::warn!(%topic, %gap, "messages are missing"),
            Event::Refused { code, message } => bail!("{code}: {message}"),
            Event::Disconnected { server, why, retry_in: Some(pause) } => {
                tracing::warn!(%server, error = why, retry_in = ?pause, "not connected, retrying");
            }
            Event::Disconnected { server, why, retry_in: None } => bail!("{server}: {why}"),
            Event::Connected { server } => tracing::info!(%server, "connected"),
            Event::Subscribed { topic, position, .. } => {
                tracing::info!(%topic, %position, "subscribed");
            }
        }
    }
    Ok(())
}

/// A line a message: the frame that a JSON client gets, or the position and the payload.
fn message_line(json: bool, topic: &Topic, message: &Message) -> Vec<u8> {
    if json {
        return single_line_json(&client::encode_message(Encoding::Json, topic, message));
    }
    let mut line = format!("{topic}\t{}\t", message.position).into_bytes();
    for &byte in message.payload.iter() {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(byte),
        }
    }
    line
}

/// A JSON payload stands in the frame as it was published, with its line breaks. Outside of strings they
/// are white space, and strings have none.
fn single_line_json(frame: &[u8]) -> Vec<u8> {
    let is_break = |byte| matches!(byte, b'\n' | b'\r');
    frame.iter().map(|&byte| if is_break(byte) { b' ' } else { byte }).collect()
}

/// The same of how many watch; no message has such a position.
fn audience_line(json: bool, topic: Topic, count: u64) -> Vec<u8> {
    if json {
        return Encoding::Json.encode_event(&client::Event::Audience { topic, count }).to_vec();
    }
    format!("{topic}\taudience\t{count}").into_bytes()
}

fn show(mut line: Vec<u8>) -> Result<(), OutputError> {
    line.push(b'\n');
    output::write(&line)
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ContentType, Position, Timestamp};

    use super::*;

    #[test]
    fn every_beginning_can_be_said() {
        assert_eq!(from("now"), Ok(From::Now));
        assert_eq!(from("start"), Ok(From::Start));
        assert_eq!(from("last:5"), Ok(From::Last(5)));
        assert_eq!(from("12:4051"), Ok(From::Position(Position::new(12, 4051))));
        for text in ["", "last:", "last:x", "yesterday", "12"] {
            assert!(from(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_payload_with_line_breaks_is_one_line() {
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
        assert_eq!(message_line(false, &topic, &text), b"a\t1:1\tone\\ntwo");
        for message in [json, text] {
            let line = message_line(true, &topic, &message);
            assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            let read: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            let whole = Encoding::Json;
            let frame = client::encode_message(whole, &topic, &message);
            let frame: serde_json::Value = serde_json::from_slice(&frame).expect("JSON");
            assert_eq!(read, frame);
        }
    }

    #[test]
    fn a_fingerprint_may_have_colons() {
        let plain = "0f".repeat(32);
        let colons = vec!["0f"; 32].join(":");
        assert_eq!(fingerprint(&plain).map(|f| f.0), Ok([0x0f; 32]));
        assert_eq!(fingerprint(&colons).map(|f| f.0), Ok([0x0f; 32]));
        assert!(fingerprint("0f").is_err());
        assert!(fingerprint(&"zz".repeat(32)).is_err());
    }
}
