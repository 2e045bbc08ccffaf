//! Fills in a Service's addresses, families and ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use keelson_api::{Cause, Status};
use keelson_store::Range;
use rand::Rng;
use serde_json::{Value, json};

use super::pool::{self, Pools};
use super::{Item, PREFIX, refuse};
use crate::object::{self, text};
use crate::state::{Server, store_error};

/// Random picks before the whole range is looked through.
const PICKS: usize = 16;

/// Gives an update what the Service has already and the update leaves out.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    if cluster_ip_type(old) && cluster_ip_type(new) {
        let spec = object::child_mut(new, "spec");
        let absent =
            |v: Option<&Value>| v.is_none_or(|v| v.is_null() || v == "" || v == &json!([]));
        if absent(spec.get("clusterIP")) && absent(spec.get("clusterIPs")) {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = old.pointer(&format!("/spec/{field}")) {
                    spec.insert(field.to_owned(), value.clone());
                }
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if let (true, Some(value)) = (
                absent(spec.get(field)),
                old.pointer(&format!("/spec/{field}")),
            ) {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
    if node_port_type(old) && node_port_type(new) {
        carry_ports(new, old);
    }
}

fn carry_ports(new: &mut Value, old: &Value) {
    let had = object::items(old, "/spec/ports").to_vec();
    let used: Vec<Value> = object::items(new, "/spec/ports")
        .iter()
        .filter_map(|p| p.get("nodePort").cloned())
        .collect();
    let Some(ports) = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else {
        return;
    };
    for port in ports.iter_mut().filter(|p| node_port(p) == 0) {
        let same = had
            .iter()
            .find(|h| h.get("port") == port.get("port") && protocol(h) == protocol(port));
        let Some(value) = same
            .and_then(|h| h.get("nodePort"))
            .filter(|v| !used.contains(v))
            .cloned()
        else {
            continue;
        };
        if let Some(map) = port.as_object_mut() {
            map.insert("nodePort".into(), value);
        }
    }
    let health = old.pointer("/spec/healthCheckNodePort").cloned();
    if let (true, Some(health)) = (needs_health_port(new), health) {
        object::child_mut(new, "spec")
            .entry("healthCheckNodePort")
            .or_insert(health);
    }
}

fn protocol(port: &Value) -> &str {
    Some(text(port, "/protocol"))
        .filter(|p| !p.is_empty())
        .unwrap_or("TCP")
}

fn node_port(port: &Value) -> u64 {
    port.get("nodePort").and_then(Value::as_u64).unwrap_or(0)
}

fn cluster_ip_type(service: &Value) -> bool {
    text(service, "/spec/type") != "ExternalName"
}

fn node_port_type(service: &Value) -> bool {
    let balancer = service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&json!(false));
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => balancer,
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer"
        && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Fills in everything; `mine` is what the Service holds already.
pub(super) async fn fill(
    server: &Server,
    service: &mut Value,
    old: Option<&Value>,
    mine: &BTreeSet<Item>,
) -> Result<(), Status> {
    if let Some(old) = old {
        drop_dependent(service, old);
    }
    if !cluster_ip_type(service) {
        let spec = object::child_mut(service, "spec");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return Ok(());
    }
    let pools = server.config.pools();
    let families = families(service, &pools)?;
    fill_ips(server, service, &families, &pools, mine).await?;
    fill_ports(server, service, &pools, mine).await
}

/// A Service that changes its type loses what only the old type had, unless the caller changed it, too.
fn drop_dependent(service: &mut Value, old: &Value) {
    let (was, is) = (node_port_type(old), node_port_type(service));
    if was
        && !is
        && text(service, "/spec/type") != "LoadBalancer"
        && let Some(ports) = service
            .pointer_mut("/spec/ports")
            .and_then(Value::as_array_mut)
    {
        ports
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(|p| {
                p.remove("nodePort");
            });
    }
    if needs_health_port(old) && !needs_health_port(service) {
        object::child_mut(service, "spec").remove("healthCheckNodePort");
    }
}

fn invalid(service: &Value, field: &str, message: String) -> Status {
    let cause = Cause {
        reason: "FieldValueInvalid",
        field: field.to_owned(),
        message,
    };
    Status::invalid("", "Service", object::name(service), vec![cause])
}

/// The ranges a Service's addresses come from, in order; writes `ipFamilies` and `ipFamilyPolicy`.
fn families(service: &mut Value, pools: &Pools) -> Result<Vec<IpNet>, Status> {
    let named: Vec<bool> = object::items(service, "/spec/ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .map(|f| f == "IPv6")
        .collect();
    let asked: Vec<bool> = requested(service).iter().map(IpAddr::is_ipv6).collect();
    let mut order = if named.is_empty() {
        asked.clone()
    } else {
        named
    };
    if order.is_empty() {
        order.extend(pools.cidrs.first().map(|net| matches!(net, IpNet::V6(_))));
    }
    let policy = match text(service, "/spec/ipFamilyPolicy") {
        "" if order.len() > 1 => "RequireDualStack",
        "" => "SingleStack",
        other => other,
    }
    .to_owned();
    if policy != "SingleStack" && order.len() == 1 {
        order.extend(order.first().map(|v6| !v6));
    }
    if policy == "SingleStack" {
        order.truncate(1);
    }
    let mut nets = Vec::new();
    for (index, v6) in order.iter().enumerate() {
        match pools.family(*v6) {
            Some(net) => nets.push(net),
            None if index > 0 && policy == "PreferDualStack" => {}
            None if index > 0 => {
                let message = format!(
                    "Invalid value: {policy:?}: this cluster is not configured for dual-stack services"
                );
                return Err(invalid(service, "spec.ipFamilyPolicy", message));
            }
            None => {
                let family = if *v6 { "IPv6" } else { "IPv4" };
                let message = format!("Invalid value: {family:?}: not configured on this cluster");
                return Err(invalid(
                    service,
                    &format!("spec.ipFamilies[{index}]"),
                    message,
                ));
            }
        }
    }
    let names: Vec<&str> = nets
        .iter()
        .map(|n| {
            if matches!(n, IpNet::V6(_)) {
                "IPv6"
            } else {
                "IPv4"
            }
        })
        .collect();
    let names = json!(names);
    let spec = object::child_mut(service, "spec");
    spec.insert("ipFamilies".into(), names);
    spec.insert("ipFamilyPolicy".into(), json!(policy));
    Ok(nets)
}

fn requested(service: &Value) -> Vec<IpAddr> {
    let list = object::items(service, "/spec/clusterIPs");
    let list: Vec<IpAddr> = list
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|t| t.parse().ok())
        .collect();
    if list.is_empty() {
        text(service, "/spec/clusterIP")
            .parse()
            .into_iter()
            .collect()
    } else {
        list
    }
}

async fn fill_ips(
    server: &Server,
    service: &mut Value,
    families: &[IpNet],
    pools: &Pools,
    mine: &BTreeSet<Item>,
) -> Result<(), Status> {
    let headless = text(service, "/spec/clusterIP") == "None"
        || service.pointer("/spec/clusterIPs/0") == Some(&json!("None"));
    if headless {
        let spec = object::child_mut(service, "spec");
        spec.insert("clusterIP".into(), json!("None"));
        spec.insert("clusterIPs".into(), json!(["None"]));
        return Ok(());
    }
    let asked = requested(service);
    let mut got: Vec<IpAddr> = Vec::new();
    for net in families {
        let wanted = asked
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == matches!(net, IpNet::V6(_)));
        got.push(match wanted {
            Some(ip) if pool::contains(*net, ip) || mine.contains(&Item::Ip(ip)) => ip,
            Some(ip) => {
                let why =
                    format!("({ip}) is not in the valid range. The range of valid IPs is {net}");
                return Err(refuse(service, Item::Ip(ip), &why));
            }
            None => free_ip(server, *net).await?,
        });
    }
    if let Some(stray) = asked.iter().find(|ip| pools.family(ip.is_ipv6()).is_none()) {
        return Err(refuse(
            service,
            Item::Ip(*stray),
            "is of a family that is not configured on this cluster",
        ));
    }
    let texts: Vec<String> = got.iter().map(IpAddr::to_string).collect();
    let spec = object::child_mut(service, "spec");
    spec.insert("clusterIP".into(), json!(texts.first()));
    spec.insert("clusterIPs".into(), json!(texts));
    Ok(())
}

