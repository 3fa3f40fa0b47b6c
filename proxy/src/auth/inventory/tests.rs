#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use config::Secret;
use zeroize::Zeroizing;

use super::*;

const NATIVE: &str = "mysql_native_password";
const SHA2: &str = "caching_sha2_password";
/// Of the password "x".
const X: &str = "*B69027D44F6E5EDC07F1AEAD1477967B16F28227";
/// Of the password "y".
const Y: &str = "*7446F64EFCFB1294A6DE20CAE7E49C2377A9AA25";
/// Of the password "x", from a MySQL 9.7: 10,000 rounds.
const X_SHA2: &str = "2441243030412459071610403C05392A7D425C26122832705D4114764556786E43536838396636517A6F7975643\
                      76958442F50386443696B737157505443785A444C755A3042";
/// The same password with another salt.
const X_SHA2_AGAIN: &str = "2441243030412419255E27366528756449382C013727012F255A725A46695771435234774D4E6E637873497A6\
                            A6749797A6538376E5345774446515A364E2E312F7068396D41";

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(byte).collect()
}

fn way(plugin: &str, stored: &[u8]) -> Way {
    Way { plugin: plugin.into(), stored: stored.to_vec() }
}

fn account(ways: &[Way]) -> Account {
    Account { user: "app".into(), host: "%".into(), ways: ways.to_vec(), ..Account::default() }
}

fn native(hash: &str) -> Account {
    account(&[way(NATIVE, hash.as_bytes())])
}

fn sha2(hash: &str) -> Account {
    account(&[way(SHA2, &unhex(hash))])
}

fn roster(accounts: Vec<Account>) -> Roster {
    let service = ("changeover".to_owned(), "%".to_owned());
    Roster { accounts, service, seen: "10.0.0.9".into(), has_super_read_only: false, version: None }
}

fn clear(password: &str) -> Credential {
    Credential::Clear(Secret::new(password))
}

fn live(credentials: &[Credential]) -> Vec<LiveUser> {
    vec![LiveUser { user: "app".into(), sessions: 1, credentials: credentials.to_vec() }]
}

