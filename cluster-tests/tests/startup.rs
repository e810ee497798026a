//! Set-up: nodes that cannot start, and nodes that restart.
//! Fault: a port in use, a directory in use, a missing log, an invalid setting; no node to join; Ctrl-C;
//! `kill -9`, also at any moment of the first start.
//! Claim: a node that cannot start reports what to change and exits with a non-zero code; Ctrl-C stops a node
//! cleanly; an interrupted first start is repeated; acknowledged messages are kept after all nodes have
//! stopped or were killed.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, ReceivedMessage, cli, http_client, secs, wait_until};
use pushonce_core::StartFrom;
use tokio::net::{TcpListener, UdpSocket};

const TOPICS: [&str; 3] = ["game/1", "game/2", "game/3"];

#[tokio::test(flavor = "multi_thread")]
async fn start_failure_reports_what_to_change() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    port_in_use_is_reported(&cluster).await;
    open_directory_is_reported(&cluster).await;
    invalid_settings_are_reported().await;
}

async fn port_in_use_is_reported(cluster: &ProcessCluster) {
    let ports = cluster.ports(1);
    for (flag, address) in [("--http", ports.http), ("--grpc", ports.grpc), ("--peer", ports.peer)]
    {
        let _held = TcpListener::bind(address).await.expect("bind");
        serve(cluster, &[]).await.expect_failure(&[&address.to_string(), flag]);
    }
    let _held = UdpSocket::bind(ports.quic).await.expect("bind");
    serve(cluster, &[]).await.expect_failure(&[&ports.quic.to_string(), "--quic"]);
}

async fn open_directory_is_reported(cluster: &ProcessCluster) {
    let data = cluster.node(0).data_dir().display().to_string();
    serve(cluster, &["--data", &data]).await.expect_failure(&[&data, "already open", "--data"]);
}

