//! The consumer groups of a shard: the groups, which of them read a topic, their timers, and why
//! they rebalanced. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use imbl::OrdMap;

use super::{
    calls::{CommitCall, Effect, FetchCall, ListedGroup},
    calls_consumer::{ChangedTopics, DescribedConsumer, DescribedConsumerGroup, Rebalance},
    consumer_member::ConsumerMember,
    consumer_records::{Change, ConsumerRecord},
    group_classic::CONSUMER,
    group_consumer::{ConsumerGroup, SubscribedTopics},
    offsets::Owner,
    records::OffsetAndMetadata,
    settings::Settings,
    turn::Turn,
};
use crate::{
    base::{ErrorCode, Mono, Mutant, Now, mutant},
    metadata::{ConfigResource, Image, ResourceType, Topic},
};

/// Rebalances that are remembered of one group.
const REBALANCES_MAX: usize = 16;
/// A group looks at the metadata again by itself after this time
/// (`METADATA_REFRESH_INTERVAL_MS`).
const REFRESH_MS: i64 = 2_147_483_647;

/// All groups by id; a copy costs nothing.
pub(super) type Groups = OrdMap<Arc<str>, Arc<ConsumerGroup>>;

/// What a member is timed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// It must send heartbeats.
    Session,
    /// It must give partitions back.
    Rebalance,
    /// It must send a JoinGroup, speaking the classic protocol.
    Join,
    /// It must send a SyncGroup, speaking the classic protocol.
    Sync,
}

impl Timer {
    /// Why the member is out when it runs out.
    pub(super) const fn why(self) -> &'static str {
        match self {
            Self::Session => "the member's session expired",
            Self::Rebalance => "the member did not give back its partitions in time",
            Self::Join => "the member did not rejoin in time",
            Self::Sync => "the member did not sync in time",
        }
    }
}

type TimerKey = (Arc<str>, Arc<str>, Timer);

/// The timers of members, by group and member.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// When, and for a rebalance the epoch it is about.
    set: BTreeMap<TimerKey, (Mono, i32)>,
    due: BTreeSet<(Mono, TimerKey)>,
}

impl Timers {
    /// Starts a timer, or starts it anew.
    pub(super) fn start(
        &mut self,
        group: &Arc<str>,
        member: &Arc<str>,
        timer: Timer,
        at: Mono,
        epoch: i32,
    ) {
        let key = (group.clone(), member.clone(), timer);
        self.cancel_key(&key);
        self.due.insert((at, key.clone()));
        self.set.insert(key, (at, epoch));
    }

    pub(super) fn is_set(&self, group: &Arc<str>, member: &Arc<str>, timer: Timer) -> bool {
        self.set.contains_key(&(group.clone(), member.clone(), timer))
    }

    pub(super) fn cancel(&mut self, group: &Arc<str>, member: &Arc<str>, timer: Timer) {
        self.cancel_key(&(group.clone(), member.clone(), timer));
    }

    fn cancel_key(&mut self, key: &TimerKey) {
        if let Some((at, _)) = self.set.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }

    pub(super) fn cancel_member(&mut self, group: &Arc<str>, member: &Arc<str>) {
        for timer in [Timer::Session, Timer::Rebalance, Timer::Join, Timer::Sync] {
            self.cancel(group, member, timer);
        }
    }

    fn cancel_group(&mut self, group: &Arc<str>) {
        let from = (group.clone(), Arc::from(""), Timer::Session);
        let of_group = self.set.range(from..).take_while(|(key, _)| key.0 == *group);
        let keys: Vec<TimerKey> = of_group.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.cancel_key(&key);
        }
    }

    pub(super) fn next(&self) -> Mono {
        self.due.first().map_or(Mono::NEVER, |(at, _)| *at)
    }

    /// Takes a timer that is due: the group, the member, what for, and the epoch it is about.
    pub(super) fn pop(&mut self, now: Mono) -> Option<(Arc<str>, Arc<str>, Timer, i32)> {
        if self.next() > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let (_, epoch) = self.set.remove(&key)?;
        let (group, member, timer) = key;
        Some((group, member, timer, epoch))
    }
}

