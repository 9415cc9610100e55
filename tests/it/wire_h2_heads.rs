//! What RFC 9113 says of requests, and RFC 7541 of the blocks that they come in, rule by rule.

use crate::wire_floods::*;
use crate::wire_h2_client::*;
use crate::wire_support::*;

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/o/refused");
const AUTHORITY: (&str, &str) = (":authority", "shop.example");

fn start() -> (Recorder, Worker) {
    let instance = instance();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    (instance, worker)
}

fn rules(rules: &[Rule<'_>]) {
    let (instance, worker) = start();
    hold(&worker, rules);
    none_came_through(&instance);
}

fn head(list: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &fields(list))
}

#[test]
fn pseudo_fields_are_the_four_of_a_request_and_come_first() {
    let malformed = |name, list: &[_]| (name, head(list), MALFORMED);
    rules(&[
        malformed("8.3: behind a field", &[METHOD, SCHEME, PATH, ("x", "y"), AUTHORITY]),
        malformed("8.3: twice the method", &[METHOD, METHOD, SCHEME, PATH, AUTHORITY]),
        malformed("8.3: twice the scheme", &[METHOD, SCHEME, SCHEME, PATH, AUTHORITY]),
        malformed("8.3: twice the path", &[METHOD, SCHEME, PATH, PATH, AUTHORITY]),
        malformed("8.3: twice the authority", &[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY]),
        malformed("8.3: an unknown one", &[METHOD, SCHEME, PATH, AUTHORITY, (":what", "x")]),
        malformed("8.3: one of answers", &[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")]),
        malformed(
            "RFC 8441: one that was not offered",
            &[METHOD, SCHEME, PATH, AUTHORITY, (":protocol", "x")],
        ),
        malformed("8.3.1: no method", &[SCHEME, PATH, AUTHORITY]),
        malformed("8.3.1: no scheme", &[METHOD, PATH, AUTHORITY]),
        malformed("8.3.1: no path", &[METHOD, SCHEME, AUTHORITY]),
        malformed("8.3.1: an empty path", &[METHOD, SCHEME, (":path", ""), AUTHORITY]),
        malformed("8.3.1: a path without its slash", &[METHOD, SCHEME, (":path", "o/refused"), AUTHORITY]),
        malformed("8.3.1: a path with white space", &[METHOD, SCHEME, (":path", "/o/refused a"), AUTHORITY]),
        malformed("8.3.1: an empty method", &[(":method", ""), SCHEME, PATH, AUTHORITY]),
        malformed("8.3.1: a method of two words", &[(":method", "GET /o/refused"), SCHEME, PATH, AUTHORITY]),
        malformed("8.3.1: a scheme that is not HTTP", &[METHOD, (":scheme", "ftp"), PATH, AUTHORITY]),
        malformed("8.3.1: user information", &[METHOD, SCHEME, PATH, (":authority", "me@shop.example")]),
        malformed(
            "8.3.1: a Host that differs",
            &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "other.example")],
        ),
        malformed("9110, 7.2: for nobody", &[METHOD, SCHEME, PATH]),
        (
            "8.3.1: Host instead",
            head(&[METHOD, SCHEME, (":path", "/o/"), ("host", "a.example")]),
            &[Answer(1, 200)],
        ),
        ("8.3.1: in any order", head(&[(":path", "/o/"), AUTHORITY, METHOD, SCHEME]), &[Answer(1, 200)]),
        (
            "8.3.1: https",
            head(&[METHOD, (":scheme", "https"), (":path", "/o/"), AUTHORITY]),
            &[Answer(1, 200)],
        ),
        (
            "8.3.1: OPTIONS of all, for which there is no route",
            head(&[(":method", "OPTIONS"), SCHEME, (":path", "*"), AUTHORITY]),
            &[Answer(1, 404)],
        ),
    ]);
}

