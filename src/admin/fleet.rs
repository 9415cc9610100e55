//! The gateways that are registered beside this one, as the admin shows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// What a gateway says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatewayView {
    /// Its id, the name of its node.
    pub id: String,
    /// Of the program.
    pub version: String,
    /// Where its admin answers.
    pub admin: String,
    /// Its listeners with the addresses in use.
    pub listeners: BTreeMap<String, String>,
    /// How many services it has.
    pub services: usize,
    /// Over the names and fingerprints of all its services.
    pub digest: String,
    /// By service; null where there are too many.
    pub fingerprints: Option<BTreeMap<String, String>>,
}

/// The fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FleetView {
    /// This gateway.
    pub id: String,
    /// Where the fleet is registered.
    pub registry: Option<String>,
    /// The directory there.
    pub path: Option<String>,
    /// Whether this gateway's own node is there.
    pub registered: bool,
    /// Whether the list may be old.
    pub stale: bool,
    /// Whether all balance alike.
    pub alike: bool,
    /// Services that are not the same everywhere; null where that cannot be told.
    pub differ: Option<Vec<String>>,
    /// Sorted by id.
    pub gateways: Vec<GatewayView>,
}

impl FleetView {
    /// Fills in what follows from the gateways.
    #[must_use]
    pub fn compared(mut self) -> Self {
        self.gateways.sort_by(|a, b| a.id.cmp(&b.id));
        let Some((first, rest)) = self.gateways.split_first() else {
            (self.alike, self.differ) = (true, Some(Vec::new()));
            return self;
        };
        self.alike = rest.iter().all(|other| other.digest == first.digest);
        let told: Option<Vec<_>> =
            self.gateways.iter().map(|gateway| gateway.fingerprints.as_ref()).collect();
        self.differ = match told {
            _ if self.alike => Some(Vec::new()),
            None => None,
            Some(all) => {
                let names: BTreeSet<&String> = all.iter().flat_map(|one| one.keys()).collect();
                let differs = |name: &&String| all.iter().any(|one| one.get(*name) != all[0].get(*name));
                Some(names.into_iter().filter(differs).cloned().collect())
            }
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(id: &str, digest: &str, prints: Option<&[(&str, &str)]>) -> GatewayView {
        let prints = prints.map(|all| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        GatewayView { id: id.into(), digest: digest.into(), fingerprints: prints, ..GatewayView::default() }
    }

    fn told(gateways: &[GatewayView]) -> (bool, Option<Vec<String>>) {
        let view = FleetView { gateways: gateways.to_vec(), ..FleetView::default() }.compared();
        (view.alike, view.differ)
    }

    #[test]
    fn what_differs_is_named_where_it_is_known() {
        let a = gateway("a", "1", Some(&[("orders", "x"), ("users", "y")]));
        assert_eq!(told(&[]), (true, Some(vec![])));
        assert_eq!(told(&[a.clone(), gateway("b", "1", None)]), (true, Some(vec![])));
        assert_eq!(told(&[a.clone(), gateway("b", "2", None)]), (false, None));
        let b = gateway("b", "2", Some(&[("orders", "z"), ("users", "y"), ("new", "n")]));
        assert_eq!(told(&[b, a]), (false, Some(vec!["new".into(), "orders".into()])));
    }
}
