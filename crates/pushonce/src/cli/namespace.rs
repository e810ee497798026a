//! `pushonce namespace`: how topics are kept.

use std::time::Duration;

use clap::Subcommand;
use pushonce_core::{Delivery, Durability, Namespace, NamespaceChange, Namespaces};
use pushonce_proto::pb::cluster::v1::{NamespacesRequest, SetNamespaceRequest};
use serde_json::{Value, json};

use super::cluster::table;
use super::duration;
use super::operator::{ServerArgs, print_output, status_error};

/// What to do, and whom to ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Every namespace that has settings of its own, and the default for all the others
    List,
    /// Change settings; what is not said stays as it is, and is the default's in the beginning
    Set {
        #[command(flatten)]
        selector: NamespaceSelector,
        #[command(flatten)]
        change: NamespaceSettingArgs,
        /// Also when stored messages are dropped: a namespace with topics that goes from replicated to
        /// memory
        #[arg(long)]
        force: bool,
    },
    /// Go back to the default
    Unset {
        #[command(flatten)]
        selector: NamespaceSelector,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct NamespaceSelector {
    /// The first segment of the topics' names, as `chat` of chat/7
    name: Option<String>,
    /// The settings of every name that has none of its own
    #[arg(long)]
    default: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct NamespaceSettingArgs {
    /// What an acknowledgement means: replicated (on a majority's disks), or memory (in that of the
    /// topic's owner alone)
    #[arg(long, value_name = "WORD", value_parser = parse_durability)]
    durability: Option<Durability>,
    /// Messages of history a topic has at most
    #[arg(long, value_name = "N")]
    history_count: Option<u32>,
    /// Payload bytes of history a topic has at most
    #[arg(long, value_name = "N")]
    history_bytes: Option<u32>,
    /// How long a message stays in the history, as in 24h
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    history_age: Option<Duration>,
    /// The largest payload in bytes
    #[arg(long, value_name = "N")]
    payload_max: Option<u32>,
    /// What a subscriber gets that does not say: all, latest, or rate:N (the newest, and N messages a
    /// second at most)
    #[arg(long, value_name = "WORD")]
    delivery: Option<Delivery>,
    /// Messages a second of one topic that a subscriber gets at most, whatever it asks for; 0: no bound
    #[arg(long, value_name = "N")]
    rate_max: Option<u16>,
    /// Topics the namespace may have in the whole cluster; 0: no bound
    #[arg(long, value_name = "N")]
    topics_max: Option<u32>,
    /// How long a topic without history that nobody publishes to is kept, as in 7d
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    expire_after: Option<Duration>,
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
    Durability::parse(word).ok_or_else(|| "replicated or memory".to_owned())
}

impl From<NamespaceSettingArgs> for NamespaceChange {
    fn from(change: NamespaceSettingArgs) -> NamespaceChange {
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
        }
    }
}

/// The default first.
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
    ];
    table(header, rows.into_iter().map(|(name, settings)| row(name, settings)).collect())
}

fn row(name: Option<&str>, settings: &Namespace) -> [String; 10] {
    let Namespace { durability, history, payload_bytes_max, delivery, rate_max, topics_max } =
        settings;
    [
        name.unwrap_or("(default)").to_owned(),
        durability.as_str().to_owned(),
        history.count_max.to_string(),
        history.bytes_max.to_string(),
        duration::format(history.age_max_ms),
        payload_bytes_max.to_string(),
        duration::format(history.expire_after_ms),
        delivery.to_string(),
        rate_max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
        if *topics_max == 0 { "-".to_owned() } else { topics_max.to_string() },
    ]
}

fn list_json(namespaces: &Namespaces) -> Value {
    namespace_rows(namespaces).map(|(name, settings)| row_json(name, settings)).collect()
}

fn row_json(name: Option<&str>, settings: &Namespace) -> Value {
    let Namespace { durability, history, payload_bytes_max, delivery, rate_max, topics_max } =
        settings;
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
