//! The settings of namespaces, to the wire and back.

use pushonce_core::{Durability, History, Namespace, NamespaceChange, Namespaces};

use crate::InvalidField;
use crate::pb::cluster::v1 as pb;

impl From<&Namespaces> for pb::NamespacesResponse {
    fn from(Namespaces { default, named }: &Namespaces) -> pb::NamespacesResponse {
        let named = named.iter().map(|(name, settings)| (name.clone(), settings.into())).collect();
        pb::NamespacesResponse { default: Some(default.into()), named }
    }
}

impl From<&Namespace> for pb::NamespaceSettings {
    fn from(Namespace { durability, history, payload_bytes_max }: &Namespace) -> Self {
        let History { count_max, bytes_max, age_max_ms, expire_after_ms } = *history;
        pb::NamespaceSettings {
            durability: durability.as_str().to_owned(),
            history_count_max: count_max,
            history_bytes_max: bytes_max,
            history_age_max_ms: age_max_ms,
            expire_after_ms,
            payload_bytes_max: *payload_bytes_max,
        }
    }
}

impl From<NamespaceChange> for pb::NamespaceChange {
    fn from(change: NamespaceChange) -> pb::NamespaceChange {
        pb::NamespaceChange {
            durability: change.durability.map(|durability| durability.as_str().to_owned()),
            history_count_max: change.history_count_max,
            history_bytes_max: change.history_bytes_max,
            history_age_max_ms: change.history_age_max_ms,
            expire_after_ms: change.expire_after_ms,
            payload_bytes_max: change.payload_bytes_max,
        }
    }
}

impl TryFrom<pb::NamespacesResponse> for Namespaces {
    type Error = InvalidField;

    fn try_from(said: pb::NamespacesResponse) -> Result<Namespaces, InvalidField> {
        let default = said.default.ok_or_else(|| InvalidField::missing("default"))?;
        let named = said
            .named
            .into_iter()
            .map(|(name, settings)| Namespace::try_from(settings).map(|settings| (name, settings)));
        Ok(Namespaces { default: default.try_into()?, named: named.collect::<Result<_, _>>()? })
    }
}

impl TryFrom<pb::NamespaceSettings> for Namespace {
    type Error = InvalidField;

    fn try_from(settings: pb::NamespaceSettings) -> Result<Namespace, InvalidField> {
        Ok(Namespace {
            durability: durability(&settings.durability)?,
            history: History {
                count_max: settings.history_count_max,
                bytes_max: settings.history_bytes_max,
                age_max_ms: settings.history_age_max_ms,
                expire_after_ms: settings.expire_after_ms,
            },
            payload_bytes_max: settings.payload_bytes_max,
        })
    }
}

impl TryFrom<pb::NamespaceChange> for NamespaceChange {
    type Error = InvalidField;

    fn try_from(change: pb::NamespaceChange) -> Result<NamespaceChange, InvalidField> {
        Ok(NamespaceChange {
            durability: change.durability.as_deref().map(durability).transpose()?,
            history_count_max: change.history_count_max,
            history_bytes_max: change.history_bytes_max,
            history_age_max_ms: change.history_age_max_ms,
            expire_after_ms: change.expire_after_ms,
            payload_bytes_max: change.payload_bytes_max,
        })
    }
}

fn durability(word: &str) -> Result<Durability, InvalidField> {
    Durability::parse(word).ok_or_else(|| {
        InvalidField::new(
            "durability",
            format!("is wrong: it is replicated or memory, not {word:?}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_back_as_they_were_written() {
        let mut namespaces = Namespaces::default();
        let change = NamespaceChange { history_count_max: Some(3), ..NamespaceChange::default() };
        let own = namespaces.default.with(change);
        namespaces.named.insert("chat".to_owned(), own);
        let wire = pb::NamespacesResponse::from(&namespaces);
        assert_eq!(Namespaces::try_from(wire), Ok(namespaces));
        assert_eq!(NamespaceChange::try_from(pb::NamespaceChange::from(change)), Ok(change));
    }

    #[test]
    fn a_durability_that_is_none_is_refused_with_what_there_is() {
        let change = pb::NamespaceChange {
            durability: Some("forever".to_owned()),
            ..pb::NamespaceChange::default()
        };
        let why = NamespaceChange::try_from(change).expect_err("unknown").to_string();
        assert!(why.contains("durability") && why.contains("replicated"), "{why}");
    }
}
