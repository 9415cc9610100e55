//! Fields that are about one connection and go no further.

use http::header::{self, HeaderMap, HeaderName};

use super::headers::{X_REQUEST_ID, has_token, tokens};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Which of [`HOP_BY_HOP`] are there: a bit each. To look up all of them would cost more than all else here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct HopByHop(u8);

/// RFC 9110, 7.6.1. TE is treated apart: its `trailers` passes.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
];

impl HopByHop {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn of(name: &HeaderName) -> Self {
        let place = match *name {
            header::CONNECTION => 0,
            header::TRANSFER_ENCODING => 1,
            header::UPGRADE => 2,
            header::TE => 3,
            header::PROXY_AUTHENTICATE => 4,
            header::PROXY_AUTHORIZATION => 5,
            _ if *name == KEEP_ALIVE => 6,
            _ if *name == PROXY_CONNECTION => 7,
            _ => return Self::NONE,
        };
        Self(1 << place)
    }

    pub(super) fn among<'a>(names: impl Iterator<Item = &'a HeaderName>) -> Self {
        names.map(Self::of).fold(Self::NONE, Self::and)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Removes these, and what Connection names. Whether TE allowed trailers.
    pub(super) fn strip(self, headers: &mut HeaderMap) -> bool {
        if self == Self::NONE {
            return false;
        }
        let te_trailers = has_token(headers, &header::TE, "trailers");
        let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            // Most name no field: `close`, `keep-alive`.
            .filter(|word| headers.contains_key(*word))
            .filter_map(|word| HeaderName::from_bytes(word.as_bytes()).ok())
            .filter(|name| !is_protected(name))
            .collect();
        for name in self.names().chain(named) {
            headers.remove(name);
        }
        te_trailers
    }

    fn names(self) -> impl Iterator<Item = HeaderName> {
        HOP_BY_HOP
            .into_iter()
            .enumerate()
            .filter(move |(place, _)| self.0 >> place & 1 == 1)
            .map(|(_, name)| name)
    }
}

/// Takes out of an answer what HTTP/2 does not carry.
pub(super) fn strip_connection_fields(headers: &mut HeaderMap) {
    HopByHop::among(headers.keys()).strip(headers);
}

/// Names that Connection may not strip: a client could make us drop what an instance relies on.
fn is_protected(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST | header::AUTHORIZATION | header::CONTENT_LENGTH | header::VIA | header::COOKIE
    ) || *name == X_REQUEST_ID
        || name.as_str() == "traceparent"
        || name.as_str().starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_a_bit_of_its_own_and_goes() {
        let mut headers = HeaderMap::new();
        for (place, name) in HOP_BY_HOP.into_iter().enumerate() {
            assert_eq!(HopByHop::of(&name).0, 1 << place, "{name}");
            headers.insert(name, "a".parse().unwrap());
        }
        headers.insert("x-a", "a".parse().unwrap());
        let all = HopByHop::among(headers.keys());
        assert!(!all.strip(&mut headers));
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-a"]);
        assert_eq!(HopByHop::among(headers.keys()), HopByHop::NONE);
    }
}
