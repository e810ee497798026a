//! `pushonce namespace`: the settings of namespaces.

use std::time::Duration;

use clap::Subcommand;
use pushonce_core::{Delivery, Durability, Namespace, NamespaceChange, Namespaces};
use pushonce_proto::pb::cluster::v1::{NamespacesRequest, SetNamespaceRequest};
use serde_json::{Value, json};

use super::cluster::table;
use super::operator::{ServerArgs, print_output, status_error};
use crate::config::{HumanDuration, duration, values};

/// The subcommand, and the servers to ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// List the namespaces with settings of their own, and the default of all others
    List,
    /// Change settings of a namespace. Settings that are not given keep their value, at first that of the
    /// default
    Set {
        #[command(flatten)]
        selector: NamespaceSelector,
        #[command(flatten)]
        change: NamespaceSettingArgs,
        /// Apply even if stored messages are dropped: when a namespace with topics changes from replicated to
        /// memory
        #[arg(long)]
        force: bool,
    },
    /// Remove the settings of a namespace, which then has those of the default; with --default, restore the
    /// built-in default
    Unset {
        #[command(flatten)]
        selector: NamespaceSelector,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct NamespaceSelector {
    /// First segment of the topic names, as `chat` of chat/7
    name: Option<String>,
    /// The settings of all namespaces without settings of their own
    #[arg(long)]
    default: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct NamespaceSettingArgs {
    /// Durability of an acknowledged message: replicated (on the disks of a majority), or memory (in the
    /// memory of the owner only)
    #[arg(long, value_name = "WORD", value_parser = parse_durability)]
    durability: Option<Durability>,
    /// Maximum number of messages in the history of a topic
    #[arg(long, value_name = "N")]
    history_count: Option<u32>,
    /// Maximum payload bytes in the history of a topic
    #[arg(long, value_name = "N")]
    history_bytes: Option<u32>,
    /// Time for which a message stays in the history, as in 24h
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    history_age: Option<Duration>,
    /// Maximum payload size in bytes
    #[arg(long, value_name = "N")]
    payload_max: Option<u32>,
    /// Delivery mode of subscribers that set none: all, latest, or rate:N (the newest message, at most N times
    /// a second)
    #[arg(long, value_name = "WORD")]
    delivery: Option<Delivery>,
    /// Maximum messages per second of one topic to any subscriber, in every delivery mode; 0: no limit
    #[arg(long, value_name = "N")]
    rate_max: Option<u16>,
    /// Maximum number of topics of the namespace in the whole cluster; 0: no limit
    #[arg(long, value_name = "N")]
    topics_max: Option<u32>,
    /// Time for which a topic without history and publishes is kept, as in 7d
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    expire_after: Option<Duration>,
    /// Whether everyone may read the topics, also without a token: on or off
    #[arg(long, value_name = "on|off", value_parser = values::switch)]
    anonymous_read: Option<bool>,
    /// Whether clients may publish over WebSocket, QUIC and HTTP, if their token grants it: on, or off (only back
    /// ends over gRPC)
    #[arg(long, value_name = "on|off", value_parser = values::switch)]
    client_publish: Option<bool>,
    /// Maximum number of messages per second that one caller may publish at each node, twice as many at once; 0: no
    /// limit. The addresses 127.0.0.1 and ::1 are not limited
    #[arg(long, value_name = "N")]
    publish_rate: Option<u32>,
    /// Time for which caches may keep what is read over HTTP without a token, as in 10s, at most 1d; 0s: they
    /// ask every time
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    cache_max_age: Option<Duration>,
}

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let mut client = args.server.connect().await?;
    let (selector, change, force) = match args.command {
        Command::List => {
            let namespaces = client.namespaces(NamespacesRequest {}).await.map_err(status_error)?;
            let namespaces = Namespaces::try_from(namespaces.into_inner())?;
            print_output(json, || list_json(&namespaces), || list_text(&namespaces))?;
            return Ok(());
        }
        Command::Set { selector: which, change, force } => {
            (which, Some(NamespaceChange::from(change)), force)
        }
        Command::Unset { selector: which } => (which, None, false),
    };
    let name = selector.name;
    let change = change.map(Into::into);
    let request = SetNamespaceRequest { name: name.clone(), change, force };
    let response = client.set_namespace(request).await.map_err(status_error)?.into_inner();
    let settings = Namespace::try_from(response.settings.unwrap_or_default())?;
    print_output(
        json,
        || row_json(name.as_deref(), &settings),
        || settings_table([(name.as_deref(), &settings)]),
    )?;
    Ok(())
}

fn parse_durability(word: &str) -> Result<Durability, String> {
    Durability::parse(word).ok_or_else(|| "expected replicated or memory".to_owned())
}

impl From<NamespaceSettingArgs> for NamespaceChange {
    fn from(change: NamespaceSettingArgs) -> NamespaceChange {
        let seconds = |age: Duration| u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        NamespaceChange {
            durability: change.durability,
            history_count_max: change.history_count,
            history_bytes_max: change.history_bytes,
            history_age_max_ms: change.history_age.map(millis),
            expire_after_ms: change.expire_after.map(millis),
            payload_bytes_max: change.payload_max,
            delivery: change.delivery,
            rate_max: change.rate_max,
            topics_max: change.topics_max,
            anonymous_read: change.anonymous_read,
            client_publish: change.client_publish,
            publish_rate_max: change.publish_rate,
            cache_max_age_s: change.cache_max_age.map(seconds),
        }
    }
}

/// The rows of the table, the default first.
fn namespace_rows(namespaces: &Namespaces) -> impl Iterator<Item = (Option<&str>, &Namespace)> {
    let with_name = namespaces.named.iter().map(|(name, settings)| (Some(name.as_str()), settings));
    std::iter::once((None, &namespaces.default)).chain(with_name)
}

fn list_text(namespaces: &Namespaces) -> String {
    settings_table(namespace_rows(namespaces))
}

fn settings_table<'a>(rows: impl IntoIterator<Item = (Option<&'a str>, &'a Namespace)>) -> String {
    let header = [
        "namespace",
        "durability",
        "messages",
        "bytes",
        "age",
        "payload",
        "expire after",
        "delivery",
        "rate max",
        "topics max",
        "anonymous read",
        "client publish",
        "publish rate",
        "cache age",
    ];
    table(header, rows.into_iter().map(|(name, settings)| row(name, settings)).collect())
}

