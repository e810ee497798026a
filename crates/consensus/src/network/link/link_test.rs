use super::*;

const GROUP: GroupId = GroupId(1);
const TTL: Duration = Duration::from_secs(5);

fn link() -> (Arc<Link>, u64) {
    let link = Arc::new(Link::new(NodeId(2), AgreedVersion::default(), 1000, 64 << 10));
    let stream = link.begin();
    link.up(ClusterVersion::FIRST);
    (link, stream)
}

fn ask(link: &Arc<Link>, bytes: usize) -> Result<Pending, LinkError> {
    link.request(GROUP, Kind::Append, vec![0; bytes].into(), Bytes::new())
}

fn answer(id: u64, body: &'static [u8]) -> pb::RaftResponse {
    let result = Some(pb::raft_response::Result::Body(Bytes::from_static(body)));
    pb::RaftResponse { id, result }
}

#[tokio::test]
async fn requests_leave_in_order_and_answers_find_their_askers() {
    let (link, stream) = link();
    let first = ask(&link, 1).unwrap();
    let second = ask(&link, 2).unwrap();
    let frame = link.frame(stream).await.unwrap();
    let ids: Vec<u64> = frame.requests.iter().map(|request| request.id).collect();
    assert_eq!(ids, [1, 2]);
    link.answered(vec![answer(2, b"two"), answer(1, b"one")]);
    assert_eq!(first.within(TTL).await.unwrap(), "one");
    assert_eq!(second.within(TTL).await.unwrap(), "two");
}

#[tokio::test]
async fn a_link_that_is_down_refuses_at_once_and_one_that_breaks_fails_all_that_wait() {
    let (link, stream) = link();
    let waiting = ask(&link, 1).unwrap();
    link.down();
    assert_eq!(waiting.within(TTL).await, Err(LinkError::Broken(NodeId(2))));
    assert!(matches!(ask(&link, 1), Err(LinkError::Down(_))));
    assert!(link.frame(stream).await.is_none(), "an old stream goes on");
}

#[tokio::test]
async fn what_waits_for_a_peer_is_bounded_in_bytes() {
    let (link, stream) = link();
    let _large = ask(&link, 5000).unwrap();
    assert!(matches!(ask(&link, 1), Err(LinkError::Full(_))));
    link.frame(stream).await.unwrap();
    assert!(ask(&link, 1).is_ok());
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for_and_not_remembered() {
    let (link, _) = link();
    let pending = ask(&link, 1).unwrap();
    let late = pending.within(Duration::from_millis(1)).await;
    assert!(matches!(late, Err(LinkError::Late { .. })));
    assert!(link.state().pending.is_empty());
    link.answered(vec![answer(1, b"late")]);
}

#[tokio::test]
async fn pieces_of_snapshots_go_out_behind_everything_else_and_take_turns() {
    let (link, stream) = link();
    let piece = |n: u8| link.request(GROUP, Kind::Snapshot, Bytes::new(), vec![n; 9].into());
    let first_turn = link.piece_turn().await;
    let _second_turn = link.piece_turn().await;
    let mut third_turn = std::pin::pin!(link.piece_turn());
    assert!(futures::poll!(&mut third_turn).is_pending(), "any number is on its way");
    let _pieces = (piece(1).unwrap(), piece(2).unwrap());
    let _heartbeat = ask(&link, 1).unwrap();
    let kinds = async || {
        let frame = link.frame(stream).await.unwrap();
        frame.requests.iter().map(pb::RaftRequest::kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds().await, [Kind::Append, Kind::Snapshot]);
    let _heartbeat = ask(&link, 1).unwrap();
    assert_eq!(kinds().await, [Kind::Append, Kind::Snapshot]);
    drop(first_turn);
    assert!(third_turn.await.is_some());
}

#[tokio::test]
async fn entries_on_their_way_are_bounded_and_an_oversized_append_is_sent_alone() {
    let (link, _) = link();
    let room = link.room_for_entries(1 << 30).await;
    let mut next = std::pin::pin!(link.room_for_entries(1));
    assert!(futures::poll!(&mut next).is_pending());
    let sent = link.request_in(room, GROUP, Kind::Append, vec![0; 9].into(), Bytes::new());
    assert!(futures::poll!(&mut next).is_pending());
    link.answered(vec![answer(1, b"")]);
    sent.unwrap().within(TTL).await.unwrap();
    assert!(next.await.is_some());
}

#[tokio::test]
async fn an_append_is_not_late_while_the_peer_answers_others() {
    const IDLE: Duration = Duration::from_millis(200);
    let (link, _) = link();
    let append = async || {
        let room = link.room_for_entries(1).await;
        link.request_in(room, GROUP, Kind::Append, Bytes::new(), Bytes::new()).unwrap()
    };
    let last = append().await.while_answering(IDLE, TTL);
    let answers = async {
        for id in 2..=8 {
            let _other = append().await;
            tokio::time::sleep(IDLE / 2).await;
            link.answered(vec![answer(id, b"")]);
        }
        link.answered(vec![answer(1, b"at last")]);
    };
    assert_eq!(futures::join!(last, answers).0.unwrap(), "at last");
    let silent = append().await.while_answering(IDLE, TTL).await;
    assert!(matches!(silent, Err(LinkError::Late { ttl: IDLE, .. })));
}
