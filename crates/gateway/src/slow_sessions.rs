//! Reports the sessions that are furthest behind, on request, without delaying any.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use pushonce_core::{Timestamp, Topic};
use pushonce_fanout::{LagScan, SessionLag};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::lane::LaneState;
use crate::metrics::TransportKind;

/// Requests that wait at a lane. More are answered without the lane: one request walks over all its subscriptions.
const REQUESTS_MAX: usize = 4;

/// Subscriptions between two turns of the other tasks of a lane: 0.4 ms in an unoptimized build.
const STEP_SUBSCRIPTIONS: usize = 4_096;

/// Maximum time for which a lane is waited for.
const LANE_TIMEOUT: Duration = Duration::from_secs(1);

/// A message that is newer than this is on its way, unless its session is blocked.
const LATE: Duration = Duration::from_millis(250);

/// A session that is behind the newest message of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowSession {
    /// Unique on the node while the session is open: lane and number.
    pub id: String,
    /// The transport, as in the labels of metrics.
    pub transport: &'static str,
    /// The address of the client, if the connection still has one.
    pub address: Option<SocketAddr>,
    /// The subject of the token.
    pub subject: Option<String>,
    /// Number of topics that the session subscribes to.
    pub topics: usize,
    /// The topic of which it is the furthest behind.
    pub topic: Topic,
    /// Number of messages of this topic that it has yet to receive.
    pub messages: u64,
    /// Payload bytes of those that are in the buffer of the node.
    pub bytes: u64,
    /// Age of the oldest of those.
    pub oldest: Duration,
    /// Whether the session waits until its client reads. Else it catches up.
    pub is_blocked: bool,
}

/// The sessions of a node that are furthest behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowSessions {
    /// The sessions, the furthest behind first.
    pub sessions: Vec<SlowSession>,
    /// Number of subscriptions that were looked at.
    pub subscriptions: u64,
    /// Whether a lane did not respond in time: its sessions are missing.
    pub is_incomplete: bool,
}

/// Searches the lanes of a gateway for slow sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SessionInspector {
    lanes: Vec<mpsc::Sender<InspectRequest>>,
}

/// A request to one lane.
pub(crate) struct InspectRequest {
    sessions_max: usize,
    response: oneshot::Sender<SlowSessions>,
}

/// What a session reports about itself.
pub(crate) struct SessionDescription {
    pub(crate) transport: TransportKind,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) subject: Option<String>,
}

impl SessionInspector {
    /// The inspector of this many lanes, with the receiver of each lane.
    pub(crate) fn new(lanes: usize) -> (SessionInspector, Vec<mpsc::Receiver<InspectRequest>>) {
        let (lanes, receivers) = (0..lanes).map(|_| mpsc::channel(REQUESTS_MAX)).unzip();
        (SessionInspector { lanes }, receivers)
    }

    /// The `sessions_max` sessions that are furthest behind. Subscribers over gRPC are no sessions of lanes.
    pub async fn slowest(&self, sessions_max: usize) -> SlowSessions {
        let requests = self.lanes.iter().map(|lane| request(lane, sessions_max));
        let mut all = SlowSessions::default();
        for lane in join_all(requests).await {
            all.merge(lane.unwrap_or_else(SlowSessions::missing), sessions_max);
        }
        all
    }
}

impl SlowSessions {
    fn missing() -> SlowSessions {
        SlowSessions { is_incomplete: true, ..SlowSessions::default() }
    }

    fn merge(&mut self, other: SlowSessions, sessions_max: usize) {
        self.sessions.extend(other.sessions);
        self.sessions.sort_by_key(|session| std::cmp::Reverse(session.messages));
        self.sessions.truncate(sessions_max);
        self.subscriptions += other.subscriptions;
        self.is_incomplete |= other.is_incomplete;
    }
}

async fn request(lane: &mpsc::Sender<InspectRequest>, sessions_max: usize) -> Option<SlowSessions> {
    let (response, receiver) = oneshot::channel();
    lane.try_send(InspectRequest { sessions_max, response }).ok()?;
    timeout(LANE_TIMEOUT, receiver).await.ok()?.ok()
}

/// Answers the requests to a lane.
pub(crate) async fn serve(
    index: usize,
    lane: Rc<LaneState>,
    mut requests: mpsc::Receiver<InspectRequest>,
) {
    while let Some(InspectRequest { sessions_max, response }) = requests.recv().await {
        if !response.is_closed() {
            // The other end may have timed out meanwhile.
            let _ = response.send(find(index, &lane, sessions_max).await);
        }
    }
}

async fn find(index: usize, lane: &LaneState, sessions_max: usize) -> SlowSessions {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let late_before = now.saturating_sub(LATE).as_millis();
    let late_before = Timestamp(u64::try_from(late_before).unwrap_or(u64::MAX));
    let mut scan = LagScan::new(sessions_max, late_before);
    while !lane.fanout.scan_lag(&mut scan, STEP_SUBSCRIPTIONS) {
        tokio::task::yield_now().await;
    }
    let (found, subscriptions) = scan.finish();
    let sessions = found.into_iter().filter_map(|lag| describe(index, lane, lag, now)).collect();
    SlowSessions { sessions, subscriptions, is_incomplete: false }
}

/// `None` for a session that ended meanwhile.
fn describe(index: usize, lane: &LaneState, lag: SessionLag, now: Duration) -> Option<SlowSession> {
    // An open session has a topic, and its own slot.
    let topics = Some(lane.fanout.topics(lag.session).len()).filter(|&topics| topics > 0)?;
    let session = lane.sessions.get(usize::try_from(lag.label).ok()?)?.describe();
    let oldest = lag.oldest.map_or(now, |time| Duration::from_millis(time.0));
    Some(SlowSession {
        id: format!("{index}-{}", lag.session.serial()),
        transport: session.transport.as_str(),
        address: session.address,
        subject: session.subject,
        topics,
        topic: lag.topic,
        messages: lag.messages,
        bytes: lag.bytes,
        oldest: now.saturating_sub(oldest),
        is_blocked: lag.is_blocked,
    })
}
