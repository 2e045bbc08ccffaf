//! At start: allocations and Services are compared, and what does not agree is put right. Nothing should
//! be found: this guards against stores restored in parts or written by others.

use std::collections::BTreeMap;

use keelson_api::Status;
use keelson_store::{Error as StoreError, Range, Swap};
use serde_json::Value;

use super::{PREFIX, held, owner, owner_uid};
use crate::handler::list;
use crate::object::text;
use crate::state::{Server, store_error};

/// Compares and repairs. Two Services that hold the same are logged: neither can be changed here.
pub(crate) async fn repair(server: &Server) -> Result<(), Status> {
    let row = server.row("", "v1", "services")?;
    let services = list::all(server, &row, "").await?.items;
    let range = Range {
        prefix: PREFIX.to_owned(),
        ..Range::default()
    };
    let page = server.store.list(range).await.map_err(store_error)?;
    let have: BTreeMap<String, (String, u64)> = page
        .items
        .into_iter()
        .map(|kv| (kv.key, (owner_uid(&kv.value), kv.mod_revision)))
        .collect();
    for swap in plan(&services, &have) {
        tracing::warn!(
            key = swap.key,
            add = swap.value.is_some(),
            "repairing an allocation"
        );
        match server
            .store
            .swap(&swap.key, swap.expected, swap.value)
            .await
        {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(store_error(other)),
        }
    }
    Ok(())
}

/// The writes that make allocations agree with Services.
fn plan(services: &[Value], have: &BTreeMap<String, (String, u64)>) -> Vec<Swap> {
    let mut wanted: BTreeMap<String, &Value> = BTreeMap::new();
    for service in services {
        for item in held(service) {
            if let Some(first) = wanted.insert(item.to_string(), service) {
                tracing::error!(
                    item = %item,
                    service = text(service, "/metadata/name"),
                    other = text(first, "/metadata/name"),
                    "held by two services"
                );
            }
        }
    }
    let stray = have.iter().filter(|(key, _)| !wanted.contains_key(*key));
    let stray = stray.map(|(key, (_, revision))| Swap {
        key: key.clone(),
        expected: Some(*revision),
        value: None,
    });
    let wrong = wanted.iter().filter_map(|(key, service)| {
        let found = have.get(key);
        let right = found.is_some_and(|(uid, _)| uid == text(service, "/metadata/uid"));
        (!right).then(|| Swap {
            key: key.clone(),
            expected: found.map(|(_, r)| *r),
            value: Some(owner(service)),
        })
    });
    stray.chain(wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plans() {
        let service = json!({
            "metadata": {"name": "a", "uid": "u"},
            "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"nodePort": 30000}]},
        });
        let have = BTreeMap::from([
            (format!("{PREFIX}ip/10.0.0.1"), ("u".to_owned(), 3)),
            (format!("{PREFIX}ip/10.0.0.9"), ("gone".to_owned(), 4)),
        ]);
        let swaps: Vec<(String, Option<u64>, bool)> = plan(&[service], &have)
            .into_iter()
            .map(|s| (s.key, s.expected, s.value.is_some()))
            .collect();
        assert_eq!(
            swaps,
            [
                (format!("{PREFIX}ip/10.0.0.9"), Some(4), false),
                (format!("{PREFIX}port/30000"), None, true)
            ]
        );
    }
}
