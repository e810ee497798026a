//! `pushonce namespace`: how topics are kept.

use std::time::Duration;

use clap::Subcommand;
use pushonce_core::{Delivery, Durability, Namespace, NamespaceChange, Namespaces};
use pushonce_proto::pb::cluster::v1::{NamespacesRequest, SetNamespaceRequest};
use serde_json::{Value, json};

use super::cluster::table;
use super::duration;
use super::operator::{Asked, print, refused};

/// What to do, and whom to ask.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Subcommand)]
enum Command {
    /// Every namespace that has settings of its own, and the default for all the others
    List,
    /// Change settings; what is not said stays as it is, and is the default's in the beginning
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        change: Change,
        /// Also when stored messages are dropped: a namespace with topics that goes from replicated to
        /// memory
        #[arg(long)]
        force: bool,
    },
    /// Go back to the default
    Unset {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The first segment of the topics' names, as `chat` of chat/7
    name: Option<String>,
    /// The settings of every name that has none of its own
    #[arg(long)]
    default: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// What an acknowledgement means: replicated (on a majority's disks), or memory (in that of the
    /// topic's owner alone)
    #[arg(long, value_name = "WORD", value_parser = durability)]
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
    let mut client = args.asked.connect().await?;
    let (which, change, force) = match args.command {
        Command::List => {
            let known = client.namespaces(NamespacesRequest {}).await.map_err(refused)?;
            let known = Namespaces::try_from(known.into_inner())?;
            print(json, || list_json(&known), || list_text(&known))?;
            return Ok(());
        }
        Command::Set { which, change, force } => {
            (which, Some(NamespaceChange::from(change)), force)
        }
        Command::Unset { which } => (which, None, false),
    };
    let name = which.name;
    let change = change.map(Into::into);
    let request = SetNamespaceRequest { name: name.clone(), change, force };
    let answer = client.set_namespace(request).await.map_err(refused)?.into_inner();
    let settings = Namespace::try_from(answer.settings.unwrap_or_default())?;
    print(json, || row_json(name.as_deref(), &settings), || text([(name.as_deref(), &settings)]))?;
    Ok(())
}

fn durability(word: &str) -> Result<Durability, String> {
    Durability::parse(word).ok_or_else(|| "replicated or memory".to_owned())
}

impl From<Change> for NamespaceChange {
    fn from(change: Change) -> NamespaceChange {
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
fn rows(known: &Namespaces) -> impl Iterator<Item = (Option<&str>, &Namespace)> {
    let named = known.named.iter().map(|(name, settings)| (Some(name.as_str()), settings));
    std::iter::once((None, &known.default)).chain(named)
}

fn list_text(known: &Namespaces) -> String {
    text(rows(known))
}

fn text<'a>(rows: impl IntoIterator<Item = (Option<&'a str>, &'a Namespace)>) -> String {
    let head = [
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
    table(head, rows.into_iter().map(|(name, settings)| row(name, settings)).collect())
}

fn row(name: Option<&str>, settings: &Namespace) -> [String; 10] {
    let Namespace { durability, history, payload_bytes_max, delivery, rate_max, topics_max } =
        settings;
    [
        name.unwrap_or("(default)").to_owned(),
        durability.as_str().to_owned(),
        history.count_max.to_string(),
        history.bytes_max.to_string(),
        duration::print(history.age_max_ms),
        payload_bytes_max.to_string(),
        duration::print(history.expire_after_ms),
        delivery.to_string(),
        rate_max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
        if *topics_max == 0 { "-".to_owned() } else { topics_max.to_string() },
    ]
}

fn list_json(known: &Namespaces) -> Value {
    rows(known).map(|(name, settings)| row_json(name, settings)).collect()
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
    fn the_default_comes_first_and_has_no_name() {
        let mut known = Namespaces::default();
        known.named.insert("chat".to_owned(), Namespace::default());
        let text = list_text(&known);
        let names: Vec<_> =
            text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["namespace", "(default)", "chat"]);
        assert!(text.lines().nth(1).is_some_and(|line| line.contains("1d")));
        let json = list_json(&known);
        assert_eq!(json[0]["namespace"], Value::Null);
        assert_eq!(json[1]["history"]["count"], 1_000);
    }
}
