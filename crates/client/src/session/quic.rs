//! A session over QUIC: a control stream, one stream per topic, and datagrams for topics that request them.

mod datagrams;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Epoch, Topic};
use pushonce_proto::client::{ClientRequest, Encoding, ServerEvent};
use pushonce_proto::close::Reconnect;
use pushonce_proto::delimited::{self, FrameDecoder};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig,
    VarInt,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::certificate_check::CertificateCheck;
use super::trust::DevelopmentCertificate;
use super::{CertificateTrust, SessionEnd};
use crate::server_address::ServerAddress;

/// The ALPN protocol of servers on their UDP port, beside HTTP/3.
const ALPN: &[u8] = b"pushonce/1";

/// Fits a payload of 1 MiB with the other fields of a message.
const FRAME_BYTES_MAX: usize = 2 << 20;

/// Maximum number of queued events. A full queue stops the reading, and with it the server.
const EVENTS_MAX: usize = 256;

/// Shorter than the UDP timeout of most NATs, and short enough that a lost packet does not end a session.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// A connection without packets for this long is closed: a node that died sends no close. The same as the
/// keep-alive of gRPC.
const IDLE_TIMEOUT_MS: VarInt = VarInt::from_u32(10_000);

/// Less than half of the timeout for opening a session, so that a second address can be tried.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Unread bytes in flight of one topic, and of all topics: unread data is queued at the server, not here.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Buffer for datagrams, which are read immediately.
const DATAGRAM_BUFFER_BYTES: usize = 256 << 10;

/// The close code, if there is one, arrives after the ends of the streams.
const CLOSE_CODE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Session {
    control: SendStream,
    events: mpsc::Receiver<Result<ServerEvent, SessionEnd>>,
    topics: Arc<watch::Sender<TopicStreams>>,
    /// Tasks that read the streams; aborted with the session.
    _readers: JoinSet<()>,
    connection: Connection,
    _endpoint: Endpoint,
}

impl Session {
    pub(super) async fn open(
        server: &ServerAddress,
        trust: &CertificateTrust,
    ) -> Result<Session, SessionEnd> {
        let (endpoint, connection) = connect(server, trust).await?;
        let (control, responses) = connection.open_bi().await.map_err(session_end)?;
        let (send, events) = mpsc::channel(EVENTS_MAX);
        let shared = ReaderContext {
            connection: connection.clone(),
            events: send,
            topics: watch::channel(TopicStreams::default()).0.into(),
        };
        let topics = shared.topics.clone();
        let mut readers = JoinSet::new();
        readers.spawn(read_stream(responses, shared.clone()));
        readers.spawn(datagrams::read(shared.clone()));
        readers.spawn(accept_streams(shared));
        Ok(Session { control, events, topics, _readers: readers, connection, _endpoint: endpoint })
    }

    pub(super) async fn send(&mut self, request: &ClientRequest) -> Result<(), SessionEnd> {
        let frame = delimited::encode(&Encoding::Proto.encode_request(request));
        self.control.write_all(&frame).await.map_err(SessionEnd::retryable)
    }

    /// A request to end the subscription of a topic follows: the end of its stream is then not the end of the session.
    pub(super) fn on_unsubscribe(&self, topic: &Topic) {
        self.topics.send_modify(|topics| topics.end(topic));
    }

    pub(super) async fn next(&mut self) -> Result<ServerEvent, SessionEnd> {
        match self.events.recv().await {
            Some(event) => event,
            None => Err(SessionEnd::retryable("the connection ended")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(1000), b"normal");
    }
}

/// Tries every address of the server: on UDP a closed port is silent instead of refusing.
async fn connect(
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<(Endpoint, Connection), SessionEnd> {
    let addresses =
        tokio::net::lookup_host(server.authority()).await.map_err(SessionEnd::retryable)?;
    let mut last = SessionEnd::retryable(format!("{server} has no address"));
    for address in addresses {
        let connecting = connect_to_address(address, server, trust);
        last = match tokio::time::timeout(ADDRESS_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => return Ok(connected),
            // The certificate of the other addresses is the same.
            Ok(Err(end)) if end.reconnect == Reconnect::No => return Err(end),
            Ok(Err(end)) => end,
            Err(_) => SessionEnd::retryable(format!("no reply from {address}")),
        };
    }
    Err(last)
}

async fn connect_to_address(
    address: SocketAddr,
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<(Endpoint, Connection), SessionEnd> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::client(local).map_err(SessionEnd::retryable)?;
    let name = server.host.trim_matches(['[', ']']);
    let (config, check) = client_config(address, server, trust)?;
    let connecting = endpoint.connect_with(config, address, name);
    let connected = connecting.map_err(SessionEnd::permanent)?.await;
    let connection = connected.map_err(|error| match check.rejection() {
        Some(rejection) => SessionEnd::untrusted(rejection),
        None => session_end(error),
    })?;
    Ok((endpoint, connection))
}

fn client_config(
    address: SocketAddr,
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<(ClientConfig, Arc<CertificateCheck>), SessionEnd> {
    let development = match address.ip().is_loopback() {
        true => DevelopmentCertificate::Accepted,
        false => DevelopmentCertificate::Rejected,
    };
    let config = trust.client_config(server, development);
    let (mut tls, check) = config.map_err(SessionEnd::permanent)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(tls).map_err(SessionEnd::permanent)?,
    ));
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE_INTERVAL));
    transport.max_idle_timeout(Some(IDLE_TIMEOUT_MS.into()));
    transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES));
    transport.receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    transport.datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES));
    // Each topic has a stream of the server: the maximum number of topics of a session.
    transport.max_concurrent_uni_streams(VarInt::from_u32(1024));
    config.transport_config(Arc::new(transport));
    Ok((config, check))
}

