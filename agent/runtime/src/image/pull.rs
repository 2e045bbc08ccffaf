//! Pulls from registries straight into the content store.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use oci_client::client::{Client as Registry, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};

use super::content::Blob;
use super::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST, Platform,
};
use super::{Image, name};
use crate::auth::Auth;
use crate::client::Lease;
use crate::error::{Error, PullKind};
use crate::runtime::Runtime;

/// Layers fetched at once, as containerd does by default.
const PARALLEL: usize = 3;
const CONNECT: Duration = Duration::from_secs(15);
/// A registry that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

struct Source<'a> {
    registry: Registry,
    reference: &'a Reference,
    auth: RegistryAuth,
}

impl Runtime {
    /// Pulls `name` from its registry, trying each matching credential and then none. Registries on
    /// loopback and the configured insecure ones are spoken to over HTTP.
    pub async fn pull(&self, name: &str, auth: &[Auth]) -> Result<Image, Error> {
        let reference = name::parse(name).map_err(|error| Error::Pull {
            image: name.to_owned(),
            kind: PullKind::InvalidName,
            message: error.to_string(),
        })?;
        let mut denied = None;
        for credentials in credentials(&reference, auth) {
            let source = Source::new(self, &reference, credentials);
            match self.pull_from(&source).await {
                Err(
                    error @ Error::Pull {
                        kind: PullKind::Unauthorized,
                        ..
                    },
                ) => {
                    denied.get_or_insert(error);
                }
                Err(Error::Pull { kind, message, .. }) => {
                    let image = name.to_owned();
                    return Err(Error::Pull {
                        image,
                        kind,
                        message,
                    });
                }
                settled => return settled,
            }
        }
        Err(denied.unwrap_or_else(|| Error::not_found("image", name)))
    }

    async fn pull_from(&self, source: &Source<'_>) -> Result<Image, Error> {
        source.log_in().await?;
        let whole = source.reference.whole();
        let digest = self
            .client()
            .with_lease("pull", async |lease| {
                let (target, manifest) = self.fetch_manifests(source, lease).await?;
                self.fetch_blobs(source, lease, &manifest).await?;
                let by_digest = name::by_digest(source.reference, &target.digest);
                let mut names = vec![whole.clone()];
                if by_digest != whole {
                    names.push(by_digest);
                }
                self.finish_image(lease, &target, &names).await?;
                Ok(target.digest)
            })
            .await?;
        let image = self.image(&whole).await?;
        image.ok_or_else(|| Error::not_found("image", digest))
    }

    /// Stores the manifest, and the index that led to it.
    async fn fetch_manifests(
        &self,
        source: &Source<'_>,
        lease: &Lease,
    ) -> Result<(Descriptor, Manifest), Error> {
        let (target, first) = self.fetch_manifest(source, lease, source.reference).await?;
        if !first.is_index() {
            return Ok((target, first));
        }
        let host = Platform::host();
        let chosen = first.choose(&host).ok_or_else(|| {
            let text = format!("no match for platform {}/{}", host.os, host.architecture);
            source.failure(PullKind::NoPlatform, text)
        })?;
        let reference = source.reference.clone_with_digest(chosen.digest.clone());
        let (_, manifest) = self.fetch_manifest(source, lease, &reference).await?;
        Ok((target, manifest))
    }

