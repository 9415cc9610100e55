//! The text as a TOML tree, with every syntax error found on the way.
//!
//! The parser recovers from most errors, but some end its tree early and some make it take the rest
//! of the file for the inside of a list. So a statement with a syntax error is reported, taken out, and
//! the rest parsed again: what stands after a typo is checked all the same.

use std::fmt::Write as _;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Found;

/// No file has more broken statements than are worth telling.
const MAX_SYNTAX_ERRORS: usize = 100;

/// A file's text without its broken statements.
#[derive(Debug)]
pub(super) struct Document {
    /// As long as the original, so that positions hold; broken statements are blank.
    text: String,
    /// What was wrong with them, and which keys stand twice.
    pub(super) errors: Vec<Found>,
    /// Where they were.
    pub(super) holes: Holes,
}

/// What the syntax errors took out: a key that is missing because of one is no second error.
#[derive(Debug, Default)]
pub(super) struct Holes {
    /// Starts of the headers whose tables lost a key.
    tables: Vec<usize>,
    /// Whether a whole table is gone.
    headers: bool,
}

impl Holes {
    /// Whether the table whose header starts at this byte may have had more keys than are left.
    pub(super) fn in_table(&self, at: usize) -> bool {
        self.tables.contains(&at)
    }

    /// Whether there may have been more tables than are left.
    pub(super) fn among_tables(&self) -> bool {
        self.headers
    }
}

impl Document {
    /// Parses until what is left is sound.
    pub(super) fn read(original: &str) -> Self {
        let mut document = Self { text: original.to_owned(), errors: Vec::new(), holes: Holes::default() };
        loop {
            let (tree, errors) = DeTable::parse_recoverable(&document.text);
            let (mut broken, doubled): (Vec<_>, Vec<_>) = errors
                .iter()
                .map(|e| (e.span().map_or(0, |s| s.start), e.message()))
                .partition(|(_, message)| !keeps_the_tree(message));
            broken.sort_by_key(|(at, _)| *at);
            let Some((at, message)) = broken.first().copied() else {
                let doubled = doubled.into_iter().map(|(at, message)| doubled_key(original, at, message));
                document.errors.extend(doubled.collect::<Vec<_>>());
                return document;
            };
            let (found, statement) = broken_statement(&document.text, original, tree.get_ref(), at, message);
            document.errors.push(found);
            let progress = document.take_out(statement);
            if !progress || document.errors.len() >= MAX_SYNTAX_ERRORS {
                document.text = String::new();
                document.holes = Holes { tables: Vec::new(), headers: true };
                return document;
            }
        }
    }

    /// The sound tree.
    pub(super) fn tree(&self) -> DeTable<'_> {
        DeTable::parse_recoverable(&self.text).0.into_inner()
    }

    /// Blanks a statement, with its table where it is a header. False if there was nothing to blank.
    fn take_out(&mut self, statement: Range<usize>) -> bool {
        let header = is_header(line_at(&self.text, statement.start));
        let start = statement.start;
        let end = if header {
            self.holes.headers = true;
            let next = lines(&self.text).find(|(at, line)| *at > start && is_header(line));
            next.map_or(self.text.len(), |(at, _)| at)
        } else {
            let header =
                lines(&self.text).take_while(|(at, _)| *at <= start).filter(|(_, l)| is_header(l)).last();
            match header {
                Some((at, line)) => self.holes.tables.push(at + indent(line)),
                // Above the first header, every key is a table.
                None => self.holes.headers = true,
            }
            statement.end
        };
        let blank = |c: char| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) };
        let blanked: String = self.text[start..end].chars().map(blank).collect();
        let progress = blanked != self.text[start..end];
        self.text.replace_range(start..end, &blanked);
        progress
    }
}

/// Errors that lose nothing but the key they name.
fn keeps_the_tree(message: &str) -> bool {
    message == "duplicate key" || message.starts_with("cannot extend")
}

fn doubled_key(text: &str, at: usize, message: &str) -> Found {
    let message = if message == "duplicate key" {
        "stands twice in the file; accepted: each key and each table once".to_owned()
    } else {
        format!("not valid TOML: {message}")
    };
    Found { at, key: key_path(text, at), message }
}

/// The error as users should see it, and the lines it spoils.
fn broken_statement(
    text: &str,
    original: &str,
    tree: &DeTable<'_>,
    at: usize,
    message: &str,
) -> (Found, Range<usize>) {
    let line = line_start(text, at);
    let value = enclosing_value(text, tree, at).unwrap_or(at..at);
    let first = line_start(text, value.start);
    // Where the parser noticed is the place, unless it had run into the next statement, or to the end.
    let ran_on = first != line && (is_statement(line_at(text, line)) || text[at..].trim().is_empty());
    let place = if ran_on { value.start } else { at };
    let why = match text[value.start..].chars().next() {
        Some('[') if ran_on => "this list is not closed, or lacks a comma".to_owned(),
        Some('{') if ran_on => "this table is not closed, or lacks a comma".to_owned(),
        Some('"' | '\'') if ran_on => "this string is not closed".to_owned(),
        _ => in_our_words(message, line_at(text, at)),
    };
    let after = lines(text).find(|(start, l)| *start > first && is_statement(l));
    let end = after.map_or(text.len(), |(start, _)| start);
    let message = format!("not valid TOML: {why}");
    (Found { at: place, key: key_path(original, first), message }, first..end)
}

