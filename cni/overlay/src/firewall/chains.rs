//! Others' chains that drop what they have no rule for, and what nftables tells of changes. Read without decoding what
//! rules and sets hold: there can be a hundred thousand elements of the proxy's.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
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
const RULE_USERDATA: u16 = 7;
const FORWARD: u32 = 2;
const DROP: u32 = 0;

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

    /// A base chain at the hook for forwarded packets with the policy to drop.
    fn drops(&self) -> Option<Place> {
        let hook = find(find(&self.attributes, CHAIN_HOOK)?, HOOK_NUMBER).and_then(number);
        let drops = hook == Some(FORWARD) && self.number(CHAIN_POLICY) == Some(DROP);
        self.place(CHAIN_NAME).filter(|_| drops)
    }

    /// Whether rules may be other than they were: of our table, or of others' chains.
    fn is_change(&self) -> bool {
        self.kind & !0xff == SUBSYSTEM && self.kind & 0xff < NEW_SET
    }

    fn is_ours(&self) -> bool {
        self.text(TABLE_NAME).is_some_and(|t| t.as_c_str() == TABLE)
    }
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    const LENGTH: usize = 4;
    let mut all = NlasIterator::new(attributes).flatten();
    let nla: NlaBuffer<&[u8]> = all.find(|nla| nla.kind() == kind)?;
    let length = usize::from(nla.length());
    nla.into_inner().get(LENGTH..length)
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

/// A rule of ours in a chain of others.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) place: Place,
    pub(super) handle: u64,
    pub(super) mark: String,
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

    /// Chains that drop what they have no rule for.
    pub(super) async fn dropping(&mut self) -> io::Result<Vec<Place>> {
        let all = self.dump(GET_CHAIN).await?;
        Ok(all.iter().filter_map(Message::drops).collect())
    }

    /// Our rules in others' chains.
    pub(super) async fn marks(&mut self) -> io::Result<Vec<Mark>> {
        let all = self.dump(GET_RULE).await?;
        let marked = all.iter().filter_map(|m| {
            let handle = find(&m.attributes, RULE_HANDLE)?;
            Some(Mark {
                mark: comment(find(&m.attributes, RULE_USERDATA)?)?,
                handle: u64::from_be_bytes(handle.try_into().ok()?),
                place: m.place(RULE_CHAIN)?,
            })
        });
        Ok(marked.collect())
    }

    async fn dump(&mut self, kind: u16) -> io::Result<Vec<Message>> {
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(Message {
                kind: SUBSYSTEM | kind,
                family: libc::NFPROTO_UNSPEC as u8,
                attributes: Vec::new(),
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

    /// Waits until tables, chains or rules have changed, though not by our socket of this number. Gives whether it was
    /// our table.
    pub(super) async fn changed(&mut self, own: u32) -> bool {
        loop {
            let Some((message, _)) = self.changes.next().await else {
                return std::future::pending().await;
            };
            match message.payload {
                NetlinkPayload::InnerMessage(m) if m.is_change() => {
                    if message.header.port_number != own {
                        return m.is_ours();
                    }
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
                    m.is_change() && m.is_ours() && message.header.port_number != own
                }
                _ => true,
            };
        }
        ours
    }
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
