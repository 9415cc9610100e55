//! A health check as it is configured, and one run of it.

use std::ffi::OsString;
use std::fmt;
use std::process::Stdio;
use std::str::FromStr;

use http::Uri;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::model::{Address, Host};
use crate::transport::check;

/// What tells that an instance is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A GET is answered with 2xx.
    Http {
        /// Whom to ask.
        address: Address,
        /// Path and query.
        target: String,
    },
    /// A connection is accepted.
    Tcp(Option<Address>),
    /// `grpc.health.v1.Health/Check` says `SERVING`.
    Grpc {
        /// Whom to ask.
        address: Option<Address>,
        /// Which service; empty for the server as a whole.
        service: String,
    },
    /// A command, run by `sh -c`, exits with 0.
    Command(OsString),
}

/// A text that is no check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; accepted: http://HOST:PORT/PATH, tcp, tcp://HOST:PORT, grpc, grpc://HOST:PORT/SERVICE, or 'cmd: COMMAND'"
)]
pub struct InvalidCheck(&'static str);

impl FromStr for Check {
    type Err = InvalidCheck;

    /// `http://HOST:PORT/PATH`, `tcp`, `tcp://HOST:PORT`, `grpc`, `grpc://HOST:PORT/SERVICE`, `cmd: COMMAND`. Without an
    /// address of its own a check asks the one that is registered.
    fn from_str(text: &str) -> Result<Self, InvalidCheck> {
        match text {
            "tcp" => return Ok(Self::Tcp(None)),
            "grpc" => return Ok(Self::Grpc { address: None, service: String::new() }),
            _ => {}
        }
        if let Some(command) = text.strip_prefix("cmd:") {
            let command = command.trim();
            return if command.is_empty() {
                Err(InvalidCheck("there is no command"))
            } else {
                Ok(Self::Command(command.into()))
            };
        }
        let uri: Uri = text.parse().map_err(|_| InvalidCheck("this is no check"))?;
        let address = || match uri.authority().map(http::uri::Authority::as_str) {
            Some(authority) if uri.port().is_some() => {
                authority.parse().map_err(|_| InvalidCheck("the address is none"))
            }
            Some(authority) if uri.scheme_str() == Some("http") => {
                format!("{authority}:80").parse().map_err(|_| InvalidCheck("the address is none"))
            }
            _ => Err(InvalidCheck("the port is missing")),
        };
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        match uri.scheme_str() {
            Some("http") => Ok(Self::Http { address: address()?, target: path.to_owned() }),
            Some("tcp") if uri.path().len() <= 1 => Ok(Self::Tcp(Some(address()?))),
            Some("grpc") => Ok(Self::Grpc {
                address: Some(address()?),
                service: uri.path().trim_start_matches('/').to_owned(),
            }),
            Some("https") => Err(InvalidCheck("checks over TLS are not known")),
            _ => Err(InvalidCheck("this is no check")),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { address, target } => write!(f, "http://{address}{target}"),
            Self::Tcp(None) => f.write_str("tcp"),
            Self::Tcp(Some(address)) => write!(f, "tcp://{address}"),
            Self::Grpc { address: None, .. } => f.write_str("grpc"),
            Self::Grpc { address: Some(address), service } => write!(f, "grpc://{address}/{service}"),
            Self::Command(command) => write!(f, "cmd: {}", command.display()),
        }
    }
}

impl Check {
    /// Asks once, without a deadline: drop the future, and what runs for it is killed. `registered` is asked where the
    /// check has no address of its own. The error says why the instance is not well.
    pub(super) async fn run(&self, registered: Option<&Address>) -> Result<(), String> {
        let asked = |own: &Option<Address>| {
            own.as_ref().or(registered).cloned().ok_or_else(|| "the check has no address".to_owned())
        };
        match self {
            Self::Http { address, target } => {
                let stream = connect(address).await?;
                check::http(stream, &address.to_string(), target).await.map_err(|error| error.to_string())
            }
            Self::Tcp(own) => connect(&asked(own)?).await.map(drop),
            Self::Grpc { address, service } => {
                let address = asked(address)?;
                let stream = connect(&address).await?;
                check::grpc(stream, &address.to_string(), service).await.map_err(|error| error.to_string())
            }
            Self::Command(command) => run(command).await,
        }
    }
}

async fn connect(address: &Address) -> Result<TcpStream, String> {
    let connected = match &address.host {
        Host::Ip(ip) => TcpStream::connect((*ip, address.port)).await,
        Host::Name(name) => TcpStream::connect((&**name, address.port)).await,
    };
    connected.map_err(|error| format!("cannot connect to {address}: {error}"))
}

async fn run(command: &OsString) -> Result<(), String> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // A group of its own, to be ended whole.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run sh: {error}"))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    group.has_ended();
    if status.success() { Ok(()) } else { Err(format!("the command ended with {status}")) }
}

/// A process group that is killed unless it has ended.
struct Group(Option<Pid>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_as_it_is_shown() {
        for text in [
            "http://127.0.0.1:8080/healthz?deep=1",
            "tcp",
            "tcp://[::1]:80",
            "grpc",
            "grpc://localhost:50051/my.Service",
            "cmd: test -e /tmp/up",
        ] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
        assert_eq!("http://h/x".parse::<Check>().unwrap().to_string(), "http://h:80/x");
        for bad in [
            "",
            "http",
            "https://h/x",
            "tcp://h",
            "tcp://h:1/x",
            "udp://h:1",
            "cmd:",
            "grpc://h",
            "http://u@h/",
        ] {
            assert!(bad.parse::<Check>().is_err(), "{bad:?}");
        }
    }
}
