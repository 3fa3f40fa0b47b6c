//! Accounts of the target that Changeover logs in to with a password of its own.
//!
//! A client of mysql_native_password never says its password, and a server without that plugin can't be satisfied with
//! anything less. So the operator may have such an account adopted: the account on the target gets a password that
//! Changeover derives from a secret of its own, and whoever proves to the proxy that it knows the old password, of which
//! the source's hash is kept, is logged in there with the derived one. The proof is the same as on the source; the
//! target still decides, since it may lock the account, drop it, or give it another password.
//!
//! # The file
//!
//! `adopted.accounts` in state_dir, mode 0600, header and checksum as in [`config::durable`]; behind them a line
//! `secret` with 32 bytes, and for each account a line `account` with user, host and the source's hash, all in
//! hexadecimal digits. The hash is one of mysql_native_password, which is as good as the password for that plugin:
//! the file is a secret as a whole.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use aws_lc_rs::hmac;
use config::Secret;
use config::durable::{self, DurableError};
use zeroize::Zeroizing;

use super::Credential;

/// The name of the file in state_dir.
pub const FILE_NAME: &str = "adopted.accounts";
/// What its header calls it.
const KIND: &str = "adopted-accounts";
const VERSION: u32 = 1;
/// As many as are looked at on a server.
const ACCOUNTS_MAX: usize = 10_000;
/// So that the secret never makes the same thing for two purposes.
const PURPOSE: &[u8] = b"changeover: password of an adopted account, 1\0";
const SECRET_LEN: usize = 32;
/// SHA1 of SHA1 of a password.
type NativeHash = [u8; 20];
type Adopted = BTreeMap<String, BTreeMap<String, NativeHash>>;

/// What can be wrong with the adopted accounts.
#[derive(Debug, thiserror::Error)]
pub enum AdoptedError {
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] DurableError),
    /// No secret could be made.
    #[error("the system gives no random numbers to make a secret of")]
    NoRandom,
    /// One more would be too many.
    #[error("{ACCOUNTS_MAX} accounts are adopted already, and more aren't; RELEASE ACCOUNT gives one up")]
    TooMany,
    /// This backend's accounts aren't adopted.
    #[error("accounts are adopted on the target only")]
    NotHere,
}

/// The adopted accounts of one backend. A backend of which none are ever adopted has no file.
#[derive(Default)]
pub struct AdoptedAccounts {
    path: Option<PathBuf>,
    key: Option<hmac::Key>,
    secret: Zeroizing<[u8; SECRET_LEN]>,
    accounts: RwLock<Adopted>,
    /// Held while the file is replaced, so that the file and what is in memory change in one order.
    changing: Mutex<()>,
}

impl std::fmt::Debug for AdoptedAccounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdoptedAccounts(…)") // invariant 8
    }
}

impl AdoptedAccounts {
    /// Reads the file of this state_dir, which the caller holds locked, or makes it with a new secret. Blocks on files.
    ///
    /// # Errors
    /// The file can't be read or made, or is damaged: a new secret would shut the adopted accounts out.
    pub fn open(state_dir: &Path) -> Result<Self, AdoptedError> {
        let path = state_dir.join(FILE_NAME);
        let found = durable::read(&path, KIND, VERSION)?.map(Zeroizing::new);
        let (secret, accounts) = match &found {
            Some(body) => parse(body).ok_or_else(|| DurableError::Damaged {
                path: path.clone(),
                reason: "it isn't a list of accounts".to_owned(),
            })?,
            None => {
                let mut secret = Zeroizing::new([0; SECRET_LEN]);
                aws_lc_rs::rand::fill(&mut *secret).map_err(|_| AdoptedError::NoRandom)?;
                (secret, Adopted::new())
            }
        };
        let key = Some(hmac::Key::new(hmac::HMAC_SHA256, &*secret));
        if found.is_none() {
            save(&path, &secret, &accounts)?;
        }
        Ok(Self {
            path: Some(path),
            key,
            secret,
            accounts: RwLock::new(accounts),
            changing: Mutex::default(),
        })
    }

