//! The header rules of a hop: what never passes, what is replaced, what is added.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use ipnet::IpNet;

use super::error::ProxyError;
use super::hop_by_hop::HopByHop;
pub(super) use super::hop_by_hop::strip_connection_fields;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// So many headers are added to a request.
const ADDED: usize = 5;
/// A request id from outside that is longer is replaced.
const MAX_REQUEST_ID: usize = 128;
/// Digits of a request id of ours, and how many ids share a block. A block lives as long as one of them.
const ID: usize = 32;
const IDS: usize = 64;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Who this gateway is on the `via` line: its token tells it from other gateways of the same make.
#[derive(Debug, Clone)]
pub(super) struct Via {
    pseudonym: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    pub(super) fn new(token: &str) -> Self {
        let pseudonym = format!("zoogate-{token}");
        let line = |version: &str| {
            HeaderValue::from_str(&format!("{version} {pseudonym}")).expect("a token is visible ASCII")
        };
        Self { http10: line("1.0"), http11: line("1.1"), http2: line("2"), pseudonym }
    }

    fn line(&self, version: Version) -> &HeaderValue {
        match version {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        }
    }

    /// `Err` where this hop stands there already.
    fn refuse_own(&self, headers: &HeaderMap) -> Result<(), ProxyError> {
        let own = |value: &HeaderValue| {
            value.to_str().is_ok_and(|text| text.split([',', ' ']).any(|word| word == self.pseudonym))
        };
        if headers.get_all(header::VIA).iter().any(own) {
            return Err(ProxyError::Loop);
        }
        Ok(())
    }
}

/// The peer of a connection, as its requests need it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    /// The address as a header value.
    pub(super) text: HeaderValue,
    /// Whether its forwarding headers are believed.
    pub(super) trusted: bool,
}

/// An address as a header value. IPv4 by hand: the formatter of the standard library takes a thousand
/// instructions for it, and each new connection needs it.
fn address_text(ip: IpAddr) -> HeaderValue {
    let IpAddr::V4(ip) = ip else {
        return HeaderValue::from_str(&ip.to_string()).expect("an address is visible ASCII");
    };
    let (mut text, mut len) = ([0; 15], 0);
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            text[len] = b'.';
            len += 1;
        }
        for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
            if octet >= least {
                text[len] = b'0' + octet / unit % 10;
                len += 1;
            }
        }
    }
    HeaderValue::from_bytes(&text[..len]).expect("digits and dots")
}

impl Peer {
    pub(super) fn new(address: SocketAddr, trusted: &[IpNet]) -> Self {
        let ip = address.ip().to_canonical();
        Self { ip, text: address_text(ip), trusted: trusted.iter().any(|net| net.contains(&ip)) }
    }

    /// The address of the client proper: what trusted peers say, from the nearest backwards.
    pub(super) fn client(&self, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
        if !self.trusted {
            return self.ip;
        }
        let mut client = self.ip;
        for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
            for hop in value.to_str().unwrap_or_default().rsplit(',') {
                let Ok(ip) = hop.trim().parse::<IpAddr>() else { return client };
                client = ip.to_canonical();
                if !trusted.iter().any(|net| net.contains(&client)) {
                    return client;
                }
            }
        }
        client
    }
}

/// What a look over a request's headers found.
#[derive(Debug, Default)]
struct Found {
    hop: HopByHop,
    drop: Vec<HeaderName>,
}

/// Where new request ids come from. They share blocks of memory: one by one, an id and its first copy would
/// cost an allocation each.
#[derive(Debug, Default)]
pub(super) struct IdBlock(BytesMut);

impl IdBlock {
    fn draw(&mut self, rng: &mut fastrand::Rng) -> HeaderValue {
        if self.0.is_empty() {
            self.0 = BytesMut::zeroed(ID * IDS);
        }
        let mut text = self.0.split_to(ID);
        for (pair, byte) in text.chunks_exact_mut(2).zip(rng.u128(..).to_be_bytes()) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        HeaderValue::from_maybe_shared(text.freeze()).expect("hex digits")
    }
}

