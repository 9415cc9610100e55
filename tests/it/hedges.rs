//! Hedged requests, and instances that answer nobody.

use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, LOCAL, wait_for};
use crate::support::moody::{Mood, Moody};

#[test]
fn a_hedged_request_does_not_wait_for_an_instance_that_answers_nobody() {
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\n[[routes]]\nservice = \"orders\"\nhedge = \"50s\"\ntimeout = \"60s\"\n"
    );
    let gateway = Gateway::start("hedge-silent", &config);
    let (hung, well) = (Moody::start("hung", Mood::Hangs), Moody::start("well", Mood::Well));
    gateway.register("orders/hung", hung.address);
    gateway.register("orders/well", well.address);
    gateway.instances("orders", &["hung", "well"]);
    // By turns: one of the first two meets it, and nobody hedges for most of a minute.
    let begun = Instant::now();
    wait_for("a request at the one that hangs", || {
        assert_eq!(gateway.get("/x").body, "well");
        (hung.gets() > 0).then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let silent = "zoogate_retries_total{reason=\"silent\",service=\"orders\"}";
    assert_eq!(gateway.metric(silent), Some(1.0));
    assert_eq!(gateway.metric("zoogate_retries_total{reason=\"hedge\",service=\"orders\"}"), None);

    let routes = gateway.json("/api/routes");
    let route = &routes["routes"][0];
    assert_eq!((&route["hedge"], &route["retry"]["attempts"]), (&50.0.into(), &2.into()), "{route}");
}