/// The consumer groups of a shard.
#[derive(Debug)]
pub(super) struct ConsumerGroups {
    pub(super) groups: Groups,
    /// Groups that read a topic, by its name.
    by_topic: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    pub(super) image: Arc<Image>,
    /// Hashes of topics that are read, as of `image`.
    hashes: BTreeMap<Arc<str>, i64>,
    /// Position of the last metadata with a new topic: regular expressions that were resolved
    /// before it may lack some.
    pub(super) new_topics_at: i64,
    /// When a group looks at the metadata anew, by the wall clock in milliseconds, and the epoch
    /// that it had then. A group that is not here does so at its next heartbeat.
    refresh: BTreeMap<Arc<str>, (i64, i32)>,
    /// Groups whose regular expressions are being resolved.
    pub(super) resolving: BTreeSet<Arc<str>>,
    pub(super) timers: Timers,
    rebalances: BTreeMap<Arc<str>, VecDeque<Rebalance>>,
}

impl ConsumerGroups {
    pub(super) fn new() -> Self {
        Self {
            groups: Groups::new(),
            by_topic: BTreeMap::new(),
            image: Arc::default(),
            hashes: BTreeMap::new(),
            new_topics_at: -1,
            refresh: BTreeMap::new(),
            resolving: BTreeSet::new(),
            timers: Timers::default(),
            rebalances: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, group: &str) -> Option<&Arc<ConsumerGroup>> {
        self.groups.get(group)
    }

    pub(super) fn has(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Takes a record that was written. Tells whether the group is gone by it.
    pub(super) fn replay(&mut self, record: &ConsumerRecord) -> bool {
        let id = &record.group;
        if matches!(record.change, Change::Epoch(None)) {
            return self.remove(id);
        }
        if !self.groups.contains_key(id) {
            if is_tombstone(&record.change) {
                return false;
            }
            self.groups.insert(id.clone(), Arc::new(ConsumerGroup::new(id.clone())));
        }
        let Some(group) = self.groups.get_mut(id) else { return false };
        let before = group.topics.clone();
        let group = Arc::make_mut(group);
        group.replay(&record.change);
        let after = group.topics.clone();
        if matches!(record.change, Change::Member(..) | Change::Regex(..)) {
            self.index(id, &before, &after);
        }
        if let Change::Member(member, None) = &record.change {
            self.timers.cancel_member(id, member);
        }
        false
    }

    /// Forgets a group; tells whether there was one.
    pub(super) fn remove(&mut self, id: &Arc<str>) -> bool {
        let Some(group) = self.groups.remove(id) else { return false };
        self.forget(id, &group.topics);
        self.resolving.remove(id);
        true
    }

    /// Forgets what is kept beside a group that reads `topics`.
    pub(super) fn forget(&mut self, id: &Arc<str>, topics: &SubscribedTopics) {
        self.index(id, topics, &SubscribedTopics::new());
        self.timers.cancel_group(id);
        self.refresh.remove(id);
        self.rebalances.remove(id);
    }

    /// Keeps the index by topic: the cost is that of what differs.
    pub(super) fn index(
        &mut self,
        id: &Arc<str>,
        before: &SubscribedTopics,
        after: &SubscribedTopics,
    ) {
        if before.ptr_eq(after) {
            return;
        }
        for topic in before.keys().filter(|t| !after.contains_key(*t)) {
            let Some(groups) = self.by_topic.get_mut(topic) else { continue };
            groups.remove(id);
            if groups.is_empty() {
                self.by_topic.remove(topic);
                self.hashes.remove(topic);
            }
        }
        for topic in after.keys().filter(|t| !before.contains_key(*t)) {
            self.by_topic.entry(topic.clone()).or_default().insert(id.clone());
        }
    }

    /// The groups that read a topic.
    pub(super) fn readers_of(&self, topic: &str) -> impl Iterator<Item = &Arc<str>> {
        self.by_topic.get(topic).into_iter().flatten()
    }

    // Metadata.

    /// The cluster's metadata is now `image`: groups that read what changed look at it at their
    /// next heartbeat.
    pub(super) fn metadata_changed(&mut self, image: Arc<Image>, changed: &ChangedTopics) {
        if self.new_topics_at == -1 || changed.created {
            self.new_topics_at = image.position.offset;
        }
        self.image = image;
        for name in &changed.names {
            self.hashes.remove(name);
            for group in self.by_topic.get(name).into_iter().flatten() {
                self.refresh.remove(group);
            }
        }
    }

    /// Whether a group has to compare its topics with the metadata.
    pub(super) fn must_refresh(&self, group: &str, epoch: i32, now: Now) -> bool {
        let next = self.refresh.get(group);
        next.is_none_or(|(at, then)| now.wall_ms >= *at || epoch < *then)
    }

    pub(super) fn refreshed(&mut self, group: &Arc<str>, epoch: i32, now: Now) {
        self.refresh.insert(group.clone(), (now.wall_ms.saturating_add(REFRESH_MS), epoch));
    }

    /// A hash of the topics that exist, with their ids, partitions and racks; 0 for none. Kafka
    /// hashes the same facts with another function: a log that was written by it costs one
    /// rebalance.
    pub(super) fn metadata_hash(&mut self, topics: &SubscribedTopics) -> i64 {
        let mut hash = Hash::new();
        let mut any = false;
        for name in topics.keys() {
            let one = match self.hashes.get(name) {
                Some(known) => Some(*known),
                None => self.image.topics().by_name(name).map(|t| topic_hash(&self.image, t)),
            };
            if let Some(one) = one {
                self.hashes.insert(name.clone(), one);
                hash.add(&one.to_be_bytes());
                any = true;
            }
        }
        if any { hash.get() } else { 0 }
    }

    // Settings, of the group itself or of the broker.

    pub(super) fn setting(&self, group: &str, key: &str, or: i32, min: i32, max: i32) -> i32 {
        let resource = ConfigResource { kind: ResourceType::Group, name: group.into() };
        let own = self.image.configs().value(&resource, key);
        match own.and_then(|v| v.trim().parse::<i32>().ok()) {
            // The broker's bounds may have moved since it was set.
            Some(own) if min <= max => own.clamp(min, max),
            Some(own) => own,
            None => or,
        }
    }

    /// In milliseconds.
    pub(super) fn session_timeout_ms(&self, group: &str, settings: &Settings) -> i32 {
        let s = &settings.consumer;
        let (min, max) = (s.min_session_timeout_ms, s.max_session_timeout_ms);
        self.setting(group, "consumer.session.timeout.ms", s.session_timeout_ms, min, max)
    }

    /// In milliseconds.
    pub(super) fn heartbeat_interval_ms(&self, group: &str, settings: &Settings) -> i32 {
        let s = &settings.consumer;
        let (min, max) = (s.min_heartbeat_interval_ms, s.max_heartbeat_interval_ms);
        self.setting(group, "consumer.heartbeat.interval.ms", s.heartbeat_interval_ms, min, max)
    }

    /// In milliseconds.
    pub(super) fn assignment_interval_ms(&self, group: &str, settings: &Settings) -> i32 {
        let s = &settings.consumer;
        let (min, max) = (s.min_assignment_interval_ms, s.max_assignment_interval_ms);
        let key = "group.consumer.assignment.interval.ms";
        let or = self.dynamic(key, s.assignment_interval_ms);
        self.setting(group, "consumer.assignment.interval.ms", or, min, max)
    }

    /// A key that may change for all brokers while they run.
    pub(super) fn dynamic(&self, key: &str, or: i32) -> i32 {
        let dynamic = self.image.configs().value(&ConfigResource::all_brokers(), key);
        dynamic.and_then(|v| v.trim().parse().ok()).unwrap_or(or)
    }

    // Timers.

    /// Starts a timer that ends `ms` from now.
    pub(super) fn start(
        &mut self,
        group: &Arc<str>,
        member: &Arc<str>,
        timer: Timer,
        ms: i32,
        now: Now,
    ) {
        let at = now.mono.after_ms(i64::from(ms.max(0)));
        self.timers.start(group, member, timer, at, 0);
    }

    /// As [`ConsumerGroups::start`], unless it runs.
    pub(super) fn start_if_absent(
        &mut self,
        group: &Arc<str>,
        member: &Arc<str>,
        timer: Timer,
        ms: i32,
        now: Now,
    ) {
        if !self.timers.is_set(group, member, timer) {
            self.start(group, member, timer, ms, now);
        }
    }

    // What is told.

    /// Remembers and tells why the epoch of a group grows.
    pub(super) fn rebalances(
        &mut self,
        group: &Arc<str>,
        epoch: i32,
        member: Option<&Arc<str>>,
        why: &'static str,
        turn: &mut Turn<'_>,
    ) {
        let rebalance = Rebalance {
            group: group.clone(),
            epoch,
            at_ms: turn.now.wall_ms,
            member: member.cloned(),
            why,
        };
        let last = self.rebalances.entry(group.clone()).or_default();
        if last.len() == REBALANCES_MAX {
            last.pop_front();
        }
        last.push_back(rebalance.clone());
        turn.out.push(Effect::Rebalance(rebalance));
    }

    /// Forgets what is kept of groups that never came to be, and are no share groups.
    pub(super) fn forget_strangers(&mut self, is_share: impl Fn(&str) -> bool) {
        let groups = &self.groups;
        self.refresh.retain(|id, _| groups.contains_key(id) || is_share(id));
        self.rebalances.retain(|id, _| groups.contains_key(id) || is_share(id));
    }

    /// The last rebalances of a group, the latest last.
    pub(super) fn last_rebalances(&self, group: &str) -> Vec<Rebalance> {
        self.rebalances.get(group).into_iter().flatten().cloned().collect()
    }

    /// Whether a commit is let in.
    ///
    /// # Errors
    /// `GroupIdNotFound`, `UnknownMemberId`, `UnsupportedVersion`, `StaleMemberEpoch`; a member that
    /// speaks the classic protocol is told `IllegalGeneration` instead of the last.
    pub(super) fn accept_commit(&self, call: &CommitCall) -> Result<(), ErrorCode> {
        let group = self.get(&call.group).ok_or(ErrorCode::GroupIdNotFound)?;
        if call.generation < 0 && group.is_empty() {
            return Ok(());
        }
        let member = group.members.get(&call.member_id).ok_or(ErrorCode::UnknownMemberId)?;
        // Version 9 is the first that knows member epochs.
        if member.classic.is_none() && !call.knows_group_id_not_found {
            return Err(ErrorCode::UnsupportedVersion);
        }
        check_epoch(member, call)
    }

    /// Whether a commit in a transaction is let in: of a member as it is now, or of a producer that
    /// names no membership (`OffsetMetadataManager.validateTransactionalOffsetCommit`).
    ///
    /// # Errors
    /// `GroupIdNotFound`, `UnknownMemberId`, `IllegalGeneration`.
    pub(super) fn accept_txn_commit(&self, call: &CommitCall) -> Result<(), ErrorCode> {
        let group = self.get(&call.group).ok_or(ErrorCode::GroupIdNotFound)?;
        let nobody = call.member_id.is_empty() && call.instance_id.is_none();
        if call.generation < 0 && (group.is_empty() || nobody) {
            return Ok(());
        }
        let member = group.members.get(&call.member_id).ok_or(ErrorCode::UnknownMemberId)?;
        // Clients of this API know no member epochs.
        check_epoch(member, call).map_err(|_| ErrorCode::IllegalGeneration)
    }
}

/// Whether a commit comes from the member as it is now.
fn check_epoch(member: &ConsumerMember, call: &CommitCall) -> Result<(), ErrorCode> {
    if call.generation == member.epoch || mutant(Mutant::AcceptStaleMember) {
        return Ok(());
    }
    let stale = match member.classic {
        Some(_) => ErrorCode::IllegalGeneration,
        None => ErrorCode::StaleMemberEpoch,
    };
    if call.generation > member.epoch {
        return Err(stale);
    }
    // An older epoch will do for partitions that the member has had since then (KIP-1251).
    let held = call.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, p)));
    let all = held.into_iter().all(|(topic, p)| {
        member.partition_epoch(topic, p.partition).is_some_and(|e| call.generation >= e)
    });
    if all { Ok(()) } else { Err(stale) }
}

