//! Throw-away ZooKeeper servers on 127.0.0.1: standalone or an ensemble, on free ports, in a scratch directory.
//!
//! Each server runs below a small shell that waits for its standard input to end. Whatever ends the test
//! process, its end of that pipe closes, and the shell kills the server: none is ever left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use zookeeper_client::{Acls, Client, CreateMode, CreateOptions};

/// Everyone may do everything.
pub const OPEN: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
/// The same, gone with the session.
pub const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

const CLASS_PATH: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
const WRAPPER: &str = r##"trap '' INT TERM
java -Xms64m -Xmx${ZK_HEAP:-256m} -XX:+UseSerialGC -Xshare:auto -Dzookeeper.forceSync=no \
  -Dzookeeper.extendedTypesEnabled=${ZK_EXTENDED:-true} -Dznode.container.checkIntervalMs=500 \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
  -cp "$1" org.apache.zookeeper.server.quorum.QuorumPeerMain "$2" >>"$3" 2>&1 </dev/null &
pid=$!
echo $pid
cat >/dev/null
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
[ -z "$4" ] || rm -rf "$4""##;

/// One server. Killed when dropped.
pub struct Server {
    dir: PathBuf,
    port: u16,
    /// Nobody drops it, so its directory goes with it.
    removes_itself: bool,
    /// Whether it knows TTL nodes.
    extended: bool,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    pid: u32,
}

/// Three servers with a quorum of two.
pub struct Ensemble {
    pub servers: Vec<Server>,
    _dir: Scratch,
}

/// A server on its own.
pub struct Standalone {
    pub server: Server,
    _dir: Option<Scratch>,
}

/// A directory that goes when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(what: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("zoogate-{what}-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a scratch directory can be made");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The server that tests share; each works below a chroot of its own (see [`chroot`]).
pub fn shared() -> &'static Standalone {
    static SHARED: OnceLock<Standalone> = OnceLock::new();
    SHARED.get_or_init(|| Standalone::start_below(&std::env::temp_dir(), true, true))
}

/// Connect string of the shared server below a new directory of this name.
pub async fn chroot(name: &str) -> String {
    let connect = shared().server.address();
    let client = client(&connect).await;
    client.create(&format!("/{name}"), b"", &OPEN).await.expect("test names are unique");
    format!("{connect}/{name}")
}

/// A client of the tests' own.
pub async fn client(connect: &str) -> Client {
    session_of(connect, Duration::from_secs(10), Duration::from_secs(3)).await
}

/// One that outlives moments in which the machine does something else for long: whose registrations are to stay for as long as the
/// test lasts.
pub async fn lasting_client(connect: &str) -> Client {
    session_of(connect, Duration::from_secs(60), Duration::from_secs(30)).await
}

