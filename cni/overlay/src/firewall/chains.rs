//! Others' chains that drop what they have no rule for, and what nftables tells of changes. Read without decoding what
//! rules and sets hold: there can be a hundred thousand elements of the proxy's.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::{fmt, io};

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_proto::ConnectionHandle;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, SocketAddr};
use nftnl::ProtoFamily;
use nix::libc;

use super::table::TABLE;

/// The multicast group of nftables (`NFNLGRP_NFTABLES`), as a bit.
const GROUP: u32 = 1 << 6;

/// `linux/netfilter/nf_tables.h`: messages are numbered within the subsystem.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
/// The same in messages about tables, chains and rules.
const TABLE_NAME: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
/// What an `immediate` expression has: data, a verdict, its code.
const VERDICT: [u16; 3] = [2, 2, 1];
/// A target of xtables by its name, as iptables' variant for nftables has them.
const TARGET_NAME: u16 = 1;
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// What the names of keelson's tables begin with: what they drop is to be dropped.
const OURS: &[u8] = b"keelson";

/// `struct nfgenmsg`: family, version, resource.
const HEADER: usize = 4;

/// A message of nftables.
#[derive(Clone, Debug)]
pub(super) struct Message {
    kind: u16,
    family: u8,
    attributes: Vec<u8>,
}

impl Message {
    fn text(&self, kind: u16) -> Option<CString> {
        let value = find(&self.attributes, kind)?;
        CString::from_vec_with_nul(value.to_vec()).ok()
    }

    fn number(&self, kind: u16) -> Option<u32> {
        number(find(&self.attributes, kind)?)
    }

    fn place(&self, chain: u16) -> Option<Place> {
        let family = match i32::from(self.family) {
            libc::NFPROTO_IPV4 => ProtoFamily::Ipv4,
            libc::NFPROTO_IPV6 => ProtoFamily::Ipv6,
            libc::NFPROTO_INET => ProtoFamily::Inet,
            _ => return None,
        };
        let (table, chain) = (self.text(TABLE_NAME)?, self.text(chain)?);
        Some(Place {
            family,
            table,
            chain,
        })
    }

    /// A base chain at the hook for forwarded packets, and whether its policy is to drop.
    fn forwards(&self) -> Option<(Place, bool)> {
        let hook = find(find(&self.attributes, CHAIN_HOOK)?, HOOK_NUMBER).and_then(number);
        let place = self.place(CHAIN_NAME).filter(|_| hook == Some(FORWARD))?;
        Some((place, self.number(CHAIN_POLICY) == Some(DROP)))
    }

    /// A rule that drops or rejects whatever comes to it, as firewalld's last one.
    fn drops_all(&self) -> bool {
        let Some(list) = find(&self.attributes, RULE_EXPRESSIONS) else {
            return false;
        };
        let mut drops = false;
        for expression in all(list) {
            match ends(expression) {
                Some(ends) => drops |= ends,
                None => return false,
            }
        }
        drops
    }

    /// Whether something has to be done: in our table, to our rules in others' chains, or because of a chain that drops.
    fn matters(&self) -> bool {
        let ours = || {
            self.is_ours()
                || find(&self.attributes, RULE_USERDATA)
                    .and_then(comment)
                    .is_some()
        };
        match self.kind.checked_sub(SUBSYSTEM) {
            Some(NEW_CHAIN) => self.is_ours() || self.forwards().is_some_and(|(_, drops)| drops),
            Some(NEW_RULE) => self.is_ours() || self.drops_all(),
            Some(DEL_RULE) => ours(),
            Some(kind) => kind < NEW_SET && self.is_ours(),
            None => false,
        }
    }

    fn is_ours(&self) -> bool {
        self.text(TABLE_NAME).is_some_and(|t| t.as_c_str() == TABLE)
    }
}

/// Of an expression: whether it drops what comes to it; none when it asks something of the packet.
fn ends(expression: &[u8]) -> Option<bool> {
    let data = || find(expression, EXPRESSION_DATA);
    match find(expression, EXPRESSION_NAME)? {
        b"counter\0" | b"log\0" => Some(false),
        b"reject\0" => Some(true),
        b"target\0" => (find(data()?, TARGET_NAME)?.starts_with(b"REJECT\0")).then_some(true),
        b"immediate\0" => {
            let code = VERDICT.iter().try_fold(data()?, |d, kind| find(d, *kind));
            (code.and_then(number) == Some(DROP)).then_some(true)
        }
        _ => None,
    }
}

/// The length and kind before an attribute's value.
const NLA_HEADER: usize = 4;

/// The values of all attributes.
fn all(attributes: &[u8]) -> impl Iterator<Item = &[u8]> {
    NlasIterator::new(attributes).flatten().filter_map(value)
}

fn value(nla: NlaBuffer<&[u8]>) -> Option<&[u8]> {
    let length = usize::from(nla.length());
    nla.into_inner().get(NLA_HEADER..length)
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).flatten();
    all.find(|nla: &NlaBuffer<&[u8]>| nla.kind() == kind)
        .and_then(value)
}

/// An attribute of text.
fn text(kind: u16, text: &CStr) -> Vec<u8> {
    let nla = DefaultNla::new(kind, text.to_bytes_with_nul().to_vec());
    let mut bytes = vec![0; nla.buffer_len()];
    nla.emit(&mut bytes);
    bytes
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let header = [self.family, 0, 0, 0];
        let all = header.iter().chain(&self.attributes);
        buffer.iter_mut().zip(all).for_each(|(b, a)| *b = *a);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            family: payload.first().copied().unwrap_or_default(),
            attributes: payload.get(HEADER..).unwrap_or_default().to_vec(),
        })
    }
}

