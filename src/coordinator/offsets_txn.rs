//! Offsets that are committed in transactions: pending from TxnOffsetCommit until the marker of the
//! transaction, which makes them count or drops them (`OffsetMetadataManager`, KIP-98, KIP-447).
//! Pure.
//!
//! Which of two commits of one partition is newer is told by the order of their records, not of the
//! markers: a plain commit that came after a pending one outlives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    calls::{
        CommitReply, DeleteOffsetsReply, Effect, EndTxnCall, FetchCall, FetchReply, Reply, Ticket,
        Token, TxnCommitCall, TxnWrite,
    },
    group_classic::ClassicGroup,
    offsets,
    ports::Appended,
    records::{OffsetAndMetadata, Record},
    shard::Shard,
    turn::{Then, Turn},
};
use crate::base::{ErrorCode, Mutant, Now, PartitionId, Uuid, mutant};

/// Group, topic, partition.
type Key = (Arc<str>, Arc<str>, PartitionId);

/// What is pending for one partition of a group.
#[derive(Debug, Default)]
struct Open {
    producers: BTreeSet<i64>,
    /// When the newest commit that counts was written, if that was since the first of these.
    counts_since: u64,
}

/// The pending offsets of a shard.
#[derive(Debug, Default)]
pub(super) struct TxnOffsets {
    /// Counts commits; the order of their records.
    written: u64,
    by_producer: BTreeMap<i64, BTreeMap<Key, (u64, OffsetAndMetadata)>>,
    open: BTreeMap<Key, Open>,
    writing: BTreeMap<Ticket, (TxnWrite, Then)>,
}

impl TxnOffsets {
    fn pend(&mut self, producer_id: i64, key: Key, value: OffsetAndMetadata) {
        self.written += 1;
        self.open.entry(key.clone()).or_default().producers.insert(producer_id);
        let pending = self.by_producer.entry(producer_id).or_default();
        pending.insert(key, (self.written, value));
    }

    /// A record outside of transactions was written: a commit, or a tombstone, which takes what is
    /// pending with it.
    pub(super) fn plain(
        &mut self,
        group: &Arc<str>,
        topic: &Arc<str>,
        partition: PartitionId,
        is_commit: bool,
    ) {
        if self.open.is_empty() {
            return;
        }
        let key = (group.clone(), topic.clone(), partition);
        if is_commit {
            self.written += 1;
            if let Some(open) = self.open.get_mut(&key) {
                open.counts_since = self.written;
            }
            return;
        }
        for producer_id in self.open.remove(&key).into_iter().flat_map(|o| o.producers) {
            if let Some(pending) = self.by_producer.get_mut(&producer_id) {
                pending.remove(&key);
            }
        }
    }

    /// The producer's transaction ends: gives what counts from now on.
    fn end(&mut self, producer_id: i64, commit: bool) -> Vec<(Key, OffsetAndMetadata)> {
        let mut counts = Vec::new();
        for (key, (at, value)) in self.by_producer.remove(&producer_id).unwrap_or_default() {
            let Some(open) = self.open.get_mut(&key) else { continue };
            open.producers.remove(&producer_id);
            let newest = at > open.counts_since;
            if commit && newest {
                open.counts_since = at;
            }
            if open.producers.is_empty() {
                self.open.remove(&key);
            }
            if (commit || mutant(Mutant::AbortedOffsetsCount)) && newest {
                counts.push((key, value));
            }
        }
        counts
    }

    /// The partitions of `group` with something pending.
    fn of_group<'a>(&'a self, group: &'a Arc<str>) -> impl Iterator<Item = &'a Key> {
        let from = (!self.open.is_empty()).then(|| (group.clone(), Arc::default(), i32::MIN));
        from.into_iter()
            .flat_map(|from| self.open.range(from..))
            .map(|(key, _)| key)
            .take_while(move |key| key.0 == *group)
    }

    /// Whether the group has anything pending: it must not go.
    pub(super) fn has_group(&self, group: &Arc<str>) -> bool {
        self.of_group(group).next().is_some()
    }

