//! How much may go to a container and come from it. What goes to it is slowed down where its link's host end sends;
//! what comes from it is led over a link of its own (an `ifb`) first, which sends slowly. The figures are those of the
//! reference's `bandwidth`: bits, and a packet waits for 25 ms at most.

use serde::Deserialize;

use crate::config::{Attachment, NetConf, decode, invalid, or_default};
use crate::names;
use crate::nft::wire::Attributes;
use crate::protocol::{Error, code};

/// What the names of links begin with that containers' packets are led over.
const PREFIX: &str = "ksb";
/// How long a packet may wait, in seconds.
const LATENCY: f64 = 0.025;

/// A configuration of the type.
#[derive(Clone, Debug)]
pub struct Conf {
    /// What all types have.
    pub net: NetConf,
    /// To the container.
    pub ingress: Option<Shape>,
    /// From the container.
    pub egress: Option<Shape>,
}

/// containerd writes the names as they are in its own language.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    #[serde(default, alias = "IngressRate", deserialize_with = "or_default")]
    ingress_rate: u64,
    #[serde(default, alias = "IngressBurst", deserialize_with = "or_default")]
    ingress_burst: u64,
    #[serde(default, alias = "EgressRate", deserialize_with = "or_default")]
    egress_rate: u64,
    #[serde(default, alias = "EgressBurst", deserialize_with = "or_default")]
    egress_burst: u64,
    #[serde(default, deserialize_with = "or_default")]
    shaped_subnets: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    unshaped_subnets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(flatten)]
    own: Limits,
    #[serde(default, deserialize_with = "or_default")]
    runtime_config: Runtime,
}

#[derive(Default, Deserialize)]
struct Runtime {
    #[serde(default)]
    bandwidth: Option<Limits>,
}

/// A rate, as the kernel is told it (`tc-tbf(8)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
}

impl Conf {
    /// Parses and checks a configuration. What the configuration says is before what the runtime says.
    ///
    /// # Errors
    /// When a field is not what it may be, naming it.
    pub fn parse(input: &[u8]) -> Result<Self, Error> {
        let options: Options = decode(input)?;
        let net = NetConf::parse(input)?;
        let own = options.own;
        let said = [
            own.ingress_rate,
            own.ingress_burst,
            own.egress_rate,
            own.egress_burst,
        ];
        let given = options.runtime_config.bandwidth.unwrap_or_default();
        let limits = if said == [0; 4] { given } else { own };
        for (field, subnets) in [
            ("shapedSubnets", &limits.shaped_subnets),
            ("unshapedSubnets", &limits.unshaped_subnets),
        ] {
            if !subnets.is_empty() {
                let why = "all that goes to or comes from a container is slowed down, or nothing";
                return Err(Error::new(code::UNSUPPORTED_FIELD, field, why));
            }
        }
        let shape = Shape::of;
        Ok(Self {
            net,
            ingress: shape("ingress", limits.ingress_rate, limits.ingress_burst)?,
            egress: shape("egress", limits.egress_rate, limits.egress_burst)?,
        })
    }
}

impl Shape {
    fn of(way: &str, rate: u64, burst: u64) -> Result<Option<Self>, Error> {
        if (rate, burst) == (0, 0) {
            return Ok(None);
        }
        let whole = |field: &str, bits: u64| {
            let field = format!("{way}{field}");
            let why = format!("{bits}: at least 8 bits, where the other of rate and burst is set");
            Some(bits / 8)
                .filter(|bytes| *bytes > 0)
                .ok_or_else(|| invalid(&field, why))
        };
        let burst_bytes = u32::try_from(whole("Burst", burst)?);
        let burst = burst_bytes.map_err(|_| {
            let why = format!("{burst}: at most 4 GiB, in bits");
            invalid(&format!("{way}Burst"), why)
        })?;
        let rate = whole("Rate", rate)?;
        Ok(Some(Self { rate, burst }))
    }

    /// Bytes that may wait.
    fn limit(self) -> u32 {
        // Saturates.
        (self.rate as f64 * LATENCY) as u32
    }

    /// What the queue holds at most.
    pub fn room(self) -> u32 {
        self.limit().saturating_add(self.burst)
    }

    /// The rate in the field of 32 bits, which is full where another has it.
    pub fn short_rate(self) -> u32 {
        u32::try_from(self.rate).unwrap_or(u32::MAX)
    }

    /// The options of a token bucket (linux/pkt_sched.h, `TCA_TBF_*`).
    pub fn options(self) -> Vec<u8> {
        /// Nanoseconds of the kernel's unit of time.
        const TICK: u64 = 64;
        /// `TC_LINKLAYER_ETHERNET`: the kernel reckons itself what a packet takes.
        const ETHERNET: u8 = 1;
        let time = u64::from(self.burst).saturating_mul(1_000_000_000) / self.rate / TICK;
        let mut parameters = vec![0, ETHERNET];
        // Overhead, alignment and smallest packet are 0.
        parameters.extend([0; 6]);
        parameters.extend(self.short_rate().to_ne_bytes());
        // No rate that is never exceeded.
        parameters.extend([0; 12]);
        parameters.extend(self.room().to_ne_bytes());
        parameters.extend(u32::try_from(time).unwrap_or(u32::MAX).to_ne_bytes());
        parameters.extend([0; 4]);
        let options = Attributes::new()
            .bytes(1, &parameters)
            .bytes(4, &self.rate.to_ne_bytes())
            .bytes(6, &self.burst.to_ne_bytes());
        options.as_slice().to_vec()
    }

