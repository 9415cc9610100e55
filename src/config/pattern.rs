//! Patterns of routes: hosts, paths, rewrites. Their texts parse with `FromStr` and print as written.

use std::fmt;
use std::str::FromStr;

use super::network::is_host_name;
use super::plan::{HostMatch, PathMatch, Rewrite, Segment};

/// Why a text is no pattern, and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPattern(String);

const HOST_FORMS: &str = "accepted: \"shop.example.com\", \"*.example.com\" (one or more labels), \"{name}.example.com\" (one label, captured), or no host at all for any";
const PATH_FORMS: &str = "accepted: \"/orders\" (this path), \"/orders/*\" (it and all below), \"/users/{id}\" (one segment, captured)";
const REWRITE_FORMS: &str =
    "accepted: \"/path\" for the whole path, or \"/prefix/*\" to put what the star matched under a prefix";

fn invalid<T>(why: &str, accepted: &str) -> Result<T, InvalidPattern> {
    Err(InvalidPattern(format!("{why}; {accepted}")))
}

/// Whether a text can name a capture.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

impl FromStr for HostMatch {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let lower = text.to_ascii_lowercase();
        let (suffix, wildcard) =
            lower.strip_prefix("*.").map_or((lower.as_str(), false), |rest| (rest, true));
        // The capture's name keeps its case: it is no part of the host.
        if let Some((name, rest)) = text.strip_prefix('{').and_then(|rest| rest.split_once("}.")) {
            let suffix = rest.to_ascii_lowercase();
            return match Self::from_str(&suffix) {
                _ if !is_name(name) => {
                    invalid("has a capture whose name is none (letters, digits, _ and -)", HOST_FORMS)
                }
                Ok(Self::Exact(suffix)) if !suffix.starts_with('[') => {
                    Ok(Self::Capture { name: name.into(), suffix })
                }
                Ok(_) => invalid("has more behind its capture than a host name", HOST_FORMS),
                Err(error) => Err(error),
            };
        }
        let v6 = suffix.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if v6.is_some_and(|ip| !wildcard && ip.parse::<std::net::Ipv6Addr>().is_ok()) {
            return Ok(Self::Exact(suffix.into()));
        }
        match suffix {
            "" => invalid("names no host", HOST_FORMS),
            _ if suffix.contains('{') => {
                invalid("has a capture that is not its whole first label", HOST_FORMS)
            }
            _ if suffix.contains('*') => invalid("has a star that is not its whole first label", HOST_FORMS),
            _ if suffix.contains(':') => {
                invalid("has a port or a scheme; hosts are compared without", HOST_FORMS)
            }
            _ if !suffix.is_ascii() => {
                invalid("has letters that no host has in a request; write its xn-- form", HOST_FORMS)
            }
            _ if suffix.ends_with('.') || !is_host_name(suffix) => invalid("is no host name", HOST_FORMS),
            _ if wildcard => Ok(Self::Wildcard(suffix.into())),
            _ => Ok(Self::Exact(suffix.into())),
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Capture { name, suffix } => write!(f, "{{{name}}}.{suffix}"),
        }
    }
}

impl FromStr for PathMatch {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (segments, prefix) = split(text, PATH_FORMS)?;
        let mut parsed: Vec<Segment> = Vec::with_capacity(segments.len());
        for segment in segments {
            let capture = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let segment = match capture {
                Some(name) if !is_name(name) => {
                    return invalid(
                        "has a capture whose name is none (letters, digits, _ and -)",
                        PATH_FORMS,
                    );
                }
                Some(name) => Segment::Capture(name.into()),
                None => Segment::Literal(literal(segment, PATH_FORMS)?.into()),
            };
            if matches!(segment, Segment::Capture(_)) && parsed.contains(&segment) {
                return invalid("has two captures of one name", PATH_FORMS);
            }
            parsed.push(segment);
        }
        Ok(Self { segments: parsed, prefix })
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Capture(name) => write!(f, "/{{{name}}}")?,
            }
        }
        f.write_str(if self.prefix { "/*" } else { "" })
    }
}

impl FromStr for Rewrite {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (segments, prefix) = split(text, REWRITE_FORMS)?;
        for segment in segments {
            literal(segment, REWRITE_FORMS)?;
        }
        Ok(match text.strip_suffix("/*").filter(|_| prefix) {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        })
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(f, "{prefix}/*"),
            Self::Exact(path) => f.write_str(path),
        }
    }
}

