//! `zoogate explain`: where a request would go, and why nowhere else.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use http::HeaderMap;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::args::ExplainArgs;
use super::services::{PATIENCE, tell_missing};
use crate::admin::http::get;
use crate::gateway::survey;
use crate::table::{ExplainedRequest, Explanation};

/// Runs the command.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let plan = match super::load(&args.config) {
        Ok(plan) => plan,
        Err(code) => return Ok(code),
    };
    let headers: HeaderMap = args.headers.iter().cloned().collect();
    let request =
        ExplainedRequest::new(args.method.clone(), &args.url, headers).map_err(anyhow::Error::msg)?;
    let runtime = super::runtime()?;
    let (explanation, code) = if let Some(admin) = &args.admin {
        (runtime.block_on(ask(admin, args))?, ExitCode::SUCCESS)
    } else {
        let survey = runtime.block_on(survey(&plan, PATIENCE));
        let code = tell_missing(&survey);
        (request.explain(&survey.table, Instant::now()), code)
    };
    std::io::stdout().write_all(render(&explanation).as_bytes())?;
    Ok(code)
}

async fn ask(admin: &str, args: &ExplainArgs) -> anyhow::Result<Explanation> {
    let address = resolve(admin)?;
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut target =
        format!("/api/explain?method={}&url={}", encode(args.method.as_str()), encode(&args.url));
    for (name, value) in &args.headers {
        let value = value.to_str().with_context(|| format!("header {name}: its value is not ASCII"))?;
        let _ = write!(target, "&header={}", encode(&format!("{name}:{value}")));
    }
    let (status, body) = get(address, &target, PATIENCE).await?;
    let body = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("{admin} answers {status}: {}", body.trim());
    }
    serde_json::from_str(&body).with_context(|| format!("{admin} does not answer like a zoogate admin"))
}

fn resolve(admin: &str) -> anyhow::Result<SocketAddr> {
    let bare = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    bare.to_socket_addrs()
        .with_context(|| format!("--admin {admin:?} is no HOST:PORT"))?
        .next()
        .with_context(|| format!("--admin {admin:?} resolves to nothing"))
}

fn render(explanation: &Explanation) -> String {
    let or_none = |text: &Option<String>| text.as_deref().unwrap_or("-").to_owned();
    let mut out = format!("route     {}\n", or_none(&explanation.route));
    if let Some(shard) = &explanation.shard_key {
        let _ = writeln!(out, "shard     {shard}");
    }
    let _ = write!(
        out,
        "service   {}\nkey       {}\ninstance  {}\n",
        or_none(&explanation.service),
        or_none(&explanation.key),
        or_none(&explanation.instance),
    );
    if !explanation.considered.is_empty() {
        out.push('\n');
    }
    for considered in &explanation.considered {
        let (kind, name) = (&considered.kind, &considered.name);
        let _ = writeln!(out, "{kind:8}  {:8}  {name}: {}", considered.verdict, considered.reason);
    }
    out
}
