//! Sequence numbers that ZooKeeper puts behind the names of sequential nodes.

use std::sync::Arc;

use super::ServiceSnapshot;

/// As many as ZooKeeper writes.
const DIGITS: usize = 10;

/// The sequence number of a node: its name's last ten characters, where they are digits.
pub fn sequence_of(node: &str) -> Option<u64> {
    let digits = node.as_bytes().get(node.len().checked_sub(DIGITS)?..)?;
    digits
        .iter()
        .try_fold(0, |number: u64, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

impl ServiceSnapshot {
    /// The lowest sequence number of a node, and the instance that it is. No instance, where that node says nothing
    /// usable: who holds it is not the next one.
    pub fn lowest_sequence(&self) -> (Option<u64>, Option<Arc<str>>) {
        let node = |id: &str| sequence_of(id.split_once('#').map_or(id, |(node, _)| node));
        let instances = self.instances.iter().map(|instance| (&instance.id.name, true));
        let rejected = self.rejected.iter().map(|rejected| (&rejected.node, false));
        let numbered = instances.chain(rejected).filter_map(|(id, usable)| Some((node(id)?, !usable, id)));
        // Data that turned bad leaves the last good value beside its rejection: the value counts.
        let lowest = numbered.min();
        let usable = lowest.filter(|(_, unusable, _)| !unusable).map(|(_, _, id)| Arc::clone(id));
        (lowest.map(|(number, ..)| number), usable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, Instance, InstanceId, RejectReason, Rejected};

    fn snapshot(nodes: &[&str], rejected: &[&str]) -> ServiceSnapshot {
        let address: Address = "10.0.0.1:80".parse().unwrap();
        let instance = |node: &&str| Arc::new(Instance::new(InstanceId::from(*node), address.clone()));
        let reject = |node: &&str| Rejected {
            node: (*node).into(),
            reason: RejectReason::Syntax,
            detail: String::new(),
        };
        ServiceSnapshot {
            instances: nodes.iter().map(instance).collect(),
            rejected: rejected.iter().map(reject).collect(),
            ..ServiceSnapshot::default()
        }
    }

    #[test]
    fn the_number_is_the_last_ten_digits() {
        for (node, number) in [
            ("_c_5a3b9f-latch-0000000003", Some(3)),
            ("b6f__lock__0000000010", Some(10)),
            ("member_2147483647", Some(2_147_483_647)),
            ("0000000001", Some(1)),
            ("node-1", None),
            ("latch-000000003x", None),
            ("é000000000", None),
            ("", None),
        ] {
            assert_eq!(sequence_of(node), number, "{node}");
        }
    }

    #[test]
    fn the_lowest_number_leads_whatever_stands_before_it() {
        let lowest = |nodes: &[&str], rejected: &[&str]| snapshot(nodes, rejected).lowest_sequence().1;
        assert_eq!(lowest(&["a-0000000010", "z-0000000002"], &[]).as_deref(), Some("z-0000000002"));
        assert_eq!(lowest(&["a-0000000010"], &["b-0000000003"]), None, "the leader cannot be read");
        assert_eq!(lowest(&["a-0000000010"], &["junk"]).as_deref(), Some("a-0000000010"));
        assert_eq!(lowest(&["a-0000000010"], &["a-0000000010"]).as_deref(), Some("a-0000000010"));
        assert_eq!(lowest(&["plain"], &[]), None);
    }
}
