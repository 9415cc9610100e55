//! Descriptors that really run out: not the cap that keeps below, but `accept` itself failing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::gateway::{Gateway, ORDERS, PATIENCE, wait_for};
use crate::support::http;
use crate::support::instance::Instance;

#[test]
fn an_accept_that_fails_for_want_of_descriptors_goes_on_when_there_are_some() {
    const CLIENTS: usize = 1000;
    let instance = Instance::start("a");
    let gateway = Gateway::start_limited("descriptors-out", ORDERS, 256);
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    let public = gateway.listener("public");
    assert_eq!(http::get(public, "/x").status, 200);
    // Connections of the admin are not counted against those of clients, so that they take all there are.
    let open = || std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    let mut hoard = Vec::new();
    wait_for("descriptors to run out", || {
        hoard.extend((0..16).map(|_| TcpStream::connect(gateway.admin).unwrap()));
        std::thread::sleep(Duration::from_millis(10));
        (open() >= 255).then_some(())
    });
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = TcpStream::connect(public).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
            stream
        })
        .collect();
    gateway.log.find("a warning", |line| {
        (line.contains("WARN") && line.contains("accept fails") && line.contains("public")).then_some(())
    });
    drop(hoard);
    let (mut served, mut told, mut reset) = (0, 0, 0);
    for client in &mut clients {
        let mut answer = String::new();
        let read = client.read_to_string(&mut answer);
        match answer.split(' ').nth(1) {
            Some("200") => served += 1,
            Some("503") => told += 1,
            Some(other) => panic!("{other}"),
            None => {
                assert!(read.is_err(), "closed without a word");
                reset += 1;
            }
        }
    }
    eprintln!("{served} served, {told} told off, {reset} reset");
    assert!(served >= 100, "{served} served, {told} told off, {reset} reset");
    let refused = r#"zoogate_connections_refused_total{listener="public",reason="descriptors"}"#;
    assert!(gateway.metric(refused) > Some(0.0));
    // Whoever could not be connected to for want of a descriptor is not to blame.
    let ejected = r#"zoogate_ejections_total{reason="connect",service="orders"}"#;
    assert_eq!(gateway.metric(ejected), None);
    assert_eq!(http::get(public, "/y").status, 200);
    assert_eq!(gateway.admin("/livez").status, 200);
    assert_eq!(gateway.metric("zoogate_panics_total"), Some(0.0));
}