/// State shared by the readers of a session.
#[derive(Clone)]
struct ReaderContext {
    connection: Connection,
    events: mpsc::Sender<Result<ServerEvent, SessionEnd>>,
    topics: Arc<watch::Sender<TopicStreams>>,
}

/// The topics of a session. Streams and datagrams are not ordered among each other, but the caller must receive the
/// subscribed event before the first message, and a new epoch by its gap.
#[derive(Debug, Default)]
struct TopicStreams {
    /// The epoch that the stream of each subscribed topic has reached; 0 for none.
    epochs: HashMap<Topic, Epoch>,
    /// The number of the stream of each topic. A stream that is not in it belongs to a subscription that the caller
    /// ended, and is not read further.
    streams: HashMap<Topic, u64>,
    /// The number of streams that began.
    begun: u64,
}

/// What a stream has delivered.
#[derive(Default)]
struct StreamProgress {
    epoch: Epoch,
    /// The topic, and the number of the stream.
    topic: Option<(Topic, u64)>,
}

impl TopicStreams {
    fn end(&mut self, topic: &Topic) {
        self.epochs.remove(topic);
        self.streams.remove(topic);
    }

    /// Registers the stream of a topic, and returns its number.
    fn begin(&mut self, topic: &Topic) -> u64 {
        self.begun += 1;
        self.streams.insert(topic.clone(), self.begun);
        self.begun
    }

    /// Whether the caller ended the subscription of this stream.
    fn is_ended(&self, stream: &StreamProgress) -> bool {
        stream.topic.as_ref().is_some_and(|(topic, number)| self.streams.get(topic) != Some(number))
    }
}

/// Reads every stream that the server opens: each belongs to a topic.
async fn accept_streams(shared: ReaderContext) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = shared.connection.accept_uni() => match stream {
                Ok(stream) => { readers.spawn(read_stream(stream, shared.clone())); }
                Err(error) => return shared.close(session_end(error)).await,
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

/// Reads a stream to its end, which ends the session unless the caller ended the subscription: a topic without a
/// stream would be silent.
async fn read_stream(mut stream: RecvStream, shared: ReaderContext) {
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut progress = StreamProgress::default();
    while let Ok(Some(chunk)) = stream.read_chunk(64 << 10, true).await {
        decoder.push(&chunk.bytes);
        loop {
            let event = match decoder.next() {
                Ok(Some(frame)) => Encoding::Proto.decode_event(&frame),
                Ok(None) => break,
                Err(error) => return shared.close(SessionEnd::retryable(error)).await,
            };
            match event {
                Ok(event) => shared.forward(event, &mut progress).await,
                Err(error) if error.is_fatal => {
                    return shared.close(SessionEnd::retryable(error)).await;
                }
                // A frame of a newer server: ignored.
                Err(_) => {}
            }
        }
    }
    if shared.topics.borrow().is_ended(&progress) {
        return;
    }
    let closed = tokio::time::timeout(CLOSE_CODE_TIMEOUT, shared.connection.closed()).await;
    shared
        .close(
            closed.map_or_else(|_| SessionEnd::retryable("the server ended a stream"), session_end),
        )
        .await;
}

// === impl ReaderContext ===

impl ReaderContext {
    /// Forwards an event of a stream.
    async fn forward(&self, event: ServerEvent, stream: &mut StreamProgress) {
        if self.topics.borrow().is_ended(stream) {
            return;
        }
        let epoch = stream.epoch;
        let started = match &event {
            ServerEvent::Stream { topic } => {
                let mut number = 0;
                self.topics.send_modify(|topics| number = topics.begin(topic));
                stream.topic = Some((topic.clone(), number));
                // Fails only without a sender, and `self` holds one.
                let mut topics = self.topics.subscribe();
                let is_started = |topics: &TopicStreams| {
                    topics.epochs.contains_key(topic) || topics.is_ended(stream)
                };
                let _ = topics.wait_for(is_started).await;
                return;
            }
            ServerEvent::Subscribed { topic, .. } => Some((topic.clone(), Epoch(0))),
            ServerEvent::Message { topic, message } if message.position.epoch != epoch => {
                Some((topic.clone(), message.position.epoch))
            }
            ServerEvent::Gap { topic, gap } if gap.to.epoch != epoch => {
                Some((topic.clone(), gap.to.epoch))
            }
            _ => None,
        };
        // Fails only when the session was dropped.
        let _ = self.events.send(Ok(event)).await;
        if let Some((topic, started_epoch)) = started {
            stream.epoch = started_epoch;
            self.topics.send_modify(|topics| {
                topics.epochs.insert(topic, started_epoch);
            });
        }
    }

    async fn close(&self, end: SessionEnd) {
        let _ = self.events.send(Err(end)).await;
    }
}

fn session_end(error: ConnectionError) -> SessionEnd {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner()).unwrap_or(0);
            SessionEnd::from_close_code(code, &String::from_utf8_lossy(&close.reason))
        }
        other => SessionEnd::retryable(other),
    }
}
