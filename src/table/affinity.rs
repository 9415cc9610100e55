//! What of a request is hashed, for the policies that place by key.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::model::HashKey;

use super::request::RouteInput;
use super::routing_table::Matched;

/// The bytes of a request's hash key: `None` where it lacks them, or they are empty.
pub fn key<'a>(
    key: &HashKey,
    input: &RouteInput<'a>,
    matched: &'a Matched,
    client: IpAddr,
) -> Option<Cow<'a, [u8]>> {
    let bytes = match key {
        HashKey::Header(name) => Cow::Borrowed(input.headers.get(&**name)?.as_bytes()),
        HashKey::Cookie(name) => Cow::Borrowed(input.cookie(name)?),
        HashKey::Query(name) => input.query_values(name).next()?,
        HashKey::Path => match matched.forward_path(input.path) {
            Cow::Borrowed(path) => Cow::Borrowed(path.as_bytes()),
            Cow::Owned(path) => Cow::Owned(path.into_bytes()),
        },
        HashKey::PathCapture(name) => Cow::Borrowed(matched.captures.get(name)?.as_bytes()),
        HashKey::Host => Cow::Borrowed(input.host.as_bytes()),
        HashKey::ClientIp => return Some(Cow::Owned(client_key(client).into_bytes())),
    };
    (!bytes.is_empty()).then_some(bytes)
}

/// A client's address as it is hashed: as text, IPv4 in IPv6 as IPv4. All that a tcp listener has.
pub fn client_key(client: IpAddr) -> String {
    client.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, Method};

    use crate::config::plan::{Rewrite, RoutePlan};

    use super::super::route::Route;
    use super::super::testing::route;
    use super::*;

    #[test]
    fn each_key_is_read_from_its_place_and_may_be_missing() {
        let plan = RoutePlan { rewrite: Some(Rewrite::Prefix("/v2".into())), ..route("/apps/{s}/*") };
        let route = Arc::new(Route::from(plan));
        let path = "/apps/a%20b/x";
        let matched = Matched { captures: route.captures(path), route };
        let mut headers = HeaderMap::new();
        headers.insert("x-user-id", "u1".parse().unwrap());
        headers.insert("x-empty", "".parse().unwrap());
        headers.insert("cookie", "sid=c1".parse().unwrap());
        let input =
            RouteInput { method: &Method::GET, host: "h.com", path, query: Some("q=a+b"), headers: &headers };
        let client = "::ffff:10.0.0.1".parse().unwrap();
        for (spec, expected) in [
            (HashKey::Header("x-user-id".into()), Some("u1")),
            (HashKey::Header("x-other".into()), None),
            (HashKey::Header("x-empty".into()), None),
            (HashKey::Cookie("sid".into()), Some("c1")),
            (HashKey::Cookie("si".into()), None),
            (HashKey::Query("q".into()), Some("a b")),
            (HashKey::Query("r".into()), None),
            (HashKey::Path, Some("/v2/x")),
            (HashKey::PathCapture("s".into()), Some("a b")),
            (HashKey::PathCapture("t".into()), None),
            (HashKey::Host, Some("h.com")),
            (HashKey::ClientIp, Some("10.0.0.1")),
        ] {
            assert_eq!(
                key(&spec, &input, &matched, client).as_deref(),
                expected.map(str::as_bytes),
                "{spec}"
            );
        }
    }
}
