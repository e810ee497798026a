//! The certificate, the key and the authorities of a node, read from files and read again while it runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_ca::files::{self, FileError};
use pushonce_ca::{CertificateInfo, Fingerprint, InvalidCertificate, NoNodeIdentity};
use pushonce_core::SpiffeId;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::verifier::Verifiers;
use crate::metrics;

/// The files of a node: PEM. One file may serve as all three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate of the node, then those between it and an authority.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities that issue the certificates of nodes; several while one replaces another. Certificates
    /// that are not those of an authority are ignored.
    pub authorities: PathBuf,
}

/// Mutual TLS: the node presents its certificate on every connection and demands that of the peer. Clones
/// share the files that were read last.
#[derive(Clone)]
pub struct MutualTls(Arc<MutualTlsInner>);

struct MutualTlsInner {
    files: CertificateFiles,
    /// Whether a node without a certificate may connect, to join.
    admits_joiners: bool,
    node: SpiffeId,
    current: Mutex<Arc<Loaded>>,
}

/// What one reading of the files gave.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    info: CertificateInfo,
    authorities: Vec<CertificateDer<'static>>,
    issuer: Fingerprint,
    texts: FileTexts,
}

/// The contents of the files, to detect that they changed.
#[derive(PartialEq, Eq)]
struct FileTexts {
    certificate: String,
    key: String,
    authorities: String,
}

/// The outcome of [`MutualTls::reload`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The files are the same.
    Unchanged,
    /// New connections use the new files.
    Replaced(CertificateInfo),
}

/// The files of a node cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFilesError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file holds no certificate, or a malformed one.
    #[error("{path} {reason}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: InvalidCertificate,
    },
    /// The certificate names no node.
    #[error("{path} cannot be used between nodes: {reason}", path = .path.display())]
    NoNode {
        /// The file.
        path: PathBuf,
        /// What is wrong with its names.
        reason: NoNodeIdentity,
    },
    /// The key cannot be read, or is not that of the certificate.
    #[error("{path} is not the private key of the certificate: {reason}", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file of the authorities has none.
    #[error("{path} has no certificate of an authority", path = .path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
    /// Other nodes would reject the certificate: it is expired, or of another authority, or not for both sides
    /// of a connection.
    #[error("other nodes would reject {path}: {reason}; renew it (`pushonce ca renew`)", path = .path.display())]
    Rejected {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: rustls::Error,
    },
    /// The new certificate is that of another node.
    #[error("{path} is the certificate of {found}, but this node is {node}", path = .path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The node of the certificate.
        found: SpiffeId,
        /// This node.
        node: SpiffeId,
    },
    /// The cryptography library rejects the authorities.
    #[error("{path} cannot be used: {reason}", path = .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Peers speak HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";

impl MutualTls {
    /// Reads the files. `admits_joiners` is whether nodes without a certificate may connect in order to join;
    /// [`RequireCertificate`](super::RequireCertificate) rejects every other call of theirs.
    ///
    /// # Errors
    /// [`CertificateFilesError`] when a file cannot be read, or when peers would reject the certificate at
    /// `now`.
    pub fn load(
        files: CertificateFiles,
        admits_joiners: bool,
        now: SystemTime,
    ) -> Result<MutualTls, CertificateFilesError> {
        let texts = FileTexts::read(&files)?;
        let (node, loaded) = Loaded::parse(&files, texts, admits_joiners, now)?;
        loaded.report_expiry();
        let current = Mutex::new(Arc::new(loaded));
        Ok(MutualTls(Arc::new(MutualTlsInner { files, admits_joiners, node, current })))
    }

    /// Reads the files again. When they changed, new connections use them; open connections stay until the
    /// certificate of the peer expires, or the peer is removed from the cluster.
    ///
    /// # Errors
    /// As [`MutualTls::load`], and when the certificate names another node. The files that were read before
    /// stay in use.
    pub fn reload(&self, now: SystemTime) -> Result<Reload, CertificateFilesError> {
        self.read_changes(now)
            .inspect_err(|_| metrics::RELOAD_ERRORS.register_counter(&[]).increment(1))
    }

    fn read_changes(&self, now: SystemTime) -> Result<Reload, CertificateFilesError> {
        let MutualTlsInner { files, admits_joiners, node, current } = &*self.0;
        let texts = FileTexts::read(files)?;
        if self.loaded().texts == texts {
            return Ok(Reload::Unchanged);
        }
        let (found, loaded) = Loaded::parse(files, texts, *admits_joiners, now)?;
        if found != *node {
            let path = files.certificate.clone();
            return Err(CertificateFilesError::OtherNode { path, found, node: *node });
        }
        loaded.report_expiry();
        let info = loaded.info.clone();
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        Ok(Reload::Replaced(info))
    }

    /// The node that the certificate names.
    pub fn node(&self) -> SpiffeId {
        self.0.node
    }

    /// What the certificate in use says.
    pub fn certificate(&self) -> CertificateInfo {
        self.loaded().info.clone()
    }

    /// The authorities that are accepted, as DER.
    pub fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.loaded().authorities.clone()
    }

    /// The authority that issued the certificate of this node.
    pub fn issuer(&self) -> Fingerprint {
        self.loaded().issuer
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for MutualTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutualTls").field("node", &self.0.node).finish_non_exhaustive()
    }
}

