//! The last known members on disk, for a start while the registry is out of reach.
//!
//! A file is one line about itself, then its content: the line holds the content's length and a CRC-32 over both, so a
//! file that was cut, mixed up or edited anywhere is refused whole. It is written beside its place and renamed into it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Base;
use crate::model::{
    FormatName, Host, Incarnation, Instance, InstanceId, NodeFacts, Owner, Role, ServiceName, ServiceSnapshot,
};

/// The layout of the file: another number is not read, but for [`OLD_VERSION`].
const VERSION: u32 = 2;
/// The same, with a CRC-32 over the content alone.
const OLD_VERSION: u32 = 1;
/// The longest first line, in bytes.
const MAX_HEAD: usize = 4096;
/// The longest content that is read, in bytes: some four million instances.
const MAX_CONTENT: u64 = 1 << 30;

/// What a registry held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// When it was written.
    pub written: SystemTime,
    /// The highest creation zxid among its nodes; 0 for a directory.
    pub zxid: u64,
    /// The services and catalogs in it.
    pub bases: Vec<StoredBase>,
}

/// What one base held.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredBase {
    /// The service's name, or the catalog's.
    pub name: ServiceName,
    /// How it was read: see [`reading`].
    pub reading: String,
    /// Its services: itself, or the children of the catalog.
    pub services: Vec<(ServiceName, Arc<ServiceSnapshot>)>,
}

/// Everything about a base that decides what its nodes mean. A base that is read in another way now cannot use what was
/// stored.
pub fn reading(base: &Base) -> String {
    let Base { name: _, catalog, path, format, reading, deny: _, primary, election: _ } = base;
    format!("{path} catalog={catalog} {format:?} {reading:?} {primary:?}")
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It is damaged, or no snapshot at all.
    #[error("it is damaged: {0}")]
    Corrupt(String),
    /// It is of another registry.
    #[error("it is of another registry: {found}, and not {expected}")]
    Foreign {
        /// What it says.
        found: String,
        /// What is configured.
        expected: String,
    },
}

