//! Set-up: three nodes that may have 256 descriptors each, a publisher and a viewer at one of them.
//! Fault: idle connections come to every port of that node, more than it has descriptors, and each that
//! is closed comes again.
//! Claim: health checks and metrics are answered, the links to the other nodes stay, what is published
//! is delivered, no thread spins, the log stays short; and when the connections go, new clients are
//! served again.

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

/// Connections that come to each port.
const CONNECTIONS_PER_PORT: usize = 120;

/// Topics enough that every node owns some.
const TOPICS: u32 = 8;

/// CPU time of the process so far.
fn cpu_time(node: &ClusterNode) -> Duration {
    let pid = node.pid().expect("it runs").as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // Behind the name, which may have spaces: utime and stime are the 14th and 15th of the line.
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
    wait_until("clients are turned away for want of descriptors", secs(30), async || {
        let page = http_client::get(ports.http, "/metrics", &[]).await?;
        let no_rejections = "connections_rejected_total{reason=\"descriptors\"} 0";
        let has_rejections =
            page.body.contains("reason=\"descriptors\"") && !page.body.contains(no_rejections);
        has_rejections.then_some(()).ok_or_else(|| "none was".to_owned())
    })
    .await;

    let (cpu_before, start) = (cpu_time(cluster.node(0)), Instant::now());
    for round in 0..5 {
        for path in ["/health/live", "/metrics"] {
            // A connection that comes in a burst of others may be the one that makes room.
            wait_until(path, secs(5), async || response_time(ports.http, path).await).await;
        }
        for (topic, viewer) in &mut viewers {
            let line = format!("{round}");
            publisher.publish(text_message(topic, &line)).await.expect("placed");
            assert_eq!(viewer.next_message(secs(20)).await.1, line, "{topic}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let cpu_used = cpu_time(cluster.node(0)) - cpu_before;
    assert!(cpu_used < start.elapsed() / 2, "{cpu_used:?} of CPU in {:?}", start.elapsed());
    for i in [1, 2] {
        let status = cluster.status(i).await.expect("the others are not flooded");
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
    // Another one may have been the newest a moment ago.
    while viewer.next_message(secs(20)).await.1 != "after" {}
}
