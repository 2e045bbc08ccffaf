use clap::Parser;

use super::*;
use std::time::Duration;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn flags(args: &str) -> Flags {
    let args = std::iter::once("proxy").chain(args.split_whitespace());
    Cli::try_parse_from(args).expect("flags").flags
}

/// A file with these lines.
fn file(lines: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{lines}\n")
}

fn load(lines: &str, args: &str) -> Loaded {
    Loaded::new(Some(&file(lines)), &flags(args)).expect(lines)
}

/// What kubeadm writes: all fields, most of them empty.
const KUBEADM: &str = "
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: '', burst: 0, contentType: '', kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: '', interfaceNamePrefix: ''}
detectLocalMode: ''
enableProfiling: false
healthzBindAddress: ''
hostnameOverride: ''
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: '', strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: '0'}, text: {infoBufferSize: '0'}}, verbosity: 0}
metricsBindAddress: ''
mode: ''
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ''
showHiddenMetricsForVersion: ''
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: '', rootHnsEndpointName: '', sourceVip: ''}
";

#[test]
fn kubeadms_file_gives_upstreams_defaults_and_no_warning() {
    let loaded = load(KUBEADM, "--hostname-override=Node-1");
    assert_eq!(loaded.warnings, [""; 0]);
    insta::assert_debug_snapshot!(loaded.settings);
}

#[test]
fn nothing_at_all_is_the_same_but_for_what_the_file_said() {
    let mut of_file = load(KUBEADM, "").settings;
    let none = Loaded::new(None, &Flags::default()).expect("none");
    assert_eq!(none.warnings, [""; 0]);
    of_file.kubeconfig = None;
    of_file.detect_local = DetectLocal::ClusterCidr(Vec::new());
    assert_eq!(none.settings, of_file);
}

#[test]
fn what_is_in_force_reads_back() {
    let args = "--mode ipvs --v=4 --masquerade-all --ipvs-strict-arp=true --oom-score-adj -5";
    let loaded = load(KUBEADM, args);
    let path = std::env::temp_dir().join(format!("keelson-config-{}", std::process::id()));
    loaded.write(&path).expect("write");
    let again = flags(&format!("--config {}", path.display()));
    let again = Loaded::read(&again).expect("reads back");
    std::fs::remove_file(&path).expect("remove");
    assert_eq!(again.settings, loaded.settings);
    assert_eq!(again.configz(), loaded.configz());
    assert_eq!(loaded.configz()["kubeproxy.config.k8s.io"]["mode"], "ipvs");
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    let cases = [
        ("iptabels: {}", "iptabels"),
        ("iptables: {masqueradebit: 14}", "iptables"),
        ("ipvs: {scheduler: 5}", "ipvs.scheduler"),
        ("conntrack: {max: 5}", "conntrack"),
        ("winkernel: {network: x}", "winkernel"),
        (
            "logging: {options: {json: {split: true}}}",
            "logging.options.json",
        ),
        ("clientConnection: {kubeConfig: x}", "clientConnection"),
        ("logging: {colour: red}", "logging"),
        (
            "mode: kernelspace",
            "mode: is \"kernelspace\" (that is Windows')",
        ),
        (
            "mode: fast",
            "known are auto, nftables, iptables, ipvs, userspace",
        ),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit"),
        ("nftables: {masqueradeBit: -1}", "nftables.masqueradeBit"),
        ("iptables: {syncPeriod: 5}", "iptables.syncPeriod"),
        ("iptables: {syncPeriod: -5s}", "iptables.syncPeriod"),
        (
            "iptables: {syncPeriod: 5s, minSyncPeriod: 6s}",
            "iptables.syncPeriod: must not be less",
        ),
        ("nftables: {syncPeriod: soon}", "nftables.syncPeriod"),
        (
            "iptables: {snatNodeInternalIP: true}",
            "iptables.snatNodeInternalIP: must be false or left out",
        ),
        (
            "ipvs: {excludeCIDRs: [10.0.0.0/8, 10.0.0.0/99]}",
            "ipvs.excludeCIDRs[1]",
        ),
        ("ipvs: {tcpTimeout: -1s}", "ipvs.tcpTimeout"),
        ("ipvs: {scheduler: 'a b'}", "ipvs.scheduler"),
        ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore"),
        ("conntrack: {udpTimeout: x}", "conntrack.udpTimeout"),
        ("oomScoreAdj: -1001", "oomScoreAdj"),
        ("bindAddress: here", "bindAddress"),
        ("healthzBindAddress: localhost:1", "healthzBindAddress"),
        ("metricsBindAddress: 127.0.0.1:0", "metricsBindAddress"),
        ("clusterCIDR: 10.0.0.0", "clusterCIDR[0]"),
        (
            "clusterCIDR: '10.0.0.0/8,10.1.0.0/16'",
            "clusterCIDR: must be one range",
        ),
        (
            "clusterCIDR: '10.0.0.0/8,fd00::/48,fd01::/48'",
            "clusterCIDR: must be one range",
        ),
        (
            "nodePortAddresses: [primary, second]",
            "nodePortAddresses[1]",
        ),
        ("portRange: 5-4", "portRange"),
        ("portRange: 65000+1000", "portRange"),
        (
            "showHiddenMetricsForVersion: latest",
            "showHiddenMetricsForVersion",
        ),
        (
            "detectLocalMode: BridgeInterface",
            "detectLocal.bridgeInterface",
        ),
        (
            "detectLocalMode: InterfaceNamePrefix",
            "detectLocal.interfaceNamePrefix",
        ),
        ("detectLocalMode: Guess", "detectLocalMode"),
        ("clientConnection: {burst: -1}", "clientConnection.burst"),
        ("logging: {format: xml}", "logging.format"),
        ("udpIdleTimeout: -1s", "udpIdleTimeout"),
        ("configSyncPeriod: x", "configSyncPeriod"),
        ("featureGates: {A: maybe}", "featureGates.A"),
        ("mode: iptables\nmode: ipvs", "duplicate"),
        ("a: [", "YAML"),
    ];
    for (lines, word) in cases {
        let error = Loaded::new(Some(&file(lines)), &Flags::default()).expect_err(lines);
        assert!(error.to_string().contains(word), "{lines}: {error}");
    }
    for (text, word) in [
        ("", "mapping"),
        ("- a", "mapping"),
        ("mode: ipvs", "apiVersion and kind"),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1\nkind: KubeProxyConfiguration",
            "apiVersion and kind",
        ),
    ] {
        let error = Loaded::new(Some(text), &Flags::default()).expect_err(text);
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
    let many = Loaded::new(
        Some(&file("mode: fast\noomScoreAdj: 5000")),
        &Flags::default(),
    );
    assert_eq!(many.expect_err("two").0.len(), 2, "all at once");
}

