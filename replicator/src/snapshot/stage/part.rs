//! A part of a chunk in a file: rows as a loader takes them, compressed.
//!
//! # Format, version 1
//!
//! ```text
//! CHGOSTG1       eight bytes
//! rows           one zstd frame of batches, each: its form u8, rows u32, length u32, CRC-32 of the bytes u32, the bytes
//! description    of what is in it
//! length         u32, of the description
//! crc            u32, CRC-32 of the description
//! CHGOSTG1       the same eight bytes
//! ```
//!
//! Numbers are little-endian. The description stands last, since where a part ends is known only once it was read. It holds, spelled as
//! [`super::super::record`] says: the start position as a text, the shape as a text, a byte for the form that the target takes (1 LOAD DATA's fields, 2 an INSERT's literals; a batch in it has one of its own, which with 1 is either), table and chunk number, where the chunk ends,
//! where the part begins and where it ends (three bounds), a byte that is 1 where the chunk ends with it, rows and bytes.
//!
//! A batch is checked before anything of it is handed on, and all batches together have to be what the description counts; so damage
//! never gets as far as a commit.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use config::TableName;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use super::super::encode::Form;
use super::super::record::{
    take_bound, take_text, take_u8, take_u32, take_u64, write_bound, write_chunk, write_text,
};
use crate::value::Value;

const MAGIC: &[u8; 8] = b"CHGOSTG1";
/// Length, checksum and magic behind the description.
const TAIL_BYTES: u64 = 16;
/// More than any description has: a CREATE TABLE's worth of columns and six keys.
const DESCRIPTION_BYTES_MAX: u64 = 16 << 20;
/// The fastest of the levels that compress at all well: a disk is filled and emptied again within minutes.
const LEVEL: i32 = 1;

/// What is in a part.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Description {
    /// P0 of the copy that it was read for.
    pub(super) start: String,
    /// How its rows were read and are to be loaded: only what is read and loaded alike may use them.
    pub(super) shape: String,
    /// What a loader takes them as.
    pub(super) form: Form,
    pub(super) table: TableName,
    /// The number of the chunk in its table.
    pub(super) chunk: u64,
    /// Where the chunk ends; `None`: with the table.
    pub(super) chunk_upto: Option<Vec<Value>>,
    /// The part's rows lie behind this key; `None`: from the first row on.
    pub(super) after: Option<Vec<Value>>,
    /// And end with this one; `None`: with the table.
    pub(super) upto: Option<Vec<Value>>,
    /// The chunk ends with it.
    pub(super) is_last: bool,
    pub(super) rows: u64,
    /// Bytes of the rows, as a loader takes them.
    pub(super) bytes: u64,
}

/// Why a part can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// It isn't what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A part that is being written.
pub(super) struct PartWriter {
    encoder: Encoder<'static, BufWriter<File>>,
    rows: u64,
    bytes: u64,
}

impl PartWriter {
    /// Makes the file, which must not be there yet, mode 0600: it holds rows.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        let mut file = BufWriter::with_capacity(256 << 10, file);
        file.write_all(MAGIC)?;
        let mut encoder = Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self { encoder, rows: 0, bytes: 0 })
    }

    pub(super) fn batch(&mut self, form: Form, rows: u64, bytes: &[u8]) -> io::Result<()> {
        let short = |number: u64| u32::try_from(number).map_err(io::Error::other);
        self.encoder.write_all(&[code(form)])?;
        self.encoder.write_all(&short(rows)?.to_le_bytes())?;
        self.encoder.write_all(&short(bytes.len() as u64)?.to_le_bytes())?;
        self.encoder.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        self.encoder.write_all(bytes)?;
        self.rows += rows;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Rows and their bytes so far.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.rows, self.bytes)
    }

    /// Writes the description and has all of it on the disk; returns the file's bytes.
    pub(super) fn finish(self, description: &Description) -> io::Result<u64> {
        let mut file = self.encoder.finish()?;
        let described = describe(description);
        file.write_all(&described)?;
        file.write_all(&u32::try_from(described.len()).map_err(io::Error::other)?.to_le_bytes())?;
        file.write_all(&crc32fast::hash(&described).to_le_bytes())?;
        file.write_all(MAGIC)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }
}

fn code(form: Form) -> u8 {
    match form {
        Form::LoadData => 1,
        Form::Insert => 2,
    }
}

fn form_of_code(code: u8) -> Option<Form> {
    match code {
        1 => Some(Form::LoadData),
        2 => Some(Form::Insert),
        _ => None,
    }
}

