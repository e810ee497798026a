//! Set-up: three nodes, and 300 viewers of a topic at a node that does not own it.
//! Fault: all of them are cut off in one moment; messages are published meanwhile.
//! Claim: every one of them goes on with exactly what it missed, and all together put a handful of
//! questions to the owner: their node asks once, whoever comes.

use futures::future::join_all;
use pushonce_client::{Server, Transport};
use pushonce_cluster_tests::{Cluster, Viewer, Wire, secs};
use pushonce_core::From;

const VIEWERS: usize = 300;
const TOPIC: &str = "storm/score";

/// What a node asks upstream for a topic that everybody comes back to: one page, and another where
/// messages came while the first was on its way.
const HANDFUL: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn all_who_were_cut_off_at_once_resume_and_the_owner_hardly_notices() {
    let cluster = Cluster::of(3).start().await;
    let edge = (cluster.owner(TOPIC).await + 1) % 3;
    cluster.publish(0, TOPIC, 0..3).await;
    let wire = Wire::to(cluster.ports(edge).http).await;
    let server: Server = format!("ws://{}", wire.address).parse().expect("a good address");
    let viewer = |_| Viewer::of(vec![server.clone()], Transport::Ws, TOPIC, From::Last(1));
    let mut viewers: Vec<_> = (0..VIEWERS).map(viewer).collect();
    for viewer in &mut viewers {
        viewer.messages(1, secs(10)).await;
    }
    let asked = cluster.counted("pushonce_fanout_fetches_total", &[]).await;
    assert!(asked > 0, "the edge has fetched the earlier messages from the owner");

    wire.cut();
    join_all(viewers.iter_mut().map(|viewer| viewer.disconnected(secs(10)))).await;
    let missed = cluster.publish(0, TOPIC, 3..8).await;
    wire.mend();
    for seen in join_all(viewers.iter_mut().map(|viewer| viewer.messages(5, secs(20)))).await {
        assert_eq!(seen, missed);
    }

    let asked = cluster.counted("pushonce_fanout_fetches_total", &[]).await - asked;
    // Zero if a viewer reconnects before the edge has noticed that the last one was cut off.
    assert!(asked <= HANDFUL, "{VIEWERS} viewers came back by {asked} questions");
}
