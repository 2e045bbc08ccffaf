//! What every Prometheus client tells of its own process.

use procfs::process::{LimitValue, Process};
use procfs::{CurrentSI, KernelStats, ProcResult};

use super::text::Text;

/// Writes them; where `/proc` can't be read there are none.
pub(super) fn write(text: &mut Text) {
    if let Ok(rows) = read() {
        for (name, help, kind, value) in rows {
            let name = format!("process_{name}");
            text.family(&name, help, kind);
            text.sample(&name, &[], value);
        }
    }
}

type Row = (&'static str, &'static str, &'static str, f64);

fn read() -> ProcResult<[Row; 6]> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let files = process.limits()?.max_open_files.soft_limit;
    let files = match files {
        LimitValue::Value(n) => n as f64,
        LimitValue::Unlimited => f64::INFINITY,
    };
    let booted = KernelStats::current()?.btime as f64;
    let resident = stat.rss as f64 * procfs::page_size() as f64;
    let cpu = (stat.utime + stat.stime) as f64 / ticks;
    Ok([
        ("cpu_seconds_total", "CPU time used.", "counter", cpu),
        ("resident_memory_bytes", "Memory in RAM.", "gauge", resident),
        (
            "virtual_memory_bytes",
            "Address space.",
            "gauge",
            stat.vsize as f64,
        ),
        (
            "open_fds",
            "Open files.",
            "gauge",
            process.fd_count()? as f64,
        ),
        ("max_fds", "Files that may be open.", "gauge", files),
        (
            "start_time_seconds",
            "When it began.",
            "gauge",
            booted + stat.starttime as f64 / ticks,
        ),
    ])
}
