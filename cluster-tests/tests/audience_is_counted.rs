//! Set-up: three nodes, and on each of them viewers of one topic by WebSocket, QUIC and gRPC, some of
//! whom ask how many watch.
//! Fault: viewers come and go; the topic's owner is killed, and started again.
//! Claim: within some seconds of each everybody who asks knows how many watch in the whole cluster: who
//! subscribed with `audience`, by whichever transport; who asks any node over HTTP; who types `pushonce
//! topic`.

use std::collections::BTreeMap;
use std::time::Duration;

use pushonce_client::{Event, Server, Subscriber, Transport};
use pushonce_cluster_tests::{Cluster, Viewer, secs, tool::pushonce, until, web};
use pushonce_core::{From, Options, Topic};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

const TOPIC: &str = "match/1";

/// What counts take on their way is two or three seconds; five more when an owner moves meanwhile.
const COUNTED: Duration = secs(15);

/// The same, after a viewer has found out by silence that its node is dead.
const COUNTED_AGAIN: Duration = secs(30);

/// A viewer that asks, and what it was told last.
struct Asker {
    told: watch::Receiver<u64>,
    _task: JoinSet<()>,
}

impl Asker {
    fn at(cluster: &Cluster, i: usize, transport: Transport) -> Asker {
        let mut servers: Vec<Server> = (0..3).map(|i| cluster.server(i, transport)).collect();
        servers.rotate_left(i);
        let options = Options { audience: true, ..Options::default() };
        let topic = Topic::new(TOPIC).expect("valid");
        let builder = Subscriber::builder(servers).transport(transport);
        let mut subscriber = builder
            .topic_with(topic, From::Now, options)
            .connect()
            .expect("the servers fit the transport");
        let (tell, told) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(event) = subscriber.next().await {
                if let Event::Audience { count, .. } = event {
                    tell.send_replace(count);
                }
            }
        });
        Asker { told, _task: task }
    }
}

/// Waits until all who ask know that so many watch.
async fn counted(cluster: &Cluster, askers: &[Asker], audience: u64, limit: Duration) {
    until(&format!("all know that {audience} watch"), limit, async || {
        let told: Vec<u64> = askers.iter().map(|asker| *asker.told.borrow()).collect();
        let mut pages = BTreeMap::new();
        for i in cluster.running() {
            let path = format!("/topics/{TOPIC}?audience");
            let answer = web::get(cluster.node(i).ports.http, &path, &[]).await?;
            pages.insert(i, answer.json()["audience"].as_u64());
        }
        let all = told.iter().all(|&told| told == audience)
            && pages.values().all(|&page| page == Some(audience));
        if all { Ok(()) } else { Err(format!("subscribers {told:?}, pages {pages:?}")) }
    })
    .await;
}

/// What an operator sees at the `i`th node.
async fn typed(cluster: &Cluster, i: usize, args: &[&str]) -> Value {
    let server = format!("http://{}", cluster.node(i).ports.grpc);
    let said = pushonce([&["topic", "--json", "--server", &server], args].concat(), "").await.ok();
    serde_json::from_str(&said).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_asks_knows_how_many_watch() {
    let mut cluster = Cluster::of(3).start().await;
    let transports = [Transport::Ws, Transport::Quic, Transport::Ws];
    let askers: Vec<_> = (0..).zip(transports).map(|(i, t)| Asker::at(&cluster, i, t)).collect();
    counted(&cluster, &askers, 3, COUNTED).await;

    // Nine at any node, and six that know one only.
    let mut roaming = cluster.viewers(TOPIC, From::Now).await;
    let mut bound: Vec<Vec<Viewer>> = Vec::new();
    for i in 0..3 {
        let viewers = [Transport::Ws, Transport::Quic]
            .map(|t| Viewer::of(vec![cluster.server(i, t)], t, TOPIC, From::Now));
        bound.push(viewers.into());
    }
    counted(&cluster, &askers, 18, COUNTED).await;

    let placed = cluster.publish(1, TOPIC, 0..3).await;
    let owner = cluster.owner(TOPIC).await;
    for i in 0..3 {
        let info = until(&format!("node {i} tells an operator"), COUNTED, async || {
            let info = typed(&cluster, i, &["info", TOPIC]).await;
            if info["audience"] == 18 { Ok(info) } else { Err(info.to_string()) }
        })
        .await;
        assert_eq!(info["owner"], cluster.id_of(i, owner).await);
        assert_eq!(info["position"], placed[2].0.to_string());
        assert_eq!(
            (&info["history"]["count"], &info["epoch"]),
            (&3.into(), &placed[2].0.epoch.0.into())
        );
        assert_eq!(typed(&cluster, i, &["list", "match/"]).await, info);
    }

    roaming.truncate(4);
    counted(&cluster, &askers, 13, COUNTED).await;

    cluster.kill(owner);
    counted(&cluster, &askers, 11, COUNTED_AGAIN).await;

    cluster.restart(owner);
    cluster.settled(3).await;
    counted(&cluster, &askers, 13, COUNTED_AGAIN).await;
    drop((roaming, bound));
    counted(&cluster, &askers, 3, COUNTED).await;
}
