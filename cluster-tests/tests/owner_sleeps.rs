//! Set-up: three nodes, viewers of each topic on all of them by every transport, publishers at the
//! owner of one topic and at another node.
//! Fault: the owner is stopped where it stands (SIGSTOP) for three seconds, which is longer than its
//! lease and an election, while publishes wait in its sockets; then it goes on as if no time had passed.
//! Claim: it neither acknowledges nor shows anything that is not in the log of the new owner. Every
//! acknowledged message is there once, at the place that was told; none that was refused is; its own
//! viewers see the same as all others.

use std::collections::HashMap;

use pushonce_client::Failure;
use pushonce_cluster_tests::{Cluster, Sent, secs, text};
use pushonce_core::From;

/// What waits in the sleeper's sockets: several entries' worth for each of its shards.
const WAITING: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_slept_past_its_lease_says_nothing_that_is_not_so() {
    let cluster = Cluster::of(3).start().await;
    let sleeper = cluster.owner("sleep/stream").await;
    let topics = |at: &str| (0..2).map(|n| format!("sleep/{at}/{n}")).collect::<Vec<_>>();
    let (there, elsewhere) = (topics("there"), topics("elsewhere"));
    let mut viewers = HashMap::new();
    for topic in there.iter().chain(&elsewhere).map(String::as_str).chain(["sleep/stream"]) {
        viewers.insert(topic.to_owned(), cluster.viewers(topic, From::Start).await);
    }
    let mut loads = [cluster.load(sleeper, &there), cluster.load((sleeper + 1) % 3, &elsewhere)];
    for load in &mut loads {
        load.goes_on(5, secs(10)).await;
    }
    let mut stream = cluster.publisher(sleeper).stream().await.expect("a stream");
    let mut answers = Vec::new();
    for number in 0..2 * WAITING {
        if number == WAITING {
            cluster.node(sleeper).pause();
        }
        let line = format!("line {number}");
        answers.push((stream.send(text("sleep/stream", &line)).await.expect("sent"), line));
    }
    // The length of the fault; meanwhile the others have a new owner and go on.
    let asleep = tokio::time::sleep(secs(3));
    loads[1].goes_on(5, secs(15)).await;
    asleep.await;
    cluster.node(sleeper).wake();

    let mut streamed = Vec::new();
    for (answer, text) in answers {
        let gone = |_| Err(Failure::Unknown("the stream ended".to_owned()));
        streamed.push(Sent { text, outcome: answer.await.unwrap_or_else(gone) });
    }
    for load in &mut loads {
        load.goes_on(5, secs(20)).await;
    }
    let [there, elsewhere] = loads;
    let mut sent: HashMap<_, _> =
        there.end().await.into_iter().chain(elsewhere.end().await).collect();
    // So that the last one of the stream is known to everybody.
    let end = cluster.publisher(sleeper).publish(text("sleep/stream", "end")).await;
    streamed.push(Sent { text: "end".to_owned(), outcome: end });
    sent.insert("sleep/stream".to_owned(), streamed);

    for (topic, sent) in &sent {
        for viewer in viewers.get_mut(topic).expect("each has viewers") {
            Sent::check(sent, &viewer.up_to(Sent::last(sent), secs(30)).await);
        }
    }
}
