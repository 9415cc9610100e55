//! From a specification to a balancer.

use std::fmt;
use std::sync::Arc;

use crate::model::{BalancePolicy, BalanceSpec};

use super::{Balancer, Cursors, LeastRequest, Maglev, Member, PeakEwma, Random, Ring, RoundRobin};

/// Builds the balancers of a service: one for each list of its members.
///
/// To bring a policy of your own, implement this and hand it to the table for a service; see the
/// examples. Called on the thread that writes the table, never on one that serves requests.
pub trait BalancerFactory: fmt::Debug + Send + Sync {
    /// Name and parameters of the policy as the fingerprint knows them: equal text, equal balancing.
    fn describe(&self, spec: &BalanceSpec) -> String;

    /// A balancer over these members, in slot order. `cursors` is the same for all of a service's.
    fn build(&self, spec: &BalanceSpec, members: &[Member], cursors: &Arc<Cursors>) -> Arc<dyn Balancer>;
}

/// The policies of [`BalancePolicy`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Standard;

impl BalancerFactory for Standard {
    fn describe(&self, spec: &BalanceSpec) -> String {
        let mut words = vec![spec.policy.as_str().to_owned()];
        match spec.policy {
            BalancePolicy::Ring { virtual_nodes } => words.push(format!("virtual_nodes={virtual_nodes}")),
            BalancePolicy::Maglev { table_size } => words.push(format!("table_size={table_size}")),
            BalancePolicy::RoundRobin
            | BalancePolicy::LeastRequest
            | BalancePolicy::PeakEwma
            | BalancePolicy::Random => {}
        }
        words.extend(spec.key.as_ref().map(|key| format!("key={key}")));
        words.extend(spec.load_bound.map(|bound| format!("load_bound={bound}")));
        words.join(" ")
    }

    fn build(&self, spec: &BalanceSpec, members: &[Member], cursors: &Arc<Cursors>) -> Arc<dyn Balancer> {
        match spec.policy {
            BalancePolicy::RoundRobin => Arc::new(RoundRobin::new(members, Arc::clone(cursors))),
            BalancePolicy::LeastRequest => Arc::new(LeastRequest::new(members)),
            BalancePolicy::PeakEwma => Arc::new(PeakEwma::new(members)),
            BalancePolicy::Random => Arc::new(Random::new(members)),
            BalancePolicy::Ring { virtual_nodes } => {
                Arc::new(Ring::new(members, virtual_nodes, spec.load_bound))
            }
            BalancePolicy::Maglev { table_size } => {
                Arc::new(Maglev::new(members, table_size, spec.load_bound))
            }
        }
    }
}
