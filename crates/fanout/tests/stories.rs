//! What subscribers of one node meet, told one by one.

mod stage;

use std::time::Duration;

use pushonce_core::{FetchError, From, Gap, GapReason, Item, Options, Position};
use pushonce_fanout::{Standing, SubscribeError, hub};
use stage::{JSON, PROTO, Stage, at, frames, play, small_rings, topic};

#[test]
fn two_sessions_get_the_same_bytes_and_each_wire_its_own() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [stage.viewer(JSON), stage.viewer(JSON), stage.viewer(PROTO)];
        for viewer in &viewers {
            let subscribed = viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
            assert_eq!((subscribed.position, subscribed.recovered), (Position::ZERO, true));
        }
        stage.publish(&a, 3).await;
        let bytes = |v: usize| viewers[v].socket.borrow().frames[0].as_ptr();
        assert_eq!(bytes(0), bytes(1));
        assert_ne!(bytes(0), bytes(2));
        assert_eq!(viewers[0].socket.borrow().tokens, [7, 7, 7]);
        for viewer in &viewers {
            assert_eq!(viewer.got(), frames(&a, 1..=3));
        }
    });
}

#[test]
fn what_is_due_together_is_one_offer() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        let before = viewer.socket.borrow().offers;
        stage.publish(&a, 50).await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        assert_eq!(viewer.got().len(), 50);
    });
}

#[test]
fn what_several_have_due_together_is_one_piece_for_the_second_and_all_after() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers = [(); 3].map(|()| stage.viewer(JSON));
        for viewer in &viewers {
            viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        }
        stage.publish(&a, 1).await;
        stage.publish(&a, 50).await;
        let joined = viewers.each_ref().map(|viewer| viewer.socket.borrow().joined);
        assert_eq!(joined, [0, 1, 1]);
        for viewer in &viewers {
            assert_eq!(viewer.got(), frames(&a, 1..=51));
        }
    });
}

#[test]
fn a_slow_session_delays_only_itself_and_goes_on_from_its_cursor() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (slow, fast) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&slow, &fast] {
            viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        }
        slow.socket.borrow_mut().room = 2;
        stage.publish(&a, 5).await;
        assert_eq!(slow.got(), frames(&a, 1..=2));
        assert_eq!(fast.got(), frames(&a, 1..=5));
        let offers = slow.socket.borrow().offers;
        stage.publish(&a, 5).await;
        assert_eq!(slow.socket.borrow().offers, offers, "a blocked session is left alone");
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(slow.got(), frames(&a, 3..=10));
        assert_eq!(fast.got(), frames(&a, 6..=10));
    });
}

#[test]
fn who_falls_behind_the_ring_is_told_what_it_missed_once() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let slow = stage.viewer(JSON);
        slow.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        slow.socket.borrow_mut().room = 1;
        for _ in 0..9 {
            stage.publish(&a, 1).await;
        }
        assert_eq!(slow.got(), frames(&a, 1..=1));
        slow.go_on(1);
        stage.settle().await;
        let told = slow.got();
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(told, ["a gap 1:2 1:4 slow"]);
        assert_eq!(slow.got(), frames(&a, 5..=9));
    });
}

#[test]
fn a_burst_larger_than_the_ring_is_no_slowness() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        stage.publish(&a, 12).await;
        assert_eq!(viewer.got(), frames(&a, 1..=12));
    });
}

#[test]
fn a_resume_gets_exactly_the_rest_from_the_ring_or_from_upstream() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        let first = stage.viewer(JSON);
        first.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        stage.publish(&a, 3).await;
        stage.publish(&a, 7).await;
        let near = stage.viewer(JSON);
        let subscribed = near.subscribe(&stage, &a, From::Position(at(1, 7))).await;
        assert_eq!(subscribed.map(|s| (s.position, s.recovered)), Ok((at(1, 10), true)));
        assert_eq!(near.got(), frames(&a, 8..=10));
        assert_eq!(stage.owner.fetches(), 0);

        stage.publish(&a, 1).await;
        let far = stage.viewer(JSON);
        let subscribed = far.subscribe(&stage, &a, From::Position(at(1, 1))).await;
        assert_eq!(subscribed.map(|s| s.recovered), Ok(true));
        assert_eq!(far.got(), frames(&a, 2..=11));
        assert_eq!(stage.owner.fetches(), 1);
    });
}

