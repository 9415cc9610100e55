//! The rules of a connection on bytes alone; what a client sees of them is held to the RFC from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use super::*;
use crate::http2::hpack;

const BOUNDS: Bounds =
    Bounds { streams: 256, stream_window: 256 * 1024, window: 1024 * 1024, head: 96 * 1024 };

/// A head block: POST, http, this path.
fn block(path: &str) -> Vec<u8> {
    let mut out = vec![0x83, 0x86, 0x04, path.len() as u8];
    out.extend(path.bytes());
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&frame::head(payload.len(), kind, flags, stream)[..], payload].concat()
}

fn open(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &block("/"))
}

/// A connection, what it said, and what began on it.
struct World {
    connection: Connection,
    now: Instant,
    out: BytesMut,
    begun: Vec<Begun>,
}

impl World {
    fn new() -> Self {
        let (now, mut out) = (Instant::now(), BytesMut::new());
        let connection = Connection::new(Side::Server, BOUNDS, now, &mut out);
        out.clear();
        let mut world = Self { connection, now, out, begun: Vec::new() };
        world.feed(&frame(kind::SETTINGS, 0, 0, &[])).unwrap();
        world.out.clear();
        world
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let mut input = BytesMut::from(bytes);
        let result =
            self.connection.feed(&mut input, self.now, &mut self.out, &mut self.begun, HeaderMap::new);
        assert!(result.is_err() || input.is_empty(), "whole frames are taken whole");
        result
    }

    /// The frames that were said since the last look, without their payloads where those are long.
    fn said(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        let mut said = Vec::new();
        while let Some(head) = Head::parse(&self.out) {
            let frame = self.out.split_to(HEAD + head.len);
            said.push((head.kind, head.stream, frame[HEAD..].to_vec()));
        }
        assert!(self.out.is_empty());
        said
    }

