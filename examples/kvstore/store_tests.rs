//! Fencing, snapshots and compaction, without a network.

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("kvstore-{name}-{}", std::process::id())))
    }

    fn open(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.0, false).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put(epoch: i64, sequence: u64, key: &str, value: &str) -> Record {
    Record { sequence, epoch, key: key.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

fn read(store: &Store, key: &str) -> Option<String> {
    store.get(key).unwrap().map(|value| String::from_utf8(value.into()).unwrap())
}

#[tokio::test]
async fn a_write_of_a_former_epoch_is_refused_whole() {
    let folder = Folder::new("stale");
    let store = folder.open();
    store.append(vec![put(5, 1, "a", "old"), put(7, 2, "a", "new")]).await.unwrap();
    let late = store.append(vec![put(7, 3, "b", "right"), put(6, 4, "a", "late")]).await;
    assert!(matches!(late, Err(AppendError::Stale { epoch: 6, ours: 7 })), "{late:?}");
    let gap = store.append(vec![put(7, 4, "a", "gap")]).await;
    assert!(matches!(gap, Err(AppendError::Gap { found: 4, last: 2 })), "{gap:?}");
    assert_eq!((read(&store, "a").as_deref(), read(&store, "b")), (Some("new"), None));
    // A snapshot of a former epoch neither.
    let fresh = store.rewrite().unwrap();
    assert!(store.adopt(fresh, Position { epoch: 6, sequence: 9 }).is_err());
    drop(store);
    assert_eq!(folder.open().position(), Position { epoch: 7, sequence: 2 });
}

#[tokio::test]
async fn a_snapshot_replaces_what_was_there_and_its_tail_goes_on() {
    let (old, new) = (Folder::new("old"), Folder::new("new"));
    let (standby, primary) = (old.open(), new.open());
    standby.append(vec![put(1, 1, "gone", "x"), put(1, 2, "a", "x")]).await.unwrap();
    primary.append(vec![put(1, 1, "gone", "x"), put(1, 2, "a", "1")]).await.unwrap();
    let gone = Record { value: None, ..put(2, 3, "gone", "") };
    primary.append(vec![gone, put(2, 4, "b", "2")]).await.unwrap();
    let mut snapshot = primary.snapshot();
    primary.append(vec![put(2, 5, "a", "later")]).await.unwrap();
    let mut fresh = standby.rewrite().unwrap();
    while let Some(records) = snapshot.next().unwrap() {
        fresh.add(records).unwrap();
    }
    assert_eq!(read(&standby, "gone").as_deref(), Some("x"), "nothing is seen before it is whole");
    standby.adopt(fresh, snapshot.position).unwrap();
    let contents = |store: &Store| ["gone", "a", "b"].map(|key| read(store, key));
    assert_eq!(contents(&standby), [None, Some("1".into()), Some("2".into())]);
    standby.append(vec![put(2, 5, "a", "later")]).await.unwrap();
    let id = standby.id();
    drop(standby);
    let standby = old.open();
    assert_eq!(contents(&standby), contents(&primary));
    assert_eq!((standby.id(), standby.position()), (id, primary.position()));
}

#[tokio::test]
async fn a_log_of_garbage_is_compacted_when_it_is_opened() {
    let folder = Folder::new("garbage");
    let store = folder.open();
    let value = "v".repeat(100_000);
    for sequence in 1..=30 {
        store.append(vec![put(1, sequence, "same", &value)]).await.unwrap();
    }
    store.append(vec![put(1, 31, "other", "1")]).await.unwrap();
    drop(store);
    let store = folder.open();
    assert_eq!(store.position(), Position { epoch: 1, sequence: 31 });
    assert_eq!((read(&store, "same"), read(&store, "other").as_deref()), (Some(value), Some("1")));
    assert!(fs::metadata(folder.0.join("log")).unwrap().len() < 200_000);
    store.append(vec![put(1, 32, "other", "2")]).await.unwrap();
    drop(store);
    assert_eq!(read(&folder.open(), "other").as_deref(), Some("2"));
}

#[test]
fn a_folder_belongs_to_one_process_and_an_emptied_one_is_another_store() {
    let folder = Folder::new("owner");
    let store = folder.open();
    let second = Store::open(&folder.0, false).unwrap_err();
    assert!(second.to_string().contains("in use"), "{second}");
    let id = store.id();
    drop(store);
    assert_eq!(folder.open().id(), id);
    fs::remove_file(folder.0.join("log")).unwrap();
    assert_ne!(folder.open().id(), id);
}
