//! Passwords that a backend has just accepted, so that a caching_sha2_password client needn't send its own again.
//!
//! The servers keep a hash of each password that was right; a proxy that has to repeat the login elsewhere keeps
//! the password. It is no way in by itself: the backend is asked at each login, and what it refuses is forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::Secret;

use super::Credential;
use super::plugin::Plugin;

/// A password is forgotten when nobody has logged in with it for this time.
pub const KEPT: Duration = Duration::from_secs(600);
/// Users whose passwords are kept.
const USERS_MAX: usize = 4096;
/// Passwords of one user: of accounts with several hosts, or while one is being changed.
const PASSWORDS_MAX: usize = 4;

/// Passwords by user.
#[derive(Default)]
pub struct KnownPasswords {
    users: Mutex<HashMap<Vec<u8>, Vec<Known>>>,
}

/// One of a user's passwords.
struct Known {
    password: Secret,
    accepted_at: Instant,
}

impl std::fmt::Debug for KnownPasswords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // invariant 8
        f.write_str("KnownPasswords(…)")
    }
}

impl KnownPasswords {
    /// The password that a caching_sha2_password token was made with, where it is known.
    pub(super) fn of_token(&self, user: &[u8], scramble: &[u8], token: &[u8]) -> Option<Secret> {
        self.of_token_at(Instant::now(), user, scramble, token)
    }

    fn of_token_at(&self, now: Instant, user: &[u8], scramble: &[u8], token: &[u8]) -> Option<Secret> {
        let candidates: Vec<Secret> = self
            .lock()
            .get(user)?
            .iter()
            .filter(|known| known.is_fresh(now))
            .map(|known| known.password.clone())
            .collect();
        candidates.into_iter().find(|password| Plugin::CachingSha2.verify(password, scramble, token))
    }

    /// A backend has let this user in.
    pub(crate) fn accepted(&self, user: &[u8], credential: &Credential) {
        self.accepted_at(Instant::now(), user, credential);
    }

    fn accepted_at(&self, now: Instant, user: &[u8], credential: &Credential) {
        let Credential::Clear(password) = credential else { return };
        let mut users = self.lock();
        if !users.contains_key(user) && users.len() >= USERS_MAX {
            forget_before(&mut users, now);
            if users.len() >= USERS_MAX {
                // Those that don't fit send their password at each login.
                return;
            }
        }
        let passwords = users.entry(user.to_vec()).or_default();
        passwords.retain(|known| known.password != *password && known.is_fresh(now));
        passwords.truncate(PASSWORDS_MAX - 1);
        passwords.insert(0, Known { password: password.clone(), accepted_at: now });
    }

    /// A backend hasn't.
    pub(crate) fn refused(&self, user: &[u8], credential: &Credential) {
        let Credential::Clear(password) = credential else { return };
        let mut users = self.lock();
        if let Some(passwords) = users.get_mut(user) {
            passwords.retain(|known| known.password != *password);
            if passwords.is_empty() {
                users.remove(user);
            }
        }
    }

    /// Forgets what nobody has logged in with for [`KEPT`].
    pub(crate) fn forget_old(&self) {
        forget_before(&mut self.lock(), Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Vec<Known>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.accepted_at) < KEPT
    }
}

fn forget_before(users: &mut HashMap<Vec<u8>, Vec<Known>>, now: Instant) {
    users.retain(|_, passwords| {
        passwords.retain(|known| known.is_fresh(now));
        !passwords.is_empty()
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SCRAMBLE: &[u8] = b"abcdefghijklmnopqrst";

    fn clear(password: &str) -> Credential {
        Credential::Clear(Secret::new(password))
    }

    fn knows(known: &KnownPasswords, now: Instant, user: &str, password: &str) -> bool {
        let token = Plugin::CachingSha2.answer(&clear(password), SCRAMBLE).unwrap();
        let found = known.of_token_at(now, user.as_bytes(), SCRAMBLE, &token);
        assert!(found.as_ref().is_none_or(|found| found.expose() == password.as_bytes()));
        found.is_some()
    }

    #[test]
    fn a_password_is_known_while_it_is_right_and_used() {
        let known = KnownPasswords::default();
        let start = Instant::now();
        known.accepted_at(start, b"app", &clear("one"));
        known.accepted_at(start, b"app", &clear("two"));
        assert!(knows(&known, start, "app", "one") && knows(&known, start, "app", "two"));
        assert!(!knows(&known, start, "app", "three") && !knows(&known, start, "other", "one"));
        assert!(known.of_token(b"app", SCRAMBLE, b"").is_none());
        assert!(known.of_token(b"app", SCRAMBLE, &[0; 32]).is_none());
        known.refused(b"app", &clear("one"));
        known.refused(b"app", &clear("never known"));
        assert!(!knows(&known, start, "app", "one") && knows(&known, start, "app", "two"));
        known.accepted_at(start + KEPT / 2, b"app", &clear("three"));
        assert!(!knows(&known, start + KEPT, "app", "two") && knows(&known, start + KEPT, "app", "three"));
        forget_before(&mut known.lock(), start + KEPT);
        assert_eq!(known.lock().values().map(Vec::len).sum::<usize>(), 1);
        forget_before(&mut known.lock(), start + 2 * KEPT);
        assert!(known.lock().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let known = KnownPasswords::default();
        let start = Instant::now();
        for number in 0..PASSWORDS_MAX + 1 {
            known.accepted_at(start, b"app", &clear(&number.to_string()));
        }
        assert!(!knows(&known, start, "app", "0") && knows(&known, start, "app", "1"));
        for number in 0..USERS_MAX + 1 {
            known.accepted_at(start, number.to_string().as_bytes(), &clear("x"));
        }
        assert_eq!(known.lock().len(), USERS_MAX);
        assert!(knows(&known, start, "app", "4"), "who is in stays");
        known.accepted_at(start + KEPT, b"late", &clear("x"));
        assert_eq!(known.lock().len(), 1);
        known.accepted(b"sha1", &Credential::Sha1(Default::default()));
        known.accepted(b"nothing", &Credential::Empty);
        assert_eq!(known.lock().len(), 1, "only passwords");
    }
}