async fn is_free(server: &Server, item: Item) -> Result<bool, Status> {
    Ok(server
        .store
        .get(&item.to_string())
        .await
        .map_err(store_error)?
        .is_none())
}

async fn taken(server: &Server, kind: &str) -> Result<BTreeSet<String>, Status> {
    let range = Range {
        prefix: format!("{PREFIX}{kind}/"),
        ..Range::default()
    };
    let page = server.store.list(range).await.map_err(store_error)?;
    Ok(page.items.into_iter().map(|kv| kv.key).collect())
}

async fn free_ip(server: &Server, net: IpNet) -> Result<IpAddr, Status> {
    for _ in 0..PICKS {
        let Some(ip) = pool::random_ip(net, &mut rand::rng()) else {
            break;
        };
        if is_free(server, Item::Ip(ip)).await? {
            return Ok(ip);
        }
    }
    let taken = taken(server, "ip").await?;
    let (band, size) = (pool::static_band(net), pool::usable(net));
    let mut all = (band..size).chain(0..band).map(|n| pool::nth(net, n));
    all.find(|ip| !taken.contains(&Item::Ip(*ip).to_string()))
        .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
}

async fn fill_ports(
    server: &Server,
    service: &mut Value,
    pools: &Pools,
    mine: &BTreeSet<Item>,
) -> Result<(), Status> {
    let ports = object::items(service, "/spec/ports").to_vec();
    let mut chosen: BTreeSet<u16> = BTreeSet::new();
    for port in &ports {
        chosen.extend(checked(service, pools, node_port(port), mine)?);
    }
    let health = service
        .pointer("/spec/healthCheckNodePort")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    chosen.extend(checked(service, pools, health, mine)?);
    if node_port_type(service) {
        for (index, port) in ports.iter().enumerate().filter(|(_, p)| node_port(p) == 0) {
            let free = free_port(server, pools, &chosen).await?;
            chosen.insert(free);
            tracing::trace!(free, port = ?port.get("port"), "node port chosen");
            if let Some(map) = service
                .pointer_mut(&format!("/spec/ports/{index}"))
                .and_then(Value::as_object_mut)
            {
                map.insert("nodePort".into(), json!(free));
            }
        }
    }
    if needs_health_port(service) && health == 0 {
        let free = free_port(server, pools, &chosen).await?;
        object::child_mut(service, "spec").insert("healthCheckNodePort".into(), json!(free));
    }
    Ok(())
}

fn checked(
    service: &Value,
    pools: &Pools,
    port: u64,
    mine: &BTreeSet<Item>,
) -> Result<Option<u16>, Status> {
    if port == 0 {
        return Ok(None);
    }
    let number = u16::try_from(port).unwrap_or(u16::MAX);
    let known = u64::from(number) == port
        && (pools.ports.contains(&number) || mine.contains(&Item::Port(number)));
    if known {
        return Ok(Some(number));
    }
    let (low, high) = (pools.ports.start(), pools.ports.end());
    let why = format!("is not in the valid range. The range of valid ports is {low}-{high}");
    Err(refuse(service, Item::Port(number), &why))
}

async fn free_port(server: &Server, pools: &Pools, chosen: &BTreeSet<u16>) -> Result<u16, Status> {
    for _ in 0..PICKS {
        let port = rand::rng().random_range(pools.ports.clone());
        if !chosen.contains(&port) && is_free(server, Item::Port(port)).await? {
            return Ok(port);
        }
    }
    let taken = taken(server, "port").await?;
    let mut all = pools.ports.clone().filter(|p| !chosen.contains(p));
    all.find(|p| !taken.contains(&Item::Port(*p).to_string()))
        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
}