fn row(name: Option<&str>, settings: &Namespace) -> [String; 14] {
    let Namespace {
        durability,
        history,
        payload_bytes_max,
        delivery,
        rate_max,
        topics_max,
        access,
    } = settings;
    [
        name.unwrap_or("(default)").to_owned(),
        durability.as_str().to_owned(),
        history.count_max.to_string(),
        history.bytes_max.to_string(),
        time_text(history.age_max_ms),
        payload_bytes_max.to_string(),
        time_text(history.expire_after_ms),
        delivery.to_string(),
        rate_max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
        if *topics_max == 0 { "-".to_owned() } else { topics_max.to_string() },
        switch_text(access.anonymous_read),
        switch_text(access.client_publish),
        access.publish_rate_max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
        time_text(u64::from(access.cache_max_age_s) * 1_000),
    ]
}

fn switch_text(is_on: bool) -> String {
    if is_on { "on" } else { "off" }.to_owned()
}

fn time_text(millis: u64) -> String {
    HumanDuration(Duration::from_millis(millis)).to_string()
}

fn list_json(namespaces: &Namespaces) -> Value {
    namespace_rows(namespaces).map(|(name, settings)| row_json(name, settings)).collect()
}

fn row_json(name: Option<&str>, settings: &Namespace) -> Value {
    let Namespace {
        durability,
        history,
        payload_bytes_max,
        delivery,
        rate_max,
        topics_max,
        access,
    } = settings;
    json!({
        "namespace": name,
        "durability": durability.as_str(),
        "history": {
            "count": history.count_max, "bytes": history.bytes_max, "age_ms": history.age_max_ms,
        },
        "payload_max": payload_bytes_max,
        "expire_after_ms": history.expire_after_ms,
        "delivery": delivery.to_string(),
        "rate_max": rate_max,
        "topics_max": topics_max,
        "anonymous_read": access.anonymous_read,
        "client_publish": access.client_publish,
        "publish_rate_max": access.publish_rate_max,
        "cache_max_age_s": access.cache_max_age_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_namespace_is_listed_first_without_a_name() {
        let mut namespaces = Namespaces::default();
        namespaces.named.insert("chat".to_owned(), Namespace::default());
        let text = list_text(&namespaces);
        let names: Vec<_> =
            text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["namespace", "(default)", "chat"]);
        assert!(text.lines().nth(1).is_some_and(|line| line.contains("1d")));
        let json = list_json(&namespaces);
        assert_eq!(json[0]["namespace"], Value::Null);
        assert_eq!(json[1]["history"]["count"], 1_000);
    }
}
