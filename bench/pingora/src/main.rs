//! A peer: the smallest balancer that Pingora's own guide arrives at. `bench-pingora LISTEN ORIGIN...`

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Balancer {
    origins: Arc<LoadBalancer<RoundRobin>>,
}

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        let origin = self.origins.select(b"", 16).ok_or_else(|| Error::new(ErrorType::ConnectNoRoute))?;
        Ok(Box::new(HttpPeer::new(origin, false, String::new())))
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let listen = args.next().expect("an address to listen on");
    let origins: Vec<String> = args.collect();
    let settings = ServerConf { threads: 1, upstream_keepalive_pool_size: 256, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let origins = LoadBalancer::try_from_iter(origins).expect("addresses of origins");
    let mut proxy = http_proxy_service(&server.configuration, Balancer { origins: Arc::new(origins) });
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    if let Some(logic) = proxy.app_logic_mut() {
        logic.server_options = Some(options);
    }
    proxy.add_tcp(&listen);
    server.add_service(proxy);
    server.run_forever();
}
