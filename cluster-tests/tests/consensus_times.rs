//! Set-up: three nodes with the consensus times of a local network, under load.
//! Fault: one node restarts with the times of a wide-area network.
//! Claim: it does not start, and reports the cluster's times and the command that changes them. That command
//! changes all nodes, in both directions, while publishes continue; a node that restarts uses the new times;
//! while a node is down or cannot write the times, the change waits for it.

use pushonce_cluster_tests::{ProcessCluster, cli, secs, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_use_the_consensus_times_of_their_cluster() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.start_load(0, &topics);
    load.wait_acknowledged(5, secs(30)).await;

    cluster.kill(2);
    cluster.restart_with(2, &["--consensus", "wan"]);
    assert_eq!(cluster.wait_exit(2).await.code(), Some(1));
    let log = cluster.node(2).log_text();
    for part in ["--consensus wan, the cluster has --consensus lan", "cluster set-times"] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }

    // Node 2 is down: no lease may become longer before that node has the new times.
    set_times(&cluster, &["lan", "--election-max", "1200ms"]).await;
    assert_eq!(lease(&cluster).await, Ok(800));
    cluster.restart(2);
    wait_until("the change is complete", secs(30), async || match lease(&cluster).await? {
        1200 => Ok(()),
        other => Err(format!("{other} ms")),
    })
    .await;
    load.wait_acknowledged(5, secs(30)).await;

    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_settled(3).await;
    // Prevents the file from being created, as a full disk does.
    let blocked_file = cluster.node(1).data_dir().join("times.new");
    std::fs::create_dir(&blocked_file).expect("create a directory");
    set_times(&cluster, &["lan"]).await;
    wait_until("the node logs that it cannot write", secs(10), async || {
        let log = cluster.node(1).log_text();
        log.contains("cannot write the consensus times").then_some(()).ok_or(log)
    })
    .await;
    assert_eq!(lease(&cluster).await, Ok(1200));
    std::fs::remove_dir(&blocked_file).expect("remove the directory");
    wait_until("the change back is complete", secs(30), async || match lease(&cluster).await? {
        800 => Ok(()),
        other => Err(format!("{other} ms")),
    })
    .await;
    load.wait_acknowledged(5, secs(30)).await;
    load.stop().await;
}

async fn set_times(cluster: &ProcessCluster, times: &[&str]) {
    let server = format!("http://{}", cluster.ports(0).grpc);
    let args = ["cluster", "set-times", "--server", &server];
    cli::pushonce(args.iter().chain(times), "").await.expect_success();
}

/// The duration of leases in force, in milliseconds.
async fn lease(cluster: &ProcessCluster) -> Result<u32, String> {
    let times = cluster.status(0).await?.times.ok_or("no times")?;
    Ok(times.current.ok_or("no times in force")?.election_max)
}
