//! A client of raw HTTP/2 frames: it sends whatever it is told to, and holds the server to the windows and the frame
//! sizes that it gave it. And the tables of rules: what is sent, and what may come of it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::wire_floods::*;
use crate::wire_support::*;

pub const PRIORITY: u8 = 2;
pub const PUSH_PROMISE: u8 = 5;
pub const ACK: u8 = 1;
pub const PADDED: u8 = 8;
pub const PRIORITISED: u8 = 0x20;
/// A head that is whole, of a request that is whole.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// An integer of HPACK (RFC 7541, 5.1) behind the first bits of its octet.
pub fn integer(first: u8, prefix: u8, value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let (mut out, mut rest) = (vec![first | most as u8], value - most);
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

fn string(text: &[u8]) -> Vec<u8> {
    [&integer(0, 7, text.len())[..], text].concat()
}

/// A field as a literal with a name of its own: `first` is 0x00 (without indexing), 0x10 (never indexed) or 0x40
/// (into the dynamic table).
pub fn literal(first: u8, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![first], string(name.as_ref()), string(value.as_ref())].concat()
}

/// A header block of these fields and nothing else, none of them indexed.
pub fn fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(0, name, value)).collect()
}

/// The head of a GET, and of a POST whose body follows.
pub fn asks(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &get_block(path))
}

pub fn posts(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(3, path))
}

pub fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let one = |&(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &list.iter().flat_map(one).collect::<Vec<_>>())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &CANCEL.to_be_bytes())
}

pub fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Five octets: a dependency on this stream, and a weight.
pub fn priority(on: u32) -> Vec<u8> {
    [&on.to_be_bytes()[..], &[15]].concat()
}

/// An answer, as far as it came.
#[derive(Debug, Default)]
pub struct Stream {
    pub status: Option<u16>,
    pub length: Option<String>,
    pub head_frames: usize,
    pub body: Vec<u8>,
    pub pieces: Vec<usize>,
    pub ended: bool,
    pub reset: Option<u32>,
    /// What updates of this stream alone gave the server, and us.
    given: i64,
    got: i64,
    sent: i64,
}

pub struct Client {
    pub wire: Wire,
    pub streams: BTreeMap<u32, Stream>,
    pub server: HashMap<u16, u32>,
    pub goaway: Option<u32>,
    pub ended: bool,
    pub acks: usize,
    pub pongs: VecDeque<Vec<u8>>,
    pub frames: Vec<u8>,
    /// What the server may send on a stream that had no update, and on the connection; and in one frame.
    initial: i64,
    room: i64,
    max_frame: usize,
    /// What we may send on the connection.
    credit: i64,
    unacknowledged: VecDeque<Option<u32>>,
    decoder: Decoder,
    probes: u64,
}

impl Client {
    /// A connection on which nothing was said.
    pub fn silent(worker: &Worker) -> Self {
        Self {
            wire: worker.connect(),
            streams: BTreeMap::new(),
            server: HashMap::new(),
            goaway: None,
            ended: false,
            acks: 0,
            pongs: VecDeque::new(),
            frames: Vec::new(),
            initial: 65_535,
            room: 65_535,
            max_frame: 16_384,
            credit: 65_535,
            unacknowledged: VecDeque::new(),
            decoder: Decoder::default(),
            probes: 0,
        }
    }

    /// A connection after its preface, with these settings.
    pub fn with(worker: &Worker, list: &[(u16, u32)]) -> Self {
        let mut client = Self::silent(worker);
        client.send(PREFACE);
        client.settings(list);
        client
    }

