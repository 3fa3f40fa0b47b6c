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
use crate::intervals::Intervals;

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
        SpoolItem::LargeRows { change, first, last } => {
            format!("part {} at {first}-{last}", change.rows.len())
        }
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

/// The source can have nothing more to read in the midst of a transaction, right behind an event that belonged to none (the
/// head of a new log).
#[tokio::test]
async fn coordinates_stand_between_transactions_only() {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut writer) = open(dir.path(), 1 << 30).await;
    transaction(&mut writer, 1, 1, 1).await;
    writer.begin(gtid(102), 0, "bin.000001");
    let end = position(3000);
    writer.event(&header(kind::TABLE_MAP), &fixture::table_map("shop"), &end).await.unwrap();
    writer.coordinates(position(2500));
    writer.flush().await.unwrap();
    writer.event(&header(kind::WRITE_ROWS), &fixture::write_rows(&[1], 1), &end).await.unwrap();
    writer.end(end).unwrap();
    writer.close().await.unwrap();
    let (spool, writer) = open(dir.path(), 1 << 30).await;
    assert_eq!(writer.position().to_string(), "0-1-102 (bin.000001:3000)");
    let items = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 2).await.unwrap();
    assert_eq!(items, ["1 0-1-101 bin.000001:2000 rows 1", "2 0-1-102 bin.000001:3000 rows 1"]);
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
    let parts = parts(&items);
    assert_eq!(parts.iter().map(|(rows, ..)| rows).sum::<u64>(), 20_000);
    assert_eq!(parts[0].1, 1);
    assert!(parts.windows(2).all(|pair| pair[0].2 + 1 == pair[1].1), "{parts:?}");
    assert_eq!(items[items.len() - 2..], ["end", "2 0-1-102 bin.000001:3000 rows 1"]);
}

