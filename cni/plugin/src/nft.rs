//! nftables by netlink: transactions, and questions. Of the ruleset's language only what the plugins' own tables need.
//! (libnftnl would do it too; this program is linked statically, and Debian has no static libmnl.)

use std::io;

use keelson_cni_plan::nft::wire::{Attributes, attributes, find, text};
use nix::libc::{
    NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE,
    NFT_MSG_GETCHAIN, NFT_MSG_GETSETELEM, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
};

use crate::netlink::{Answer, Socket};

/// Flags of a message (`linux/netlink.h`).
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;
/// Refuses to delete what still has something in it.
const ONLY_EMPTY: u16 = 0x100;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// A set that gives verdicts (`NFT_SET_MAP`, `NFT_DATA_VERDICT`).
const MAP: u32 = 8;
const VERDICTS: u32 = 0xffff_ff00;
const GOTO: i32 = -4;
/// Registers: the verdict's, and the one that is calculated in.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

/// A table: its family (`NFPROTO_*`) and name.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    pub(crate) family: u8,
    pub(crate) name: &'static str,
}

/// A chain that packets come through.
pub(crate) struct Base {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) hook: u32,
    pub(crate) priority: i32,
}

/// A map from keys to the chains that decide.
pub(crate) struct Map {
    pub(crate) name: &'static str,
    /// nft's number of the key's type, so that it lists it rightly.
    pub(crate) key_type: u32,
    /// In bytes.
    pub(crate) key_len: u32,
}

/// An element of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// The chain that decides.
    pub(crate) chain: String,
    /// Whose it is.
    pub(crate) tag: String,
}

/// A part of a rule.
pub(crate) struct Expression(Attributes);

impl Expression {
    fn new(name: &str, data: Attributes) -> Self {
        Self(Attributes::default().text(1, name).nest(2, &data))
    }

    /// Loads what is known of the packet (`NFT_META_*`).
    pub(crate) fn meta(key: u32) -> Self {
        let data = Attributes::default().number(2, key).number(1, REGISTER);
        Self::new("meta", data)
    }

    /// Loads bytes of the packet, from a header's (`NFT_PAYLOAD_*`) begin.
    pub(crate) fn payload(base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::default().number(1, REGISTER);
        Self::new(
            "payload",
            data.number(2, base).number(3, offset).number(4, length),
        )
    }

    /// Goes on if what is loaded has these bytes, or has not.
    pub(crate) fn compare(equal: bool, bytes: &[u8]) -> Self {
        let value = Attributes::default().bytes(1, bytes);
        let data = Attributes::default()
            .number(1, REGISTER)
            .number(2, u32::from(!equal));
        Self::new("cmp", data.nest(3, &value))
    }

    /// Keeps the bits of a mask.
    pub(crate) fn mask(mask: &[u8]) -> Self {
        let value = |bytes: &[u8]| Attributes::default().bytes(1, bytes);
        let data = Attributes::default()
            .number(1, REGISTER)
            .number(2, REGISTER);
        let data = data.number(3, u32::try_from(mask.len()).unwrap_or_default());
        Self::new(
            "bitwise",
            data.nest(4, &value(mask))
                .nest(5, &value(&vec![0; mask.len()])),
        )
    }

    /// Goes to the chain that a map has for what is loaded.
    pub(crate) fn lookup(map: &Map) -> Self {
        let data = Attributes::default().text(1, map.name);
        Self::new("lookup", data.number(2, REGISTER).number(3, VERDICT))
    }

    /// Gives the packet the node's address as its source.
    pub(crate) fn masquerade() -> Self {
        Self::new("masq", Attributes::default())
    }

    /// Ends with a verdict (`NF_DROP`, `NF_ACCEPT`).
    pub(crate) fn verdict(code: i32) -> Self {
        let data = Attributes::default().number(1, VERDICT);
        Self::new("immediate", data.nest(2, &verdict(code, None)))
    }
}

fn verdict(code: i32, chain: Option<&str>) -> Attributes {
    let mut inner = Attributes::default().number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        inner = inner.text(2, chain);
    }
    Attributes::default().nest(2, &inner)
}

/// A transaction: all of it is done, or nothing.
pub(crate) struct Transaction {
    table: Table,
    /// Type, flags and attributes of each message.
    messages: Vec<(u16, u16, Attributes)>,
}

impl Transaction {
    pub(crate) fn of(table: Table) -> Self {
        Self {
            table,
            messages: Vec::new(),
        }
    }

    fn push(&mut self, kind: i32, flags: u16, attributes: Attributes) {
        let kind = SUBSYSTEM << 8 | u16::try_from(kind).unwrap_or_default();
        self.messages.push((kind, flags, attributes));
    }

