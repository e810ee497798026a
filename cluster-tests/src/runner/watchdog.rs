//! Kills the nodes of a run when the run itself is killed.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A separate process that waits until this process ends for any reason, and then kills every node whose id
/// is in the `pids` file of a cluster below `dir`. A process that reuses the id of an ended node is left
/// alone, because its command line does not name that directory.
pub struct Watchdog {
    /// Closed by the kernel when this process ends.
    _alive: Option<ChildStdin>,
    _process: Child,
}

const SCRIPT: &str = r#"
cat > /dev/null
for file in "$0"/*/pids; do
  [ -f "$file" ] || continue
  while read -r pid; do
    if grep -qaF "$(dirname "$file")" "/proc/$pid/cmdline" 2> /dev/null; then
      kill -9 "$pid"
    fi
  done < "$file"
done
"#;

impl Watchdog {
    /// Starts the watchdog process.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn watch(dir: &Path) -> io::Result<Watchdog> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg(dir).stdin(Stdio::piped());
        // A process group of its own, so that Ctrl-C does not end the watchdog with this process.
        let mut process = command.process_group(0).spawn()?;
        Ok(Watchdog { _alive: process.stdin.take(), _process: process })
    }
}