    /// Whether the parameters that the kernel shows are those of this shape.
    pub fn is(self, parameters: &[u8]) -> bool {
        let number = |at: usize| Some(u32::from_ne_bytes(*parameters.get(at..)?.first_chunk()?));
        number(8) == Some(self.short_rate()) && number(24) == Some(self.room())
    }
}

/// The options of a filter that leads every packet over another link (linux/pkt_cls.h, `TCA_U32_*`, `TCA_MIRRED_*`).
pub fn lead_over(link: u32) -> Vec<u8> {
    /// `TC_U32_TERMINAL`.
    const TERMINAL: u8 = 1;
    /// `TC_ACT_STOLEN`, `TCA_EGRESS_REDIR`.
    const STOLEN: u32 = 4;
    const SEND: u32 = 1;
    // One key of which no bit counts.
    let mut selector = vec![TERMINAL, 0, 1, 0];
    selector.extend([0; 12 + 16]);
    let mirror: Vec<u8> = [0, 0, STOLEN, 0, 0, SEND, link]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let action = Attributes::new()
        .text(1, "mirred")
        .nest(2, &Attributes::new().bytes(2, &mirror));
    let options = Attributes::new()
        .bytes(5, &selector)
        .nest(7, &Attributes::new().nest(1, &action));
    options.as_slice().to_vec()
}

/// The link that an attachment's packets are led over.
pub fn own_link(network: &str, container: &str, ifname: &str) -> String {
    format!(
        "{PREFIX}{}",
        names::short_hash(&[network, container, ifname])
    )
}

/// Whether a link is such a one, of a network, and no valid attachment has it.
pub fn is_stale(link: &str, alias: &str, network: &str, valid: &[Attachment]) -> bool {
    let own = |a: &Attachment| own_link(network, &a.container, &a.ifname) == link;
    link.starts_with(PREFIX)
        && alias.split(' ').nth(1) == names::alias(network, "", "").split(' ').nth(1)
        && !valid.iter().any(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(limits: Value) -> Result<Conf, Error> {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bandwidth"});
        conf["runtimeConfig"] = json!({"bandwidth": limits});
        Conf::parse(conf.to_string().as_bytes())
    }

    #[test]
    fn rates_are_in_bits_and_both_are_needed() {
        let shape = |rate, burst| Some(Shape { rate, burst });
        let conf = parse(json!({"ingressRate": 8000, "ingressBurst": 80})).expect("valid");
        assert_eq!((conf.ingress, conf.egress), (shape(1000, 10), None));
        let conf = parse(json!({"IngressRate": 8000, "IngressBurst": 80})).expect("as containerd");
        assert_eq!(conf.ingress, shape(1000, 10));
        let conf = parse(json!({"egressRate": 1u64 << 40, "egressBurst": 8000})).expect("valid");
        let fast = conf.egress.expect("one");
        assert_eq!((fast.rate, fast.short_rate()), (1 << 37, u32::MAX));
        assert_eq!(shape(1000, 10).map(Shape::room), Some(35));
        type Case = (&'static str, u32, Value);
        let cases: &[Case] = &[
            (
                "no burst",
                code::INVALID_CONFIG,
                json!({"ingressRate": 8000}),
            ),
            (
                "no rate",
                code::INVALID_CONFIG,
                json!({"egressBurst": 8000}),
            ),
            (
                "less than a byte",
                code::INVALID_CONFIG,
                json!({"egressRate": 7, "egressBurst": 8000}),
            ),
            (
                "huge burst",
                code::INVALID_CONFIG,
                json!({"egressRate": 8000, "egressBurst": u64::MAX}),
            ),
            (
                "negative",
                code::DECODE_FAILURE,
                json!({"egressRate": -1, "egressBurst": 8}),
            ),
            (
                "subnets",
                code::UNSUPPORTED_FIELD,
                json!({"shapedSubnets": ["10.0.0.0/8"]}),
            ),
        ];
        for (name, code, limits) in cases {
            assert_eq!(parse(limits.clone()).expect_err(name).code, *code, "{name}");
        }
    }

    #[test]
    fn what_is_told_is_known_again() {
        let shape = Shape {
            rate: 125_000,
            burst: 12_500,
        };
        let options = shape.options();
        let parameters = crate::nft::wire::find(&options, 1).expect("parameters");
        assert_eq!(parameters.len(), 36);
        assert!(shape.is(parameters));
        assert!(!Shape { burst: 1, ..shape }.is(parameters));
        assert!(!shape.is(&[]));
    }

    #[test]
    fn stale_is_what_no_valid_attachment_has() {
        let valid = [Attachment {
            container: "a".into(),
            ifname: "eth0".into(),
        }];
        let rows = [
            ("pods", "a", false),
            ("pods", "b", true),
            ("other", "b", false),
        ];
        for (network, container, want) in rows {
            let link = own_link(network, container, "eth0");
            let alias = names::alias(network, container, "eth0");
            assert!(crate::protocol::valid_ifname(&link));
            assert_eq!(
                is_stale(&link, &alias, "pods", &valid),
                want,
                "{network} {container}"
            );
        }
        assert!(!is_stale(
            "ksn000000000000",
            "keelson pods b eth0",
            "pods",
            &valid
        ));
    }
}
