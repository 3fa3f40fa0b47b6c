//! TLS towards a backend: whether, and which certificates are believed.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::Secret;

/// `source.tls` and `target.tls`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendTlsMode {
    /// Plain TCP.
    Off,
    /// TLS, or no connection.
    Required,
}

/// `source.verify` and `target.verify`: what a backend's certificate has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// That the authority signed it for the host of the URL.
    Identity,
    /// Nothing: encrypted, but whoever sits in between may read along.
    None,
}

/// A certificate that Changeover shows to a backend, and its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendIdentity {
    /// The certificate's chain, in PEM.
    pub cert_pem: Vec<u8>,
    /// The private key, in PEM.
    pub key_pem: Secret,
}

impl fmt::Debug for BackendIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackendIdentity(…)") // invariant 8
    }
}

/// How connections to a backend are secured. By default they aren't.
#[derive(Clone, Default)]
pub struct BackendTls(Option<Arc<Secured>>);

struct Secured {
    verify: Verify,
    ca_pem: Vec<u8>,
    identity: Option<BackendIdentity>,
    client: Arc<ClientConfig>,
}

impl BackendTls {
    /// TLS, with the certificates of the authorities in PEM; these may be none where nothing is verified.
    pub fn required(verify: Verify, ca_pem: &[u8]) -> Result<Self, String> {
        Self::made(verify, ca_pem, None)
    }

    /// The same TLS with a certificate for a backend that asks for one.
    pub fn showing(&self, identity: BackendIdentity) -> Result<Self, String> {
        match &self.0 {
            Some(secured) => Self::made(secured.verify, &secured.ca_pem, Some(identity)),
            None => Ok(Self::default()),
        }
    }

    fn made(verify: Verify, ca_pem: &[u8], identity: Option<BackendIdentity>) -> Result<Self, String> {
        // The provider is named, because a second one in the dependency tree would make the default ambiguous.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authorities = match verify {
            Verify::None => None,
            Verify::Identity => Some(authorities(ca_pem, &provider)?),
        };
        let verifier = Verifier { authorities, provider: Arc::clone(&provider) };
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let client = match &identity {
            None => client.with_no_client_auth(),
            Some(identity) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.cert_pem).collect();
                let chain = chain.map_err(|error| error.to_string())?;
                if chain.is_empty() {
                    return Err("it holds no certificate in PEM form".to_owned());
                }
                // What the library says of a key isn't passed on: it may have read a part of it.
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose())
                    .map_err(|_| "the key isn't a private key in PEM form")?;
                client.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
            }
        };
        let client = Arc::new(client);
        Ok(Self(Some(Arc::new(Secured { verify, ca_pem: ca_pem.to_vec(), identity, client }))))
    }

    /// The client's side of TLS; `None` where it is off.
    #[must_use]
    pub fn client(&self) -> Option<&Arc<ClientConfig>> {
        self.0.as_deref().map(|secured| &secured.client)
    }

    /// The same for a library that has its own: what to verify, and the authorities in PEM.
    #[must_use]
    pub fn parts(&self) -> Option<(Verify, &[u8])> {
        self.0.as_deref().map(|secured| (secured.verify, secured.ca_pem.as_slice()))
    }

    /// What Changeover shows to the backend, where it shows anything.
    #[must_use]
    pub fn identity(&self) -> Option<&BackendIdentity> {
        self.0.as_deref()?.identity.as_ref()
    }
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts() && self.identity() == other.identity()
    }
}

impl Eq for BackendTls {}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            None => f.write_str("off"),
            Some((verify, _)) => write!(f, "required, verify {verify:?}"),
        }
    }
}

fn authorities(pem: &[u8], provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate in PEM form".to_owned());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    verifier.map_err(|error| error.to_string())
}

#[derive(Debug)]
struct Verifier {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_authority() {
        let check = |verify, pem: &[u8], is_fine| {
            let made = BackendTls::required(verify, pem);
            assert_eq!(made.is_ok(), is_fine, "{verify:?} {made:?}");
        };
        check(Verify::None, b"", true);
        check(Verify::Identity, b"", false);
        check(Verify::Identity, b"no certificate", false);
        check(Verify::Identity, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false);
        assert!(BackendTls::default().client().is_none());
        let identity =
            |cert: &[u8], key: &str| BackendIdentity { cert_pem: cert.to_vec(), key_pem: Secret::new(key) };
        let plain = BackendTls::required(Verify::None, b"").unwrap();
        let why = plain.showing(identity(b"nothing", "sesame")).unwrap_err();
        assert!(why.contains("no certificate in PEM"), "{why}");
        assert!(plain.identity().is_none() && !format!("{:?}", identity(b"", "sesame")).contains("sesame"));
        assert_ne!(BackendTls::required(Verify::None, b"").unwrap(), BackendTls::default());
    }
}
