//! The check of a load's history sees what it is there for.

use std::collections::HashMap;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use crate::support::load::{Sent, Served, compare};

fn sent(method: &'static str, status: u16) -> Sent {
    let (at, took) = (Instant::now(), Duration::ZERO);
    let id = "1".to_owned();
    Sent { echo: Some(id.clone()), id, method, at, took, status, answer: "a".to_owned() }
}

fn seen(id: &str, served: &[(&str, &str)]) -> HashMap<String, Vec<Served>> {
    let served = served.iter().map(|(name, body)| ((*name).to_owned(), body.as_bytes().to_vec()));
    HashMap::from([(id.to_owned(), served.collect())])
}

#[test]
fn a_bad_history_is_seen_as_one_and_a_good_one_is_not() {
    let (get, post) = (sent("GET", 200), sent("POST", 200));
    for (request, served) in
        [(&get, &[("a", "")][..]), (&get, &[("b", ""), ("a", "")]), (&post, &[("a", "1")])]
    {
        assert_eq!(compare(std::slice::from_ref(request), seen("1", served)).failures.len(), 0);
    }
    let lost = compare(&[sent("POST", 502)], HashMap::new());
    assert_eq!((lost.requests, lost.failures.len()), (1, 1));
    let bad = [
        (&post, "1", &[("a", "1"), ("b", "1")][..]),
        (&post, "1", &[("b", "1")]),
        (&post, "1", &[("a", "")]),
        (&post, "1", &[("a", "2")]),
        (&get, "1", &[]),
        (&get, "1", &[("a", ""), ("b", ""), ("c", ""), ("a", "")]),
        (&get, "2", &[("a", "")]),
    ];
    for (request, id, served) in bad {
        let told = catch_unwind(|| compare(std::slice::from_ref(request), seen(id, served)));
        assert!(told.is_err(), "{request:?} {id} {served:?}");
    }
    // Each was served, and the answers went to the wrong clients.
    for echo in [None, Some("2".to_owned())] {
        for request in [&get, &post] {
            let swapped = [Sent { echo: echo.clone(), ..request.clone() }];
            assert!(catch_unwind(|| compare(&swapped, seen("1", &[("a", "1")]))).is_err(), "{swapped:?}");
        }
    }
}
