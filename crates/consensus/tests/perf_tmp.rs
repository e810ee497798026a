#![allow(clippy::unwrap_used, unused, dead_code)]
mod support;
use pushonce_consensus::GroupId;
use pushonce_core::NodeId;
use std::time::Instant;
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn perf() {
    let (nodes, _) = cluster(3, &quick()).await;
    let g = nodes[0].group.clone();
    for round in 0..3 {
        let mut times = vec![];
        for n in 0..300 {
            let t = Instant::now();
            g.propose(entry(n, 128)).await.unwrap();
            times.push(t.elapsed());
        }
        times.sort();
        eprintln!("local p50 {:?} p99 {:?}", times[150], times[297]);
    }
    let f = nodes[1].group.clone();
    let mut times = vec![];
    for n in 0..300 {
        let t = Instant::now();
        f.propose_at_leader(entry(n, 128)).await.unwrap();
        times.push(t.elapsed());
    }
    times.sort();
    eprintln!("forwarded p50 {:?} p99 {:?}", times[150], times[297]);
    // 16 groups, one in flight each
    let mut groups = vec![];
    for id in 2..18 {
        let mut r = vec![];
        for node in &nodes {
            r.push(node.engine.start(GroupId(id), Sum::default()).await.unwrap());
        }
        r[0].initialize().await.unwrap();
        r[0].status().wait_for(|s| s.leads).await.unwrap();
        for n in [2, 3] {
            r[0].add_learner(NodeId(n)).await.unwrap();
        }
        r[0].change_voters(ids(&[1, 2, 3])).await.unwrap();
        groups.push(r);
    }
    let t = Instant::now();
    let work = groups.iter().map(|r| {
        let g = r[0].clone();
        tokio::spawn(async move {
            for n in 0..200 {
                g.propose(entry(n, 1000)).await.unwrap();
            }
        })
    });
    for w in futures::future::join_all(work).await {
        w.unwrap();
    }
    eprintln!("16 groups x 200: {:?} = {:.0}/s", t.elapsed(), 3200.0 / t.elapsed().as_secs_f64());
    let t = Instant::now();
    let work = (0..64).map(|_| {
        let g = groups[0][0].clone();
        tokio::spawn(async move {
            for n in 0..50 {
                g.propose(entry(n, 1000)).await.unwrap();
            }
        })
    });
    for w in futures::future::join_all(work).await {
        w.unwrap();
    }
    eprintln!(
        "1 group, 64 in flight x 50: {:?} = {:.0}/s",
        t.elapsed(),
        3200.0 / t.elapsed().as_secs_f64()
    );
    let t = Instant::now();
    let big = 4 << 20;
    for n in 0..10 {
        g.propose(entry(n, big)).await.unwrap();
    }
    eprintln!("4 MiB entries: {:?} each", t.elapsed() / 10);
    let cpu = |p: &str| {
        std::fs::read_to_string("/proc/self/stat")
            .unwrap()
            .split(' ')
            .skip(13)
            .take(2)
            .map(|x| x.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let a = cpu("");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let b = cpu("");
    eprintln!("idle: {:.1} % of a core for 3 nodes x 17 groups", (b - a) as f64 / 3.0);
}
