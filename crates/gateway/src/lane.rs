//! One thread that holds sessions: its runtime, its listener, its share of everything.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{ClusterView, Delivery, Publish, TooFast, Topic};
use pushonce_listener::{DescriptorBudget, Listener, Purpose};
use pushonce_proto::client::Encoding;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[cfg(target_os = "linux")]
use crate::STUCK_INTERVALS;
use crate::admission::{LaneAdmission, ShortagesSeen};
use crate::connection::ConnectionPermit;
use crate::metrics::{Meters, Shortage};
use crate::overflow::Overflow;
use crate::pressure::{self, Load, MemoryUse, Pressure};
use crate::registry::{self, Registry};
use crate::session::Limits;
use crate::{Behind, Config, Publisher, Rounds, connection, pin, quic};

/// The lane's one buffer for reading, whoever is read: what a kernel hands over at once from a busy
/// client. Smaller means more reads of large frames, larger is never filled.
const SCRATCH_BYTES: usize = 64 << 10;

/// How many connections are taken in before everything else of the lane has its turn. The handshake of
/// one costs some 100 µs, as a turn of the fan-out's 256 offers costs a millisecond: in a storm the two
/// take turns, whoever is connected waits some milliseconds, and whoever is not, in the backlog.
const ACCEPTS_PER_TURN: usize = 16;

/// JSON may write every byte of a text as `\u0041`; base64 takes far less.
const JSON_BYTES_A_BYTE: usize = 6;

/// Bytes of a frame beside its payload: the topic, the key and the names of the fields, and room to
/// answer a payload that is over its limit.
const FRAME_BYTES_BESIDE: usize = 64 << 10;

/// Connections that were turned away and are kept for as long as their client needs to read the
/// answer. One more is closed at once.
const LINGERING_MAX: usize = 64;

/// What the sessions of a lane share. Never leaves the lane's thread.
pub(crate) struct Local {
    pub(crate) config: Arc<Config>,
    /// Of each session.
    pub(crate) limits: Rc<Limits>,
    pub(crate) fanout: pushonce_fanout::Lane,
    pub(crate) publisher: Arc<dyn Publisher>,
    /// Of the settings of the namespaces.
    view: RefCell<watch::Receiver<Arc<ClusterView>>>,
    /// By the view that was seen last.
    payload_bytes_max: Cell<usize>,
    pub(crate) sessions: Registry,
    /// Filled and read within one poll of one task.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) meters: Meters,
    /// Connections, over all lanes.
    pub(crate) room: Arc<Semaphore>,
    /// Which descriptors they may use.
    descriptors: DescriptorBudget,
    overflow: Rc<Overflow>,
    pub(crate) lingering: Arc<Semaphore>,
    pressure: Cell<Pressure>,
    shortages: ShortagesSeen,
    memory: MemoryUse,
    /// Cancelled when the lane takes in nobody any more.
    pub(crate) leaving: CancellationToken,
    connections: TaskTracker,
}

/// What a lane is made of.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) behind: Behind,
    pub(crate) router: axum::Router,
    pub(crate) listener: std::net::TcpListener,
    /// Where QUIC comes in, if it does on this lane.
    pub(crate) quic: Option<quic::Door>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) memory: MemoryUse,
    pub(crate) rounds: Rounds,
    pub(crate) admission: LaneAdmission,
}

/// Starts the thread of lane `index`. `ended` hears how it went; it is dropped if the lane panics.
pub(crate) fn start(
    index: usize,
    parts: Parts,
    shutdown: CancellationToken,
    ended: oneshot::Sender<io::Result<()>>,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("lane-{index}")).spawn(move || {
        if parts.config.pin_lanes {
            pin::pin(index, parts.config.lanes);
        }
        // Nobody listens when the gateway was dropped.
        let _ = ended.send(live(index, parts, shutdown));
    })
}

fn live(index: usize, parts: Parts, shutdown: CancellationToken) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(run(index, parts, shutdown))
}

