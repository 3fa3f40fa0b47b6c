//! The spool as a whole, on files, without a source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use config::progress::ReplicationPosition;
use config::{Flavor, GtidSet};

use super::reader::Reader;
use super::segment::segment_path;
use super::writer::SpoolWriter;
use super::{Spool, recovery};
use crate::binlog::event::kind;
use crate::binlog::fixture::{self, gtid, header, position};
use crate::binlog::transaction::{DdlStatement, SpoolItem};
use crate::error::{Error, Result};

fn start() -> ReplicationPosition {
    ReplicationPosition {
        gtids: GtidSet::parse(Flavor::MariaDb, "0-1-100").unwrap(),
        coordinates: position(4),
    }
}

async fn open(dir: &Path, max_bytes: u64) -> (Spool, SpoolWriter) {
    Spool::open(dir, max_bytes, &start()).await.unwrap()
}

/// Writes transaction `seq` with so many rows of so many bytes; its GTID is 100 more.
async fn transaction(writer: &mut SpoolWriter, seq: u64, events: u32, value_bytes: u16) {
    writer.begin(gtid(100 + seq), 1_000_000 * seq, "bin.000001");
    let end = position(1000 * (seq + 1));
    writer.event(&header(kind::TABLE_MAP), &fixture::table_map("shop"), &end).await.unwrap();
    for event in 0..events {
        writer
            .event(&header(kind::WRITE_ROWS), &fixture::write_rows(&[event], value_bytes), &end)
            .await
            .unwrap();
    }
    writer.end(end).unwrap();
}

/// What an item is, in short.
fn shown(item: &SpoolItem) -> String {
    match item {
        SpoolItem::Transaction { meta, changes } => {
            let rows: usize = changes.iter().map(|change| change.rows.len()).sum();
            format!("{} {} {} rows {rows}", meta.seq, meta.gtid, meta.end)
        }
        SpoolItem::LargeBegin { meta } => format!("{} {} {} large", meta.seq, meta.gtid, meta.end),
        SpoolItem::LargeRows(change) => format!("part {}", change.rows.len()),
        SpoolItem::LargeEnd => "end".to_owned(),
        SpoolItem::Skip { meta } => format!("{} {} {} skip", meta.seq, meta.gtid, meta.end),
        SpoolItem::Coordinates(position) => format!("at {position}"),
        SpoolItem::Ddl { meta, statement } => {
            format!("{} ddl {} {}", meta.seq, statement.schema, String::from_utf8_lossy(&statement.sql))
        }
    }
}

/// Reads up to transaction `seq`, waiting for it.
async fn read_to(reader: &mut Reader, seq: u64) -> Result<Vec<String>> {
    let last = format!("{seq} ");
    let mut shown_items = Vec::new();
    let reading = async {
        loop {
            let item = shown(&reader.next().await?);
            let found = item.starts_with(&last) && !item.ends_with("large");
            shown_items.push(item);
            if found {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("the transaction never came")?;
    Ok(shown_items)
}

/// A spool with one transaction of each kind; closed.
async fn filled(dir: &Path) -> Vec<String> {
    let (spool, mut writer) = open(dir, 1 << 30).await;
    transaction(&mut writer, 1, 2, 10).await;
    writer.skip(gtid(102), 0, position(3000)).unwrap();
    writer.coordinates(position(3500));
    let statement = DdlStatement {
        schema: "shop".to_owned(),
        sql: "DROP TABLE t".into(),
        status: Default::default(),
        began_at_s: 0,
        alone: true,
    };
    writer.ddl(gtid(103), 0, position(4000), statement).unwrap();
    transaction(&mut writer, 4, 1, 3).await;
    writer.close().await.unwrap();
    read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 4).await.unwrap()
}

#[tokio::test]
async fn what_is_written_is_read_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let items = filled(dir.path()).await;
    assert_eq!(
        items,
        [
            "1 0-1-101 bin.000001:2000 rows 2",
            "2 0-1-102 bin.000001:3000 skip",
            "at bin.000001:3500",
            "3 ddl shop DROP TABLE t",
            "4 0-1-104 bin.000001:5000 rows 1",
        ]
    );
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    assert_eq!(writer.position().to_string(), "0-1-104 (bin.000001:5000)");
    transaction(&mut writer, 5, 1, 1).await;
    writer.flush().await.unwrap();
    let mut reader = spool.reader(4, fixture::tables()).unwrap();
    let items = read_to(&mut reader, 5).await.unwrap();
    // Coordinates before the transaction that is asked for are harmless, and older.
    assert_eq!(items.last().unwrap(), "5 0-1-105 bin.000001:6000 rows 1");
    assert!(
        items.iter().any(|item| item.starts_with("4 ")) && !items.iter().any(|item| item.starts_with("3 "))
    );
    assert_eq!(reader.read_bytes(), spool.progress().borrow().durable_bytes);
}

#[tokio::test]
async fn coordinates_that_ended_a_segment_reach_a_reader_of_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer) = open(dir.path(), 32_768).await;
    transaction(&mut writer, 1, 1, 1).await;
    let mut offset = 2000;
    // An idle source whose log goes on without transactions, until that fills the segment.
    while !segment_path(dir.path(), 2).exists() {
        offset += 100;
        writer.coordinates(position(offset));
        writer.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    writer.close().await.unwrap();
    let (spool, _writer) = open(dir.path(), 32_768).await;
    let expected = format!("at {}", super::segment::read_header(dir.path(), 2).unwrap().coordinates);
    let mut reader = spool.reader(2, fixture::tables()).unwrap();
    let item = tokio::time::timeout(Duration::from_secs(5), reader.next()).await.expect("nothing came");
    assert_eq!(shown(&item.unwrap()), expected);
}

