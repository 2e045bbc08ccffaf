//! Just enough DER to give a certificate or request a subject of several organizations: rcgen keeps one value an
//! attribute type. Both are `SEQUENCE { info, algorithm, BIT STRING }` (RFC 5280 4.1, RFC 2986 4.2), so rcgen makes
//! one with a placeholder for a name, the name is exchanged, and the result is signed again.

use rcgen::SigningKey;

use super::Error;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
/// `2.5.4.3` and `2.5.4.10`, with tag and length.
const COMMON_NAME: [u8; 5] = [0x06, 3, 0x55, 4, 3];
const ORGANIZATION: [u8; 5] = [0x06, 3, 0x55, 4, 10];

/// A `Name` with the organizations first, as Go writes it.
pub(super) fn name<S: AsRef<str>>(common_name: &str, organizations: &[S]) -> Vec<u8> {
    let attribute = |kind: [u8; 5], text: &str| {
        let value = tlv(UTF8_STRING, text.as_bytes());
        tlv(SET, &tlv(SEQUENCE, &[&kind, value.as_slice()].concat()))
    };
    let mut parts: Vec<u8> = organizations
        .iter()
        .flat_map(|o| attribute(ORGANIZATION, o.as_ref()))
        .collect();
    parts.extend(attribute(COMMON_NAME, common_name));
    tlv(SEQUENCE, &parts)
}

/// Exchanges one name for another in a signed object and signs it again.
pub(super) fn rename(
    signed: &[u8],
    from: &[u8],
    to: &[u8],
    key: &impl SigningKey,
) -> Result<Vec<u8>, Error> {
    let broken = || Error::Der("exchange the subject");
    let (body, _) = split(signed).ok_or_else(broken)?;
    let (info, rest) = split(body).ok_or_else(broken)?;
    let (algorithm, _) = split(rest).ok_or_else(broken)?;
    let at = info
        .windows(from.len())
        .position(|w| w == from)
        .ok_or_else(broken)?;
    let (before, after) = (info.get(..at), info.get(at + from.len()..));
    let (before, after) = before.zip(after).ok_or_else(broken)?;
    let info = tlv(SEQUENCE, &[before, to, after].concat());
    let signature = [&[0], key.sign(&info)?.as_slice()].concat();
    let parts = [info, tlv(SEQUENCE, algorithm), tlv(BIT_STRING, &signature)];
    Ok(tlv(SEQUENCE, &parts.concat()))
}

/// Tag, length, value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|b| *b == 0).collect();
    let mut out = vec![tag];
    match (significant.len(), significant.first()) {
        (0, _) => out.push(0),
        (1, Some(&short)) if short < 0x80 => out.push(short),
        // At most eight bytes of length: a usize.
        (n, _) => {
            out.push(0x80 | n as u8);
            out.extend(significant);
        }
    }
    out.extend(value);
    out
}

/// The value of the first element, and what comes after it.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().try_fold(0usize, |sum, b| {
                Some(sum.checked_mul(256)? + usize::from(*b))
            })?;
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_length_come_back() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let value = vec![7u8; length];
            let bytes = [tlv(SEQUENCE, &value), vec![1, 2]].concat();
            assert_eq!(
                split(&bytes),
                Some((value.as_slice(), &[1u8, 2][..])),
                "{length}"
            );
        }
    }

    #[test]
    fn cut_elements_are_refused() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 2, 1],
            &[0x30, 0x82, 1],
            &[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            assert_eq!(split(bytes), None, "{bytes:?}");
        }
    }
}
