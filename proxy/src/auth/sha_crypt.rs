//! The stored form of caching_sha2_password and sha256_password: SHA-crypt with SHA256, as in Ulrich Drepper's
//! specification, with the longer salts of MySQL.
//!
//! It is needed to say before a cutover whether a password that a session logged in with is the one that the other
//! server has for the account. No login is tried for that.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use config::Secret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Characters of a digest.
const DIGEST_LEN: usize = 43;
/// Bytes of a caching_sha2_password salt; a `$` may be among them.
pub(crate) const SALT_LEN: usize = 20;
/// Rounds of sha256_password, which doesn't write them down.
const ROUNDS_DEFAULT: usize = 5_000;
/// MySQL's own default is 5,000. A check with more than this isn't worth its time.
const ROUNDS_MAX: usize = 100_000;
/// The longest password of both plugins.
const PASSWORD_MAX: usize = 256;

/// A stored password in parts.
struct Stored<'a> {
    rounds: usize,
    salt: &'a [u8],
    digest: &'a [u8],
}

/// Whether `password` is the one of a stored form; `None` where that form isn't known here.
pub(crate) fn fits(password: &Secret, stored: &[u8]) -> Option<bool> {
    let stored = caching_sha2(stored).or_else(|| sha256(stored))?;
    if stored.rounds > ROUNDS_MAX || password.expose().len() > PASSWORD_MAX {
        return None;
    }
    let digest = crypt(password.expose(), stored.salt, stored.rounds);
    Some(verify_slices_are_equal(&encode(&digest), stored.digest).is_ok())
}

/// The stored form of a caching_sha2_password password, salted with these random bytes: what `IDENTIFIED WITH
/// caching_sha2_password AS` takes. Letters, digits, `$`, `.` and `/` only.
pub(crate) fn stored_for(password: &Secret, random: &[u8; SALT_LEN]) -> String {
    let salt: Vec<u8> = random.iter().map(|byte| character(u32::from(*byte))).collect();
    let digest = crypt(password.expose(), &salt, ROUNDS_DEFAULT);
    let text = [b"$A$005$".as_slice(), &salt, &encode(&digest)].concat();
    text.into_iter().map(char::from).collect()
}

/// `$A$`, thousands of rounds in three hexadecimal digits, `$`, 20 bytes of salt, the digest.
fn caching_sha2(stored: &[u8]) -> Option<Stored<'_>> {
    let rest = stored.strip_prefix(b"$A$")?;
    let (thousands, rest) = rest.split_at_checked(3)?;
    let rest = rest.strip_prefix(b"$")?;
    let (salt, digest) = rest.split_at_checked(SALT_LEN)?;
    let thousands = usize::from_str_radix(std::str::from_utf8(thousands).ok()?, 16).ok()?;
    (digest.len() == DIGEST_LEN && thousands > 0).then_some(Stored { rounds: thousands * 1000, salt, digest })
}

/// `$5$`, the salt, `$`, the digest.
fn sha256(stored: &[u8]) -> Option<Stored<'_>> {
    let rest = stored.strip_prefix(b"$5$")?;
    let (salt, digest) = rest.split_at_checked(rest.len().checked_sub(DIGEST_LEN)?)?;
    let salt = salt.strip_suffix(b"$")?;
    let is_plain = !salt.starts_with(b"rounds=") && salt.len() <= SALT_LEN;
    is_plain.then_some(Stored { rounds: ROUNDS_DEFAULT, salt, digest })
}

