//! How much memory there is for the process.

/// What the process may have: the least limit of the control groups that it is in, or the machine's memory. `None` where the
/// system does not say.
pub(super) fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(limits(&groups)).min()
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The limits of the groups and of those around them. In a container the path may be one of the host's, and the group's own
/// files lie at the root.
fn limits(groups: &str) -> impl Iterator<Item = u64> {
    places(groups).into_iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// The files that may hold a limit, by `/proc/self/cgroup`.
fn places(groups: &str) -> Vec<String> {
    let mut places = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            first if first.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            places.push(format!("{root}{path}/{name}"));
            let Some(end) = path.rfind('/') else { break };
            path = &path[..end];
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_and_all_around_it_are_asked() {
        assert_eq!(
            places("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(places("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        let old = "5:cpu,cpuacct:/x\n4:memory:/x\n";
        assert_eq!(places(old).len(), 2);
        assert_eq!(places(old)[0], "/sys/fs/cgroup/memory/x/memory.limit_in_bytes");
        assert_eq!(places("nonsense"), Vec::<String>::new());
    }

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        assert_eq!(total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }
}