/// Whether a fetch of offsets is let in, by the groups as they are committed. Only of a consumer
/// group something is asked.
///
/// # Errors
/// `UnknownMemberId`, `StaleMemberEpoch`; to a member that speaks the classic protocol
/// `IllegalGeneration`.
pub(super) fn accept_fetch(groups: &Groups, call: &FetchCall) -> Result<(), ErrorCode> {
    let Some(group) = groups.get(&call.group) else { return Ok(()) };
    let id = match &call.member_id {
        None if call.member_epoch < 0 => return Ok(()),
        id => id.as_deref().unwrap_or_default(),
    };
    let member = group.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
    match (member.epoch == call.member_epoch, &member.classic) {
        (true, _) => Ok(()),
        (false, Some(_)) => Err(ErrorCode::IllegalGeneration),
        (false, None) => Err(ErrorCode::StaleMemberEpoch),
    }
}

impl Owner for ConsumerGroup {
    fn id(&self) -> &Arc<str> {
        &self.id
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        Self::is_subscribed_to(self, topic)
    }

    fn retention_from(&self, offset: &OffsetAndMetadata) -> Option<i64> {
        Some(offset.commit_ms)
    }
}

pub(super) fn list(groups: &Groups) -> impl Iterator<Item = ListedGroup> + '_ {
    groups.values().map(|group| ListedGroup {
        group: group.id.clone(),
        protocol_type: CONSUMER.into(),
        state: group.state(),
        group_type: "consumer",
    })
}

