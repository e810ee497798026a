//! Set-up: a subscriber and a QUIC server that follows a script. Fault: streams and datagrams overtake
//! each other, or end. Claim: the caller hears of a subscription before its first message, of the newest
//! and of nothing older after it, and a topic whose stream ended is asked for again.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pushonce_client::{Event, Server, Subscriber, Transport, Trust};
use pushonce_core::{
    ContentType, Delivery, From, Gap, GapReason, Message, Options, Position, Timestamp, Topic,
};
use pushonce_proto::client::{self, Command, Encoding};
use pushonce_proto::delimited::{self, Decoder};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use rustls::pki_types::PrivateKeyDer;

const LIMIT: Duration = Duration::from_secs(20);

struct Door {
    endpoint: Endpoint,
    /// In PEM.
    certificate: Vec<u8>,
}

struct Client {
    connection: Connection,
    answers: SendStream,
    requests: RecvStream,
    decoder: Decoder,
}

impl Door {
    fn open() -> Door {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let pem = made.cert.pem().into_bytes();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        tls.alpn_protocols = vec![b"pushonce/1".to_vec()];
        let tls = QuicServerConfig::try_from(tls).unwrap();
        let config = ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Door { endpoint, certificate: pem }
    }

    fn server(&self) -> Server {
        let address: SocketAddr = self.endpoint.local_addr().unwrap();
        format!("quic://{address}").parse().unwrap()
    }

    async fn client(&self) -> Client {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let (answers, requests) = connection.accept_bi().await.unwrap();
        Client { connection, answers, requests, decoder: Decoder::new(1 << 20) }
    }
}

impl Client {
    async fn asks_from(&mut self) -> From {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                match Encoding::Proto.decode_request(&frame).unwrap().command {
                    Command::Subscribe { from, .. } => return from,
                    other => panic!("{other:?}"),
                }
            }
            let chunk = self.requests.read_chunk(4096, true).await.unwrap().unwrap();
            self.decoder.push(&chunk.bytes);
        }
    }

    async fn subscribed(&mut self, offset: u64) {
        self.subscribed_to(offset, Delivery::All).await;
    }

    async fn subscribed_to(&mut self, offset: u64, delivery: Delivery) {
        let position = Position::new(5, offset);
        let (id, topic) = (Some(1), topic());
        let subscribed =
            client::Event::Subscribed { id, topic, position, recovered: true, delivery };
        say(&mut self.answers, &subscribed).await;
    }

    fn throw(&self, event: &client::Event) {
        self.connection.send_datagram(Encoding::Proto.encode_event(event)).unwrap();
    }

    async fn stream(&self) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        say(&mut stream, &client::Event::Stream { topic: topic() }).await;
        stream
    }
}

async fn say(stream: &mut SendStream, event: &client::Event) {
    let frame = delimited::encode(&Encoding::Proto.encode_event(event));
    stream.write_all(&frame).await.unwrap();
}

fn topic() -> Topic {
    Topic::new("game/7").unwrap()
}

fn message(offset: u64) -> client::Event {
    message_at(Position::new(5, offset))
}

fn message_at(position: Position) -> client::Event {
    let message = Message {
        position,
        time: Timestamp(1),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::new(),
    };
    client::Event::Message { topic: topic(), message: Arc::new(message) }
}

fn watch(server: Server, trust: Trust) -> Subscriber {
    let builder = Subscriber::builder([server]).transport(Transport::Quic);
    builder
        .trust(trust)
        .topic(topic(), From::Start)
        .connect()
        .expect("the servers fit the transport")
}

async fn next(subscriber: &mut Subscriber) -> Event {
    let next = tokio::time::timeout(LIMIT, subscriber.next()).await;
    next.expect("an event in time").expect("it goes on")
}

#[tokio::test]
async fn a_subscription_is_told_before_its_first_message_however_the_streams_arrive() {
    let door = Door::open();
    let mut subscriber = watch(door.server(), Trust::Development);
    let mut client = door.client().await;
    assert_eq!(client.asks_from().await, From::Start);
    let mut stream = client.stream().await;
    say(&mut stream, &message(1)).await;
    assert!(matches!(next(&mut subscriber).await, Event::Connected { .. }));
    client.subscribed(1).await;
    assert!(matches!(next(&mut subscriber).await, Event::Subscribed { .. }));
    assert!(matches!(next(&mut subscriber).await, Event::Message { .. }));
}

