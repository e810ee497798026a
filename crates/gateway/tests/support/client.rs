//! One client, over whichever transport: what a story is told with.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use pushonce_core::{ContentType, Delivery, From, Options, Publish, Topic};
use pushonce_proto::client::{Command, Encoding, ErrorCode, Event, Request};
use pushonce_proto::delimited;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use super::{Server, within};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    WsJson,
    WsProto,
    Quic,
}

pub struct Client {
    encoding: Encoding,
    wire: Wire,
    pub kept: Vec<Event>,
}

enum Wire {
    Ws(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Quic { control: quinn::SendStream, events: mpsc::Receiver<Heard>, held: Held },
}

/// Dropped, they would close the connection.
type Held = (quinn::Endpoint, quinn::Connection);

/// What a client hears.
#[derive(Debug)]
pub enum Heard {
    Event(Event),
    /// By a datagram.
    Datagram(Event),
    Closed(u16),
}

impl Client {
    pub async fn connect(server: &Server, via: Via) -> Client {
        match via {
            Via::WsJson => Client::ws(server, Encoding::Json).await,
            Via::WsProto => Client::ws(server, Encoding::Proto).await,
            Via::Quic => Client::quic(server).await,
        }
    }

    async fn ws(server: &Server, encoding: Encoding) -> Client {
        let subprotocol = HeaderValue::from_static(encoding.subprotocol());
        let builder = ClientBuilder::new()
            .uri(&format!("ws://{}/ws", server.http))
            .expect("a URL")
            .add_header(SEC_WEBSOCKET_PROTOCOL, subprotocol)
            .expect("a header");
        let (socket, response) = within(builder.connect()).await.expect("connected");
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], encoding.subprotocol());
        Client { encoding, wire: Wire::Ws(Box::new(socket)), kept: Vec::new() }
    }

    async fn quic(server: &Server) -> Client {
        Client::quic_with(server, |_| {}).await
    }

    pub async fn quic_with(
        server: &Server,
        change: impl FnOnce(&mut quinn::TransportConfig),
    ) -> Client {
        let dialed = dial_with(server, b"pushonce/1", change).await;
        let (endpoint, connection) = dialed.expect("connected");
        let (control, receive) = within(connection.open_bi()).await.expect("a stream");
        let (tell, events) = mpsc::channel(1);
        tokio::spawn(hear(receive, tell.clone()));
        tokio::spawn(hear_datagrams(connection.clone(), tell.clone()));
        tokio::spawn(hear_subscriptions(connection.clone(), tell));
        let wire = Wire::Quic { control, events, held: (endpoint, connection) };
        Client { encoding: Encoding::Proto, wire, kept: Vec::new() }
    }

    pub async fn send(&mut self, id: u64, command: Command) {
        let frame = self.encoding.encode_request(&Request { id: Some(id), command });
        self.send_raw(frame).await;
    }

    /// Something as a frame that may be none.
    pub async fn send_raw(&mut self, frame: Bytes) {
        match &mut self.wire {
            Wire::Ws(socket) => {
                let message = match self.encoding {
                    Encoding::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
                    Encoding::Proto => Message::binary(frame),
                };
                socket.send(message).await.expect("sent");
            }
            Wire::Quic { control, .. } => {
                // A frame that is refused by its length is not sent to its end.
                control.write_all(&delimited::encode(&frame)).await.ok();
            }
        }
    }

    /// Goes on from another address, as a phone that leaves its Wi-Fi.
    pub fn change_address(&self) {
        let Wire::Quic { held: (endpoint, _), .. } = &self.wire else {
            panic!("only a QUIC connection outlives its address")
        };
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        endpoint.rebind(socket).expect("a runtime");
    }

    pub async fn next(&mut self) -> Heard {
        within(async {
            match &mut self.wire {
                Wire::Ws(socket) => next_of_socket(socket, self.encoding).await,
                Wire::Quic { events, .. } => events.recv().await.expect("a close before the end"),
            }
        })
        .await
    }

    /// The next answer to a request. Answers and messages may come on different streams, so each
    /// is asked for by itself.
    pub async fn answer(&mut self) -> Event {
        self.find(|event| {
            matches!(
                event,
                Event::Subscribed { .. }
                    | Event::Unsubscribed { .. }
                    | Event::Published { .. }
                    | Event::Authenticated { .. }
                    | Event::Error { .. }
            )
        })
        .await
    }

    /// The next event of this kind; what comes before it is kept.
    pub async fn find(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        if let Some(index) = self.kept.iter().position(&wanted) {
            return self.kept.remove(index);
        }
        loop {
            match self.next().await {
                Heard::Event(event) if wanted(&event) => return event,
                Heard::Event(event) => self.kept.push(event),
                Heard::Datagram(event) => panic!("nobody asked for datagrams: {event:?}"),
                Heard::Closed(code) => panic!("closed with {code}"),
            }
        }
    }

    /// The code that ends the session, after whatever comes before.
    pub async fn closed(&mut self) -> u16 {
        loop {
            if let Heard::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    /// The code of the error that comes next.
    pub async fn refused(&mut self) -> (Option<u64>, ErrorCode) {
        match self.answer().await {
            Event::Error { id, code, message, .. } => {
                assert!(!message.is_empty());
                (id, code)
            }
            other => panic!("{other:?} is no error"),
        }
    }

    /// The text and topic of the message that comes next.
    pub async fn message(&mut self) -> (String, String) {
        let of_topic = |event: &Event| matches!(event, Event::Message { .. } | Event::Gap { .. });
        match self.find(of_topic).await {
            Event::Message { topic, message } => {
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                (topic.as_str().to_owned(), text)
            }
            other => panic!("{other:?} is no message"),
        }
    }

    /// Texts of the next messages.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.message().await.1);
        }
        texts
    }

    /// Subscribes and returns the answer.
    pub async fn subscribe(&mut self, id: u64, name: &str, from: From) -> Event {
        self.send(id, subscribe(name, from)).await;
        self.answer().await
    }
}

