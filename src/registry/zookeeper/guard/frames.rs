//! What a server says, looked at before the client library reads it. No I/O.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};

/// An answer may be so long: the names of a million nodes.
const MAX_FRAME: usize = 64 << 20;
/// An event has one path in it, and the first answer a password of 16 bytes.
const MAX_EVENT: usize = 1 << 20;
const MAX_WELCOME: usize = 1 << 10;
/// A session timeout above this, in ms, was not negotiated: the largest that a server is ever configured for is minutes.
const MAX_TIMEOUT: i32 = 24 * 60 * 60 * 1000;

/// From a frame's length to its error code; and, where there is one, the first number of the body.
const HEADER: usize = 4 + 4 + 8 + 4;
const COUNT: usize = 4;

/// The xid of an event.
const NOTIFICATION: i32 = -1;
/// The xid of every ping, and its operation.
const PING: i32 = -2;
const PING_OPERATION: i32 = 11;
/// Operations whose answer begins with the number of names in it.
const NAMES: [i32; 3] = [8, 12, 103];

/// Why a server is not believed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lie {
    #[error("a frame of {0} bytes")]
    Length(i32),
    #[error("an answer that is no answer to the request for a session")]
    Welcome,
    #[error("an answer with the number {0}, which nobody asked for")]
    Unasked(i32),
    #[error("an event that is none, or of a path outside of the chroot")]
    Event,
    #[error("{0} names in {1} bytes")]
    Names(i32, usize),
}

/// What a server says next.
enum Begun {
    /// More of it has to be seen.
    Not,
    /// An answer of so many bytes, with its length, which may pass.
    Answer(usize),
    /// The answer to a ping of ours: a header, and nobody else's business.
    Pong,
}

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Exchange {
    chroot: Box<str>,
    /// The client asked for a session.
    greeted: bool,
    /// What it granted the session.
    session: Option<Duration>,
    /// Requests by number: which operation, and since when.
    asked: HashMap<i32, (i32, Instant)>,
    /// Pings that are to be answered, in order: whether they are ours.
    pings: VecDeque<bool>,
    /// Bytes of the answer that passes which are still to come.
    passing: usize,
    /// Since when an answer is on its way that is not whole.
    since: Option<Instant>,
}

impl Exchange {
    /// A connection on which nothing was said yet, of a client below this chroot (empty: none).
    pub(super) fn new(chroot: &str) -> Self {
        Self {
            chroot: chroot.into(),
            greeted: false,
            session: None,
            asked: HashMap::new(),
            pings: VecDeque::new(),
            passing: 0,
            since: None,
        }
    }

    /// Moves whole requests on, and takes down what they ask for. They are our own, and believed.
    pub(super) fn client(&mut self, from: &mut BytesMut, to: &mut BytesMut, now: Instant) {
        while let Some(length) = number(from, 0) {
            let whole = 4 + length.max(0) as usize;
            if from.len() < whole {
                return;
            }
            if let (true, Some(xid), Some(operation)) = (self.greeted, number(from, 4), number(from, 8)) {
                if xid >= 0 {
                    self.asked.insert(xid, (operation, now));
                } else if xid == PING {
                    self.pings.push_back(false);
                }
            }
            self.greeted = true;
            to.unsplit(from.split_to(whole));
        }
    }

    /// Asks the server whether it is there, behind what it is sent already; not before it has granted a session.
    pub(super) fn ping(&mut self, to: &mut BytesMut) {
        if self.session.is_some() {
            for word in [8, PING, PING_OPERATION] {
                to.put_i32(word);
            }
            self.pings.push_back(true);
        }
    }

    /// What the server granted the session, once it did.
    pub(super) fn session(&self) -> Option<Duration> {
        self.session
    }

    /// Moves on what a server may have said. An answer passes as it comes, once its beginning is sound: it may be
    /// long, and the client counts silence.
    pub(super) fn server(&mut self, from: &mut BytesMut, to: &mut BytesMut, now: Instant) -> Result<(), Lie> {
        loop {
            let step = self.passing.min(from.len());
            self.passing -= step;
            to.unsplit(from.split_to(step));
            if self.passing > 0 || from.is_empty() {
                self.since = if self.passing > 0 { self.since.or(Some(now)) } else { None };
                return Ok(());
            }
            self.since = self.since.or(Some(now));
            match self.begin(from)? {
                Begun::Not => return Ok(()),
                Begun::Answer(whole) => self.passing = whole,
                Begun::Pong => from.advance(HEADER),
            }
            if self.passing <= from.len() {
                self.since = None;
            }
        }
    }