#[test]
fn what_does_nothing_here_is_said() {
    let cases = [
        ("featureGates: {SomeGate: true}", "SomeGate"),
        (
            "clientConnection: {contentType: application/vnd.kubernetes.protobuf}",
            "contentType",
        ),
        ("clientConnection: {qps: 50}", "qps"),
        ("configSyncPeriod: 1h", "configSyncPeriod"),
        ("enableProfiling: true", "enableProfiling"),
        ("showHiddenMetricsForVersion: '1.35'", "showHidden"),
        ("winkernel: {networkName: x}", "winkernel"),
        ("windowsRunAsService: true", "windowsRunAsService"),
        (
            "logging: {vmodule: [{filePattern: a, verbosity: 3}]}",
            "vmodule",
        ),
        ("logging: {flushFrequency: 10s}", "flushFrequency"),
        (
            "logging: {options: {json: {splitStream: true}}}",
            "logging.options",
        ),
        ("portRange: 40000-40100", "portRange"),
    ];
    for (lines, word) in cases {
        let warnings = load(lines, "").warnings;
        assert!(
            warnings.len() == 1 && warnings[0].contains(word),
            "{lines}: {warnings:?}"
        );
    }
    let over = load(
        "mode: ipvs",
        "--proxy-mode=iptables -v 2 --hostname-override x",
    )
    .warnings;
    assert_eq!(
        over,
        ["--mode: wins over the file, kube-proxy would drop it"]
    );
}

