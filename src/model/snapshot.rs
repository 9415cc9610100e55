//! The members of one service at one moment, and the difference between two of them.

use std::fmt;
use std::sync::Arc;

use super::{FormatName, Instance};

/// Why a node's payload is no instance. The code is what users match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// The bytes do not parse.
    Syntax,
    /// No host.
    MissingHost,
    /// No port, and no default for it.
    MissingPort,
    /// A host that is none.
    BadHost,
    /// A port that is none.
    BadPort,
    /// A version of the payload that nobody can read.
    UnsupportedVersion,
    /// Nothing known looks like this.
    UnknownFormat,
    /// An address that the registry's `deny` list forbids.
    DeniedAddress,
    /// More data, or more nodes, than the gateway takes.
    TooLarge,
    /// A name that is no safe path segment.
    BadName,
    /// The registry does not let us read it.
    Forbidden,
}

impl RejectReason {
    /// The code, as `rejected[].reason` begins.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::MissingHost => "missing_host",
            Self::MissingPort => "missing_port",
            Self::BadHost => "bad_host",
            Self::BadPort => "bad_port",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnknownFormat => "unknown_format",
            Self::DeniedAddress => "denied_address",
            Self::TooLarge => "too_large",
            Self::BadName => "bad_name",
            Self::Forbidden => "forbidden",
        }
    }
}

/// A node that is no usable instance. Displayed as `code: detail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The node's name.
    pub node: Arc<str>,
    /// What is wrong.
    pub reason: RejectReason,
    /// In words, control characters escaped.
    pub detail: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.detail)
    }
}

/// The members of a service at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceSnapshot {
    /// Sorted by `id.name`, names unique.
    pub instances: Vec<Arc<Instance>>,
    /// Sorted by node name.
    pub rejected: Vec<Rejected>,
    /// The payload format in use: as configured, or what detection decided; `None` before any node.
    pub format: Option<FormatName>,
    /// `id.name` of the primary, where the layout names one.
    pub primary: Option<Arc<str>>,
}

/// What differs between two snapshots of one service, counted as users count members.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Membership {
    /// In the new one only (a node created again counts as removed and added).
    pub added: Vec<Arc<Instance>>,
    /// In the old one only.
    pub removed: Vec<Arc<Instance>>,
    /// The same node in both, with other content: (old, new).
    pub changed: Vec<(Arc<Instance>, Arc<Instance>)>,
}

impl Membership {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl ServiceSnapshot {
    /// Where the primary stands among the instances, if it does.
    pub fn primary_index(&self) -> Option<usize> {
        let primary = self.primary.as_ref()?;
        self.instances.binary_search_by(|instance| instance.id.name.cmp(primary)).ok()
    }

    /// What happened between `self` and `next`. Linear: both are sorted by name.
    pub fn diff(&self, next: &Self) -> Membership {
        let mut out = Membership::default();
        let (mut old, mut new) = (self.instances.iter().peekable(), next.instances.iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => return out,
                (Some(_), None) => out.removed.extend(old.next().cloned()),
                (None, Some(_)) => out.added.extend(new.next().cloned()),
                (Some(a), Some(b)) => match a.id.name.cmp(&b.id.name) {
                    std::cmp::Ordering::Less => out.removed.extend(old.next().cloned()),
                    std::cmp::Ordering::Greater => out.added.extend(new.next().cloned()),
                    std::cmp::Ordering::Equal => {
                        let (a, b) = (Arc::clone(a), Arc::clone(b));
                        old.next();
                        new.next();
                        if a.id != b.id {
                            out.removed.push(a);
                            out.added.push(b);
                        } else if !Arc::ptr_eq(&a, &b) && a != b {
                            out.changed.push((a, b));
                        }
                    }
                },
            }
        }
    }
}
