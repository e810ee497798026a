//! A test client for every transport.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use pushonce_core::test_util::{self, topic};
use pushonce_core::{Delivery, StartFrom, SubscribeOptions};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ErrorCode, ServerEvent};
use pushonce_proto::delimited;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use super::webtransport::{
    WebTransportSession, accept_session_streams, read_capsules, read_session_datagrams,
};
use super::{TestGateway, with_timeout};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTransport {
    WsJson,
    WsProto,
    Quic,
    /// WebTransport with JSON frames.
    WebTransport,
    WebTransportProto,
}

pub struct GatewayClient {
    encoding: Encoding,
    connection: ClientConnection,
    pub skipped: Vec<ServerEvent>,
}

enum ClientConnection {
    Ws(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Quic {
        control: quinn::SendStream,
        events: mpsc::Receiver<Received>,
        handles: QuicHandles,
        /// Of HTTP/3: they end with the session.
        _streams: Vec<quinn::SendStream>,
    },
}

/// Handles that close the connection when they are dropped.
type QuicHandles = (quinn::Endpoint, quinn::Connection);

/// What a client receives.
#[derive(Debug)]
pub enum Received {
    Event(ServerEvent),
    /// An event in a datagram.
    Datagram(ServerEvent),
    Closed(u16),
}

impl GatewayClient {
    pub async fn connect(server: &TestGateway, via: ClientTransport) -> GatewayClient {
        match via {
            ClientTransport::WsJson => GatewayClient::ws(server, Encoding::Json).await,
            ClientTransport::WsProto => GatewayClient::ws(server, Encoding::Proto).await,
            ClientTransport::Quic => GatewayClient::quic(server).await,
            ClientTransport::WebTransport => {
                GatewayClient::webtransport(server, "protocol=pushonce.v1.json").await
            }
            ClientTransport::WebTransportProto => GatewayClient::webtransport(server, "").await,
        }
    }