/// The id of a request: the one that a trusted peer gave it, or a new one.
pub(super) fn request_id(
    headers: &HeaderMap,
    trusted: bool,
    block: &mut IdBlock,
    rng: &mut fastrand::Rng,
) -> HeaderValue {
    if trusted {
        let sound = |value: &&HeaderValue| {
            !value.is_empty()
                && value.len() <= MAX_REQUEST_ID
                && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        if let Some(value) = headers.get(X_REQUEST_ID).filter(sound) {
            return unindexed(value.clone());
        }
    }
    unindexed(block.draw(rng))
}

/// HTTP/2 keeps header values in a table in case they come again. These never do, and each would push
/// something useful out.
fn unindexed(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// What [`forwarded`] needs to know beside the headers.
#[derive(Debug)]
pub(super) struct Hop<'a> {
    pub(super) via: &'a Via,
    pub(super) peer: &'a Peer,
    pub(super) version: Version,
    pub(super) authority: &'a HeaderValue,
    pub(super) request_id: &'a HeaderValue,
    /// The Upgrade that is asked for and passed on.
    pub(super) upgrade: Option<HeaderValue>,
}

/// Fields that go out behind those of a map.
pub(super) type Added = Vec<(HeaderName, HeaderValue)>;

/// Turns a client's headers into the ones that an instance gets. Those of ours that replace none are returned: they
/// go out behind the others, without a place in the map.
pub(super) fn forwarded(headers: &mut HeaderMap, hop: Hop<'_>) -> Result<Added, ProxyError> {
    let trusted = hop.peer.trusted;
    // One look over the names spares a look-up for each that is not there.
    let (mut found, mut expect, mut via, mut id, mut host) = (Found::default(), false, false, false, 0);
    let (mut hops, mut proto, mut named) = (false, false, false);
    for (name, value) in headers.iter() {
        let hop_by_hop = HopByHop::of(name);
        if hop_by_hop != HopByHop::NONE {
            found.hop = found.hop.and(hop_by_hop);
        } else if *name == header::HOST {
            host += if value == hop.authority { 1 } else { 2 };
        } else if *name == header::EXPECT {
            expect = true;
        } else if *name == header::VIA {
            via = true;
        } else if *name == X_REQUEST_ID {
            id = true;
        } else if *name == header::FORWARDED || is_ours_only(name.as_str(), trusted) {
            found.drop.push(name.clone());
        } else if trusted {
            hops |= *name == X_FORWARDED_FOR;
            proto |= *name == X_FORWARDED_PROTO;
            named |= *name == X_FORWARDED_HOST;
        }
    }
    let te_trailers = found.hop.strip(headers);
    for name in &found.drop {
        if !(trusted && *name == header::FORWARDED) {
            headers.remove(name);
        }
    }
    if expect {
        headers.remove(header::EXPECT);
    }
    if te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = hop.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }

    let mut added = Vec::with_capacity(ADDED);
    if via {
        hop.via.refuse_own(headers)?;
        headers.append(header::VIA, hop.via.line(hop.version).clone());
    } else {
        added.push((header::VIA, hop.via.line(hop.version).clone()));
    }
    if host != 1 {
        headers.insert(header::HOST, hop.authority.clone());
    }
    if id {
        headers.insert(X_REQUEST_ID, hop.request_id.clone());
    } else {
        added.push((X_REQUEST_ID, hop.request_id.clone()));
    }
    if hops {
        let hops = forwarded_for(headers, &hop.peer.text);
        headers.insert(X_FORWARDED_FOR, hops);
    } else {
        added.push((X_FORWARDED_FOR, hop.peer.text.clone()));
    }
    if !proto {
        added.push((X_FORWARDED_PROTO, HeaderValue::from_static("http")));
    }
    if !named {
        added.push((X_FORWARDED_HOST, hop.authority.clone()));
    }
    Ok(added)
}

/// The hops so far and this peer on one line: many an instance reads the first line only.
fn forwarded_for(headers: &HeaderMap, peer: &HeaderValue) -> HeaderValue {
    let mut hops = Vec::new();
    for line in headers.get_all(X_FORWARDED_FOR) {
        hops.extend_from_slice(line.as_bytes());
        hops.extend_from_slice(b", ");
    }
    hops.extend_from_slice(peer.as_bytes());
    // Header values joined by a comma are a header value.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(hops)).unwrap_or_else(|_| peer.clone())
}

/// Turns an instance's headers into the ones that the client gets, but for [`stamp`]'s.
pub(super) fn answered(headers: &mut HeaderMap) {
    let (mut found, mut id) = (HopByHop::NONE, false);
    for name in headers.keys() {
        found = found.and(HopByHop::of(name));
        id |= *name == X_REQUEST_ID;
    }
    found.strip(headers);
    if id {
        headers.remove(X_REQUEST_ID);
    }
}