    pub fn open(worker: &Worker) -> Self {
        Self::with(worker, &[])
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes);
    }

    /// Says these settings. What they allow holds now, what they forbid when they are acknowledged.
    pub fn settings(&mut self, list: &[(u16, u32)]) {
        let value = |id| list.iter().rev().find(|(key, _)| *key == id).map(|(_, value)| *value);
        self.max_frame = self.max_frame.max(value(MAX_FRAME_SIZE).unwrap_or(0) as usize);
        self.decoder.is_to_be_told |= value(HEADER_TABLE_SIZE) == Some(0);
        let window = value(INITIAL_WINDOW_SIZE);
        self.initial = self.initial.max(window.unwrap_or(0).into());
        self.unacknowledged.push_back(window);
        self.send(settings(list));
    }

    /// Opens a window: a stream's, or the connection's.
    pub fn update(&mut self, stream: u32, by: u32) {
        match stream {
            0 => self.room += i64::from(by),
            _ => self.streams.entry(stream).or_default().given += i64::from(by),
        }
        self.send(update(stream, by));
    }

    /// What we may send on a stream now.
    pub fn credit(&self, stream: u32) -> usize {
        let initial = self.server.get(&INITIAL_WINDOW_SIZE).map_or(65_535, |value| i64::from(*value));
        let own = self.streams.get(&stream).map_or(initial, |s| initial + s.got - s.sent);
        own.min(self.credit).try_into().unwrap_or(0)
    }

    /// Sends a DATA frame, and counts its payload.
    pub fn data(&mut self, stream: u32, flags: u8, payload: &[u8]) {
        self.credit -= payload.len() as i64;
        self.streams.entry(stream).or_default().sent += payload.len() as i64;
        self.send(frame(DATA, flags, stream, payload));
    }

    /// Sends so many octets as the windows allow them.
    pub fn upload(&mut self, stream: u32, mut len: usize, flags: u8) {
        while len > 0 {
            self.until("room to send", |client| client.credit(stream) > 0);
            let step = len.min(self.credit(stream)).min(16_384);
            len -= step;
            self.data(stream, if len == 0 { flags } else { 0 }, &vec![b'u'; step]);
        }
    }

    /// Reads a frame; `false` at the connection's end.
    pub fn step(&mut self) -> bool {
        let Some((kind, flags, stream, payload)) = self.read() else {
            self.ended = true;
            return false;
        };
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            DATA => {
                let one = self.streams.entry(stream).or_default();
                assert!(
                    one.status.is_some() && !one.ended && one.reset.is_none(),
                    "DATA on {stream}: {one:?}"
                );
                one.body.extend(&payload);
                one.pieces.push(payload.len());
                one.ended = flags & END_STREAM > 0;
                let left = self.initial + one.given - one.body.len() as i64;
                self.room -= payload.len() as i64;
                // An empty frame is no matter of windows.
                assert!(payload.is_empty() || left >= 0, "{left} left of the window of stream {stream}");
                assert!(self.room >= 0, "{} left of the connection's window", self.room);
            }
            HEADERS => {
                let (mut head, mut frames, mut last) = (payload, 1, flags & END_HEADERS > 0);
                while !last {
                    let (kind, flags, same, more) = self.read().expect("the rest of a head");
                    assert_eq!((kind, same), (CONTINUATION, stream), "between the frames of a head");
                    head.extend(more);
                    (frames, last) = (frames + 1, flags & END_HEADERS > 0);
                }
                let (status, length) = self.decoder.decode(&head);
                let one = self.streams.entry(stream).or_default();
                assert!(!one.ended && one.reset.is_none(), "HEADERS on {stream}: {one:?}");
                one.status = one.status.or(status);
                one.length = one.length.take().or(length);
                one.head_frames += frames;
                one.ended = flags & END_STREAM > 0;
            }
            RESET => self.streams.entry(stream).or_default().reset = Some(word(0)),
            SETTINGS if flags & ACK > 0 => {
                self.acks += 1;
                // None where they were sent as raw octets.
                let window = self.unacknowledged.pop_front().flatten();
                self.initial = window.map_or(self.initial, i64::from);
            }
            SETTINGS => {
                for one in payload.chunks(6) {
                    let value = u32::from_be_bytes(one[2..].try_into().unwrap());
                    self.server.insert(u16::from_be_bytes([one[0], one[1]]), value);
                }
                self.send(frame(SETTINGS, ACK, 0, &[]));
            }
            PING if flags & ACK > 0 => self.pongs.push_back(payload),
            PING => self.send(frame(PING, ACK, 0, &payload)),
            GOAWAY => self.goaway = Some(word(4)),
            WINDOW_UPDATE if stream == 0 => self.credit += i64::from(word(0)),
            WINDOW_UPDATE => self.streams.entry(stream).or_default().got += i64::from(word(0)),
            _ => panic!("a frame of type {kind}"),
        }
        self.frames.push(kind);
        true
    }

    fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.wire.read_exact(9)?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        assert!(len <= self.max_frame, "a frame of {len} octets");
        let payload = self.wire.read_exact(len)?;
        Some((head[3], head[4], u32::from_be_bytes(head[5..].try_into().unwrap()), payload))
    }

    /// Reads until it is so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            assert!(self.step(), "the end instead of {what}: {:?} {:?}", self.goaway, self.streams);
        }
    }

    /// All that the server says to what was sent so far; but work that it still does it may tell of later.
    pub fn settle(&mut self) {
        self.probes += 1;
        let probe = self.probes.to_be_bytes();
        self.send(frame(PING, 0, 0, &probe));
        self.until("an answer to PING", |client| client.pongs.iter().any(|pong| *pong == probe));
    }

    /// The whole answer on this stream.
    pub fn answer(&mut self, stream: u32) -> &Stream {
        self.until("an answer", |client| client.streams.get(&stream).is_some_and(|s| s.ended));
        &self.streams[&stream]
    }

    /// Asks once more, to see that the connection goes on.
    pub fn goes_on(&mut self, stream: u32) {
        self.send(asks(stream, "/o/after"));
        assert_eq!(self.answer(stream).status, Some(200), "on {stream}");
        assert_eq!(self.goaway, None);
    }
}