    async fn fetch_manifest(
        &self,
        source: &Source<'_>,
        lease: &Lease,
        reference: &Reference,
    ) -> Result<(Descriptor, Manifest), Error> {
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];
        let (json, digest) = source
            .registry
            .pull_manifest_raw(reference, &source.auth, &accept)
            .await
            .map_err(|error| source.refused(error))?;
        let manifest = Manifest::parse(&digest, &json)
            .map_err(|error| source.failure(PullKind::Other, error.to_string()))?;
        let blob = Blob {
            digest: Some(digest.clone()),
            size: json.len() as u64,
            labels: source.labels(),
        };
        let target = Descriptor {
            media_type: manifest.kind().to_owned(),
            digest,
            size: json.len() as u64,
            ..Descriptor::default()
        };
        self.client().write_bytes(lease, blob, json).await?;
        Ok((target, manifest))
    }

    async fn fetch_blobs(
        &self,
        source: &Source<'_>,
        lease: &Lease,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let blobs: Vec<&Descriptor> = manifest.config.iter().chain(&manifest.layers).collect();
        let fetches = blobs
            .into_iter()
            .map(|blob| self.fetch_blob(source, lease, blob));
        futures::stream::iter(fetches.collect::<Vec<_>>())
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn fetch_blob(
        &self,
        source: &Source<'_>,
        lease: &Lease,
        wanted: &Descriptor,
    ) -> Result<(), Error> {
        if self.client().blob_info(&wanted.digest).await?.is_some() {
            return self.client().hold_blob(lease, &wanted.digest).await;
        }
        let stream = source
            .registry
            .pull_blob_stream(source.reference, wanted.digest.as_str())
            .await
            .map_err(|error| source.refused(error))?;
        let bytes = stream.stream.map(|piece: std::io::Result<Bytes>| {
            piece.map_err(|error| source.failure(PullKind::Unreachable, error.to_string()))
        });
        let blob = Blob {
            digest: Some(wanted.digest.clone()),
            size: wanted.size,
            labels: source.labels(),
        };
        self.client().write_blob(lease, blob, bytes).await?;
        Ok(())
    }
}

impl<'a> Source<'a> {
    fn new(runtime: &Runtime, reference: &'a Reference, auth: RegistryAuth) -> Source<'a> {
        let plain = name::plain_http(reference.registry(), &runtime.config().insecure_registries);
        let registry = Registry::new(ClientConfig {
            protocol: match plain {
                true => ClientProtocol::Http,
                false => ClientProtocol::Https,
            },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("keelson/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        Source {
            registry,
            reference,
            auth,
        }
    }

    async fn log_in(&self) -> Result<(), Error> {
        self.registry
            .auth(self.reference, &self.auth, RegistryOperation::Pull)
            .await
            .map_err(|error| self.refused(error))?;
        Ok(())
    }

    /// containerd's garbage collector and CRI know where content came from by this label.
    fn labels(&self) -> HashMap<String, String> {
        let key = format!(
            "containerd.io/distribution.source.{}",
            self.reference.registry()
        );
        HashMap::from([(key, self.reference.repository().to_owned())])
    }

    fn failure(&self, kind: PullKind, message: String) -> Error {
        Error::Pull {
            image: self.reference.whole(),
            kind,
            message,
        }
    }

    fn refused(&self, error: OciDistributionError) -> Error {
        self.failure(classify(&error), chain(&error))
    }
}

/// The credentials to try, most specific first, no credentials last.
fn credentials(reference: &Reference, auth: &[Auth]) -> Vec<RegistryAuth> {
    let (registry, repository) = (reference.registry(), reference.repository());
    let mut fitting: Vec<&Auth> = auth
        .iter()
        .filter(|a| a.matches(registry, repository))
        .collect();
    fitting.sort_by_key(|auth| std::cmp::Reverse(auth.registry.len()));
    let basic = |auth: &Auth| RegistryAuth::Basic(auth.username.clone(), auth.password.clone());
    let mut all: Vec<RegistryAuth> = fitting.into_iter().map(basic).collect();
    all.push(RegistryAuth::Anonymous);
    all
}

fn classify(error: &OciDistributionError) -> PullKind {
    match error {
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::RegistryTokenDecodeError(_) => PullKind::Unauthorized,
        OciDistributionError::ImageManifestNotFoundError(_) => PullKind::NotFound,
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
            PullKind::Unreachable
        }
        OciDistributionError::ServerError { code, .. } => match code {
            401 | 403 => PullKind::Unauthorized,
            404 => PullKind::NotFound,
            500.. => PullKind::Unreachable,
            _ => PullKind::Other,
        },
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .map(|error| match error.code {
                OciErrorCode::Unauthorized | OciErrorCode::Denied => PullKind::Unauthorized,
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::BlobUnknown
                | OciErrorCode::ManifestBlobUnknown
                | OciErrorCode::NotFound => PullKind::NotFound,
                OciErrorCode::Toomanyrequests => PullKind::Unreachable,
                _ => PullKind::Other,
            })
            .next()
            .unwrap_or(PullKind::Other),
        _ => PullKind::Other,
    }
}

/// reqwest says the interesting part ("connection refused") only in its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}
