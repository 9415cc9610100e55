//! gRPC with both ends not ours.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::support::gateway::{Gateway, LOCAL};
use crate::support::instance::Instance;
use crate::support::script::{Script, run_script};
use crate::support::zk::free_port;

fn config(route: &str) -> String {
    format!("{LOCAL}[services.echo]\npath = \"/echo\"\nprotocol = \"h2\"\n{route}")
}

fn calls(address: SocketAddr, cases: &[&str]) -> BTreeMap<String, Value> {
    let target = address.to_string();
    let printed = run_script("grpc_client.py", &[&[target.as_str()], cases].concat());
    let answers: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), cases.len(), "{printed}");
    cases.iter().map(|case| (*case).to_owned()).zip(answers).collect()
}

#[test]
fn all_four_call_kinds_pass_with_trailers_errors_and_deadlines() {
    let gateway =
        Gateway::start("grpc", &config("[[routes]]\npath = \"/test.Echo/*\"\nservice = \"echo\"\n"));
    let mut server = Script::start("grpc_server.py", &[]);
    gateway.register("echo/py", format!("127.0.0.1:{}", server.line()));
    gateway.instances("echo", &["py"]);
    let cases = ["unary", "server_stream", "client_stream", "bidi", "big", "fail", "deadline", "many"];
    let told = calls(gateway.listener("public"), &cases);
    for case in ["unary", "server_stream", "client_stream", "bidi", "big"] {
        assert_eq!(told[case]["code"], "OK", "{:?}", told[case]);
        assert_eq!(told[case]["trailers"]["x-trailer"], "from the server", "{case}");
    }
    assert_eq!(told["unary"]["answers"], serde_json::json!(["unary:a"]));
    assert_eq!(told["server_stream"]["answers"], serde_json::json!(["0:b", "1:b", "2:b", "3:b", "4:b"]));
    assert_eq!(told["client_stream"]["answers"], serde_json::json!(["c|d|e"]));
    assert_eq!(told["bidi"]["answers"], serde_json::json!(["echo:f", "echo:g"]));
    assert_eq!(told["big"]["answers"], serde_json::json!(["3000006"]));
    assert_eq!(told["many"]["answers"], serde_json::json!(["1000"]));
    assert_eq!(
        (&told["fail"]["code"], &told["fail"]["details"]),
        (&"FAILED_PRECONDITION".into(), &"not now: 50 % of it".into())
    );
    assert_eq!(told["deadline"]["code"], "DEADLINE_EXCEEDED");
}

#[test]
fn errors_of_the_gateway_are_grpc_statuses() {
    let gateway = Gateway::start(
        "grpc-errors",
        &config("[[routes]]\npath = \"/test.Echo/*\"\nservice = \"echo\"\ntimeout = \"300ms\"\n"),
    );
    gateway.ready();
    let public = gateway.listener("public");
    assert_eq!(calls(public, &["unary"])["unary"]["code"], "UNAVAILABLE", "no_instances");
    gateway.register("echo/dead", format!("127.0.0.1:{}", free_port()));
    gateway.instances("echo", &["dead"]);
    assert_eq!(calls(public, &["unary"])["unary"]["code"], "UNAVAILABLE", "connect_failed");

    let mut server = Script::start("grpc_server.py", &[]);
    gateway.register("echo/py", format!("127.0.0.1:{}", server.line()));
    gateway.withdraw("echo/dead");
    gateway.instances("echo", &["py"]);
    // The client would wait 0.5 s: the route's timeout is over first, and the gateway says so itself.
    let told = &calls(public, &["deadline"])["deadline"];
    assert_eq!(told["code"], "DEADLINE_EXCEEDED");
    assert!(told["details"].as_str().unwrap().contains("route"), "{told}");

    let nowhere = Gateway::start("grpc-nowhere", &config(""));
    assert_eq!(calls(nowhere.listener("public"), &["unary"])["unary"]["code"], "UNIMPLEMENTED", "no_route");
}

#[test]
fn a_grpc_request_to_something_else_is_an_error_and_no_hang() {
    let gateway = Gateway::start("grpc-h1", &config("[[routes]]\npath = \"/*\"\nservice = \"echo\"\n"));
    let instance = Instance::start("http1 only");
    gateway.register("echo/h1", instance.address);
    gateway.instances("echo", &["h1"]);
    let told = calls(gateway.listener("public"), &["unary"]);
    assert_eq!(told["unary"]["code"], "UNAVAILABLE", "{told:?}");
}
