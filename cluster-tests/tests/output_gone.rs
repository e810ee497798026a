//! Set-up: nodes whose log has no reader, or a full disk; commands whose reader has gone.
//! Fault: a pipe that nobody reads, a pipe that is closed, `/dev/full`; SIGHUP.
//! Claim: no node ends or stops serving for its log, what is dropped is counted; a command ends without
//! a panic, with 141 when its reader has gone and 1 when its output cannot be written.

use std::fs::File;
use std::process::Stdio;

use pushonce_cluster_tests::{Cluster, secs, tool};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_outlive_their_logs() {
    let mut cluster = Cluster::of(3).start().await;
    for node in 0..3 {
        cluster.stop(node).await;
        match node {
            0 => cluster.node_mut(node).start_with_full_log(),
            _ => cluster.node_mut(node).start_with_stuck_log(),
        }
        cluster.settled(3).await;
    }
    for node in [1, 2] {
        cluster.node_mut(node).close_log();
    }
    cluster.node(1).hang_up();

    let mut load = cluster.load(1, &["game/1".to_owned()]);
    assert!(cluster.stop(0).await.success());
    load.goes_on(20, secs(20)).await;
    assert!(!cluster.node_mut(1).has_ended() && !cluster.node_mut(2).has_ended());
    let dropped = cluster.counted("pushonce_log_lines_dropped_total", &["reason=\"failed\""]).await;
    assert!(dropped > 0, "the others log that a node has gone");
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_outlive_their_readers() {
    let cluster = Cluster::of(1).start().await;
    let server = format!("http://{}", cluster.node(0).ports.grpc);
    let status = ["cluster", "status", "--server", &server];
    let done = tool::pushonce_into(status, closed()).await;
    assert_eq!((done.status.code(), done.err.as_str()), (Some(141), ""));
    tool::pushonce_into(status, full()).await.failed(&["cannot write to standard output"]);
    let publish = ["publish", "chat/7", "hello", "--server", &server];
    let done = tool::pushonce_into(publish, closed()).await;
    assert_eq!((done.status.code(), done.err.as_str()), (Some(141), ""));
    let ws = format!("http://{}", cluster.node(0).ports.http);
    let subscribe = ["subscribe", "chat/7", "--from", "start", "--server", &ws];
    let done = tool::pushonce_into(subscribe, closed()).await;
    assert_eq!(done.status.code(), Some(141), "{done:?}");
}

/// The writing end of a pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("a device of Linux").into()
}
