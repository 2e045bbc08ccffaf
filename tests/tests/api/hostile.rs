//! What no well-behaved client sends: the answer is always a Status, and the connection lives.

use keelson_tests::https::Identity;
use keelson_tests::{Bed, Suite};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Method, path, header, body, and what is to come.
type Case = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
    &'static [u8],
    u16,
);

const CASES: &[Case] = &[
    // Paths.
    ("GET", "/api/v1/nonsense", None, b"", 404),
    ("GET", "/apis/none.example/v1/things", None, b"", 404),
    ("GET", "/api/v2/pods", None, b"", 404),
    (
        "GET",
        "/api/v1/namespaces/default/pods/../../../secrets",
        None,
        b"",
        404,
    ),
    (
        "GET",
        "/api/v1/namespaces/default/pods/a%2Fb",
        None,
        b"",
        404,
    ),
    (
        "GET",
        "/api/v1/namespaces/default/pods/%2e%2e",
        None,
        b"",
        404,
    ),
    (
        "GET",
        "/api/v1/namespaces/default/pods/a%00b",
        None,
        b"",
        404,
    ),
    (
        "GET",
        "/api/v1/namespaces/default/pods/%ff%fe",
        None,
        b"",
        0,
    ),
    ("GET", "/api/v1/namespaces//pods", None, b"", 0),
    ("GET", "//api/v1/pods", None, b"", 0),
    (
        "GET",
        "/api/v1/namespaces/default/pods/x/nonsense",
        None,
        b"",
        404,
    ),
    (
        "GET",
        "/api/v1/namespaces/default/pods/x/status/more",
        None,
        b"",
        404,
    ),
    ("TRACE", PODS, None, b"", 405),
    ("BREW", PODS, None, b"", 405),
    (
        "POST",
        "/api/v1/namespaces/default/pods/x",
        Some(JSON),
        b"{}",
        405,
    ),
    ("PUT", PODS, Some(JSON), b"{}", 405),
    // Queries.
    (
        "GET",
        "/api/v1/pods?labelSelector=a%20in%20(",
        None,
        b"",
        400,
    ),
    ("GET", "/api/v1/pods?labelSelector===", None, b"", 400),
    ("GET", "/api/v1/pods?labelSelector=%ff", None, b"", 400),
    ("GET", "/api/v1/pods?fieldSelector=nonsense", None, b"", 400),
    (
        "GET",
        "/api/v1/pods?fieldSelector=spec.nonsense%3D1",
        None,
        b"",
        400,
    ),
    ("GET", "/api/v1/pods?limit=many", None, b"", 400),
    ("GET", "/api/v1/pods?continue=AAAA", None, b"", 400),
    (
        "GET",
        "/api/v1/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9zZWNyZXRzIn0",
        None,
        b"",
        0,
    ),
    ("GET", "/api/v1/pods?resourceVersion=-1", None, b"", 0),
    (
        "GET",
        "/api/v1/pods?resourceVersion=99999999999999999999999",
        None,
        b"",
        0,
    ),
    (
        "GET",
        "/api/v1/pods?resourceVersionMatch=Perhaps",
        None,
        b"",
        0,
    ),
    (
        "GET",
        "/api/v1/pods?watch=1&resourceVersion=x",
        None,
        b"",
        0,
    ),
    (
        "GET",
        "/api/v1/pods?timeoutSeconds=x&watch=1",
        None,
        b"",
        400,
    ),
    // Bodies.
    (
        "POST",
        MAPS,
        Some(("Content-Type", "application/vnd.kubernetes.protobuf")),
        b"k8s\0\x0a\x0f",
        415,
    ),
    (
        "POST",
        MAPS,
        Some(("Content-Type", "text/plain")),
        b"hello",
        415,
    ),
    (
        "POST",
        MAPS,
        Some(("Content-Type", "multipart/form-data; boundary=x")),
        b"--x--",
        415,
    ),
    ("POST", MAPS, Some(JSON), b"{", 400),
    ("POST", MAPS, Some(JSON), b"null", 400),
    ("POST", MAPS, Some(JSON), b"[]", 400),
    ("POST", MAPS, Some(JSON), b"7", 400),
    ("POST", MAPS, Some(JSON), b"\xff\xfe", 400),
    (
        "POST",
        MAPS,
        Some(JSON),
        b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"x\"}}",
        400,
    ),
    (
        "POST",
        MAPS,
        Some(JSON),
        b"{\"metadata\":{\"name\":\"x\",\"namespace\":\"other\"}}",
        400,
    ),
    (
        "POST",
        MAPS,
        Some(JSON),
        b"{\"metadata\":{\"name\":\"../x\"}}",
        422,
    ),
    (
        "POST",
        MAPS,
        Some(JSON),
        b"{\"metadata\":{\"name\":\"\"}}",
        422,
    ),
    ("POST", MAPS, Some(JSON), b"{\"metadata\":[]}", 400),
    (
        "POST",
        MAPS,
        Some(JSON),
        b"{\"metadata\":{\"name\":\"x\",\"labels\":{\"a\":1}}}",
        400,
    ),
    (
        "POST",
        MAPS,
        Some(JSON),
        b"{\"metadata\":{\"name\":\"x\"},\"data\":{\"a/b\":\"1\"}}",
        422,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(("Content-Type", "application/json-patch+json")),
        b"{}",
        400,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(("Content-Type", "application/json-patch+json")),
        b"[{\"op\":\"fly\"}]",
        0,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(("Content-Type", "application/json-patch+json")),
        b"[{\"op\":\"remove\",\"path\":\"/none/none\"}]",
        422,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(("Content-Type", "application/merge-patch+json")),
        b"[]",
        0,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(("Content-Type", "application/merge-patch+json")),
        b"{\"metadata\":{\"name\":\"other\"}}",
        0,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(JSON),
        b"{}",
        415,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have",
        Some(("Content-Type", "application/apply-patch+yaml")),
        b"a: b",
        0,
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/have?fieldManager=x",
        Some(("Content-Type", "application/apply-patch+yaml")),
        b"\t{",
        0,
    ),
    (
        "DELETE",
        "/api/v1/namespaces/default/configmaps/have",
        Some(JSON),
        b"{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"gracePeriodSeconds\":\"x\"}",
        400,
    ),
    (
        "DELETE",
        "/api/v1/namespaces/default/configmaps/have?propagationPolicy=Perhaps",
        None,
        b"",
        0,
    ),
    (
        "GET",
        "/api/v1/namespaces/default/pods/none/log?tailLines=-1",
        None,
        b"",
        0,
    ),
    (
        "POST",
        "/api/v1/namespaces/default/pods/none/exec?command=sh",
        None,
        b"",
        0,
    ),
    ("GET", "/openapi/v3/apis/none/v1", None, b"", 404),
];