#[test]
fn fields_are_in_lower_case_and_belong_to_no_connection() {
    let with = |field: (&str, &str)| head(&[METHOD, SCHEME, PATH, AUTHORITY, field]);
    let malformed = |name, field| (name, with(field), MALFORMED);
    rules(&[
        malformed("8.2: upper case", ("X-Upper", "x")),
        malformed("8.2: one letter of upper case", ("x-uppeR", "x")),
        malformed("8.2.1: white space in a name", ("x y", "x")),
        malformed("8.2.1: a colon in a name", ("x:y", "x")),
        malformed("8.2.1: NUL in a name", ("x\0", "x")),
        malformed("8.2.1: DEL in a name", ("x\x7f", "x")),
        malformed("8.2.1: no name", ("", "x")),
        malformed("8.2.1: NUL", ("x", "a\0b")),
        malformed("8.2.1: CR", ("x", "a\rb")),
        malformed("8.2.1: LF", ("x", "a\nb")),
        malformed("8.2.1: a field in a field", ("x", "a\r\nhost: b")),
        malformed("8.2.1: white space first", ("x", " a")),
        malformed("8.2.1: white space last", ("x", "a\t")),
        malformed("9110, 5.5: a control character", ("x", "a\x01b")),
        malformed("8.2.2: Connection", ("connection", "close")),
        malformed("8.2.2: Keep-Alive", ("keep-alive", "timeout=5")),
        malformed("8.2.2: Proxy-Connection", ("proxy-connection", "keep-alive")),
        malformed("8.2.2: Transfer-Encoding", ("transfer-encoding", "chunked")),
        malformed("8.2.2: Upgrade", ("upgrade", "websocket")),
        malformed("8.2.2: TE", ("te", "gzip")),
        malformed("8.2.2: TE of trailers and more", ("te", "trailers, deflate;q=0.5")),
        (
            "8.2.2: TE of trailers",
            head(&[METHOD, SCHEME, (":path", "/o/"), AUTHORITY, ("te", "trailers")]),
            &[Answer(1, 200)],
        ),
        ("8.1.1: a length that is no number", with(("content-length", "x")), MALFORMED),
        ("8.1.1: a negative length", with(("content-length", "-1")), MALFORMED),
        ("8.1.1: a length with its sign", with(("content-length", "+0")), MALFORMED),
        ("8.1.1: a length beyond all", with(("content-length", "18446744073709551616")), MALFORMED),
        ("8.1.1: a length of no body", with(("content-length", "5")), MALFORMED),
    ]);
}

#[test]
fn a_body_has_the_length_that_its_head_says() {
    let post = |lengths: &[&str]| {
        let mut list = vec![(":method", "POST"), SCHEME, PATH, AUTHORITY];
        list.extend(lengths.iter().map(|length| ("content-length", *length)));
        frame(HEADERS, END_HEADERS, 1, &fields(&list))
    };
    let data = |flags, body: &[u8]| frame(DATA, flags, 1, body);
    let padded = frame(DATA, END_STREAM | PADDED, 1, b"\x03ab\0\0\0");
    let trailers = frame(HEADERS, WHOLE, 1, &fields(&[("x", "y")]));
    rules(&[
        ("8.1.1: too much", [post(&["3"]), data(END_STREAM, b"abcde")].concat(), MALFORMED),
        ("8.1.1: too much, and more to come", [post(&["3"]), data(0, b"abcde")].concat(), MALFORMED),
        (
            "8.1.1: too much in the second piece",
            [post(&["3"]), data(0, b"abc"), data(END_STREAM, b"d")].concat(),
            MALFORMED,
        ),
        ("8.1.1: too little", [post(&["8"]), data(END_STREAM, b"abcde")].concat(), MALFORMED),
        ("8.1.1: nothing", [post(&["8"]), data(END_STREAM, b"")].concat(), MALFORMED),
        (
            "8.1.1: too little before trailers",
            [post(&["8"]), data(0, b"abcde"), trailers].concat(),
            MALFORMED,
        ),
        ("8.1.1: padding is no body", [post(&["5"]), padded].concat(), MALFORMED),
        ("8.1.1: two lengths", [post(&["3", "3"]), data(END_STREAM, b"abc")].concat(), MALFORMED),
        ("8.1.1: two lengths that differ", [post(&["3", "4"]), data(END_STREAM, b"abc")].concat(), MALFORMED),
    ]);
    let (instance, worker) = start();
    let mut client = Client::open(&worker);
    let list = [(":method", "POST"), SCHEME, (":path", "/o/"), AUTHORITY, ("content-length", "5")];
    client.send(frame(HEADERS, END_HEADERS, 1, &fields(&list)));
    client.send([data(0, b"ab"), data(0, b""), data(0, b"cde"), data(END_STREAM, b"")].concat());
    assert_eq!(client.answer(1).status, Some(200));
    let seen = &instance.seen()[0];
    assert_eq!((seen.header("content-length"), seen.text().as_str()), (Some("5"), "abcde"));
}

