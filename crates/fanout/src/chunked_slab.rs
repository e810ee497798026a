//! [`ChunkedSlab`]: a table with stable indexes that copies at most one chunk when it grows.

use slab::Slab;

/// Entries of a full chunk. A chunk grows as a vector does, so a small table takes little more than its entries.
const CHUNK_ENTRIES: usize = 256;

/// A [`Slab`] in chunks. One slab of a million sessions copies tens of MiB when it grows, which stops its lane, and
/// the copies leave as much free memory behind as the table has.
#[derive(Debug)]
pub struct ChunkedSlab<T> {
    chunks: Vec<Slab<T>>,
    /// The indexes of the chunks with room. The last one is filled next.
    with_room: Vec<usize>,
    len: usize,
}

impl<T> Default for ChunkedSlab<T> {
    fn default() -> ChunkedSlab<T> {
        ChunkedSlab { chunks: Vec::new(), with_room: Vec::new(), len: 0 }
    }
}

impl<T> ChunkedSlab<T> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every index is below this bound.
    pub fn index_bound(&self) -> usize {
        let last = self.chunks.last().map_or(0, Slab::capacity).min(CHUNK_ENTRIES);
        self.chunks.len().saturating_sub(1) * CHUNK_ENTRIES + last
    }

    /// Adds an entry and returns its index, which a removed entry may have had.
    pub fn insert(&mut self, value: T) -> usize {
        let index = match self.with_room.last() {
            Some(&index) => index,
            None => self.add_chunk(),
        };
        let chunk = &mut self.chunks[index];
        let key = chunk.insert(value);
        if chunk.len() == CHUNK_ENTRIES {
            self.with_room.pop();
        }
        self.len += 1;
        index * CHUNK_ENTRIES + key
    }

    /// Adds a chunk and returns its index.
    fn add_chunk(&mut self) -> usize {
        let index = self.chunks.len();
        if index == 0 {
            // Most topics have one subscriber in a lane: a vector without a capacity takes room for four.
            self.chunks.reserve_exact(1);
            self.with_room.reserve_exact(1);
        }
        self.chunks.push(Slab::with_capacity(1));
        self.with_room.push(index);
        index
    }

    /// The entry at `index`.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK_ENTRIES)?.get(index % CHUNK_ENTRIES)
    }

    /// The entry at `index`.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK_ENTRIES)?.get_mut(index % CHUNK_ENTRIES)
    }

    /// Removes the entry at `index`, if there is one.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        let chunk = self.chunks.get_mut(index / CHUNK_ENTRIES)?;
        let was_full = chunk.len() == CHUNK_ENTRIES;
        let removed = chunk.try_remove(index % CHUNK_ENTRIES)?;
        if was_full {
            self.with_room.push(index / CHUNK_ENTRIES);
        }
        self.len -= 1;
        Some(removed)
    }

    /// The entries with their indexes, by index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.chunks.iter().enumerate().flat_map(|(chunk, entries)| {
            entries.iter().map(move |(key, value)| (chunk * CHUNK_ENTRIES + key, value))
        })
    }

    /// The entries, by index.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flatten().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(prop::sample::Index),
    }

    proptest! {
        #[test]
        fn table_has_the_entries_of_a_map(
            before in 0..3 * CHUNK_ENTRIES,
            steps in prop::collection::vec(
                prop_oneof![
                    any::<u32>().prop_map(Step::Insert),
                    any::<prop::sample::Index>().prop_map(Step::Remove),
                ],
                0..500,
            ),
        ) {
            let (mut table, mut model) = (ChunkedSlab::default(), BTreeMap::new());
            let inserts = (0..before).map(|_| Step::Insert(7));
            for step in inserts.chain(steps) {
                match step {
                    Step::Insert(value) => {
                        let index = table.insert(value);
                        prop_assert_eq!(model.insert(index, value), None);
                        prop_assert!(index < table.index_bound());
                    }
                    Step::Remove(of) if !model.is_empty() => {
                        let index = *model.keys().nth(of.index(model.len())).unwrap();
                        prop_assert_eq!(table.remove(index), model.remove(&index));
                        prop_assert_eq!(table.remove(index), None);
                    }
                    Step::Remove(_) => prop_assert_eq!(table.remove(3), None),
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let entries: BTreeMap<_, _> = table.iter().map(|(index, value)| (index, *value)).collect();
            prop_assert_eq!(&entries, &model);
            prop_assert!(table.iter().map(|(index, _)| index).is_sorted());
            for index in 0..table.index_bound() + 1 {
                prop_assert_eq!(table.get(index), model.get(&index));
                prop_assert_eq!(table.get_mut(index).copied(), model.get(&index).copied());
            }
            prop_assert!(table.values_mut().map(|value| *value).eq(model.into_values()));
        }
    }

    #[test]
    fn freed_room_is_used_before_a_new_chunk_is_made() {
        let mut table = ChunkedSlab::default();
        let indexes: Vec<_> = (0..2 * CHUNK_ENTRIES).map(|n| table.insert(n)).collect();
        assert_eq!((indexes[0], table.index_bound()), (0, 2 * CHUNK_ENTRIES));
        for index in [5, CHUNK_ENTRIES + 5, 6] {
            table.remove(index);
        }
        let mut again: Vec<_> = (0..3).map(|n| table.insert(n)).collect();
        again.sort_unstable();
        assert_eq!(again, [5, 6, CHUNK_ENTRIES + 5]);
        assert_eq!(table.index_bound(), 2 * CHUNK_ENTRIES);
    }
}
