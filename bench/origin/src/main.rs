//! The instances behind every measured proxy: as cheap as an origin can be, so that the machine's time goes to
//! the proxies.
//!
//! `bench-origin PORT...` answers HTTP/1.1 on one thread. `GET /s`: 128 bytes, `GET /big`: 64 KiB, a POST: 128
//! bytes once its body is in. `bench-origin --h2 PORT...` answers HTTP/2 with the head, one message and the
//! trailers of a successful gRPC call.

mod h1;
mod h2;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    let http2 = args.next_if(|arg| arg == "--h2").is_some();
    let ports: Vec<u16> = args.map(|arg| arg.parse().expect("a port")).collect();
    if http2 { h2::serve(&ports) } else { h1::serve(&ports) }
}
