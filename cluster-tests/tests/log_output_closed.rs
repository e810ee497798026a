//! Set-up: nodes whose log has no reader or a full disk, and commands whose output has no reader.
//! Fault: a pipe that is not read, a closed pipe, `/dev/full`; SIGHUP.
//! Claim: no node exits or stops serving because of its log, and dropped lines are counted; a command exits
//! without a panic, with 141 when its output has no reader and 1 when its output cannot be written.

use std::fs::File;
use std::process::Stdio;

use pushonce_cluster_tests::{ProcessCluster, cli, secs};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_keep_serving_when_their_log_output_is_closed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    for node in 0..3 {
        cluster.stop(node).await;
        match node {
            0 => cluster.node_mut(node).start_with_full_log(),
            _ => cluster.node_mut(node).start_with_unread_log_pipe(),
        }
        cluster.wait_settled(3).await;
    }
    for node in [1, 2] {
        cluster.node_mut(node).close_log_pipe();
    }
    cluster.node(1).hang_up();

    let mut load = cluster.start_load(1, &["game/1".to_owned()]);
    assert!(cluster.stop(0).await.success());
    load.wait_acknowledged(20, secs(30)).await;
    assert!(!cluster.node_mut(1).has_exited() && !cluster.node_mut(2).has_exited());
    let dropped_lines =
        cluster.metric_sum("pushonce_log_lines_dropped_total", &["reason=\"failed\""]).await;
    assert!(dropped_lines > 0, "the other nodes log that a node is down");
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_exit_without_panic_when_their_output_is_closed() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let server = format!("http://{}", cluster.node(0).ports.grpc);
    let status = ["cluster", "status", "--server", &server];
    let output = cli::pushonce_with_stdout(status, closed_pipe()).await;
    assert_eq!((output.status.code(), output.stderr.as_str()), (Some(141), ""));
    cli::pushonce_with_stdout(status, full_device())
        .await
        .expect_failure(&["cannot write to standard output"]);
    let publish = ["publish", "chat/7", "hello", "--server", &server];
    let output = cli::pushonce_with_stdout(publish, closed_pipe()).await;
    assert_eq!((output.status.code(), output.stderr.as_str()), (Some(141), ""));
    let ws = format!("http://{}", cluster.node(0).ports.http);
    let subscribe = ["subscribe", "chat/7", "--from", "start", "--server", &ws];
    let output = cli::pushonce_with_stdout(subscribe, closed_pipe()).await;
    assert_eq!(output.status.code(), Some(141), "{output:?}");
}

/// The writing end of a pipe without a reader.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("create a pipe");
    drop(reader);
    writer.into()
}

fn full_device() -> Stdio {
    File::options().write(true).open("/dev/full").expect("open /dev/full").into()
}
