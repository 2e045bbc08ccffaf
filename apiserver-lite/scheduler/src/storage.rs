//! Volumes, claims and classes, and what was decided about them without the API having shown it yet. Pure.

use std::collections::BTreeMap;

use keelson_api::volume::{Claim, Class, Volume};

use crate::plugins::volume_binding::Decision;

/// A claim's key: `namespace/name`.
pub fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// What is to become of a claim whose pod has a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// The node.
    pub node: String,
    /// The volume; `None`: one is made there.
    pub volume: Option<String>,
}

/// The scheduler's picture of storage.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// By name.
    pub volumes: BTreeMap<String, Volume>,
    /// By [`key`].
    pub claims: BTreeMap<String, Claim>,
    /// By name.
    pub classes: BTreeMap<String, Class>,
    /// By the claim's [`key`].
    pub assumed: BTreeMap<String, Assumed>,
}

impl Storage {
    /// A volume as the API shows it; whether it changed.
    pub fn put_volume(&mut self, volume: Volume) -> bool {
        let was = self.volumes.insert(volume.name.clone(), volume.clone());
        was.as_ref() != Some(&volume)
    }

    /// A claim as the API shows it; whether it changed. What was assumed is over when it is bound.
    pub fn put_claim(&mut self, claim: Claim) -> bool {
        let key = key(&claim.namespace, &claim.name);
        if claim.is_bound {
            self.assumed.remove(&key);
        }
        let was = self.claims.insert(key, claim.clone());
        was.as_ref() != Some(&claim)
    }

    /// A class as the API shows it; whether it changed.
    pub fn put_class(&mut self, class: Class) -> bool {
        let was = self.classes.insert(class.name.clone(), class.clone());
        was.as_ref() != Some(&class)
    }

    /// A claim is gone.
    pub fn remove_claim(&mut self, key: &str) -> bool {
        self.assumed.remove(key);
        self.claims.remove(key).is_some()
    }

    /// A pod is about to get a node: nobody else gets its claims' volumes.
    pub fn assume(&mut self, decisions: &[Decision], node: &str) {
        for decision in decisions {
            let assumed = Assumed {
                node: node.to_owned(),
                volume: decision.volume.as_ref().map(|(name, _)| name.clone()),
            };
            self.assumed
                .insert(key(&decision.namespace, &decision.claim), assumed);
        }
    }

    /// The pod did not get it after all.
    pub fn forget(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            self.assumed
                .remove(&key(&decision.namespace, &decision.claim));
        }
    }

    /// Whether a volume is spoken for by another claim than this one.
    pub fn is_taken(&self, volume: &Volume, claim: &Claim) -> bool {
        let own = key(&claim.namespace, &claim.name);
        self.assumed
            .iter()
            .any(|(key, a)| *key != own && a.volume.as_ref() == Some(&volume.name))
    }
}
