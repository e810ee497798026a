//! A gateway with the endpoint `/echo`, for the conformance suite: `scripts/autobahn` starts it.
//!
//! Codec, session loop, queues and limits are those of a node whose namespaces allow the largest payload.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use pushonce_core::{NamespaceChange, Publish};

use support::TestGateway;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).ok_or("usage: echo ADDRESS, as in 127.0.0.1:21600")?;
    let http: SocketAddr = address.parse()?;
    let server = TestGateway::with_config(|config| {
        config.http = http;
        // Heartbeats are messages of the client protocol, which the suite does not expect.
        config.heartbeat = Duration::from_secs(3_600);
    })
    .await;
    let payload_bytes_max = u32::try_from(Publish::PAYLOAD_BYTES_CAP)?;
    server.change_namespaces(NamespaceChange {
        payload_bytes_max: Some(payload_bytes_max),
        ..NamespaceChange::default()
    });
    tokio::signal::ctrl_c().await?;
    server.wait_until_stopped().await;
    Ok(())
}
