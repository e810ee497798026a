//! Finds the requests in the bytes of an HTTP/1 connection, and those that two parsers could read differently.
//!
//! The parser of hyper accepts some requests that RFC 9112 allows to be rejected: a bare LF as the end of a
//! line, a second `Content-Length` that repeats the first, `Content-Length` beside `Transfer-Encoding`. A proxy
//! in front of the node may read these differently and take a part of a body for the next request (request
//! smuggling). hyper removes the traces while it parses, so this scanner sees the bytes before hyper does. It
//! only observes: the gateway answers the request whose number [`RequestFraming::violation`] has.
//!
//! The scanner looks at each byte of a head once and skips bodies by their length. Where it cannot follow (a
//! malformed chunk or trailer) it stops, and the next request has a violation, if hyper finds one.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The prefix of a line that the scanner keeps: longer than `Content-Length` with the largest number.
const LINE_PREFIX_BYTES: usize = 48;

/// A request that two parsers could read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingViolation {
    /// A line ends with LF alone.
    #[error("a line of the request ends with LF alone; end every line with CR LF")]
    BareLf,
    /// A header line begins with white space (RFC 9112, 5.2).
    #[error("a header is folded over two lines; write it on one line")]
    FoldedLine,
    /// The head has a NUL byte.
    #[error("the head of the request has a NUL byte; remove it")]
    Nul,
    /// `Content-Length` occurs more than once, or as a list.
    #[error("send Content-Length once, with one number")]
    ContentLength,
    /// Both lengths are present.
    #[error("send either Content-Length or Transfer-Encoding, not both")]
    TwoLengths,
    /// `Transfer-Encoding` occurs more than once.
    #[error("send Transfer-Encoding once")]
    TransferEncoding,
    /// The chunks or trailers of the request before are malformed, so that its end is not certain.
    #[error(
        "the chunks or trailers of the previous request are malformed; end every line with CR LF"
    )]
    PreviousBody,
}

/// The scanner of one connection.
#[derive(Debug)]
pub(crate) struct RequestFraming {
    state: ScanState,
    line: LinePrefix,
    head: HeadLengths,
    /// The number of requests that began, the current one included.
    begun: u64,
    violation: Option<(u64, FramingViolation)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanState {
    /// Before or in the request line.
    RequestLine,
    /// In the header lines.
    Headers,
    /// In a body, or in a chunk with its line end.
    Body { remaining: u64, then_chunk: bool },
    /// In the line with the size of a chunk.
    ChunkSize,
    /// In the lines after the last chunk.
    Trailers,
    /// After a violation, or where the framing is unknown.
    Stopped,
}

/// The lengths that the headers of the current request give.
#[derive(Clone, Copy, Debug, Default)]
struct HeadLengths {
    content_length: Option<u64>,
    is_chunked: bool,
}

/// The begin of the current line.
#[derive(Debug)]
struct LinePrefix {
    bytes: [u8; LINE_PREFIX_BYTES],
    /// The length of the whole line so far.
    len: usize,
    last_byte: u8,
}

// === impl RequestFraming ===

impl RequestFraming {
    pub(crate) fn new() -> RequestFraming {
        RequestFraming {
            state: ScanState::RequestLine,
            line: LinePrefix::EMPTY,
            head: HeadLengths::default(),
            begun: 0,
            violation: None,
        }
    }

    /// The violation in the request with this number, from 1.
    pub(crate) fn violation(&self, request: u64) -> Option<FramingViolation> {
        self.violation.filter(|&(number, _)| number == request).map(|(_, violation)| violation)
    }

    /// Scans the next bytes of the connection.
    pub(crate) fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.state {
                ScanState::Stopped => return,
                ScanState::Body { remaining, then_chunk } => {
                    let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[len..];
                    *remaining -= len as u64;
                    if *remaining == 0 {
                        self.state = match *then_chunk {
                            true => ScanState::ChunkSize,
                            false => ScanState::RequestLine,
                        };
                    }
                }
                _ => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    let (piece, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    bytes = rest;
                    self.on_line_piece(piece, end.is_some());
                }
            }
        }
    }

    fn on_line_piece(&mut self, piece: &[u8], is_complete: bool) {
        let is_in_head = matches!(self.state, ScanState::RequestLine | ScanState::Headers);
        if self.state == ScanState::RequestLine
            && self.line.len == 0
            && piece.first() != Some(&b'\r')
        {
            self.begun += 1;
        }
        if is_in_head && piece.contains(&0) {
            return self.stop_with(FramingViolation::Nul);
        }
        let content = piece.strip_suffix(b"\n").unwrap_or(piece);
        self.line.extend(content);
        if !is_complete {
            return;
        }
        let line = std::mem::replace(&mut self.line, LinePrefix::EMPTY);
        let next = match line.without_cr() {
            Some(line) => self.on_line(line),
            // hyper accepts a bare LF in a head and in a trailer, and rejects it in a chunk.
            None if is_in_head => Err(Some(FramingViolation::BareLf)),
            None => Err(None),
        };
        match next {
            Ok(state) => self.state = state,
            Err(Some(violation)) => self.stop_with(violation),
            Err(None) => {
                self.violation = Some((self.begun + 1, FramingViolation::PreviousBody));
                self.state = ScanState::Stopped;
            }
        }
    }

    /// Handles a complete line, without its end. An error without a violation: the framing is unknown.
    fn on_line(&mut self, line: Line<'_>) -> Result<ScanState, Option<FramingViolation>> {
        match self.state {
            // Empty lines before a request are allowed (RFC 9112, 2.2).
            ScanState::RequestLine if line.is_empty() => Ok(ScanState::RequestLine),
            ScanState::RequestLine => {
                self.head = HeadLengths::default();
                Ok(ScanState::Headers)
            }
            ScanState::Headers if line.is_empty() => Ok(self.head.body_state()),
            ScanState::Headers => {
                self.head.on_header(line)?;
                Ok(ScanState::Headers)
            }
            ScanState::ChunkSize => match line.chunk_size() {
                None => Err(None),
                Some(0) => Ok(ScanState::Trailers),
                // The line end after the chunk.
                Some(size) => {
                    let remaining = size.checked_add(2).ok_or(None)?;
                    Ok(ScanState::Body { remaining, then_chunk: true })
                }
            },
            ScanState::Trailers if line.is_empty() => Ok(ScanState::RequestLine),
            ScanState::Trailers => Ok(ScanState::Trailers),
            ScanState::Body { .. } | ScanState::Stopped => Err(None),
        }
    }

    fn stop_with(&mut self, violation: FramingViolation) {
        self.violation = Some((self.begun, violation));
        self.state = ScanState::Stopped;
    }
}

