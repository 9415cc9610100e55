//! The demo's instances: small HTTP servers, processes of their own, that register themselves.

use std::io::{Read, Write};
use std::process::ExitCode;

use http::StatusCode;
use tokio::net::TcpListener;

use super::args::SampleInstanceArgs;
use super::register::{place, release};
use crate::admin::http::{answer, serve};
use crate::model::{FormatName, Instance};
use crate::registration::{Announcement, Parents, Registrar, RegistrarOptions};

/// Serves until standard input ends, which it does when the demo does, however that ends.
pub(super) fn run(args: SampleInstanceArgs) -> anyhow::Result<ExitCode> {
    let place = place(args.zookeeper, args.directory, Parents::Persistent)?;
    let name = args.name;
    super::runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let instance = Instance::new(name.as_str().into(), address.into());
        let announcement = Announcement::new(FormatName::Plain, &args.path, &instance, false)?;
        let mut registrar = Registrar::start(RegistrarOptions::new(place, announcement));
        registrar.registered().await?;
        let mut out = std::io::stdout();
        writeln!(out, "{address}")?;
        out.flush()?;
        let body = format!("hello from {name}\n");
        let served = serve(listener, move |_| {
            let body = body.clone();
            async move { answer(StatusCode::OK, "text/plain; charset=utf-8", body) }
        });
        // A thread, not a task: a blocked read of standard input would hold the runtime's end up.
        let (gone, parent_gone) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = gone.send(());
        });
        tokio::select! {
            never = served => match never {},
            _ = parent_gone => {}
        }
        release(registrar).await;
        Ok(ExitCode::SUCCESS)
    })
}
