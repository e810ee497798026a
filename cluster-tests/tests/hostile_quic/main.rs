//! Set-up: one node with one lane, subscribers on every transport and a publisher.
//! Fault: QUIC clients with forged addresses, half-open handshakes, one-byte writes, streams that are reset, malformed
//! and oversized frames, unsolicited datagrams, floods of pings and of subscriptions, early data, and sessions that
//! never read.
//! Claim: a forged address gets at most three times the bytes that were sent in its name; other clients are not
//! affected, and memory and descriptors return to the baseline.

mod stranger;

use std::net::SocketAddr;
use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::hostile::{Bystanders, Footprint, STRANGER};
use pushonce_cluster_tests::issuer::TestIssuer;
use pushonce_cluster_tests::{ProcessCluster, secs, text_message};
use pushonce_core::StartFrom;
use pushonce_proto::client::{Encoding, ErrorCode, ServerEvent};
use pushonce_proto::close;
use pushonce_proto::delimited::{self, FrameDecoder};
use quinn::VarInt;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use stranger::{QuicStranger, client_config, first_datagrams, is_retry, subscribe_frame};

const STRANGERS: usize = 10;

/// Runs `attack` of some strangers at once while the bystanders are served.
async fn withstand<A>(attack: impl Fn(SocketAddr) -> A)
where
    A: Future<Output = ()> + Send + 'static,
{
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut attacks: JoinSet<()> = (0..STRANGERS).map(|_| attack(cluster.ports(0).quic)).collect();
    while !attacks.is_empty() {
        bystanders.assert_served(1).await;
        while let Some(ended) = attacks.try_join_next() {
            ended.expect("the attack went as planned");
        }
    }
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_initials_get_at_most_three_times_their_bytes_and_a_new_client_is_served() {
    /// More than the node accepts before an address must be proven.
    const FORGED: usize = 300;
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let quic = cluster.ports(0).quic;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut victims = Vec::new();
    for nth in 0..FORGED {
        // Bound and never answering: as a host in whose name the datagram was sent.
        let victim = UdpSocket::bind(SocketAddr::from((STRANGER, 0)))
            .await
            .expect("an address of this host");
        let mut sent = 0;
        for datagram in first_datagrams(quic) {
            sent += victim.send_to(&datagram, quic).await.expect("sent");
        }
        victims.push((victim, sent));
        if nth % 50 == 0 {
            bystanders.assert_served(1).await;
        }
    }
    // The forged handshakes are pending: it must prove its address, and is served.
    let topic = "bystanders/late";
    let mut late = cluster.subscriber(0, Transport::Quic, topic, StartFrom::Now);
    late.wait_subscribed(secs(20)).await;
    // The node repeats packets without an acknowledgement until it ends the handshakes after ten seconds.
    for _ in 0..12 {
        sleep(secs(1)).await;
        bystanders.assert_served(1).await;
    }
    let (mut retries, mut buffer) = (0, [0; 2_048]);
    for (victim, sent) in &victims {
        let mut received = 0;
        while let Ok(length) = victim.try_recv(&mut buffer) {
            received += length;
            retries += usize::from(is_retry(&buffer[..length]));
        }
        assert!(received > 0, "the node answered nothing");
        assert!(received <= 3 * sent, "{received} bytes for {sent}");
    }
    assert!(retries > FORGED / 4, "{retries} addresses had to be proven");
    drop((victims, late));
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_writes_are_not_noticed() {
    withstand(|quic| async move {
        let stranger = QuicStranger::connect(quic).await;
        let (mut control, _replies) = stranger.connection.open_bi().await.expect("a stream");
        for nth in 0..50 {
            for byte in subscribe_frame(nth, &format!("slow/{nth}")) {
                control.write_all(&[byte]).await.expect("the session stays open");
                // Each byte in a packet of its own.
                sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_end_and_resets_are_not_noticed() {
    withstand(|quic| async move {
        for _ in 0..20 {
            let stranger = QuicStranger::connect(quic).await;
            let (mut control, mut replies) = stranger.connection.open_bi().await.expect("a stream");
            let frame = subscribe_frame(1, "half/1");
            control.write_all(&frame[..frame.len() / 2]).await.expect("open");
            let second = timeout(Duration::from_millis(100), stranger.connection.open_bi()).await;
            assert!(second.is_err(), "a session has one stream of the client");
            replies.stop(VarInt::from_u32(7)).expect("open");
            control.reset(VarInt::from_u32(7)).expect("open");
            stranger.close_code().await;
        }
    })
    .await;
}

/// The port allows unidirectional streams for WebTransport.
#[tokio::test(flavor = "multi_thread")]
async fn unidirectional_stream_of_a_client_ends_its_session_only() {
    withstand(|quic| async move {
        for _ in 0..20 {
            let stranger = QuicStranger::connect(quic).await;
            let _control = stranger.connection.open_bi().await.expect("a stream");
            let mut pushed = stranger.connection.open_uni().await.expect("a stream");
            pushed.write_all(b"x").await.expect("open");
            assert_eq!(stranger.close_code().await, u64::from(close::PROTOCOL_ERROR.code));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_frames_end_their_session_only() {
    withstand(|quic| async move {
        let malformed: [&[u8]; 5] = [
            // A length above every limit, one that is no number, and one whose frame never comes.
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0xff; 64],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            // Frames that are no requests.
            &[3, 0xff, 0xff, 0xff],
            &[1, 0x0a],
        ];
        for bytes in malformed {
            let stranger = QuicStranger::connect(quic).await;
            let (mut control, _replies) = stranger.connection.open_bi().await.expect("a stream");
            control.write_all(bytes).await.expect("open");
            let code = stranger.close_code().await;
            let expected = [close::TOO_BIG.code, close::BAD_FRAME.code].map(u64::from);
            assert!(expected.contains(&code), "{bytes:?} was closed with {code}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frame_of_a_stranger_without_a_token_is_refused_at_its_head() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let issuer = TestIssuer::write(cluster.dir());
    issuer.restart_nodes(&mut cluster).await;
    let quic = cluster.ports(0).quic;
    for len in [16_385_usize, 300_000] {
        let stranger = QuicStranger::connect(quic).await;
        let (mut control, _replies) = stranger.connection.open_bi().await.expect("a stream");
        // The head suffices.
        control.write_all(&delimited::encode(&vec![0; len])[..3]).await.expect("open");
        assert_eq!(stranger.close_code().await, u64::from(close::TOO_BIG.code), "{len}");
    }
    let stranger = QuicStranger::connect(quic).await;
    let (mut control, mut replies) = stranger.connection.open_bi().await.expect("a stream");
    control.write_all(&subscribe_frame(1, "chat/7")).await.expect("open");
    let reply = timeout(secs(20), replies.read(&mut [0; 1_024])).await;
    reply.expect("a reply").expect("open").expect("not finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsolicited_datagrams_are_not_noticed() {
    withstand(|quic| async move {
        let stranger = QuicStranger::connect(quic).await;
        // The port allows datagrams for WebTransport. The node drops all of them.
        for _ in 0..4_000 {
            let sent = stranger.connection.send_datagram_wait(vec![7; 100].into()).await;
            sent.expect("the connection stays open");
        }
        let socket = UdpSocket::bind(SocketAddr::from((STRANGER, 0)))
            .await
            .expect("an address of this host");
        let initial = first_datagrams(quic).remove(0);
        // Short headers of no connection, an unknown version, a changed and a cut Initial, and noise.
        let mut unknown_version = initial.clone();
        unknown_version[1..5].copy_from_slice(&[0xba; 4]);
        let mut changed = initial.clone();
        changed[600] ^= 1;
        let noise: Vec<u8> = (0..1_200).map(|_| rand::random()).collect();
        let kinds = [vec![0x40; 60], unknown_version, changed, initial[..100].to_vec(), noise];
        let (mut sent, mut received, mut buffer) = (0, 0, [0; 2_048]);
        for nth in 0..4_000 {
            sent += socket.send_to(&kinds[nth % kinds.len()], quic).await.expect("sent");
            while let Ok(length) = socket.try_recv(&mut buffer) {
                received += length;
            }
        }
        assert!(received <= 3 * sent, "{received} bytes for {sent}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_flood_is_not_noticed() {
    withstand(|quic| async move {
        // The client sends a ping whenever it has sent nothing for this long.
        let interval = Duration::from_millis(1);
        let stranger = QuicStranger::connect_with(quic, |transport| {
            transport.keep_alive_interval(Some(interval));
        })
        .await;
        let _control = stranger.connection.open_bi().await.expect("a stream");
        sleep(secs(3)).await;
        let sent = stranger.connection.stats().frame_tx.ping;
        assert!(sent > 100, "{sent} pings");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_data_is_refused() {
    withstand(|quic| async move {
        let first = QuicStranger::connect(quic).await;
        let config = client_config(|_| {});
        for _ in 0..3 {
            // The first of these connections gets tickets, the others would send a publish before the handshake.
            let connecting =
                first.endpoint.connect_with(config.clone(), quic, "localhost").expect("valid");
            let connection = match connecting.into_0rtt() {
                Ok(_) => panic!("the node accepts requests that may be replayed"),
                Err(connecting) => connecting.await.expect("a handshake"),
            };
            let (mut control, mut replies) = connection.open_bi().await.expect("a stream");
            control.write_all(&subscribe_frame(1, "early/1")).await.expect("open");
            let reply = timeout(secs(20), replies.read(&mut [0; 1_024])).await;
            reply.expect("a reply").expect("open").expect("not finished");
            connection.close(VarInt::from_u32(1_000), b"normal");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storm_of_subscriptions_is_told_when_to_retry() {
    let flags = ["--subscribe-rate-max", "10"];
    let cluster = ProcessCluster::with_nodes(1).flags(&flags).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    let stranger = QuicStranger::connect(cluster.ports(0).quic).await;
    let (mut control, mut replies) = stranger.connection.open_bi().await.expect("a stream");
    let storm = (1..=300).flat_map(|nth| subscribe_frame(nth, &format!("storm/{nth}")));
    control.write_all(&storm.collect::<Vec<_>>()).await.expect("open");
    let mut decoder = FrameDecoder::new(1 << 20);
    let refused = async {
        loop {
            let chunk = replies.read_chunk(4_096, true).await.expect("open").expect("not finished");
            decoder.push(&chunk.bytes);
            while let Some(frame) = decoder.next().expect("a frame") {
                if let ServerEvent::Error { code, retry, retry_after_ms: 1.., message, .. } =
                    Encoding::Proto.decode_event(&frame).expect("an event")
                {
                    return (code, retry, message);
                }
            }
        }
    };
    let (code, retry, message) = timeout(secs(60), refused).await.expect("a refusal");
    assert!(code == ErrorCode::Overloaded && retry, "{code:?}");
    assert!(message.contains("--subscribe-rate-max"), "{message}");
    let rejected = cluster.metric_sum("pushonce_listener_subscribes_rejected_total", &[]).await;
    assert!(rejected > 0, "{rejected}");
    bystanders.assert_served(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_never_read_are_closed_and_hold_no_memory() {
    const TOPIC: &str = "flood/1";
    let flags = ["--session-heartbeat", "5s"];
    let cluster = ProcessCluster::with_nodes(1).flags(&flags).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        let stranger = QuicStranger::connect_with(cluster.ports(0).quic, |transport| {
            transport.stream_receive_window(VarInt::from_u32(1_024));
            transport.receive_window(VarInt::from_u32(2_048));
        })
        .await;
        let (mut control, replies) = stranger.connection.open_bi().await.expect("a stream");
        control.write_all(&subscribe_frame(1, TOPIC)).await.expect("open");
        strangers.push((stranger, control, replies));
    }
    let publisher = cluster.publisher(0);
    let payload = "x".repeat(32 << 10);
    for _ in 0..20 {
        for _ in 0..20 {
            publisher.publish(text_message(TOPIC, &payload)).await.expect("acknowledged");
        }
        bystanders.assert_served(1).await;
    }
    for (stranger, _control, _replies) in &strangers {
        assert_eq!(stranger.close_code().await, u64::from(close::SLOW.code));
    }
    drop((strangers, publisher));
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}
