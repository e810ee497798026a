//! Set-up: three nodes under load through all of them, with many viewers.
//! Fault: each node gets SIGTERM and is started again, one after the other.
//! Claim: no publish is refused or lost, and next to none is of unknown outcome; a node that stops says at once that it is
//! not ready, the others stay ready; its viewers leave one by one over its grace time, not all at once,
//! and miss nothing.

use std::time::Duration;

use pushonce_client::{Event, Failure, Transport};
use pushonce_cluster_tests::{Cluster, Sent, Viewer, secs, until, web};
use pushonce_core::From;
use tokio::task::JoinSet;
use tokio::time::Instant;

const FLAGS: [&str; 4] = ["--shutdown-delay", "300ms", "--shutdown-grace", "3s"];

/// Four fifths of the grace time.
const SPREAD: Duration = Duration::from_millis(2_400);

const VIEWERS: usize = 40;

/// Publishes, of some thousands, whose answer may be lost with the connection to a node that stops. A run
/// beside another suite lost one. The aim is none.
const UNKNOWN_MAX: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restart_refuses_no_publish_and_spreads_its_viewers() {
    let mut cluster = Cluster::of(0).start().await;
    // Elections of several seconds: whoever does not hand over is noticed, and a busy machine is not.
    cluster.join_with("", &[&FLAGS[..], &["--consensus", "wan"]].concat());
    for _ in 1..3 {
        cluster.join_with("", &FLAGS);
    }
    cluster.settled(3).await;
    let topics = |at: usize| (0..3).map(|n| format!("at{at}/{n}")).collect::<Vec<_>>();
    let mut loads: Vec<_> = (0..3).map(|at| cluster.load(at, &topics(at))).collect();
    for load in &mut loads {
        load.goes_on(5, secs(10)).await;
    }

    for node in 0..3 {
        let mut viewers = JoinSet::new();
        for _ in 0..VIEWERS {
            let mut viewer = cluster.viewer(node, Transport::Ws, "at0/0", From::Now);
            viewer.live(secs(10)).await;
            viewers.spawn(departure(viewer));
        }
        restart(&mut cluster, node).await;
        let mut departures = viewers.join_all().await;
        departures.sort_unstable();
        spread(&departures);
        back(&cluster, node).await;
    }

    for load in &mut loads {
        load.goes_on(5, secs(10)).await;
    }
    let mut unknown = 0;
    for load in loads {
        for (topic, sent) in load.end().await {
            let refused = |sent: &&Sent| matches!(sent.outcome, Err(Failure::Refused { .. }));
            let refused: Vec<_> = sent.iter().filter(refused).collect();
            assert!(refused.is_empty(), "{topic}: {refused:?}");
            unknown += sent.iter().filter(|sent| sent.outcome.is_err()).count();
            let mut late = cluster.viewer(0, Transport::Ws, &topic, From::Start);
            Sent::check(&sent, &late.up_to(Sent::last(&sent), secs(10)).await);
        }
    }
    assert!(unknown <= UNKNOWN_MAX, "{unknown} publishes have an unknown outcome");
}

/// When the viewer lost its session. It must not miss anything on its way to another node.
async fn departure(mut viewer: Viewer) -> Instant {
    let gone = loop {
        match viewer.next(secs(30)).await {
            Event::Disconnected { .. } => break Instant::now(),
            Event::Gap { gap, .. } => panic!("a gap: {gap}"),
            _ => {}
        }
    };
    viewer.messages(1, secs(20)).await;
    gone
}

async fn restart(cluster: &mut Cluster, node: usize) {
    cluster.node(node).terminate();
    let told = Instant::now();
    let http = cluster.node(node).ports.http;
    until("a node that stops is not ready", secs(5), async || {
        match web::get(http, "/health/ready", &[]).await {
            Ok(answer) if answer.status == 200 => Err(answer.body),
            Ok(answer) if answer.body.contains("stopping") => Ok(()),
            Ok(answer) => Err(answer.body),
            Err(why) => Err(why),
        }
    })
    .await;
    assert!(told.elapsed() < secs(1), "{:?}", told.elapsed());
    while cluster.node_mut(node).runs() && !cluster.node_mut(node).has_ended() {
        others_are_ready(cluster, node).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(told.elapsed() < secs(20), "it does not end");
    }
    cluster.restart(node);
}

/// Waits until the node is ready and leads its shards again. The other nodes stay ready: no shard loses its
/// leader while leadership returns to the node.
async fn back(cluster: &Cluster, node: usize) {
    let is_back = async {
        until("the node is ready again", secs(20), async || ready(cluster, node).await).await;
        cluster.settled(3).await;
    };
    let others_stay = async {
        loop {
            others_are_ready(cluster, node).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = is_back => {}
        () = others_stay => {}
    }
}

async fn others_are_ready(cluster: &Cluster, node: usize) {
    for other in (0..3).filter(|&other| other != node) {
        ready(cluster, other).await.expect("the others stay ready");
    }
}

async fn ready(cluster: &Cluster, node: usize) -> Result<(), String> {
    let answer = web::get(cluster.ports(node).http, "/health/ready", &[]).await?;
    if answer.status == 200 { Ok(()) } else { Err(format!("node {node}: {}", answer.body)) }
}

/// The sessions of a node end at an even rate: in no quarter of the time more than half of them.
fn spread(departures: &[Instant]) {
    let (first, last) = (departures[0], departures[departures.len() - 1]);
    assert!(last - first >= SPREAD / 2, "all left within {:?}", last - first);
    for &begin in departures {
        let end = begin + SPREAD / 4;
        let count = departures.iter().filter(|&&at| at >= begin && at < end).count();
        assert!(count <= VIEWERS / 2, "{count} of {VIEWERS} left within {:?}", SPREAD / 4);
    }
}
