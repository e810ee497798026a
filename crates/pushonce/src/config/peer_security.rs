//! Validation of the settings that secure the connections between nodes.

use std::path::{Path, PathBuf};

use pushonce_ca::JoinToken;

use super::{Config, InvalidConfig, Settings};

/// The variable with a join token. It has no flag, since other processes can read a command line.
pub(crate) const JOIN_TOKEN_VARIABLE: &str = "PUSHONCE_JOIN_TOKEN";

/// The file in the data directory for key, certificate and authorities of a node that joined with a token. One
/// file, so that a crash between two writes cannot leave a key without its certificate.
const STORED_CERTIFICATE: &str = "peer.pem";

/// Where a node gets its join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinTokenSource {
    /// `--join-token-file`.
    File(PathBuf),
    /// The token of `PUSHONCE_JOIN_TOKEN`.
    Variable(JoinToken),
}

impl JoinTokenSource {
    /// The source: a file that the settings name, before the variable.
    pub(super) fn select(
        settings: &Settings,
        variable: Option<JoinToken>,
    ) -> Option<JoinTokenSource> {
        let file = settings.join_token_file.clone().map(JoinTokenSource::File);
        file.or_else(|| variable.map(JoinTokenSource::Variable))
    }

    /// The setting, for messages.
    fn setting(&self) -> &'static str {
        match self {
            JoinTokenSource::File(_) => "--join-token-file",
            JoinTokenSource::Variable(_) => JOIN_TOKEN_VARIABLE,
        }
    }
}

/// Parses the value of `PUSHONCE_JOIN_TOKEN`; an empty one counts as not set.
///
/// # Errors
/// When it is not a join token. The error does not quote it.
pub(crate) fn parse_join_token(
    value: Option<std::ffi::OsString>,
) -> Result<Option<JoinToken>, InvalidConfig> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let token = value.to_string_lossy().parse::<JoinToken>();
    token.map(Some).map_err(|error| InvalidConfig::Environment {
        name: JOIN_TOKEN_VARIABLE.to_owned(),
        reason: error.to_string(),
    })
}

/// The file in a data directory for what a node got when it joined with a token.
pub(crate) fn stored_certificate(data: &Path) -> PathBuf {
    data.join(STORED_CERTIFICATE)
}

/// Rejects settings that secure the connections in part: nothing falls back to plain text.
pub(super) fn check(config: &Config) -> Result<(), InvalidConfig> {
    let Settings { peer_cert, peer_key, peer_ca, peer_ca_key, .. } = &config.settings;
    let files = [("--peer-cert", peer_cert), ("--peer-key", peer_key), ("--peer-ca", peer_ca)];
    let missing: Vec<_> =
        files.iter().filter(|(_, file)| file.is_none()).map(|&(flag, _)| flag).collect();
    let invalid = |flag, reason: String| Err(InvalidConfig::InvalidValue { flag, reason });
    if let Some(&(flag, _)) = files.iter().find(|(_, file)| file.is_some())
        && !missing.is_empty()
    {
        return invalid(flag, format!("needs {} as well", missing.join(" and ")));
    }
    if peer_ca_key.is_some() && !missing.is_empty() {
        return invalid("--peer-ca-key", format!("needs {}", missing.join(", ")));
    }
    if let Some(token) = &config.join_token
        && missing.is_empty()
    {
        let reason = "is for a node without a certificate: leave it out, or leave out --peer-cert, \
                      --peer-key and --peer-ca";
        return invalid(token.setting(), reason.to_owned());
    }
    // The path of a file may be printed, and a token must not be.
    if let Some(JoinTokenSource::File(file)) = &config.join_token
        && file.to_string_lossy().parse::<JoinToken>().is_ok()
    {
        let reason = format!(
            "is a join token, and not the path of a file that holds one: write it to a file, or set \
             {JOIN_TOKEN_VARIABLE}"
        );
        return invalid("--join-token-file", reason);
    }
    Ok(())
}

