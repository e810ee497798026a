//! How this node secures its connections to other nodes: from its settings, or from the certificate that it got
//! when it joined with a token.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use pushonce_ca::files::{self, Readers};
use pushonce_ca::{CertificateAuthority, JoinToken, PrivateKeyPem, to_pem};
use pushonce_core::{ClusterId, NodeId, SpiffeId};
use pushonce_peer::{CertificateFiles, Credentials, MutualTls};
use pushonce_proto::pb::peer::v1 as pb;

use crate::config::{Config, JoinTokenSource, Settings, stored_certificate};

/// What a node has at its start.
#[derive(Clone, Debug)]
pub(super) enum StartCredentials {
    /// Enough to connect to its peers.
    Complete(Credentials),
    /// A token, with which it has to join first.
    Token(JoinToken),
}

/// The certificate of the settings is not that of the node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CredentialsMismatch {
    /// It is the certificate of another node or cluster than the directory's.
    #[error(
        "the data directory belongs to {directory}, and the certificate to {certificate}: use the \
         certificate of the node (--peer-cert), or the directory that belongs to it (--data)"
    )]
    Directory {
        /// The node of the directory.
        directory: SpiffeId,
        /// The node of the certificate.
        certificate: SpiffeId,
    },
    /// The first node of a cluster has another certificate.
    #[error(
        "the first node of a cluster is n1, and the certificate is that of {0}: issue another one with \
         `pushonce ca issue --node 1`"
    )]
    NotFirstNode(NodeId),
    /// The node joined with a token, and its certificate is lost.
    #[error(
        "{path} is missing, the certificate with which the node joined: restore it, or remove the node from \
         the cluster and let it join again with an empty directory", path = .0.display()
    )]
    StoredFileMissing(PathBuf),
    /// The settings of a node that joins are given where a cluster is created.
    #[error(
        "--join-token-file and PUSHONCE_JOIN_TOKEN are for a node that joins, and init creates a cluster: leave \
         them out"
    )]
    TokenAtInit,
}

impl StartCredentials {
    /// Reads the files of the settings. With a join token, the node uses the certificate in its data directory
    /// once it has joined.
    ///
    /// # Errors
    /// When a file cannot be read, or peers would reject the certificate.
    pub(super) fn load(config: &Config, now: SystemTime) -> anyhow::Result<StartCredentials> {
        let settings = &config.settings;
        if let Some(files) = certificate_files(settings) {
            let admits_joiners = settings.peer_ca_key.is_some();
            if let Some(authority) = SigningAuthority::from_settings(settings) {
                authority.load()?;
            }
            let tls = MutualTls::load(files, admits_joiners, now)?;
            return Ok(StartCredentials::Complete(Credentials::MutualTls(tls)));
        }
        let stored = stored_files(&config.data);
        if stored.certificate.exists() {
            let tls = MutualTls::load(stored, false, now)?;
            return Ok(StartCredentials::Complete(Credentials::MutualTls(tls)));
        }
        match &config.join_token {
            None => Ok(StartCredentials::Complete(Credentials::Plaintext)),
            Some(JoinTokenSource::Variable(token)) => Ok(StartCredentials::Token(token.clone())),
            Some(JoinTokenSource::File(file)) => {
                let text = files::read(file).context("--join-token-file")?;
                let token = text.parse().with_context(|| file.display().to_string())?;
                Ok(StartCredentials::Token(token))
            }
        }
    }

    /// The credentials of a node whose directory belongs to a cluster.
    ///
    /// # Errors
    /// [`CredentialsMismatch`] when they are those of another node.
    pub(super) fn for_member(
        self,
        config: &Config,
        directory: SpiffeId,
    ) -> Result<Credentials, CredentialsMismatch> {
        match self {
            StartCredentials::Token(_) => {
                let path = stored_files(&config.data).certificate;
                Err(CredentialsMismatch::StoredFileMissing(path))
            }
            StartCredentials::Complete(credentials) => match credentials.node() {
                Some(certificate) if certificate != directory => {
                    Err(CredentialsMismatch::Directory { directory, certificate })
                }
                _ => Ok(credentials),
            },
        }
    }

    /// The cluster that a first node creates: the one of its certificate, else a given one.
    ///
    /// # Errors
    /// [`CredentialsMismatch`] for the certificate of another node than the first.
    pub(super) fn cluster_to_create(
        &self,
        drawn: ClusterId,
        first: NodeId,
    ) -> Result<ClusterId, CredentialsMismatch> {
        let StartCredentials::Complete(credentials) = self else {
            return Err(CredentialsMismatch::TokenAtInit);
        };
        match credentials.node() {
            Some(certificate) if certificate.node != first => {
                Err(CredentialsMismatch::NotFirstNode(certificate.node))
            }
            Some(certificate) => Ok(certificate.cluster),
            None => Ok(drawn),
        }
    }
}

