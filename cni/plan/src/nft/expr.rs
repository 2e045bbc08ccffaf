//! The expressions of rules: what they load, compare, look up and do.

use super::Family;
use super::wire::Attributes;

/// The register that decides.
const DECISION: u32 = 0;
/// The first of the registers that are words (`NFT_REG32_00`).
const WORDS: u32 = 8;

/// `NF_DROP`, `NF_ACCEPT`.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
/// `NFT_JUMP`.
pub(super) const JUMP: i32 = -3;
/// `NFT_RETURN`.
const RETURN: i32 = -5;

fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::new().text(1, name).nest(2, data)
}

pub(super) fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut inner = Attributes::new().number(1, code as u32);
    if let Some(chain) = chain {
        inner = inner.text(2, chain);
    }
    Attributes::new().nest(2, &inner)
}

fn decide(code: i32, chain: Option<&str>) -> Attributes {
    let data = Attributes::new().number(1, DECISION);
    expression("immediate", &data.nest(2, &verdict(code, chain)))
}

/// Goes through a chain and comes back.
pub fn jump(chain: &str) -> Attributes {
    decide(JUMP, Some(chain))
}

/// Lets the packet through.
pub fn accept() -> Attributes {
    decide(ACCEPT, None)
}

/// Drops the packet.
pub fn drop() -> Attributes {
    decide(DROP, None)
}

/// Leaves the chain.
pub fn leave() -> Attributes {
    decide(RETURN, None)
}

/// Something of a packet that is loaded into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Its source address.
    Source(Family),
    /// Its destination address.
    Destination(Family),
    /// The number of its protocol.
    Protocol,
    /// Its destination port.
    Port,
    /// Its mark.
    Mark,
    /// Of what kind its destination is (`RTN_*`).
    DestinationType,
    /// The name of the link that it came by.
    Link,
    /// The hardware address that its frame says it comes from.
    Hardware,
}

impl Load {
    /// How many words it takes.
    fn words(self) -> u32 {
        match self {
            Self::Source(family) | Self::Destination(family) => family.width() / 4,
            Self::Link => 4,
            Self::Hardware => 2,
            _ => 1,
        }
    }

    fn into_word(self, word: u32) -> Attributes {
        let register = WORDS + word;
        let payload = |base, offset, length| {
            let data = Attributes::new().number(1, register).number(2, base);
            expression("payload", &data.number(3, offset).number(4, length))
        };
        let meta = |key| {
            let data = Attributes::new().number(1, register).number(2, key);
            expression("meta", &data)
        };
        // Payload bases: 0 the frame's header, 1 the network's, 2 the transport's. Where addresses stand: RFC 791, RFC 8200.
        match self {
            Self::Source(Family::V4) => payload(1, 12, 4),
            Self::Source(Family::V6) => payload(1, 8, 16),
            Self::Destination(Family::V4) => payload(1, 16, 4),
            Self::Destination(Family::V6) => payload(1, 24, 16),
            Self::Port => payload(2, 2, 2),
            Self::Protocol => meta(16),
            Self::Mark => meta(3),
            Self::Link => meta(6),
            Self::Hardware => payload(0, 6, 6),
            // Result 3: the type; flag 2: of the destination.
            Self::DestinationType => {
                let data = Attributes::new().number(1, register);
                expression("fib", &data.number(2, 3).number(3, 2))
            }
        }
    }
}

/// The parts of a key, one after the other.
pub fn load(key: &[Load]) -> Vec<Attributes> {
    let mut word = 0;
    let each = key.iter().map(|part| {
        let expression = part.into_word(word);
        word += part.words();
        expression
    });
    each.collect()
}

/// Goes on only if what was loaded is, or is not, this.
pub fn compare(bytes: &[u8], not: bool) -> Attributes {
    let data = Attributes::new().number(1, WORDS).number(2, not.into());
    expression("cmp", &data.nest(3, &Attributes::new().bytes(1, bytes)))
}

/// Does what a map says of the loaded key.
pub fn decide_by(map: &str) -> Attributes {
    look_up(map, DECISION)
}

fn look_up(map: &str, into: u32) -> Attributes {
    let data = Attributes::new().text(1, map).number(2, WORDS);
    expression("lookup", &data.number(3, into))
}

/// Translates the destination to the address and port that a map has for the loaded key.
pub fn translate_by(family: Family, map: &str) -> [Attributes; 2] {
    /// `NFT_NAT_DNAT`.
    const DNAT: u32 = 1;
    let data = Attributes::new()
        .number(1, DNAT)
        .number(2, family.number().into())
        .number(3, WORDS)
        .number(5, WORDS + family.width() / 4);
    [look_up(map, WORDS), expression("nat", &data)]
}

/// Masks what was loaded and sets bits in it.
fn bits(keep: &[u8], set: &[u8]) -> Attributes {
    let value = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
    let data = Attributes::new()
        .number(1, WORDS)
        .number(2, WORDS)
        .number(3, keep.len() as u32)
        .nest(4, &value(keep))
        .nest(5, &value(set));
    expression("bitwise", &data)
}

/// Keeps the bits of what was loaded that a mask has.
pub fn mask(mask: &[u8]) -> Attributes {
    bits(mask, &vec![0; mask.len()])
}

/// Sets a bit of the packet's mark.
pub fn set_mark(bit: u32) -> Vec<Attributes> {
    let store = Attributes::new().number(2, 3).number(3, WORDS);
    let mut all = load(&[Load::Mark]);
    let set = bits(&(!bit).to_ne_bytes(), &bit.to_ne_bytes());
    all.extend([set, expression("meta", &store)]);
    all
}

/// Goes on only with a bit in the packet's mark.
pub fn marked(bit: u32) -> Vec<Attributes> {
    let mut all = load(&[Load::Mark]);
    let bit = bit.to_ne_bytes();
    all.extend([mask(&bit), compare(&bit, false)]);
    all
}

/// Gives the packet the address of the link it leaves by, and a port that is picked at random: two connections that
/// begin at once must not get the same.
pub fn masquerade() -> Attributes {
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
    const RANDOM: u32 = 1 << 4;
    expression("masq", &Attributes::new().number(1, RANDOM))
}
