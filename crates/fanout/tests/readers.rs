//! Topic readers and snapshots: subscriptions of gRPC and HTTP, without a session.

mod support;

use std::slice;
use std::time::Duration;

use pushonce_core::test_util::topic;
use pushonce_core::{
    FetchError, Gap, GapReason, Position, StartFrom, SubscribeOptions, TopicEvent,
};
use pushonce_fanout::hub;
use support::{JSON, TestHub, at, run_local};

#[test]
fn topic_reader_receives_messages_and_gaps_and_unwatches_when_dropped() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 4).await;
        test_hub.owner.expire(&a, 2);
        let reader = test_hub.hub.open_reader(
            a.clone(),
            StartFrom::Position(at(1, 1)),
            SubscribeOptions::default(),
        );
        let (reader, ()) = futures::join!(reader, test_hub.run_until_idle());
        let mut reader = reader.expect("a reader");
        assert!(!reader.ack().recovered);
        let gap = Gap { from: at(1, 2), to: at(1, 2), reason: GapReason::Expired };
        assert_eq!(reader.next().await, TopicEvent::Gap(gap));
        for offset in 3..=4 {
            assert!(
                matches!(reader.next().await, TopicEvent::Message(m) if m.position == at(1, offset))
            );
        }
        let (next, ()) = futures::join!(reader.next(), test_hub.publish(&a, 1));
        assert!(matches!(next, TopicEvent::Message(m) if m.position == at(1, 5)));
        test_hub.owner.start_new_epoch(&a, 3);
        test_hub.run_until_idle().await;
        let gap = Gap { from: at(1, 6), to: at(2, 3), reason: GapReason::Epoch };
        assert_eq!(reader.next().await, TopicEvent::Gap(gap));
        drop(reader);
        assert!(test_hub.owner.watched().is_empty());
    });
}

#[test]
fn snapshot_is_served_from_the_ring_if_it_holds_the_messages() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        assert_eq!(test_hub.hub.latest(&a, 1).await.map(|page| page.head), Ok(Position::ZERO));
        let first = test_hub.owner.publish(&a);
        let fresh = test_hub.hub.latest(&a, 1).await.map(|page| page.head);
        assert_eq!(fresh, Ok(first), "a reply is not cached");
        let session = test_hub.new_session(JSON);
        session.subscribe(&test_hub, &a, StartFrom::Now).await.expect("subscribed");
        test_hub.publish(&a, 3).await;
        let page = test_hub.hub.latest(&a, 2).await.expect("a page");
        assert_eq!((page.messages.len(), page.head), (2, at(1, 4)));
        let fetched = test_hub.owner.fetch_count();
        for _ in 0..10 {
            test_hub.hub.latest(&a, 2).await.expect("a page");
        }
        assert_eq!(test_hub.owner.fetch_count(), fetched, "the ring has the messages");
    });
}

#[test]
fn topic_that_is_read_often_is_watched_until_nobody_reads_it() {
    run_local(async || {
        tokio::time::pause();
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 20).await;
        for _ in 0..2 {
            test_hub.hub.latest(&a, 1).await.expect("a page");
        }
        test_hub.run_until_idle().await;
        assert_eq!(test_hub.owner.watched(), slice::from_ref(&a));
        // The first read after that fills the ring.
        test_hub.hub.latest(&a, 1).await.expect("a page");
        let fetched = test_hub.owner.fetch_count();
        for _ in 0..1_000 {
            let page = test_hub.hub.latest(&a, 1).await.expect("a page");
            assert_eq!(page.head, at(1, 20));
        }
        assert_eq!(test_hub.owner.fetch_count(), fetched, "every read is answered from the ring");
        test_hub.publish(&a, 1).await;
        let page = test_hub.hub.latest(&a, 1).await.expect("a page");
        assert_eq!((page.head, page.messages.len()), (at(1, 21), 1), "the newest message");
        tokio::time::advance(Duration::from_secs(9)).await;
        test_hub.hub.latest(&a, 1).await.expect("a page");
        tokio::time::advance(Duration::from_secs(9)).await;
        test_hub.run_until_idle().await;
        assert_eq!(test_hub.owner.watched(), slice::from_ref(&a), "it was read nine seconds ago");
        tokio::time::advance(Duration::from_secs(2)).await;
        test_hub.run_until_idle().await;
        assert!(test_hub.owner.watched().is_empty());
    });
}

