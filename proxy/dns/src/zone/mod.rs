//! The cluster's zone, kept change by change from Services and EndpointSlices, and asked by name.

mod lookup;
mod object;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::name::{self, ZoneName};
pub(crate) use lookup::Asked;
use object::{Service, Slice};

type Names = BTreeSet<(String, String)>;

/// Place of a service in the table.
type Id = u32;

/// All that is known of the cluster, under one zone.
#[derive(Debug)]
pub(crate) struct Zone {
    name: ZoneName,
    /// Addresses of `ns.dns.ZONE`.
    servers: Vec<IpAddr>,
    /// Counts changes.
    serial: u32,
    /// By name and namespace, as on the wire.
    names: HashMap<Arc<[u8]>, Id>,
    entries: Vec<Option<Entry>>,
    free: Vec<Id>,
    /// How many services a namespace has, by its label as on the wire.
    namespaces: HashMap<Box<[u8]>, u32>,
    /// Whose the slices are, by `NAMESPACE/NAME`.
    owners: HashMap<Box<str>, Id>,
    /// Who has an address, as its own or as an endpoint's.
    reverse_v4: BTreeSet<(Ipv4Addr, Id)>,
    reverse_v6: BTreeSet<(Ipv6Addr, Id)>,
}

/// A service and its slices; either may come first.
#[derive(Debug)]
struct Entry {
    key: Arc<[u8]>,
    service: Option<Service>,
    /// In the order of their names.
    slices: Vec<(Box<str>, Slice)>,
}

impl Entry {
    fn has(&self, ip: IpAddr) -> bool {
        let own = self
            .service
            .as_ref()
            .is_some_and(|s| s.addresses().any(|a| a == ip));
        own || self.slices.iter().any(|(_, s)| s.has(ip))
    }
}

impl Zone {
    /// An empty zone of this name, such as `cluster.local`. `None`: that is no name.
    pub(crate) fn new(name: &str, servers: Vec<IpAddr>) -> Option<Self> {
        Some(Self {
            name: ZoneName::parse(name).filter(|n| n.labels() > 0)?,
            servers,
            serial: 1,
            names: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            namespaces: HashMap::new(),
            owners: HashMap::new(),
            reverse_v4: BTreeSet::new(),
            reverse_v6: BTreeSet::new(),
        })
    }

