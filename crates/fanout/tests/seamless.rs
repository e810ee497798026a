//! Whatever happens while somebody subscribes, what it is shown is one unbroken line of messages
//! and gaps, from where it asked to the end of the topic; to one who wants the newest alone and not to
//! be told what is passed over, a line that rises to the end.

mod stage;

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use pushonce_core::{Delivery, FetchError, From, Item, Options, Position, Topic};
use pushonce_fanout::{Standing, SubscribeError, Subscribed, hub};
use stage::{JSON, Stage, Viewer, at, play, topic, yields};

/// Below what a ring of this size holds while somebody has not looked yet: a subscriber that was
/// never blocked has no excuse for a gap.
const RING: usize = 12;
const PUBLISHES_MAX: usize = 45;

#[derive(Clone, Debug)]
enum Step {
    Publish,
    /// So many things come over the link.
    Bring(usize),
    /// Everything else gets so many turns.
    Turns(usize),
    /// As it wants, with deltas or without.
    Subscribe(Ask, Wish, bool),
    Read(Ask),
    Unsubscribe(usize),
    /// A socket takes so many frames more, then blocks.
    Room(usize, usize),
    /// So many questions are answered.
    Answer(usize),
    /// History forgets all but so many.
    Expire(usize),
    /// A new epoch, with so many lost messages.
    Renew(u64),
    /// The node loses touch with the owner, or hears of it again.
    Stand(Standing),
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Now,
    Start,
    Last(u32),
    /// After the message that stands so far behind the newest.
    Back(u64),
    /// After a message of the epoch before.
    Before(u64),
    /// After a message that never was.
    Forged,
}

/// Which of the messages a subscriber wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Every,
    Newest,
    /// And to be told what is passed over.
    NewestTold,
}

/// How far beyond the newest a forged position is: further than anything that is published.
const FORGED: u64 = 1_000;

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Now),
        Just(Ask::Start),
        (0u32..20).prop_map(Ask::Last),
        (0u64..30).prop_map(Ask::Back),
        (0u64..9).prop_map(Ask::Before),
        Just(Ask::Forged),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![3 => Just(Wish::Every), 1 => Just(Wish::Newest), 1 => Just(Wish::NewestTold)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Publish),
        5 => (1usize..6).prop_map(Step::Bring),
        5 => (1usize..6).prop_map(Step::Turns),
        4 => (ask(), wish(), any::<bool>()).prop_map(|(ask, wish, delta)| Step::Subscribe(ask, wish, delta)),
        1 => ask().prop_map(Step::Read),
        1 => (0usize..8).prop_map(Step::Unsubscribe),
        2 => (0usize..8, 0usize..9).prop_map(|(who, room)| Step::Room(who, room)),
        3 => (1usize..4).prop_map(Step::Answer),
        1 => (0usize..9).prop_map(Step::Expire),
        2 => prop_oneof![Just(Standing::Stale), Just(Standing::Live)].prop_map(Step::Stand),
    ]
}

fn step_with_epochs() -> impl Strategy<Value = Step> {
    prop_oneof![12 => step(), 1 => (0u64..4).prop_map(Step::Renew)]
}

/// A subscription, and what is known of it.
struct Watch {
    from: From,
    wish: Wish,
    delta: bool,
    viewer: Option<Viewer>,
    answer: Rc<RefCell<Option<Result<Subscribed, SubscribeError>>>>,
    /// What a reader was told, in the words of a viewer's frames.
    read: Rc<RefCell<Vec<String>>>,
    was_blocked: bool,
    ended: bool,
}

/// What happened to the topic that may excuse a gap.
#[derive(Default)]
struct Excuses {
    expired: bool,
    renewed: bool,
}

fn from(ask: Ask, head: Position) -> From {
    match ask {
        Ask::Now => From::Now,
        Ask::Start => From::Start,
        Ask::Last(n) => From::Last(n),
        Ask::Back(n) => From::Position(at(head.epoch.0, head.offset.0.saturating_sub(n))),
        Ask::Forged => From::Position(at(head.epoch.0, head.offset.0 + FORGED)),
        Ask::Before(n) => From::Position(at(head.epoch.0.saturating_sub(1), n)),
    }
}

fn subscribe(stage: &Stage, a: &Topic, from: From, wish: Wish, delta: bool) -> Watch {
    let delivery = (wish != Wish::Every).then_some(Delivery::Latest);
    let conflated = wish == Wish::NewestTold;
    let options = Options { delivery, conflated, delta, ..Options::default() };
    let viewer = stage.viewer(JSON);
    let answer = Rc::new(RefCell::new(None));
    let (lane, key, a, told) = (stage.lane.clone(), viewer.key, a.clone(), Rc::clone(&answer));
    tokio::task::spawn_local(async move {
        let subscribed = lane.subscribe(key, 7, a.clone(), from, options).await;
        yields(2).await;
        lane.start(key, &a);
        *told.borrow_mut() = Some(subscribed);
    });
    let read = Rc::default();
    Watch {
        from,
        wish,
        delta,
        viewer: Some(viewer),
        answer,
        read,
        was_blocked: false,
        ended: false,
    }
}

