//! Settings from the `PUSHONCE_…` environment variables.

use std::ffi::{OsStr, OsString};

use pushonce_core::FailPoint;

use super::layer::TextError;
use super::{InvalidConfig, Layer};

const PREFIX: &str = "PUSHONCE_";

/// The variable of a setting, which is named like its flag.
pub(crate) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

impl Layer {
    /// Reads the `PUSHONCE_…` variables of an environment, except `others`, which are no settings. An empty
    /// variable counts as not set: compose files and unit files pass empty variables for "no value".
    ///
    /// # Errors
    /// [`InvalidConfig::Environment`] for a variable with an invalid value, and
    /// [`InvalidConfig::UnknownVariable`] for one that belongs to nothing: it is a misspelled setting.
    pub fn from_env(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        others: &[String],
    ) -> Result<Layer, InvalidConfig> {
        let mut layer = Layer::default();
        let mut unknown = Ok(());
        for (name, value) in variables {
            let Some(suffix) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            let variable = format!("{PREFIX}{suffix}");
            if value.is_empty() || others.contains(&variable) || is_service_link(suffix, &value) {
                continue;
            }
            match layer.insert_variable(variable, suffix, value) {
                // Invalid values are reported first.
                Err(error @ InvalidConfig::UnknownVariable { .. }) => unknown = Err(error),
                result => result?,
            }
        }
        if FailPoint::UnknownVariableAccepted.is_active() {
            Ok(layer)
        } else {
            unknown.map(|()| layer)
        }
    }

    fn insert_variable(
        &mut self,
        variable: String,
        suffix: &str,
        value: OsString,
    ) -> Result<(), InvalidConfig> {
        let invalid = |name: String, reason| InvalidConfig::Environment { name, reason };
        let Some(text) = value.to_str() else {
            return Err(invalid(variable, format!("the value is not UTF-8: {value:?}")));
        };
        if FailPoint::COMPILED_IN && variable == FailPoint::VARIABLE {
            let point: Result<FailPoint, _> = text.parse();
            return point.map(drop).map_err(|error| invalid(variable, error.to_string()));
        }
        let name = suffix.to_ascii_lowercase().replace('_', "-");
        if variable != self::variable(&name) {
            let similar = Some(self::variable(&name));
            return Err(InvalidConfig::UnknownVariable { name: variable, similar });
        }
        match self.insert(&name, vec![text.into()]) {
            Ok(()) => Ok(()),
            Err(TextError::InvalidValue(reason)) => {
                Err(invalid(variable, format!("{reason}, in {text:?}")))
            }
            Err(TextError::UnknownSetting(similar)) => Err(InvalidConfig::UnknownVariable {
                name: variable,
                similar: similar.map(|name| self::variable(&name)),
            }),
        }
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
    use crate::config::Layers;

    fn read(variables: &[(&str, &str)]) -> Result<Layer, InvalidConfig> {
        let others = ["PUSHONCE_LOG".to_owned(), "PUSHONCE_SERVER".to_owned()];
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Layer::from_env(variables, &others)
    }

    fn rejected_name(variables: &[(&str, &str)]) -> Option<String> {
        match read(variables) {
            Err(
                InvalidConfig::Environment { name, .. }
                | InvalidConfig::UnknownVariable { name, .. },
            ) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn variables_are_named_like_their_flags() {
        let layer = read(&[
            ("PUSHONCE_GRPC", "127.0.0.1:9"),
            ("PUSHONCE_JOIN", "a:1, b:2"),
            ("PUSHONCE_COMPRESSION", "off"),
            ("HOME", "/root"),
        ]);
        let layers = Layers { env: layer.expect("all are valid"), ..Layers::default() };
        let settings = layers.resolve().expect("consistent").settings;
        assert_eq!(settings.grpc, SocketAddr::from(([127, 0, 0, 1], 9)));
        assert!(!settings.compression);
        assert_eq!(settings.join, ["a:1", "b:2"]);
    }

    #[test]
    fn invalid_value_is_rejected_with_the_name_of_its_variable() {
        assert_eq!(rejected_name(&[("PUSHONCE_HTTP", "x")]).as_deref(), Some("PUSHONCE_HTTP"));
        let latin1 = ("PUSHONCE_NAME".into(), OsString::from_vec(vec![0xe9]));
        let message = Layer::from_env([latin1], &[]).expect_err("not UTF-8").to_string();
        assert!(message.contains("PUSHONCE_NAME") && message.contains("UTF-8"), "{message}");
    }

    #[test]
    fn empty_variable_counts_as_not_set() {
        let empty = ["NAME", "DATA", "HTTP", "JOIN", "INSECURE", "MEMORY_MAX", "NO_SUCH_SETTING"];
        let empty = empty.map(|name| (OsString::from(format!("PUSHONCE_{name}")), OsString::new()));
        assert_eq!(Layer::from_env(empty, &[]), Ok(Layer::default()));
    }

    #[test]
    fn unknown_variable_is_rejected() {
        let unknown = rejected_name(&[("PUSHONCE_SHARD", "64")]);
        assert_eq!(unknown.as_deref(), Some("PUSHONCE_SHARD"));
        let lower_case = rejected_name(&[("PUSHONCE_http", "127.0.0.1:80")]);
        assert_eq!(lower_case.as_deref(), Some("PUSHONCE_http"));
        let message = read(&[("PUSHONCE_SHARD", "64")]).expect_err("unknown").to_string();
        assert!(message.contains("did you mean PUSHONCE_SHARDS?"), "{message}");
        let port = rejected_name(&[("PUSHONCE_HTTP_PORT", "7080")]);
        assert_eq!(
            port.as_deref(),
            Some("PUSHONCE_HTTP_PORT"),
            "a Service variable does not have a bare number"
        );
        assert_eq!(
            read(&[("PUSHONCE_LOG", "debug"), ("PUSHONCE_SERVER", "x")]),
            Ok(Layer::default())
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
        assert_eq!(read(&links), Ok(Layer::default()));
    }
}
