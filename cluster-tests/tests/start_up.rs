//! Set-up: nodes that cannot start, and nodes that start again.
//! Fault: a port in use, a directory that is open, a log that is gone, a wrong word in the settings; nobody to join;
//! Ctrl-C; `kill -9`, also at any moment of the first start.
//! Claim: who cannot start says what to change and ends with an exit code that is not zero; Ctrl-C
//! ends a node cleanly; a first start that was cut short is begun again; and what was acknowledged is
//! there after all nodes have stopped or died.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Seen, secs, tool, until, web};
use pushonce_core::From;
use tokio::net::{TcpListener, UdpSocket};

const TOPICS: [&str; 3] = ["game/1", "game/2", "game/3"];

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_says_what_to_change() {
    let cluster = Cluster::of(1).start().await;
    a_port_in_use(&cluster).await;
    a_directory_that_is_open(&cluster).await;
    settings_that_cannot_be().await;
}

async fn a_port_in_use(cluster: &Cluster) {
    let ports = cluster.ports(1);
    for (flag, door) in [("--http", ports.http), ("--grpc", ports.grpc), ("--peer", ports.peer)] {
        let _held = TcpListener::bind(door).await.expect("free");
        serve(cluster, &[]).await.failed(&[&door.to_string(), flag]);
    }
    let _held = UdpSocket::bind(ports.quic).await.expect("free");
    serve(cluster, &[]).await.failed(&[&ports.quic.to_string(), "--quic"]);
}

async fn a_directory_that_is_open(cluster: &Cluster) {
    let data = cluster.node(0).data().display().to_string();
    serve(cluster, &["--data", &data]).await.failed(&[&data, "already open", "--data"]);
}