async fn invalid_settings_are_reported() {
    let dir = tempfile::tempdir().expect("create a directory");
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "name = \"a\"\nprot = 1\n").expect("write the file");
    let file = file.display().to_string();
    for (args, words) in [
        (["--config", &file], &[file.as_str(), "prot", "line 2"][..]),
        (["--config", "/nowhere/node.toml"], &["/nowhere/node.toml"]),
        (["--http", "0.0.0.0:7080"], &["--http", "0.0.0.0:7080", "--insecure"]),
        (["--join", "nowhere"], &["--join", "HOST:PORT"]),
    ] {
        for command in ["serve", "check-config"] {
            cli::pushonce([&[command], &args[..]].concat(), "").await.expect_failure(words);
        }
    }
    let output = cli::pushonce(["check-config", "--replicas", "2"], "").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    for word in ["--replicas", "1, 3 or 5"] {
        assert!(output.stderr.contains(word), "{word:?} is not in: {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn founder_without_data_does_not_create_a_second_cluster() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    cluster.kill(0);
    cluster.node(0).wipe();
    cluster.restart(0);
    assert_eq!(cluster.wait_exit(0).await.code(), Some(1));
    let log = cluster.node(0).log_text();
    let data = cluster.node(0).data_dir().display().to_string();
    for words in ["belongs to no cluster", "--join", "pushonce init", &data] {
        assert!(log.contains(words), "{words:?} is not in: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_creates_a_cluster_once() {
    let dir = tempfile::tempdir().expect("create a directory");
    let data = dir.path().join("data").display().to_string();
    let init = async || cli::pushonce(["init", "--data", &data], "").await;
    assert!(init().await.expect_success().contains(&data));
    init().await.expect_failure(&[&data, "already belongs to n1 of cluster"]);
}

/// Runs `serve` at an unused address, as a development node unless `args` contain a directory.
async fn serve(cluster: &ProcessCluster, args: &[&str]) -> cli::CommandOutput {
    let mut all = vec!["serve".to_owned()];
    all.extend(cluster.ports(1).flags());
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    if !args.contains(&"--data") {
        all.push("--dev".to_owned());
    }
    cli::pushonce(all, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_a_missing_log_does_not_start() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    cluster.kill(0);
    std::fs::remove_file(cluster.node(0).data_dir().join("raft.redb")).expect("remove the log");
    cluster.restart(0);
    assert_eq!(cluster.wait_exit(0).await.code(), Some(1));
    let log = cluster.node(0).log_text();
    assert!(log.contains("raft.redb is missing") && log.contains("as a new node"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_killed_during_its_first_start_starts_again() {
    let mut cluster = ProcessCluster::with_nodes(0).start().await;
    // The node that initialized the cluster, and one that joins it.
    for i in 0..2 {
        cluster.join("");
        for delay_ms in [1, 5, 10, 15, 20, 30, 50, 80, 120, 200] {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            cluster.kill(i);
            cluster.restart(i);
        }
        cluster.wait_settled(i + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_restart_keeps_every_message() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let mut logs = [const { Vec::new() }; 3];
    publish_to_all(&cluster, &mut logs, 0..20).await;

    for i in 0..3 {
        assert_eq!(cluster.stop(i).await.code(), Some(0), "Ctrl-C stops node {i} cleanly");
    }
    restart_all(&mut cluster, &logs).await;
    publish_to_all(&cluster, &mut logs, 20..40).await;

    for i in 0..3 {
        cluster.kill(i);
    }
    restart_all(&mut cluster, &logs).await;
    publish_to_all(&cluster, &mut logs, 40..41).await;
    assert_logs_everywhere(&cluster, &logs).await;
}

async fn publish_to_all(
    cluster: &ProcessCluster,
    logs: &mut [Vec<ReceivedMessage>; 3],
    numbers: std::ops::Range<u32>,
) {
    for (topic, log) in TOPICS.iter().zip(logs) {
        log.extend(cluster.publish_numbers(1, topic, numbers.clone()).await);
        assert!(
            log.is_sorted_by(|(one, _), (two, _)| two.follows(*one)),
            "positions are not consecutive: {log:?}"
        );
    }
}

async fn restart_all(cluster: &mut ProcessCluster, logs: &[Vec<ReceivedMessage>; 3]) {
    for i in 0..3 {
        cluster.restart(i);
    }
    cluster.wait_settled(3).await;
    assert_logs_everywhere(cluster, logs).await;
}

async fn assert_logs_everywhere(cluster: &ProcessCluster, logs: &[Vec<ReceivedMessage>; 3]) {
    for (topic, log) in TOPICS.iter().zip(logs) {
        for i in cluster.running_nodes() {
            let mut viewer = cluster.subscriber(i, Transport::Ws, topic, StartFrom::Start);
            assert_eq!(viewer.next_messages(log.len(), secs(5)).await, *log);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_waiting_to_join_is_live_not_ready_and_rejects_publishes() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    cluster.kill(0);
    let waiting_node = cluster.join("");
    let http = cluster.ports(waiting_node).http;
    wait_until("the node is live", secs(20), async || {
        match http_client::get(http, "/health/live", &[]).await?.status {
            200 => Ok(()),
            status => Err(format!("{status}")),
        }
    })
    .await;
    for probe in ["/health/ready", "/health/publish", "/health/viewers"] {
        let answer = http_client::get(http, probe, &[]).await.expect("a response");
        assert_eq!(answer.status, 503, "{probe}: {}", answer.body);
        assert!(answer.body.contains("waits to join"), "{probe}: {}", answer.body);
    }
    for path in ["/topics/chat/7", "/ws"] {
        let answer = http_client::post(http, path, b"goal!").await.expect("a response");
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["retry"]), (&"unavailable".into(), &true.into()));
        let preflight =
            http_client::request(http, "OPTIONS", path, &[], b"").await.expect("a response");
        assert_eq!(
            preflight.status, 204,
            "{path}: the preflight request failed: {}",
            preflight.body
        );
    }
    let answer = http_client::post(http, "/topics/chat/7", &vec![b'x'; 1 << 20]).await;
    assert_eq!(answer.expect("a response").status, 503);

    cluster.restart(0);
    cluster.wait_settled(2).await;
    wait_until("the message is published", secs(20), async || {
        match http_client::post(http, "/topics/chat/7", b"goal!").await? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(answer.body),
        }
    })
    .await;
}
