//! Reads schedules.

use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

use super::{Action, Command, Endpoint, Schedule, Step};

/// A line that is no step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The reason.
    pub reason: String,
}

impl std::fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for ScheduleError {}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Empty lines and lines that begin with `#` are comments.
    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let step = |(line, text): (usize, &str)| {
            text.parse().map_err(|reason| ScheduleError { line, reason })
        };
        Ok(Schedule { steps: lines.map(step).collect::<Result<_, _>>()? })
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let mut words = Words(text.split_whitespace());
        let at: f64 = words.next("the time in seconds")?;
        if !(0.0..1e6).contains(&at) {
            return Err(format!("{at} is no time"));
        }
        let at = Duration::from_millis((at * 1e3).round() as u64);
        let action = parse_action(&mut words)?;
        match words.0.next() {
            None => Ok(Step { at, action }),
            Some(word) => Err(format!("unexpected `{word}`")),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        match text {
            "clients" => Ok(Endpoint::Clients),
            _ => text.parse().map(Endpoint::Node).map_err(|_| "no node".to_owned()),
        }
    }
}

struct Words<'a>(SplitWhitespace<'a>);

impl Words<'_> {
    fn next<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.0.next().ok_or_else(|| format!("missing: {what}"))?;
        word.parse().map_err(|_| format!("`{word}` is not {what}"))
    }

    fn node(&mut self) -> Result<usize, String> {
        self.next("the number of a node")
    }

    fn endpoint(&mut self) -> Result<Endpoint, String> {
        self.next("the number of a node, or `clients`")
    }
}

fn parse_action(words: &mut Words<'_>) -> Result<Action, String> {
    let verb: String = words.next("an action")?;
    Ok(match &*verb {
        "kill" => Action::Kill { node: words.node()? },
        "cut-power" => Action::CutPower { node: words.node()? },
        "cut-power-after" => {
            let (node, operations) = (words.node()?, words.next("a number of operations")?);
            Action::CutPowerAfter { node, operations }
        }
        "start" => Action::Start { node: words.node()? },
        "stop" => Action::Stop { node: words.node()? },
        "pause" => Action::Pause { node: words.node()? },
        "suspend" => Action::Suspend { node: words.node()? },
        "resume" => Action::Resume { node: words.node()? },
        "cut" => Action::Cut { from: words.endpoint()?, to: words.endpoint()? },
        "restore" => Action::Restore { from: words.endpoint()?, to: words.endpoint()? },
        "degrade" => Action::Degrade {
            from: words.endpoint()?,
            to: words.endpoint()?,
            latency_ms: words.next("a latency in milliseconds")?,
            loss: words.next("a loss per mille")?,
            bytes_per_ms: words.next("a capacity in bytes per millisecond")?,
        },
        "reset" => Action::Reset { from: words.endpoint()?, to: words.endpoint()? },
        "stall" => Action::Stall {
            from: words.endpoint()?,
            to: words.endpoint()?,
            connection: words.next("the number of a connection")?,
        },
        "step-clock" => {
            Action::StepClock { node: words.node()?, by_ms: words.next("a time in milliseconds")? }
        }
        "drift" => Action::Drift { node: words.node()?, ppm: words.next("parts per million")? },
        "fill-disk" => Action::FillDisk { node: words.node()? },
        "free-disk" => Action::FreeDisk { node: words.node()? },
        "slow-disk" => {
            Action::SlowDisk { node: words.node()?, sync_ms: words.next("a time in milliseconds")? }
        }
        "fail-sync" => Action::FailSync { node: words.node()? },
        "flip-bits" => {
            Action::FlipBits { node: words.node()?, place: words.next("millionths of the file")? }
        }
        "save-files" => Action::SaveFiles { node: words.node()? },
        "restore-files" => Action::RestoreFiles { node: words.node()? },
        "install" => {
            Action::Install { node: words.node()?, version: words.next("a cluster version")? }
        }
        "wipe" => Action::Wipe { node: words.node()? },
        "delete-log" => Action::DeleteLog { node: words.node()? },
        "change-address" => Action::ChangeAddress { node: words.node()? },
        "operator" => Action::Operator(parse_command(words)?),
        _ => return Err(format!("`{verb}` is no action")),
    })
}

fn parse_command(words: &mut Words<'_>) -> Result<Command, String> {
    let verb: String = words.next("a command")?;
    Ok(match &*verb {
        "history" => Command::History {
            namespace: words.next("a namespace")?,
            messages: words.next("a number of messages")?,
        },
        "durability" => {
            let namespace = words.next("a namespace")?;
            let durability: String = words.next("a durability")?;
            match &*durability {
                "memory" => Command::Durability { namespace, in_memory: true },
                "replicated" => Command::Durability { namespace, in_memory: false },
                _ => return Err(format!("`{durability}` is no durability")),
            }
        }
        "drain" => Command::Drain { node: words.node()? },
        "undrain" => Command::Undrain { node: words.node()? },
        "remove" => Command::Remove { node: words.node()? },
        "join" => Command::Join,
        "election-max" => Command::ElectionMax { ms: words.next("a time in milliseconds")? },
        "finalize" => Command::Finalize,
        _ => return Err(format!("`{verb}` is no command")),
    })
}