impl FileTexts {
    fn read(files: &CertificateFiles) -> Result<FileTexts, FileError> {
        Ok(FileTexts {
            certificate: files::read(&files.certificate)?,
            key: files::read(&files.key)?,
            authorities: files::read(&files.authorities)?,
        })
    }
}

impl Loaded {
    fn report_expiry(&self) {
        let since = self.info.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics::CERTIFICATE_EXPIRY.register_gauge(&[]).set(since.as_secs_f64());
    }

    fn parse(
        files: &CertificateFiles,
        texts: FileTexts,
        admits_joiners: bool,
        now: SystemTime,
    ) -> Result<(SpiffeId, Loaded), CertificateFilesError> {
        let chain = parse_certificates(&files.certificate, &texts.certificate)?;
        let authorities: Vec<_> = parse_certificates(&files.authorities, &texts.authorities)?
            .into_iter()
            .filter(|(_, info)| info.is_authority)
            .map(|(der, _)| der)
            .collect();
        let (mut chain, infos): (Vec<_>, Vec<_>) = chain.into_iter().unzip();
        let Some(info) = infos.into_iter().next() else {
            let (path, reason) = (files.certificate.clone(), InvalidCertificate::Missing);
            return Err(CertificateFilesError::Certificate { path, reason });
        };
        let node = info.node().map_err(|reason| CertificateFilesError::NoNode {
            path: files.certificate.clone(),
            reason,
        })?;
        let verifiers = verifiers(files, node, &authorities, admits_joiners)?;
        let now =
            UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
        check_accepted(&verifiers, &chain, now).map_err(|reason| {
            CertificateFilesError::Rejected { path: files.certificate.clone(), reason }
        })?;
        let issuer = issuing_authority(files, node, &authorities, &chain, now)?;
        if admits_joiners {
            // A joining node knows the fingerprint of the authority, and not the authority.
            let missing = authorities.iter().filter(|authority| !chain.contains(authority));
            chain.extend(missing.cloned().collect::<Vec<_>>());
        }
        let (server, client) = tls_configs(files, &texts.key, &chain, verifiers)?;
        Ok((node, Loaded { server, client, info, authorities, issuer, texts }))
    }
}

fn parse_certificates(
    path: &Path,
    text: &str,
) -> Result<Vec<(CertificateDer<'static>, CertificateInfo)>, CertificateFilesError> {
    CertificateInfo::parse_pem(text)
        .map_err(|reason| CertificateFilesError::Certificate { path: path.to_owned(), reason })
}

fn verifiers(
    files: &CertificateFiles,
    node: SpiffeId,
    authorities: &[CertificateDer<'static>],
    admits_joiners: bool,
) -> Result<Verifiers, CertificateFilesError> {
    let path = || files.authorities.clone();
    if authorities.is_empty() {
        return Err(CertificateFilesError::NoAuthority { path: path() });
    }
    let invalid = |reason: String| CertificateFilesError::Authorities { path: path(), reason };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| invalid(error.to_string()))?;
    }
    Verifiers::new(node.cluster, roots, admits_joiners).map_err(|error| invalid(error.to_string()))
}

/// Checks that peers accept a chain on both sides of a connection.
fn check_accepted(
    verifiers: &Verifiers,
    chain: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (end_entity, intermediates) =
        chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verifiers.client.verify_client_cert(end_entity, intermediates, now)?;
    verifiers.server.verify_server_cert(end_entity, intermediates, &server_name()?, &[], now)?;
    Ok(())
}

/// The authority of the chain: the one that suffices to verify it.
fn issuing_authority(
    files: &CertificateFiles,
    node: SpiffeId,
    authorities: &[CertificateDer<'static>],
    chain: &[CertificateDer<'static>],
    now: UnixTime,
) -> Result<Fingerprint, CertificateFilesError> {
    for authority in authorities {
        let alone = verifiers(files, node, std::slice::from_ref(authority), false)?;
        if check_accepted(&alone, chain, now).is_ok() {
            return Ok(Fingerprint::of(authority));
        }
    }
    Err(CertificateFilesError::NoAuthority { path: files.authorities.clone() })
}

/// TLS 1.3 only, without resumption: every connection presents the certificate of now.
fn tls_configs(
    files: &CertificateFiles,
    key: &str,
    chain: &[CertificateDer<'static>],
    verifiers: Verifiers,
) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), CertificateFilesError> {
    let invalid = |reason: String| CertificateFilesError::Key { path: files.key.clone(), reason };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| invalid(error.to_string()))?;
    let tls = |error: rustls::Error| invalid(error.to_string());
    let mut server = ServerConfig::builder_with_provider(pushonce_tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifiers.client)
        .with_single_cert(chain.to_vec(), key.clone_key())
        .map_err(tls)?;
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut client = ClientConfig::builder_with_provider(pushonce_tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifiers.server)
        .with_client_auth_cert(chain.to_vec(), key)
        .map_err(tls)?;
    set_client_options(&mut client);
    Ok((Arc::new(server), Arc::new(client)))
}

/// The options of every client of the peer port.
pub(super) fn set_client_options(client: &mut ClientConfig) {
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    client.alpn_protocols = vec![ALPN.to_vec()];
}

/// A name is required, and neither sent nor checked.
pub(super) fn server_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from("pushonce-peer").map_err(|error| rustls::Error::General(error.to_string()))
}
