//! Set-up: three nodes, subscribers of each topic on all of them by every transport, publishers at the owner
//! of one topic and at another node.
//! Fault: the owner is paused (SIGSTOP) for three seconds, longer than its lease and an election, while
//! publishes wait in its sockets; then it resumes as if no time had passed.
//! Claim: it neither acknowledges nor delivers anything that is not in the log of the new owner. Every
//! acknowledged message is there once, at its acknowledged position, and no rejected one is; its own
//! subscribers receive the same as all others.

use std::collections::HashMap;

use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs, text_message};
use pushonce_core::StartFrom;

/// The number of publishes that wait in the paused owner's sockets: several log entries for each of its
/// shards.
const QUEUED_PUBLISHES: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn owner_paused_past_its_lease_neither_acknowledges_nor_delivers_stale_data() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let paused_owner = cluster.owner_of("sleep/stream").await;
    let topics =
        |location: &str| (0..2).map(|n| format!("sleep/{location}/{n}")).collect::<Vec<_>>();
    let (owner_topics, other_topics) = (topics("there"), topics("elsewhere"));
    let mut viewers = HashMap::new();
    for topic in
        owner_topics.iter().chain(&other_topics).map(String::as_str).chain(["sleep/stream"])
    {
        viewers.insert(topic.to_owned(), cluster.subscribers(topic, StartFrom::Start).await);
    }
    let mut loads = [
        cluster.start_load(paused_owner, &owner_topics),
        cluster.start_load((paused_owner + 1) % 3, &other_topics),
    ];
    for load in &mut loads {
        load.wait_acknowledged(5, secs(30)).await;
    }
    let mut stream = cluster.publisher(paused_owner).stream().await.expect("open a stream");
    let mut answers = Vec::new();
    for number in 0..2 * QUEUED_PUBLISHES {
        if number == QUEUED_PUBLISHES {
            cluster.node(paused_owner).pause();
        }
        let line = format!("line {number}");
        answers.push((stream.send(text_message("sleep/stream", &line)).await.expect("send"), line));
    }
    // The duration of the fault; meanwhile the other nodes elect a new owner and continue.
    let pause = tokio::time::sleep(secs(3));
    loads[1].wait_acknowledged(5, secs(30)).await;
    pause.await;
    cluster.node(paused_owner).resume();

    let mut streamed = Vec::new();
    for (answer, text) in answers {
        streamed.push(SentMessage { text, outcome: answer.await });
    }
    for load in &mut loads {
        load.wait_acknowledged(5, secs(30)).await;
    }
    let [owner_load, other_load] = loads;
    let mut sent: HashMap<_, _> =
        owner_load.stop().await.into_iter().chain(other_load.stop().await).collect();
    // Ensures that every node knows the last message of the stream.
    let last_outcome =
        cluster.publisher(paused_owner).publish(text_message("sleep/stream", "end")).await;
    streamed.push(SentMessage { text: "end".to_owned(), outcome: last_outcome });
    sent.insert("sleep/stream".to_owned(), streamed);

    for (topic, sent) in &sent {
        for viewer in viewers.get_mut(topic).expect("each topic has subscribers") {
            SentMessage::check_log(
                sent,
                &viewer.messages_up_to(SentMessage::last_position(sent), secs(30)).await,
            );
        }
    }
}
