//! Why a service's members changed.

/// How a registry's change came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The registry told it. Where both come together, this one counts.
    Event,
    /// A listing found it, and no event had told it.
    Listing,
}

/// What told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// An event of the registry: that a node came.
    Added,
    /// An event: that it went, by deletion or with its session; a watch does not tell which.
    Deleted,
    /// An event: that its data changed.
    Changed,
    /// A listing found it, after a reconnect or in an audit.
    Relisted,
    /// The first listing.
    Listing,
    /// The snapshot on disk.
    Snapshot,
    /// The configuration: a service that is gone from it, or that reads another directory now.
    Configuration,
    /// The guard against mass vanishing.
    Guard,
}

impl Cause {
    /// The word in events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Deleted => "deleted",
            Self::Changed => "changed",
            Self::Relisted => "relisted",
            Self::Listing => "listing",
            Self::Snapshot => "snapshot",
            Self::Configuration => "configuration",
            Self::Guard => "guard",
        }
    }
}
