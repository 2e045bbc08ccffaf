//! The plugins in order.

use keelson_api::Status;
use serde_json::Value;

use crate::plugins::{
    CertificateApproval, CertificateSigning, CertificateSubjectRestriction,
    ClusterTrustBundleAttest, DefaultIngressClass, DefaultStorageClass, DefaultTolerationSeconds,
    LimitRanger, NamespaceLifecycle, NodeRestriction, PersistentVolumeClaimResize, PodSecurity,
    Priority, ResourceQuota, RuntimeClass, ServiceAccount, StorageObjectInUseProtection,
    TaintNodesByCondition,
};
use crate::{Authorizer, Lookup, Plugin, Request};

/// Plugins in the order they are asked.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// Any plugins.
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Self {
        Self { plugins }
    }

    /// All of ours, in upstream's order, except those that ask an authorizer.
    pub fn standard() -> Self {
        Self::build(None)
    }

    /// All of ours, in upstream's order: also who may approve and sign certificate requests.
    pub fn standard_with(authorizer: Authorizer) -> Self {
        Self::build(Some(authorizer))
    }

    fn build(authorizer: Option<Authorizer>) -> Self {
        let mut plugins: Vec<Box<dyn Plugin>> = vec![
            Box::new(NamespaceLifecycle),
            Box::new(LimitRanger),
            Box::new(ServiceAccount),
            Box::new(NodeRestriction),
            Box::new(TaintNodesByCondition),
            Box::new(PodSecurity),
            Box::new(Priority),
            Box::new(DefaultTolerationSeconds),
            Box::new(DefaultStorageClass),
            Box::new(StorageObjectInUseProtection),
            Box::new(PersistentVolumeClaimResize),
            Box::new(RuntimeClass),
        ];
        if let Some(authorizer) = authorizer {
            plugins.push(Box::new(CertificateApproval(authorizer.clone())));
            plugins.push(Box::new(CertificateSigning(authorizer.clone())));
            plugins.push(Box::new(ClusterTrustBundleAttest(authorizer)));
        }
        plugins.push(Box::new(CertificateSubjectRestriction));
        plugins.push(Box::new(DefaultIngressClass));
        // Last: what is counted is what will be stored.
        plugins.push(Box::new(ResourceQuota));
        Self::new(plugins)
    }

    /// The plugins' names, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|p| p.name()).collect()
    }

    /// Lets every plugin change the object; the first refusal ends it. Not called for deletes and connects.
    pub async fn mutate(
        &self,
        req: &Request<'_>,
        object: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.mutate(req, object, lookup).await?;
        }
        Ok(())
    }

    /// Asks every plugin; the first refusal ends it.
    pub async fn validate(
        &self,
        req: &Request<'_>,
        object: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.validate(req, object, lookup).await?;
        }
        Ok(())
    }
}