fn read(stage: &Stage, a: &Topic, from: From) -> Watch {
    let answer = Rc::new(RefCell::new(None));
    let read = Rc::new(RefCell::new(Vec::new()));
    let (hub, a) = (stage.hub.clone(), a.clone());
    let (told, items) = (Rc::clone(&answer), Rc::clone(&read));
    tokio::task::spawn_local(async move {
        let reader = hub.reader(a.clone(), from, Options::default()).await;
        let subscribed = reader.as_ref().map(|reader| reader.subscribed());
        *told.borrow_mut() = Some(subscribed.map_err(|why| SubscribeError::Fetch(why.clone())));
        let Ok(mut reader) = reader else { return };
        loop {
            let item = match reader.next().await {
                Item::Message(message) => format!("{a} {}", message.position),
                Item::Gap(gap) => {
                    format!("{a} gap {} {} {}", gap.from, gap.to, gap.reason.as_str())
                }
                Item::Stale(since) => format!("{a} stale {since}"),
                Item::Live(position) => format!("{a} live {position}"),
            };
            items.borrow_mut().push(item);
        }
    });
    let (wish, delta) = (Wish::Every, false);
    Watch { from, wish, delta, viewer: None, answer, read, was_blocked: false, ended: false }
}

async fn perform(stage: &Stage, a: &Topic, steps: Vec<Step>) -> (Vec<Watch>, Excuses) {
    let (mut watches, mut excuses, mut published) = (Vec::new(), Excuses::default(), 0);
    for step in steps {
        let head = stage.owner.head(a);
        match step {
            Step::Publish if published < PUBLISHES_MAX => {
                published += 1;
                stage.owner.publish(a);
            }
            Step::Publish => {}
            Step::Bring(n) => stage.owner.bring(&stage.hub, n),
            Step::Turns(n) => yields(n).await,
            Step::Subscribe(ask, wish, delta) => {
                watches.push(subscribe(stage, a, from(ask, head), wish, delta));
            }
            Step::Read(ask) => watches.push(read(stage, a, from(ask, head))),
            Step::Unsubscribe(who) => {
                let Some(watch) = watches.get_mut(who) else { continue };
                if let Some(viewer) = &watch.viewer {
                    watch.ended |= stage.lane.unsubscribe(viewer.key, a);
                }
            }
            Step::Room(who, room) => {
                let Some(watch) = watches.get_mut(who) else { continue };
                if let Some(viewer) = &watch.viewer {
                    watch.was_blocked = true;
                    viewer.go_on(room);
                }
            }
            Step::Stand(standing) => stage.owner.stand(a, standing),
            Step::Answer(n) => stage.owner.answer(n),
            Step::Expire(keep) => {
                excuses.expired = true;
                stage.owner.expire(a, keep);
            }
            Step::Renew(offset) => {
                excuses.renewed = true;
                stage.owner.renew(a, offset);
            }
        }
    }
    (watches, excuses)
}

/// Everything heals: what waits is answered and brought, what is blocked goes on.
async fn heal(stage: &Stage, a: &Topic, watches: &[Watch]) {
    stage.owner.stand(a, Standing::Live);
    stage.owner.answer(1_000);
    stage.settle().await;
    for viewer in watches.iter().filter_map(|watch| watch.viewer.as_ref()) {
        viewer.go_on(usize::MAX);
    }
    stage.settle().await;
}

/// Whether a frame says that the topic is stale, or live, and up to where everything was shown.
fn standing(frame: &str) -> Option<(bool, Position)> {
    let words: Vec<&str> = frame.split(' ').collect();
    match words[1..] {
        ["stale", since] => Some((true, since.parse().expect("a position"))),
        ["live", position] => Some((false, position.parse().expect("a position"))),
        _ => None,
    }
}

/// The positions a frame brings a viewer from and to; a message's are the same.
fn parse(frame: &str) -> (bool, Position, Position) {
    let words: Vec<&str> = frame.split(' ').collect();
    let position = |word: &str| word.parse().expect("a position");
    match words[1..] {
        [message] | [message, "on", _] => (false, position(message), position(message)),
        ["gap", from, to, _] => (true, position(from), position(to)),
        _ => panic!("not a frame: {frame}"),
    }
}

/// What a viewer shows that makes each difference into a message: it must have the one before.
fn undo_deltas(frames: Vec<String>, wanted: bool) -> Vec<String> {
    let mut shown = None;
    let undo = |frame: String| {
        if standing(&frame).is_some() {
            return frame;
        }
        if let Some((message, base)) = frame.split_once(" on ") {
            assert!(wanted, "nobody asked for the difference {frame}");
            assert_eq!(shown, base.parse().ok(), "{frame} is of a message that was not shown last");
            shown = Some(parse(&frame).2);
            return message.to_owned();
        }
        let (gap, _, last) = parse(&frame);
        shown = (!gap).then_some(last);
        frame
    };
    frames.into_iter().map(undo).collect()
}

