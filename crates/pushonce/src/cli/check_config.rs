//! `pushonce check-config`: what a node would run with.

use serde_json::json;

use super::settings::Settings;

#[allow(clippy::print_stdout)]
pub(super) fn run(settings: Settings, as_json: bool) -> anyhow::Result<()> {
    let config = settings.resolve()?;
    let times = &config.consensus;
    let fields = json!({
        "name": config.name,
        "data": config.data,
        "http": config.http,
        "quic": config.quic,
        "grpc": config.grpc,
        "peer": config.peer,
        "advertise": config.advertise,
        "join": config.join,
        "region": config.region,
        "zone": config.zone,
        "roles": config.roles.to_string(),
        "weight": config.weight,
        "shards": config.shards.get(),
        "replicas": config.replicas,
        "lanes": config.lanes,
        "compression": if config.compression { "on" } else { "off" },
        "insecure": config.insecure,
        "heartbeat": format!("{:?}", times.heartbeat),
        "election-min": format!("{:?}", times.election_min),
        "election-max": format!("{:?}", times.election_max),
        "rpc-timeout": format!("{:?}", times.rpc_timeout),
        "connect-timeout": format!("{:?}", times.connect_timeout),
        "proposal-deadline": format!("{:?}", times.proposal_deadline),
        "snapshot-timeout": format!("{:?}", times.snapshot_timeout),
        "disk-reserve": times.disk_reserve,
    });
    if as_json {
        println!("{fields}");
    } else if let Some(fields) = fields.as_object() {
        for (key, value) in fields {
            println!("{key} = {value}");
        }
    }
    Ok(())
}