pub fn subscribe(name: &str, from: From) -> Command {
    Command::Subscribe { topic: topic(name), from, options: Options::default() }
}

pub fn subscribe_with(name: &str, from: From, delivery: Delivery) -> Command {
    let options = Options { delivery: Some(delivery), ..Options::default() };
    Command::Subscribe { topic: topic(name), from, options }
}

/// The same, with deltas.
pub fn subscribe_to_deltas(name: &str, from: From) -> Command {
    let options = Options { delta: true, ..Options::default() };
    Command::Subscribe { topic: topic(name), from, options }
}

pub fn unsubscribe(name: &str) -> Command {
    Command::Unsubscribe { topic: topic(name) }
}

pub fn publish(name: &str, text: &str) -> Command {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Command::Publish(Publish {
        topic: topic(name),
        content_type: ContentType::Text,
        key: None,
        stamp: None,
        payload,
    })
}

pub fn topic(name: &str) -> Topic {
    Topic::new(name).expect("valid")
}

async fn next_of_socket(
    socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>,
    encoding: Encoding,
) -> Heard {
    while let Some(Ok(message)) = socket.next().await {
        if let Some((code, _)) = message.as_close() {
            return Heard::Closed(code.into());
        }
        assert_eq!(message.is_text(), encoding == Encoding::Json && !message.is_ping());
        if message.is_text() || message.is_binary() {
            let frame = Bytes::from(message.into_payload());
            return Heard::Event(encoding.decode_event(&frame).expect("an event"));
        }
    }
    panic!("the connection ended without a close frame");
}

/// A QUIC connection that trusts the server's certificate.
pub async fn dial(
    server: &Server,
    alpn: &[u8],
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    dial_with(server, alpn, |_| {}).await
}

pub async fn dial_with(
    server: &Server,
    alpn: &[u8],
    change: impl FnOnce(&mut quinn::TransportConfig),
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let file = server.directory.path().join(pushonce_gateway::certificate::FILE);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).expect("a certificate")).expect("trusted");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("a cipher suite");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    // Small, so that a client that stops reading is soon noticed.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window((64_u32 << 10).into());
    change(&mut transport);
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint.connect_with(config, server.quic, "localhost").expect("valid");
    let connection = within(connecting).await?;
    Ok((endpoint, connection))
}

/// Everything on one stream.
async fn hear(mut receive: quinn::RecvStream, tell: mpsc::Sender<Heard>) {
    let mut decoder = delimited::Decoder::new(1 << 22);
    while let Ok(Some(chunk)) = receive.read_chunk(64 << 10, true).await {
        decoder.push(&chunk.bytes);
        while let Ok(Some(frame)) = decoder.next() {
            let event = Encoding::Proto.decode_event(&frame).expect("an event");
            tell.send(Heard::Event(event)).await.ok();
        }
    }
}

async fn hear_datagrams(connection: quinn::Connection, tell: mpsc::Sender<Heard>) {
    while let Ok(datagram) = connection.read_datagram().await {
        let event = Encoding::Proto.decode_event(&datagram).expect("an event");
        tell.send(Heard::Datagram(event)).await.ok();
    }
}

async fn hear_subscriptions(connection: quinn::Connection, tell: mpsc::Sender<Heard>) {
    while let Ok(receive) = connection.accept_uni().await {
        tokio::spawn(hear(receive, tell.clone()));
    }
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            tell.send(Heard::Closed(close.error_code.into_inner() as u16)).await.ok();
        }
        other => panic!("the connection ended without a close code: {other}"),
    }
}
