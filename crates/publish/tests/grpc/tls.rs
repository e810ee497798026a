//! The gRPC port with TLS.

use std::time::SystemTime;

use pushonce_tls::test_util::TestAuthority;
use pushonce_tls::{CertificateStore, server_config};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::*;

/// A server with a certificate of the authority.
async fn start(authority: &TestAuthority) -> TestServer {
    let directory = tempfile::tempdir().expect("a directory");
    let now = SystemTime::now();
    let files = authority.issue(now).write(directory.path());
    let certificates = CertificateStore::load("tls-cert", files, now).expect("valid files");
    let config = server_config(&certificates, &[b"h2"], None).expect("valid settings");
    TestServer::bind(open_access(), Some(Arc::new(config)), watch::channel(READY).1).await
}

async fn connect(server: &TestServer, authority: &TestAuthority) -> Result<Channel, String> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("localhost");
    let endpoint = Channel::from_shared(format!("https://{}", server.addr)).expect("a URL");
    let endpoint = endpoint.tls_config(tls).expect("valid settings");
    endpoint.connect().await.map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn publish_over_tls_is_acknowledged_also_a_large_one() {
    let authority = TestAuthority::new();
    let server = start(&authority).await;
    let channel = connect(&server, &authority).await.expect("a trusted certificate");
    let mut publisher = PublisherServiceClient::new(channel);
    for payload in [vec![b'x'; 2], vec![b'x'; 64 << 10]] {
        publisher.publish(request("a", payload)).await.expect("acknowledged");
    }
}

#[tokio::test]
async fn client_that_does_not_trust_the_authority_does_not_connect() {
    let server = start(&TestAuthority::new()).await;
    let error = connect(&server, &TestAuthority::new()).await.expect_err("unknown authority");
    assert!(error.contains("InvalidCertificate"), "{error}");
}

#[tokio::test]
async fn plain_text_on_the_tls_port_is_refused_and_others_are_served() {
    let authority = TestAuthority::new();
    let server = start(&authority).await;
    let plain = PublisherServiceClient::connect(format!("http://{}", server.addr)).await;
    if let Ok(mut plain) = plain {
        plain.publish(request("a", "{}")).await.expect_err("no TLS");
    }
    connect(&server, &authority).await.expect("a trusted certificate");
}

#[tokio::test]
async fn server_with_tls_stops_while_clients_are_connected() {
    let authority = TestAuthority::new();
    let server = start(&authority).await;
    let channel = connect(&server, &authority).await.expect("a trusted certificate");
    let mut publisher = PublisherServiceClient::new(channel);
    let events = publisher.subscribe(subscribe_request(LIVE)).await.expect("open").into_inner();
    server.shutdown.cancel();
    let ended = events.filter(|event| future::ready(event.is_err())).next().await;
    assert!(ended.is_some(), "the stream ends with a reason");
    server.task.await.expect("no panic").expect("a clean shutdown");
}
