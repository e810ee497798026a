//! Who asks for datagrams gets the newest of a topic, whatever the network loses.

mod support;

use pushonce_core::{Delivery, From, Options};
use pushonce_proto::client::{Command, ErrorCode, Event};

use support::Server;
use support::client::{Client, Heard, Via, topic};
use support::lossy::{Fate, Way};

/// What carried a message.
#[derive(Debug, PartialEq, Eq)]
enum By {
    Stream,
    Datagram,
}

const DATAGRAMS: Options = Options {
    delivery: Some(Delivery::Latest),
    conflated: false,
    audience: false,
    delta: false,
    datagrams: true,
};

fn subscribe(from: From, options: Options) -> Command {
    Command::Subscribe { topic: topic("a"), from, options }
}

/// The next message, and what carried it.
async fn shown(client: &mut Client) -> (By, String) {
    loop {
        let (by, event) = match client.next().await {
            Heard::Event(event) => (By::Stream, event),
            Heard::Datagram(event) => (By::Datagram, event),
            Heard::Closed(code) => panic!("closed with {code}"),
        };
        if let Event::Message { message, .. } = event {
            return (by, String::from_utf8_lossy(&message.payload).into_owned());
        }
        assert_eq!(by, By::Stream, "{event:?}");
    }
}

/// A client that has seen the first message, on the stream.
async fn watcher(server: &Server) -> Client {
    server.origin.say("a", "first").await;
    let mut client = Client::connect(server, Via::Quic).await;
    client.send(1, subscribe(From::Last(1), DATAGRAMS)).await;
    assert_eq!(shown(&mut client).await, (By::Stream, "first".to_owned()));
    client
}

/// A server behind a way that can be told to lose packets.
async fn far_server() -> (Server, Way) {
    let mut server = Server::start().await;
    let way = Way::to(server.quic).await;
    server.quic = way.address;
    (server, way)
}

#[tokio::test]
async fn the_first_message_comes_on_the_stream_and_what_follows_as_datagrams() {
    let server = Server::start().await;
    let mut client = watcher(&server).await;
    for text in ["two", "three"] {
        server.origin.say("a", text).await;
        assert_eq!(shown(&mut client).await, (By::Datagram, text.to_owned()));
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_for_a_datagram_comes_on_the_stream() {
    let server = Server::start().await;
    let mut client = watcher(&server).await;
    for (by, len) in [(By::Datagram, 1_000), (By::Stream, 1_200), (By::Datagram, 10)] {
        let text = "x".repeat(len);
        server.origin.say("a", &text).await;
        assert_eq!(shown(&mut client).await, (by, text));
    }
}

#[tokio::test]
async fn the_newest_comes_on_the_stream_when_its_datagram_was_lost() {
    let (server, mut way) = far_server().await;
    let mut client = watcher(&server).await;
    for round in 0..3 {
        // Longer than everything else that is said meanwhile.
        let text = format!("lost {round} {}", "x".repeat(800));
        way.set(Fate::IsLost);
        server.origin.say("a", &text).await;
        way.has_met(800).await;
        way.set(Fate::Arrives);
        assert_eq!(shown(&mut client).await, (By::Stream, text));
        let text = format!("not lost {round}");
        server.origin.say("a", &text).await;
        assert_eq!(shown(&mut client).await, (By::Datagram, text));
    }
}

/// More than may be under way, and than the queue of datagrams holds: the rest is passed over.
#[tokio::test]
async fn who_hears_nothing_for_a_while_gets_the_newest_and_little_of_what_was_before() {
    for fate in [Fate::IsHeld, Fate::IsLost] {
        let (server, mut way) = far_server().await;
        let mut client = watcher(&server).await;
        way.set(fate);
        let texts: Vec<String> = (0..400).map(|n| format!("{n} {}", "x".repeat(900))).collect();
        for text in &texts {
            server.origin.say("a", text).await;
        }
        way.has_met(900).await;
        way.set(Fate::Arrives);
        let mut count = 0;
        while shown(&mut client).await.1 != texts[399] {
            count += 1;
        }
        assert!(count < 200, "{count} messages came before the newest: {fate:?}");
    }
}

#[tokio::test]
async fn datagrams_are_refused_where_they_make_no_sense() {
    let server = Server::start().await;
    let mut client = Client::connect(&server, Via::Quic).await;
    let all = Some(Delivery::All);
    let refused = [
        Options { delivery: all, ..DATAGRAMS },
        Options { delivery: None, ..DATAGRAMS },
        Options { conflated: true, ..DATAGRAMS },
        Options { delta: true, ..DATAGRAMS },
    ];
    for options in refused {
        client.send(1, subscribe(From::Now, options)).await;
        assert_eq!(client.refused().await, (Some(1), ErrorCode::BadRequest), "{options:?}");
    }
    client.send(2, subscribe(From::Now, DATAGRAMS)).await;
    assert!(matches!(client.answer().await, Event::Subscribed { delivery: Delivery::Latest, .. }));
}

#[tokio::test]
async fn datagrams_are_refused_to_who_cannot_take_them() {
    let server = Server::start().await;
    let takes_none = Client::quic_with(&server, |transport| {
        transport.datagram_receive_buffer_size(None);
    });
    let clients = [
        Client::connect(&server, Via::WsJson).await,
        Client::connect(&server, Via::WsProto).await,
        takes_none.await,
    ];
    for mut client in clients {
        client.send(1, subscribe(From::Now, DATAGRAMS)).await;
        assert_eq!(client.refused().await, (Some(1), ErrorCode::NotSupported));
    }
}