fn describe(part: &Description) -> Vec<u8> {
    let mut out = Vec::new();
    write_text(&mut out, part.start.as_bytes());
    write_text(&mut out, part.shape.as_bytes());
    out.push(code(part.form));
    write_chunk(&mut out, &part.table, part.chunk);
    for bound in [&part.chunk_upto, &part.after, &part.upto] {
        write_bound(&mut out, bound.as_deref());
    }
    out.push(u8::from(part.is_last));
    out.extend_from_slice(&part.rows.to_le_bytes());
    out.extend_from_slice(&part.bytes.to_le_bytes());
    out
}

fn understand(mut input: &[u8]) -> Option<Description> {
    let input = &mut input;
    let text = |input: &mut &[u8]| String::from_utf8(take_text(input)?.to_vec()).ok();
    let part = Description {
        start: text(input)?,
        shape: text(input)?,
        form: form_of_code(take_u8(input)?)?,
        table: TableName::new(text(input)?, text(input)?),
        chunk: take_u64(input)?,
        chunk_upto: take_bound(input)?,
        after: take_bound(input)?,
        upto: take_bound(input)?,
        is_last: take_u8(input)? == 1,
        rows: take_u64(input)?,
        bytes: take_u64(input)?,
    };
    input.is_empty().then_some(part)
}

/// Reads the description of a part, and how many bytes the file has.
pub(super) fn read_description(path: &Path) -> Result<(Description, u64), Unusable> {
    let mut file = File::open(path)?;
    let (description, _, length) = description_of(&mut file)?;
    Ok((description, length))
}

/// The description, where its bytes begin, and where the file ends.
fn description_of(file: &mut File) -> Result<(Description, u64, u64), Unusable> {
    const CUT: Unusable = Unusable::Damaged("it is cut off");
    let length = file.metadata()?.len();
    let tail_at = length.checked_sub(TAIL_BYTES).ok_or(CUT)?;
    let mut tail = [0; TAIL_BYTES as usize];
    file.seek(SeekFrom::Start(tail_at))?;
    file.read_exact(&mut tail)?;
    let input = &mut tail.as_slice();
    let (Some(size), Some(crc)) = (take_u32(input), take_u32(input)) else { return Err(CUT) };
    if *input != MAGIC {
        return Err(CUT);
    }
    let begin = tail_at.checked_sub(u64::from(size)).filter(|at| *at >= MAGIC.len() as u64);
    let begin = begin.filter(|_| u64::from(size) <= DESCRIPTION_BYTES_MAX);
    let begin = begin.ok_or(Unusable::Damaged("its description has no length that can be"))?;
    let mut described = vec![0; size as usize];
    file.seek(SeekFrom::Start(begin))?;
    file.read_exact(&mut described)?;
    if crc32fast::hash(&described) != crc {
        return Err(Unusable::Damaged("the checksum of its description is wrong"));
    }
    let description = understand(&described).ok_or(Unusable::Damaged("its description makes no sense"))?;
    Ok((description, begin, length))
}

/// Reads the batches of a part in their order, each as rows and bytes, until `each` says that nobody wants more.
///
/// # Errors
/// Whatever was handed on before one must not be committed.
pub(super) fn read_batches(
    path: &Path,
    expected: &Description,
    mut each: impl FnMut(Form, u64, Bytes) -> bool,
) -> Result<(), Unusable> {
    let mut file = File::open(path)?;
    let (description, end, _) = description_of(&mut file)?;
    if description != *expected {
        return Err(Unusable::Damaged("it has become another"));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(Unusable::Damaged("it doesn't begin as it should"));
    }
    let frame = BufReader::with_capacity(256 << 10, file.take(end - MAGIC.len() as u64));
    let mut frame = Decoder::with_buffer(frame)?.single_frame();
    let (mut rows, mut bytes) = (0, 0);
    while rows < description.rows || bytes < description.bytes {
        let (form, count, batch) = next_batch(&mut frame, description.bytes - bytes)?;
        rows += count;
        bytes += batch.len() as u64;
        if rows > description.rows {
            return Err(Unusable::Damaged("it holds more rows than it should"));
        }
        if !each(form, count, batch) {
            return Ok(());
        }
    }
    // The frame's own checksum stands at its end, and nothing may follow it.
    let rest = frame.read(&mut [0; 1]).map_err(damaged_frame)?;
    let mut buffered = frame.finish();
    if rest > 0 || buffered.read(&mut [0; 1])? > 0 {
        return Err(Unusable::Damaged("it holds more than it should"));
    }
    Ok(())
}