/// The segments of a path, and whether a star follows them.
fn split<'t>(text: &'t str, accepted: &str) -> Result<(Vec<&'t str>, bool), InvalidPattern> {
    if !text.starts_with('/') {
        return invalid("does not start with a slash", accepted);
    }
    if text == "/*" {
        return Ok((Vec::new(), true));
    }
    let (path, prefix) = text.strip_suffix("/*").map_or((text, false), |path| (path, true));
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    // Only the last may be empty, and none before a star.
    let solid = if prefix { segments.len() } else { segments.len() - 1 };
    if segments[..solid].iter().any(|segment| segment.is_empty()) {
        return invalid("has two slashes in a row", accepted);
    }
    Ok((segments, prefix))
}

/// Checks a segment that stands for itself.
fn literal<'t>(segment: &'t str, accepted: &str) -> Result<&'t str, InvalidPattern> {
    let why = if segment == "." || segment == ".." {
        "has a segment \".\" or \"..\", which no request has when it is routed"
    } else if segment.contains('*') {
        "has a star before its end (write %2A for a star that stands for itself)"
    } else if segment.contains(['{', '}']) {
        "has a brace that is no whole segment {capture}, or a capture where none can stand"
    } else if segment.contains(['?', '#']) {
        "has a query or a fragment"
    } else if !segment.chars().all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@%".contains(c)) {
        "has a character that stands in no path (write it as %XX)"
    } else if !escapes_are_whole(segment) {
        "has a % without two hexadecimal digits"
    } else {
        return Ok(segment);
    };
    invalid(why, accepted)
}

fn escapes_are_whole(segment: &str) -> bool {
    segment.split('%').skip(1).all(|after| {
        let digits = after.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_written() {
        for good in
            ["/", "/*", "/orders", "/orders/", "/orders/*", "/a/{b}/c/*", "/{a}/{b-2}", "/a%20b", "/x:y@z"]
        {
            assert_eq!(good.parse::<PathMatch>().unwrap().to_string(), good);
        }
        let path: PathMatch = "/a/{b}/*".parse().unwrap();
        assert_eq!(path.segments, [Segment::Literal("a".into()), Segment::Capture("b".into())]);
        assert!(path.prefix);
        assert_eq!("/".parse::<PathMatch>().unwrap().segments, [Segment::Literal("".into())]);
        assert_eq!("/*".parse::<PathMatch>().unwrap().segments, []);
    }

    #[test]
    fn bad_paths_are_refused() {
        for bad in [
            "", "*", "orders", "//", "//*", "/a//b", "/a//*", "/a*", "/*/a", "/a/*/b", "/./a", "/a/..",
            "/{}", "/{a b}", "/{a}x", "/x{a}", "/{a}/{a}", "/a}", "/a b", "/ü", "/a?b", "/a#b", "/%", "/%2",
            "/%zz", "/\\",
        ] {
            assert!(bad.parse::<PathMatch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_lose_their_case() {
        for (text, shown) in [
            ("Shop.Example.com", "shop.example.com"),
            ("*.Example.com", "*.example.com"),
            ("[::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
            ("{Shop}.Example.com", "{Shop}.example.com"),
        ] {
            assert_eq!(text.parse::<HostMatch>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "*",
            "*.",
            "a.*.b",
            "*a.b",
            "a:80",
            "http://a",
            "{s}",
            "{s}.*.a",
            "{s}.[::1]",
            "{s}.{t}.a",
            "{s s}.a",
            "a.{s}.b",
            "a b",
            "é.fr",
            "a.",
            "a..b",
            "*.[::1]",
        ] {
            assert!(bad.parse::<HostMatch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rewrites_are_a_prefix_or_a_path() {
        assert_eq!("/*".parse(), Ok(Rewrite::Prefix("".into())));
        assert_eq!("/v2/*".parse(), Ok(Rewrite::Prefix("/v2".into())));
        assert_eq!("/v2/".parse(), Ok(Rewrite::Exact("/v2/".into())));
        for bad in ["", "v2", "/{a}", "/a*", "/a?b=c", "/a//*"] {
            assert!(bad.parse::<Rewrite>().is_err(), "{bad}");
        }
    }
}
