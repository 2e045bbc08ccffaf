//! Cluster addresses and node ports of Services.
//!
//! Each is a key of its own that names its Service, written in the same transaction as the Service: two
//! Services can never hold one, and a crash leaves neither a key without a Service nor the reverse.

mod fill;
mod pool;
mod repair;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use keelson_api::{Cause, Resource, Status};
use keelson_store::{Error as StoreError, Revision, Swap};
use serde_json::{Value, json};

pub(crate) use fill::carry_over;
pub(crate) use pool::{Pools, first};
pub(crate) use repair::repair;

use crate::handler::write::{Lost, dry, lost};
use crate::object::{self, text};
use crate::state::{Server, store_error};

/// Where allocations are kept.
pub(crate) const PREFIX: &str = "/registry/allocations/";
/// How often an allocation that somebody else got first is made anew.
const TRIES: usize = 64;

/// Something of which there is only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    /// A cluster address.
    Ip(IpAddr),
    /// A node port.
    Port(u16),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Ip(ip) => write!(f, "{PREFIX}ip/{ip}"),
            Item::Port(port) => write!(f, "{PREFIX}port/{port}"),
        }
    }
}

/// Whether objects of a row hold allocations.
pub(crate) fn concerns(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "services"
}

/// What a Service holds.
pub(crate) fn held(service: &Value) -> BTreeSet<Item> {
    let ips = object::items(service, "/spec/clusterIPs")
        .iter()
        .filter_map(Value::as_str);
    let one = text(service, "/spec/clusterIP");
    let ips = ips
        .chain([one])
        .filter_map(|t| t.parse().ok())
        .map(Item::Ip);
    let ports = object::items(service, "/spec/ports")
        .iter()
        .filter_map(|p| p.get("nodePort")?.as_u64());
    let health = service
        .pointer("/spec/healthCheckNodePort")
        .and_then(Value::as_u64);
    let ports = ports
        .chain(health)
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .map(Item::Port);
    if text(service, "/spec/type") == "ExternalName" {
        BTreeSet::new()
    } else {
        ips.chain(ports).collect()
    }
}

/// The value of an allocation: whose it is.
fn owner(service: &Value) -> Bytes {
    let owner = json!({
        "namespace": object::namespace(service),
        "name": object::name(service),
        "uid": text(service, "/metadata/uid"),
    });
    Bytes::from(owner.to_string())
}

fn owner_uid(value: &[u8]) -> String {
    serde_json::from_slice::<Value>(value)
        .map(|v| text(&v, "/uid").to_owned())
        .unwrap_or_default()
}

/// Writes a Service with what it holds. Fills in what `new` is to be given.
pub(crate) async fn commit(
    server: &Server,
    row: &Resource,
    key: &str,
    expected: Option<Revision>,
    old: Option<&Value>,
    new: Option<&mut Value>,
    dry_run: bool,
) -> Result<Option<Revision>, Lost> {
    let before = old.map(held).unwrap_or_default();
    let Some(new) = new else {
        let Some(old) = old.filter(|_| !dry_run) else {
            return dry(server, key, expected).await;
        };
        let mut swaps = vec![Swap {
            key: key.to_owned(),
            expected,
            value: None,
        }];
        swaps.extend(releases(server, &before, old).await?);
        return server.store.swap_all(swaps).await.map(Some).map_err(lost);
    };
    for _ in 0..TRIES {
        let mut candidate = new.clone();
        fill::fill(server, &mut candidate, old, &before).await?;
        let after = held(&candidate);
        let gained: Vec<Item> = after.difference(&before).copied().collect();
        taken_by_others(server, &gained, &candidate, key).await?;
        if dry_run {
            *new = candidate;
            return dry(server, key, expected).await;
        }
        let lost_items: BTreeSet<Item> = before.difference(&after).copied().collect();
        let mut swaps = vec![Swap {
            key: key.to_owned(),
            expected,
            value: Some(object::save(row, &candidate)),
        }];
        let claim = owner(&candidate);
        swaps.extend(gained.iter().map(|item| Swap {
            key: item.to_string(),
            expected: None,
            value: Some(claim.clone()),
        }));
        if let Some(old) = old {
            swaps.extend(releases(server, &lost_items, old).await?);
        }
        match server.store.swap_all(swaps).await {
            Ok(revision) => {
                *new = candidate;
                return Ok(Some(revision));
            }
            Err(StoreError::Conflict { key: at, .. }) if at != key => {}
            Err(other) => return Err(lost(other)),
        }
    }
    Err(Lost::Refused(Status::internal(
        "allocation of cluster addresses and node ports is contended",
    )))
}

/// The removal of what a Service holds, as far as it is really its own.
async fn releases(
    server: &Server,
    items: &BTreeSet<Item>,
    service: &Value,
) -> Result<Vec<Swap>, Lost> {
    let uid = text(service, "/metadata/uid");
    let mut swaps = Vec::new();
    for item in items {
        let key = item.to_string();
        let found = server.store.get(&key).await.map_err(store_error)?;
        if let Some(kv) = found.filter(|kv| owner_uid(&kv.value) == uid) {
            swaps.push(Swap {
                key,
                expected: Some(kv.mod_revision),
                value: None,
            });
        }
    }
    Ok(swaps)
}

/// Refuses what another Service holds. What this very Service holds already means that somebody else
/// wrote it in the meantime.
async fn taken_by_others(
    server: &Server,
    gained: &[Item],
    service: &Value,
    key: &str,
) -> Result<(), Lost> {
    for item in gained {
        let Some(kv) = server
            .store
            .get(&item.to_string())
            .await
            .map_err(store_error)?
        else {
            continue;
        };
        if owner_uid(&kv.value) == text(service, "/metadata/uid") {
            return Err(Lost::Race(
                server.store.get(key).await.map_err(store_error)?,
            ));
        }
        return Err(Lost::Refused(refuse(
            service,
            *item,
            "is already allocated",
        )));
    }
    Ok(())
}

/// 422 for an address or port, in upstream's words; `why` follows `provided IP` or `provided port`.
fn refuse(service: &Value, item: Item, why: &str) -> Status {
    let (field, message) = match item {
        Item::Ip(ip) => {
            let all = object::items(service, "/spec/clusterIPs");
            (
                "spec.clusterIPs".to_owned(),
                format!(
                    "Invalid value: {}: failed to allocate IP {ip}: provided IP {why}",
                    json!(all)
                ),
            )
        }
        Item::Port(port) => {
            let ports = object::items(service, "/spec/ports");
            let at = ports
                .iter()
                .position(|p| p.get("nodePort").and_then(Value::as_u64) == Some(u64::from(port)));
            let field = at.map_or("spec.healthCheckNodePort".to_owned(), |i| {
                format!("spec.ports[{i}].nodePort")
            });
            (field, format!("Invalid value: {port}: provided port {why}"))
        }
    };
    let cause = Cause {
        reason: "FieldValueInvalid",
        field,
        message,
    };
    Status::invalid("", "Service", object::name(service), vec![cause])
}
