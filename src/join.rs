//! Joining: trust by the hash in the token, a client certificate by a signing request made with the token, a
//! serving certificate by one made with the client certificate. Both are kept; `rotate` asks for the next ones.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use keelson_auth::kubeconfig::{self, Credentials};
use keelson_auth::pki::{Issued, ca_hash, private_dir, write_private};
use keelson_auth::token::bootstrap::Join;
use keelson_auth::{cert, csr};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::swap::Swap;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// How long a signature is waited for. It takes milliseconds; somebody may have to approve it.
const SIGNED_WITHIN: Duration = Duration::from_secs(600);

/// Between two looks at a request, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The node's certificates, as the kubelet names them: chain and key in one file, so that both change at once.
const CLIENT: &str = "kubelet-client-current.pem";
const SERVING: &str = "kubelet-server-current.pem";

/// A node that has joined.
pub(crate) struct Joined {
    pub(crate) client: Client,
    pub(crate) ca_pem: String,
    /// The client as it is, and what it shows.
    swap: Swap,
    shown: Issued,
    files: Files,
    server: String,
    token: Option<String>,
    user: String,
}

/// Files of a node's identity.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        write_private(&path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    /// A certificate with its key, unless it has ended.
    fn issued(&self, name: &str) -> Option<Issued> {
        let issued = split(&self.read(name)?)?;
        let valid = cert::validity(&issued.cert_pem)?;
        (!valid.is_over(Timestamp::now())).then_some(issued)
    }

    fn keep(&self, name: &str, issued: &Issued) -> anyhow::Result<()> {
        let chain = issued.cert_pem.trim_end();
        self.write(name, &format!("{chain}\n{}", issued.key_pem))
    }
}

/// Chain and key of a file that has both.
fn split(text: &str) -> Option<Issued> {
    let at = text.rfind("-----BEGIN PRIVATE KEY-----")?;
    let (chain, key) = text.split_at_checked(at)?;
    Some(Issued {
        cert_pem: chain.to_owned(),
        key_pem: key.to_owned(),
    })
}

/// Joins, or goes on with what an earlier join gave.
pub(crate) async fn join(
    server: &str,
    token: Option<&str>,
    name: &str,
    dir: &Path,
) -> anyhow::Result<Joined> {
    private_dir(dir).with_context(|| format!("make {}", dir.display()))?;
    let files = Files {
        dir: dir.to_owned(),
    };
    let ca_pem = trust(server, token, &files).await?;
    let user = format!("system:node:{name}");
    let shown = match files.issued(CLIENT) {
        Some(issued) => issued,
        None => {
            let secret = secret(token)?;
            let bootstrap = client(server, &ca_pem, Credentials::Token(&secret)).await?;
            let issued = sign(&bootstrap, CLIENT_SIGNER, &user, &[], &ca_pem)
                .await
                .context("ask for the node's certificate")?;
            files.keep(CLIENT, &issued)?;
            issued
        }
    };
    let swap = Swap::new(with(server, &ca_pem, &shown).await?);
    Ok(Joined {
        client: swap.client(),
        ca_pem,
        swap,
        shown,
        files,
        server: server.to_owned(),
        token: token.map(str::to_owned),
        user,
    })
}

/// What a join token lets in with.
fn secret(token: Option<&str>) -> anyhow::Result<String> {
    let token = token.context("--token is needed for the first join, and when the node's certificate has ended while it was off")?;
    Ok(token.parse::<Join>()?.token.to_string())
}

/// A client that shows a certificate.
async fn with(server: &str, ca_pem: &str, issued: &Issued) -> anyhow::Result<Client> {
    let credentials = Credentials::Certificate {
        cert_pem: &issued.cert_pem,
        key_pem: &issued.key_pem,
    };
    client(server, ca_pem, credentials).await
}

/// What a node's serving certificate is for.
pub(crate) fn sans(name: &str, ips: &[IpAddr]) -> Vec<String> {
    let ips = ips.iter().map(IpAddr::to_string);
    ips.chain([name.to_owned()]).collect()
}

/// Whether a certificate is for these names, and no others.
pub(crate) fn is_for(issued: &Issued, sans: &[String]) -> bool {
    cert::names(&issued.cert_pem) == sans.iter().cloned().collect()
}

