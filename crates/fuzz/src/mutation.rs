//! Input for a bounded run: arbitrary bytes, and files of the corpus with a few changes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One change of an input.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    FlipBit(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Truncate(Index),
    /// Everything after the place is the end of another file.
    Splice(Index, Index, Index),
}

/// Input for a target with this corpus, which is not empty.
pub(crate) fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let files = corpus.clone();
    let changed =
        (select(corpus), vec(mutations(), 1..5)).prop_map(move |(mut input, mutations)| {
            mutations.into_iter().for_each(|mutation| mutation.apply(&mut input, &files));
            input
        });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..300)]
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let place = any::<Index>;
    prop_oneof![
        (place(), bytes()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (place(), 0..8_u8).prop_map(|(at, bit)| Mutation::FlipBit(at, bit)),
        (place(), vec(bytes(), 1..9)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (place(), 1..20_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (place(), 1..20_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        place().prop_map(Mutation::Truncate),
        (place(), place(), place()).prop_map(|(at, file, from)| Mutation::Splice(at, file, from)),
    ]
}

/// Bytes, among which those that parsers treat differently are frequent.
fn bytes() -> impl Strategy<Value = u8> {
    let special =
        [0, 1, 0x7f, 0x80, 0xff, b'\r', b'\n', b' ', b'"', b'/', b':', b'{', b'}', b'*', b'%'];
    prop_oneof![any::<u8>(), select(special.to_vec())]
}

impl Mutation {
    fn apply(self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let place = |at: Index, input: &[u8]| at.index(input.len() + 1);
        match self {
            Self::Replace(at, byte) if !input.is_empty() => *at.get_mut(input) = byte,
            Self::FlipBit(at, bit) if !input.is_empty() => *at.get_mut(input) ^= 1 << bit,
            Self::Replace(..) | Self::FlipBit(..) => {}
            Self::Insert(at, bytes) => {
                let at = place(at, input);
                input.splice(at..at, bytes);
            }
            Self::Remove(at, len) => {
                let at = place(at, input);
                input.drain(at..(at + len).min(input.len()));
            }
            Self::Repeat(at, len) => {
                let at = place(at, input);
                let end = (at + len).min(input.len());
                let repeated = input[at..end].to_vec();
                input.splice(at..at, repeated);
            }
            Self::Truncate(at) => input.truncate(place(at, input)),
            Self::Splice(at, file, from) => {
                let other = file.get(corpus);
                input.truncate(place(at, input));
                input.extend(&other[place(from, other)..]);
            }
        }
    }
}
