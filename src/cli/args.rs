//! The command line as data: every command, its flags and its help. Usage errors end in exit code 2.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand};
use http::{HeaderName, HeaderValue, Method};

use super::credentials::AuthArgs;
use crate::config::{check_registry_path, parse_duration};
use crate::model::{Address, FormatName};
use crate::registration::{Access, Check, Parents};

/// A gateway in front of services that announce themselves in Apache ZooKeeper.
#[derive(Debug, Parser)]
#[command(
    name = "zoogate",
    version,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  zoogate demo                                    see it work: no installs, no network
  zoogate check --config zoogate.toml             every error of a configuration at once
  zoogate run --config zoogate.toml               serve
  zoogate services --config zoogate.toml          what the registries hold now

Exit codes: 0 done; 1 it could not be done; 2 the command line is wrong."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Command {
    /// Serve until SIGTERM or SIGINT, then drain and exit 0
    #[command(after_help = RUN_HELP)]
    Run(ConfigArgs),
    /// Check a configuration: a summary, or every error with its line and column
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Start a gateway with three sample instances, and say what to try
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Hold a registration for as long as this command, or the one it runs, lives
    #[command(after_help = REGISTER_HELP)]
    Register(RegisterArgs),
    /// Run a command on one machine at a time
    #[command(after_help = super::elect::HELP)]
    Elect(super::elect::ElectArgs),
    /// Keep the primaries of a replicated store's groups
    #[command(after_help = super::primaries::HELP)]
    Primaries(super::primaries::PrimariesArgs),
    /// Show what the registries hold now, and why each unusable node is one
    #[command(after_help = SERVICES_HELP)]
    Services(ServicesArgs),
    /// Tell where a request goes, and why each other candidate lost; sends nothing
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArgs),
    /// Rebuild the table of a moment from an event log
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// What `elect` starts, which becomes its command
    #[command(hide = true)]
    Elected(super::elect::ElectedArgs),
    /// One of the demo's instances
    #[command(hide = true)]
    SampleInstance(SampleInstanceArgs),
    /// Become a command that ends with its parent
    #[command(hide = true)]
    Exec(ExecArgs),
}

const RUN_HELP: &str = "\
SIGHUP reloads the file and reopens log files; a bad file is refused whole, and the old
configuration stays. A second SIGTERM or SIGINT exits at once. Logs go to stderr, the access
log to stdout.

Examples:
  zoogate run --config /etc/zoogate/zoogate.toml
  ZK_AUTH=user:password zoogate run --config zoogate.toml     # with credentials = \"${ZK_AUTH}\"";

const CHECK_HELP: &str = "\
Errors go to stderr, one a line: FILE:LINE:COL: KEY: what is wrong and what is accepted.

Examples:
  zoogate check --config zoogate.toml
  zoogate check --config zoogate.toml --live       # the registries too; SERVICE: PATH: CODE: what is wrong
  zoogate check --config new.toml && mv new.toml zoogate.toml";

const DEMO_HELP: &str = "\
Everything stays on this machine and is gone after Ctrl-C.

Examples:
  zoogate demo
  zoogate demo --listen 127.0.0.1:8000 --admin 127.0.0.1:9900
  zoogate demo --zookeeper 127.0.0.1:2181         # registers in a real ensemble";

const REGISTER_HELP: &str = "\
In ZooKeeper the registration is ephemeral: it goes when this command ends, or when its
session expires. A DIRECTORY registration is a file: SIGTERM and SIGINT remove it, but it
outlives a registrar that is killed (SIGKILL, power); whoever runs the registrar must then
remove the file.

With a check the node is there only while the check passes; with a COMMAND, which is started
first then, from the moment it is well. On SIGTERM and SIGINT the node is deleted, --linger
passes, and only then the command gets the signal; the exit status is the command's.

--on-lost runs before the ensemble can have given the node to anyone else. Hooks see
ZOOGATE_EVENT (registered, lost), ZOOGATE_NODE, ZOOGATE_PATH and ZOOGATE_ADDRESS.

