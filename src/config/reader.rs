//! Reading a spanned TOML tree: every problem is recorded where it stands, and none ends the walk.
//!
//! A reading function returns `None` when it has recorded why; nobody down the line records it again.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::document::Holes;
use super::environment::expand;
use super::error::{Found, one_line};
use super::nearest::nearest;
use super::schema::{Fallback, SECTIONS, Section};
use super::units::{DURATION, SIZE, parse_duration, parse_size, show_duration, show_size};

/// No message lists more words than this.
const MAX_OFFERED: usize = 20;
/// Longer values are cut in messages.
const MAX_QUOTED: usize = 80;

/// What all parts of one reading share.
pub(super) struct Reader<'a> {
    /// What relative paths count from.
    pub(super) folder: &'a Path,
    /// Looks an environment variable up.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// What the syntax errors took out.
    pub(super) holes: &'a Holes,
    /// Every problem so far.
    pub(super) errors: RefCell<Vec<Found>>,
}

/// A value with its place.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) reader: &'a Reader<'a>,
    /// Its key's path.
    pub(super) path: String,
    /// Its first byte.
    pub(super) at: usize,
    value: &'a DeValue<'a>,
}

/// A table whose keys are all known.
pub(super) struct Table<'a> {
    node: Node<'a>,
    entries: &'a DeTable<'a>,
    section: &'static Section,
}

impl<'a> Reader<'a> {
    /// The whole file.
    pub(super) fn root(&'a self, value: &'a DeValue<'a>) -> Node<'a> {
        Node { reader: self, path: String::new(), at: 0, value }
    }
}

impl<'a> Node<'a> {
    /// Records what is wrong here and what is accepted.
    pub(super) fn fail(&self, message: impl AsRef<str>) {
        self.fail_at(self.at, &self.path, message.as_ref());
    }

    fn fail_at(&self, at: usize, key: &str, message: &str) {
        let key = if key.is_empty() { "file" } else { key };
        let found = Found { at, key: one_line(key), message: one_line(message) };
        self.reader.errors.borrow_mut().push(found);
    }

    /// The string as the file writes it, for messages: what came from the environment may be a secret.
    pub(super) fn quoted(&self) -> String {
        let written = self.value.as_str().unwrap_or_default();
        let cut = if written.chars().count() > MAX_QUOTED { "…" } else { "" };
        let shown: String = written.chars().take(MAX_QUOTED).collect();
        let expanded = if written.contains("${") { ", once expanded," } else { "" };
        format!("\"{shown}{cut}\"{expanded}")
    }

    /// The part of a list of words that an error offers: the nearest, then the first.
    pub(super) fn offer(&self, known: &[&str]) -> String {
        let given = self.value.as_str().unwrap_or_default();
        let meant = nearest(given, known.iter().copied()).map(|name| format!("did you mean \"{name}\"? "));
        let mut all =
            known.iter().take(MAX_OFFERED).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        if known.is_empty() {
            all.push_str("none is configured");
        } else if known.len() > MAX_OFFERED {
            all.push_str(", …");
        }
        format!("{}accepted: {all}", meant.unwrap_or_default())
    }

    fn wrong_type(&self, expected: &str) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fail(format!("this is {found}; accepted: {expected}"));
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// A string, with environment variables expanded.
    pub(super) fn text(&self, expected: &str) -> Option<String> {
        let Some(written) = self.value.as_str() else {
            self.wrong_type(expected);
            return None;
        };
        expand(written, self.reader.env).map_err(|error| self.fail(error.to_string())).ok()
    }

    /// A string that `parse` understands; its error says what is wrong and what is accepted.
    pub(super) fn parse<T>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(expected)?;
        parse(&text).map_err(|error| self.fail(format!("{} {error}", self.quoted()))).ok()
    }