#[test]
fn topic_that_is_read_once_a_minute_is_not_watched() {
    run_local(async || {
        tokio::time::pause();
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        for _ in 0..3 {
            test_hub.hub.latest(&a, 1).await.expect("a page");
            test_hub.run_until_idle().await;
            assert!(test_hub.owner.watched().is_empty());
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    });
}

#[test]
fn page_after_a_position_is_the_same_from_the_owner_and_from_the_ring() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 10).await;
        let mut pages = Vec::new();
        for _ in 0..5 {
            let page = test_hub.hub.after(&a, at(1, 3), 4).await.expect("a page");
            pages.push(page.messages.iter().map(|m| m.position.offset.0).collect::<Vec<_>>());
            test_hub.run_until_idle().await;
        }
        assert!(pages.iter().all(|page| *page == [4, 5, 6, 7]), "{pages:?}");
        assert_eq!(test_hub.owner.watched(), slice::from_ref(&a));
        let fetched = test_hub.owner.fetch_count();
        let empty = test_hub.hub.after(&a, at(1, 10), 4).await.expect("a page");
        assert_eq!((empty.messages.len(), empty.gap), (0, None));
        test_hub.hub.after(&a, at(1, 3), 4).await.expect("a page");
        assert_eq!(test_hub.owner.fetch_count(), fetched, "the ring has the page");
        let error = test_hub.hub.after(&a, at(1, 11), 4).await;
        assert!(matches!(error, Err(FetchError::FuturePosition { .. })), "{error:?}");
    });
}

#[test]
fn page_after_a_position_that_history_no_longer_has_reports_the_gap() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 10).await;
        test_hub.owner.expire(&a, 2);
        let page = test_hub.hub.after(&a, at(1, 3), 100).await.expect("a page");
        let gap = Gap { from: at(1, 4), to: at(1, 8), reason: GapReason::Expired };
        assert_eq!(page.gap, Some(gap));
        assert_eq!(page.messages.first().map(|m| m.position), Some(at(1, 9)));
    });
}

#[test]
fn concurrent_reads_of_one_range_share_one_request_to_the_owner() {
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        test_hub.publish(&a, 10).await;
        test_hub.owner.hold_replies();
        let reads = (0..500).map(|_| test_hub.hub.after(&a, at(1, 3), 4));
        let release = async {
            test_hub.run_until_idle().await;
            let fetched = test_hub.owner.fetch_count();
            assert!(fetched <= 2, "{fetched}: one for the readers, one to watch the topic");
            test_hub.owner.release_replies(1_000);
            test_hub.run_until_idle().await;
        };
        let (pages, ()) = futures::join!(futures::future::join_all(reads), release);
        assert!(pages.iter().all(|page| page.as_ref().is_ok_and(|page| page.messages.len() == 4)));
    });
}

#[test]
fn readers_and_snapshots_are_send() {
    fn assert_send<T: Send>(_: &T) {}
    run_local(async || {
        let (test_hub, a) = (TestHub::new(hub::Config::default()), topic("a"));
        assert_send(&test_hub.hub.latest(&a, 1));
        let reader = test_hub.hub.open_reader(a, StartFrom::Now, SubscribeOptions::default());
        assert_send(&reader);
        let (reader, ()) = futures::join!(reader, test_hub.run_until_idle());
        assert_send(&reader.expect("a reader").next());
    });
}
