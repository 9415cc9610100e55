//! A node's path and data, read in every format: never a panic, and nothing that the table cannot hold.

use zoogate::model::{FormatName, Incarnation};
use zoogate::registry::format::{Decoded, Node, Options, decode, detect, encode};

/// The first line is the path, the rest the data.
#[allow(clippy::needless_update, reason = "options may come that this has no opinion about")]
pub fn check(data: &[u8]) {
    let end = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let Ok(path) = std::str::from_utf8(&data[..end]) else { return };
    let node = Node { path, incarnation: Incarnation(7, 0), data: data.get(end + 1..).unwrap_or_default() };
    let look = detect(&node);
    assert_eq!(look, detect(&node));
    for &format in FormatName::ALL {
        for default_port in [None, Some(80)] {
            read(format, &node, Options { default_port, ..Options::default() });
        }
    }
}

fn read(format: FormatName, node: &Node<'_>, options: Options) {
    let decoded = decode(format, node, options);
    assert_eq!(decoded, decode(format, node, options));
    let instances = match decoded {
        Ok(Decoded::Instances(instances)) => instances,
        Ok(_) => return,
        Err(error) => {
            // It stands in one line of a log, and quotes what a registry holds.
            let text = error.to_string();
            assert!(text.starts_with(error.reason.code()), "{text}");
            assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
            assert!(text.len() <= 2_000, "{} bytes of error", text.len());
            return;
        }
    };
    for instance in &instances {
        assert_ne!(instance.address.port, 0, "{instance:?}");
        assert!(instance.weight.is_finite() && instance.weight >= 0.0, "{instance:?}");
        assert!(!instance.address.to_string().contains(|c: char| c.is_control() || c == ' '), "{instance:?}");
        // What is written of it is no more than what is read: it must not panic either.
        let _ = encode(format, "orders", instance);
    }
}
