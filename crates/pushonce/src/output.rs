//! The output of the process: answers on standard output, notices and log lines on standard error.
//!
//! `print!` panics when the reader of a pipe is gone, and so does `eprint!` on a full disk. Nothing here
//! does: an answer that cannot be written ends the command with a typed error, a notice that cannot be
//! written is dropped, and log lines go through [`log`], which never blocks a caller.
//!
//! Text for people is escaped ([`escape`]); JSON in a pipe or a file is exact.

pub mod escape;
pub mod log;

use std::io::{self, IsTerminal as _, Write};

/// An answer could not be written to standard output.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader of the pipe is gone, as in `… | head -1`. The command ends silently, with
    /// [`EXIT_BROKEN_PIPE`].
    #[error("the reader of standard output is gone")]
    BrokenPipe,
    /// Any other error of the operating system.
    #[error("cannot write to standard output ({0}): free space or redirect the output elsewhere")]
    Io(#[source] io::Error),
}

/// Exit status of a command whose reader is gone: what a shell reports of a program that SIGPIPE ended,
/// 128 + 13.
pub const EXIT_BROKEN_PIPE: u8 = 141;

/// Writes lines of text to standard output and flushes them.
///
/// # Errors
/// [`OutputError`] when they cannot be written.
pub fn write_text(text: &str) -> Result<(), OutputError> {
    write_to(&mut io::stdout().lock(), escape::escape_lines(text).as_bytes())
}

/// Clears the screen if standard output is a terminal.
///
/// # Errors
/// [`OutputError`] when it cannot be written.
pub fn clear_terminal() -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    if !stdout.is_terminal() {
        return Ok(());
    }
    // The cursor to the top left, then everything below it (ECMA-48, CUP and ED).
    write_to(&mut stdout, b"\x1b[H\x1b[J")
}

/// Writes one line of text, without the line break, to standard output and flushes it.
///
/// # Errors
/// [`OutputError`] when it cannot be written.
pub fn write_line(text: impl std::fmt::Display) -> Result<(), OutputError> {
    let line = escape::escape_lines(&text.to_string());
    write_to(&mut io::stdout().lock(), format!("{line}\n").as_bytes())
}

/// Writes one JSON text with a line break to standard output and flushes it. Exact unless standard output is a
/// terminal.
///
/// # Errors
/// [`OutputError`] when it cannot be written.
pub fn write_json(json: impl std::fmt::Display) -> Result<(), OutputError> {
    let stdout = io::stdout();
    let line = json_line(json, stdout.is_terminal());
    write_to(&mut stdout.lock(), line.as_bytes())
}

/// Writes a line to standard error for the user at the terminal. Dropped when it cannot be written: the
/// result of the command does not depend on it.
pub fn notice(text: impl std::fmt::Display) {
    let line = format!("{}\n", escape::escape_lines(&text.to_string()));
    // There is no other output to report the failure on.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Like [`notice`], for a JSON text.
pub fn notice_json(json: impl std::fmt::Display) {
    let stderr = io::stderr();
    let line = json_line(json, stderr.is_terminal());
    let _ = stderr.lock().write_all(line.as_bytes());
}

fn json_line(json: impl std::fmt::Display, is_terminal: bool) -> String {
    let json = json.to_string();
    let json = if is_terminal { escape::escape_json(&json) } else { json };
    json + "\n"
}

fn write_to(to: &mut impl Write, bytes: &[u8]) -> Result<(), OutputError> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => OutputError::BrokenPipe,
        _ => OutputError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FailingWriter(io::ErrorKind);

    impl Write for FailingWriter {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn json_is_exact_unless_it_goes_to_a_terminal() {
        let json = "{\"a\":\"\u{9b}2J\"}";
        assert_eq!(json_line(json, false), format!("{json}\n"));
        assert_eq!(json_line(json, true), "{\"a\":\"\\u009b2J\"}\n");
    }

    #[test]
    fn broken_pipe_and_full_disk_are_different_errors() {
        let broken_pipe = write_to(&mut FailingWriter(io::ErrorKind::BrokenPipe), b"x");
        assert!(matches!(broken_pipe, Err(OutputError::BrokenPipe)));
        let disk_full = write_to(&mut FailingWriter(io::ErrorKind::StorageFull), b"x");
        assert!(matches!(disk_full, Err(OutputError::Io(_))));
        assert!(write_to(&mut Vec::new(), b"x").is_ok());
    }
}
