//! Set-up: three nodes under load.
//! Fault: a node is removed while it runs, or while it is paused (SIGSTOP) and receives nothing; then its
//! directory, an old copy of another node's directory, and an empty directory under a used name are started.
//! Claim: a removed node transfers its shards, exits by itself and reports the reason; none of the three is
//! accepted again, and each reports what to do; no published message is lost meanwhile.

use std::path::Path;

use pushonce_client::Transport;
use pushonce_cluster_tests::{EXIT_REMOVED, ProcessCluster, SentMessage, cli, secs, wait_until};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn removed_node_and_copied_directory_are_rejected() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.start_load(0, &topics);
    load.wait_acknowledged(10, secs(30)).await;

    running_node_transfers_its_shards_and_exits_when_removed(&mut cluster).await;
    directory_of_a_removed_node_is_rejected(&mut cluster).await;
    load.wait_acknowledged(10, secs(30)).await;
    for (topic, sent) in load.stop().await {
        let mut viewer = cluster.subscriber(0, Transport::Ws, &topic, StartFrom::Start);
        SentMessage::check_log(
            &sent,
            &viewer.messages_up_to(SentMessage::last_position(&sent), secs(10)).await,
        );
    }

    old_copy_of_a_directory_is_rejected(&mut cluster).await;
    empty_directory_under_a_taken_name_is_rejected(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_removed_while_paused_exits_when_resumed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.start_stream_load(0, &topics);
    load.wait_acknowledged(10, secs(30)).await;

    cluster.node(2).pause();
    load.wait_acknowledged(5, secs(30)).await;
    // The paused node may have led the control group; the command then fails and must be repeated.
    wait_until("the node is removed", secs(20), async || {
        let output = cluster.remove(2).await;
        if output.status.success() { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    cluster.node(2).resume();

    assert_eq!(cluster.wait_exit(2).await.code(), Some(EXIT_REMOVED));
    cluster.wait_settled(2).await;
    load.wait_acknowledged(10, secs(30)).await;
    for (topic, sent) in load.stop().await {
        let mut viewer = cluster.subscriber(0, Transport::Ws, &topic, StartFrom::Start);
        SentMessage::check_log(
            &sent,
            &viewer.messages_up_to(SentMessage::last_position(&sent), secs(10)).await,
        );
    }
}

async fn running_node_transfers_its_shards_and_exits_when_removed(cluster: &mut ProcessCluster) {
    let id = cluster.node_id(0, 2).await;
    // Two nodes cannot hold the three configured replicas.
    let output = remove_node(cluster, &format!("n{id}")).await;
    output.expect_failure(&["each shard should have 3 copies", "--force"]);
    let server = format!("http://{}", cluster.ports(0).grpc);
    let drain = ["cluster", "drain", &format!("n{id}"), "--force", "--server", &server];
    cli::pushonce(drain, "").await.expect_success();
    for _ in 0..2 {
        remove_node(cluster, &format!("n{id}")).await.expect_success();
    }
    assert_eq!(cluster.wait_exit(2).await.code(), Some(EXIT_REMOVED));
    assert!(cluster.node(2).log_text().contains(&format!("n{id} was removed from the cluster")));
    cluster.wait_settled(2).await;
}

async fn directory_of_a_removed_node_is_rejected(cluster: &mut ProcessCluster) {
    cluster.restart(2);
    assert_eq!(cluster.wait_exit(2).await.code(), Some(EXIT_REMOVED));
    assert!(cluster.node(2).log_text().contains("use an empty data directory"));
}

async fn old_copy_of_a_directory_is_rejected(cluster: &mut ProcessCluster) {
    assert!(cluster.stop(1).await.success());
    let data = cluster.node(1).data_dir().to_owned();
    let copy = data.with_extension("old");
    copy_dir(&data, &copy);
    cluster.restart(1);
    cluster.wait_settled(2).await;
    assert!(cluster.stop(1).await.success());
    cluster.node(1).wipe();
    std::fs::rename(&copy, &data).expect("rename the copy");

    cluster.restart(1);

    assert_eq!(cluster.wait_exit(1).await.code(), Some(EXIT_REMOVED));
    assert!(cluster.node(1).log_text().contains("the directory it ran on last"));
}

async fn empty_directory_under_a_taken_name_is_rejected(cluster: &mut ProcessCluster) {
    cluster.node(1).wipe();
    cluster.restart(1);
    assert_eq!(cluster.wait_exit(1).await.code(), Some(1));
    assert!(cluster.node(1).log_text().contains("choose another --name"));
}

async fn remove_node(cluster: &ProcessCluster, node: &str) -> cli::CommandOutput {
    let server = format!("http://{}", cluster.ports(0).grpc);
    cli::pushonce(["cluster", "remove", node, "--server", &server], "").await
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create a directory");
    for entry in std::fs::read_dir(from).expect("list the directory") {
        let entry = entry.expect("a directory entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy the file");
        }
    }
}