    fn has(&self, group: &Arc<str>, topic: &Arc<str>, partition: PartitionId) -> bool {
        !self.open.is_empty() && self.open.contains_key(&(group.clone(), topic.clone(), partition))
    }

    /// Takes those of the tombstones from `from` on away that expiry must not write: for partitions
    /// with something pending. Tells whether `group` has nothing pending.
    pub(super) fn spare(&self, group: &Arc<str>, records: &mut Vec<Record>, from: usize) -> bool {
        if !self.has_group(group) {
            return true;
        }
        let expired = records.split_off(from.min(records.len()));
        records.extend(expired.into_iter().filter(|r| match r {
            Record::Offset { group, topic, partition, .. } => !self.has(group, topic, *partition),
            _ => true,
        }));
        false
    }

    /// Adds the tombstones for what only is pending in `group`, of the partitions that `wanted`
    /// picks; what counts has its tombstones among `records` already.
    pub(super) fn delete(
        &self,
        group: &Arc<str>,
        wanted: impl Fn(&Arc<str>, PartitionId) -> bool,
        records: &mut Vec<Record>,
    ) {
        let gone = |r: &Record| match r {
            Record::Offset { group: g, topic, partition, value: None } if g == group => {
                Some((topic.clone(), *partition))
            }
            _ => None,
        };
        let mut gone: BTreeSet<_> = match self.has_group(group) {
            true => records.iter().filter_map(gone).collect(),
            false => return,
        };
        for (_, topic, partition) in self.of_group(group) {
            if wanted(topic, *partition) && gone.insert((topic.clone(), *partition)) {
                let (group, topic, partition) = (group.clone(), topic.clone(), *partition);
                records.push(Record::Offset { group, topic, partition, value: None });
            }
        }
    }

    /// The same for the partitions that OffsetDelete answers without an error.
    pub(super) fn delete_named(
        &self,
        group: &Arc<str>,
        reply: &DeleteOffsetsReply,
        records: &mut Vec<Record>,
    ) {
        let wanted = |topic: &Arc<str>, partition| {
            let of = reply.topics.iter().filter(|(name, _)| name == topic);
            of.flat_map(|(_, codes)| codes).any(|c| *c == (partition, ErrorCode::None))
        };
        self.delete(group, wanted, records);
    }

    /// Adds the tombstones for what only is pending of `topics`.
    pub(super) fn delete_topics(&self, topics: &[(Arc<str>, Uuid)], records: &mut Vec<Record>) {
        let groups: BTreeSet<_> = self.open.keys().map(|(group, ..)| group.clone()).collect();
        for group in groups {
            self.delete(&group, |topic, _| topics.iter().any(|(name, _)| name == topic), records);
        }
    }

    /// What a reader that wants stable offsets gets: none where one is pending (KIP-447).
    pub(super) fn stable(&self, call: &FetchCall, mut reply: FetchReply) -> FetchReply {
        if !self.has_group(&call.group) {
            return reply;
        }
        for topic in &mut reply.topics {
            for p in &mut topic.partitions {
                if self.has(&call.group, &topic.name, p.partition) {
                    (p.offset, p.leader_epoch) = (-1, -1);
                    p.metadata = Arc::default();
                    p.error = ErrorCode::UnstableOffsetCommit;
                }
            }
        }
        reply
    }

    /// Answers of what is asked of the driver and has no result, once the shard is given up.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Then> {
        std::mem::take(&mut self.writing).into_values().map(|(_, then)| then)
    }
}