#[test]
fn flags_fill_the_same_value() {
    let with = |args: &str| Loaded::new(None, &flags(args)).expect(args).settings;
    let same = [
        ("mode: nftables", "--mode nftables"),
        (
            "mode: userspace\nportRange: 40000+99\nudpIdleTimeout: 1s",
            "--proxy-mode=userspace --proxy-port-range=40000-40099 --udp-timeout 1s",
        ),
        (
            "clusterCIDR: '10.0.0.0/8,fd00::/48'",
            "--cluster-cidr 10.1.2.3/8,fd00::/48",
        ),
        (
            "nodePortAddresses: [primary, 10.0.0.0/8]",
            "--nodeport-addresses primary,10.0.0.0/8",
        ),
        (
            "iptables: {masqueradeBit: 15, localhostNodePorts: false, syncPeriod: 1m, minSyncPeriod: 2s}\nnftables: {syncPeriod: 60s, minSyncPeriod: 2s}",
            "--iptables-masquerade-bit 15 --iptables-localhost-nodeports=false --iptables-sync-period 1m --iptables-min-sync-period 2s",
        ),
        (
            "iptables: {masqueradeAll: true}\nnftables: {masqueradeAll: true}",
            "--masquerade-all",
        ),
        (
            "mode: ipvs\nipvs: {scheduler: lc, strictARP: true, excludeCIDRs: [10.0.0.0/8], tcpTimeout: 5s, tcpFinTimeout: 6s, udpTimeout: 7s, syncPeriod: 8s, minSyncPeriod: 1s}",
            "--mode ipvs --ipvs-scheduler lc --ipvs-strict-arp --ipvs-exclude-cidrs 10.0.0.0/8 --ipvs-tcp-timeout 5s --ipvs-tcpfin-timeout 6s --ipvs-udp-timeout 7s --ipvs-sync-period 8s --ipvs-min-sync-period 1s",
        ),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br0}",
            "--detect-local-mode BridgeInterface --pod-bridge-interface br0",
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
            "--detect-local-mode InterfaceNamePrefix --pod-interface-name-prefix veth",
        ),
        (
            "conntrack: {maxPerCore: 0, min: 5, tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 2h, tcpBeLiberal: true, udpTimeout: 30s, udpStreamTimeout: 3m}",
            "--conntrack-max-per-core 0 --conntrack-min 5 --conntrack-tcp-timeout-established 1h --conntrack-tcp-timeout-close-wait 2h --conntrack-tcp-be-liberal --conntrack-udp-timeout 30s --conntrack-udp-timeout-stream 3m",
        ),
        ("bindAddress: '::'", "--bind-address ::"),
        (
            "bindAddress: 10.0.0.5\nhealthzBindAddress: 10.0.0.5\nmetricsBindAddress: '[::1]:99'",
            "--bind-address 10.0.0.5 --healthz-bind-address 10.0.0.5 --metrics-bind-address [::1]:99",
        ),
        (
            "oomScoreAdj: -7\nbindAddressHardFail: true\nhostnameOverride: n1",
            "--oom-score-adj=-7 --bind-address-hard-fail --hostname-override N1",
        ),
        (
            "clientConnection: {kubeconfig: /k}\nlogging: {verbosity: 4, format: json}",
            "--kubeconfig /k --v 4 --logging-format json",
        ),
    ];
    for (lines, args) in same {
        assert_eq!(with(args), load(lines, "").settings, "{args}");
    }
    assert_eq!(
        with("--master https://x").master.as_deref(),
        Some("https://x")
    );
    for off in [
        "--healthz-port 0 --metrics-port=0",
        "--healthz-bind-address= --metrics-bind-address=",
    ] {
        let settings = with(off);
        assert_eq!((settings.healthz, settings.metrics), (None, None), "{off}");
    }
    let port = with("--healthz-port 99").healthz.expect("on");
    assert_eq!(port.to_string(), "0.0.0.0:99");
    assert!(flags("--cleanup").cleanup && !flags("--cleanup=false").cleanup);
}

#[test]
fn modes_have_their_own_fields() {
    let lines = "iptables: {syncPeriod: 1s, masqueradeBit: 1}\nipvs: {syncPeriod: 2s}\nnftables: {syncPeriod: 3s, masqueradeBit: 3}";
    let settings = load(lines, "").settings;
    let rows = [
        (Mode::Iptables, 1, 1, NodePortAddress::All),
        (Mode::Userspace, 1, 1, NodePortAddress::All),
        (Mode::Ipvs, 2, 1, NodePortAddress::All),
        (Mode::Nftables, 3, 3, NodePortAddress::Primary),
    ];
    for (mode, seconds, bit, address) in rows {
        let name = mode.name();
        assert_eq!(
            settings.periods(mode).resync,
            Duration::from_secs(seconds),
            "{name}"
        );
        assert_eq!(
            settings.health_timeout(mode),
            Duration::from_secs(2 * seconds),
            "{name}"
        );
        assert_eq!(settings.masquerade(mode).bit, bit, "{name}");
        assert_eq!(settings.node_port_addresses(mode), [address], "{name}");
    }
    let conntrack = settings.conntrack;
    assert_eq!(conntrack.max(8), Some(262_144), "by cores");
    assert_eq!(conntrack.max(2), Some(131_072), "but at least");
    let usual = [
        ("nf_conntrack_max", 262_144),
        ("nf_conntrack_tcp_timeout_established", 86_400),
        ("nf_conntrack_tcp_timeout_close_wait", 3_600),
    ];
    assert_eq!(conntrack.sysctls(8), usual, "what is zero is left");
    let liberal = Conntrack {
        tcp_be_liberal: true,
        udp_timeout: Duration::from_secs(30),
        ..conntrack
    };
    let more = [
        ("nf_conntrack_tcp_be_liberal", 1),
        ("nf_conntrack_udp_timeout", 30),
    ];
    assert_eq!(liberal.sysctls(8), [&usual[..], &more].concat());
    assert_eq!(
        Conntrack {
            max_per_core: 0,
            ..conntrack
        }
        .max(8),
        None
    );
}