pub(super) fn describe(group: &ConsumerGroup, default_assignor: &str) -> DescribedConsumerGroup {
    let members = group.members.values().map(|m| DescribedConsumer {
        member_id: m.id.clone(),
        instance_id: m.instance_id.clone(),
        rack: m.rack.clone(),
        epoch: m.epoch,
        client: m.client.clone(),
        topics: m.topics.clone(),
        regex: m.regex.clone(),
        assigned: m.assigned.clone(),
        revoking: m.revoking.clone(),
        target: group.target(&m.id),
        classic: m.classic.is_some(),
    });
    DescribedConsumerGroup {
        group: group.id.clone(),
        state: group.state(),
        epoch: group.epoch,
        target_epoch: group.target_epoch,
        assignor: group.preferred_assignor().unwrap_or_else(|| default_assignor.into()),
        members: members.collect(),
    }
}

const fn is_tombstone(change: &Change) -> bool {
    match change {
        Change::Epoch(v) => v.is_none(),
        Change::TopicMetadata(v) => v.is_none(),
        Change::Member(_, v) => v.is_none(),
        Change::TargetEpoch(v) => v.is_none(),
        Change::Target(_, v) => v.is_none(),
        Change::Current(_, v) => v.is_none(),
        Change::Regex(_, v) => v.is_none(),
    }
}

/// FNV-1a over 64 bits.
struct Hash(u64);

impl Hash {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    const fn get(&self) -> i64 {
        i64::from_be_bytes(self.0.to_be_bytes())
    }
}

fn topic_hash(image: &Image, topic: &Topic) -> i64 {
    let mut hash = Hash::new();
    hash.add(&topic.id.0);
    hash.add(topic.name.as_bytes());
    hash.add(&topic.partition_count().to_be_bytes());
    for (partition, state) in topic.iter() {
        let brokers = state.replicas.iter().filter_map(|id| image.brokers().get(*id));
        let racks: BTreeSet<&str> = brokers.filter_map(|b| b.rack.as_deref()).collect();
        if !racks.is_empty() {
            hash.add(&partition.to_be_bytes());
        }
        for rack in racks {
            hash.add(&[0]);
            hash.add(rack.as_bytes());
        }
    }
    hash.get()
}
