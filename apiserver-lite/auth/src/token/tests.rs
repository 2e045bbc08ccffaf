#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::bootstrap::{Join, Token};
use super::*;

fn keys() -> Keys {
    Keys::new(&KeyPair::generate().unwrap().serialize_pem()).unwrap()
}

fn grant() -> Grant {
    Grant {
        namespace: "ns".into(),
        account: Ref::new("app", "u-1"),
        seconds: 600,
        pod: Some(Ref::new("web-0", "u-2")),
        node: Some(Ref::new("a", "u-3")),
        warn_after: Some(60),
        ..Grant::default()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn claims_have_upstreams_layout() {
    let signed = keys().sign(&grant(), at(0)).unwrap();
    let expected = json!({
        "aud": [ISSUER], "exp": 1_800_000_600, "iat": 1_800_000_000, "iss": ISSUER, "jti": signed.jti,
        "kubernetes.io": {
            "namespace": "ns",
            "node": { "name": "a", "uid": "u-3" },
            "pod": { "name": "web-0", "uid": "u-2" },
            "serviceaccount": { "name": "app", "uid": "u-1" },
            "warnafter": 1_800_000_060,
        },
        "nbf": 1_800_000_000, "sub": "system:serviceaccount:ns:app",
    });
    assert_eq!(payload(&signed.token), expected);
    assert_eq!(signed.expires, at(600));
    assert_eq!(signed.jti.len(), 36);
}

#[test]
fn users_are_those_of_upstream() {
    let keys = keys();
    let signed = keys.sign(&grant(), at(0)).unwrap();
    let user = keys.verify(&signed.token, &[], at(1)).unwrap().user();
    assert_eq!(
        (user.name.as_str(), user.uid.as_str()),
        ("system:serviceaccount:ns:app", "u-1")
    );
    assert_eq!(
        user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:ns",
            "system:authenticated"
        ]
    );
    let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")].concat();
    assert_eq!(extra("pod-name"), "web-0");
    assert_eq!(extra("node-uid"), "u-3");
    assert_eq!(extra("credential-id"), format!("JTI={}", signed.jti));
}

#[test]
fn time_audience_and_key_decide() {
    let keys = keys();
    let api = keys.sign(&grant(), at(0)).unwrap().token;
    let vault = keys
        .sign(
            &Grant {
                audiences: vec!["vault".into()],
                ..grant()
            },
            at(0),
        )
        .unwrap()
        .token;
    let foreign = self::keys().sign(&grant(), at(0)).unwrap().token;
    let audience = |have: &str, want: &str| {
        Err(Error::Audience {
            have: vec![have.into()],
            want: vec![want.into()],
        })
    };
    let cases = [
        (&api, &[][..], 0, Ok(())),
        (&api, &["x", ISSUER], 599, Ok(())),
        (&api, &[], 600, Err(Error::Expired)),
        (&api, &[], -61, Err(Error::NotYet)),
        (&api, &[], -59, Ok(())),
        (&api, &["vault"], 0, audience(ISSUER, "vault")),
        (&vault, &["vault"], 0, Ok(())),
        (&vault, &[], 0, audience("vault", ISSUER)),
        (&foreign, &[], 0, Err(Error::Invalid)),
        (&String::new(), &[], 0, Err(Error::Invalid)),
        (&"a.b.c".to_owned(), &[], 0, Err(Error::Invalid)),
    ];
    for (i, (token, audiences, now, expected)) in cases.into_iter().enumerate() {
        assert_eq!(
            keys.verify(token, audiences, at(now)).map(drop),
            expected,
            "{i}"
        );
    }
}

#[test]
fn an_unsigned_or_otherwise_signed_token_is_refused() {
    let keys = keys();
    let token = keys.sign(&grant(), at(0)).unwrap().token;
    let (_, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "HS256"}),
        json!({"alg": "ES384"}),
    ] {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        for signature in ["", signature] {
            let forged = format!("{header}.{claims}.{signature}");
            assert_eq!(keys.verify(&forged, &[], at(0)), Err(Error::Invalid));
        }
    }
}

#[test]
fn tokens_of_secrets_never_end_and_are_for_the_api_server() {
    let keys = keys();
    let token = keys
        .sign_legacy("ns", &Ref::new("app", "u-1"), "app-token")
        .unwrap();
    let claims = keys.verify(&token, &[], at(1_000_000_000)).unwrap();
    assert!(claims.legacy);
    assert_eq!(claims.secret.as_ref().unwrap().name, "app-token");
    assert_eq!(claims.user().name, "system:serviceaccount:ns:app");
    assert_eq!(
        payload(&token)["kubernetes.io/serviceaccount/service-account.uid"],
        "u-1"
    );
    assert!(payload(&token).get("exp").is_none());
    assert!(matches!(
        keys.verify(&token, &["vault"], at(0)),
        Err(Error::Audience { .. })
    ));
}

