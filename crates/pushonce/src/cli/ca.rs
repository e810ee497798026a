//! `pushonce ca`: a private certificate authority for the nodes of a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use pushonce_ca::files::{self, Readers};
use pushonce_ca::{CertificateAuthority, CertificateInfo, IssuedCertificate};
use pushonce_core::{ClusterId, NodeId, SpiffeId};
use serde_json::{Value, json};

use super::operator::print_output;
use crate::output;

/// The subcommand.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a certificate authority for a cluster: ca.crt and ca.key. Overwrites nothing
    Init {
        #[command(flatten)]
        directory: AuthorityDir,
        /// DNS name or IP address of the next node, from node 1 on; may be repeated. Makes the directory DIR/HOST
        /// with all files of that node: node.crt, node.key, ca.crt
        #[arg(long, value_name = "HOST", value_parser = directory_name, conflicts_with = "cluster")]
        host: Vec<String>,
        /// Id of an existing cluster, whose authority the new one replaces [default: a new id]
        #[arg(long, value_name = "ID", value_parser = cluster_id)]
        cluster: Option<ClusterId>,
    },
    /// Make the certificate and the key of a node: node-N.crt and node-N.key. Overwrites nothing
    Issue {
        #[command(flatten)]
        directory: AuthorityDir,
        /// Id of the node; 1 creates the cluster. An id is never used for a second node
        #[arg(long, value_name = "N", value_parser = node_id)]
        node: NodeId,
        /// DNS name or IP address of the node; may be repeated
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        #[command(flatten)]
        validity: Validity,
        /// Id of the cluster, for an authority that was not made by `pushonce ca init`
        #[arg(long, value_name = "ID", value_parser = cluster_id)]
        cluster: Option<ClusterId>,
        /// Directory for the two files [default: that of the authority]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Replace the certificate and the key of a node by new ones, for the same node and hosts. Running nodes
    /// read them within 30 s
    Renew {
        #[command(flatten)]
        directory: AuthorityDir,
        /// Certificate to renew; the key is beside it, with the extension .key
        #[arg(value_name = "FILE.crt")]
        certificate: PathBuf,
        #[command(flatten)]
        validity: Validity,
    },
    /// Show what certificates say: node, hosts, validity, fingerprint
    Show {
        /// Files with certificates
        #[arg(value_name = "FILE", required = true)]
        certificates: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct AuthorityDir {
    /// Directory of ca.crt and ca.key. Keep ca.key offline: who has it can make nodes of the cluster
    #[arg(long, value_name = "DIR", default_value = "pushonce-ca")]
    dir: PathBuf,
}

#[derive(clap::Args)]
struct Validity {
    /// Days for which the certificate is valid
    #[arg(long, value_name = "N", default_value_t = Validity::DEFAULT_DAYS)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

impl Validity {
    const DEFAULT_DAYS: u16 = 90;

    fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.days) * 86_400)
    }
}

impl AuthorityDir {
    fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    fn load(&self) -> anyhow::Result<CertificateAuthority> {
        let hint = "make an authority with `pushonce ca init`, or name its directory with --dir";
        let certificate = files::read(&self.certificate()).context(hint)?;
        let key = files::read(&self.key()).context(hint)?;
        let authority = CertificateAuthority::from_pem(&certificate, &key);
        authority.with_context(|| format!("cannot use the authority in {}", self.dir.display()))
    }
}

fn cluster_id(text: &str) -> Result<ClusterId, &'static str> {
    let id = text.parse::<ClusterId>().ok().filter(|id| id.to_string() == text);
    id.ok_or("expected 32 hexadecimal digits, as `pushonce cluster status` prints them")
}

/// A host that is also the name of a directory: not `..`, and without `/`.
fn directory_name(text: &str) -> Result<String, &'static str> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let is_host = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':');
    if is_host && text.chars().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err("expected a DNS name or an IP address without port, as in a.example")
}

fn node_id(text: &str) -> Result<NodeId, &'static str> {
    let id = text.strip_prefix('n').unwrap_or(text).parse().ok().filter(|&id| id > 0);
    id.map(NodeId).ok_or("expected the id of a node, as in 3")
}

