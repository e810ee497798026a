//! Conversion of the settings of namespaces to and from the wire.

use std::collections::BTreeSet;
use std::num::{NonZeroU16, NonZeroU32};

use pushonce_core::{
    Delivery, Durability, History, Namespace, NamespaceAccess, NamespaceChange, Namespaces,
};

use crate::InvalidField;
use crate::pb::cluster::v1 as pb;

impl From<&Namespaces> for pb::NamespacesResponse {
    fn from(namespaces: &Namespaces) -> pb::NamespacesResponse {
        let Namespaces { revision, default, named, drop_stored: _ } = namespaces;
        let named = named.iter().map(|(name, settings)| (name.clone(), settings.into())).collect();
        pb::NamespacesResponse { default: Some(default.into()), named, revision: *revision }
    }
}

impl From<&Namespace> for pb::NamespaceSettings {
    fn from(settings: &Namespace) -> Self {
        let Namespace {
            durability,
            history,
            payload_bytes_max,
            delivery,
            rate_max,
            topics_max,
            access,
        } = settings;
        let History { count_max, bytes_max, age_max_ms, expire_after_ms } = *history;
        pb::NamespaceSettings {
            durability: durability.as_str().to_owned(),
            history_count_max: count_max,
            history_bytes_max: bytes_max,
            history_age_max_ms: age_max_ms,
            expire_after_ms,
            payload_bytes_max: *payload_bytes_max,
            delivery: delivery.to_string(),
            rate_max: rate_max.map_or(0, |max| max.get().into()),
            topics_max: *topics_max,
            anonymous_read: access.anonymous_read,
            client_publish: access.client_publish,
            publish_rate_max: access.publish_rate_max.map_or(0, NonZeroU32::get),
            cache_max_age_s: access.cache_max_age_s,
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
            delivery: change.delivery.map(|delivery| delivery.to_string()),
            rate_max: change.rate_max.map(u32::from),
            topics_max: change.topics_max,
            anonymous_read: change.anonymous_read,
            client_publish: change.client_publish,
            publish_rate_max: change.publish_rate_max,
            cache_max_age_s: change.cache_max_age_s,
        }
    }
}

impl TryFrom<pb::NamespacesResponse> for Namespaces {
    type Error = InvalidField;

    fn try_from(response: pb::NamespacesResponse) -> Result<Namespaces, InvalidField> {
        let default = response.default.ok_or_else(|| InvalidField::missing("default"))?;
        let named = response
            .named
            .into_iter()
            .map(|(name, settings)| Namespace::try_from(settings).map(|settings| (name, settings)));
        Ok(Namespaces {
            revision: response.revision,
            default: default.try_into()?,
            named: named.collect::<Result<_, _>>()?,
            // Only shards need it, which do not receive their settings in this form.
            drop_stored: BTreeSet::new(),
        })
    }
}

impl TryFrom<pb::NamespaceSettings> for Namespace {
    type Error = InvalidField;

    fn try_from(settings: pb::NamespaceSettings) -> Result<Namespace, InvalidField> {
        Ok(Namespace {
            durability: decode_durability(&settings.durability)?,
            history: History {
                count_max: settings.history_count_max,
                bytes_max: settings.history_bytes_max,
                age_max_ms: settings.history_age_max_ms,
                expire_after_ms: settings.expire_after_ms,
            },
            payload_bytes_max: settings.payload_bytes_max,
            delivery: decode_delivery(&settings.delivery)?,
            rate_max: NonZeroU16::new(decode_rate(settings.rate_max)?),
            topics_max: settings.topics_max,
            access: NamespaceAccess {
                anonymous_read: settings.anonymous_read,
                client_publish: settings.client_publish,
                publish_rate_max: NonZeroU32::new(settings.publish_rate_max),
                cache_max_age_s: settings.cache_max_age_s,
            },
        })
    }
}

impl TryFrom<pb::NamespaceChange> for NamespaceChange {
    type Error = InvalidField;

    fn try_from(change: pb::NamespaceChange) -> Result<NamespaceChange, InvalidField> {
        Ok(NamespaceChange {
            durability: change.durability.as_deref().map(decode_durability).transpose()?,
            history_count_max: change.history_count_max,
            history_bytes_max: change.history_bytes_max,
            history_age_max_ms: change.history_age_max_ms,
            expire_after_ms: change.expire_after_ms,
            payload_bytes_max: change.payload_bytes_max,
            delivery: change.delivery.as_deref().map(decode_delivery).transpose()?,
            rate_max: change.rate_max.map(decode_rate).transpose()?,
            topics_max: change.topics_max,
            anonymous_read: change.anonymous_read,
            client_publish: change.client_publish,
            publish_rate_max: change.publish_rate_max,
            cache_max_age_s: change.cache_max_age_s,
        })
    }
}

fn decode_delivery(word: &str) -> Result<Delivery, InvalidField> {
    word.parse().map_err(|error| InvalidField::new("delivery", format!("is invalid: {error}")))
}

fn decode_rate(number: u32) -> Result<u16, InvalidField> {
    let invalid =
        |_| InvalidField::new("rate_max", "is invalid: set at most 65535, or 0 for no limit");
    number.try_into().map_err(invalid)
}

fn decode_durability(word: &str) -> Result<Durability, InvalidField> {
    Durability::parse(word).ok_or_else(|| {
        InvalidField::new(
            "durability",
            format!("is invalid: set replicated or memory instead of {word:?}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_settings_round_trip() {
        let mut namespaces = Namespaces::default();
        let change = NamespaceChange {
            history_count_max: Some(3),
            delivery: Some(Delivery::Latest),
            rate_max: Some(10),
            topics_max: Some(7),
            anonymous_read: Some(true),
            client_publish: Some(false),
            publish_rate_max: Some(5),
            cache_max_age_s: Some(60),
            ..NamespaceChange::default()
        };
        let own = namespaces.default.with_change(change);
        namespaces.named.insert("chat".to_owned(), own);
        let wire = pb::NamespacesResponse::from(&namespaces);
        assert_eq!(Namespaces::try_from(wire), Ok(namespaces));
        assert_eq!(NamespaceChange::try_from(pb::NamespaceChange::from(change)), Ok(change));
    }

    #[test]
    fn invalid_delivery_or_rate_is_rejected_with_the_valid_values() {
        let newest = || Some("newest".to_owned());
        let change = pb::NamespaceChange { delivery: newest(), ..pb::NamespaceChange::default() };
        let message = NamespaceChange::try_from(change).expect_err("unknown").to_string();
        assert!(message.contains("delivery") && message.contains("latest"), "{message}");
        let change = pb::NamespaceChange { rate_max: Some(70_000), ..Default::default() };
        let message = NamespaceChange::try_from(change).expect_err("too many").to_string();
        assert!(message.contains("rate_max") && message.contains("65535"), "{message}");
    }

    #[test]
    fn invalid_durability_is_rejected_with_the_valid_values() {
        let change = pb::NamespaceChange {
            durability: Some("forever".to_owned()),
            ..pb::NamespaceChange::default()
        };
        let message = NamespaceChange::try_from(change).expect_err("unknown").to_string();
        assert!(message.contains("durability") && message.contains("replicated"), "{message}");
    }
}
