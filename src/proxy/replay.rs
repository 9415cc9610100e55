//! A client's body that may be sent from its start again: what came of it is kept, up to a bound, while it
//! streams up.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::body::{Body, BoxError};
use super::clock::Slots;

/// The attempts' common hold on a body.
pub(super) struct Replay {
    kept: Rc<RefCell<Kept>>,
    all: Replays,
    key: usize,
}

/// All of a worker.
#[derive(Clone, Default)]
pub(super) struct Replays(Rc<RefCell<Slots<Weak<RefCell<Kept>>>>>);

impl Replays {
    /// Gives up what is kept and has been read by who reads it now: those requests have one attempt fewer. Returns how many.
    pub(super) fn give_up(&self) -> usize {
        let all = self.0.borrow();
        all.iter().filter_map(Weak::upgrade).filter(|kept| kept.borrow_mut().give_up()).count()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.all.0.borrow_mut().remove(self.key);
    }
}

/// The body as one attempt reads it.
pub(super) struct Copy {
    kept: Rc<RefCell<Kept>>,
    /// Frames that it has given.
    at: usize,
}

struct Kept {
    source: Body,
    /// All frames so far, unless `open` is over.
    frames: Vec<Piece>,
    /// How many there were.
    count: usize,
    bytes: usize,
    limit: usize,
    /// Frames that the last copy has given.
    given: usize,
    /// Frames are still kept.
    open: bool,
}

/// A frame, to be given more than once.
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, trailers) => trailers.cloned().map(Self::Trailers),
        }
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl Replay {
    /// Takes a body over, to keep up to `limit` bytes of it.
    pub(super) fn new(source: Body, limit: usize, all: &Replays) -> Self {
        let kept = Kept { source, frames: Vec::new(), count: 0, bytes: 0, limit, given: 0, open: true };
        let kept = Rc::new(RefCell::new(kept));
        let key = all.0.borrow_mut().insert(Rc::downgrade(&kept));
        Self { kept, all: all.clone(), key }
    }

    /// The whole body: `None` where the beginning of it is gone.
    pub(super) fn copy(&self) -> Option<Body> {
        self.is_whole().then(|| {
            self.kept.borrow_mut().given = 0;
            Body::copy(Copy { kept: Rc::clone(&self.kept), at: 0 })
        })
    }

    /// Whether all of it can be sent once more.
    pub(super) fn is_whole(&self) -> bool {
        self.kept.borrow().open
    }

    /// Nobody will send it again: what was kept goes as soon as the attempt that is running has read it.
    pub(super) fn forget(&self) {
        let kept = &mut *self.kept.borrow_mut();
        kept.open = false;
    }
}

impl Kept {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.source).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => self.keep(frame),
            // A body that failed does not get better.
            Some(Err(_)) => self.open = false,
            None => {}
        }
        Poll::Ready(polled)
    }

    /// False where it has nothing to give, or an attempt has yet to read it.
    fn give_up(&mut self) -> bool {
        let idle = self.open && self.bytes > 0 && self.given == self.count;
        if idle {
            self.open = false;
            self.frames = Vec::new();
        }
        idle
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(piece) = Piece::of(frame) else { return };
        self.count += 1;
        if !self.open {
            self.frames.clear();
            return;
        }
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes > self.limit {
            self.open = false;
            self.frames = Vec::new();
        } else {
            self.frames.push(piece);
        }
    }
}

impl Copy {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let kept = &mut *self.kept.borrow_mut();
        if self.at < kept.count {
            let Some(piece) = kept.frames.get(self.at) else {
                return Poll::Ready(Some(Err("the body went to another attempt".into())));
            };
            self.at += 1;
            kept.given = self.at;
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        let polled = ready!(kept.poll(cx));
        self.at = kept.count;
        kept.given = self.at;
        Poll::Ready(polled)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        self.at >= kept.count && kept.source.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let again: u64 = kept.frames.iter().skip(self.at).map(|piece| piece.len() as u64).sum();
        match kept.source.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest.saturating_add(again)),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;

    /// Gives its frames one by one, `None` standing for a wait.
    struct Fed(VecDeque<Option<Result<Frame<Bytes>, BoxError>>>);

    impl http_body::Body for Fed {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(frame) => Poll::Ready(frame),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is one of the things that a body does")]
    fn data(text: &'static str) -> Option<Result<Frame<Bytes>, BoxError>> {
        Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
    }