/// Reads the files of the settings that secure the connections between nodes, as a start does.
///
/// # Errors
/// When a file cannot be read, or peers would reject the certificate.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    StartCredentials::load(config, SystemTime::now()).map(drop)
}

/// The files of the settings; `None` without TLS. Either all three are set or none.
fn certificate_files(settings: &Settings) -> Option<CertificateFiles> {
    Some(CertificateFiles {
        certificate: settings.peer_cert.clone()?,
        key: settings.peer_key.clone()?,
        authorities: settings.peer_ca.clone()?,
    })
}

fn stored_files(data: &Path) -> CertificateFiles {
    same_file(stored_certificate(data))
}

/// The file of a node that joined with a token serves as all three.
fn same_file(path: PathBuf) -> CertificateFiles {
    CertificateFiles { certificate: path.clone(), key: path.clone(), authorities: path }
}

/// Whether the certificate is the one that the node got when it joined, and renews by itself.
pub(super) fn is_stored(config: &Config) -> bool {
    certificate_files(&config.settings).is_none() && stored_certificate(&config.data).exists()
}

/// Stores the certificate that a member issued for a key of this node, after a check that it can be used.
///
/// # Errors
/// When a file cannot be written, or the certificate is not one of `node` for the key.
pub(super) fn store(
    data: &Path,
    node: SpiffeId,
    key: &PrivateKeyPem,
    issued: &pb::NodeCertificate,
    now: SystemTime,
) -> anyhow::Result<MutualTls> {
    let authorities: String = issued.authorities.iter().map(|der| to_pem(der)).collect();
    let text = [key.expose(), &to_pem(&issued.certificate), &authorities].concat();
    let unchecked = data.join("peer-unchecked.pem");
    files::replace(&unchecked, &text, Readers::Owner)?;
    let tls = MutualTls::load(same_file(unchecked.clone()), false, now)?;
    anyhow::ensure!(tls.node() == node, "the certificate is that of {}, not of {node}", tls.node());
    std::fs::rename(&unchecked, stored_certificate(data))
        .with_context(|| format!("cannot rename {}", unchecked.display()))?;
    Ok(MutualTls::load(stored_files(data), false, now)?)
}

/// The authority with which this node certifies nodes that join: `--peer-ca-key`. The files are read for each
/// certificate, so that the key is in no memory meanwhile, and a new authority is used at once.
#[derive(Clone, Debug)]
pub(super) struct SigningAuthority {
    certificates: PathBuf,
    key: PathBuf,
}

