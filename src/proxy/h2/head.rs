//! Heads: from the fields of a block to a request, and from an answer to a block. No I/O.

use bytes::BytesMut;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, DATE, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::response::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

use crate::http2::hpack::{self, Field};
use crate::transport::h1::{decimal, number};

/// The fields of one block, as they come in.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    headers: HeaderMap,
    cookies: u32,
    /// Pseudo-fields are over.
    regular: bool,
    /// What makes it no request.
    fault: Option<&'static str>,
    length: Option<u64>,
}

/// A request's head that keeps the rules of HTTP/2.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) request: Request<()>,
    /// Bytes of the body, where the head says how many.
    pub(super) length: Option<u64>,
}

fn once<T>(slot: &mut Option<T>, value: T, fault: &mut Option<&'static str>) {
    if slot.replace(value).is_some() {
        *fault = Some("a pseudo-field stands twice");
    }
}

impl Fields {
    /// None yet; they are put into `headers`, which is empty.
    pub(super) fn new(headers: HeaderMap) -> Self {
        Self { headers, ..Self::default() }
    }

    /// Takes the next field.
    pub(super) fn take(&mut self, field: Field) {
        let fault = &mut self.fault;
        let (name, value) = match field {
            Field::Header(name, value) => (name, value),
            Field::Malformed(why) => {
                *fault = Some(why);
                return;
            }
            pseudo => {
                if self.regular {
                    *fault = Some("a pseudo-field stands behind the others");
                }
                match pseudo {
                    Field::Method(method) => once(&mut self.method, method, fault),
                    Field::Scheme(scheme) => once(&mut self.scheme, scheme, fault),
                    Field::Authority(authority) => once(&mut self.authority, authority, fault),
                    Field::Path(path) => once(&mut self.path, path, fault),
                    Field::Header(..) | Field::Malformed(_) => {}
                }
                return;
            }
        };
        self.regular = true;
        match name {
            CONTENT_LENGTH => match decimal(value.as_bytes()) {
                Some(length) if self.length.is_none_or(|known| known == length) => self.length = Some(length),
                _ => *fault = Some("a Content-Length that says nothing"),
            },
            COOKIE => self.cookies += 1,
            TE if value.as_bytes() != b"trailers" => *fault = Some("a TE that asks for more than trailers"),
            _ if is_of_connections(&name) => *fault = Some("a connection-specific field in HTTP/2"),
            _ => {}
        }
        self.headers.append(name, value);
    }

    /// A request, or why it is none. `ends`: no body follows.
    pub(super) fn into_request(mut self, ends: bool) -> Result<RequestHead, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if ends && self.length.is_some_and(|length| length > 0) {
            return Err("a Content-Length without a body");
        }
        if self.cookies > 1 {
            join_cookies(&mut self.headers);
        }
        let method = self.method.ok_or("no :method")?;
        let mut uri = http::uri::Parts::default();
        if method == Method::CONNECT {
            if self.scheme.is_some() || self.path.is_some() {
                return Err("a CONNECT with :scheme or :path");
            }
            uri.authority = Some(self.authority.ok_or("a CONNECT without :authority")?);
        } else {
            let (scheme, path) = (self.scheme.ok_or("no :scheme")?, self.path.ok_or("no :path")?);
            if let Some(authority) = self.authority {
                (uri.scheme, uri.authority) = (Some(scheme), Some(authority));
            }
            uri.path_and_query = Some(path);
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| "a malformed target")?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        Ok(RequestHead { request, length: self.length })
    }

    /// Trailers, or why they are none.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, &'static str> {
        let pseudo =
            self.method.is_some() || self.scheme.is_some() || self.authority.is_some() || self.path.is_some();
        match self.fault {
            Some(fault) => Err(fault),
            None if pseudo => Err("a pseudo-field in trailers"),
            None => Ok(self.headers),
        }
    }
}

/// What HTTP/1 says of a connection, and HTTP/2 must not say of a stream.
fn is_of_connections(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// One field of all cookies: HTTP/2 lets clients send them apart, and nobody else knows that (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Values joined by what may stand in a value are one.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Writes an answer's fields, with those `added`: a date where it has none, and the body's length where that is known.
pub(super) fn answer(
    parts: &Parts,
    added: &[(HeaderName, HeaderValue)],
    length: Option<u64>,
    date: impl FnOnce() -> HeaderValue,
    out: &mut BytesMut,
) {
    hpack::status(out, parts.status);
    let (mut dated, mut sized) = (false, false);
    for (name, value) in &parts.headers {
        dated |= *name == DATE;
        sized |= *name == CONTENT_LENGTH;
        hpack::field(out, name, value.as_bytes(), value.is_sensitive());
    }
    for (name, value) in added {
        hpack::field(out, name, value.as_bytes(), value.is_sensitive());
    }
    if !dated {
        hpack::field(out, &DATE, date().as_bytes(), false);
    }
    if let Some(length) = length.filter(|_| !sized) {
        let mut digits = BytesMut::with_capacity(20);
        number(length, 10, &mut digits);
        hpack::field(out, &CONTENT_LENGTH, &digits, false);
    }
}

/// Writes trailers.
pub(super) fn trailers(trailers: &HeaderMap, out: &mut BytesMut) {
    for (name, value) in trailers {
        hpack::field(out, name, value.as_bytes(), value.is_sensitive());
    }
}