// === impl HeadLengths ===

impl HeadLengths {
    fn on_header(&mut self, line: Line<'_>) -> Result<(), Option<FramingViolation>> {
        if matches!(line.prefix.first(), Some(b' ' | b'\t')) {
            return Err(Some(FramingViolation::FoldedLine));
        }
        if let Some(value) = line.value_of("content-length") {
            if self.is_chunked {
                return Err(Some(FramingViolation::TwoLengths));
            }
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            if self.content_length.is_some() || !is_number {
                return Err(Some(FramingViolation::ContentLength));
            }
            self.content_length = Some(value.parse().map_err(|_| FramingViolation::ContentLength)?);
        }
        if line.value_of("transfer-encoding").is_some() {
            if self.content_length.is_some() {
                return Err(Some(FramingViolation::TwoLengths));
            }
            if std::mem::replace(&mut self.is_chunked, true) {
                return Err(Some(FramingViolation::TransferEncoding));
            }
        }
        Ok(())
    }

    fn body_state(self) -> ScanState {
        match self.content_length {
            _ if self.is_chunked => ScanState::ChunkSize,
            None | Some(0) => ScanState::RequestLine,
            Some(remaining) => ScanState::Body { remaining, then_chunk: false },
        }
    }
}

// === impl LinePrefix ===

impl LinePrefix {
    const EMPTY: LinePrefix = LinePrefix { bytes: [0; LINE_PREFIX_BYTES], len: 0, last_byte: 0 };

    fn extend(&mut self, piece: &[u8]) {
        if let Some(free) = self.bytes.get_mut(self.len..) {
            let kept = piece.len().min(free.len());
            free[..kept].copy_from_slice(&piece[..kept]);
        }
        self.len += piece.len();
        self.last_byte = piece.last().copied().unwrap_or(self.last_byte);
    }

    /// The complete line without the CR at its end; `None` if it has none.
    fn without_cr(&self) -> Option<Line<'_>> {
        let len = self.len.checked_sub(1).filter(|_| self.last_byte == b'\r')?;
        Some(Line { prefix: &self.bytes[..len.min(LINE_PREFIX_BYTES)], len })
    }
}

/// A complete line without its end.
#[derive(Clone, Copy)]
struct Line<'a> {
    prefix: &'a [u8],
    len: usize,
}

impl Line<'_> {
    fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The value if the line is this header. A value that does not fit into the prefix is empty: no number.
    fn value_of(&self, header: &str) -> Option<&str> {
        let (name, value) = self.prefix.split_at_checked(header.len())?;
        if !name.eq_ignore_ascii_case(header.as_bytes()) {
            return None;
        }
        let value = value.strip_prefix(b":")?;
        let is_whole = self.len == self.prefix.len();
        Some(std::str::from_utf8(value).ok().filter(|_| is_whole).unwrap_or_default().trim())
    }

    fn chunk_size(self) -> Option<u64> {
        let size = self.prefix.split(|&byte| byte == b';').next()?.trim_ascii();
        let is_hex = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        u64::from_str_radix(std::str::from_utf8(size).ok().filter(|_| is_hex)?, 16).ok()
    }
}

/// A stream whose received bytes are scanned.
pub(crate) struct ScannedStream<S> {
    stream: S,
    framing: Rc<RefCell<RequestFraming>>,
}

impl<S> ScannedStream<S> {
    pub(crate) fn new(stream: S, framing: Rc<RefCell<RequestFraming>>) -> ScannedStream<S> {
        ScannedStream { stream, framing }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ScannedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.framing.borrow_mut().scan(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ScannedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "framing/framing_test.rs"]
mod framing_test;
#[cfg(test)]
mod fuzz;
