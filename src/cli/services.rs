//! `zoogate services`: what the registries hold now, decoded, with the reason for each node that could not be.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::ServicesArgs;
use crate::gateway::{Survey, survey};
use crate::table::{CatalogView, ServiceView};

/// Registries have this long to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the command. Fails where a service could not be listed, after printing the others.
pub(super) fn run(args: &ServicesArgs) -> anyhow::Result<ExitCode> {
    let plan = match super::load(&args.config) {
        Ok(plan) => plan,
        Err(code) => return Ok(code),
    };
    let survey = super::runtime()?.block_on(survey(&plan, PATIENCE));
    let (services, catalogs) = (survey.table.service_views(), survey.table.catalog_views());
    let text = if args.json {
        format!("{}\n", serde_json::json!({ "services": services, "catalogs": catalogs }))
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        table(&services, &catalogs, now.as_millis() as u64)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(tell_missing(&survey))
}

/// Names on standard error what could not be listed; the exit code says whether there was any.
pub(super) fn tell_missing(survey: &Survey) -> ExitCode {
    for (name, reason) in &survey.missing {
        let reason = reason.as_deref().unwrap_or("the registry did not answer");
        eprintln!("zoogate: {name} could not be listed within {} s: {reason}", PATIENCE.as_secs());
    }
    if survey.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const HEAD: [&str; 10] =
    ["SERVICE", "NODE", "FORMAT", "ADDRESS", "WEIGHT", "STATE", "ZONE", "AGE", "OWNER", "REASON"];

/// `now`: milliseconds since 1970.
fn table(services: &[ServiceView], catalogs: &[CatalogView], now: u64) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for service in services {
        let start = |node: &str, state: &str, reason: &str| {
            let mut row = [const { String::new() }; HEAD.len()];
            row.fill("-".to_owned());
            [row[0], row[1], row[5], row[9]] =
                [service.name.clone(), node.to_owned(), state.to_owned(), reason.to_owned()];
            service.format.unwrap_or("-").clone_into(&mut row[2]);
            row
        };
        for instance in &service.instances {
            let mut row = start(&instance.id, instance.state.as_str(), "");
            row[3].clone_from(&instance.address);
            row[4] = instance.weight.to_string();
            row[6] = instance.zone.clone().unwrap_or_else(|| "-".into());
            row[7] = instance.created_ms.map_or_else(|| "-".into(), |at| age(now.saturating_sub(at)));
            row[8] = instance.owner.clone().unwrap_or_else(|| "-".into());
            rows.push(row);
        }
        for rejected in &service.rejected {
            rows.push(start(&rejected.node, "rejected", &rejected.reason));
        }
        if service.instances.is_empty() && service.rejected.is_empty() {
            // What could not be looked at must not pass for empty.
            rows.push(match (service.stale, &service.stale_reason) {
                (true, reason) => start("-", "unlisted", reason.as_deref().unwrap_or_default()),
                (false, _) => start("-", "empty", ""),
            });
        }
    }
    for catalog in catalogs {
        for rejected in &catalog.rejected {
            let mut row = HEAD.map(|_| "-".to_owned());
            [row[0], row[1], row[5], row[9]] =
                [catalog.name.clone(), rejected.node.clone(), "rejected".to_owned(), rejected.reason.clone()];
            rows.push(row);
        }
    }
    render(&rows)
}

/// How long, in its two largest units: `3d4h`, `5m12s`.
fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// Wider cells, such as a URL for a name, do not make their column wider: they shift the rest of their own row.
const WIDEST: usize = 48;

/// Left-aligned columns, two blanks apart. Control characters are escaped: the text comes from a registry.
fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.filter(|width| *width <= WIDEST).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_its_two_largest_units() {
        for (seconds, told) in
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (3600, "1h0m"), (90_061, "1d1h")]
        {
            assert_eq!(age(seconds * 1000 + 999), told);
        }
    }

    #[test]
    fn columns_are_aligned_and_terminals_are_safe() {
        let rows = [["A".to_owned(), "B".to_owned()], ["long\u{1b}[2J".to_owned(), "x".to_owned()]];
        assert_eq!(render(&rows), "A              B\nlong\\u{1b}[2J  x\n");
        let url = "u".repeat(WIDEST + 1);
        let rows = [["A", "B"], ["a", "b"], [&url, "c"]].map(|row| row.map(str::to_owned));
        assert_eq!(render(&rows), format!("A  B\na  b\n{url}  c\n"));
    }
}
