//! What a crash left: the last whole transaction, and everything behind it cut off.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use config::GtidSet;
use config::progress::ReplicationPosition;

use super::format::{DURABLE_MARK, Header, Meta, Record};
use super::segment::{Records, damaged, io_error, list_segments, read_header, segment_path, sync_dir};
use crate::error::Result;

/// A segment as it is known after a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) first_seq: u64,
    /// Bytes of all segments before it, since the spool began.
    pub(super) base_bytes: u64,
    /// Bytes of its file.
    pub(super) bytes: u64,
}

/// The state at the end of a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    /// The number that the next transaction gets.
    pub(super) next_seq: u64,
    pub(super) position: ReplicationPosition,
    /// Bytes that were cut off.
    pub(super) cut_bytes: u64,
}

/// Looks at a spool; `None` where there is none. The last segment is read whole and cut behind its last whole
/// transaction; the others were whole when their successor was made, and are checked as they are read.
pub(super) fn recover(dir: &Path) -> Result<Option<Recovered>> {
    let numbers = list_segments(dir)?;
    let Some(&last) = numbers.last() else { return Ok(None) };
    let mut segments: Vec<Segment> = Vec::with_capacity(numbers.len());
    for &number in &numbers {
        let path = segment_path(dir, number);
        let header = read_header(dir, number)?;
        let bytes = fs::metadata(&path).map_err(|error| io_error(&path, "read the spool", &error))?.len();
        if let Some(previous) = segments.last() {
            let follows = previous.number + 1 == number
                && previous.bytes == header.previous_bytes
                && previous.base_bytes + previous.bytes == header.base_bytes
                && previous.first_seq <= header.first_seq;
            if !follows {
                return Err(damaged(&path, "it doesn't follow on the segment before it"));
            }
        }
        let Header { first_seq, base_bytes, .. } = header;
        segments.push(Segment { number, first_seq, base_bytes, bytes });
    }
    let path = segment_path(dir, last);
    let end = scan(&path)?;
    let cut_bytes = cut(dir, &path, end.offset)?;
    if let Some(segment) = segments.last_mut() {
        segment.bytes = end.offset;
    }
    Ok(Some(Recovered { segments, next_seq: end.next_seq, position: end.position, cut_bytes }))
}

/// Where the whole transactions of a segment end.
struct End {
    offset: u64,
    next_seq: u64,
    position: ReplicationPosition,
}

fn scan(path: &Path) -> Result<End> {
    let mut records = Records::open(path)?;
    let Some(Record::Header(header)) = records.next()? else {
        return Err(damaged(path, "it doesn't begin with its header"));
    };
    let mut end = End {
        offset: records.offset(),
        next_seq: header.first_seq,
        position: ReplicationPosition { gtids: header.gtids, coordinates: header.coordinates },
    };
    let mut open: Option<Meta> = None;
    while let Some(record) = records.next()? {
        match record {
            Record::Header(_) => return Err(damaged(path, "it holds a second header")),
            Record::Begin { meta, .. } if open.is_none() => open = Some(meta),
            Record::Events(_) if open.is_some() => {}
            Record::End { seq, end: at } if open.as_ref().is_some_and(|meta| meta.seq == seq) => {
                if let Some(meta) = open.take() {
                    end.take_transaction(path, &meta, at)?;
                }
            }
            Record::Skip { meta, end: at } | Record::Ddl { meta, end: at, .. } if open.is_none() => {
                end.take_transaction(path, &meta, at)?;
            }
            Record::Coordinates(at) if open.is_none() => end.position.coordinates = at,
            Record::Durable { offset } if offset <= records.offset() => {}
            _ => return Err(damaged(path, "its records are in an order that makes no sense")),
        }
        if open.is_none() {
            end.offset = records.offset();
        }
    }
    refuse_damage(path, records.offset())?;
    Ok(end)
}

impl End {
    fn take_transaction(&mut self, path: &Path, meta: &Meta, at: config::BinlogPosition) -> Result<()> {
        if meta.seq != self.next_seq || !add(&mut self.position.gtids, meta) {
            return Err(damaged(path, "its transactions don't follow on each other"));
        }
        self.next_seq += 1;
        self.position.coordinates = at;
        Ok(())
    }
}

fn add(gtids: &mut GtidSet, meta: &Meta) -> bool {
    gtids.add(&meta.gtid)
}

/// A crash leaves garbage only behind what was durable. A mark behind the break, which says that more than the
/// part before the break was durable, shows that the break is damage: cutting there would hide it.
fn refuse_damage(path: &Path, broken_at: u64) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    const WINDOW_BYTES: usize = 1 << 20;
    const MARK_BYTES: usize = DURABLE_MARK.len() + 8;
    let failed = |error: io::Error| io_error(path, "read the spool", &error);
    let file = fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut at = broken_at;
    let mut window = vec![0; WINDOW_BYTES];
    while at < length {
        let wanted = usize::try_from(length - at).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
        let Some(bytes) = window.get_mut(..wanted) else { break };
        file.read_exact_at(bytes, at).map_err(failed)?;
        for mark in bytes.windows(MARK_BYTES) {
            if let Some((DURABLE_MARK, offset)) = mark.split_first_chunk()
                && let Some(offset) = offset.first_chunk().copied().map(u64::from_le_bytes)
                && offset > broken_at
                && offset <= length
            {
                return Err(damaged(path, "records are broken that a later one proves durable"));
            }
        }
        if wanted < WINDOW_BYTES {
            break;
        }
        at += (WINDOW_BYTES - MARK_BYTES) as u64;
    }
    Ok(())
}

fn cut(dir: &Path, path: &Path, offset: u64) -> Result<u64> {
    let failed = |error: io::Error| io_error(path, "cut the spool's torn end", &error);
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    // What a killed process wrote but didn't sync is in the kernel only, and from now on it counts as durable.
    if length > offset {
        file.set_len(offset).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    sync_dir(dir)?;
    config::failpoint::hit("spool.recovered");
    Ok(length - offset)
}
