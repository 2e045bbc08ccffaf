#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::cert::{names, validity};
use crate::{User, csr, kubeconfig, user_from_cert};

fn pki() -> Pki {
    Pki::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
}

fn leaf(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Signature by the authority, and the names in it.
fn check_signed(pki: &Pki, pem: &str) -> Vec<String> {
    let (leaf, ca) = (leaf(pem), leaf(pki.ca_pem()));
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    let (_, cert) = X509Certificate::from_der(&leaf).unwrap();
    cert.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(cert.issuer(), ca.subject());
    let names = cert.subject_alternative_name().unwrap();
    let names = names
        .into_iter()
        .flat_map(|n| n.value.general_names.clone());
    names
        .map(|n| match n {
            GeneralName::DNSName(name) => name.to_owned(),
            GeneralName::IPAddress(ip) => format!("{ip:?}"),
            other => panic!("unexpected {other:?}"),
        })
        .collect()
}

#[test]
fn the_authority_is_made_once_and_kept_private() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/pki");
    let first = Pki::load_or_create(&dir).unwrap();
    let again = Pki::load_or_create(&dir).unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    assert_eq!(first.token_keys().jwks(), again.token_keys().jwks());
    assert_eq!(first.ca_hash().len(), 64);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    assert_eq!(names.len(), 3, "no temporary file stays: {names:?}");
    names
        .iter()
        .for_each(|path| assert_eq!(mode(path), 0o600, "{path:?}"));

    fs::remove_file(dir.join("ca.key")).unwrap();
    assert!(matches!(Pki::load_or_create(&dir), Err(Error::Half(_))));
    fs::write(dir.join("ca.key"), "no key").unwrap();
    assert!(matches!(
        Pki::load_or_create(&dir),
        Err(Error::Certificate(_))
    ));
    // What a crash between the two writes leaves behind.
    fs::remove_file(dir.join("ca.crt")).unwrap();
    assert_ne!(Pki::load_or_create(&dir).unwrap().ca_pem(), first.ca_pem());
}

#[test]
fn client_certificates_keep_every_group() {
    let pki = pki();
    for groups in [
        &[][..],
        &["one"],
        &["system:nodes", "b", "c", "system:nodes:x", "ümläut"],
    ] {
        let issued = pki.issue_client("system:node:a", groups, DAY * 30).unwrap();
        check_signed(&pki, &issued.cert_pem);
        let user = user_from_cert(&leaf(&issued.cert_pem), Timestamp::now()).unwrap();
        assert_eq!(user, User::component("system:node:a", groups));
    }
}

#[test]
fn issued_certificates_and_keys_fit_in_rustls() {
    let pki = pki();
    let provider = rustls::crypto::ring::default_provider();
    for issued in [
        pki.issue_client("u", &["a", "b"], DAY).unwrap(),
        pki.issue_server(
            "s",
            &["localhost".into(), "10.43.0.1".into(), "::1".into()],
            DAY,
        )
        .unwrap(),
    ] {
        let chain = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        assert_eq!(chain.len(), 2);
        let key =
            rustls_pki_types::PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
    }
}

#[test]
fn server_certificates_have_names_and_addresses() {
    let pki = pki();
    let sans = ["kubernetes.default.svc", "10.43.0.1", "fd00::1"].map(str::to_owned);
    let issued = pki.issue_server("kube-apiserver", &sans, DAY).unwrap();
    assert_eq!(names(&issued.cert_pem), sans.clone().into());
    let names = check_signed(&pki, &issued.cert_pem);
    assert_eq!(
        names[..2],
        [
            "kubernetes.default.svc".to_owned(),
            "[10, 43, 0, 1]".to_owned()
        ]
    );
    assert_eq!(names.len(), 3);
    assert!(pki.issue_server("x", &["ö".to_owned()], DAY).is_err());
}

#[test]
fn the_end_of_a_certificate_is_seen() {
    let pki = pki();
    let issued = pki.issue_client("u", &[], DAY * 10).unwrap();
    let valid = validity(&issued.cert_pem).unwrap();
    let day = SignedDuration::from_hours(24);
    let now = Timestamp::now();
    assert!(valid.not_after > now + day * 9 && valid.not_after <= now + day * 10);
    assert!(valid.not_before <= now - SignedDuration::from_mins(4));
    assert!(!valid.is_over(now) && valid.is_over(now + day * 11));
    let leaf = leaf(&issued.cert_pem);
    assert!(user_from_cert(&leaf, now).is_some());
    assert!(user_from_cert(&leaf, now + day * 11).is_none());
    assert!(validity("no certificate").is_none() && names("no certificate").is_empty());
}

#[test]
fn a_short_certificate_is_not_due_when_it_is_made() {
    let issued = pki()
        .issue_client("u", &[], Duration::from_secs(30))
        .unwrap();
    let due = validity(&issued.cert_pem).unwrap().renew_at(0.0);
    assert!(due > Timestamp::now() + SignedDuration::from_secs(15));
}