Examples:
  zoogate register --zookeeper zk1:2181,zk2:2181 --path /services/orders --address 10.0.0.7:8080
  zoogate register --zookeeper zk1:2181/prod --path /services/orders --address 10.0.0.7:8080 \\
      --format json --weight 2 --check http://127.0.0.1:8080/healthz -- ./orders --port 8080
  zoogate register --zookeeper zk1:2181 --path /services/orders --address 10.0.0.7:8080 \\
      --check 'cmd: ./well.sh' --on-lost './step-down.sh' -- ./orders
  zoogate register --directory ./services --path /services/orders --address 127.0.0.1:8080";

const SERVICES_HELP: &str = "\
Examples:
  zoogate services --config zoogate.toml
  zoogate services --config zoogate.toml --json | jq '.services[].rejected'";

const EXPLAIN_HELP: &str = "\
With --admin the running gateway answers from its live state; without it the registries are read.

Examples:
  zoogate explain --config zoogate.toml GET http://shop.example.com/orders/17
  zoogate explain --config zoogate.toml GET http://localhost/users -H 'x-user-id: 42' \\
      --admin 127.0.0.1:9901";

const REPLAY_HELP: &str = "\
The log is what [gateway] event_log names; LOG.1, where there is one, is read before it. Prints one
line an instance: service, id, address, weight, state, zone, and since when it was so.

Examples:
  zoogate replay /var/log/zoogate/events.jsonl
  zoogate replay events.jsonl --at 2026-11-22T23:59:00Z --service orders
  zoogate replay events.jsonl --json | jq '.services[].name'";

const COMPLETIONS_HELP: &str = "\
Examples:
  zoogate completions bash > ~/.local/share/bash-completion/completions/zoogate
  zoogate completions zsh > ~/.zfunc/_zoogate
  zoogate completions fish > ~/.config/fish/completions/zoogate.fish";

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Also check what the registries hold: nodes that cannot be read, duplicates, leftovers, empty services
    #[arg(long)]
    pub live: bool,
}

/// `run`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the gateway listens; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where its admin listens; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
    /// Register the samples in this ensemble instead of a temporary directory: HOST:PORT,…/CHROOT
    #[arg(long, value_name = "CONNECT")]
    pub zookeeper: Option<String>,
}

/// `register`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("registry").required(true).args(["zookeeper", "directory"]))]
pub struct RegisterArgs {
    /// The ensemble to register in: HOST:PORT,HOST:PORT/CHROOT
    #[arg(long, value_name = "CONNECT")]
    pub zookeeper: Option<String>,
    /// The directory registry to register in; such a registration outlives a registrar that is killed
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// The service's path in the registry; parents are created
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    pub path: String,
    /// The address to announce; an IPv6 one in brackets
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Address,
    /// How the registration is written
    #[arg(long, value_name = "FORMAT", default_value = "plain", value_parser = formats())]
    pub format: FormatName,
    /// The instance's id, and its node's name [default: made from the address]
    #[arg(long, value_parser = parse_id)]
    pub id: Option<String>,
    /// Its share of the traffic, where the format can say so
    #[arg(long, value_name = "N", value_parser = parse_weight)]
    pub weight: Option<f64>,
    /// Let the registry number the node; serverset and nerve always do
    #[arg(long)]
    pub sequential: bool,
    /// What missing parents are made as: persistent, container, or ttl=DURATION
    #[arg(long, value_name = "KIND", default_value = "persistent", value_parser = parse_parents)]
    pub parents: Parents,
    #[command(flatten)]
    pub auth: AuthArgs,
    /// Who may do what with the node, and with parents that are made: open, readable (others read), creator (only who shows
    /// these credentials)
    #[arg(long, value_name = "WHO", default_value = "open", value_parser = parse_access)]
    pub acl: Access,
    /// How long the ensemble waits for a silent registrar; it may grant another time
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_session)]
    pub session_timeout: Duration,
    /// Register only while this passes: http://HOST:PORT/PATH, tcp, grpc, or 'cmd: COMMAND'
    #[arg(long, value_name = "CHECK", group = "gate")]
    pub check: Option<Check>,
    /// Register only while this command exits with 0
    #[arg(long, value_name = "COMMAND", group = "gate")]
    pub check_command: Option<std::ffi::OsString>,
    /// The pause between two checks [default: 1s]
    #[arg(long, value_name = "DURATION", requires = "gate", value_parser = parse_wait)]
    pub check_interval: Option<Duration>,
    /// A check that takes longer has failed [default: 1s]
    #[arg(long, value_name = "DURATION", requires = "gate", value_parser = parse_wait)]
    pub check_timeout: Option<Duration>,
    /// Checks in a row that must pass before the node is made [default: 2]
    #[arg(long, value_name = "N", requires = "gate", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rise: Option<u32>,
    /// Checks in a row that must fail before it is taken back [default: 3]
    #[arg(long, value_name = "N", requires = "gate", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub fall: Option<u32>,
    /// How long clients have to notice that the node is gone, before COMMAND gets its signal
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_time_or_none)]
    pub linger: Duration,
    /// Run this when the node is made, and when it is made again
    #[arg(long, value_name = "COMMAND")]
    pub on_registered: Option<std::ffi::OsString>,
    /// Run this when the node must be taken for lost, once a loss
    #[arg(long, value_name = "COMMAND")]
    pub on_lost: Option<std::ffi::OsString>,
    /// A command to run; the registration lives as long as it does
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// `services`.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print what GET /api/services answers
    #[arg(long)]
    pub json: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// The request's method
    #[arg(value_name = "METHOD", value_parser = parse_method)]
    pub method: Method,
    /// Its URL, with host, path and query
    #[arg(value_name = "URL")]
    pub url: String,
    /// A header of it; may be repeated
    #[arg(short = 'H', long = "header", value_name = "'K: V'", value_parser = parse_header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Ask the gateway whose admin listens here
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
}

