//! Starts the replica of a group from the records on disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use openraft::Raft;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::task::TaskTracker;

use super::{Engine, Inner, StartError};
use crate::adapter::Adapter;
use crate::clock::BootTime;
use crate::group::{Check, Inner as GroupInner};
use crate::hold::Hold;
use crate::lease::Followers;
use crate::log::Log;
use crate::network::Dialer;
use crate::observer;
use crate::recovery::{self, Recovery};
use crate::snapshot::Shelf;
use crate::store::unsupported;
use crate::{Group, GroupId, Machine, Status};

/// A replica as it was read.
struct Replica {
    log: Log,
    shelf: Arc<Shelf>,
    adapter: Adapter,
    recovery: Option<Recovery>,
}

impl Engine {
    /// Starts a replica: restores its snapshot and log, or begins uninitialised.
    ///
    /// `machine` must be new and empty. On return it has applied all entries up to the last commit that is
    /// recorded on disk, and the status shows it.
    pub async fn start<M: Machine>(&self, id: GroupId, machine: M) -> Result<Group, StartError> {
        let _gate = self.0.gate.lock().await;
        if self.0.shutdown.is_cancelled() {
            return Err(StartError::Stopped);
        }
        if self.0.groups.get(id).is_some() {
            return Err(StartError::AlreadyRunning(id));
        }
        let damaged = |why: String| StartError::Damaged { group: id, why };
        let unreadable = |why: String| StartError::Unreadable { group: id, why };
        let replica = self.restore(id, Box::new(machine)).await;
        let replica = replica.map_err(|error| match unsupported(&error) {
            Some(why) => unreadable(why.to_string()),
            None => damaged(error.to_string()),
        })?;
        // `Raft::build` applies the entries that are known to be committed.
        let halted = replica.adapter.halted();
        let built = self.build(id, replica, M::check).await;
        let group = built.map_err(|why| match halted.why() {
            Some(why) => unreadable(why.to_owned()),
            None => damaged(why),
        })?;
        // A peer may ask as soon as it is listed; elections begin after.
        self.0.groups.insert(group.clone());
        group.0.tasks.spawn(observer::run(group.clone()));
        group.raft().run();
        // openraft answers after its first metrics, so the first status shows the restored state, or the
        // error.
        let _ = group.raft().is_initialized().await;
        group.0.status.send_replace(group.look());
        Ok(group)
    }

    /// Reads the records on disk. If they are damaged and other voters have them, the replica starts without
    /// them and recovers.
    async fn restore(&self, id: GroupId, machine: Box<dyn Machine>) -> io::Result<Replica> {
        let settings = &self.0.settings;
        let (writer, stored) = self.0.writer.open(id).await?;
        // Without its vote a replica could vote twice in one term: it must not start.
        let bare = Log::restore(writer.clone(), &recovery::remains(&stored), settings)?;
        recovery::check_vote(id, &stored, bare.vote())?;
        let read = Log::restore(writer.clone(), &stored, settings).and_then(|log| {
            let shelf = Shelf::restore(writer.clone(), &stored, log.snapshot_bytes())?;
            Ok((log, Arc::new(shelf)))
        });
        let (why, machine) = match read {
            Err(why) => (why, machine),
            Ok((log, shelf)) => {
                let mut adapter = Adapter::new(machine, Arc::clone(&shelf));
                match adapter.load().await {
                    Err(why) => (why, adapter.into_machine()),
                    Ok(()) => {
                        let recovery = match recovery::is_due(&stored) {
                            true => Some(Recovery::begin(writer, false).await?),
                            false => None,
                        };
                        return Ok(Replica { log, shelf, adapter, recovery });
                    }
                }
            }
        };
        let damaged = why.kind() == io::ErrorKind::InvalidData;
        if !damaged || !recovery::has_others(self.0.me.0, &writer, &stored, bare.vote()).await {
            return Err(why);
        }
        tracing::error!(group = %id, %why, "a replica is damaged: it recovers from the others, and does not vote until it has");
        metrics::counter!("pushonce_damaged_replicas_total").increment(1);
        let recovery = Some(Recovery::begin(writer.clone(), true).await?);
        let shelf = Arc::new(Shelf::empty(writer, &stored, bare.snapshot_bytes()));
        let adapter = Adapter::new(machine, Arc::clone(&shelf));
        Ok(Replica { log: bare, shelf, adapter, recovery })
    }

    async fn build(&self, id: GroupId, replica: Replica, check: Check) -> Result<Group, String> {
        let Replica { log, shelf, adapter, recovery } = replica;
        let Inner { me, settings, config, links, space, groups, times, fence, .. } = &*self.0;
        let (followers, halted) = (Followers::default(), adapter.halted());
        let transfers = log.transfers();
        let hold = Hold::new(times.clone());
        let dialer = Dialer {
            me: *me,
            group: id,
            log: log.clone(),
            followers: followers.clone(),
            transfers: transfers.clone(),
            hold: hold.clone(),
            links: links.clone(),
            settings: Arc::clone(settings),
        };
        let raft = Raft::build(me.0, Arc::clone(config), dialer, log.clone(), adapter)
            .await
            .map_err(|error| error.to_string())?;
        // A leader's lease survives a restart of its followers, and openraft does not persist it: until it
        // has expired, this replica takes part in no other election.
        let bound_since = log.follows_another(me.0).then(BootTime::now);
        if bound_since.is_some() {
            hold.heard();
        }
        raft.runtime_config().elect(bound_since.is_none() && recovery.is_none());
        Ok(Group(Arc::new(GroupInner {
            id,
            me: *me,
            raft,
            log,
            followers,
            times: times.clone(),
            hold,
            fence: fence.clone(),
            shelf,
            halted,
            check,
            recovery,
            incoming: Arc::default(),
            transfers,
            links: links.clone(),
            space: space.clone(),
            settings: Arc::clone(settings),
            groups: groups.clone(),
            status: watch::Sender::new(Status::default()),
            nudge: Notify::new(),
            changing: Mutex::new(()),
            handed_over: AtomicU64::new(0),
            leader_log: AtomicU64::new(0),
            bound_since,
            stopping: self.0.shutdown.child_token(),
            tasks: TaskTracker::new(),
        })))
    }
}
