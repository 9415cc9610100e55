//! The house has floors that only look down, and each vendor's word is spoken in one place.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Lower floors first; siblings share a number and do not see each other.
const FLOORS: &[(&str, u8)] = &[
    ("model", 0),
    ("telemetry", 1),
    ("http2", 1),
    ("config", 2),
    ("balance", 2),
    ("registry", 2),
    ("transport", 2),
    ("table", 3),
    ("proxy", 4),
    ("admin", 4),
    ("registration", 4),
    ("gateway", 5),
    ("cli", 6),
];

/// A word and the places that may speak it.
const WORDS: &[(&str, &[&str])] = &[
    ("zookeeper_client::", &["src/registry/zookeeper/"]),
    ("arc_swap::", &["src/table/swap.rs"]),
    ("prometheus::", &["src/telemetry/"]),
    ("hyper::", &["src/transport/", "src/admin/"]),
];

/// Places without sockets and clocks: they are told the time.
const PURE: &[&str] = &[
    "src/model/",
    "src/balance/",
    "src/table/health.rs",
    "src/proxy/schedule.rs",
    "src/http2/",
    "src/proxy/h1/head.rs",
    "src/proxy/h1/encode.rs",
    "src/proxy/h2/head.rs",
    "src/table/gradient.rs",
    "src/gateway/guard.rs",
    "src/registry/zookeeper/mirror.rs",
    "src/registry/format/",
];
const IMPURE: &[&str] = &["TcpStream", "UdpSocket", "Instant::now", "SystemTime::now", "tokio::"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Path from the root, and the lines that are code: no comments, and nothing from the tests on.
fn code() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(file).unwrap();
            let lines = text
                .lines()
                .take_while(|line| line.trim() != "#[cfg(test)]")
                .filter(|line| !line.trim_start().starts_with("//"))
                .map(str::to_owned)
                .collect();
            (name, lines)
        })
        .collect()
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(floor, _)| *floor == name).map(|(_, level)| *level)
}

#[test]
fn floors_only_look_down() {
    let mut wrong = Vec::new();
    for (file, lines) in code() {
        let own = file.strip_prefix("src/").and_then(|f| f.split(['/', '.']).next()).unwrap();
        let Some(level) = floor(own) else { continue };
        for line in &lines {
            for (at, _) in line.match_indices("crate::") {
                let other: String =
                    line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if other != own && floor(&other).is_some_and(|other| other >= level) {
                    wrong.push(format!("{file}: {}", line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these look up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn vendors_are_spoken_of_in_one_place() {
    let mut wrong = Vec::new();
    for (file, lines) in code() {
        for (word, places) in WORDS {
            if !places.iter().any(|place| file.starts_with(place)) {
                let bare = |line: &str| {
                    line.match_indices(word)
                        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
                };
                wrong.extend(lines.iter().filter(|l| bare(l)).map(|l| format!("{file}: {}", l.trim())));
            }
        }
        let is_test = file.contains("/tests/") || file.ends_with("/tests.rs");
        if !is_test && PURE.iter().any(|place| file.starts_with(place)) {
            let impure = |line: &&String| IMPURE.iter().any(|word| line.contains(word));
            wrong.extend(lines.iter().filter(impure).map(|l| format!("{file}: {}", l.trim())));
        }
    }
    assert!(wrong.is_empty(), "these words stand where they must not:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    let long: Vec<String> = files
        .iter()
        .map(|f| (f, fs::read_to_string(f).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(f, lines)| format!("{}: {lines}", f.display()))
        .collect();
    assert!(long.is_empty(), "split these at 600 lines:\n{}", long.join("\n"));
}
