//! What the registries hold now, read once, without serving anything.

use std::sync::Arc;
use std::time::Duration;

use super::elections::Elections;
use super::pump::unix_ms;
use super::registries::Registries;
use crate::config::plan::Plan;
use crate::model::Trust;
use crate::registry::Change;
use crate::table::{RoutingTable, TableConfig, TableWriter};

/// A table made by looking once.
#[derive(Debug)]
pub struct Survey {
    /// What was found.
    pub table: Arc<RoutingTable>,
    /// Services and catalogs that could not be listed in time, each with the reason where one is known.
    pub missing: Vec<(String, Option<Arc<str>>)>,
}

/// Whether a registry answered, and the answer was no.
fn is_final(reason: &str) -> bool {
    ["forbidden: ", "too_large: ", "no_chroot: "].iter().any(|code| reason.starts_with(code))
}

/// Lists every configured service and catalog, for at most `limit`.
///
/// Must run on a tokio runtime; what it starts there ends with it.
pub async fn survey(plan: &Plan, limit: Duration) -> Survey {
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(TableConfig::new(plan, &[plan.admin.listen]));
    writer.publish();
    writer.set_time(unix_ms());
    let mut elections = Elections::default();
    elections.configure(plan);
    let (mut registries, mut changes) = Registries::new();
    registries.configure(plan, &[plan.admin.listen]);
    let mut reasons = std::collections::BTreeMap::new();
    let listing = async {
        while !reader.load().is_listed() || !elections.are_listed() {
            let Some(from) = changes.recv().await else { return };
            match from.change {
                Change::Updated { service, snapshot, .. } => {
                    writer.apply(&service, elections.members(&service, snapshot));
                }
                Change::Leader { base, leader, .. } => {
                    if let Some((service, snapshot)) = elections.leader(&base, leader) {
                        writer.apply(&service, snapshot);
                    }
                }
                Change::Refused { catalog, rejected } => writer.reject(&catalog, rejected),
                Change::Gone { service, .. } => {
                    writer.gone(&service);
                }
                Change::Trust { base, trust, reason } => {
                    if trust == Trust::Stale {
                        reasons.insert(base.clone(), reason.clone());
                    }
                    writer.trust(&base, trust, reason);
                    writer.publish();
                    // What is refused now is refused in ten seconds, too.
                    let refused = |name| matches!(reasons.get(name), Some(Some(reason)) if is_final(reason));
                    let unlisted = reader.load().unlisted();
                    if !unlisted.is_empty() && unlisted.iter().all(refused) {
                        return;
                    }
                }
                Change::Drift { .. } | Change::Link { .. } => {}
            }
        }
    };
    // Running out of time is an answer too: what is missing is named.
    let _ = tokio::time::timeout(limit, listing).await;
    writer.publish();
    let table = reader.load();
    let missing = table
        .unlisted()
        .into_iter()
        .map(|name| (name.to_string(), reasons.get(&name).cloned().flatten()))
        .collect();
    Survey { table, missing }
}