impl SigningAuthority {
    /// The authority of the settings, if they name one.
    pub(super) fn from_settings(settings: &Settings) -> Option<SigningAuthority> {
        let (certificates, key) = (settings.peer_ca.clone()?, settings.peer_ca_key.clone()?);
        Some(SigningAuthority { certificates, key })
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together.
    pub(super) fn load(&self) -> anyhow::Result<CertificateAuthority> {
        let (certificates, key) = (files::read(&self.certificates)?, files::read(&self.key)?);
        CertificateAuthority::from_pem(&certificates, &key)
            .with_context(|| format!("cannot use {} (--peer-ca-key)", self.key.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pushonce_ca::CertificateRequest;

    use super::*;
    use crate::config::{Layer, Layers};

    const CLUSTER: ClusterId = ClusterId(7);
    const DAY: Duration = Duration::from_secs(86_400);

    fn id(node: u64) -> SpiffeId {
        SpiffeId { cluster: CLUSTER, node: NodeId(node) }
    }

    /// A directory with an authority, and with the files of a node.
    fn files_of(node: u64, now: SystemTime) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write =
            |name, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        let (authority, key) = CertificateAuthority::generate(CLUSTER, now).expect("made");
        write("ca.crt", &authority.certificate_pem());
        write("ca.key", key.expose());
        let issued = authority.issue(id(node), &[], 90 * DAY, now).expect("issued");
        write("node.crt", &issued.certificate);
        write("node.key", issued.key.expose());
        dir
    }

    fn config(dir: &Path, settings: &str) -> Config {
        let text = settings.replace("DIR", dir.to_str().expect("UTF-8"));
        let text = format!("{text}data = {dir:?}\n");
        let flags = Layer::from_toml(&text).expect("valid");
        Layers { flags, ..Layers::default() }.resolve().expect("consistent")
    }

    const FILES: &str = "peer-cert = \"DIR/node.crt\"\npeer-key = \"DIR/node.key\"\n\
                         peer-ca = \"DIR/ca.crt\"\n";

    #[test]
    fn certificate_of_another_node_or_cluster_does_not_fit_the_directory() {
        let now = SystemTime::now();
        let dir = files_of(2, now);
        let config = config(dir.path(), FILES);
        let load = || StartCredentials::load(&config, now).expect("valid");
        assert!(load().for_member(&config, id(2)).is_ok());
        for directory in [id(3), SpiffeId { cluster: ClusterId(8), node: NodeId(2) }] {
            let error = load().for_member(&config, directory).expect_err("another node");
            assert!(matches!(error, CredentialsMismatch::Directory { .. }), "{error}");
        }
    }

    #[test]
    fn first_node_creates_the_cluster_of_its_certificate() {
        let (now, first, drawn) = (SystemTime::now(), NodeId(1), ClusterId(9));
        let cluster_to_create = |node, settings| {
            let dir = files_of(node, now);
            let start = StartCredentials::load(&config(dir.path(), settings), now).expect("valid");
            start.cluster_to_create(drawn, first)
        };
        assert_eq!(cluster_to_create(1, FILES), Ok(CLUSTER));
        let second = cluster_to_create(2, FILES);
        assert_eq!(second, Err(CredentialsMismatch::NotFirstNode(NodeId(2))));
        assert_eq!(cluster_to_create(1, ""), Ok(drawn));
    }

    #[test]
    fn node_with_a_token_joins_first_and_then_uses_the_certificate_it_got() {
        let now = SystemTime::now();
        let dir = files_of(1, now);
        let read = |name| std::fs::read_to_string(dir.path().join(name)).expect("readable");
        let authority = CertificateAuthority::from_pem(&read("ca.crt"), &read("ca.key"));
        let authority = authority.expect("valid");
        let token = JoinToken::new(CLUSTER, authority.info().fingerprint, [3; 32]);
        std::fs::write(dir.path().join("token"), token.expose() + "\n").expect("written");
        let config = config(dir.path(), "join-token-file = \"DIR/token\"\n");
        let load = || StartCredentials::load(&config, now).expect("valid");
        assert!(matches!(load(), StartCredentials::Token(read) if read == token));
        let lost = load().for_member(&config, id(4)).expect_err("it joined before");
        assert!(matches!(lost, CredentialsMismatch::StoredFileMissing(_)), "{lost}");

        let request = CertificateRequest::generate().expect("generated");
        let issue = |node| pb::NodeCertificate {
            certificate: authority
                .sign(&request.request, id(node), &[], 90 * DAY, now)
                .expect("signed")
                .to_vec()
                .into(),
            authorities: vec![authority.certificate().to_vec().into()],
        };
        let data = &config.data;
        store(data, id(4), &request.key, &issue(5), now).expect_err("of another node");
        let other_key = CertificateRequest::generate().expect("generated").key;
        store(data, id(4), &other_key, &issue(4), now).expect_err("of another key");
        assert!(matches!(load(), StartCredentials::Token(_)), "nothing is stored");
        store(data, id(4), &request.key, &issue(4), now).expect("stored");
        std::fs::remove_file(dir.path().join("token")).expect("removed");
        let credentials = load().for_member(&config, id(4)).expect("it joined");
        assert_eq!(credentials.node(), Some(id(4)));
        let without_setting = Config { join_token: None, ..config.clone() };
        let start = StartCredentials::load(&without_setting, now).expect("valid");
        let credentials = start.for_member(&without_setting, id(4)).expect("it joined");
        assert_eq!(credentials.node(), Some(id(4)), "the setting may be removed after the join");
    }

    #[test]
    fn files_that_cannot_be_used_refuse_the_start() {
        let now = SystemTime::now();
        let dir = files_of(1, now);
        let key = "peer-ca-key = \"DIR/ca.key\"\n";
        let load = |settings: &str, now| StartCredentials::load(&config(dir.path(), settings), now);
        assert!(load(&format!("{FILES}{key}"), now).is_ok());
        load(FILES, now + 91 * DAY).expect_err("expired");
        std::fs::copy(dir.path().join("node.key"), dir.path().join("ca.key")).expect("copied");
        let error = load(&format!("{FILES}{key}"), now).expect_err("another key");
        assert!(format!("{error:#}").contains("--peer-ca-key"), "{error:#}");
        std::fs::write(dir.path().join("token"), "pushonce-join-1.abc").expect("written");
        load("join-token-file = \"DIR/token\"\n", now).expect_err("a damaged token");
        std::fs::remove_file(dir.path().join("node.key")).expect("removed");
        load(FILES, now).expect_err("a missing key");
    }
}