/// What an answer gets of ours. `version` is the instance's.
pub(super) fn stamp(via: &Via, version: Version, request_id: &HeaderValue) -> [(HeaderName, HeaderValue); 2] {
    [(header::VIA, via.line(version).clone()), (X_REQUEST_ID, request_id.clone())]
}

/// Removes from trailers what must not stand there: framing, routing, and our own names.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let mut drop = Vec::new();
    for name in trailers.keys() {
        let forbidden = HopByHop::of(name) != HopByHop::NONE
            || matches!(
                *name,
                header::CONTENT_LENGTH
                    | header::HOST
                    | header::AUTHORIZATION
                    | header::CONTENT_ENCODING
                    | header::CONTENT_TYPE
                    | header::CONTENT_RANGE
                    | header::COOKIE
                    | header::SET_COOKIE
                    | header::EXPECT
                    | header::VIA
                    | header::FORWARDED
            )
            || is_ours_only(name.as_str(), false)
            || *name == X_REQUEST_ID;
        if forbidden {
            drop.push(name.clone());
        }
    }
    for name in drop {
        trailers.remove(name);
    }
}

/// Whether the client asks for an upgrade in a way that counts, and to what.
pub(super) fn upgrade_asked(headers: &HeaderMap, version: Version, method: &Method) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || *method == Method::CONNECT {
        return None;
    }
    let upgrade = headers.get(header::UPGRADE)?;
    // A tunnel to HTTP/2 would carry requests that nobody here routes or checks.
    let http2 = upgrade.as_bytes().split(|b| *b == b',').any(|one| {
        let name = one.trim_ascii();
        name.eq_ignore_ascii_case(b"h2c")
            || name.eq_ignore_ascii_case(b"h2")
            || name.len() >= 5 && name[..5].eq_ignore_ascii_case(b"http/")
    });
    (!http2 && has_token(headers, &header::CONNECTION, "upgrade")).then(|| upgrade.clone())
}

/// Whether a list header contains a token, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|word| word.eq_ignore_ascii_case(token))
}

pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

/// Names that only we, or a trusted peer, may set; and every name that an instance could take for one that
/// we set, strip or trust because it reads `_` as `-`.
fn is_ours_only(name: &str, trusted: bool) -> bool {
    if name.starts_with("x-forwarded-") || name == "x-real-ip" {
        return !trusted;
    }
    // Names are short.
    name.bytes().any(|b| b == b'_') && is_guarded(&name.replace('_', "-"))
}

