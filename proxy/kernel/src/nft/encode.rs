//! Rules as the kernel's expressions. Registers are words of four bytes, counted from 0.

use std::ffi::CString;

use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::nft::table::{Field, Load, Name, Part, Rule, Verdict};
use nftnl_sys as nftnl;
use nix::libc;

use super::sys::{Expr, Rule as Object};

/// The first of the registers that are words.
const WORDS: u32 = libc::NFT_REG32_00 as u32;
/// The register that decides.
const VERDICT: u32 = libc::NFT_REG_VERDICT as u32;

pub(super) const META_MARK: u32 = libc::NFT_META_MARK as u32;
pub(super) const META_PRIORITY: u32 = libc::NFT_META_PRIORITY as u32;
pub(super) const META_INTERFACE: u32 = libc::NFT_META_IIFNAME as u32;
pub(super) const META_PROTOCOL: u32 = libc::NFT_META_L4PROTO as u32;
pub(super) const CT_STATE: u32 = libc::NFT_CT_STATE as u32;
pub(super) const CT_STATUS: u32 = libc::NFT_CT_STATUS as u32;
pub(super) const CT_DESTINATION: u32 = libc::NFT_CT_DST_IP as u32;
pub(super) const CT_DESTINATION6: u32 = libc::NFT_CT_DST_IP6 as u32;
pub(super) const CT_PORT: u32 = libc::NFT_CT_PROTO_DST as u32;
pub(super) const CT_SOURCE: u32 = libc::NFT_CT_SRC_IP as u32;
pub(super) const CT_SOURCE6: u32 = libc::NFT_CT_SRC_IP6 as u32;
pub(super) const CT_SOURCE_PORT: u32 = libc::NFT_CT_PROTO_SRC as u32;
/// `IP_CT_DIR_ORIGINAL`: from who began.
pub(super) const ORIGINAL: u8 = 0;
/// `IP_CT_DIR_REPLY`: from who answers.
pub(super) const REPLY: u8 = 1;
pub(super) const NETWORK: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
pub(super) const TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;
/// `NFTA_FIB_F_SADDR`.
pub(super) const FIB_SOURCE: u32 = 1;
/// `NFTA_FIB_F_DADDR`.
pub(super) const FIB_DESTINATION: u32 = 2;
/// `NFT_FIB_RESULT_ADDRTYPE`.
pub(super) const FIB_TYPE: u32 = 3;
pub(super) const RANDOM: u32 = libc::NFT_NG_RANDOM as u32;
pub(super) const INVERTED: u32 = libc::NFT_LOOKUP_F_INV as u32;
pub(super) const EQUAL: u32 = libc::NFT_CMP_EQ as u32;
pub(super) const UNEQUAL: u32 = libc::NFT_CMP_NEQ as u32;
const UPDATE: u32 = libc::NFT_DYNSET_OP_UPDATE as u32;
const DNAT: u32 = libc::NFT_NAT_DNAT as u32;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: two connections that begin at once must not get the same port.
const RANDOM_FULLY: u32 = 1 << 4;
/// Destination port, in the headers of TCP, UDP and SCTP alike.
pub(super) const PORT_OFFSET: u32 = 2;
/// Type, in ICMPv6's header.
pub(super) const ICMP_TYPE_OFFSET: u32 = 0;

/// Where an address stands in the header.
pub(super) fn address_offset(family: Family, source: bool) -> u32 {
    match (family, source) {
        (Family::V4, true) => 12,
        (Family::V4, false) => 16,
        (Family::V6, true) => 8,
        (Family::V6, false) => 24,
    }
}

/// Writes a rule's parts into an object; `None` where this libnftnl lacks an expression, or a name has a zero in it.
pub(super) fn rule(object: &mut Object, family: Family, rule: &Rule) -> Option<()> {
    let mut encoder = Encoder { family, object };
    rule.iter().try_for_each(|part| encoder.part(part))
}

struct Encoder<'a> {
    family: Family,
    object: &'a mut Object,
}