impl SnapshotError {
    fn corrupt(why: impl std::fmt::Display) -> Self {
        Self::Corrupt(why.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    zoogate_snapshot: u32,
    origin: String,
    written_ms: u64,
    zxid: u64,
    length: u64,
    crc32: u32,
}

impl Head {
    /// Over everything that this line says, and the content.
    fn checksum(&self, content: &[u8]) -> u32 {
        let Self { zoogate_snapshot, origin, written_ms, zxid, length, crc32: _ } = self;
        let mut hasher = crc32fast::Hasher::new();
        if *zoogate_snapshot != OLD_VERSION {
            hasher.update(format!("{zoogate_snapshot} {written_ms} {zxid} {length} {origin}\n").as_bytes());
        }
        hasher.update(content);
        hasher.finalize()
    }
}

/// Writes a snapshot of the registry at `origin`. Blocks; atomic: a reader, or a start after a crash, finds the old file
/// or the new one.
pub fn write(path: &Path, origin: &str, stored: &Stored) -> io::Result<()> {
    let bases: Vec<BaseRecord<'_>> = stored.bases.iter().map(BaseRecord::new).collect();
    let content = serde_json::to_vec(&bases)?;
    let mut head = Head {
        zoogate_snapshot: VERSION,
        origin: origin.to_owned(),
        written_ms: millis(stored.written),
        zxid: stored.zxid,
        length: content.len() as u64,
        crc32: 0,
    };
    head.crc32 = head.checksum(&content);
    let beside = beside(path, "tmp");
    let mut file = File::create(&beside)?;
    serde_json::to_writer(&mut file, &head)?;
    file.write_all(b"\n")?;
    file.write_all(&content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    // The rename itself is in the folder.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Reads the snapshot of the registry at `origin`; `None` where there is no file. Blocks.
pub fn read(path: &Path, origin: &str) -> Result<Option<Stored>, SnapshotError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONTENT + MAX_HEAD as u64 + 1).read_to_end(&mut bytes)?;
    let end = bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| SnapshotError::corrupt("its first line is not a snapshot's"))?;
    let (head, content) = (&bytes[..end], &bytes[end + 1..]);
    let head: Head = serde_json::from_slice(head).map_err(SnapshotError::corrupt)?;
    if ![VERSION, OLD_VERSION].contains(&head.zoogate_snapshot) {
        let why = format!("its layout is {}, and {VERSION} is read here", head.zoogate_snapshot);
        return Err(SnapshotError::Corrupt(why));
    }
    if content.len() as u64 != head.length || head.checksum(content) != head.crc32 {
        let why = format!("it is not what was written: {} bytes of content and a first line", head.length);
        return Err(SnapshotError::Corrupt(why));
    }
    if !same_origin(&head.origin, origin) {
        return Err(SnapshotError::Foreign { found: head.origin, expected: origin.to_owned() });
    }
    let records: Vec<BaseRecord<'_>> = serde_json::from_slice(content).map_err(SnapshotError::corrupt)?;
    let bases = records.into_iter().map(BaseRecord::stored).collect::<Result<_, _>>()?;
    let written = UNIX_EPOCH + Duration::from_millis(head.written_ms);
    Ok(Some(Stored { written, zxid: head.zxid, bases }))
}

/// Moves a file that is not used out of the way, so that it can be looked at: returns where it is now.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, "refused");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Whether two origins are one registry: an ensemble may have got or lost servers.
fn same_origin(found: &str, expected: &str) -> bool {
    fn parts(origin: &str) -> Option<(Vec<&str>, &str)> {
        let rest = origin.strip_prefix("zookeeper ")?;
        let (hosts, chroot) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some((hosts.split(',').collect(), chroot))
    }
    match (parts(found), parts(expected)) {
        (Some((a, a_root)), Some((b, b_root))) => a_root == b_root && a.iter().any(|host| b.contains(host)),
        _ => found == expected,
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The texts are borrowed while writing and owned after reading.
type Text<'a> = std::borrow::Cow<'a, str>;

#[derive(Serialize, Deserialize)]
struct BaseRecord<'a> {
    name: Text<'a>,
    reading: Text<'a>,
    services: Vec<ServiceRecord<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ServiceRecord<'a> {
    name: Text<'a>,
    format: Option<Text<'a>>,
    primary: Option<Text<'a>>,
    instances: Vec<InstanceRecord<'a>>,
}

#[derive(Serialize, Deserialize)]
struct InstanceRecord<'a> {
    id: Text<'a>,
    incarnation: (u64, u64),
    host: Text<'a>,
    port: u16,
    weight: f64,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheme: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warmup_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_ms: Option<u64>,
    /// 0: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(Text<'a>, Text<'a>)>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_yes(value: &bool) -> bool {
    *value
}

impl<'a> BaseRecord<'a> {
    fn new(base: &'a StoredBase) -> Self {
        let service = |(name, snapshot): &'a (ServiceName, Arc<ServiceSnapshot>)| ServiceRecord {
            name: name.as_str().into(),
            format: snapshot.format.map(|format| format.as_str().into()),
            primary: snapshot.primary.as_deref().map(Into::into),
            instances: snapshot.instances.iter().map(|instance| InstanceRecord::new(instance)).collect(),
        };
        Self {
            name: base.name.as_str().into(),
            reading: base.reading.as_str().into(),
            services: base.services.iter().map(service).collect(),
        }
    }

    fn stored(self) -> Result<StoredBase, SnapshotError> {
        let name = ServiceName::new(&self.name).map_err(SnapshotError::corrupt)?;
        let mut services = Vec::with_capacity(self.services.len());
        for record in self.services {
            let service = match record.name.split_once('/') {
                None => ServiceName::new(&record.name),
                Some((catalog, child)) => ServiceName::in_catalog(catalog, child),
            };
            let service = service.map_err(SnapshotError::corrupt)?;
            if service.as_str().split('/').next() != Some(name.as_str()) {
                return Err(SnapshotError::Corrupt(format!("{service} is not of {name}")));
            }
            services.push((service, Arc::new(record.snapshot()?)));
        }
        Ok(StoredBase { name, reading: self.reading.into_owned(), services })
    }
}

