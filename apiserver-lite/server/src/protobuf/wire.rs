//! The wire format of protobuf: numbered fields of varints, fixed words and slices.

/// The value of one field.
pub(super) enum Wire<'a> {
    Number(u64),
    Slice(&'a [u8]),
}

/// Takes the next field off; `None`: it is no protobuf.
pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Wire<'a>)> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(bytes)?),
        1 => Wire::Slice(take(bytes, 8)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Wire::Slice(take(bytes, length)?)
        }
        5 => Wire::Slice(take(bytes, 4)?),
        _ => return None,
    };
    Some((number, wire))
}

/// Takes a number off.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(head)
}

/// Whether a field says nothing: zero, empty, or a message of such fields (Go writes empty structs).
pub(super) fn vacuous(wire: &Wire<'_>, deeper: usize) -> bool {
    let mut rest = match wire {
        Wire::Number(n) => return *n == 0,
        Wire::Slice(slice) => *slice,
    };
    while !rest.is_empty() {
        match field(&mut rest) {
            Some((_, inner)) if deeper > 0 && vacuous(&inner, deeper - 1) => {}
            _ => return false,
        }
    }
    true
}
