//! Whose certificates are believed, and how a host is connected to.
//! Sends nothing.

use std::path::Path;
use std::sync::Arc;

use ureq::Agent;
use ureq::config::Config;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::place::is_loopback;
use super::{Host, Patience};
use crate::error::{Error, Result};

/// A certificate bundle has some hundred KiB.
const CA_BYTES_MAX: u64 = 16 << 20;

/// What makes requests to one host. Redirects and statuses are left to the caller, who knows whom to tell what.
pub(super) fn agent(name: &str, host: Option<&Host>, plain: bool, patience: &Patience) -> Result<Agent> {
    let mut config = Config::builder()
        .user_agent(concat!("opsrun/", env!("CARGO_PKG_VERSION")))
        // Blobs are hashed as they are sent.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_recv_response(Some(patience.stall))
        .timeout_per_read(Some(patience.stall))
        .timeout_per_write(Some(patience.stall));
    if is_loopback(name) {
        // A proxy would look for it on its own host.
        config = config.proxy(None);
    }
    if !plain {
        let roots = match host.and_then(|host| host.ca.as_deref()) {
            Some(path) => of_file(path)?,
            None => of_system()?,
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        config = config.tls_config(tls);
    }
    Ok(config.build().new_agent())
}

/// The certificates in a file that the operator named.
fn of_file(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let failed = |error| Error::io(format!("read the certificates in {}", path.display()), error);
    if path.metadata().map_err(failed)?.len() > CA_BYTES_MAX {
        return Err(Error::NoCertificate {
            path: path.to_owned(),
            reason: "it is larger than 16 MiB".to_owned(),
        });
    }
    let text = std::fs::read(path).map_err(failed)?;
    let wrong = |reason: String| Error::NoCertificate { path: path.to_owned(), reason };
    let mut roots = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
            roots.push(certificate);
        }
    }
    if roots.is_empty() {
        return Err(wrong("it has none in PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(roots)
}

/// The system's: Debian's ca-certificates, or what `SSL_CERT_FILE` names.
fn of_system() -> Result<Vec<Certificate<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(Error::NoSystemCertificates { reason });
    }
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}
