//! The settings of the gateway of a node.

use pushonce_gateway::AllowedOrigins;

use super::served_tls::ServedTls;
use crate::config::Config;

/// The settings of the gateway, from those of the node.
///
/// # Errors
/// When the certificate cannot be used.
pub(super) fn from_settings(
    config: &Config,
    tls: Option<&ServedTls>,
    origins: AllowedOrigins,
) -> anyhow::Result<pushonce_gateway::Config> {
    Ok(pushonce_gateway::Config {
        http: config.settings.http,
        https: tls.map(|tls| tls.https(config.settings.https)).transpose()?,
        quic: config.settings.quic,
        origins,
        advertise: Some(config.advertise.clone()),
        lanes: config.lanes.into(),
        pin_lanes: config.settings.pin_lanes,
        compression: config.settings.compression,
        grace: config.settings.shutdown_grace.0,
        heartbeat: config.settings.session_heartbeat.0,
        session_age_max: config.settings.session_age_max.map(|age| age.0),
        sse_age_max: Some(config.settings.sse_age_max.0),
        address_connections_max: config.settings.address_connections_max,
        publish_rate_max: config.settings.publish_rate_max,
        subscribe_rate_max: config.settings.subscribe_rate_max,
        new_topic_rate_max: config.settings.new_topic_rate_max,
        ..Default::default()
    })
}
