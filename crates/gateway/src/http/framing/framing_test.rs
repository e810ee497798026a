use proptest::prelude::*;

use super::*;

fn scan(pieces: &[&[u8]]) -> RequestFraming {
    let mut framing = RequestFraming::new();
    pieces.iter().for_each(|piece| framing.scan(piece));
    framing
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\0\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    3;x=y\r\n\n\0\n\r\n0A\r\n\n\n\n\n\n\n\n\n\n\n\r\n0\r\nTrailer: a\r\n\r\n";

#[test]
fn well_formed_requests_are_counted_and_bodies_are_skipped() {
    let all = [GET, POST, CHUNKED, "\r\n", GET, POST].concat();
    let framing = scan(&[all.as_bytes()]);
    assert_eq!((framing.begun, framing.violation), (5, None));
    assert_eq!(framing.state, ScanState::RequestLine);
}

#[test]
fn ambiguous_request_is_found_with_its_number() {
    use FramingViolation::*;
    for (request, violation) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", FoldedLine),
        ("GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", FoldedLine),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Nul),
        ("GET / HTTP/1.1\r\nA: \0\r\n\r\n", Nul),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", ContentLength),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", ContentLength),
        (
            "POST / HTTP/1.1\r\nContent-Length: 00000000000000000000000000000000000000000000000005\r\n\r\n",
            ContentLength,
        ),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", TwoLengths),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", TwoLengths),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            TransferEncoding,
        ),
    ] {
        for (before, number) in [("", 1), (GET, 2), (POST, 2), (CHUNKED, 2)] {
            let framing = scan(&[before.as_bytes(), request.as_bytes(), GET.as_bytes()]);
            assert_eq!(framing.violation(number), Some(violation), "{before:?} {request:?}");
            assert_eq!(framing.violation(number + 1), None);
        }
    }
}

proptest! {
    #[test]
    fn result_does_not_depend_on_how_the_bytes_are_split(
        which in prop::collection::vec(0_usize..6, 1..5),
        cuts in prop::collection::vec(1_usize..9, 0..200),
    ) {
        let folded = "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n";
        let parts = [GET, POST, CHUNKED, "\r\n", "GET / HTTP/1.1\nHost: a\r\n\r\n", folded];
        let bytes = which.iter().map(|&part| parts[part]).collect::<String>().into_bytes();
        let whole = scan(&[&bytes]);
        let mut split = RequestFraming::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            split.scan(piece);
            rest = more;
        }
        split.scan(rest);
        prop_assert_eq!(whole.violation, split.violation);
        prop_assert_eq!(whole.begun, split.begun);
        prop_assert_eq!(whole.state, split.state);
    }

    #[test]
    fn any_bytes_are_scanned_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        scan(&[b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes]);
        scan(&[&bytes]);
    }
}
