//! A session over QUIC: a control stream, and a stream for each topic.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pushonce_proto::client::{Encoding, Event, Request};
use pushonce_proto::delimited::{self, Decoder};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use quinn::{TransportConfig, VarInt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Ended, Trust};
use crate::server::{Scheme, Server};

/// What the server offers on its UDP port beside HTTP/3.
const ALPN: &[u8] = b"pushonce/1";

/// As for WebSocket.
const FRAME_BYTES_MAX: usize = 2 << 20;

/// Events that wait for the caller. A full queue stops the reading, and with it the server.
const EVENTS_MAX: usize = 256;

/// Shorter than the server's idle timeout, and than most NATs forget a flow in.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(crate) struct Session {
    control: SendStream,
    events: mpsc::Receiver<Result<Event, Ended>>,
    /// Reads the streams; ends with the session.
    _readers: JoinSet<()>,
    connection: Connection,
    _endpoint: Endpoint,
}

impl Session {
    pub(super) async fn open(server: &Server, trust: &Trust) -> Result<Session, Ended> {
        if server.scheme != Scheme::Quic {
            return Err(Ended::for_good(format!("{server} is not a quic:// address")));
        }
        let address = resolve(server).await?;
        let local = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = Endpoint::client(local).map_err(Ended::again)?;
        let name = server.host.trim_matches(['[', ']']);
        let connecting = endpoint.connect_with(config(address, trust)?, address, name);
        let connection = connecting.map_err(Ended::for_good)?.await.map_err(ended)?;
        let (control, answers) = connection.open_bi().await.map_err(ended)?;
        let (send, events) = mpsc::channel(EVENTS_MAX);
        let mut readers = JoinSet::new();
        readers.spawn(read(answers, send.clone()));
        readers.spawn(accept(connection.clone(), send));
        Ok(Session { control, events, _readers: readers, connection, _endpoint: endpoint })
    }

    pub(super) async fn send(&mut self, request: &Request) -> Result<(), Ended> {
        let frame = delimited::encode(&Encoding::Proto.encode_request(request));
        self.control.write_all(&frame).await.map_err(Ended::again)
    }

    pub(super) async fn next(&mut self) -> Result<Event, Ended> {
        match self.events.recv().await {
            Some(event) => event,
            None => Err(Ended::again("the connection ended")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(1000), b"normal");
    }
}

async fn resolve(server: &Server) -> Result<SocketAddr, Ended> {
    let mut found = tokio::net::lookup_host(server.authority()).await.map_err(Ended::again)?;
    found.next().ok_or_else(|| Ended::again(format!("{server} has no address")))
}

fn config(address: SocketAddr, trust: &Trust) -> Result<ClientConfig, Ended> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = trust.verifier(address, &provider).map_err(Ended::for_good)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Ended::for_good)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config =
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(Ended::for_good)?));
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    // A topic is a stream of the server's: as many as a session may have topics.
    transport.max_concurrent_uni_streams(VarInt::from_u32(1024));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Every stream that the server opens is a topic's.
async fn accept(connection: Connection, events: mpsc::Sender<Result<Event, Ended>>) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => { readers.spawn(read(stream, events.clone())); }
                Err(why) => {
                    // The caller may be gone, and then nobody wants to know.
                    let _ = events.send(Err(ended(why))).await;
                    return;
                }
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

/// Reads a stream to its end. The end of one topic's stream is not the end of the session.
async fn read(mut stream: RecvStream, events: mpsc::Sender<Result<Event, Ended>>) {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    while let Ok(Some(chunk)) = stream.read_chunk(64 << 10, true).await {
        decoder.push(&chunk.bytes);
        loop {
            let event = match decoder.next() {
                Ok(Some(frame)) => Encoding::Proto.decode_event(&frame),
                Ok(None) => break,
                Err(why) => {
                    let _ = events.send(Err(Ended::again(why))).await;
                    return;
                }
            };
            let sent = match event {
                Ok(Event::Stream { .. }) => Ok(()),
                Ok(event) => events.send(Ok(event)).await,
                Err(why) if why.broken => events.send(Err(Ended::again(why))).await,
                Err(_) => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

fn ended(why: ConnectionError) -> Ended {
    match why {
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner()).unwrap_or(0);
            Ended::closed(code, &String::from_utf8_lossy(&close.reason))
        }
        other => Ended::again(other),
    }
}