/// The only row of `app` on both sides.
fn only(source: Account, target: Option<Account>, seen: &[Credential]) -> AccountRow {
    let live = if seen.is_empty() { Vec::new() } else { live(seen) };
    let mut rows =
        compare(&roster(vec![source]), &roster(target.into_iter().collect()), &live, &Default::default());
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

#[test]
fn each_account_says_whether_it_can_move() {
    let check = |source: Account, target: Option<Account>, ready: Option<bool>, part: &str| {
        let row = only(source, target, &[]);
        assert!(row.ready == ready && row.note.contains(part), "{part}: {row:?}");
        assert!(!row.note.contains('*') && !row.note.contains("$A$"), "a hash is shown: {row:?}");
    };
    let x = || Some(native(X));
    check(native(X), x(), Some(true), "the password is the same");
    check(native(X), None, Some(false), "missing on the target: create it");
    check(native(X), Some(native(Y)), Some(false), "the passwords differ");
    check(native(X), Some(native("")), Some(false), "the passwords differ");
    check(native(""), Some(native("")), Some(true), "the password is the same");
    check(native(""), Some(sha2("")), Some(true), "the password is the same");
    check(native(""), Some(sha2(X_SHA2)), Some(false), "on the source there is none");
    check(sha2(X_SHA2), Some(sha2("")), Some(false), "on the target there is none");
    check(native(X), Some(native("invalid")), Some(false), "no password fits");
    check(sha2(X_SHA2), Some(sha2(X_SHA2)), Some(true), "the password is the same");
    check(sha2(X_SHA2), Some(sha2(X_SHA2_AGAIN)), None, "not known");
    check(native(X), Some(sha2(X_SHA2)), None, "not known");
    let ed25519 = || account(&[way("ed25519", b"Gv2JI8Env2fd5YGonZ082tX3UAW+yJYldOlj4R1bfK4")]);
    check(ed25519(), Some(ed25519()), Some(true), "the password is the same");
    check(native(X), Some(ed25519()), None, "not known");
    let gssapi = || account(&[way("gssapi", b"")]);
    check(gssapi(), Some(gssapi()), Some(false), "can't log in with gssapi on the source");
    check(native(X), Some(gssapi()), Some(false), "can't log in with gssapi on the target");
    let either = || account(&[way("unix_socket", b""), way(NATIVE, X.as_bytes())]);
    check(either(), x(), Some(true), "the password is the same");
    check(account(&[way("unix_socket", b"")]), x(), Some(false), "can't log in with unix_socket");
    let curve = || way("ed25519", b"Gv2JI8Env2fd5YGonZ082tX3UAW+yJYldOlj4R1bfK4");
    // The password of the second way may be another.
    check(account(&[way(NATIVE, X.as_bytes()), curve()]), x(), None, "not known");
    check(account(&[curve(), way(NATIVE, X.as_bytes())]), x(), None, "not known");
    let pam = way("pam", b"");
    check(account(&[pam, way(NATIVE, X.as_bytes())]), x(), Some(false), "can't log in with pam or");
    let two = account(&[way(NATIVE, X.as_bytes()), way(NATIVE, Y.as_bytes())]);
    check(two.clone(), Some(two.clone()), Some(true), "the password is the same");
    check(two, x(), None, "not known");
    let with = |change: fn(&mut Account)| {
        let mut account = native(X);
        change(&mut account);
        account
    };
    let locked = || with(|account| account.locked = true);
    check(native(X), Some(locked()), Some(false), "locked on the target");
    check(locked(), x(), Some(true), "locked on the source");
    check(native(X), Some(with(|account| account.expired = true)), Some(false), "expired on the target");
    check(with(|account| account.requires_tls = true), x(), Some(false), "on the source it requires TLS");
    check(
        native(X),
        Some(with(|account| account.requires_tls = true)),
        Some(false),
        "on the target it requires",
    );
    check(with(|account| account.factors = true), x(), Some(false), "on the source more than one factor");
    let past = with(|account| account.past_read_only.push("READ_ONLY ADMIN".into()));
    check(past, x(), Some(true), "in spite of read_only (READ_ONLY ADMIN)");
    let here = Account { host: "localhost".into(), ..native(X) };
    check(here.clone(), Some(here), Some(true), "which connects from 10.0.0.9");
    check(Account { host: "10.0.0.9".into(), ..native(X) }, x(), Some(false), "would be taken for 'app'@'%'");
}

#[test]
fn what_live_sessions_showed_counts() {
    let check = |source: Account, target: Account, seen: &[Credential], ready: Option<bool>, part: &str| {
        let row = only(source, Some(target), seen);
        assert!(row.ready == ready && row.note.contains(part), "{part}: {row:?}");
    };
    let sha1 = || Credential::Sha1(super::super::plugin::sha1_of(&Secret::new("x")));
    check(sha2(X_SHA2), sha2(X_SHA2_AGAIN), &[clear("x")], Some(true), "checked with the password");
    check(native(X), sha2(X_SHA2), &[clear("x")], Some(true), "checked with the password");
    check(native(Y), sha2(X_SHA2), &[clear("y")], Some(false), "isn't the target's");
    check(native(X), sha2(X_SHA2), &[sha1()], Some(false), "the password itself is needed");
    check(sha2(X_SHA2), native(X), &[clear("x")], Some(true), "checked with the password");
    check(sha2(X_SHA2), native(Y), &[clear("x")], Some(false), "isn't the target's");
    check(native(X), account(&[way(SHA2, b"$B$new")]), &[clear("x")], None, "not known");
    // Equal hashes need no session.
    check(native(X), native(X), &[Credential::Sha1(Zeroizing::new([0; 20]))], Some(true), "the same");
}

#[test]
fn a_credential_counts_for_the_account_that_it_opens() {
    let at = |host: &str, account: Account| Account { host: host.into(), ..account };
    let source = roster(vec![at("%", native(X)), at("10.%", native(Y))]);
    let target = roster(vec![at("%", sha2(X_SHA2)), at("10.%", sha2(X_SHA2))]);
    let rows = compare(&source, &target, &live(&[clear("y")]), &Default::default());
    let ready: Vec<_> = rows.iter().map(|row| (row.account.as_str(), row.ready)).collect();
    assert_eq!(ready, [("'app'@'%'", None), ("'app'@'10.%'", Some(false))]);
}

#[test]
fn the_servers_own_and_the_service_account_are_left_out() {
    let named = |user: &str| Account { user: user.into(), ..native(X) };
    let all = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys", "changeover", "it's"];
    let rows = compare(&roster(all.map(named).to_vec()), &roster(Vec::new()), &[], &Default::default());
    assert_eq!(rows.iter().map(|row| row.account.as_str()).collect::<Vec<_>>(), ["'it''s'@'%'"]);
}

#[test]
fn absent_is_who_surely_has_no_account() {
    let check = |accounts: &[(&str, &str)], absent_users: usize| {
        let account =
            |(user, host): &(&str, &str)| Account { user: (*user).into(), host: (*host).into(), ..native(X) };
        let target = roster(accounts.iter().map(account).collect());
        assert_eq!(absent(&target, &live(&[])).len(), absent_users, "{accounts:?}");
    };
    check(&[], 1);
    check(&[("other", "%")], 1);
    check(&[("app", "%")], 0);
    check(&[("app", "10.0.%")], 0);
    check(&[("app", "192.168.%")], 1);
    check(&[("", "%")], 0);
    check(&[("", "localhost")], 1);
}

#[test]
fn the_work_is_bounded() {
    let many: Vec<Account> =
        (0..200).map(|at| Account { host: format!("10.0.0.{at}/255.0.0.0"), ..sha2(X_SHA2) }).collect();
    let target: Vec<Account> =
        many.iter().cloned().map(|a| Account { ways: sha2(X_SHA2_AGAIN).ways, ..a }).collect();
    let rows = compare(&roster(many), &roster(target), &live(&[clear("x"), clear("y")]), &Default::default());
    assert_eq!(rows.len(), 200);
    assert!(rows.iter().any(|row| row.ready.is_none()));
}