    /// What comes next, if it may pass.
    fn begin(&mut self, from: &[u8]) -> Result<Begun, Lie> {
        let Some(length) = number(from, 0) else { return Ok(Begun::Not) };
        let most = if self.session.is_some() { MAX_FRAME } else { MAX_WELCOME };
        let body = usize::try_from(length).ok().filter(|body| (1..=most).contains(body));
        let whole = 4 + body.ok_or(Lie::Length(length))?;
        if self.session.is_none() {
            if from.len() < whole {
                return Ok(Begun::Not);
            }
            self.session = Some(welcome(&from[4..whole]).ok_or(Lie::Welcome)?);
            return Ok(Begun::Answer(whole));
        }
        if whole < HEADER {
            return Err(Lie::Length(length));
        }
        let seen = whole.min(HEADER + COUNT);
        if from.len() < seen {
            return Ok(Begun::Not);
        }
        let (xid, error) = (number(from, 4).unwrap_or_default(), number(from, 16).unwrap_or_default());
        if xid == NOTIFICATION {
            if whole > MAX_EVENT {
                return Err(Lie::Length(length));
            }
            if from.len() < whole {
                return Ok(Begun::Not);
            }
            let sound = self.is_event(&from[HEADER..whole]);
            return if sound { Ok(Begun::Answer(whole)) } else { Err(Lie::Event) };
        }
        if xid == PING {
            // A server answers in the order in which it was asked.
            return match self.pings.pop_front().ok_or(Lie::Unasked(xid))? {
                true if whole == HEADER => Ok(Begun::Pong),
                true => Err(Lie::Length(length)),
                false => Ok(Begun::Answer(whole)),
            };
        }
        // Others below 0 are credentials and watches, whose numbers are always the same.
        if xid >= 0 {
            let (operation, _) = self.asked.remove(&xid).ok_or(Lie::Unasked(xid))?;
            let names = number(from, HEADER).filter(|_| whole >= HEADER + COUNT);
            if error == 0 && NAMES.contains(&operation) {
                // Each has its length in front. The client makes room for as many as it is told.
                let room = (whole - HEADER).saturating_sub(COUNT) / 4;
                let count = names.unwrap_or(i32::MAX);
                if usize::try_from(count.max(0)).is_ok_and(|count| count > room) {
                    return Err(Lie::Names(count, whole));
                }
            }
        }
        Ok(Begun::Answer(whole))
    }

    fn is_event(&self, mut body: &[u8]) -> bool {
        if body.len() < 12 {
            return false;
        }
        let (_kind, _state, length) = (body.get_i32(), body.get_i32(), body.get_i32());
        let path = usize::try_from(length).ok().and_then(|length| body.get(..length));
        let Some(path) = path.and_then(|path| std::str::from_utf8(path).ok()) else { return false };
        let below = path.strip_prefix(&*self.chroot);
        path.starts_with('/') && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Since when the server owes the rest of an answer, or an answer.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.asked.values().map(|(_, at)| *at).chain(self.since).min()
    }
}

/// What this grants a session, which is nothing where it says that there is none any more; `None` where it says neither.
fn welcome(mut body: &[u8]) -> Option<Duration> {
    if body.len() < 4 + 4 + 8 + 4 {
        return None;
    }
    let (_version, timeout, session, length) =
        (body.get_i32(), body.get_i32(), body.get_i64(), body.get_i32());
    let rest = body.get(usize::try_from(length.max(0)).ok()?..)?;
    let least = i32::from(session != 0);
    let sound = (least..=MAX_TIMEOUT).contains(&timeout) && matches!(rest, [] | [0 | 1]);
    sound.then(|| Duration::from_millis(u64::try_from(timeout).unwrap_or_default()))
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4).map(|word| i32::from_be_bytes([word[0], word[1], word[2], word[3]]))
}

