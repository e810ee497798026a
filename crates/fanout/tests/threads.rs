//! Lanes on threads of their own, while messages come from another: no wake is missed, and nobody
//! sees anything out of order.

mod stage;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pushonce_core::{From, Options, Position, Topic};
use pushonce_fanout::{Hub, hub};
use stage::{JSON, Owner, Viewer, play, topic};
use tokio_util::sync::CancellationToken;

const LANES: usize = 2;
const VIEWERS: usize = 20;
const TOPICS: usize = 3;
const MESSAGES: usize = 3_000;

/// One lane with viewers of every topic. Ends when all of them have the last message of theirs.
async fn watch(hub: Hub, topics: Vec<Topic>, ready: mpsc::Sender<()>) {
    let (lane, driver) = hub.lane();
    let end = CancellationToken::new();
    let driver = tokio::task::spawn_local(driver.run(end.clone()));
    let mut viewers = Vec::new();
    for a in topics.iter().cycle().take(VIEWERS) {
        let viewer = Viewer::new(&lane, JSON);
        lane.subscribe(viewer.key, 7, a.clone(), From::Now, Options::default())
            .await
            .expect("subscribed");
        lane.start(viewer.key, a);
        viewers.push((a, viewer));
    }
    ready.send(()).expect("somebody waits");
    let last = Position::new(1, MESSAGES as u64);
    for (_, viewer) in &viewers {
        while lane.positions(viewer.key).iter().all(|(_, _, at)| *at != last) {
            tokio::task::yield_now().await;
        }
    }
    for (_, viewer) in viewers {
        let got = viewer.got();
        let mut reached = 0;
        for frame in got {
            let words: Vec<&str> = frame.split([' ', ':']).collect();
            let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers[1], reached + 1, "{frame}");
            reached = numbers[numbers.len() - 1];
        }
    }
    end.cancel();
    driver.await.expect("the driver ends when it is told to");
}

#[test]
fn no_wake_is_missed_and_nothing_is_out_of_order() {
    let owner = Owner::new();
    let hub = stage::hub_of(&owner, hub::Config::default());
    let topics: Vec<_> = (0..TOPICS).map(|n| topic(&format!("t/{n}"))).collect();
    let (ready, is_ready) = mpsc::channel();
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (hub, topics, ready) = (hub.clone(), topics.clone(), ready.clone());
            thread::spawn(move || {
                play(async || {
                    let watching = watch(hub, topics, ready);
                    tokio::time::timeout(Duration::from_secs(30), watching).await.expect("level");
                });
            })
        })
        .collect();
    let mut waiting = LANES;
    while waiting > 0 {
        owner.bring(&hub, usize::MAX);
        waiting -= is_ready.try_iter().count();
        thread::yield_now();
    }
    for _ in 0..MESSAGES {
        for a in &topics {
            owner.publish(a);
        }
        owner.bring(&hub, usize::MAX);
    }
    for lane in lanes {
        lane.join().expect("no lane panics");
    }
}
