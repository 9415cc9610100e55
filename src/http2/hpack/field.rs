//! What a pair of name and value means.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode};

/// A field, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// `:method`
    Method(Method),
    /// `:scheme`
    Scheme(Scheme),
    /// `:authority`
    Authority(Authority),
    /// `:path`
    Path(PathAndQuery),
    /// `:status`
    Status(StatusCode),
    /// Whatever has no colon; the value is sensitive where the client wants it never to be indexed.
    Header(HeaderName, HeaderValue),
    /// No message may have it, and why. The block is sound all the same: this ends a stream, not its connection.
    Malformed(&'static str),
}

/// A name before its value is known.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Header(HeaderName),
    /// Its length counts for the size of the table.
    Bad(usize, &'static str),
}

impl Name {
    pub(super) fn parse(name: &[u8]) -> Self {
        if name.first() == Some(&b':') {
            return match name {
                b":method" => Self::Method,
                b":scheme" => Self::Scheme,
                b":authority" => Self::Authority,
                b":path" => Self::Path,
                b":status" => Self::Status,
                _ => Self::Bad(name.len(), "an unknown pseudo-field"),
            };
        }
        // Upper case is refused by this one, and not turned into lower case; a quotation mark is not, though no token
        // has it and an instance that speaks HTTP/1 must not see it.
        match HeaderName::from_lowercase(name) {
            Ok(known) if !name.contains(&b'"') => Self::Header(known),
            _ => Self::Bad(name.len(), "a field name that is no lower-case token"),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Method => ":method".len(),
            Self::Scheme => ":scheme".len(),
            Self::Authority => ":authority".len(),
            Self::Path => ":path".len(),
            Self::Status => ":status".len(),
            Self::Header(name) => name.as_str().len(),
            Self::Bad(len, _) => *len,
        }
    }

    /// The field that this name and `value` make. A name whose value is wrong comes back with the reason, because
    /// the table may still lend it to another value.
    #[inline]
    pub(super) fn with(self, value: &[u8], sensitive: bool) -> Result<Field, (Self, &'static str)> {
        let why = match self {
            Self::Header(name) => {
                return match HeaderValue::from_bytes(value) {
                    Ok(mut value) => {
                        value.set_sensitive(sensitive);
                        Ok(Field::Header(name, value))
                    }
                    Err(_) => Err((Self::Header(name), "a control character in a field value")),
                };
            }
            Self::Path => match path(value) {
                Some(path) => return Ok(Field::Path(path)),
                None => "a :path that is none",
            },
            Self::Method => match Method::from_bytes(value) {
                Ok(method) => return Ok(Field::Method(method)),
                Err(_) => "a :method that is no token",
            },
            Self::Scheme => match Scheme::try_from(value) {
                Ok(scheme) => return Ok(Field::Scheme(scheme)),
                Err(_) => "a :scheme that is none",
            },
            Self::Authority => match Authority::try_from(value) {
                Ok(authority) => return Ok(Field::Authority(authority)),
                Err(_) => "an :authority that is none",
            },
            Self::Status => match StatusCode::from_bytes(value) {
                Ok(status) => return Ok(Field::Status(status)),
                Err(_) => "a :status that is none",
            },
            Self::Bad(_, why) => why,
        };
        Err((self, why))
    }
}

/// RFC 9113 8.3.1: it begins with a slash, or is the asterisk of OPTIONS. The parser alone would let a bare query or
/// fragment pass.
fn path(value: &[u8]) -> Option<PathAndQuery> {
    match value {
        b"/" => Some(PathAndQuery::from_static("/")),
        [b'/', ..] | b"*" => PathAndQuery::try_from(value).ok(),
        _ => None,
    }
}
