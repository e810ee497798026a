//! A history as a file of JSON lines, one record per line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use super::HistoryRecord;

/// Writes a history to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, records: &[HistoryRecord]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads a history from a file.
///
/// # Errors
/// If the file cannot be read, or a line is not a valid record: the message names the line.
pub fn read(path: &Path) -> io::Result<Vec<HistoryRecord>> {
    let lines = BufReader::new(File::open(path)?).lines().enumerate();
    let record = |(number, line): (usize, io::Result<String>)| {
        serde_json::from_str(&line?)
            .map_err(|error| io::Error::other(format!("line {}: {error}", number + 1)))
    };
    lines.map(record).collect()
}
