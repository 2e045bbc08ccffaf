//! Signing and verifying with P-256 keys (ES256), and the two public documents about them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::claims::{Legacy, Private, Wire};
use super::{Claims, Error, Grant, ISSUER, Ref};

/// The issuer of tokens that live in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Tolerated difference between the clocks of several API servers, in seconds.
const SKEW: i64 = 60;

/// The signing key, and the public keys that are accepted.
pub struct Keys {
    signing: EncodingKey,
    accepted: Vec<Public>,
}

struct Public {
    kid: String,
    x: String,
    y: String,
    key: DecodingKey,
}

/// A signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The token.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
    /// Its id, as audit logs name it.
    pub jti: String,
}

impl Keys {
    /// From a P-256 key (PKCS #8 PEM), which signs and is accepted.
    pub fn new(key_pem: &str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(key_pem).map_err(|e| Error::Key(e.to_string()))?;
        let signing = EncodingKey::from_ec_der(pair.serialized_der());
        Ok(Self {
            signing,
            accepted: vec![public(&pair)?],
        })
    }

    /// Accepts tokens of another key too: of the one before, while its tokens still live.
    pub fn accept(&mut self, key_pem: &str) -> Result<(), Error> {
        let pair = KeyPair::from_pem(key_pem).map_err(|e| Error::Key(e.to_string()))?;
        self.accepted.push(public(&pair)?);
        Ok(())
    }

    /// Signs a bound token.
    pub fn sign(&self, grant: &Grant, now: Timestamp) -> Result<Signed, Error> {
        let at = now.as_second();
        let end = at.saturating_add(grant.seconds);
        let expires = Timestamp::from_second(end).map_err(|e| Error::Sign(e.to_string()))?;
        let audiences = match grant.audiences.as_slice() {
            [] => vec![ISSUER.to_owned()],
            some => some.to_vec(),
        };
        let jti = uuid();
        let wire = Wire {
            aud: audiences,
            exp: Some(end),
            iat: Some(at),
            iss: ISSUER.to_owned(),
            jti: jti.clone(),
            nbf: Some(at),
            sub: subject(&grant.namespace, &grant.account.name),
            private: Some(Private {
                namespace: grant.namespace.clone(),
                node: grant.node.clone(),
                pod: grant.pod.clone(),
                secret: grant.secret.clone(),
                serviceaccount: grant.account.clone(),
                warnafter: grant.warn_after.map(|s| at.saturating_add(s)),
            }),
            legacy: None,
        };
        Ok(Signed {
            token: self.encode(&wire)?,
            expires,
            jti,
        })
    }

    /// Signs the token of a Secret of type `kubernetes.io/service-account-token`: it never ends, and lives as long as
    /// the Secret holds it.
    pub fn sign_legacy(
        &self,
        namespace: &str,
        account: &Ref,
        secret: &str,
    ) -> Result<String, Error> {
        let wire = Wire {
            iss: LEGACY_ISSUER.to_owned(),
            sub: subject(namespace, &account.name),
            legacy: Some(Legacy {
                namespace: namespace.to_owned(),
                secret: secret.to_owned(),
                name: account.name.clone(),
                uid: account.uid.clone(),
            }),
            ..Wire::default()
        };
        self.encode(&wire)
    }

    /// Verifies signature, times and audience. `audiences`: those the token may be for, one is enough; none means the
    /// API server. Tokens of Secrets are for the API server only.
    pub fn verify(&self, token: &str, audiences: &[&str], now: Timestamp) -> Result<Claims, Error> {
        let wire = self.decode(token)?;
        let audiences = if audiences.is_empty() {
            &[ISSUER]
        } else {
            audiences
        };
        let not_before = wire.nbf;
        let claims = claims(wire)?;
        let api_server = [ISSUER.to_owned()];
        let have = if claims.legacy {
            &api_server[..]
        } else {
            &claims.audiences
        };
        if !have.iter().any(|a| audiences.contains(&a.as_str())) {
            let want = audiences.iter().map(|a| (*a).to_owned()).collect();
            return Err(Error::Audience {
                have: have.to_vec(),
                want,
            });
        }
        let now = now.as_second();
        if claims.expires.is_some_and(|end| end <= now) {
            return Err(Error::Expired);
        }
        if not_before.is_some_and(|start| start > now.saturating_add(SKEW)) {
            return Err(Error::NotYet);
        }
        Ok(claims)
    }

