//! Which directories of a registry are the services of a catalog.

use std::fmt;
use std::str::FromStr;

use super::name::check_segment;
use super::{InvalidName, ServiceName};

/// A star for each is more than any layout needs.
const MAX_STARS: usize = 4;

/// Stands between what several stars took.
const JOINT: char = '.';

/// A path in which a star is one whole segment: `/dubbo/*/providers`. Without a star, one follows.
///
/// A directory that matches is a service. Its name in the catalog is what the star took; what several stars
/// took is joined with dots, so that of those only the last may contain a dot itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogPattern {
    text: String,
    /// Before the first star: what is watched.
    root: String,
    segments: Vec<Option<Box<str>>>,
}

/// Where a path lies below a pattern's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogPlace<'p> {
    /// On the way to services, or beside it.
    Above,
    /// A service's directory, as its path below the root.
    Service(&'p str),
    /// Directly in a service's directory: that, and the entry's name.
    Node(&'p str, &'p str),
    /// No match.
    Elsewhere,
}

/// A text that is no pattern: what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCatalog(&'static str);

impl FromStr for CatalogPattern {
    type Err = InvalidCatalog;

    /// From a path that is sound but for its stars.
    fn from_str(text: &str) -> Result<Self, InvalidCatalog> {
        let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
        if segments.iter().any(|segment| segment.len() > 1 && segment.contains('*')) {
            return Err(InvalidCatalog("has a star that is not a whole segment"));
        }
        let first = segments.iter().position(|segment| *segment == "*");
        let (root, rest) = segments.split_at(first.unwrap_or(segments.len()));
        let segment = |text: &&str| (*text != "*").then(|| Box::from(*text));
        let segments =
            if rest.is_empty() { vec![None] } else { rest.iter().map(segment).collect::<Vec<_>>() };
        if segments.iter().filter(|segment| segment.is_none()).count() > MAX_STARS {
            return Err(InvalidCatalog("has more than four stars"));
        }
        Ok(Self { text: text.to_owned(), root: format!("/{}", root.join("/")), segments })
    }
}

impl fmt::Display for CatalogPattern {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CatalogPattern {
    /// The children of one directory, whatever its path looks like.
    pub fn children_of(path: &str) -> Self {
        let root = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        Self { text: path.to_owned(), root: root.to_owned(), segments: vec![None] }
    }

    /// The path before the first star, without a slash at its end unless it is the root itself.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// What stands from the first star on: `None` for a star.
    pub fn segments(&self) -> impl Iterator<Item = Option<&str>> {
        self.segments.iter().map(Option::as_deref)
    }

    /// How many segments lie between the root and a service's nodes.
    pub fn depth(&self) -> usize {
        self.segments.len()
    }

    /// Where a path below the root lies; `below` has no slash at either end.
    pub fn place<'p>(&self, below: &'p str) -> CatalogPlace<'p> {
        let mut at = 0;
        let mut segments = self.segments.iter();
        while at <= below.len() {
            let end = below[at..].find('/').map_or(below.len(), |slash| at + slash);
            let segment = &below[at..end];
            match segments.next() {
                Some(pattern) if pattern.as_deref().is_some_and(|literal| literal != segment) => {
                    return CatalogPlace::Elsewhere;
                }
                Some(_) if segments.len() == 0 && end == below.len() => return CatalogPlace::Service(below),
                Some(_) => {}
                None if end == below.len() => return CatalogPlace::Node(&below[..at - 1], segment),
                None => return CatalogPlace::Elsewhere,
            }
            at = end + 1;
        }
        CatalogPlace::Above
    }

    /// The service that a directory is; `folder` is its path below the root, which matches.
    ///
    /// It comes from a registry and is untrusted.
    pub fn name(&self, catalog: &ServiceName, folder: &str) -> Result<ServiceName, InvalidName> {
        let pairs = folder.split('/').zip(&self.segments);
        let taken: Vec<&str> =
            pairs.filter(|(_, pattern)| pattern.is_none()).map(|(segment, _)| segment).collect();
        for segment in &taken {
            check_segment(segment)?;
        }
        if let Some((_, before)) = taken.split_last()
            && let Some(dotted) = before.iter().find(|segment| segment.contains(JOINT))
        {
            return Err(InvalidName::new(dotted, "it contains the dot that joins it to the next"));
        }
        ServiceName::in_catalog(catalog.as_str(), &taken.join("."))
    }

    /// The whole path of a service, by its name within the catalog.
    pub fn path(&self, child: &str) -> String {
        let stars = self.segments.iter().filter(|segment| segment.is_none()).count();
        let mut taken = child.splitn(stars, JOINT);
        let mut path = self.root.trim_end_matches('/').to_owned();
        for segment in &self.segments {
            path.push('/');
            path.push_str(segment.as_deref().or_else(|| taken.next()).unwrap_or_default());
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> CatalogPattern {
        text.parse().unwrap()
    }

    fn names(text: &str, folder: &str) -> Option<String> {
        let catalog = ServiceName::new("c").unwrap();
        pattern(text).name(&catalog, folder).ok().map(|name| name.to_string())
    }

    #[test]
    fn paths_find_their_place() {
        let dubbo = pattern("/dubbo/*/providers");
        assert_eq!((dubbo.root(), dubbo.depth()), ("/dubbo", 2));
        for (below, place) in [
            ("com.foo.Bar", CatalogPlace::Above),
            ("com.foo.Bar/consumers", CatalogPlace::Elsewhere),
            ("com.foo.Bar/providers", CatalogPlace::Service("com.foo.Bar/providers")),
            ("com.foo.Bar/providers/url", CatalogPlace::Node("com.foo.Bar/providers", "url")),
            ("com.foo.Bar/consumers/url", CatalogPlace::Elsewhere),
            ("com.foo.Bar/providers/url/deep", CatalogPlace::Elsewhere),
        ] {
            assert_eq!(dubbo.place(below), place, "{below}");
        }
        for (plain, root) in [("/services", "/services"), ("/", "/"), ("/*", "/"), ("/a/*", "/a")] {
            let plain = pattern(plain);
            assert_eq!((plain.root(), plain.depth()), (root, 1));
            assert_eq!(plain.place("orders"), CatalogPlace::Service("orders"));
            assert_eq!(plain.place("orders/n1"), CatalogPlace::Node("orders", "n1"));
        }
    }

    #[test]
    fn a_name_is_what_the_stars_took_and_leads_back_to_its_path() {
        for (text, folder, name) in [
            ("/services", "orders", "c/orders"),
            ("/dubbo/*/providers", "com.foo.Bar/providers", "c/com.foo.Bar"),
            ("/services/*/*", "shop/orders", "c/shop.orders"),
            ("/motan/*/*/server", "group/com.foo.Bar/server", "c/group.com.foo.Bar"),
        ] {
            assert_eq!(names(text, folder).as_deref(), Some(name));
            let child = name.strip_prefix("c/").unwrap();
            let whole = format!("{}/{folder}", pattern(text).root());
            assert_eq!(pattern(text).path(child), whole);
        }
        assert_eq!(names("/services/*/*", "a.b/c"), None, "or it would be that of a/b.c");
        assert_eq!(names("/services", "a\u{7}"), None);
        assert_eq!(pattern("/").path("a"), "/a");
    }

    #[test]
    fn a_star_is_a_whole_segment_and_there_are_few() {
        for bad in ["/a*", "/a/*b/c", "/*/*/*/*/*", "/a/**"] {
            assert!(bad.parse::<CatalogPattern>().is_err(), "{bad}");
        }
    }
}
