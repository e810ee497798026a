//! Set-up: three nodes with a limit of 256 descriptors each, a publisher and subscribers at one of them.
//! Fault: more idle connections to every port of that node than it has descriptors; each closed one is
//! reopened.
//! Claim: health checks and metrics are answered, the links to the other nodes stay up, messages are
//! delivered, no thread spins, and the log stays short; when the connections end, new clients are served
//! again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_client::Transport;
use pushonce_cluster_tests::{
    ClusterNode, LimitedDescriptors, ProcessCluster, http_client, load, secs, text_message,
    wait_until,
};
use pushonce_core::StartFrom;

const DESCRIPTORS_MAX: u32 = 256;

/// Connections to each port.
const CONNECTIONS_PER_PORT: usize = 120;

/// Enough topics that every node owns some.
const TOPICS: u32 = 8;

/// The CPU time of the process so far.
fn cpu_time(node: &ClusterNode) -> Duration {
    let pid = node.pid().expect("the node runs").as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the node runs");
    // After the name, which may contain spaces: utime and stime are fields 14 and 15 of the line.
    let fields: Vec<_> = stat.rsplit(") ").next().expect("a name").split(' ').collect();
    let ticks: u64 =
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

async fn response_time(port: SocketAddr, path: &str) -> Result<Duration, String> {
    let start = Instant::now();
    match http_client::get(port, path, &[]).await?.status {
        200 => Ok(start.elapsed()),
        status => Err(format!("{path}: {status}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_out_of_descriptors_answers_probes_keeps_its_links_and_recovers() {
    let cluster = ProcessCluster::with_nodes(3)
        .in_environment(Arc::new(LimitedDescriptors::new(DESCRIPTORS_MAX)))
        .start()
        .await;
    let ports = cluster.ports(0);
    let publisher = cluster.publisher(0);
    let mut viewers = Vec::new();
    for topic in 0..TOPICS {
        let topic = format!("flood/{topic}");
        let mut viewer = cluster.subscriber(0, Transport::Ws, &topic, StartFrom::Now);
        viewer.wait_subscribed(secs(20)).await;
        viewers.push((topic, viewer));
    }
    let connections = load::open_idle_connections(ports, CONNECTIONS_PER_PORT);
    wait_until("connections are rejected for lack of descriptors", secs(30), async || {
        let page = http_client::get(ports.http, "/metrics", &[]).await?;
        let no_rejections = "connections_rejected_total{reason=\"descriptors\"} 0";
        let has_rejections =
            page.body.contains("reason=\"descriptors\"") && !page.body.contains(no_rejections);
        has_rejections.then_some(()).ok_or_else(|| "no connection was rejected".to_owned())
    })
    .await;

    let (cpu_before, start) = (cpu_time(cluster.node(0)), Instant::now());
    for round in 0..5 {
        for path in ["/health/live", "/metrics"] {
            // A connection that arrives in a burst may be the one that is closed to free a descriptor.
            wait_until(path, secs(5), async || response_time(ports.http, path).await).await;
        }
        for (topic, viewer) in &mut viewers {
            let line = format!("{round}");
            publisher.publish(text_message(topic, &line)).await.expect("acknowledged");
            assert_eq!(viewer.next_message(secs(20)).await.1, line, "{topic}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let cpu_used = cpu_time(cluster.node(0)) - cpu_before;
    assert!(cpu_used < start.elapsed() / 2, "{cpu_used:?} of CPU in {:?}", start.elapsed());
    for i in [1, 2] {
        let status = cluster.status(i).await.expect("the other nodes answer");
        assert!(status.members.iter().all(|member| member.state == "active"), "{status:?}");
    }
    let log = cluster.node(0).log_text();
    let descriptor_lines =
        log.lines().filter(|line| line.contains("descriptor") || line.contains("open files"));
    let (descriptor_line_count, line_count_max) =
        (descriptor_lines.count() as u64, start.elapsed().as_secs() + 60);
    assert!(
        descriptor_line_count <= line_count_max,
        "{descriptor_line_count} lines in {line_count_max} s"
    );

    drop(connections);
    wait_until("new clients are served", secs(30), async || {
        let answer = http_client::post(ports.http, "/topics/flood/0", b"after").await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let mut viewer = cluster.subscriber(0, Transport::Ws, "flood/0", StartFrom::Last(1));
    // Another message may have been the newest when the subscription started.
    while viewer.next_message(secs(20)).await.1 != "after" {}
}