impl ClassicGroup {
    /// Whether a transactional commit may come in: of a member of this generation, or of a producer
    /// that names no membership (`ClassicGroup.validateOffsetCommit`). The state of the group does
    /// not matter.
    ///
    /// # Errors
    /// `UnknownMemberId`, `FencedInstanceId`, `IllegalGeneration`.
    fn accept_txn_commit(&self, call: &TxnCommitCall) -> Result<(), ErrorCode> {
        let call = &call.commit;
        let nobody = call.member_id.is_empty() && call.instance_id.is_none();
        if call.generation < 0 && (self.is_empty() || nobody) {
            return Ok(());
        }
        self.check_member(&call.member_id, call.instance_id.as_deref())?;
        match call.generation == self.generation {
            true => Ok(()),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }
}

impl Shard {
    /// Offsets never stand without a group: a client without membership commits into one of its
    /// own.
    pub(super) fn ensure_group(&mut self, group: &Arc<str>, now: Now) {
        if !self.groups.contains_key(group) && !self.consumers.has(group) {
            self.groups.insert(group.clone(), ClassicGroup::new(group.clone(), now));
        }
    }

    /// Whether the group has offsets, be they pending.
    pub(super) fn has_offsets(&self, group: &Arc<str>) -> bool {
        self.offsets.has(group) || self.txns.has_group(group)
    }

    /// Takes a record of a transactional batch, in the log's order.
    pub fn replay_in_txn(&mut self, producer_id: i64, record: &Record, now: Now) {
        match record {
            Record::Offset { group, topic, partition, value: Some(value) } => {
                self.ensure_group(group, now);
                let key = (group.clone(), topic.clone(), *partition);
                self.txns.pend(producer_id, key, value.clone());
            }
            record => self.replay(record, now),
        }
    }

    /// Takes a marker of the log.
    pub fn replay_end_txn(&mut self, producer_id: i64, commit: bool) {
        for ((group, topic, partition), value) in self.txns.end(producer_id, commit) {
            self.offsets.replay(&group, &topic, partition, Some(&value));
        }
    }

    pub(super) fn txn_commit(&mut self, token: Token, call: &TxnCommitCall, turn: &mut Turn<'_>) {
        let accepted = match self.groups.get(&call.commit.group) {
            Some(group) => group.accept_txn_commit(call),
            None if self.consumers.has(&call.commit.group) => {
                self.consumers.accept_txn_commit(&call.commit)
            }
            None if call.commit.generation < 0 => Ok(()),
            None => Err(ErrorCode::IllegalGeneration),
        };
        if let Err(error) = accepted {
            let reply = CommitReply { error, topics: Vec::new() };
            return turn.reply(token, Reply::Commit(reply));
        }
        let (records, reply) = offsets::commit(&call.commit, turn.now, turn.settings);
        let reply = Reply::Commit(reply);
        if records.is_empty() {
            return turn.reply(token, reply);
        }
        let write = TxnWrite::Offsets {
            producer_id: call.producer_id,
            producer_epoch: call.producer_epoch,
            guard: call.guard,
            records: records.into(),
        };
        self.write_in_txn(write, Then::Replies(vec![(token, reply)]), turn);
    }

    pub(super) fn end_txn(&mut self, token: Token, call: EndTxnCall, turn: &mut Turn<'_>) {
        let reply = Reply::EndTxn(ErrorCode::None);
        self.write_in_txn(TxnWrite::End(call), Then::Replies(vec![(token, reply)]), turn);
    }

    fn write_in_txn(&mut self, write: TxnWrite, then: Then, turn: &mut Turn<'_>) {
        let ticket = self.take_ticket();
        turn.out.push(Effect::AppendInTxn { ticket, write: write.clone() });
        self.txns.writing.insert(ticket, (write, then));
    }

    /// The driver's answer to [`Effect::AppendInTxn`].
    pub(super) fn appended_in_txn(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        let Some((write, then)) = self.txns.writing.remove(&ticket) else { return };
        let at = match result {
            Ok(at) => at,
            Err(error) => return self.settle(then, Err(error), turn),
        };
        self.take_written(at, then, turn, |shard, turn| match &write {
            TxnWrite::Offsets { producer_id, records, .. } => {
                for record in &**records {
                    shard.replay_in_txn(*producer_id, record, turn.now);
                }
            }
            TxnWrite::End(call) => shard.replay_end_txn(call.producer_id, call.commit),
        });
    }
}
