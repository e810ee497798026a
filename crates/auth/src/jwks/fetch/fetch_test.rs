use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that answers `{}` over TLS with a certificate of its own for `localhost`; its address, and a
/// client configuration that trusts it.
async fn server() -> (String, Arc<ClientConfig>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("valid")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a matching key");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("valid");
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("valid")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
            let _ = stream.shutdown().await;
        }
    });
    (format!("https://localhost:{port}/keys"), Arc::new(client))
}

#[tokio::test]
async fn keys_are_fetched_over_tls_from_a_server_that_is_trusted() {
    let (url, client) = server().await;
    let url = JwksUrl::parse(&url).expect("valid");
    let body = fetch_with(&url, || Ok(client)).await.expect("an answer");
    assert_eq!(body, "{}");
}

#[tokio::test]
async fn server_with_an_unknown_or_another_certificate_is_refused() {
    let (url, client) = server().await;
    let by_name = JwksUrl::parse(&url).expect("valid");
    let with_system_roots = fetch(&by_name).await;
    assert!(
        matches!(with_system_roots, Err(FetchError::Connect(_) | FetchError::NoTls(_))),
        "{with_system_roots:?}"
    );
    let by_address = JwksUrl::parse(&url.replace("localhost", "127.0.0.1")).expect("valid");
    let other_name = fetch_with(&by_address, || Ok(client)).await;
    assert!(matches!(other_name, Err(FetchError::Connect(_))), "{other_name:?}");
}
