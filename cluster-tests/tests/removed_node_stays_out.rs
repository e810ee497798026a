//! Set-up: three nodes under load.
//! Fault: one is removed while it lives, or while it sleeps (SIGSTOP) and hears nothing of it; its
//! directory, an old copy of another's, and a wiped one under a name that is taken come back.
//! Claim: who is removed gives away what it holds, ends by itself and says why; none of the three is
//! taken in again, each is told what to do; nothing that was published is lost meanwhile.

use std::path::Path;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, EXPELLED, Sent, secs, tool, until};
use pushonce_core::From;

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_and_who_is_a_copy_stays_out() {
    let mut cluster = Cluster::of(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.load(0, &topics);
    load.goes_on(10, secs(10)).await;

    a_living_node_gives_away_what_it_holds_and_ends(&mut cluster).await;
    its_directory_is_refused(&mut cluster).await;
    load.goes_on(10, secs(10)).await;
    for (topic, sent) in load.end().await {
        let mut viewer = cluster.viewer(0, Transport::Ws, &topic, From::Start);
        Sent::check(&sent, &viewer.up_to(Sent::last(&sent), secs(10)).await);
    }

    an_old_copy_is_refused(&mut cluster).await;
    a_wiped_directory_under_a_taken_name_is_refused(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_while_it_slept_hears_of_it_and_ends() {
    let mut cluster = Cluster::of(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.streams(0, &topics);
    load.goes_on(10, secs(10)).await;

    cluster.node(2).pause();
    load.goes_on(5, secs(15)).await;
    // The one that sleeps may have led the control group, which says so and is to be asked again.
    until("it is removed", secs(20), async || {
        let done = cluster.remove(2).await;
        if done.status.success() { Ok(()) } else { Err(done.err) }
    })
    .await;
    cluster.node(2).wake();

    assert_eq!(cluster.ended(2).await.code(), Some(EXPELLED));
    cluster.settled(2).await;
    load.goes_on(10, secs(10)).await;
    for (topic, sent) in load.end().await {
        let mut viewer = cluster.viewer(0, Transport::Ws, &topic, From::Start);
        Sent::check(&sent, &viewer.up_to(Sent::last(&sent), secs(10)).await);
    }
}

async fn a_living_node_gives_away_what_it_holds_and_ends(cluster: &mut Cluster) {
    let id = cluster.id_of(0, 2).await;
    // Two nodes cannot hold the three copies that are configured.
    let refused = remove(cluster, &format!("n{id}")).await;
    refused.failed(&["each shard should have 3 copies", "--force"]);
    let server = format!("http://{}", cluster.ports(0).grpc);
    let drain = ["cluster", "drain", &format!("n{id}"), "--force", "--server", &server];
    tool::pushonce(drain, "").await.ok();
    for _ in 0..2 {
        remove(cluster, &format!("n{id}")).await.ok();
    }
    assert_eq!(cluster.ended(2).await.code(), Some(EXPELLED));
    assert!(cluster.node(2).log().contains(&format!("n{id} was removed from the cluster")));
    cluster.settled(2).await;
}

async fn its_directory_is_refused(cluster: &mut Cluster) {
    cluster.restart(2);
    assert_eq!(cluster.ended(2).await.code(), Some(EXPELLED));
    assert!(cluster.node(2).log().contains("use an empty data directory"));
}

async fn an_old_copy_is_refused(cluster: &mut Cluster) {
    assert!(cluster.stop(1).await.success());
    let data = cluster.node(1).data().to_owned();
    let copy = data.with_extension("old");
    copy_all(&data, &copy);
    cluster.restart(1);
    cluster.settled(2).await;
    assert!(cluster.stop(1).await.success());
    cluster.node(1).wipe();
    std::fs::rename(&copy, &data).expect("the copy takes its place");

    cluster.restart(1);

    assert_eq!(cluster.ended(1).await.code(), Some(EXPELLED));
    assert!(cluster.node(1).log().contains("the directory it ran on last"));
}

async fn a_wiped_directory_under_a_taken_name_is_refused(cluster: &mut Cluster) {
    cluster.node(1).wipe();
    cluster.restart(1);
    assert_eq!(cluster.ended(1).await.code(), Some(1));
    assert!(cluster.node(1).log().contains("choose another --name"));
}

async fn remove(cluster: &Cluster, node: &str) -> tool::Done {
    let server = format!("http://{}", cluster.ports(0).grpc);
    tool::pushonce(["cluster", "remove", node, "--server", &server], "").await
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}