#[test]
fn a_past_many_times_the_ring_is_had_in_full_while_messages_stream_in() {
    play(async || {
        let (stage, a) = (Stage::new(small_rings()), topic("a"));
        stage.publish(&a, 150).await;
        let viewer = stage.viewer(JSON);
        let subscribing = viewer.subscribe(&stage, &a, From::Start);
        let streaming = async {
            for _ in 0..10 {
                stage.owner.publish(&a);
                stage::yields(1).await;
            }
        };
        let (subscribed, ()) = futures::join!(subscribing, streaming);
        assert_eq!(subscribed.map(|s| s.recovered), Ok(true));
        stage.settle().await;
        assert_eq!(viewer.got(), frames(&a, 1..=160));
    });
}

#[test]
fn start_last_and_now_begin_where_they_say() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 6).await;
        let begin = async |from| {
            let viewer = stage.viewer(JSON);
            let subscribed = viewer.subscribe(&stage, &a, from).await.expect("subscribed");
            assert_eq!((subscribed.position, subscribed.recovered), (at(1, 6), true));
            viewer
        };
        let now = begin(From::Now).await;
        let last = begin(From::Last(2)).await;
        let start = begin(From::Start).await;
        let more = begin(From::Last(99)).await;
        stage.publish(&a, 1).await;
        assert_eq!(now.got(), frames(&a, 7..=7));
        assert_eq!(last.got(), frames(&a, 5..=7));
        assert_eq!(start.got(), frames(&a, 1..=7));
        assert_eq!(more.got(), frames(&a, 1..=7));
        assert_eq!(stage.owner.fetches(), 2, "once the ring has all of it, nobody is asked");
    });
}

#[test]
fn what_history_has_forgotten_is_the_first_thing_told() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 8).await;
        stage.owner.expire(&a, 2);
        let viewer = stage.viewer(JSON);
        let subscribed = viewer.subscribe(&stage, &a, From::Position(at(1, 3))).await;
        assert_eq!(subscribed.map(|s| s.recovered), Ok(false));
        assert_eq!(viewer.got(), ["a gap 1:4 1:6 expired", "a 1:7", "a 1:8"]);
    });
}

#[test]
fn a_position_that_was_never_given_out_is_refused() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 2).await;
        let viewer = stage.viewer(JSON);
        let refused = viewer.subscribe(&stage, &a, From::Position(at(1, 3))).await;
        let future = FetchError::Future { asked: at(1, 3), head: at(1, 2) };
        assert_eq!(refused, Err(SubscribeError::Fetch(future)));
        assert!(stage.owner.watched().is_empty(), "nobody is interested");
        viewer.subscribe(&stage, &a, From::Now).await.expect("it may ask for something else");
    });
}

#[test]
fn many_who_ask_the_same_are_one_question() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 5).await;
        stage.owner.hold_answers();
        let viewers: Vec<_> = (0..20).map(|_| stage.viewer(JSON)).collect();
        let asking = viewers.iter().map(|v| v.subscribe(&stage, &a, From::Last(3)));
        let snapshots = (0..20).map(|_| stage.hub.latest(&a, 3));
        let (subscribed, pages, ()) = futures::join!(
            futures::future::join_all(asking),
            futures::future::join_all(snapshots),
            async {
                stage.settle().await;
                stage.owner.answer(1);
            }
        );
        assert!(subscribed.iter().all(Result::is_ok));
        assert!(pages.iter().all(|page| page.as_ref().is_ok_and(|p| p.messages.len() == 3)));
        assert_eq!(stage.owner.fetches(), 1);
        stage.settle().await;
        assert!(viewers.iter().all(|viewer| viewer.got() == frames(&a, 3..=5)));
    });
}

#[test]
fn a_new_epoch_is_told_once_to_the_level_and_to_the_slow() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (slow, fast) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&slow, &fast] {
            viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        }
        slow.socket.borrow_mut().room = 1;
        stage.publish(&a, 3).await;
        stage.owner.renew(&a, 0);
        stage.publish(&a, 1).await;
        slow.go_on(usize::MAX);
        stage.publish(&a, 1).await;
        let mut wanted = frames(&a, 1..=3);
        wanted.extend(["a gap 1:4 2:0 epoch", "a 2:1", "a 2:2"].map(str::to_owned));
        assert_eq!(fast.got(), wanted);
        assert_eq!(slow.got(), ["a 1:1", "a gap 1:2 2:0 epoch", "a 2:1", "a 2:2"]);
    });
}

