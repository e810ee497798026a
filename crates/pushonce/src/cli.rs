//! The command line.

pub(crate) mod access_token;
mod bench;
mod ca;
mod check_config;
mod cluster;
mod demo;
mod init;
mod namespace;
mod operator;
mod publish;
mod reference;
mod revocation;
mod serve;
mod settings;
mod subscribe;
mod token;
mod top;
mod topic;
mod trust;

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Instant;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, Writer};

use crate::config::{self, InvalidConfig, Layer};
use crate::node::join::MembershipRevoked;
use crate::output::escape::EscapingWriter;
use crate::output::log::LogWriter;
use crate::output::{self, OutputError};

/// A clustered broker for real-time push: publish once, and every subscriber receives the message
#[derive(Parser)]
#[command(name = "pushonce", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, one object per line, instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Log levels to change, as in `debug` or `pushonce_relay=debug,openraft=info`; other targets keep their
    /// default
    #[arg(long, global = true, env = "PUSHONCE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run three nodes in one process that replay the World Cup 2026, with a page to watch it on
    Demo(pushonce_demo::Args),
    /// Create a cluster: prepare the data directory of its first node, once, offline. Takes the
    /// settings of `serve`
    Init(settings::NodeArgs),
    /// Run a node. Never creates a cluster: an empty data directory needs `init` once, --join, or --dev
    Serve(serve::Args),
    /// Publish one message, or every line of standard input
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(publish::Args),
    /// Print the messages of topics as they arrive
    #[command(after_help = SUBSCRIBE_EXAMPLES)]
    Subscribe(subscribe::Args),
    /// Inspect a cluster and change its members
    #[command(after_help = CLUSTER_EXAMPLES)]
    Cluster(cluster::Args),
    /// Make the private certificate authority of a cluster, and the certificates of its nodes
    Ca(ca::Args),
    /// Show the owner, history and subscriber count of topics, and purge or delete them
    #[command(after_help = TOPIC_EXAMPLES)]
    Topic(topic::Args),
    /// Show the nodes and the busiest topics again and again
    #[command(after_help = TOP_EXAMPLES)]
    Top(top::Args),
    /// Show and change the settings of namespaces, such as history and payload limits
    #[command(after_help = NAMESPACE_EXAMPLES)]
    Namespace(namespace::Args),
    /// Make keys and tokens, show what a token allows, and revoke tokens
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(token::Args),
    /// Put load on a cluster and measure the result
    Bench(bench::BenchArgs),
    /// Print the settings that a node would run with, or the first invalid one
    CheckConfig(settings::NodeArgs),
    /// Print a script with which a shell completes the commands
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(reference::CompletionsArgs),
    /// Write the manual pages
    Man(reference::ManArgs),
}

const PUBLISH_EXAMPLES: &str = "Examples:
  pushonce publish chat/7 '{\"text\":\"goal!\"}'
  pushonce publish orders/eu --file order.json --key order-4711
  tail -f scores.ndjson | pushonce publish scores/live";

const SUBSCRIBE_EXAMPLES: &str = "Examples:
  pushonce subscribe chat/7 --from start
  pushonce subscribe prices/gold --delivery rate:2 --server https://push.example:7443
  pushonce subscribe chat/7 --from 12:4051 --json | jq .message.data
  pushonce subscribe scores/live --stats";

const CLUSTER_EXAMPLES: &str = "Examples:
  pushonce cluster status
  pushonce cluster health --wait 2m --nodes 3
  pushonce cluster drain b --wait && ssh b systemctl restart pushonce";

const TOPIC_EXAMPLES: &str = "Examples:
  pushonce topic list scores/ --limit 100
  pushonce topic info scores/live
  pushonce topic purge chat/7
  pushonce topic delete scores/2025/final scores/2025/third-place";

const TOP_EXAMPLES: &str = "Examples:
  pushonce top
  pushonce top scores/ --sort audience --limit 50
  pushonce top --count 1 --json | jq .messages_per_second";