fn crypt(password: &[u8], salt: &[u8], rounds: usize) -> [u8; 32] {
    let once = |parts: &[&[u8]]| -> Zeroizing<[u8; 32]> {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        Zeroizing::new(hash.finalize().into())
    };
    let alternate = once(&[password, salt, password]);
    let mut hash = Sha256::new();
    hash.update(password);
    hash.update(salt);
    hash.update(stretched(&*alternate, password.len()));
    let mut length = password.len();
    while length > 0 {
        if length & 1 == 1 {
            hash.update(*alternate)
        } else {
            hash.update(password)
        }
        length >>= 1;
    }
    let mut digest: [u8; 32] = hash.finalize().into();
    let mut hash = Sha256::new();
    (0..password.len()).for_each(|_| hash.update(password));
    let of_password = stretched(&hash.finalize(), password.len());
    let mut hash = Sha256::new();
    let first = digest.first().copied().unwrap_or_default();
    (0..16 + usize::from(first)).for_each(|_| hash.update(salt));
    let of_salt = stretched(&hash.finalize(), salt.len());
    for round in 0..rounds {
        let mut hash = Sha256::new();
        if round % 2 == 1 {
            hash.update(&of_password)
        } else {
            hash.update(digest)
        }
        if round % 3 != 0 {
            hash.update(&of_salt);
        }
        if round % 7 != 0 {
            hash.update(&of_password);
        }
        if round % 2 == 1 {
            hash.update(digest)
        } else {
            hash.update(&of_password)
        }
        digest = hash.finalize().into();
    }
    digest
}

/// The bytes over and over, up to a length.
fn stretched(bytes: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.iter().copied().cycle().take(length).collect())
}

/// The character of crypt's own base 64 for the lowest six bits.
fn character(bits: u32) -> u8 {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    ALPHABET.get((bits & 63) as usize).copied().unwrap_or(b'.')
}

/// Digest in that base, in crypt's own order of the bytes.
fn encode(digest: &[u8; 32]) -> Vec<u8> {
    let byte = |at: usize| digest.get(at).copied().map_or(0, u32::from);
    let mut text = Vec::with_capacity(DIGEST_LEN);
    let mut put = |mut bits: u32, characters: usize| {
        for _ in 0..characters {
            text.push(character(bits));
            bits >>= 6;
        }
    };
    let mut at = (0, 10, 20);
    for _ in 0..10 {
        put(byte(at.0) << 16 | byte(at.1) << 8 | byte(at.2), 4);
        at = (at.2 + 1, at.0 + 1, at.1 + 1);
    }
    put(byte(31) << 8 | byte(30), 3);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_and_servers_agree() {
        let check = |password: &str, stored: &[u8], expected: Option<bool>| {
            assert_eq!(fits(&Secret::new(password), stored), expected, "{password}");
        };
        // As `openssl passwd -5` and glibc have it.
        let stored = b"$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5";
        check("Hello world!", stored, Some(true));
        check("Hello world", stored, Some(false));
        check("", stored, Some(false));
        let long = "A longer password, of more than 32 bytes; and then of more than 64, to be sure.";
        check(long, b"$5$0123456789abcdef$v3cR2ir6ziBUa8GN34jjJgQf08lR5O4gRZZqJDZuIG0", Some(true));
        // sha256_password of MySQL 9.7, whose salts have bytes that aren't text.
        let stored = b"\x245\x24Ye\x7e\x09\x7b\x7fB\x1d\x1agp\x27\x0b\x16\x5fSLy\x2a\x01$MxvAs5lvYgXIFm00kgwsX9y7f5CHvG7yyCZjs.86J63";
        check("x", stored, Some(true));
        check("y", stored, Some(false));
        check("x", b"", None);
        check("x", b"*B69027D44F6E5EDC07F1AEAD1477967B16F28227", None);
        check("x", b"$A$005$short", None);
        check("x", &[&b"$A$FFF$"[..], &[b'a'; 63]].concat(), None);
        check("x", &[&b"$A$005$"[..], &[b'a'; 63]].concat(), Some(false));
        let made = stored_for(&Secret::new("x"), b"\0\x01$'\\\xFF89abcdefghijkl");
        assert!(made.bytes().all(|c| c.is_ascii_alphanumeric() || b"$./".contains(&c)), "{made}");
        check("x", made.as_bytes(), Some(true));
        check("y", made.as_bytes(), Some(false));
    }
}
