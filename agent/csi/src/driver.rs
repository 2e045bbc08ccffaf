//! What a driver is asked to do with a volume.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tonic::transport::Channel;

use crate::proto::csi;
use crate::proto::csi::node_client::NodeClient;
use crate::proto::csi::node_service_capability::Type;
use crate::proto::csi::node_service_capability::rpc::Type as Rpc;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::{Error, connect, refused};

/// A driver, by its socket; connected for each call, as it may be replaced at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its socket.
    pub endpoint: PathBuf,
}

/// What a driver says of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// What the storage knows the node by.
    pub node_id: String,
    /// Most volumes of it; 0: no limit.
    pub max_volumes: i64,
    /// Where the node is, as the storage sees it.
    pub topology: BTreeMap<String, String>,
}

/// What a driver can do beside publishing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// A volume is staged once a node before it is published.
    pub stages: bool,
    /// It tells how full volumes are.
    pub stats: bool,
    /// It grows file systems.
    pub expands: bool,
    /// It gives a volume to a group itself.
    pub mount_group: bool,
    /// It knows the access modes of a single node.
    pub single_node_modes: bool,
}

/// How a volume is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a device.
    Block,
    /// As a file system.
    Mount {
        /// Its type; empty: the driver's choice.
        fs_type: String,
        /// How it is mounted.
        flags: Vec<String>,
        /// To whom it is given, if the driver does that.
        group: Option<u32>,
    },
}

/// A volume, as the driver is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The storage's own name of it.
    pub id: String,
    /// Its access modes, the API's words.
    pub modes: Vec<String>,
    /// How it is used.
    pub access: Access,
    /// What attaching gave.
    pub publish_context: BTreeMap<String, String>,
    /// What its maker noted, and of its pod what the driver wants to know.
    pub context: BTreeMap<String, String>,
}

/// Where a volume is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// For the pod.
    pub path: PathBuf,
    /// For the node, if it is staged.
    pub staging: Option<PathBuf>,
    /// Nobody writes.
    pub read_only: bool,
}

/// How full a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes: all, used, free.
    pub bytes: (i64, i64, i64),
    /// Inodes: all, used, free.
    pub inodes: (i64, i64, i64),
}

type Secrets = BTreeMap<String, String>;

impl Driver {
    async fn node(&self) -> Result<NodeClient<Channel>, Error> {
        Ok(NodeClient::new(connect(&self.endpoint).await?))
    }

    /// What the driver says of this node.
    pub async fn node_info(&self) -> Result<NodeInfo, Error> {
        let said = self
            .node()
            .await?
            .node_get_info(csi::NodeGetInfoRequest {})
            .await;
        let said = said.map_err(refused("NodeGetInfo"))?.into_inner();
        let topology = said.accessible_topology.unwrap_or_default();
        Ok(NodeInfo {
            node_id: said.node_id,
            max_volumes: said.max_volumes_per_node,
            topology: topology.segments.into_iter().collect(),
        })
    }

    /// What the driver can do.
    pub async fn abilities(&self) -> Result<Abilities, Error> {
        let mut node = self.node().await?;
        let said = node
            .node_get_capabilities(csi::NodeGetCapabilitiesRequest {})
            .await;
        let said = said.map_err(refused("NodeGetCapabilities"))?.into_inner();
        let has = |wanted: Rpc| {
            said.capabilities
                .iter()
                .any(|c| matches!(&c.r#type, Some(Type::Rpc(rpc)) if rpc.r#type == wanted as i32))
        };
        Ok(Abilities {
            stages: has(Rpc::StageUnstageVolume),
            stats: has(Rpc::GetVolumeStats),
            expands: has(Rpc::ExpandVolume),
            mount_group: has(Rpc::VolumeMountGroup),
            single_node_modes: has(Rpc::SingleNodeMultiWriter),
        })
    }

    /// Makes a volume ready on the node. Can be repeated.
    pub async fn stage(
        &self,
        volume: &Volume,
        staging: &Path,
        secrets: Secrets,
        abilities: Abilities,
    ) -> Result<(), Error> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.id.clone(),
            publish_context: map(&volume.publish_context),
            staging_target_path: text(staging),
            volume_capability: Some(capability(volume, abilities)),
            secrets: map(&secrets),
            volume_context: map(&volume.context),
        };
        let done = self.node().await?.node_stage_volume(request).await;
        done.map(drop).map_err(refused("NodeStageVolume"))
    }

