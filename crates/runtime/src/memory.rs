//! How much memory this process can use: all memory of the machine, or less if its cgroup has a
//! limit, as that of a container does.

use std::fs;
use std::path::Path;

/// Files of cgroup version 2 and 1 as a container sees its own group.
const CGROUP: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
/// Assumed if the machine's memory is not known.
const UNKNOWN: usize = 4 << 30;

/// Bytes of memory that this process can use at most.
pub fn total() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(of_machine).unwrap_or(UNKNOWN);
    let own = own_cgroup().unwrap_or_default();
    let files = CGROUP.map(str::to_owned).into_iter().chain([own]);
    let limits = files.filter_map(|file| limit(&fs::read_to_string(file).ok()?));
    limits.fold(machine, usize::min)
}

/// The file with the limit of this process's group, for a process that sees all groups, as a
/// service does.
fn own_cgroup() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
    Some(file.display().to_string())
}

/// `MemTotal` of /proc/meminfo.
fn of_machine(text: &str) -> Option<usize> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The limit of a cgroup, if it has one.
fn limit(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24598692 kB\nMemFree:        22118340 kB\n";
        assert_eq!(of_machine(text), Some(24_598_692 * 1024));
        assert_eq!(of_machine("MemFree: 1 kB\n"), None);
        assert_eq!(limit("536870912\n"), Some(512 << 20));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("0\n"), None);
    }

    #[test]
    fn there_is_some() {
        assert!(total() > 1 << 20, "{}", total());
    }
}