    fn named(&self, name: &str, at: u16) -> Attributes {
        Attributes::default()
            .text(1, self.table.name)
            .text(at, name)
    }

    /// The table, there already or not.
    pub(crate) fn table(&mut self) {
        let name = Attributes::default().text(1, self.table.name);
        self.push(NFT_MSG_NEWTABLE, CREATE, name);
    }

    /// The table is no more, if nothing is in it.
    pub(crate) fn remove_empty_table(&mut self) {
        let name = Attributes::default().text(1, self.table.name);
        self.push(NFT_MSG_DELTABLE, ONLY_EMPTY, name);
    }

    /// A chain that packets come through, there already or not.
    pub(crate) fn base(&mut self, base: &Base) {
        let hook = Attributes::default().number(1, base.hook);
        let hook = hook.number(2, base.priority.cast_unsigned());
        let chain = self.named(base.name, 3).nest(4, &hook).text(7, base.kind);
        self.push(NFT_MSG_NEWCHAIN, CREATE, chain);
    }

    /// A chain that others lead to, there already or not.
    pub(crate) fn chain(&mut self, name: &str) {
        let chain = self.named(name, 3);
        self.push(NFT_MSG_NEWCHAIN, CREATE, chain);
    }

    /// A chain is no more; nothing may lead to it.
    pub(crate) fn remove_chain(&mut self, name: &str) {
        let chain = self.named(name, 3);
        self.push(NFT_MSG_DELCHAIN, 0, chain);
    }

    /// A chain has these rules and no others.
    pub(crate) fn rules(&mut self, chain: &str, rules: Vec<Vec<Expression>>) {
        let all = self.named(chain, 2);
        self.push(NFT_MSG_DELRULE, 0, all.clone());
        for rule in rules {
            let list = rule
                .into_iter()
                .fold(Attributes::default(), |l, e| l.nest(1, &e.0));
            self.push(NFT_MSG_NEWRULE, CREATE | APPEND, all.clone().nest(4, &list));
        }
    }

    /// A map to chains, there already or not.
    pub(crate) fn map(&mut self, map: &Map, id: u32) {
        let set = self.named(map.name, 2).number(3, MAP);
        let set = set.number(4, map.key_type).number(5, map.key_len);
        let set = set.number(6, VERDICTS).number(7, 0).number(10, id);
        self.push(NFT_MSG_NEWSET, CREATE, set);
    }

    /// A map is no more, if nothing is in it.
    pub(crate) fn remove_empty_map(&mut self, map: &Map) {
        let set = self.named(map.name, 2);
        self.push(NFT_MSG_DELSET, ONLY_EMPTY, set);
    }

    /// An element that is not there yet.
    pub(crate) fn element(&mut self, map: &Map, element: &Element) {
        const COMMENT: u8 = 0;
        let mut comment = element.tag.clone().into_bytes();
        comment.push(0);
        let length = u8::try_from(comment.len()).unwrap_or_default();
        let userdata = [&[COMMENT, length], comment.as_slice()].concat();
        let item = key(&element.key).nest(2, &verdict(GOTO, Some(&element.chain)));
        let list = Attributes::default().nest(1, &item.bytes(6, &userdata));
        let elements = self.elements(map, list);
        self.push(NFT_MSG_NEWSETELEM, CREATE | EXCLUSIVE, elements);
    }

    /// An element is no more.
    pub(crate) fn remove_element(&mut self, map: &Map, of: &[u8]) {
        let list = Attributes::default().nest(1, &key(of));
        let elements = self.elements(map, list);
        self.push(NFT_MSG_DELSETELEM, 0, elements);
    }

    fn elements(&self, map: &Map, list: Attributes) -> Attributes {
        let head = Attributes::default().text(1, self.table.name);
        head.text(2, map.name).nest(3, &list)
    }

    /// Does it all, or says why nothing was done: the first refusal's number.
    pub(crate) fn commit(self, socket: &mut Socket) -> io::Result<Result<(), i32>> {
        let mut bytes = Vec::new();
        let first = append(
            socket,
            &mut bytes,
            BATCH_BEGIN,
            REQUEST,
            header(0, SUBSYSTEM),
        );
        let last = self.messages.len();
        for (i, (kind, flags, attributes)) in self.messages.into_iter().enumerate() {
            // What is refused is told in any case; that all went well, by the last.
            let ack = if i + 1 == last { ACK } else { 0 };
            let content = [
                header(self.table.family, 0).as_slice(),
                attributes.as_slice(),
            ]
            .concat();
            append(socket, &mut bytes, kind, REQUEST | flags | ack, content);
        }
        let end = append(socket, &mut bytes, BATCH_END, REQUEST, header(0, SUBSYSTEM));
        let answers = socket.exchange(&bytes, first..end + 1, true)?;
        let refused = answers.values().map(|a| a.errno).find(|e| *e != 0);
        Ok(refused.map_or(Ok(()), Err))
    }
}

