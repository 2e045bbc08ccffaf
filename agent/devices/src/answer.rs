//! What a plugin wants done for a container that gets its devices.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use crate::Error;
use crate::proto::plugin::ContainerAllocateResponse;

/// A path of the host to be seen in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// Where on the host.
    pub host_path: String,
    /// Nobody writes.
    pub read_only: bool,
}

/// A device node of the host to be made in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where in the container.
    pub container_path: String,
    /// Where on the host.
    pub host_path: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// All of it. Where several plugins want different things of the same name, the first has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Environment.
    pub envs: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Names of devices that a file on the node describes (Container Device Interface).
    pub cdi: Vec<String>,
}

impl Answer {
    /// As text that can be kept: base64 of the message, as upstream keeps it.
    pub(crate) fn text(message: &ContainerAllocateResponse) -> String {
        STANDARD.encode(message.encode_to_vec())
    }

    /// From that text.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, Error> {
        let bytes = STANDARD
            .decode(text)
            .map_err(|e| Error::Answer(e.to_string()))?;
        let message = ContainerAllocateResponse::decode(bytes.as_slice());
        let message = message.map_err(|e| Error::Answer(e.to_string()))?;
        Ok(Self {
            envs: message.envs.into_iter().collect(),
            mounts: message
                .mounts
                .into_iter()
                .map(|m| Mount {
                    container_path: m.container_path,
                    host_path: m.host_path,
                    read_only: m.read_only,
                })
                .collect(),
            devices: message
                .devices
                .into_iter()
                .map(|d| Device {
                    container_path: d.container_path,
                    host_path: d.host_path,
                    permissions: match d.permissions.as_str() {
                        "" => "rwm".to_owned(),
                        _ => d.permissions,
                    },
                })
                .collect(),
            annotations: message.annotations.into_iter().collect(),
            cdi: message.cdi_devices.into_iter().map(|d| d.name).collect(),
        })
    }

    /// Adds what another plugin wants.
    pub fn add(&mut self, other: Self) {
        for (name, value) in other.envs {
            self.envs.entry(name).or_insert(value);
        }
        for (name, value) in other.annotations {
            self.annotations.entry(name).or_insert(value);
        }
        for mount in other.mounts {
            let at = &mount.container_path;
            if !self.mounts.iter().any(|m| m.container_path == *at) {
                self.mounts.push(mount);
            }
        }
        for device in other.devices {
            let at = &device.container_path;
            if !self.devices.iter().any(|d| d.container_path == *at) {
                self.devices.push(device);
            }
        }
        self.cdi.extend(other.cdi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::plugin::{CdiDevice, DeviceSpec, Mount as MountSpec};

    fn answer(value: &str, permissions: &str) -> Answer {
        let message = ContainerAllocateResponse {
            envs: [("E".to_owned(), value.to_owned())].into(),
            mounts: vec![MountSpec {
                container_path: "/m".into(),
                host_path: format!("/host/{value}"),
                read_only: true,
            }],
            devices: vec![DeviceSpec {
                container_path: "/dev/d".into(),
                host_path: format!("/dev/{value}"),
                permissions: permissions.into(),
            }],
            annotations: [("a".to_owned(), value.to_owned())].into(),
            cdi_devices: vec![CdiDevice {
                name: format!("v.com/c={value}"),
            }],
        };
        Answer::read(&Answer::text(&message)).expect("it is one")
    }

    #[test]
    fn answers_are_kept_and_laid_together() {
        let mut all = answer("one", "");
        all.add(answer("two", "r"));
        assert_eq!((all.envs["E"].as_str(), all.mounts.len()), ("one", 1));
        assert_eq!(all.annotations["a"], "one");
        let device = Device {
            container_path: "/dev/d".into(),
            host_path: "/dev/one".into(),
            permissions: "rwm".into(),
        };
        assert_eq!(all.devices, [device]);
        assert_eq!(all.cdi, ["v.com/c=one", "v.com/c=two"]);
        assert_eq!(answer("two", "r").devices[0].permissions, "r");
        assert_eq!(Answer::read("").expect("an empty one"), Answer::default());
        assert!(Answer::read("%").is_err() && Answer::read("////").is_err());
    }
}
