//! The HTTP request for a JWK set. A connection of its own for each: one every ten minutes needs no pool.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::key::UnusableKey;

/// The address of a JWK set: `https`, or `http` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JwksUrl {
    uri: Uri,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    is_tls: bool,
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidJwksUrl {
    #[error("`jwks` is not a URL: expected https://HOST/PATH")]
    Malformed,
    #[error("`jwks` must use https: else anyone on the way could replace the keys")]
    NotHttps,
    #[error("`jwks` must not have a user name or a password")]
    Credentials,
}

/// Why a JWK set cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    NoTls(#[from] NoTls),
    #[error("the host is not a valid name for TLS")]
    ServerName,
    #[error("the request failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request is not valid: {0}")]
    Request(#[from] http::Error),
    #[error("the server redirects with status {0}; set `jwks` to the final address")]
    Redirect(u16),
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("the answer is larger than {BODY_BYTES_MAX} bytes, or broken off")]
    Body,
    #[error("the key set is not usable: {0}")]
    Document(UnusableKey),
}

/// From the first packet to the last.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a JWK set: 64 RSA keys of 4,096 bits with a certificate chain of some hundred bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// The TLS configuration with the roots of the operating system. Built once: it reads some hundred files.
static TLS: LazyLock<Result<Arc<ClientConfig>, NoTls>> = LazyLock::new(tls_config);

/// Why TLS cannot be used at all.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NoTls {
    #[error("this machine has no root certificates; install them (the package ca-certificates)")]
    NoRoots,
    #[error("the TLS configuration is not valid: {0}")]
    Config(rustls::Error),
}

impl JwksUrl {
    pub(crate) fn parse(url: &str) -> Result<JwksUrl, InvalidJwksUrl> {
        let uri: Uri = url.parse().map_err(|_| InvalidJwksUrl::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(InvalidJwksUrl::Malformed);
        };
        if authority.as_str().contains('@') {
            return Err(InvalidJwksUrl::Credentials);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(InvalidJwksUrl::Malformed);
        }
        let is_tls = *scheme == Scheme::HTTPS;
        let is_this_machine =
            host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let is_local = *scheme == Scheme::HTTP && is_this_machine;
        if !(is_tls || is_local) {
            return Err(InvalidJwksUrl::NotHttps);
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(JwksUrl { uri, host, port, is_tls })
    }
}

/// The body of the answer.
pub(super) async fn fetch(url: &JwksUrl) -> Result<Bytes, FetchError> {
    fetch_with(url, || TLS.clone()).await
}

async fn fetch_with(
    url: &JwksUrl,
    tls: impl FnOnce() -> Result<Arc<ClientConfig>, NoTls>,
) -> Result<Bytes, FetchError> {
    let fetch = async {
        let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
        if !url.is_tls {
            return request(url, tcp).await;
        }
        let name = ServerName::try_from(url.host.clone()).map_err(|_| FetchError::ServerName)?;
        let tls = TlsConnector::from(tls()?).connect(name, tcp).await?;
        request(url, tls).await
    };
    tokio::time::timeout(TIMEOUT, fetch).await.unwrap_or(Err(FetchError::Timeout))
}

async fn request(
    url: &JwksUrl,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = url.uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, url.uri.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("pushonce/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    // The connection is driven here: it ends with this function.
    tokio::pin!(connection);
    let exchange = async {
        let response = sender.send_request(request).await?;
        match response.status() {
            status if status.is_success() => {}
            // Not followed: the operator named this host, and no other one may choose the keys.
            status if status.is_redirection() => return Err(FetchError::Redirect(status.as_u16())),
            status => return Err(FetchError::Status(status.as_u16())),
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX);
        Ok(body.collect().await.map_err(|_| FetchError::Body)?.to_bytes())
    };
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        ended = &mut connection => match ended {
            // The whole answer may have arrived with the end of the connection.
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}

fn tls_config() -> Result<Arc<ClientConfig>, NoTls> {
    let mut roots = RootCertStore::empty();
    // Single files that cannot be read do not matter as long as there are others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(NoTls::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(NoTls::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[cfg(test)]
mod fetch_test;
