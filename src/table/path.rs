//! The one spelling of a path that is both routed on and forwarded.
//!
//! Plain dot segments are resolved. What could mean another path to an instance than to us is refused:
//! dot segments in disguise (`%2e%2e`, `..;x`, `a%2f..`), control characters in any spelling, broken
//! percent escapes. `//`, `%2f` and everything else stay as they were written.

use std::borrow::Cow;

/// The path to route on and to forward; `Err` says why there is none.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if !path.starts_with('/') {
        return Err("the path does not begin with a slash");
    }
    // Most paths have none of these and cost one look at each byte.
    if path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';') || b.is_ascii_control()) {
        for segment in path.split('/') {
            check(segment)?;
        }
    }
    Ok(if has_dots(path) { Cow::Owned(resolve(path)) } else { Cow::Borrowed(path) })
}

fn check(segment: &str) -> Result<(), &'static str> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let mut value = *byte;
        if value == b'%' {
            let (Some(high), Some(low)) = (hex(tail.first()), hex(tail.get(1))) else {
                return Err("a percent sign in the path is not followed by two hex digits");
            };
            value = (high * 16 + low) as u8;
            rest = &tail[2..];
        }
        if value.is_ascii_control() {
            return Err("the path contains a control character");
        }
        decoded.push(value);
    }
    if matches!(segment, "." | "..") {
        return Ok(());
    }
    for piece in decoded.split(|b| matches!(b, b'/' | b'\\')) {
        let name = piece.split(|b| *b == b';').next().unwrap_or_default();
        if matches!(name, b"." | b"..") {
            return Err("the path hides a dot segment");
        }
    }
    Ok(())
}

fn hex(digit: Option<&u8>) -> Option<u32> {
    digit.and_then(|b| (*b as char).to_digit(16))
}

fn has_dots(path: &str) -> bool {
    path.contains("/.") && path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// RFC 3986, 5.2.4: above the root there is only the root.
fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_stay_as_they_are() {
        for path in
            ["/", "/a/b", "//a//b/", "/a%2Fb", "/a%2fb/", "/...", "/.a/..b", "/a;v=1/b", "/%252e%252e/", "/é"]
        {
            assert_eq!(normalise(path), Ok(Cow::Borrowed(path)));
        }
    }

    #[test]
    fn plain_dot_segments_are_resolved() {
        for (path, clean) in [
            ("/a/../b", "/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/../../etc", "/etc"),
            ("/a//../b", "/a/b"),
            ("/.", "/"),
        ] {
            assert_eq!(normalise(path).unwrap(), clean, "{path}");
        }
    }

    #[test]
    fn disguises_are_refused() {
        for path in [
            "/%2e%2e/etc",
            "/.%2E/etc",
            "/%2e/",
            "/a%2f..%2fb",
            "/a%5c..%5cb",
            "/a\\..\\b",
            "/..;/b",
            "/..;x=1/b",
            "/%00",
            "/a%0d%0ab",
            "/%7f",
            "/%1fb",
            "/%",
            "/%a",
            "/%zz",
            "*",
            "a",
        ] {
            assert!(normalise(path).is_err(), "{path}");
        }
    }
}