/// Whether something has lasted for too long.
pub(super) fn is_over(since: Option<Instant>, limit: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) > limit)
}

#[cfg(test)]
#[expect(clippy::cast_possible_wrap, reason = "the lengths of what tests say are small")]
mod tests {
    use super::*;

    fn frame(body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        [&(body.len() as i32).to_be_bytes()[..], &body].concat()
    }

    fn welcome(timeout: i32, session: i64, password: i32, rest: &[u8]) -> Vec<u8> {
        let secret = vec![7; password.max(0) as usize];
        let parts: [&[u8]; 6] = [
            &0_i32.to_be_bytes(),
            &timeout.to_be_bytes(),
            &session.to_be_bytes(),
            &password.to_be_bytes(),
            &secret,
            rest,
        ];
        frame(&parts)
    }

    fn answer(xid: i32, error: i32, body: &[u8]) -> Vec<u8> {
        frame(&[&xid.to_be_bytes(), &9_i64.to_be_bytes(), &error.to_be_bytes(), body])
    }

    fn event(path: &str) -> Vec<u8> {
        let length = path.len() as i32;
        let body =
            [&2_i32.to_be_bytes()[..], &3_i32.to_be_bytes(), &length.to_be_bytes(), path.as_bytes()].concat();
        answer(NOTIFICATION, 0, &body)
    }

    /// A client that has asked for a session, then for the children of something, as number 1.
    fn asked() -> Exchange {
        let mut exchange = Exchange::new("/prod");
        let mut from = BytesMut::from(&frame(&[&[0; 28]])[..]);
        from.extend_from_slice(&frame(&[&1_i32.to_be_bytes(), &8_i32.to_be_bytes(), &[0; 5]]));
        let (all, mut to) = (from.clone(), BytesMut::new());
        exchange.client(&mut from, &mut to, Instant::now());
        assert_eq!((to, from.len()), (all, 0));
        exchange
    }

    /// What passes of these bytes, which come in pieces of that size.
    fn said(exchange: &mut Exchange, bytes: &[u8], piece: usize) -> Result<usize, Lie> {
        let (mut from, mut to) = (BytesMut::new(), BytesMut::new());
        for piece in bytes.chunks(piece) {
            from.extend_from_slice(piece);
            exchange.server(&mut from, &mut to, Instant::now())?;
        }
        assert_eq!(to, bytes[..to.len()], "what passes is what came");
        Ok(to.len())
    }

    fn children(count: i32, names: &[&str]) -> Vec<u8> {
        let names = names.iter().flat_map(|name| {
            let mut text = (name.len() as i32).to_be_bytes().to_vec();
            text.extend(name.bytes());
            text
        });
        let mut body = count.to_be_bytes().to_vec();
        body.extend(names);
        answer(1, 0, &body)
    }

    fn ping() -> Vec<u8> {
        frame(&[&PING.to_be_bytes(), &PING_OPERATION.to_be_bytes()])
    }

    #[test]
    fn what_a_server_says_passes_whole_however_it_is_cut() {
        let all = [
            welcome(4000, 7, 16, &[0]),
            event("/prod/orders/a"),
            children(2, &["a", "node2"]),
            answer(PING, 0, &[]),
            event("/prod"),
        ]
        .concat();
        for piece in 1..all.len() {
            let mut exchange = asked();
            exchange.client(&mut BytesMut::from(&ping()[..]), &mut BytesMut::new(), Instant::now());
            assert_eq!(said(&mut exchange, &all, piece), Ok(all.len()), "in pieces of {piece}");
            assert_eq!(exchange.waits_since(), None);
        }
        // The rest of a long answer does not wait for its end.
        let mut exchange = asked();
        let begun = [welcome(4000, 7, 16, &[]), children(1, &["a very long name"])].concat();
        assert_eq!(said(&mut exchange, &begun[..begun.len() - 5], 1000), Ok(begun.len() - 5));
        assert!(exchange.waits_since().is_some());
    }

