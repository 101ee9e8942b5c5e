//! Threads of an adapter that computes on the CPU, kept apart while it is timed.

/// Gives each thread of this process but the caller's a processor of its own, in turn, as long as it lives; returns
/// how many there are. All of them, since drivers do not name those that compute. Workers are woken for each
/// dispatch, and Linux now and then wakes two of them on one processor, where one waits for the other: kernels take
/// twice their time then, in the limits as well as in decoding, a token of many short ones most.
#[cfg(target_os = "linux")]
pub fn keep_apart() -> std::io::Result<usize> {
    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

    let allowed = sched_getaffinity(None)?;
    let processors = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let own = gettid();
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let id = entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        threads.extend(id.filter(|id| *id != own));
    }
    // In the order in which they were made: a driver makes its workers one after the other.
    threads.sort_unstable_by_key(|id| id.as_raw_nonzero());
    for (thread, cpu) in threads.iter().zip(processors.collect::<Vec<_>>().into_iter().cycle()) {
        let mut only = CpuSet::new();
        only.set(cpu);
        match sched_setaffinity(Some(*thread), &only) {
            // It has ended meanwhile.
            Err(rustix::io::Errno::SRCH) => (),
            done => done?,
        }
    }
    Ok(threads.len())
}

/// Other systems do not let a program say so.
#[cfg(not(target_os = "linux"))]
pub fn keep_apart() -> std::io::Result<usize> {
    Ok(0)
}
