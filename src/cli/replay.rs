//! `zoogate replay`: the table as an event log says that it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use serde_json::{Value, json};

use super::args::ReplayArgs;
use crate::telemetry::{parse_rfc3339, rfc3339_micros};

/// Services, each with its members by id.
type Table = BTreeMap<String, BTreeMap<String, Value>>;

/// Longer lines are no lines of ours: a service of 100,000 members has some 15 MB.
const MAX_LINE: usize = 256 << 20;

/// What a replay has come to.
#[derive(Debug, Default)]
struct Replay {
    table: Table,
    /// Of the first line, and of the last one that counted.
    span: Option<(SystemTime, SystemTime)>,
    events: u64,
}

/// Prints the table at the asked moment.
pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let mut replay = Replay::default();
    let older = older(&args.log);
    if older.exists() {
        replay.file(&older, args.at)?;
    }
    replay.file(&args.log, args.at)?;
    let Some((first, last)) = replay.span else {
        match args.at {
            Some(at) => {
                anyhow::bail!("{} tells nothing of {} or before", args.log.display(), rfc3339_micros(at))
            }
            None => anyhow::bail!("{} is empty", args.log.display()),
        }
    };
    if let Some(service) = &args.service {
        replay.table.retain(|name, _| name == service);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let services: Vec<Value> = replay
            .table
            .iter()
            .map(|(name, members)| json!({ "name": name, "instances": members.values().collect::<Vec<_>>() }))
            .collect();
        let at = rfc3339_micros(args.at.unwrap_or(last));
        writeln!(out, "{}", json!({ "at": at, "events": replay.events, "services": services }))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "# {} events from {} to {}", replay.events, rfc3339_micros(first), rfc3339_micros(last))?;
    for (service, members) in &replay.table {
        for (id, member) in members {
            let word = |key: &str| match &member[key] {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let state = if member["enabled"] == false { "disabled" } else { "up" };
            let since = word("since");
            writeln!(
                out,
                "{service}\t{id}\t{}\t{}\t{state}\t{}\t{since}",
                word("address"),
                word("weight"),
                word("zone")
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The part of the log before this one.
fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

impl Replay {
    fn file(&mut self, path: &Path, at: Option<SystemTime>) -> anyhow::Result<()> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            std::io::Read::take(&mut reader, MAX_LINE as u64).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                break;
            }
            if line.last() != Some(&b'\n') {
                // The last line of a gateway that was killed.
                eprintln!("zoogate: {}:{number}: the line is cut short; it is left out", path.display());
                break;
            }
            let read = serde_json::from_slice::<Value>(&line).ok().and_then(|line| self.line(&line, at));
            read.with_context(|| format!("{}:{number}: no line of an event log", path.display()))?;
        }
        Ok(())
    }

    /// Takes a line in; `None` where it is none of ours.
    fn line(&mut self, line: &Value, at: Option<SystemTime>) -> Option<()> {
        let time = parse_rfc3339(line["time"].as_str()?)?;
        if at.is_some_and(|at| time > at) {
            return Some(());
        }
        let first = self.span.map_or(time, |(first, _)| first);
        self.span = Some((first, time));
        match line["type"].as_str()? {
            "table" => self.table.clear(),
            "members" => {
                let service = line["service"].as_str()?.to_owned();
                let members = line["members"].as_array()?.iter();
                let members = members
                    .map(|member| Some((member["instance"].as_str()?.to_owned(), shown(member, line))));
                self.table.insert(service, members.collect::<Option<_>>()?);
            }
            "event" => {
                self.events += 1;
                let (service, id) = (line["service"].as_str()?, line["instance"].as_str()?);
                if line["change"] == "removed" {
                    if let Some(members) = self.table.get_mut(service) {
                        members.remove(id);
                    }
                } else {
                    let members = self.table.entry(service.to_owned()).or_default();
                    members.insert(id.to_owned(), shown(line, line));
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// What is told of a member.
fn shown(member: &Value, line: &Value) -> Value {
    let mut shown = json!({ "id": member["instance"], "since": line["time"] });
    for key in ["address", "weight", "enabled", "zone", "role"] {
        shown[key] = member[key].clone();
    }
    shown
}
