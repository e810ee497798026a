//! The layers of a configuration: flags over environment over file.
//!
//! Each layer holds texts. The parsers of the flags read all of them, so a value has the same form in every
//! source, and a setting is defined in one place.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use pushonce_ca::JoinToken;
use toml::{Spanned, Value};

use super::consensus_times::add_preset_times;
use super::{Config, HostDefaults, InvalidConfig, Settings, variable};

/// The settings that one source gives: the texts of each, by the name of its flag without `--`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer(BTreeMap<String, Vec<OsString>>);

/// The three sources.
#[derive(Debug, Default)]
pub struct Layers {
    /// The command line.
    pub flags: Layer,
    /// The `PUSHONCE_…` variables.
    pub env: Layer,
    /// The configuration file.
    pub file: Layer,
    /// The join token of `PUSHONCE_JOIN_TOKEN`, which is no setting, so that it is never printed.
    pub join_token: Option<JoinToken>,
}

/// Why a source cannot give a setting this text.
pub(super) enum TextError {
    /// There is no such setting; one with a similar name, if there is one.
    UnknownSetting(Option<String>),
    /// What the parser of the setting accepts instead.
    InvalidValue(String),
}

impl Layer {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`InvalidConfig::File`], with the line, when the text is not TOML, has an unknown key, or a value that
    /// its setting does not accept.
    pub fn from_toml(text: &str) -> Result<Layer, InvalidConfig> {
        let table: BTreeMap<Spanned<String>, Value> =
            toml::from_str(text).map_err(|error| InvalidConfig::File(error.to_string()))?;
        let mut layer = Layer::default();
        for (key, value) in table {
            let texts = value_texts(&value).map_err(TextError::InvalidValue);
            texts.and_then(|texts| layer.insert(key.as_ref(), texts)).map_err(|error| {
                let line = 1 + text[..key.span().start].matches('\n').count();
                InvalidConfig::File(format!("line {line}: {}", error.in_file(key.as_ref(), &value)))
            })?;
        }
        Ok(layer)
    }

    /// Whether the source gives the setting.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Adds a setting if its parser accepts the texts: several for a list, none for an empty one.
    pub(super) fn insert(&mut self, name: &str, texts: Vec<OsString>) -> Result<(), TextError> {
        let args = settings_args();
        let arg = args.iter().find(|arg| arg.get_long() == Some(name));
        let is_list = arg.is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append));
        if arg.is_some() && !is_list && texts.len() != 1 {
            return Err(TextError::InvalidValue("expected one value".to_owned()));
        }
        let layer = Layer(BTreeMap::from([(name.to_owned(), texts)]));
        let matches = layer.matches();
        if arg.is_none() {
            return Err(TextError::UnknownSetting(matches.err().and_then(similar_setting)));
        }
        matches.map_err(|error| TextError::InvalidValue(reason(&error)))?;
        self.0.extend(layer.0);
        Ok(())
    }

    /// The settings, with defaults where the layer gives none.
    pub(super) fn parse(&self) -> Result<Settings, clap::Error> {
        Settings::from_arg_matches(&self.matches()?)
    }

    fn matches(&self) -> Result<ArgMatches, clap::Error> {
        let flags = self.0.iter().flat_map(|(name, texts)| {
            texts.iter().map(move |text| {
                let mut flag = OsString::from(format!("--{name}="));
                flag.push(text);
                flag
            })
        });
        settings_command().try_get_matches_from(flags)
    }
}

impl TextError {
    /// The error for a line of the configuration file.
    fn in_file(&self, key: &str, value: &Value) -> String {
        match self {
            TextError::InvalidValue(reason) => format!("{key}: {reason}, in {value}"),
            TextError::UnknownSetting(Some(similar)) => {
                format!("unknown key {key}; did you mean {similar}?")
            }
            TextError::UnknownSetting(None) => {
                format!("unknown key {key}; --some-flag of `pushonce serve --help` is some-flag")
            }
        }
    }
}

/// Reads the settings that a command line gives, without defaults.
impl FromArgMatches for Layer {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Layer, clap::Error> {
        let mut layer = Layer::default();
        layer.update_from_arg_matches(matches)?;
        Ok(layer)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for arg in settings_args() {
            let (id, name) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
            if matches.value_source(id) == Some(ValueSource::CommandLine) {
                let texts = matches.get_raw(id).unwrap_or_default().map(OsString::from);
                self.0.insert(name.to_owned(), texts.collect());
            }
        }
        Ok(())
    }
}

impl Args for Layer {
    fn augment_args(command: Command) -> Command {
        add_preset_times(Settings::augment_args(command)).after_help(
            "Every flag under a heading of its own is also a variable (--some-flag: PUSHONCE_SOME_FLAG) and a \
             key of the --config file (some-flag).",
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Layer::augment_args(command)
    }
}

impl Layers {
    /// Merges the layers and resolves the configuration.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first invalid setting, with the source that gives it.
    pub fn resolve(&self) -> Result<Config, InvalidConfig> {
        self.resolve_on(&HostDefaults::detect())
    }