    fn stream(&self, at: usize) -> Rc<Stream> {
        Rc::clone(&self.begun[at].stream)
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Parks a stream with a waker that counts.
fn counted(stream: &Stream) -> Arc<Count> {
    let count = Arc::new(Count::default());
    stream.park(&Context::from_waker(&Waker::from(Arc::clone(&count))));
    count
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

#[test]
fn what_is_read_or_thrown_away_opens_the_windows_again() {
    let mut world = World::new();
    let piece = [7; MAX_PAYLOAD];
    let (mut streams, mut sent, mut opened) = (Vec::new(), 0, 0);
    // In turn: read as it comes; left unread on a stream that is closed; on one that is over; and as padding.
    for number in 0..64 {
        let id = number * 2 + 1;
        world.feed(&open(id)).unwrap();
        streams.push(world.stream(number as usize));
        let stream = &streams[number as usize];
        let padded = [&[250][..], &piece[..MAX_PAYLOAD - 1]].concat();
        let data = if number % 4 == 3 {
            frame(kind::DATA, flag::PADDED, id, &padded)
        } else {
            frame(kind::DATA, 0, id, &piece)
        };
        if number % 4 == 2 {
            world.connection.close(stream, Close::Done(Reason::CANCEL), &mut world.out);
        }
        for _ in 0..2 {
            world.feed(&data).unwrap();
            sent += piece.len();
        }
        match number % 4 {
            0 | 3 => {
                let read = stream.take_body().len() as u32;
                world.connection.take(stream, read, &mut world.out);
            }
            1 => world.connection.close(stream, Close::Done(Reason::CANCEL), &mut world.out),
            _ => {}
        }
        for (kind, stream, payload) in world.said() {
            if kind == kind::WINDOW_UPDATE && stream == 0 {
                opened += frame::number(&payload).unwrap() as usize;
            }
        }
    }
    assert_eq!(sent, 2 * BOUNDS.window as usize, "twice the window has passed");
    assert!(opened <= sent && sent - opened < BOUNDS.window as usize / 2, "{opened} of {sent}");
    assert_eq!(world.connection.recv_window, i64::from(BOUNDS.window) - weight(sent - opened));
}

#[test]
fn more_than_a_window_is_an_error_of_whose_window_it_is() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    let data = frame(kind::DATA, 0, 1, &[7; MAX_PAYLOAD]);
    for _ in 0..BOUNDS.stream_window as usize / MAX_PAYLOAD {
        world.feed(&data).unwrap();
    }
    assert!(world.said().is_empty());
    world.feed(&frame(kind::DATA, 0, 1, b"x")).unwrap();
    let reset = (kind::RST_STREAM, 1, Reason::FLOW_CONTROL_ERROR.0.to_be_bytes().to_vec());
    assert_eq!(
        (world.said(), world.stream(0).over()),
        (vec![reset], Some(Over::Broken("more DATA than a stream's window")))
    );
    // Four streams fill what is left of the connection's window, now that the first one's is free again.
    for id in [3, 5, 7, 9, 11] {
        world.feed(&open(id)).unwrap();
    }
    let mut fed = Ok(());
    for id in [3, 5, 7, 9, 11] {
        for _ in 0..BOUNDS.stream_window as usize / MAX_PAYLOAD {
            fed = fed.and_then(|()| world.feed(&frame(kind::DATA, 0, id, &[7; MAX_PAYLOAD])));
        }
    }
    assert_eq!(fed.unwrap_err().0, Reason::FLOW_CONTROL_ERROR);
}

#[test]
fn those_who_wait_are_woken_in_their_order_and_no_more_than_there_is_window_for() {
    let mut world = World::new();
    for id in [1, 3, 5, 7] {
        world.feed(&open(id)).unwrap();
    }
    let streams: Vec<_> = (0..4).map(|at| world.stream(at)).collect();
    let counts: Vec<_> = streams.iter().map(|stream| counted(stream)).collect();
    let woken = || counts.iter().map(|count| count.0.swap(0, Ordering::Relaxed)).collect::<Vec<_>>();
    while world.connection.send_window > 0 {
        world.connection.send_data(&streams[3], &[7; 1000], false, &mut world.out);
    }
    assert_eq!(world.connection.send_data(&streams[0], b"x", false, &mut world.out), 0);
    for stream in &streams {
        world.connection.park(stream, true);
    }
    world.connection.wake_parked();
    assert_eq!(woken(), [0, 0, 0, 0], "there is no window");
    world.feed(&update(0, MAX_PAYLOAD as u32 + 1)).unwrap();
    world.connection.wake_parked();
    assert_eq!(woken(), [1, 1, 0, 0]);
    // The first one takes a little and goes behind the others; the second one is gone.
    world.connection.send_data(&streams[0], b"x", false, &mut world.out);
    world.connection.unpark(&streams[0]);
    world.connection.park(&streams[0], true);
    world.feed(&frame(kind::RST_STREAM, 0, 3, &[0; 4])).unwrap();
    woken();
    world.connection.wake_parked();
    assert_eq!(woken(), [0, 0, 1, 0], "the third one, for which the window is enough");
    // A window of its own that opens wakes a stream wherever it stands.
    world.feed(&update(7, 1)).unwrap();
    assert_eq!(woken(), [0, 0, 0, 1]);
}

#[test]
fn a_head_that_waits_for_room_needs_no_window() {
    let mut world = World::new();
    for id in [1, 3, 5] {
        world.feed(&open(id)).unwrap();
    }
    let streams: Vec<_> = (0..3).map(|at| world.stream(at)).collect();
    let counts: Vec<_> = streams.iter().map(|stream| counted(stream)).collect();
    while world.connection.send_window > 0 {
        world.connection.send_data(&streams[0], &[7; 1000], false, &mut world.out);
    }
    for (stream, weighs) in streams.iter().zip([true, false, true]) {
        world.connection.park(stream, weighs);
    }
    world.connection.wake_parked();
    assert_eq!(counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn a_request_that_is_taken_back_before_it_was_read_is_not_taken_for_a_whole_one() {
    let mut world = World::new();
    for id in [1, 3] {
        world.feed(&open(id)).unwrap();
        world.feed(&frame(kind::DATA, flag::END_STREAM, id, b"whole")).unwrap();
    }
    let (read, unread) = (world.stream(0), world.stream(1));
    assert_eq!(read.take_body(), "whole");
    for id in [1, 3] {
        world.feed(&frame(kind::RST_STREAM, 0, id, &Reason::CANCEL.0.to_be_bytes())).unwrap();
    }
    assert!(read.is_exhausted(), "there was no more");
    assert!(!unread.is_exhausted() && unread.over().is_some());
}

#[test]
fn requests_that_are_taken_back_at_once_leave_the_window_open() {
    let mut world = World::new();
    let piece = [7; MAX_PAYLOAD];
    let mut opened = 0;
    for number in 0..128 {
        let id = number * 2 + 1;
        let reset = frame(kind::RST_STREAM, 0, id, &Reason::CANCEL.0.to_be_bytes());
        world.feed(&[open(id), frame(kind::DATA, 0, id, &piece), reset].concat()).unwrap();
        for (kind, stream, payload) in world.said() {
            assert_eq!((kind, stream), (kind::WINDOW_UPDATE, 0));
            opened += frame::number(&payload).unwrap() as usize;
        }
    }
    assert!(128 * MAX_PAYLOAD - opened < BOUNDS.window as usize / 2, "{opened}");
}

#[test]
fn what_is_said_of_that_does_not_depend_on_how_it_came() {
    let (mut whole, mut cut) = (World::new(), World::new());
    let reset = |id| frame(kind::RST_STREAM, 0, id, &Reason::CANCEL.0.to_be_bytes());
    let pieces: Vec<_> = (0..64)
        .map(|number| number * 2 + 1)
        .map(|id| [open(id), frame(kind::DATA, 0, id, &[7; MAX_PAYLOAD]), reset(id)].concat())
        .collect();
    whole.feed(&pieces.concat()).unwrap();
    for piece in &pieces {
        cut.feed(piece).unwrap();
    }
    assert_eq!(whole.said(), cut.said());
}

#[test]
fn a_window_that_is_no_larger_than_the_first_one_needs_no_word() {
    for window in [1000, FIRST_WINDOW as u32] {
        let mut out = BytesMut::new();
        let bounds = Bounds { window, ..BOUNDS };
        let connection = Connection::new(Side::Client, bounds, Instant::now(), &mut out);
        let settings = Head::parse(&out).unwrap();
        assert_eq!((settings.kind, out.len()), (kind::SETTINGS, HEAD + settings.len));
        assert_eq!(connection.recv_window, FIRST_WINDOW);
    }
}

#[test]
fn padding_alone_is_a_frame_that_carries_nothing() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    let empty = frame(kind::DATA, flag::PADDED, 1, &[0]);
    let fed = (0..2000).find_map(|_| world.feed(&empty).err());
    assert_eq!(fed.unwrap().0, Reason::ENHANCE_YOUR_CALM);
}

#[test]
fn of_many_first_windows_in_one_frame_the_last_one_counts() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    let window = |window: u32| [&[0, 4][..], &window.to_be_bytes()].concat();
    world.feed(&update(1, 1)).unwrap();
    let both = [window(MAX_WINDOW as u32), window(10)].concat();
    world.feed(&frame(kind::SETTINGS, 0, 0, &both)).unwrap();
    assert_eq!(world.stream(0).send_window.get(), 11);
    let over = [window(1 << 31), window(10)].concat();
    let fed = world.feed(&frame(kind::SETTINGS, 0, 0, &over));
    assert_eq!(fed.unwrap_err().0, Reason::FLOW_CONTROL_ERROR);
}

#[test]
fn a_first_window_that_changes_moves_the_streams_that_are_open() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    let (stream, settings) = (world.stream(0), |window: u32| {
        let setting = [&setting::INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
        frame(kind::SETTINGS, 0, 0, &setting)
    });
    assert_eq!(world.connection.send_data(&stream, &[7; 10_000], false, &mut world.out), 10_000);
    world.feed(&settings(4000)).unwrap();
    assert_eq!(stream.send_window.get(), -6000);
    let count = counted(&stream);
    world.feed(&update(1, 6000)).unwrap();
    assert_eq!((count.0.load(Ordering::Relaxed), stream.send_window.get()), (0, 0));
    assert_eq!(world.connection.send_data(&stream, b"x", true, &mut world.out), 0);
    world.feed(&settings(4001)).unwrap();
    assert_eq!((count.0.load(Ordering::Relaxed), stream.send_window.get()), (1, 1));
    world.feed(&update(1, (MAX_WINDOW - 1) as u32)).unwrap();
    assert_eq!(world.feed(&settings(4002)).unwrap_err().0, Reason::FLOW_CONTROL_ERROR);
}

#[test]
fn a_farewell_waits_for_what_is_on_its_way() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    world.connection.leave(&mut world.out);
    world.connection.leave(&mut world.out);
    let said = world.said();
    let last = |last: u32| [&last.to_be_bytes()[..], &[0; 4]].concat();
    assert_eq!(said, [(kind::GOAWAY, 0, last(SOON)), (kind::PING, 0, FAREWELL.to_vec())]);
    world.feed(&open(3)).unwrap();
    assert_eq!(world.begun.len(), 2, "its client had not heard yet");
    world.feed(&frame(kind::PING, flag::ACK, 0, &FAREWELL)).unwrap();
    assert_eq!(world.said(), [(kind::GOAWAY, 0, last(3))]);
    world.feed(&open(5)).unwrap();
    world.feed(&frame(kind::DATA, flag::END_STREAM, 5, b"x")).unwrap();
    assert_eq!((world.begun.len(), world.said().len()), (2, 0), "it will be asked elsewhere");
    for at in 0..2 {
        assert!(!world.connection.is_over());
        let stream = world.stream(at);
        world.connection.close(&stream, Close::Done(Reason::CANCEL), &mut world.out);
    }
    assert!(world.connection.is_over());
}

#[test]
fn how_a_task_leaves_its_stream_is_what_the_client_is_told() {
    let told = |answered: bool, ended: bool, close: Close| {
        let mut world = World::new();
        world.feed(&open(1)).unwrap();
        if ended {
            world.feed(&frame(kind::DATA, flag::END_STREAM, 1, &[])).unwrap();
        }
        let stream = world.stream(0);
        world.connection.send_data(&stream, b"x", answered, &mut world.out);
        world.said();
        world.connection.close(&stream, close, &mut world.out);
        assert!(world.connection.streams.is_empty() && stream.over().is_some());
        let said = world.said();
        said.first().map(|(kind, _, payload)| {
            assert_eq!(*kind, kind::RST_STREAM);
            frame::number(payload).unwrap()
        })
    };
    let done = Close::Done(Reason::INTERNAL_ERROR);
    assert_eq!(told(true, true, done), None);
    assert_eq!(told(true, false, done), Some(0), "no more is wanted");
    assert_eq!(told(false, true, done), Some(2));
    assert_eq!(told(true, true, Close::Broken(Reason::PROTOCOL_ERROR)), Some(1));
}

#[test]
fn frames_of_streams_that_we_ended_are_overlooked_and_of_others_are_not() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    let stream = world.stream(0);
    world.connection.close(&stream, Close::Done(Reason::CANCEL), &mut world.out);
    world.said();
    world.feed(&frame(kind::DATA, 0, 1, b"late")).unwrap();
    world.feed(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[])).unwrap();
    assert!(world.said().is_empty());
    world.feed(&open(3)).unwrap();
    world.feed(&frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8])).unwrap();
    world.feed(&frame(kind::DATA, 0, 3, b"late")).unwrap();
    let closed = Reason::STREAM_CLOSED.0.to_be_bytes().to_vec();
    assert_eq!(world.said(), [(kind::RST_STREAM, 3, closed)]);
    assert_eq!(world.feed(&open(1)), Ok(()));
    world.feed(&open(5)).unwrap();
    assert!(world.feed(&frame(kind::RST_STREAM, 0, 5, &[0; 4])).is_ok());
    assert_eq!(world.feed(&open(5)).unwrap_err().0, Reason::STREAM_CLOSED);
}