/// Just enough of HPACK to find the status and the length of an answer.
#[derive(Default)]
struct Decoder {
    /// The dynamic table: the newest first, and never so much that anything is evicted.
    table: VecDeque<(usize, Option<String>)>,
    /// The client gives no room for a table: the next block says first that its writer knows (RFC 7541, 4.2).
    is_to_be_told: bool,
    is_without: bool,
}

impl Decoder {
    fn decode(&mut self, mut block: &[u8]) -> (Option<u16>, Option<String>) {
        let (mut status, mut length) = (None, None);
        if std::mem::take(&mut self.is_to_be_told) {
            assert_eq!(block.first(), Some(&0x20), "the size of no table: {block:?}");
            self.is_without = true;
        }
        while let Some(&first) = block.first() {
            let (name, value) = match first {
                0x80.. => match read_integer(&mut block, 7) {
                    index @ 8..15 => {
                        (8, Some(["200", "204", "206", "304", "400", "404", "500"][index - 8].into()))
                    }
                    index @ 1..62 => (index, None),
                    index => self.table.get(index - 62).expect("an entry of the table").clone(),
                },
                0x20..0x40 => {
                    if read_integer(&mut block, 5) == 0 {
                        self.table.clear();
                    }
                    continue;
                }
                _ => {
                    let keeps = first >= 0x40;
                    let mut name = read_integer(&mut block, if keeps { 6 } else { 4 });
                    match name {
                        0 => drop(read_string(&mut block)),
                        1..62 => {}
                        _ => name = self.table.get(name - 62).expect("an entry of the table").0,
                    }
                    let value = read_string(&mut block);
                    if keeps && !self.is_without {
                        self.table.push_front((name, value.clone()));
                    }
                    (name, value)
                }
            };
            match name {
                8 => status = Some(value.unwrap().parse().unwrap()),
                28 => length = value,
                _ => {}
            }
        }
        (status, length)
    }
}

fn read_integer(block: &mut &[u8], prefix: u8) -> usize {
    let most = (1 << prefix) - 1;
    let mut take = || {
        let (first, rest) = block.split_first().expect("more of a header block");
        *block = rest;
        usize::from(*first)
    };
    let mut value = take() & most;
    if value < most {
        return value;
    }
    for shift in (0..28).step_by(7) {
        let more = take();
        value += (more & 127) << shift;
        if more < 128 {
            return value;
        }
    }
    panic!("a long integer");
}

