//! How live rules differ from what is wanted.

use std::path::Path;

use keelson_proxy_kernel::ipvs::Ipvs;
use keelson_proxy_kernel::nft::Nftables;
use keelson_proxy_kernel::node::has_ipv6;
use keelson_proxy_plan::explain::Live;
use keelson_proxy_plan::iptables;
use keelson_proxy_plan::ipvs;
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::table::Table;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::nft::{policies, services};
use keelson_proxy_plan::userspace::differences;
use kube::Client;

use super::cluster::Cluster;
use super::rules::Rules;
use crate::backend::IPVS_IS_THERE;
use crate::{Config, tables, userspace};

/// How live rules differ from what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What must change, in the words of the programs that would do it; empty: nothing.
    pub changes: String,
    /// What was compared, and what can't be.
    pub remarks: Vec<String>,
}

/// What must change for the kernel's rules to be what is wanted.
pub async fn diff(config: &Config, client: &Client) -> anyhow::Result<Differences> {
    let cluster = Cluster::read(config, client).await?;
    let entries: Vec<Entry> = cluster.state.all().flatten().collect();
    let mut all = Differences::default();
    let mut modes = Vec::new();
    let mut sides = Vec::new();
    for family in tables::families() {
        let rules = Rules::read(family).await?;
        all.remarks.extend(rules.notes.iter().cloned());
        modes.push(rules.mode);
        sides.push((family, rules));
    }
    // A family may have lost all its rules: it is of the other's mode.
    let mode = modes.iter().copied().find(|m| *m != Live::Nothing);
    if mode.is_none() {
        all.remarks.push(
            "no rules for services are live: compared with those of the nftables mode".into(),
        );
    }
    let mode = mode.unwrap_or(Live::Nftables);
    for (family, rules) in &sides {
        let text = match mode {
            Live::Nftables | Live::Nothing => {
                let want = services::table(entries.iter(), *family, &config.rules);
                of_table(rules.table.as_ref(), &want)
            }
            Live::Iptables(_) => {
                let want = iptables::ruleset(entries.iter(), *family, &config.rules);
                let have = rules.ours().map(|s| s.ours.clone()).unwrap_or_default();
                headed(program(*family), &want.differences(&have))
            }
            Live::Userspace(_) => by_proxy(config, &cluster, rules, *family, &mut all.remarks),
            Live::Ipvs => String::new(),
        };
        all.changes += &text;
        for left in &rules.leftovers {
            let remark = format!("rules of another mode are live too, and not compared: {left}");
            all.remarks.push(remark);
        }
    }
    if mode == Live::Ipvs {
        let (config, remarks) = (config.clone(), &mut all.remarks);
        let compare = move || by_ipvs(&entries, &config);
        let (text, draining) = tokio::task::spawn_blocking(compare).await??;
        all.changes += &text;
        if draining > 0 {
            remarks.push(format!(
                "{draining} virtual servers have destinations that wait for the end of their connections"
            ));
        }
    }
    all.changes += &policy(&cluster, &sides, mode == Live::Ipvs);
    all.remarks.insert(0, format!("services go by {mode}"));
    all.remarks.dedup();
    Ok(all)
}

/// Rules that redirect to a proxy, whose ports are known of them alone.
fn by_proxy(
    config: &Config,
    cluster: &Cluster,
    rules: &Rules,
    family: Family,
    remarks: &mut Vec<String>,
) -> String {
    let options = userspace::options(&config.rules, family);
    let served = cluster.state.served(family);
    let have = rules.ours().map(|s| s.ours.clone()).unwrap_or_default();
    let (text, unknown) = differences(&have, &served, &options);
    remarks.extend(unknown.iter().map(|listener| {
        let name = &listener.name;
        format!("{name}: no rule leads to the proxy's port for it, which so is not known: PORT stands for it")
    }));
    let remark = "whether a process listens at the ports that rules redirect to is not compared";
    remarks.push(remark.into());
    headed(program(family), &text)
}

/// What virtual servers, the link's addresses and the table beside them lack.
fn by_ipvs(entries: &[Entry], config: &Config) -> anyhow::Result<(String, usize)> {
    // Asking IPVS itself would load it.
    let there = Path::new(IPVS_IS_THERE).exists();
    anyhow::ensure!(
        there,
        "the rules beside IPVS are live, and IPVS itself is not (module ip_vs)"
    );
    let mut servers = Ipvs::open()?;
    let options = ipvs::Options {
        common: config.rules.clone(),
        scheduler: config.ipvs.scheduler.clone(),
        own_addresses: servers.own_addresses()?,
        no_ipv6: !has_ipv6(),
    };
    let mut wanted = ipvs::wanted(entries, &options);
    wanted.rules.bound.extend(servers.bound()?);
    let mut text = String::new();
    let kernel = Nftables::open()?;
    for family in tables::families() {
        let want = ipvs::table(&wanted.rules, family, &options.common);
        let have = kernel.read(services::TABLE, family)?;
        text += &of_table(have.as_ref(), &want);
    }
    let mut actions = String::new();
    let live = servers.live(&wanted)?;
    for action in ipvs::diff(&live, &wanted) {
        actions += &format!("{action}\n");
    }
    text += &headed("IPVS", &actions);
    Ok((text, live.draining().count()))
}

/// What the policies' tables lack. Without policies there is none.
fn policy(cluster: &Cluster, sides: &[(Family, Rules)], by_ipvs: bool) -> String {
    let mut text = String::new();
    let state = cluster.policies(&cluster.known.node);
    for (family, rules) in sides {
        let have = rules.policies.as_ref();
        if cluster.policies.is_empty() {
            let (name, family) = (policies::TABLE, word(*family));
            text += &have.map_or_else(String::new, |_| format!("delete table {family} {name}\n"));
            continue;
        }
        let mut want = policies::table(state.compiled(), *family);
        if by_ipvs {
            policies::judge_ipvs(&mut want);
        }
        text += &of_table(have, &want);
    }
    text
}

/// Changes of a table, under its name.
fn of_table(have: Option<&Table>, want: &Table) -> String {
    let changes = Transaction::between(have, want).render(want);
    let name = format!("table {} {}", word(want.family), want.name);
    headed(&name, &changes)
}

fn headed(head: &str, changes: &str) -> String {
    match changes {
        "" => String::new(),
        changes => format!("# {head}\n{changes}"),
    }
}

/// A family as nftables names it.
fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}
