//! Dates and times as the server packs them, to the text that it prints.

use super::cursor::{Cursor, Malformed};

/// The zero date with time; fractional zeros are appended.
const ZERO_DATETIME: &str = "0000-00-00 00:00:00";

/// Bytes of the fraction of a temporal type with so many fractional digits.
fn fraction_bytes(fraction: u8) -> usize {
    usize::from(fraction.min(6)).div_ceil(2)
}

/// Appends `number` in decimal, with zeros in front up to `width` digits.
fn push_padded(out: &mut String, number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        if rest == 0 && used >= width {
            break;
        }
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        used += 1;
    }
    let tail = digits.get(digits.len() - used..).unwrap_or_default();
    out.extend(tail.iter().map(|&digit| char::from(digit)));
}

/// Appends the fraction. Stored are two digits a byte; an odd number of digits has a zero behind it.
fn push_fraction(out: &mut String, stored: u64, fraction: u8) {
    if fraction == 0 {
        return;
    }
    let digits = if fraction % 2 == 1 { stored / 10 } else { stored };
    out.push('.');
    push_padded(out, digits, usize::from(fraction));
}

fn push_date(out: &mut String, year: u64, month: u64, day: u64) {
    push_padded(out, year, 4);
    out.push('-');
    push_padded(out, month, 2);
    out.push('-');
    push_padded(out, day, 2);
}

fn push_clock(out: &mut String, hour: u64, minute: u64, second: u64) {
    push_padded(out, hour, 2);
    out.push(':');
    push_padded(out, minute, 2);
    out.push(':');
    push_padded(out, second, 2);
}

/// DATE: three bytes.
pub(crate) fn date(cursor: &mut Cursor<'_>) -> Result<String, Malformed> {
    let packed = cursor.uint_le(3)?;
    let mut out = String::with_capacity(10);
    push_date(&mut out, packed >> 9, (packed >> 5) & 0xf, packed & 0x1f);
    Ok(out)
}

/// TIME2: three bytes and the fraction, as one number with an offset instead of a sign.
pub(crate) fn time2(cursor: &mut Cursor<'_>, fraction: u8) -> Result<String, Malformed> {
    let bytes = fraction_bytes(fraction);
    let bits = 8 * bytes;
    let stored = cursor.uint_be(3 + bytes)?;
    let zero = 0x80_0000_u64 << bits;
    let mut out = String::with_capacity(17);
    if stored < zero {
        out.push('-');
    }
    let distance = stored.abs_diff(zero);
    push_time_of(&mut out, distance >> bits);
    push_fraction(&mut out, distance & ((1 << bits) - 1), fraction);
    Ok(out)
}

fn push_time_of(out: &mut String, packed: u64) {
    push_clock(out, (packed >> 12) & 0x3ff, (packed >> 6) & 0x3f, packed & 0x3f);
}

/// DATETIME2: five bytes and the fraction.
pub(crate) fn datetime2(cursor: &mut Cursor<'_>, fraction: u8) -> Result<String, Malformed> {
    let packed = cursor.uint_be(5)?;
    let Some(packed) = packed.checked_sub(0x80_0000_0000) else {
        return Err(Malformed::new("a DATETIME is negative"));
    };
    let stored = cursor.uint_be(fraction_bytes(fraction))?;
    let mut out = String::with_capacity(26);
    push_datetime_of(&mut out, packed);
    push_fraction(&mut out, stored, fraction);
    Ok(out)
}

fn push_datetime_of(out: &mut String, packed: u64) {
    let year_month = packed >> 22;
    push_date(out, year_month / 13, year_month % 13, (packed >> 17) & 0x1f);
    out.push(' ');
    push_clock(out, (packed >> 12) & 0x1f, (packed >> 6) & 0x3f, packed & 0x3f);
}

/// TIMESTAMP2: seconds since 1970, big-endian, and the fraction; to UTC. All zero is the zero date.
pub(crate) fn timestamp2(cursor: &mut Cursor<'_>, fraction: u8) -> Result<String, Malformed> {
    const DAY_S: u64 = 86_400;
    let seconds = cursor.uint_be(4)?;
    let stored = cursor.uint_be(fraction_bytes(fraction))?;
    let mut out = String::with_capacity(26);
    if seconds == 0 && stored == 0 {
        out.push_str(ZERO_DATETIME);
    } else {
        let (year, month, day) = civil_from_days(seconds / DAY_S);
        let clock = seconds % DAY_S;
        push_date(&mut out, year, month, day);
        out.push(' ');
        push_clock(&mut out, clock / 3600, clock / 60 % 60, clock % 60);
    }
    push_fraction(&mut out, stored, fraction);
    Ok(out)
}

/// Days since 1970-01-01 to year, month and day of the proleptic Gregorian calendar. Eras of 400 years begin in
/// March, so that the leap day is the last of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const ERA_DAYS: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let day_of_era = days % ERA_DAYS;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = days / ERA_DAYS * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// A temporal value in binary JSON: eight bytes, microseconds in the low three of them.
pub(crate) fn json_temporal(bytes: &[u8], kind: JsonTemporal) -> Result<String, Malformed> {
    let packed = i64::from_le_bytes(Cursor::new(bytes).array()?);
    let distance = packed.unsigned_abs();
    let (whole, microseconds) = (distance >> 24, distance & 0xff_ffff);
    let mut out = String::with_capacity(26);
    match kind {
        JsonTemporal::Date => {
            let year_month = whole >> 22;
            push_date(&mut out, year_month / 13, year_month % 13, (whole >> 17) & 0x1f);
            return Ok(out);
        }
        JsonTemporal::Datetime => push_datetime_of(&mut out, whole),
        JsonTemporal::Time => {
            if packed < 0 {
                out.push('-');
            }
            push_time_of(&mut out, whole);
        }
    }
    push_fraction(&mut out, microseconds, 6);
    Ok(out)
}

/// Which temporal type an opaque value of binary JSON has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonTemporal {
    Date,
    Time,
    Datetime,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn timestamps_are_utc() {
        let check = |seconds: u32, expected: &str| {
            let bytes = seconds.to_be_bytes();
            assert_eq!(timestamp2(&mut Cursor::new(&bytes), 0).unwrap(), expected);
        };
        check(0, "0000-00-00 00:00:00");
        check(1, "1970-01-01 00:00:01");
        check(951_782_400, "2000-02-29 00:00:00");
        check(951_868_800, "2000-03-01 00:00:00");
        check(1_735_689_599, "2024-12-31 23:59:59");
        check(0x7fff_ffff, "2038-01-19 03:14:07");
        check(u32::MAX, "2106-02-07 06:28:15");
    }

    #[test]
    fn negative_times_with_a_fraction() {
        let check = |bytes: &[u8], fraction: u8, expected: &str| {
            assert_eq!(time2(&mut Cursor::new(bytes), fraction).unwrap(), expected);
        };
        check(&[0x80, 0, 0], 0, "00:00:00");
        check(&[0x7f, 0xff, 0xff], 0, "-00:00:01");
        // From the server's own comment on its format: -00:00:01.10 is 7FFFFE.F6.
        check(&[0x7f, 0xff, 0xfe, 0xf6], 2, "-00:00:01.10");
        check(&[0x7f, 0xff, 0xff, 0x00], 1, "-00:00:01.0");
        check(&[0x80, 0, 1, 50], 1, "00:00:01.5");
    }
}
