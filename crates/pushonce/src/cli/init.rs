//! `pushonce init`: create a cluster, once.

use serde_json::json;

use super::operator::print;
use super::settings::Settings;
use crate::node;

pub(super) async fn run(settings: Settings, as_json: bool) -> anyhow::Result<()> {
    let config = settings.resolve()?;
    let node::Initialized { cluster, data } = node::init(&config).await?;
    let data = data.display();
    print(
        as_json,
        || json!({"cluster": cluster.to_string(), "data": data.to_string()}),
        || {
            format!(
                "cluster {cluster} is ready to start in {data}\n\
                 next: `pushonce serve` with the same settings, and never init again\n"
            )
        },
    )?;
    Ok(())
}
