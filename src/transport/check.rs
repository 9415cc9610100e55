//! Whether somebody is well: the questions of a health check, each over a connection of its own.
//!
//! A question has no deadline of its own: drop the future. What is read of an answer is bounded.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most that is read of a head, and of a gRPC message.
const MAX_ANSWER: usize = 64 << 10;

/// What any server of HTTP/1.1 answers with a status of some kind, without troubling an application.
pub const ANYTHING: &str = "OPTIONS *";
/// For the rare one that does not.
pub const ITS_ROOT: &str = "HEAD /";

/// Whether there is any answer of HTTP/1.1, whatever it says: all of a head, since one that breaks off in it would
/// break off a client's.
pub async fn answers_http1(mut stream: TcpStream, authority: &str, asked: &str) -> bool {
    let question = format!("{asked} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    if stream.write_all(question.as_bytes()).await.is_err() {
        return false;
    }
    let mut head = BytesMut::with_capacity(1024);
    while !head.windows(2).any(|two| two == b"\n\n") && !head.windows(3).any(|three| three == b"\n\r\n") {
        if head.len() >= MAX_ANSWER || !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return false;
        }
    }
    head.starts_with(b"HTTP/1.")
}

/// Whether there is an HTTP/2 server with prior knowledge that answers a PING.
pub async fn answers_http2(stream: TcpStream) -> bool {
    let made = h2::client::Builder::new().enable_push(false).handshake::<_, Bytes>(stream).await;
    let Ok((_sender, mut connection)) = made else { return false };
    let Some(mut pings) = connection.ping_pong() else { return false };
    tokio::select! {
        biased;
        pong = pings.ping(h2::Ping::opaque()) => pong.is_ok(),
        _ = connection => false,
    }
}

/// Why somebody is not well.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It answers with a status that is not well.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// It answers by gRPC, but not that it serves.
    #[error("{0}")]
    Grpc(String),
    /// What it says is no answer.
    #[error("no valid answer: {0}")]
    Protocol(String),
}

/// Asks with a GET; well is a status of 2xx. `target` is path and query.
pub async fn http(stream: TcpStream, authority: &str, target: &str) -> Result<(), CheckError> {
    let status = http_status(stream, authority, target).await?;
    if status.is_success() { Ok(()) } else { Err(CheckError::Status(status)) }
}

/// Asks with a GET: the status, whatever it is.
pub async fn http_status(stream: TcpStream, authority: &str, target: &str) -> Result<StatusCode, CheckError> {
    let protocol = |error: hyper::Error| CheckError::Protocol(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_ANSWER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(protocol)?;
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("zoogate/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| CheckError::Protocol(error.to_string()))?;
    let answer = sender.send_request(request);
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        // The answer first: a connection that ends with it has done its work.
        biased;
        answer = &mut answer => Ok(answer.map_err(protocol)?.status()),
        ended = &mut connection => match (ended, answer.await) {
            (_, Ok(answer)) => Ok(answer.status()),
            (Err(error), _) | (Ok(()), Err(error)) => Err(protocol(error)),
        },
    }
}

/// Asks with `grpc.health.v1.Health/Check` over HTTP/2 with prior knowledge; well is `SERVING`. An empty
/// service asks for the server as a whole.
pub async fn grpc(stream: TcpStream, authority: &str, service: &str) -> Result<(), CheckError> {
    let (sender, connection) = h2::client::Builder::new()
        .max_header_list_size(MAX_ANSWER as u32)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| broken(&error))?;
    tokio::select! {
        biased;
        done = ask(sender, authority, service) => done,
        ended = connection => Err(match ended {
            Err(error) => broken(&error),
            Ok(()) => CheckError::Protocol("the connection was closed".to_owned()),
        }),
    }
}