impl ServiceRecord<'_> {
    fn snapshot(self) -> Result<ServiceSnapshot, SnapshotError> {
        let instances: Vec<Arc<Instance>> = self
            .instances
            .into_iter()
            .map(|record| record.instance().map(Arc::new))
            .collect::<Result<_, _>>()?;
        if !instances.is_sorted_by(|a, b| a.id.name < b.id.name) {
            return Err(SnapshotError::Corrupt(format!("the instances of {} are in disorder", self.name)));
        }
        let format = self.format.map(|name| name.parse::<FormatName>()).transpose();
        Ok(ServiceSnapshot {
            instances,
            rejected: Vec::new(),
            format: format.map_err(SnapshotError::corrupt)?,
            primary: self.primary.map(|id| Arc::from(&*id)),
        })
    }
}

impl<'a> InstanceRecord<'a> {
    fn new(instance: &'a Instance) -> Self {
        let host = match &instance.address.host {
            Host::Name(name) => Text::Borrowed(&**name),
            Host::Ip(ip) => Text::Owned(ip.to_string()),
        };
        Self {
            id: (&*instance.id.name).into(),
            incarnation: (instance.id.incarnation.0, instance.id.incarnation.1),
            host,
            port: instance.address.port,
            weight: instance.weight,
            enabled: instance.enabled,
            scheme: instance.scheme.as_deref().map(Into::into),
            tls: instance.tls,
            zone: instance.zone.as_deref().map(Into::into),
            role: instance.role.map(|role| role.as_str().into()),
            registered_ms: instance.registered_ms,
            warmup_ms: instance.warmup_ms,
            created_ms: instance.facts.created_ms,
            session: match instance.facts.owner {
                Owner::Unknown => None,
                Owner::Nobody => Some(0),
                Owner::Session(id) => Some(id),
            },
            metadata: instance.metadata.iter().map(|(k, v)| ((&**k).into(), (&**v).into())).collect(),
        }
    }

