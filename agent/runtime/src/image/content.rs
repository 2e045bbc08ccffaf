//! containerd's content store: blobs by digest.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, Info, InfoRequest, ReadContentRequest,
    Resource, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use futures::{Stream, StreamExt};
use prost_types::FieldMask;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::client::{BULK, Client, Lease, QUICK, ask, call, or_absent};
use crate::error::Error;

/// Pieces a blob is sent in; gRPC messages end at 4 MiB.
const PIECE: usize = 1 << 20;
/// Largest manifest or configuration that is read into memory (as containerd's own limit).
const LARGEST_JSON: usize = 8 << 20;
/// containerd drops a lease left behind by a crash after this long.
const LEASE_LIFE: Duration = Duration::from_secs(3600);

/// What is known about a blob before it is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blob {
    /// Expected digest; computed by containerd when unset.
    pub(crate) digest: Option<String>,
    /// Expected size, 0 when unknown.
    pub(crate) size: u64,
    /// Labels to set.
    pub(crate) labels: HashMap<String, String>,
}

impl Client {
    /// Runs `body` with a fresh lease, so that what it makes is not collected before it is referred
    /// to, and gives the lease back.
    pub(crate) async fn with_lease<T>(
        &self,
        purpose: &str,
        body: impl AsyncFnOnce(&Lease) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let id = format!("keelson-{}-{:016x}", purpose, rand::random::<u64>());
        let header = id
            .parse()
            .map_err(|_| Error::invalid("lease", &id, "not ASCII"))?;
        let expire = jiff::Timestamp::try_from(SystemTime::now() + LEASE_LIFE)
            .map_err(|error| Error::invalid("lease", &id, error.to_string()))?;
        let message = CreateRequest {
            id: id.clone(),
            labels: HashMap::from([("containerd.io/gc.expire".into(), expire.to_string())]),
        };
        ask!(self, leases.create(message), QUICK, "create lease", &id)?;
        let result = body(&Lease(header)).await;
        let message = DeleteRequest {
            id: id.clone(),
            sync: false,
        };
        let released = ask!(self, leases.delete(message), QUICK, "delete lease", &id);
        if let Err(error) = released {
            tracing::warn!(lease = id, %error, "the lease expires by itself");
        }
        result
    }

    /// Reads a small blob.
    pub(crate) async fn read_blob(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let message = ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        };
        let mut pieces = ask!(self, content.read(message), QUICK, "read content", digest)?;
        let mut whole = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|status| refused("read content", digest, status))?;
            whole.extend_from_slice(&piece.data);
            if whole.len() > LARGEST_JSON {
                return Err(Error::invalid("content", digest, "larger than 8 MiB"));
            }
        }
        Ok(whole)
    }

    /// Size of a blob, if it is there.
    pub(crate) async fn blob_info(&self, digest: &str) -> Result<Option<Info>, Error> {
        let message = InfoRequest {
            digest: digest.to_owned(),
        };
        let answer = ask!(
            self,
            content.info(message),
            QUICK,
            "look up content",
            digest
        );
        Ok(or_absent(answer)?.and_then(|response| response.info))
    }

    /// Adds labels to a blob.
    pub(crate) async fn label_blob(
        &self,
        digest: &str,
        labels: HashMap<String, String>,
    ) -> Result<(), Error> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let message = UpdateRequest {
            info: Some(Info {
                digest: digest.to_owned(),
                labels,
                ..Info::default()
            }),
            update_mask: Some(FieldMask { paths }),
        };
        ask!(
            self,
            content.update(message),
            QUICK,
            "label content",
            digest
        )?;
        Ok(())
    }

    /// Makes a lease hold a blob that is there already.
    pub(crate) async fn hold_blob(&self, lease: &Lease, digest: &str) -> Result<(), Error> {
        let id = lease.0.to_str().unwrap_or_default().to_owned();
        let message = AddResourceRequest {
            id,
            resource: Some(Resource {
                id: digest.to_owned(),
                r#type: "content".into(),
            }),
        };
        ask!(
            self,
            leases.add_resource(message),
            QUICK,
            "lease content",
            digest
        )?;
        Ok(())
    }

    /// Writes a blob from memory and returns its digest.
    pub(crate) async fn write_bytes(
        &self,
        lease: &Lease,
        blob: Blob,
        bytes: Bytes,
    ) -> Result<String, Error> {
        let source = futures::stream::iter([Ok::<_, Error>(bytes)]);
        self.write_blob(lease, blob, source).await
    }

    /// Streams a blob into the store and returns its digest. containerd verifies digest and size.
    pub(crate) async fn write_blob(
        &self,
        lease: &Lease,
        blob: Blob,
        source: impl Stream<Item = Result<Bytes, Error>>,
    ) -> Result<String, Error> {
        let name = blob.digest.clone().unwrap_or_else(|| "blob".into());
        let (sender, receiver) = mpsc::channel(2);
        let mut service = self.content();
        let request = self.leased(ReceiverStream::new(receiver), lease);
        let answers = async {
            let answers = call("write content", &name, BULK, service.write(request)).await?;
            committed(&name, answers).await
        };
        let (sent, digest) = tokio::join!(send(sender, &blob, source), answers);
        match digest {
            Err(error) if error.is_already_exists() => sent,
            // The source's own failure explains the missing commit.
            Err(error) => Err(sent.err().unwrap_or(error)),
            Ok(digest) => sent.map(|_| digest),
        }
    }
}

