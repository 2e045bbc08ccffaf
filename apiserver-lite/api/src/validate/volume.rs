//! Validation of volumes.

use super::container::{field_ref, relative, resource_ref};
use super::field::{At, Errors};
use super::{Seen, label_selector, names, quantity};

/// Fields of the downward API as files.
const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The volumes of a pod's `spec`; gives their names.
pub(super) fn volumes(spec: &At<'_>, errs: &mut Errors) -> Seen {
    let mut seen = Seen::default();
    for v in spec.items("volumes") {
        let name = v.child("name");
        if name.text().is_empty() {
            errs.required(&name, "");
        } else {
            errs.check(&name, names::dns_label(name.text()));
        }
        seen.unique(&name, errs);
        let kinds = v.value.as_object().into_iter().flatten();
        let mut kinds = kinds
            .filter(|(k, s)| *k != "name" && !s.is_null())
            .map(|(k, _)| k.as_str());
        let Some(kind) = kinds.next() else {
            errs.required(&v, "must specify a volume type");
            continue;
        };
        for more in kinds {
            errs.forbidden(
                &v.child(more).path,
                "may not specify more than 1 volume type",
            );
        }
        source(kind, &v.child(kind), errs);
    }
    seen
}

/// Volume type, field that it needs.
const NEEDED: &[(&str, &str)] = &[
    ("secret", "secretName"),
    ("configMap", "name"),
    ("hostPath", "path"),
    ("persistentVolumeClaim", "claimName"),
    ("nfs", "server"),
    ("nfs", "path"),
    ("csi", "driver"),
    ("ephemeral", "volumeClaimTemplate"),
    ("iscsi", "targetPortal"),
    ("iscsi", "iqn"),
    ("rbd", "image"),
    ("cephfs", "monitors"),
    ("glusterfs", "endpoints"),
    ("glusterfs", "path"),
    ("flexVolume", "driver"),
    ("awsElasticBlockStore", "volumeID"),
    ("gcePersistentDisk", "pdName"),
    ("azureFile", "secretName"),
    ("azureFile", "shareName"),
    ("azureDisk", "diskName"),
    ("azureDisk", "diskURI"),
    ("cinder", "volumeID"),
    ("vsphereVolume", "volumePath"),
    ("gitRepo", "repository"),
];

pub(super) fn source(kind: &str, at: &At<'_>, errs: &mut Errors) {
    for (_, field) in NEEDED.iter().filter(|(k, _)| *k == kind) {
        if at.child(field).is_zero() {
            errs.required(&at.child(field), "");
        }
    }
    match kind {
        "emptyDir" => {
            let limit = at.child("sizeLimit");
            if limit.is_set() {
                quantity(&limit, errs);
            }
        }
        "hostPath" => {
            let path = at.child("path");
            if path.text().split('/').any(|p| p == "..") {
                errs.invalid(&path, "must not contain '..'");
            }
            errs.one_of(&at.child("type"), HOST_PATH_TYPES);
        }
        "secret" | "configMap" => {
            mode(&at.child("defaultMode"), errs);
            at.items("items").for_each(|i| key_to_path(&i, errs));
        }
        "downwardAPI" => {
            mode(&at.child("defaultMode"), errs);
            at.items("items").for_each(|i| downward(&i, errs));
        }
        "projected" => projected(at, errs),
        "image" => errs.one_of(
            &at.child("pullPolicy"),
            &["Always", "IfNotPresent", "Never"],
        ),
        _ => {}
    }
}

fn mode(at: &At<'_>, errs: &mut Errors) {
    if at.int().is_some_and(|m| !(0..=0o777).contains(&m)) {
        errs.invalid(
            at,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

fn file(i: &At<'_>, errs: &mut Errors) {
    let path = i.child("path");
    if path.text().is_empty() {
        errs.required(&path, "");
    }
    relative(&path, errs);
    mode(&i.child("mode"), errs);
}

fn key_to_path(i: &At<'_>, errs: &mut Errors) {
    if i.child("key").text().is_empty() {
        errs.required(&i.child("key"), "");
    }
    file(i, errs);
}

fn downward(i: &At<'_>, errs: &mut Errors) {
    file(i, errs);
    let (field, resource) = (i.child("fieldRef"), i.child("resourceFieldRef"));
    match (field.is_set(), resource.is_set()) {
        (true, true) => errs.invalid_value(
            &i.path,
            "resource",
            "fieldRef and resourceFieldRef can not be specified simultaneously",
        ),
        (true, false) => field_ref(&field, FILE_FIELDS, errs),
        (false, true) => {
            if resource.child("containerName").text().is_empty() {
                errs.required(&resource.child("containerName"), "");
            }
            resource_ref(&resource.child("resource"), errs);
        }
        (false, false) => errs.required(&field, "one of fieldRef and resourceFieldRef is required"),
    }
}

fn projected(at: &At<'_>, errs: &mut Errors) {
    mode(&at.child("defaultMode"), errs);
    for s in at.items("sources") {
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let mut given = kinds.iter().map(|k| s.child(k)).filter(At::is_set);
        if given.next().is_none() {
            errs.required(&s, "must specify a volume source");
        }
        for more in given {
            errs.forbidden(&more.path, "may not specify more than 1 volume type");
        }
        for kind in ["secret", "configMap"] {
            let source = s.child(kind);
            if source.is_set() && source.child("name").text().is_empty() {
                errs.required(&source.child("name"), "");
            }
            source.items("items").for_each(|i| key_to_path(&i, errs));
        }
        s.child("downwardAPI")
            .items("items")
            .for_each(|i| downward(&i, errs));
        let token = s.child("serviceAccountToken");
        if token.is_set() {
            service_account_token(&token, errs);
        }
        let bundle = s.child("clusterTrustBundle");
        if bundle.is_set() {
            cluster_trust_bundle(&bundle, errs);
        }
    }
}

/// Either `name`, or `signerName` with or without a selector.
fn cluster_trust_bundle(bundle: &At<'_>, errs: &mut Errors) {
    let [name, signer, labels, path] =
        ["name", "signerName", "labelSelector", "path"].map(|field| bundle.child(field));
    let given = |at: &At<'_>| !at.text().is_empty();
    match (given(&name), given(&signer)) {
        (true, true) => errs.invalid(bundle, "only one of name and signerName may be used"),
        (false, false) => errs.required(bundle, "either name or signerName must be specified"),
        (true, false) if labels.is_set() => {
            errs.invalid(&labels, "may not be used with name");
        }
        _ => {}
    }
    if labels.is_set() {
        label_selector(&labels, errs);
    }
    if !given(&path) {
        errs.required(&path, "");
    }
    relative(&path, errs);
}

fn service_account_token(token: &At<'_>, errs: &mut Errors) {
    let seconds = token.child("expirationSeconds");
    match seconds.int() {
        Some(..600) => errs.invalid(&seconds, "may not specify a duration less than 10 minutes"),
        Some(n) if n > 1 << 32 => errs.invalid(
            &seconds,
            "may not specify a duration larger than 2^32 seconds",
        ),
        _ => {}
    }
    if token.child("path").text().is_empty() {
        errs.required(&token.child("path"), "");
    }
    relative(&token.child("path"), errs);
}
