//! The commands as a shell sees them: exit codes, what goes to which stream, what is told.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, LOCAL, ORDERS, Scratch, binary, wait_for};
use crate::support::http;
use crate::support::instance::Instance;
use crate::support::script::finish;
use crate::support::zk::free_port;

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("commands print UTF-8")
}

fn run(arguments: &[&str]) -> Output {
    finish(binary().args(arguments))
}

#[test]
fn check_tells_every_error_with_its_line_column_and_key() {
    let scratch = Scratch::new("check");
    let file = scratch.write(
        "bad.toml",
        "[gateway]\nwrokers = 2\ndrain_timeout = \"soon\"\n\n[registries.local]\nkind = \"directory\"\n\
         path = \"${ZOOGATE_TEST_UNSET}\"\n\n[services.orders]\npath = \"orders\"\n\n[[listeners]]\n\
         listen = \"127.0.0.1:99999\"\n\n[[routes]]\npath = \"/orders/*\"\nservice = \"order\"\n",
    );
    let output = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let errors = text(&output.stderr);
    let wanted = [
        (2, 1, "gateway.wrokers", "workers"),
        (3, 17, "gateway.drain_timeout", "10s"),
        (7, 8, "registries.local.path", "ZOOGATE_TEST_UNSET"),
        (10, 8, "services.orders.path", "/"),
        (13, 10, "listeners[0].listen", "IP:PORT"),
        (17, 11, "routes[0].service", "orders"),
    ];
    assert_eq!(errors.lines().count(), wanted.len(), "{errors}");
    for ((line, column, key, says), error) in wanted.iter().zip(errors.lines()) {
        let place = format!("{}:{line}:{column}: {key}: ", file.display());
        let rest = error.strip_prefix(&place).unwrap_or_else(|| panic!("{place} … but: {error}"));
        assert!(rest.contains(says), "{says:?} in {error}");
    }

    let served = run(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(served.status.code(), Some(1));
    assert_eq!(text(&served.stderr), errors, "run tells what check tells");
}

#[test]
fn check_passes_every_file_under_config_with_a_summary_line() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        let output = finish(binary().args(["check", "--config"]).arg(&file).env_clear());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout).lines().count(), 1);
        assert!(output.stderr.is_empty());
        files += 1;
    }
    assert!(files >= 2);
}