/// `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The event log
    #[arg(value_name = "LOG")]
    pub log: PathBuf,
    /// The moment, in UTC: 2026-11-22T23:59:00Z [default: the log's end]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub at: Option<std::time::SystemTime>,
    /// Only this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// `sample-instance`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("registry").required(true).args(["zookeeper", "directory"]))]
pub struct SampleInstanceArgs {
    /// Its name
    pub name: String,
    /// The ensemble to register in
    #[arg(long)]
    pub zookeeper: Option<String>,
    /// The directory registry to register in
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// The service's path in the registry
    #[arg(long)]
    pub path: String,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The parent's process id
    pub parent: i32,
    /// The command
    #[arg(last = true, required = true)]
    pub command: Vec<std::ffi::OsString>,
}

pub(super) fn parse_path(text: &str) -> Result<String, String> {
    check_registry_path(text)?;
    if text == "/" { Err("the root is no service".to_owned()) } else { Ok(text.to_owned()) }
}

/// The formats that can be written, as clap's possible values: the help and the completions list them.
fn formats() -> impl TypedValueParser<Value = FormatName> {
    let names = FormatName::WRITABLE.iter().map(|format| format.as_str());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<FormatName>())
}

/// A duration within a range, as the configuration writes it.
pub(super) fn parse_time(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| (least..=most).contains(time));
    time.ok_or_else(|| format!("accepted: a duration such as \"10s\", from {least:?} to {most:?}"))
}

pub(super) fn parse_id(text: &str) -> Result<String, String> {
    let sound = !text.is_empty() && !matches!(text, "." | "..") && !text.contains('/');
    if sound && text.len() <= 256 && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("accepted: 1 to 256 bytes without slash or control characters".to_owned())
}

fn parse_moment(text: &str) -> Result<std::time::SystemTime, String> {
    crate::telemetry::parse_rfc3339(text).ok_or_else(|| {
        "accepted: a time in UTC such as 2026-11-22T23:59:00Z, or with a fraction of a second".to_owned()
    })
}

fn parse_weight(text: &str) -> Result<f64, String> {
    let weight = text.parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight >= 0.0);
    weight.ok_or_else(|| "accepted: a number of at least 0".to_owned())
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_time(text, Duration::from_millis(1), DAY)
}

fn parse_time_or_none(text: &str) -> Result<Duration, String> {
    parse_time(text, Duration::ZERO, DAY)
}

fn parse_session(text: &str) -> Result<Duration, String> {
    parse_time(text, Duration::from_secs(1), Duration::from_secs(300))
}

