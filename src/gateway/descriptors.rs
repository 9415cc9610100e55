//! How many client connections the process's descriptors are enough for.
//!
//! A process that runs out of descriptors can neither accept nor dial. So the cap on connections is kept below: each
//! client's connection may need one more, to an instance, and the gateway has some of its own.

use crate::config::plan::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Listening sockets, the admin's connections, logs, registries and a runtime for each worker.
const OWN: u64 = 64;
const OWN_PER_WORKER: u64 = 8;

const SAID: &str =
    "fewer connections are taken than configured: the limit of open files (ulimit -n) is too low for more";

/// Lowers the cap on connections to what the process has descriptors for, and says so.
pub(super) fn limit(limits: &mut Limits, workers: usize) {
    let (wanted, descriptors) = (limits.max_connections, raise());
    limits.max_connections = cap(wanted, descriptors, workers);
    if limits.max_connections < wanted {
        let (cap, open_files) = (limits.max_connections, descriptors.unwrap_or_default());
        // A hundredth less than the default is no news to be woken for.
        if cap >= wanted / 10 * 9 {
            tracing::info!(max_connections = wanted, open_files, cap, "{SAID}");
        } else {
            tracing::warn!(max_connections = wanted, open_files, cap, "{SAID}");
        }
    }
}

/// Takes all that the process may have. Returns how many that is; `None`: any number.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current
        }
    }
}

/// The cap on connections that holds with so many descriptors, where `wanted` is configured.
fn cap(wanted: usize, descriptors: Option<u64>, workers: usize) -> usize {
    let Some(descriptors) = descriptors else { return wanted };
    let own = OWN + OWN_PER_WORKER * workers as u64;
    let pairs = descriptors.saturating_sub(own) / 2;
    wanted.min(usize::try_from(pairs).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_leaves_room_for_the_other_side_and_for_ourselves() {
        assert_eq!(cap(10_000, None, 8), 10_000);
        assert_eq!(cap(10_000, Some(1 << 20), 8), 10_000);
        assert_eq!(cap(10_000, Some(256), 2), (256 - 64 - 16) / 2);
        assert_eq!(cap(50, Some(256), 2), 50);
        assert_eq!(cap(10_000, Some(10), 2), 1, "a gateway that takes nobody is none");
    }
}
