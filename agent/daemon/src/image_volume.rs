//! Image volumes: an image's files, mounted read-only.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};
use keelson_agent_io::volumes::{Record, View, Volumes};
use keelson_runtime::Runtime;

use crate::images;
use crate::shared::{Shared, chain};

/// The view's key in containerd.
fn key(uid: &str, volume: &str) -> String {
    format!("{uid}-volume-{volume}")
}

/// Pulls as the policy says, and mounts. Can be repeated.
pub(crate) async fn mount(
    shared: &Arc<Shared>,
    pod: &Pod,
    name: &str,
    image: &ImageVolumeSource,
) -> Result<(), String> {
    let reference = image.reference.as_deref().unwrap_or_default();
    images::present(shared, pod, reference, image.pull_policy.as_deref()).await?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let key = key(&uid, name);
    let path = shared
        .volumes
        .image_path(&uid, name)
        .map_err(|e| chain(&e))?;
    let record = Record {
        path: path.clone(),
        read_only: true,
        view: Some(key.clone()),
        ..Record::default()
    };
    shared
        .volumes
        .record(&uid, name, &record)
        .map_err(|e| chain(&e))?;
    let mounts = shared.runtime.image_view(&key, reference).await;
    let views: Vec<View> = mounts
        .map_err(|e| chain(&e))?
        .into_iter()
        .map(|m| View {
            kind: m.kind,
            source: m.source.into(),
            options: m.options,
        })
        .collect();
    let volumes = shared.volumes.clone();
    let work = move || volumes.mount_views(&path, &views);
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())?.map_err(|e| chain(&e))
}

/// Unmounts a pod's image volumes and lets containerd have the views back.
pub(crate) async fn release(volumes: &Volumes, runtime: &Runtime, uid: &str) -> Result<(), String> {
    let records = volumes.records(uid).map_err(|e| chain(&e))?;
    for (name, record) in records {
        let Some(key) = &record.view else { continue };
        volumes.release_sub_paths(uid).map_err(|e| chain(&e))?;
        volumes.unmount(&record.path).map_err(|e| chain(&e))?;
        runtime
            .image_view_remove(key)
            .await
            .map_err(|e| chain(&e))?;
        volumes.forget(uid, &name).map_err(|e| chain(&e))?;
    }
    Ok(())
}
