//! CPU time and memory of processes on this machine, as Linux reports them.
//!
//! Three fields of two files are parsed by hand: the crate `procfs` builds on Linux only, and `sysinfo` brings
//! a table of all processes, where ten lines are enough.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

/// The tick of `/proc/PID/stat`: 10 ms on every Linux, independent of the kernel's own tick.
const TICK: Duration = Duration::from_millis(10);

/// A sample of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ProcessSample {
    /// User and system time since the start of the process.
    cpu: Duration,
    /// Resident memory.
    rss_bytes: u64,
}

/// Measures this process and the given servers from one point in time on.
pub struct ProcessMonitor {
    since: Instant,
    /// `None` where there is no `/proc`.
    generator: Option<ProcessSample>,
    servers: Vec<(u32, ProcessSample)>,
}

/// The resource usage between two points in time.
#[derive(Clone, Debug)]
pub struct ResourceUsage {
    /// Time between the two.
    pub elapsed: Duration,
    /// CPU time of this process; `None` where it is not available.
    pub generator_cpu: Option<Duration>,
    /// The servers that have not ended.
    pub servers: Vec<ServerUsage>,
}

/// The resource usage of one server.
#[derive(Clone, Debug)]
pub struct ServerUsage {
    /// The process id.
    pub pid: u32,
    /// User and system time in the period.
    pub cpu: Duration,
    /// Resident memory at the end.
    pub rss_bytes: u64,
}

impl ProcessMonitor {
    /// Starts to measure this process and those of `pids`.
    ///
    /// # Errors
    /// When a process of `pids` cannot be read.
    pub fn start(pids: &[u32]) -> anyhow::Result<ProcessMonitor> {
        let server = |&pid: &u32| {
            let sample = sample_process(&pid.to_string());
            Ok((
                pid,
                sample.with_context(|| format!("cannot read the process of --server-pid {pid}"))?,
            ))
        };
        let servers = pids.iter().map(server).collect::<anyhow::Result<_>>()?;
        Ok(ProcessMonitor {
            since: Instant::now(),
            generator: sample_process("self").ok(),
            servers,
        })
    }

    /// The usage until now. A server that has ended is left out.
    pub fn usage(&self) -> ResourceUsage {
        let generator_cpu = self.generator.and_then(|before| {
            sample_process("self").ok().map(|after| after.cpu.saturating_sub(before.cpu))
        });
        let server = |&(pid, before): &(u32, ProcessSample)| {
            let after = sample_process(&pid.to_string()).ok()?;
            let cpu = after.cpu.saturating_sub(before.cpu);
            Some(ServerUsage { pid, cpu, rss_bytes: after.rss_bytes })
        };
        let servers = self.servers.iter().filter_map(server).collect();
        ResourceUsage { elapsed: self.since.elapsed(), generator_cpu, servers }
    }

    /// Restarts the measurement with the same processes.
    pub fn restart(&mut self) {
        self.generator = sample_process("self").ok();
        for (pid, before) in &mut self.servers {
            *before = sample_process(&pid.to_string()).unwrap_or(*before);
        }
        self.since = Instant::now();
    }

    /// Resident memory of the servers at the start.
    pub fn rss_bytes(&self) -> u64 {
        self.servers.iter().map(|(_, sample)| sample.rss_bytes).sum()
    }
}

impl ResourceUsage {
    /// One line per process. `units` is the number of operations, and `unit` their name.
    pub fn text(&self, units: u64, unit: &str) -> String {
        let line = |process: &str, cpu: Duration, suffix: &str| {
            let cores = cpu.as_secs_f64() / self.elapsed.as_secs_f64();
            let cpu_per_unit = match units {
                0 => String::new(),
                _ => format!(", {:.2} µs per {unit}", micros_per_unit(cpu, units)),
            };
            format!("{process:<14} {cores:.2} cores{cpu_per_unit}{suffix}\n")
        };
        let generator_line = self.generator_cpu.map(|cpu| line("generator", cpu, ""));
        let servers = self.servers.iter().map(|server| {
            let mib = server.rss_bytes as f64 / f64::from(1 << 20);
            line(&format!("server {}", server.pid), server.cpu, &format!(", {mib:.1} MiB"))
        });
        let total_line = (self.servers.len() > 1).then(|| line("servers", self.servers_cpu(), ""));
        generator_line.into_iter().chain(servers).chain(total_line).collect()
    }

    /// The usage as JSON.
    pub fn json(&self) -> Value {
        let server = |server: &ServerUsage| {
            json!({
                "pid": server.pid, "cpu_s": server.cpu.as_secs_f64(),
                "rss_bytes": server.rss_bytes,
            })
        };
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "generator_cpu_s": self.generator_cpu.map(|cpu| cpu.as_secs_f64()),
            "servers": self.servers.iter().map(server).collect::<Vec<_>>(),
        })
    }

    /// CPU time of all servers together.
    pub fn servers_cpu(&self) -> Duration {
        self.servers.iter().map(|server| server.cpu).sum()
    }
}

fn micros_per_unit(cpu: Duration, units: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / units as f64
}

fn sample_process(process: &str) -> anyhow::Result<ProcessSample> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}"));
    let cpu = parse_cpu_time(&read("stat")?).context("unexpected format of /proc/PID/stat")?;
    let rss_bytes = parse_rss_bytes(&read("status")?).unwrap_or(0);
    Ok(ProcessSample { cpu, rss_bytes })
}

/// Parses fields 14 and 15; the name before them is in brackets and may contain any character.
fn parse_cpu_time(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

/// Parses the resident memory. A kernel thread has none.
fn parse_rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 99 1 2";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_cpu_time("7 (a) R 1"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(parse_rss_bytes("Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(parse_rss_bytes("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn missing_process_is_an_error_with_its_pid() {
        let message = ProcessMonitor::start(&[u32::MAX]).err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), Some("cannot read the process of --server-pid 4294967295"));
    }

    #[test]
    fn text_shows_usage_per_process_and_per_unit() {
        let server = |pid| ServerUsage { pid, cpu: Duration::from_secs(1), rss_bytes: 3 << 19 };
        let usage = ResourceUsage {
            elapsed: Duration::from_secs(2),
            generator_cpu: Some(Duration::from_millis(500)),
            servers: vec![server(7), server(8)],
        };
        assert_eq!(
            usage.text(1_000_000, "publish"),
            "generator      0.25 cores, 0.50 µs per publish\n\
             server 7       0.50 cores, 1.00 µs per publish, 1.5 MiB\n\
             server 8       0.50 cores, 1.00 µs per publish, 1.5 MiB\n\
             servers        1.00 cores, 2.00 µs per publish\n"
        );
    }
}