/// The text, where it is plain or all of it digits.
fn read_string(block: &mut &[u8]) -> Option<String> {
    let coded = block.first().expect("a string") & 0x80 > 0;
    let len = read_integer(block, 7);
    let (text, rest) = block.split_at(len);
    *block = rest;
    if !coded {
        return String::from_utf8(text.to_vec()).ok();
    }
    let mut bits = text.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1)).peekable();
    let mut out = String::new();
    while bits.peek().is_some() {
        // Five bits are 0 to 2, six are 3 to 9; fewer are the padding.
        let mut code = (0..5).map_while(|_| bits.next()).collect::<Vec<_>>();
        let number = |code: &[u8]| code.iter().fold(0, |sum, bit| sum << 1 | bit);
        if code.len() == 5 && number(&code) > 2 {
            code.extend(bits.next());
        }
        match (code.len(), number(&code)) {
            (5, digit @ 0..=2) => out.push(char::from(b'0' + digit)),
            (6, digit @ 0x19..=0x1f) => out.push(char::from(b'3' + digit - 0x19)),
            _ if code.iter().all(|bit| *bit == 1) => break,
            _ => return None,
        }
    }
    Some(out)
}

/// What may come of what a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// GOAWAY with this code, and the connection's end.
    Goaway(u32),
    /// RST_STREAM with this code on this stream; the connection goes on.
    Reset(u32, u32),
    /// An answer with this status on this stream; the connection goes on.
    Answer(u32, u16),
    /// Nothing; the connection goes on.
    Pass,
}

pub use May::*;

/// A request that is malformed (RFC 9113, 8.1.1) on stream 1: an answer that says so, the reset, or both.
pub const MALFORMED: &[May] = &[Answer(1, 400), Reset(1, PROTOCOL_ERROR)];

/// Each row: a name, what is sent after the preface and empty settings, and what alone may come of it; of several
/// things at least one must.
pub type Rule<'a> = (&'a str, Vec<u8>, &'a [May]);

/// Holds the server to the rules, each on a connection of its own, and sees the connections go on that shall.
pub fn hold(worker: &Worker, rules: &[Rule<'_>]) {
    let broken: Vec<String> = rules.iter().filter_map(|rule| judge(worker, rule).err()).collect();
    assert!(
        broken.is_empty(),
        "{} of {} rules are broken:\n{}",
        broken.len(),
        rules.len(),
        broken.join("\n")
    );
}

fn judge(worker: &Worker, (name, sent, may): &Rule<'_>) -> Result<(), String> {
    let mut client = Client::open(worker);
    let probe = vec![0xaa; 8];
    client.send([sent, &frame(PING, 0, 0, &probe)[..]].concat());
    loop {
        let mut came: Vec<May> = client.goaway.map(Goaway).into_iter().collect();
        for (id, stream) in &client.streams {
            came.extend(stream.status.map(|status| Answer(*id, status)));
            came.extend(stream.reset.map(|code| Reset(*id, code)));
        }
        if !came.iter().all(|one| may.contains(one)) {
            return Err(format!("{name}: {came:?}, not {may:?}"));
        }
        let is_enough = !came.is_empty() || may.contains(&Pass);
        if client.goaway.is_none() && client.pongs.contains(&probe) && is_enough {
            client.goes_on(1001);
            return Ok(());
        }
        if !client.step() {
            return client.goaway.map(drop).ok_or(format!("{name}: the end, not {may:?}"));
        }
    }
}

/// An instance whose answers go by the path: `/o/never` gets none, `/o/bytes/N` so many octets, `/o/204` and `/o/304`
/// these statuses, `/o/large-head` a field of 30 kB, every other one "ok".
pub fn instance() -> Recorder {
    Recorder::start(|seen| {
        let mut words = seen.first_line().split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut answer = match path.strip_prefix("/o/bytes/") {
            Some(len) => ok(&"x".repeat(len.parse().unwrap())),
            None if path == "/o/never" => Vec::new(),
            None if path == "/o/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            None if path == "/o/304" => b"HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\n\r\n".to_vec(),
            None if path == "/o/large-head" => {
                let field = "y".repeat(30_000);
                format!("HTTP/1.1 200 OK\r\nx-large: {field}\r\ncontent-length: 0\r\n\r\n").into_bytes()
            }
            None => ok("ok"),
        };
        if method == "HEAD" {
            let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
            answer.truncate(end + 4);
        }
        answer
    })
}

/// None of the requests for `/o/refused` may have come so far as the instance.
pub fn none_came_through(instance: &Recorder) {
    let lines = instance.request_lines();
    assert!(lines.iter().all(|line| !line.contains("refused")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("/o/after")));
}