#[test]
fn hostile() {
    let bed = Bed::api(&[]);
    bed.kubectl("create cm have");
    let mut suite = Suite::new();
    suite.step("each gets a Status", || table(&bed));
    suite.step("large bodies are refused", || large(&bed));
    suite.step("deep JSON", || deep_json(&bed));
    suite.step("deep YAML", || deep_yaml(&bed));
    suite.step("YAML that multiplies", || bomb(&bed));
    suite.step("no connection outstays its welcome", || slow(&bed));
    suite.step("the server is as it was", || {
        assert_eq!(bed.kubectl("get cm -o name").lines().count(), 2);
        bed.server().alive().unwrap();
    });
    suite.done();
}

fn table(bed: &Bed) {
    let mut wrong = Vec::new();
    for (method, path, header, body, wanted) in CASES {
        let headers: Vec<_> = header.iter().copied().collect();
        match bed.request(&Identity::Admin, method, path, &headers, body) {
            Err(error) => wrong.push(format!("{error:#}")),
            // 0: anything but the server's own fault.
            Ok(answer) if *wanted == 0 && answer.status < 500 => {
                if answer.status >= 400
                    && let Err(error) = answer.is_status()
                {
                    wrong.push(format!("{method} {path}: {error:#}"));
                }
            }
            Ok(answer) if answer.status != *wanted => {
                wrong.push(format!(
                    "{method} {path} {}: {} instead of {wanted}: {}",
                    String::from_utf8_lossy(body),
                    answer.status,
                    answer.text()
                ));
            }
            Ok(answer) => {
                if let Err(error) = answer.is_status() {
                    wrong.push(format!("{method} {path}: {error:#}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n")
    );
}

fn large(bed: &Bed) {
    let body = format!(
        "{{\"metadata\":{{\"name\":\"large\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(4 << 20)
    );
    let answer = bed
        .request(&Identity::Admin, "POST", MAPS, &[JSON], body.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 413, "{}", answer.text());
    answer.is_status().unwrap();
    // Below the limit of requests, above that of a ConfigMap.
    let body = format!(
        "{{\"metadata\":{{\"name\":\"large\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat((1 << 20) + 1)
    );
    let answer = bed
        .request(&Identity::Admin, "POST", MAPS, &[JSON], body.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 422, "{}", answer.text());
    let label = format!("/api/v1/pods?labelSelector={}", "a,".repeat(3000));
    let answer = bed
        .request(&Identity::Admin, "GET", &label, &[], b"")
        .unwrap();
    assert!(answer.status < 500, "{}", answer.text());
}

fn deep_json(bed: &Bed) {
    let body = format!(
        "{{\"metadata\":{{\"name\":\"deep\"}},\"data\":{}",
        "{\"a\":".repeat(100_000)
    );
    let answer = bed
        .request(&Identity::Admin, "POST", MAPS, &[JSON], body.as_bytes())
        .unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
}

fn deep_yaml(bed: &Bed) {
    let yaml = format!("a: {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let answer = bed
        .request(
            &Identity::Admin,
            "POST",
            MAPS,
            &[("Content-Type", "application/yaml")],
            yaml.as_bytes(),
        )
        .unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
}

fn bomb(bed: &Bed) {
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let answer = bed
        .request(
            &Identity::Admin,
            "POST",
            MAPS,
            &[("Content-Type", "application/yaml")],
            bomb.as_bytes(),
        )
        .unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
}

/// Half a request, no TLS at all, plain HTTP: the server goes on answering others.
fn slow(bed: &Bed) {
    use std::io::Write;
    use std::net::TcpStream;
    bed.server().space.enter(|| {
        let idle: Vec<TcpStream> = (0..50)
            .map(|_| TcpStream::connect("127.0.0.1:6443").unwrap())
            .collect();
        let mut plain = TcpStream::connect("127.0.0.1:6443").unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        drop((idle, plain));
    });
    let answer = bed
        .request(&Identity::Admin, "GET", "/livez", &[], b"")
        .unwrap();
    assert_eq!(answer.status, 200);
}
