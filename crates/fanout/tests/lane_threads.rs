//! Lanes on their own threads while messages arrive from another thread: no wake is missed, and messages
//! stay in order.

mod support;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{Position, StartFrom, SubscribeOptions, Topic};
use pushonce_fanout::{Hub, hub};
use support::{JSON, TestOwner, TestSession, run_local};
use tokio_util::sync::CancellationToken;

const LANES: usize = 2;
const SESSIONS: usize = 20;
const TOPICS: usize = 3;
const MESSAGES: usize = 3_000;

/// Runs one lane with sessions of every topic, until each session has the last message of its topic.
async fn run_lane(hub: Hub, topics: Vec<Topic>, ready: mpsc::Sender<()>) {
    let (lane, driver) = hub.new_lane();
    let end = CancellationToken::new();
    let driver = tokio::task::spawn_local(driver.run(end.clone()));
    let mut sessions = Vec::new();
    for a in topics.iter().cycle().take(SESSIONS) {
        let session = TestSession::new(&lane, JSON);
        lane.subscribe(session.key, 7, a.clone(), StartFrom::Now, SubscribeOptions::default())
            .await
            .expect("subscribed");
        lane.start_delivery(session.key, a);
        sessions.push((a, session));
    }
    ready.send(()).expect("the main thread waits");
    let last = Position::new(1, MESSAGES as u64);
    for (_, session) in &sessions {
        while lane.positions(session.key).iter().all(|(_, _, at)| *at != last) {
            tokio::task::yield_now().await;
        }
    }
    for (_, session) in sessions {
        let received = session.take_frames();
        let mut last_seen = 0;
        for frame in received {
            let words: Vec<&str> = frame.split([' ', ':']).collect();
            let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers[1], last_seen + 1, "{frame}");
            last_seen = numbers[numbers.len() - 1];
        }
    }
    end.cancel();
    driver.await.expect("the driver does not panic");
}

#[test]
fn every_subscriber_on_every_lane_thread_receives_all_messages_in_order() {
    let owner = TestOwner::new();
    let hub = support::new_hub(&owner, hub::Config::default());
    let topics: Vec<_> = (0..TOPICS).map(|n| topic(&format!("t/{n}"))).collect();
    let (ready, is_ready) = mpsc::channel();
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (hub, topics, ready) = (hub.clone(), topics.clone(), ready.clone());
            thread::spawn(move || {
                run_local(async || {
                    let lane_run = run_lane(hub, topics, ready);
                    tokio::time::timeout(Duration::from_secs(30), lane_run)
                        .await
                        .expect("all sessions are up to date");
                });
            })
        })
        .collect();
    let mut pending_lanes = LANES;
    while pending_lanes > 0 {
        owner.deliver_events(&hub, usize::MAX);
        pending_lanes -= is_ready.try_iter().count();
        thread::yield_now();
    }
    for _ in 0..MESSAGES {
        for a in &topics {
            owner.publish(a);
        }
        owner.deliver_events(&hub, usize::MAX);
    }
    for lane in lanes {
        lane.join().expect("lane threads do not panic");
    }
}
