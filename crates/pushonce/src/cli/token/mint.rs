//! `pushonce token mint`: makes a token.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use pushonce_auth::{
    AdminAccess, Authenticator, Grants, NewToken, PatternSet, SigningKey, TopicPattern,
};
use pushonce_core::{Revocations, Timestamp};
use serde_json::json;

use crate::cli::operator::print_output;
use crate::config::duration;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    key: KeyArgs,
    /// Id of the key in the issuers file; a key that is the only one of its issuer needs none
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// Name of the issuer in the issuers file
    #[arg(long, value_name = "NAME", default_value = "pushonce")]
    issuer: String,
    /// Audience of the issuer in the issuers file
    #[arg(long, value_name = "NAME", default_value = "pushonce")]
    audience: String,
    /// User or service that the token is for
    #[arg(long, value_name = "NAME", value_parser = revocable_name)]
    subject: Option<String>,
    /// Id of the token, by which it can be revoked [default: random]
    #[arg(long, value_name = "ID", value_parser = revocable_name)]
    token_id: Option<String>,
    /// Time for which the token is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration::parse)]
    expires_in: Duration,
    #[command(flatten)]
    grants: GrantArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct KeyArgs {
    /// File with the private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File with the secret of HS256, at least 32 bytes
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(clap::Args)]
struct GrantArgs {
    /// Topics that may be read, as in chat/7, chat/* (one segment) or chat/** (the rest); repeat it for more
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<TopicPattern>,
    /// Topics to which messages may be published
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<TopicPattern>,
    /// Exceptions from --subscribe
    #[arg(long, value_name = "PATTERN")]
    deny_subscribe: Vec<TopicPattern>,
    /// Exceptions from --publish
    #[arg(long, value_name = "PATTERN")]
    deny_publish: Vec<TopicPattern>,
    /// Access to the cluster: read (see it) or write (change it too)
    #[arg(long, value_name = "read|write", value_parser = parse_admin)]
    admin: Option<AdminAccess>,
}

pub(super) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let key = args.key.read()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = |time: Duration| Timestamp(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let token = NewToken {
        issuer: args.issuer,
        audience: args.audience,
        subject: args.subject,
        token_id: Some(args.token_id.unwrap_or_else(random_id)),
        issued_at: millis(now),
        expires_at: millis(now.saturating_add(args.expires_in)),
        grants: args.grants.into(),
    };
    let count = token.grants.pattern_count();
    anyhow::ensure!(
        count <= Grants::PATTERNS_MAX,
        "the token would have {count} patterns; nodes accept at most {}: use wildcards",
        Grants::PATTERNS_MAX
    );
    let text = token.sign(&key, args.key_id.as_deref())?;
    anyhow::ensure!(
        text.len() <= Authenticator::TOKEN_BYTES_MAX,
        "the token would have {} bytes; nodes accept at most {}: use shorter names or wildcards",
        text.len(),
        Authenticator::TOKEN_BYTES_MAX
    );
    print_output(
        json,
        || json!({ "token": text, "token_id": token.token_id, "expires_ms": token.expires_at.0 }),
        || format!("{text}\n"),
    )?;
    Ok(())
}

impl KeyArgs {
    fn read(&self) -> anyhow::Result<SigningKey> {
        let (path, key) = match (&self.key, &self.secret_file) {
            (Some(path), _) => (path, SigningKey::from_pem(&read(path)?)),
            (None, Some(path)) => (path, SigningKey::from_secret_file(&read(path)?)),
            (None, None) => anyhow::bail!("set --key or --secret-file"),
        };
        key.with_context(|| format!("cannot use the key of {}", path.display()))
    }
}

impl From<GrantArgs> for Grants {
    fn from(args: GrantArgs) -> Grants {
        Grants {
            subscribe: PatternSet { allow: args.subscribe, deny: args.deny_subscribe },
            publish: PatternSet { allow: args.publish, deny: args.deny_publish },
            admin: args.admin,
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the key file {}", path.display()))
}

fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn parse_admin(word: &str) -> Result<AdminAccess, &'static str> {
    AdminAccess::parse(word).ok_or("expected read or write")
}

fn revocable_name(name: &str) -> Result<String, String> {
    let max = Revocations::NAME_BYTES_MAX;
    match name.len() {
        len if (1..=max).contains(&len) => Ok(name.to_owned()),
        len => Err(format!("must have 1 to {max} bytes, not {len}")),
    }
}