#[test]
fn a_missing_file_and_one_that_is_no_toml_are_one_line_each() {
    let scratch = Scratch::new("toml");
    let broken = scratch.write("broken.toml", "[gateway\nworkers = 1\n");
    for (file, says) in
        [("/nonexistent/zoogate.toml", "/nonexistent/zoogate.toml"), (broken.to_str().unwrap(), ":1:")]
    {
        for command in ["check", "run", "services"] {
            let output = run(&[command, "--config", file]);
            assert_eq!(output.status.code(), Some(1), "{command}");
            let errors = text(&output.stderr);
            assert!(errors.contains(says), "{command}: {errors}");
        }
    }
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    for arguments in [
        &["fly"][..],
        &[],
        &["run"],
        &["check", "--confg", "x"],
        &["demo", "--listen", "nowhere"],
        &["register", "--path", "/a", "--address", "a:1"],
        &["explain", "--config", "x", "GET"],
        &["completions", "tcsh"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    for command in ["run", "check", "demo", "register", "services", "explain", "completions"] {
        let output = run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Examples:"), "{command}");
    }
    let version = run(&["--version"]);
    assert_eq!(text(&version.stdout), format!("zoogate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_scripts_that_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("register"), "{shell}");
    }
    let script = text(&run(&["completions", "bash"]).stdout);
    assert!(finish(Command::new("bash").args(["-n", "-c", &script])).status.success());
}

#[test]
fn a_port_in_use_ends_the_start_with_one_line_that_names_the_address() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let gateway = Gateway::start("port-owner", ORDERS);
    let shared = gateway.listener("public").to_string();
    let scratch = Scratch::new("port");
    for (taken, as_admin) in [(&taken, true), (&taken, false), (&shared, false)] {
        let (admin, listener) =
            if as_admin { (taken.as_str(), "127.0.0.1:0") } else { ("127.0.0.1:0", taken.as_str()) };
        let file = scratch.write(
            "zoogate.toml",
            &format!(
                "[admin]\nlisten = \"{admin}\"\n{}",
                LOCAL
                    .replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{listener}\""))
                    .replace("workers = 1", "workers = 2")
            ),
        );
        let output = run(&["run", "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let log = text(&output.stderr);
        let telling: Vec<_> = log.lines().filter(|line| line.contains(taken)).collect();
        assert_eq!(telling.len(), 1, "{log}");
        assert!(telling[0].contains("another process holds the port"), "{log}");
    }
}

/// Something that accepts where a registry should be, counts, and says nothing sensible.
struct Mute {
    address: String,
    visits: Arc<(AtomicUsize, Mutex<()>, Condvar)>,
}

impl Mute {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let visits = Arc::new((AtomicUsize::new(0), Mutex::new(()), Condvar::new()));
        let count = Arc::clone(&visits);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream);
                count.0.fetch_add(1, Ordering::SeqCst);
                count.2.notify_all();
            }
        });
        Self { address, visits }
    }

    fn visits(&self) -> usize {
        self.visits.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_registry_that_refuses_is_one_warning_with_its_address_and_the_rest_serves_on() {
    let mute = Mute::start();
    let config = format!(
        "{ORDERS}registry = \"local\"\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{}/prod\"\n\
         [services.far]\nregistry = \"main\"\npath = \"/far\"\n[[routes]]\npath = \"/far\"\nservice = \"far\"\n",
        mute.address
    )
    .replace("service = \"orders\"\nregistry = \"local\"\n", "service = \"orders\"\n")
    .replace("path = \"/orders\"\n", "path = \"/orders\"\nregistry = \"local\"\n");
    let gateway = Gateway::start("unreachable", &config);
    let instance = Instance::start("a");
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    let visits = mute.visits();
    wait_for("five more attempts", || (mute.visits() >= visits + 5).then_some(()));

    assert_eq!(gateway.get("/").body, "a");
    let far = gateway.get("/far");
    assert_eq!((far.status, far.header("x-zoogate-error")), (503, Some("no_instances")));
    let ready = gateway.admin("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("far") && !ready.body.contains("orders"), "{}", ready.body);
    assert_eq!(gateway.metric("zoogate_registry_connected{registry=\"main\"}"), Some(0.0));
    assert_eq!(gateway.metric("zoogate_registry_connected{registry=\"local\"}"), Some(1.0));
    assert!(gateway.metric("zoogate_registry_stale_seconds{registry=\"main\"}").unwrap() > 0.0);
    assert_eq!(gateway.metric("zoogate_registry_stale_seconds{registry=\"local\"}"), Some(0.0));
    let log = gateway.log.all();
    let warnings: Vec<_> = log.iter().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
    assert_eq!(warnings.len(), 1, "{log:#?}");
    assert!(warnings[0].contains(&mute.address), "{warnings:?}");
}

#[test]
fn commands_that_need_a_registry_give_up_after_ten_seconds_and_name_it() {
    let connect = format!("127.0.0.1:{}", free_port());
    let scratch = Scratch::new("give-up");
    let file = scratch.write(
        "zoogate.toml",
        &format!(
            "[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n[services.orders]\npath = \"/orders\"\n\
             [[listeners]]\nlisten = \"127.0.0.1:0\"\n[[routes]]\nservice = \"orders\"\n"
        ),
    );
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 5] = [
        &["services", "--config", file],
        &["check", "--live", "--config", file],
        &["explain", "--config", file, "GET", "http://x/"],
        &["register", "--zookeeper", &connect, "--path", "/orders", "--address", "127.0.0.1:1"],
        &["demo", "--zookeeper", &connect, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
    ];
    std::thread::scope(|scope| {
        for arguments in commands {
            let connect = &connect;
            scope.spawn(move || {
                let started = Instant::now();
                let output = run(arguments);
                let took = started.elapsed();
                assert_eq!(output.status.code(), Some(1), "{arguments:?}");
                assert!(took < Duration::from_secs(25), "{arguments:?} took {took:?}");
                let errors = text(&output.stderr);
                assert!(errors.contains(connect), "{arguments:?}: {errors}");
            });
        }
    });
}

#[test]
fn services_prints_what_the_registry_holds_and_why_not() {
    let scratch = Scratch::new("services");
    let file = scratch.write("zoogate.toml", ORDERS);
    scratch.write("services/orders/a", "127.0.0.1:8001");
    scratch.write("services/orders/b", "127.0.0.1:808O");
    let file = file.to_str().unwrap();
    let output = run(&["services", "--config", file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..2], ["SERVICE", "NODE"]);
    assert_eq!(rows[1][..6], ["orders", "a", "plain", "127.0.0.1:8001", "1", "up"]);
    assert_eq!(rows[2][..2], ["orders", "b"]);
    assert!(table.contains("bad_port: "), "{table}");

    let output = run(&["services", "--config", file, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(json["services"][0]["instances"][0]["address"], "127.0.0.1:8001");
    assert!(json["services"][0]["rejected"][0]["reason"].as_str().unwrap().starts_with("bad_port: "));
}

#[test]
fn a_directory_registration_lasts_as_long_as_its_command_whose_status_is_passed_on() {
    let scratch = Scratch::new("register");
    let node = scratch.path().join("services/orders/me");
    let mut register = binary();
    register.args([
        "register",
        "--path",
        "/orders",
        "--address",
        "127.0.0.1:8001",
        "--id",
        "me",
        "--directory",
    ]);
    register.arg(scratch.path().join("services"));
    let shows = format!("cat {}; exit 7", node.display());
    let output = finish(register.args(["--", "sh", "-c", &shows]));
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "127.0.0.1:8001");
    assert!(!node.exists());
}

#[test]
fn explain_names_the_route_that_answers_and_why_the_others_lost() {
    let config = format!(
        "{ORDERS}[[routes]]\nname = \"beta\"\npath = \"/x\"\nservice = \"orders\"\nheaders = {{ beta = \"1\" }}\n"
    );
    let gateway = Gateway::start("explain", &config);
    let instance = Instance::start("a");
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    let config = gateway.config.to_str().unwrap().to_owned();
    let admin = gateway.admin.to_string();
    for live in [false, true] {
        let mut arguments = vec!["explain", "--config", &config, "GET", "http://h/x", "-H", "beta: 1"];
        if live {
            arguments.extend(["--admin", &admin]);
        }
        let told = text(&run(&arguments).stdout);
        assert!(told.lines().any(|l| l.starts_with("route") && l.ends_with("beta")), "{told}");
        assert!(told.contains("takes precedence"), "{told}");
    }
    let query = "/api/explain?method=GET&url=http%3A%2F%2Fh%2Fx&header=beta:1";
    let json = gateway.json(query);
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["considered", "instance", "key", "route", "service"]);
    assert_eq!((&json["route"], &json["service"]), (&"beta".into(), &"orders".into()));
    assert!(json["instance"].is_null() && json["key"].is_null());
    for considered in json["considered"].as_array().unwrap() {
        let keys: Vec<_> = considered.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["kind", "name", "reason", "verdict"]);
    }
    assert_eq!(http::get(gateway.admin, "/api/explain?method=GET").status, 400, "no url");
    assert_eq!(instance.count(), 0, "explaining sends nothing");
}