fn key(bytes: &[u8]) -> Attributes {
    let value = Attributes::default().bytes(1, bytes);
    Attributes::default().nest(1, &value)
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// Appends a message and gives its number.
fn append(
    socket: &mut Socket,
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    content: Vec<u8>,
) -> u32 {
    let number = socket.number();
    let length = u32::try_from(16 + content.len()).unwrap_or_default();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    number
}

fn ask(
    socket: &mut Socket,
    table: Table,
    kind: i32,
    flags: u16,
    attributes: Attributes,
) -> io::Result<Answer> {
    let kind = SUBSYSTEM << 8 | u16::try_from(kind).unwrap_or_default();
    let (mut bytes, content) = (
        Vec::new(),
        [header(table.family, 0).as_slice(), attributes.as_slice()].concat(),
    );
    let number = append(socket, &mut bytes, kind, REQUEST | ACK | flags, content);
    let answers = socket.exchange(&bytes, number..number + 1, false)?;
    Ok(answers.into_values().next().unwrap_or_default())
}

/// An element by its key; none, too, where there is no such map.
pub(crate) fn element(
    socket: &mut Socket,
    table: Table,
    map: &Map,
    of: &[u8],
) -> io::Result<Option<Element>> {
    let list = Attributes::default().nest(1, &key(of));
    let query = Attributes::default()
        .text(1, table.name)
        .text(2, map.name)
        .nest(3, &list);
    let answer = ask(socket, table, NFT_MSG_GETSETELEM, 0, query)?;
    Ok(read_elements(&answer)?.into_iter().next())
}

/// All elements of a map; none, too, where there is no such map.
pub(crate) fn all_elements(
    socket: &mut Socket,
    table: Table,
    map: &Map,
) -> io::Result<Vec<Element>> {
    let query = Attributes::default().text(1, table.name).text(2, map.name);
    read_elements(&ask(socket, table, NFT_MSG_GETSETELEM, DUMP, query)?)
}

/// How many rules a chain has and how many lead to it, together; none where there is no such chain.
pub(crate) fn chain_use(socket: &mut Socket, table: Table, chain: &str) -> io::Result<Option<u32>> {
    let query = Attributes::default().text(1, table.name).text(3, chain);
    let answer = ask(socket, table, NFT_MSG_GETCHAIN, 0, query)?;
    let mut used = answer.messages.iter().filter_map(|(_, content)| {
        let value = find(content.get(4..)?, 6)?;
        Some(u32::from_be_bytes(*value.first_chunk()?))
    });
    found(&answer).map(|there| there.then(|| used.next()).flatten())
}

/// The names of a table's chains; none, too, where there is no such table.
pub(crate) fn all_chains(socket: &mut Socket, table: Table) -> io::Result<Vec<String>> {
    let query = Attributes::default().text(1, table.name);
    let answer = ask(socket, table, NFT_MSG_GETCHAIN, DUMP, query)?;
    let chains = answer.messages.iter().filter_map(|(_, content)| {
        let content = content.get(4..)?;
        // Older kernels list those of all tables.
        let own = text(find(content, 1)?)? == table.name;
        text(find(content, 3).filter(|_| own)?).map(str::to_owned)
    });
    found(&answer).map(|there| chains.filter(|_| there).collect())
}

/// Whether what was asked for is there.
fn found(answer: &Answer) -> io::Result<bool> {
    match answer.errno {
        0 => Ok(true),
        nix::libc::ENOENT => Ok(false),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn read_elements(answer: &Answer) -> io::Result<Vec<Element>> {
    if !found(answer)? {
        return Ok(Vec::new());
    }
    let lists = answer
        .messages
        .iter()
        .filter_map(|(_, c)| find(c.get(4..)?, 3));
    let items = lists.flat_map(|l| attributes(l).map(|(_, v)| v));
    Ok(items.filter_map(read_element).collect())
}

fn read_element(item: &[u8]) -> Option<Element> {
    let key = find(find(item, 1)?, 1)?.to_vec();
    let chain = text(find(find(find(item, 2)?, 2)?, 2)?)?.to_owned();
    let tag = find(item, 6)
        .and_then(|u| text(u.get(2..)?))
        .map(str::to_owned);
    Some(Element {
        key,
        chain,
        tag: tag.unwrap_or_default(),
    })
}
