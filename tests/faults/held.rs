//! Streams that are held open through a fault: endless answers over HTTP/1.1, WebSockets, and streams of HTTP/2, whose
//! connections also carry ordinary requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::Request;

use crate::departures::Endless;
use crate::support::background::Background;
use crate::support::load::Sent;
use crate::support::wait::PATIENCE;

/// Open streams of one [`crate::departures::Streaming`], as many of each kind.
pub struct Held {
    background: Arc<Background>,
    answers: Vec<Endless>,
    sockets: Vec<TcpStream>,
    streams: Vec<Stream>,
    client: SendRequest<Bytes>,
}

/// A stream of HTTP/2, and what it has said so far.
struct Stream {
    body: RecvStream,
    said: String,
}

impl Held {
    /// Opens so many of each kind. Returns when each has its first piece.
    pub fn open(gateway: SocketAddr, path: &str, each: usize) -> Self {
        let background = Arc::new(Background::start());
        let answers = (0..each).map(|_| Endless::open_at(gateway, path, "").0).collect();
        let sockets = (0..each).map(|_| websocket(gateway, path)).collect();
        let (streams, client) = background.block_on(async {
            let mut client = connect(gateway).await;
            let mut streams = Vec::new();
            for stream in 1..=each {
                if stream % 50 == 0 {
                    // The client that is used here counts small frames that nobody has read yet.
                    client = connect(gateway).await;
                }
                let get = Request::get(format!("http://shop.example{path}")).body(()).unwrap();
                client = client.ready().await.unwrap();
                let body = client.send_request(get, true).unwrap().0.await.unwrap().into_body();
                let mut stream = Stream { body, said: String::new() };
                stream.hear().await;
                streams.push(stream);
            }
            (streams, client)
        });
        Self { background, answers, sockets, streams, client }
    }

    /// Of all kinds.
    pub fn count(&self) -> usize {
        self.answers.len() + self.sockets.len() + self.streams.len()
    }

    /// A client of one of the connections that hold streams of HTTP/2.
    pub fn beside(&self) -> Beside {
        Beside { background: Arc::clone(&self.background), client: self.client.clone() }
    }

    /// Each hears `more`, which its instance has said.
    pub fn hear(&mut self) {
        for answer in &mut self.answers {
            assert_eq!(answer.next().as_deref(), Some("more"), "an endless answer broke off");
        }
        for socket in &mut self.sockets {
            let mut frame = [0; 6];
            socket.read_exact(&mut frame).expect("a WebSocket that is open");
            assert_eq!(&frame, b"\x81\x04more");
        }
        self.background.block_on(async {
            for stream in &mut self.streams {
                let all = stream.said.len() + "more".len();
                while stream.said.len() < all {
                    stream.hear().await;
                }
                assert!(stream.said.ends_with("more"), "{}", stream.said);
            }
        });
    }

    /// Each is at its end, which its instance has made, and nothing else has come.
    pub fn end(self) {
        for mut socket in self.sockets {
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"\x88\x02\x03\xe8", "the instance's own close, and a FIN");
        }
        for answer in self.answers {
            assert!(answer.ends(), "an endless answer has no last chunk");
        }
        self.background.block_on(async {
            for mut stream in self.streams {
                let ending = async {
                    while let Some(data) = stream.body.data().await {
                        assert!(data.expect("a stream that was not reset").is_empty());
                    }
                };
                tokio::time::timeout(PATIENCE, ending).await.expect("an end");
            }
        });
    }
}

impl Stream {
    /// Waits for one more piece.
    async fn hear(&mut self) {
        let heard = tokio::time::timeout(PATIENCE, self.body.data()).await.expect("a piece in time");
        let piece = heard.expect("a stream that is open").expect("a stream that was not reset");
        let _ = self.body.flow_control().release_capacity(piece.len());
        self.said += &String::from_utf8_lossy(&piece);
    }
}

/// Asks over a connection of HTTP/2 that others are using.
pub struct Beside {
    background: Arc<Background>,
    client: SendRequest<Bytes>,
}

impl Beside {
    /// A GET, as a load sends it.
    pub fn get(&mut self, id: &str) -> Sent {
        let at = Instant::now();
        let get = Request::get(format!("http://shop.example/load?id={id}")).header("x-id", id);
        let asked = async {
            let mut client = self.client.clone().ready().await?;
            let answer = client.send_request(get.body(()).unwrap(), true)?.0.await?;
            let (head, mut body) = answer.into_parts();
            let mut text = String::new();
            while let Some(data) = body.data().await {
                text += &String::from_utf8_lossy(&data?);
            }
            Ok::<_, h2::Error>((head, text))
        };
        let answer = self.background.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
        let (status, answer, echo) = match answer.expect("an answer in time") {
            Ok((head, text)) => {
                let echo = head.headers.get("x-id").map(|id| id.to_str().unwrap().to_owned());
                (head.status.as_u16(), text, echo)
            }
            Err(error) => (0, error.to_string(), None),
        };
        Sent { id: id.to_owned(), method: "GET", at, took: at.elapsed(), status, answer, echo }
    }
}

async fn connect(gateway: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(gateway).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

/// A WebSocket that is open, as bytes.
fn websocket(gateway: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}