pub(super) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let now = SystemTime::now();
    match args.command {
        Command::Init { directory, host, cluster } => init(&directory, &host, cluster, now, json),
        Command::Issue { directory, node, host, validity, cluster, out } => {
            let authority = directory.load()?;
            let cluster = cluster.or_else(|| authority.cluster()).context(
                "the certificate of the authority names no cluster: give its id with --cluster",
            )?;
            let out = out.unwrap_or_else(|| directory.dir.clone());
            let node = SpiffeId { cluster, node };
            let issued = authority.issue(node, &host, validity.duration(), now)?;
            let certificate = out.join(format!("node-{}.crt", node.node.0));
            let key = create_files(&issued, &certificate)?;
            let (certificate, key) = (certificate.display(), key.display());
            let authority = directory.certificate();
            let text = || {
                let authority = authority.display();
                format!(
                    "{certificate} and {key} are those of {node}\n\
                     next: copy them and {authority} to its host, and start it with\n  \
                     --peer-cert {certificate} --peer-key {key} --peer-ca {authority}\n",
                    node = node.node,
                )
            };
            print_output(json, || issued_json(&issued.certificate, &key), text)?;
            Ok(())
        }
        Command::Renew { directory, certificate, validity } => {
            let authority = directory.load()?;
            let info = first_certificate(&certificate)?;
            let node =
                info.node().with_context(|| format!("cannot renew {}", certificate.display()))?;
            let issued = authority.issue(node, &info.hosts, validity.duration(), now)?;
            let key = certificate.with_extension("key");
            if !key.exists() {
                bail!("{} is missing: the key must be beside the certificate", key.display());
            }
            files::replace(&key, issued.key.expose(), Readers::Owner)?;
            files::replace(&certificate, &issued.certificate, Readers::Everyone)?;
            let key = key.display();
            let text = || {
                format!(
                    "{} and {key} are renewed\n\
                     next: copy them to the host of {} in place of the old ones; it reads them within 30 s\n",
                    certificate.display(),
                    node.node,
                )
            };
            print_output(json, || issued_json(&issued.certificate, &key), text)?;
            Ok(())
        }
        Command::Show { certificates } => show(&certificates, json),
    }
}

/// Writes a certificate and, beside it, its key, whose path is returned.
fn create_files(issued: &IssuedCertificate, certificate: &Path) -> anyhow::Result<PathBuf> {
    let (key, out) =
        (certificate.with_extension("key"), certificate.parent().unwrap_or(Path::new("")));
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    files::create(&key, issued.key.expose(), Readers::Owner)?;
    files::create(certificate, &issued.certificate, Readers::Everyone)?;
    Ok(key)
}

/// Makes the directory with all files of a node.
fn create_node_directory(
    authority: &CertificateAuthority,
    dir: &Path,
    node: SpiffeId,
    host: &str,
    now: SystemTime,
) -> anyhow::Result<PathBuf> {
    let validity = Validity { days: Validity::DEFAULT_DAYS }.duration();
    let issued = authority.issue(node, &[host.to_owned()], validity, now)?;
    let path = dir.join(host);
    create_files(&issued, &path.join("node.crt"))?;
    files::create(&path.join("ca.crt"), &authority.certificate_pem(), Readers::Everyone)?;
    Ok(path)
}

fn init(
    directory: &AuthorityDir,
    hosts: &[String],
    cluster: Option<ClusterId>,
    now: SystemTime,
    json: bool,
) -> anyhow::Result<()> {
    let cluster = cluster.unwrap_or_else(|| ClusterId(rand::random()));
    let (authority, key) = CertificateAuthority::generate(cluster, now)?;
    let path = &directory.dir;
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    files::create(&directory.key(), key.expose(), Readers::Owner)?;
    files::create(&directory.certificate(), &authority.certificate_pem(), Readers::Everyone)?;
    let mut nodes = Vec::new();
    for (host, id) in hosts.iter().zip(1..) {
        let node = SpiffeId { cluster, node: NodeId(id) };
        nodes.push((node.node, create_node_directory(&authority, path, node, host, now)?));
    }
    let (certificate, key) = (directory.certificate(), directory.key());
    let next = match nodes.as_slice() {
        [] => format!(
            "run `pushonce ca issue --dir {} --node 1` and so on, once for each node",
            path.display()
        ),
        _ => "copy the files of each node to its host, and start it with\n  \
              --peer-cert node.crt --peer-key node.key --peer-ca ca.crt"
            .to_owned(),
    };
    print_output(
        json,
        || {
            json!({
                "cluster": cluster.to_string(),
                "certificate": certificate.display().to_string(),
                "key": key.display().to_string(),
                "fingerprint": authority.info().fingerprint.to_string(),
                "nodes": nodes
                    .iter()
                    .map(|(node, path)| json!({"node": node.0, "directory": path.display().to_string()}))
                    .collect::<Vec<_>>(),
            })
        },
        || {
            let node_line = |(node, path): &(NodeId, PathBuf)| {
                format!("{} has the files of {node}\n", path.display())
            };
            format!(
                "{} is the certificate authority of cluster {cluster}\n\
                 keep {} offline: who has it can make nodes of the cluster\n{}next: {next}\n",
                certificate.display(),
                key.display(),
                nodes.iter().map(node_line).collect::<String>(),
            )
        },
    )?;
    Ok(())
}

fn show(paths: &[PathBuf], json: bool) -> anyhow::Result<()> {
    for path in paths {
        let text = files::read(path)?;
        let certificates = CertificateInfo::parse_pem(&text)
            .map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
        for (_, info) in certificates {
            if json {
                output::write_json(info_json(&info))?;
            } else {
                output::write_text(&info_text(path, &info))?;
            }
        }
    }
    Ok(())
}

fn first_certificate(path: &Path) -> anyhow::Result<CertificateInfo> {
    let text = files::read(path)?;
    let certificates = CertificateInfo::parse_pem(&text)
        .map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
    let (_, info) = certificates.into_iter().next().context("no certificate")?;
    Ok(info)
}