    async fn ws(server: &TestGateway, encoding: Encoding) -> GatewayClient {
        let subprotocol = HeaderValue::from_static(encoding.subprotocol());
        let builder = ClientBuilder::new()
            .uri(&format!("ws://{}/ws", server.http))
            .expect("a URL")
            .add_header(SEC_WEBSOCKET_PROTOCOL, subprotocol)
            .expect("a header");
        let (websocket, response) = with_timeout(builder.connect()).await.expect("connected");
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], encoding.subprotocol());
        GatewayClient {
            encoding,
            connection: ClientConnection::Ws(Box::new(websocket)),
            skipped: Vec::new(),
        }
    }

    async fn quic(server: &TestGateway) -> GatewayClient {
        GatewayClient::quic_with(server, |_| {}).await
    }

    pub async fn quic_with(
        server: &TestGateway,
        change: impl FnOnce(&mut quinn::TransportConfig),
    ) -> GatewayClient {
        let dialed = dial_with(server, b"pushonce/1", change).await;
        let (endpoint, connection) = dialed.expect("connected");
        let (control, receive) = with_timeout(connection.open_bi()).await.expect("a stream");
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(read_stream(receive, Encoding::Proto, sender.clone()));
        tokio::spawn(read_datagrams(connection.clone(), sender.clone()));
        tokio::spawn(accept_streams(connection.clone(), sender));
        let wire = ClientConnection::Quic {
            control,
            events,
            handles: (endpoint, connection),
            _streams: Vec::new(),
        };
        GatewayClient { encoding: Encoding::Proto, connection: wire, skipped: Vec::new() }
    }

    /// Opens a session with this query.
    pub async fn webtransport(server: &TestGateway, query: &str) -> GatewayClient {
        let encoding = match query.contains("json") {
            true => Encoding::Json,
            false => Encoding::Proto,
        };
        let mut session =
            WebTransportSession::request(server, &format!("/webtransport?{query}"), &[]).await;
        assert_eq!(session.status().await, 200);
        GatewayClient::over_webtransport(session, encoding).await
    }

    /// Opens the control stream of an accepted session.
    pub async fn over_webtransport(
        mut session: WebTransportSession,
        encoding: Encoding,
    ) -> GatewayClient {
        let (control, receive) = session.open_stream().await;
        let (sender, events) = mpsc::channel(1);
        let connection = session.connection.clone();
        tokio::spawn(read_stream(receive, encoding, sender.clone()));
        tokio::spawn(read_session_datagrams(connection.clone(), encoding, sender.clone()));
        tokio::spawn(accept_session_streams(connection.clone(), encoding, sender.clone()));
        tokio::spawn(read_capsules(session.response, sender));
        let handles = (session.endpoint, connection);
        let _streams = vec![session.request, session.control];
        let wire = ClientConnection::Quic { control, events, handles, _streams };
        GatewayClient { encoding, connection: wire, skipped: Vec::new() }
    }

    pub async fn send(&mut self, id: u64, command: ClientCommand) {
        let frame = self.encoding.encode_request(&ClientRequest { id: Some(id), command });
        self.send_raw(frame).await;
    }

    /// Sends bytes as the content of a frame, valid or not.
    pub async fn send_raw(&mut self, frame: Bytes) {
        match &mut self.connection {
            ClientConnection::Ws(socket) => {
                let message = match self.encoding {
                    Encoding::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
                    Encoding::Proto => Message::binary(frame),
                };
                socket.send(message).await.expect("sent");
            }
            ClientConnection::Quic { control, .. } => {
                // The server closes the stream of a frame that is too long, so this may fail.
                control.write_all(&delimited::encode(&frame)).await.ok();
            }
        }
    }

    /// Continues from another address, like a phone that leaves its Wi-Fi.
    pub fn change_address(&self) {
        let ClientConnection::Quic { handles: (endpoint, _), .. } = &self.connection else {
            panic!("only a QUIC connection outlives its address")
        };
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        endpoint.rebind(socket).expect("a runtime");
    }

    pub async fn next(&mut self) -> Received {
        with_timeout(async {
            match &mut self.connection {
                ClientConnection::Ws(socket) => next_from_websocket(socket, self.encoding).await,
                ClientConnection::Quic { events, .. } => {
                    events.recv().await.expect("the connection ended without a close code")
                }
            }
        })
        .await
    }

    /// Returns the next reply to a request. Replies and messages may arrive on different streams, so each
    /// kind is awaited separately.
    pub async fn next_reply(&mut self) -> ServerEvent {
        self.next_matching(|event| {
            matches!(
                event,
                ServerEvent::Subscribed { .. }
                    | ServerEvent::Unsubscribed { .. }
                    | ServerEvent::Published { .. }
                    | ServerEvent::Authenticated { .. }
                    | ServerEvent::Error { .. }
            )
        })
        .await
    }

    /// Returns the next matching event. Events before it are kept in `skipped`.
    pub async fn next_matching(&mut self, is_wanted: impl Fn(&ServerEvent) -> bool) -> ServerEvent {
        if let Some(index) = self.skipped.iter().position(&is_wanted) {
            return self.skipped.remove(index);
        }
        loop {
            match self.next().await {
                Received::Event(event) if is_wanted(&event) => return event,
                Received::Event(event) => self.skipped.push(event),
                Received::Datagram(event) => panic!("unexpected datagram: {event:?}"),
                Received::Closed(code) => panic!("closed with {code}"),
            }
        }
    }

    /// Returns the close code of the session. Events before it are discarded.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Received::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    /// Returns the request id and the code of the next reply, which must be an error.
    pub async fn error_code(&mut self) -> (Option<u64>, ErrorCode) {
        match self.next_reply().await {
            ServerEvent::Error { id, code, message, .. } => {
                assert!(!message.is_empty());
                (id, code)
            }
            other => panic!("{other:?} is not an error"),
        }
    }

    /// Returns the topic and text of the next message.
    pub async fn next_message(&mut self) -> (String, String) {
        let is_message_or_gap = |event: &ServerEvent| {
            matches!(event, ServerEvent::Message { .. } | ServerEvent::Gap { .. })
        };
        match self.next_matching(is_message_or_gap).await {
            ServerEvent::Message { topic, message } => {
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                (topic.as_str().to_owned(), text)
            }
            other => panic!("{other:?} is not a message"),
        }
    }

    /// Returns the texts of the next `count` messages.
    pub async fn next_texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.next_message().await.1);
        }
        texts
    }

    /// Subscribes and returns the reply.
    pub async fn subscribe(&mut self, id: u64, name: &str, from: StartFrom) -> ServerEvent {
        self.send(id, subscribe(name, from)).await;
        self.next_reply().await
    }
}

