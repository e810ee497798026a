//! `pushonce init`: creates a cluster, once.

use serde_json::json;

use super::operator::print_output;
use super::settings::NodeArgs;
use crate::node;

pub(super) async fn run(settings: NodeArgs, json: bool) -> anyhow::Result<()> {
    let config = settings.resolve()?;
    let node::Initialized { cluster, data } = node::init(&config).await?;
    let data = data.display();
    print_output(
        json,
        || json!({"cluster": cluster.to_string(), "data": data.to_string()}),
        || {
            format!(
                "cluster {cluster} is ready to start in {data}\n\
                 next: run `pushonce serve` with the same settings; do not run init again\n"
            )
        },
    )?;
    Ok(())
}