#[test]
fn the_key_before_is_still_accepted() {
    let old_pem = KeyPair::generate().unwrap().serialize_pem();
    let old = Keys::new(&old_pem).unwrap();
    let token = old.sign(&grant(), at(0)).unwrap().token;
    let mut new = keys();
    assert_eq!(new.verify(&token, &[], at(0)), Err(Error::Invalid));
    new.accept(&old_pem).unwrap();
    assert!(new.verify(&token, &[], at(0)).is_ok());
    assert_eq!(new.jwks()["keys"].as_array().unwrap().len(), 2);
    assert_eq!(
        Keys::discovery("https://x/openid/v1/jwks")["issuer"],
        ISSUER
    );
    assert!(Keys::new("no key").is_err());
}

#[test]
fn the_published_key_verifies() {
    let keys = keys();
    let token = keys.sign(&grant(), at(0)).unwrap().token;
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys.jwks()).unwrap();
    let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.set_audience(&[ISSUER]);
    assert!(jsonwebtoken::decode::<Value>(&token, &key, &rules).is_ok());
}

#[test]
fn bootstrap_secrets_decide() {
    let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
    let end = at(0) + SignedDuration::from_secs(10);
    let good = token.to_secret("for a test", Some(end), &["system:bootstrappers:workers"]);
    let user = token.check(&good, at(0)).unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(
        user.groups,
        [
            "system:bootstrappers",
            "system:bootstrappers:workers",
            "system:authenticated"
        ]
    );
    assert!(
        token
            .check(&token.to_secret("", None, &[]), at(1_000_000))
            .is_ok()
    );

    let b64 = |s: &str| json!(base64::engine::general_purpose::STANDARD.encode(s));
    let with = |pointer: &str, value: Value| {
        let mut secret = good.clone();
        *secret.pointer_mut(pointer).unwrap() = value;
        secret
    };
    let bad = [
        with("/data/token-secret", b64("0123456789abcdee")),
        with("/data/token-secret", b64("")),
        with("/data/token-id", b64("abcdeg")),
        with("/data/usage-bootstrap-authentication", b64("false")),
        with("/data/auth-extra-groups", b64("system:masters")),
        with("/data/expiration", b64("soon")),
        with("/type", json!("Opaque")),
        json!({}),
    ];
    for secret in bad {
        assert!(
            matches!(token.check(&secret, at(0)), Err(Error::Bootstrap(_))),
            "{secret}"
        );
    }
    assert_eq!(
        token.check(&good, end),
        Err(Error::Bootstrap("has expired"))
    );
    assert!(!format!("{token:?}").contains("0123"));
}

#[test]
fn join_tokens_are_read_strictly() {
    let join = Join {
        ca_hash: "a".repeat(64),
        token: Token::generate(),
    };
    let text = join.to_string();
    assert!(text.starts_with("K10aaaa"));
    assert_eq!(text.parse(), Ok(join));
    let cut = text.get(1..).unwrap().to_owned();
    for bad in [
        cut,
        text.replace("::", ":"),
        text.replace('a', "g"),
        format!("{text}x"),
        String::new(),
    ] {
        assert!(
            matches!(bad.parse::<Join>(), Err(Error::Malformed(_))),
            "{bad}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_signed_is_what_is_read(
        (namespace, name, uid) in ("[a-z]{1,9}", "[a-z.:-]{1,9}", "\\PC{0,9}"),
        audiences in proptest::collection::vec("\\PC{1,9}", 0..3),
        pod in proptest::option::of(("[a-z]{1,5}", "[0-9]{1,5}")),
        seconds in 1i64..1_000_000,
    ) {
        let keys = keys();
        let grant = Grant {
            account: Ref::new(&name, &uid),
            pod: pod.map(|(n, u)| Ref::new(&n, &u)),
            namespace, audiences, seconds, ..Grant::default()
        };
        let token = keys.sign(&grant, at(0)).unwrap().token;
        let wanted = grant.audiences.first().map_or(ISSUER, String::as_str);
        let claims = keys.verify(&token, &[wanted], at(seconds - 1)).unwrap();
        prop_assert_eq!((&claims.namespace, &claims.account, &claims.pod), (&grant.namespace, &grant.account, &grant.pod));
        prop_assert_eq!(keys.verify(&token, &[wanted], at(seconds)), Err(Error::Expired));
    }

    #[test]
    fn a_changed_token_is_refused(at_byte in 0usize..10_000, to in 0u8..64) {
        let keys = keys();
        let token = keys.sign(&grant(), at(0)).unwrap().token;
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bytes = token.clone().into_bytes();
        let index = at_byte % bytes.len();
        bytes[index] = alphabet[usize::from(to)];
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(changed != token);
        prop_assert!(keys.verify(&changed, &[], at(0)).is_err());
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,40}") {
        let _ = keys().verify(&text, &[], at(0));
        let _ = text.parse::<Join>();
        let _ = text.parse::<Token>();
        let _ = crate::csr::parse(&text);
    }
}