#[tokio::test]
async fn a_torn_tail_is_cut_at_every_byte_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let path = segment_path(dir.path(), 1);
    let bytes = fs::read(&path).unwrap();
    let header_end = super::store::segment_head(&super::segment::read_header(dir.path(), 1).unwrap()).len();
    for cut in header_end..bytes.len() {
        // Once cut short, once with garbage where the rest was.
        for garbage in [0, bytes.len() - cut] {
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + garbage, 0xa5);
            fs::write(&path, &torn).unwrap();
            let recovered = recovery::recover(dir.path()).unwrap().unwrap();
            let next = recovered.next_seq;
            assert!((1..=5).contains(&next), "{cut}");
            assert_eq!(fs::metadata(&path).unwrap().len(), recovered.segments[0].bytes);
            if cut % 13 != 0 {
                continue;
            }
            let (spool, mut writer) = open(dir.path(), 1 << 30).await;
            for seq in next..=4 {
                transaction(&mut writer, seq, 1, 1).await;
            }
            writer.close().await.unwrap();
            let items = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 4).await.unwrap();
            let numbers: Vec<_> =
                items.iter().filter(|i| !i.starts_with("at")).map(|i| i.split(' ').next().unwrap()).collect();
            assert_eq!(numbers, ["1", "2", "3", "4"], "{cut}");
            assert!(
                items.iter().zip(&whole).take_while(|(a, b)| a == b).count() + 1
                    >= usize::try_from(next).unwrap()
            );
        }
    }
}

#[tokio::test]
async fn half_a_transaction_is_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    transaction(&mut writer, 1, 1, 1).await;
    for large in [false, true] {
        writer.begin(gtid(102), 0, "bin.000001");
        for _ in 0..if large { 2000 } else { 1 } {
            writer.event(&header(kind::TABLE_MAP), &fixture::table_map("shop"), &position(9)).await.unwrap();
            writer
                .event(&header(kind::WRITE_ROWS), &fixture::write_rows(&[1], 1000), &position(9))
                .await
                .unwrap();
            writer.make_room().await.unwrap();
        }
        writer.abort().await.unwrap();
    }
    transaction(&mut writer, 2, 3, 1).await;
    writer.flush().await.unwrap();
    let items = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 2).await.unwrap();
    assert_eq!(items, ["1 0-1-101 bin.000001:2000 rows 1", "2 0-1-102 bin.000001:3000 rows 3"]);
    // Half a transaction at the end of the process, too.
    writer.begin(gtid(103), 0, "bin.000001");
    writer.close().await.unwrap();
    let (_, writer) = open(dir.path(), 1 << 30).await;
    assert_eq!(writer.position().to_string(), "0-1-102 (bin.000001:3000)");
}

#[tokio::test]
async fn damage_in_front_of_what_was_durable_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    for seq in 1..=40 {
        transaction(&mut writer, seq, 10, 1000).await;
        writer.flush().await.unwrap();
        let mut progress = spool.progress();
        progress.wait_for(|progress| progress.last_seq == seq).await.unwrap();
    }
    writer.close().await.unwrap();
    let path = segment_path(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = recovery::recover(dir.path()).unwrap_err();
    assert!(error.message.contains("damaged") && error.message.contains("begin again"), "{error}");
    let error = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 40).await.unwrap_err();
    assert!(error.message.contains("damaged"), "{error}");
    // Damage in a header, or a lost segment, is never a torn end.
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(recovery::recover(dir.path()).is_err());
}