fn issued_json(certificate: &str, key: &impl std::fmt::Display) -> Value {
    let info = CertificateInfo::parse_pem(certificate).ok().map(|mut read| read.remove(0).1);
    let mut value = info.map_or(Value::Null, |info| info_json(&info));
    value["key"] = json!(key.to_string());
    value
}

fn info_json(info: &CertificateInfo) -> Value {
    let node = info.node().ok();
    json!({
        "subject": info.subject,
        "cluster": node.map(|id| id.cluster.to_string()),
        "node": node.map(|id| id.node.0),
        "uris": info.uris,
        "hosts": info.hosts,
        "authority": info.is_authority,
        "not_before": timestamp(info.not_before),
        "not_after": timestamp(info.not_after),
        "fingerprint": info.fingerprint.to_string(),
    })
}

/// The maker of a certificate chooses its names, so their control characters are escaped.
fn info_text(path: &Path, info: &CertificateInfo) -> String {
    let escaped = |text: &str| text.escape_debug().to_string();
    let names = info.uris.iter().chain(&info.hosts).map(|name| escaped(name));
    let kind = if info.is_authority { "certificate authority" } else { "certificate" };
    format!(
        "{}: {kind}\n  subject      {}\n  names        {}\n  valid        {} to {}\n  fingerprint  {}\n",
        path.display(),
        escaped(&info.subject),
        names.collect::<Vec<_>>().join(", "),
        timestamp(info.not_before),
        timestamp(info.not_after),
        info.fingerprint,
    )
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(dir: &Path) -> AuthorityDir {
        AuthorityDir { dir: dir.to_owned() }
    }

    fn issue(dir: &Path, node: u64) -> anyhow::Result<()> {
        let command = Command::Issue {
            directory: authority(dir),
            node: NodeId(node),
            host: vec!["127.0.0.1".to_owned()],
            validity: Validity { days: 90 },
            cluster: None,
            out: None,
        };
        run(Args { command }, true)
    }

    #[test]
    fn authority_issues_and_renews_certificates_and_overwrites_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = dir.path();
        assert!(issue(dir, 1).is_err(), "there is no authority yet");
        let cluster = ClusterId(7);
        let now = SystemTime::now();
        init(&authority(dir), &[], Some(cluster), now, true).expect("made");
        let key = files::read(&dir.join("ca.key")).expect("reads");
        init(&authority(dir), &[], None, now, true).expect_err("there is one");
        assert_eq!(files::read(&dir.join("ca.key")).expect("reads"), key);

        issue(dir, 3).expect("issued");
        issue(dir, 3).expect_err("there is one");
        let path = dir.join("node-3.crt");
        let first = first_certificate(&path).expect("valid");
        assert_eq!(first.node(), Ok(SpiffeId { cluster, node: NodeId(3) }));
        let command = Command::Renew {
            directory: authority(dir),
            certificate: path.clone(),
            validity: Validity { days: 10 },
        };
        run(Args { command }, true).expect("renewed");
        let second = first_certificate(&path).expect("valid");
        assert_eq!((second.node(), &second.hosts), (first.node(), &first.hosts));
        assert_ne!(second.fingerprint, first.fingerprint);
        run(Args { command: Command::Show { certificates: vec![path] } }, false).expect("shown");
    }

    #[test]
    fn authority_is_made_with_the_files_of_several_nodes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = dir.path();
        let hosts = ["a.example", "::1"].map(str::to_owned);
        init(&authority(dir), &hosts, None, SystemTime::now(), false).expect("made");
        for (host, id) in hosts.iter().zip(1..) {
            let node = first_certificate(&dir.join(host).join("node.crt")).expect("valid");
            assert_eq!(node.node().map(|node| node.node), Ok(NodeId(id)));
            assert_eq!(node.hosts, std::slice::from_ref(host));
            let read = |path: PathBuf| files::read(&path).expect("reads");
            assert_eq!(read(dir.join(host).join("ca.crt")), read(dir.join("ca.crt")));
        }
        let command = Command::Renew {
            directory: authority(dir),
            certificate: dir.join("a.example").join("node.crt"),
            validity: Validity { days: 10 },
        };
        run(Args { command }, false).expect("renewed");
    }

    #[test]
    fn host_that_is_no_name_of_a_directory_is_rejected() {
        assert!(directory_name("a.example").is_ok() && directory_name("::1").is_ok());
        for text in ["", "..", ".hidden", "a/b", "/etc", "a b", "-a", "a\n"] {
            assert!(directory_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ids_are_read_as_printed() {
        assert_eq!(node_id("3"), Ok(NodeId(3)));
        assert_eq!(node_id("n3"), Ok(NodeId(3)));
        assert!(node_id("0").is_err() && node_id("").is_err() && node_id("nn3").is_err());
        assert_eq!(cluster_id(&ClusterId(7).to_string()), Ok(ClusterId(7)));
        assert!(cluster_id("7").is_err());
    }
}
