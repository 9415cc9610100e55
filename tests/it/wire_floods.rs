//! HTTP/2 clients that flood: each is told off and cut, and a neighbour is served meanwhile.

use std::sync::mpsc;
use std::thread;

use crate::wire_h2::echo;
use crate::wire_support::*;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let mut out = vec![(len >> 16) as u8, (len >> 8) as u8, len as u8, kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block: a request for this path, every field a literal or from the static table.
pub fn block(method: u8, path: &str) -> Vec<u8> {
    let mut out = vec![0x80 | method, 0x86, 0x04, path.len() as u8];
    out.extend(path.bytes());
    out.extend([0x01, 12]);
    out.extend(b"shop.example");
    out
}

pub fn get_block(path: &str) -> Vec<u8> {
    block(2, path)
}

/// Streams opened and reset at once.
pub fn rapid_reset(index: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for stream in (index * 50..index * 50 + 50).map(|n| n * 2 + 1) {
        out.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/o/never")));
        out.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    out
}

/// Streams opened, and broken so that it is we who reset them: an update by nothing is an error of the stream.
pub fn made_you_reset(index: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for stream in (index * 50..index * 50 + 50).map(|n| n * 2 + 1) {
        out.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/o/never")));
        out.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
    }
    out
}

/// What the gateway says to a client of raw frames.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Goaway(u32),
    Reset(u32, u32),
    MaxStreams(u32),
    End,
}

/// A connection after its preface, and what is said on it.
fn open(worker: &Worker) -> (Wire, mpsc::Receiver<Said>) {
    let mut wire = worker.connect();
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    wire.send(frame(SETTINGS, 0, 0, &[]));
    let mut reader = Wire::over(wire.stream.try_clone().unwrap());
    let (tell, said) = mpsc::channel();
    thread::spawn(move || {
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        while let Some(head) = reader.read_exact(9) {
            let len = usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some(payload) = reader.read_exact(len) else { break };
            let saying = match head[3] {
                GOAWAY => Said::Goaway(word(&payload[4..])),
                RESET => Said::Reset(word(&head[5..]), word(&payload)),
                SETTINGS => match payload.chunks(6).find(|setting| setting[..2] == [0, 3]) {
                    Some(setting) => Said::MaxStreams(word(&setting[2..])),
                    None => continue,
                },
                _ => continue,
            };
            let _ = tell.send(saying);
        }
        let _ = tell.send(Said::End);
    });
    (wire, said)
}

/// Sends piece after piece, with a neighbour's request after each, until the gateway says GOAWAY. It must, and
/// then end the connection.
fn flood(name: &str, pieces: usize, open_with: &[u8], piece: impl Fn(u32) -> Vec<u8>) {
    let worker =
        Worker::start(Setup { protocol: zoogate::model::Protocol::H2, ..Setup::default() }, &[echo()]);
    let mut neighbour = worker.connect();
    let (mut wire, said) = open(&worker);
    wire.send(open_with);
    let mut reason = None;
    for index in 0..pieces {
        wire.send(piece(index as u32));
        neighbour.send(get("/o/"));
        let answer = neighbour.read_message().expect("a neighbour's answer");
        assert!(answer.first_line().contains("200"), "{name}: {}", answer.first_line());
        reason = said.try_iter().find_map(|said| if let Said::Goaway(why) = said { Some(why) } else { None });
        if reason.is_some() {
            break;
        }
    }
    let next = || said.recv_timeout(PATIENCE).expect("the end of a flooded connection");
    let mut ended = false;
    while !ended {
        match next() {
            Said::Goaway(why) => reason = Some(why),
            Said::End => ended = true,
            _ => {}
        }
    }
    assert!(reason.is_some_and(|why| why != 0), "{name}: GOAWAY with its reason, not {reason:?}");
    wait_for("the neighbour alone", || (worker.shared.open_connections() == 1).then_some(()));
}

#[test]
fn streams_opened_and_reset_at_once_end_the_connection() {
    flood("rapid reset", 100, &[], rapid_reset);
}

#[test]
fn a_head_in_endless_continuations_ends_the_connection() {
    let start = frame(HEADERS, END_STREAM, 1, &get_block("/o/"));
    // A literal field of one letter each time.
    let more = frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']);
    flood("continuation", 100, &start, |_| more.repeat(50));
}

#[test]
fn empty_data_without_end_ends_the_connection() {
    let start = frame(HEADERS, END_HEADERS, 1, &block(3, "/o/"));
    flood("empty data", 200, &start, |_| frame(DATA, 0, 1, &[]).repeat(100));
}

#[test]
fn a_flood_of_settings_or_pings_ends_the_connection() {
    flood("settings", 100, &[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(50));
    flood("ping", 100, &[], |_| frame(PING, 0, 0, &[7; 8]).repeat(50));
}

#[test]
fn a_flood_of_window_updates_and_streams_that_we_are_made_to_reset_end_the_connection() {
    flood("window update", 100, &[], |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(50));
    flood("made you reset", 200, &[], made_you_reset);
}

#[test]
fn streams_beyond_the_limit_are_refused_one_by_one() {
    let worker =
        Worker::start(Setup { protocol: zoogate::model::Protocol::H2, ..Setup::default() }, &[echo()]);
    let (mut wire, said) = open(&worker);
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::MaxStreams(256)));
    for stream in (0..257).map(|n| n * 2 + 1) {
        wire.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/o/never")));
    }
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Reset(513, REFUSED_STREAM)));
    let mut neighbour = worker.connect();
    neighbour.send(get("/o/"));
    assert!(neighbour.read_message().unwrap().first_line().contains("200"));
    // A place that becomes free is taken again.
    wire.send(frame(RESET, 0, 1, &8_u32.to_be_bytes()));
    wire.send(frame(HEADERS, END_HEADERS | END_STREAM, 515, &get_block("/o/never")));
    wire.send(frame(HEADERS, END_HEADERS | END_STREAM, 517, &get_block("/o/never")));
    assert_eq!(said.recv_timeout(PATIENCE), Ok(Said::Reset(517, REFUSED_STREAM)));
}
