//! Certificates and the TLS configuration of the front door, and the RSA key for passwords without TLS.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use config::{ClientCertificates, ProxyConfig, Secret, TlsMode, failpoint};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::auth::plugin::{deobfuscate, obfuscate};

/// The certificate that is made on first start, in `state_dir`.
pub const CERT_FILE: &str = "proxy-cert.pem";
/// Its private key.
pub const KEY_FILE: &str = "proxy-key.pem";

/// Why there is no TLS. Says which file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Only one of the two was configured.
    #[error("proxy.cert and proxy.key belong together: set both, or neither to have a certificate made")]
    HalfConfigured,
    /// A file can't be read or holds something else.
    #[error("can't read {what} from {}: {reason}", path.display())]
    Read {
        /// Certificate or private key.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file can't be written.
    #[error("can't write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The two don't fit together, or the library refuses them.
    #[error("the certificate {} can't be used with its key: {reason}", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Key material couldn't be made.
    #[error("can't make a key: {0}")]
    Make(String),
}

/// Whether a listener speaks TLS, and how.
#[derive(Debug, Clone)]
pub enum Tls {
    /// It isn't offered.
    Off,
    /// It is up to the client.
    Preferred(Arc<ServerConfig>),
    /// A client without it is refused with error 3159.
    Required(Arc<ServerConfig>),
}

impl Tls {
    /// As configured for the application's clients, with the operator's certificate or with one of our own in
    /// `state_dir`, which is made if it isn't there. Blocks on files.
    pub fn load(config: &ProxyConfig, state_dir: &Path) -> Result<Self, TlsError> {
        Self::asking(config, state_dir, &config.client_certificates)
    }

    /// The same for operators, who aren't asked for a certificate.
    pub fn load_for_operators(config: &ProxyConfig, state_dir: &Path) -> Result<Self, TlsError> {
        Self::asking(config, state_dir, &ClientCertificates::NotAsked)
    }

    fn asking(
        config: &ProxyConfig,
        state_dir: &Path,
        clients: &ClientCertificates,
    ) -> Result<Self, TlsError> {
        if config.tls == TlsMode::Off {
            return Ok(Self::Off);
        }
        let (cert, key) = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, None) => own_certificate(state_dir)?,
            _ => return Err(TlsError::HalfConfigured),
        };
        let server = Arc::new(server_config(&cert, &key, clients)?);
        Ok(match config.tls {
            TlsMode::Required => Self::Required(server),
            TlsMode::Off | TlsMode::Preferred => Self::Preferred(server),
        })
    }

    /// The server's side of TLS, where it is offered.
    #[must_use]
    pub fn offered(&self) -> Option<&Arc<ServerConfig>> {
        match self {
            Self::Off => None,
            Self::Preferred(config) | Self::Required(config) => Some(config),
        }
    }
}

/// What a client's certificate has to be; `None` where it isn't asked for one.
fn client_verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (ClientCertificates::Optional(path) | ClientCertificates::Required(path)) = clients else {
        return Ok(None);
    };
    let read = |reason: String| TlsError::Read {
        what: "the authority of the clients' certificates",
        path: path.clone(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| read(e.to_string()))? {
        roots.add(certificate.map_err(|e| read(e.to_string()))?).map_err(|e| read(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(read("it holds no certificate in PEM form".to_owned()));
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier = match clients {
        ClientCertificates::Required(_) => verifier,
        _ => verifier.allow_unauthenticated(),
    };
    verifier.build().map(Some).map_err(|e| read(e.to_string()))
}

fn server_config(cert: &Path, key: &Path, clients: &ClientCertificates) -> Result<ServerConfig, TlsError> {
    let read = |what, path: &Path, reason: String| TlsError::Read { what, path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| read("the certificate", cert, e.to_string()))?;
    if chain.is_empty() {
        return Err(read("the certificate", cert, "it holds no certificate in PEM form".to_owned()));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|e| read("the private key", key, e.to_string()))?;
    // The provider is named, because a second one in the dependency tree would make the default ambiguous.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = client_verifier(clients, &provider)?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| {
            let builder = match verifier {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            };
            builder.with_single_cert(chain, private)
        })
        .map_err(|e| TlsError::Unusable { path: cert.to_owned(), reason: e.to_string() })
}

/// The paths of our own certificate and key. One without the other is what a crash between the two writes
/// left behind, and is made anew.
fn own_certificate(state_dir: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (state_dir.join(CERT_FILE), state_dir.join(KEY_FILE));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = make_certificate().map_err(|e| TlsError::Make(e.to_string()))?;
    write_durably(&key, &made.key, 0o600)?;
    write_durably(&cert, made.cert.as_bytes(), 0o644)?;
    tracing::info!(area = "tls", certificate = %cert.display(), "made a TLS certificate for the proxy");
    Ok((cert, key))
}

struct MadeCertificate {
    cert: String,
    key: Zeroizing<Vec<u8>>,
}

fn make_certificate() -> Result<MadeCertificate, rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "changeover".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Changeover proxy");
    let cert = params.self_signed(&key)?.pem();
    Ok(MadeCertificate { cert, key: Zeroizing::new(key.serialize_pem().into_bytes()) })
}

fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let write = || -> io::Result<()> {
        let temporary = path.with_extension("pem.new");
        // A left-over would keep its own, maybe wider, mode.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        failpoint::hit_file(path, "before");
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
        failpoint::hit_file(path, "written");
        Ok(())
    };
    write().map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

/// The key pair that clients without TLS encrypt their password for. Made once a process and never stored.
pub struct RsaKey {
    private: OaepPrivateDecryptingKey,
    public_pem: Vec<u8>,
}