#[test]
fn a_client_that_keeps_no_table_is_told_once_that_there_is_none() {
    let mut world = World::new();
    world.feed(&[open(1), frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])].concat()).unwrap();
    world.said();
    let stream = world.stream(0);
    for expected in [&[0x20, 0x88][..], &[0x88]] {
        let ok = http::StatusCode::OK;
        world.connection.head(&stream, false, &mut world.out, |out| hpack::status(out, ok));
        assert_eq!(world.said(), [(kind::HEADERS, 1, expected.to_vec())]);
    }
}

#[test]
fn a_body_that_nobody_reads_takes_no_window_from_others() {
    let mut world = World::new();
    world.feed(&open(1)).unwrap();
    let (stream, data) = (world.stream(0), frame(kind::DATA, 0, 1, &[7; MAX_PAYLOAD]));
    world.feed(&data).unwrap();
    world.connection.abandon(&stream, &mut world.out);
    let (mut own, mut all) = (0, 0);
    for _ in 1..2 * BOUNDS.window as usize / MAX_PAYLOAD {
        world.feed(&data).unwrap();
        assert!(stream.take_body().is_empty());
        for (kind, stream, payload) in world.said() {
            assert_eq!(kind, kind::WINDOW_UPDATE);
            let by = frame::number(&payload).unwrap();
            if stream == 0 { all += by } else { own += by }
        }
    }
    assert!(own > BOUNDS.window && all > BOUNDS.window, "{own}, {all}");
}

