//! Every input in `fuzz/corpus` passes the checks that the fuzzers make.

use std::path::Path;

#[path = "../../fuzz/checks/codec.rs"]
mod codec;
#[path = "../../fuzz/checks/config.rs"]
mod config;
#[path = "../../fuzz/checks/http2.rs"]
mod http2;
#[path = "../../fuzz/checks/payload.rs"]
mod payload;
#[path = "../../fuzz/checks/request.rs"]
mod request;
#[path = "../../fuzz/checks/route.rs"]
mod route;

fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{target}: only {} inputs", files.len());
    for file in files {
        let data = std::fs::read(&file).unwrap();
        assert!(data.len() <= 16 * 1024, "{}: small inputs only", file.display());
        eprintln!("{}", file.display());
        check(&data);
    }
}

#[test]
fn the_codecs_corpus_passes() {
    replay("codec", codec::check);
}

#[test]
fn the_requests_corpus_passes() {
    replay("request", request::check);
}

#[test]
fn the_http2_corpus_passes() {
    replay("http2", http2::check);
}

#[test]
fn the_payloads_corpus_passes() {
    replay("payload", payload::check);
}

#[test]
fn the_configurations_corpus_passes() {
    replay("config", config::check);
}

#[test]
fn the_routes_corpus_passes() {
    replay("route", route::check);
}