const NAMESPACE_EXAMPLES: &str = "Examples:
  pushonce namespace list
  pushonce namespace set scores --history-count 1000 --anonymous-read on
  pushonce namespace set cursors --durability memory";

const TOKEN_EXAMPLES: &str = "Examples:
  pushonce token key site.pem
  pushonce token mint --key site.pem --subject alice --subscribe 'chat/*' --expires-in 1h
  pushonce token explain --issuers issuers.toml --topic chat/7
  pushonce token revoke --subject alice";

const COMPLETIONS_EXAMPLES: &str = "Examples:
  pushonce completions bash > /etc/bash_completion.d/pushonce
  pushonce completions zsh > ~/.zfunc/_pushonce
  pushonce completions fish > ~/.config/fish/completions/pushonce.fish";

/// The default log filter of a node: events that an operator acts on. The consensus library logs every
/// step of every election of every shard.
const NODE_LOG_FILTER: &str = "info,openraft=error";

/// Exit status of a node that is not a member of its cluster: a restart does not help. (`EX_NOPERM`.)
const EXIT_MEMBERSHIP_REVOKED: u8 = 77;

/// The default log filter of the other commands: connection errors, and gaps of subscribers.
const CLIENT_LOG_FILTER: &str = "warn,openraft=error";

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let command = without_empty_variables(Cli::command());
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return exit_with_usage(&error),
    };
    let json = cli.json;
    let log = output::log::standard_error().and_then(LogWriter::start);
    let result = match &log {
        Ok(log) => run(cli, log.clone()),
        Err(error) => Err(anyhow::anyhow!("cannot start the log writer thread: {error}")),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_code_of(&error, json),
    };
    if let Ok(log) = log {
        log.flush();
    }
    code
}

/// The content of `CONFIG.md`.
pub fn config_reference() -> String {
    config::reference(&Cli::command())
}

/// The variables that are no settings of a node.
fn variables() -> Vec<String> {
    config::other_variables(&Cli::command())
}

/// The exit status of a failed command; prints the error, unless the reader of the output is gone.
fn exit_code_of(error: &anyhow::Error, json: bool) -> ExitCode {
    if matches!(error.downcast_ref(), Some(OutputError::BrokenPipe)) {
        return output::EXIT_BROKEN_PIPE.into();
    }
    if let Some(cluster::Unhealthy(code)) = error.downcast_ref() {
        return (*code).into();
    }
    print_error(&format!("{error:#}"), json);
    if error.is::<MembershipRevoked>() { EXIT_MEMBERSHIP_REVOKED.into() } else { ExitCode::FAILURE }
}

