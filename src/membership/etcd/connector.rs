//! Connections to an etcd server.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Endpoint, EtcdError, TlsFiles};

/// What bytes go over: TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A watch is silent for as long as nothing changes. What stands between forgets no connection that says this
/// often that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(super) async fn connect(
    endpoint: &Endpoint,
    tls: &TlsFiles,
) -> Result<Box<dyn Stream>, EtcdError> {
    let failed = |source: io::Error| EtcdError::Connect { endpoint: endpoint.clone(), source };
    let stream = TcpStream::connect((&*endpoint.host, endpoint.port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let options = || {
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEP_ALIVE)
    };
    options().map_err(|errno| failed(errno.into()))?;
    match endpoint.is_tls {
        false => Ok(Box::new(stream)),
        true => secured::begin(endpoint, tls, stream).await,
    }
}

#[cfg(not(feature = "tls"))]
mod secured {
    use super::*;

    #[expect(clippy::unused_async, reason = "as the other one")]
    pub(super) async fn begin(
        endpoint: &Endpoint,
        _: &TlsFiles,
        _: TcpStream,
    ) -> Result<Box<dyn Stream>, EtcdError> {
        let reason =
            "this program was built without TLS: build it with `--features tls`".to_owned();
        Err(EtcdError::Tls { endpoint: endpoint.clone(), reason })
    }
}

#[cfg(feature = "tls")]
mod secured {
    use std::path::Path;
    use std::sync::Arc;

    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;

    pub(super) async fn begin(
        endpoint: &Endpoint,
        tls: &TlsFiles,
        stream: TcpStream,
    ) -> Result<Box<dyn Stream>, EtcdError> {
        let failed = |reason: String| EtcdError::Tls { endpoint: endpoint.clone(), reason };
        let config = configuration(endpoint, tls)?;
        let name = ServerName::try_from(endpoint.host.clone());
        let name = name.map_err(|error| failed(error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| failed(error.to_string()))?))
    }

    fn configuration(endpoint: &Endpoint, tls: &TlsFiles) -> Result<ClientConfig, EtcdError> {
        let failed = |reason: String| EtcdError::Tls { endpoint: endpoint.clone(), reason };
        let Some(ca) = &tls.ca else {
            let reason = "the certificate of whoever has signed the server's is needed, as a file";
            return Err(failed(reason.to_owned()));
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            let added = roots.add(certificate);
            added.map_err(|error| file_fault(ca, &error.to_string()))?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| file_fault(key, &error.to_string()))?;
                let config = builder.with_client_auth_cert(chain, secret);
                config.map_err(|error| file_fault(certificate, &error.to_string()))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
        let fault = |error: tokio_rustls::rustls::pki_types::pem::Error| {
            file_fault(path, &error.to_string())
        };
        let found = CertificateDer::pem_file_iter(path).map_err(fault)?;
        let found = found.collect::<Result<Vec<_>, _>>().map_err(fault)?;
        match found.is_empty() {
            true => Err(file_fault(path, "no certificate in it: expected PEM")),
            false => Ok(found),
        }
    }

    fn file_fault(path: &Path, reason: &str) -> EtcdError {
        EtcdError::TlsFile { path: path.to_owned(), reason: reason.to_owned() }
    }
}
