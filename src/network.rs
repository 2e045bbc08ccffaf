//! The pod network as all nodes of a cluster must have it: told to the server, which tells the agents.

use anyhow::{Context, bail};
use keelson_overlay::{Mode, Options};
use serde::{Deserialize, Serialize};

use crate::options::NodeOptions;

/// What nodes must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Network {
    mode: String,
    always_encapsulate: bool,
    vxlan_vni: u32,
    vxlan_port: u16,
    wireguard_port: u16,
}

impl Default for Network {
    fn default() -> Self {
        let usual = Options::new(String::new(), Vec::new());
        Self {
            mode: usual.mode.to_string(),
            always_encapsulate: usual.always_encapsulate,
            vxlan_vni: usual.vni,
            vxlan_port: usual.vxlan_port,
            wireguard_port: usual.wireguard_port,
        }
    }
}

impl Network {
    /// What an older server told, which knew routes only.
    pub(crate) fn routes() -> Self {
        Self {
            mode: Mode::HostGw.to_string(),
            ..Self::default()
        }
    }

    /// With what this node was told itself.
    pub(crate) fn with(self, told: &NodeOptions) -> Self {
        Self {
            mode: told.network.clone().unwrap_or(self.mode),
            always_encapsulate: told.always_encapsulate.unwrap_or(self.always_encapsulate),
            vxlan_vni: told.vxlan_vni.unwrap_or(self.vxlan_vni),
            vxlan_port: told.vxlan_port.unwrap_or(self.vxlan_port),
            wireguard_port: told.wireguard_port.unwrap_or(self.wireguard_port),
        }
    }

    fn options(&self, mtu: Option<u32>) -> anyhow::Result<Options> {
        const VNIS: u32 = 1 << 24;
        // IPv6 has no smaller link (RFC 8200, section 5); the largest packet of IPv4 is no larger.
        const MTUS: std::ops::RangeInclusive<u32> = 1280..=65_535;
        let mode = self.mode.parse();
        let mode = mode.map_err(anyhow::Error::msg).context("network")?;
        if self.vxlan_vni >= VNIS {
            bail!(
                "vxlan-vni is {}, allowed are 0 to {}",
                self.vxlan_vni,
                VNIS - 1
            );
        }
        let ports = [
            ("vxlan-port", self.vxlan_port),
            ("wireguard-port", self.wireguard_port),
        ];
        if let Some((name, _)) = ports.iter().find(|(_, port)| *port == 0) {
            bail!("{name} is 0, allowed are 1 to 65535");
        }
        if let Some(mtu) = mtu.filter(|mtu| !MTUS.contains(mtu)) {
            bail!(
                "network-mtu is {mtu}, allowed are {} to {}",
                MTUS.start(),
                MTUS.end()
            );
        }
        Ok(Options {
            mode,
            always_encapsulate: self.always_encapsulate,
            vni: self.vxlan_vni,
            vxlan_port: self.vxlan_port,
            wireguard_port: self.wireguard_port,
            mtu,
            ..Options::new(String::new(), Vec::new())
        })
    }
}

/// What is wrong with what this node was told.
pub(crate) fn check(told: &NodeOptions) -> anyhow::Result<()> {
    let network = Network::default().with(told);
    network.options(told.network_mtu).map(|_| ())
}

/// Gives the agent the network.
pub(crate) fn configure(
    config: &mut keelson_agent::Config,
    told: &NodeOptions,
    cluster: &Network,
) -> anyhow::Result<()> {
    let options = cluster.clone().with(told).options(told.network_mtu)?;
    if options.mode == Mode::None {
        config.cni_bridge = None;
    }
    config.network = Some(options);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(network: &str) -> NodeOptions {
        NodeOptions {
            network: Some(network.into()),
            ..NodeOptions::default()
        }
    }

    #[test]
    fn a_node_has_what_its_server_has_unless_told() {
        let mut config = keelson_agent::Config::new("n", Vec::new());
        let server = Network::default().with(&told("wireguard"));
        configure(&mut config, &NodeOptions::default(), &server).expect("valid");
        let mode = config.network.as_ref().map(|n| n.mode);
        assert_eq!(mode, Some(Mode::WireGuard));
        assert!(config.cni_bridge.is_some());
        configure(&mut config, &told("none"), &server).expect("valid");
        assert_eq!(config.cni_bridge, None, "somebody else's business");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let port = NodeOptions {
            vxlan_port: Some(0),
            ..NodeOptions::default()
        };
        let vni = NodeOptions {
            vxlan_vni: Some(1 << 24),
            ..NodeOptions::default()
        };
        let mtu = NodeOptions {
            network_mtu: Some(500),
            ..NodeOptions::default()
        };
        let rows = [
            (told("ipip"), "host-gw"),
            (port, "vxlan-port"),
            (vni, "16777215"),
            (mtu, "1280"),
        ];
        for (told, word) in rows {
            let error = format!("{:#}", check(&told).expect_err(word));
            assert!(error.contains(word), "{error}");
        }
        assert!(check(&NodeOptions::default()).is_ok());
    }
}
