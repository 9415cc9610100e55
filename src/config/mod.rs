//! The configuration file: read whole, checked whole, and only then a [`Plan`].
//!
//! [`load`] and [`parse`] report every problem of a file at once, each with line, column and key. What
//! they return is sound by type: defaults are filled in, references resolve, patterns are parsed.
//!
//! On the way: `document` (text to tree, syntax errors) → `reader` (values and their places) → one
//! file a section. [`schema`] lists every key there is.

use std::cell::RefCell;
use std::path::Path;
use std::str::FromStr;

mod balance;
mod document;
mod environment;
mod error;
mod gateway;
mod health;
mod listeners;
mod load;
mod memory;
mod names;
mod nearest;
mod network;
mod nodes;
mod pattern;
pub mod plan;
mod protection;
mod reader;
mod registries;
mod retry;
mod routes;
pub mod schema;
mod services;
mod shard;
#[cfg(test)]
mod tests;
mod units;

pub use error::{ConfigError, ConfigErrors};
pub use network::check_registry_path;
pub use plan::Plan;
pub use units::parse_duration;

/// Reads and checks a file. Relative paths in it count from its folder.
pub fn load(path: &Path) -> Result<Plan, ConfigErrors> {
    let label = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        ConfigErrors::of_file(&label, format!("cannot be read: {error}; accepted: a TOML file"))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, folder, |name| std::env::var(name).ok(), &label),
        Err(error) => {
            let sound = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let message = "this is no UTF-8; accepted: a TOML file, which is UTF-8 text".to_owned();
            let found = error::Found { at: sound.len(), key: "file".to_owned(), message };
            Err(ConfigErrors::locate(&label, &sound, vec![found]))
        }
    }
}

/// Checks a text as [`load`] does: `folder` is what relative paths count from, `env` looks environment
/// variables up, `label` is how errors call the file.
pub fn parse(
    text: &str,
    folder: &Path,
    env: impl Fn(&str) -> Option<String>,
    label: &str,
) -> Result<Plan, ConfigErrors> {
    let mut document = document::Document::read(text);
    let syntax = std::mem::take(&mut document.errors);
    let tree = toml::de::DeValue::Table(document.tree());
    let reader = reader::Reader { folder, env: &env, holes: &document.holes, errors: RefCell::new(syntax) };
    let plan = read(&reader.root(&tree));
    let found = reader.errors.take();
    match plan {
        Some(plan) if found.is_empty() => Ok(plan),
        _ => Err(ConfigErrors::locate(label, text, found)),
    }
}

impl FromStr for Plan {
    type Err = ConfigErrors;

    /// A configuration that a program holds as text: checked like a file, with the process's environment. Relative
    /// paths count from the working directory.
    fn from_str(text: &str) -> Result<Self, ConfigErrors> {
        parse(text, Path::new(""), |name| std::env::var(name).ok(), "configuration")
    }
}

/// The sections in the order of their references: a registry before the services in it, these before
/// the routes to them.
fn read(root: &reader::Node<'_>) -> Option<Plan> {
    let file = root.table(&schema::ROOT)?;
    let mut plan = Plan {
        log: gateway::log(&file),
        admin: gateway::admin(&file),
        limits: gateway::limits(&file),
        ..Plan::default()
    };
    let mut known = names::Known::default();
    plan.registries = registries::registries(&file, &mut known);
    plan.gateway = gateway::gateway(&file, &known);
    known.zone.clone_from(&plan.gateway.zone);
    plan.services = services::services(&file, &mut known);
    plan.catalogs = services::catalogs(&file, &mut known);
    let services = plan.services.iter().map(|s| (s.name.to_string(), s.registry.clone()));
    let catalogs = plan.catalogs.iter().map(|c| (c.name.to_string(), c.registry.clone()));
    known.homes = services.chain(catalogs).collect();
    plan.gateway.drain_lock = nodes::drain_lock(&file, &plan.registries, &known);
    plan.listeners = listeners::listeners(&file, &known, plan.admin.listen);
    plan.routes = routes::routes(&file, &known);
    Some(plan)
}
