//! kubeconfig files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// What a client shows.
#[derive(Clone, Copy, Debug)]
pub enum Credentials<'a> {
    /// A certificate and its key, both PEM.
    Certificate {
        /// Leaf, then authorities.
        cert_pem: &'a str,
        /// Key.
        key_pem: &'a str,
    },
    /// A bearer token.
    Token(&'a str),
}

/// A kubeconfig with one cluster, user and context, all named as told; everything is inside the file. Written in JSON,
/// which is YAML. Keep it 0600: [`crate::pki::write_private`].
pub fn render(name: &str, server: &str, ca_pem: &str, credentials: Credentials<'_>) -> String {
    let user: Value = match credentials {
        Credentials::Certificate { cert_pem, key_pem } => json!({
            "client-certificate-data": STANDARD.encode(cert_pem),
            "client-key-data": STANDARD.encode(key_pem),
        }),
        Credentials::Token(token) => json!({ "token": token }),
    };
    let ca = STANDARD.encode(ca_pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": { "server": server, "certificate-authority-data": ca } }],
        "users": [{ "name": name, "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    });
    format!("{config:#}\n")
}
