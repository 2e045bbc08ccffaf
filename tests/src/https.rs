//! Requests byte for byte: what no well-behaved client would send.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who asks.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Nobody known.
    Anonymous,
    /// The administrator's certificate.
    Admin,
    /// A bearer token.
    Bearer(String),
    /// A client certificate and its key, in PEM.
    Certificate(String, String),
}

/// An answer, whatever it is.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The head, as sent.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// An error unless it is a `Status` of Kubernetes with this code.
    pub fn is_status(&self) -> anyhow::Result<()> {
        let json = self.json();
        let whole =
            json["kind"] == "Status" && json["apiVersion"] == "v1" && json["status"] == "Failure";
        if !whole
            || json["code"] != self.status
            || json["message"].as_str().is_none_or(str::is_empty)
        {
            bail!("no Status: {} {}", self.status, self.text());
        }
        Ok(())
    }
}

/// A TLS client for one identity.
pub struct Https {
    connector: TlsConnector,
    bearer: Option<String>,
}

impl Https {
    /// Trusts the kubeconfig's authority.
    pub fn new(kubeconfig: &Value, who: &Identity) -> anyhow::Result<Self> {
        let decode = |pointer: &str| {
            let text = kubeconfig.pointer(pointer).and_then(Value::as_str);
            let text = text.with_context(|| format!("the kubeconfig has no {pointer}"))?;
            anyhow::Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let ca = decode("/clusters/0/cluster/certificate-authority-data")?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (config, bearer) = match who {
            Identity::Anonymous => (config.with_no_client_auth(), None),
            Identity::Bearer(token) => (config.with_no_client_auth(), Some(token.clone())),
            Identity::Certificate(cert, key) => (
                with_certificate(config, cert.as_bytes(), key.as_bytes())?,
                None,
            ),
            Identity::Admin => {
                let cert = decode("/users/0/user/client-certificate-data")?;
                let key = decode("/users/0/user/client-key-data")?;
                (with_certificate(config, &cert, &key)?, None)
            }
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            bearer,
        })
    }

    /// Sends one request on a connection of its own and reads to the end.
    pub async fn request(
        &self,
        to: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
        if let Some(bearer) = &self.bearer {
            head += &format!("Authorization: Bearer {bearer}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        let answer = tokio::time::timeout(
            Duration::from_secs(30),
            self.exchange(to, head.as_bytes(), body),
        )
        .await;
        answer
            .context("no answer in 30 s")?
            .with_context(|| format!("{method} {path}"))
    }

    async fn exchange(&self, to: &str, head: &[u8], body: &[u8]) -> anyhow::Result<Answer> {
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host).to_owned();
        let tcp = TcpStream::connect(to).await?;
        let mut tls = self
            .connector
            .connect(ServerName::try_from(host)?, tcp)
            .await?;
        tls.write_all(head).await?;
        // A server may answer and close before it has read a body that it does not want.
        let _ = tls.write_all(body).await;
        let _ = tls.flush().await;
        let mut all = Vec::new();
        match tls.read_to_end(&mut all).await {
            Err(error) if all.is_empty() => Err(error.into()),
            _ => parse(&all),
        }
    }
}

fn with_certificate(
    config: rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
    cert: &[u8],
    key: &[u8],
) -> anyhow::Result<rustls::ClientConfig> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    Ok(config.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_slice(key)?)?)
}

fn parse(all: &[u8]) -> anyhow::Result<Answer> {
    let end = all
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the connection was closed without an answer")?;
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .with_context(|| head.clone())?;
    let rest = &all[end + 4..];
    let body = match head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        true => dechunk(rest),
        false => rest.to_vec(),
    };
    Ok(Answer { status, head, body })
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line])
            .ok()
            .and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
        let Some(size) = size.filter(|s| *s > 0 && line + 2 + s <= rest.len()) else {
            break;
        };
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = rest.get(line + 4 + size..).unwrap_or_default();
    }
    body
}
