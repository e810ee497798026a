//! A private authority for the tests of TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::{CertificateFiles, provider};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority that issues certificates.
pub struct TestAuthority(CertifiedIssuer<'static, KeyPair>);

/// A certificate chain and its key as PEM texts.
pub struct IssuedCertificate {
    /// The certificate.
    pub chain: String,
    /// Its key.
    pub key: String,
}

impl TestAuthority {
    /// An authority with a new key.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> TestAuthority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test authority");
        let key = KeyPair::generate().expect("a key");
        TestAuthority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// The certificate of the authority as a PEM text.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `localhost` and `127.0.0.1` that is valid for a year around `now`.
    pub fn issue(&self, now: SystemTime) -> IssuedCertificate {
        self.issue_valid(now - 183 * DAY, now + 183 * DAY)
    }

    /// Issues a certificate for `localhost` and `127.0.0.1` with this validity.
    pub fn issue_valid(&self, valid_from: SystemTime, expires: SystemTime) -> IssuedCertificate {
        let names = ["localhost", "127.0.0.1"].map(String::from);
        let mut params = CertificateParams::new(names).expect("valid names");
        params.not_before = valid_from.into();
        params.not_after = expires.into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        IssuedCertificate { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A client that trusts this authority only, and offers `alpn`.
    pub fn client_config(&self, alpn: &[&[u8]]) -> ClientConfig {
        self.client_config_for(rustls::DEFAULT_VERSIONS, alpn)
    }

    /// A client as [`TestAuthority::client_config`] that supports only these versions.
    pub fn client_config_for(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("supported versions")
            .with_root_certificates(Arc::new(roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

impl IssuedCertificate {
    /// Writes the two files into `directory`.
    pub fn write(&self, directory: &Path) -> CertificateFiles {
        let files =
            CertificateFiles { chain: directory.join("tls.crt"), key: directory.join("tls.key") };
        std::fs::write(&files.chain, &self.chain).expect("a writable directory");
        std::fs::write(&files.key, &self.key).expect("a writable directory");
        files
    }
}
