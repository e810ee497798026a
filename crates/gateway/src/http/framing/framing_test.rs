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
fn request_after_chunks_or_trailers_of_uncertain_end_is_ambiguous() {
    const HEAD: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in ["0\r\nTrailer: a\n\r\n", "0\r\n\n", "0\n\r\n", "x\r\n\r\n", "ffffffffffffffff\r\n"]
    {
        let framing = scan(&[HEAD.as_bytes(), body.as_bytes(), GET.as_bytes()]);
        assert_eq!(framing.violation(2), Some(FramingViolation::PreviousBody), "{body:?}");
        assert_eq!(framing.violation(1), None);
    }
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