async fn run(index: usize, parts: Parts, shutdown: CancellationToken) -> io::Result<()> {
    let Parts { config, behind, router, listener, quic, room, memory, rounds, admission } = parts;
    let Behind { hub, publisher, view, .. } = behind;
    let (fanout, driver) = hub.lane();
    let leaving = shutdown.child_token();
    let local = Rc::new(Local::new(config, fanout, publisher, view, room, memory, leaving.clone()));
    let listener = Listener::new("http", TcpListener::from_std(listener)?);
    let quic = quic.map(|door| quic::Endpoint::open(door, local.clone())).transpose()?;
    let over = CancellationToken::new();
    local.spawn(driver.run(over.clone()));
    let mut quic = quic.map(|endpoint| tokio::task::spawn_local(endpoint.run(over.clone())));
    let round = || rounds.count(index);
    tokio::select! {
        () = accept_tcp(&local, listener, router) => {}
        () = beat(&local, &admission, round) => {}
        () = ended(&mut quic), if quic.is_some() => {}
        () = leaving.cancelled() => {}
    }
    // Those whose turn to go has not come are served as before.
    tokio::select! {
        () = take_leave(&local) => {}
        () = beat(&local, &admission, round) => {}
    }
    over.cancel();
    ended(&mut quic).await;
    Ok(())
}

