//! A gateway inside a program: a configuration held as text, started, watched, drained.
//!
//! ```text
//! mkdir -p /tmp/registry/services/hello
//! echo 127.0.0.1:9001 > /tmp/registry/services/hello/one      # a server of yours that listens there
//! cargo run --example embedded -- /tmp/registry 127.0.0.1:8000
//! curl http://127.0.0.1:8000/
//! ```
//!
//! The first argument may also be a connect string, such as `127.0.0.1:2181`. Ctrl-C drains and ends.

use std::env::args;
use std::error::Error;
use std::path::Path;

use zoogate::{Gateway, Plan};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    let listen = args().nth(2).unwrap_or_else(|| "127.0.0.1:8000".to_owned());

    // The gateway's threads are its own: this program may use any runtime, or hardly any.
    let gateway = Gateway::new(plan(&registry, &listen)?).start().await?;
    let address = gateway.address("public").ok_or("the configuration has this listener")?;
    println!("listening on {address}");

    // It serves from here on. Until a service has been listed, its requests are answered with 503.
    gateway.ready().await;
    for service in gateway.table().load().service_views() {
        println!("{} has {} instances", service.name, service.instances.len());
    }

    tokio::signal::ctrl_c().await?;
    // What runs may finish, for as long as `drain_timeout` says; a second Ctrl-C cuts that short.
    gateway.drain(async { _ = tokio::signal::ctrl_c().await }).await;
    println!("drained");
    Ok(())
}

/// The same text as in a configuration file. Every error in it is told at once, with line and column.
fn plan(registry: &str, listen: &str) -> Result<Plan, Box<dyn Error>> {
    let registry = if Path::new(registry).is_dir() {
        format!("kind = \"directory\"\npath = {registry:?}")
    } else {
        format!("kind = \"zookeeper\"\nconnect = {registry:?}")
    };
    let text = format!(
        r#"
        [gateway]
        workers = 2
        access_log = "off"
        [admin]
        listen = "127.0.0.1:0"
        [registries.main]
        {registry}
        [services.hello]
        path = "/services/hello"
        [[listeners]]
        name = "public"
        listen = "{listen}"
        [[routes]]
        service = "hello"
        "#
    );
    Ok(text.parse()?)
}
