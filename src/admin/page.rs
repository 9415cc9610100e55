//! The dashboard: one page that reads the API, without anything from elsewhere.

/// Its type.
pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// Its text.
pub(super) const PAGE: &str = include_str!("page.html");