#[tokio::test]
async fn a_topic_whose_stream_ends_is_asked_for_again_from_where_it_was() {
    let door = Door::open();
    let mut subscriber = watch(door.server(), Trust::Roots(door.certificate.clone()));
    let mut client = door.client().await;
    client.asks_from().await;
    client.subscribed(1).await;
    let mut stream = client.stream().await;
    say(&mut stream, &message(1)).await;
    while !matches!(next(&mut subscriber).await, Event::Message { .. }) {}
    stream.reset(0u32.into()).unwrap();

    let mut client = door.client().await;
    assert_eq!(client.asks_from().await, From::Position(Position::new(5, 1)));
}

#[tokio::test]
async fn the_code_of_a_close_is_heard() {
    let door = Door::open();
    let mut subscriber = watch(door.server(), Trust::Development);
    let mut client = door.client().await;
    client.asks_from().await;
    client.connection.close(4400u32.into(), b"bad_frame");
    assert!(matches!(next(&mut subscriber).await, Event::Connected { .. }));
    let Event::Disconnected { why, retry_in, .. } = next(&mut subscriber).await else {
        panic!("it ends")
    };
    assert!(why.contains("4400"), "{why}");
    assert_eq!(retry_in, None);
}

#[tokio::test]
async fn a_certificate_with_another_fingerprint_is_not_taken() {
    let door = Door::open();
    let mut subscriber = watch(door.server(), Trust::Fingerprint([7; 32]));
    let server = tokio::spawn(async move { door.endpoint.accept().await.unwrap().await.is_err() });
    let Event::Disconnected { why, .. } = next(&mut subscriber).await else { panic!("refused") };
    assert!(why.contains("fingerprint"), "{why}");
    assert!(server.await.unwrap());
}

/// A subscriber that asked for datagrams, and its server, which has answered.
async fn watch_datagrams(door: &Door) -> (Subscriber, Client) {
    let delivery = Some(Delivery::Latest);
    let options = Options { delivery, datagrams: true, ..Options::default() };
    let builder = Subscriber::builder([door.server()]).transport(Transport::Quic);
    let subscriber = builder
        .topic_with(topic(), From::Last(1), options)
        .connect()
        .expect("the servers fit the transport");
    let mut client = door.client().await;
    assert_eq!(client.asks_from().await, From::Last(1));
    client.subscribed_to(1, Delivery::Latest).await;
    (subscriber, client)
}

/// Where the next message stands.
async fn shown(subscriber: &mut Subscriber) -> Position {
    loop {
        match next(subscriber).await {
            Event::Message { message, .. } => return message.position,
            Event::Connected { .. } | Event::Subscribed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn of_datagrams_the_newer_are_shown_and_the_older_are_not() {
    let door = Door::open();
    let (mut subscriber, client) = watch_datagrams(&door).await;
    say(&mut client.stream().await, &message(1)).await;
    assert_eq!(shown(&mut subscriber).await, Position::new(5, 1));
    for (thrown, seen) in [(4, Some(4)), (3, None), (4, None), (7, Some(7))] {
        client.throw(&message(thrown));
        if let Some(seen) = seen {
            assert_eq!(shown(&mut subscriber).await, Position::new(5, seen));
        }
    }
}

#[tokio::test]
async fn a_datagram_that_overtakes_its_stream_waits_for_it() {
    let door = Door::open();
    let (mut subscriber, client) = watch_datagrams(&door).await;
    client.throw(&message(2));
    let mut stream = client.stream().await;
    say(&mut stream, &message(1)).await;
    // The newer message takes the place of the older one when that was not taken yet.
    let mut last = shown(&mut subscriber).await;
    if last == Position::new(5, 1) {
        last = shown(&mut subscriber).await;
    }
    assert_eq!(last, Position::new(5, 2));

    client.throw(&message_at(Position::new(6, 9)));
    let (from, to, reason) = (Position::new(5, 3), Position::new(6, 7), GapReason::Epoch);
    let gap = Gap { from, to, reason };
    say(&mut stream, &client::Event::Gap { topic: topic(), gap }).await;
    assert_eq!(next(&mut subscriber).await, Event::Gap { topic: topic(), gap });
    assert_eq!(shown(&mut subscriber).await, Position::new(6, 9));
}

#[tokio::test]
async fn a_caller_that_takes_nothing_for_a_while_is_shown_the_newest() {
    let door = Door::open();
    let (mut subscriber, client) = watch_datagrams(&door).await;
    say(&mut client.stream().await, &message(1)).await;
    for offset in 2..=5_000 {
        client.throw(&message(offset));
    }
    let mut count = 0;
    loop {
        // The network may lose the last.
        client.throw(&message(5_000));
        count += 1;
        if shown(&mut subscriber).await == Position::new(5, 5_000) {
            break;
        }
    }
    assert!(count < 2_000, "{count} messages were shown");
}
