//! Who watches is counted, and who asked is told how many do.

mod stage;

use pushonce_core::{From, Options, Topic, Watching};
use pushonce_fanout::hub;
use stage::{JSON, PROTO, Stage, Viewer, play, topic};

async fn subscribe(stage: &Stage, viewer: &Viewer, topic: &Topic, asks: bool) {
    let options = Options { audience: asks, ..Options::default() };
    viewer.subscribe_with(stage, topic, From::Now, options).await.expect("subscribed");
}

fn counted(stage: &Stage) -> Vec<(String, u64, bool)> {
    let mut counts: Vec<_> = stage
        .hub
        .watching(usize::MAX)
        .into_iter()
        .map(|(topic, Watching { sessions, asks })| (topic.to_string(), sessions, asks))
        .collect();
    counts.sort_unstable();
    counts
}

#[test]
fn sessions_and_readers_are_counted_by_topic_and_only_what_changed_is_said() {
    play(async || {
        let (stage, a, b) = (Stage::new(hub::Config::default()), topic("a"), topic("b"));
        let viewers = [stage.viewer(JSON), stage.viewer(PROTO)];
        for viewer in &viewers {
            subscribe(&stage, viewer, &a, false).await;
        }
        subscribe(&stage, &viewers[0], &b, true).await;
        let reader =
            stage.hub.reader(b.clone(), From::Now, Options::default()).await.expect("it is live");
        assert_eq!(counted(&stage), [("a".to_owned(), 2, false), ("b".to_owned(), 2, true)]);
        assert_eq!(counted(&stage), []);
        stage.lane.close(viewers[0].key);
        drop(reader);
        assert_eq!(counted(&stage), [("a".to_owned(), 1, false), ("b".to_owned(), 0, false)]);
        assert!(stage.lane.unsubscribe(viewers[1].key, &a));
        assert_eq!(counted(&stage), [("a".to_owned(), 0, false)]);
    });
}

#[test]
fn what_has_no_room_in_one_answer_is_in_the_next() {
    play(async || {
        let stage = Stage::new(hub::Config::default());
        let viewer = stage.viewer(JSON);
        for name in ["a", "b", "c"] {
            subscribe(&stage, &viewer, &topic(name), false).await;
        }
        assert_eq!(stage.hub.watching(2).len(), 2);
        assert_eq!(stage.hub.watching(2).len(), 1);
        assert_eq!(stage.hub.watching(2).len(), 0);
    });
}

#[test]
fn who_asked_is_told_each_change_once_in_the_same_bytes_and_nobody_else() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [stage.viewer(JSON), stage.viewer(JSON), stage.viewer(JSON)];
        for (viewer, asks) in viewers.iter().zip([true, true, false]) {
            subscribe(&stage, viewer, &a, asks).await;
        }
        stage.hub.watching(usize::MAX);
        for sessions in [3, 3, 41_877] {
            stage.hub.audience(&a, sessions);
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
fn a_slow_session_is_told_the_newest_number_behind_its_messages() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        subscribe(&stage, &viewer, &a, true).await;
        stage.hub.watching(usize::MAX);
        viewer.socket.borrow_mut().room = 1;
        stage.publish(&a, 2).await;
        for sessions in [5, 6, 7] {
            stage.hub.audience(&a, sessions);
            stage.settle().await;
        }
        viewer.go_on(10);
        stage.settle().await;
        assert_eq!(viewer.got(), ["a 1:1", "a 1:2", "a audience 7"]);
    });
}

#[test]
fn a_number_that_nobody_asked_for_any_more_is_not_told_to_the_next_who_asks() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [stage.viewer(JSON), stage.viewer(JSON), stage.viewer(JSON)];
        subscribe(&stage, &viewers[0], &a, false).await;
        subscribe(&stage, &viewers[1], &a, true).await;
        stage.hub.watching(usize::MAX);
        stage.hub.audience(&a, 9);
        stage.settle().await;
        stage.lane.close(viewers[1].key);
        stage.hub.watching(usize::MAX);
        subscribe(&stage, &viewers[2], &a, true).await;
        assert_eq!(viewers[2].got(), [""; 0]);
        assert_eq!(counted(&stage), [("a".to_owned(), 2, true)]);
    });
}
