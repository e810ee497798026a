//! Controls a node's clock and fsyncs: a small library that is preloaded into the node, and the shared file
//! that controls it.
//!
//! It needs a C compiler, but neither root nor anything else of the machine.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The control of the library in one node, across restarts of its process.
pub struct Shim {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

/// The fields of the control file, eight bytes each, as in `shim.c`.
#[derive(Clone, Copy)]
enum ShimField {
    ClockStepNs,
    FsyncsToFail,
    FsyncDelayUs,
    Fsyncs,
    FsyncsFailed,
    FsyncsDelayed,
    SteppedClockReads,
}

/// Builds the library in `dir` unless it exists.
fn build_library(dir: &Path) -> Result<PathBuf, String> {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    if library.exists() {
        return Ok(library);
    }
    std::fs::write(&source, include_str!("shim.c")).map_err(|error| format!("shim.c: {error}"))?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source);
    let output = cc.arg("-ldl").output().map_err(|error| format!("no C compiler: {error}"))?;
    match output.status.success() {
        true => Ok(library),
        false => Err(format!("shim.c: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

impl Shim {
    /// Builds the library unless it exists, and creates the control file of a node.
    pub(crate) fn new(dir: &Path, name: &str) -> Result<Shim, String> {
        let library = build_library(dir)?;
        let path = dir.join(format!("{name}.shim"));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| format!("{name}.shim: {error}"))?;
        file.set_len((ShimField::SteppedClockReads as u64 + 1) * 8)
            .map_err(|error| error.to_string())?;
        Ok(Shim { library, path, file })
    }

    /// The environment variables of the node, which then ends with the thread that starts it.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 3] {
        let [library, path] = [&self.library, &self.path].map(|path| path.clone().into_os_string());
        let parent = std::process::id().to_string().into();
        [("LD_PRELOAD", library), ("RIG_SHIM", path), ("RIG_PARENT", parent)]
    }

    /// Steps the node's wall clock to `seconds` ahead of the true time.
    pub fn step_clock(&self, seconds: i64) {
        self.write(ShimField::ClockStepNs, (seconds * 1_000_000_000).cast_unsigned());
    }

    /// Makes the next `n` fsyncs fail with EIO.
    pub fn fail_fsyncs(&self, n: u64) {
        self.write(ShimField::FsyncsToFail, n);
    }

    /// Delays every fsync by this time.
    pub fn delay_fsyncs(&self, by: Duration) {
        self.write(ShimField::FsyncDelayUs, by.as_micros().try_into().unwrap_or(u64::MAX));
    }

    /// The number of fsyncs that still have to fail.
    pub fn fsyncs_to_fail(&self) -> u64 {
        self.read(ShimField::FsyncsToFail)
    }

    /// The number of fsyncs so far.
    pub fn fsyncs(&self) -> u64 {
        self.read(ShimField::Fsyncs)
    }

    /// The number of fsyncs that were made to fail.
    pub fn failed_fsyncs(&self) -> u64 {
        self.read(ShimField::FsyncsFailed)
    }

    /// The number of fsyncs that were delayed.
    pub fn delayed_fsyncs(&self) -> u64 {
        self.read(ShimField::FsyncsDelayed)
    }

    /// The number of times the wall clock was read while it was stepped.
    pub fn stepped_clock_reads(&self) -> u64 {
        self.read(ShimField::SteppedClockReads)
    }

    fn write(&self, field: ShimField, value: u64) {
        let written = self.file.write_all_at(&value.to_ne_bytes(), field as u64 * 8);
        written.expect("write the control file");
    }

    fn read(&self, field: ShimField) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, field as u64 * 8).expect("read the control file");
        u64::from_ne_bytes(bytes)
    }
}
