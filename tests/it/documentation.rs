//! What the documents say is what the program does: names, codes, commands, links, examples.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use zoogate::cli::args::Cli;
use zoogate::config::plan::Limits;
use zoogate::model::RejectReason;
use zoogate::{Plan, ProxyError};

use crate::support::gateway::{Gateway, Scratch, binary};
use crate::support::http::get;
use crate::support::instance::Instance;
use crate::support::script::python;
use crate::support::zk;

const README: &str = include_str!("../../README.md");
const ADMIN: &str = include_str!("../../docs/admin.md");
const COMMANDS: &str = include_str!("../../docs/commands.md");
const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const FORMATS: &str = include_str!("../../docs/formats.md");
const WIRE: &str = include_str!("../../docs/wire.md");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document, by its path from the root.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = [root().to_owned(), root().join("docs")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let paths =
        entries.map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md"));
    let mut found: Vec<_> =
        paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    found.sort();
    assert!(found.len() >= 10, "only {} documents", found.len());
    found
}

/// The cells of the rows of all tables whose first cell is code that begins like this.
pub fn rows(text: &str, begin: &str) -> Vec<Vec<String>> {
    let begin = format!("| `{begin}");
    let cells = |line: &str| {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    text.lines().filter(|line| line.starts_with(&begin)).map(cells).collect()
}

/// What stands in backquotes at a cell's start.
pub fn code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|rest| rest.split('`').next()).unwrap_or_else(|| panic!("{cell:?}"))
}

/// Fenced blocks of this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    let blocks = text.split(&open).skip(1);
    blocks.map(|rest| rest.split_once("\n```").expect("a block that ends").0).collect()
}

#[test]
fn every_metric_in_the_code_is_documented_and_no_other() {
    let documented: BTreeSet<String> =
        rows(ADMIN, "zoogate_").iter().map(|row| code(&row[0]).to_owned()).collect();
    let mut named = BTreeSet::new();
    for file in ["metrics.rs", "live.rs"] {
        let text = std::fs::read_to_string(root().join("src/telemetry").join(file)).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let names = text.split("\"zoogate_").skip(1).map(|rest| rest.split('"').next().unwrap());
        named.extend(names.map(|name| format!("zoogate_{name}")));
    }
    assert!(named.len() > 15, "{named:?}");
    assert_eq!(documented, named);
}

#[test]
fn every_error_code_is_documented_with_its_statuses() {
    use ProxyError as E;
    let all = [
        E::NoRoute,
        E::NoInstances,
        E::ConnectFailed(String::new()),
        E::UpstreamReset(String::new()),
        E::UpstreamProtocol(String::new()),
        E::UpstreamTimeout,
        E::Overloaded,
        E::MemoryShort,
        E::HeldBack,
        E::RateLimited,
        E::RequestTimeout,
        E::BodyTooLarge,
        E::UriTooLong,
        E::HeadersTooLarge,
        E::BadRequest(""),
        E::ConnectRefused,
        E::Loop,
        E::InstanceRemoved,
        E::KeyMoved,
        E::Stopping,
        E::Internal,
    ];
    // One that is added does not compile here until it is listed above, too.
    for error in &all {
        match error {
            E::NoRoute
            | E::NoInstances
            | E::ConnectFailed(_)
            | E::UpstreamReset(_)
            | E::UpstreamProtocol(_) => {}
            E::UpstreamTimeout
            | E::Overloaded
            | E::MemoryShort
            | E::HeldBack
            | E::RateLimited
            | E::RequestTimeout
            | E::BodyTooLarge => {}
            E::UriTooLong
            | E::HeadersTooLarge
            | E::BadRequest(_)
            | E::ConnectRefused
            | E::Loop
            | E::InstanceRemoved
            | E::KeyMoved
            | E::Stopping
            | E::Internal => {}
        }
    }
    let table =
        WIRE.split_once("| code | status |").expect("the table of codes").1.split("\n\n").next().unwrap();
    let documented: BTreeMap<String, (u16, u8)> = rows(table, "")
        .iter()
        .map(|row| (code(&row[0]).to_owned(), (row[1].parse().unwrap(), row[2].parse().unwrap())))
        .collect();
    let coded: BTreeMap<String, (u16, u8)> = all
        .iter()
        .filter(|error| **error != E::ConnectRefused)
        .map(|error| (error.code().to_owned(), (error.status().as_u16(), error.grpc_status())))
        .collect();
    assert_eq!(documented, coded);
    assert_eq!((E::ConnectRefused.code(), E::ConnectRefused.status().as_u16()), ("bad_request", 405));
}