/// The next batch, of no more than so many bytes.
fn next_batch(frame: &mut impl io::Read, bytes_max: u64) -> Result<(Form, u64, Bytes), Unusable> {
    let mut head = [0; 13];
    frame.read_exact(&mut head).map_err(damaged_frame)?;
    let input = &mut head.as_slice();
    let form = take_u8(input).and_then(form_of_code);
    let fields = (form, take_u32(input), take_u32(input), take_u32(input));
    let (Some(form), Some(rows), Some(length), Some(crc)) = fields else {
        return Err(Unusable::Damaged("a batch of it makes no sense"));
    };
    if u64::from(length) > bytes_max || rows == 0 {
        return Err(Unusable::Damaged("a batch of it has no length that can be"));
    }
    let mut batch = vec![0; length as usize];
    frame.read_exact(&mut batch).map_err(damaged_frame)?;
    if crc32fast::hash(&batch) != crc {
        return Err(Unusable::Damaged("the checksum of a batch is wrong"));
    }
    Ok((form, u64::from(rows), Bytes::from(batch)))
}

/// The decoder tells of damage as of input and output; what the disk itself refuses comes with a number of the system's.
fn damaged_frame(error: io::Error) -> Unusable {
    match error.raw_os_error() {
        Some(_) => Unusable::Io(error),
        None => Unusable::Damaged("its rows can't be decompressed"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn description() -> Description {
        Description {
            start: "0-1-5".to_owned(),
            shape: "SELECT `a` INTO `s`.`t`".to_owned(),
            form: Form::Insert,
            table: TableName::new("s", "t"),
            chunk: 3,
            chunk_upto: Some(vec![Value::Int(90)]),
            after: None,
            upto: Some(vec![Value::Int(50), Value::Text("x".to_owned())]),
            is_last: false,
            rows: 5,
            bytes: 11,
        }
    }

    fn write(path: &Path) -> u64 {
        let mut part = PartWriter::create(path).unwrap();
        part.batch(Form::LoadData, 2, b"one\ntw").unwrap();
        part.batch(Form::Insert, 3, b"three").unwrap();
        assert_eq!(part.totals(), (5, 11));
        part.finish(&description()).unwrap()
    }

    fn read(path: &Path) -> Result<Vec<(Form, u64, Bytes)>, Unusable> {
        let mut batches = Vec::new();
        read_batches(path, &description(), |form, rows, bytes| {
            batches.push((form, rows, bytes));
            true
        })?;
        Ok(batches)
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.rows");
        let length = write(&path);
        assert_eq!(read_description(&path).unwrap(), (description(), length));
        let expected = [
            (Form::LoadData, 2, Bytes::from_static(b"one\ntw")),
            (Form::Insert, 3, Bytes::from_static(b"three")),
        ];
        assert_eq!(read(&path).unwrap(), expected);
        assert!(PartWriter::create(&path).is_err(), "it is never written over");
    }

    #[test]
    fn a_part_without_rows_is_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.rows");
        let empty = Description { rows: 0, bytes: 0, is_last: true, ..description() };
        PartWriter::create(&path).unwrap().finish(&empty).unwrap();
        read_batches(&path, &empty, |_, _, _| panic!("there is none")).unwrap();
    }

    #[test]
    fn no_damaged_byte_changes_a_row_and_every_cut_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.rows");
        write(&path);
        let (whole, intact) = (std::fs::read(&path).unwrap(), read(&path).unwrap());
        let broken = folder.path().join("2.rows");
        for at in 0..whole.len() {
            for bit in [0, 3, 7] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                std::fs::write(&broken, bytes).unwrap();
                // What says how much memory a decompressor needs may change and nothing else with it.
                match read(&broken) {
                    Ok(batches) => assert_eq!(batches, intact, "byte {at}, bit {bit}"),
                    Err(error) => assert!(matches!(error, Unusable::Damaged(_)), "byte {at}, bit {bit}"),
                }
            }
        }
        for length in 0..whole.len() {
            std::fs::write(&broken, &whole[..length]).unwrap();
            assert!(matches!(read_description(&broken), Err(Unusable::Damaged(_))), "{length} bytes");
        }
        std::fs::write(&broken, b"something else, and longer than what stands at the end").unwrap();
        assert!(matches!(read_description(&broken), Err(Unusable::Damaged(_))));
    }

    #[test]
    fn another_part_in_its_place_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.rows");
        write(&path);
        let other = Description { chunk: 4, ..description() };
        let answer = read_batches(&path, &other, |_, _, _| panic!("nothing of it may be handed on"));
        assert!(matches!(answer, Err(Unusable::Damaged("it has become another"))));
    }
}
