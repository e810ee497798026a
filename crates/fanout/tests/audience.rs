//! Who watches is counted, and who asked is told how many do.

mod stage;

use pushonce_core::{StartFrom, SubscribeOptions, SubscriberCount, Topic};
use pushonce_fanout::hub;
use stage::{JSON, PROTO, Stage, Viewer, play, topic};

async fn subscribe(stage: &Stage, viewer: &Viewer, topic: &Topic, wants_audience: bool) {
    let options =
        SubscribeOptions { report_audience: wants_audience, ..SubscribeOptions::default() };
    viewer.subscribe_with(stage, topic, StartFrom::Now, options).await.expect("subscribed");
}

fn changed_counts(stage: &Stage) -> Vec<(String, u64, bool)> {
    let mut counts: Vec<_> = stage
        .hub
        .take_changed_counts(usize::MAX)
        .into_iter()
        .map(|(topic, SubscriberCount { sessions, wants_audience: asks })| {
            (topic.to_string(), sessions, asks)
        })
        .collect();
    counts.sort_unstable();
    counts
}

#[test]
fn sessions_and_readers_are_counted_by_topic_and_only_changes_are_returned() {
    play(async || {
        let (stage, a, b) = (Stage::new(hub::Config::default()), topic("a"), topic("b"));
        let viewers = [stage.viewer(JSON), stage.viewer(PROTO)];
        for viewer in &viewers {
            subscribe(&stage, viewer, &a, false).await;
        }
        subscribe(&stage, &viewers[0], &b, true).await;
        let reader = stage
            .hub
            .open_reader(b.clone(), StartFrom::Now, SubscribeOptions::default())
            .await
            .expect("it is live");
        assert_eq!(changed_counts(&stage), [("a".to_owned(), 2, false), ("b".to_owned(), 2, true)]);
        assert_eq!(changed_counts(&stage), []);
        stage.lane.close_session(viewers[0].key);
        drop(reader);
        assert_eq!(
            changed_counts(&stage),
            [("a".to_owned(), 1, false), ("b".to_owned(), 0, false)]
        );
        assert!(stage.lane.unsubscribe(viewers[1].key, &a).is_some());
        assert_eq!(changed_counts(&stage), [("a".to_owned(), 0, false)]);
    });
}

#[test]
fn changed_counts_beyond_the_limit_are_returned_by_the_next_call() {
    play(async || {
        let stage = Stage::new(hub::Config::default());
        let viewer = stage.viewer(JSON);
        for name in ["a", "b", "c"] {
            subscribe(&stage, &viewer, &topic(name), false).await;
        }
        assert_eq!(stage.hub.take_changed_counts(2).len(), 2);
        assert_eq!(stage.hub.take_changed_counts(2).len(), 1);
        assert_eq!(stage.hub.take_changed_counts(2).len(), 0);
    });
}

#[test]
fn audience_frame_is_shared_and_sent_once_per_change_only_to_requesting_sessions() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [stage.viewer(JSON), stage.viewer(JSON), stage.viewer(JSON)];
        for (viewer, wants_audience) in viewers.iter().zip([true, true, false]) {
            subscribe(&stage, viewer, &a, wants_audience).await;
        }
        stage.hub.take_changed_counts(usize::MAX);
        for sessions in [3, 3, 41_877] {
            stage.hub.set_audience(&a, sessions);
            stage.settle().await;
        }
        let bytes = |v: usize| viewers[v].socket.borrow().frames[0].as_ptr();
        assert_eq!(bytes(0), bytes(1));
        for viewer in &viewers[..2] {
            assert_eq!(viewer.got(), ["a audience 3", "a audience 41877"]);
        }
        assert_eq!(viewers[2].got(), [""; 0]);
    });
}

#[test]
fn slow_session_receives_only_the_newest_audience_after_its_messages() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        subscribe(&stage, &viewer, &a, true).await;
        stage.hub.take_changed_counts(usize::MAX);
        viewer.socket.borrow_mut().room = 1;
        stage.publish(&a, 2).await;
        for sessions in [5, 6, 7] {
            stage.hub.set_audience(&a, sessions);
            stage.settle().await;
        }
        viewer.go_on(10);
        stage.settle().await;
        assert_eq!(viewer.got(), ["a 1:1", "a 1:2", "a audience 7"]);
    });
}

#[test]
fn outdated_audience_is_not_sent_to_a_later_requesting_session() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [stage.viewer(JSON), stage.viewer(JSON), stage.viewer(JSON)];
        subscribe(&stage, &viewers[0], &a, false).await;
        subscribe(&stage, &viewers[1], &a, true).await;
        stage.hub.take_changed_counts(usize::MAX);
        stage.hub.set_audience(&a, 9);
        stage.settle().await;
        stage.lane.close_session(viewers[1].key);
        stage.hub.take_changed_counts(usize::MAX);
        subscribe(&stage, &viewers[2], &a, true).await;
        assert_eq!(viewers[2].got(), [""; 0]);
        assert_eq!(changed_counts(&stage), [("a".to_owned(), 2, true)]);
    });
}