impl Encoder<'_> {
    fn push(&mut self, expr: Expr) -> Option<()> {
        self.object.push(expr);
        Some(())
    }

    fn part(&mut self, part: &Part) -> Option<()> {
        match part {
            Part::Is { load, bytes, not } => {
                self.load(load, 0)?;
                self.compare(bytes, *not)
            }
            Part::Bits { load, mask, not } => {
                self.load(load, 0)?;
                self.mask(&mask.to_ne_bytes(), &[0; 4])?;
                self.compare(&[0; 4], !*not)
            }
            Part::Within { load, net, not } => {
                self.load(load, 0)?;
                let mask = octets(net.netmask());
                self.mask(&mask, &vec![0; mask.len()])?;
                self.compare(&octets(net.network()), *not)
            }
            Part::Between { load, first, last } => {
                self.load(load, 0)?;
                let range = Expr::new(c"range")?
                    .number(nftnl::NFTNL_EXPR_RANGE_SREG, WORDS)
                    .number(nftnl::NFTNL_EXPR_RANGE_OP, libc::NFT_RANGE_EQ as u32)
                    .bytes(nftnl::NFTNL_EXPR_RANGE_FROM_DATA, &first.to_be_bytes())
                    .bytes(nftnl::NFTNL_EXPR_RANGE_TO_DATA, &last.to_be_bytes());
                self.push(range)
            }
            Part::In { key, set, not } => {
                self.loads(key, 0)?;
                let lookup = lookup(0, set)?;
                let flags = if *not { INVERTED } else { 0 };
                self.push(lookup.number(nftnl::NFTNL_EXPR_LOOKUP_FLAGS, flags))
            }
            Part::Decide { key, map } => {
                self.loads(key, 0)?;
                let lookup = lookup(0, map)?;
                self.push(lookup.number(nftnl::NFTNL_EXPR_LOOKUP_DREG, VERDICT))
            }
            Part::Classify { key, map } => {
                self.loads(key, 0)?;
                let found = lookup(0, map)?;
                self.push(found.number(nftnl::NFTNL_EXPR_LOOKUP_DREG, WORDS))?;
                self.set_meta(META_PRIORITY)
            }
            Part::Unclassify => {
                let none = Expr::new(c"immediate")?
                    .number(nftnl::NFTNL_EXPR_IMM_DREG, WORDS)
                    .bytes(nftnl::NFTNL_EXPR_IMM_DATA, &[0; 4]);
                self.push(none)?;
                self.set_meta(META_PRIORITY)
            }
            Part::Translate { key, map } => self.translate(key, map),
            Part::Remember {
                key,
                value,
                map,
                seconds,
            } => self.remember(key, value, map, *seconds),
            Part::Masquerade => {
                let masquerade = Expr::new(c"masq")?;
                self.push(masquerade.number(nftnl::NFTNL_EXPR_MASQ_FLAGS, RANDOM_FULLY))
            }
            Part::SetMark(bits) => self.set_mark(*bits, *bits),
            Part::ClearMark(bits) => self.set_mark(*bits, 0),
            Part::Reject => self.reject(),
            Part::Verdict(verdict) => self.verdict(verdict),
        }
    }

    /// Loads fields one after the other; gives the word behind them.
    fn loads(&mut self, key: &[Load], mut word: u32) -> Option<u32> {
        for load in key {
            word = self.load(load, word)?;
        }
        Some(word)
    }

    /// Loads a value; gives the word behind it.
    fn load(&mut self, load: &Load, word: u32) -> Option<u32> {
        let register = WORDS + word;
        let address = Field::Address.width(self.family) as u32;
        let payload = |base, offset, length| {
            let payload = Expr::new(c"payload")?
                .number(nftnl::NFTNL_EXPR_PAYLOAD_DREG, register)
                .number(nftnl::NFTNL_EXPR_PAYLOAD_BASE, base)
                .number(nftnl::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
                .number(nftnl::NFTNL_EXPR_PAYLOAD_LEN, length);
            Some(payload)
        };
        let simple = |kind, key_attribute, key, register_attribute| {
            let expr = Expr::new(kind)?.number(key_attribute, key);
            Some(expr.number(register_attribute, register))
        };
        let meta = |key| {
            simple(
                c"meta",
                nftnl::NFTNL_EXPR_META_KEY,
                key,
                nftnl::NFTNL_EXPR_META_DREG,
            )
        };
        let ct = |key| {
            simple(
                c"ct",
                nftnl::NFTNL_EXPR_CT_KEY,
                key,
                nftnl::NFTNL_EXPR_CT_DREG,
            )
        };
        let original = |key| Some(ct(key)?.byte(nftnl::NFTNL_EXPR_CT_DIR, ORIGINAL));
        let reply = |key| Some(ct(key)?.byte(nftnl::NFTNL_EXPR_CT_DIR, REPLY));
        let (source, destination) = match self.family {
            Family::V4 => (CT_SOURCE, CT_DESTINATION),
            Family::V6 => (CT_SOURCE6, CT_DESTINATION6),
        };
        let fib = |flags| {
            let fib = simple(
                c"fib",
                nftnl::NFTNL_EXPR_FIB_FLAGS,
                flags,
                nftnl::NFTNL_EXPR_FIB_DREG,
            );
            Some(fib?.number(nftnl::NFTNL_EXPR_FIB_RESULT, FIB_TYPE))
        };
        let (expr, words) = match load {
            Load::Source => (
                payload(NETWORK, address_offset(self.family, true), address)?,
                address / 4,
            ),
            Load::Destination => (
                payload(NETWORK, address_offset(self.family, false), address)?,
                address / 4,
            ),
            Load::Protocol => (meta(META_PROTOCOL)?, 1),
            Load::Port => (payload(TRANSPORT, PORT_OFFSET, 2)?, 1),
            Load::OriginalDestination => (original(destination)?, address / 4),
            Load::OriginalPort => (original(CT_PORT)?, 1),
            Load::OriginalSource => (original(source)?, address / 4),
            Load::ReplySource => (reply(source)?, address / 4),
            Load::ReplyPort => (reply(CT_SOURCE_PORT)?, 1),
            Load::Icmpv6Type => (payload(TRANSPORT, ICMP_TYPE_OFFSET, 1)?, 1),
            Load::Interface => (meta(META_INTERFACE)?, 4),
            Load::State => (ct(CT_STATE)?, 1),
            Load::Status => (ct(CT_STATUS)?, 1),
            Load::Mark => (meta(META_MARK)?, 1),
            Load::Class => (meta(META_PRIORITY)?, 1),
            Load::SourceType => (fib(FIB_SOURCE)?, 1),
            Load::DestinationType => (fib(FIB_DESTINATION)?, 1),
            Load::Random { count, first } => {
                let random = Expr::new(c"numgen")?
                    .number(nftnl::NFTNL_EXPR_NG_DREG, register)
                    .number(nftnl::NFTNL_EXPR_NG_TYPE, RANDOM)
                    .number(nftnl::NFTNL_EXPR_NG_MODULUS, *count)
                    .number(nftnl::NFTNL_EXPR_NG_OFFSET, *first);
                (random, 1)
            }
        };
        self.push(expr)?;
        Some(word + words)
    }

    fn mask(&mut self, mask: &[u8], xor: &[u8]) -> Option<()> {
        let bitwise = Expr::new(c"bitwise")?
            .number(nftnl::NFTNL_EXPR_BITWISE_SREG, WORDS)
            .number(nftnl::NFTNL_EXPR_BITWISE_DREG, WORDS)
            .number(nftnl::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32)
            .bytes(nftnl::NFTNL_EXPR_BITWISE_MASK, mask)
            .bytes(nftnl::NFTNL_EXPR_BITWISE_XOR, xor);
        self.push(bitwise)
    }

    fn compare(&mut self, bytes: &[u8], not: bool) -> Option<()> {
        let operator = if not { UNEQUAL } else { EQUAL };
        let compare = Expr::new(c"cmp")?
            .number(nftnl::NFTNL_EXPR_CMP_SREG, WORDS)
            .number(nftnl::NFTNL_EXPR_CMP_OP, operator)
            .bytes(nftnl::NFTNL_EXPR_CMP_DATA, bytes);
        self.push(compare)
    }

    fn remember(&mut self, key: &[Load], value: &[Load], map: &Name, seconds: u32) -> Option<()> {
        let behind = self.loads(key, 0)?;
        self.loads(value, behind)?;
        let update = Expr::new(c"dynset")?
            .text(
                nftnl::NFTNL_EXPR_DYNSET_SET_NAME,
                &CString::new(&**map).ok()?,
            )
            .number(nftnl::NFTNL_EXPR_DYNSET_OP, UPDATE)
            .number(nftnl::NFTNL_EXPR_DYNSET_SREG_KEY, WORDS)
            .number(nftnl::NFTNL_EXPR_DYNSET_SREG_DATA, WORDS + behind)
            .long(nftnl::NFTNL_EXPR_DYNSET_TIMEOUT, u64::from(seconds) * 1000);
        self.push(update)
    }

    fn translate(&mut self, key: &[Load], map: &Name) -> Option<()> {
        self.loads(key, 0)?;
        let found = lookup(0, map)?;
        self.push(found.number(nftnl::NFTNL_EXPR_LOOKUP_DREG, WORDS))?;
        let address = Field::Address.width(self.family) as u32 / 4;
        let family = match self.family {
            Family::V4 => libc::NFPROTO_IPV4,
            Family::V6 => libc::NFPROTO_IPV6,
        };
        let nat = Expr::new(c"nat")?
            .number(nftnl::NFTNL_EXPR_NAT_TYPE, DNAT)
            .number(nftnl::NFTNL_EXPR_NAT_FAMILY, family as u32)
            .number(nftnl::NFTNL_EXPR_NAT_REG_ADDR_MIN, WORDS)
            .number(nftnl::NFTNL_EXPR_NAT_REG_PROTO_MIN, WORDS + address);
        self.push(nat)
    }

    /// Sets these bits of the mark to those of `to`.
    fn set_mark(&mut self, bits: u32, to: u32) -> Option<()> {
        self.load(&Load::Mark, 0)?;
        self.mask(&(!bits).to_ne_bytes(), &to.to_ne_bytes())?;
        self.set_meta(META_MARK)
    }

    /// Sets something of the packet's own to what the first register holds.
    fn set_meta(&mut self, key: u32) -> Option<()> {
        let set = Expr::new(c"meta")?
            .number(nftnl::NFTNL_EXPR_META_KEY, key)
            .number(nftnl::NFTNL_EXPR_META_SREG, WORDS);
        self.push(set)
    }

    fn reject(&mut self) -> Option<()> {
        // ICMP type 3 code 3, ICMPv6 type 1 code 4: port unreachable.
        let code: u8 = match self.family {
            Family::V4 => 3,
            Family::V6 => 4,
        };
        let reject = Expr::new(c"reject")?
            .number(
                nftnl::NFTNL_EXPR_REJECT_TYPE,
                libc::NFT_REJECT_ICMP_UNREACH as u32,
            )
            .bytes(nftnl::NFTNL_EXPR_REJECT_CODE, &[code]);
        self.push(reject)
    }

    fn verdict(&mut self, verdict: &Verdict) -> Option<()> {
        let (code, chain) = code(verdict);
        let mut expr = Expr::new(c"immediate")?
            .number(nftnl::NFTNL_EXPR_IMM_DREG, VERDICT)
            .number(nftnl::NFTNL_EXPR_IMM_VERDICT, code as u32);
        if let Some(chain) = chain {
            expr = expr.text(nftnl::NFTNL_EXPR_IMM_CHAIN, &CString::new(&**chain).ok()?);
        }
        self.push(expr)
    }
}

/// A verdict's code, and the chain that it names.
pub(super) fn code(verdict: &Verdict) -> (i32, Option<&Name>) {
    match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (libc::NFT_RETURN, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
    }
}

fn lookup(word: u32, set: &Name) -> Option<Expr> {
    let lookup = Expr::new(c"lookup")?.number(nftnl::NFTNL_EXPR_LOOKUP_SREG, WORDS + word);
    Some(lookup.text(nftnl::NFTNL_EXPR_LOOKUP_SET, &CString::new(&**set).ok()?))
}

fn octets(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    }
}