    #[test]
    fn the_client_hears_of_the_answers_to_its_own_pings_alone() {
        let pong = answer(PING, 0, &[]);
        let (mut exchange, mut sent) = (asked(), BytesMut::new());
        exchange.ping(&mut sent);
        assert!(sent.is_empty(), "nobody may ask before there is a session");
        said(&mut exchange, &welcome(4000, 7, 16, &[0]), 100).unwrap();
        assert_eq!(exchange.session(), Some(Duration::from_secs(4)));
        exchange.ping(&mut sent);
        exchange.client(&mut BytesMut::from(&ping()[..]), &mut sent, Instant::now());
        exchange.ping(&mut sent);
        assert_eq!(sent, ping().repeat(3));
        // Ours, the client's between an event and an answer, ours.
        let (event, children) = (event("/prod/orders/a"), children(1, &["a"]));
        let all = [&pong[..], &event, &pong, &children, &pong].concat();
        let (mut from, mut to) = (BytesMut::new(), BytesMut::new());
        for piece in all.chunks(7) {
            from.extend_from_slice(piece);
            exchange.server(&mut from, &mut to, Instant::now()).unwrap();
        }
        assert_eq!(to, [&event[..], &pong, &children].concat());
        assert_eq!((from.len(), exchange.waits_since()), (0, None));
        assert_eq!(said(&mut exchange, &pong, 100), Err(Lie::Unasked(PING)), "nobody has asked");
        exchange.ping(&mut sent);
        assert_eq!(said(&mut exchange, &answer(PING, 0, &[0]), 100), Err(Lie::Length(17)));
    }

    #[test]
    fn no_session_is_granted_by_nonsense() {
        for (granted, sound) in [
            (welcome(4000, 7, 16, &[0]), true),
            (welcome(4000, 7, 16, &[]), true),
            (welcome(0, 0, 16, &[0]), true),
            (welcome(0, 7, 16, &[0]), false),
            (welcome(-1, 7, 16, &[0]), false),
            (welcome(i32::MIN, 0, 16, &[0]), false),
            (welcome(i32::MAX, 7, 16, &[0]), false),
            (welcome(4000, 7, 16, &[2]), false),
            (welcome(4000, 7, 16, &[0, 0]), false),
            (frame(&[&[0; 19]]), false),
        ] {
            let passed = said(&mut asked(), &granted, 3);
            assert_eq!(passed.is_ok(), sound, "{granted:?}: {passed:?}");
        }
        let mut long = welcome(4000, 7, 16, &[0]);
        long[20..24].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(said(&mut asked(), &long, 100), Err(Lie::Welcome));
    }

    #[test]
    fn lies_are_caught_by_their_beginning() {
        let greeted = || {
            let mut exchange = asked();
            said(&mut exchange, &welcome(4000, 7, 16, &[0]), 100).unwrap();
            exchange
        };
        let long = [&(MAX_FRAME as i32 + 1).to_be_bytes()[..], &[0; 4]].concat();
        for (bytes, lie) in [
            (i32::MIN.to_be_bytes().to_vec(), Lie::Length(i32::MIN)),
            (0_i32.to_be_bytes().to_vec(), Lie::Length(0)),
            (frame(&[&[0; 15]]), Lie::Length(15)),
            (long, Lie::Length(MAX_FRAME as i32 + 1)),
            (answer(2, 0, &[]), Lie::Unasked(2)),
            (event("/other/orders"), Lie::Event),
            (event("/production"), Lie::Event),
            (event(""), Lie::Event),
            (answer(NOTIFICATION, 0, &[0; 8]), Lie::Event),
            (children(i32::MAX, &["a"]), Lie::Names(i32::MAX, 29)),
            (children(3, &["", ""]), Lie::Names(3, 32)),
            (answer(1, 0, &[]), Lie::Names(i32::MAX, 20)),
        ] {
            assert_eq!(said(&mut greeted(), &bytes, 1000), Err(lie), "{bytes:?}");
        }
        let twice = [children(0, &[]), children(0, &[])].concat();
        assert_eq!(said(&mut greeted(), &twice, 1000), Err(Lie::Unasked(1)));
        // An error has no names, and a list of less than none is an empty one.
        assert!(said(&mut greeted(), &answer(1, -101, &[]), 1000).is_ok());
        assert!(said(&mut greeted(), &children(-1, &[]), 1000).is_ok());
    }
}
