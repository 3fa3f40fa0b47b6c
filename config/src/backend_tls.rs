//! TLS towards a backend: whether, and which certificates are believed.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

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
    /// That the authority signed it, for whatever name: the certificates that a server made for itself.
    Ca,
    /// Nothing: encrypted, but whoever sits in between may read along.
    None,
}

/// How connections to a backend are secured. By default they aren't.
#[derive(Clone, Default)]
pub struct BackendTls(Option<Arc<Secured>>);

struct Secured {
    verify: Verify,
    ca_pem: Vec<u8>,
    client: Arc<ClientConfig>,
}

impl BackendTls {
    /// TLS, with the certificates of the authorities in PEM; these may be none where nothing is verified.
    pub fn required(verify: Verify, ca_pem: &[u8]) -> Result<Self, String> {
        // The provider is named, because a second one in the dependency tree would make the default ambiguous.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authorities = match verify {
            Verify::None => None,
            Verify::Identity | Verify::Ca => Some(authorities(ca_pem, &provider)?),
        };
        let verifier = Verifier { verify, authorities, provider: Arc::clone(&provider) };
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self(Some(Arc::new(Secured { verify, ca_pem: ca_pem.to_vec(), client: Arc::new(client) }))))
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
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
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
    verify: Verify,
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
        let verified =
            authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, when the signatures were right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Ca => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
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
        check(Verify::Ca, b"", false);
        check(Verify::Identity, b"no certificate", false);
        check(Verify::Ca, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false);
        assert!(BackendTls::default().client().is_none());
        assert_ne!(BackendTls::required(Verify::None, b"").unwrap(), BackendTls::default());
    }
}
