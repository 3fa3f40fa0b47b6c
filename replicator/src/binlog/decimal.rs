//! DECIMAL as the server packs it, to its digits.

use super::cursor::{Cursor, Malformed};

/// Digits in a word of four bytes.
const WORD_DIGITS: usize = 9;
/// Bytes of so many left-over digits.
const PART_BYTES: [usize; WORD_DIGITS + 1] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
/// What the server allows.
const PRECISION_MAX: u8 = 65;
const BYTES_MAX: usize = 40;

fn part_bytes(digits: usize) -> usize {
    PART_BYTES.get(digits).copied().unwrap_or(0)
}

fn packed_bytes(digits: usize) -> usize {
    digits / WORD_DIGITS * 4 + part_bytes(digits % WORD_DIGITS)
}

/// Reads DECIMAL(precision, scale): `-12.3400`, `0.50`, `7`.
pub(crate) fn decimal(cursor: &mut Cursor<'_>, precision: u8, scale: u8) -> Result<String, Malformed> {
    if precision == 0 || precision > PRECISION_MAX || scale > precision {
        return Err(Malformed::new("a DECIMAL has a precision that no server has"));
    }
    let (whole, scale) = (usize::from(precision - scale), usize::from(scale));
    let length = packed_bytes(whole) + packed_bytes(scale);
    let mut buffer = [0_u8; BYTES_MAX];
    let bytes = buffer.get_mut(..length).ok_or_else(|| Malformed::new("a DECIMAL is too long"))?;
    bytes.copy_from_slice(cursor.take(length)?);

    // The top bit is the sign, turned round so that packed values sort; a negative one is inverted as a whole.
    let negative = bytes.first().is_some_and(|first| first & 0x80 == 0);
    if let Some(first) = bytes.first_mut() {
        *first ^= 0x80;
    }
    if negative {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }

    let mut packed = Cursor::new(bytes);
    let mut digits = String::with_capacity(usize::from(precision) + 2);
    push_digits(&mut packed, &mut digits, whole % WORD_DIGITS)?;
    for _ in 0..whole / WORD_DIGITS {
        push_digits(&mut packed, &mut digits, WORD_DIGITS)?;
    }
    let significant = digits.trim_start_matches('0');
    let mut out = String::with_capacity(usize::from(precision) + 3);
    if negative {
        out.push('-');
    }
    out.push_str(if significant.is_empty() { "0" } else { significant });
    if scale > 0 {
        out.push('.');
        for _ in 0..scale / WORD_DIGITS {
            push_digits(&mut packed, &mut out, WORD_DIGITS)?;
        }
        push_digits(&mut packed, &mut out, scale % WORD_DIGITS)?;
    }
    Ok(out)
}

/// Appends `count` digits that are packed in as few bytes as hold them.
fn push_digits(packed: &mut Cursor<'_>, out: &mut String, count: usize) -> Result<(), Malformed> {
    if count == 0 {
        return Ok(());
    }
    let mut number = packed.uint_be(part_bytes(count))?;
    let mut digits = [b'0'; WORD_DIGITS];
    for digit in digits.iter_mut().take(count).rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    if number != 0 {
        return Err(Malformed::new("a DECIMAL holds more digits than its precision"));
    }
    out.extend(digits.iter().take(count).map(|&digit| char::from(digit)));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn examples_of_the_manual() {
        let check = |bytes: &[u8], precision: u8, scale: u8, expected: &str| {
            let mut cursor = Cursor::new(bytes);
            assert_eq!(decimal(&mut cursor, precision, scale).unwrap(), expected);
            assert!(cursor.is_empty());
        };
        check(&[0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2], 14, 4, "1234567890.1234");
        check(&[0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d], 14, 4, "-1234567890.1234");
        check(&[0x80], 1, 0, "0");
        check(&[0x85], 1, 0, "5");
        check(&[0x80 | 0x32], 2, 2, "0.50");
    }

    #[test]
    fn a_precision_that_no_server_has_is_refused() {
        assert!(decimal(&mut Cursor::new(&[0; 64]), 0, 0).is_err());
        assert!(decimal(&mut Cursor::new(&[0; 64]), 66, 0).is_err());
        assert!(decimal(&mut Cursor::new(&[0; 64]), 5, 6).is_err());
    }
}
