//! Facts that every floor speaks of: names, instances, snapshots of services, and the enums that a
//! configuration chooses among. No I/O and no clock.

mod cause;
mod decimal;
mod deny;
mod instance;
mod name;
mod pattern;
mod policy;
mod reading;
mod retry;
mod sequence;
mod snapshot;

pub use cause::{Cause, Source};
pub(crate) use decimal::decimal;
pub use deny::{Denial, DenyList};
pub use instance::{
    Address, Host, Incarnation, Instance, InstanceId, InvalidAddress, NodeFacts, Owner, Role,
};
pub use name::{InvalidName, RegistryName, ServiceName};
pub use pattern::{CatalogPattern, CatalogPlace, InvalidCatalog};
pub use policy::{
    BalancePolicy, BalanceSpec, FormatChoice, FormatName, HashKey, InstanceChoice, PrimaryRule, Protocol,
    TlsChoice, Trust, UnknownName,
};
pub use reading::Reading;
pub use retry::{MethodSet, RetrySpec, StatusSet};
pub use sequence::sequence_of;
pub use snapshot::{Membership, RejectReason, Rejected, ServiceSnapshot};
