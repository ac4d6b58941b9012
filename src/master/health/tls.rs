//! TLS of probes: whatever the certificate of the worker, since what is asked is whether it answers, on a
//! connection within this host.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Begins TLS on a connection, and asks for this Host.
///
/// # Errors
/// The handshake fails.
pub(super) async fn connect(stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config)).connect(server_name(host), stream).await
}

/// The name that the worker chooses its certificate by.
fn server_name(host: &str) -> ServerName<'static> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let localhost = || ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    ServerName::try_from(name.to_owned()).unwrap_or_else(|_| localhost())
}

/// Takes every certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A server for tests.
#[cfg(test)]
pub(super) mod testing {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;

    /// Signed by itself: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj
    /// /CN=localhost`, and its key by `openssl pkcs8 -topk8 -nocrypt`, in hexadecimal.
    const CERTIFICATE: &str = "3082018030820125a00302010202142ad8b84439f5896d37595ed34cd3cf1ee345adee300a06082a8648ce3d04\
         030230143112301006035504030c096c6f63616c686f73743020170d3236313132393134333335355a180f3231\
         3236313130353134333335355a30143112301006035504030c096c6f63616c686f73743059301306072a8648ce\
         3d020106082a8648ce3d03010703420004e7b508f990ee5c9df4f68a2e0781e81a8661a3d06df2512b8fcf2adf\
         85cbe083a0fb6e564d7c0f03532bc9ee451dc894eb128548a08b78eee5b6edd6dae62f08a3533051301d060355\
         1d0e04160414b07b6aa46648487d4fe70b56727fb6aab86dc0be301f0603551d23041830168014b07b6aa46648\
         487d4fe70b56727fb6aab86dc0be300f0603551d130101ff040530030101ff300a06082a8648ce3d0403020349\
         003046022100c4070f83d3984b64bb4a86b97e8ea98e98d967551256b8f4b67da2c32bdc4b57022100b00dd164\
         d6d805e732d468d97c8dbe2927e050f2bf38052dfc38022b35ac5ca8";
    const KEY: &str = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420f0977109b127d1fceb\
         33c2cd7e62ca368257cb162bbcd701d6a71b92d8df969ea14403420004e7b508f990ee5c9df4f68a2e0781e81a\
         8661a3d06df2512b8fcf2adf85cbe083a0fb6e564d7c0f03532bc9ee451dc894eb128548a08b78eee5b6edd6da\
         e62f08";

    fn bytes(text: &str) -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    pub(crate) fn acceptor() -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bytes(KEY)));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(bytes(CERTIFICATE))], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_host_without_its_port() {
        for (host, name) in [
            ("www.example", "www.example"),
            ("www.example:8443", "www.example"),
            ("10.9.0.1:8443", "10.9.0.1"),
            ("[fd09::1]:8443", "fd09::1"),
            ("a_b~c%", "127.0.0.1"),
        ] {
            assert_eq!(server_name(host).to_str(), name, "{host}");
        }
    }
}
