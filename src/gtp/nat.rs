// SPDX-License-Identifier: GPL-2.0-only
//! Rules that translate the subscribers' addresses on their way to the
//! internet, made with nft or iptables-nft: kept as the kernel reports them.

use std::collections::{HashMap, HashSet};

use super::{Error, Result};
use crate::netlink::attr::get_str;
use crate::netlink::nft::{self, be32};
use crate::netlink::{self, Attrs, Message, Protocol, Socket, Writer};
use crate::proto::{GtpLink, NatRule};

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;

/// Whose packets a rule must be about.
pub struct Subscribers<'a> {
    /// Their links.
    pub links: &'a [GtpLink],
    /// Their addresses: bytes and prefix length.
    pub prefixes: &'a [(Vec<u8>, u8)],
}

impl Subscribers<'_> {
    /// Whether `bytes`, the beginning of an address, may be that of a subscriber.
    fn overlap(&self, bytes: &[u8]) -> bool {
        let same = |(prefix, len): &(Vec<u8>, u8)| {
            let bits = usize::from(*len).min(bytes.len() * 8);
            let whole = bits / 8;
            let rest = u8::try_from(0xff00u16 >> (bits % 8) & 0xff).unwrap_or_default();
            let last = |b: &[u8]| b.get(whole).map(|b| b & rest);
            bytes.get(..whole) == prefix.get(..whole) && (rest == 0 || last(bytes) == last(prefix))
        };
        self.prefixes.iter().any(same)
    }

    /// Whether an address is a subscriber's.
    pub(super) fn contain(&self, ip: &[u8]) -> bool {
        self.prefixes.iter().any(|(p, _)| p.len() == ip.len()) && self.overlap(ip)
    }
}

/// The rules that translate addresses and either name a link or an address of
/// its subscribers.
///
/// # Errors
/// One of them cannot be carried.
pub fn read(who: &Subscribers<'_>) -> Result<Vec<NatRule>> {
    let chains = chains()?;
    let mut found = Vec::new();
    for rule in rules()? {
        let said = Said::of(&rule.expressions, who)?;
        if !(said.translates && said.ours) {
            continue;
        }
        let NatRule { table, chain, .. } = &rule;
        if said.uses_set {
            return Err(Error::Unsupported(format!(
                "a rule in {table} {chain} translates addresses of a set, which cannot be carried yet; \
                 write it as a rule for each prefix"
            )));
        }
        let key = (rule.family, table.clone(), chain.clone());
        let Some(base) = chains.get(&key) else {
            return Err(Error::Unsupported(format!(
                "a rule in {table} {chain} translates addresses, but other rules lead to this chain, which cannot be \
                 carried yet; put it into the chain of the hook"
            )));
        };
        found.push(NatRule {
            hook: base.hook,
            priority: base.priority,
            chain_type: base.chain_type.clone(),
            policy: base.policy,
            ..rule
        });
    }
    Ok(found)
}

/// What matters in a rule.
#[derive(Default)]
struct Said {
    translates: bool,
    ours: bool,
    uses_set: bool,
}

impl Said {
    fn of(expressions: &[u8], who: &Subscribers<'_>) -> Result<Self> {
        const META: u32 = 1;
        let mut said = Self::default();
        // What the register compared next holds.
        let mut loaded: Option<(u32, u32)> = None;
        for (name, data) in parse(expressions)? {
            let data = Attrs::new(data);
            let number = |kind| -> netlink::Result<Option<u32>> {
                let value = data.find(kind)?.and_then(|v| v.try_into().ok());
                Ok(value.map(u32::from_be_bytes))
            };
            match name {
                "meta" => loaded = number(2)?.map(|key| (META, key)),
                "payload" => {
                    let (base, offset) = (number(2)?, number(3)?);
                    loaded = base
                        .zip(offset)
                        .map(|(base, offset)| (base + META + 1, offset));
                }
                "cmp" => {
                    let value = data.find(3)?.map(Attrs::new);
                    let value = value.map(|v| v.find(1)).transpose()?.flatten();
                    let equal = number(2)? == Some(0);
                    if let (Some(what), Some(value), true) = (loaded, value, equal) {
                        said.ours |= is_ours(what, value, who);
                    }
                }
                "lookup" => said.uses_set = true,
                "masq" | "nat" => said.translates = true,
                "target" => {
                    let name = data.find(1)?.map(get_str).transpose()?;
                    said.translates |=
                        matches!(name, Some("MASQUERADE" | "SNAT" | "DNAT" | "NETMAP"));
                }
                _ => {}
            }
        }
        Ok(said)
    }
}

