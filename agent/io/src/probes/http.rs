//! HTTP probes.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Probe, ProbeResult, Stream, authority, connect};

const USER_AGENT: &str = "kube-probe/1.36";
const MAX_REDIRECTS: usize = 10;
/// The kubelet's limit; what a target says beyond it is not read.
const MAX_BODY: usize = 10 * 1024;

struct Target {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// Runs an HTTP probe, following redirects that stay on the host.
pub(super) async fn probe(tls: &Arc<rustls::ClientConfig>, probe: &Probe) -> ProbeResult {
    let Probe::Http {
        tls: https,
        host,
        port,
        path,
        headers,
    } = probe
    else {
        return ProbeResult::Unknown("not an HTTP probe".into());
    };
    let path = if path.starts_with('/') {
        path.clone()
    } else {
        format!("/{path}")
    };
    let mut target = Target {
        tls: *https,
        host: host.clone(),
        port: *port,
        path,
    };
    for _ in 0..=MAX_REDIRECTS {
        let answer = match get(tls, &target, headers).await {
            Ok(answer) => answer,
            Err(e) => return e,
        };
        match next(&target, &answer) {
            Next::Follow(to) => target = to,
            Next::Elsewhere => return redirected(&answer),
            Next::Stay => return judge(answer.status),
        }
    }
    let url = url(target.tls, &target.host, target.port, &target.path);
    ProbeResult::Failure(format!(
        "Get \"{url}\": stopped after {MAX_REDIRECTS} redirects"
    ))
}

pub(super) fn url(tls: bool, host: &str, port: u16, path: &str) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}{path}", authority(host, port))
}

/// What a probe needs of an answer.
struct Answer {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

/// A redirect to another host is not followed: success with a warning, as upstream has it.
fn redirected(answer: &Answer) -> ProbeResult {
    let body = String::from_utf8_lossy(&answer.body);
    ProbeResult::Warning(format!("Probe terminated redirects, Response body: {body}"))
}

/// Read within limits, so that a server does not log a broken pipe for each probe.
async fn read(response: Response<Incoming>) -> Answer {
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|v| v.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    let (mut body, mut read) = (response.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        read.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref));
        if read.len() >= MAX_BODY {
            read.truncate(MAX_BODY);
            break;
        }
    }
    Answer {
        status,
        location,
        body: read,
    }
}

fn judge(status: u16) -> ProbeResult {
    if (200..400).contains(&status) {
        ProbeResult::Success
    } else {
        ProbeResult::Failure(format!("HTTP probe failed with statuscode: {status}"))
    }
}

enum Next {
    Stay,
    Follow(Target),
    /// To another host.
    Elsewhere,
}

fn next(from: &Target, answer: &Answer) -> Next {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return Next::Stay;
    }
    let location = answer.location.as_deref();
    location.map_or(Next::Stay, |l| follow(from, l))
}

fn follow(from: &Target, location: &str) -> Next {
    let Ok(uri) = location.parse::<Uri>() else {
        return relative(from, location);
    };
    let Some(authority) = uri.authority().filter(|_| location.contains("//")) else {
        return relative(from, location);
    };
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let host = authority.host().trim_matches(['[', ']']);
    if host != from.host {
        return Next::Elsewhere;
    }
    let tls = uri.scheme_str().map_or(from.tls, |s| s == "https");
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Next::Follow(Target {
        tls,
        host: host.to_owned(),
        port,
        path,
    })
}

/// A path, from the root or beside the one that was asked for.
fn relative(from: &Target, location: &str) -> Next {
    let asked = from.path.split('?').next().unwrap_or_default();
    let base = asked.rsplit_once('/').map_or("", |(base, _)| base);
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        format!("{base}/{location}")
    };
    Next::Follow(Target {
        tls: from.tls,
        host: from.host.clone(),
        port: from.port,
        path,
    })
}

async fn get(
    tls: &Arc<rustls::ClientConfig>,
    target: &Target,
    headers: &[(String, String)],
) -> Result<Answer, ProbeResult> {
    let url = url(target.tls, &target.host, target.port, &target.path);
    let fail = |e: String| ProbeResult::Failure(format!("Get \"{url}\": {e}"));
    let request = request(target, headers)
        .map_err(|e| ProbeResult::Unknown(format!("Get \"{url}\": {e}")))?;
    let tcp = connect(&target.host, target.port)
        .await
        .map_err(|e| fail(e.message()))?;
    let stream: Box<dyn Stream> = if target.tls {
        let name = ServerName::try_from(target.host.clone()).map_err(|e| fail(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        Box::new(
            connector
                .connect(name, tcp)
                .await
                .map_err(|e| fail(format!("tls: {e}")))?,
        )
    } else {
        Box::new(tcp)
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| fail(e.to_string()))?;
    let exchange = async move { Ok(read(sender.send_request(request).await?).await) };
    let answer: hyper::Result<Answer> = beside(exchange, connection).await;
    answer.map_err(|e| {
        fail(if e.is_incomplete_message() {
            "EOF".into()
        } else {
            e.to_string()
        })
    })
}

/// Drives an exchange and its connection in one task; the connection is dropped with the exchange's end.
async fn beside<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        done = &mut exchange => return done,
        _ = connection => {}
    }
    // Closed: what has come before is still there to be read.
    exchange.await
}

fn request(target: &Target, headers: &[(String, String)]) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(target.path.as_str())
        .body(Empty::new())
        .map_err(|e| e.to_string())?;
    let default = if target.tls { 443 } else { 80 };
    let host = if target.port == default {
        target.host.clone()
    } else {
        authority(&target.host, target.port)
    };
    let map = request.headers_mut();
    map.insert(
        header::HOST,
        HeaderValue::try_from(host).map_err(|e| e.to_string())?,
    );
    map.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    map.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    map.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|e| e.to_string())?;
        let value = HeaderValue::try_from(value).map_err(|e| e.to_string())?;
        let ours = name == header::HOST || name == header::USER_AGENT || name == header::ACCEPT;
        // An empty Accept or User-Agent takes ours away; other headers may come several times.
        match (ours, value.is_empty()) {
            (true, true) => _ = map.remove(name),
            (true, false) => _ = map.insert(name, value),
            (false, _) => _ = map.append(name, value),
        }
    }
    Ok(request)
}

/// A client that takes any certificate: a probe asks whether a server answers, not who it is.
pub(super) fn unverified() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let versions =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // ring offers both default versions, so this cannot fail.
    let builder = versions.expect("ring speaks TLS 1.2 and 1.3");
    builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