#[test]
fn a_hole_that_upstream_leaves_is_told_and_a_repeat_is_not_shown() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        for _ in 0..6 {
            stage.owner.publish(&a);
        }
        stage.settle().await;
        let all = stage.hub.latest(&a, 6).await.expect("a page").messages;
        stage.hub.deliver(&a, &all[2..]);
        let far = pushonce_core::Message { position: at(1, 9), ..(*all[0]).clone() };
        stage.hub.deliver(&a, &[far.into()]);
        stage.settle().await;
        let mut wanted = frames(&a, 1..=6);
        wanted.extend(["a gap 1:7 1:8 expired", "a 1:9"].map(str::to_owned));
        assert_eq!(viewer.got(), wanted);
    });
}

#[test]
fn after_unsubscribe_nothing_comes_and_the_last_one_ends_the_interest() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (one, two) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&one, &two] {
            viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        }
        assert!(stage.lane.unsubscribe(one.key, &a));
        assert!(!stage.lane.unsubscribe(one.key, &a));
        stage.publish(&a, 1).await;
        assert_eq!((one.got().len(), two.got().len()), (0, 1));
        assert_eq!(stage.owner.watched().len(), 1);
        stage.lane.close(two.key);
        assert!(stage.owner.watched().is_empty());
        stage.lane.close(two.key);
        one.subscribe(&stage, &a, From::Last(1)).await.expect("subscribed");
        assert_eq!(one.got(), frames(&a, 1..=1));
    });
}

#[test]
fn the_key_of_a_closed_session_opens_no_other() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let gone = stage.viewer(JSON);
        stage.lane.close(gone.key);
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        stage.lane.close(gone.key);
        assert!(!stage.lane.unsubscribe(gone.key, &a));
        stage.publish(&a, 1).await;
        assert_eq!(viewer.got(), frames(&a, 1..=1));
    });
}

#[test]
fn a_closed_outlet_takes_its_session_out() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        viewer.socket.borrow_mut().closed = true;
        stage.publish(&a, 1).await;
        assert!(stage.owner.watched().is_empty());
        let gone = viewer.subscribe(&stage, &a, From::Now).await;
        assert_eq!(gone, Err(SubscribeError::Gone));
    });
}

#[test]
fn a_session_subscribes_once_to_a_topic_and_to_no_more_than_it_may() {
    play(async || {
        let config = hub::Config { subscriptions_max: 2, ..hub::Config::default() };
        let stage = Stage::new(config);
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &topic("a"), From::Now).await.expect("the first");
        let again = viewer.subscribe(&stage, &topic("a"), From::Now).await;
        assert_eq!(again, Err(SubscribeError::AlreadySubscribed));
        viewer.subscribe(&stage, &topic("b"), From::Now).await.expect("the second");
        let third = viewer.subscribe(&stage, &topic("c"), From::Now).await;
        assert_eq!(third, Err(SubscribeError::TooMany { max: 2 }));
        assert_eq!(stage.owner.watched().len(), 2);
    });
}

#[test]
fn a_subscription_withdrawn_while_it_is_made_leaves_nothing() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        let subscribing = viewer.subscribe(&stage, &a, From::Now);
        let withdraw = async { assert!(stage.lane.unsubscribe(viewer.key, &a)) };
        let (withdrawn, ()) = futures::join!(subscribing, withdraw);
        assert_eq!(withdrawn, Err(SubscribeError::Gone));
        assert!(stage.owner.watched().is_empty());
    });
}

#[test]
fn an_upstream_that_says_nothing_is_an_answer_in_time() {
    play(async || {
        let config =
            hub::Config { upstream_timeout: Duration::from_millis(20), ..hub::Config::default() };
        let (stage, a) = (Stage::new(config), topic("a"));
        let viewer = stage.viewer(JSON);
        let refused =
            stage.lane.subscribe(viewer.key, 7, a.clone(), From::Now, Options::default()).await;
        let unavailable = |e: &FetchError| matches!(e, FetchError::Unavailable(_));
        assert!(matches!(refused, Err(SubscribeError::Fetch(why)) if unavailable(&why)));
        assert!(stage.owner.watched().is_empty());
        stage.owner.hold_answers();
        assert!(stage.hub.latest(&a, 1).await.is_err_and(|why| unavailable(&why)));
        stage.owner.answer(1);
        assert!(stage.hub.latest(&a, 1).await.is_ok());
        assert_eq!(stage.owner.fetches(), 2, "a question that nobody waits for is forgotten");
    });
}