#[tokio::test]
async fn a_large_transaction_comes_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    transaction(&mut writer, 1, 20_000, 1000).await;
    transaction(&mut writer, 2, 1, 1).await;
    writer.flush().await.unwrap();
    let mut reader = spool.reader(1, fixture::tables()).unwrap();
    let items = read_to(&mut reader, 2).await.unwrap();
    assert_eq!(items[0], "1 0-1-101 bin.000001:2000 large");
    let parts = items.iter().filter_map(|item| item.strip_prefix("part ")).map(|n| n.parse::<u32>().unwrap());
    assert_eq!(parts.sum::<u32>(), 20_000);
    assert_eq!(items[items.len() - 2..], ["end", "2 0-1-102 bin.000001:3000 rows 1"]);
}

#[tokio::test]
async fn dropping_the_future_of_next_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    for seq in 1..=200 {
        transaction(&mut writer, seq, 100, 1000).await;
        writer.make_room().await.unwrap();
    }
    writer.flush().await.unwrap();
    let mut reader = spool.reader(1, fixture::tables()).unwrap();
    let mut seqs = Vec::new();
    while seqs.len() < 200 {
        // Polled once and dropped, most of the time.
        let item = tokio::select! { biased; item = reader.next() => item.unwrap(), () = tokio::task::yield_now() => continue };
        if let SpoolItem::Transaction { meta, changes } = item {
            assert_eq!(changes.len(), 100);
            seqs.push(meta.seq);
        }
    }
    assert_eq!(seqs, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_spool_waits_for_release() {
    const MAX: u64 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), MAX).await;
    let fill = async {
        for seq in 1..=200 {
            transaction(&mut writer, seq, 4, 1000).await;
            writer.make_room().await?;
        }
        writer.flush().await?;
        Ok::<_, Error>(())
    };
    tokio::pin!(fill);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut fill).await.is_err(), "it must wait");
    let on_disk = || -> u64 {
        let lengths = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata());
        // One may be removed while we look.
        lengths.filter_map(std::result::Result::ok).map(|metadata| metadata.len()).sum()
    };
    assert!(on_disk() < MAX * 5 / 4, "{}", on_disk());
    let mut reader = spool.reader(1, fixture::tables()).unwrap();
    let drain = async {
        for seq in 1..=200 {
            let SpoolItem::Transaction { meta, .. } = reader.next().await? else { panic!("{seq}") };
            assert_eq!(meta.seq, seq);
            spool.release(seq)?;
            assert!(on_disk() < MAX * 5 / 4);
        }
        Ok::<_, Error>(())
    };
    let (filled, drained) = tokio::join!(fill, drain);
    filled.unwrap();
    drained.unwrap();
    let error = spool.reader(1, fixture::tables()).unwrap_err();
    assert!(error.message.contains("no longer in the spool"), "{error}");
    let error = spool.reader(300, fixture::tables()).unwrap_err();
    assert!(error.message.contains("the spool ends with 200"), "{error}");
}

/// It goes to the files in pieces; half of it is no event, and the whole of it is one.
#[tokio::test]
async fn large_events() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    let rows: Vec<u32> = (0..50).collect();
    let body = fixture::write_rows(&rows, 60_000);
    for aborted in [true, false] {
        writer.begin(gtid(101), 0, "bin.000001");
        writer.event(&header(kind::TABLE_MAP), &fixture::table_map("shop"), &position(9)).await.unwrap();
        writer.event(&header(kind::WRITE_ROWS), &body, &position(9)).await.unwrap();
        if aborted {
            writer.abort().await.unwrap();
        }
    }
    writer.end(position(2000)).unwrap();
    writer.flush().await.unwrap();
    let items = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 1).await.unwrap();
    assert_eq!(items.len(), 1);
    assert!(items[0].ends_with(" rows 50"), "{items:?}");
    writer.close().await.unwrap();
    drop(spool);
    let (spool, _writer) = open(dir.path(), 1 << 30).await;
    assert_eq!(read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 1).await.unwrap(), items);
}

#[tokio::test]
async fn a_transaction_larger_than_the_spool_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, mut writer) = open(dir.path(), 200_000).await;
    writer.begin(gtid(101), 0, "bin.000001");
    let error = loop {
        writer
            .event(&header(kind::WRITE_ROWS), &fixture::write_rows(&[1], 1000), &position(9))
            .await
            .unwrap();
        if let Err(error) = writer.make_room().await {
            break error;
        }
    };
    assert!(error.message.contains("spool_max_gb"), "{error}");
}

#[tokio::test]
async fn a_transaction_that_comes_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, mut writer) = open(dir.path(), 1 << 30).await;
    writer.skip(gtid(101), 0, position(2000)).unwrap();
    let error = writer.skip(gtid(101), 0, position(3000)).unwrap_err();
    assert!(error.message.contains("second time"), "{error}");
}
