//! Mutual TLS between nodes.

mod connection;
mod connector;
mod incoming;
mod mutual_tls;
mod require_certificate;
mod verifier;

pub use connection::{PeerConnection, PeerInfo};
pub(crate) use connector::TlsConnector;
pub(crate) use incoming::incoming;
pub use mutual_tls::{CertificateFiles, CertificateFilesError, MutualTls, Reload};
pub use require_certificate::{RequireCertificate, RequireCertificateLayer};
pub use verifier::{AuthorityPin, CertificateRejection};