impl Joined {
    /// The certificate that the API server is shown.
    pub(crate) fn shown(&self) -> &Issued {
        &self.shown
    }

    /// Has the next client certificate signed, and shows it from now on: new requests go over new connections, what
    /// is under way on the old ones ends by itself. Where the last has ended the token still lets in.
    pub(crate) async fn renew(&mut self) -> anyhow::Result<()> {
        let ended = cert::validity(&self.shown.cert_pem)
            .is_none_or(|valid| valid.is_over(Timestamp::now()));
        let asking = match (ended, secret(self.token.as_deref())) {
            (true, Ok(secret)) => {
                client(&self.server, &self.ca_pem, Credentials::Token(&secret)).await?
            }
            _ => self.client.clone(),
        };
        let issued = sign(&asking, CLIENT_SIGNER, &self.user, &[], &self.ca_pem).await?;
        self.files.keep(CLIENT, &issued)?;
        self.swap
            .set(with(&self.server, &self.ca_pem, &issued).await?);
        self.shown = issued;
        Ok(())
    }

    /// Goes on over new connections: those from an address that the node has no longer lead nowhere.
    pub(crate) async fn reconnect(&self) -> anyhow::Result<()> {
        let client = with(&self.server, &self.ca_pem, &self.shown).await?;
        self.swap.replace(client);
        Ok(())
    }

    /// The certificate that the agent answered with before, if it is for these names.
    pub(crate) fn kept_serving(&self, sans: &[String]) -> Option<Issued> {
        let kept = self.files.issued(SERVING);
        kept.filter(|kept| is_for(kept, sans))
    }

    /// The certificate that the agent answers with, kept from before if it is for these names.
    pub(crate) async fn serving(&self, sans: &[String]) -> anyhow::Result<Issued> {
        match self.kept_serving(sans) {
            Some(kept) => Ok(kept),
            None => self.new_serving(sans).await,
        }
    }

    /// Has one signed. For the addresses that the Node has: it must be there.
    pub(crate) async fn new_serving(&self, sans: &[String]) -> anyhow::Result<Issued> {
        let (client, ca) = (&self.client, &self.ca_pem);
        let signed = sign(client, SERVING_SIGNER, &self.user, sans, ca).await;
        let serving = signed.context("ask for the serving certificate")?;
        self.files.keep(SERVING, &serving)?;
        Ok(serving)
    }
}

async fn client(
    server: &str,
    ca_pem: &str,
    credentials: Credentials<'_>,
) -> anyhow::Result<Client> {
    let text = kubeconfig::render("keelson", server, ca_pem, credentials);
    let kubeconfig: Kubeconfig = serde_json::from_str(&text)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("make a client")
}

/// The cluster's authority: kept from an earlier join, or shown by the server and checked against the token's hash.
async fn trust(server: &str, token: Option<&str>, files: &Files) -> anyhow::Result<String> {
    if let Some(ca) = files.read("ca.crt") {
        return Ok(ca);
    }
    let token = token
        .context("--token is needed for the first join")?
        .parse::<Join>()?;
    let chain = presented(server).await?;
    let Some(ca) = chain.iter().find(|c| ca_hash(c) == token.ca_hash) else {
        bail!(
            "{server} is not the server that this token is for: it shows another certificate authority"
        );
    };
    let pem = pem(ca);
    files.write("ca.crt", &pem)?;
    Ok(pem)
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|l| std::str::from_utf8(l).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// `host:port` of a server's URL.
pub(crate) fn host_port(server: &str) -> anyhow::Result<String> {
    let uri: http::Uri = server
        .parse()
        .with_context(|| format!("--server is {server:?}, needed is https://HOST:6443"))?;
    let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        bail!("--server is {server:?}, needed is https://HOST:6443");
    };
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(6443)))
}

/// The certificates a server shows. Nothing is sent to it: this only looks.
async fn presented(server: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let address = host_port(server)?;
    let host = address
        .rsplit_once(':')
        .map_or(address.as_str(), |(h, _)| h)
        .trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned())
        .with_context(|| format!("{host:?} is no host name"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Look(provider)))
        .with_no_client_auth();
    let connect = async {
        let tcp = tokio::net::TcpStream::connect(&address).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    };
    let tls = tokio::time::timeout(Duration::from_secs(10), connect).await;
    let tls = tls
        .context("it does not answer")
        .and_then(|r| r.map_err(Into::into))
        .with_context(|| format!("connect to {server}"))?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(chain.iter().map(|c| c.clone().into_owned()).collect())
}

