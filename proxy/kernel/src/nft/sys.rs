//! libnftnl, as far as it is needed: objects that free themselves, and the netlink messages made of them. The only
//! place with `unsafe` here. Every object is private to the function or the value that made it, and is used by one
//! thread at a time.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use nftnl_sys as nftnl;

/// A message's largest size: an attribute has 64 KiB at most, a message has one that large.
const LARGEST: usize = 2 * (1 << 16);

/// Declares an owner of a libnftnl object.
macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $alloc:ident, $free:ident) => {
        $(#[$doc])*
        pub(super) struct $name(NonNull<nftnl::$raw>);

        impl $name {
            fn alloc() -> Self {
                // SAFETY: takes nothing; gives a new object or null.
                match NonNull::new(unsafe { nftnl::$alloc() }) {
                    Some(object) => Self(object),
                    // As Rust's own allocations do.
                    None => std::alloc::handle_alloc_error(std::alloc::Layout::new::<usize>()),
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: allocated by `alloc`, owned by this value alone, not used after.
                unsafe { nftnl::$free(self.0.as_ptr()) }
            }
        }
    };
}

owner!(
    /// A table.
    Table, nftnl_table, nftnl_table_alloc, nftnl_table_free
);
owner!(
    /// A chain.
    Chain, nftnl_chain, nftnl_chain_alloc, nftnl_chain_free
);
owner!(
    /// A rule.
    Rule, nftnl_rule, nftnl_rule_alloc, nftnl_rule_free
);
owner!(
    /// A set or a map.
    Set, nftnl_set, nftnl_set_alloc, nftnl_set_free
);

/// Declares how numbers and texts are set in an object: the library copies what it is given.
macro_rules! setters {
    ($name:ident, $u32:ident, $str:ident) => {
        impl $name {
            pub(super) fn number(&mut self, attribute: u32, value: u32) {
                // SAFETY: the object is ours; the attribute is one of its kind, or is ignored.
                unsafe { nftnl::$u32(self.0.as_ptr(), attribute as u16, value) }
            }

            pub(super) fn text(&mut self, attribute: u32, value: &CStr) {
                // SAFETY: as above; the text ends in a zero and is copied. Fails only without memory.
                let _ = unsafe { nftnl::$str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
            }
        }
    };
}

setters!(Set, nftnl_set_set_u32, nftnl_set_set_str);
setters!(Chain, nftnl_chain_set_u32, nftnl_chain_set_str);

impl Rule {
    fn text(&mut self, attribute: u32, value: &CStr) {
        // SAFETY: as above.
        let _ =
            unsafe { nftnl::nftnl_rule_set_str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
    }
}

/// An expression.
pub(super) struct Expr(NonNull<nftnl::nftnl_expr>);

impl Drop for Expr {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; a rule that takes it over forgets this value.
        unsafe { nftnl::nftnl_expr_free(self.0.as_ptr()) }
    }
}

impl Expr {
    /// One of the library's kinds; `None` where it does not know it.
    pub(super) fn new(kind: &CStr) -> Option<Self> {
        // SAFETY: the name ends in a zero; gives a new object or null.
        NonNull::new(unsafe { nftnl::nftnl_expr_alloc(kind.as_ptr()) }).map(Self)
    }

    pub(super) fn number(self, attribute: u32, value: u32) -> Self {
        // SAFETY: the object is ours; the attribute is one of its kind, or is ignored.
        unsafe { nftnl::nftnl_expr_set_u32(self.0.as_ptr(), attribute as u16, value) }
        self
    }

    pub(super) fn byte(self, attribute: u32, value: u8) -> Self {
        // SAFETY: as above.
        unsafe { nftnl::nftnl_expr_set_u8(self.0.as_ptr(), attribute as u16, value) }
        self
    }

    pub(super) fn long(self, attribute: u32, value: u64) -> Self {
        // SAFETY: as above.
        unsafe { nftnl::nftnl_expr_set_u64(self.0.as_ptr(), attribute as u16, value) }
        self
    }

    pub(super) fn text(self, attribute: u32, value: &CStr) -> Self {
        // SAFETY: as above; the text ends in a zero and is copied. Fails only without memory.
        let _ =
            unsafe { nftnl::nftnl_expr_set_str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
        self
    }

    /// At most 64 bytes, as registers hold.
    pub(super) fn bytes(self, attribute: u32, value: &[u8]) -> Self {
        let value = value.get(..64).unwrap_or(value);
        // SAFETY: as above; the bytes are copied, and are no more than the library has room for.
        let _ = unsafe {
            nftnl::nftnl_expr_set(
                self.0.as_ptr(),
                attribute as u16,
                value.as_ptr().cast::<c_void>(),
                value.len() as u32,
            )
        };
        self
    }
}

impl Rule {
    pub(super) fn new(table: &CStr, chain: &CStr) -> Self {
        let mut rule = Self::alloc();
        rule.text(nftnl::NFTNL_RULE_TABLE, table);
        rule.text(nftnl::NFTNL_RULE_CHAIN, chain);
        rule
    }

    pub(super) fn push(&mut self, expr: Expr) {
        // SAFETY: both are ours; the rule frees the expression with itself.
        unsafe { nftnl::nftnl_rule_add_expr(self.0.as_ptr(), expr.0.as_ptr()) }
        std::mem::forget(expr);
    }
}

impl Table {
    pub(super) fn new(name: &CStr) -> Self {
        let table = Self::alloc();
        // SAFETY: the object is ours; the text is copied.
        let _ = unsafe {
            nftnl::nftnl_table_set_str(
                table.0.as_ptr(),
                nftnl::NFTNL_TABLE_NAME as u16,
                name.as_ptr(),
            )
        };
        table
    }
}

impl Chain {
    pub(super) fn new(table: &CStr, name: &CStr) -> Self {
        let mut chain = Self::alloc();
        chain.text(nftnl::NFTNL_CHAIN_TABLE, table);
        chain.text(nftnl::NFTNL_CHAIN_NAME, name);
        chain
    }

    /// Makes it a base chain.
    pub(super) fn hook(&mut self, kind: &CStr, number: u32, priority: i32) {
        self.text(nftnl::NFTNL_CHAIN_TYPE, kind);
        self.number(nftnl::NFTNL_CHAIN_HOOKNUM, number);
        // SAFETY: the object is ours; the attribute is a signed number.
        unsafe {
            nftnl::nftnl_chain_set_s32(self.0.as_ptr(), nftnl::NFTNL_CHAIN_PRIO as u16, priority);
        }
    }
}

impl Set {
    pub(super) fn new(table: &CStr, name: &CStr) -> Self {
        let mut set = Self::alloc();
        set.text(nftnl::NFTNL_SET_TABLE, table);
        set.text(nftnl::NFTNL_SET_NAME, name);
        set
    }
}

/// Something that a message can be made of.
pub(super) trait Payload {
    /// Writes the attributes.
    ///
    /// # Safety
    /// `header` is a netlink message with room for [`LARGEST`] bytes.
    unsafe fn build(&self, header: *mut nftnl::libc::nlmsghdr);
}

macro_rules! payload {
    ($name:ident, $build:ident) => {
        impl Payload for $name {
            unsafe fn build(&self, header: *mut nftnl::libc::nlmsghdr) {
                // SAFETY: the caller's room is larger than any such object's attributes.
                unsafe { nftnl::$build(header.cast(), self.0.as_ptr()) };
            }
        }
    };
}

payload!(Table, nftnl_table_nlmsg_build_payload);
payload!(Chain, nftnl_chain_nlmsg_build_payload);
payload!(Rule, nftnl_rule_nlmsg_build_payload);
payload!(Set, nftnl_set_nlmsg_build_payload);

/// Appends a message about an object.
pub(super) fn message(
    out: &mut Vec<u8>,
    kind: u16,
    family: u16,
    flags: u16,
    sequence: u32,
    object: &impl Payload,
) {
    // Words, so that headers lie where the processor wants them.
    let mut room = vec![0u32; LARGEST / 4];
    // SAFETY: the buffer is aligned and has room for the largest message; the header's length says how much was
    // written, all of it within the buffer.
    let length = unsafe {
        let buffer = room.as_mut_ptr().cast::<c_char>();
        let header = nftnl::nftnl_nlmsg_build_hdr(buffer, kind, family, flags, sequence);
        object.build(header.cast());
        (*header).nlmsg_len as usize
    };
    let words = room.iter().take(length.div_ceil(4));
    out.extend(words.flat_map(|w| w.to_ne_bytes()));
}
