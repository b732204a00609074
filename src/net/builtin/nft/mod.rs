//! nf_tables by netlink: the few messages that one table of ours needs, written by hand.
//!
//! A [`Batch`] is one transaction: the kernel does all of it or nothing. No `nft` program is executed, and none needs to
//! be installed. Source: linux/netfilter/nf_tables.h; `nft --debug=netlink` shows what these messages mean.

mod rule;

use std::io;

pub use rule::Rule;

use super::{
    message::{ACK, APPEND, CREATE, Message, REQUEST, framed},
    netfilter::Netfilter,
};
use crate::net::family::Family;

/// Where in the kernel a chain's rules are looked at.
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    Prerouting = 0,
    Output = 3,
    Postrouting = 4,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy)]
pub enum ChainKind {
    Filter,
    Nat,
}

/// Types of keys and values, by their number in the `nft` program's books: a listing shows them by it.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    Ipv4Addr = 7,
    Ipv6Addr = 8,
    InetProto = 12,
    InetService = 13,
}

/// A set, or with `values` a map.
pub struct SetShape<'a> {
    pub name: &'a str,
    pub keys: &'a [Type],
    pub values: &'a [Type],
    /// Keys are beginnings and ends of ranges.
    pub ranges: bool,
}

/// An element of a set or map: the parts of its types one after the other, each filled up to four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// The first key behind a range.
    pub range_end: bool,
    /// Shown by `nft list`; at most 100 bytes.
    pub comment: String,
}

/// One transaction on the tables of one name, of which there is one for each family.
pub struct Batch {
    table: String,
    /// Whose table the messages that follow are for.
    family: Family,
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
    set_id: u32,
}

impl Batch {
    pub fn new(table: &str) -> Self {
        let mut batch = Self {
            table: table.to_owned(),
            family: Family::V4,
            bytes: Vec::new(),
            sequence: 0,
            last: 0,
            set_id: 0,
        };
        batch.push(
            BATCH_BEGIN,
            0,
            Message {
                bytes: BATCH_HEADER.to_vec(),
            },
        );
        batch
    }

    /// What follows is for the table of this family.
    pub fn of(&mut self, family: Family) {
        self.family = family;
    }

    /// Makes the table; one that is there is kept.
    pub fn add_table(&mut self) {
        let message = self.message(TABLE_NAME);
        self.push(NFTABLES | NEWTABLE, CREATE, message);
    }

    /// Deletes the table with all in it; it has to be there.
    pub fn delete_table(&mut self) {
        let message = self.message(TABLE_NAME);
        self.push(NFTABLES | DELTABLE, 0, message);
    }

