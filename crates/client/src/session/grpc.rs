//! A session over gRPC: one call a topic, on one connection.

use std::time::Duration;

use pushonce_core::{Delivery, Item, Options, Topic};
use pushonce_proto::client::{ErrorCode, Event};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_client::PublisherClient;
use pushonce_proto::publisher;
use pushonce_proto::status::{describe, error_chain};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{CONNECT_TIMEOUT, Ended};
use crate::progress::Ask;
use crate::server::{Scheme, Server};

/// Events that wait for the caller, as for QUIC.
const EVENTS_MAX: usize = 256;

/// A message of 1 MiB with room for its other fields.
const FRAME_BYTES_MAX: usize = 2 << 20;

pub(crate) struct Session {
    client: PublisherClient<Channel>,
    events: mpsc::Receiver<Result<Event, Ended>>,
    send: mpsc::Sender<Result<Event, Ended>>,
    calls: JoinSet<()>,
}

/// Opens a connection that notices within seconds that the other end is gone.
pub(crate) async fn connect(server: &Server) -> Result<Channel, String> {
    if server.scheme != Scheme::Http {
        return Err(format!("{server} is not an http:// address, as gRPC has"));
    }
    let endpoint = Endpoint::from_shared(server.to_string())
        .map_err(|why| why.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|why| format!("{server}: {}", error_chain(&why)))
}

impl Session {
    pub(super) async fn open(server: &Server) -> Result<Session, Ended> {
        let channel = connect(server).await.map_err(Ended::again)?;
        let client = PublisherClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let (send, events) = mpsc::channel(EVENTS_MAX);
        Ok(Session { client, events, send, calls: JoinSet::new() })
    }

    pub(super) fn subscribe(&mut self, ask: Ask) {
        self.calls.spawn(call(self.client.clone(), ask, self.send.clone()));
    }

    pub(super) async fn next(&mut self) -> Result<Event, Ended> {
        // The session holds a sender itself: there is always a next.
        self.events.recv().await.unwrap_or_else(|| Err(Ended::again("the session ended")))
    }
}

async fn call(
    mut client: PublisherClient<Channel>,
    Ask { id, topic, from, options }: Ask,
    events: mpsc::Sender<Result<Event, Ended>>,
) {
    let Options { delivery, conflated, .. } = options;
    if options != (Options { delivery, conflated, ..Options::default() }) {
        let why = "gRPC brings messages, whole, and nothing else; use WebSocket or QUIC";
        let event = Event::error(Some(id), ErrorCode::NotSupported, why);
        return drop(events.send(Ok(event)).await);
    }
    let request = pb::SubscribeRequest {
        topic: topic.to_string(),
        from: Some(from.into()),
        delivery: delivery.map_or_else(String::new, |delivery| delivery.to_string()),
        conflated,
    };
    let delivery = delivery.unwrap_or_default();
    let mut answers = match client.subscribe(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return drop(events.send(refused(id, status)).await),
    };
    let mut subscribed = false;
    loop {
        let event = match answers.message().await {
            Ok(Some(response)) => match publisher::Event::try_from(response) {
                Ok(event) => Ok(on(id, &topic, delivery, event)),
                Err(why) => Err(Ended::again(why)),
            },
            Ok(None) => Err(Ended::again("the server ended the call")),
            Err(status) if !subscribed => refused(id, status),
            Err(status) => Err(broken(&status)),
        };
        let over = !matches!(
            event,
            Ok(Event::Subscribed { .. }
                | Event::Message { .. }
                | Event::Gap { .. }
                | Event::Stale { .. }
                | Event::Live { .. }
                | Event::Heartbeat { .. })
        );
        subscribed = true;
        if events.send(event).await.is_err() || over {
            return;
        }
    }
}

/// A refusal of the request is an event; anything else is the end of the session.
fn refused(id: u64, status: Status) -> Result<Event, Ended> {
    let code = match status.code() {
        Code::InvalidArgument => ErrorCode::BadTopic,
        Code::OutOfRange => ErrorCode::FuturePosition,
        // Of the topic, or of the connection: then the next call says so as well.
        Code::Unavailable => ErrorCode::Unavailable,
        _ => return Err(broken(&status)),
    };
    Ok(Event::error(Some(id), code, describe(&status)))
}

fn broken(status: &Status) -> Ended {
    Ended::again(describe(status))
}

fn on(id: u64, topic: &Topic, delivery: Delivery, event: publisher::Event) -> Event {
    let topic = topic.clone();
    match event {
        publisher::Event::Subscribed { position, recovered } => {
            Event::Subscribed { id: Some(id), topic, position, recovered, delivery }
        }
        publisher::Event::Item(Item::Message(message)) => Event::Message { topic, message },
        publisher::Event::Item(Item::Gap(gap)) => Event::Gap { topic, gap },
        publisher::Event::Item(Item::Stale(since)) => Event::Stale { topic, since },
        publisher::Event::Item(Item::Live(position)) => Event::Live { topic, position },
        publisher::Event::Heartbeat { position } => {
            Event::Heartbeat { positions: position.map(|at| (topic, at)).into_iter().collect() }
        }
    }
}
