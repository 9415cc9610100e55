//! What is wrong with what the registries hold.

use std::collections::HashMap;
use std::fmt;

use crate::config::plan::{Plan, RegistryKind};
use crate::gateway::Survey;
use crate::model::{FormatName, Instance, Owner, Protocol};
use crate::table::Upstream;

/// One finding. Displayed on one line as `SERVICE: PATH: CODE: what is wrong and what to do`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    service: String,
    /// Of the node, or of the folder.
    path: String,
    code: &'static str,
    text: String,
}

/// Findings that are no fault: they tell what the gateway cannot see to by itself.
const NOTES: [&str; 2] = ["static", "tls"];

impl Finding {
    /// Whether it is only worth knowing.
    pub(super) fn is_note(&self) -> bool {
        NOTES.contains(&self.code)
    }
}

impl fmt::Display for Finding {
    /// Control characters are escaped: most of the text comes from a registry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = format!("{}: {}: {}: {}", self.service, self.path, self.code, self.text);
        for c in line.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// Everything that is wrong, sorted by service and path.
pub(super) fn lint(plan: &Plan, survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, reason) in &survey.missing {
        let paths = plan.services.iter().map(|s| (s.name.as_str(), s.path.clone()));
        let mut paths = paths.chain(plan.catalogs.iter().map(|c| (c.name.as_str(), c.path.to_string())));
        let path = paths.find(|(known, _)| known == name).map_or_else(|| "/".to_owned(), |(_, path)| path);
        let reason = reason.as_deref().unwrap_or("the registry did not answer");
        let (code, text) = match reason.strip_prefix("forbidden: ") {
            Some(text) => {
                ("forbidden", format!("{text}: its ACL grants us no READ; grant it, or set `auth`"))
            }
            None => ("unlisted", reason.to_owned()),
        };
        findings.push(Finding { service: name.clone(), path, code, text });
    }
    let unlisted = |name: &str| survey.missing.iter().any(|(missing, _)| missing == name);
    let upstreams = survey.table.sorted_upstreams();
    for upstream in &upstreams {
        if !unlisted(upstream.name().as_str()) {
            lint_service(plan, upstream, &mut findings);
        }
    }
    for catalog in plan.catalogs.iter().filter(|catalog| !unlisted(catalog.name.as_str())) {
        let prefix = format!("{}/", catalog.name);
        if !upstreams.iter().any(|upstream| upstream.name().as_str().starts_with(&prefix)) {
            findings.push(Finding {
                service: catalog.name.to_string(),
                path: catalog.path.to_string(),
                code: "empty",
                text: "no directory below it, so no service".to_owned(),
            });
        }
    }
    findings.sort();
    findings
}

fn lint_service(plan: &Plan, upstream: &Upstream, findings: &mut Vec<Finding>) {
    let (spec, snapshot) = (upstream.spec(), upstream.snapshot());
    let folder = spec.path.trim_end_matches('/');
    let mut find = |node: Option<&str>, code, text| {
        let path = node.map_or_else(|| folder.to_owned(), |node| format!("{folder}/{node}"));
        findings.push(Finding { service: spec.name.to_string(), path, code, text });
    };
    for rejected in &snapshot.rejected {
        find(Some(&rejected.node), rejected.reason.code(), rejected.detail.clone());
    }
    if snapshot.instances.is_empty() {
        find(None, "empty", "no instance".to_owned());
    } else if !snapshot.instances.iter().any(|i| i.enabled && i.weight > 0.0) {
        let count = snapshot.instances.len();
        find(
            None,
            "empty",
            format!("no instance that wants traffic: all {count} are disabled or of weight 0"),
        );
    }
    let mut seen = HashMap::new();
    for instance in &snapshot.instances {
        let node = node_of(instance);
        match seen.get(&instance.address) {
            Some(first) if *first != node => {
                let text =
                    format!("{} is announced by {first} too: one of the two is a leftover", instance.address);
                find(Some(node), "duplicate", text);
            }
            Some(_) => {}
            None => {
                seen.insert(&instance.address, node);
            }
        }
    }
    let kind = plan.registries.iter().find(|r| r.name == spec.registry).map(|r| &r.kind);
    if matches!(kind, Some(RegistryKind::ZooKeeper { .. })) {
        for instance in snapshot.instances.iter().filter(|i| i.facts.owner == Owner::Nobody) {
            let node = Some(node_of(instance));
            match stays_on_purpose(snapshot.format, instance) {
                Some(why) => find(node, "static", format!("{why}: nothing but a health check notices when it dies")),
                None => find(
                    node,
                    "persistent",
                    "no session keeps it, so it stays when its process dies; register it as an ephemeral node".to_owned(),
                ),
            }
        }
    }
    let tls = snapshot.instances.iter().filter(|i| i.tls == Some(true)).count();
    if tls > 0 && spec.defaults.protocol != Protocol::Tcp {
        let text = format!(
            "{tls} of {} instances say that their port speaks TLS, which the gateway does not; where they have \
             another port, set tls = \"never\"",
            snapshot.instances.len()
        );
        find(None, "tls", text);
    }
}

/// The node that an instance comes from: with several of one node, what is behind the `#` tells them apart.
fn node_of(instance: &Instance) -> &str {
    instance.id.name.split('#').next().unwrap_or_default()
}

/// Why a persistent node is meant to be one.
fn stays_on_purpose(format: Option<FormatName>, instance: &Instance) -> Option<&'static str> {
    let is = |key: &str, values: &[&str]| {
        instance.metadata.get(key).is_some_and(|value| values.contains(&&**value))
    };
    match format? {
        FormatName::Curator | FormatName::Spring if is("serviceType", &["STATIC", "PERMANENT"]) => {
            Some("registered as STATIC or PERMANENT")
        }
        FormatName::Dubbo if is("dynamic", &["false"]) => Some("registered with dynamic=false"),
        FormatName::Sofa => Some("SOFA registers so"),
        FormatName::Rpcx => Some("rpcx registers nodes with a time to live"),
        FormatName::ClickHouse => Some("the address of a replica stays"),
        _ => None,
    }
}
