//! Every key of the configuration file, as data: what the check for unknown keys, the commented
//! example and the reference documentation are held against.

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// Where it stands: keys from the root, `*` for any name or any element of a list.
    pub path: &'static [&'static str],
    /// How the file and the reference write it.
    pub heading: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// As the file writes it.
    pub name: &'static str,
    /// What its value is, in words.
    pub kind: &'static str,
    /// What holds when it is left out.
    pub fallback: Fallback,
}

/// What holds when a key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// An error.
    Required,
    /// This value, as TOML.
    Value(&'static str),
    /// What these words say.
    Words(&'static str),
}

use Fallback::{Required, Value, Words};

const fn key(name: &'static str, kind: &'static str, fallback: Fallback) -> Key {
    Key { name, kind, fallback }
}

/// The file itself: its keys are the other sections.
pub(super) static ROOT: Section = Section {
    path: &[],
    heading: "the file",
    keys: &[
        key("gateway", "a table, [gateway]", Words("defaults")),
        key("log", "a table, [log]", Words("defaults")),
        key("admin", "a table, [admin]", Words("defaults")),
        key("limits", "a table, [limits]", Words("defaults")),
        key("registries", "tables, [registries.NAME]", Words("none")),
        key("services", "tables, [services.NAME]", Words("none")),
        key("catalogs", "tables, [catalogs.NAME]", Words("none")),
        key("listeners", "at least one table, [[listeners]]", Required),
        key("routes", "tables, [[routes]]", Words("none")),
    ],
};

pub(super) static GATEWAY: Section = Section {
    path: &["gateway"],
    heading: "[gateway]",
    keys: &[
        key("workers", "integer", Words("one per core")),
        key("drain_timeout", "duration", Value("\"30s\"")),
        key("drain_delay", "duration", Value("\"0s\"")),
        key("access_log", "string", Value("\"stdout\"")),
        key("event_log", "file path", Words("none")),
        key("event_log_size", "size", Value("\"64MiB\"")),
        key("handover", "file path", Words("none")),
        key("drain_lock", "node", Words("none")),
        key("drain_lock_timeout", "duration", Value("\"60s\"")),
        key("id", "string", Words("host name and process id")),
        key("register", "a table, [gateway.register]", Words("nowhere")),
        key("zone", "string", Words("none")),
    ],
};

pub(super) static GATEWAY_REGISTER: Section = Section {
    path: &["gateway", "register"],
    heading: "[gateway.register]",
    keys: &[
        key("registry", "name", Words("the only one")),
        key("path", "registry path", Value("\"/zoogate/gateways\"")),
    ],
};

pub(super) static LOG: Section = Section {
    path: &["log"],
    heading: "[log]",
    keys: &[key("level", "string", Value("\"info\"")), key("format", "string", Value("\"text\""))],
};

pub(super) static ADMIN: Section = Section {
    path: &["admin"],
    heading: "[admin]",
    keys: &[key("listen", "address", Value("\"127.0.0.1:9901\""))],
};

pub(super) static LIMITS: Section = Section {
    path: &["limits"],
    heading: "[limits]",
    keys: &[
        key("max_connections", "integer", Value("10000")),
        key("max_headers", "integer", Value("100")),
        key("max_header_size", "size", Value("\"64KiB\"")),
        key("max_body", "size", Value("\"0\"")),
        key("max_memory", "size", Words("three quarters of what there is")),
        key("idle_timeout", "duration", Value("\"60s\"")),
        key("header_timeout", "duration", Value("\"10s\"")),
    ],
};

pub(super) static REGISTRY: Section = Section {
    path: &["registries", "*"],
    heading: "[registries.NAME]",
    keys: &[
        key("kind", "string", Required),
        key("connect", "connect string", Words("required for ZooKeeper")),
        key("session_timeout", "duration", Value("\"10s\"")),
        key("auth", "list of tables", Value("[]")),
        key("path", "file path", Words("required for a directory")),
        key("deny", "list of ranges", Value("[\"169.254.0.0/16\"]")),
        key("snapshot", "file path", Words("none")),
    ],
};

pub(super) static AUTH: Section = Section {
    path: &["registries", "*", "auth", "*"],
    heading: "auth = [{ … }]",
    keys: &[key("scheme", "string", Required), key("credentials", "string", Required)],
};

const SERVICE_KEYS: &[Key] = &[
    key("registry", "name", Words("the only one")),
    key("path", "registry path", Required),
    key("format", "string", Value("\"auto\"")),
    key("default_port", "integer", Words("no default")),
    key("endpoint", "string", Words("the main one")),
    key("scheme", "string", Words("any")),
    key("tls", "string", Value("\"prefer\"")),
    key("filter", "table of strings", Value("{}")),
    key("keep_last_good", "boolean", Value("true")),
    key("protocol", "string", Value("\"http1\"")),
    key("balance", "string or table", Value("\"round_robin\"")),
    key("connect_timeout", "duration", Value("\"1s\"")),
    key("dns_ttl", "duration", Value("\"30s\"")),
    key("primary", "string or table", Words("as registered")),
    key("zone", "string or table", Words("all alike")),
    key("slow_start", "duration", Words("as registered")),
    key("retry_budget", "number", Value("0.2")),
    key("max_requests", "integer", Words("no limit")),
    key("max_requests_per_instance", "integer", Words("no limit")),
    key("adaptive", "boolean", Value("false")),
    key("queue", "table", Words("the defaults below")),
    key("vanish_guard", "table", Words("off")),
    key("ejection", "string or table", Words("on")),
    key("drain_timeout", "duration", Words("the gateway's")),
    key("rehome", "boolean", Value("false")),
    key("rehome_window", "duration", Value("\"30s\"")),
    key("health_check", "string or table", Words("tcp for persistent nodes")),
];

pub(super) static SERVICE: Section =
    Section { path: &["services", "*"], heading: "[services.NAME]", keys: SERVICE_KEYS };

pub(super) static CATALOG: Section =
    Section { path: &["catalogs", "*"], heading: "[catalogs.NAME]", keys: SERVICE_KEYS };

pub(super) static BALANCE: Section = Section {
    path: &["services", "*", "balance"],
    heading: "balance = { … }",
    keys: &[
        key("policy", "string", Required),
        key("key", "hash key", Words("required for ring and maglev")),
        key("virtual_nodes", "integer", Value("160")),
        key("table_size", "integer", Value("65537")),
        key("load_bound", "number", Words("no bound")),
    ],
};

pub(super) static PRIMARY: Section = Section {
    path: &["services", "*", "primary"],
    heading: "primary = { … }",
    keys: &[key("election", "registry path", Required)],
};

pub(super) static ZONE: Section = Section {
    path: &["services", "*", "zone"],
    heading: "zone = { … }",
    keys: &[
        key("prefer", "string", Words("the gateway's `zone`")),
        key("spill_below", "number", Value("0.5")),
    ],
};

pub(super) static QUEUE: Section = Section {
    path: &["services", "*", "queue"],
    heading: "queue = { … }",
    keys: &[key("length", "integer", Value("100")), key("timeout", "duration", Value("\"1s\""))],
};

pub(super) static VANISH_GUARD: Section = Section {
    path: &["services", "*", "vanish_guard"],
    heading: "vanish_guard = { … }",
    keys: &[
        key("share", "number", Value("0.5")),
        key("window", "duration", Value("\"10s\"")),
        key("hold", "duration", Value("\"5m\"")),
    ],
};

pub(super) static EJECTION: Section = Section {
    path: &["services", "*", "ejection"],
    heading: "ejection = { … }",
    keys: &[
        key("failures", "integer", Value("5")),
        key("statuses", "list of integers", Value("[502, 503, 504]")),
        key("max_ejected", "number", Value("0.5")),
        key("panic_threshold", "number", Value("0.3")),
    ],
};

pub(super) static HEALTH_CHECK: Section = Section {
    path: &["services", "*", "health_check"],
    heading: "health_check = { … }",
    keys: &[
        key("kind", "string", Required),
        key("path", "string", Value("\"/\"")),
        key("host", "string", Words("the address")),
        key("statuses", "list of integers", Words("2xx")),
        key("service", "string", Value("\"\"")),
        key("port", "integer", Words("the instance's")),
        key("interval", "duration", Value("\"5s\"")),
        key("timeout", "duration", Value("\"1s\"")),
        key("unhealthy", "integer", Value("2")),
        key("healthy", "integer", Value("1")),
    ],
};

pub(super) static LISTENER: Section = Section {
    path: &["listeners", "*"],
    heading: "[[listeners]]",
    keys: &[
        key("name", "string", Words("its address")),
        key("listen", "address", Required),
        key("protocol", "string", Value("\"http\"")),
        key("service", "service name", Words("required for tcp")),
        key("trusted", "list of ranges", Value("[]")),
    ],
};

pub(super) static ROUTE: Section = Section {
    path: &["routes", "*"],
    heading: "[[routes]]",
    keys: &[
        key("name", "string", Words("its match, as text")),
        key("host", "host pattern", Words("any host")),
        key("path", "path pattern", Value("\"/*\"")),
        key("methods", "list of strings", Words("any method")),
        key("headers", "table of strings", Value("{}")),
        key("query", "table of strings", Value("{}")),
        key("service", "service name", Words("this or `services`")),
        key("services", "list of tables", Words("this or `service`")),
        key("timeout", "duration", Value("\"60s\"")),
        key("rewrite", "path", Words("the path as it came")),
        key("barrier", "node", Words("none")),
        key("barrier_wait", "duration", Words("the timeout")),
        key("instances", "string", Value("\"any\"")),
        key("primary_wait", "duration", Value("\"0s\"")),
        key("shard", "table", Words("none")),
        key("retry", "string or table", Words("as below")),
        key("hedge", "duration", Words("none")),
        key("rate_limit", "table", Words("none")),
    ],
};

pub(super) static RETRY: Section = Section {
    path: &["routes", "*", "retry"],
    heading: "retry = { … }",
    keys: &[
        key("attempts", "integer", Value("2")),
        key("statuses", "list of integers", Value("[502, 503, 504]")),
        key("methods", "list of strings", Words("the idempotent ones")),
        key("per_try_timeout", "duration", Words("none")),
        key("buffer", "size", Value("\"64KiB\"")),
    ],
};

pub(super) static RATE_LIMIT: Section = Section {
    path: &["routes", "*", "rate_limit"],
    heading: "rate_limit = { … }",
    keys: &[
        key("rate", "integer", Required),
        key("per", "duration", Value("\"1s\"")),
        key("burst", "integer", Words("the rate")),
        key("key", "hash key", Words("one for the whole route")),
    ],
};

pub(super) static WEIGHTED: Section = Section {
    path: &["routes", "*", "services", "*"],
    heading: "services = [{ … }]",
    keys: &[key("name", "service name", Required), key("weight", "integer", Value("1"))],
};

const NODE_KEYS: &[Key] =
    &[key("registry", "name", Words("the one that can be meant")), key("path", "registry path", Required)];

pub(super) static DRAIN_LOCK: Section =
    Section { path: &["gateway", "drain_lock"], heading: "drain_lock = { … }", keys: NODE_KEYS };

pub(super) static BARRIER: Section =
    Section { path: &["routes", "*", "barrier"], heading: "barrier = { … }", keys: NODE_KEYS };

pub(super) static SHARD: Section = Section {
    path: &["routes", "*", "shard"],
    heading: "shard = { … }",
    keys: &[
        key("catalog", "catalog name", Required),
        key("key", "hash key", Required),
        key("policy", "string", Value("\"ring\"")),
        key("virtual_nodes", "integer", Value("160")),
    ],
};

/// Every section, in the order of the reference.
pub static SECTIONS: [&Section; 25] = [
    &ROOT,
    &GATEWAY,
    &GATEWAY_REGISTER,
    &LOG,
    &ADMIN,
    &LIMITS,
    &REGISTRY,
    &AUTH,
    &SERVICE,
    &CATALOG,
    &BALANCE,
    &PRIMARY,
    &ZONE,
    &VANISH_GUARD,
    &EJECTION,
    &LISTENER,
    &ROUTE,
    &WEIGHTED,
    &SHARD,
    &RETRY,
    &QUEUE,
    &RATE_LIMIT,
    &DRAIN_LOCK,
    &BARRIER,
    &HEALTH_CHECK,
];

impl Section {
    /// The key of this name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
