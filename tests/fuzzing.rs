//! A short run of the fuzz targets (tests/fuzz/targets.rs) on stable Rust: every input of the corpus as it is, then
//! changed in the ways that break parsers. The seed is fixed, so that a failure is one tomorrow too;
//! CHANGEOVER_FUZZ_SEED takes another one, CHANGEOVER_FUZZ_ROUNDS more rounds. Coverage-guided, long runs:
//! `tests/fuzz/run`, docs/testing.md.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "fuzz/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// Changed inputs for each target.
const ROUNDS: u64 = 8_000;
/// What is longer isn't changed further: parsers break at lengths that are written, not at those that are there.
const INPUT_MAX: usize = 8 * 1024;
/// Far above what any input takes, also in a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(3);
/// Memory that a target may take beyond what was there: zstd's largest window is 128 MiB.
const GROWTH_MAX: u64 = 384 << 20;

/// What parsers look for.
const DICTIONARY: &[&[u8]] = &[
    b"\xff\xff\xff",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xfd\xff\xff\xff",
    b"\xfc\xff\xff",
    b"\xfb",
    b"\xfa",
    b"\x00",
    b"\x00\x00\x00\x01",
    b"\x05\x00\x00\x02\xfe\x00\x00\x02\x00",
    b"\x01\x00\x00\x01\x01",
    b"\xff\xff\xff\x00",
    b"'",
    b"\"",
    b"`",
    b"\\",
    b"/*!50000 ",
    b"/*M!100000 ",
    b"*/",
    b"-- ",
    b"#",
    b";",
    b"@",
    b"@@session.",
    b"SET ",
    b"BEGIN",
    b"CALL ",
    b"PREPARE s FROM ",
    b"EXECUTE ",
    b"CREATE TEMPORARY TABLE ",
    b"GET_LOCK(",
    b"LAST_INSERT_ID(",
    b"utf8mb4",
    b"mysql_native_password",
    b"\x81\x5c",
    b"((((((((",
    b"[[[[[[[[",
    b"-",
    b":",
    b",",
    b"18446744073709551615",
    b"9223372036854775807",
    b"mysql://",
    b"%00",
    b"password = ",
    b"[proxy]\n",
    b"\x28\xb5\x2f\xfd",
    b"\x78\x9c",
    b"\x80",
    b"\x7f",
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `end`; 0 for 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// One change. `other`: an input to take a part of.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let span = at..bytes.len().min(at + 1 + random.below(16));
    match random.below(10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => {
            bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff])
        }
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(span)),
        4 => {
            let again = bytes[span].to_vec();
            bytes.splice(at..at, again);
        }
        5 => {
            let from = random.below(other.len() + 1);
            let to = other.len().min(from + 1 + random.below(64));
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        6 => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        7 => {
            let word = random.pick(DICTIONARY);
            bytes.splice(at..at, word.iter().copied());
        }
        8 => length_field(bytes, at, random),
        _ => {
            let byte = random.next() as u8;
            bytes.insert(at, byte);
        }
    }
}

/// Writes a number where a length may stand, in one of the widths that lengths have: what is there behind it, one more or
/// one less, nothing, or as much as can be said.
fn length_field(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = *random.pick(&[1, 2, 3, 4, 8]);
    let Some(field) = bytes.get(at..).and_then(|rest| rest.get(..width)) else { return };
    let behind = (bytes.len() - at - field.len()) as u64;
    let value = *random.pick(&[
        behind,
        behind + 1,
        behind.wrapping_sub(1),
        0,
        u64::MAX,
        u64::MAX >> 1,
        1 << 31,
        0xff_ffff,
    ]);
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    // The answers of backends are what a question of ours gets, too.
    let name = if target == "question" { "exchange" } else { target };
    let mut inputs: Vec<_> = std::fs::read_dir(folder().join(name))
        .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{name} has no corpus");
    inputs
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a target on an input; a panic or a long time is a failure that leaves the input behind. On a busy machine a
/// single run can be long for no reason of its own; three aren't.
fn run((name, target): Target, what: &str, input: &[u8]) {
    let ends = || catch_unwind(AssertUnwindSafe(|| target(input)));
    let is_quick = || {
        let began = Instant::now();
        let _ = ends();
        began.elapsed() < SLOW
    };
    let began = Instant::now();
    let result = ends();
    if result.is_ok() && (began.elapsed() < SLOW || is_quick() || is_quick()) {
        return;
    }
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz-found");
    std::fs::create_dir_all(&found).unwrap();
    let path = found.join(format!("{name}-{what}"));
    std::fs::write(&path, input).unwrap();
    panic!(
        "target {name}, {what}: {}; the input is in {}",
        if result.is_ok() { "too slow" } else { "a panic" },
        path.display()
    );
}

/// The most memory this process ever took.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn parsers_survive_changed_packets() {
    let seed = number("CHANGEOVER_FUZZ_SEED", 0x5EED);
    let rounds = number("CHANGEOVER_FUZZ_ROUNDS", ROUNDS);
    println!("CHANGEOVER_FUZZ_SEED={seed} CHANGEOVER_FUZZ_ROUNDS={rounds}");
    let before = peak_bytes();
    for (place, &target) in TARGETS.iter().enumerate() {
        let began = Instant::now();
        let inputs = corpus(target.0);
        let mut random = Random(seed.wrapping_add(place as u64).max(1));
        for (name, input) in &inputs {
            run(target, name, input);
        }
        for round in 0..rounds {
            let mut bytes = random.pick(&inputs).1.clone();
            for _ in 0..1 + random.below(5) {
                let other = &random.pick(&inputs).1;
                change(&mut bytes, other, &mut random);
                bytes.truncate(INPUT_MAX);
            }
            run(target, &format!("seed-{seed}-round-{round}"), &bytes);
        }
        println!("{:<20} {:>4} inputs, {rounds} changed: {:?}", target.0, inputs.len(), began.elapsed());
    }
    let grown = peak_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more at the peak");
}

/// Changing what is refused at its first byte would find nothing: the corpus reaches the rows.
#[test]
fn the_corpus_reaches_what_it_is_for() {
    let seen: Vec<_> =
        corpus("binlog").iter().map(|(name, input)| (name.clone(), targets::binlog_reaches(input))).collect();
    for engine in ["mariadb", "mysql"] {
        let of_engine = || seen.iter().filter(|(name, _)| name.starts_with(engine)).map(|(_, seen)| seen);
        assert!(of_engine().map(|seen| seen.rows).sum::<usize>() >= 7, "{engine}: {seen:?}");
        assert!(of_engine().map(|seen| seen.closed).sum::<usize>() >= 6, "{engine}: {seen:?}");
    }
    for (target, least) in [("front_door", 5), ("backend_login", 10)] {
        let inputs = corpus(target);
        let well = inputs.iter().filter(|(_, input)| targets::login_reaches(target, input)).count();
        println!("{target}: {well} of {} logins end well", inputs.len());
        assert!(well >= least, "{target}: only {well} of {} logins end well", inputs.len());
    }
}