#[test]
fn trailers_are_fields_too() {
    let trailed = |list: &[(&str, &str)]| {
        [posts(1, "/o/refused"), frame(DATA, 0, 1, b"body"), frame(HEADERS, WHOLE, 1, &fields(list))].concat()
    };
    let malformed = |name, list: &[_]| (name, trailed(list), MALFORMED);
    rules(&[
        malformed("8.2: upper case", &[("X-Sum", "7")]),
        malformed("8.2.1: LF", &[("x-sum", "7\nhost: a")]),
        malformed("8.2.2: Connection", &[("connection", "close")]),
        malformed("8.2.2: Transfer-Encoding", &[("transfer-encoding", "chunked")]),
    ]);
}

#[test]
fn an_instance_of_http1_gets_one_cookie_field() {
    let (instance, worker) = start();
    let mut client = Client::open(&worker);
    let list =
        [METHOD, SCHEME, (":path", "/o/"), AUTHORITY, ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")];
    client.send(frame(HEADERS, WHOLE, 1, &fields(&list)));
    assert_eq!(client.answer(1).status, Some(200));
    // Section 8.2.3.
    assert_eq!(instance.seen()[0].header("cookie"), Some("a=1; b=2"));
}

/// Cuts a block into the frames of a head.
fn cut(stream: u32, block: &[u8]) -> Vec<u8> {
    let last = block.len().div_ceil(16_384) - 1;
    let one = |(at, piece): (usize, &[u8])| {
        let (kind, flags) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        frame(kind, if at == last { flags | END_HEADERS } else { flags }, stream, piece)
    };
    block.chunks(16_384).enumerate().flat_map(one).collect()
}

#[test]
fn a_head_that_is_too_large_is_answered_and_read_to_its_end() {
    let over = |value: &str, count: usize| {
        let mut block = get_block("/o/refused");
        for n in 0..count {
            block.extend(literal(0, format!("x-{n}"), value));
        }
        // What the next head refers to.
        block.extend(literal(0x40, "x-kept", "yes"));
        block
    };
    let (instance, worker) = start();
    for (name, block) in [("one field", over(&"y".repeat(70_000), 1)), ("many fields", over("y", 101))] {
        let mut client = Client::open(&worker);
        client.send(cut(1, &block));
        assert_eq!(client.answer(1).status, Some(431), "{name}");
        client.send(frame(HEADERS, WHOLE, 3, &[get_block("/o/after"), vec![0x80 | 62]].concat()));
        assert_eq!(client.answer(3).status, Some(200), "{name}");
        assert_eq!(instance.seen().last().unwrap().header("x-kept"), Some("yes"), "{name}");
    }
    // Ten times what is allowed need not be read.
    let much: &[May] = &[Answer(1, 431), Reset(1, PROTOCOL_ERROR), Goaway(ENHANCE_YOUR_CALM)];
    // Four thousand octets, a thousand times.
    let mut bomb = [get_block("/o/refused"), literal(0x40, "x", "y".repeat(4000))].concat();
    bomb.extend([0x80 | 62].repeat(1000));
    let large = cut(1, &over(&"y".repeat(10_000), 64));
    hold(&worker, &[("10.5.1: a large head", large, much), ("7541, 7.3: a bomb", cut(1, &bomb), much)]);
    none_came_through(&instance);
}

#[test]
fn blocks_are_decoded_whatever_form_their_fields_have() {
    let (instance, worker) = start();
    let mut client = Client::open(&worker);
    let mut stream = 1;
    let mut ask = |rest: &[&[u8]], sizes: &[usize]| {
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| integer(0x20, 5, *size)).collect();
        client.send(frame(HEADERS, WHOLE, stream, &[sizes, get_block("/o/after"), rest.concat()].concat()));
        assert_eq!(client.answer(stream).status, Some(200));
        stream += 2;
        let seen = instance.seen().pop().unwrap();
        ["x-a", "x-b"].map(|name| seen.header(name).map(|value| value.chars().take(3).collect::<String>()))
    };
    let values = |a: Option<&str>, b: Option<&str>| [a, b].map(|value| value.map(str::to_owned));
    let keep = |name: &str, value: &str| literal(0x40, name, value);
    let index = |index: usize| integer(0x80, 7, index);
    assert_eq!(ask(&[&keep("x-a", "one"), &keep("x-b", "two")], &[]), values(Some("one"), Some("two")));
    assert_eq!(ask(&[&index(63), &index(62)], &[]), values(Some("one"), Some("two")), "from the table");
    assert_eq!(ask(&[&[0x0f, 62 - 15, 1, b'x']], &[]), values(None, Some("x")), "a name from the table");
    assert_eq!(ask(&[&[0x1f, 63 - 15, 1, b'x']], &[]), values(Some("x"), None), "never indexed");
    // Huffman: "/o/" and "302" (RFC 7541, C.6.1).
    let coded = [&[0x40, 3][..], b"x-a", &[0x82, 0x64, 0x02]].concat();
    assert_eq!(ask(&[&coded], &[]), values(Some("302"), None));
    assert_eq!(ask(&[&index(62), &index(63)], &[]), values(Some("302"), Some("two")));
    // A name that is itself evicted by what it names (4.4).
    let long = "z".repeat(4000);
    let named = [integer(0x40, 6, 63), integer(0, 7, long.len()), long.clone().into_bytes()].concat();
    assert_eq!(ask(&[&named], &[]), values(None, Some("zzz")));
    assert_eq!(ask(&[&index(62)], &[]), values(None, Some("zzz")));
    // Sizes: at the beginning, the smallest and then the last (4.2).
    assert_eq!(ask(&[&keep("x-a", "one"), &index(62)], &[0, 4096]), values(Some("one"), None));
    assert_eq!(ask(&[&keep("x-b", "two"), &index(62)], &[40]), values(None, Some("two")));
    assert_eq!(ask(&[&index(62)], &[]), values(None, Some("two")));
    // An empty table is a table.
    assert_eq!(ask(&[&keep("x-a", &long.repeat(2))], &[]), values(Some("zzz"), None));
    assert_eq!(ask(&[&keep("x-a", "one"), &keep("x-b", "two")], &[]), values(Some("one"), Some("two")));
}