#[test]
fn the_limits_on_the_wire_are_the_defaults() {
    let limits = Limits::default();
    let thousands = |n: usize| format!("{},{:03}", n / 1000, n % 1000);
    for (name, default) in [
        ("header_timeout", format!("{} s", limits.header_timeout.as_secs())),
        ("idle_timeout", format!("{} s", limits.idle_timeout.as_secs())),
        ("max_header_size", format!("{} KiB", limits.max_header_size >> 10)),
        ("max_headers", limits.max_headers.to_string()),
        ("max_body", limits.max_body.map_or("none".to_owned(), |n| n.to_string())),
        ("max_connections", thousands(limits.max_connections)),
    ] {
        let row = rows(WIRE, name).pop().unwrap_or_else(|| panic!("no row for {name}"));
        assert_eq!(row[1], default, "{name}");
    }
}

#[test]
fn when_a_reload_takes_hold_is_documented_for_each_key_of_the_process_itself() {
    let section = |name: &str| {
        let rest = CONFIGURATION.split(&format!("\n## `{name}`\n")).nth(1).expect(name);
        let own = rest.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
        rows(own, "").iter().map(|row| code(&row[0]).to_owned()).collect::<Vec<_>>()
    };
    let mut keys: Vec<String> = Vec::new();
    for name in ["gateway", "log", "admin", "limits"] {
        keys.extend(section(&format!("[{name}]")).iter().map(|key| format!("{name}.{key}")));
    }
    // Where a listener is, and what it is called, is what a reload is about.
    let listener = section("[[listeners]]").into_iter().filter(|key| key != "name" && key != "listen");
    keys.extend(listener.map(|key| format!("listeners.{key}")));
    let reload = OPERATIONS.split("\n## A reload\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut told: Vec<String> = Vec::new();
    for row in rows(reload, "") {
        told.extend(row[0].split(", ").map(|key| code(key).to_owned()));
    }
    keys.sort();
    told.sort();
    assert_eq!(told, keys);
}

#[test]
fn every_command_and_flag_is_documented_and_no_other() {
    let cli = Cli::command();
    let commands = cli.get_subcommands().filter(|c| !c.is_hide_set());
    let names: BTreeSet<&str> = commands.map(clap::Command::get_name).collect();
    let rows = rows(COMMANDS, "zoogate ");
    let documented: BTreeSet<&str> =
        rows.iter().map(|row| code(&row[0]).split(' ').nth(1).unwrap()).collect();
    assert_eq!(documented, names);
    for row in &rows {
        let usage = code(&row[0]);
        let name = usage.split(' ').nth(1).unwrap();
        let command = cli.find_subcommand(name).unwrap();
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let flags: BTreeSet<&str> = flags.filter(|flag| *flag != "header").collect();
        let words = usage.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let shown: BTreeSet<&str> =
            words.filter_map(|word| word.strip_prefix("--")).filter(|w| !w.is_empty()).collect();
        assert_eq!(shown, flags, "{usage}");
    }
}

/// A line of a shell, as far as the documents use one: words, single and double quotes, a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_line_in_the_documents_parses() {
    let mut parsed = 0;
    for (file, text) in documents() {
        let blocks = ["text", "sh"].into_iter().flat_map(|language| blocks(&text, language));
        for line in blocks.flat_map(str::lines) {
            // Two blanks part a command from what is said of it.
            let line = line.trim().split("  ").next().unwrap();
            let Some(arguments) =
                line.strip_prefix("zoogate ").or(line.strip_prefix("cargo run --release -- "))
            else {
                continue;
            };
            if arguments.ends_with('…') {
                continue;
            }
            let arguments = std::iter::once("zoogate".to_owned()).chain(words(arguments));
            if let Err(error) = Cli::try_parse_from(arguments) {
                panic!("{}: {line}\n{error}", file.display());
            }
            parsed += 1;
        }
    }
    assert!(parsed >= 10, "only {parsed} command lines found");
}

#[test]
fn every_program_of_the_documents_exists() {
    for (file, text) in documents() {
        for line in blocks(&text, "sh").into_iter().flat_map(str::lines) {
            if let Some(script) = line.split_whitespace().next().and_then(|word| word.strip_prefix("./")) {
                assert!(root().join(script).is_file(), "{}: {script}", file.display());
            }
        }
    }
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (main, link) = if path.is_dir() {
            (path.join("main.rs"), format!("(examples/{name}/README.md)"))
        } else {
            (path.clone(), format!("(examples/{name}.rs)"))
        };
        let text = std::fs::read_to_string(main).unwrap();
        assert!(
            text.starts_with("//! ") && text.contains(&format!("cargo run --example {name} -- ")),
            "{name}"
        );
        assert!(README.contains(&link), "the README leaves {name} out");
    }
}

