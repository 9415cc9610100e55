//! Names of services and registries: short, cheap to clone, checked once.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest name accepted, in bytes.
const MAX_NAME: usize = 256;

/// A text that cannot name what it was meant to name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name: {why}")]
pub struct InvalidName {
    text: String,
    why: &'static str,
}

impl InvalidName {
    pub(super) fn new(text: &str, why: &'static str) -> Self {
        Self { text: text.to_owned(), why }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name_type! {
    /// The name of a service: as configured (`orders`), or `CATALOG/CHILD` for a catalog's child.
    ServiceName
}
name_type! {
    /// The name of a registry in the configuration.
    RegistryName
}

impl ServiceName {
    /// A configured name: no slash, no control characters, not empty.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        check_segment(text).map(|()| Self(text.into()))
    }

    /// The service that a catalog's child directory is.
    ///
    /// The child comes from a registry and is untrusted: it must be one safe path segment.
    pub fn in_catalog(catalog: &str, child: &str) -> Result<Self, InvalidName> {
        check_segment(child)?;
        Ok(Self(format!("{catalog}/{child}").into()))
    }
}

impl RegistryName {
    /// A configured name: no slash, no control characters, not empty.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        check_segment(text).map(|()| Self(text.into()))
    }
}

pub(super) fn check_segment(text: &str) -> Result<(), InvalidName> {
    let why = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_NAME {
        "it is longer than 256 bytes"
    } else if text == "." || text == ".." {
        "it is a relative path segment"
    } else if text.contains('/') {
        "it contains a slash"
    } else if text.chars().any(char::is_control) {
        "it contains a control character"
    } else {
        return Ok(());
    };
    Err(InvalidName { text: text.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_safe_segment() {
        assert_eq!(ServiceName::new("orders").unwrap().as_str(), "orders");
        for bad in ["", ".", "..", "a/b", "a\nb", &"x".repeat(257)] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
            assert!(ServiceName::in_catalog("apps", bad).is_err(), "{bad:?}");
        }
        assert_eq!(ServiceName::in_catalog("apps", "a").unwrap().as_str(), "apps/a");
    }
}
