//! Settings from the `PUSHONCE_…` environment variables.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::str::FromStr;

use pushonce_core::FailPoint;

use super::InvalidConfig;

const PREFIX: &str = "PUSHONCE_";

/// Variables that the command line reads.
const READ_ELSEWHERE: [&str; 4] = ["CONFIG", "LOG", "SERVER", "SUBSCRIBE_SERVER"];

/// The variables that no setting has read yet, by their names without the prefix. An empty variable
/// counts as unset: compose files and unit files pass empty variables for "no value".
pub(super) struct EnvVars(BTreeMap<String, OsString>);

impl EnvVars {
    pub(super) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> EnvVars {
        let without_prefix = |(name, value): (OsString, OsString)| {
            let name = name.to_str()?.strip_prefix(PREFIX)?.to_owned();
            (!value.is_empty()).then_some((name, value))
        };
        EnvVars(variables.into_iter().filter_map(without_prefix).collect())
    }

    /// Reads a setting; `None` when the variable is not set.
    pub(super) fn take<T>(&mut self, name: &str) -> Result<Option<T>, InvalidConfig>
    where
        T: FromStr<Err: Display>,
    {
        let Some(text) = self.take_text(name)? else { return Ok(None) };
        let invalid = |error: T::Err| InvalidConfig::Environment {
            name: format!("{PREFIX}{name}"),
            reason: format!("{error}, in {text:?}"),
        };
        text.parse().map(Some).map_err(invalid)
    }

    /// Reads a list whose values are separated by commas.
    pub(super) fn take_list(&mut self, name: &str) -> Result<Option<Vec<String>>, InvalidConfig> {
        let list = self.take_text(name)?;
        Ok(list.map(|list| list.split(',').map(|value| value.trim().to_owned()).collect()))
    }

    /// Rejects the first variable that nothing has read: it is a misspelled setting.
    pub(super) fn reject_unknown(self) -> Result<(), InvalidConfig> {
        if FailPoint::UnknownVariableAccepted.is_active() {
            return Ok(());
        }
        let is_known = |(name, value): &(String, OsString)| {
            READ_ELSEWHERE.contains(&name.as_str()) || is_service_link(name, value)
        };
        match self.0.into_iter().find(|variable| !is_known(variable)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(InvalidConfig::UnknownVariable { name: format!("{PREFIX}{name}") })
            }
        }
    }

    fn take_text(&mut self, name: &str) -> Result<Option<String>, InvalidConfig> {
        let not_text = |value: OsString| InvalidConfig::Environment {
            name: format!("{PREFIX}{name}"),
            reason: format!("the value is not UTF-8: {value:?}"),
        };
        self.0.remove(name).map(|value| value.into_string().map_err(not_text)).transpose()
    }
}

/// Whether the variable is one that Kubernetes sets in every pod beside a Service whose name begins with
/// `pushonce`: `PUSHONCE_SERVICE_HOST`, `PUSHONCE_PEER_SERVICE_PORT_GRPC`, `PUSHONCE_PORT_7080_TCP_ADDR`, and
/// `PUSHONCE_PORT`, whose value is a URL.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let name = format!("_{name}");
    let is_url = || value.to_str().is_some_and(|value| value.contains("://"));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_url())
        || (name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP")))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;
    use crate::config::{OnOff, PartialConfig};

    fn read(variables: &[(&str, &str)]) -> Result<PartialConfig, InvalidConfig> {
        PartialConfig::from_env(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn rejected_name(variables: &[(&str, &str)]) -> Option<String> {
        match read(variables) {
            Err(
                InvalidConfig::Environment { name, .. } | InvalidConfig::UnknownVariable { name },
            ) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn variables_are_named_like_their_flags() {
        let partial = read(&[
            ("PUSHONCE_GRPC", "127.0.0.1:9"),
            ("PUSHONCE_JOIN", "a:1, b:2"),
            ("PUSHONCE_COMPRESSION", "off"),
            ("HOME", "/root"),
        ]);
        let partial = partial.expect("all are valid");
        assert_eq!(partial.grpc, Some(SocketAddr::from(([127, 0, 0, 1], 9))));
        assert_eq!(partial.compression, Some(OnOff(false)));
        assert_eq!(partial.join, Some(vec!["a:1".to_owned(), "b:2".to_owned()]));
    }

    #[test]
    fn invalid_value_is_rejected_with_the_name_of_its_variable() {
        assert_eq!(rejected_name(&[("PUSHONCE_HTTP", "x")]).as_deref(), Some("PUSHONCE_HTTP"));
        let latin1 = ("PUSHONCE_NAME".into(), OsString::from_vec(vec![0xe9]));
        let message = PartialConfig::from_env([latin1]).expect_err("not UTF-8").to_string();
        assert!(message.contains("PUSHONCE_NAME") && message.contains("UTF-8"), "{message}");
    }

    #[test]
    fn empty_variable_counts_as_not_set() {
        let empty = ["NAME", "DATA", "HTTP", "JOIN", "INSECURE", "MEMORY_MAX", "NO_SUCH_SETTING"];
        let empty = empty.map(|name| (OsString::from(format!("PUSHONCE_{name}")), OsString::new()));
        assert_eq!(PartialConfig::from_env(empty), Ok(PartialConfig::default()));
    }

    #[test]
    fn unknown_variable_is_rejected() {
        let unknown = rejected_name(&[("PUSHONCE_SHARD", "64")]);
        assert_eq!(unknown.as_deref(), Some("PUSHONCE_SHARD"));
        let port = rejected_name(&[("PUSHONCE_HTTP_PORT", "7080")]);
        assert_eq!(
            port.as_deref(),
            Some("PUSHONCE_HTTP_PORT"),
            "a Service variable does not have a bare number"
        );
        assert_eq!(
            read(&[("PUSHONCE_LOG", "debug"), ("PUSHONCE_SERVER", "x")]),
            Ok(PartialConfig::default())
        );
    }

    #[test]
    fn fail_point_is_accepted_only_in_builds_that_have_fail_points() {
        let known = rejected_name(&[("PUSHONCE_FAIL_POINT", "rollback-undetected")]);
        assert_eq!(known.is_none(), FailPoint::COMPILED_IN, "{known:?}");
        let unknown = rejected_name(&[("PUSHONCE_FAIL_POINT", "no-such-point")]);
        assert_eq!(unknown.as_deref(), Some(FailPoint::VARIABLE));
    }

    #[test]
    fn kubernetes_service_variables_are_ignored() {
        let links = [
            ("PUSHONCE_SERVICE_HOST", "10.0.0.1"),
            ("PUSHONCE_SERVICE_PORT", "7080"),
            ("PUSHONCE_PEER_SERVICE_PORT_GRPC", "7091"),
            ("PUSHONCE_PORT", "tcp://10.0.0.1:7080"),
            ("PUSHONCE_PORT_7080_TCP", "tcp://10.0.0.1:7080"),
            ("PUSHONCE_PORT_7443_UDP_ADDR", "10.0.0.1"),
        ];
        assert_eq!(read(&links), Ok(PartialConfig::default()));
    }
}