fn is_forged(from: From) -> bool {
    matches!(from, From::Position(position) if position.offset.0 >= FORGED)
}

/// Whether nothing can lie between. Who has seen nothing at all misses nothing of an empty epoch.
fn level(reached: Position, head: Position) -> bool {
    reached == head || head.next().follows(reached)
}

fn check(watch: &Watch, head: Position, excuses: &Excuses) {
    let frames = match &watch.viewer {
        Some(viewer) => undo_deltas(viewer.got(), watch.delta),
        None => watch.read.borrow().clone(),
    };
    let answer = watch.answer.borrow();
    let subscribed = match answer.as_ref().expect("every subscriber is answered") {
        Ok(subscribed) => *subscribed,
        Err(SubscribeError::Gone) if watch.ended => return,
        Err(SubscribeError::Fetch(FetchError::Unavailable(_))) if excuses.renewed => return,
        Err(SubscribeError::Fetch(FetchError::Future { .. })) if is_forged(watch.from) => {
            return assert!(frames.is_empty(), "shown to one who was refused: {frames:?}");
        }
        Err(why) => panic!("refused: {why}"),
    };
    let mut reached = match watch.from {
        From::Position(position) => Some(position),
        From::Now => Some(subscribed.position),
        From::Start | From::Last(_) => None,
    };
    assert!(!is_forged(watch.from) || excuses.renewed, "{:?} was taken", watch.from);
    let (mut gaps, mut stale) = (Vec::new(), false);
    let mut index = 0;
    for frame in &frames {
        if let Some((now_stale, at)) = standing(frame) {
            assert_ne!(stale, now_stale, "told what it knows: {frames:?}");
            stale = now_stale;
            let so = reached.is_none_or(|reached| level(reached, at));
            assert!(so, "{frame} is not what was shown: {frames:?}");
            continue;
        }
        let (gap, first, last) = parse(frame);
        if gap {
            assert!(first <= last || last.offset.0 == 0, "{frame}: ends before it begins");
            gaps.push(index);
        }
        index += 1;
        if let Some(reached) = reached {
            // Before a topic's first message, a gap may begin before its first epoch.
            let next = match watch.wish {
                Wish::Newest => first > reached,
                _ => first.follows(reached) || (gap && first == reached.next()),
            };
            assert!(next, "{frame} does not follow {reached}: {frames:?}");
        }
        reached = Some(last);
    }
    assert!(!stale || watch.ended, "it never hears that it is over: {frames:?}");
    let frames: Vec<String> = frames.into_iter().filter(|f| standing(f).is_none()).collect();
    if !watch.ended {
        let reached = reached.unwrap_or(subscribed.position);
        assert!(level(reached, head), "{reached} is not the end, {head}: {frames:?}");
    }
    let has_excuse = watch.was_blocked || excuses.renewed || watch.wish != Wish::Every;
    let was_told_nothing = watch.ended && frames.is_empty();
    if !has_excuse && !was_told_nothing {
        let wanted: &[usize] = if subscribed.recovered { &[] } else { &[0] };
        assert_eq!(gaps, wanted, "{:?}: {frames:?}", watch.from);
    }
    if !has_excuse && !excuses.expired && !watch.ended {
        let past = frames.iter().filter(|f| parse(f).1 <= subscribed.position).count() as u64;
        match watch.from {
            From::Start => assert_eq!(past, subscribed.position.offset.0),
            From::Last(n) => assert!(past >= subscribed.position.offset.0.min(n.into())),
            From::Now | From::Position(_) => {}
        }
    }
}

fn run(steps: Vec<Step>) {
    play(async || {
        let config = hub::Config { ring_messages_max: RING, ..hub::Config::default() };
        let (stage, a) = (Stage::new(config), topic("a"));
        for _ in 0..5 {
            stage.owner.publish(&a);
        }
        stage.owner.hold_answers();
        let (watches, excuses) = perform(&stage, &a, steps).await;
        heal(&stage, &a, &watches).await;
        for watch in &watches {
            check(watch, stage.owner.head(&a), &excuses);
        }
        for viewer in watches.iter().filter_map(|watch| watch.viewer.as_ref()) {
            stage.lane.close(viewer.key);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn there_is_no_seam_between_the_past_and_the_present(
        steps in proptest::collection::vec(step(), 1..90)
    ) {
        run(steps);
    }

    #[test]
    fn there_is_no_silent_seam_between_epochs(
        steps in proptest::collection::vec(step_with_epochs(), 1..90)
    ) {
        run(steps);
    }
}