/// QUIC does not end before its lane is over, unless by a panic: that is the lane's then.
async fn ended(quic: &mut Option<JoinHandle<()>>) {
    let Some(task) = quic else { return };
    let ended = task.await;
    *quic = None;
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Sessions are told to go one by one, answers in flight are finished, within the grace time.
async fn take_leave(local: &Local) {
    local.connections.close();
    let grace = local.config.grace;
    let leave = async {
        dismiss(local).await;
        local.connections.wait().await;
    };
    if tokio::time::timeout(grace, leave).await.is_err() {
        let left = local.connections.len();
        tracing::warn!(left, ?grace, "connections were cut off: they did not end in time");
    }
}

/// Between two groups of sessions that are told to go: a hundred groups in the usual grace time.
const DISMISS_PAUSE: Duration = Duration::from_millis(40);

/// Tells the sessions to go, spread over their part of the grace time.
async fn dismiss(local: &Local) {
    let within = local.config.grace * 4 / 5;
    let begun = Instant::now();
    let mut told = 0;
    loop {
        let due = registry::departed(begun.elapsed(), within);
        local.sessions.dismiss(told..due, within);
        told = due;
        if due == registry::DEPARTURES || local.sessions.is_empty() {
            return;
        }
        tokio::time::sleep(DISMISS_PAUSE).await;
    }
}

async fn accept_tcp(local: &Rc<Local>, listener: Listener, router: axum::Router) {
    for turn in 1.. {
        if turn % ACCEPTS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        admit(local, listener.accept().await, &router);
    }
}

fn admit(local: &Rc<Local>, stream: TcpStream, router: &axum::Router) {
    let Some(permit) = local.admit(&stream) else { return connection::turn_away(local, stream) };
    // A frame is whole when it is written; to wait for more only delays it. A failure means that
    // the connection is gone, which is noticed when it is read.
    let _ = stream.set_nodelay(true);
    limit_stuck(&stream, local.config.heartbeat);
    let served = connection::serve(local.clone(), stream, router.clone(), permit);
    local.connections.spawn_local(served);
}

/// Has the system end a connection whose client takes nothing any more. A session has its own
/// verdict one interval earlier, with a close code; an HTTP answer has only this, and would be held
/// for as long as its client cares to keep the connection.
#[cfg(target_os = "linux")]
fn limit_stuck(stream: &TcpStream, heartbeat: Duration) {
    let timeout = heartbeat * u32::from(STUCK_INTERVALS + 1);
    // A failure means that the connection is gone.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(timeout));
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn limit_stuck(_: &TcpStream, _: Duration) {}

async fn beat(local: &Local, admission: &LaneAdmission, round: impl Fn()) {
    let mut ticks = tokio::time::interval(Registry::tick_every(local.config.heartbeat));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut load = Load::default();
    loop {
        ticks.tick().await;
        local.feel(&mut load, admission);
        round();
    }
}

// === impl Local ===

impl Local {
    pub(crate) fn new(
        config: Arc<Config>,
        fanout: pushonce_fanout::Lane,
        publisher: Arc<dyn Publisher>,
        view: watch::Receiver<Arc<ClusterView>>,
        room: Arc<Semaphore>,
        memory: MemoryUse,
        leaving: CancellationToken,
    ) -> Local {
        let limits = Limits {
            subscriptions_max: config.subscriptions_max,
            publishes_max: config.publishes_max,
            // Two of the largest: one that waits does not refuse the next.
            publish_bytes_max: 2 * Publish::PAYLOAD_BYTES_CAP,
        };
        let payload_bytes_max = view.borrow().namespaces.payload_bytes_max();
        Local {
            config,
            limits: Rc::new(limits),
            fanout,
            publisher,
            payload_bytes_max: Cell::new(payload_bytes_max),
            view: RefCell::new(view),
            sessions: Registry::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            meters: Meters::new(),
            room,
            descriptors: DescriptorBudget::of_process(),
            overflow: Rc::default(),
            lingering: Arc::new(Semaphore::new(LINGERING_MAX)),
            pressure: Cell::default(),
            shortages: ShortagesSeen::default(),
            memory,
            leaving,
            connections: TaskTracker::new(),
        }
    }

    /// Runs a task of a session. It ends with the lane's runtime at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// Runs a connection: the lane waits for it when it takes its leave.
    pub(crate) fn spawn_connection(&self, task: impl Future<Output = ()> + 'static) {
        self.connections.spawn_local(task);
    }

    /// What a session gets of what it asks for, as the topic's namespace is now.
    pub(crate) fn grant(
        &self,
        topic: &Topic,
        asked: Option<Delivery>,
    ) -> Result<Delivery, TooFast> {
        self.view.borrow().borrow().namespaces.of(topic).grant(asked)
    }

    /// Bytes of one frame from a client, after its fragments were joined. More closes the session with
    /// [`TOO_BIG`](pushonce_proto::close::TOO_BIG).
    ///
    /// The largest payload of any namespace fits, however it is written, and so does one that is a
    /// little over: it is refused in words.
    pub(crate) fn frame_bytes_max(&self, encoding: Encoding) -> usize {
        let mut view = self.view.borrow_mut();
        if view.has_changed().unwrap_or(false) {
            let view = view.borrow_and_update();
            self.payload_bytes_max.set(view.namespaces.payload_bytes_max());
        }
        let longest = match encoding {
            Encoding::Json => JSON_BYTES_A_BYTE,
            Encoding::Proto => 1,
        };
        longest * self.payload_bytes_max.get() + FRAME_BYTES_BESIDE
    }

    /// Does what the load asks for, and gives the sessions whose turn it is their beat.
    fn feel(&self, load: &mut Load, admission: &LaneAdmission) {
        let backlog = pressure::share(self.fanout.take_lag(), pressure::BACKLOG_MAX);
        let now = load.follow(backlog.max(self.memory.share()));
        if self.pressure.replace(now) != now {
            tracing::warn!(pressure = ?now, backlog, memory = self.memory.share(), "load changed");
            let widens = now >= Pressure::Widen;
            self.fanout.widen(if widens { pressure::WIDENED } else { Duration::ZERO });
        }
        self.look_for_shortages();
        admission.set(now, &self.shortages, std::time::Instant::now());
        match now {
            Pressure::Easy | Pressure::Widen | Pressure::Close => self.sessions.tick(),
            Pressure::Shed => self.meters.shed.increment(self.sessions.shed() as u64),
        }
    }

    /// Notices a node that is full before the next client does: clients are sent to a node that is ready.
    fn look_for_shortages(&self) {
        let now = std::time::Instant::now();
        if self.room.available_permits() == 0 {
            self.shortages.see(Shortage::Connections, now);
        }
        if !self.descriptors.has_room(Purpose::Client) {
            self.shortages.see(Shortage::Descriptors, now);
        }
    }

    /// A new connection is rejected.
    fn reject(&self, shortage: Shortage) {
        self.meters.rejected(shortage);
        self.shortages.see(shortage, std::time::Instant::now());
    }

    /// Counts as a connection until it is dropped.
    pub(crate) fn count_in(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// The permit of one more connection over TCP.
    fn admit(&self, stream: &impl AsRawFd) -> Option<ConnectionPermit> {
        if !self.has_descriptor_for_client(stream) {
            self.reject(Shortage::Descriptors);
        } else if let Some(permit) = self.permit() {
            return Some(ConnectionPermit::Regular { _permit: permit });
        }
        let probes = self.descriptors.admits(Purpose::Probe, stream);
        let permit = if probes { self.overflow.admit() } else { None };
        permit.map(ConnectionPermit::Overflow)
    }

    /// Whether the descriptor of a connection is one that clients may keep.
    pub(crate) fn has_descriptor_for_client(&self, stream: &impl AsRawFd) -> bool {
        self.descriptors.admits(Purpose::Client, stream)
    }

    /// The permit of one more session.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if self.pressure.get() >= Pressure::Close {
            self.reject(Shortage::Load);
            return None;
        }
        let permit = self.room.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.reject(Shortage::Connections);
        }
        permit
    }
}
