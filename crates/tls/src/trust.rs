//! [`TrustStore`]: the authorities whose certificates are accepted.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use tokio::sync::watch;

use crate::CertificateError;
use crate::config::provider;
use crate::file::{self, Content};
use crate::pem::parse_authorities;
use crate::reload::{Parse, Reloading};

/// Certificates of authorities, read again when their file changes. Clones share it.
#[derive(Clone, Debug)]
pub struct TrustStore(Arc<Reloading<AuthoritiesParser>>);

struct AuthoritiesParser(PathBuf);

struct Authorities {
    roots: Arc<RootCertStore>,
    client_verifier: Arc<dyn ClientCertVerifier>,
}

impl TrustStore {
    /// Loads a PEM file with one or more certificates of authorities. `name` is the setting that names it, for
    /// logs and metrics.
    ///
    /// # Errors
    /// When the file cannot be read or contains no certificate or a malformed one.
    pub fn load(name: &'static str, path: PathBuf) -> Result<TrustStore, CertificateError> {
        let parser = AuthoritiesParser(path);
        Ok(TrustStore(Arc::new(Reloading::load(name, parser, SystemTime::UNIX_EPOCH)?)))
    }

    /// The authorities in use.
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.0.current().roots.clone()
    }

    /// Reads the file. If its content changed and is valid, new handshakes use it. A failure is logged once and
    /// counted, and the previous authorities stay in use.
    pub fn reload(&self) {
        // The validity of an authority is checked with each certificate that it issued.
        self.0.reload(SystemTime::UNIX_EPOCH);
    }

    /// Reads the file every 30 seconds and whenever `reload` changes. Never returns.
    pub async fn run(self, reload: watch::Receiver<()>) -> Infallible {
        self.0.run(reload).await
    }

    /// Verifies that a certificate of a client was issued by one of the authorities. A client without a
    /// certificate is accepted: the server must check who called.
    pub fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(CurrentClientVerifier(self.0.clone()))
    }
}

impl Parse for AuthoritiesParser {
    type Contents = [Content; 1];
    type Value = Authorities;

    fn read(&self) -> Result<[Content; 1], CertificateError> {
        Ok([file::read(&self.0)?])
    }

    fn parse(
        &self,
        [content]: &[Content; 1],
        _: SystemTime,
    ) -> Result<Authorities, CertificateError> {
        let roots = Arc::new(parse_authorities(content)?);
        let client_verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| CertificateError::Malformed {
                    path: content.path.clone(),
                    reason: error.to_string(),
                })?;
        Ok(Authorities { roots, client_verifier })
    }
}

/// Verifies with the authorities that are in use when the client connects.
#[derive(Debug)]
struct CurrentClientVerifier(Arc<Reloading<AuthoritiesParser>>);

impl CurrentClientVerifier {
    fn current(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.current().client_verifier.clone()
    }
}

impl ClientCertVerifier for CurrentClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the names would be a reference to authorities that may be replaced. A client of this port has one
    /// certificate and needs no hint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}