/// Rows, first and last byte of each part among these items.
fn parts(items: &[String]) -> Vec<(u64, u64, u64)> {
    let numbers = items.iter().filter_map(|item| item.strip_prefix("part "));
    numbers
        .map(|text| {
            let (rows, bytes) = text.split_once(" at ").unwrap();
            let (first, last) = bytes.split_once('-').unwrap();
            (rows.parse().unwrap(), first.parse().unwrap(), last.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn parts_that_are_applied_do_not_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, mut writer) = open(dir.path(), 1 << 30).await;
    transaction(&mut writer, 1, 40_000, 1000).await;
    transaction(&mut writer, 2, 1, 1).await;
    writer.flush().await.unwrap();
    let all = parts(&read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 2).await.unwrap());
    let without = |applied: &[(u64, u64, u64)]| {
        let mut intervals = Intervals::default();
        applied.iter().for_each(|(_, first, last)| intervals.add(*first, *last));
        spool.reader(1, fixture::tables()).unwrap().without([(1, intervals)].into())
    };
    let rows = |parts: &[(u64, u64, u64)]| parts.iter().map(|(rows, ..)| rows).sum::<u64>();
    let some: Vec<_> = all[..all.len() - 1].iter().copied().step_by(3).collect();
    let items = read_to(&mut without(&some), 2).await.unwrap();
    let again = parts(&items);
    assert_eq!(rows(&again), 40_000 - rows(&some));
    // Nothing is between them that nobody speaks for.
    assert_eq!((again[0].1, again[again.len() - 1].2), (1, all[all.len() - 1].2));
    assert!(again.windows(2).all(|pair| pair[0].2 + 1 == pair[1].1), "{again:?}");
    // What is left is no longer large, or nothing.
    let items = read_to(&mut without(&all[1..]), 2).await.unwrap();
    assert_eq!(items[0], format!("1 0-1-101 bin.000001:2000 rows {}", all[0].0));
    let items = read_to(&mut without(&all), 2).await.unwrap();
    assert_eq!(items[0], "1 0-1-101 bin.000001:2000 skip");
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

/// XA transactions, as the fetcher hands them to the writer.
mod xa {
    use super::*;
    use crate::binlog::xid::Xid;
    use crate::spool::parking::Ending;

    fn xid(name: &str) -> Xid {
        Xid::new(1, name.as_bytes(), b"").unwrap()
    }

    fn ending(seq: u64) -> Ending<'static> {
        Ending {
            gtid: gtid(100 + seq),
            committed_at_us: 0,
            end: position(1000 * (seq + 1)),
            file: "bin.000001",
        }
    }

    /// Keeps so many rows aside, each of so many bytes.
    async fn rows(writer: &mut SpoolWriter, events: u32, value_bytes: u16) {
        writer.keep_aside(&header(kind::TABLE_MAP), &fixture::table_map("shop")).await.unwrap();
        for event in 0..events {
            let body = fixture::write_rows(&[event], value_bytes);
            writer.keep_aside(&header(kind::WRITE_ROWS), &body).await.unwrap();
        }
    }

    /// What is prepared in transaction `seq`.
    async fn prepare(writer: &mut SpoolWriter, seq: u64, name: &str, events: u32) {
        rows(writer, events, 10).await;
        park(writer, seq, name).await;
    }

    async fn park(writer: &mut SpoolWriter, seq: u64, name: &str) {
        writer.park(xid(name), false).await.unwrap();
        let of = ending(seq);
        writer.skip(of.gtid, 0, of.end).unwrap();
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("xa-")).collect();
        names.sort();
        names
    }

    async fn until_durable(spool: &Spool, writer: &mut SpoolWriter, seq: u64) {
        writer.flush().await.unwrap();
        spool.progress().wait_for(|progress| progress.last_seq >= seq).await.unwrap();
        writer.flush().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_prepared_is_read_where_it_is_committed() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        prepare(&mut writer, 1, "a", 2).await;
        prepare(&mut writer, 2, "b", 3).await;
        transaction(&mut writer, 3, 1, 1).await;
        prepare(&mut writer, 4, "undone", 4).await;
        assert!(writer.commit_parked(&xid("b"), ending(5)).await.unwrap());
        writer.roll_back_parked(&xid("undone"), ending(6)).await.unwrap();
        assert!(writer.commit_parked(&xid("a"), ending(7)).await.unwrap());
        assert!(!writer.commit_parked(&xid("a"), ending(8)).await.unwrap(), "twice");
        assert!(!writer.commit_parked(&xid("undone"), ending(8)).await.unwrap(), "it was rolled back");
        // In one phase.
        rows(&mut writer, 5, 10).await;
        writer.commit_aside(xid("one"), ending(8)).await.unwrap();
        until_durable(&spool, &mut writer, 8).await;
        let items = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 8).await.unwrap();
        assert_eq!(
            items,
            [
                "1 0-1-101 bin.000001:2000 skip",
                "2 0-1-102 bin.000001:3000 skip",
                "3 0-1-103 bin.000001:4000 rows 1",
                "4 0-1-104 bin.000001:5000 skip",
                "5 0-1-105 bin.000001:6000 rows 3",
                "6 0-1-106 bin.000001:7000 skip",
                "7 0-1-107 bin.000001:8000 rows 2",
                "8 0-1-108 bin.000001:9000 rows 5",
            ]
        );
        assert!(spool.prepared().now(true).is_empty());
        writer.close().await.unwrap();
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[tokio::test]
    async fn what_is_prepared_survives_and_what_has_ended_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        prepare(&mut writer, 1, "a", 1).await;
        prepare(&mut writer, 2, "b", 2).await;
        assert!(writer.commit_parked(&xid("a"), ending(3)).await.unwrap());
        writer.flush().await.unwrap();
        // Half of another one, as a killed process leaves it.
        rows(&mut writer, 900, 1000).await;
        drop((spool, writer));
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        assert_eq!(spool.prepared().now(true).into_iter().collect::<Vec<_>>(), [xid("b")]);
        assert_eq!(files(dir.path()), ["xa-0000000002.prepared"]);
        assert!(!writer.commit_parked(&xid("a"), ending(4)).await.unwrap());
        assert!(writer.commit_parked(&xid("b"), ending(4)).await.unwrap());
        until_durable(&spool, &mut writer, 4).await;
        let items = read_to(&mut spool.reader(3, fixture::tables()).unwrap(), 4).await.unwrap();
        assert_eq!(items, ["3 0-1-103 bin.000001:4000 rows 1", "4 0-1-104 bin.000001:5000 rows 2"]);
    }

    /// A crash between the file's last name and the end record: the transaction comes again, under another number if need be.
    #[tokio::test]
    async fn an_end_that_was_lost_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        prepare(&mut writer, 1, "a", 6).await;
        until_durable(&spool, &mut writer, 1).await;
        writer.close().await.unwrap();
        drop(spool);
        fs::rename(dir.path().join("xa-0000000001.prepared"), dir.path().join("xa-0000000001.as-2")).unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        transaction(&mut writer, 2, 1, 1).await;
        assert!(writer.commit_parked(&xid("a"), ending(3)).await.unwrap());
        until_durable(&spool, &mut writer, 3).await;
        let items = read_to(&mut spool.reader(2, fixture::tables()).unwrap(), 3).await.unwrap();
        assert_eq!(items, ["2 0-1-102 bin.000001:3000 rows 1", "3 0-1-103 bin.000001:4000 rows 6"]);
    }

    #[tokio::test]
    async fn a_name_that_is_used_again_means_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        prepare(&mut writer, 1, "x", 1).await;
        assert!(writer.commit_parked(&xid("x"), ending(2)).await.unwrap());
        prepare(&mut writer, 3, "x", 2).await;
        // Its end was never seen, which no server does.
        prepare(&mut writer, 4, "x", 3).await;
        assert!(writer.commit_parked(&xid("x"), ending(5)).await.unwrap());
        prepare(&mut writer, 6, "x", 4).await;
        // One with nothing of ours.
        park(&mut writer, 7, "x").await;
        assert!(!writer.commit_parked(&xid("x"), ending(8)).await.unwrap());
        // Where nobody could ask what was prepared before, that one is remembered too.
        writer.park(xid("x"), true).await.unwrap();
        assert!(writer.commit_parked(&xid("x"), ending(8)).await.unwrap());
        until_durable(&spool, &mut writer, 8).await;
        let items = read_to(&mut spool.reader(1, fixture::tables()).unwrap(), 8).await.unwrap();
        let ends: Vec<&str> = items.iter().map(|item| item.rsplit_once("00 ").unwrap().1).collect();
        assert_eq!(ends, ["skip", "rows 1", "skip", "skip", "rows 3", "skip", "skip", "skip"]);
    }

    /// The next one of its name may be durable before its own end is.
    #[tokio::test]
    async fn what_comes_again_is_not_taken_for_what_came_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        prepare(&mut writer, 1, "x", 5).await;
        until_durable(&spool, &mut writer, 1).await;
        assert!(writer.commit_parked(&xid("x"), ending(2)).await.unwrap());
        prepare(&mut writer, 3, "x", 7).await;
        prepare(&mut writer, 4, "y", 9).await;
        // The files are as far as this; the spool isn't.
        assert!(writer.commit_parked(&xid("y"), ending(5)).await.unwrap());
        drop((spool, writer));
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        assert_eq!(spool.progress().borrow().last_seq, 1);
        assert_eq!(spool.prepared().now(true).into_iter().collect::<Vec<_>>(), [xid("x")]);
        assert!(writer.commit_parked(&xid("x"), ending(2)).await.unwrap());
        // "y" was nothing of ours before, as far as this spool knows.
        assert!(!writer.commit_parked(&xid("y"), ending(3)).await.unwrap());
        until_durable(&spool, &mut writer, 2).await;
        let items = read_to(&mut spool.reader(2, fixture::tables()).unwrap(), 2).await.unwrap();
        assert_eq!(items, ["2 0-1-102 bin.000001:3000 rows 5"]);
    }

    #[tokio::test]
    async fn large_ones_go_by_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        rows(&mut writer, 3000, 1000).await;
        let many: Vec<u32> = (0..50).collect();
        let large = fixture::write_rows(&many, 60_000);
        writer.keep_aside(&header(kind::WRITE_ROWS), &large).await.unwrap();
        park(&mut writer, 1, "a").await;
        assert!(writer.commit_parked(&xid("a"), ending(2)).await.unwrap());
        rows(&mut writer, 3000, 1000).await;
        writer.commit_aside(xid("one"), ending(3)).await.unwrap();
        // One that breaks off leaves nothing.
        rows(&mut writer, 3000, 1000).await;
        writer.abort().await.unwrap();
        until_durable(&spool, &mut writer, 3).await;
        let items = read_to(&mut spool.reader(2, fixture::tables()).unwrap(), 3).await.unwrap();
        assert_eq!(items, ["2 0-1-102 bin.000001:3000 rows 3050", "3 0-1-103 bin.000001:4000 rows 3000"]);
        writer.close().await.unwrap();
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[tokio::test]
    async fn damage_is_refused_and_nothing_of_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 1 << 30).await;
        rows(&mut writer, 3000, 1000).await;
        park(&mut writer, 1, "a").await;
        until_durable(&spool, &mut writer, 1).await;
        let path = dir.path().join("xa-0000000001.prepared");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 100_000;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = writer.commit_parked(&xid("a"), ending(2)).await.unwrap_err();
        assert!(error.message.contains("damaged"), "{error}");
        writer.close().await.unwrap();
        drop(spool);
        let (spool, _writer) = open(dir.path(), 1 << 30).await;
        assert_eq!(spool.progress().borrow().last_seq, 1);
    }

    #[tokio::test]
    async fn what_is_prepared_counts_as_the_spool_does() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, mut writer) = open(dir.path(), 200_000).await;
        rows(&mut writer, 50, 1000).await;
        park(&mut writer, 1, "a").await;
        until_durable(&spool, &mut writer, 1).await;
        assert!(spool.disk_bytes() > 50_000);
        let mut number = 1;
        let error = loop {
            writer.keep_aside(&header(kind::TABLE_MAP), &fixture::table_map("shop")).await.unwrap();
            for _ in 0..50 {
                let body = fixture::write_rows(&[1], 1000);
                writer.keep_aside(&header(kind::WRITE_ROWS), &body).await.unwrap();
            }
            number += 1;
            park(&mut writer, number, &number.to_string()).await;
            if let Err(error) = writer.flush().await {
                break error;
            }
        };
        assert!(error.message.contains("XA RECOVER") && error.message.contains("spool_max_gb"), "{error}");
        assert!(number <= 4, "{number}");
    }
}