async fn session_of(connect: &str, session: Duration, silence: Duration) -> Client {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let connector = Client::connector().with_session_timeout(session).with_connection_timeout(silence);
        match connector.connect(connect).await {
            Ok(client) => return client,
            Err(error) if Instant::now() > deadline => panic!("no connection to {connect}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A port that was free a moment ago, and that no outgoing connection takes while its server is down:
/// those use the range from 32768 on.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(12_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Standalone {
    pub fn start() -> Self {
        let dir = Scratch::new("zk");
        let started = Self::start_below(&dir.0, false, true);
        Self { _dir: Some(dir), ..started }
    }

    /// One that knows no TTL nodes.
    pub fn start_without_ttl() -> Self {
        let dir = Scratch::new("zk");
        let started = Self::start_below(&dir.0, false, false);
        Self { _dir: Some(dir), ..started }
    }

    fn start_below(dir: &Path, removes_itself: bool, extended: bool) -> Self {
        for attempt in 1.. {
            let name = format!("zoogate-server-{}-{attempt}", std::process::id());
            let mut server = Server::new(&dir.join(name), free_port(), 1, "");
            server.removes_itself = removes_itself;
            server.extended = extended;
            server.start();
            match server.wait_until_up(Duration::from_secs(30)) {
                Ok(()) => return Self { server, _dir: None },
                Err(log) if attempt == 3 => panic!("ZooKeeper does not start: {log}"),
                Err(_) => {}
            }
        }
        unreachable!("the loop returns or panics")
    }
}

impl Ensemble {
    pub fn start() -> Self {
        let dir = Scratch::new("ensemble");
        for attempt in 1.. {
            let ports: Vec<u16> = (0..9).map(|_| free_port()).collect();
            let members: String = (0..3)
                .map(|i| format!("server.{}=127.0.0.1:{}:{}\n", i + 1, ports[3 + i], ports[6 + i]))
                .collect();
            let mut servers: Vec<Server> = (0..3)
                .map(|i| Server::new(&dir.0.join(format!("try{attempt}-{i}")), ports[i], i + 1, &members))
                .collect();
            servers.iter_mut().for_each(Server::start);
            let up: Result<Vec<()>, String> =
                servers.iter_mut().map(|server| server.wait_until_up(Duration::from_secs(40))).collect();
            match up {
                Ok(_) => return Self { servers, _dir: dir },
                Err(log) if attempt == 3 => panic!("the ensemble does not start: {log}"),
                Err(_) => {}
            }
        }
        unreachable!("the loop returns or panics")
    }

    /// Connect string of all three.
    pub fn connect(&self) -> String {
        self.servers.iter().map(Server::address).collect::<Vec<_>>().join(",")
    }

    /// Index of the leader.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(i) = self.servers.iter().position(|s| s.mode().as_deref() == Some("leader")) {
                return i;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no server says that it leads");
    }
}

impl Server {
    fn new(dir: &Path, port: u16, id: usize, members: &str) -> Self {
        fs::create_dir_all(dir.join("data")).expect("a scratch directory can be made");
        fs::write(dir.join("data/myid"), id.to_string()).expect("it can be written to");
        let config = format!(
            "dataDir={}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=500\n\
             minSessionTimeout=1000\nmaxSessionTimeout=60000\ninitLimit=20\nsyncLimit=10\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\n{members}",
            dir.display()
        );
        fs::write(dir.join("zoo.cfg"), config).expect("it can be written to");
        Self { dir: dir.to_owned(), port, removes_itself: false, extended: true, running: None }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it on its data, old or none. Returns before it answers.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        assert!(
            CLASS_PATH.split(':').all(|jar| Path::new(jar).exists()),
            "no ZooKeeper here: apt-get install -y --no-install-recommends zookeeper"
        );
        let mut shell = Command::new("sh")
            .args(["-c", WRAPPER, "sh", CLASS_PATH])
            .arg(self.dir.join("zoo.cfg"))
            .arg(self.dir.join("log"))
            .env("ZK_EXTENDED", self.extended.to_string())
            .arg(if self.removes_itself { self.dir.as_os_str() } else { "".as_ref() })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        let mut line = String::new();
        let output = shell.stdout.take().expect("stdout is piped");
        BufReader::new(output).read_line(&mut line).expect("the shell tells the server's pid");
        let pid = line.trim().parse().expect("a pid is a number");
        self.running = Some(Running { shell, pid });
    }

    /// Starts it and waits until it serves clients.
    pub fn restart(&mut self) {
        self.start();
        if let Err(log) = self.wait_until_up(Duration::from_secs(30)) {
            panic!("the server does not come back: {log}");
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            signal(running.pid, "KILL");
            drop(running.shell.stdin.take());
            running.shell.wait().expect("the shell is our child");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        if let Some(running) = &self.running {
            signal(running.pid, "TERM");
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && is_alive(running.pid) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.kill();
    }

    /// SIGSTOP: it goes silent with its connections open.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        signal(self.running.as_ref().expect("it runs").pid, name);
    }

    /// The answer to a four-letter word; `None` while it boots or is gone.
    pub fn ask(&self, word: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        stream.write_all(word.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// `standalone`, `leader` or `follower`.
    pub fn mode(&self) -> Option<String> {
        self.ask("srvr")?.lines().find_map(|line| Some(line.strip_prefix("Mode: ")?.trim().to_owned()))
    }

    fn wait_until_up(&mut self, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.mode().is_some() {
                return Ok(());
            }
            let pid = self.running.as_ref().map_or(0, |running| running.pid);
            if !is_alive(pid) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        Err(fs::read_to_string(self.dir.join("log")).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(done.is_ok(), "kill can be run");
}

/// Whether the process is there and no zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
