//! What the plugins answer: the arithmetic.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use config::Secret;
use mysql_common::scramble::create_response_for_ed25519;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::Credential;

/// A scramble of both plugins has this many bytes.
pub use crate::protocol::packet::handshake::SCRAMBLE_LEN;

/// The plugins that Changeover speaks, towards clients and towards backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// SHA1; MariaDB's default.
    Native,
    /// SHA256, with the password itself where the server hasn't cached its hash; MySQL's default since 8.0.
    CachingSha2,
    /// The password itself, always. Spoken towards backends only: MySQL also names it to whoever asks for
    /// an account that doesn't exist, and only who goes along with it hears the usual refusal.
    Sha256,
    /// MariaDB's ed25519: a signature made with the password itself. Spoken towards backends only: what a
    /// client signs for the proxy is of no use to a backend.
    Ed25519,
}

/// The first answer of sha256_password: "send me your public key".
const SHA256_KEY_REQUEST: u8 = 1;

impl Plugin {
    /// The plugin of that name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let all = [Self::Native, Self::CachingSha2, Self::Sha256, Self::Ed25519];
        all.into_iter().find(|plugin| plugin.name().as_bytes() == name)
    }

    /// The same, of those that clients are let in with.
    #[must_use]
    pub fn of_client(name: &[u8]) -> Option<Self> {
        Self::from_name(name).filter(|plugin| matches!(plugin, Self::Native | Self::CachingSha2))
    }

    /// The plugin of an account, by its name on the server, which isn't always the one in packets.
    #[must_use]
    pub fn of_account(name: &str) -> Option<Self> {
        if name == "ed25519" { Some(Self::Ed25519) } else { Self::from_name(name.as_bytes()) }
    }

    /// Its name in packets.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
            Self::Ed25519 => "client_ed25519",
        }
    }

    /// The answer to `scramble`; `None` where `credential` isn't enough for this plugin.
    #[must_use]
    pub fn answer(self, credential: &Credential, scramble: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        Some(match (self, credential) {
            (Self::Sha256, Credential::Empty) => Zeroizing::new(vec![0]),
            (Self::Sha256, Credential::Clear(_)) => Zeroizing::new(vec![SHA256_KEY_REQUEST]),
            (_, Credential::Empty) => Zeroizing::default(),
            (Self::Native, Credential::Clear(password)) => native_token(&sha1_of(password), scramble),
            (Self::Native, Credential::Sha1(hash)) => native_token(hash, scramble),
            (Self::CachingSha2, Credential::Clear(password)) => caching_sha2_token(password, scramble),
            (Self::Ed25519, Credential::Clear(password)) => {
                Zeroizing::new(create_response_for_ed25519(password.expose(), scramble).to_vec())
            }
            (Self::CachingSha2 | Self::Sha256 | Self::Ed25519, Credential::Sha1(_)) => return None,
        })
    }

    /// True where `answer` is what a client with `password` answers to `scramble` with a plugin
    /// [of clients](Self::of_client). Takes the same time wherever they differ.
    #[must_use]
    pub fn verify(self, password: &Secret, scramble: &[u8], answer: &[u8]) -> bool {
        let credential =
            if password.is_empty() { Credential::Empty } else { Credential::Clear(password.clone()) };
        let answer = if is_empty_answer(answer) { &[] } else { answer };
        self.answer(&credential, scramble)
            .is_some_and(|expected| verify_slices_are_equal(&expected, answer).is_ok())
    }
}

/// True where a client says that it has no password: with nothing, or, by caching_sha2_password, with a single
/// zero.
#[must_use]
pub fn is_empty_answer(answer: &[u8]) -> bool {
    matches!(answer, [] | [0])
}

/// SHA1 of a password: all that mysql_native_password needs to know of it.
#[must_use]
pub fn sha1_of(password: &Secret) -> Zeroizing<[u8; 20]> {
    Zeroizing::new(Sha1::digest(password.expose()).into())
}

/// `SHA1(p) XOR SHA1(scramble + SHA1(SHA1(p)))`, from `SHA1(p)`.
fn native_token(hash: &[u8; 20], scramble: &[u8]) -> Zeroizing<Vec<u8>> {
    let stored: [u8; 20] = Sha1::digest(hash).into();
    xor(hash, &native_mask(&stored, scramble))
}

fn native_mask(stored: &[u8; 20], scramble: &[u8]) -> [u8; 20] {
    Sha1::new().chain_update(scramble).chain_update(stored).finalize().into()
}

/// SHA1 of the password, from a client's token and the server's stored hash (SHA1 of SHA1 of the password).
/// `None` where the token wasn't made with the password of that hash.
#[must_use]
pub fn recover_sha1(token: &[u8], scramble: &[u8], stored: &[u8; 20]) -> Option<Zeroizing<[u8; 20]>> {
    let token: &[u8; 20] = token.try_into().ok()?;
    let recovered = xor(token, &native_mask(stored, scramble));
    let recovered: Zeroizing<[u8; 20]> = Zeroizing::new(recovered.as_slice().try_into().ok()?);
    let again: [u8; 20] = Sha1::digest(*recovered).into();
    verify_slices_are_equal(&again, stored).is_ok().then_some(recovered)
}

