use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::*;

/// A pipe without a reader: each write blocks until the test releases it.
struct StuckOutput(Receiver<()>);

impl Write for StuckOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Fails when the test has ended.
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FullOutput;

impl Write for FullOutput {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct MemoryOutput(Arc<Mutex<Vec<u8>>>);

impl Write for MemoryOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stuck_writer() -> (LogWriter, Sender<()>) {
    let (release, released) = channel();
    (LogWriter::start(StuckOutput(released)).expect("a thread"), release)
}

fn write(writer: &LogWriter, level: Level, bytes: &[u8]) {
    let mut line = LogLine { writer: writer.clone(), level };
    line.write_all(bytes).expect("a log line never fails");
}

#[test]
fn lines_are_written_in_order() {
    let memory = MemoryOutput::default();
    let writer = LogWriter::start(memory.clone()).expect("a thread");
    for number in 0..100 {
        write(&writer, Level::INFO, format!("{number}\n").as_bytes());
    }
    writer.flush();
    let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
    let written = memory.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(String::from_utf8_lossy(&written), expected);
    assert_eq!(writer.dropped_lines(), 0);
}

#[test]
fn stuck_output_does_not_block_callers_and_drops_lines_beyond_the_queue() {
    let (writer, _release) = stuck_writer();
    let started = Instant::now();
    for _ in 0..2 * QUEUED_LINES_MAX {
        write(&writer, Level::INFO, b"x\n");
    }
    // The thread may have taken one line from the queue.
    assert!((QUEUED_LINES_MAX - 1..=QUEUED_LINES_MAX).contains(&(writer.dropped_lines() as usize)));
    for _ in 0..100 {
        write(&writer, Level::ERROR, b"x\n");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn only_the_first_error_line_waits_for_stuck_output() {
    let (writer, _release) = stuck_writer();
    let started = Instant::now();
    for _ in 0..100 {
        write(&writer, Level::ERROR, b"x\n");
    }
    assert!(started.elapsed() < 20 * ERROR_WAIT_MAX, "{:?}", started.elapsed());
}

#[test]
fn queued_lines_are_bounded_in_bytes() {
    let (writer, _release) = stuck_writer();
    let line = vec![b'x'; QUEUED_BYTES_MAX / 4];
    for _ in 0..10 {
        write(&writer, Level::INFO, &line);
    }
    assert_eq!(writer.dropped_lines(), 6);
}

#[test]
fn lines_that_fail_to_be_written_are_counted() {
    let writer = LogWriter::start(FullOutput).expect("a thread");
    write(&writer, Level::INFO, b"x\n");
    write(&writer, Level::ERROR, b"x\n");
    writer.flush();
    assert_eq!(writer.dropped_lines(), 2);
}