    /// Puts a volume where its pod finds it. Can be repeated.
    pub async fn publish(
        &self,
        volume: &Volume,
        target: &Target,
        secrets: Secrets,
        abilities: Abilities,
    ) -> Result<(), Error> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            publish_context: map(&volume.publish_context),
            staging_target_path: target.staging.as_deref().map(text).unwrap_or_default(),
            target_path: text(&target.path),
            volume_capability: Some(capability(volume, abilities)),
            readonly: target.read_only,
            secrets: map(&secrets),
            volume_context: map(&volume.context),
        };
        let done = self.node().await?.node_publish_volume(request).await;
        done.map(drop).map_err(refused("NodePublishVolume"))
    }

    /// Takes a volume away from its pod. Can be repeated.
    pub async fn unpublish(&self, id: &str, target: &Path) -> Result<(), Error> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: text(target),
        };
        let done = self.node().await?.node_unpublish_volume(request).await;
        done.map(drop).map_err(refused("NodeUnpublishVolume"))
    }

    /// Takes a volume away from the node. Can be repeated.
    pub async fn unstage(&self, id: &str, staging: &Path) -> Result<(), Error> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(staging),
        };
        let done = self.node().await?.node_unstage_volume(request).await;
        done.map(drop).map_err(refused("NodeUnstageVolume"))
    }

    /// Grows a volume's file system to a size; the size it has then.
    pub async fn expand(
        &self,
        volume: &Volume,
        target: &Target,
        bytes: i64,
        secrets: Secrets,
        abilities: Abilities,
    ) -> Result<i64, Error> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: volume.id.clone(),
            volume_path: text(&target.path),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            staging_target_path: target.staging.as_deref().map(text).unwrap_or_default(),
            volume_capability: Some(capability(volume, abilities)),
            secrets: map(&secrets),
        };
        let done = self.node().await?.node_expand_volume(request).await;
        let done = done.map_err(refused("NodeExpandVolume"))?.into_inner();
        Ok(if done.capacity_bytes > 0 {
            done.capacity_bytes
        } else {
            bytes
        })
    }

    /// How full a volume is.
    pub async fn usage(&self, id: &str, target: &Target) -> Result<Usage, Error> {
        use csi::volume_usage::Unit;
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: id.to_owned(),
            volume_path: text(&target.path),
            staging_target_path: target.staging.as_deref().map(text).unwrap_or_default(),
        };
        let said = self.node().await?.node_get_volume_stats(request).await;
        let said = said.map_err(refused("NodeGetVolumeStats"))?.into_inner();
        let of = |unit: Unit| {
            let found = said.usage.iter().find(|u| u.unit == unit as i32);
            found.map_or((0, 0, 0), |u| (u.total, u.used, u.available))
        };
        Ok(Usage {
            bytes: of(Unit::Bytes),
            inodes: of(Unit::Inodes),
        })
    }
}

fn map(of: &BTreeMap<String, String>) -> std::collections::HashMap<String, String> {
    of.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn capability(volume: &Volume, abilities: Abilities) -> csi::VolumeCapability {
    let access = match &volume.access {
        Access::Block => AccessType::Block(BlockVolume {}),
        Access::Mount {
            fs_type,
            flags,
            group,
        } => AccessType::Mount(MountVolume {
            fs_type: fs_type.clone(),
            mount_flags: flags.clone(),
            volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
        }),
    };
    csi::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: mode(&volume.modes, abilities.single_node_modes) as i32,
        }),
        access_type: Some(access),
    }
}

/// The interface's one mode for the API's several: the widest wins.
fn mode(modes: &[String], single_node_modes: bool) -> Mode {
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    match (
        has("ReadWriteMany"),
        has("ReadOnlyMany"),
        has("ReadWriteOnce"),
        has("ReadWriteOncePod"),
    ) {
        (true, ..) => Mode::MultiNodeMultiWriter,
        (_, true, true, _) => Mode::MultiNodeSingleWriter,
        (_, true, ..) => Mode::MultiNodeReaderOnly,
        (_, _, true, _) if single_node_modes => Mode::SingleNodeMultiWriter,
        (_, _, _, true) if single_node_modes => Mode::SingleNodeSingleWriter,
        _ => Mode::SingleNodeWriter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let table: [(&[&str], bool, Mode); 9] = [
            (&["ReadWriteOnce"], false, Mode::SingleNodeWriter),
            (&["ReadWriteOnce"], true, Mode::SingleNodeMultiWriter),
            (&["ReadWriteOncePod"], false, Mode::SingleNodeWriter),
            (&["ReadWriteOncePod"], true, Mode::SingleNodeSingleWriter),
            (&["ReadOnlyMany"], false, Mode::MultiNodeReaderOnly),
            (&["ReadWriteMany"], false, Mode::MultiNodeMultiWriter),
            (
                &["ReadWriteOnce", "ReadOnlyMany"],
                false,
                Mode::MultiNodeSingleWriter,
            ),
            (
                &["ReadWriteOnce", "ReadWriteMany"],
                false,
                Mode::MultiNodeMultiWriter,
            ),
            (&[], false, Mode::SingleNodeWriter),
        ];
        for (modes, single, want) in table {
            let given: Vec<String> = modes.iter().map(ToString::to_string).collect();
            assert_eq!(mode(&given, single), want, "{modes:?} {single}");
        }
    }
}
