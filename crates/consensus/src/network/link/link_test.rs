use super::*;

const GROUP: GroupId = GroupId(1);
const TIMEOUT: Duration = Duration::from_secs(5);

fn link() -> (Arc<RaftLink>, u64) {
    let link = Arc::new(RaftLink::new(NodeId(2), AgreedVersion::default(), 1000, 64 << 10));
    let stream = link.open_stream();
    link.on_connected(ClusterVersion::FIRST);
    (link, stream)
}

fn send_request(link: &Arc<RaftLink>, bytes: usize) -> Result<PendingRequest, LinkError> {
    link.request(GROUP, Kind::Append, vec![0; bytes].into())
}

fn response(id: u64, body: &'static [u8]) -> pb::RaftResponse {
    let result = Some(pb::raft_response::Result::Body(Bytes::from_static(body)));
    pb::RaftResponse { id, result }
}

#[tokio::test]
async fn requests_are_sent_in_order_and_responses_matched_by_id() {
    let (link, stream) = link();
    let first = send_request(&link, 1).unwrap();
    let second = send_request(&link, 2).unwrap();
    let frame = link.next_frame(stream).await.unwrap();
    let ids: Vec<u64> = frame.requests.iter().map(|request| request.id).collect();
    assert_eq!(ids, [1, 2]);
    link.on_responses(vec![response(2, b"two"), response(1, b"one")]);
    assert_eq!(first.response_within(TIMEOUT).await.unwrap(), "one");
    assert_eq!(second.response_within(TIMEOUT).await.unwrap(), "two");
}

#[tokio::test]
async fn down_link_rejects_requests_and_broken_link_fails_pending_ones() {
    let (link, stream) = link();
    let waiting = send_request(&link, 1).unwrap();
    link.on_disconnected();
    assert_eq!(waiting.response_within(TIMEOUT).await, Err(LinkError::Broken(NodeId(2))));
    assert!(matches!(send_request(&link, 1), Err(LinkError::Down(_))));
    assert!(link.next_frame(stream).await.is_none(), "the old stream has not ended");
}

#[tokio::test]
async fn request_queue_is_bounded_in_bytes() {
    let (link, stream) = link();
    let _large = send_request(&link, 5000).unwrap();
    assert!(matches!(send_request(&link, 1), Err(LinkError::Full(_))));
    link.next_frame(stream).await.unwrap();
    assert!(send_request(&link, 1).is_ok());
}

#[tokio::test]
async fn request_times_out_and_is_removed_from_pending() {
    let (link, _) = link();
    let pending = send_request(&link, 1).unwrap();
    let late = pending.response_within(Duration::from_millis(1)).await;
    assert!(matches!(late, Err(LinkError::TimedOut { .. })));
    assert!(link.state().pending.is_empty());
    link.on_responses(vec![response(1, b"late")]);
}

#[tokio::test]
async fn entry_bytes_in_flight_are_bounded_and_oversized_append_is_sent_alone() {
    let (link, _) = link();
    let permit = link.reserve_entry_bytes(1 << 30).await;
    let mut next = std::pin::pin!(link.reserve_entry_bytes(1));
    assert!(futures::poll!(&mut next).is_pending());
    let sent = link.request_with_permit(permit, GROUP, Kind::Append, vec![0; 9].into());
    assert!(futures::poll!(&mut next).is_pending());
    link.on_responses(vec![response(1, b"")]);
    sent.unwrap().response_within(TIMEOUT).await.unwrap();
    assert!(next.await.is_some());
}

#[tokio::test]
async fn append_does_not_time_out_while_peer_answers_others() {
    const IDLE: Duration = Duration::from_millis(200);
    let (link, _) = link();
    let append = async || {
        let permit = link.reserve_entry_bytes(1).await;
        link.request_with_permit(permit, GROUP, Kind::Append, Bytes::new()).unwrap()
    };
    let last = append().await.response_while_progressing(IDLE, TIMEOUT);
    let answers = async {
        for id in 2..=8 {
            let _other = append().await;
            tokio::time::sleep(IDLE / 2).await;
            link.on_responses(vec![response(id, b"")]);
        }
        link.on_responses(vec![response(1, b"at last")]);
    };
    assert_eq!(futures::join!(last, answers).0.unwrap(), "at last");
    let silent = append().await.response_while_progressing(IDLE, TIMEOUT).await;
    assert!(matches!(silent, Err(LinkError::TimedOut { timeout: IDLE, .. })));
}
