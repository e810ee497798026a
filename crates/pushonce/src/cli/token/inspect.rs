//! `pushonce token verify` and `explain`: what a token says and allows.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::ValueEnum;
use pushonce_auth::{Action, Authenticator, Caller, Grants, PublishDoor, VerifiedToken, decide};
use pushonce_core::{Namespaces, Timestamp, Topic};
use serde_json::{Value, json};

use super::input::TokenInput;
use crate::cli::cluster::table;
use crate::cli::operator::print_output;

#[derive(clap::Args)]
pub(super) struct VerifyArgs {
    /// The issuers file of the nodes
    #[arg(long, value_name = "FILE")]
    issuers: PathBuf,
    #[command(flatten)]
    token: TokenInput,
}

#[derive(clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    token: TokenInput,
    /// Topic to explain; for list-topics a prefix of names, as in chat/
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// Action to explain [default: all of them]
    #[arg(long, value_name = "ACTION")]
    action: Option<ActionName>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct TrustArgs {
    /// The issuers file of the nodes, to verify the token first
    #[arg(long, value_name = "FILE")]
    issuers: Option<PathBuf>,
    /// Do not verify the token: anyone can have made it
    #[arg(long)]
    unverified: bool,
}

/// An action on the command line.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum ActionName {
    Subscribe,
    ReadHistory,
    ReadSnapshot,
    ReadAudience,
    /// Over WebSocket, QUIC or HTTP
    Publish,
    /// Over gRPC
    PublishGrpc,
    DescribeTopic,
    ListTopics,
    ReadCluster,
    ChangeCluster,
    ReadMetrics,
}

pub(super) async fn verify(args: VerifyArgs, json: bool) -> anyhow::Result<()> {
    let caller = authenticate(&args.issuers, &args.token.read()?).await?;
    let token = caller.token().context("the issuers file names no issuer")?;
    print_output(json, || token_json(token), || token_text(token))?;
    Ok(())
}

pub(super) async fn explain(args: ExplainArgs, json: bool) -> anyhow::Result<()> {
    let token = args.token.read()?;
    let caller = match &args.trust.issuers {
        Some(issuers) => authenticate(issuers, &token).await?,
        None => pushonce_auth::read_unverified(&token)?,
    };
    let actions = match args.action {
        Some(action) => vec![action],
        None => ActionName::value_variants().to_vec(),
    };
    // A prefix of names may end with a separator, as in chat/.
    let prefix = args.topic.as_str();
    let topic = Topic::new(prefix.trim_end_matches('/'))?;
    let explain = |name| explain_action(&caller, name, &topic, prefix);
    let rows: Vec<_> = actions.into_iter().map(explain).collect();
    print_output(
        json,
        || rows.iter().map(Explanation::to_json).collect(),
        || {
            let cells = rows.iter().map(|row| {
                let decision = if row.is_allowed { "allowed" } else { "refused" };
                [row.action.clone(), decision.to_owned(), row.reason.clone()]
            });
            let table = table(["action", "decision", "reason"], cells.collect());
            let note = "a namespace may be open to everyone or closed to clients: see `pushonce namespace list`";
            format!("{table}{note}\n")
        },
    )?;
    Ok(())
}

async fn authenticate(issuers: &Path, token: &str) -> anyhow::Result<Caller> {
    Ok(Authenticator::load(issuers)?.authenticate(token).await?)
}

/// A decision with its reason.
struct Explanation {
    action: String,
    is_allowed: bool,
    reason: String,
}

impl Explanation {
    fn to_json(&self) -> Value {
        json!({ "action": self.action, "allowed": self.is_allowed, "reason": self.reason })
    }
}

/// Decides in a cluster whose namespaces have the default settings.
fn explain_action(caller: &Caller, name: ActionName, topic: &Topic, prefix: &str) -> Explanation {
    let action = match name {
        ActionName::Subscribe => Action::Subscribe(topic),
        ActionName::ReadHistory => Action::ReadHistory(topic),
        ActionName::ReadSnapshot => Action::ReadSnapshot(topic),
        ActionName::ReadAudience => Action::ReadAudience(topic),
        ActionName::Publish => Action::Publish(topic, PublishDoor::Client),
        ActionName::PublishGrpc => Action::Publish(topic, PublishDoor::Backend),
        ActionName::DescribeTopic => Action::DescribeTopic(topic),
        ActionName::ListTopics => Action::ListTopics(Some(prefix)),
        ActionName::ReadCluster => Action::ReadCluster,
        ActionName::ChangeCluster => Action::ChangeCluster,
        ActionName::ReadMetrics => Action::ReadMetrics,
    };
    let word = name.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned());
    match decide(caller, action, &Namespaces::default()) {
        Ok(permission) => {
            Explanation { action: word, is_allowed: true, reason: permission.to_string() }
        }
        Err(denied) => Explanation { action: word, is_allowed: false, reason: denied.to_string() },
    }
}

fn token_json(token: &VerifiedToken) -> Value {
    let Grants { subscribe, publish, admin } = &token.grants;
    let list = |patterns: &[pushonce_auth::TopicPattern]| -> Value {
        patterns.iter().map(|pattern| pattern.as_str()).collect()
    };
    json!({
        "issuer": &*token.issuer,
        "subject": token.subject.as_deref(),
        "token_id": token.token_id.as_deref(),
        "issued_ms": token.issued_at.map(|time| time.0),
        "expires_ms": token.expires_at.0,
        "subscribe": list(&subscribe.allow),
        "publish": list(&publish.allow),
        "deny": { "subscribe": list(&subscribe.deny), "publish": list(&publish.deny) },
        "admin": admin.map(|access| access.as_str()),
    })
}

fn token_text(token: &VerifiedToken) -> String {
    let Grants { subscribe, publish, admin } = &token.grants;
    let list = |patterns: &[pushonce_auth::TopicPattern]| {
        patterns.iter().map(|pattern| pattern.as_str()).collect::<Vec<_>>().join(", ")
    };
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let rows = [
        ("issuer", token.issuer.to_string()),
        ("subject", token.subject.as_deref().unwrap_or_default().to_owned()),
        ("token id", token.token_id.as_deref().unwrap_or_default().to_owned()),
        ("issued", token.issued_at.map(time_text).unwrap_or_default()),
        ("expires", time_text(token.expires_at)),
        ("subscribe", list(&subscribe.allow)),
        ("publish", list(&publish.allow)),
        ("deny subscribe", list(&subscribe.deny)),
        ("deny publish", list(&publish.deny)),
        ("admin", admin.map(|access| access.as_str().to_owned()).unwrap_or_default()),
    ];
    table(["claim", "value"], rows.map(|(name, value)| [name.to_owned(), or_none(value)]).to_vec())
}

/// A time as in `2026-11-30T01:00:00Z`. A token has none after the year 9999.
fn time_text(time: Timestamp) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(time.0));
    time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default()
}