    /// Like [`Layers::resolve`], with the defaults of a given machine.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first invalid setting, with the source that gives it.
    pub fn resolve_on(&self, host: &HostDefaults) -> Result<Config, InvalidConfig> {
        let mut merged = self.file.clone();
        merged.0.extend(self.env.0.clone());
        merged.0.extend(self.flags.0.clone());
        let settings = merged.parse().map_err(|error| InvalidConfig::Flags(reason(&error)))?;
        let config = Config::resolve_with_token(host, settings, self.join_token.clone());
        config.map_err(|error| match self.origin(error.flag()) {
            Some(origin) => InvalidConfig::FromSource { error: Box::new(error), origin },
            None => error,
        })
    }

    /// The variable or the key that gives a setting, if no flag does.
    fn origin(&self, flag: Option<&str>) -> Option<String> {
        let name = flag?.strip_prefix("--")?;
        if self.flags.contains(name) {
            None
        } else if self.env.contains(name) {
            Some(variable(name))
        } else {
            self.file.contains(name).then(|| format!("{name} in the configuration file"))
        }
    }
}

/// A command with the settings as its only arguments.
pub(super) fn settings_command() -> Command {
    Layer::augment_args(Command::new("settings").no_binary_name(true).disable_help_flag(true))
}

fn settings_args() -> Vec<Arg> {
    settings_command().get_arguments().cloned().collect()
}

/// The texts of a value: one, or those of a list.
fn value_texts(value: &Value) -> Result<Vec<OsString>, String> {
    match value {
        Value::String(text) => Ok(vec![text.into()]),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => {
            Ok(vec![value.to_string().into()])
        }
        Value::Array(values) => {
            Ok(values.iter().map(value_texts).collect::<Result<Vec<_>, _>>()?.concat())
        }
        Value::Datetime(_) | Value::Table(_) => {
            Err("expected a string, a number, a boolean or an array".to_owned())
        }
    }
}

/// Why a parser rejected a value.
fn reason(error: &clap::Error) -> String {
    if let Some(cause) = std::error::Error::source(error) {
        return cause.to_string();
    }
    match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(values))) if !values.is_empty() => {
            format!("must be {}", values.join(" or "))
        }
        _ => error.kind().to_string(),
    }
}

fn similar_setting(error: clap::Error) -> Option<String> {
    match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => Some(flag.trim_start_matches("--").to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_error(text: &str) -> String {
        Layer::from_toml(text).expect_err("invalid").to_string()
    }

    #[test]
    fn file_and_flags_give_the_same_layer() {
        let file = "name = \"a\"\nweight = 2\ncompression = false\njoin = [\"b:1\", \"c:2\"]\ninsecure = true";
        let flags = [
            "--name=a",
            "--weight",
            "2",
            "--compression",
            "off",
            "--join",
            "b:1,c:2",
            "--insecure",
        ];
        let flags = settings_command().try_get_matches_from(flags);
        let flags = flags.and_then(|matches| Layer::from_arg_matches(&matches)).expect("valid");
        let file = Layer::from_toml(file).expect("valid");
        let [flags, file] = [flags, file].map(|layer| layer.parse().expect("valid"));
        assert_eq!(flags, file);
        assert_eq!(flags.join, ["b:1", "c:2"]);
        assert!(flags.insecure && !flags.compression);
    }

    #[test]
    fn unknown_key_in_the_file_is_rejected_with_its_line_and_a_hint() {
        let message = file_error("name = \"a\"\nshard = 1");
        assert!(message.contains("line 2: unknown key shard; did you mean shards?"), "{message}");
        assert!(file_error("[node]\nname = \"a\"").contains("line 1: node"));
    }

    #[test]
    fn out_of_range_value_is_rejected_with_its_name_in_every_source() {
        for (name, text) in [
            ("replicas", "2"),
            ("shards", "0"),
            ("session-heartbeat", "30s"),
            ("weight", "0"),
            ("lanes", "257"),
            ("name", "a b"),
            ("shutdown-grace", "11m"),
            ("memory-max", "9EiB"),
            ("consensus", "moon"),
            ("insecure", "maybe"),
        ] {
            let message = file_error(&format!("{name} = {text:?}"));
            assert!(message.contains(&format!("line 1: {name}: ")), "{message}");
            let variable = variable(name);
            let env = Layer::from_env([(variable.clone().into(), text.into())], &[]);
            let message = env.expect_err("invalid").to_string();
            assert!(message.contains(&format!("variable {variable}: ")), "{message}");
        }
    }

    #[test]
    fn list_for_a_single_value_is_rejected() {
        for text in ["http = []", "http = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"] {
            assert!(file_error(text).contains("http: expected one value"), "{text}");
        }
        assert!(Layer::from_toml("join = []").is_ok());
    }

    #[test]
    fn key_that_is_no_flag_is_unknown() {
        for key in ["\"http=x\"", "help", "version", "config", "\"\"", "pin_lanes"] {
            let message = file_error(&format!("{key} = \"127.0.0.1:1\""));
            assert!(message.contains("unknown key"), "{message}");
        }
    }
}
