use futures::FutureExt;
use pushonce_core::{ContentType, Options, Position};
use pushonce_fanout::{Closed, Offered, Run};
use pushonce_proto::client::{Command, ErrorCode};
use tokio::sync::mpsc;

use super::*;
use crate::testing::{self, Bench, Interest};

/// A client that grants no way, and what it is told.
struct Narrow(mpsc::UnboundedSender<Told>);

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Open(u32),
    /// In one breath.
    Refused(Vec<ErrorCode>),
}

struct Nothing;

impl Outlet for Nothing {
    fn offer(&mut self, _: &[Run<'_>]) -> Result<Offered, Closed> {
        Err(Closed)
    }
}

impl Transport for Narrow {
    const DOOR: Door = Door::Quic;

    fn wire(&self) -> Wire {
        encoder::WS_PROTO
    }

    fn outlet(&self) -> Rc<RefCell<dyn Outlet>> {
        Rc::new(RefCell::new(Nothing))
    }

    fn open(
        &self,
        token: u32,
        _: &Topic,
        _: Delivery,
        _: bool,
    ) -> LocalBoxFuture<'static, Result<(), NoWay>> {
        self.0.send(Told::Open(token)).unwrap();
        std::future::ready(Err(NoWay)).boxed_local()
    }

    fn shut(&self, _: u32) {}

    fn reply(&self, mut frames: Bytes) {
        let mut codes = Vec::new();
        while let [_, len, high, low, ..] = frames[..] {
            // A short frame has a header of two bytes, a longer one of four.
            let (begin, len) =
                if len < 126 { (2, len.into()) } else { (4, u16::from_be_bytes([high, low])) };
            let payload = frames.split_to(begin + usize::from(len)).slice(begin..);
            let event = encoder::encoding(self.wire()).decode_event(&payload).unwrap();
            let Event::Error { code, .. } = event else { panic!("{event:?} is no refusal") };
            codes.push(code);
        }
        self.0.send(Told::Refused(codes)).unwrap();
    }

    fn beat(&self, _: Vec<(u32, Topic, Position)>) {}

    fn ping(&self) {}

    fn leave(&self, _: &'static Close, _: &str) {}

    fn vitals(&self) -> Vitals {
        Vitals::default()
    }
}

fn subscribe(topic: &Topic, from: From) -> Result<Request, InvalidFrame> {
    let (topic, options) = (topic.clone(), Options::default());
    Ok(Request { id: Some(1), command: Command::Subscribe { topic, from, options } })
}

#[tokio::test]
async fn no_way_is_opened_for_a_subscription_that_the_hub_refuses() {
    let lane = async {
        let mut bench = Bench::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let driver = Driver::begin(bench.local.clone(), Narrow(tell));
        let topic = Topic::new("a").unwrap();
        driver.request(subscribe(&topic, From::Position(Position::new(7, 9))));
        bench.live(&topic).await;
        assert_eq!(told.recv().await, Some(Told::Refused(vec![ErrorCode::FuturePosition])));
        driver.end();
    };
    testing::on_a_lane(lane).await;
}

#[tokio::test]
async fn a_subscription_that_gets_no_way_is_refused_and_leaves_nothing_behind() {
    let lane = async {
        let mut bench = Bench::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let driver = Driver::begin(bench.local.clone(), Narrow(tell));
        let topic = Topic::new("a").unwrap();
        driver.request(subscribe(&topic, From::Now));
        bench.live(&topic).await;
        assert_eq!(told.recv().await, Some(Told::Open(0)));
        assert_eq!(told.recv().await, Some(Told::Refused(vec![ErrorCode::Overloaded])));
        assert_eq!(bench.interests.recv().await, Some(Interest::Ends(topic)));
        driver.end();
    };
    testing::on_a_lane(lane).await;
}

/// Nobody takes it, and says so.
fn publish() -> Result<Request, InvalidFrame> {
    let (topic, payload) = (Topic::new("a").unwrap(), Bytes::from_static(b"x"));
    let publish =
        Publish { topic, content_type: ContentType::Text, key: None, stamp: None, payload };
    Ok(Request { id: Some(1), command: Command::Publish(publish) })
}

#[tokio::test]
async fn publishes_that_came_together_are_answered_together_also_when_the_client_left_meanwhile() {
    let lane = async {
        let bench = Bench::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let driver = Driver::begin(bench.local.clone(), Narrow(tell));
        driver.request(publish());
        driver.request(publish());
        driver.end();
        assert_eq!(told.recv().await, Some(Told::Refused(vec![ErrorCode::Overloaded; 2])));
        drop(driver);
        assert_eq!(told.recv().await, None, "nothing holds the session");
    };
    testing::on_a_lane(lane).await;
}