    fn encode(&self, wire: &Wire) -> Result<String, Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = self.accepted.first().map(|k| k.kid.clone());
        jsonwebtoken::encode(&header, wire, &self.signing).map_err(|e| Error::Sign(e.to_string()))
    }

    fn decode(&self, token: &str) -> Result<Wire, Error> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Invalid)?;
        let mut rules = Validation::new(Algorithm::ES256);
        // Times and audience are checked against the caller's clock and rules.
        (rules.validate_exp, rules.validate_aud) = (false, false);
        rules.required_spec_claims.clear();
        self.accepted
            .iter()
            .filter(|k| header.kid.as_ref().is_none_or(|kid| *kid == k.kid))
            .find_map(|k| jsonwebtoken::decode::<Wire>(token, &k.key, &rules).ok())
            .map(|data| data.claims)
            .ok_or(Error::Invalid)
    }

    /// The JSON Web Key Set (`/openid/v1/jwks`).
    pub fn jwks(&self) -> Value {
        let keys = self.accepted.iter().map(|k| {
            json!({ "use": "sig", "kty": "EC", "kid": k.kid, "crv": "P-256", "alg": "ES256", "x": k.x, "y": k.y })
        });
        json!({ "keys": keys.collect::<Vec<_>>() })
    }

    /// The OpenID Connect discovery document (`/.well-known/openid-configuration`).
    pub fn discovery(jwks_uri: &str) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

/// A random UUID (version 4).
fn uuid() -> String {
    let mut bytes = rand::random::<u128>();
    bytes = (bytes & !(0xf << 76)) | (4 << 76);
    bytes = (bytes & !(0x3 << 62)) | (2 << 62);
    let h = format!("{bytes:032x}");
    let part = |range: std::ops::Range<usize>| h.get(range).unwrap_or_default().to_owned();
    [
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-")
}

fn subject(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn public(pair: &KeyPair) -> Result<Public, Error> {
    let key_error = |why: &str| Error::Key(why.to_owned());
    // An uncompressed point: 4, x, y (SEC 1, section 2.3.3).
    let (x, y) = match pair.public_key_raw().split_first() {
        Some((4, point)) if point.len() == 64 => point.split_at(32),
        _ => return Err(key_error("not a P-256 key")),
    };
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let key = DecodingKey::from_ec_components(&x, &y).map_err(|e| Error::Key(e.to_string()))?;
    let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info()));
    Ok(Public { kid, x, y, key })
}

fn claims(wire: Wire) -> Result<Claims, Error> {
    let claims = match (wire.iss.as_str(), wire.private, wire.legacy) {
        (ISSUER, Some(private), _) => Claims {
            namespace: private.namespace,
            account: private.serviceaccount,
            audiences: wire.aud,
            // A token that never ends is none of ours.
            expires: Some(wire.exp.ok_or(Error::Invalid)?),
            jti: wire.jti,
            pod: private.pod,
            secret: private.secret,
            node: private.node,
            warn_after: private.warnafter,
            legacy: false,
        },
        (LEGACY_ISSUER, _, Some(legacy)) => Claims {
            namespace: legacy.namespace,
            account: Ref {
                name: legacy.name,
                uid: legacy.uid,
            },
            audiences: Vec::new(),
            expires: None,
            jti: String::new(),
            pod: None,
            secret: Some(Ref {
                name: legacy.secret,
                uid: String::new(),
            }),
            node: None,
            warn_after: None,
            legacy: true,
        },
        _ => return Err(Error::Invalid),
    };
    let subject = subject(&claims.namespace, &claims.account.name);
    if wire.sub == subject {
        Ok(claims)
    } else {
        Err(Error::Invalid)
    }
}