/// A heading as the anchor of a link.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for (file, text) in documents() {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (path, wanted) = link.split_once('#').map_or((link, None), |(path, name)| (path, Some(name)));
            let target = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", file.display());
            if let Some(wanted) = wanted {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter_map(|l| l.trim_start_matches('#').strip_prefix(' '));
                assert!(headings.any(|heading| anchor(heading) == wanted), "{}: {link}", file.display());
            }
            followed += 1;
        }
    }
    assert!(followed >= 20, "only {followed} links found");
}

#[test]
fn every_document_can_be_found_from_the_readme() {
    let mut left: BTreeSet<PathBuf> = documents().into_iter().map(|(file, _)| file).collect();
    let mut next = vec![root().join("README.md")];
    while let Some(file) = next.pop() {
        if left.remove(&file) {
            let text = std::fs::read_to_string(&file).unwrap();
            let links = text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap());
            next.extend(links.filter_map(|link| file.parent().unwrap().join(link).canonicalize().ok()));
        }
    }
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_file_under_config_passes_the_check_as_it_is() {
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("config")).unwrap() {
        let path = entry.unwrap().path();
        let done = binary().args(["check", "--config"]).arg(&path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let summary = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(summary.contains(": ok: ") && summary.lines().count() == 1, "{summary}");
        checked += 1;
    }
    assert!(checked >= 2, "only {checked} files");
}

