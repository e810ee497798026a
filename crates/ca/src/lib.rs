//! A small private certificate authority for the nodes of a cluster, and what a node's certificate says.
//!
//! # Overview
//!
//! Nodes authenticate each other with certificates whose only name that counts is a [`SpiffeId`]: the
//! cluster and the id of the node. [`CertificateAuthority`] issues such certificates, for operators who have
//! no authority of their own, and for nodes that join with a token ([`CertificateRequest`]).
//! [`CertificateInfo`] reads certificates of any authority, [`JoinToken`] is what a node without one joins
//! with, and [`files`] stores keys.
//!
//! # Guarantees
//!
//! - Keys are ECDSA P-256, drawn from the random source of the operating system.
//! - A request for a certificate contributes its public key and nothing else: names, validity and usages
//!   are chosen by the authority.
//! - A certificate never outlives the authority that issued it, and names at most one node.
//! - A private key has no `Debug` output, its file is readable by its owner only, and no key or certificate is
//!   overwritten unless the caller asks for it.
//!
//! # Non-goals
//!
//! Revocation lists: a certificate ends when it expires or when its node is removed from the cluster.
//! Verification of a chain: the connection layer does it with rustls. Hardware keys.
//!
//! # Data flow
//!
//! Operator: [`CertificateAuthority::generate`] → [`CertificateAuthority::issue`] → [`files`]. Joining node:
//! [`CertificateRequest::generate`] → [`CertificateAuthority::sign`] on a member → [`files`].
//!
//! # Caller contract
//!
//! - Read a certificate of a peer with [`CertificateInfo`] only after its chain was verified.
//! - The time comes from the caller.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use pushonce_ca::CertificateAuthority;
//! use pushonce_core::{ClusterId, NodeId, SpiffeId};
//!
//! let now = SystemTime::now();
//! let (authority, _key) = CertificateAuthority::generate(ClusterId(7), now)?;
//! let node = SpiffeId { cluster: ClusterId(7), node: NodeId(3) };
//! let issued = authority.issue(node, &[], Duration::from_secs(90 * 86_400), now)?;
//! assert!(issued.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
//! # Ok::<(), pushonce_ca::CaError>(())
//! ```
//!
//! [`SpiffeId`]: pushonce_core::SpiffeId

mod authority;
mod certificate_info;
mod error;
pub mod files;
mod join_token;
mod request;

pub use authority::{CertificateAuthority, IssuedCertificate, PrivateKeyPem, to_pem};
pub use certificate_info::{CertificateInfo, Fingerprint, NoNodeIdentity};
pub use error::{CaError, InvalidCertificate};
pub use join_token::{InvalidJoinToken, JoinToken};
pub use request::CertificateRequest;
