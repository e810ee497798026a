//! The text output of the cluster commands.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use pushonce_core::ConsensusTimes;
use pushonce_proto::pb::cluster::v1::{
    ClusterTimes, ExplainResponse, Member, Problem, Shard, StatusResponse,
};

use crate::output::escape::escape;

pub(super) fn node_label(id: u64) -> String {
    if id == 0 { "-".to_owned() } else { format!("n{id}") }
}

fn node_labels(ids: &[u64]) -> String {
    if ids.is_empty() {
        "-".to_owned()
    } else {
        ids.iter().map(|&id| node_label(id)).collect::<Vec<_>>().join(" ")
    }
}

/// The text of the status: 80 columns wide, as long as names and addresses are short.
pub(super) fn status_text(status: &StatusResponse) -> String {
    let mut text = problem_lines(status);
    text += &format!(
        "cluster {}  version {}  (asked {}, view {}, placement {})\n\nmembers\n",
        status.cluster_id,
        status.cluster_version,
        node_label(status.node_id),
        status.version,
        status.placement_version,
    );
    if !status.conflicting_cluster_id.is_empty() {
        text.insert_str(0, &conflict_banner(status));
    }
    let rows = status.members.iter().map(member_row).collect();
    text += &table(["id", "name", "state", "link", "region", "zone", "roles", "grpc"], rows);
    text.extend(tls_addresses(status));
    text += "\nbuilds\n";
    text += &build_lines(status);
    text += &format!(
        "\ncontrol  leader {}, term {}, voters {}, learners {}, applied {}\n\nshards\n",
        node_label(status.control_leader),
        status.control_term,
        node_labels(&status.control_voters),
        node_labels(&status.control_learners),
        status.control_applied,
    );
    let rows = status.shards.iter().map(shard_row).collect();
    text += &table(["shard", "owner", "replicas", "wanted", ""], rows);
    let moving = status.shards.iter().filter(|shard| shard.moving).count();
    text += &match moving {
        0 => "\nnothing is moving\n".to_owned(),
        n => format!("\n{n} of {} shards are moving\n", status.shards.len()),
    };
    text.extend(status.times.as_ref().and_then(pending_times_line));
    let draining = status.members.iter().filter(|member| member.state == "draining");
    text.extend(upgrade_line(status));
    text.extend(draining.map(|member| drain_line(status, member.id)));
    text
}

fn conflict_banner(status: &StatusResponse) -> String {
    format!(
        "CONFLICT: the address of {} belongs to a member of another cluster,\n\
         {}, so it accepts no publishes\n\n",
        node_label(status.node_id),
        status.conflicting_cluster_id,
    )
}

/// The lines of the problems, which come first; empty for a healthy cluster.
pub(super) fn problem_lines(status: &StatusResponse) -> String {
    let line = |problem: &Problem| {
        format!("{}: {}\n", problem.severity.to_uppercase(), escape(&problem.text))
    };
    let lines: String = status.problems.iter().map(line).collect();
    if lines.is_empty() { lines } else { lines + "\n" }
}

/// The addresses for clients of the members that serve them with TLS.
fn tls_addresses(status: &StatusResponse) -> Option<String> {
    let row = |m: &Member| [node_label(m.id), m.https_address.clone(), m.quic_address.clone()];
    let with_tls = status.members.iter().filter(|member| !member.https_address.is_empty());
    let rows: Vec<_> = with_tls.map(row).collect();
    let has_rows = !rows.is_empty();
    has_rows.then(|| format!("\nclients with TLS\n{}", table(["id", "https", "quic"], rows)))
}

/// The line of a pending change of the consensus times.
fn pending_times_line(times: &ClusterTimes) -> Option<String> {
    let next = ConsensusTimes::from(times.next?);
    Some(format!("consensus times change to {next} once every member has acknowledged them\n"))
}

/// The line of a draining node: the groups that it is still in.
fn drain_line(status: &StatusResponse, id: u64) -> String {
    let (held_groups, name) = (groups_of_node(status, id), node_label(id));
    if held_groups.is_empty() {
        return format!("{name} is drained: `pushonce cluster remove {name}` removes it\n");
    }
    format!("{name} is draining: still in {held_groups}\n")
}

