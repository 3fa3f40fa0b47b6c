//! `mysql://user:password@host:port`.

use zeroize::Zeroizing;

use crate::Secret;

/// What a backend's URL says.
#[derive(Debug)]
pub(crate) struct BackendUrl {
    pub(crate) user: String,
    /// `None` where there is no colon behind the user.
    pub(crate) password: Option<Secret>,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

const SHAPE: &str = "write it as mysql://user:password@host:port";

impl BackendUrl {
    /// The error says what is wrong and shows nothing of the text, which may hold a password (invariant 8).
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{what}; {SHAPE}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("this isn't a URL");
        };
        if !scheme.eq_ignore_ascii_case("mysql") {
            return wrong("the URL doesn't begin with mysql://");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // An `@` in a password belongs encoded (%40); the last one is taken, so that one that isn't still works.
        let Some((account, address)) = rest.rsplit_once('@') else {
            return wrong("the URL has no user");
        };
        if address.contains(['/', '?', '#']) || account.contains(['/', '?', '#']) {
            return wrong(
                "the URL has a path, a query or a fragment, and none of them means anything here (in a password, \
                 write / as %2F, ? as %3F and # as %23; schemas belong into migration.schemas)",
            );
        }
        let (user, password) = match account.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (account, None),
        };
        let Ok(user) = String::from_utf8(decode(user)?.to_vec()) else {
            return wrong("the user of the URL isn't UTF-8");
        };
        if user.is_empty() {
            return wrong("the URL has no user");
        }
        let password = password.map(decode).transpose()?.map(|bytes| Secret::new(bytes.to_vec()));
        let (host, port) = host_and_port(address, Some(3306)).map_err(|what| format!("{what}; {SHAPE}"))?;
        if port == 0 {
            return wrong("the port of the URL is 0");
        }
        Ok(Self { user, password, host, port })
    }
}

/// `host:port`, `[::1]:port`; without a port where there is a `default`. The host comes back without brackets.
pub(crate) fn host_and_port(text: &str, default: Option<u16>) -> Result<(String, u16), String> {
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or("the bracket before the IPv6 address isn't closed")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("what stands in brackets isn't an IPv6 address".to_owned());
        }
        match rest {
            "" => (host, None),
            _ => (
                host,
                Some(rest.strip_prefix(':').ok_or("something stands between the bracket and the port")?),
            ),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address has to stand in brackets, as in [::1]:3306".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':') || !c.is_ascii();
    if host.is_empty() || host.len() > 255 || !host.chars().all(|c| letters(c) && !c.is_control()) {
        return Err("the host is missing or isn't a name or an address".to_owned());
    }
    let port = match (port, default) {
        (Some(port), _) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().map_err(|_| "the port is over 65535".to_owned())?
        }
        (Some(_), _) => return Err("the port isn't a number".to_owned()),
        (None, Some(port)) => port,
        (None, None) => return Err("the port is missing".to_owned()),
    };
    Ok((host.to_owned(), port))
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    // As long as the input at most, so that it never moves and leaves a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high << 4 | low) as u8),
            _ => {
                return Err("a % of the URL isn't followed by two hexadecimal digits; write % itself as %25"
                    .to_owned());
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    type Parts = (&'static str, Option<&'static [u8]>, &'static str, u16);

    #[test]
    fn urls() {
        let check = |text: &str, expected: Result<Parts, &str>| match (BackendUrl::parse(text), expected) {
            (Ok(url), Ok((user, password, host, port))) => {
                assert_eq!((url.user.as_str(), url.host.as_str(), url.port), (user, host, port), "{text}");
                assert_eq!(url.password.as_ref().map(Secret::expose), password, "{text}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (got, expected) => panic!("{text}: {got:?} instead of {expected:?}"),
        };
        check("mysql://repl@10.0.0.1:3306", Ok(("repl", None, "10.0.0.1", 3306)));
        check("mysql://repl:pw@db.example.com", Ok(("repl", Some(b"pw"), "db.example.com", 3306)));
        check("mysql://repl:@[::1]:3307/", Ok(("repl", Some(b""), "::1", 3307)));
        check("mysql://a%40b:p%3A%2F%00%ff@[fe80::1]", Ok(("a@b", Some(b"p:/\0\xff"), "fe80::1", 3306)));
        check("MySQL://u:p@ss@h:1", Ok(("u", Some(b"p@ss"), "h", 1)));
        check("", Err("isn't a URL"));
        check("postgres://u@h", Err("mysql://"));
        check("mysql://host:3306", Err("no user"));
        check("mysql://:pw@host", Err("no user"));
        check("mysql://u@host:3306/shop", Err("path"));
        check("mysql://u@host?ssl=1", Err("query"));
        check("mysql://u@host:port", Err("isn't a number"));
        check("mysql://u@host:70000", Err("65535"));
        check("mysql://u@host:0", Err("port"));
        check("mysql://u@host:", Err("isn't a number"));
        check("mysql://u@", Err("host"));
        check("mysql://u@::1", Err("brackets"));
        check("mysql://u@[::1", Err("closed"));
        check("mysql://u@[host]:1", Err("IPv6"));
        check("mysql://u@[::1]3306", Err("between"));
        check("mysql://u:%zz@h", Err("%25"));
        check("mysql://%ff@h", Err("UTF-8"));
    }

    proptest! {
        #[test]
        fn no_error_shows_the_password(host in "\\PC{0,20}", tail in "[/?#:\\[\\]@%]{0,4}") {
            for text in [format!("mysql://u:sesame{tail}@{host}"), format!("mysql://u:sesame@{host}{tail}")] {
                if let Err(error) = BackendUrl::parse(&text) {
                    prop_assert!(!error.contains("sesame"));
                }
            }
        }
    }
}
