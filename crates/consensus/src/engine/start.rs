//! Starts the replica of a group from the records on disk.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use openraft::Raft;
use pushonce_core::CoverageMark;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::task::TaskTracker;

use super::{ConsensusEngine, EngineInner, StartError};
use crate::adapter::StateMachineAdapter;
use crate::clock::BootTime;
use crate::group::{CheckEntryFn, CheckSnapshotFn, RaftGroupInner as GroupInner};
use crate::group_monitor;
use crate::leader_transfer::TransferAnnouncements;
use crate::lease::FollowerAcks;
use crate::log::RaftLog;
use crate::metrics;
use crate::network::PeerClientFactory;
use crate::recovery::{self, ReplicaRecovery};
use crate::snapshot::SnapshotStore;
use crate::store::unsupported_version;
use crate::term_guard::TermGuard;
use crate::vote_hold::VoteHold;
use crate::{GroupId, GroupStatus, RaftGroup, StateMachine};

/// The state of a replica as read from disk.
struct RestoredReplica {
    log: RaftLog,
    snapshot_store: Arc<SnapshotStore>,
    adapter: StateMachineAdapter,
    recovery: Option<ReplicaRecovery>,
}

impl ConsensusEngine {
    /// Starts a replica: restores its snapshot and log, or begins uninitialised.
    ///
    /// `machine` must be new and empty. On return it has applied all entries up to the last commit that is
    /// recorded on disk, and the status shows it.
    pub async fn start<M: StateMachine>(
        &self,
        id: GroupId,
        machine: M,
    ) -> Result<RaftGroup, StartError> {
        let _guard = self.0.lifecycle_lock.lock().await;
        if self.0.shutdown.is_cancelled() {
            return Err(StartError::Stopped);
        }
        if self.0.groups.get(id).is_some() {
            return Err(StartError::AlreadyRunning(id));
        }
        let damaged = |reason: String| StartError::Damaged { group: id, reason };
        let unreadable = |reason: String| StartError::Unreadable { group: id, reason };
        let replica = self.restore_replica(id, Box::new(machine)).await;
        let replica = replica.map_err(|error| match unsupported_version(&error) {
            Some(reason) => unreadable(reason.to_string()),
            None => damaged(error.to_string()),
        })?;
        // `Raft::build` applies the entries that are known to be committed.
        let halt_reason = replica.adapter.halt_reason();
        let built = self.build(id, replica, (M::check_entry, M::check_snapshot)).await;
        let group = built.map_err(|reason| match halt_reason.reason() {
            Some(reason) => unreadable(reason.to_owned()),
            None => damaged(reason),
        })?;
        // Peers may send requests as soon as the group is registered; elections begin afterwards.
        self.0.groups.insert(group.clone());
        group.0.tasks.spawn(group_monitor::run(group.clone()));
        group.raft().run();
        // openraft answers after its first metrics, so the first status shows the restored state, or the
        // error.
        let _ = group.raft().is_initialized().await;
        group.0.status.send_replace(group.read_status());
        Ok(group)
    }

