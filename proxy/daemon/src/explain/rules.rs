//! The rules that are live, of one family.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, bail};
use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::ipvs::Ipvs;
use keelson_proxy_kernel::nft::Nftables;
use keelson_proxy_kernel::others;
use keelson_proxy_plan::explain::{Live, live};
use keelson_proxy_plan::iptables::Ruleset;
use keelson_proxy_plan::iptables::variant::Variant;
use keelson_proxy_plan::ipvs::{Server, ServerKey};
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::nft::policies;
use keelson_proxy_plan::nft::services::TABLE;
use keelson_proxy_plan::nft::table::{Table, Value};
use keelson_proxy_plan::others as plan;

use crate::backend::IPVS_IS_THERE;

/// What one of iptables' programs holds.
pub(super) struct Saved {
    pub(super) variant: Option<Variant>,
    /// All of it, as printed.
    text: String,
    /// What is ours.
    pub(super) ours: Ruleset,
}

/// All that is live for a family.
pub(super) struct Rules {
    family: Family,
    /// By what services go.
    pub(super) mode: Live,
    /// What else of ours is there.
    pub(super) leftovers: Vec<Live>,
    /// Our table of services.
    pub(super) table: Option<Table>,
    /// Our table of policies.
    pub(super) policies: Option<Table>,
    pub(super) iptables: Vec<Saved>,
    /// What could not be read.
    pub(super) notes: Vec<String>,
}

impl Rules {
    pub(super) async fn read(family: Family) -> anyhow::Result<Self> {
        let kernel = Nftables::open()?;
        let mut notes = Vec::new();
        let mut read = |name| match kernel.read(name, family) {
            Err(Error::Netlink { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                bail!("live rules are read by root only")
            }
            // A kernel without nf_tables has no table of ours.
            Err(error) => {
                notes.push(format!("table {name} is not known: {error}"));
                Ok(None)
            }
            Ok(table) => Ok(table),
        };
        let (table, policies) = (read(TABLE)?, read(policies::TABLE)?);
        let mut iptables = Vec::new();
        for programs in Programs::installed() {
            let variant = programs.variant();
            match programs.saved(family).await {
                Ok(text) => iptables.push(Saved {
                    variant,
                    ours: Ruleset::parse(&text),
                    text,
                }),
                Err(error) => notes.push(format!("rules of iptables are not known: {error}")),
            }
        }
        let held: Vec<_> = iptables.iter().map(|s| (s.variant, &s.ours)).collect();
        let (mode, leftovers) = live(table.as_ref(), &held);
        // What could not be read may be what services go by.
        if mode == Live::Nothing && !notes.is_empty() {
            bail!("live rules are not known: {}", notes.join("; "));
        }
        Ok(Self {
            family,
            mode,
            leftovers,
            table,
            policies,
            iptables,
            notes,
        })
    }

    /// Our rules of iptables, if services go by them.
    pub(super) fn ours(&self) -> Option<&Saved> {
        let (Live::Iptables(of) | Live::Userspace(of)) = self.mode else {
            return None;
        };
        self.iptables.iter().find(|s| s.variant == of)
    }

    /// Our table with the clients that it remembers, so that a walk finds them.
    pub(super) fn with_clients(&self) -> anyhow::Result<Option<Table>> {
        let Some(mut table) = self.table.clone() else {
            return Ok(None);
        };
        for (map, client, endpoint) in Nftables::open()?.clients(self.family)? {
            if let Some(set) = table.sets.get_mut(&map) {
                set.elements.insert(client, Value::Fields(endpoint));
            }
        }
        Ok(Some(table))
    }

    /// Tables that are not ours.
    pub(super) async fn others(&mut self) -> anyhow::Result<Vec<plan::Table>> {
        let mut tables = Vec::new();
        let mut listed = Vec::new();
        for saved in &self.iptables {
            let variant = saved.variant.map(|v| format!(" ({v})"));
            let program = format!("iptables{}", variant.unwrap_or_default());
            tables.extend(plan::iptables::tables(&saved.text, self.family, &program));
            if saved.variant != Some(Variant::Legacy) {
                let names = saved.text.lines().filter_map(|l| l.strip_prefix('*'));
                listed.extend(names.map(str::to_owned));
            }
        }
        let (mine, other) = match self.family {
            Family::V4 => ("ip", "ip6"),
            Family::V6 => ("ip6", "ip"),
        };
        let skipped = |family: &str, name: &str| {
            let ours = [TABLE, policies::TABLE].contains(&name);
            // What iptables' program printed is the same table.
            let read = family == mine && listed.iter().any(|l| l == name);
            ours || family == other || family == "arp" || read
        };
        match others::tables(skipped).await {
            Ok(Some(found)) => tables.extend(found),
            Ok(None) => self.notes.push(
                "others' tables of nftables are not known: no program nft is installed".into(),
            ),
            Err(error) => self
                .notes
                .push(format!("others' tables of nftables are not known: {error}")),
        }
        Ok(tables)
    }
}

/// The virtual servers that the kernel has, with their destinations.
pub(super) fn servers() -> anyhow::Result<BTreeMap<ServerKey, Server>> {
    let mut all = BTreeMap::new();
    // Asking IPVS itself would load it.
    if !Path::new(IPVS_IS_THERE).exists() {
        bail!("the rules beside IPVS are live, and IPVS itself is not (module ip_vs)");
    }
    let mut ipvs = Ipvs::open()?;
    for server in ipvs.servers().context("read virtual servers")? {
        let key = server.key;
        let destinations = ipvs.destinations(&key)?;
        let destinations = destinations.into_iter().map(|d| (d.at, d)).collect();
        all.insert(
            key,
            Server {
                server,
                destinations,
            },
        );
    }
    Ok(all)
}