    /// A chain that the kernel begins at a hook; `priority` orders it among others (-300 raw, -100 dstnat, 100 srcnat).
    pub fn add_base_chain(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
        let mut message = self.message(CHAIN_TABLE);
        message.text(CHAIN_NAME, name);
        message.nest(CHAIN_HOOK, |inner| {
            inner.network_number(HOOK_NUMBER, hook as u32);
            inner.network_number(HOOK_PRIORITY, priority.cast_unsigned());
        });
        message.text(
            CHAIN_TYPE,
            match kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
            },
        );
        self.push(NFTABLES | NEWCHAIN, CREATE, message);
    }

    /// A chain that rules go to.
    pub fn add_chain(&mut self, name: &str) {
        let mut message = self.message(CHAIN_TABLE);
        message.text(CHAIN_NAME, name);
        self.push(NFTABLES | NEWCHAIN, CREATE, message);
    }

    pub fn add_set(&mut self, shape: &SetShape) {
        self.set_id += 1;
        let mut message = self.message(SET_TABLE);
        message.text(SET_NAME, shape.name);
        let (map, ranges) = (!shape.values.is_empty(), shape.ranges);
        message.network_number(
            SET_FLAGS,
            if map { SET_IS_MAP } else { 0 } | if ranges { SET_HAS_RANGES } else { 0 },
        );
        message.network_number(SET_KEY_TYPE, together(shape.keys));
        message.network_number(SET_KEY_LEN, bytes_of(shape.keys));
        if map {
            message.network_number(SET_DATA_TYPE, together(shape.values));
            message.network_number(SET_DATA_LEN, bytes_of(shape.values));
        }
        message.network_number(SET_ID, self.set_id);
        if ranges {
            // The keys' byte order is the network's: without it a listing cannot tell a range.
            message.raw(SET_USERDATA, &[0, 4, 2, 0, 0, 0]);
        }
        self.push(NFTABLES | NEWSET, CREATE, message);
    }

    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NFTABLES | NEWSETELEM, CREATE, set, elements);
    }

    /// Deletes elements by their keys; they have to be there.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NFTABLES | DELSETELEM, 0, set, elements);
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, rule: Rule) {
        let mut message = self.message(RULE_TABLE);
        message.text(RULE_CHAIN, chain);
        message.nest(RULE_EXPRESSIONS, |inner| *inner = rule.into_expressions());
        self.push(NFTABLES | NEWRULE, CREATE | APPEND, message);
    }

    /// Hands the transaction to the kernel and waits for its word.
    ///
    /// # Errors
    /// The first that a message, or the whole, met; nothing is changed then.
    pub fn commit(mut self, netfilter: &mut Netfilter) -> io::Result<()> {
        // The last message alone is acknowledged; a failure is told for any.
        let flags = self.last + 6;
        let word = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&word.to_ne_bytes());
        let last = self.sequence;
        self.push(
            BATCH_END,
            0,
            Message {
                bytes: BATCH_HEADER.to_vec(),
            },
        );
        netfilter.ask(&self.bytes, last)
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        // An attribute holds 64 KiB.
        for part in elements.chunks(256) {
            let mut message = self.message(ELEMENTS_TABLE);
            message.text(ELEMENTS_SET, set);
            message.nest(ELEMENTS_LIST, |list| {
                for element in part {
                    list.nest(LIST_ITEM, |item| element.write(item));
                }
            });
            self.push(kind, flags, message);
        }
    }

    /// A message that begins with the table's name.
    fn message(&self, name: u16) -> Message {
        let mut message = Message {
            bytes: vec![self.family.number(), 0, 0, 0],
        };
        message.text(name, &self.table);
        message
    }

    fn push(&mut self, kind: u16, flags: u16, message: Message) {
        self.last = self.bytes.len();
        self.sequence += 1;
        self.bytes
            .extend(framed(kind, flags | REQUEST, self.sequence, &message.bytes));
    }
}

impl Element {
    fn write(&self, message: &mut Message) {
        message.nest(ELEMENT_KEY, |key| key.raw(DATA_VALUE, &self.key));
        if !self.value.is_empty() {
            message.nest(ELEMENT_DATA, |data| data.raw(DATA_VALUE, &self.value));
        }
        if self.range_end {
            message.network_number(ELEMENT_FLAGS, 1);
        }
        if !self.comment.is_empty() {
            // Kind 0 (a comment), length, text with its NUL.
            let length = u8::try_from(self.comment.len() + 1).unwrap_or(u8::MAX);
            let text = [&[0, length], self.comment.as_bytes(), &[0]].concat();
            message.raw(ELEMENT_USERDATA, &text);
        }
    }
}

/// A concatenation's type: six bits for each part.
fn together(types: &[Type]) -> u32 {
    types.iter().fold(0, |all, part| all << 6 | *part as u32)
}

fn bytes_of(types: &[Type]) -> u32 {
    let bytes = |part: &Type| match part {
        Type::Ipv6Addr => 16,
        Type::Ipv4Addr | Type::InetProto | Type::InetService => 4,
    };
    types.iter().map(bytes).sum()
}

const NFTABLES: u16 = 10 << 8;
/// `struct nfgenmsg` of a batch: family and version 0, and the subsystem it is for in the network's order.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, 10];
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const LIST_ITEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const SET_HAS_RANGES: u32 = 4;
const SET_IS_MAP: u32 = 8;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