    /// What to log in with where `given` is what the client showed: the derived password, where `given` is that of an
    /// adopted account. `None`: what the client showed.
    #[must_use]
    pub fn credential(&self, user: &[u8], given: &Credential) -> Option<Credential> {
        let user = std::str::from_utf8(user).ok()?;
        let hash = given.native_hash()?;
        let is_adopted = self.read().get(user)?.values().any(|kept| *kept == hash);
        if is_adopted { self.password(user, &hash).map(Credential::Clear) } else { None }
    }

    /// The hashes that a client with this name may prove to know the password of.
    pub(super) fn hashes(&self, user: &[u8]) -> Vec<NativeHash> {
        let user = std::str::from_utf8(user).unwrap_or_default();
        self.read().get(user).map(|hosts| hosts.values().copied().collect()).unwrap_or_default()
    }

    /// The hash that an account was adopted with.
    pub(super) fn hash_of(&self, user: &str, host: &str) -> Option<NativeHash> {
        self.read().get(user)?.get(host).copied()
    }

    /// The password of an account on the target: of its name and of the password it has on the source, but not of its
    /// host, because which of a user's accounts lets a session in is known to the server only. 64 hexadecimal digits.
    pub(super) fn password(&self, user: &str, hash: &NativeHash) -> Option<Secret> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        context.update(PURPOSE);
        context.update(user.as_bytes());
        // No name has a zero in it.
        context.update(&[0]);
        context.update(hash);
        Some(Secret::new(hex(context.sign().as_ref()).as_bytes()))
    }

    /// Remembers an account, and returns the hash that it was remembered with before. Blocks on the file.
    pub(super) fn adopt(
        &self,
        user: &str,
        host: &str,
        hash: NativeHash,
    ) -> Result<Option<NativeHash>, AdoptedError> {
        self.change(user, host, Some(hash))
    }

    /// Forgets an account, and returns the hash that it was remembered with. Blocks on the file.
    pub(crate) fn release(&self, user: &str, host: &str) -> Result<Option<NativeHash>, AdoptedError> {
        self.change(user, host, None)
    }

    fn change(
        &self,
        user: &str,
        host: &str,
        hash: Option<NativeHash>,
    ) -> Result<Option<NativeHash>, AdoptedError> {
        let path = self.path.as_ref().ok_or(AdoptedError::NotHere)?;
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut accounts = self.read().clone();
        let hosts = accounts.entry(user.to_owned()).or_default();
        let before = match hash {
            Some(hash) => hosts.insert(host.to_owned(), hash),
            None => hosts.remove(host),
        };
        if hosts.is_empty() {
            accounts.remove(user);
        }
        if accounts.values().map(BTreeMap::len).sum::<usize>() > ACCOUNTS_MAX {
            return Err(AdoptedError::TooMany);
        }
        if before != hash {
            // First on the disk: what sessions are logged in with has to be known after a crash.
            save(path, &self.secret, &accounts)?;
            *self.accounts.write().unwrap_or_else(PoisonError::into_inner) = accounts;
        }
        Ok(before)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Adopted> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn save(path: &Path, secret: &[u8; SECRET_LEN], accounts: &Adopted) -> Result<(), DurableError> {
    let mut body = Zeroizing::new(format!("secret {}\n", *hex(secret)));
    for (user, hosts) in accounts {
        for (host, hash) in hosts {
            body.push_str("account ");
            for (part, end) in [(user.as_bytes(), ' '), (host.as_bytes(), ' '), (hash.as_slice(), '\n')] {
                body.push_str(&hex(part));
                body.push(end);
            }
        }
    }
    durable::write(path, KIND, VERSION, body.as_bytes())
}

fn parse(body: &[u8]) -> Option<(Zeroizing<[u8; SECRET_LEN]>, Adopted)> {
    let mut lines = std::str::from_utf8(body).ok()?.lines();
    let secret = unhex(lines.next()?.strip_prefix("secret ")?)?;
    let secret: Zeroizing<[u8; SECRET_LEN]> = Zeroizing::new(secret.as_slice().try_into().ok()?);
    let mut accounts = Adopted::new();
    for line in lines {
        let mut parts = line.strip_prefix("account ")?.split(' ').map(unhex);
        let mut text = || String::from_utf8(parts.next()??.to_vec()).ok();
        let (user, host) = (text()?, text()?);
        let hash: NativeHash = parts.next()??.as_slice().try_into().ok()?;
        if parts.next().is_some() || accounts.entry(user).or_default().insert(host, hash).is_some() {
            return None;
        }
    }
    Some((secret, accounts))
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes {
        let _ = write!(*text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::auth::plugin::sha1_of;
    use std::os::unix::fs::PermissionsExt;

    fn clear(password: &str) -> Credential {
        Credential::Clear(Secret::new(password))
    }

    fn hash(password: &str) -> NativeHash {
        clear(password).native_hash().unwrap()
    }

    fn derived(adopted: &AdoptedAccounts, user: &str, given: &Credential) -> Option<Vec<u8>> {
        match adopted.credential(user.as_bytes(), given)? {
            Credential::Clear(password) => Some(password.expose().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_proves_the_old_password_gets_the_derived_one() {
        let folder = tempfile::tempdir().unwrap();
        let adopted = AdoptedAccounts::open(folder.path()).unwrap();
        assert_eq!(derived(&adopted, "app", &clear("x")), None);
        assert_eq!(adopted.adopt("app", "%", hash("x")).unwrap(), None);
        assert_eq!(adopted.adopt("app", "10.%", hash("y")).unwrap(), None);
        let of_x = derived(&adopted, "app", &clear("x")).unwrap();
        let of_y = derived(&adopted, "app", &clear("y")).unwrap();
        assert_ne!(of_x, of_y);
        assert!(of_x.len() == 64 && of_x.iter().all(u8::is_ascii_hexdigit));
        // However the client showed it.
        let once = Credential::Sha1(sha1_of(&Secret::new("x")));
        assert_eq!(derived(&adopted, "app", &once).unwrap(), of_x);
        for (user, given) in
            [("app", clear("z")), ("other", clear("x")), ("app", Credential::Empty), ("APP", clear("x"))]
        {
            assert_eq!(derived(&adopted, user, &given), None, "{user} {given:?}");
        }
        assert_eq!(adopted.hashes(b"app").len(), 2);
        assert!(adopted.hashes(b"\xFF").is_empty());

        // As it is after a restart.
        let again = AdoptedAccounts::open(folder.path()).unwrap();
        assert_eq!(derived(&again, "app", &clear("x")).unwrap(), of_x);
        assert_eq!(again.release("app", "%").unwrap(), Some(hash("x")));
        assert_eq!(again.release("app", "%").unwrap(), None);
        assert_eq!(derived(&again, "app", &clear("x")), None);
        assert_eq!(derived(&again, "app", &clear("y")).unwrap(), of_y);

        // The secret is this folder's own.
        let other = tempfile::tempdir().unwrap();
        let other = AdoptedAccounts::open(other.path()).unwrap();
        other.adopt("app", "%", hash("x")).unwrap();
        assert_ne!(derived(&other, "app", &clear("x")).unwrap(), of_x);
        // And where nothing is ever adopted there is none.
        let none = AdoptedAccounts::default();
        assert!(none.adopt("app", "%", hash("x")).is_err() && derived(&none, "app", &clear("x")).is_none());
    }

    #[test]
    fn the_file_is_private_and_damage_stops() {
        let folder = tempfile::tempdir().unwrap();
        let adopted = AdoptedAccounts::open(folder.path()).unwrap();
        adopted.adopt("a b\n", "%", hash("x")).unwrap();
        let path = folder.path().join(FILE_NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(AdoptedAccounts::open(folder.path()).unwrap().hash_of("a b\n", "%").is_some());
        assert_eq!(format!("{adopted:?}"), "AdoptedAccounts(…)");

        let whole = durable::read(&path, KIND, VERSION).unwrap().unwrap();
        for body in [&whole[..whole.len() - 3], &[&whole[..], b"account 61\n"].concat(), b"", b"secret 00\n"]
        {
            durable::write(&path, KIND, VERSION, body).unwrap();
            let error = AdoptedAccounts::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("isn't a list of accounts"), "{error}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(AdoptedAccounts::open(folder.path()).unwrap_err().to_string().contains("damaged"));
    }
}
