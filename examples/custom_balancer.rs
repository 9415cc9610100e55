//! A balancing policy of one's own: everything goes to the first instance, and to the next only while it fails.
//!
//! ```text
//! mkdir -p /tmp/registry/services/hello
//! echo 127.0.0.1:9001 > /tmp/registry/services/hello/one
//! echo 127.0.0.1:9002 > /tmp/registry/services/hello/two
//! cargo run --example custom_balancer -- /tmp/registry 127.0.0.1:8000
//! curl http://127.0.0.1:8000/       # 9001; stop it, and the same goes to 9002
//! ```
//!
//! `zoogate::balance` has the policies that come with the gateway, to read or to build on.

use std::env::args;
use std::error::Error;
use std::sync::Arc;

use zoogate::balance::{Balancer, BalancerFactory, Candidates, Cursors, Member, PickContext, Slot};
use zoogate::model::{BalanceSpec, ServiceName};
use zoogate::{Gateway, Plan};

/// One balancer: made for a list of members, never changed. When the list changes there is a new one.
#[derive(Debug)]
struct Standby {
    /// The slots in the order of their addresses, without those of weight 0.
    order: Vec<Slot>,
}

impl Balancer for Standby {
    /// Called for every request, on the worker that has it: it must not block.
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        // `usable` leaves out who is disabled or ejected, `exclude` whom this very request has tried already.
        let open = |slot: &Slot| candidates.usable(*slot) && !context.exclude.contains(slot);
        self.order.iter().copied().find(open)
    }
}

/// Makes the balancers of a service, whenever its members change.
#[derive(Debug)]
struct StandbyFactory;

impl BalancerFactory for StandbyFactory {
    fn describe(&self, _: &BalanceSpec) -> String {
        // Part of the fingerprint, by which operators compare gateways.
        "standby".to_owned()
    }

    fn build(&self, _: &BalanceSpec, members: &[Member], _: &Arc<Cursors>) -> Arc<dyn Balancer> {
        let mut order: Vec<Slot> = (0..members.len()).filter(|&slot| members[slot].share > 0.0).collect();
        order.sort_by(|a, b| members[*a].address.cmp(&members[*b].address));
        Arc::new(Standby { order })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = args().nth(1).ok_or("usage: custom_balancer REGISTRY-DIRECTORY [LISTEN]")?;
    let listen = args().nth(2).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let plan: Plan = format!(
        r#"
        [gateway]
        access_log = "off"
        [admin]
        listen = "127.0.0.1:0"
        [registries.main]
        kind = "directory"
        path = {registry:?}
        [services.hello]
        path = "/services/hello"
        [[listeners]]
        name = "public"
        listen = "{listen}"
        [[routes]]
        service = "hello"
        "#
    )
    .parse()?;

    // By the service's name; a catalog's name stands for all of its services. The file's `balance` then only says
    // what `describe` and `build` are told.
    let gateway =
        Gateway::new(plan).balancer(ServiceName::new("hello")?, Arc::new(StandbyFactory)).start().await?;
    println!("listening on {}", gateway.address("public").ok_or("no such listener")?);
    gateway.ready().await;
    println!("ready");

    tokio::signal::ctrl_c().await?;
    gateway.drain(std::future::pending()).await;
    Ok(())
}