    fn instance(self) -> Result<Instance, SnapshotError> {
        let host = match self.host.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name((&*self.host).into()),
        };
        if self.port == 0 || self.host.is_empty() || !(self.weight >= 0.0 && self.weight.is_finite()) {
            return Err(SnapshotError::Corrupt(format!("{} has no sound address or weight", self.id)));
        }
        let role = match self.role.as_deref() {
            None => None,
            Some(word) => Some(
                [Role::Primary, Role::Replica, Role::Master, Role::Slave]
                    .into_iter()
                    .find(|role| role.as_str() == word)
                    .ok_or_else(|| SnapshotError::Corrupt(format!("{word:?} is no role")))?,
            ),
        };
        Ok(Instance {
            id: InstanceId {
                name: Arc::from(&*self.id),
                incarnation: Incarnation(self.incarnation.0, self.incarnation.1),
            },
            address: crate::model::Address { host, port: self.port },
            scheme: self.scheme.map(|text| (&*text).into()),
            tls: self.tls,
            weight: self.weight,
            enabled: self.enabled,
            zone: self.zone.map(|text| (&*text).into()),
            role,
            registered_ms: self.registered_ms,
            warmup_ms: self.warmup_ms,
            facts: NodeFacts {
                created_ms: self.created_ms,
                owner: match self.session {
                    None => Owner::Unknown,
                    Some(0) => Owner::Nobody,
                    Some(id) => Owner::Session(id),
                },
                limbo: false,
            },
            metadata: self.metadata.into_iter().map(|(k, v)| ((&*k).into(), (&*v).into())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Stored {
        let id = |name: &str, zxid| InstanceId { name: name.into(), incarnation: Incarnation(zxid, 0) };
        let mut rich = Instance::new(id("a", 7), "[2001:db8::1]:80".parse().unwrap());
        rich.weight = 2.5;
        rich.enabled = false;
        rich.zone = Some("z1".into());
        rich.role = Some(Role::Replica);
        rich.tls = Some(false);
        rich.scheme = Some("http".into());
        rich.registered_ms = Some(5);
        rich.warmup_ms = Some(6);
        rich.facts = NodeFacts { created_ms: Some(9), owner: Owner::Session(-3), limbo: false };
        rich.metadata.insert("k".into(), "v \"\u{1f600}".into());
        let plain = Instance::new(id("b", 9), "orders.internal:8080".parse().unwrap());
        let snapshot = ServiceSnapshot {
            instances: vec![Arc::new(rich), Arc::new(plain)],
            rejected: Vec::new(),
            format: Some(FormatName::Json),
            primary: Some("b".into()),
        };
        let base = StoredBase {
            name: ServiceName::new("apps").unwrap(),
            reading: "/apps".into(),
            services: vec![(ServiceName::in_catalog("apps", "orders").unwrap(), Arc::new(snapshot))],
        };
        let written = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        Stored { written, zxid: 9, bases: vec![base] }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zoogate-snapshot-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const ORIGIN: &str = "zookeeper zk1:2181,zk2:2181/prod";

    #[test]
    fn what_is_written_is_read_again() {
        let folder = Folder::new("round");
        let path = folder.0.join("main.json");
        assert_eq!(read(&path, ORIGIN).unwrap(), None, "no file is no error");
        write(&path, ORIGIN, &stored()).unwrap();
        assert_eq!(read(&path, ORIGIN).unwrap(), Some(stored()));
        let grown = "zookeeper zk2:2181,zk3:2181/prod";
        assert_eq!(read(&path, grown).unwrap(), Some(stored()), "an ensemble may change its servers");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_was_cut_or_changed_anywhere_is_refused_whole() {
        let folder = Folder::new("damage");
        let path = folder.0.join("main.json");
        write(&path, ORIGIN, &stored()).unwrap();
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            assert!(matches!(read(&path, ORIGIN), Err(SnapshotError::Corrupt(_))), "cut at {end}");
        }
        for at in 0..whole.len() {
            for bit in [1, 4, 32] {
                let mut bad = whole.clone();
                bad[at] ^= bit;
                fs::write(&path, &bad).unwrap();
                assert!(matches!(read(&path, ORIGIN), Err(SnapshotError::Corrupt(_))), "changed at {at}");
            }
        }
        let aside = set_aside(&path).unwrap();
        assert!(!path.exists() && aside.exists());
    }

    #[test]
    fn a_file_of_the_old_layout_is_read_and_no_other() {
        let folder = Folder::new("old");
        let path = folder.0.join("main.json");
        write(&path, ORIGIN, &stored()).unwrap();
        let whole = fs::read(&path).unwrap();
        let end = whole.iter().position(|byte| *byte == b'\n').unwrap();
        let mut head: Head = serde_json::from_slice(&whole[..end]).unwrap();
        let old = |head: &Head| [&serde_json::to_vec(head).unwrap(), &whole[end..]].concat();
        head.zoogate_snapshot = OLD_VERSION;
        fs::write(&path, old(&head)).unwrap();
        assert!(
            matches!(read(&path, ORIGIN), Err(SnapshotError::Corrupt(_))),
            "a new checksum in an old file"
        );
        head.crc32 = crc32fast::hash(&whole[end + 1..]);
        fs::write(&path, old(&head)).unwrap();
        assert_eq!(read(&path, ORIGIN).unwrap(), Some(stored()));
        head.zoogate_snapshot = VERSION + 1;
        fs::write(&path, old(&head)).unwrap();
        assert!(matches!(read(&path, ORIGIN), Err(SnapshotError::Corrupt(_))));
    }

    #[test]
    fn a_snapshot_of_another_registry_is_refused() {
        let folder = Folder::new("foreign");
        let path = folder.0.join("main.json");
        write(&path, ORIGIN, &stored()).unwrap();
        for other in [
            "zookeeper zk1:2181,zk2:2181/test",
            "zookeeper zk9:2181/prod",
            "zookeeper zk1:2181",
            "directory /x",
        ] {
            assert!(matches!(read(&path, other), Err(SnapshotError::Foreign { .. })), "{other}");
        }
    }
}
