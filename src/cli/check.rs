//! `zoogate check`: every problem of a configuration at once, or one line that counts what is in it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Plan};

/// Checks a file: the summary on stdout and 0, or every error on stderr and 1.
pub fn run(config: &Path) -> ExitCode {
    match config::load(config) {
        Ok(plan) => {
            // A closed stdout spoils the summary, not the answer.
            let _ = writeln!(io::stdout(), "{}: ok: {}", config.display(), summary(&plan));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{errors}");
            ExitCode::FAILURE
        }
    }
}

/// What a plan holds, in numbers: `1 registry, 3 services, 1 listener, 4 routes`.
pub fn summary(plan: &Plan) -> String {
    let counts = [
        (plan.registries.len(), "registry", "registries"),
        (plan.services.len(), "service", "services"),
        (plan.catalogs.len(), "catalog", "catalogs"),
        (plan.listeners.len(), "listener", "listeners"),
        (plan.routes.len(), "route", "routes"),
    ];
    let count = |(n, one, many): (usize, &str, &str)| format!("{n} {}", if n == 1 { one } else { many });
    counts.map(count).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_every_section() {
        let text = "[registries.a]\nkind = \"directory\"\npath = \"x\"\n[services.b]\npath = \"/b\"\n\
                    [services.c]\npath = \"/c\"\n[[listeners]]\nlisten = \"127.0.0.1:0\"\n[[routes]]\nservice = \"b\"\n";
        let plan = config::parse(text, Path::new(""), |_| None, "f").unwrap();
        assert_eq!(summary(&plan), "1 registry, 2 services, 0 catalogs, 1 listener, 1 route");
    }
}
