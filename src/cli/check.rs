//! `zoogate check`: every problem of a configuration at once, or one line that counts what is in it; with `--live` also
//! every problem of what the registries hold.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::args::CheckArgs;
use super::lint::{Finding, lint};
use super::services::PATIENCE;
use crate::config::{self, Plan};
use crate::gateway::survey;

/// Checks a file: the summary on stdout and 0, or every error on stderr and 1.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config: &Path = &args.config;
    let plan = match config::load(config) {
        Ok(plan) => plan,
        Err(errors) => {
            let _ = writeln!(io::stderr(), "{errors}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut live = String::new();
    if args.live {
        let survey = super::runtime()?.block_on(survey(&plan, PATIENCE));
        let findings = lint(&plan, &survey);
        let (notes, problems): (Vec<&Finding>, Vec<_>) =
            findings.iter().partition(|finding| finding.is_note());
        for note in notes {
            let _ = writeln!(io::stdout(), "{note}");
        }
        for problem in &problems {
            let _ = writeln!(io::stderr(), "{problem}");
        }
        if !problems.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        let services = survey.table.service_views();
        let instances: usize = services.iter().map(|service| service.instances.len()).sum();
        live = format!("; live: {}, {}", count(services.len(), "service"), count(instances, "instance"));
    }
    // A closed stdout spoils the summary, not the answer.
    let _ = writeln!(io::stdout(), "{}: ok: {}{live}", config.display(), summary(&plan));
    Ok(ExitCode::SUCCESS)
}

fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
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
