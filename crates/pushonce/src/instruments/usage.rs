//! What processes of this machine use: their CPU time and memory, as Linux tells it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

/// The tick of `/proc/PID/stat`: a hundredth of a second on every Linux, whatever the kernel's own.
const TICK: Duration = Duration::from_millis(10);

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    /// User and system time since it began.
    cpu: Duration,
    /// What it holds in memory.
    rss_bytes: u64,
}

/// Watches the generator and the servers it was told of from one moment on.
pub struct Watch {
    since: Instant,
    /// `None` where there is no `/proc`.
    own: Option<Sample>,
    servers: Vec<(u32, Sample)>,
}

/// What was used between two moments.
#[derive(Clone, Debug)]
pub struct Usage {
    /// From the first moment to the second.
    pub took: Duration,
    /// CPU time of this process; `None` where that is not told.
    pub own: Option<Duration>,
    /// Those that have not ended.
    pub servers: Vec<Server>,
}

/// What one server used.
#[derive(Clone, Debug)]
pub struct Server {
    /// Which.
    pub pid: u32,
    /// User and system time.
    pub cpu: Duration,
    /// Resident at the end.
    pub rss_bytes: u64,
}

impl Watch {
    /// Begins now, with this process and those of `pids`.
    ///
    /// # Errors
    /// When one of `pids` is no process that can be looked at.
    pub fn begin(pids: &[u32]) -> anyhow::Result<Watch> {
        let server = |&pid: &u32| {
            let sample = sample(&pid.to_string());
            Ok((pid, sample.with_context(|| format!("--server-pid {pid} cannot be looked at"))?))
        };
        let servers = pids.iter().map(server).collect::<anyhow::Result<_>>()?;
        Ok(Watch { since: Instant::now(), own: sample("self").ok(), servers })
    }

    /// What was used until now. A server that has ended is left out.
    pub fn end(&self) -> Usage {
        let own = self.own.and_then(|before| {
            sample("self").ok().map(|after| after.cpu.saturating_sub(before.cpu))
        });
        let server = |&(pid, before): &(u32, Sample)| {
            let after = sample(&pid.to_string()).ok()?;
            let cpu = after.cpu.saturating_sub(before.cpu);
            Some(Server { pid, cpu, rss_bytes: after.rss_bytes })
        };
        let servers = self.servers.iter().filter_map(server).collect();
        Usage { took: self.since.elapsed(), own, servers }
    }

    /// Begins anew, at a moment at which the processes were found already.
    pub fn restart(&mut self) {
        self.own = sample("self").ok();
        for (pid, before) in &mut self.servers {
            *before = sample(&pid.to_string()).unwrap_or(*before);
        }
        self.since = Instant::now();
    }

    /// What the servers held when the watch began.
    pub fn rss_bytes(&self) -> u64 {
        self.servers.iter().map(|(_, sample)| sample.rss_bytes).sum()
    }
}

impl Usage {
    /// A line a process; `units` of what `unit` names were done for it.
    pub fn text(&self, units: u64, unit: &str) -> String {
        let line = |who: &str, cpu: Duration, more: &str| {
            let cores = cpu.as_secs_f64() / self.took.as_secs_f64();
            let each = match units {
                0 => String::new(),
                _ => format!(", {:.2} µs a {unit}", micros_each(cpu, units)),
            };
            format!("{who:<14} {cores:.2} cores{each}{more}\n")
        };
        let own = self.own.map(|cpu| line("generator", cpu, ""));
        let servers = self.servers.iter().map(|server| {
            let mib = server.rss_bytes as f64 / f64::from(1 << 20);
            line(&format!("server {}", server.pid), server.cpu, &format!(", {mib:.1} MiB"))
        });
        let together = (self.servers.len() > 1).then(|| line("servers", self.servers_cpu(), ""));
        own.into_iter().chain(servers).chain(together).collect()
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let server = |server: &Server| {
            json!({
                "pid": server.pid, "cpu_s": server.cpu.as_secs_f64(),
                "rss_bytes": server.rss_bytes,
            })
        };
        json!({
            "seconds": self.took.as_secs_f64(),
            "generator_cpu_s": self.own.map(|cpu| cpu.as_secs_f64()),
            "servers": self.servers.iter().map(server).collect::<Vec<_>>(),
        })
    }

    /// Of all servers together.
    pub fn servers_cpu(&self) -> Duration {
        self.servers.iter().map(|server| server.cpu).sum()
    }
}

fn micros_each(cpu: Duration, units: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / units as f64
}

fn sample(process: &str) -> anyhow::Result<Sample> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}"));
    let cpu = cpu(&read("stat")?).context("/proc/PID/stat looks otherwise than expected")?;
    let rss_bytes = rss_bytes(&read("status")?).unwrap_or(0);
    Ok(Sample { cpu, rss_bytes })
}

/// Fields 14 and 15; the name before them is in brackets and may hold anything, brackets as well.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

/// A kernel thread has none.
fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 99 1 2";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7 (a) R 1"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(rss_bytes("Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(rss_bytes("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let refused = Watch::begin(&[u32::MAX]).err().map(|why| why.to_string());
        assert_eq!(refused.as_deref(), Some("--server-pid 4294967295 cannot be looked at"));
    }

    #[test]
    fn use_is_told_by_process_and_by_what_was_done() {
        let server = |pid| Server { pid, cpu: Duration::from_secs(1), rss_bytes: 3 << 19 };
        let usage = Usage {
            took: Duration::from_secs(2),
            own: Some(Duration::from_millis(500)),
            servers: vec![server(7), server(8)],
        };
        assert_eq!(
            usage.text(1_000_000, "publish"),
            "generator      0.25 cores, 0.50 µs a publish\n\
             server 7       0.50 cores, 1.00 µs a publish, 1.5 MiB\n\
             server 8       0.50 cores, 1.00 µs a publish, 1.5 MiB\n\
             servers        1.00 cores, 2.00 µs a publish\n"
        );
    }
}