/// The groups that a node is in; empty for none. Following the control group does not count.
pub(super) fn groups_of_node(status: &StatusResponse, id: u64) -> String {
    let control = status.control_voters.contains(&id).then(|| "the control group".to_owned());
    let is_held = |shard: &&Shard| shard.voters.contains(&id) || shard.learners.contains(&id);
    let shards = status.shards.iter().filter(is_held).map(|shard| format!("s{}", shard.id));
    control.into_iter().chain(shards).collect::<Vec<_>>().join(" ")
}

/// One line per build in the cluster, with the members that run it.
fn build_lines(status: &StatusResponse) -> String {
    let mut builds = BTreeMap::<_, Vec<u64>>::new();
    for Member { id, release, version_min, version_max, .. } in &status.members {
        builds.entry((release, version_min, version_max)).or_default().push(*id);
    }
    let line = |((release, min, max), ids): ((&String, &u32, &u32), Vec<u64>)| {
        let versions = if min == max { min.to_string() } else { format!("{min} to {max}") };
        format!("  release {release}, cluster versions {versions}: {}\n", node_labels(&ids))
    };
    builds.into_iter().map(line).collect()
}

/// The hint when every node supports a higher version than the cluster has.
fn upgrade_line(status: &StatusResponse) -> Option<String> {
    let next = status.members.iter().map(|member| member.version_max).min()?;
    (next > status.cluster_version).then(|| {
        format!(
            "\nevery node supports cluster version {next}: `pushonce cluster finalize` raises it\n"
        )
    })
}

fn member_row(member: &Member) -> [String; 8] {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        node_label(member.id),
        member.name.clone(),
        member.state.clone(),
        link_text(member),
        or_dash(&member.region),
        or_dash(&member.zone),
        member.roles.clone(),
        member.grpc_address.clone(),
    ]
}

/// The round trip of the link to a member, once it was measured: in a table of links, the slow one is looked
/// for.
fn link_text(member: &Member) -> String {
    match member.round_trip_us {
        _ if !member.reachable => "down".to_owned(),
        None => "up".to_owned(),
        Some(time @ ..10_000) => format!("{:.1} ms", time as f64 / 1_000.0),
        Some(time) => format!("{} ms", time / 1_000),
    }
}

/// The row of a shard. A plus marks learners, which follow and do not vote yet.
fn shard_row(shard: &Shard) -> [String; 5] {
    let learners = shard.learners.iter().map(|&id| format!(" +{}", node_label(id)));
    let progress = match shard.progress.as_str() {
        "" if shard.moving => "moving",
        text => text,
    };
    [
        format!("s{}", shard.id),
        node_label(shard.owner),
        node_labels(&shard.voters) + &learners.collect::<String>(),
        node_labels(&shard.wanted),
        progress.to_owned(),
    ]
}

/// A table without borders, whose columns are as wide as their widest cell. A cell holds text of a server, and
/// stays in its line.
pub(in crate::cli) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.into_iter().map(|row| row.map(|cell| escape(&cell))));
    for column in table.column_iter_mut() {
        column.set_padding((2, 0));
    }
    table.trim_fmt() + "\n"
}

