//! How a client is told what it did wrong (RFC 9113 and 7541), where the code says more than that something was.

use crate::wire_floods::*;
use crate::wire_h2_client::*;
use crate::wire_support::*;

const FRAME_SIZE: &[May] = &[Goaway(FRAME_SIZE_ERROR)];
const COMPRESSION: &[May] = &[Goaway(COMPRESSION_ERROR)];
const CLOSED: &[May] = &[Reset(1, STREAM_CLOSED), Goaway(STREAM_CLOSED)];

fn start() -> (Recorder, Worker) {
    let instance = instance();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    (instance, worker)
}

#[test]
fn frames_of_a_wrong_size_are_told_as_such() {
    let open = |rest: Vec<u8>| [posts(1, "/o/never"), rest].concat();
    let (_instance, worker) = start();
    hold(
        &worker,
        &[
            ("6.4: RST_STREAM of 3 octets", open(frame(RESET, 0, 1, &[0; 3])), FRAME_SIZE),
            ("6.4: RST_STREAM of 5 octets", open(frame(RESET, 0, 1, &[0; 5])), FRAME_SIZE),
            ("6.5: ACK with a payload", frame(SETTINGS, ACK, 0, &[0; 6]), FRAME_SIZE),
            ("6.5: half a setting", frame(SETTINGS, 0, 0, &[0, 4, 0]), FRAME_SIZE),
            ("6.5: one and a half", frame(SETTINGS, 0, 0, &[0, 9, 0, 0, 0, 0, 0, 9, 0]), FRAME_SIZE),
            ("6.7: PING of 7 octets", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE),
            ("6.7: PING of 9 octets", frame(PING, 0, 0, &[0; 9]), FRAME_SIZE),
            ("4.2: GOAWAY of 7 octets", frame(GOAWAY, 0, 0, &[0; 7]), FRAME_SIZE),
            ("6.9: WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), FRAME_SIZE),
            ("6.9: WINDOW_UPDATE of 5 octets", frame(WINDOW_UPDATE, 0, 0, &[1; 5]), FRAME_SIZE),
            ("6.9: a stream's, of 3 octets", open(frame(WINDOW_UPDATE, 0, 1, &[1; 3])), FRAME_SIZE),
            (
                "6.3: PRIORITY of 4 octets",
                [posts(5, "/o/never"), frame(PRIORITY, 0, 5, &[0; 4])].concat(),
                &[Reset(5, FRAME_SIZE_ERROR), Goaway(FRAME_SIZE_ERROR)],
            ),
        ],
    );
}

#[test]
fn what_is_wrong_is_told_with_its_own_code() {
    let half_closed = |rest: Vec<u8>| [asks(1, "/o/never"), rest].concat();
    let twice = [frame(DATA, END_STREAM, 1, b"x"), frame(DATA, END_STREAM, 1, b"y")].concat();
    let (_instance, worker) = start();
    hold(
        &worker,
        &[
            (
                "6.5.2: a window of 2^31",
                settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]),
                &[Goaway(FLOW_CONTROL_ERROR)],
            ),
            ("5.1: DATA after the end", half_closed(frame(DATA, END_STREAM, 1, b"x")), CLOSED),
            ("5.1: DATA after the end of a body", [posts(1, "/o/never"), twice].concat(), CLOSED),
        ],
    );
}

#[test]
fn the_first_frame_is_settings() {
    let (instance, worker) = start();
    // Section 3.4: GOAWAY may be left out.
    for (name, sent) in [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("HEADERS", asks(1, "/o/refused")),
        ("WINDOW_UPDATE", update(0, 1)),
        ("an unknown frame", frame(0xbb, 0, 0, b"x")),
        ("an ACK", frame(SETTINGS, ACK, 0, &[])),
    ] {
        let mut client = Client::silent(&worker);
        client.send([PREFACE, &sent].concat());
        while client.step() {}
        assert!(client.goaway.is_none_or(|code| code == PROTOCOL_ERROR), "{name}: {:?}", client.goaway);
        assert!(client.streams.is_empty(), "{name}");
    }
    assert!(instance.request_lines().is_empty());
}

