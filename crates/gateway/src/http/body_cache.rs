//! Response bodies that were made once and are served to many: pages of history, and compressed bodies.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pushonce_core::Topic;

/// Maximum bytes of all bodies: thousands of small ones, or the last minutes of a large event.
const BYTES_MAX: usize = 32 << 20;

/// Bytes of an entry besides the body and the names: the entry of the table.
const ENTRY_BYTES: usize = 160;

/// A topic and the entity tag of the representation. What a tag names never changes, so that nothing has to be
/// removed from the cache when a message arrives.
type BodyKey = (Topic, String);

/// The bodies. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct BodyCache(Arc<Mutex<Generations>>);

/// The bodies in two generations. When the newer one is full it becomes the older one, whose bodies are dropped.
/// A body that is used moves to the newer one: what is used often stays, without a list in the order of use.
#[derive(Default)]
struct Generations {
    newer: HashMap<BodyKey, Bytes>,
    newer_bytes: usize,
    older: HashMap<BodyKey, Bytes>,
}

impl BodyCache {
    /// The body with this tag, made by `make` unless it is known. `make` must not use the cache.
    pub(super) fn get_or_make(
        &self,
        topic: &Topic,
        tag: &str,
        make: impl FnOnce() -> Bytes,
    ) -> Bytes {
        let key = (topic.clone(), tag.to_owned());
        if let Some(body) = self.lock().get(&key) {
            return body;
        }
        // Made without the lock: another lane may make the same body at the same time, and none waits for it.
        let body = make();
        self.lock().insert(key, body.clone());
        body
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn get(&mut self, key: &BodyKey) -> Option<Bytes> {
        if let Some(body) = self.newer.get(key) {
            return Some(body.clone());
        }
        let (key, body) = self.older.remove_entry(key)?;
        self.insert(key, body.clone());
        Some(body)
    }

    fn insert(&mut self, key: BodyKey, body: Bytes) {
        let bytes = key.0.as_str().len() + key.1.len() + body.len() + ENTRY_BYTES;
        if self.newer_bytes + bytes > BYTES_MAX / 2 {
            self.older = mem::take(&mut self.newer);
            self.newer_bytes = 0;
        }
        if self.newer.insert(key, body).is_none() {
            self.newer_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic::new("a").expect("valid")
    }

    #[test]
    fn body_is_made_once_for_each_tag() {
        let cache = BodyCache::default();
        for _ in 0..3 {
            let mut made = 0;
            for tag in ["1:1", "1:2", "1:1"] {
                let body = cache.get_or_make(&topic(), tag, || {
                    made += 1;
                    tag.to_owned().into()
                });
                assert_eq!(body, tag);
            }
            assert!(made == 2 || made == 0, "{made}");
        }
        let known = cache.get_or_make(&topic(), "1:2", || unreachable!("it was made"));
        assert_eq!(known, "1:2");
    }

    #[test]
    fn bytes_are_bounded_and_a_body_in_use_stays() {
        let cache = BodyCache::default();
        let large = Bytes::from(vec![0; 1 << 20]);
        for n in 0..200 {
            cache.get_or_make(&topic(), &n.to_string(), || large.clone());
            cache.get_or_make(&topic(), "used", || {
                assert_eq!(n, 0, "the body that is in use was dropped");
                large.clone()
            });
        }
        let generations = cache.lock();
        let bodies = generations.newer.values().chain(generations.older.values());
        assert!(bodies.map(Bytes::len).sum::<usize>() <= BYTES_MAX);
    }
}
