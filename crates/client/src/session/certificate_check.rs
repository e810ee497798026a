//! The check of a server's certificate, which remembers why it failed: the transports report a failed handshake
//! each in its own way, and some only as "transport error".

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::CertificateTrust;
use crate::server_address::ServerAddress;

/// Maximum number of names of a certificate in a message.
const NAMES_SHOWN_MAX: usize = 5;

/// Verifies the certificate of one server.
#[derive(Debug)]
pub(super) struct CertificateCheck {
    verifier: Arc<dyn ServerCertVerifier>,
    server: ServerAddress,
    /// The remedy for a certificate of an unknown authority.
    trust_hint: &'static str,
    rejection: Mutex<Option<String>>,
}

impl CertificateCheck {
    pub(super) fn new(
        verifier: Arc<dyn ServerCertVerifier>,
        server: &ServerAddress,
        trust: &CertificateTrust,
    ) -> CertificateCheck {
        let trust_hint = match trust {
            CertificateTrust::System => {
                "this system does not trust the authority that issued it; for a private authority, give its \
                 certificate with --ca FILE or PUSHONCE_CA (CertificateTrust::Roots)"
            }
            CertificateTrust::Roots(_) => {
                "another authority issued it than the one in --ca (CertificateTrust::Roots); give the certificate \
                 of the authority that did"
            }
            CertificateTrust::Fingerprint(_) => {
                "it does not have the trusted fingerprint; give the fingerprint of the new certificate"
            }
        };
        CertificateCheck {
            verifier,
            server: server.clone(),
            trust_hint,
            rejection: Mutex::default(),
        }
    }

    /// Why the certificate was rejected in the last handshake, and what to change; `None` if it was not.
    pub(super) fn rejection(&self) -> Option<String> {
        self.rejection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn describe(&self, error: &Error) -> String {
        let CertificateCheck { server, trust_hint, .. } = self;
        let reason = match error {
            Error::InvalidCertificate(error) => match error {
                // A bad signature is that of another authority with the same name.
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::ApplicationVerificationFailure => (*trust_hint).to_owned(),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "it has expired; renew it on the server, or correct the clock of this host".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "it is not valid yet; correct the clock of this host or of the one that issued it".to_owned()
                }
                CertificateError::NotValidForNameContext { presented, .. } => {
                    wrong_name(&server.host, presented)
                }
                CertificateError::NotValidForName => wrong_name(&server.host, &[]),
                error => format!("{error}; replace it on the server"),
            },
            error => format!("{error}; replace it on the server"),
        };
        format!("the certificate of {server} is not accepted: {reason}")
    }
}

/// The reason for a certificate of other hosts. `presented` has its names as the library prints them, as in
/// `DnsName("a.example")`.
fn wrong_name(host: &str, presented: &[String]) -> String {
    let name = |text: &String| {
        let (kind, rest) = text.split_once('(')?;
        let is_host = matches!(kind, "DnsName" | "IpAddress");
        is_host.then(|| rest.trim_end_matches(')').trim_matches('"').to_owned())
    };
    let names: Vec<_> = presented.iter().filter_map(name).take(NAMES_SHOWN_MAX).collect();
    let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
    format!(
        "it is for {names}, and not for {host}; connect to a name in the certificate, or issue one for {host}"
    )
}

impl ServerCertVerifier for CertificateCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let rejection = result.as_ref().err().map(|error| self.describe(error));
        *self.rejection.lock().unwrap_or_else(PoisonError::into_inner) = rejection;
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::wrong_name;

    #[test]
    fn reason_lists_the_hosts_of_the_certificate() {
        let presented = [
            "UniformResourceIdentifier(\"spiffe://7/node/1\")".to_owned(),
            "DnsName(\"a.example\")".to_owned(),
            "IpAddress(::1)".to_owned(),
        ];
        let reason = wrong_name("b.example", &presented);
        assert!(reason.starts_with("it is for a.example, ::1, and not for b.example"), "{reason}");
        assert!(wrong_name("b.example", &[]).contains("no host"));
    }
}
