//! Decides when this node's view of the cluster is current, and which settings its shards get.
//!
//! A process that has just started has the view that its disk had, or one that it is still receiving. It
//! then announces itself to the control group, which commits the announcement like any other change. A
//! view that is applied up to the announcement contains everything that was committed before the process
//! asked: from then on it is current. Later it is as old as the newest message of the control leader, as
//! with any follower.
//!
//! Publishes are accepted and replicas are moved only with a current view. Shards start without one after
//! [`CATCH_UP_TIMEOUT`]: their own log has the newest settings that any owner acted on, and older settings
//! cannot replace those. So a part of the cluster without the control majority keeps its shards.

use std::sync::Arc;
use std::time::Duration;

use pushonce_control::ControlHandle;
use pushonce_core::{ClusterView, CoverageMark, FailPoint};
use pushonce_shard::ShardSettings;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::timeout;

/// How long shards wait for a current view: several elections of the control group.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// The newest view, once it is current; `None` before.
pub(super) type CurrentView = Option<Arc<ClusterView>>;

/// Forwards each view once it contains everything up to the announced index of the control group's log.
/// Ends with the control group.
pub(super) async fn follow_current_view(
    control: ControlHandle,
    mut announced: Receiver<Option<u64>>,
    mut views: Receiver<Arc<ClusterView>>,
    current: Sender<CurrentView>,
) {
    let index = announced.wait_for(Option::is_some).await.map_or(None, |index| *index);
    let Some(index) = index else { return };
    let Some(applied) = control.wait_applied(index).await else { return };
    if views.wait_for(|view| view.version >= applied.version).await.is_err() {
        return;
    }
    tracing::info!(index, version = applied.version, "cluster view is current");
    loop {
        let view = views.borrow_and_update().clone();
        current.send_replace(Some(view));
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Passes the settings of each view to the shards of this node: from the first current view on, or, after
/// [`CATCH_UP_TIMEOUT`] without one, from the newest known view.
pub(super) async fn update_shard_settings(
    mut current: Receiver<CurrentView>,
    mut views: Receiver<Arc<ClusterView>>,
    settings: Sender<Option<Arc<ShardSettings>>>,
) {
    if FailPoint::OutdatedSettingsApplied.is_active() {
        settings.send_modify(|known| _ = update_if_changed(known, &views.borrow()));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    if timeout(CATCH_UP_TIMEOUT, current.wait_for(Option::is_some)).await.is_err() {
        CoverageMark::ShardsStartWithoutView.reach();
        let version = views.borrow().version;
        tracing::warn!(
            version,
            "no current cluster view in time, starting shards with an older one"
        );
    }
    loop {
        let view = views.borrow_and_update().clone();
        settings.send_if_modified(|known| update_if_changed(known, &view));
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Replaces the settings if those of the view differ. Returns whether it did.
fn update_if_changed(known: &mut Option<Arc<ShardSettings>>, view: &ClusterView) -> bool {
    let is_unchanged =
        known.as_ref().is_some_and(|known| known.revision() == view.namespaces.revision);
    if !view.is_known() || is_unchanged {
        return false;
    }
    let namespaces = view.namespaces.clone();
    *known = Some(Arc::new(ShardSettings { shards: view.shards, namespaces }));
    true
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ClusterId, Namespaces, ShardCount};
    use tokio::sync::watch::channel;

    use super::*;

    fn view(version: u64, revision: u64) -> Arc<ClusterView> {
        let mut view = ClusterView::unknown(ClusterId(1));
        view.version = version;
        view.shards = ShardCount::new(64).expect("the count is not zero");
        view.namespaces = Namespaces { revision, ..Namespaces::default() };
        Arc::new(view)
    }

    fn revision(settings: &Receiver<Option<Arc<ShardSettings>>>) -> Option<u64> {
        settings.borrow().as_ref().map(|settings| settings.revision())
    }

    #[tokio::test(start_paused = true)]
    async fn shards_get_settings_only_once_the_view_is_current() {
        let (current, current_receiver) = channel(None);
        let (views, view_receiver) = channel(view(5, 3));
        let (settings_sender, settings_receiver) = channel(None);
        let updating =
            tokio::spawn(update_shard_settings(current_receiver, view_receiver, settings_sender));
        tokio::time::sleep(CATCH_UP_TIMEOUT / 2).await;
        assert_eq!(revision(&settings_receiver), None, "the view may be old");
        views.send_replace(view(9, 7));
        current.send_replace(Some(view(9, 7)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(revision(&settings_receiver), Some(7));
        views.send_replace(view(10, 7));
        views.send_replace(view(12, 12));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(revision(&settings_receiver), Some(12));
        assert!(
            settings_receiver.borrow().as_ref().is_some_and(|settings| settings.shards.get() == 64)
        );
        updating.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_control_group_shards_start_with_the_stored_view_but_never_an_unknown_one()
    {
        let (_current, current_receiver) = channel(None);
        let (views, view_receiver) = channel(Arc::new(ClusterView::unknown(ClusterId(1))));
        let (settings_sender, settings_receiver) = channel(None);
        let updating =
            tokio::spawn(update_shard_settings(current_receiver, view_receiver, settings_sender));
        tokio::time::sleep(CATCH_UP_TIMEOUT * 2).await;
        assert_eq!(revision(&settings_receiver), None);
        views.send_replace(view(5, 3));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(revision(&settings_receiver), Some(3));
        updating.abort();
    }
}
