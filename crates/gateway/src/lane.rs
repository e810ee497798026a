//! One thread that holds sessions: its runtime, its listener, its share of everything.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_fanout::Hub;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[cfg(target_os = "linux")]
use crate::STUCK_INTERVALS;
use crate::metrics::Meters;
use crate::registry::Registry;
use crate::{Config, Publisher, Rounds, connection, quic};

/// The lane's one buffer for reading, whoever is read: what a kernel hands over at once from a busy
/// client. Smaller means more reads of large frames, larger is never filled.
const SCRATCH_BYTES: usize = 64 << 10;

/// A pause when the system has no descriptor left: without it the lane would spin, and closing
/// sessions is what frees some.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What the sessions of a lane share. Never leaves the lane's thread.
pub(crate) struct Local {
    pub(crate) config: Arc<Config>,
    pub(crate) fanout: pushonce_fanout::Lane,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) sessions: Registry,
    /// Filled and read within one poll of one task.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) meters: Meters,
    /// Connections, over all lanes.
    pub(crate) room: Arc<Semaphore>,
    /// Cancelled when the lane takes in nobody any more.
    pub(crate) leaving: CancellationToken,
    connections: TaskTracker,
}

/// What a lane is made of.
pub(crate) struct Parts {
    pub(crate) config: Arc<Config>,
    pub(crate) hub: Hub,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) router: axum::Router,
    pub(crate) listener: std::net::TcpListener,
    /// Where QUIC comes in, if it does on this lane.
    pub(crate) quic: Option<quic::Door>,
    pub(crate) room: Arc<Semaphore>,
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
        // Nobody listens when the gateway was dropped.
        let _ = ended.send(live(index, parts, shutdown));
    })
}

fn live(index: usize, parts: Parts, shutdown: CancellationToken) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(run(index, parts, shutdown))
}

async fn run(index: usize, parts: Parts, shutdown: CancellationToken) -> io::Result<()> {
    let Parts { config, hub, publisher, router, listener, quic, room, rounds } = parts;
    let (fanout, driver) = hub.lane();
    let leaving = shutdown.child_token();
    let local = Rc::new(Local::new(config, fanout, publisher, room, leaving.clone()));
    let listener = TcpListener::from_std(listener)?;
    let quic = quic.map(|door| quic::Endpoint::open(door, local.clone())).transpose()?;
    let over = CancellationToken::new();
    local.spawn(driver.run(over.clone()));
    let mut quic = quic.map(|endpoint| tokio::task::spawn_local(endpoint.run(over.clone())));
    tokio::select! {
        () = accept_tcp(&local, listener, router) => {}
        () = beat(&local, || rounds.count(index)) => {}
        () = ended(&mut quic), if quic.is_some() => {}
        () = leaving.cancelled() => {}
    }
    take_leave(&local).await;
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

/// Sessions say goodbye, answers in flight are finished, within the grace time.
async fn take_leave(local: &Local) {
    local.sessions.dismiss();
    local.connections.close();
    let grace = local.config.grace;
    if tokio::time::timeout(grace, local.connections.wait()).await.is_err() {
        let left = local.connections.len();
        tracing::warn!(left, ?grace, "connections were cut off: they did not end in time");
    }
}

async fn accept_tcp(local: &Rc<Local>, listener: TcpListener, router: axum::Router) {
    loop {
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
    let Some(permit) = local.permit() else { return connection::turn_away(&stream) };
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

async fn beat(local: &Local, round: impl Fn()) {
    let mut ticks = tokio::time::interval(Registry::tick_every(local.config.heartbeat));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        local.sessions.tick();
        round();
    }
}

// === impl Local ===

impl Local {
    pub(crate) fn new(
        config: Arc<Config>,
        fanout: pushonce_fanout::Lane,
        publisher: Arc<dyn Publisher>,
        room: Arc<Semaphore>,
        leaving: CancellationToken,
    ) -> Local {
        Local {
            config,
            fanout,
            publisher,
            sessions: Registry::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            meters: Meters::new(),
            room,
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

    /// Counts as a connection until it is dropped.
    pub(crate) fn count_in(&self) -> TaskTrackerToken {
        self.connections.token()
    }

    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.room.clone().try_acquire_owned().ok();
        if permit.is_none() {
            self.meters.full.increment(1);
        }
        permit
    }
}
