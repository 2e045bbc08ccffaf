//! How a plugin makes itself known.

use std::path::{Path, PathBuf};

use crate::proto::registration::registration_client::RegistrationClient;
use crate::proto::registration::{InfoRequest, RegistrationStatus};
use crate::{Error, connect, refused};

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Its name: a driver's is what volumes name.
    pub name: String,
    /// The driver's own socket.
    pub endpoint: PathBuf,
}

/// Asks a plugin who it is. Without an endpoint of its own it serves on the socket it registers with.
///
/// # Errors
/// It does not answer, or is no CSI driver of version 1.
pub async fn info(socket: &Path) -> Result<Plugin, Error> {
    let mut client = RegistrationClient::new(connect(socket).await?);
    let info = client.get_info(InfoRequest {}).await;
    let info = info.map_err(refused("GetInfo"))?.into_inner();
    let wrong = |why: String| {
        Err(Error::Unknown {
            name: info.name.clone(),
            why,
        })
    };
    if info.r#type != "CSIPlugin" {
        return wrong(format!("no handler for plugins of type {:?}", info.r#type));
    }
    if info.name.is_empty() || info.name.contains('/') || info.name.starts_with('.') {
        return wrong("its name is not one".into());
    }
    let known = |v: &String| v.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(known) {
        return wrong(format!(
            "none of its versions is supported: {:?}",
            info.supported_versions
        ));
    }
    Ok(Plugin {
        endpoint: match info.endpoint.trim_start_matches("unix://") {
            "" => socket.to_owned(),
            path => PathBuf::from(path),
        },
        name: info.name,
    })
}

/// Tells a plugin whether it was taken.
///
/// # Errors
/// It does not answer.
pub async fn notify(socket: &Path, taken: Result<(), String>) -> Result<(), Error> {
    let mut client = RegistrationClient::new(connect(socket).await?);
    let status = RegistrationStatus {
        plugin_registered: taken.is_ok(),
        error: taken.err().unwrap_or_default(),
    };
    let told = client.notify_registration_status(status).await;
    told.map(drop).map_err(refused("NotifyRegistrationStatus"))
}