    /// A short text for people, which also labels metrics.
    pub(super) fn label(&self) -> Option<String> {
        self.parse("a string", |text| {
            let fits = !text.trim().is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
            let why = "is no name; accepted: 1 to 256 bytes without control characters";
            if fits { Ok(text.to_owned()) } else { Err(why.to_owned()) }
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.text(&format!("one of {}", words.join(", ")))?;
        let chosen = choices.iter().find(|(word, _)| *word == text);
        if chosen.is_none() {
            self.fail(format!("{} is not known; {}", self.quoted(), self.offer(&words)));
        }
        chosen.map(|(_, choice)| *choice)
    }

    /// A duration within a range.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.parse(DURATION, |text| match parse_duration(text) {
            Some(duration) if range.contains(&duration) => Ok(duration),
            Some(_) => {
                let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
                Err(format!("is out of range; accepted: from \"{least}\" to \"{most}\""))
            }
            None => Err(format!("is no duration; accepted: {DURATION}")),
        })
    }

    /// A number of bytes within a range.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.parse(SIZE, |text| match parse_size(text) {
            Some(size) if range.contains(&size) => Ok(size),
            Some(_) => {
                let (least, most) = (show_size(*range.start()), show_size(*range.end()));
                Err(format!("is out of range; accepted: from \"{least}\" to \"{most}\""))
            }
            None => Err(format!("is no size; accepted: {SIZE}")),
        })
    }

    /// A whole number within a range.
    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type(&accepted);
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.fail(format!("{integer} is out of range; accepted: {accepted}"));
        }
        number
    }

    /// A number, whole or not, within a range.
    pub(super) fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let accepted = format!("a number from {} to {}", range.start(), range.end());
        let written = match self.value {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => {
                self.wrong_type(&accepted);
                return None;
            }
        };
        let number = written.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.fail(format!("{written} is out of range; accepted: {accepted}"));
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        if self.value.as_bool().is_none() {
            self.wrong_type("true or false");
        }
        self.value.as_bool()
    }

    /// The elements of a list, none if it is no list.
    pub(super) fn list(&self, expected: &str) -> Vec<Node<'a>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type(expected);
            return Vec::new();
        };
        let element = |(index, value): (usize, &'a toml::Spanned<DeValue<'a>>)| Node {
            reader: self.reader,
            path: format!("{}[{index}]", self.path),
            at: value.span().start,
            value: value.get_ref(),
        };
        array.iter().enumerate().map(element).collect()
    }

    /// The entries of a table whose keys are the user's own, sorted; each with a node for its key.
    pub(super) fn entries(&self, expected: &str) -> Vec<(&'a str, Node<'a>, Node<'a>)> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type(expected);
            return Vec::new();
        };
        let entry = |(key, value): (&'a toml::Spanned<std::borrow::Cow<'a, str>>, &'a toml::Spanned<_>)| {
            let path = join(&self.path, key.get_ref());
            let node = Node { reader: self.reader, path, at: value.span().start, value: value.get_ref() };
            let name = Node { at: key.span().start, ..node.clone() };
            (key.get_ref().as_ref(), name, node)
        };
        table.iter().map(entry).collect()
    }

    /// A table of this section. Its unknown keys are recorded here.
    pub(super) fn table(&self, section: &'static Section) -> Option<Table<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type(&format!("a table, {}", section.heading));
            return None;
        };
        for (key, _) in table.iter().filter(|(key, _)| section.key(key.get_ref()).is_none()) {
            let message = unknown_key(key.get_ref(), section);
            self.fail_at(key.span().start, &join(&self.path, key.get_ref()), &message);
        }
        Some(Table { node: self.clone(), entries: table, section })
    }
}

impl<'a> Table<'a> {
    /// The table itself, for problems of the whole.
    pub(super) fn node(&self) -> &Node<'a> {
        &self.node
    }

    /// The value of a key, if it is set.
    pub(super) fn get(&self, key: &'static str) -> Option<Node<'a>> {
        debug_assert!(self.section.key(key).is_some(), "{key} is in the schema");
        let value = self.entries.get(key)?;
        let path = join(&self.node.path, key);
        Some(Node { reader: self.node.reader, path, at: value.span().start, value: value.get_ref() })
    }

    /// The value of a key that must be set.
    pub(super) fn require(&self, key: &'static str, accepted: &str) -> Option<Node<'a>> {
        let node = self.get(key);
        if node.is_none() {
            self.missing(key, &format!("is missing; accepted: {accepted}"));
        }
        node
    }

    /// Records that a key is missing, unless a syntax error in this table explains it.
    pub(super) fn missing(&self, key: &str, message: &str) {
        if !self.node.reader.holes.in_table(self.node.at) {
            self.node.fail_at(self.node.at, &join(&self.node.path, key), message);
        }
    }

    /// Records that a whole table is missing, unless a syntax error explains it.
    pub(super) fn missing_table(&self, key: &str, message: &str) {
        if !self.node.reader.holes.among_tables() {
            self.node.fail_at(self.node.at, &join(&self.node.path, key), message);
        }
    }

    /// What `read` makes of a key, or the default where it is not set or not good.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> T {
        debug_assert!(self.section.key(key).is_none_or(|key| key.fallback != Fallback::Required));
        self.get(key).and_then(|node| read(&node)).unwrap_or(default)
    }
}

fn unknown_key(given: &str, section: &'static Section) -> String {
    let known: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
    let meant = nearest(given, known.iter().copied()).map(|name| format!("did you mean {name}? "));
    let elsewhere = SECTIONS.iter().find(|other| !other.path.is_empty() && other.key(given).is_some());
    let elsewhere = elsewhere.map(|other| format!("({} has a key of this name) ", other.heading));
    let hint = format!("{}{}", meant.unwrap_or_default(), elsewhere.unwrap_or_default());
    format!("unknown key; {hint}accepted in {}: {}", section.heading, known.join(", "))
}

/// A key's path below another's: what is no bare key is quoted.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if bare { key.to_owned() } else { format!("\"{key}\"") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