pub(super) fn explain_text(explanation: &ExplainResponse) -> String {
    format!(
        "{}  shard s{}, owner {}, wanted {}\n",
        explanation.topic,
        explanation.shard,
        node_label(explanation.owner),
        node_labels(&explanation.wanted)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_is_as_wide_as_its_widest_cell() {
        let rows = vec![["n1".to_owned(), "eu".to_owned()], ["n12".to_owned(), String::new()]];
        assert_eq!(table(["id", "region"], rows), "  id   region\n  n1   eu\n  n12\n");
    }

    #[test]
    fn cell_cannot_leave_its_line_or_act_on_the_terminal() {
        let rows = vec![["a\u{1b}[2J\nb".to_owned()]];
        assert_eq!(table(["x"], rows), "  x\n  a\\u{1b}[2J\\nb\n");
    }

    #[test]
    fn status_of_a_moving_cluster_fits_80_columns_and_lists_what_remains() {
        let address = "127.100.200.1:7090".to_owned();
        let member = |id, state: &str| Member {
            id,
            name: format!("node-{id}"),
            state: state.to_owned(),
            region: "eu-west".to_owned(),
            zone: "a".to_owned(),
            roles: "core,edge".to_owned(),
            reachable: true,
            round_trip_us: Some(id * 98_417),
            grpc_address: address.clone(),
            ..Member::default()
        };
        let shard = |id, voters: &[u64], progress: &str| Shard {
            id,
            owner: 1,
            voters: voters.to_vec(),
            learners: vec![4],
            wanted: vec![1, 2, 4],
            moving: true,
            progress: progress.to_owned(),
            ..Shard::default()
        };
        let status = StatusResponse {
            members: vec![member(1, "active"), member(3, "draining"), member(5, "draining")],
            control_voters: vec![1, 2, 3],
            shards: vec![
                shard(0, &[1, 2, 3], "n4 catches up: 1200 of 5000"),
                shard(15, &[1, 2, 3], "waits for n2, which cannot be reached"),
            ],
            ..StatusResponse::default()
        };
        let text = status_text(&status);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|columns| columns <= 80), "{widest:?}: {text}");
        for line in [
            "  s0     n1     n1 n2 n3 +n4  n1 n2 n4  n4 catches up: 1200 of 5000",
            "2 of 2 shards are moving",
            "n3 is draining: still in the control group s0 s15",
            "n5 is drained: `pushonce cluster remove n5` removes it",
        ] {
            assert!(text.lines().any(|text_line| text_line == line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn members_that_serve_clients_with_tls_are_listed_with_these_addresses() {
        let with_tls = Member {
            id: 2,
            https_address: "b:7443".to_owned(),
            quic_address: "b:7444".to_owned(),
            ..Member::default()
        };
        let mut status = StatusResponse {
            members: vec![Member { id: 1, ..Member::default() }, with_tls],
            ..StatusResponse::default()
        };
        let text = status_text(&status);
        let expected = "clients with TLS\n  id  https   quic\n  n2  b:7443  b:7444\n\nbuilds";
        assert!(text.contains(expected), "{text}");
        status.members.truncate(1);
        assert!(!status_text(&status).contains("clients with TLS"));
    }

    #[test]
    fn link_is_shown_with_its_round_trip() {
        let text = |reachable, round_trip_us| {
            link_text(&Member { reachable, round_trip_us, ..Member::default() })
        };
        assert_eq!(text(true, Some(417)), "0.4 ms");
        assert_eq!(text(true, Some(31_900)), "31 ms");
        assert_eq!((text(true, None), text(false, Some(417))), ("up".into(), "down".into()));
    }

    #[test]
    fn builds_are_listed_and_finalize_is_suggested_once_every_node_supports_it() {
        let member = |id, release: &str, version_max| Member {
            id,
            release: release.to_owned(),
            version_min: 1,
            version_max,
            ..Member::default()
        };
        let mut status = StatusResponse {
            cluster_version: 1,
            members: vec![member(1, "0.2.0", 2), member(2, "0.1.0", 1), member(3, "0.2.0", 2)],
            ..StatusResponse::default()
        };
        let text = status_text(&status);
        for line in [
            "  release 0.1.0, cluster versions 1: n2",
            "  release 0.2.0, cluster versions 1 to 2: n1 n3",
        ] {
            assert!(text.lines().any(|text_line| text_line == line), "{line:?} is not in {text}");
        }
        assert!(!text.contains("finalize"), "{text}");
        status.members[1] = member(2, "0.2.0", 2);
        assert!(status_text(&status).contains("cluster finalize"));
    }

    #[test]
    fn address_conflict_is_shown_first_with_both_cluster_ids() {
        let status = StatusResponse {
            cluster_id: "a".repeat(32),
            conflicting_cluster_id: "b".repeat(32),
            node_id: 1,
            ..StatusResponse::default()
        };
        let text = status_text(&status);
        assert!(text.starts_with("CONFLICT: the address of n1"), "{text}");
        assert!(text.contains(&status.cluster_id) && text.contains(&"b".repeat(32)), "{text}");
    }

    #[test]
    fn problems_are_shown_first() {
        let problem = |severity: &str, text: &str| Problem {
            severity: severity.to_owned(),
            text: text.to_owned(),
            ..Problem::default()
        };
        let problems = vec![problem("unavailable", "no owner"), problem("degraded", "n3 is down")];
        let text = status_text(&StatusResponse { problems, ..StatusResponse::default() });
        assert!(
            text.starts_with("UNAVAILABLE: no owner\nDEGRADED: n3 is down\n\ncluster "),
            "{text}"
        );
    }

    #[test]
    fn missing_node_is_a_dash() {
        assert_eq!(node_label(0), "-");
        assert_eq!(node_labels(&[]), "-");
        assert_eq!(node_labels(&[1, 3]), "n1 n3");
    }
}