/// Treats empty variables as unset, as for the settings of a node.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| {
        arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
    };
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Prints help and version to standard output, and a usage error to standard error, in the format that the
/// command line asks for.
fn exit_with_usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        print_error(error.to_string().trim_end(), true);
    } else {
        // A failure means that the output is closed.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(cli: Cli, log_writer: LogWriter) -> anyhow::Result<()> {
    let is_serve = matches!(cli.command, Command::Serve(_));
    let default = if is_serve { NODE_LOG_FILTER } else { CLIENT_LOG_FILTER };
    init_logging(log_filter(default, cli.log.as_deref())?, cli.json, log_writer)?;
    if is_serve {
        log_panics();
    }
    if !cli.command.reads_settings() {
        warn_of_unknown_variables();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let json = cli.json;
    let (is_publish, handles_shutdown) =
        (matches!(cli.command, Command::Publish(_)), cli.command.handles_shutdown());
    let result = runtime.block_on(async {
        // The other commands are ended by the signal itself.
        let shutdown =
            if handles_shutdown { shutdown_on_signal()? } else { CancellationToken::new() };
        match cli.command {
            Command::Demo(args) => demo::run(args, shutdown).await,
            Command::Init(settings) => init::run(settings, json).await,
            Command::Serve(args) => serve::run(args, shutdown, reload_on_sighup()?).await,
            Command::Publish(args) => publish::run(args, json, shutdown).await,
            Command::Subscribe(args) => subscribe::run(args, json, shutdown).await,
            Command::Cluster(args) => cluster::run(args, json).await,
            Command::Ca(args) => ca::run(args, json),
            Command::Topic(args) => topic::run(args, json).await,
            Command::Top(args) => top::run(args, json).await,
            Command::Namespace(args) => namespace::run(args, json).await,
            Command::Token(args) => token::run(args, json).await,
            Command::Bench(args) => bench::run(args, json, shutdown).await,
            Command::CheckConfig(args) => check_config::run(args, json),
            Command::Completions(args) => reference::print_completions(&args, Cli::command()),
            Command::Man(args) => reference::write_man_pages(&args, Cli::command()),
        }
    });
    if is_publish {
        // A read of standard input returns with its next line, which may never come.
        runtime.shutdown_background();
    }
    result
}

/// Nodes reject an unknown variable. Other commands may be of an older release than the setting.
fn warn_of_unknown_variables() {
    if let Err(error @ InvalidConfig::UnknownVariable { .. }) =
        Layer::from_env(std::env::vars_os(), &variables())
    {
        tracing::warn!("{error}");
    }
}

impl Command {
    /// Whether the command reads the settings of a node.
    fn reads_settings(&self) -> bool {
        matches!(self, Command::Init(_) | Command::Serve(_) | Command::CheckConfig(_))
    }

    /// Whether the command shuts down in steps after a signal.
    fn handles_shutdown(&self) -> bool {
        match self {
            Command::Demo(_)
            | Command::Serve(_)
            | Command::Publish(_)
            | Command::Subscribe(_)
            | Command::Bench(_) => true,
            Command::Init(_)
            | Command::Cluster(_)
            | Command::Ca(_)
            | Command::Topic(_)
            | Command::Top(_)
            | Command::Namespace(_)
            | Command::Token(_)
            | Command::CheckConfig(_)
            | Command::Completions(_)
            | Command::Man(_) => false,
        }
    }
}

/// Exit status of a command that a second signal ends: 128 plus the number of the signal.
const EXIT_SIGINT: i32 = 130;
const EXIT_SIGTERM: i32 = 143;

/// Returns a token that Ctrl-C or SIGTERM cancels; a second signal ends the process at once.
fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = token.clone();
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                _ = interrupt.recv() => EXIT_SIGINT,
                _ = terminate.recv() => EXIT_SIGTERM,
            };
            if shutdown.is_cancelled() {
                std::process::exit(code);
            }
            shutdown.cancel();
        }
    });
    Ok(token)
}

/// Returns a channel that changes with each SIGHUP, on which a node reads its certificates and keys again. A node
/// keeps running when its terminal or its supervisor's session ends. Other settings need a restart.
fn reload_on_sighup() -> anyhow::Result<watch::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        let limiter = LogLimiter::new();
        while hangup.recv().await.is_some() {
            if let Some(suppressed) = limiter.allow(Instant::now()) {
                tracing::info!(
                    suppressed,
                    "SIGHUP: reading certificates and keys again; restart the node to change other settings"
                );
            }
            sender.send_replace(());
        }
    });
    Ok(receiver)
}

/// Logs panics through the log writer. The default hook writes to standard error directly, where a full
/// pipe would block the thread that panicked, and everything that waits for it.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!("a thread {panic}\n{backtrace}");
    }));
}

/// Merges the directives of `--log` over the default ones. A directive replaces the one for the same
/// target, so `debug` keeps `openraft=error`.
fn log_filter(default: &str, changes: Option<&str>) -> anyhow::Result<EnvFilter> {
    let changes = changes.unwrap_or_default();
    EnvFilter::try_new(format!("{default},{changes}"))
        .map_err(|error| anyhow::anyhow!("invalid --log {changes}: {error}"))
}

fn init_logging(filter: EnvFilter, json: bool, writer: LogWriter) -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // Otherwise errors are printed with `eprintln!`, which panics when standard error is closed.
        .log_internal_errors(false)
        .with_writer(writer);
    if json {
        log.json().init()
    } else {
        let fields = format::debug_fn(write_field).delimited(" ");
        log.with_target(false).fmt_fields(fields).init()
    }
    Ok(())
}

