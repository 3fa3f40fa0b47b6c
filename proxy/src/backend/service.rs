//! How the proxy's own connections to a backend are opened, as the service account.

use config::{BackendConfig, Verify};
use mysql_async::{ClientIdentity, OptsBuilder, SslOpts};

use crate::protocol::stream::KEEPALIVE_IDLE;

/// Options for the driver: address, account and TLS as configured.
pub(crate) fn options(backend: &BackendConfig) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname(backend.host.clone())
        .tcp_port(backend.port)
        .user(Some(backend.user.clone()))
        .pass(backend.password.expose_str().map(str::to_owned))
        .prefer_socket(false)
        .tcp_keepalive(Some(KEEPALIVE_IDLE))
        .ssl_opts(tls(backend))
}

fn tls(backend: &BackendConfig) -> Option<SslOpts> {
    let (verify, ca_pem) = backend.tls.parts()?;
    let options = SslOpts::default()
        // It takes no empty list of authorities, not even where none is asked.
        .with_disable_built_in_roots(verify == Verify::Identity)
        .with_danger_accept_invalid_certs(verify == Verify::None);
    let options = match backend.tls.identity() {
        None => options,
        Some(identity) => {
            let (cert, key) = (identity.cert_pem.clone(), identity.key_pem.expose().to_vec());
            options.with_client_identity(Some(ClientIdentity::new(cert.into(), key.into())))
        }
    };
    Some(if ca_pem.is_empty() { options } else { options.with_root_certs(vec![ca_pem.to_vec().into()]) })
}
