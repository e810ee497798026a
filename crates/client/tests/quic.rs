//! Set-up: a subscriber and a scripted QUIC server. Fault: streams and datagrams overtake each other, or
//! end. Claim: the caller receives the subscribed event before the first message, then the newest message
//! and nothing older after it, and a topic whose stream ended is requested again.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use pushonce_client::{
    CertificateFingerprint, CertificateTrust, ServerAddress, Subscriber, SubscriberEvent, Transport,
};
use pushonce_core::{
    Delivery, Gap, GapReason, Message, Position, StartFrom, SubscribeOptions, Timestamp, test_util,
};
use pushonce_proto::client::{self, ClientCommand, Encoding};
use pushonce_proto::delimited::{self, FrameDecoder};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use rustls::pki_types::PrivateKeyDer;
use stage::{next_event, topic};

struct ScriptedQuicServer {
    endpoint: Endpoint,
    /// In PEM.
    certificate: Vec<u8>,
}

struct ScriptedQuicSession {
    connection: Connection,
    control: SendStream,
    requests: RecvStream,
    decoder: FrameDecoder,
}

impl ScriptedQuicServer {
    fn open() -> ScriptedQuicServer {
        let generated = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = generated.cert.der().clone();
        let pem = generated.cert.pem().into_bytes();
        let key = PrivateKeyDer::try_from(generated.signing_key.serialize_der()).unwrap();
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
        ScriptedQuicServer { endpoint, certificate: pem }
    }

    fn address(&self) -> ServerAddress {
        let socket_address: SocketAddr = self.endpoint.local_addr().unwrap();
        format!("quic://{socket_address}").parse().unwrap()
    }

    async fn accept(&self) -> ScriptedQuicSession {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let (control, requests) = connection.accept_bi().await.unwrap();
        ScriptedQuicSession { connection, control, requests, decoder: FrameDecoder::new(1 << 20) }
    }
}

impl ScriptedQuicSession {
    async fn requested_start(&mut self) -> StartFrom {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                match Encoding::Proto.decode_request(&frame).unwrap().command {
                    ClientCommand::Subscribe { from, .. } => return from,
                    other => panic!("{other:?}"),
                }
            }
            let chunk = self.requests.read_chunk(4096, true).await.unwrap().unwrap();
            self.decoder.push(&chunk.bytes);
        }
    }

    async fn send_subscribed(&mut self, offset: u64) {
        self.send_subscribed_with_delivery(offset, Delivery::All).await;
    }

    async fn send_subscribed_with_delivery(&mut self, offset: u64, delivery: Delivery) {
        let position = Position::new(5, offset);
        let (id, topic) = (Some(1), topic());
        let subscribed =
            client::ServerEvent::Subscribed { id, topic, position, recovered: true, delivery };
        send_event(&mut self.control, &subscribed).await;
    }

    fn send_datagram(&self, event: &client::ServerEvent) {
        self.connection.send_datagram(Encoding::Proto.encode_event(event)).unwrap();
    }

    async fn open_topic_stream(&self) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        send_event(&mut stream, &client::ServerEvent::Stream { topic: topic() }).await;
        stream
    }
}

async fn send_event(stream: &mut SendStream, event: &client::ServerEvent) {
    let frame = delimited::encode(&Encoding::Proto.encode_event(event));
    stream.write_all(&frame).await.unwrap();
}

fn message_event(offset: u64) -> client::ServerEvent {
    message_event_at(Position::new(5, offset))
}

fn message_event_at(position: Position) -> client::ServerEvent {
    let Position { epoch, offset } = position;
    let message = Message { time: Timestamp(1), ..test_util::message(epoch.0, offset.0) };
    client::ServerEvent::Message { topic: topic(), message: Arc::new(message) }
}

fn subscribe(server: ServerAddress, trust: CertificateTrust) -> Subscriber {
    let builder = Subscriber::builder([server]).transport(Transport::Quic);
    builder
        .trust(trust)
        .topic(topic(), StartFrom::Start)
        .connect()
        .expect("the servers fit the transport")
}

#[tokio::test]
async fn subscribed_event_precedes_the_first_message_in_any_stream_order() {
    let server = ScriptedQuicServer::open();
    let mut subscriber = subscribe(server.address(), CertificateTrust::System);
    let mut client = server.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Start);
    let mut stream = client.open_topic_stream().await;
    send_event(&mut stream, &message_event(1)).await;
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
    client.send_subscribed(1).await;
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Subscribed { .. }));
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Message { .. }));
}

#[tokio::test]
async fn topic_is_resumed_when_its_stream_ends() {
    let server = ScriptedQuicServer::open();
    let mut subscriber =
        subscribe(server.address(), CertificateTrust::Roots(server.certificate.clone()));
    let mut client = server.accept().await;
    client.requested_start().await;
    client.send_subscribed(1).await;
    let mut stream = client.open_topic_stream().await;
    send_event(&mut stream, &message_event(1)).await;
    while !matches!(next_event(&mut subscriber).await, SubscriberEvent::Message { .. }) {}
    stream.reset(0u32.into()).unwrap();

    let mut client = server.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Position(Position::new(5, 1)));
}

