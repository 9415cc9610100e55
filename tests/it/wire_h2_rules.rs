//! What RFC 9113 says of frames and of the states of streams, rule by rule.

use crate::wire_floods::*;
use crate::wire_h2_client::*;
use crate::wire_support::*;

const FRAME_SIZE: &[May] = &[Goaway(FRAME_SIZE_ERROR)];
const PROTOCOL: &[May] = &[Goaway(PROTOCOL_ERROR)];
/// What may be said to frames on a stream that takes no more of them.
const CLOSED: &[May] = &[Reset(1, STREAM_CLOSED), Goaway(STREAM_CLOSED)];

/// Holds a worker with an instance to these rules.
fn rules(rules: &[Rule<'_>]) {
    let instance = instance();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    hold(&worker, rules);
    none_came_through(&instance);
}

#[test]
fn the_preface_may_come_in_pieces_and_must_be_right() {
    let instance = instance();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let all = [PREFACE, &settings(&[]), &asks(1, "/o/after")].concat();
    for piece in [1, 7, 24, 25, all.len()] {
        let mut client = Client::silent(&worker);
        let mut pieces = all.chunks(piece);
        client.send(pieces.next().unwrap());
        pieces.for_each(|piece| client.wire.send(piece));
        client.until("settings", |client| !client.frames.is_empty());
        assert_eq!(client.frames, [SETTINGS], "the server's preface");
        assert_eq!(client.answer(1).status, Some(200), "pieces of {piece}");
    }
    // Section 3.4: GOAWAY may be left out.
    let mut client = Client::silent(&worker);
    client.send([PREFACE, b"GET /o/refused HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
    while client.step() {}
    assert!(matches!(client.goaway, None | Some(PROTOCOL_ERROR | FRAME_SIZE_ERROR)), "{:?}", client.goaway);
    // What only begins like the preface is a request of HTTP/1, of a version that it does not have.
    for wrong in ["PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI /o/refused HTTP/2.0\r\n\r\n"] {
        let answer = worker.exchange(wrong);
        assert!(answer.starts_with("HTTP/1.1 505 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    none_came_through(&instance);
}

#[test]
fn settings_hold_to_their_form_and_ranges() {
    rules(&[
        ("6.5: on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("6.5.2: push 2", settings(&[(ENABLE_PUSH, 2)]), PROTOCOL),
        ("6.5.2: push 0 and 1", settings(&[(ENABLE_PUSH, 0), (ENABLE_PUSH, 1)]), &[Pass]),
        ("6.5.2: the largest window", settings(&[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)]), &[Pass]),
        ("6.5.2: small frames", settings(&[(MAX_FRAME_SIZE, 16_383)]), PROTOCOL),
        ("6.5.2: large frames", settings(&[(MAX_FRAME_SIZE, 1 << 24)]), PROTOCOL),
        ("6.5.2: the largest frames", settings(&[(MAX_FRAME_SIZE, (1 << 24) - 1)]), &[Pass]),
        ("6.5.2: unknown settings", settings(&[(0xff, 1), (0x0a0a, u32::MAX)]), &[Pass]),
        ("6.5.3: a bad one behind a good one", settings(&[(0xff, 1), (ENABLE_PUSH, 7)]), PROTOCOL),
        ("6.5: unknown flags", frame(SETTINGS, 0xfe, 0, &[]), &[Pass]),
    ]);
}

#[test]
fn settings_and_pings_are_each_acknowledged() {
    let worker = Worker::start(Setup::default(), &[instance().address]);
    let mut client = Client::with(&worker, &[(INITIAL_WINDOW_SIZE, 70_000)]);
    client.settings(&[]);
    client.settings(&[(MAX_FRAME_SIZE, 20_000), (0xabc, 7), (MAX_FRAME_SIZE, 16_384)]);
    client.until("three ACKs", |client| client.acks == 3);
    let pings = [*b"01234567", [0; 8], [0xff; 8]];
    for ping in pings {
        // Flags that it does not have.
        client.send(frame(PING, 0xfe, 0, &ping));
    }
    client.until("three answers", |client| client.pongs.len() == 3);
    assert_eq!(client.pongs, pings);
    client.goes_on(1);
    assert_eq!(client.acks, 3);
}

#[test]
fn frames_of_the_connection_hold_to_their_form() {
    rules(&[
        ("6.7: PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("6.7: ACK of no PING", frame(PING, ACK, 0, &[3; 8]), &[Pass]),
        ("4.1: the reserved bit, on the connection", frame(PING, 0, 1 << 31, &[3; 8]), &[Pass]),
        ("4.1: the reserved bit, on a stream", asks(1 << 31 | 1, "/o/"), &[Answer(1, 200)]),
        ("6.8: GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("5.5: an unknown frame", frame(0xbb, 0xff, 0, b"what?"), &[Pass]),
        ("5.5: an unknown frame on an idle stream", frame(0xbb, 0xff, 7, &[0; 16_384]), &[Pass]),
        ("4.2: an unknown frame that is too large", frame(0xbb, 0, 0, &[0; 16_385]), FRAME_SIZE),
        ("6.6: PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        (
            "8.4: PUSH_PROMISE on an open stream",
            [posts(1, "/o/never"), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])].concat(),
            PROTOCOL,
        ),
    ]);
}

#[test]
fn priorities_are_taken_and_ignored() {
    let whole = |on, stream| {
        let block = [&priority(on)[..], &get_block("/o/")].concat();
        frame(HEADERS, WHOLE | PRIORITISED, stream, &block)
    };
    // Section 5.3.2 of RFC 9113 takes the scheme away, and with it the word on what depends on itself.
    let own: &[May] = &[Pass, Reset(5, PROTOCOL_ERROR), Goaway(PROTOCOL_ERROR)];
    let own_head: &[May] = &[Answer(5, 200), Reset(5, PROTOCOL_ERROR), Goaway(PROTOCOL_ERROR)];
    rules(&[
        ("6.3: on an idle stream", frame(PRIORITY, 0, 1, &priority(3)), &[Pass]),
        (
            "5.1: an idle stream stays idle",
            [frame(PRIORITY, 0, 7, &priority(0)), asks(5, "/o/")].concat(),
            &[Answer(5, 200)],
        ),
        (
            "6.3: on an open stream",
            [posts(1, "/o/never"), frame(PRIORITY, 0, 1, &priority(1 << 31))].concat(),
            &[Pass],
        ),
        (
            "5.1: on a stream half closed, and on one reset",
            [
                asks(1, "/o/never"),
                frame(PRIORITY, 0, 1, &priority(0)),
                reset(1),
                frame(PRIORITY, 0, 1, &priority(0)),
            ]
            .concat(),
            &[Pass],
        ),
        ("6.3: on the connection", frame(PRIORITY, 0, 0, &priority(1)), PROTOCOL),
        ("5.3: of itself", frame(PRIORITY, 0, 5, &priority(5)), own),
        ("6.2: in a head", whole(0, 5), &[Answer(5, 200)]),
        ("6.2: in a head, exclusive, of a stream to come", whole(1 << 31 | 9, 5), &[Answer(5, 200)]),
        ("5.3: in a head, of itself", whole(5, 5), own_head),
    ]);
}

#[test]
fn frames_of_a_stream_hold_to_their_sizes() {
    let open = |rest: Vec<u8>| [posts(1, "/o/never"), rest].concat();
    let post = |frames: &[Vec<u8>]| [posts(1, "/o/"), frames.concat()].concat();
    let padded = |kind, flags, pad: u8, payload: &[u8]| {
        frame(kind, flags | PADDED, 1, &[&[pad], payload, &vec![0; pad.into()]].concat())
    };
    let head = get_block("/o/refused");
    rules(&[
        (
            "4.2: DATA of 16385 octets",
            open(frame(DATA, 0, 1, &[0; 16_385])),
            &[Reset(1, FRAME_SIZE_ERROR), Goaway(FRAME_SIZE_ERROR)],
        ),
        ("4.2: DATA of 16384 octets", post(&[frame(DATA, END_STREAM, 1, &[0; 16_384])]), &[Answer(1, 200)]),
        (
            "4.2: HEADERS of 16385 octets",
            frame(HEADERS, WHOLE, 1, &[head.clone(), literal(0, "x", vec![b'x'; 16_385])].concat()[..16_385]),
            FRAME_SIZE,
        ),
        (
            "4.2: CONTINUATION of 16385 octets",
            [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, 0, 1, &[0; 16_385])].concat(),
            FRAME_SIZE,
        ),
        ("6.1: padding as long as the rest", open(frame(DATA, PADDED, 1, &[3, 0, 0, 0])), &[Pass]),
        ("6.1: padding longer than the rest", open(frame(DATA, PADDED, 1, &[4, 0, 0, 0])), PROTOCOL),
        (
            "6.1: padding without its length",
            open(frame(DATA, PADDED, 1, &[])),
            &[Goaway(FRAME_SIZE_ERROR), Goaway(PROTOCOL_ERROR), Reset(1, FRAME_SIZE_ERROR)],
        ),
        ("6.1: padding", post(&[padded(DATA, END_STREAM, 255, b"hello")]), &[Answer(1, 200)]),
        ("6.1: nothing but padding", post(&[padded(DATA, END_STREAM, 255, b"")]), &[Answer(1, 200)]),
        ("6.2: padding of a head", padded(HEADERS, WHOLE, 255, &get_block("/o/")), &[Answer(1, 200)]),
        (
            "6.2: padding and priority",
            padded(HEADERS, WHOLE | PRIORITISED, 9, &[priority(0), get_block("/o/")].concat()),
            &[Answer(1, 200)],
        ),
        (
            "6.2: padding longer than a head",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[200], &head[..]].concat()),
            PROTOCOL,
        ),
        (
            "6.2: padding longer than the rest behind the priority",
            frame(
                HEADERS,
                WHOLE | PADDED | PRIORITISED,
                1,
                &[&[3], &priority(0)[..], &[0x82, 0x86]].concat(),
            ),
            PROTOCOL,
        ),
        (
            "6.2: half a priority",
            frame(HEADERS, WHOLE | PRIORITISED, 1, &[0; 4]),
            &[Goaway(FRAME_SIZE_ERROR), Goaway(PROTOCOL_ERROR)],
        ),
    ]);
}

#[test]
fn frames_fit_the_state_of_their_stream() {
    let open = |rest: Vec<u8>| [posts(1, "/o/never"), rest].concat();
    let half_closed = |rest: Vec<u8>| [asks(1, "/o/never"), rest].concat();
    let either: &[May] = &[Reset(1, STREAM_CLOSED), Goaway(STREAM_CLOSED), Goaway(PROTOCOL_ERROR)];
    rules(&[
        ("6.1: DATA on the connection", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("6.2: HEADERS on the connection", asks(0, "/o/refused"), PROTOCOL),
        ("6.4: RST_STREAM on the connection", reset(0), PROTOCOL),
        ("6.10: CONTINUATION on the connection", frame(CONTINUATION, END_HEADERS, 0, &[0x82]), PROTOCOL),
        ("5.1: DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), PROTOCOL),
        ("5.1: RST_STREAM on an idle stream", reset(1), PROTOCOL),
        ("5.1: WINDOW_UPDATE on an idle stream", update(1, 1), PROTOCOL),
        ("5.1: CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, &[0x82]), PROTOCOL),
        ("5.1: WINDOW_UPDATE on an idle stream of the server's", update(2, 1), PROTOCOL),
        ("5.1.1: a stream of the server's", asks(2, "/o/refused"), PROTOCOL),
        (
            "5.1.1: an older stream",
            [asks(5, "/o/never"), asks(3, "/o/refused")].concat(),
            &[Goaway(PROTOCOL_ERROR), Goaway(STREAM_CLOSED)],
        ),
        (
            "5.1.1: DATA on a stream that was left out",
            [asks(5, "/o/never"), frame(DATA, 0, 1, b"x")].concat(),
            either,
        ),
        ("5.1: HEADERS after the end", half_closed(asks(1, "/o/refused")), either),
        ("5.1: updates after the end", half_closed(update(1, 10)), &[Pass]),
        ("5.1: RST_STREAM after the end, twice", half_closed([reset(1), reset(1)].concat()), &[Pass]),
        ("5.1: DATA after RST_STREAM", open([reset(1), frame(DATA, 0, 1, b"x")].concat()), CLOSED),
        ("5.1: HEADERS after RST_STREAM", open([reset(1), asks(1, "/o/refused")].concat()), either),
        ("5.1: updates after RST_STREAM", open([reset(1), update(1, 10)].concat()), &[Pass]),
        (
            "8.1: a head in the midst of a stream",
            open(frame(HEADERS, END_HEADERS, 1, &fields(&[("x", "y")]))),
            &[Answer(1, 400), Reset(1, PROTOCOL_ERROR), Goaway(PROTOCOL_ERROR)],
        ),
        ("7: an unknown code", open(frame(RESET, 0, 1, &0xabcd_u32.to_be_bytes())), &[Pass]),
    ]);
}

#[test]
fn nothing_comes_between_the_frames_of_a_head() {
    let head = get_block("/o/refused");
    let begun = |rest: Vec<u8>| [frame(HEADERS, END_STREAM, 1, &head[..4]), rest].concat();
    let rest = || frame(CONTINUATION, END_HEADERS, 1, &head[4..]);
    let good = get_block("/o/");
    let cut: Vec<Vec<u8>> = good.chunks(7).map(|piece| frame(CONTINUATION, 0, 1, piece)).collect();
    let end = frame(CONTINUATION, END_HEADERS, 1, &[]);
    rules(&[
        ("6.10: HEADERS of another stream", begun([asks(3, "/o/refused"), rest()].concat()), PROTOCOL),
        ("6.2: HEADERS of the same stream", begun(asks(1, "/o/refused")), PROTOCOL),
        ("6.10: DATA", begun([frame(DATA, 0, 1, b"x"), rest()].concat()), PROTOCOL),
        ("6.10: PING", begun([frame(PING, 0, 0, &[0; 8]), rest()].concat()), PROTOCOL),
        ("6.10: SETTINGS", begun([settings(&[]), rest()].concat()), PROTOCOL),
        ("6.10: PRIORITY", begun([frame(PRIORITY, 0, 1, &priority(0)), rest()].concat()), PROTOCOL),
        ("6.10: WINDOW_UPDATE", begun([update(0, 1), rest()].concat()), PROTOCOL),
        ("6.10: RST_STREAM", begun([reset(1), rest()].concat()), PROTOCOL),
        ("6.10: GOAWAY", begun([frame(GOAWAY, 0, 0, &[0; 8]), rest()].concat()), PROTOCOL),
        ("5.5: an unknown frame", begun([frame(0xbb, 0, 1, b"x"), rest()].concat()), PROTOCOL),
        ("6.10: CONTINUATION of another stream", begun(frame(CONTINUATION, END_HEADERS, 3, &[])), PROTOCOL),
        (
            "6.10: CONTINUATION behind the end of a head",
            [asks(1, "/o/never"), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            PROTOCOL,
        ),
        (
            "6.10: CONTINUATION behind DATA",
            [posts(1, "/o/never"), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, &[])]
                .concat(),
            PROTOCOL,
        ),
        (
            "6.2: a head in small pieces",
            [frame(HEADERS, END_STREAM, 1, &[]), cut.concat(), end].concat(),
            &[Answer(1, 200)],
        ),
    ]);
}

#[test]
fn a_stream_that_was_answered_is_closed() {
    let worker = Worker::start(Setup::default(), &[instance().address]);
    let answered = || {
        let mut client = Client::open(&worker);
        client.goes_on(1);
        client
    };
    // Section 5.1: what may have been under way.
    let mut client = answered();
    client.send([update(1, 5), reset(1), frame(PRIORITY, 0, 1, &priority(0))].concat());
    client.settle();
    client.goes_on(3);
    assert_eq!((client.goaway, client.streams[&1].reset), (None, None));
    for late in [frame(DATA, END_STREAM, 1, b"x"), asks(1, "/o/")] {
        let mut client = answered();
        client.send(late);
        let refused = |client: &Client| client.ended || client.streams[&1].reset.is_some();
        while !refused(&client) {
            client.step();
        }
        match (client.streams[&1].reset, client.goaway) {
            (Some(STREAM_CLOSED), None) => client.goes_on(3),
            (None, Some(STREAM_CLOSED | PROTOCOL_ERROR)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn trailers_end_a_request() {
    let instance = instance();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut client = Client::open(&worker);
    let trailers = fields(&[("x-sum", "7"), ("x-other", "8")]);
    client
        .send([posts(1, "/o/a"), frame(DATA, 0, 1, b"hello"), frame(HEADERS, WHOLE, 1, &trailers)].concat());
    assert_eq!(client.answer(1).status, Some(200));
    // Without a body, and in two frames.
    client.send([posts(3, "/o/b"), frame(HEADERS, END_STREAM, 3, &trailers[..5])].concat());
    client.send(frame(CONTINUATION, END_HEADERS, 3, &trailers[5..]));
    assert_eq!(client.answer(3).status, Some(200));
    let bodies: Vec<_> = instance.seen().iter().map(Message::text).collect();
    assert_eq!(bodies, ["hello", ""]);
}

#[test]
fn a_stream_that_begins_after_the_clients_goaway_is_served() {
    let worker = Worker::start(Setup::default(), &[instance().address]);
    for open in [&b""[..], &asks(1, "/o/never")] {
        let mut client = Client::open(&worker);
        // It speaks of streams of the server's, and forbids none of the client's own.
        client.send([open, &frame(GOAWAY, 0, 0, &[0; 8]), &asks(3, "/o/")].concat());
        assert_eq!(client.answer(3).status, Some(200));
    }
}

#[test]
fn open_streams_finish_after_the_clients_goaway() {
    let instance = instance();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut client = Client::open(&worker);
    client.send([posts(1, "/o/a"), posts(3, "/o/b"), frame(GOAWAY, 0, 0, &[0; 8])].concat());
    client.send([frame(DATA, END_STREAM, 3, b"three"), frame(DATA, END_STREAM, 1, b"one")].concat());
    for stream in [1, 3] {
        assert_eq!(client.answer(stream).status, Some(200));
        assert_eq!(client.streams[&stream].body, b"ok");
    }
    drop(client);
    wait_for("the connection's end", || (worker.shared.open_connections() == 0).then_some(()));
}