    /// Reads the records on disk. If they are damaged and other voters have them, the replica starts without
    /// them and recovers.
    async fn restore_replica(
        &self,
        id: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> io::Result<RestoredReplica> {
        let settings = &self.0.settings;
        let (writer, stored) = self.0.writer.open(id).await?;
        // Without its vote a replica could vote twice in one term: it must not start.
        let vote_only_log =
            RaftLog::restore(writer.clone(), &recovery::salvage_vote(&stored), settings)?;
        recovery::check_vote(id, &stored, vote_only_log.vote())?;
        let restored = RaftLog::restore(writer.clone(), &stored, settings).and_then(|log| {
            let snapshot_store =
                SnapshotStore::restore(writer.clone(), &stored, log.snapshot_bytes())?;
            Ok((log, Arc::new(snapshot_store)))
        });
        let (error, machine) = match restored {
            Err(error) => (error, machine),
            Ok((log, snapshot_store)) => {
                let mut adapter = StateMachineAdapter::new(machine, Arc::clone(&snapshot_store));
                match adapter.load_snapshot().await {
                    Err(error) => (error, adapter.into_machine()),
                    Ok(()) => {
                        let recovery = match recovery::is_required(&stored) {
                            true => Some(ReplicaRecovery::begin(writer, false).await?),
                            false => None,
                        };
                        return Ok(RestoredReplica { log, snapshot_store, adapter, recovery });
                    }
                }
            }
        };
        let is_damaged = error.kind() == io::ErrorKind::InvalidData;
        if !is_damaged
            || !recovery::has_other_voters(self.0.me.0, &writer, &stored, vote_only_log.vote())
                .await
        {
            return Err(error);
        }
        tracing::error!(group = %id, %error, "replica damaged, recovering from the other voters; it does not vote until it has recovered");
        CoverageMark::DamagedReplicaRecovers.reach();
        metrics::DAMAGED_REPLICAS.register_counter(&[]).increment(1);
        let recovery = Some(ReplicaRecovery::begin(writer.clone(), true).await?);
        let snapshot_store =
            Arc::new(SnapshotStore::empty(writer, &stored, vote_only_log.snapshot_bytes()));
        let adapter = StateMachineAdapter::new(machine, Arc::clone(&snapshot_store));
        Ok(RestoredReplica { log: vote_only_log, snapshot_store, adapter, recovery })
    }

    async fn build(
        &self,
        id: GroupId,
        replica: RestoredReplica,
        (check_entry, check_snapshot): (CheckEntryFn, CheckSnapshotFn),
    ) -> Result<RaftGroup, String> {
        let RestoredReplica { log, snapshot_store, adapter, recovery } = replica;
        let EngineInner {
            me,
            settings,
            config,
            links,
            disk_reserve,
            groups,
            lease_times,
            cluster_nodes,
            fence,
            ..
        } = &*self.0;
        let (follower_acks, halt_reason) = (FollowerAcks::default(), adapter.halt_reason());
        let transfers = log.transfers();
        let vote_hold = VoteHold::new(lease_times.clone());
        let term_guard = Arc::<TermGuard>::default();
        let client_factory = PeerClientFactory {
            me: *me,
            group: id,
            log: log.clone(),
            follower_acks: follower_acks.clone(),
            transfers: transfers.clone(),
            vote_hold: vote_hold.clone(),
            term_guard: Arc::clone(&term_guard),
            links: links.clone(),
            settings: Arc::clone(settings),
        };
        let raft = Raft::build(me.0, Arc::clone(config), client_factory, log.clone(), adapter)
            .await
            .map_err(|error| error.to_string())?;
        // A leader's lease survives a restart of its followers, and openraft does not persist it: until it
        // has expired, this replica takes part in no other election.
        let restart_hold_since = log.follows_another(me.0).then(BootTime::now);
        if restart_hold_since.is_some() {
            vote_hold.on_leader_contact();
        }
        raft.runtime_config().elect(restart_hold_since.is_none() && recovery.is_none());
        Ok(RaftGroup(Arc::new(GroupInner {
            id,
            me: *me,
            raft,
            log,
            follower_acks,
            lease_times: lease_times.clone(),
            vote_hold,
            fence: fence.clone(),
            snapshot_store,
            halt_reason,
            check_entry,
            check_snapshot,
            answer: OnceLock::new(),
            recovery,
            incoming_snapshot: Arc::default(),
            transfers,
            links: links.clone(),
            disk_reserve: disk_reserve.clone(),
            settings: Arc::clone(settings),
            groups: groups.clone(),
            status: watch::Sender::new(GroupStatus::default()),
            status_dirty: Notify::new(),
            change_lock: Mutex::new(()),
            transferred_term: AtomicU64::new(0),
            announced_transfers: TransferAnnouncements::default(),
            term_guard,
            cluster_nodes: cluster_nodes.clone(),
            leader_last_log_index: AtomicU64::new(0),
            restart_hold_since,
            stopping: self.0.shutdown.child_token(),
            tasks: TaskTracker::new(),
        })))
    }
}
