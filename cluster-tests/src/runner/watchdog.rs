//! Ends what a run started when the run itself was killed.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A process of its own that waits for the end of this one, whatever ends it, and then ends every
/// node whose id was written to the `pids_file` file of a cluster below `dir`. A process that only has
/// the id of a node that is long gone is left alone: it does not name that directory.
pub struct Watchdog {
    /// Closed by the kernel when this process is gone.
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
    /// Begins to watch.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn watch(dir: &Path) -> io::Result<Watchdog> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg(dir).stdin(Stdio::piped());
        // In a group of its own: the Ctrl-C that ends us must not end it.
        let mut process = command.process_group(0).spawn()?;
        Ok(Watchdog { _alive: process.stdin.take(), _process: process })
    }
}
