//! `zoogate services`: what the registries hold now, decoded, with the reason for each node that could not be.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use super::args::ServicesArgs;
use crate::gateway::{Survey, survey};
use crate::table::ServiceView;

/// Registries have this long to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the command. Fails where a service could not be listed, after printing the others.
pub(super) fn run(args: &ServicesArgs) -> anyhow::Result<ExitCode> {
    let plan = match super::load(&args.config) {
        Ok(plan) => plan,
        Err(code) => return Ok(code),
    };
    let survey = super::runtime()?.block_on(survey(&plan, PATIENCE));
    let services = survey.table.service_views();
    let text = if args.json {
        format!("{}\n", serde_json::json!({ "services": services }))
    } else {
        table(&services)
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

fn table(services: &[ServiceView]) -> String {
    const HEAD: [&str; 8] = ["SERVICE", "NODE", "FORMAT", "ADDRESS", "WEIGHT", "STATE", "ZONE", "REASON"];
    let mut rows = vec![HEAD.map(str::to_owned)];
    for service in services {
        let (name, format) = (service.name.clone(), service.format.unwrap_or("-").to_owned());
        for instance in &service.instances {
            rows.push([
                name.clone(),
                instance.id.clone(),
                format.clone(),
                instance.address.clone(),
                instance.weight.to_string(),
                instance.state.as_str().to_owned(),
                instance.zone.clone().unwrap_or_else(|| "-".into()),
                String::new(),
            ]);
        }
        for rejected in &service.rejected {
            let none = || "-".to_owned();
            let reason = rejected.reason.clone();
            rows.push([
                name.clone(),
                rejected.node.clone(),
                format.clone(),
                none(),
                none(),
                "rejected".into(),
                none(),
                reason,
            ]);
        }
        if service.instances.is_empty() && service.rejected.is_empty() {
            let none = || "-".to_owned();
            rows.push([name, none(), none(), none(), none(), "empty".into(), none(), String::new()]);
        }
    }
    render(&rows)
}

/// Left-aligned columns, two blanks apart. Control characters are escaped: the text comes from a registry.
fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
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
    fn columns_are_aligned_and_terminals_are_safe() {
        let rows = [["A".to_owned(), "B".to_owned()], ["long\u{1b}[2J".to_owned(), "x".to_owned()]];
        assert_eq!(render(&rows), "A              B\nlong\\u{1b}[2J  x\n");
    }
}