    /// The zone's name, as on the wire.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name.wire
    }

    /// Grows with every change, and wraps around.
    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    /// Adds or replaces a Service. `false`: nothing that matters changed.
    pub(crate) fn set_service(&mut self, service: &ServiceObject) -> bool {
        let metadata = &service.metadata;
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            return false;
        };
        let Some(parsed) = Service::parse(service) else {
            return self.remove_service(namespace, name);
        };
        let Some(id) = self.place(namespace, name) else {
            return false;
        };
        self.replace_service(id, Some(parsed))
    }

    /// Removes a Service.
    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) -> bool {
        let id = key(namespace, name).and_then(|key| self.names.get(&*key).copied());
        id.is_some_and(|id| self.replace_service(id, None))
    }

    /// Adds or replaces an EndpointSlice. `false`: nothing that matters changed.
    pub(crate) fn set_slice(&mut self, slice: &EndpointSlice) -> bool {
        let metadata = &slice.metadata;
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            return false;
        };
        let service = object::service_of(slice);
        let (Some(service), Some(parsed)) = (service, Slice::parse(slice)) else {
            return self.remove_slice(namespace, name);
        };
        let object = object_name(namespace, name);
        let mut changed = false;
        let known = key(namespace, service).and_then(|key| self.names.get(&*key).copied());
        if self
            .owners
            .get(&*object)
            .is_some_and(|owner| known != Some(*owner))
        {
            changed = self.remove_slice(namespace, name);
        }
        let Some(id) = self.place(namespace, service) else {
            return changed;
        };
        self.owners.insert(object, id);
        self.replace_slice(id, name, Some(parsed)) | changed
    }

    /// Removes an EndpointSlice.
    pub(crate) fn remove_slice(&mut self, namespace: &str, name: &str) -> bool {
        let owner = self.owners.remove(&*object_name(namespace, name));
        owner.is_some_and(|id| self.replace_slice(id, name, None))
    }

    /// Forgets Services and slices that a new list did not bring.
    pub(crate) fn retain(&mut self, services: Option<&Names>, slices: Option<&Names>) -> bool {
        let mut changed = false;
        if let Some(keep) = services {
            let keep: BTreeSet<_> = keep
                .iter()
                .filter_map(|(namespace, name)| key(namespace, name))
                .collect();
            let of = |(key, id): (&Arc<[u8]>, &Id)| (!keep.contains(&**key)).then_some(*id);
            let gone: Vec<Id> = self.names.iter().filter_map(of).collect();
            for id in gone {
                changed |= self.replace_service(id, None);
            }
        }
        if let Some(keep) = slices {
            let keep: BTreeSet<_> = keep
                .iter()
                .map(|(namespace, name)| object_name(namespace, name))
                .collect();
            let owners = self.owners.keys().filter(|name| !keep.contains(*name));
            let gone: Vec<_> = owners.cloned().collect();
            for (namespace, name) in gone.iter().filter_map(|name| name.split_once('/')) {
                changed |= self.remove_slice(namespace, name);
            }
        }
        changed
    }

    /// The place of a service, made where there is none. `None`: the names can't stand in DNS.
    fn place(&mut self, namespace: &str, name: &str) -> Option<Id> {
        let key = key(namespace, name)?;
        if let Some(id) = self.names.get(&*key) {
            return Some(*id);
        }
        let key: Arc<[u8]> = key.into();
        let entry = Entry {
            key: key.clone(),
            service: None,
            slices: Vec::new(),
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.entries.push(None);
                Id::try_from(self.entries.len() - 1).ok()?
            }
        };
        *self.entries.get_mut(id as usize)? = Some(entry);
        self.names.insert(key, id);
        Some(id)
    }

    fn entry(&self, id: Id) -> Option<&Entry> {
        self.entries.get(id as usize)?.as_ref()
    }

    fn entry_mut(&mut self, id: Id) -> Option<&mut Entry> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    fn replace_service(&mut self, id: Id, service: Option<Service>) -> bool {
        let Some(entry) = self.entry_mut(id).filter(|e| e.service != service) else {
            return false;
        };
        let old = std::mem::replace(&mut entry.service, service);
        let namespace = namespace_of(&entry.key).to_vec();
        let (was, is) = (old.is_some(), entry.service.is_some());
        let new: Vec<_> = entry.service.iter().flat_map(Service::addresses).collect();
        self.index(id, old.iter().flat_map(Service::addresses), new);
        match (was, is) {
            (false, true) => *self.namespaces.entry(namespace.into()).or_default() += 1,
            (true, false) => {
                let left = self.namespaces.get_mut(&*namespace).map(|count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if left == Some(0) {
                    self.namespaces.remove(&*namespace);
                }
            }
            _ => {}
        }
        self.changed(id)
    }

    fn replace_slice(&mut self, id: Id, name: &str, slice: Option<Slice>) -> bool {
        let Some(entry) = self.entry_mut(id) else {
            return false;
        };
        let new: Vec<_> = slice.iter().flat_map(Slice::addresses).collect();
        let place = entry.slices.binary_search_by(|(n, _)| (**n).cmp(name));
        let old = match (place, slice) {
            (Ok(at), Some(slice)) => {
                if entry.slices[at].1 == slice {
                    return false;
                }
                Some(std::mem::replace(&mut entry.slices[at].1, slice))
            }
            (Ok(at), None) => Some(entry.slices.remove(at).1),
            (Err(at), Some(slice)) => {
                entry.slices.insert(at, (name.into(), slice));
                None
            }
            (Err(_), None) => return false,
        };
        entry.slices.shrink_to_fit();
        self.index(id, old.iter().flat_map(Slice::addresses), new);
        self.changed(id)
    }

    /// Keeps the way back from addresses: what a service had and has no more goes, what it has comes.
    fn index(&mut self, id: Id, old: impl Iterator<Item = IpAddr>, new: Vec<IpAddr>) {
        for ip in old {
            if self.entry(id).is_none_or(|e| !e.has(ip)) {
                match ip {
                    IpAddr::V4(ip) => self.reverse_v4.remove(&(ip, id)),
                    IpAddr::V6(ip) => self.reverse_v6.remove(&(ip, id)),
                };
            }
        }
        for ip in new {
            match ip {
                IpAddr::V4(ip) => self.reverse_v4.insert((ip, id)),
                IpAddr::V6(ip) => self.reverse_v6.insert((ip, id)),
            };
        }
    }

    /// Counts a change, and drops the entry when nothing is left in it.
    fn changed(&mut self, id: Id) -> bool {
        self.serial = self.serial.wrapping_add(1);
        let empty = self
            .entry(id)
            .filter(|e| e.service.is_none() && e.slices.is_empty());
        if let Some(key) = empty.map(|e| e.key.clone()) {
            self.names.remove(&key);
            if let Some(place) = self.entries.get_mut(id as usize) {
                *place = None;
            }
            self.free.push(id);
        }
        true
    }
}

/// Name and namespace as on the wire, which is how questions have them.
fn key(namespace: &str, name: &str) -> Option<Box<[u8]>> {
    let mut key = Vec::with_capacity(namespace.len() + name.len() + 2);
    name::push_label(&mut key, name)?;
    name::push_label(&mut key, namespace)?;
    Some(key.into())
}

/// An object's name in the whole cluster.
fn object_name(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into()
}

/// The namespace's label in a key.
fn namespace_of(key: &[u8]) -> &[u8] {
    let len = key.first().map_or(0, |len| usize::from(*len));
    key.get(1 + len..).unwrap_or_default()
}
