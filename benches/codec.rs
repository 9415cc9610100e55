//! Micro-benchmarks of the HTTP/1.1 client's codec: heads and bodies in memory.
//!
//! `cargo bench --bench codec`.
#![allow(missing_docs)]

use bytes::BytesMut;
use divan::{Bencher, black_box, counter::BytesCount};
use http::Request;
use zoogate::transport::codec::{read_answer, write_request};

fn main() {
    divan::main();
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nserver: origin\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
    content-type: application/json\r\ncache-control: no-store\r\n";

fn sized(len: usize) -> Vec<u8> {
    let mut answer = format!("{HEAD}content-length: {len}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + len, b'x');
    answer
}

fn chunked(chunks: usize) -> Vec<u8> {
    let mut answer = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
    for _ in 0..chunks {
        answer.push_str("400\r\n");
        answer.extend(std::iter::repeat_n('x', 1024));
        answer.push_str("\r\n");
    }
    answer.push_str("0\r\n\r\n");
    answer.into_bytes()
}

#[divan::bench(args = [0, 128, 65_536])]
fn answer_of_known_length(bencher: Bencher<'_, '_>, len: usize) {
    let answer = sized(len);
    bencher
        .counter(BytesCount::from(answer.len()))
        .bench(|| read_answer(black_box(&answer), usize::MAX).expect("it is sound").expect("it is whole"));
}

#[divan::bench(args = [1, 64])]
fn answer_in_chunks(bencher: Bencher<'_, '_>, chunks: usize) {
    let answer = chunked(chunks);
    bencher
        .counter(BytesCount::from(answer.len()))
        .bench(|| read_answer(black_box(&answer), usize::MAX).expect("it is sound").expect("it is whole"));
}

#[divan::bench]
fn head_that_comes_in_pieces(bencher: Bencher<'_, '_>) {
    let answer = sized(0);
    bencher.bench(|| read_answer(black_box(&answer), 16).expect("it is sound").expect("it is whole"));
}

#[divan::bench]
fn request_head(bencher: Bencher<'_, '_>) {
    let request = Request::get("/orders/7?full=1")
        .header("host", "shop.example")
        .header("user-agent", "bench")
        .header("accept", "application/json")
        .header("via", "1.1 zoogate-0123456789abcdef")
        .header("x-request-id", "0123456789abcdef0123456789abcdef")
        .header("x-forwarded-for", "192.0.2.7")
        .header("x-forwarded-proto", "http")
        .header("x-forwarded-host", "shop.example")
        .body(())
        .expect("a request");
    let (parts, ()) = request.into_parts();
    let mut out = BytesMut::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        write_request(black_box(&parts), &mut out);
        out.len()
    });
}
