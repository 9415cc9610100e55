//! A crash at any byte, and damage that no crash makes.

use std::path::PathBuf;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kvstore-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(sequence: u64) -> Record {
    let value = (!sequence.is_multiple_of(4))
        .then(|| vec![b'a' + (sequence % 26) as u8; (sequence * 7 % 40) as usize]);
    Record { sequence, epoch: 3, key: format!("key-{}", sequence % 5), value: value.map(Bytes::from) }
}

/// Ten records, the file's bytes, and where each record ends.
fn written(folder: &Folder) -> (Vec<Record>, Vec<u8>, Vec<usize>) {
    let records: Vec<Record> = (1..=10).map(record).collect();
    let mut log = Log::create(&folder.file(), 77, true).unwrap();
    let mut ends = vec![HEADER as usize];
    for record in &records {
        log.write(std::slice::from_ref(record)).unwrap();
        ends.push(log.end() as usize);
    }
    (records, fs::read(folder.file()).unwrap(), ends)
}

fn open(folder: &Folder) -> Result<(Log, Vec<Record>), OpenError> {
    let mut found = Vec::new();
    let log = Log::open(&folder.file(), false, |record, _| found.push(record))?;
    Ok((log, found))
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_whole_record_and_takes_new_ones() {
    let folder = Folder::new("cut");
    let (records, bytes, ends) = written(&folder);
    for cut in 0..=bytes.len() {
        let mut found = Vec::new();
        let scanned = scan(&bytes[..cut], |record, _| found.push(record));
        if cut < HEADER as usize {
            assert_eq!(scanned, Err(Flaw::NotALog), "cut at {cut}");
            continue;
        }
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert_eq!((scanned, &found[..]), (Ok((77, ends[whole] as u64)), &records[..whole]), "cut at {cut}");
    }
    // What the file then looks like, at every offset of one record.
    for cut in ends[6]..=ends[7] {
        fs::write(folder.file(), &bytes[..cut]).unwrap();
        let whole = if cut == ends[7] { 7 } else { 6 };
        let (mut log, found) = open(&folder).unwrap();
        assert_eq!(found, records[..whole], "cut at {cut}");
        assert_eq!(fs::metadata(folder.file()).unwrap().len() as usize, ends[whole], "cut at {cut}");
        log.write(&[record(11)]).unwrap();
        let (_, found) = open(&folder).unwrap();
        assert_eq!((found.len(), found.last()), (whole + 1, Some(&record(11))), "cut at {cut}");
    }
}

#[test]
fn a_tail_of_zeros_or_of_a_former_log_is_no_record() {
    let folder = Folder::new("tail");
    let (records, bytes, ends) = written(&folder);
    // What stands there is whole, but belongs elsewhere.
    let former = bytes[ends[3]..ends[5]].to_vec();
    for tail in [vec![0; 200], former] {
        fs::write(folder.file(), [&bytes[..], &tail[..]].concat()).unwrap();
        let (log, found) = open(&folder).unwrap();
        assert_eq!((found, log.end()), (records.clone(), bytes.len() as u64));
    }
}

#[test]
fn a_flipped_bit_is_never_read_as_data_and_never_hides_what_follows() {
    let folder = Folder::new("flip");
    let (records, bytes, ends) = written(&folder);
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        let mut found = Vec::new();
        let scanned = scan(&damaged, |record, _| found.push(record));
        if at < HEADER as usize {
            assert_eq!(scanned, Err(Flaw::NotALog), "bit {bit} of byte {at}");
        } else if at >= ends[9] {
            // In the last record it can not be told from a torn tail.
            assert_eq!(
                (scanned, &found[..]),
                (Ok((77, ends[9] as u64)), &records[..9]),
                "bit {bit} of byte {at}"
            );
        } else {
            let start = *ends.iter().rev().find(|end| **end <= at).unwrap() as u64;
            let Err(Flaw::Damaged { at: told, .. }) = scanned else { panic!("bit {bit} of byte {at}") };
            assert_eq!(told, start, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_replacement_takes_the_name_and_keeps_the_old_file() {
    let folder = Folder::new("replace");
    let (records, bytes, _) = written(&folder);
    for _ in 0..2 {
        let mut fresh = Log::create(&folder.0.join("log.new"), 77, false).unwrap();
        fresh.write(&records[4..6]).unwrap();
        fresh.replace(&folder.file()).unwrap();
        fresh.write(&records[6..7]).unwrap();
        assert_eq!(open(&folder).unwrap().1, records[4..7]);
        assert!(!folder.0.join("log.new").exists());
    }
    fs::write(folder.file(), &bytes).unwrap();
    let mut fresh = Log::create(&folder.0.join("log.new"), 77, false).unwrap();
    fresh.replace(&folder.file()).unwrap();
    assert_eq!(fs::read(folder.0.join("log.old")).unwrap(), bytes);
}
