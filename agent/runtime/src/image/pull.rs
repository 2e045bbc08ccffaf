//! Pulls from registries straight into the content store.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use oci_client::client::{
    Certificate, CertificateEncoding, Client as Registry, ClientConfig, ClientProtocol,
};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};

use super::content::Blob;
use super::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST, Platform,
};
use super::registries::{Endpoint, Registries};
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

/// An image that was pulled, and whose credentials the registry took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// One of those that were given; `None`: none was needed, or one of the registries file was used.
    pub by: Option<Auth>,
}

/// One place and one credential.
struct Source<'a> {
    registry: Registry,
    /// As the image is called.
    reference: &'a Reference,
    /// As it is asked for at this place.
    there: Reference,
    auth: RegistryAuth,
}

impl Runtime {
    /// Pulls `name` from its mirrors and its registry in turn, with each matching credential and then none. Registries
    /// on loopback and the configured insecure ones are spoken to over HTTP. When all fail, the error is that of the
    /// registry itself.
    pub async fn pull(&self, name: &str, auth: &[Auth]) -> Result<Pulled, Error> {
        let failed = |kind, message: String| Error::Pull {
            image: name.to_owned(),
            kind,
            message,
        };
        let reference =
            name::parse(name).map_err(|e| failed(PullKind::InvalidName, e.to_string()))?;
        let config = self.config();
        let registries =
            Registries::read(&config.registries).map_err(|e| failed(PullKind::Other, chain(&e)))?;
        let (registry, repository) = (reference.registry(), reference.repository());
        let endpoints = registries.endpoints(registry, repository, &config.insecure_registries);
        let mut last = failed(PullKind::Other, "no endpoint".to_owned());
        for endpoint in &endpoints {
            match self.pull_at(&reference, endpoint, auth).await {
                Ok(pulled) => return Ok(pulled),
                Err(Error::Pull { kind, message, .. }) => {
                    if !endpoint.own {
                        tracing::warn!(
                            image = name,
                            mirror = endpoint.host,
                            error = message,
                            "mirror does not have it"
                        );
                    }
                    last = failed(kind, message);
                }
                Err(other) => return Err(other),
            }
        }
        Err(last)
    }

