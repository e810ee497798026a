//! One thread that holds sessions: its runtime, its listener, its share of everything.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{ClusterView, Delivery, TooFast, Topic};
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
use crate::connection::Place;
use crate::metrics::Meters;
use crate::pressure::{self, Load, MemoryUse, Pressure};
use crate::registry::{self, Registry};
use crate::session::Limits;
use crate::{Behind, Config, Publisher, Rounds, connection, pin, quic};

/// The lane's one buffer for reading, whoever is read: what a kernel hands over at once from a busy
/// client. Smaller means more reads of large frames, larger is never filled.
const SCRATCH_BYTES: usize = 64 << 10;

/// A pause when the system has no descriptor left: without it the lane would spin, and closing
/// sessions is what frees some.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How many connections are taken in before everything else of the lane has its turn. The handshake of
/// one costs some 100 µs, as a turn of the fan-out's 256 offers costs a millisecond: in a storm the two
/// take turns, whoever is connected waits some milliseconds, and whoever is not, in the backlog.
const ACCEPTS_PER_TURN: usize = 16;

/// Connections of a lane that are answered once while there is no room: probes and scrapers are a few,
/// each gone within milliseconds; of a crowd that comes to a full server so many are told why at a time.
const ASIDE_MAX: usize = 16;

/// What the sessions of a lane share. Never leaves the lane's thread.
pub(crate) struct Local {
    pub(crate) config: Arc<Config>,
    /// Of each session.
    pub(crate) limits: Rc<Limits>,
    pub(crate) fanout: pushonce_fanout::Lane,
    pub(crate) publisher: Arc<dyn Publisher>,
    /// Of the settings of the namespaces.
    view: watch::Receiver<Arc<ClusterView>>,
    pub(crate) sessions: Registry,
    /// Filled and read within one poll of one task.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) meters: Meters,
    /// Connections, over all lanes.
    pub(crate) room: Arc<Semaphore>,
    /// Those beyond them, for one answer each.
    aside: Arc<Semaphore>,
    pressure: Cell<Pressure>,
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
    let Parts { config, behind, router, listener, quic, room, memory, rounds } = parts;
    let Behind { hub, publisher, view, .. } = behind;
    let (fanout, driver) = hub.lane();
    let leaving = shutdown.child_token();
    let local = Rc::new(Local::new(config, fanout, publisher, view, room, memory, leaving.clone()));
    let listener = TcpListener::from_std(listener)?;
    let quic = quic.map(|door| quic::Endpoint::open(door, local.clone())).transpose()?;
    let over = CancellationToken::new();
    local.spawn(driver.run(over.clone()));
    let mut quic = quic.map(|endpoint| tokio::task::spawn_local(endpoint.run(over.clone())));
    let round = || rounds.count(index);
    tokio::select! {
        () = accept_tcp(&local, listener, router) => {}
        () = beat(&local, round) => {}
        () = ended(&mut quic), if quic.is_some() => {}
        () = leaving.cancelled() => {}
    }
    // Those whose turn to go has not come are served as before.
    tokio::select! {
        () = take_leave(&local) => {}
        () = beat(&local, round) => {}
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

async fn accept_tcp(local: &Rc<Local>, listener: TcpListener, router: axum::Router) {
    for turn in 1.. {
        if turn % ACCEPTS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => admit(local, stream, &router),
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                local.meters.accept_failed.increment(1);
                tracing::warn!(%error, "cannot accept a connection; raise the limit of open files");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// The connection broke before it was taken: no reason to wait for the next.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(local: &Rc<Local>, stream: TcpStream, router: &axum::Router) {
    let Some(place) = local.place() else { return connection::turn_away(&stream) };
    // A frame is whole when it is written; to wait for more only delays it. A failure means that
    // the connection is gone, which is noticed when it is read.
    let _ = stream.set_nodelay(true);
    limit_stuck(&stream, local.config.heartbeat);
    let served = connection::serve(local.clone(), stream, router.clone(), place);
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

async fn beat(local: &Local, round: impl Fn()) {
    let mut ticks = tokio::time::interval(Registry::tick_every(local.config.heartbeat));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut load = Load::default();
    loop {
        ticks.tick().await;
        local.feel(&mut load);
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
            publish_bytes_max: 2 * config.frame_bytes_max,
        };
        Local {
            config,
            limits: Rc::new(limits),
            fanout,
            publisher,
            view,
            sessions: Registry::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            meters: Meters::new(),
            room,
            aside: Arc::new(Semaphore::new(ASIDE_MAX)),
            pressure: Cell::default(),
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
        self.view.borrow().namespaces.of(topic).grant(asked)
    }

    /// Does what the load asks for, and gives the sessions whose turn it is their beat.
    fn feel(&self, load: &mut Load) {
        let backlog = pressure::share(self.fanout.take_lag(), pressure::BACKLOG_MAX);
        let now = load.follow(backlog.max(self.memory.share()));
        if self.pressure.replace(now) != now {
            tracing::warn!(pressure = ?now, backlog, memory = self.memory.share(), "load changed");
            let widens = now >= Pressure::Widen;
            self.fanout.widen(if widens { pressure::WIDENED } else { Duration::ZERO });
        }
        match now {
            Pressure::Easy | Pressure::Widen | Pressure::Close => self.sessions.tick(),
            Pressure::Shed => self.meters.shed.increment(self.sessions.shed() as u64),
        }
    }

    /// Counts as a connection until it is dropped.
    pub(crate) fn count_in(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    /// A place for one more connection over TCP.
    fn place(&self) -> Option<Place> {
        let aside = || self.aside.clone().try_acquire_owned().ok();
        self.permit().map(Place::inside).or_else(|| aside().map(Place::aside))
    }

    /// A place for one more session.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let takes = self.pressure.get() < Pressure::Close;
        let permit = takes.then(|| self.room.clone().try_acquire_owned().ok()).flatten();
        if permit.is_none() {
            self.meters.full.increment(1);
        }
        permit
    }
}
