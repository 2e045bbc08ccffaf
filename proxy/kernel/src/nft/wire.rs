//! Netlink attributes. There are as many elements as there are endpoints in a cluster, so they are written and read
//! here and not by libnftnl, which makes an object of each.

use keelson_proxy_plan::nft::table::{Set, Value, Words};
use nix::libc;

use super::encode::code;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// Flags in an attribute's type.
const TYPE: u16 = !(3 << 14);

/// A length is two bytes: what is in an attribute is at most this long, with some room left.
const LARGEST: usize = 60_000;

const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;
/// The element is the end of an interval, not in it itself.
pub(super) const INTERVAL_END: u32 = 1;

/// Appends an attribute.
pub(super) fn put(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    let length = (bytes.len() + 4) as u16;
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends a text with its end.
pub(super) fn put_text(out: &mut Vec<u8>, kind: u16, text: &str) {
    put(out, kind, &[text.as_bytes(), &[0]].concat());
}

/// Appends an attribute of attributes.
fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0, 0]);
    out.extend((kind | NESTED).to_ne_bytes());
    fill(out);
    let length = (out.len() - start) as u16;
    if let Some(place) = out.get_mut(start..start + 2) {
        place.copy_from_slice(&length.to_ne_bytes());
    }
}

/// An attribute's kind and bytes, one after the other. What is cut short is left out.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let body = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & TYPE, body))
    })
}

/// The attribute of a kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, b)| b)
}

/// A number in the network's byte order.
pub(super) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    let bytes = find(bytes, kind)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A text up to its end.
pub(super) fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    let bytes = find(bytes, kind)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(bytes.get(..end)?).ok()
}

/// The attributes of messages about a set's elements, as many messages as it takes. To remove one its key is enough.
pub(super) fn elements(
    table: &str,
    name: &str,
    set: &Set,
    elements: &[(Words, Value)],
    with_values: bool,
) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut rest = elements.iter().peekable();
    while rest.peek().is_some() {
        let mut body = Vec::new();
        put_text(&mut body, ELEMENTS_TABLE, table);
        put_text(&mut body, ELEMENTS_SET, name);
        nest(&mut body, ELEMENTS_LIST, |out| {
            let start = out.len();
            while out.len() - start < LARGEST {
                let Some((key, value)) = rest.next() else {
                    break;
                };
                if set.intervals {
                    interval(out, key);
                } else {
                    element(out, key, if with_values { value } else { &Value::None });
                }
            }
        });
        bodies.push(body);
    }
    bodies
}

fn element(out: &mut Vec<u8>, key: &[u8], value: &Value) {
    nest(out, ELEMENT, |out| {
        nest(out, ELEMENT_KEY, |out| put(out, DATA_VALUE, key));
        match value {
            Value::None => {}
            Value::Fields(words) => nest(out, ELEMENT_DATA, |out| put(out, DATA_VALUE, words)),
            Value::Verdict(verdict) => nest(out, ELEMENT_DATA, |out| {
                nest(out, DATA_VERDICT, |out| {
                    let (code, chain) = code(verdict);
                    put(out, VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        put_text(out, VERDICT_CHAIN, chain);
                    }
                });
            }),
        }
    });
}

/// Where an interval begins and, unless that is behind the last of all keys, where it is over.
fn interval(out: &mut Vec<u8>, ends: &[u8]) {
    let (first, last) = ends.split_at(ends.len() / 2);
    element(out, first, &Value::None);
    if let Some(end) = after(last) {
        nest(out, ELEMENT, |out| {
            put(out, ELEMENT_FLAGS, &INTERVAL_END.to_be_bytes());
            nest(out, ELEMENT_KEY, |out| put(out, DATA_VALUE, &end));
        });
    }
}

/// The key that follows.
fn after(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// The key before.
pub(super) fn before(key: &[u8]) -> Vec<u8> {
    let mut previous = key.to_vec();
    for byte in previous.iter_mut().rev() {
        let borrow = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrow {
            break;
        }
    }
    previous
}

/// Elements of a message.
pub(super) fn listed(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let list = find(body, ELEMENTS_LIST).unwrap_or_default();
    attributes(list).map(|(_, element)| element)
}

/// `nfgenmsg`: family, version, and an id in the network's byte order.
pub(super) fn generic(family: u8, id: u16) -> [u8; 4] {
    let [a, b] = id.to_be_bytes();
    [family, libc::NFNETLINK_V0 as u8, a, b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_one_another() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (&[10, 0, 0, 1], Some(&[10, 0, 0, 2])),
            (&[10, 0, 255, 255], Some(&[10, 1, 0, 0])),
            (&[255, 255, 255, 255], None),
        ];
        for (key, next) in cases {
            assert_eq!(after(key).as_deref(), *next);
            if let Some(next) = next {
                assert_eq!(before(next), *key);
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_left_out() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, 1, "ab");
        put(&mut bytes, 2, &[7; 5]);
        assert_eq!(text(&bytes, 1), Some("ab"));
        assert_eq!(find(&bytes, 2), Some(&[7; 5][..]));
        for end in 0..bytes.len() {
            let cut = bytes.get(..end).expect("part");
            assert!(attributes(cut).count() < 2 || end >= 17, "{end}");
        }
        // A length below its own header's.
        assert_eq!(attributes(&[2, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
    }
}
