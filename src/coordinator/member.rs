//! A member of a classic group (`ClassicGroupMember`): what it offers, what it was given, and the
//! requests it has parked. Pure.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{
    calls::{Client, DescribedMember, JoinCall, JoinedMember, Protocol, Token},
    records::MemberMetadata,
};
use crate::base::Mono;

/// A member of a classic group.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client: Client,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// In the member's order of preference; no name stands twice.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// The parked JoinGroup.
    pub(super) joining: Option<Token>,
    /// The parked SyncGroup.
    pub(super) syncing: Option<Token>,
    /// Has never been through a completed join, so that its session may end while it is parked.
    pub(super) is_new: bool,
    /// When its session ends.
    pub(super) session_at: Mono,
}

impl Member {
    /// A member that joins now for the first time, under `id`.
    pub(super) fn joins(id: Arc<str>, call: &JoinCall) -> Self {
        Self {
            id,
            instance_id: call.instance_id.clone(),
            client: call.client.clone(),
            rebalance_timeout_ms: call.rebalance_timeout_ms,
            session_timeout_ms: call.session_timeout_ms,
            protocols: distinct(&call.protocols),
            assignment: Bytes::new(),
            joining: None,
            syncing: None,
            is_new: true,
            session_at: Mono::NEVER,
        }
    }

    /// A member of a stored group, under the protocol `chosen` that was stored with it.
    pub(super) fn stored(m: &MemberMetadata, chosen: Option<&Arc<str>>) -> Self {
        // Version 0 has no rebalance timeout.
        let rebalance_timeout_ms = match m.rebalance_timeout_ms {
            -1 => m.session_timeout_ms,
            ms => ms,
        };
        let protocols = chosen
            .map(|name| Protocol { name: name.clone(), metadata: m.subscription.clone() })
            .into_iter()
            .collect();
        Self {
            id: m.member_id.clone(),
            instance_id: m.instance_id.clone(),
            client: Client { id: m.client_id.clone(), host: m.client_host.clone() },
            rebalance_timeout_ms,
            session_timeout_ms: m.session_timeout_ms,
            protocols,
            assignment: m.assignment.clone(),
            joining: None,
            syncing: None,
            is_new: false,
            session_at: Mono::NEVER,
        }
    }

    /// Takes what a later JoinGroup says.
    pub(super) fn update(&mut self, call: &JoinCall) {
        self.protocols = distinct(&call.protocols);
        self.rebalance_timeout_ms = call.rebalance_timeout_ms;
        self.session_timeout_ms = call.session_timeout_ms;
    }

    pub(super) const fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    /// Whether its session may not end now: known members are exempt while a request is parked.
    pub(super) const fn is_exempt(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }

    /// Whether it offers exactly this.
    pub(super) fn offers(&self, protocols: &[Protocol]) -> bool {
        self.protocols == distinct(protocols)
    }

    /// What it said under protocol `name`; nothing if it does not offer it.
    pub(super) fn metadata(&self, name: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|p| Some(&*p.name) == name);
        found.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// Its first protocol among `candidates`.
    pub(super) fn vote(&self, candidates: &BTreeSet<Arc<str>>) -> Option<&Arc<str>> {
        self.protocols.iter().map(|p| &p.name).find(|name| candidates.contains(*name))
    }

    pub(super) fn joined(&self, protocol: Option<&str>) -> JoinedMember {
        JoinedMember {
            member_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            metadata: self.metadata(protocol),
        }
    }

    /// As DescribeGroups shows it; `protocol` only of a stable group.
    pub(super) fn describe(&self, protocol: Option<&str>) -> DescribedMember {
        DescribedMember {
            member_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            client: self.client.clone(),
            metadata: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }

    /// As it is stored, with `assignment`.
    pub(super) fn to_record(&self, protocol: Option<&str>, assignment: Bytes) -> MemberMetadata {
        MemberMetadata {
            member_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            client_id: self.client.id.clone(),
            client_host: self.client.host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }
}

/// `protocols` without a second of the same name, which would count twice in the vote.
fn distinct(protocols: &[Protocol]) -> Vec<Protocol> {
    let mut seen = BTreeSet::new();
    protocols.iter().filter(|p| seen.insert(&p.name)).cloned().collect()
}
