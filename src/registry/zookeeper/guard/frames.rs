//! What a server says, looked at before the client library reads it. No I/O.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

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

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Exchange {
    chroot: Box<str>,
    /// The client asked for a session; the server granted one.
    greeted: bool,
    welcomed: bool,
    /// Requests by number: which operation, and since when.
    asked: HashMap<i32, (i32, Instant)>,
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
            welcomed: false,
            asked: HashMap::new(),
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
            if let (true, Some(xid), Some(operation)) = (self.greeted, number(from, 4), number(from, 8))
                && xid >= 0
            {
                self.asked.insert(xid, (operation, now));
            }
            self.greeted = true;
            to.unsplit(from.split_to(whole));
        }
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
                // The rest of its beginning is to come.
                0 => return Ok(()),
                whole => self.passing = whole,
            }
            if self.passing <= from.len() {
                self.since = None;
            }
        }
    }

    /// How long the next answer is, with its length, if it may pass; 0 where more of it has to be seen.
    fn begin(&mut self, from: &[u8]) -> Result<usize, Lie> {
        let Some(length) = number(from, 0) else { return Ok(0) };
        let most = if self.welcomed { MAX_FRAME } else { MAX_WELCOME };
        let body = usize::try_from(length).ok().filter(|body| (1..=most).contains(body));
        let whole = 4 + body.ok_or(Lie::Length(length))?;
        if !self.welcomed {
            if from.len() < whole {
                return Ok(0);
            }
            is_welcome(&from[4..whole]).then_some(()).ok_or(Lie::Welcome)?;
            self.welcomed = true;
            return Ok(whole);
        }
        if whole < HEADER {
            return Err(Lie::Length(length));
        }
        let seen = whole.min(HEADER + COUNT);
        if from.len() < seen {
            return Ok(0);
        }
        let (xid, error) = (number(from, 4).unwrap_or_default(), number(from, 16).unwrap_or_default());
        if xid == NOTIFICATION {
            if whole > MAX_EVENT {
                return Err(Lie::Length(length));
            }
            if from.len() < whole {
                return Ok(0);
            }
            return if self.is_event(&from[HEADER..whole]) { Ok(whole) } else { Err(Lie::Event) };
        }
        // Those below 0 are pings, credentials and watches, whose numbers are always the same.
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
        Ok(whole)
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

/// Whether this grants a session, or says that there is none any more.
fn is_welcome(mut body: &[u8]) -> bool {
    if body.len() < 4 + 4 + 8 + 4 {
        return false;
    }
    let (_version, timeout, session, length) =
        (body.get_i32(), body.get_i32(), body.get_i64(), body.get_i32());
    let Ok(password) = usize::try_from(length.max(0)) else { return false };
    let Some(rest) = body.get(password..) else { return false };
    let least = i32::from(session != 0);
    (least..=MAX_TIMEOUT).contains(&timeout) && matches!(rest, [] | [0 | 1])
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

    #[test]
    fn what_a_server_says_passes_whole_however_it_is_cut() {
        let all = [
            welcome(4000, 7, 16, &[0]),
            event("/prod/orders/a"),
            children(2, &["a", "node2"]),
            answer(-2, 0, &[]),
            event("/prod"),
        ]
        .concat();
        for piece in 1..all.len() {
            let mut exchange = asked();
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
