//! When this node's view of the cluster is current, and which settings its shards are given.
//!
//! A process that has just started shows the view that its disk had, or one that it is still being
//! sent. It then announces itself to the control group, which commits that like any other change. A
//! view that was applied up to the announcement has everything that was committed before the process
//! asked: from then on it is current. Later it is as old as the newest message of the control leader,
//! which is the best that a follower can know.
//!
//! Publishes are admitted and replicas are moved only with a current view. Shards begin without one
//! after [`CATCH_UP_MAX`]: their own log has the newest settings that any owner acted on, and older
//! ones cannot replace those, so a part of the cluster without the control majority keeps its shards.

use std::sync::Arc;
use std::time::Duration;

use pushonce_control::Control;
use pushonce_core::ClusterView;
use pushonce_shard::ShardSettings;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::timeout;

/// How long shards wait for a current view: several elections of the control group.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// The view once it is current, with every later one.
pub(super) type Current = Option<Arc<ClusterView>>;

/// Carries each view of `views` on once it has everything up to the `announced` index of the control
/// group's log. Ends with the control group.
pub(super) async fn follow(
    control: Control,
    mut announced: Receiver<Option<u64>>,
    mut views: Receiver<Arc<ClusterView>>,
    current: Sender<Current>,
) {
    let index = announced.wait_for(Option::is_some).await.map_or(None, |index| *index);
    let Some(index) = index else { return };
    let Some(applied) = control.applied(index).await else { return };
    if views.wait_for(|view| view.version >= applied.version).await.is_err() {
        return;
    }
    tracing::info!(index, version = applied.version, "the view of the cluster is current");
    loop {
        let view = views.borrow_and_update().clone();
        current.send_replace(Some(view));
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Gives the shards of this node the settings of each view: from the first current one on, or, after
/// [`CATCH_UP_MAX`] without one, from the newest that is known.
pub(super) async fn tell_shards(
    mut current: Receiver<Current>,
    mut views: Receiver<Arc<ClusterView>>,
    settings: Sender<Option<Arc<ShardSettings>>>,
) {
    #[cfg(feature = "planted-bugs")]
    if super::planted::begins_with_old_settings() {
        settings.send_modify(|known| _ = replace(known, &views.borrow()));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    if timeout(CATCH_UP_MAX, current.wait_for(Option::is_some)).await.is_err() {
        let version = views.borrow().version;
        tracing::warn!(version, "no current view of the cluster, shards begin with an older one");
    }
    loop {
        let view = views.borrow_and_update().clone();
        settings.send_if_modified(|known| replace(known, &view));
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Takes the settings of a view if they are others. Says whether it did.
fn replace(known: &mut Option<Arc<ShardSettings>>, view: &ClusterView) -> bool {
    let is_known = known.as_ref().is_some_and(|known| known.revision() == view.namespaces.revision);
    if !view.is_known() || is_known {
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
        view.shards = ShardCount::new(64).expect("not zero");
        view.namespaces = Namespaces { revision, ..Namespaces::default() };
        Arc::new(view)
    }

    fn revision(settings: &Receiver<Option<Arc<ShardSettings>>>) -> Option<u64> {
        settings.borrow().as_ref().map(|settings| settings.revision())
    }

    #[tokio::test(start_paused = true)]
    async fn shards_are_given_no_settings_before_the_view_is_current_or_the_wait_is_over() {
        let (current, is_current) = channel(None);
        let (views, viewed) = channel(view(5, 3));
        let (tell, told) = channel(None);
        let telling = tokio::spawn(tell_shards(is_current, viewed, tell));
        tokio::time::sleep(CATCH_UP_MAX / 2).await;
        assert_eq!(revision(&told), None, "the view may be old");
        views.send_replace(view(9, 7));
        current.send_replace(Some(view(9, 7)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(revision(&told), Some(7));
        views.send_replace(view(10, 7));
        views.send_replace(view(12, 12));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(revision(&told), Some(12));
        assert!(told.borrow().as_ref().is_some_and(|settings| settings.shards.get() == 64));
        telling.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_control_group_shards_begin_with_the_known_view_and_never_with_an_unknown_one()
     {
        let (_current, is_current) = channel(None);
        let (views, viewed) = channel(Arc::new(ClusterView::unknown(ClusterId(1))));
        let (tell, told) = channel(None);
        let telling = tokio::spawn(tell_shards(is_current, viewed, tell));
        tokio::time::sleep(CATCH_UP_MAX * 2).await;
        assert_eq!(revision(&told), None);
        views.send_replace(view(5, 3));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(revision(&told), Some(3));
        telling.abort();
    }
}