// Our side asks.

/// A client's connection with so many GETs on it.
fn asking(count: usize) -> (World, Vec<Rc<Stream>>) {
    let (now, mut out) = (Instant::now(), BytesMut::new());
    let connection = Connection::new(Side::Client, BOUNDS, now, &mut out);
    let mut world = World { connection, now, out, begun: Vec::new() };
    world.feed(&frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])).unwrap();
    let head = |out: &mut BytesMut| hpack::request(out, &http::Method::GET, b"shop", b"/");
    let streams: Vec<_> =
        (0..count).map(|_| world.connection.open(true, false, &mut world.out, head)).collect();
    world.out.clear();
    assert_eq!(world.connection.room(), Some(9));
    (world, streams)
}

#[test]
fn an_upload_that_stands_still_is_nobody_elses_wait() {
    let (mut world, streams) = asking(3);
    let counts: Vec<_> = streams.iter().map(|stream| counted(stream)).collect();
    while world.connection.send_window > 0 {
        world.connection.send_data(&streams[0], &[7; 1000], false, &mut world.out);
    }
    for stream in &streams {
        world.connection.park(stream, true);
    }
    world.connection.wake_parked();
    let woken = || counts.iter().map(|count| count.0.swap(0, Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!(woken(), [0, 0, 0], "there is no window");
    world.feed(&update(0, 1)).unwrap();
    world.connection.wake_parked();
    assert_eq!(woken(), [1, 1, 1], "whoever is first may be held up by who reads its answer");
}

#[test]
fn an_answer_that_is_whole_outlives_the_reset_behind_it() {
    let (mut world, streams) = asking(1);
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88]);
    let data = frame(kind::DATA, flag::END_STREAM, 1, b"whole");
    let stop = frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    world.feed(&[head, data, stop].concat()).unwrap();
    let stream = &streams[0];
    assert_eq!(stream.take_head().unwrap().status(), 200);
    assert_eq!(stream.take_whole().unwrap(), "whole");
    assert_eq!(stream.over(), Some(Over::Reset(Reason::NO_ERROR)));
}

