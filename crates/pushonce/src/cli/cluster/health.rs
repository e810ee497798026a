//! `pushonce cluster health`: whether the cluster is healthy, for scripts.

use std::time::Duration;

use pushonce_proto::pb::cluster::v1::{StatusRequest, StatusResponse};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::operator::{ServerArgs, print_output, status_error};
use super::text::problem_lines;
use super::{Unhealthy, check_health};

pub(super) const EXAMPLES: &str =
    "The exit status is that of `pushonce cluster status`: 0 for a healthy cluster, 3, 4 or 1.

Examples:
  pushonce cluster health --wait 2m --nodes 3 && ./publish-the-first-message
  until pushonce cluster health --wait 10s; do ./report; done";

/// What to wait for, and how long.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Wait so long for a healthy cluster, as in 30s or 2m; also for a node that does not answer yet
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Number of active members that a healthy cluster has at least
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
}

/// Time between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(server: &ServerArgs, args: &Args, json: bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    loop {
        let status = query(server).await;
        let is_healthy = status.as_ref().is_ok_and(|status| health(status, args.nodes).is_ok());
        if is_healthy || Instant::now() + POLL_INTERVAL > deadline {
            let status = status?;
            print_output(json, || health_json(&status), || health_text(&status, args.nodes))?;
            return Ok(health(&status, args.nodes)?);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn query(server: &ServerArgs) -> anyhow::Result<StatusResponse> {
    let mut client = server.connect().await?;
    Ok(client.status(StatusRequest {}).await.map_err(status_error)?.into_inner())
}

/// Whether the cluster is healthy and has enough active members.
fn health(status: &StatusResponse, nodes_min: usize) -> Result<(), Unhealthy> {
    check_health(status)?;
    match active_count(status) >= nodes_min {
        true => Ok(()),
        false => Err(Unhealthy(super::EXIT_DEGRADED)),
    }
}

fn active_count(status: &StatusResponse) -> usize {
    let is_active = |state: &str| state == "active";
    status.members.iter().filter(|member| member.reachable && is_active(&member.state)).count()
}

fn health_json(status: &StatusResponse) -> Value {
    let problems = status.problems.iter();
    let problems: Vec<_> =
        problems.map(|p| json!({"severity": p.severity, "kind": p.kind, "text": p.text})).collect();
    json!({"healthy": problems.is_empty(), "active_members": active_count(status), "problems": problems})
}

fn health_text(status: &StatusResponse, nodes_min: usize) -> String {
    let active = active_count(status);
    match problem_lines(status) {
        problems if !problems.is_empty() => problems,
        _ if active < nodes_min => format!("{active} of {nodes_min} members are active\n"),
        _ => format!("healthy: {active} active members\n"),
    }
}

#[cfg(test)]
mod tests {
    use pushonce_proto::pb::cluster::v1::{Member, Problem};

    use super::*;

    fn member(state: &str, reachable: bool) -> Member {
        Member { state: state.to_owned(), reachable, ..Member::default() }
    }

    #[test]
    fn cluster_is_healthy_without_problems_and_with_enough_active_members() {
        let members =
            vec![member("active", true), member("active", false), member("draining", true)];
        let mut status = StatusResponse { members, ..StatusResponse::default() };
        assert!(health(&status, 1).is_ok());
        assert_eq!(health(&status, 2).unwrap_err().0, 3);
        assert_eq!(health_text(&status, 1), "healthy: 1 active members\n");
        assert_eq!(health_text(&status, 2), "1 of 2 members are active\n");
        let (severity, text) = ("unavailable".to_owned(), "no owner".to_owned());
        status.problems = vec![Problem { severity, text, ..Problem::default() }];
        assert_eq!(health(&status, 1).unwrap_err().0, 4);
        assert!(health_text(&status, 2).contains("no owner"));
        assert_eq!(health_json(&status)["healthy"], false);
    }
}
