//! How a service wants the nodes of its folder read.

use std::collections::BTreeMap;

use super::TlsChoice;

/// A service's own settings for the reading of its nodes. The default changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The port of registrations that name none.
    pub default_port: Option<u16>,
    /// Which of several named endpoints of a registration is taken.
    pub endpoint: Option<Box<str>>,
    /// Which scheme, or protocol, an instance must be registered with, where its format names one. Lower-case.
    pub scheme: Option<Box<str>>,
    /// Which ports are taken.
    pub tls: TlsChoice,
    /// Metadata that an instance must have. Those that have not belong to somebody else's service.
    pub filter: BTreeMap<Box<str>, Box<str>>,
    /// Whether a node whose data turned bad is no instance until it is good again. Else its last good value stays.
    pub drop_bad: bool,
}

impl Reading {
    /// Whether an instance with this metadata belongs to the service. An empty value stands for a key that is absent
    /// too.
    pub fn admits(&self, metadata: &BTreeMap<Box<str>, Box<str>>) -> bool {
        self.filter.iter().all(|(key, wanted)| metadata.get(key).map_or("", |value| value) == &**wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_asks_for_every_key_and_an_empty_value_for_none() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let reading = Reading { filter: map(&[("version", "2.1"), ("group", "")]), ..Reading::default() };
        assert!(reading.admits(&map(&[("version", "2.1"), ("zone", "a")])));
        assert!(reading.admits(&map(&[("version", "2.1"), ("group", "")])));
        assert!(!reading.admits(&map(&[("version", "2.1"), ("group", "blue")])));
        assert!(!reading.admits(&map(&[("version", "2.10")])));
        assert!(!reading.admits(&map(&[])));
        assert!(Reading::default().admits(&map(&[("a", "b")])));
    }
}