/// The parser's message, but for the two that a forgotten quote gets.
fn in_our_words(message: &str, line: &str) -> String {
    let unquoted = message.starts_with("string values must be quoted");
    let words = if unquoted && line.trim_end().ends_with('=') {
        "a value is missing"
    } else if unquoted || message.starts_with("invalid boolean") {
        "this is no value; accepted: text in quotes, a number, true, false, a list or a table"
    } else {
        message
    };
    words.to_owned()
}

/// The outermost value, of those written after a `=`, that is open at this byte.
fn enclosing_value(text: &str, table: &DeTable<'_>, at: usize) -> Option<Range<usize>> {
    table.iter().find_map(|(_, value)| enclosing(text, value, at))
}

fn enclosing(text: &str, value: &Spanned<DeValue<'_>>, at: usize) -> Option<Range<usize>> {
    let written = text.get(value.span()).unwrap_or_default();
    match value.get_ref() {
        // A table made by headers spans its header only: look inside.
        DeValue::Table(inner) if !written.starts_with('{') => enclosing_value(text, inner, at),
        DeValue::Array(inner) if is_header(written) => inner.iter().find_map(|v| enclosing(text, v, at)),
        _ => (value.span().start < at && at <= value.span().end).then(|| value.span()),
    }
}

/// The key that a line is about, read from the text alone: it must work where nothing parses.
fn key_path(text: &str, at: usize) -> String {
    let at = line_start(text, at);
    let mut path = String::new();
    if let Some((start, header)) = lines(text).filter(|(start, l)| *start <= at && is_header(l)).last() {
        let name = header_name(header);
        path.push_str(name);
        if header.trim_start().starts_with("[[") {
            let same = |(other, l): &(usize, &str)| *other < start && is_header(l) && header_name(l) == name;
            let index = lines(text).filter(same).count();
            let _ = write!(path, "[{index}]");
        }
    }
    let line = line_at(text, at);
    if let Some((key, _)) = line.split_once('=').filter(|_| is_statement(line) && !is_header(line)) {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key.trim());
    }
    if path.is_empty() { "file".to_owned() } else { super::error::one_line(&path) }
}

fn header_name(line: &str) -> &str {
    let inside = line.trim().trim_start_matches('[');
    inside.split([']', '#']).next().unwrap_or(inside).trim()
}

/// Whether a line looks like `[table]` or `[[list]]`, closed or not.
fn is_header(line: &str) -> bool {
    let line = line.trim();
    let inside = line.trim_start_matches('[');
    (1..=2).contains(&(line.len() - inside.len()))
        && inside.trim_start().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && !inside.split('#').next().is_some_and(|name| name.contains([',', '=']))
}

/// Whether a line looks like a header or like `key = …`.
fn is_statement(line: &str) -> bool {
    let is_key = |key: &str| {
        let legal = |c: char| c.is_alphanumeric() || " \t_-.\"'".contains(c);
        !key.trim().is_empty() && key.chars().all(legal)
    };
    is_header(line) || line.split_once('=').is_some_and(|(key, _)| is_key(key))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The lines with the byte each starts at.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start, line))
    })
}

fn line_start(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1)
}

fn line_at(text: &str, at: usize) -> &str {
    let start = line_start(text, at);
    text[start..].lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::error::ConfigErrors;

    fn errors(text: &str) -> Vec<String> {
        let document = Document::read(text);
        let located = ConfigErrors::locate("f", text, document.errors);
        located.to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_broken_statement_is_one_error_and_hides_no_other() {
        for (broken, expected) in [
            ("workers 2", "f:2:9: gateway: not valid TOML: key with no value, expected `=`"),
            ("workers = ", "f:2:11: gateway.workers: not valid TOML: a value is missing"),
            (
                "workers = \"abc",
                "f:2:15: gateway.workers: not valid TOML: invalid basic string, expected `\"`",
            ),
            (
                "workers = [1",
                "f:2:11: gateway.workers: not valid TOML: this list is not closed, or lacks a comma",
            ),
            (
                "workers = { a = 1",
                "f:2:11: gateway.workers: not valid TOML: this table is not closed, or lacks a comma",
            ),
            ("workers = \"\"\"x", "f:2:11: gateway.workers: not valid TOML: this string is not closed"),
            ("[log", "f:2:5: log: not valid TOML: unclosed table, expected `]`"),
        ] {
            let text = format!("[gateway]\n{broken}\nx = 1\n[a]\ny = 2\ny = 3\n");
            assert_eq!(
                errors(&text),
                [expected, "f:6:1: a.y: stands twice in the file; accepted: each key and each table once"],
                "{broken}"
            );
        }
    }

    #[test]
    fn what_follows_a_broken_list_is_still_read() {
        let text = "[[routes]]\nmethods = [\n  \"GET\"\n  \"PUT\"\n]\npath = \"/\"\n[[routes]]\npath = x\n";
        assert_eq!(
            errors(text),
            [
                "f:4:3: routes[0].methods: not valid TOML: missing comma between array elements, expected `,`",
                "f:8:8: routes[1].path: not valid TOML: this is no value; accepted: text in quotes, a number, true, false, a list or a table",
            ]
        );
        let document = Document::read(text);
        let tree = document.tree();
        assert_eq!(tree.get("routes").unwrap().get_ref().as_array().unwrap().len(), 2);
        assert!(document.holes.in_table(text.rfind("[[").unwrap()));
        assert!(!document.holes.among_tables());
    }
}
