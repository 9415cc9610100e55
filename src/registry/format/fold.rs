//! What control nodes say about the instances beside them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Control, dubbo, fields, numbered};
use crate::model::{FormatName, Instance, Role};

/// Applies a folder's control nodes to its instances, and tells the primary's id where one is named.
///
/// Pure; the order of `instances` stays, and those that nothing changes are shared.
pub fn fold(format: FormatName, instances: &mut [Arc<Instance>], controls: &[&Control]) -> Option<Arc<str>> {
    match format {
        FormatName::ServerSet => weigh(instances, controls),
        FormatName::Dubbo | FormatName::Sofa => override_all(format, instances, controls),
        FormatName::ClickHouse => disable_inactive(instances, controls),
        FormatName::Numbered => return point(instances, controls),
        _ => {}
    }
    only_primary(instances)
}

/// Whether one of these nodes, which are yet to be read, may decide who the primary is that the folder's other nodes name
/// none of. Any may be an instance that calls itself so, but for a layout that points to one.
pub fn may_lead<'n>(
    format: FormatName,
    controls: &[&Control],
    mut nodes: impl Iterator<Item = &'n str>,
) -> bool {
    match format {
        FormatName::Numbered => numbered::points_into(pointer(controls), nodes),
        _ => nodes.next().is_some(),
    }
}

/// The one enabled instance that calls itself the primary. Two are none: nobody can tell which is right.
fn only_primary(instances: &[Arc<Instance>]) -> Option<Arc<str>> {
    let leads = |i: &&Arc<Instance>| i.enabled && matches!(i.role, Some(Role::Primary | Role::Master));
    let mut leading = instances.iter().filter(leads);
    leading.next().filter(|_| leading.next().is_none()).map(|instance| Arc::clone(&instance.id.name))
}

/// ServerSets: the product of all weights that select a member; -1 takes it out.
fn weigh(instances: &mut [Arc<Instance>], controls: &[&Control]) {
    let entries = controls.iter().filter_map(|control| match control {
        Control::Vector(entries) => Some(entries),
        _ => None,
    });
    let entries: Vec<_> = entries.flatten().collect();
    if entries.is_empty() {
        return;
    }
    for shared in instances {
        let mut weights =
            entries.iter().filter(|(select, _)| select.selects(shared)).map(|(_, w)| *w).peekable();
        if weights.peek().is_none() {
            continue;
        }
        let product: f64 = weights.product();
        let instance = Arc::make_mut(shared);
        if product.to_bits() == (-1f64).to_bits() {
            (instance.weight, instance.enabled) = (0.0, false);
        } else {
            instance.weight = fields::sound_weight(Some(product), 1.0);
        }
    }
}

/// ClickHouse: replicas of which there is no sign that they are alive.
fn disable_inactive(instances: &mut [Arc<Instance>], controls: &[&Control]) {
    let names =
        |of: fn(&Control) -> Option<&str>| controls.iter().filter_map(|c| of(c)).collect::<BTreeSet<_>>();
    let replicas = names(|control| if let Control::Replica(name) = control { Some(name) } else { None });
    let active = names(|control| if let Control::Active(name) = control { Some(name) } else { None });
    // Without the folders, a folder of one replica was configured: who looks at nothing else is told of its address.
    let inactive = |id: &str| replicas.contains(id) && !active.contains(id);
    for shared in instances.iter_mut().filter(|instance| instance.enabled && inactive(&instance.id.name)) {
        Arc::make_mut(shared).enabled = false;
    }
}

/// Dubbo: rules for everybody first, then those for single providers. A rule changes parameters, as if the provider had
/// registered with them.
fn override_all(format: FormatName, instances: &mut [Arc<Instance>], controls: &[&Control]) {
    let mut rules: Vec<_> = controls
        .iter()
        .filter_map(|control| match control {
            Control::Override(rule) => Some(rule),
            _ => None,
        })
        .collect();
    rules.sort_by_key(|rule| (rule.host.is_some(), rule.port.is_some(), rule.priority()));
    for rule in rules {
        for shared in instances.iter_mut().filter(|instance| rule.applies_to(instance)) {
            let instance = Arc::make_mut(shared);
            // By its data, which no parameter outdoes.
            let offline = !instance.enabled && dubbo::wants_traffic(&instance.metadata);
            for (key, value) in rule.settings() {
                if !(rule.only_absent && instance.metadata.contains_key(key)) {
                    instance.metadata.insert(key.into(), value.into());
                }
            }
            dubbo::settle(format, instance);
            instance.enabled &= !offline;
        }
    }
}

/// The numbered layout: `primary` holds a number, and everybody else is a replica.
fn point(instances: &mut [Arc<Instance>], controls: &[&Control]) -> Option<Arc<str>> {
    let wanted = pointer(controls).map(|number| number.to_string());
    let mut primary = None;
    // A folder of servers has its roles by number already.
    for shared in instances.iter_mut().filter(|instance| instance.role.is_none()) {
        let leads = primary.is_none()
            && wanted.as_deref().is_some_and(|wanted| numbered::number(&shared.id.name) == Some(wanted));
        if leads {
            primary = Some(Arc::clone(&shared.id.name));
        }
        numbered::assign(Arc::make_mut(shared), if leads { Role::Primary } else { Role::Replica });
    }
    primary
}

fn pointer(controls: &[&Control]) -> Option<u64> {
    let named = controls.iter().find_map(|control| match control {
        Control::Primary(number) => Some(*number),
        _ => None,
    });
    named.flatten()
}
