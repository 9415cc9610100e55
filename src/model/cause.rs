//! Why a service's members changed.

/// What told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// An event of the registry.
    Event,
    /// A listing: the first one, or one that found what events had not told.
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
            Self::Event => "event",
            Self::Listing => "listing",
            Self::Snapshot => "snapshot",
            Self::Configuration => "configuration",
            Self::Guard => "guard",
        }
    }
}
