// SPDX-License-Identifier: GPL-2.0-only
//! Rules that translate the subscribers' addresses on their way to the
//! internet, made with nft or iptables-nft: kept as the kernel reports them.

mod said;

use std::collections::{HashMap, HashSet};

pub use said::Subscribers;
use said::{parse, Said, Whose};

use super::{Error, Result};
use crate::netlink::attr::get_str;
use crate::netlink::nft::{self, be32};
use crate::netlink::settled::settled;
use crate::netlink::{self, Attrs, Message, Protocol, Socket, Writer};
use crate::proto::NatRule;

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
        let NatRule { table, chain, .. } = &rule;
        let key = (rule.family, table.clone(), chain.clone());
        let base = chains.get(&key);
        if said.hides && said.whose == Whose::Unknown && base.is_some() {
            log::warn!(
                "{} is not carried: it names neither a prefix of the subscribers nor their link; \
                 should it translate their addresses, add it on the destination too",
                describe(&rule)
            );
        }
        if said.whose != Whose::Ours {
            continue;
        }
        if said.leads_on && said.covers && base.is_some_and(|b| b.chain_type == "nat") {
            return Err(Error::Unsupported(format!(
                "a rule in {table} {chain} leads packets of subscribers to another chain, which cannot be carried yet; \
                 put that chain's rules into {chain}"
            )));
        }
        if !said.translates {
            continue;
        }
        if said.uses_set {
            return Err(Error::Unsupported(format!(
                "a rule in {table} {chain} translates addresses of a set, which cannot be carried yet; \
                 write it as a rule for each prefix"
            )));
        }
        let Some(base) = base else {
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

/// What `read` makes of each message of a dump of nftables.
fn dump<T>(kind: u16, read: impl Fn(&[u8]) -> netlink::Result<Option<T>>) -> Result<Vec<T>> {
    let list: netlink::Result<_> = settled(|| {
        let mut found = Vec::new();
        let msg = nft::message(kind, 0, 0, &Writer::new());
        Socket::open(Protocol::Netfilter)?.dump(msg, |payload| {
            found.extend(read(payload)?);
            Ok::<(), netlink::Error>(())
        })?;
        Ok(found)
    });
    match list {
        // A kernel without nftables has no rules.
        Err(e) if e.errno() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// All rules of this network namespace.
fn rules() -> Result<Vec<NatRule>> {
    dump(nft::GETRULE, |payload| Ok(rule(payload)?.map(|(r, _)| r)))
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
    Ok(dump(nft::GETCHAIN, chain)?.into_iter().collect())
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

/// The rules and chains of this network namespace, to add to.
#[derive(Debug)]
pub struct Present {
    /// In their [`normal`] form.
    rules: HashSet<String>,
    chains: HashSet<ChainKey>,
}

impl Present {
    /// Reads them.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn read() -> Result<Self> {
        Ok(Self {
            rules: rules()?.iter().map(normal).collect(),
            chains: chains()?.into_keys().collect(),
        })
    }
}

/// Adds a rule with its table and chain, unless there is one like it.
/// Answers whether it was added.
///
/// # Errors
/// The kernel's refusal.
pub fn add(new: &NatRule, present: &mut Present) -> Result<bool> {
    let wanted = normal(new);
    if present.rules.contains(&wanted) {
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
    if !present.chains.contains(&key) {
        body.push(nft::message(
            nft::NEWCHAIN,
            libc::NLM_F_CREATE,
            family,
            &chain,
        ));
    }
    body.push(nft::message(nft::NEWRULE, append, family, &rule));
    transaction(&body).map_err(Error::doing(|| format!("cannot add {}", describe(new))))?;
    present.rules.insert(wanted);
    present.chains.insert(key);
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
    let handles = dump(nft::GETRULE, |payload| {
        let found = rule(payload)?.filter(|(r, _)| normal(r) == wanted);
        Ok(found.map(|(_, handle)| handle))
    })?;
    let family = family(old)?;
    for handle in handles {
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
}
