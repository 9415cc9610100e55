//! A filter of one's own: requests need an API key, and instances learn whose it is.
//!
//! ```text
//! mkdir -p /tmp/registry/services/hello
//! echo 127.0.0.1:9001 > /tmp/registry/services/hello/one      # a server of yours that listens there
//! cargo run --example custom_filter -- /tmp/registry 127.0.0.1:8000
//! curl -i http://127.0.0.1:8000/                              # 401
//! curl -i -H 'x-api-key: abc' http://127.0.0.1:8000/          # forwarded, with x-user: ann
//! ```
//!
//! A filter is a tower `Layer`, and so can be many that others have written. Filters see a request after it was checked
//! and before it is routed, and the answer on its way back.

use std::collections::HashMap;
use std::env::args;
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, StatusCode};
use tower::{Layer, Service};
use zoogate::{Body, BoxError, FilterFuture, FilterService, Filters, Gateway, Plan};

/// What is shared: the users by their keys.
#[derive(Clone)]
struct ApiKeys(Arc<HashMap<&'static str, HeaderValue>>);

/// Each worker has one of its own around what comes next: another filter, or the forwarding.
struct CheckKey {
    keys: ApiKeys,
    next: FilterService,
}

impl Layer<FilterService> for ApiKeys {
    type Service = CheckKey;

    fn layer(&self, next: FilterService) -> CheckKey {
        CheckKey { keys: self.clone(), next }
    }
}

impl Service<Request<Body>> for CheckKey {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = FilterFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.next.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> FilterFuture {
        // The key is for us alone: instances do not get to see it.
        let key = request.headers_mut().remove("x-api-key");
        let user = key.as_ref().and_then(|key| self.keys.0.get(key.to_str().ok()?));
        let Some(user) = user else {
            let mut answer = Response::new(Body::full("an API key is needed, in the header x-api-key\n"));
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            return Box::pin(async { Ok(answer) });
        };
        // Replaces what the client may have sent under this name.
        request.headers_mut().insert("x-user", user.clone());
        let answer = self.next.call(request);
        Box::pin(async {
            let mut answer = answer.await?;
            answer.headers_mut().insert("cache-control", HeaderValue::from_static("private"));
            Ok(answer)
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = args().nth(1).ok_or("usage: custom_filter REGISTRY-DIRECTORY [LISTEN]")?;
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

    let users = [("abc", HeaderValue::from_static("ann")), ("xyz", HeaderValue::from_static("bob"))];
    let keys = ApiKeys(Arc::new(HashMap::from(users)));
    // More than one filter: the first is the outermost.
    let gateway = Gateway::new(plan).filters(Filters::default().layer(keys)).start().await?;
    println!("listening on {}", gateway.address("public").ok_or("no such listener")?);
    gateway.ready().await;
    println!("ready");

    tokio::signal::ctrl_c().await?;
    gateway.drain(std::future::pending()).await;
    Ok(())
}