fn parse_parents(text: &str) -> Result<Parents, String> {
    match text {
        "persistent" => Ok(Parents::Persistent),
        "container" => Ok(Parents::Container),
        _ => match text.strip_prefix("ttl=").map(parse_wait) {
            Some(ttl) => ttl.map(Parents::Ttl),
            None => Err("accepted: persistent, container, or ttl=DURATION such as ttl=10m".to_owned()),
        },
    }
}

fn parse_access(text: &str) -> Result<Access, String> {
    match text {
        "open" => Ok(Access::Open),
        "readable" => Ok(Access::Readable),
        "creator" => Ok(Access::Creator),
        _ => Err("accepted: open, readable, creator".to_owned()),
    }
}

fn parse_method(text: &str) -> Result<Method, String> {
    Method::from_bytes(text.as_bytes()).map_err(|_| "accepted: a method such as GET".to_owned())
}

/// `name: value`, as curl takes it.
fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("accepted: 'name: value'")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| "the name is no header name")?;
    let value =
        HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| "the value is no header value")?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_examples() {
        let mut root = Cli::command();
        assert!(root.render_long_help().to_string().contains("Examples:"));
        for command in root.get_subcommands_mut().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("Examples:\n  zoogate {name}")), "{name}: {help}");
        }
    }

    #[test]
    fn the_help_says_that_a_directory_registration_may_outlive_its_registrar() {
        let mut root = Cli::command();
        let help = root.find_subcommand_mut("register").unwrap().render_help().to_string();
        let words: Vec<&str> = help.split_whitespace().collect();
        assert!(words.join(" ").contains("it outlives a registrar that is killed"), "{help}");
    }

    #[test]
    fn a_registration_is_read_whole() {
        let line = "zoogate register --zookeeper zk1:2181/prod --path /services/orders --address [::1]:80 \
                    --format json --id a --weight 1.5 -- ./orders --port 80";
        let Ok(Command::Register(args)) = parse(line) else { panic!("{:?}", parse(line)) };
        assert_eq!(args.zookeeper.as_deref(), Some("zk1:2181/prod"));
        assert_eq!(args.address.to_string(), "[::1]:80");
        assert_eq!(args.format, FormatName::Json);
        assert_eq!((args.id.as_deref(), args.weight), (Some("a"), Some(1.5)));
        assert_eq!(args.command, ["./orders", "--port", "80"]);
    }

    #[test]
    fn explain_takes_headers_as_curl_does() {
        let line = "zoogate explain --config f GET http://h/p -H x-user-id:7 -H a:b --admin 127.0.0.1:9901";
        let Ok(Command::Explain(args)) = parse(line) else { panic!("{:?}", parse(line)) };
        assert_eq!(args.headers[0], (HeaderName::from_static("x-user-id"), HeaderValue::from_static("7")));
        assert_eq!((args.method, args.headers.len()), (Method::GET, 2));
    }

    #[test]
    fn usage_errors_exit_2() {
        for line in [
            "zoogate",
            "zoogate fly",
            "zoogate run",
            "zoogate check --confg f",
            "zoogate demo --listen nowhere",
            "zoogate register --path /a --address a:1",
            "zoogate register --zookeeper z --directory d --path /a --address a:1",
            "zoogate register --zookeeper z --path a --address a:1",
            "zoogate register --zookeeper z --path / --address a:1",
            "zoogate register --zookeeper z --path /a --address a:0",
            "zoogate register --zookeeper z --path /a --address ::1:80",
            "zoogate register --zookeeper z --path /a --address a:1 --format auto",
            "zoogate register --zookeeper z --path /a --address a:1 --weight -1",
            "zoogate register --zookeeper z --path /a --address a:1 --id a/b",
            "zoogate register --zookeeper z --path /a --address a:1 --parents ttl",
            "zoogate register --zookeeper z --path /a --address a:1 --check ftp://a:1",
            "zoogate register --zookeeper z --path /a --address a:1 --check tcp --check-command true",
            "zoogate register --zookeeper z --path /a --address a:1 --rise 2",
            "zoogate register --zookeeper z --path /a --address a:1 --check tcp --fall 0",
            "zoogate register --zookeeper z --path /a --address a:1 --linger 5",
            "zoogate explain --config f GET",
            "zoogate explain --config f GET http://h/ -H x",
            "zoogate completions tcsh",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["zoogate --version", "zoogate --help", "zoogate register --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