    fn replay(frames: Vec<Option<Result<Frame<Bytes>, BoxError>>>, limit: usize) -> Replay {
        Replay::new(Body::boxed(Fed(frames.into())), limit, &Replays::default())
    }

    /// What a copy gives until it waits, ends or fails.
    fn read(copy: &mut Body) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        let mut text = String::new();
        loop {
            match Pin::new(&mut *copy).poll_frame(&mut cx) {
                Poll::Pending => return text + "…",
                Poll::Ready(None) => return text + ".",
                Poll::Ready(Some(Err(_))) => return text + "!",
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => text += std::str::from_utf8(&data).unwrap(),
                    Err(_) => text += "+",
                },
            }
        }
    }

    #[test]
    fn an_attempt_reads_what_the_one_before_read_and_goes_on_from_there() {
        let trailers = Some(Ok(Frame::trailers(HeaderMap::new())));
        let replay = replay(vec![data("ab"), data("c"), None, data("d"), trailers], 10);
        let mut first = replay.copy().unwrap();
        assert_eq!(read(&mut first), "abc…");
        drop(first);
        let mut second = replay.copy().unwrap();
        assert!(!second.is_end_stream());
        assert_eq!(read(&mut second), "abcd+.");
        assert!(second.is_end_stream() && replay.is_whole());
        assert_eq!(read(&mut replay.copy().unwrap()), "abcd+.");
    }

    #[test]
    fn a_body_over_the_bound_goes_out_once_and_is_not_kept() {
        let replay = replay(vec![data("abc"), data("def"), data("ghi")], 5);
        let mut first = replay.copy().unwrap();
        assert_eq!(read(&mut first), "abcdefghi.", "the attempt that has it gets it all");
        assert!(!replay.is_whole() && replay.copy().is_none());
        assert_eq!(replay.kept.borrow().frames.len(), 0);
    }

    #[test]
    fn what_is_forgotten_is_not_given_to_anybody_else() {
        let replay = replay(vec![data("abc"), None, data("def"), None, data("ghi")], 100);
        let (mut first, mut second) = (replay.copy().unwrap(), replay.copy().unwrap());
        assert_eq!(read(&mut first), "abc…");
        replay.forget();
        assert!(replay.copy().is_none());
        assert_eq!(read(&mut first), "def…", "the attempt that goes on goes on");
        assert_eq!(read(&mut second), "!", "and no other gets a body with a hole");
        assert_eq!(read(&mut first), "ghi.");
    }

    #[test]
    fn what_is_given_up_is_freed_but_not_under_who_has_yet_to_read_it() {
        let all = Replays::default();
        let fed = vec![data("abc"), None, data("def"), None];
        let replay = Replay::new(Body::boxed(Fed(fed.into())), 100, &all);
        assert_eq!(all.give_up(), 0, "nothing is kept yet");
        let mut first = replay.copy().unwrap();
        assert_eq!(read(&mut first), "abc…");
        drop(first);
        let mut second = replay.copy().unwrap();
        assert_eq!(all.give_up(), 0, "the second has it to read");
        assert_eq!(read(&mut second), "abcdef…");
        assert_eq!((all.give_up(), all.give_up()), (1, 0));
        assert!(replay.copy().is_none() && replay.kept.borrow().frames.is_empty());
        assert_eq!(read(&mut second), ".", "who has read it goes on");
        drop((second, replay));
        assert_eq!(all.0.borrow().iter().count(), 0);
    }

    #[test]
    fn a_body_that_failed_is_not_sent_again() {
        let replay = replay(vec![data("abc"), Some(Err("gone".into()))], 100);
        assert_eq!(read(&mut replay.copy().unwrap()), "abc!");
        assert!(replay.copy().is_none());
    }

    #[test]
    fn the_length_is_of_what_an_attempt_has_still_to_read() {
        let replay = Replay::new(Body::full("hello"), 100, &Replays::default());
        let mut first = replay.copy().unwrap();
        assert_eq!(first.size_hint().exact(), Some(5));
        assert_eq!(read(&mut first), "hello.");
        assert_eq!((first.size_hint().exact(), first.is_end_stream()), (Some(0), true));
        assert_eq!(replay.copy().unwrap().size_hint().exact(), Some(5));
    }
}
