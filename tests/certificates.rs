//! Certificates that clients show to the proxy.

use std::path::Path;

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, OptsBuilder, SslOpts};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::server::opts;
use crate::support::{Changeover, Engine, Pair, accounts};

/// An authority, and a certificate that it signed for a client.
struct Authority {
    ca_pem: String,
    cert_pem: String,
    key_pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let params = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = params(name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let signed = params("a client").signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        Self { ca_pem, cert_pem: signed.pem(), key_pem: key.serialize_pem() }
    }

    fn identity(&self) -> ClientIdentity {
        let bytes = |pem: &str| pem.as_bytes().to_vec().into();
        ClientIdentity::new(bytes(&self.cert_pem), bytes(&self.key_pem))
    }
}

/// A login over TLS with this certificate, or over plain TCP; what it answers, or why it isn't let in.
async fn log_in(changeover: &Changeover, tls: Option<Option<&Authority>>) -> Result<u8, String> {
    let plain = opts(changeover.port(), accounts::APP, accounts::APP_PASSWORD, None);
    let tls = tls.map(|shown| {
        let options = SslOpts::default().with_danger_accept_invalid_certs(true);
        options.with_client_identity(shown.map(Authority::identity))
    });
    let mut conn = Conn::new(OptsBuilder::from_opts(plain).ssl_opts(tls)).await.map_err(|e| e.to_string())?;
    let one = conn.query_first("SELECT 1").await.map_err(|e| e.to_string())?;
    conn.disconnect().await.map_err(|e| e.to_string())?;
    one.ok_or_else(|| "nothing".to_owned())
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    format!("\"{}\"", path.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_of_the_authority_are_believed() {
    let Some(pair) = Pair::start(Engine::MariaDb, 10).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ours, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let settings = pair.settings().with("proxy.client_ca", &file(folder.path(), "ca.pem", &ours.ca_pem));

    let required =
        settings.clone().with("proxy.tls", "\"required\"").with("proxy.client_cert", "\"required\"");
    let changeover = Changeover::start(required).await;
    assert_eq!(log_in(&changeover, Some(Some(&ours))).await, Ok(1));
    for (shown, who) in [(Some(Some(&stranger)), "a stranger"), (Some(None), "nobody"), (None, "without TLS")]
    {
        assert!(log_in(&changeover, shown).await.is_err(), "{who} was let in");
    }
    // Operators aren't asked, and who was refused has left nothing behind.
    assert!(changeover.admin("SHOW SESSIONS").await.is_empty());
    drop(changeover);

    // Where it is optional, a wrong one is still wrong.
    let changeover = Changeover::start(settings).await;
    for (shown, who) in [(Some(Some(&ours)), "ours"), (Some(None), "nobody"), (None, "without TLS")] {
        assert_eq!(log_in(&changeover, shown).await, Ok(1), "{who}");
    }
    assert!(log_in(&changeover, Some(Some(&stranger))).await.is_err(), "a stranger was let in");
}
