//! What systemd asks of a service, without systemd: a socket that is open already, and being told.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;

use crate::support::gateway::{PATIENCE, Scratch, binary, wait_for};
use crate::support::http;
use crate::support::instance::Instance;
use crate::support::process::Process;
use crate::support::script;
use crate::support::zk::free_port;

/// What the gateway tells, one message after the other.
struct Manager(UnixDatagram);

impl Manager {
    fn new(folder: &Scratch) -> Self {
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned).collect()
    }
}

fn config(folder: &Scratch, port: u16) -> std::path::PathBuf {
    let text = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n[gateway]\nworkers = 2\nhandover = \"door\"\n\
         [registries.local]\nkind = \"directory\"\npath = \"services\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:{port}\"\n\
         [services.orders]\npath = \"/orders\"\n[[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    );
    folder.write("zoogate.toml", &text)
}

#[test]
fn an_activated_gateway_serves_the_socket_that_it_is_given_and_tells_what_it_does() {
    let folder = Scratch::new("manager");
    let instance = Instance::start("a");
    folder.write("services/orders/a", &instance.address.to_string());
    let manager = Manager::new(&folder);
    let port = free_port();
    let config = config(&folder, port);
    let mut command = script::command("activated.py");
    command.env("TEST_PORT", port.to_string()).env("NOTIFY_SOCKET", folder.path().join("notify"));
    command.arg(binary().get_program()).args(["run", "--config"]).arg(&config);
    let mut gateway = Process::start(&mut command);
    let own = format!("MAINPID={}", gateway.id());
    let ready = manager.next();
    assert!(ready.contains(&"READY=1".into()) && ready.contains(&own), "{ready:?}");
    // Nobody else could have bound it: whoever answers was given the socket.
    let public = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(http::get(public, "/").body, "a");

    gateway.signal("HUP");
    let reloading = manager.next();
    let stamped =
        |line: &String| line.strip_prefix("MONOTONIC_USEC=").is_some_and(|at| at.parse::<u64>().is_ok());
    assert!(reloading.contains(&"RELOADING=1".into()) && reloading.iter().any(stamped), "{reloading:?}");
    assert_eq!(manager.next(), ["READY=1"]);

    // A successor says who the main process is now.
    let mut command = binary();
    command.args(["run", "--config"]).arg(&config).env("NOTIFY_SOCKET", folder.path().join("notify"));
    let mut successor = Process::start(&mut command);
    let told = [manager.next(), manager.next()];
    let ready = told.iter().find(|told| told.contains(&"READY=1".into())).expect("the successor's word");
    assert!(ready.contains(&format!("MAINPID={}", successor.id())), "{told:?}");
    assert!(told.iter().any(|told| *told == ["STOPPING=1"]), "{told:?}");
    assert_eq!(gateway.wait().code(), Some(0));
    assert_eq!(http::get(public, "/").body, "a");

    successor.signal("TERM");
    assert_eq!(manager.next(), ["STOPPING=1"]);
    assert_eq!(successor.wait().code(), Some(0));
    wait_for("the port to be free", || std::net::TcpListener::bind(public).ok());
}
