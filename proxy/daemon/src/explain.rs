//! Answers for people: what becomes of a connection, by the rules that are in the kernel now, and how those differ from
//! what is wanted. Nothing is changed.

use std::net::IpAddr;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::nft::Nftables;
use keelson_proxy_kernel::{conntrack, node};
use keelson_proxy_plan::explain::{Names, report, service};
use keelson_proxy_plan::iptables::ruleset;
use keelson_proxy_plan::model::{Entry, Family, Protocol};
use keelson_proxy_plan::nft::services::{TABLE, table};
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::nft::walk;
use keelson_proxy_plan::packet::{self, Packet};
use keelson_proxy_plan::state::{Here, State};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::{Config, ZONE};

/// A connection that somebody asks about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who connects: an address, `NAMESPACE/POD`, or `node` for a process of this node.
    pub from: String,
    /// To whom: an address, `NAMESPACE/SERVICE` or `NAMESPACE/POD`.
    pub to: String,
    /// Destination port; a service with a single port needs none.
    pub port: Option<u16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// What becomes of a connection on this node.
pub async fn connection(
    config: &Config,
    client: &Client,
    question: &Question,
) -> anyhow::Result<String> {
    let state = known(config, client).await?;
    let entries: Vec<Entry> = state.all().flatten().collect();
    let pods = Api::<Pod>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let pods = pods.context("list pods")?.items;
    let own = node::addresses()?;
    let (destination, port) = destination(question, &entries, &pods)?;
    let packet = Packet {
        source: source(question, &pods, &own, destination)?,
        destination,
        protocol: question.protocol,
        port,
        interface: None,
    };
    let is_own = own.contains(&packet.source);
    let packet = Packet {
        interface: match is_own {
            true => None,
            false => node::interface_to(packet.source).await?,
        },
        ..packet
    };
    if !is_own && packet.interface.is_none() {
        bail!(
            "no route of this node leads back to {}: its packets don't come by here",
            packet.source
        );
    }
    let family = Family::of(&destination);
    let live = Nftables::open()?.read(TABLE, family)?;
    let live = live.context(
        "this node has no nftables table keelson-proxy: explain walks the nftables mode only",
    )?;
    let here = packet::Node { addresses: own };
    let ways = walk::ways(&live, &here, &packet);
    let what = service(&entries, &packet, here.has(&destination));
    let connections = tokio::task::spawn_blocking(move || conntrack::connections(family)).await??;
    Ok(report(
        &packet,
        what.as_deref(),
        &ways,
        &connections,
        &names(&pods),
    ))
}

/// What must change for the kernel's rules to be what is wanted, for each family; empty where nothing differs.
pub async fn diff(config: &Config, client: &Client) -> anyhow::Result<String> {
    let state = known(config, client).await?;
    let entries: Vec<Entry> = state.all().flatten().collect();
    let kernel = Nftables::open()?;
    let mut out = String::new();
    let mut found = false;
    for family in [Family::V4, Family::V6] {
        let Some(have) = kernel.read(TABLE, family)? else {
            continue;
        };
        found = true;
        let want = table(entries.iter(), family, &config.rules);
        out += &Transaction::between(Some(&have), &want).render(&want);
    }
    if found {
        return Ok(out);
    }
    let programs = Programs::detect().await.programs;
    for family in [Family::V4, Family::V6] {
        let have = programs.read(family).await?;
        let want = ruleset(entries.iter(), family, &config.rules);
        out += &want.transaction(&have).unwrap_or_default();
    }
    Ok(out)
}

/// Services and endpoints as they are now, seen from this node.
async fn known(config: &Config, client: &Client) -> anyhow::Result<State> {
    let all = ListParams::default();
    let node = Api::<Node>::all(client.clone())
        .get_opt(&config.node_name)
        .await;
    let labels = node
        .context("read the node")?
        .and_then(|n| n.metadata.labels);
    let here = Here {
        node: config.node_name.clone(),
        zone: labels.and_then(|mut l| l.remove(ZONE)),
    };
    let mut state = State::default();
    let answered = config.dns.iter().flat_map(|d| &d.listen).map(|a| a.ip());
    state.answer_here(answered.collect());
    let services = Api::<Service>::all(client.clone()).list(&all).await;
    for service in services.context("list services")? {
        state.set_service(&service);
    }
    let slices = Api::<EndpointSlice>::all(client.clone()).list(&all).await;
    for slice in slices.context("list endpointslices")? {
        state.set_slice(&slice, &here);
    }
    Ok(state)
}

fn pod<'a>(pods: &'a [Pod], name: &str) -> Option<&'a Pod> {
    let (namespace, name) = name.split_once('/')?;
    pods.iter()
        .find(|p| p.namespace().as_deref() == Some(namespace) && p.name_any() == name)
}

fn ips(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let ips = status
        .and_then(|s| s.pod_ips.as_ref())
        .into_iter()
        .flatten();
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

fn names(pods: &[Pod]) -> Names {
    let own_network = |p: &&Pod| p.spec.as_ref().and_then(|s| s.host_network) != Some(true);
    let named = pods.iter().filter(own_network).flat_map(|p| {
        let name = format!("pod {}/{}", p.namespace().unwrap_or_default(), p.name_any());
        ips(p).into_iter().map(move |ip| (ip, name.clone()))
    });
    Names {
        of: named.collect(),
    }
}

fn source(question: &Question, pods: &[Pod], own: &[IpAddr], to: IpAddr) -> anyhow::Result<IpAddr> {
    let same = |ip: &IpAddr| ip.is_ipv4() == to.is_ipv4();
    let from = &question.from;
    if let Ok(ip) = from.parse::<IpAddr>() {
        return Ok(ip);
    }
    if from == "node" {
        let ip = own.iter().find(|ip| same(ip) && !ip.is_loopback());
        return ip
            .copied()
            .context("this node has no address of the destination's family");
    }
    let pod = pod(pods, from)
        .with_context(|| format!("FROM {from}: no address, no pod NAMESPACE/NAME, not \"node\""))?;
    let ip = ips(pod).into_iter().find(same);
    ip.with_context(|| format!("pod {from} has no address of the destination's family"))
}

fn destination(
    question: &Question,
    entries: &[Entry],
    pods: &[Pod],
) -> anyhow::Result<(IpAddr, u16)> {
    let to = &question.to;
    let needed = || {
        question
            .port
            .with_context(|| format!("TO {to}: which port? Say {to}:PORT"))
    };
    if let Ok(ip) = to.parse::<IpAddr>() {
        return Ok((ip, needed()?));
    }
    let of_service: Vec<&Entry> = entries
        .iter()
        .filter(|e| format!("{}/{}", e.port.name.namespace, e.port.name.service) == *to)
        .collect();
    if let Some(first) = of_service.first() {
        let port = match (question.port, of_service.as_slice()) {
            (Some(port), _) => port,
            (None, [only]) => only.port.port,
            (None, _) => needed()?,
        };
        let ip = first
            .port
            .cluster_ips
            .first()
            .context("the service has no address")?;
        return Ok((*ip, port));
    }
    let pod = pod(pods, to)
        .with_context(|| format!("TO {to}: no address, no service and no pod NAMESPACE/NAME"))?;
    let ip = ips(pod)
        .first()
        .copied()
        .with_context(|| format!("pod {to} has no address"))?;
    Ok((ip, needed()?))
}
