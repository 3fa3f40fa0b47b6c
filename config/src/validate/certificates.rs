//! Certificates: the proxy's own, those of its clients, and those on the way to a backend.

use std::path::{Path, PathBuf};

use super::{Check, place_of};
use crate::load::read_file;
use crate::raw::{Place, RawTls, Said};
use crate::{BackendIdentity, BackendTls, BackendTlsMode, ClientCertificates, Secret, Side, TlsMode, Verify};

const MODES: &[(&str, BackendTlsMode)] =
    &[("off", BackendTlsMode::Off), ("required", BackendTlsMode::Required)];
const CHECKS: &[(&str, Verify)] = &[("identity", Verify::Identity), ("none", Verify::None)];
/// Whether a client has to show a certificate.
const SHOWN: &[(&str, bool)] = &[("optional", false), ("required", true)];

impl Check<'_> {
    /// `proxy.cert` and `proxy.key`.
    pub(super) fn certificate(
        &mut self,
        cert: Option<Said<String>>,
        key: Option<Said<String>>,
    ) -> (Option<PathBuf>, Option<PathBuf>) {
        match (&cert, &key) {
            (Some(said), None) => {
                self.problems.add(said.place, "proxy.cert is set and proxy.key isn't; set both or none")
            }
            (None, Some(said)) => {
                self.problems.add(said.place, "proxy.key is set and proxy.cert isn't; set both or none")
            }
            _ => {}
        }
        (self.existing("proxy.cert", cert), self.existing("proxy.key", key))
    }

    /// `proxy.client_ca` and `proxy.client_cert`.
    pub(super) fn client_certificates(
        &mut self,
        tls: TlsMode,
        ca: Option<Said<String>>,
        shown: Option<Said<String>>,
    ) -> ClientCertificates {
        let (ca_place, shown_place) = (place_of(&ca), place_of(&shown));
        let (has_ca, is_said) = (ca.is_some(), shown.is_some());
        let required = self.choice("proxy.client_cert", shown, SHOWN, false);
        let ca = self.existing("proxy.client_ca", ca);
        if is_said && !has_ca {
            let what = "proxy.client_cert is set and proxy.client_ca isn't; name the certificate of the authority that \
                        signs the clients'";
            self.problems.add(shown_place, what);
        }
        if has_ca && tls == TlsMode::Off {
            let what = "proxy.client_ca is set and proxy.tls is off; a certificate is shown in TLS only";
            self.problems.add(ca_place, what);
        } else if required && tls != TlsMode::Required {
            let what = "proxy.client_cert = \"required\" needs proxy.tls = \"required\": a client without TLS shows no \
                        certificate";
            self.problems.add(shown_place, what);
        }
        match ca {
            None => ClientCertificates::NotAsked,
            Some(ca) if required => ClientCertificates::Required(ca),
            Some(ca) => ClientCertificates::Optional(ca),
        }
    }

    /// A file that can be opened. One that can't is a problem, and named all the same.
    fn existing(&mut self, name: &str, said: Option<Said<String>>) -> Option<PathBuf> {
        let place = place_of(&said);
        let path = self.path(name, said)?;
        if let Err(error) = std::fs::File::open(&path) {
            self.problems.add(place, format!("{name}: {} can't be read: {error}", path.display()));
        }
        Some(path)
    }

    /// `tls`, `ca`, `verify`, `cert` and `key` of a backend.
    pub(super) fn backend_tls(&mut self, side: Side, raw: RawTls) -> BackendTls {
        let (mode_place, ca_place, cert_place) =
            (place_of(&raw.mode), place_of(&raw.ca), place_of(&raw.cert));
        let unused = [("ca", &raw.ca), ("verify", &raw.verify), ("cert", &raw.cert), ("key", &raw.key)]
            .map(|(key, said)| (key, said.as_ref().map(|s| s.place)));
        let mode = self.choice(&format!("{side}.tls"), raw.mode, MODES, BackendTlsMode::Off);
        let verify = self.choice(&format!("{side}.verify"), raw.verify, CHECKS, Verify::Identity);
        if mode == BackendTlsMode::Off {
            for (key, place) in unused {
                if let Some(place) = place {
                    let what =
                        format!("{side}.{key} is set and {side}.tls is off; set {side}.tls = \"required\"");
                    self.problems.add(place, what);
                }
            }
            return BackendTls::default();
        }
        let identity = self.identity(side, raw.cert, raw.key);
        let Some(ca_pem) = self.authority(side, raw.ca, verify, mode_place) else {
            return BackendTls::default();
        };
        let secured = BackendTls::required(verify, &ca_pem).unwrap_or_else(|why| {
            self.problems.add(ca_place, format!("{side}.ca can't be used: {why}"));
            BackendTls::default()
        });
        match identity {
            None => secured,
            Some(identity) => secured.showing(identity).unwrap_or_else(|why| {
                self.problems.add(cert_place, format!("{side}.cert can't be used with {side}.key: {why}"));
                BackendTls::default()
            }),
        }
    }

    /// The authority that signed the backend's certificate, in PEM; empty where nothing is verified. `None`: that is a
    /// problem, and it was said.
    fn authority(
        &mut self,
        side: Side,
        ca: Option<Said<String>>,
        verify: Verify,
        mode_place: Place,
    ) -> Option<Vec<u8>> {
        let name = format!("{side}.ca");
        let place = place_of(&ca);
        match self.path(&name, ca) {
            Some(path) => self.pem(&name, place, &path),
            None if verify == Verify::None => Some(Vec::new()),
            None => {
                let what = format!(
                    "{side}.tls needs {name}, the certificate of the authority that signed the server's; \
                     {side}.verify = \"none\" encrypts without knowing for whom"
                );
                self.problems.add(mode_place, what);
                None
            }
        }
    }

    /// What Changeover shows to the backend.
    fn identity(
        &mut self,
        side: Side,
        cert: Option<Said<String>>,
        key: Option<Said<String>>,
    ) -> Option<BackendIdentity> {
        let places = (place_of(&cert), place_of(&key));
        let names = (format!("{side}.cert"), format!("{side}.key"));
        match (&cert, &key) {
            (Some(_), None) => self
                .problems
                .add(places.0, format!("{} is set and {} isn't; set both or none", names.0, names.1)),
            (None, Some(_)) => self
                .problems
                .add(places.1, format!("{} is set and {} isn't; set both or none", names.1, names.0)),
            _ => {}
        }
        let (cert, key) = (self.path(&names.0, cert), self.path(&names.1, key));
        let (cert, key) = (cert?, key?);
        let cert_pem = self.pem(&names.0, places.0, &cert);
        let key_pem = self.pem(&names.1, places.1, &key);
        Some(BackendIdentity { cert_pem: cert_pem?, key_pem: Secret::new(key_pem?) })
    }

    fn pem(&mut self, name: &str, place: Place, path: &Path) -> Option<Vec<u8>> {
        match read_file(path) {
            Ok(pem) => Some(pem.as_bytes().to_vec()),
            Err(error) => {
                self.problems.add(place, format!("{name}: {} can't be read: {error}", path.display()));
                None
            }
        }
    }
}