async fn settings_that_cannot_be() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "name = \"a\"\nprot = 1\n").expect("written");
    let file = file.display().to_string();
    for (args, words) in [
        (["--config", &file], &[file.as_str(), "prot", "line 2"][..]),
        (["--config", "/nowhere/node.toml"], &["/nowhere/node.toml"]),
        (["--http", "0.0.0.0:7080"], &["--http", "0.0.0.0:7080", "--insecure"]),
        (["--replicas", "2"], &["--replicas", "1, 3 or 5"]),
        (["--join", "nowhere"], &["--join", "HOST:PORT"]),
    ] {
        for command in ["serve", "check-config"] {
            tool::pushonce([&[command], &args[..]].concat(), "").await.failed(words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_without_its_data_does_not_create_a_second_cluster() {
    let mut cluster = Cluster::of(1).start().await;
    cluster.kill(0);
    cluster.node(0).wipe();
    cluster.restart(0);
    assert_eq!(cluster.ended(0).await.code(), Some(1));
    let log = cluster.node(0).log();
    let data = cluster.node(0).data().display().to_string();
    for words in ["belongs to no cluster", "--join", "pushonce init", &data] {
        assert!(log.contains(words), "{words:?} is not in: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_creates_a_cluster_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data").display().to_string();
    let init = async || tool::pushonce(["init", "--data", &data], "").await;
    assert!(init().await.ok().contains(&data));
    init().await.failed(&[&data, "already belongs to n1 of cluster"]);
}

/// `serve` at an address that nobody uses, as a development node unless `args` name a directory.
async fn serve(cluster: &Cluster, args: &[&str]) -> tool::Done {
    let mut all = vec!["serve".to_owned()];
    all.extend(cluster.ports(1).flags());
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    if !args.contains(&"--data") {
        all.push("--dev".to_owned());
    }
    tool::pushonce(all, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_gone_does_not_start_with_an_empty_one() {
    let mut cluster = Cluster::of(1).start().await;
    cluster.kill(0);
    std::fs::remove_file(cluster.node(0).data().join("raft.redb")).expect("it was there");
    cluster.restart(0);
    assert_eq!(cluster.ended(0).await.code(), Some(1));
    let log = cluster.node(0).log();
    assert!(log.contains("raft.redb is missing") && log.contains("as a new node"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_moment_of_its_first_start_starts_again() {
    let mut cluster = Cluster::of(0).start().await;
    // The one that makes the cluster, and one that joins it.
    for i in 0..2 {
        cluster.join("");
        for moment in [1, 5, 10, 15, 20, 30, 50, 80, 120, 200] {
            tokio::time::sleep(Duration::from_millis(moment)).await;
            cluster.kill(i);
            cluster.restart(i);
        }
        cluster.settled(i + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_comes_back_with_everything() {
    let mut cluster = Cluster::of(3).start().await;
    let mut logs = [const { Vec::new() }; 3];
    publish(&cluster, &mut logs, 0..20).await;

    for i in 0..3 {
        assert_eq!(cluster.stop(i).await.code(), Some(0), "Ctrl-C ends node {i} cleanly");
    }
    come_back(&mut cluster, &logs).await;
    publish(&cluster, &mut logs, 20..40).await;

    for i in 0..3 {
        cluster.kill(i);
    }
    come_back(&mut cluster, &logs).await;
    publish(&cluster, &mut logs, 40..41).await;
    everything_is_there(&cluster, &logs).await;
}

async fn publish(cluster: &Cluster, logs: &mut [Vec<Seen>; 3], numbers: std::ops::Range<u32>) {
    for (topic, log) in TOPICS.iter().zip(logs) {
        log.extend(cluster.publish(1, topic, numbers.clone()).await);
        assert!(log.is_sorted_by(|(one, _), (two, _)| two.follows(*one)), "it goes on: {log:?}");
    }
}

async fn come_back(cluster: &mut Cluster, logs: &[Vec<Seen>; 3]) {
    for i in 0..3 {
        cluster.restart(i);
    }
    cluster.settled(3).await;
    everything_is_there(cluster, logs).await;
}

async fn everything_is_there(cluster: &Cluster, logs: &[Vec<Seen>; 3]) {
    for (topic, log) in TOPICS.iter().zip(logs) {
        for i in cluster.running() {
            let mut viewer = cluster.viewer(i, Transport::Ws, topic, From::Start);
            assert_eq!(viewer.messages(log.len(), secs(5)).await, *log);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_waits_to_join_lives_is_not_ready_and_turns_publishers_away() {
    let mut cluster = Cluster::of(1).start().await;
    cluster.kill(0);
    let waits = cluster.join("");
    let http = cluster.ports(waits).http;
    until("it lives", secs(20), async || match web::get(http, "/health/live", &[]).await?.status {
        200 => Ok(()),
        status => Err(format!("{status}")),
    })
    .await;
    for probe in ["/health/ready", "/health/publish", "/health/viewers"] {
        let answer = web::get(http, probe, &[]).await.expect("it answers");
        assert_eq!(answer.status, 503, "{probe}: {}", answer.body);
        assert!(answer.body.contains("waits to join"), "{probe}: {}", answer.body);
    }
    for path in ["/topics/chat/7", "/ws"] {
        let answer = web::post(http, path, b"goal!").await.expect("it answers");
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["retry"]), (&"unavailable".into(), &true.into()));
        let origin = answer.header("access-control-allow-origin");
        assert_eq!(origin, Some("*"), "a page cannot read why");
        let preflight = web::request(http, "OPTIONS", path, &[], b"").await.expect("it answers");
        assert_eq!(preflight.status, 204, "{path}: a page may not even ask: {}", preflight.body);
    }
    let answer = web::post(http, "/topics/chat/7", &vec![b'x'; 1 << 20]).await;
    assert_eq!(answer.expect("an answer").status, 503);

    cluster.restart(0);
    cluster.settled(2).await;
    until("it is published", secs(20), async || {
        match web::post(http, "/topics/chat/7", b"goal!").await? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(answer.body),
        }
    })
    .await;
}
