//! libFuzzer's way into the targets: one binary, CHANGEOVER_FUZZ_TARGET says which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

mod targets;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("CHANGEOVER_FUZZ_TARGET").unwrap_or_default();
    let found = targets::TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("CHANGEOVER_FUZZ_TARGET={name}: no such target")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