async fn ask(
    sender: h2::client::SendRequest<Bytes>,
    authority: &str,
    service: &str,
) -> Result<(), CheckError> {
    let mut sender = sender.ready().await.map_err(|error| broken(&error))?;
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("zoogate/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|error| CheckError::Protocol(error.to_string()))?;
    let (answer, mut body) = sender.send_request(request, false).map_err(|error| broken(&error))?;
    body.send_data(question(service), true).map_err(|error| broken(&error))?;
    let answer = answer.await.map_err(|error| broken(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(CheckError::Status(answer.status()));
    }
    let (head, mut body) = answer.into_parts();
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| broken(&error))?;
        // It stays below the windows that HTTP/2 begins with, so nothing needs to be granted anew.
        message.extend_from_slice(&data);
        if message.len() > MAX_ANSWER / 2 {
            return Err(CheckError::Protocol("the message is too long".to_owned()));
        }
    }
    let trailers = body.trailers().await.map_err(|error| broken(&error))?.unwrap_or_default();
    grpc_status(&trailers)
        .or_else(|| grpc_status(&head.headers))
        .unwrap_or_else(|| Err(CheckError::Protocol("the answer has no grpc-status".to_owned())))?;
    match serving(&message) {
        Some(1) => Ok(()),
        Some(status) => Err(CheckError::Grpc(format!("it says {}", status_name(status)))),
        None => Err(CheckError::Protocol("the message is no HealthCheckResponse".to_owned())),
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<Result<(), CheckError>> {
    let status = headers.get("grpc-status")?.to_str().unwrap_or("none");
    if status == "0" {
        return Some(Ok(()));
    }
    let said = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    let said: String = said.chars().take(200).collect();
    let meaning = match status {
        "5" => " (this service is unknown there)",
        "12" => " (it has no health service)",
        _ => "",
    };
    Some(Err(CheckError::Grpc(format!("grpc-status {status}{meaning} {said}").trim_end().to_owned())))
}

/// A framed `HealthCheckRequest { service = 1 }`.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.unsplit(message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// The status of a framed `HealthCheckResponse { status = 1 }`; `None` where it is none.
fn serving(frame: &[u8]) -> Option<u64> {
    let (&[compressed, a, b, c, d], mut message) = frame.split_first_chunk::<5>()?;
    if compressed != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return None;
    }
    // 0 is what a message says that leaves it out.
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let skipped = match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => format!("status {other}"),
    }
}

fn broken(error: &h2::Error) -> CheckError {
    CheckError::Protocol(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), test).await.expect("it ends");
        });
    }

    /// What a check makes of a server that says this, and then closes.
    async fn told(answer: &'static [u8]) -> Result<(), CheckError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let serve = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            let _ = peer.read(&mut [0; 4096]).await;
            let _ = peer.write_all(answer).await;
        };
        tokio::join!(http(stream, "a:1", "/healthz?deep=1"), serve).0
    }

    #[test]
    fn only_2xx_is_well() {
        run(async {
            assert!(told(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_ok());
            assert!(told(b"HTTP/1.1 200 OK\r\n\r\nendless").await.is_ok());
            for ill in ["HTTP/1.1 503 No\r\n\r\n", "HTTP/1.1 302 Found\r\n\r\n", "HELLO\r\n\r\n", ""] {
                assert!(told(ill.as_bytes()).await.is_err(), "{ill:?}");
            }
        });
    }

    #[test]
    fn any_head_is_an_answer_and_a_part_of_one_is_none() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            for (said, answers) in [
                ("HTTP/1.1 501 Not Implemented\r\ncontent-length: 900\r\n\r\n", true),
                ("HTTP/1.0 200 OK\nserver: old\n\n", true),
                ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", false),
                ("HTTP/1.1 200", false),
                ("SSH-2.0-OpenSSH\r\n\r\n", false),
                ("", false),
            ] {
                let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let serve = async {
                    let (mut peer, _) = listener.accept().await.unwrap();
                    let _ = peer.read(&mut [0; 4096]).await;
                    let _ = peer.write_all(said.as_bytes()).await;
                };
                let (told, ()) = tokio::join!(answers_http1(stream, "a:1", ANYTHING), serve);
                assert_eq!(told, answers, "{said:?}");
            }
        });
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let serve = async {
                let (mut peer, _) = listener.accept().await.unwrap();
                let _ = peer.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while peer.write_all(b"x-more: and more of it\r\n").await.is_ok() {}
            };
            tokio::select! {
                checked = http(stream, "a:1", "/") => assert!(checked.is_err()),
                () = serve => panic!("the check went on reading"),
            }
        });
    }

    #[test]
    fn health_messages_are_written_and_read() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(300))[5..8], [0x0a, 0xac, 0x02]);
        let frame = |message: &[u8]| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        assert_eq!(serving(&frame(&[0x08, 1])), Some(1));
        assert_eq!(serving(&frame(&[])), Some(0));
        // Unknown fields of every kind are passed over.
        let more = [0x12, 2, 9, 9, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 2];
        assert_eq!(serving(&frame(&more)), Some(2));
        for bad in [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &frame(&[0x12, 200])[..]] {
            assert_eq!(serving(bad), None, "{bad:?}");
        }
        assert_eq!(serving(&frame(&[0xff; 12])), None);
    }
}