#[test]
fn no_frame_overtakes_the_answer() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (first, viewer) = (stage.viewer(JSON), stage.viewer(JSON));
        first.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        let subscribed =
            stage.lane.subscribe(viewer.key, 7, a.clone(), From::Now, Options::default()).await;
        assert!(subscribed.is_ok());
        stage.publish(&a, 2).await;
        assert!(viewer.got().is_empty());
        assert!(stage.lane.positions(viewer.key).is_empty());
        stage.lane.start(viewer.key, &a);
        stage.settle().await;
        assert_eq!(viewer.got(), frames(&a, 1..=2));
        assert_eq!(stage.lane.positions(viewer.key), [(7, a, at(1, 2))]);
    });
}

#[test]
fn thousands_of_subscribers_of_many_topics_all_get_everything_in_order() {
    play(async || {
        let stage = Stage::new(hub::Config::default());
        let topics: Vec<_> = (0..20).map(|n| topic(&format!("t/{n}"))).collect();
        let mut viewers = Vec::new();
        for a in &topics {
            for _ in 0..100 {
                let viewer = stage.viewer(JSON);
                let subscribed =
                    stage.lane.subscribe(viewer.key, 7, a.clone(), From::Now, Options::default());
                let (subscribed, ()) = futures::join!(subscribed, async {
                    stage::yields(1).await;
                    stage.owner.bring(&stage.hub, usize::MAX);
                });
                subscribed.expect("subscribed");
                stage.lane.start(viewer.key, a);
                viewers.push((a, viewer));
            }
        }
        for _ in 0..3 {
            for a in &topics {
                stage.owner.publish(a);
            }
            stage.owner.bring(&stage.hub, usize::MAX);
            stage::yields(2).await;
        }
        stage.settle().await;
        for (a, viewer) in viewers {
            assert_eq!(viewer.got(), frames(a, 1..=3));
        }
    });
}

#[test]
fn a_reader_gets_messages_and_gaps_and_withdraws_when_dropped() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        stage.publish(&a, 4).await;
        stage.owner.expire(&a, 2);
        let reader = stage.hub.reader(a.clone(), From::Position(at(1, 1)), Options::default());
        let (reader, ()) = futures::join!(reader, stage.settle());
        let mut reader = reader.expect("a reader");
        assert!(!reader.subscribed().recovered);
        let gap = Gap { from: at(1, 2), to: at(1, 2), reason: GapReason::Expired };
        assert_eq!(reader.next().await, Item::Gap(gap));
        for offset in 3..=4 {
            assert!(matches!(reader.next().await, Item::Message(m) if m.position == at(1, offset)));
        }
        let (next, ()) = futures::join!(reader.next(), stage.publish(&a, 1));
        assert!(matches!(next, Item::Message(m) if m.position == at(1, 5)));
        stage.owner.renew(&a, 3);
        stage.settle().await;
        let gap = Gap { from: at(1, 6), to: at(2, 3), reason: GapReason::Epoch };
        assert_eq!(reader.next().await, Item::Gap(gap));
        drop(reader);
        assert!(stage.owner.watched().is_empty());
    });
}

#[test]
fn a_snapshot_comes_from_the_ring_when_that_has_it() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        assert_eq!(stage.hub.latest(&a, 1).await.map(|page| page.head), Ok(Position::ZERO));
        let first = stage.owner.publish(&a);
        let fresh = stage.hub.latest(&a, 1).await.map(|page| page.head);
        assert_eq!(fresh, Ok(first), "an answer is not kept");
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        stage.publish(&a, 3).await;
        let page = stage.hub.latest(&a, 2).await.expect("a page");
        assert_eq!((page.messages.len(), page.head), (2, at(1, 4)));
        assert_eq!(stage.owner.fetches(), 2, "only those without a ring");
    });
}

#[test]
fn readers_and_snapshots_may_move_between_threads() {
    fn moves<T: Send>(_: &T) {}
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        moves(&stage.hub.latest(&a, 1));
        let reader = stage.hub.reader(a, From::Now, Options::default());
        moves(&reader);
        let (reader, ()) = futures::join!(reader, stage.settle());
        moves(&reader.expect("a reader").next());
    });
}

