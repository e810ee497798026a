//! The keys that an issuer has removed, and the notification of their removal.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::key::VerificationKey;

/// Notifies of changes of the accepted keys, whether files or fetched sets changed. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct KeyChanges(Arc<watch::Sender<()>>);

impl KeyChanges {
    /// Notifies all receivers. Called after the new keys are in place.
    pub(crate) fn notify(&self) {
        self.0.send_replace(());
    }

    /// Receives every later change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

impl Default for KeyChanges {
    fn default() -> KeyChanges {
        KeyChanges(Arc::new(watch::Sender::new(())))
    }
}

/// The ids of the keys of `old` that are not in `new`, for the audit log. A key that got another id is still there.
pub(crate) fn removed_keys(
    old: &BTreeMap<Option<String>, VerificationKey>,
    new: &BTreeMap<Option<String>, VerificationKey>,
) -> Vec<String> {
    let is_removed =
        |key: &VerificationKey| !new.values().any(|other| other.fingerprint() == key.fingerprint());
    let removed = old.iter().filter(|(_, key)| is_removed(key));
    removed.map(|(id, _)| id.clone().unwrap_or_else(|| "without id".to_owned())).collect()
}
