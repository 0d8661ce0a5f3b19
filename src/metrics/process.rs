//! What the operating system knows of this process, under the names that all of Prometheus' libraries use. Where there is no
//! `/proc`, there is nothing to tell.

use std::fmt;
use std::fs;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::rows::{Encoder, Row};

/// Linux counts the time of processes in hundredths of a second towards programs, whatever its kernel does inside (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// What is known; what cannot be read is left out.
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    threads: Option<f64>,
    open_files: Option<f64>,
    most_files: Option<f64>,
    started: Option<f64>,
}

impl Process {
    /// Looks now; `started` is when the process began.
    pub(super) fn look(started: SystemTime) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (status, stat, limits) = (read("status"), read("stat"), read("limits"));
        let started = started.duration_since(SystemTime::UNIX_EPOCH).ok();
        Self {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024.0),
            virtual_bytes: field(&status, "VmSize:").map(|kilobytes| kilobytes * 1024.0),
            threads: field(&status, "Threads:"),
            // The look itself holds one.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as f64),
            most_files: field(&limits, "Max open files"),
            started: started.map(|since| since.as_secs_f64()),
        }
    }
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The time that all threads have run, in the kernel and outside.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_A_SECOND)
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Encoder(encoder);
        let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
        for (name, help, kind, value) in [
            ("process_cpu_seconds", "Time that this process has run", counter, self.cpu_seconds),
            ("process_resident_memory_bytes", "Memory that it holds", gauge, self.resident_bytes),
            ("process_virtual_memory_bytes", "Addresses that it holds", gauge, self.virtual_bytes),
            ("process_threads", "Its threads", gauge, self.threads),
            ("process_open_fds", "Its open files and sockets", gauge, self.open_files),
            ("process_max_fds", "How many there may be", gauge, self.most_files),
            ("process_start_time_seconds", "When it began, since the Unix epoch", gauge, self.started),
        ] {
            if let Some(value) = value {
                out.write(name, help, kind, [Row::of([], value)])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_found() {
        let status = "Name:\tproxy\nVmRSS:\t   2048 kB\nThreads:\t3\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "Threads:")), (Some(2048.0), Some(3.0)));
        assert_eq!(field(status, "VmSize:"), None);
        assert_eq!(
            field("Max open files            1024                 4096     files\n", "Max open files"),
            Some(1024.0)
        );
        assert_eq!(field("Max open files            unlimited            unlimited\n", "Max open files"), None);
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
