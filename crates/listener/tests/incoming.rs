//! The handling of connections by a gRPC port.

use std::time::Duration;

use futures::StreamExt as _;
use pushonce_listener::{
    AddressLimits, ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

async fn bind() -> (InfallibleListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (InfallibleListener::new("test", listener), address)
}

#[tokio::test]
async fn connection_over_the_descriptor_budget_is_closed() {
    let (listener, address) = bind().await;
    // The standard streams use the first three descriptors; another test may free the fourth.
    let budget = DescriptorBudget::new(3);
    let mut connections = Box::pin(incoming(listener, budget, ConnectionPurpose::Publisher, None));
    let mut client = TcpStream::connect(address).await.expect("the backlog accepts it");
    let closed = async {
        tokio::select! {
            _ = connections.next() => panic!("the connection was admitted"),
            read = client.read_u8() => read,
        }
    };
    assert!(timeout(TEST_TIMEOUT, closed).await.expect("closed at once").is_err());
}

#[tokio::test]
async fn peer_connections_are_limited_and_closing_one_admits_the_next() {
    let (listener, address) = bind().await;
    let budget = DescriptorBudget::new(200);
    let max = budget.connections_max(ConnectionPurpose::Peer).expect("bounded");
    let mut connections = Box::pin(incoming(listener, budget, ConnectionPurpose::Peer, None));
    let mut held = Vec::new();
    for _ in 0..max {
        let client = TcpStream::connect(address).await.expect("the backlog accepts it");
        let Ok(connection) = connections.next().await.expect("endless");
        held.push((client, connection));
    }
    let mut rejected = TcpStream::connect(address).await.expect("the backlog accepts it");
    let closed = async {
        tokio::select! {
            _ = connections.next() => panic!("a peer over the limit was admitted"),
            read = rejected.read_u8() => read,
        }
    };
    assert!(timeout(TEST_TIMEOUT, closed).await.expect("closed at once").is_err());
    held.pop();
    let _next = TcpStream::connect(address).await.expect("the backlog accepts it");
    timeout(TEST_TIMEOUT, connections.next()).await.expect("a closed connection frees its permit");
}

#[tokio::test]
async fn connection_of_an_address_with_its_maximum_is_closed_and_others_are_accepted() {
    let (listener, address) = bind().await;
    let budget = DescriptorBudget::new(1 << 20);
    let limits = AddressLimits::new(1);
    let purpose = ConnectionPurpose::Publisher;
    let mut connections = Box::pin(incoming(listener, budget, purpose, Some(limits)));
    let connect_from = async |source: [u8; 4]| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of this host");
        socket.connect(address).await.expect("the backlog accepts it")
    };
    let _first = connect_from([127, 0, 0, 2]).await;
    let held = connections.next().await;
    let mut second = connect_from([127, 0, 0, 2]).await;
    let closed = async {
        tokio::select! {
            _ = connections.next() => panic!("the second connection was admitted"),
            read = second.read_u8() => read,
        }
    };
    assert!(timeout(TEST_TIMEOUT, closed).await.expect("closed at once").is_err());
    let _other = connect_from([127, 0, 0, 3]).await;
    let other = timeout(TEST_TIMEOUT, connections.next()).await.expect("another address");
    drop((held, other));
    let _again = connect_from([127, 0, 0, 2]).await;
    timeout(TEST_TIMEOUT, connections.next()).await.expect("a closed connection frees its permit");
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_preface_times_out_and_one_with_it_does_not() {
    let (listener, address) = bind().await;
    let budget = DescriptorBudget::new(1 << 20);
    let mut connections = Box::pin(incoming(listener, budget, ConnectionPurpose::Publisher, None));
    for (sent, stays_open) in [(&b"PRI * "[..], false), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true)]
    {
        let mut client = TcpStream::connect(address).await.expect("the backlog accepts it");
        client.write_all(sent).await.expect("sent");
        let Ok(mut server) = connections.next().await.expect("endless");
        let mut received = vec![0; sent.len()];
        server.read_exact(&mut received).await.expect("the sent bytes");
        // The clock is paused: it advances to the next deadline.
        let result = timeout(Duration::from_secs(60), server.read_u8()).await;
        assert_eq!(result.is_err(), stays_open, "{result:?}");
    }
}