/// Accepts any chain, to look at it; the handshake's signature is checked, so the server does hold the leaf's key.
#[derive(Debug)]
struct Look(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Look {
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
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Has the cluster sign a certificate for the node.
async fn sign(
    client: &Client,
    signer: &str,
    user: &str,
    sans: &[String],
    ca_pem: &str,
) -> anyhow::Result<Issued> {
    let (key_pem, request) = csr::new(user, &["system:nodes"], sans)?;
    let auth = if signer == SERVING_SIGNER {
        "server auth"
    } else {
        "client auth"
    };
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("csr-".into()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: signer.into(),
            usages: Some(vec!["digital signature".into(), auth.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &object).await?;
    let name = made.metadata.name.context("the request has no name")?;
    let leaf = tokio::time::timeout(SIGNED_WITHIN, signature(&api, &name)).await;
    let leaf =
        leaf.with_context(|| format!("request {name} is not signed; has it been approved?"))??;
    // Tidy, where it is allowed: the controller removes old ones anyway.
    let _ = api.delete(&name, &DeleteParams::default()).await;
    Ok(Issued {
        cert_pem: format!("{}\n{ca_pem}", leaf.trim_end()),
        key_pem,
    })
}

async fn signature(api: &Api<CertificateSigningRequest>, name: &str) -> anyhow::Result<String> {
    let mut wait = LOOK.0;
    loop {
        let status = api.get(name).await?.status.unwrap_or_default();
        let refused = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Denied" || c.type_ == "Failed");
        if let Some(refused) = refused {
            bail!(
                "request {name} was refused: {}",
                refused.message.as_deref().unwrap_or("no reason given")
            );
        }
        if let Some(certificate) = status.certificate {
            let pem = String::from_utf8(certificate.0).context("the certificate is not PEM")?;
            // The chain is ours to make: only the leaf counts.
            let end = "-----END CERTIFICATE-----";
            let leaf = pem
                .find(end)
                .and_then(|at| pem.get(..at + end.len()))
                .context("the certificate is not PEM")?;
            return Ok(leaf.to_owned());
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_chain_and_key() {
        let dir = std::env::temp_dir().join(format!("keelson-join-{}", std::process::id()));
        private_dir(&dir).expect("a folder");
        let pki = keelson_auth::pki::Pki::load_or_create(&dir).expect("an authority");
        let files = Files { dir: dir.clone() };
        let names = sans("n", &["10.0.0.1".parse().expect("an address")]);
        let lasts = Duration::from_secs(3600);
        let issued = pki.issue_server("n", &names, lasts).expect("a certificate");
        files.keep(SERVING, &issued).expect("kept");
        let kept = files.issued(SERVING).expect("read");
        assert_eq!(kept.key_pem, issued.key_pem);
        assert_eq!(kept.cert_pem.trim_end(), issued.cert_pem.trim_end());
        assert!(is_for(&kept, &names));
        assert!(!is_for(&kept, &names[..1]), "fewer");
        let ended = pki.issue_server("n", &names, Duration::ZERO);
        files
            .keep(SERVING, &ended.expect("a certificate"))
            .expect("kept");
        assert!(files.issued(SERVING).is_none(), "one that has ended");
        files
            .write(SERVING, "-----BEGIN CERTIFICATE-----")
            .expect("written");
        assert!(files.issued(SERVING).is_none(), "one without a key");
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn servers_are_https_urls() {
        let cases = [
            ("https://10.0.0.1:6443", Some("10.0.0.1:6443")),
            ("https://node", Some("node:6443")),
            ("https://[fd00::1]:7443", Some("[fd00::1]:7443")),
            ("http://10.0.0.1:6443", None),
            ("10.0.0.1:6443", None),
            ("", None),
        ];
        for (server, want) in cases {
            assert_eq!(host_port(server).ok().as_deref(), want, "{server}");
        }
    }
}