fn is_guarded(twin: &str) -> bool {
    twin.starts_with("x-forwarded-")
        || matches!(
            twin,
            "x-real-ip"
                | "x-request-id"
                | "x-zoogate-error"
                | "forwarded"
                | "via"
                | "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "content-length"
                | "upgrade"
                | "host"
                | "expect"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in pairs {
            out.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        out
    }

    fn forward(pairs: &[(&str, &str)], trusted: &str) -> Result<HeaderMap, ProxyError> {
        let mut headers = map(pairs);
        let nets: Vec<IpNet> = trusted.split_whitespace().map(|net| net.parse().unwrap()).collect();
        let hop = Hop {
            via: &Via::new("me"),
            peer: &Peer::new("10.0.0.9:1".parse().unwrap(), &nets),
            version: Version::HTTP_11,
            authority: &HeaderValue::from_static("shop:80"),
            request_id: &HeaderValue::from_static("id"),
            upgrade: None,
        };
        let added = forwarded(&mut headers, hop)?;
        assert!(added.iter().all(|(name, _)| !headers.contains_key(name)), "each name is in one place");
        headers.extend(added);
        Ok(headers)
    }

    fn all(headers: &HeaderMap, name: &str) -> String {
        let values: Vec<_> = headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
        values.join(", ")
    }

    #[test]
    fn addresses_are_written_as_the_standard_library_does() {
        for octet in 0..=u8::MAX {
            let ip = IpAddr::from([octet, 255 - octet, 0, octet / 10]);
            assert_eq!(address_text(ip), ip.to_string());
        }
        assert_eq!(address_text("2001:db8::1".parse().unwrap()), "2001:db8::1");
    }

    #[test]
    fn hop_by_hop_headers_and_what_connection_names_never_pass() {
        let out = forward(
            &[
                ("connection", "close, X-Secret, Authorization, host, x-forwarded-for, content-length, te"),
                ("x-secret", "1"),
                ("authorization", "kept"),
                ("content-length", "3"),
                ("keep-alive", "1"),
                ("proxy-connection", "1"),
                ("proxy-authorization", "1"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("te", "gzip, Trailers"),
                ("traceparent", "00-1"),
            ],
            "",
        )
        .unwrap();
        for gone in [
            "connection",
            "x-secret",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
        ] {
            assert!(!out.contains_key(gone), "{gone}");
        }
        assert_eq!(all(&out, "te"), "trailers");
        for kept in ["authorization", "content-length", "host", "x-forwarded-for", "traceparent"] {
            assert!(out.contains_key(kept), "{kept}");
        }
    }

    #[test]
    fn forwarding_headers_are_replaced_unless_the_peer_is_trusted() {
        let pairs = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=1.2.3.4"),
        ];
        let out = forward(&pairs, "").unwrap();
        assert_eq!(all(&out, "x-forwarded-for"), "10.0.0.9");
        assert_eq!(all(&out, "x-forwarded-proto"), "http");
        assert_eq!(all(&out, "x-forwarded-host"), "shop:80");
        assert!(!out.contains_key("x-forwarded-port") && !out.contains_key("forwarded"));
        let out = forward(&pairs, "10.0.0.0/8").unwrap();
        assert_eq!(all(&out, "x-forwarded-for"), "1.2.3.4, 10.0.0.9");
        assert_eq!(out.get_all("x-forwarded-for").iter().count(), 1, "all of it on one line");
        assert_eq!(all(&out, "x-forwarded-proto"), "https");
        assert_eq!(all(&out, "x-forwarded-host"), "evil");
        assert!(out.contains_key("forwarded"));
    }

    #[test]
    fn underscore_twins_of_guarded_names_are_dropped_and_others_pass() {
        let out =
            forward(&[("x_forwarded_for", "1"), ("content_length", "1"), ("user_id", "7")], "10.0.0.0/8");
        let out = out.unwrap();
        assert!(!out.contains_key("x_forwarded_for") && !out.contains_key("content_length"));
        assert_eq!(all(&out, "user_id"), "7");
    }

    #[test]
    fn only_our_own_via_is_a_loop() {
        let out = forward(&[("via", "1.1 zoogate-other, 1.0 zoogate-me2")], "").unwrap();
        assert_eq!(all(&out, "via"), "1.1 zoogate-other, 1.0 zoogate-me2, 1.1 zoogate-me");
        assert_eq!(forward(&[("via", "1.1 a, 2 zoogate-me")], ""), Err(ProxyError::Loop));
    }

    #[test]
    fn the_client_is_the_nearest_hop_that_is_not_trusted() {
        let nets: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let peer = Peer::new("10.0.0.9:1".parse().unwrap(), &nets);
        let client = |value: &str| peer.client(&map(&[("x-forwarded-for", value)]), &nets).to_string();
        assert_eq!(client("6.6.6.6, 1.2.3.4, 10.1.1.1"), "1.2.3.4");
        assert_eq!(client("10.1.1.1"), "10.1.1.1");
        assert_eq!(client("1.2.3.4, junk"), "10.0.0.9");
        let stranger = Peer::new("9.9.9.9:1".parse().unwrap(), &nets);
        assert_eq!(stranger.client(&map(&[("x-forwarded-for", "1.1.1.1")]), &nets).to_string(), "9.9.9.9");
    }

    #[test]
    fn request_ids_are_kept_from_trusted_peers_only() {
        let (mut rng, mut block) = (fastrand::Rng::with_seed(1), IdBlock::default());
        let mut id = |headers: &HeaderMap, trusted| request_id(headers, trusted, &mut block, &mut rng);
        let given = map(&[("x-request-id", "abc")]);
        assert_eq!(id(&given, true), "abc");
        assert_eq!(id(&map(&[("x-request-id", "a b")]), true).len(), ID);
        let own: std::collections::HashSet<_> = (0..IDS * 3).map(|_| id(&given, false)).collect();
        assert!(
            own.len() == IDS * 3 && own.iter().all(|id| id.len() == ID),
            "new ones differ, across blocks too"
        );
    }
}
