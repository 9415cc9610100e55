//! An encoder that indexes, in the plainest way: its tables are lists of pairs of bytes.

use proptest::prelude::*;

use super::super::Field;
use super::{huffman, meaning};

type Pair = (Vec<u8>, Vec<u8>);

/// How a field goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Whether an entry with the same name and value, and one with the same name, is referred to.
    pub(super) refer: (bool, bool),
    /// The pattern of a literal: 0x40, 0x10 or 0.
    pub(super) literal: u8,
    pub(super) huffman: (bool, bool),
}

pub(super) const INDEXED: How = How { refer: (true, true), literal: 0x40, huffman: (true, false) };

pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>, How)>;

/// Appendix A.
pub(super) fn static_table() -> Vec<(&'static str, &'static str)> {
    let names = ":authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https \
        :status=200 :status=204 :status=206 :status=304 :status=400 :status=404 :status=500 accept-charset \
        accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow authorization \
        cache-control content-disposition content-encoding content-language content-length content-location \
        content-range content-type cookie date etag expect expires from host if-match if-modified-since \
        if-none-match if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate \
        proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security \
        transfer-encoding user-agent vary via www-authenticate";
    let pair = |entry: &'static str| match entry {
        "accept-encoding" => ("accept-encoding", "gzip, deflate"),
        entry => entry.split_once('=').unwrap_or((entry, "")),
    };
    names.split_whitespace().map(pair).collect()
}

pub(super) struct Indexer {
    /// The newest is the first.
    entries: Vec<Pair>,
    capacity: usize,
    known: Vec<Pair>,
}

impl Indexer {
    pub(super) fn new(capacity: usize) -> Self {
        let known = static_table().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { entries: Vec::new(), capacity, known }
    }

    pub(super) fn size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    pub(super) fn meanings(&self) -> Vec<Option<Field>> {
        self.entries.iter().map(|(name, value)| meaning(name, value)).collect()
    }

    pub(super) fn block(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let fields: Fields = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into(), INDEXED)).collect();
        self.encode(None, &fields)
    }

    pub(super) fn encode(&mut self, resize: Option<usize>, fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(capacity) = resize {
            integer(&mut out, 0x20, 5, capacity);
            self.capacity = capacity;
            self.evict();
        }
        for (name, value, how) in fields {
            self.field(&mut out, name, value, *how);
        }
        out
    }

    fn evict(&mut self) {
        while self.size() > self.capacity {
            self.entries.pop();
        }
    }

    fn find(&self, matches: impl Fn(&Pair) -> bool) -> Option<usize> {
        self.known.iter().chain(&self.entries).position(matches).map(|at| at + 1)
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], how: How) {
        if how.refer.0
            && let Some(index) = self.find(|pair| pair.0 == name && pair.1 == value)
        {
            integer(out, 0x80, 7, index);
            return;
        }
        let bits = if how.literal == 0x40 { 6 } else { 4 };
        let index = self.find(|pair| pair.0 == name).filter(|_| how.refer.1).unwrap_or(0);
        integer(out, how.literal, bits, index);
        if index == 0 {
            string(out, name, how.huffman.0);
        }
        string(out, value, how.huffman.1);
        if how.literal == 0x40 {
            self.entries.insert(0, (name.into(), value.into()));
            self.evict();
        }
    }
}

pub(super) fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut left = value - most;
    while left > 127 {
        out.push((left % 128) as u8 + 128);
        left /= 128;
    }
    out.push(left as u8);
}

fn string(out: &mut Vec<u8>, string: &[u8], coded: bool) {
    if coded {
        let code = huffman::encode(string);
        integer(out, 0x80, 7, code.len());
        out.extend(code);
    } else {
        integer(out, 0, 7, string.len());
        out.extend(string);
    }
}

/// A size for the table, and the fields of a block: few names and short values, that they repeat, and some of any kind.
pub(super) fn fields() -> impl Strategy<Value = (Option<usize>, Fields)> {
    let known = prop::sample::select(vec![
        ":method",
        ":scheme",
        ":authority",
        ":path",
        ":status",
        ":protocol",
        "cookie",
        "accept",
        "host",
        "x-a",
        "x-request-id",
        "X-Upper",
        "bad name",
        "",
    ]);
    let name = prop_oneof![
        12 => known.prop_map(|name| name.as_bytes().to_vec()),
        2 => "[a-z-]{1,80}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let usual = prop::sample::select(vec![
        "GET", "POST", "BREW", "http", "https", "/", "/a?b", "/#f", "*", "?q", "host:80", "a@b", "", "1", "é",
    ]);
    let value = prop_oneof![
        8 => usual.prop_map(|value| value.as_bytes().to_vec()),
        2 => "[ -~]{0,300}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0_usize..5000).prop_map(|length| vec![b'v'; length]),
    ];
    let literal = prop::sample::select(vec![0x40, 0x40, 0x10, 0]);
    let how = (any::<(bool, bool)>(), literal, any::<(bool, bool)>());
    let how = how.prop_map(|(refer, literal, huffman)| How { refer, literal, huffman });
    (prop::option::weighted(0.2, 0_usize..=4096), prop::collection::vec((name, value, how), 0..12))
}