#[tokio::test]
async fn close_code_is_reported_and_obeyed() {
    let server = ScriptedQuicServer::open();
    let mut subscriber = subscribe(server.address(), CertificateTrust::System);
    let mut client = server.accept().await;
    client.requested_start().await;
    client.connection.close(4400u32.into(), b"bad_frame");
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
    let SubscriberEvent::Disconnected { reason, retry_in, .. } = next_event(&mut subscriber).await
    else {
        panic!("expected the end of the session")
    };
    assert!(reason.contains("4400"), "{reason}");
    assert_eq!(retry_in, None);
}

#[tokio::test]
async fn certificate_with_another_fingerprint_is_rejected() {
    let server = ScriptedQuicServer::open();
    let mut subscriber =
        subscribe(server.address(), CertificateTrust::Fingerprint(CertificateFingerprint([7; 32])));
    let accepting =
        tokio::spawn(async move { server.endpoint.accept().await.unwrap().await.is_err() });
    let SubscriberEvent::Disconnected { reason, .. } = next_event(&mut subscriber).await else {
        panic!("expected the end of the session")
    };
    assert!(reason.contains("fingerprint"), "{reason}");
    assert!(accepting.await.unwrap());
}

/// A subscriber with datagrams, and its server, which has confirmed the subscription.
async fn subscribe_datagrams(server: &ScriptedQuicServer) -> (Subscriber, ScriptedQuicSession) {
    let delivery = Some(Delivery::Latest);
    let options = SubscribeOptions { delivery, use_datagrams: true, ..SubscribeOptions::default() };
    let builder = Subscriber::builder([server.address()]).transport(Transport::Quic);
    let subscriber = builder
        .topic_with_options(topic(), StartFrom::Last(1), options)
        .connect()
        .expect("the servers fit the transport");
    let mut client = server.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Last(1));
    client.send_subscribed_with_delivery(1, Delivery::Latest).await;
    (subscriber, client)
}

/// The position of the next message.
async fn next_position(subscriber: &mut Subscriber) -> Position {
    loop {
        match next_event(subscriber).await {
            SubscriberEvent::Message { message, .. } => return message.position,
            SubscriberEvent::Connected { .. } | SubscriberEvent::Subscribed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn newer_datagrams_are_delivered_and_older_ones_are_dropped() {
    let server = ScriptedQuicServer::open();
    let (mut subscriber, client) = subscribe_datagrams(&server).await;
    // Held: a dropped stream ends the session.
    let mut stream = client.open_topic_stream().await;
    send_event(&mut stream, &message_event(1)).await;
    assert_eq!(next_position(&mut subscriber).await, Position::new(5, 1));
    for (sent, delivered) in [(4, Some(4)), (3, None), (4, None), (7, Some(7))] {
        client.send_datagram(&message_event(sent));
        if let Some(seen) = delivered {
            assert_eq!(next_position(&mut subscriber).await, Position::new(5, seen));
        }
    }
}

#[tokio::test]
async fn datagram_ahead_of_its_stream_waits_for_the_stream() {
    let server = ScriptedQuicServer::open();
    let (mut subscriber, client) = subscribe_datagrams(&server).await;
    client.send_datagram(&message_event(2));
    let mut stream = client.open_topic_stream().await;
    send_event(&mut stream, &message_event(1)).await;
    // The newer message replaces the older one if that was not received yet.
    let mut last = next_position(&mut subscriber).await;
    if last == Position::new(5, 1) {
        last = next_position(&mut subscriber).await;
    }
    assert_eq!(last, Position::new(5, 2));

    client.send_datagram(&message_event_at(Position::new(6, 9)));
    let (from, to, reason) = (Position::new(5, 3), Position::new(6, 7), GapReason::Epoch);
    let gap = Gap { from, to, reason };
    send_event(&mut stream, &client::ServerEvent::Gap { topic: topic(), gap }).await;
    assert_eq!(next_event(&mut subscriber).await, SubscriberEvent::Gap { topic: topic(), gap });
    assert_eq!(next_position(&mut subscriber).await, Position::new(6, 9));
}

#[tokio::test]
async fn slow_caller_gets_the_newest_datagram() {
    let server = ScriptedQuicServer::open();
    let (mut subscriber, client) = subscribe_datagrams(&server).await;
    // Held: a dropped stream ends the session.
    let mut stream = client.open_topic_stream().await;
    send_event(&mut stream, &message_event(1)).await;
    for offset in 2..=5_000 {
        client.send_datagram(&message_event(offset));
    }
    let mut count = 0;
    loop {
        // The network may lose the last datagram.
        client.send_datagram(&message_event(5_000));
        count += 1;
        if next_position(&mut subscriber).await == Position::new(5, 5_000) {
            break;
        }
    }
    assert!(count < 2_000, "{count} messages were delivered");
}
