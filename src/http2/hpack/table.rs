//! The static table and the dynamic one.

use std::collections::VecDeque;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::field::{Field, Name};

/// Entries of the static table.
pub(super) const STATIC: usize = 61;
/// Its first entry that is no pseudo-field; from there on no name stands twice.
const HEADERS: usize = 15;
/// What an entry costs besides its bytes, by RFC 7541 4.1.
pub(super) const OVERHEAD: usize = 32;

macro_rules! headers {
    ($($name:literal)*) => {
        const TEXTS: [&str; STATIC + 1 - HEADERS] = [$($name),*];
        static NAMES: [HeaderName; STATIC + 1 - HEADERS] = [$(HeaderName::from_static($name)),*];
    };
}
headers! {
    "accept-charset" "accept-encoding" "accept-language" "accept-ranges" "accept" "access-control-allow-origin"
    "age" "allow" "authorization" "cache-control" "content-disposition" "content-encoding" "content-language"
    "content-length" "content-location" "content-range" "content-type" "cookie" "date" "etag" "expect" "expires"
    "from" "host" "if-match" "if-modified-since" "if-none-match" "if-range" "if-unmodified-since" "last-modified"
    "link" "location" "max-forwards" "proxy-authenticate" "proxy-authorization" "range" "referer" "refresh"
    "retry-after" "server" "set-cookie" "strict-transport-security" "transfer-encoding" "user-agent" "vary" "via"
    "www-authenticate"
}

const ENCODINGS: usize = 16;
const ENCODINGS_VALUE: &str = "gzip, deflate";

/// The size of each entry of the static table; none is at 0.
static SIZES: [u8; STATIC + 1] = {
    // The name and value of 1 to 14: an authority, methods, paths, schemes, states.
    let mut sizes = [
        0, 10, 10, 11, 6, 16, 11, 12, 10, 10, 10, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut at = 1;
    while at <= STATIC {
        if at >= HEADERS {
            sizes[at] = TEXTS[at - HEADERS].len() as u8;
        }
        sizes[at] += OVERHEAD as u8;
        at += 1;
    }
    sizes[ENCODINGS] += ENCODINGS_VALUE.len() as u8;
    sizes
};

/// The size of an entry of the static table.
#[inline]
pub(super) fn static_size(index: usize) -> usize {
    usize::from(SIZES[index])
}

/// An entry of the static table.
#[inline]
pub(super) fn static_field(index: usize) -> Field {
    match index {
        2 => Field::Method(Method::GET),
        3 => Field::Method(Method::POST),
        4 => Field::Path(PathAndQuery::from_static("/")),
        5 => Field::Path(PathAndQuery::from_static("/index.html")),
        6 => Field::Scheme(Scheme::HTTP),
        7 => Field::Scheme(Scheme::HTTPS),
        ENCODINGS => Field::Header(http::header::ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS_VALUE)),
        HEADERS..=STATIC => Field::Header(NAMES[index - HEADERS].clone(), HeaderValue::from_static("")),
        1 => Field::Malformed("an empty :authority"),
        8 => Field::Status(StatusCode::OK),
        9 => Field::Status(StatusCode::NO_CONTENT),
        10 => Field::Status(StatusCode::PARTIAL_CONTENT),
        11 => Field::Status(StatusCode::NOT_MODIFIED),
        12 => Field::Status(StatusCode::BAD_REQUEST),
        13 => Field::Status(StatusCode::NOT_FOUND),
        _ => Field::Status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The name of an entry of the static table.
#[inline]
pub(super) fn static_name(index: usize) -> Name {
    match index {
        HEADERS..=STATIC => Name::Header(NAMES[index - HEADERS].clone()),
        4 | 5 => Name::Path,
        2 | 3 => Name::Method,
        1 => Name::Authority,
        6 | 7 => Name::Scheme,
        _ => Name::Status,
    }
}

/// A place in [`SLOTS`]; the factors are chosen such that no two names of the static table share one.
const fn slot(name: &[u8]) -> usize {
    let (length, last) = (name.len(), name[name.len() - 1] as usize);
    (length * 7 + name[0] as usize * 47 + last * 30 + name[length / 2] as usize) % 128
}

/// Which name may stand in the static table, by [`slot`].
static SLOTS: [u8; 128] = {
    let mut slots = [0; 128];
    let mut at = 0;
    while at < TEXTS.len() {
        let slot = slot(TEXTS[at].as_bytes());
        assert!(slots[slot] == 0, "two names in one place");
        slots[slot] = (at + HEADERS) as u8;
        at += 1;
    }
    slots
};

/// Where the static table has this name.
#[inline]
pub(super) fn static_index(name: &HeaderName) -> Option<usize> {
    let index = usize::from(SLOTS[slot(name.as_str().as_bytes())]);
    // Both are known names or this is no match: no byte is compared.
    (index != 0 && NAMES[index - HEADERS] == *name).then_some(index)
}

/// An entry of the dynamic table.
#[derive(Debug)]
pub(super) struct Entry {
    field: Field,
    /// The name of a malformed field, which another value may make sound; the other fields tell theirs.
    name: Option<Box<Name>>,
    size: usize,
}

impl Entry {
    /// An entry of `size` bytes, and the field in it.
    pub(super) fn new(made: Result<Field, (Name, &'static str)>, size: usize) -> Self {
        match made {
            Ok(field) => Self { field, name: None, size },
            Err((name, why)) => Self { field: Field::Malformed(why), name: Some(Box::new(name)), size },
        }
    }

    pub(super) fn field(&self) -> &Field {
        &self.field
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn name(&self) -> Name {
        match (&self.field, &self.name) {
            (Field::Header(name, _), _) => Name::Header(name.clone()),
            (Field::Path(_), _) => Name::Path,
            (Field::Authority(_), _) => Name::Authority,
            (Field::Method(_), _) => Name::Method,
            (Field::Scheme(_), _) => Name::Scheme,
            (Field::Status(_), _) => Name::Status,
            (Field::Malformed(_), Some(name)) => Name::clone(name),
            (Field::Malformed(why), None) => Name::Bad(0, why),
        }
    }
}

/// The dynamic table: the newest entry is the first.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    capacity: usize,
}

impl Table {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, capacity }
    }

    /// The entry of this index, where both tables are counted as one.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index.wrapping_sub(STATIC + 1))
    }

    /// Whether an entry of this size has a place at all.
    pub(super) fn fits(&self, size: usize) -> bool {
        size <= self.capacity
    }

    /// Adds an entry and drops the oldest ones for it; one that is too large for the table leaves nothing.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.make_room(entry.size);
        if self.fits(entry.size) {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.make_room(0);
    }

    /// Drops the oldest entries until `size` more bytes fit, or nothing is left.
    pub(super) fn make_room(&mut self, size: usize) {
        while self.size + size > self.capacity {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        assert_eq!(self.size, self.entries.iter().map(Entry::size).sum::<usize>());
        self.size
    }

    #[cfg(test)]
    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.entries.iter().map(Entry::field)
    }
}
