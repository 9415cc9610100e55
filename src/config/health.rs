//! `ejection`: what takes an instance out of rotation, and how many.

use std::sync::Arc;

use http::StatusCode;

use super::plan::EjectionPlan;
use super::reader::Node;
use super::schema;

const STATUSES: &str = "a list of statuses from 400 to 599, such as [502, 503, 504]";

/// Reads `ejection`: `Some(None)` where it is off.
#[expect(clippy::option_option, reason = "off and not sound are two things")]
pub(super) fn ejection(node: &Node<'_>) -> Option<Option<Arc<EjectionPlan>>> {
    if !node.is_table() {
        return node.choice(&[("off", ())]).map(|()| None);
    }
    let table = node.table(&schema::EJECTION)?;
    let default = EjectionPlan::default();
    let share = |n: &Node<'_>| n.number(0.0..=1.0);
    Some(Some(Arc::new(EjectionPlan {
        failures: table.or("failures", default.failures, |n| n.integer(1..=1000)),
        statuses: table.or("statuses", default.statuses, |n| statuses(n, 400..=599, STATUSES)),
        max_ejected: table.or("max_ejected", default.max_ejected, share),
        panic_threshold: table.or("panic_threshold", default.panic_threshold, share),
    })))
}

fn statuses(
    node: &Node<'_>,
    range: std::ops::RangeInclusive<u32>,
    expected: &str,
) -> Option<Box<[StatusCode]>> {
    if !node.is_list() {
        node.list(expected);
        return None;
    }
    let status = |n: &Node<'_>| StatusCode::from_u16(u16::try_from(n.integer(range.clone())?).ok()?).ok();
    node.list(expected).iter().map(status).collect()
}
