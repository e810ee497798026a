//! What a gRPC port does with the connections it is offered.

use std::time::Duration;

use futures::StreamExt as _;
use pushonce_listener::{DescriptorBudget, Listener, Purpose, incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn listener() -> (Listener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (Listener::new("test", listener), address)
}

#[tokio::test]
async fn connection_beyond_its_share_of_the_descriptors_is_closed() {
    let (listener, address) = listener().await;
    // The standard streams have the first three numbers; another test may give the fourth back.
    let budget = DescriptorBudget::new(3);
    let mut connections = Box::pin(incoming(listener, budget, Purpose::Publisher));
    let mut client = TcpStream::connect(address).await.expect("the backlog takes it");
    let closed = async {
        tokio::select! {
            _ = connections.next() => panic!("the connection was admitted"),
            read = client.read_u8() => read,
        }
    };
    assert!(timeout(PATIENCE, closed).await.expect("closed at once").is_err());
}

#[tokio::test]
async fn peers_are_bounded_by_number_and_a_closed_one_makes_room() {
    let (listener, address) = listener().await;
    let budget = DescriptorBudget::new(200);
    let max = budget.connections_max(Purpose::Peer).expect("bounded");
    let mut connections = Box::pin(incoming(listener, budget, Purpose::Peer));
    let mut held = Vec::new();
    for _ in 0..max {
        let client = TcpStream::connect(address).await.expect("the backlog takes it");
        let Ok(connection) = connections.next().await.expect("endless");
        held.push((client, connection));
    }
    let mut refused = TcpStream::connect(address).await.expect("the backlog takes it");
    let closed = async {
        tokio::select! {
            _ = connections.next() => panic!("one peer too many"),
            read = refused.read_u8() => read,
        }
    };
    assert!(timeout(PATIENCE, closed).await.expect("closed at once").is_err());
    held.pop();
    let _next = TcpStream::connect(address).await.expect("the backlog takes it");
    timeout(PATIENCE, connections.next()).await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_preface_times_out_and_one_with_it_does_not() {
    let (listener, address) = listener().await;
    let budget = DescriptorBudget::new(1 << 20);
    let mut connections = Box::pin(incoming(listener, budget, Purpose::Publisher));
    for (sent, lasts) in [(&b"PRI * "[..], false), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true)] {
        let mut client = TcpStream::connect(address).await.expect("the backlog takes it");
        client.write_all(sent).await.expect("sent");
        let Ok(mut server) = connections.next().await.expect("endless");
        let mut got = vec![0; sent.len()];
        server.read_exact(&mut got).await.expect("what was sent");
        // The clock is paused: it jumps to the next deadline.
        let more = timeout(Duration::from_secs(60), server.read_u8()).await;
        assert_eq!(more.is_err(), lasts, "{more:?}");
    }
}
