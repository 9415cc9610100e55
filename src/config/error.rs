//! What is wrong with a configuration: all of it, each problem where it stands.

use std::fmt;

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub col: usize,
    /// The key's path: `services.orders.balance.policy`, `routes[0].path`; `file` for the file itself.
    pub key: String,
    /// What is wrong and what is accepted. Never holds a secret.
    pub message: String,
}

/// Every problem of a configuration, in the order of the file. Never empty.
///
/// Displayed as one line each: `FILE:LINE:COL: KEY: what is wrong and what is accepted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// How the file is called in messages.
    pub file: String,
    /// Its problems, sorted by position.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let ConfigError { line, col, key, message } = error;
            write!(f, "{separator}{}:{line}:{col}: {key}: {message}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A problem at a byte of the text; lines and columns are counted once, at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: usize,
    pub(super) key: String,
    pub(super) message: String,
}

impl ConfigErrors {
    /// Sorts what was found in `text` and counts its lines and columns.
    pub(super) fn locate(file: &str, text: &str, mut found: Vec<Found>) -> Self {
        found.sort_by_key(|f| f.at);
        found.dedup();
        let lines: Vec<usize> =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let locate = |f: Found| {
            let (line, col) = position(text, &lines, f.at);
            ConfigError { line, col, key: f.key, message: f.message }
        };
        Self { file: one_line(file), errors: found.into_iter().map(locate).collect() }
    }

    /// The only problem there can be when there is no text to look at.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        let error = ConfigError { line: 1, col: 1, key: "file".to_owned(), message };
        Self { file: one_line(file), errors: vec![error] }
    }
}

/// Line and column (in characters) of a byte, both from 1; `lines` are the bytes that lines start at.
fn position(text: &str, lines: &[usize], at: usize) -> (usize, usize) {
    let at = at.min(text.len());
    let line = lines.partition_point(|start| *start <= at);
    let start = lines[..line].last().copied().unwrap_or(0);
    let before = text[start..].char_indices().take_while(|(offset, c)| start + offset + c.len_utf8() <= at);
    (line, before.count() + 1)
}

/// The text with its control characters escaped: an error is one line, whatever it quotes.
pub(super) fn one_line(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "a = 1\nüü = \"é\"";
        let position = |at| position(text, &[0, 6], at);
        assert_eq!(position(0), (1, 1));
        assert_eq!(position(text.find('=').unwrap()), (1, 3));
        assert_eq!(position(5), (1, 6), "the line's end");
        assert_eq!(position(6), (2, 1));
        assert_eq!(position(7), (2, 1), "inside a character");
        assert_eq!(position(text.rfind('=').unwrap()), (2, 4));
        assert_eq!(position(text.len() + 9), (2, 9));
    }

    #[test]
    fn every_error_is_one_line() {
        let found = |at, key: &str| Found { at, key: key.to_owned(), message: "no".to_owned() };
        let errors = ConfigErrors::locate("a\nb", "x\ny", vec![found(2, "y"), found(0, "x"), found(2, "y")]);
        assert_eq!(errors.to_string(), "a\\nb:1:1: x: no\na\\nb:2:1: y: no");
    }
}