fn rules(rules: &[Rule<'_>]) {
    let (instance, worker) = start();
    hold(&worker, rules);
    none_came_through(&instance);
}

#[test]
fn trailers_have_no_pseudo_fields() {
    let trailed = |list: &[(&str, &str)]| {
        [posts(1, "/o/refused"), frame(DATA, 0, 1, b"body"), frame(HEADERS, WHOLE, 1, &fields(list))].concat()
    };
    rules(&[
        ("8.1: a pseudo field", trailed(&[(":path", "/o/refused")]), MALFORMED),
        ("8.1: one of answers", trailed(&[(":status", "200")]), MALFORMED),
    ]);
}

#[test]
fn blocks_that_cannot_be_decoded_end_the_connection() {
    let with = |rest: &[u8]| frame(HEADERS, WHOLE, 1, &[&get_block("/o/refused"), rest].concat());
    let wrong = |name, rest: &[u8]| (name, with(rest), COMPRESSION);
    let huffman = |text: &[u8]| [&[0, 1, b'x', 0x80 | text.len() as u8], text].concat();
    let keep = |name: &str, value: &str| literal(0x40, name, value);
    let size = |size| integer(0x20, 5, size);
    let y = "y".repeat(2000);
    rules(&[
        (
            "6.3: a table of what is allowed",
            frame(HEADERS, WHOLE, 1, &[size(4096), get_block("/o/")].concat()),
            &[Answer(1, 200)],
        ),
        wrong("6.1: index 0", &[0x80]),
        wrong("2.3.3: an index beyond the tables", &[0x80 | 62]),
        wrong("2.3.3: an index far beyond", &integer(0x80, 7, 1_000_000)),
        wrong("2.3.3: a name beyond the tables", &[0x40 | 62, 1, b'y']),
        wrong("2.3.3: one behind the last entry", &[&keep("x", "y")[..], &[0x80 | 63]].concat()),
        wrong("6.2.2: what was not to be kept", &[&literal(0, "x", "y")[..], &[0x80 | 62]].concat()),
        wrong("6.2.3: what was never to be kept", &[&literal(0x10, "x", "y")[..], &[0x80 | 62]].concat()),
        wrong("4.4: evicted", &[keep("a", &y), keep("b", &y), keep("c", &y), vec![0x80 | 64]].concat()),
        wrong("4.4: too large for the table", &[keep("a", &y.repeat(3)), vec![0x80 | 62]].concat()),
        (
            "6.3: a table beyond what is allowed",
            frame(HEADERS, WHOLE, 1, &[size(4097), get_block("/o/refused")].concat()),
            COMPRESSION,
        ),
        wrong("4.2: a size behind a field", &size(100)),
        (
            "4.3: a table that was emptied",
            [
                frame(HEADERS, WHOLE, 1, &[get_block("/o/never"), keep("x", "y")].concat()),
                frame(HEADERS, WHOLE, 3, &[size(0), get_block("/o/refused"), vec![0x80 | 62]].concat()),
            ]
            .concat(),
            COMPRESSION,
        ),
        wrong("5.1: half an integer", &[0x7f, 0x80]),
        wrong("5.1: an integer without end", &[&[0x7f][..], &[0x80; 20], &[0]].concat()),
        wrong("5.1: an integer that is too large", &[&[0xff][..], &[0xff; 10], &[0x7f]].concat()),
        wrong("5.2: half a name", &[0x40, 10, b'x']),
        wrong("5.2: a name and no value", &[0x40, 1, b'x']),
        wrong("5.2: half a value", &[0x40, 1, b'x', 200, 1, b'y']),
        wrong(
            "5.2: a string longer than all",
            &[&[0x40, 1, b'x'][..], &integer(0, 7, 1 << 27), b"y"].concat(),
        ),
        wrong("5.2: padding of eight bits", &huffman(&[0x07, 0xff, 0xff])),
        wrong("5.2: padding of zeros", &huffman(&[0x00])),
        wrong("5.2: EOS", &huffman(&[0xff; 4])),
        wrong("5.2: EOS within", &huffman(&[0xff, 0xff, 0xff, 0xfc, 0x07])),
        (
            "4.3: in trailers",
            [posts(1, "/o/refused"), frame(HEADERS, WHOLE, 1, &[0x80])].concat(),
            COMPRESSION,
        ),
    ]);
}