/// Where a chain is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) family: ProtoFamily,
    pub(super) table: CString,
    pub(super) chain: CString,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [table, chain] = [&self.table, &self.chain].map(|n| n.to_string_lossy());
        write!(f, "chain {chain} of table {table}")
    }
}

/// A chain of others that drops what it has no rule for.
#[derive(Debug)]
pub(super) struct Dropping {
    pub(super) place: Place,
    /// Our rules that are in it.
    pub(super) marks: Vec<String>,
    /// Where ours go.
    pub(super) room: Room,
}

/// Where there is room for rules in a chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    /// At its end: its policy drops.
    End,
    /// After the rule with this handle: the next and last one drops.
    After(u64),
    /// Nowhere: its only rule drops.
    None,
}

/// A rule of ours in a chain of others.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) place: Place,
    pub(super) handle: u64,
}

/// The kernel's nftables.
pub(super) struct Chains {
    handle: ConnectionHandle<Message>,
    changes: UnboundedReceiver<(NetlinkMessage<Message>, SocketAddr)>,
}

impl Chains {
    pub(super) fn open() -> io::Result<Self> {
        let opened = netlink_proto::new_connection::<Message>(NETLINK_NETFILTER)?;
        let (mut connection, handle, changes) = opened;
        let group = SocketAddr::new(0, GROUP);
        connection.socket_mut().socket_mut().bind(&group)?;
        tokio::spawn(connection);
        Ok(Self { handle, changes })
    }

    /// Chains that drop what they have no rule for: by their policy, or by a last rule.
    pub(super) async fn dropping(&mut self) -> io::Result<Vec<Dropping>> {
        let chains = self.dump(GET_CHAIN, libc::NFPROTO_UNSPEC, Vec::new());
        let chains = chains.await?;
        let mut dropping = Vec::new();
        let others = |place: &Place| !place.table.to_bytes().starts_with(OURS);
        let forwarding = chains.iter().filter_map(Message::forwards);
        for (place, policy) in forwarding.filter(|(place, _)| others(place)) {
            let of = [
                text(TABLE_NAME, &place.table),
                text(RULE_CHAIN, &place.chain),
            ];
            let rules = self
                .dump(GET_RULE, place.family as i32, of.concat())
                .await?;
            let handle = |m: &Message| mark_of(m).map(|(handle, _)| handle);
            let room = match rules.as_slice() {
                _ if policy => Room::End,
                [.., before, last] if last.drops_all() => {
                    handle(before).map_or(Room::None, Room::After)
                }
                [only] if only.drops_all() => Room::None,
                _ => continue,
            };
            let marks = rules.iter().filter_map(|m| mark_of(m)?.1).collect();
            dropping.push(Dropping { place, marks, room });
        }
        Ok(dropping)
    }

    /// Our rules in others' chains.
    pub(super) async fn marks(&mut self) -> io::Result<Vec<Mark>> {
        let all = self
            .dump(GET_RULE, libc::NFPROTO_UNSPEC, Vec::new())
            .await?;
        let marked = all.iter().filter_map(|m| {
            let (handle, mark) = mark_of(m)?;
            mark?;
            Some(Mark {
                handle,
                place: m.place(RULE_CHAIN)?,
            })
        });
        Ok(marked.collect())
    }

    async fn dump(
        &mut self,
        kind: u16,
        family: i32,
        attributes: Vec<u8>,
    ) -> io::Result<Vec<Message>> {
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(Message {
                kind: SUBSYSTEM | kind,
                family: family as u8,
                attributes,
            }),
        );
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let asked = self.handle.request(message, SocketAddr::new(0, 0));
        let mut answers = asked.map_err(io::Error::other)?;
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => all.push(message),
                NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Waits until others have changed what matters, not our socket of this number. Gives whether it was our table.
    pub(super) async fn changed(&mut self, own: u32) -> bool {
        loop {
            let Some((message, _)) = self.changes.next().await else {
                return std::future::pending().await;
            };
            match message.payload {
                NetlinkPayload::InnerMessage(m)
                    if m.matters() && message.header.port_number != own =>
                {
                    return m.is_ours();
                }
                // Some were lost.
                NetlinkPayload::Overrun(_) => return true,
                _ => {}
            }
        }
    }

    /// The same of what has been told already.
    pub(super) fn settled(&mut self, own: u32) -> bool {
        let mut ours = false;
        while let Ok((message, _)) = self.changes.try_recv() {
            ours |= match message.payload {
                NetlinkPayload::InnerMessage(m) => {
                    m.matters() && m.is_ours() && message.header.port_number != own
                }
                _ => true,
            };
        }
        ours
    }
}

/// A rule's handle, and the comment if it is one of ours.
fn mark_of(rule: &Message) -> Option<(u64, Option<String>)> {
    let handle = find(&rule.attributes, RULE_HANDLE)?;
    let userdata = find(&rule.attributes, RULE_USERDATA);
    let handle = u64::from_be_bytes(handle.try_into().ok()?);
    Some((handle, userdata.and_then(comment)))
}

/// The comment in a rule's user data (type, length, text), if it is one of ours.
fn comment(userdata: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    let [COMMENT, length, text @ ..] = userdata else {
        return None;
    };
    let text = text.get(..usize::from(*length))?;
    let text = CString::from_vec_with_nul(text.to_vec())
        .ok()?
        .into_string()
        .ok()?;
    let ours = TABLE.to_str().ok()?;
    text.starts_with(&format!("{ours} ")).then_some(text)
}