#[test]
fn every_toml_block_of_the_documents_is_a_sound_part_of_a_configuration() {
    let mut checked = 0;
    for (file, text) in documents() {
        for block in blocks(&text, "toml") {
            let whole = if block.contains("[[listeners]]") {
                block.to_owned()
            } else {
                let registry = "[registries.main]\nkind = \"zookeeper\"\nconnect = \"zk1\"\n";
                let registry = if block.contains("[registries.") { "" } else { registry };
                format!("{block}\n{registry}[[listeners]]\nlisten = \"0.0.0.0:80\"\n")
            };
            if let Err(errors) = whole.parse::<Plan>() {
                panic!("{}:\n{block}\n{errors}", file.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 2, "only {checked} blocks");
}

#[tokio::test]
async fn the_ten_lines_of_the_readme_work_against_a_real_ensemble() {
    let shown = blocks(README, "toml")[0];
    assert_eq!(shown.lines().count(), 10);
    let default = |text: &str| text.replace("${ZOOKEEPER:-127.0.0.1:2181}", "127.0.0.1:2181");
    assert_eq!(default(MINIMAL).trim_end(), default(shown), "the README shows config/minimal.toml");

    let connect = zk::chroot("readme").await;
    let instance = Instance::start("a");
    let client = zk::client(&connect).await;
    for path in ["/services", "/services/orders"] {
        client.create(path, b"", &zk::OPEN).await.unwrap();
    }
    let payload = instance.address.to_string();
    client.create("/services/orders/a", payload.as_bytes(), &zk::EPHEMERAL).await.unwrap();
    // Another ensemble, and a port that is free here; all else as it stands.
    let listen = "listen = \"0.0.0.0:8080\"";
    assert!(shown.contains(listen));
    let ours = default(shown).replace("127.0.0.1:2181", &connect).replace(listen, "listen = \"127.0.0.1:0\"");
    let gateway = Gateway::start("readme", &ours);
    gateway.instances("orders", &["a"]);
    let answer = get(gateway.listener("127.0.0.1:0"), "/any/path");
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
}

#[test]
fn the_registration_of_the_readme_is_the_one_that_its_configuration_finds() {
    let line =
        blocks(README, "text").into_iter().flat_map(str::lines).find(|l| l.starts_with("zoogate register "));
    let line = line.expect("a registration");
    let path = blocks(README, "toml")[0]
        .lines()
        .find_map(|l| l.strip_prefix("path = \"/services")?.strip_suffix('"'));
    let path = path.expect("a service's path");
    assert!(line.contains(&format!("--path /services{path} ")), "{line}");
    assert!(line.contains("--zookeeper 127.0.0.1:2181 "), "{line}");
}

#[test]
fn the_admin_document_lists_every_path_that_answers() {
    let scratch = Scratch::new("paths");
    let gateway = Gateway::start(
        "paths",
        &format!(
            "[registries.main]\nkind = \"directory\"\npath = {:?}\n[services.orders]\npath = \"/services/orders\"\n\
             [[listeners]]\nlisten = \"127.0.0.1:0\"\n",
            scratch.path()
        ),
    );
    gateway.ready();
    let documented: BTreeSet<String> =
        rows(ADMIN, "GET ").iter().map(|row| code(&row[0]).to_owned()).collect();
    // A stream of events has no end to wait for.
    for usage in documented.iter().filter(|usage| !usage.starts_with("GET /api/events")) {
        let path =
            usage.strip_prefix("GET ").unwrap().replace("NAME", "orders").replace('…', "http%3A%2F%2Fh%2F");
        let answer = gateway.admin(&path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let source = std::fs::read_to_string(root().join("src/admin/server.rs")).unwrap();
    let arms = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => ").map(|(path, _)| path));
    let served: BTreeSet<String> =
        arms.filter(|path| path.starts_with('/')).map(|path| format!("GET {path}")).collect();
    assert!(served.len() >= 8, "{served:?}");
    let bare = |usage: &String| usage.split('?').next().unwrap().to_owned();
    let documented: BTreeSet<String> = documented.iter().map(bare).filter(|p| !p.ends_with("NAME")).collect();
    assert_eq!(documented, served);
}

#[test]
fn every_reason_of_a_rejection_is_documented() {
    use RejectReason as R;
    let all = [
        R::Syntax,
        R::MissingHost,
        R::MissingPort,
        R::BadHost,
        R::BadPort,
        R::UnsupportedVersion,
        R::UnknownFormat,
        R::DeniedAddress,
        R::TooLarge,
        R::BadName,
        R::Forbidden,
    ];
    for reason in all {
        match reason {
            R::Syntax | R::MissingHost | R::MissingPort | R::BadHost | R::BadPort | R::UnsupportedVersion => {
            }
            R::UnknownFormat | R::DeniedAddress | R::TooLarge | R::BadName | R::Forbidden => {}
        }
    }
    let table = FORMATS
        .split_once("| code | the node |")
        .expect("the table of codes")
        .1
        .split("\n\n")
        .next()
        .unwrap();
    let documented: BTreeSet<String> = rows(table, "").iter().map(|row| code(&row[0]).to_owned()).collect();
    assert_eq!(documented, all.iter().map(|reason| reason.code().to_owned()).collect());
}

#[test]
fn every_field_of_the_access_log_is_documented_and_no_other() {
    let instance = Instance::start("a");
    let scratch = Scratch::new("access");
    scratch.write("services/orders/a", &instance.address.to_string());
    let gateway = Gateway::start(
        "access",
        &format!(
            "[registries.main]\nkind = \"directory\"\npath = {:?}\n[services.orders]\npath = \"/services/orders\"\n\
             [services.bytes]\npath = \"/services/orders\"\nprotocol = \"tcp\"\n\
             [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n[[routes]]\nservice = \"orders\"\n\
             [[listeners]]\nname = \"bytes\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"bytes\"\n",
            scratch.path()
        ),
    );
    gateway.instances("orders", &["a"]);
    gateway.instances("bytes", &["a"]);
    let fields = |protocol: &str| -> BTreeSet<String> {
        gateway.out.find(protocol, |line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let ours = line["protocol"] == protocol;
            ours.then(|| line.as_object().unwrap().keys().cloned().collect())
        })
    };
    assert_eq!(get(gateway.listener("public"), "/").status, 200);
    assert_eq!(get(gateway.listener("bytes"), "/").status, 200);
    // A tunnel is over, and logged, when both sides have ended.
    instance.kill();
    let table =
        ADMIN.split_once("| field | holds |").expect("the table of fields").1.split("\n\n").next().unwrap();
    let names = rows(table, "")
        .into_iter()
        .flat_map(|row| row[0].split(", ").map(|name| code(name).to_owned()).collect::<Vec<_>>());
    let (documented, http, tcp) = (names.collect::<BTreeSet<_>>(), fields("HTTP/1.1"), fields("tcp"));
    assert_eq!(documented, http);
    assert!(tcp.is_subset(&http), "{tcp:?}");
}

#[test]
fn what_measures_starts_and_tells_how_it_is_used() {
    for arguments in [&["bench/main.py"][..], &["bench/soak.py"], &["bench/slow.py"], &["-m", "faults"]] {
        let mut command = std::process::Command::new(python());
        command.args(arguments).arg("--help").current_dir(root()).env("PYTHONPATH", root().join("bench"));
        let told = command.output().unwrap();
        let text = String::from_utf8_lossy(&told.stdout);
        assert!(told.status.success() && text.starts_with("usage: "), "{arguments:?}: {told:?}");
    }
}
