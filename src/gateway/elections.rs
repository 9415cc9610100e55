//! Services whose primary an election names: joins the election's leader and the service's members into one
//! snapshot, so that a change of either is one change of the table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::Plan;
use crate::model::{Address, PrimaryRule, ServiceName, ServiceSnapshot};
use crate::registry::Base;

/// What is known of each election, and of its service.
#[derive(Debug, Default)]
pub(super) struct Elections(HashMap<ServiceName, Election>);

#[derive(Debug, Default)]
struct Election {
    rule: PrimaryRule,
    /// Whether its directory has been listed.
    listed: bool,
    /// What the leader's node says.
    leader: Option<Arc<str>>,
    members: Option<Arc<ServiceSnapshot>>,
}

impl Elections {
    /// Forgets the elections that a plan does not have.
    pub(super) fn configure(&mut self, plan: &Plan) {
        let mut old = std::mem::take(&mut self.0);
        for service in &plan.services {
            let rule = &service.defaults.primary;
            if matches!(rule, PrimaryRule::Election(_)) {
                let kept = old.remove(&service.name).filter(|election| election.rule == *rule);
                let kept = kept.unwrap_or_else(|| Election { rule: rule.clone(), ..Election::default() });
                self.0.insert(service.name.clone(), kept);
            }
        }
    }

    /// Whether each of them has been listed.
    pub(super) fn are_listed(&self) -> bool {
        self.0.values().all(|election| election.listed)
    }

    /// The members of a service with their primary.
    pub(super) fn members(
        &mut self,
        service: &ServiceName,
        snapshot: Arc<ServiceSnapshot>,
    ) -> Arc<ServiceSnapshot> {
        let Some(election) = self.0.get_mut(service) else { return snapshot };
        election.members = Some(Arc::clone(&snapshot));
        join(&snapshot, election.leader.as_deref())
    }

    /// Another leads: the service that this concerns, with its primary, once its members are known.
    pub(super) fn leader(
        &mut self,
        base: &ServiceName,
        leader: Option<Arc<str>>,
    ) -> Option<(ServiceName, Arc<ServiceSnapshot>)> {
        let (service, election) =
            self.0.iter_mut().find(|(service, _)| Base::election_of(service) == *base)?;
        election.listed = true;
        election.leader = leader;
        let members = election.members.as_ref()?;
        Some((service.clone(), join(members, election.leader.as_deref())))
    }
}

/// The members, with the one as primary that the leader's node names: by its id, or by its address.
fn join(members: &Arc<ServiceSnapshot>, leader: Option<&str>) -> Arc<ServiceSnapshot> {
    let named = |leader: &str| {
        let by_id = members.instances.iter().find(|instance| *instance.id.name == *leader);
        let by_address = || {
            let address: Address = leader.parse().ok()?;
            members.instances.iter().find(|instance| instance.address == address)
        };
        by_id.or_else(by_address).map(|instance| Arc::clone(&instance.id.name))
    };
    let primary = leader.and_then(named);
    Arc::new(ServiceSnapshot { primary, ..ServiceSnapshot::clone(members) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Instance, InstanceId};

    #[test]
    fn a_leader_is_named_by_id_or_address() {
        let instance =
            |id: &str, address: &str| Arc::new(Instance::new(InstanceId::from(id), address.parse().unwrap()));
        let instances = vec![instance("a", "10.0.0.1:80"), instance("b", "[::1]:80")];
        let members = Arc::new(ServiceSnapshot { instances, ..ServiceSnapshot::default() });
        let primary = |leader| join(&members, leader).primary.clone();
        for (leader, named) in
            [("b", Some("b")), ("10.0.0.1:80", Some("a")), ("[::1]:80", Some("b")), ("c", None), ("", None)]
        {
            assert_eq!(primary(Some(leader)).as_deref(), named, "{leader}");
        }
        assert_eq!(primary(None), None);
    }
}