/// Writes a field of a log line. Fields hold text of clients and peers, which must neither begin a line of its
/// own nor act on the terminal. A message is text of this program, of several lines after a panic. (The JSON
/// format escapes line breaks by itself.)
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let is_message = field.name() == "message";
    if !is_message {
        write!(writer, "{}=", field.name())?;
    }
    write!(EscapingWriter { inner: writer, keeps_layout: is_message }, "{value:?}")
}

/// Prints the error of a failed command to standard error.
fn print_error(message: &str, json: bool) {
    if json {
        output::notice_json(serde_json::json!({ "error": message }));
    } else {
        output::notice(format!("pushonce: {message}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The commands of the examples in the help of `command` and of its subcommands.
    fn examples(command: &clap::Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().filter(|line| line.starts_with("  ")).flat_map(|line| {
            let commands = line.split(['|', '&', '>', ';']).map(str::trim);
            commands.filter_map(|part| Some(&part[part.find("pushonce ")?..]))
        });
        let own: Vec<_> = lines.map(str::to_owned).collect();
        own.into_iter().chain(command.get_subcommands().flat_map(examples)).collect()
    }

    /// The words of a command of a shell, with single quotes.
    fn words(command: &str) -> Vec<String> {
        let mut words = vec![];
        for (at, part) in command.split('\'').enumerate() {
            match at % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        words
    }

    #[test]
    fn examples_of_the_help_are_valid_commands() {
        let examples = examples(&Cli::command());
        assert!(examples.len() > 15, "{examples:?}");
        for example in examples {
            if let Err(error) = Cli::try_parse_from(words(&example)) {
                panic!("{example}: {error}");
            }
        }
    }

    #[test]
    fn completions_and_manual_pages_name_every_command() {
        let command = Cli::command();
        let folder = tempfile::tempdir().expect("a folder");
        clap_mangen::generate_to(command.clone(), folder.path()).expect("written");
        let mut script = Vec::new();
        let (shell, mut copy) = (clap_complete::Shell::Bash, command.clone());
        clap_complete::generate(shell, &mut copy, "pushonce", &mut script);
        let script = String::from_utf8(script).expect("text");
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            assert!(script.contains(name), "{name}");
            assert!(folder.path().join(format!("pushonce-{name}.1")).exists(), "{name}");
        }
    }

    /// Collects the log lines of a test.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn log_field_cannot_begin_a_line_or_act_on_the_terminal() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .fmt_fields(format::debug_fn(write_field).delimited(" "))
            .with_writer(move || writer.clone())
            .finish();
        let hostile = "\u{1b}[2J\r\nERROR all data is lost\u{202e}";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(peer = %hostile, origin = ?hostile, text = hostile, count = 3, "event {hostile}");
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']), "{text:?}");
        assert!(text.ends_with(" count=3\n"), "{text:?}");
        assert!(text.contains(" peer=\\u{1b}[2J\\r\\nERROR all"), "{text:?}");
        // The line break of the message, which is text of this program, and of the line.
        assert_eq!(text.matches('\n').count(), 2, "{text:?}");
    }

    #[test]
    fn log_directives_override_the_defaults_for_the_same_target() {
        let node_filter =
            |changes| log_filter(NODE_LOG_FILTER, changes).map(|filter| filter.to_string());
        let directives = |text: String| {
            let mut parts: Vec<_> = text.split(',').map(str::to_owned).collect();
            parts.sort();
            parts
        };
        for (changes, expected) in [
            (None, vec!["info", "openraft=error"]),
            (Some("debug"), vec!["debug", "openraft=error"]),
            (Some("pushonce_relay=debug"), vec!["info", "openraft=error", "pushonce_relay=debug"]),
            (Some("openraft=info"), vec!["info", "openraft=info"]),
        ] {
            let filter = node_filter(changes).expect("valid directives");
            assert_eq!(directives(filter), expected, "{changes:?}");
        }
        let message = node_filter(Some("pushonce=loud")).expect_err("an invalid level").to_string();
        assert!(message.contains("pushonce=loud"), "{message}");
    }
}