/// `SHA256(p) XOR SHA256(SHA256(SHA256(p)) + scramble)`.
fn caching_sha2_token(password: &Secret, scramble: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut once: [u8; 32] = Sha256::digest(password.expose()).into();
    let mut twice: [u8; 32] = Sha256::digest(once).into();
    let mask: [u8; 32] = Sha256::new().chain_update(twice).chain_update(scramble).finalize().into();
    let token = xor(&once, &mask);
    once.zeroize();
    twice.zeroize();
    token
}

/// A password and its closing NUL, XORed with the scramble over and over: what is encrypted with the RSA key.
/// Its own inverse but for the NUL.
#[must_use]
pub fn obfuscate(password: &Secret, scramble: &[u8]) -> Zeroizing<Vec<u8>> {
    let password = password.expose();
    let mut bytes = Zeroizing::new(Vec::with_capacity(password.len() + 1));
    bytes.extend_from_slice(password);
    bytes.push(0);
    xor_cyclic(&mut bytes, scramble);
    bytes
}

/// The password in what was decrypted; `None` where the closing NUL is missing, as it is when the bytes
/// were never a password.
#[must_use]
pub fn deobfuscate(bytes: &[u8], scramble: &[u8]) -> Option<Secret> {
    let mut bytes = Zeroizing::new(bytes.to_vec());
    xor_cyclic(&mut bytes, scramble);
    bytes.strip_suffix(&[0]).map(Secret::new)
}

fn xor_cyclic(bytes: &mut [u8], scramble: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(scramble.iter().cycle()) {
        *byte ^= mask;
    }
}

fn xor(a: &[u8], b: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(a.iter().zip(b).map(|(a, b)| a ^ b).collect())
}

/// The hash in what a server stores for mysql_native_password: `*` and 40 hexadecimal digits.
#[must_use]
pub fn parse_stored_hash(text: &str) -> Option<[u8; 20]> {
    let digits = text.strip_prefix('*').filter(|digits| digits.len() == 40 && digits.is_ascii())?;
    let mut hash = [0; 20];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        // `from_str_radix` alone would take a sign.
        let pair =
            std::str::from_utf8(pair).ok().filter(|pair| pair.chars().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    const SCRAMBLE: &[u8; SCRAMBLE_LEN] = b"abcdefghijklmnopqrst";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn stored_hash_is_what_the_server_prints() {
        // SELECT PASSWORD('secret') on MariaDB 10.11.
        let stored = parse_stored_hash("*14E65567ABDB5135D0CFD9A70B3032C179A49EE7").unwrap();
        let twice: [u8; 20] = Sha1::digest(*sha1_of(&Secret::new("secret"))).into();
        assert_eq!(stored, twice);
    }

    #[test]
    fn what_is_no_stored_hash() {
        for text in [
            "",
            "*",
            "invalid",
            "*14E65567ABDB5135D0CFD9A70B3032C179A49EE",
            "$A$005$…",
            "*+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1",
        ] {
            assert_eq!(parse_stored_hash(text), None, "{text}");
        }
    }

    #[test]
    fn tokens_as_other_implementations_compute_them() {
        // PyMySQL: _auth.scramble_native_password and scramble_caching_sha2.
        let password = Credential::Clear(Secret::new("secret"));
        let native = Plugin::Native.answer(&password, SCRAMBLE).unwrap();
        assert_eq!(hex(&native), "8817c50fa779daef010ee7577825b0847df9842e");
        let sha2 = Plugin::CachingSha2.answer(&password, SCRAMBLE).unwrap();
        assert_eq!(hex(&sha2), "c76e2898612a4cf042c77fa8c4702c4c64c0c2c557c53c4d75595aaa6abae809");
    }

    proptest! {
        #[test]
        fn sha1_is_recovered_from_the_right_token_only(password: Vec<u8>, other: [u8; 20]) {
            let password = Secret::new(password);
            let hash = sha1_of(&password);
            let stored: [u8; 20] = Sha1::digest(*hash).into();
            let token = native_token(&hash, SCRAMBLE);
            prop_assert_eq!(recover_sha1(&token, SCRAMBLE, &stored).unwrap(), hash);
            prop_assert!(recover_sha1(&other, SCRAMBLE, &stored).is_none());
            prop_assert!(recover_sha1(&token, SCRAMBLE, &other).is_none());
        }

        #[test]
        fn both_plugins_verify_their_own_answers(password: Vec<u8>, wrong: Vec<u8>) {
            prop_assume!(password != wrong);
            let (password, wrong) = (Secret::new(password), Secret::new(wrong));
            let credential =
                if password.is_empty() { Credential::Empty } else { Credential::Clear(password.clone()) };
            for plugin in [Plugin::Native, Plugin::CachingSha2] {
                let answer = plugin.answer(&credential, SCRAMBLE).unwrap();
                prop_assert!(plugin.verify(&password, SCRAMBLE, &answer));
                prop_assert!(!plugin.verify(&wrong, SCRAMBLE, &answer));
            }
        }

        #[test]
        fn obfuscation_round_trips(password: Vec<u8>) {
            let password = Secret::new(password);
            prop_assert_eq!(deobfuscate(&obfuscate(&password, SCRAMBLE), SCRAMBLE), Some(password));
        }
    }
}
