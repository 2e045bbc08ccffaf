//! Questions and answers by the specification, section by section, and those of CoreDNS's tests of its kubernetes plugin.

use std::collections::BTreeSet;

use super::*;

#[test]
fn schema_version_and_apex() {
    check(&[
        (
            "dns-version.cluster.local.",
            TXT,
            "dns-version.cluster.local. 28800 IN TXT 1.1.0",
        ),
        ("dns-version.cluster.local.", A, NODATA),
        ("a.dns-version.cluster.local.", TXT, NXDOMAIN),
        ("cluster.local.", A, NODATA),
        ("cluster.local.", SOA, "SOA"),
        (
            "cluster.local.",
            NS,
            "cluster.local. 5 IN NS ns.dns.cluster.local.\n+ns.dns.cluster.local. 5 IN A 10.43.0.10",
        ),
        (
            "ns.dns.cluster.local.",
            A,
            "ns.dns.cluster.local. 5 IN A 10.43.0.10",
        ),
        ("ns.dns.cluster.local.", AAAA, NODATA),
        ("dns.cluster.local.", A, NODATA),
        ("svc.cluster.local.", A, NODATA),
        ("svc.cluster.local.", NS, NODATA),
        ("pod.cluster.local.", A, NODATA),
        ("testns.svc.cluster.local.", A, NODATA),
        ("testns.svc.cluster.local.", NS, NODATA),
        ("foo.cluster.local.", NS, NXDOMAIN),
        ("foo.svc.cluster.local.", NS, NXDOMAIN),
        ("local.", A, "elsewhere"),
        ("example.org.", A, "elsewhere"),
        ("notcluster.local.", A, "elsewhere"),
    ]);
    let soa = ask_at(&zone(), "cluster.local.", SOA, 0, 512)
        .expect("answer")
        .answers[0]
        .to_string();
    let rest = soa
        .strip_prefix("cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. ")
        .expect("names");
    assert!(rest.ends_with(" 7200 1800 86400 5"), "{soa}");
}

#[test]
fn services_with_addresses() {
    check(&[
        (
            "svc1.testns.svc.cluster.local.",
            A,
            "svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1",
        ),
        ("svc1.testns.svc.cluster.local.", AAAA, NODATA),
        ("svc1.testns.svc.cluster.local.", TXT, NODATA),
        ("svc1.testns.svc.cluster.local.", SOA, NODATA),
        ("svc1.testns.svc.cluster.local.", CNAME, NODATA),
        (
            "SVC1.TestNS.svc.Cluster.Local.",
            A,
            "SVC1.TestNS.svc.Cluster.Local. 5 IN A 10.0.0.1",
        ),
        (
            "svc6.testns.svc.cluster.local.",
            AAAA,
            "svc6.testns.svc.cluster.local. 5 IN AAAA 1234:abcd::1",
        ),
        ("svc6.testns.svc.cluster.local.", A, NODATA),
        (
            "svc-dual-stack.testns.svc.cluster.local.",
            A,
            "svc-dual-stack.testns.svc.cluster.local. 5 IN A 10.0.0.3",
        ),
        (
            "svc-dual-stack.testns.svc.cluster.local.",
            AAAA,
            "svc-dual-stack.testns.svc.cluster.local. 5 IN AAAA 10::3",
        ),
        ("svc0.testns.svc.cluster.local.", A, NXDOMAIN),
        ("svc0.svc-nons.svc.cluster.local.", A, NXDOMAIN),
        ("bogus.svc0.testns.svc.cluster.local.", A, NXDOMAIN),
        ("waiting.testns.svc.cluster.local.", A, NXDOMAIN),
        (
            "svc1.testns.svc.cluster.local.svc.cluster.local.",
            A,
            NXDOMAIN,
        ),
        ("*.testns.svc.cluster.local.", A, NXDOMAIN),
        ("svc1.*.svc.cluster.local.", A, NXDOMAIN),
        ("any.testns.svc.cluster.local.", A, NXDOMAIN),
        // Pods that a service exposes have names below it, says Kubernetes of all services.
        (
            "ep1a.svc1.testns.svc.cluster.local.",
            A,
            "ep1a.svc1.testns.svc.cluster.local. 5 IN A 172.0.0.1",
        ),
        ("172-0-0-1.svc1.testns.svc.cluster.local.", A, NXDOMAIN),
    ]);
}

