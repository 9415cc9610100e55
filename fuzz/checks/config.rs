//! A configuration's text: a plan that the table takes, or every problem in its line.

use std::path::Path;

use zoogate::config::parse;
use zoogate::table::{TableConfig, TableWriter};

/// The data is the text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| name.len().is_multiple_of(2).then(|| format!("127.0.0.1:{}", name.len()));
    match parse(text, Path::new("/nowhere"), env, "fuzz.toml") {
        Ok(plan) => {
            let (mut writer, reader) = TableWriter::new(1);
            writer.configure(TableConfig::new(&plan, &[]));
            assert!(writer.publish());
            assert_eq!(reader.load().routes().len(), plan.routes.len());
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            let lines = text.split('\n').count();
            for error in &errors.errors {
                assert!((1..=lines).contains(&error.line) && error.col >= 1, "{error:?}");
                assert!(!error.key.is_empty() && !error.message.is_empty(), "{error:?}");
            }
            let shown = errors.to_string();
            assert_eq!(shown.lines().count(), errors.errors.len(), "one line a problem: {shown:?}");
            assert!(shown.lines().all(|line| line.starts_with("fuzz.toml:")), "{shown:?}");
        }
    }
}