/// Whether nodes authenticate each other with these settings.
pub(super) fn is_secured(config: &Config) -> bool {
    config.settings.peer_cert.is_some()
        || config.join_token.is_some()
        || config.has_stored_certificate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layer, Layers};

    fn resolve(settings: &str) -> Result<Config, InvalidConfig> {
        let flags = Layer::from_toml(settings).expect("valid");
        Layers { flags, ..Layers::default() }.resolve()
    }

    const FILES: &str = "peer-cert = \"a\"\npeer-key = \"b\"\npeer-ca = \"c\"\n";

    #[test]
    fn files_are_given_all_or_none() {
        assert!(resolve(FILES).is_ok());
        assert!(resolve(&format!("{FILES}peer-ca-key = \"d\"")).is_ok());
        for lines in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]] {
            let all: Vec<_> = FILES.lines().collect();
            let some: Vec<_> = lines.iter().map(|&line| all[line]).collect();
            let error = resolve(&some.join("\n")).expect_err("incomplete").to_string();
            assert!(error.contains("needs --peer-"), "{error}");
        }
        let error = resolve("peer-ca-key = \"d\"").expect_err("incomplete").to_string();
        assert!(error.contains("needs --peer-cert, --peer-key, --peer-ca"), "{error}");
    }

    #[test]
    fn certificate_and_join_token_exclude_each_other() {
        assert!(resolve("join-token-file = \"t\"").is_ok());
        let error = resolve(&format!("{FILES}join-token-file = \"t\"")).expect_err("both");
        assert!(error.to_string().starts_with("--join-token-file"), "{error}");
    }

    fn token() -> JoinToken {
        let authority = pushonce_ca::Fingerprint([1; 32]);
        JoinToken::new(pushonce_core::ClusterId(7), authority, [2; 32])
    }

    #[test]
    fn token_of_the_variable_is_used_without_a_file_and_never_printed() {
        let parsed = parse_join_token(Some(token().expose().into())).expect("a token");
        assert_eq!(parsed, Some(token()));
        assert_eq!(parse_join_token(Some("".into())), Ok(None));
        let secret = &token().expose()[..60];
        let error = parse_join_token(Some(secret.into())).expect_err("cut").to_string();
        assert!(error.contains("PUSHONCE_JOIN_TOKEN") && !error.contains(secret), "{error}");

        let with_token = |settings: &str| {
            let flags = Layer::from_toml(settings).expect("valid");
            Layers { flags, join_token: Some(token()), ..Layers::default() }
        };
        let config = with_token("").resolve().expect("valid");
        assert_eq!(config.join_token, Some(JoinTokenSource::Variable(token())));
        let printed = format!("{config:?} {:?} {:?}", with_token(""), config.complete_settings());
        // The encoding of the secret, without the public fields before it.
        assert!(!printed.contains(&token().expose()[90..]), "{printed}");
        assert!(!printed.contains("2, 2, 2"), "{printed}");
        let file = with_token("join-token-file = \"t\"").resolve().expect("valid");
        assert_eq!(file.join_token, Some(JoinTokenSource::File("t".into())));
        let error = with_token(FILES).resolve().expect_err("both").to_string();
        assert!(error.starts_with("PUSHONCE_JOIN_TOKEN is for a node without"), "{error}");
    }

    #[test]
    fn token_in_place_of_a_path_is_rejected_and_not_printed() {
        let token = token().expose();
        let error = resolve(&format!("join-token-file = {token:?}")).expect_err("a token");
        let error = error.to_string();
        assert!(error.contains("is a join token") && !error.contains(&token), "{error}");
    }

    #[test]
    fn node_that_joined_with_a_token_needs_no_setting_to_be_reached() {
        let data = tempfile::tempdir().expect("a temporary directory");
        let settings = format!(
            "data = {:?}\npeer = \"0.0.0.0:7091\"\nadvertise = \"n1.example\"",
            data.path()
        );
        assert!(matches!(resolve(&settings), Err(InvalidConfig::Exposed(_))));
        std::fs::write(stored_certificate(data.path()), "").expect("written");
        assert!(resolve(&settings).is_ok());
    }

    #[test]
    fn peer_port_that_others_can_reach_needs_tls() {
        let exposed = "peer = \"0.0.0.0:7091\"\nadvertise = \"n1.example\"\n";
        let error = resolve(exposed).expect_err("exposed");
        assert!(matches!(&error, InvalidConfig::Exposed(listener) if listener.flag == "--peer"));
        assert!(error.to_string().contains("--peer-cert"), "{error}");
        for secured in [FILES, "join-token-file = \"t\"", "insecure = true"] {
            assert!(resolve(&format!("{exposed}{secured}")).is_ok(), "{secured}");
        }
        let http = format!("http = \"0.0.0.0:7080\"\n{FILES}");
        let error = resolve(&http).expect_err("exposed");
        assert!(matches!(&error, InvalidConfig::Exposed(listener) if listener.flag == "--http"));
    }
}