/// Cuts `source` into pieces and commits after the last one. Returns the blob's digest.
async fn send(
    sender: mpsc::Sender<WriteContentRequest>,
    blob: &Blob,
    source: impl Stream<Item = Result<Bytes, Error>>,
) -> Result<String, Error> {
    let reference = format!("keelson-{:032x}", rand::random::<u128>());
    let message = |action: WriteAction, offset: usize, data: Bytes| WriteContentRequest {
        action: action.into(),
        r#ref: reference.clone(),
        total: i64::try_from(blob.size).unwrap_or_default(),
        expected: blob.digest.clone().unwrap_or_default(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data: data.to_vec(),
        labels: HashMap::new(),
    };
    let mut offset = 0;
    let mut pending = BytesMut::new();
    // containerd verifies an expected digest; an unknown one we need to know ourselves, as it does
    // not tell when the blob is there already.
    let mut hash = blob.digest.is_none().then(Sha256::new);
    let mut source = std::pin::pin!(source);
    while let Some(bytes) = source.next().await {
        let bytes = bytes?;
        if let Some(hash) = &mut hash {
            hash.update(&bytes);
        }
        pending.extend_from_slice(&bytes);
        while pending.len() >= PIECE {
            let piece = pending.split_to(PIECE).freeze();
            let length = piece.len();
            if sender
                .send(message(WriteAction::Write, offset, piece))
                .await
                .is_err()
            {
                // containerd hung up: its answer says why.
                return Ok(blob.digest.clone().unwrap_or_default());
            }
            offset += length;
        }
    }
    let rest = pending.freeze();
    let length = rest.len();
    let mut last = message(WriteAction::Commit, offset + length, Bytes::new());
    last.labels = blob.labels.clone();
    if sender
        .send(message(WriteAction::Write, offset, rest))
        .await
        .is_ok()
    {
        // A failed send is explained by containerd's answer, here too.
        let _ = sender.send(last).await;
    }
    let computed = hash.map(|hash| format!("sha256:{}", hex::encode(hash.finalize())));
    Ok(computed.or_else(|| blob.digest.clone()).unwrap_or_default())
}

async fn committed(
    name: &str,
    mut answers: tonic::Streaming<WriteContentResponse>,
) -> Result<String, Error> {
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|status| refused("write content", name, status))?;
        if answer.action() == WriteAction::Commit {
            return Ok(answer.digest);
        }
    }
    let status = Status::new(Code::Aborted, "the stream ended before the commit");
    Err(refused("write content", name, status))
}

fn refused(action: &'static str, object: &str, status: Status) -> Error {
    Error::Call {
        action,
        object: object.to_owned(),
        status: Box::new(status),
    }
}