#[test]
fn who_is_level_is_told_that_the_topic_is_stale_and_when_that_is_over() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let (fast, slow) = (stage.viewer(JSON), stage.viewer(JSON));
        for viewer in [&fast, &slow] {
            viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        }
        slow.socket.borrow_mut().room = 1;
        stage.publish(&a, 3).await;
        stage.owner.stand(&a, Standing::Stale);
        stage.settle().await;
        assert_eq!(fast.got(), [frames(&a, 1..=3), vec!["a stale 1:3".to_owned()]].concat());
        assert_eq!(slow.got(), frames(&a, 1..=1), "first it gets what is there");
        slow.go_on(usize::MAX);
        stage.settle().await;
        assert_eq!(slow.got(), [frames(&a, 2..=3), vec!["a stale 1:3".to_owned()]].concat());

        stage.owner.publish(&a);
        stage.owner.stand(&a, Standing::Live);
        stage.settle().await;
        for viewer in [&fast, &slow] {
            assert_eq!(viewer.got(), ["a 1:4", "a live 1:4"]);
        }
    });
}

#[test]
fn a_heartbeat_leaves_out_what_is_stale_and_the_newest_is_asked_for_again() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewer = stage.viewer(JSON);
        viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        stage.publish(&a, 2).await;
        assert_eq!(stage.lane.positions(viewer.key), [(7, a.clone(), at(1, 2))]);
        assert_eq!(stage.hub.latest(&a, 1).await.expect("a page").head, at(1, 2));
        assert_eq!(stage.owner.fetches(), 0);
        stage.owner.stand(&a, Standing::Stale);
        stage.settle().await;
        assert!(stage.lane.positions(viewer.key).is_empty());
        assert_eq!(stage.hub.latest(&a, 1).await.expect("a page").head, at(1, 2));
        assert_eq!(stage.owner.fetches(), 1, "the ring does not know what is newest");
    });
}

#[test]
fn who_comes_to_a_stale_topic_is_told_at_once_and_a_moment_of_it_is_not_told() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let first = stage.viewer(JSON);
        first.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        stage.publish(&a, 2).await;
        stage.owner.stand(&a, Standing::Stale);
        stage.owner.stand(&a, Standing::Live);
        stage.settle().await;
        assert_eq!(first.got(), frames(&a, 1..=2));
        stage.owner.stand(&a, Standing::Stale);
        stage.settle().await;
        let late = stage.viewer(JSON);
        late.subscribe(&stage, &a, From::Last(1)).await.expect("subscribed");
        assert_eq!(late.got(), ["a 1:2", "a stale 1:2"]);
        let mut reader =
            stage.hub.reader(a.clone(), From::Last(1), Options::default()).await.expect("begun");
        assert!(matches!(reader.next().await, Item::Message(_)));
        assert_eq!(reader.next().await, Item::Stale(at(1, 2)));
        stage.owner.stand(&a, Standing::Live);
        stage.settle().await;
        assert_eq!(reader.next().await, Item::Live(at(1, 2)));
    });
}

#[test]
fn an_answer_that_ends_before_what_a_subscriber_has_never_takes_it_back() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let early = stage.viewer(JSON);
        early.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        // Acknowledged, and not brought here yet.
        for _ in 0..3 {
            stage.owner.publish(&a);
        }
        let viewer = stage.viewer(JSON);
        let from = From::Position(at(1, 3));
        let subscribed =
            stage.lane.subscribe(viewer.key, 7, a.clone(), from, Options::default()).await;
        assert_eq!(subscribed.expect("subscribed").position, at(1, 3));
        stage.lane.start(viewer.key, &a);
        stage.publish(&a, 1).await;
        assert_eq!(viewer.got(), ["a 1:4"]);
    });
}

#[test]
fn a_lane_that_is_behind_says_for_how_long_news_has_waited() {
    play(async || {
        let (stage, a) = (Stage::new(hub::Config::default()), topic("a"));
        let viewers: Vec<_> = (0..600).map(|_| stage.viewer(JSON)).collect();
        for viewer in &viewers {
            viewer.subscribe(&stage, &a, From::Now).await.expect("subscribed");
        }
        stage.settle().await;
        stage.lane.take_lag();
        stage.owner.publish(&a);
        stage.owner.bring(&stage.hub, usize::MAX);
        // Not all of them have their turn before something else takes its time.
        while viewers[0].got().is_empty() {
            stage::yields(1).await;
        }
        assert!(viewers[599].got().is_empty(), "a turn is bounded");
        let meanwhile = Duration::from_millis(30);
        std::thread::sleep(meanwhile);
        stage.settle().await;
        assert!(stage.lane.take_lag() >= meanwhile);
        assert_eq!(stage.lane.take_lag(), Duration::ZERO, "it was told");
        for viewer in &viewers[1..] {
            assert_eq!(viewer.got(), frames(&a, 1..=1));
        }
    });
}