impl RsaKey {
    /// A new pair of 2048 bits. Takes some tenths of a second.
    pub fn generate() -> Result<Self, TlsError> {
        let unspecified = |_| TlsError::Make("the RSA key pair".to_owned());
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(unspecified)?;
        let der = key.public_key().as_der().map_err(unspecified)?;
        let public_pem = public_key_pem(der.as_ref());
        Ok(Self { private: OaepPrivateDecryptingKey::new(key).map_err(unspecified)?, public_pem })
    }

    /// The public key as clients want it: SubjectPublicKeyInfo in PEM.
    #[must_use]
    pub fn public_pem(&self) -> &[u8] {
        &self.public_pem
    }

    /// Bytes of everything that is encrypted for it.
    #[must_use]
    pub fn ciphertext_len(&self) -> usize {
        self.private.key_size_bytes()
    }

    /// The password that a client encrypted; `None` where it isn't one.
    #[must_use]
    pub fn decrypt_password(&self, bytes: &[u8], scramble: &[u8]) -> Option<Secret> {
        let mut room = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let plain = self.private.decrypt(&OAEP_SHA1_MGF1SHA1, bytes, &mut room, None).ok()?;
        deobfuscate(plain, scramble)
    }
}

impl std::fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RsaKey(…)") // invariant 8
    }
}

/// A password encrypted for a server's public key (PEM), or why that can't be done.
pub fn encrypt_password(
    public_pem: &[u8],
    password: &Secret,
    scramble: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(public_pem).map_err(|_| "its public key isn't PEM")?;
    let key = PublicEncryptingKey::from_der(&der).map_err(|_| "its public key isn't an RSA key")?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| "its public key isn't an RSA key")?;
    let plain = obfuscate(password, scramble);
    let mut room = vec![0; key.ciphertext_size()];
    let cipher = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &plain, &mut room, None)
        .map_err(|_| "the password is too long for its public key")?;
    Ok(cipher.to_vec())
}

fn public_key_pem(der: &[u8]) -> Vec<u8> {
    let mut pem = b"-----BEGIN PUBLIC KEY-----\n".to_vec();
    for line in base64(der).as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END PUBLIC KEY-----\n");
    pem
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET.get((bits >> (18 - 6 * place) & 63) as usize).copied().unwrap_or(b'=');
            out.push(if place > group.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn proxy_config(tls: TlsMode) -> ProxyConfig {
        ProxyConfig {
            listen: String::new(),
            workers: 0,
            io: config::Io::Epoll,
            scheduling: config::Scheduling::Batch,
            max_connections: 1,
            drain_ms: 0,
            move_every: 0,
            tls,
            cert: None,
            key: None,
            client_certificates: Default::default(),
            entrance: Default::default(),
        }
    }

    #[test]
    fn base64_as_rfc_4648_has_it() {
        let check = |plain: &str, encoded: &str| assert_eq!(base64(plain.as_bytes()), encoded);
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foobar", "Zm9vYmFy");
    }

    #[test]
    fn a_password_travels_by_rsa() {
        let key = RsaKey::generate().unwrap();
        let scramble = b"abcdefghijklmnopqrst";
        let password = Secret::new("sécret");
        let cipher = encrypt_password(key.public_pem(), &password, scramble).unwrap();
        assert_eq!(key.decrypt_password(&cipher, scramble), Some(password));
        assert_eq!(key.decrypt_password(&cipher[1..], scramble), None);
        assert_eq!(key.decrypt_password(b"", scramble), None);
        assert!(encrypt_password(b"garbage", &Secret::new("x"), scramble).is_err());
        assert!(encrypt_password(key.public_pem(), &Secret::new([b'x'; 300]), scramble).is_err());
    }

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let tls = Tls::load(&proxy_config(TlsMode::Required), folder.path()).unwrap();
        assert!(matches!(tls, Tls::Required(_)));
        let key = folder.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).unwrap();
        Tls::load(&proxy_config(TlsMode::Preferred), folder.path()).unwrap();
        assert_eq!(fs::read(&key).unwrap(), before);
        fs::remove_file(folder.path().join(CERT_FILE)).unwrap();
        Tls::load(&proxy_config(TlsMode::Preferred), folder.path()).unwrap();
        assert_ne!(fs::read(&key).unwrap(), before);
    }

    #[test]
    fn what_cannot_be_used_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = own_certificate(folder.path()).unwrap();
        let check = |cert: Option<&Path>, key: Option<&Path>, says: &str| {
            let mut config = proxy_config(TlsMode::Preferred);
            config.cert = cert.map(Path::to_owned);
            config.key = key.map(Path::to_owned);
            let error = Tls::load(&config, folder.path()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        check(Some(&cert), None, "belong together");
        check(Some(&key), Some(&key), "no certificate");
        check(Some(&cert), Some(&cert), "private key");
        check(Some(Path::new("/nowhere/c.pem")), Some(&key), "/nowhere/c.pem");
        let other = tempfile::tempdir().unwrap();
        let (_, other_key) = own_certificate(other.path()).unwrap();
        check(Some(&cert), Some(&other_key), "can't be used with its key");
        let mut config = proxy_config(TlsMode::Preferred);
        config.client_certificates = ClientCertificates::Optional(key);
        let error = Tls::load(&config, folder.path()).unwrap_err().to_string();
        assert!(error.contains("the authority of the clients' certificates"), "{error}");
        Tls::load_for_operators(&config, folder.path()).unwrap();
        config.client_certificates = ClientCertificates::Required(cert);
        Tls::load(&config, folder.path()).unwrap();
    }
}