#[test]
fn a_head_that_is_refused_leaves_its_entries_in_the_table() {
    let (instance, worker) = start();
    let kept = literal(0x40, "x-kept", "yes");
    let bad = fields(&[METHOD, SCHEME, PATH, AUTHORITY, ("te", "x")]);
    let refused = frame(HEADERS, WHOLE, 1, &[&bad[..], &kept].concat());
    // Trailers, on a stream that is over.
    let late = [posts(1, "/o/never"), reset(1), frame(HEADERS, WHOLE, 1, &kept)].concat();
    for (name, sent) in [("malformed", refused), ("late", late)] {
        let mut client = Client::open(&worker);
        client.send(
            [sent, frame(HEADERS, WHOLE, 5, &[get_block("/o/after"), vec![0x80 | 62]].concat())].concat(),
        );
        while client.goaway.is_none() && client.streams.get(&5).is_none_or(|s| !s.ended) {
            assert!(client.step(), "{name}");
        }
        // What is late may end the connection.
        if name == "malformed" || client.goaway.is_none() {
            assert_eq!(client.answer(5).status, Some(200), "{name}");
            assert_eq!(instance.seen().last().unwrap().header("x-kept"), Some("yes"), "{name}");
        }
    }
}

#[test]
fn a_client_without_a_table_gets_heads_that_need_none() {
    let (_instance, worker) = start();
    let mut client = Client::with(&worker, &[(HEADER_TABLE_SIZE, 0)]);
    for stream in [1, 3, 5] {
        client.send(asks(stream, if stream == 3 { "/nowhere" } else { "/o/" }));
        client.answer(stream);
    }
    let statuses: Vec<_> = client.streams.values().map(|stream| stream.status.unwrap()).collect();
    assert_eq!(statuses, [200, 404, 200]);
    // A table of the client's that is large does not make ours larger.
    let mut client = Client::with(&worker, &[(HEADER_TABLE_SIZE, 1 << 20)]);
    client.settle();
    assert!(client.server.get(&HEADER_TABLE_SIZE).is_none_or(|size| *size <= 4096));
    client.goes_on(1);
}
