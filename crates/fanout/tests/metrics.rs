//! Set-up: a hub with one lane and a recorder of its own. Expected: each metric has the value that a reader of
//! the dashboard would compute by hand.

mod support;

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{CommitAge, Message, StartFrom, SubscribeOptions};
use pushonce_fanout::hub;
use pushonce_telemetry::test_util::TestRecorder;
use support::{JSON, PROTO, TestHub, at, run_local};

const DELIVERY: &str = "pushonce_fanout_delivery_seconds";
const DELIVERY_LAG: &str = "pushonce_fanout_delivery_lag_seconds";

#[test]
fn delivery_lag_is_observed_once_per_walk_from_the_commit_of_the_oldest_message() {
    run_local(async || {
        let recorder = TestRecorder::default();
        let (test_hub, a) = (recorder.run(|| TestHub::new(hub::Config::default())), topic("a"));
        let sessions = [test_hub.new_session(JSON), test_hub.new_session(JSON)];
        for session in &sessions {
            session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        }
        test_hub.publish(&a, 1).await;
        let lags = |owner| recorder.observations(DELIVERY_LAG, &[owner]);
        assert_eq!(recorder.observations(DELIVERY, &[]).len(), 1, "one for both sessions");
        assert!(lags("local").is_empty() && lags("remote").is_empty(), "the age is unknown");

        let newest = test_hub.hub.latest(&a, 1).await.expect("a page").messages.remove(0);
        let deliver = |offset, seconds, is_local| {
            let message = Message { position: at(1, offset), ..(*newest).clone() };
            let age = CommitAge { elapsed: Duration::from_secs(seconds), is_local };
            test_hub.hub.deliver(&a, &[Arc::new(message)], Some(age));
        };
        deliver(2, 20, false);
        deliver(3, 10, false);
        test_hub.run_until_idle().await;
        deliver(4, 1, true);
        test_hub.run_until_idle().await;
        assert_eq!(recorder.observations(DELIVERY, &[]).len(), 3);
        let whole_seconds = |owner| lags(owner).iter().map(|lag| lag.floor()).collect::<Vec<_>>();
        assert_eq!((whole_seconds("remote"), whole_seconds("local")), (vec![20.0], vec![1.0]));

        test_hub.hub.mark_stale(&a);
        test_hub.run_until_idle().await;
        assert_eq!(
            recorder.observations(DELIVERY, &[]).len(),
            3,
            "a change of health is no message"
        );
    });
}

#[test]
fn subscriptions_are_counted_by_transport_until_they_end() {
    run_local(async || {
        let recorder = TestRecorder::default();
        let test_hub = recorder.run(|| TestHub::new(hub::Config::default()));
        let counts = || {
            let count = |transport| recorder.value("pushonce_fanout_subscriptions", &[transport]);
            ["websocket", "quic", "grpc"].map(count)
        };
        let (a, b) = (topic("a"), topic("b"));
        let (websocket, quic) = (test_hub.new_session(JSON), test_hub.new_session(PROTO));
        for (session, topic) in [(&websocket, &a), (&websocket, &b), (&quic, &a)] {
            session.subscribe(&test_hub, topic, StartFrom::Now).await.expect("subscribed");
        }
        let options = SubscribeOptions::default();
        let reader = test_hub.hub.open_reader(a.clone(), StartFrom::Now, options).await;
        assert_eq!(counts(), [2.0, 1.0, 1.0]);
        drop(reader);
        test_hub.lane.unsubscribe(websocket.key, &a);
        test_hub.lane.close_session(quic.key);
        assert_eq!(counts(), [1.0, 0.0, 0.0]);
    });
}