    /// Pulls from one place.
    async fn pull_at(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        auth: &[Auth],
    ) -> Result<Pulled, Error> {
        let mut denied = None;
        for credential in credentials(endpoint, auth) {
            let by = match &credential {
                Credential::Given(auth) => Some((*auth).clone()),
                _ => None,
            };
            let source = Source::new(reference, endpoint, credential.into())?;
            match self.pull_from(&source).await {
                Ok(image) => return Ok(Pulled { image, by }),
                Err(
                    error @ Error::Pull {
                        kind: PullKind::Unauthorized,
                        ..
                    },
                ) => {
                    denied.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(denied.unwrap_or_else(|| Error::not_found("image", reference.whole())))
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
        let (target, first) = self.fetch_manifest(source, lease, &source.there).await?;
        if !first.is_index() {
            return Ok((target, first));
        }
        let host = Platform::host();
        let chosen = first.choose(&host).ok_or_else(|| {
            let text = format!("no match for platform {}/{}", host.os, host.architecture);
            source.failure(PullKind::NoPlatform, text)
        })?;
        let reference = source.there.clone_with_digest(chosen.digest.clone());
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
            .pull_blob_stream(&source.there, wanted.digest.as_str())
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
    fn new(
        reference: &'a Reference,
        endpoint: &Endpoint,
        auth: RegistryAuth,
    ) -> Result<Source<'a>, Error> {
        let failed = |message: String| Error::Pull {
            image: reference.whole(),
            kind: PullKind::Other,
            message,
        };
        let mut roots = Vec::new();
        if let Some(path) = &endpoint.ca_file {
            let data = std::fs::read(path)
                .map_err(|e| failed(format!("read ca_file {}: {e}", path.display())))?;
            let encoding = CertificateEncoding::Pem;
            roots.push(Certificate { encoding, data });
        }
        let config = ClientConfig {
            protocol: match endpoint.plain {
                true => ClientProtocol::Http,
                false => ClientProtocol::Https,
            },
            accept_invalid_certificates: endpoint.unverified,
            extra_root_certificates: roots,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("keelson/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Ok(Source {
            // Not `new`, which takes another configuration when this one cannot be had.
            registry: Registry::try_from(config).map_err(|e| failed(chain(&e)))?,
            reference,
            there: there(reference, endpoint),
            auth,
        })
    }

    async fn log_in(&self) -> Result<(), Error> {
        self.registry
            .auth(&self.there, &self.auth, RegistryOperation::Pull)
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

/// An image as it is asked for at a place.
fn there(reference: &Reference, endpoint: &Endpoint) -> Reference {
    let registry = reference.registry().to_owned();
    let repository = endpoint.repository.clone();
    let mut there = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Reference::with_digest(registry, repository, digest.to_owned()),
        (None, tag) => {
            let tag = tag.unwrap_or("latest").to_owned();
            Reference::with_tag(registry, repository, tag)
        }
    };
    if !endpoint.own {
        there.set_mirror_registry(endpoint.host.clone());
    }
    there
}

/// As whom a place is asked.
#[derive(Debug, PartialEq, Eq)]
enum Credential<'a> {
    /// By the registries file.
    Configured(&'a (String, String)),
    /// One of the caller's.
    Given(&'a Auth),
    /// As nobody.
    Anonymous,
}

impl From<Credential<'_>> for RegistryAuth {
    fn from(credential: Credential<'_>) -> RegistryAuth {
        match credential {
            Credential::Configured((user, password)) => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            Credential::Given(a) => RegistryAuth::Basic(a.username.clone(), a.password.clone()),
            Credential::Anonymous => RegistryAuth::Anonymous,
        }
    }
}

/// The credentials to try: those of the caller in their order, then the configured one, none last. A mirror is not shown
/// what is meant for the registry.
fn credentials<'a>(endpoint: &'a Endpoint, auth: &'a [Auth]) -> Vec<Credential<'a>> {
    let repository = format!("{}/{}", endpoint.host, endpoint.repository);
    let given = auth.iter().filter(|a| a.is_for(&repository));
    let given = given.map(Credential::Given);
    let configured = endpoint.auth.iter().map(Credential::Configured);
    given
        .chain(configured)
        .chain([Credential::Anonymous])
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_not_shown_the_registrys_credentials() {
        let auth = |registry: &str| Auth {
            registry: registry.into(),
            username: registry.into(),
            password: "p".into(),
        };
        let (team, whole, mirror) = (auth("r.example/team"), auth("r.example"), auth("m.example"));
        let all = [team.clone(), whole.clone(), mirror.clone()];
        let endpoint = |host: &str, own, repository: &str| Endpoint {
            host: host.into(),
            own,
            repository: repository.into(),
            auth: Some(("c".into(), "p".into())),
            ..Endpoint::default()
        };
        use Credential::{Anonymous, Given};
        let table = [
            ("r.example", "team/a", vec![Given(&team), Given(&whole)]),
            ("r.example", "a", vec![Given(&whole)]),
            ("m.example", "a", vec![Given(&mirror)]),
            ("other.example", "a", vec![]),
        ];
        for (host, repository, mut want) in table {
            let endpoint = endpoint(host, host == "r.example", repository);
            let configured = ("c".to_owned(), "p".to_owned());
            want.extend([Credential::Configured(&configured), Anonymous]);
            assert_eq!(credentials(&endpoint, &all), want, "{host}/{repository}");
        }
    }

    #[test]
    fn a_mirror_is_asked_for_the_rewritten_name() {
        let digest = format!("sha256:{}", "f".repeat(64));
        for (name, own, want) in [
            (
                "r.example/a:1",
                true,
                ("r.example", "hub/a", Some("1"), None),
            ),
            (
                "r.example/a:1",
                false,
                ("m.example", "hub/a", Some("1"), None),
            ),
            (
                &format!("r.example/a@{digest}"),
                false,
                ("m.example", "hub/a", None, Some(digest.as_str())),
            ),
        ] {
            let endpoint = Endpoint {
                host: "m.example".into(),
                own,
                repository: "hub/a".into(),
                ..Endpoint::default()
            };
            let reference = name::parse(name).expect("valid");
            let there = there(&reference, &endpoint);
            let found = (
                there.resolve_registry(),
                there.repository(),
                there.tag(),
                there.digest(),
            );
            assert_eq!(found, want, "{name}");
        }
    }
}