#[test]
fn what_the_peer_has_not_looked_at_is_told_apart() {
    let (mut world, streams) = asking(4);
    world.feed(&frame(kind::RST_STREAM, 0, 3, &Reason::REFUSED_STREAM.0.to_be_bytes())).unwrap();
    world.feed(&frame(kind::RST_STREAM, 0, 5, &Reason::INTERNAL_ERROR.0.to_be_bytes())).unwrap();
    world.feed(&frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0])).unwrap();
    let over: Vec<_> = streams.iter().map(|stream| stream.over()).collect();
    let expected = [
        None,
        Some(Over::Unprocessed(Reason::REFUSED_STREAM)),
        Some(Over::Reset(Reason::INTERNAL_ERROR)),
        Some(Over::Unprocessed(Reason::NO_ERROR)),
    ];
    assert_eq!(over, expected);
    assert_eq!((world.connection.room(), world.connection.is_over()), (None, false));
    world.feed(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[0x88])).unwrap();
    world.connection.close(&streams[0], Close::Done(Reason::CANCEL), &mut world.out);
    assert!(world.connection.is_over() && world.said().is_empty());
}

#[test]
fn an_answer_keeps_the_rules_or_is_none() {
    let answer = |blocks: &[&[u8]], data: Option<&[u8]>| {
        let (mut world, streams) = asking(1);
        let last = blocks.len() - 1;
        for (at, block) in blocks.iter().enumerate() {
            let end = if at == last && data.is_none() { flag::END_STREAM } else { 0 };
            world.feed(&frame(kind::HEADERS, flag::END_HEADERS | end, 1, block)).unwrap();
        }
        if let Some(data) = data {
            world.feed(&frame(kind::DATA, flag::END_STREAM, 1, data)).unwrap();
        }
        let head = streams[0].take_head().map(|head| head.status().as_u16());
        (head, streams[0].interim(), matches!(streams[0].over(), Some(Over::Broken(_))))
    };
    let length = |digit: u8| [0x88, 0x0f, 13, 1, digit];
    assert_eq!(answer(&[&[0x88]], None), (Some(200), 0, false));
    assert_eq!(answer(&[b"\x08\x03103", b"\x08\x03100", &[0x8d]], Some(b"")), (Some(404), 2, false));
    assert_eq!(answer(&[&length(b'2')], Some(b"ab")), (Some(200), 0, false));
    for (blocks, data, why) in [
        (&[&[0x82][..]][..], None, "no :status"),
        (&[&[0x88, 0x88]], None, ":status twice"),
        (&[&[0x88, 0x86]], None, "a request's field"),
        (
            &[&[0x88, 0, 10, b'c', b'o', b'n', b'n', b'e', b'c', b't', b'i', b'o', b'n', 1, b'x']],
            None,
            "of HTTP/1",
        ),
        (&[b"\x08\x03101"], None, "a switch"),
        (&[b"\x08\x03103"], None, "an interim answer that ends"),
        (&[&length(b'2')], None, "a length without a body"),
        (&[&length(b'2')], Some(&b"abc"[..]), "more than the length"),
        (&[&length(b'2')], Some(b"a"), "less"),
        (&[&[0x88], b"\x88"], None, "a pseudo-field in trailers"),
    ] {
        assert!(answer(blocks, data).2, "{why}");
    }
    let (mut world, streams) = asking(1);
    world.feed(&frame(kind::DATA, 0, 1, b"x")).unwrap();
    assert!(matches!(streams[0].over(), Some(Over::Broken(_))), "DATA before the head");
    let idle = frame(kind::HEADERS, flag::END_HEADERS, 3, &[0x88]);
    assert_eq!(world.feed(&idle).unwrap_err().0, Reason::PROTOCOL_ERROR);
}

#[test]
fn a_head_alone_may_tell_of_a_length() {
    let (mut world, _) = asking(0);
    let head = |out: &mut BytesMut| hpack::request(out, &http::Method::HEAD, b"shop", b"/");
    let stream = world.connection.open(true, true, &mut world.out, head);
    let flags = flag::END_HEADERS | flag::END_STREAM;
    world.feed(&frame(kind::HEADERS, flags, 1, &[0x88, 0x0f, 13, 1, b'9'])).unwrap();
    assert_eq!(
        (stream.take_head().unwrap().headers()["content-length"].as_bytes(), stream.over()),
        (&b"9"[..], None)
    );
}

#[test]
fn a_ping_of_ours_that_is_answered_is_counted() {
    let (mut world, _) = asking(1);
    world.feed(&frame(kind::PING, 0, 0, b"from you")).unwrap();
    assert_eq!(world.connection.pongs(), 0);
    world.feed(&frame(kind::PING, flag::ACK, 0, b"from us ")).unwrap();
    assert_eq!(world.connection.pongs(), 1);
}
