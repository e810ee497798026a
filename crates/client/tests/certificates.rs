//! Set-up: servers with TLS over every transport. Fault: a certificate of an authority that is not trusted, for
//! another host, or that has expired. Claim: publishers and subscribers report the cause and what to change at once,
//! and do not try again, unless the server was usable before.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pushonce_client::{
    CertificateTrust, PublishFailure, Publisher, ServerAddress, Subscriber, SubscriberEvent,
    Transport,
};
use pushonce_core::{ContentType, Publish, StartFrom};
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use stage::{TEST_TIMEOUT, next_event, topic};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const DAY: Duration = Duration::from_secs(86_400);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn trust(&self) -> CertificateTrust {
        CertificateTrust::Roots(self.0.pem().into_bytes())
    }

    /// The TLS of a server for one host.
    fn server(&self, host: &str, expires: SystemTime, alpn: &[&[u8]]) -> ServerConfig {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = expires.into();
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

/// Handshakes over TCP with every client.
async fn serve_tcp(tls: ServerConfig) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handshake = acceptor.accept(stream);
            tokio::spawn(async move { drop(handshake.await) });
        }
    });
    address
}

/// Handshakes over QUIC with every client.
fn serve_quic(tls: ServerConfig) -> SocketAddr {
    let tls = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move { drop(incoming.await) });
        }
    });
    address
}

/// Certificates that are not accepted, each with the words of its message.
fn unacceptable(
    authority: &Authority,
) -> Vec<(&'static str, SystemTime, CertificateTrust, Vec<&str>)> {
    let valid = SystemTime::now() + 30 * DAY;
    let expired = SystemTime::now() - DAY;
    vec![
        ("127.0.0.1", valid, Authority::new().trust(), vec!["another authority", "--ca"]),
        (
            "127.0.0.1",
            valid,
            CertificateTrust::Fingerprint("07".repeat(32).parse().unwrap()),
            vec!["fingerprint"],
        ),
        ("a.example", valid, authority.trust(), vec!["is for a.example, and not for 127.0.0.1"]),
        ("127.0.0.1", expired, authority.trust(), vec!["has expired", "renew"]),
    ]
}

fn publisher(server: &str, trust: CertificateTrust) -> Publisher {
    Publisher::builder([server.parse().unwrap()]).trust(trust).build().unwrap()
}

fn assert_rejected(failure: PublishFailure, words: &[&str]) {
    let PublishFailure::Rejected { message, retry, .. } = failure else { panic!("{failure:?}") };
    assert!(!retry && words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
}

#[tokio::test]
async fn publisher_reports_an_unacceptable_certificate_at_once() {
    let authority = Authority::new();
    for (host, expires, trust, words) in unacceptable(&authority) {
        let address = serve_tcp(authority.server(host, expires, &[b"h2"])).await;
        let publisher = publisher(&format!("https://{address}"), trust);
        let message = Publish::new(topic(), ContentType::Text, "goal");
        assert_rejected(publisher.publish(message).await.unwrap_err(), &words);
        assert_rejected(publisher.stream().await.err().unwrap(), &words);
    }
}

#[tokio::test]
async fn subscriber_ends_with_the_reason_over_every_transport() {
    let authority = Authority::new();
    for (host, expires, trust, words) in unacceptable(&authority) {
        for (transport, scheme, alpn) in [
            (Transport::Ws, "wss", &b"http/1.1"[..]),
            (Transport::Grpc, "https", b"h2"),
            (Transport::Quic, "quic", b"pushonce/1"),
        ] {
            let tls = authority.server(host, expires, &[alpn]);
            let address = match transport {
                Transport::Quic => serve_quic(tls),
                _ => serve_tcp(tls).await,
            };
            let server: ServerAddress = format!("{scheme}://{address}").parse().unwrap();
            let builder = Subscriber::builder([server.clone()]).transport(transport);
            let builder = builder.trust(trust.clone()).topic(topic(), StartFrom::Now);
            let mut subscriber = builder.connect().unwrap();
            let event = next_event(&mut subscriber).await;
            let SubscriberEvent::Disconnected { reason, retry_in: None, .. } = event else {
                panic!("{transport}: {event:?}")
            };
            let expected = format!("the certificate of {server} is not accepted");
            assert!(reason.contains(&expected), "{transport}: {reason}");
            assert!(words.iter().all(|word| reason.contains(word)), "{words:?}: {reason}");
            let next = tokio::time::timeout(TEST_TIMEOUT, subscriber.next()).await;
            assert_eq!(next.expect("the end of the events"), None);
        }
    }
}

#[tokio::test]
async fn other_servers_are_used_after_one_with_an_unacceptable_certificate() {
    let authority = Authority::new();
    let expired = SystemTime::now() - DAY;
    let bad = serve_tcp(authority.server("127.0.0.1", expired, &[b"http/1.1"])).await;
    let good = stage::ScriptedWebSocketServer::open().await;
    let servers = [format!("wss://{bad}").parse().unwrap(), good.address()];
    let builder = Subscriber::builder(servers).trust(authority.trust());
    let mut subscriber = builder.topic(topic(), StartFrom::Now).connect().unwrap();
    let event = next_event(&mut subscriber).await;
    let SubscriberEvent::Disconnected { reason, retry_in: Some(_), .. } = event else {
        panic!("{event:?}")
    };
    assert!(reason.contains("has expired"), "{reason}");
    let _session = good.accept().await;
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
}

#[tokio::test]
async fn server_that_was_usable_is_tried_again_and_each_attempt_is_reported() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async |expires| {
        let tls = authority.server("127.0.0.1", expires, &[b"http/1.1"]);
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(tls)).accept(stream).await
    };
    let valid = SystemTime::now() + DAY;
    let server = format!("wss://{address}").parse().unwrap();
    let builder = Subscriber::builder([server]).trust(authority.trust());
    let mut subscriber = builder.topic(topic(), StartFrom::Now).connect().unwrap();
    let session = stage::accept_websocket(accept(valid).await.unwrap()).await;
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
    drop(session);
    let event = next_event(&mut subscriber).await;
    assert!(matches!(event, SubscriberEvent::Disconnected { retry_in: Some(_), .. }), "{event:?}");

    assert!(accept(SystemTime::now() - DAY).await.is_err(), "the client aborts the handshake");
    let event = next_event(&mut subscriber).await;
    let SubscriberEvent::Disconnected { reason, retry_in: Some(_), .. } = event else {
        panic!("{event:?}")
    };
    assert!(reason.contains("has expired"), "{reason}");
}