/// Whether a comparison is with a link or an address of the subscribers.
fn is_ours(what: (u32, u32), value: &[u8], who: &Subscribers<'_>) -> bool {
    /// Base of a payload expression: the network header.
    const NETWORK: u32 = 1 + 1 + 1;
    match what {
        // NFT_META_IIF, OIF
        (1, 4 | 5) => who.links.iter().any(|l| value == l.ifindex.to_ne_bytes()),
        // NFT_META_IIFNAME, OIFNAME
        (1, 6 | 7) => who
            .links
            .iter()
            .any(|l| get_str(value).is_ok_and(|v| v == l.name)),
        // Source and destination of an IPv4 header, or of an IPv6 header.
        (NETWORK, 12 | 16 | 8 | 24) => who.overlap(value),
        _ => false,
    }
}

/// Names and data of a rule's expressions.
fn parse(expressions: &[u8]) -> netlink::Result<Vec<(&str, &[u8])>> {
    let mut found = Vec::new();
    for element in Attrs::new(expressions) {
        let attrs = Attrs::new(element?.1);
        if let Some(name) = attrs.find(1)? {
            found.push((get_str(name)?, attrs.find(2)?.unwrap_or_default()));
        }
    }
    Ok(found)
}

/// A rule in a form that is the same wherever it stands: without its counters.
#[must_use]
pub fn normal(rule: &NatRule) -> String {
    let mut said = describe(rule);
    for (name, data) in parse(&rule.expressions).unwrap_or_default() {
        if name != "counter" {
            let digits = data.iter().map(|b| format!("{b:02x}")).collect::<String>();
            said.push_str(&format!(" {name}:{digits}"));
        }
    }
    said
}

/// A rule in words, such as "rule in ip nat POSTROUTING".
#[must_use]
pub fn describe(rule: &NatRule) -> String {
    let family = match rule.family {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => "?",
    };
    format!("rule in {family} {} {}", rule.table, rule.chain)
}

fn family(rule: &NatRule) -> Result<u8> {
    u8::try_from(rule.family).map_err(|_| Error::BadImage("a rule is of an unknown family"))
}

/// A dump of nftables, again when somebody else changes them meanwhile.
fn dump(
    kind: u16,
    mut each: impl FnMut(&[u8]) -> netlink::Result<()>,
    mut again: impl FnMut(),
) -> Result<()> {
    const ATTEMPTS: u32 = 8;
    let mut socket = Socket::open(Protocol::Netfilter)?;
    for _ in 0..ATTEMPTS {
        let msg = nft::message(kind, 0, 0, &Writer::new());
        match socket.dump(msg, &mut each) {
            Err(netlink::Error::Interrupted) => again(),
            // A kernel without nftables has no rules.
            Err(e) if e.errno() == Some(libc::EOPNOTSUPP) => return Ok(()),
            other => return Ok(other?),
        }
    }
    Err(netlink::Error::Interrupted.into())
}

/// All rules of this network namespace.
fn rules() -> Result<Vec<NatRule>> {
    let found = std::cell::RefCell::new(Vec::new());
    dump(
        nft::GETRULE,
        |payload| {
            found.borrow_mut().extend(rule(payload)?.map(|(r, _)| r));
            Ok(())
        },
        || found.borrow_mut().clear(),
    )?;
    Ok(found.into_inner())
}

/// A text among attributes; empty where there is none.
fn text(attrs: &Attrs<'_>, kind: u16) -> netlink::Result<String> {
    let found = attrs.find(kind)?.map(get_str).transpose()?;
    Ok(found.unwrap_or_default().to_owned())
}

/// A rule and its handle.
fn rule(payload: &[u8]) -> netlink::Result<Option<(NatRule, Vec<u8>)>> {
    let attrs = Attrs::new(payload.get(4..).unwrap_or_default());
    let (Some(expressions), Some(handle)) =
        (attrs.find(RULE_EXPRESSIONS)?, attrs.find(RULE_HANDLE)?)
    else {
        return Ok(None);
    };
    let found = NatRule {
        family: payload.first().copied().unwrap_or_default().into(),
        table: text(&attrs, RULE_TABLE)?,
        chain: text(&attrs, RULE_CHAIN)?,
        expressions: expressions.to_vec(),
        userdata: attrs.find(RULE_USERDATA)?.map(<[u8]>::to_vec),
        ..NatRule::default()
    };
    Ok(Some((found, handle.to_vec())))
}

type ChainKey = (u32, String, String);

/// Every chain with a hook, as rules without expressions.
fn chains() -> Result<HashMap<ChainKey, NatRule>> {
    let found = std::cell::RefCell::new(HashMap::new());
    dump(
        nft::GETCHAIN,
        |payload| {
            found.borrow_mut().extend(chain(payload)?);
            Ok(())
        },
        || found.borrow_mut().clear(),
    )?;
    Ok(found.into_inner())
}

