//! Mounts of a container: recursively read-only ones, and what the status says of all.

use k8s_openapi::api::core::v1::{Container, VolumeMount, VolumeMountStatus};

/// Whether the node's kernel can make a mount read-only with all below it: from Linux 5.12 on (`mount_setattr`).
pub fn kernel_can(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    let version: (u32, u32) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    version >= (5, 12)
}

/// Whether all below a mount is read-only too (KEP-3857).
///
/// # Errors
/// It must be, and the node can't.
pub fn recursive(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    match mount.recursive_read_only.as_deref() {
        None | Some("" | "Disabled") => Ok(false),
        Some("IfPossible") => Ok(supported && mount.read_only == Some(true)),
        Some("Enabled") if supported => Ok(true),
        Some("Enabled") => Err(format!(
            "recursive read-only mount of volume {:?} is not supported by this node: it needs Linux 5.12; recursiveReadOnly may be IfPossible or Disabled",
            mount.name
        )),
        Some(other) => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

/// What a container's status says of its mounts.
pub fn statuses(c: &Container, supported: bool) -> Option<Vec<VolumeMountStatus>> {
    let status = |m: &VolumeMount| {
        let read_only = m.read_only == Some(true);
        let recursive = recursive(m, supported).unwrap_or_default();
        VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only
                .then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
            ..VolumeMountStatus::default()
        }
    };
    let all: Vec<_> = c.volume_mounts.iter().flatten().map(status).collect();
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        for (release, want) in [
            ("6.18.0", true),
            ("5.12.0-1-amd64", true),
            ("5.12", true),
            ("5.10.0-26-amd64", false),
            ("4.19", false),
            ("strange", false),
        ] {
            assert_eq!(kernel_can(release), want, "{release}");
        }
    }

    #[test]
    fn read_only_with_all_below() {
        let table = [
            (None, true, true, Ok(false), Some("Disabled")),
            (Some("Disabled"), true, true, Ok(false), Some("Disabled")),
            (Some("IfPossible"), true, true, Ok(true), Some("Enabled")),
            (Some("IfPossible"), true, false, Ok(false), Some("Disabled")),
            (Some("IfPossible"), false, true, Ok(false), None),
            (Some("Enabled"), true, true, Ok(true), Some("Enabled")),
            (Some("Enabled"), true, false, Err(()), Some("Disabled")),
        ];
        for (mode, read_only, supported, want, told) in table {
            let mount = VolumeMount {
                name: "v".into(),
                mount_path: "/v".into(),
                read_only: Some(read_only),
                recursive_read_only: mode.map(str::to_owned),
                ..VolumeMount::default()
            };
            let name = format!("{mode:?} {read_only} {supported}");
            assert_eq!(recursive(&mount, supported).map_err(drop), want, "{name}");
            let c = Container {
                volume_mounts: Some(vec![mount]),
                ..Container::default()
            };
            let statuses = statuses(&c, supported).unwrap_or_default();
            let shown = statuses.first().and_then(|s| s.recursive_read_only.clone());
            assert_eq!(shown.as_deref(), told, "{name}");
        }
    }
}
