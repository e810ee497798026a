//! Configurations and servers that a subscriber rejects.

use pushonce_client::{BuildError, ServerAddress, Subscriber, SubscriberEvent, Transport};
use pushonce_core::{StartFrom, Topic, test_util};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn topic() -> Topic {
    test_util::topic("chat/7")
}

fn server(text: &str) -> ServerAddress {
    text.parse().expect("an address")
}

#[tokio::test]
async fn builder_rejects_a_subscriber_without_servers_or_topics() {
    let without_servers = Subscriber::builder([]).topic(topic(), StartFrom::Now).connect();
    assert_eq!(without_servers.err(), Some(BuildError::NoServers));
    let without_topics = Subscriber::builder([server("ws://127.0.0.1:1")]).connect();
    assert_eq!(without_topics.err(), Some(BuildError::NoTopics));
}

#[tokio::test]
async fn builder_rejects_an_address_of_another_transport() {
    for (transport, right, wrong) in [
        (Transport::Ws, "http://a:1", "quic://a:1"),
        (Transport::Quic, "quic://a:1", "http://a:1"),
        (Transport::Grpc, "http://a:1", "ws://a:1"),
    ] {
        let builder = Subscriber::builder([server(right), server(wrong)]).transport(transport);
        let error = builder.topic(topic(), StartFrom::Now).connect().expect_err("rejected");
        assert_eq!(error, BuildError::WrongScheme { server: server(wrong), transport });
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

/// A server that replies to one connection with these bytes.
async fn server_answering(response: &'static str) -> ServerAddress {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = [0; 2048];
        let _ = stream.read(&mut request).await;
        stream.write_all(response.as_bytes()).await.expect("written");
    });
    server(&format!("http://{address}"))
}

async fn first_disconnect(server: ServerAddress) -> (String, bool) {
    let mut subscriber = Subscriber::builder([server])
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("a valid configuration");
    loop {
        match subscriber.next().await.expect("an event") {
            SubscriberEvent::Disconnected { reason, retry_in, .. } => {
                return (reason, retry_in.is_some());
            }
            _ => continue,
        }
    }
}

#[tokio::test]
async fn web_server_without_websocket_ends_the_subscriber() {
    let wrong = server_answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let (reason, is_retried) = first_disconnect(wrong).await;
    assert!(reason.contains("404") && reason.contains("--http"), "{reason}");
    assert!(!is_retried);
    let busy =
        server_answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let (reason, is_retried) = first_disconnect(busy).await;
    assert!(reason.contains("503") && is_retried, "{reason}");
}

#[tokio::test]
async fn server_without_websocket_is_dropped_and_the_others_are_retried() {
    let wrong = server_answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let busy =
        server_answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let servers = [wrong.clone(), busy.clone()];
    let mut subscriber = Subscriber::builder(servers)
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("a valid configuration");
    let mut disconnects = Vec::new();
    while disconnects.len() < 3 {
        match subscriber.next().await.expect("an event") {
            SubscriberEvent::Disconnected { server, retry_in, .. } => {
                disconnects.push((server, retry_in.is_some()))
            }
            _ => continue,
        }
    }
    assert_eq!(disconnects, [(wrong, true), (busy.clone(), true), (busy, true)]);
}
