//! Lanes on threads of their own, while messages come from another: no wake is missed, and nobody
//! sees anything out of order.

mod stage;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{Position, StartFrom, SubscribeOptions, Topic};
use pushonce_fanout::{Hub, hub};
use stage::{JSON, Owner, Viewer, play};
use tokio_util::sync::CancellationToken;

const LANES: usize = 2;
const VIEWERS: usize = 20;
const TOPICS: usize = 3;
const MESSAGES: usize = 3_000;

/// One lane with viewers of every topic. Ends when all of them have the last message of theirs.
async fn run_lane(hub: Hub, topics: Vec<Topic>, ready: mpsc::Sender<()>) {
    let (lane, driver) = hub.new_lane();
    let end = CancellationToken::new();
    let driver = tokio::task::spawn_local(driver.run(end.clone()));
    let mut viewers = Vec::new();
    for a in topics.iter().cycle().take(VIEWERS) {
        let viewer = Viewer::new(&lane, JSON);
        lane.subscribe(viewer.key, 7, a.clone(), StartFrom::Now, SubscribeOptions::default())
            .await
            .expect("subscribed");
        lane.start_delivery(viewer.key, a);
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
        let mut last_seen = 0;
        for frame in got {
            let words: Vec<&str> = frame.split([' ', ':']).collect();
            let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers[1], last_seen + 1, "{frame}");
            last_seen = numbers[numbers.len() - 1];
        }
    }
    end.cancel();
    driver.await.expect("the driver ends when it is told to");
}

#[test]
fn every_subscriber_on_every_lane_thread_receives_all_messages_in_order() {
    let owner = Owner::new();
    let hub = stage::hub_of(&owner, hub::Config::default());
    let topics: Vec<_> = (0..TOPICS).map(|n| topic(&format!("t/{n}"))).collect();
    let (ready, is_ready) = mpsc::channel();
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (hub, topics, ready) = (hub.clone(), topics.clone(), ready.clone());
            thread::spawn(move || {
                play(async || {
                    let lane_run = run_lane(hub, topics, ready);
                    tokio::time::timeout(Duration::from_secs(30), lane_run).await.expect("level");
                });
            })
        })
        .collect();
    let mut pending_lanes = LANES;
    while pending_lanes > 0 {
        owner.bring(&hub, usize::MAX);
        pending_lanes -= is_ready.try_iter().count();
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