#[test]
fn ports_of_services() {
    let port = "SRV 0 100 80 svc1.testns.svc.cluster.local.\n+svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1";
    check(&[
        (
            "svc1.testns.svc.cluster.local.",
            SRV,
            &format!("svc1.testns.svc.cluster.local. 5 IN {port}"),
        ),
        (
            "_http._tcp.svc1.testns.svc.cluster.local.",
            SRV,
            &format!("_http._tcp.svc1.testns.svc.cluster.local. 5 IN {port}"),
        ),
        (
            "_HTTP._tcp.svc1.testns.svc.cluster.local.",
            SRV,
            &format!("_HTTP._tcp.svc1.testns.svc.cluster.local. 5 IN {port}"),
        ),
        ("_http._tcp.svc1.testns.svc.cluster.local.", A, NODATA),
        ("_tcp.svc1.testns.svc.cluster.local.", SRV, NODATA),
        ("_udp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("_http._udp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("_https._tcp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("_._tcp.two-ports.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("a._http._tcp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        (
            "_http._tcp.svc6.testns.svc.cluster.local.",
            SRV,
            "_http._tcp.svc6.testns.svc.cluster.local. 5 IN SRV 0 100 80 svc6.testns.svc.cluster.local.\n\
            +svc6.testns.svc.cluster.local. 5 IN AAAA 1234:abcd::1",
        ),
        (
            "svc-dual-stack.testns.svc.cluster.local.",
            SRV,
            "svc-dual-stack.testns.svc.cluster.local. 5 IN SRV 0 50 80 svc-dual-stack.testns.svc.cluster.local.\n\
            +svc-dual-stack.testns.svc.cluster.local. 5 IN A 10.0.0.3\n\
            +svc-dual-stack.testns.svc.cluster.local. 5 IN AAAA 10::3",
        ),
        (
            "_dns._udp.two-ports.testns.svc.cluster.local.",
            SRV,
            "_dns._udp.two-ports.testns.svc.cluster.local. 5 IN SRV 0 100 53 two-ports.testns.svc.cluster.local.\n\
            +two-ports.testns.svc.cluster.local. 5 IN A 10.0.0.4",
        ),
    ]);
}

#[test]
fn headless_services() {
    check(&[
        (
            "hdls1.testns.svc.cluster.local.",
            A,
            "hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.2\nhdls1.testns.svc.cluster.local. 5 IN A 172.0.0.3\n\
            hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.4\nhdls1.testns.svc.cluster.local. 5 IN A 172.0.0.5",
        ),
        (
            "hdls1.testns.svc.cluster.local.",
            AAAA,
            "hdls1.testns.svc.cluster.local. 5 IN AAAA 5678:abcd::1\nhdls1.testns.svc.cluster.local. 5 IN AAAA 5678:abcd::2",
        ),
        ("hdls1.testns.svc.cluster.local.", MX, NODATA),
        (
            "hdlsprtls.testns.svc.cluster.local.",
            A,
            "hdlsprtls.testns.svc.cluster.local. 5 IN A 172.0.0.20",
        ),
        ("hdlsprtls.testns.svc.cluster.local.", AAAA, NODATA),
        ("hdlsprtls.testns.svc.cluster.local.", SRV, NODATA),
        (
            "_http._tcp.hdlsprtls.testns.svc.cluster.local.",
            SRV,
            NXDOMAIN,
        ),
        (
            "172-0-0-20.hdlsprtls.testns.svc.cluster.local.",
            A,
            "172-0-0-20.hdlsprtls.testns.svc.cluster.local. 5 IN A 172.0.0.20",
        ),
        (
            "172-0-0-2.hdls1.testns.svc.cluster.local.",
            A,
            "172-0-0-2.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.2",
        ),
        ("172-0-0-2.hdls1.testns.svc.cluster.local.", AAAA, NODATA),
        ("172-0-0-02.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("172-0-0-4.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("172-0-0-6.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("late.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("bogusendpoint.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        (
            "Dup-Name.hdls1.testns.svc.cluster.local.",
            A,
            "Dup-Name.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.4\nDup-Name.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.5",
        ),
        (
            "5678-abcd--2.hdls1.testns.svc.cluster.local.",
            AAAA,
            "5678-abcd--2.hdls1.testns.svc.cluster.local. 5 IN AAAA 5678:abcd::2",
        ),
        ("5678-abcd--2.hdls1.testns.svc.cluster.local.", A, NODATA),
        ("empty.testns.svc.cluster.local.", A, NXDOMAIN),
        ("_tcp.hdls1.testns.svc.cluster.local.", A, NODATA),
        ("_tcp.empty.testns.svc.cluster.local.", A, NXDOMAIN),
    ]);
}

#[test]
fn ports_of_endpoints() {
    let all = ["172-0-0-2", "172-0-0-3", "dup-name", "5678-abcd--1", "5678-abcd--2"]
        .map(|host| format!("_http._tcp.hdls1.testns.svc.cluster.local. 5 IN SRV 0 16 80 {host}.hdls1.testns.svc.cluster.local."));
    let addresses = [
        ("172-0-0-2", "A 172.0.0.2"),
        ("172-0-0-3", "A 172.0.0.3"),
        ("dup-name", "A 172.0.0.4"),
        ("dup-name", "A 172.0.0.5"),
        ("5678-abcd--1", "AAAA 5678:abcd::1"),
        ("5678-abcd--2", "AAAA 5678:abcd::2"),
    ]
    .map(|(host, data)| format!("+{host}.hdls1.testns.svc.cluster.local. 5 IN {data}"));
    let expected = [all.join("\n"), addresses.join("\n")].join("\n");
    check(&[
        ("_http._tcp.hdls1.testns.svc.cluster.local.", SRV, &expected),
        (
            "hdls1.testns.svc.cluster.local.",
            SRV,
            &expected.replace("_http._tcp.hdls1", "hdls1"),
        ),
        ("_http._tcp.hdls1.testns.svc.cluster.local.", A, NODATA),
        (
            "_nothing._tcp.hdls1.testns.svc.cluster.local.",
            SRV,
            NXDOMAIN,
        ),
        (
            "172-0-0-3.hdls1.testns.svc.cluster.local.",
            SRV,
            "172-0-0-3.hdls1.testns.svc.cluster.local. 5 IN SRV 0 100 80 172-0-0-3.hdls1.testns.svc.cluster.local.\n\
            +172-0-0-3.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.3",
        ),
    ]);
}

#[test]
fn external_names() {
    let to_service = "external-to-service.testns.svc.cluster.local. 5 IN CNAME svc1.testns.svc.cluster.local.\n\
        svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1";
    check(&[
        (
            "external.testns.svc.cluster.local.",
            CNAME,
            "external.testns.svc.cluster.local. 5 IN CNAME ext.interwebs.test.",
        ),
        (
            "external-to-service.testns.svc.cluster.local.",
            A,
            to_service,
        ),
        (
            "external-chain.testns.svc.cluster.local.",
            A,
            &format!(
                "external-chain.testns.svc.cluster.local. 5 IN CNAME external-to-service.testns.svc.cluster.local.\n{to_service}"
            ),
        ),
        (
            "external-to-service.testns.svc.cluster.local.",
            AAAA,
            "external-to-service.testns.svc.cluster.local. 5 IN CNAME svc1.testns.svc.cluster.local.\n-SOA",
        ),
        (
            "endpoint.external.testns.svc.cluster.local.",
            CNAME,
            NXDOMAIN,
        ),
        ("external-ip.testns.svc.cluster.local.", A, NXDOMAIN),
    ]);
    let zone = zone();
    assert_eq!(
        ask(&zone, "external.testns.svc.cluster.local.", A),
        "ext.interwebs.test."
    );
    assert_eq!(
        ask(&zone, "external-dot.testns.svc.cluster.local.", TXT),
        "ext.interwebs.test."
    );
    let out = ask(&zone, "external-chain-out.testns.svc.cluster.local.", A);
    assert_eq!(
        out,
        "external.testns.svc.cluster.local. ext.interwebs.test."
    );
    let looped = ask(&zone, "external-loop.testns.svc.cluster.local.", A);
    assert_eq!(looped, "Server Failure");
    let missing = ask(&zone, "external-to-missing.testns.svc.cluster.local.", A);
    assert_eq!(
        missing,
        "Non-Existent Domain\nexternal-to-missing.testns.svc.cluster.local. 5 IN CNAME nobody.testns.svc.cluster.local.\n-SOA"
    );
}

#[test]
fn aliases_are_followed_so_far() {
    let mut zone = zone();
    for i in 0..9 {
        let next = if i == 0 {
            "svc1".to_owned()
        } else {
            format!("chain{}", i - 1)
        };
        let target = format!("{next}.testns.svc.cluster.local");
        zone.set_service(&service(
            &format!("chain{i}"),
            json!({"type": "ExternalName", "externalName": target}),
        ));
    }
    let records = |name: &str| {
        let message = ask_at(
            &zone,
            &format!("{name}.testns.svc.cluster.local."),
            A,
            0,
            65_535,
        )
        .expect("answer");
        message.answers.len()
    };
    assert_eq!(
        (records("chain7"), records("chain8")),
        (9, 0),
        "eight and the address, and no further"
    );
}

#[test]
fn pods() {
    check(&[
        (
            "10-240-0-1.podns.pod.cluster.local.",
            A,
            "10-240-0-1.podns.pod.cluster.local. 5 IN A 10.240.0.1",
        ),
        ("10-240-0-1.podns.pod.cluster.local.", AAAA, NODATA),
        (
            "1234-abcd--1.podns.pod.cluster.local.",
            AAAA,
            "1234-abcd--1.podns.pod.cluster.local. 5 IN AAAA 1234:abcd::1",
        ),
        ("blah.podns.pod.cluster.local.", A, NXDOMAIN),
        ("10-240-0-256.podns.pod.cluster.local.", A, NXDOMAIN),
        ("a.10-240-0-1.podns.pod.cluster.local.", A, NXDOMAIN),
        ("podns.pod.cluster.local.", A, NODATA),
    ]);
}

#[test]
fn addresses_have_names() {
    check(&[
        (
            "1.0.0.10.in-addr.arpa.",
            PTR,
            "1.0.0.10.in-addr.arpa. 5 IN PTR svc1.testns.svc.cluster.local.",
        ),
        (
            "1.0.0.10.IN-ADDR.ARPA.",
            PTR,
            "1.0.0.10.IN-ADDR.ARPA. 5 IN PTR svc1.testns.svc.cluster.local.",
        ),
        (
            "1.0.0.172.in-addr.arpa.",
            PTR,
            "1.0.0.172.in-addr.arpa. 5 IN PTR ep1a.svc1.testns.svc.cluster.local.",
        ),
        (
            "2.0.0.172.in-addr.arpa.",
            PTR,
            "2.0.0.172.in-addr.arpa. 5 IN PTR 172-0-0-2.hdls1.testns.svc.cluster.local.",
        ),
        (
            "4.0.0.172.in-addr.arpa.",
            PTR,
            "4.0.0.172.in-addr.arpa. 5 IN PTR dup-name.hdls1.testns.svc.cluster.local.",
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa.",
            PTR,
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa. 5 IN PTR svc6.testns.svc.cluster.local.",
        ),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.8.7.6.5.ip6.arpa.",
            PTR,
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.8.7.6.5.ip6.arpa. 5 IN PTR \
            5678-abcd--2.hdls1.testns.svc.cluster.local.",
        ),
        ("6.0.0.172.in-addr.arpa.", PTR, "elsewhere"),
        ("101.0.0.10.in-addr.arpa.", PTR, "elsewhere"),
        ("01.0.0.10.in-addr.arpa.", PTR, "elsewhere"),
        ("1.1.0.0.10.in-addr.arpa.", PTR, "elsewhere"),
        ("0.0.10.in-addr.arpa.", PTR, "elsewhere"),
    ]);
    assert_eq!(
        ask(&zone(), "1.0.0.10.in-addr.arpa.", A),
        "No Error",
        "our name, and not our authority"
    );
}

#[test]
fn addresses_take_turns_and_answers_are_cut_where_they_must() {
    let zone = zone();
    let name = "hdls1.testns.svc.cluster.local.";
    let order = |turn| {
        let message = ask_at(&zone, name, A, turn, 512).expect("answer");
        message
            .answers
            .iter()
            .map(|r| r.data.to_string())
            .collect::<Vec<_>>()
    };
    let firsts: BTreeSet<_> = (0..4).map(|turn| order(turn)[0].clone()).collect();
    assert_eq!(firsts.len(), 4, "each stands first once");
    assert_eq!(
        order(1),
        ["172.0.0.3", "172.0.0.4", "172.0.0.5", "172.0.0.2"]
    );
    let cut = ask_at(&zone, name, A, 0, 100).expect("answer");
    assert!(cut.metadata.truncation && cut.answers.len() == 3, "{cut}");
    let whole = ask_at(&zone, name, SRV, 0, 512).expect("answer");
    assert!(
        !whole.metadata.truncation && whole.answers.len() == 5,
        "additional records are left out in silence: {whole}"
    );
    assert!(whole.additionals.len() < 6, "{whole}");
}
