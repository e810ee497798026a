//! Deltas of any content, and those that a server makes.

use fossil_delta::delta;
use pushonce_fuzz::Input;

use crate::delta::apply;

/// A base after its length, two bytes, big endian, then the rest.
fn seed(base: &[u8], rest: &[u8]) -> Vec<u8> {
    [&(base.len() as u16).to_be_bytes(), base, rest].concat()
}

const OLD: &[u8] = b"{\"home\":\"Germany\",\"away\":\"Brazil\",\"score\":[1,1],\"minute\":56}";
const NEW: &[u8] = b"{\"home\":\"Germany\",\"away\":\"Brazil\",\"score\":[2,1],\"minute\":57}";

#[test]
fn delta_of_any_content_is_rejected_or_gives_what_it_announces() {
    pushonce_fuzz::check!(
        "deltas",
        vec![seed(OLD, &delta(NEW, OLD)), seed(b"", b"0\n0;")],
        |input| {
            let mut input = Input::new(input);
            let len = input.u16();
            let base = input.bytes(usize::from(len));
            for bytes_max in [0, 100, 5_000] {
                let Ok(made) = apply(base, input.rest(), bytes_max) else { continue };
                assert!(made.len() <= bytes_max && made.capacity() <= bytes_max);
                // Whole: no part of a delta is one.
                assert!(apply(base, &input.rest()[..input.rest().len() - 1], bytes_max).is_err());
            }
        }
    );
}

#[test]
fn delta_of_the_server_applied_to_its_base_gives_the_message() {
    let text = [b'x'; 40];
    let seeds = vec![seed(OLD, NEW), seed(b"", NEW), seed(&text, &text[1..])];
    pushonce_fuzz::check!("server_deltas", seeds, |input| {
        let mut input = Input::new(input);
        let len = input.u16();
        let base = input.bytes(usize::from(len));
        let message = input.rest();
        assert_eq!(apply(base, &delta(message, base), message.len()).as_deref(), Ok(message));
    });
}