#[test]
fn requests_are_checked_and_signed_with_their_subject() {
    let pki = pki();
    let sans = ["node-a".to_owned(), "192.168.1.2".to_owned()];
    let (key, request) = csr::new("system:node:a", &["system:nodes", "x", "y"], &sans).unwrap();
    assert!(key.contains("PRIVATE KEY"));
    let asked = csr::parse(&request).unwrap();
    assert_eq!(asked.organizations, ["system:nodes", "x", "y"]);
    assert_eq!(
        (asked.dns, asked.ips),
        (
            vec!["node-a".to_owned()],
            vec!["192.168.1.2".parse().unwrap()]
        )
    );

    let serving = pki.sign_csr(&request, CsrUsage::Serving, DAY).unwrap();
    assert_eq!(check_signed(&pki, &serving), ["node-a", "[192, 168, 1, 2]"]);
    let client = pki.sign_csr(&request, CsrUsage::Client, DAY).unwrap();
    assert!(check_signed(&pki, &client).is_empty());
    let user = user_from_cert(&leaf(&client), Timestamp::now()).unwrap();
    assert_eq!(
        user,
        User::component("system:node:a", &["system:nodes", "x", "y"])
    );

    // One bit of the subject changed: the request's own signature no longer fits.
    let der =
        rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap();
    let mut der = der.to_vec();
    let at = der.windows(11).position(|w| w == b"system:node").unwrap();
    der[at] ^= 1;
    assert_eq!(
        csr::parse(&pem("CERTIFICATE REQUEST", &der)),
        Err(csr::Error::Malformed)
    );
    assert!(
        pki.sign_csr(&pem("CERTIFICATE REQUEST", &der), CsrUsage::Client, DAY)
            .is_err()
    );
}

#[test]
fn only_good_requests_of_nodes_may_be_approved() {
    let text = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let client = text(&["digital signature", "key encipherment", "client auth"]);
    let serving = text(&["digital signature", "server auth"]);
    let own = User::component("system:node:a", &["system:nodes"]);
    let joining = User::component("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let request =
        |cn: &str, orgs: &[&str], sans: &[&str]| csr::new(cn, orgs, &text(sans)).unwrap().1;
    let good = request("system:node:a", &["system:nodes"], &[]);
    let named = request("system:node:a", &["system:nodes"], &["node-a"]);
    let addressed = request("system:node:a", &["system:nodes"], &["10.0.0.1"]);

    type Case<'a> = (&'a str, &'a [String], &'a User, Result<bool, csr::Error>);
    let masters = request("system:node:a", &["system:masters"], &[]);
    let both = request("system:node:a", &["system:nodes", "system:masters"], &[]);
    let nobody = request("admin", &["system:nodes"], &[]);
    let clients: [Case<'_>; 9] = [
        (&good, &client, &own, Ok(true)),
        (
            &good,
            &client[..1],
            &own,
            Err(csr::Error::Usages(&[
                "key encipherment",
                "digital signature",
                "client auth",
            ])),
        ),
        (&good, &client, &joining, Ok(false)),
        (
            &good,
            &serving,
            &own,
            Err(csr::Error::Usages(&[
                "key encipherment",
                "digital signature",
                "client auth",
            ])),
        ),
        (&masters, &client, &own, Err(csr::Error::Organization)),
        (&both, &client, &own, Err(csr::Error::Organization)),
        (&nobody, &client, &own, Err(csr::Error::CommonName)),
        (&named, &client, &own, Err(csr::Error::Names("DNS"))),
        (&addressed, &client, &own, Err(csr::Error::Names("IP"))),
    ];
    for (i, (pem, usages, user, expected)) in clients.into_iter().enumerate() {
        assert_eq!(
            csr::check_client(pem, usages, user).map(|n| n.own),
            expected,
            "client {i}"
        );
    }
    let servings: [Case<'_>; 5] = [
        (&named, &serving, &own, Ok(true)),
        (&addressed, &serving, &own, Ok(true)),
        (&good, &serving, &own, Err(csr::Error::NoNames)),
        (&named, &serving, &joining, Err(csr::Error::Requestor)),
        ("garbage", &serving, &own, Err(csr::Error::Malformed)),
    ];
    for (i, (pem, usages, user, expected)) in servings.into_iter().enumerate() {
        assert_eq!(
            csr::check_serving(pem, usages, user).map(|n| n.own),
            expected,
            "serving {i}"
        );
    }
}

#[test]
fn kubeconfigs_carry_everything_inside() {
    use base64::Engine;
    let credentials = kubeconfig::Credentials::Certificate {
        cert_pem: "cert",
        key_pem: "key",
    };
    let text = kubeconfig::render("keelson", "https://127.0.0.1:6443", "ca", credentials);
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        config["clusters"][0]["cluster"]["server"],
        "https://127.0.0.1:6443"
    );
    let key = config["users"][0]["user"]["client-key-data"]
        .as_str()
        .unwrap();
    assert_eq!(
        base64::engine::general_purpose::STANDARD
            .decode(key)
            .unwrap(),
        b"key"
    );
    assert_eq!(config["contexts"][0]["name"], config["current-context"]);
    let token = kubeconfig::render("k", "s", "ca", kubeconfig::Credentials::Token("t"));
    assert!(token.contains("\"token\": \"t\""));
}