fn chain(payload: &[u8]) -> netlink::Result<Option<(ChainKey, NatRule)>> {
    let attrs = Attrs::new(payload.get(4..).unwrap_or_default());
    let number = |attrs: &Attrs<'_>, kind| -> netlink::Result<Option<u32>> {
        let value = attrs.find(kind)?.and_then(|v| v.try_into().ok());
        Ok(value.map(u32::from_be_bytes))
    };
    let Some(hook) = attrs.find(CHAIN_HOOK)?.map(Attrs::new) else {
        return Ok(None);
    };
    let family: u32 = payload.first().copied().unwrap_or_default().into();
    let base = NatRule {
        family,
        table: text(&attrs, CHAIN_TABLE)?,
        chain: text(&attrs, CHAIN_NAME)?,
        hook: number(&hook, 1)?.unwrap_or_default(),
        priority: i32::from_ne_bytes(number(&hook, 2)?.unwrap_or_default().to_ne_bytes()),
        chain_type: text(&attrs, CHAIN_TYPE)?,
        policy: number(&attrs, CHAIN_POLICY)?.unwrap_or(1),
        ..NatRule::default()
    };
    Ok(Some((
        (family, base.table.clone(), base.chain.clone()),
        base,
    )))
}

/// Adds a rule with its table and chain, unless there is one like it.
/// Answers whether it was added.
///
/// # Errors
/// The kernel's refusal.
pub fn add(new: &NatRule) -> Result<bool> {
    let wanted = normal(new);
    if rules()?.iter().any(|r| normal(r) == wanted) {
        return Ok(false);
    }
    let family = family(new)?;
    let mut table = Writer::new();
    table.put_str(1, &new.table)?;
    let mut chain = Writer::new();
    chain.put_str(CHAIN_TABLE, &new.table)?;
    chain.put_str(CHAIN_NAME, &new.chain)?;
    chain.nest(CHAIN_HOOK, |hook| {
        be32(hook, 1, new.hook)?;
        be32(hook, 2, u32::from_ne_bytes(new.priority.to_ne_bytes()))
    })?;
    be32(&mut chain, CHAIN_POLICY, new.policy)?;
    chain.put_str(CHAIN_TYPE, &new.chain_type)?;
    let mut rule = Writer::new();
    rule.put_str(RULE_TABLE, &new.table)?;
    rule.put_str(RULE_CHAIN, &new.chain)?;
    let mut expressions = Writer::new();
    expressions.append(&new.expressions);
    rule.put_nest(RULE_EXPRESSIONS, &expressions)?;
    if let Some(userdata) = &new.userdata {
        rule.put(RULE_USERDATA, userdata)?;
    }
    let append = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    let mut body = vec![nft::message(
        nft::NEWTABLE,
        libc::NLM_F_CREATE,
        family,
        &table,
    )];
    let key = (new.family, new.table.clone(), new.chain.clone());
    if !chains()?.contains_key(&key) {
        body.push(nft::message(
            nft::NEWCHAIN,
            libc::NLM_F_CREATE,
            family,
            &chain,
        ));
    }
    body.push(nft::message(nft::NEWRULE, append, family, &rule));
    transaction(&body).map_err(Error::doing(|| format!("cannot add {}", describe(new))))?;
    Ok(true)
}

fn transaction(body: &[Message]) -> netlink::Result<()> {
    let (begin, end) = nft::frame(None)?;
    Socket::open(Protocol::Netfilter)?.transaction(&begin, body, &end)
}

/// Removes a rule that [`add`] has added; chains and tables stay, empty.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(old: &NatRule) -> Result<()> {
    let wanted = normal(old);
    let handles = std::cell::RefCell::new(HashSet::new());
    dump(
        nft::GETRULE,
        |payload| {
            let found = rule(payload)?.filter(|(r, _)| normal(r) == wanted);
            handles.borrow_mut().extend(found.map(|(_, handle)| handle));
            Ok(())
        },
        || handles.borrow_mut().clear(),
    )?;
    let family = family(old)?;
    for handle in handles.into_inner() {
        let mut w = Writer::new();
        w.put_str(RULE_TABLE, &old.table)?;
        w.put_str(RULE_CHAIN, &old.chain)?;
        w.put(RULE_HANDLE, &handle)?;
        transaction(&[nft::message(nft::DELRULE, 0, family, &w)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let who = Subscribers { links: &[], prefixes: &[(vec![10, 60, 0, 0], 14)] };
            let _ = Said::of(&bytes, &who);
            let _ = rule(&bytes);
            let _ = chain(&bytes);
        }
    }

    #[test]
    fn subscribers_are_told_by_prefix() {
        let who = Subscribers {
            links: &[],
            prefixes: &[(vec![10, 60, 0, 0], 14)],
        };
        assert!(who.overlap(&[10, 63]));
        assert!(who.overlap(&[10]));
        assert!(!who.overlap(&[10, 64, 0, 0]));
        assert!(who.contain(&[10, 61, 2, 3]));
        assert!(!who.contain(&[10, 64, 2, 3]));
        assert!(!who.contain(&[10; 16]));
    }
}
