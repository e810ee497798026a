//! Validation of the settings that secure the connections between nodes.

use super::{InvalidConfig, Settings};

/// Rejects settings that secure the connections in part: nothing falls back to plain text.
pub(super) fn check(settings: &Settings) -> Result<(), InvalidConfig> {
    let Settings { peer_cert, peer_key, peer_ca, peer_ca_key, join_token_file, .. } = settings;
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
    if join_token_file.is_some() && missing.is_empty() {
        let reason = "is for a node without a certificate: leave it out, or leave out --peer-cert, \
                      --peer-key and --peer-ca";
        return invalid("--join-token-file", reason.to_owned());
    }
    Ok(())
}

/// Whether nodes authenticate each other with these settings.
pub(super) fn is_secured(settings: &Settings) -> bool {
    settings.peer_cert.is_some() || settings.join_token_file.is_some()
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

    #[test]
    fn peer_port_that_others_can_reach_needs_tls() {
        let exposed = "peer = \"0.0.0.0:7091\"\nadvertise = \"n1.example\"\n";
        let error = resolve(exposed).expect_err("exposed");
        assert!(matches!(error, InvalidConfig::Exposed { flag: "--peer", .. }), "{error}");
        assert!(error.to_string().contains("--peer-cert"), "{error}");
        for secured in [FILES, "join-token-file = \"t\"", "insecure = true"] {
            assert!(resolve(&format!("{exposed}{secured}")).is_ok(), "{secured}");
        }
        let http = format!("http = \"0.0.0.0:7080\"\n{FILES}");
        assert!(matches!(resolve(&http), Err(InvalidConfig::Exposed { flag: "--http", .. })));
    }
}
