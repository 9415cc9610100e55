//! From the fields of a block to a message.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};

use super::hpack::Field;
use crate::model::decimal;

/// The fields of one block, as they come in.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    status: Option<StatusCode>,
    headers: HeaderMap,
    cookies: u32,
    /// Pseudo-fields are over.
    regular: bool,
    /// What makes it no message.
    fault: Option<&'static str>,
    length: Option<u64>,
}

/// A request's head that keeps the rules of HTTP/2.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) request: Request<()>,
    /// Bytes of the body, where the head says how many.
    pub(crate) length: Option<u64>,
}

fn once<T>(slot: &mut Option<T>, value: T, fault: &mut Option<&'static str>) {
    if slot.replace(value).is_some() {
        *fault = Some("a pseudo-field stands twice");
    }
}

impl Fields {
    /// None yet; they are put into `headers`, which is empty.
    pub(crate) fn new(headers: HeaderMap) -> Self {
        Self { headers, ..Self::default() }
    }

    /// Takes the next field.
    pub(crate) fn take(&mut self, field: Field) {
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
                    Field::Status(status) => once(&mut self.status, status, fault),
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
        if self.headers.try_append(name, value).is_err() {
            self.fault = Some("more fields than anybody can count");
        }
    }

    fn asks(&self) -> bool {
        self.method.is_some() || self.scheme.is_some() || self.authority.is_some() || self.path.is_some()
    }

    /// A request, or why it is none. `ends`: no body follows.
    pub(crate) fn into_request(mut self, ends: bool) -> Result<RequestHead, &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.status.is_some() {
            return Err("a request with :status");
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

    /// An answer with the length that its head gives the body, or why it is none.
    pub(crate) fn into_answer(self) -> Result<(Response<()>, Option<u64>), &'static str> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.asks() {
            return Err("an answer with a request's pseudo-field");
        }
        let mut answer = Response::new(());
        *answer.status_mut() = self.status.ok_or("no :status")?;
        *answer.version_mut() = Version::HTTP_2;
        *answer.headers_mut() = self.headers;
        Ok((answer, self.length))
    }

    /// Trailers, or why they are none.
    pub(crate) fn into_trailers(self) -> Result<HeaderMap, &'static str> {
        match self.fault {
            Some(fault) => Err(fault),
            None if self.asks() || self.status.is_some() => Err("a pseudo-field in trailers"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_in_pieces_is_put_together() {
        let mut fields = Fields::default();
        fields.take(Field::Method(Method::GET));
        fields.take(Field::Scheme(Scheme::HTTP));
        fields.take(Field::Path(PathAndQuery::from_static("/")));
        for crumb in ["a=1", "b=2; c=3", "d=4"] {
            fields.take(Field::Header(COOKIE, HeaderValue::from_static(crumb)));
        }
        let head = fields.into_request(true).unwrap();
        assert_eq!(head.request.headers()[COOKIE], "a=1; b=2; c=3; d=4");
        assert_eq!(head.request.headers().len(), 1);
    }

    #[test]
    fn more_names_than_a_map_takes_are_no_message() {
        let mut fields = Fields::default();
        for number in 0..40_000 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            fields.take(Field::Header(name, HeaderValue::from_static("")));
        }
        assert!(fields.into_trailers().is_err());
    }
}