pub fn subscribe(name: &str, from: StartFrom) -> ClientCommand {
    ClientCommand::Subscribe { topic: topic(name), from, options: SubscribeOptions::default() }
}

pub fn subscribe_with(name: &str, from: StartFrom, delivery: Delivery) -> ClientCommand {
    let options = SubscribeOptions { delivery: Some(delivery), ..SubscribeOptions::default() };
    ClientCommand::Subscribe { topic: topic(name), from, options }
}

/// A subscription that accepts deltas.
pub fn subscribe_to_deltas(name: &str, from: StartFrom) -> ClientCommand {
    let options = SubscribeOptions { accept_deltas: true, ..SubscribeOptions::default() };
    ClientCommand::Subscribe { topic: topic(name), from, options }
}

pub fn unsubscribe(name: &str) -> ClientCommand {
    ClientCommand::Unsubscribe { topic: topic(name) }
}

pub fn publish(name: &str, text: &str) -> ClientCommand {
    ClientCommand::Publish(test_util::publish(name, text.to_owned()))
}

async fn next_from_websocket(
    socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>,
    encoding: Encoding,
) -> Received {
    while let Some(Ok(message)) = socket.next().await {
        if let Some((code, _)) = message.as_close() {
            return Received::Closed(code.into());
        }
        assert_eq!(message.is_text(), encoding == Encoding::Json && !message.is_ping());
        if message.is_text() || message.is_binary() {
            let frame = Bytes::from(message.into_payload());
            return Received::Event(encoding.decode_event(&frame).expect("an event"));
        }
    }
    panic!("the connection ended without a close frame");
}

/// Opens a QUIC connection that trusts the certificate of the server.
pub async fn dial(
    server: &TestGateway,
    alpn: &[u8],
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    dial_with(server, alpn, |_| {}).await
}

pub async fn dial_with(
    server: &TestGateway,
    alpn: &[u8],
    change: impl FnOnce(&mut quinn::TransportConfig),
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let file = server.directory.path().join(pushonce_quic::certificate::FILE_NAME);
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
    // Small, so that the server soon detects a client that stops reading.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window((64_u32 << 10).into());
    change(&mut transport);
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint.connect_with(config, server.quic, "localhost").expect("valid");
    let connection = with_timeout(connecting).await?;
    Ok((endpoint, connection))
}

/// Forwards all events of one stream.
pub async fn read_stream(
    mut receive: quinn::RecvStream,
    encoding: Encoding,
    sender: mpsc::Sender<Received>,
) {
    let mut decoder = delimited::FrameDecoder::new(1 << 22);
    while let Ok(Some(chunk)) = receive.read_chunk(64 << 10, true).await {
        decoder.push(&chunk.bytes);
        while let Ok(Some(frame)) = decoder.next() {
            let event = encoding.decode_event(&frame).expect("an event");
            sender.send(Received::Event(event)).await.ok();
        }
    }
}

async fn read_datagrams(connection: quinn::Connection, sender: mpsc::Sender<Received>) {
    while let Ok(datagram) = connection.read_datagram().await {
        let event = Encoding::Proto.decode_event(&datagram).expect("an event");
        sender.send(Received::Datagram(event)).await.ok();
    }
}

async fn accept_streams(connection: quinn::Connection, sender: mpsc::Sender<Received>) {
    while let Ok(receive) = connection.accept_uni().await {
        tokio::spawn(read_stream(receive, Encoding::Proto, sender.clone()));
    }
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            sender.send(Received::Closed(close.error_code.into_inner() as u16)).await.ok();
        }
        other => panic!("the connection ended without a close code: {other}"),
    }
}
