//! What share groups have the share coordinators do: set partitions anew that are to be read, move
//! start offsets, forget (`GroupMetadataManager.maybeCreateInitializeShareGroupStateRequest` and
//! on). The group's record says first what is asked, then what was done; in between, the work is
//! remembered here, so that nothing is asked twice at once. What a lost coordinator asked is asked
//! again by the next heartbeat: its record still says so. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    calls::{Effect, Reply, Token},
    calls_share_groups::{
        AlterShareOffsetsCall, AlterShareOffsetsReply, DeleteShareOffsetsCall,
        DeleteShareOffsetsReply, ShareDeletions, ShareInitialization,
    },
    consumer_records::Partitions,
    group_consumer::SubscribedTopics,
    records::Record,
    shard::{Shard, finish},
    share_group::{ShareGroup, add, record},
    share_group_records::{ShareChange, ShareStateTopics, StateTopic},
    turn::{Then, Turn},
};
use crate::base::{ErrorCode, Now, Offset, PartitionId, Uuid};

/// One initialization.
#[derive(Debug)]
pub(super) struct Work {
    initialization: ShareInitialization,
    /// The AlterShareGroupOffsets that wants it.
    waiter: Option<Token>,
}

impl Shard {
    /// Appends the records of a heartbeat and answers it; has partitions initialized that the group
    /// reads and that nobody has asked for yet.
    pub(super) fn initialize_missing(
        &mut self,
        group: &ShareGroup,
        topics: &SubscribedTopics,
        epoch: i32,
        mut records: Vec<Record>,
        (token, reply): (Token, Reply),
        turn: &mut Turn<'_>,
    ) {
        if self.shares.settled.contains(&group.id) && records.is_empty() {
            return self.reply_after_writes(token, reply, turn);
        }
        let missing = self.missing(group, topics);
        if missing.is_empty() {
            // Members that come, and metadata, unsettle it again.
            let unsettled = self.shares.under_way.contains_key(&group.id);
            let assigned = group.target_epoch >= epoch;
            if records.is_empty() && !unsettled && assigned && !group.is_empty() {
                self.shares.settled.insert(group.id.clone());
            }
            return self.conclude(records, token, reply, turn);
        }
        let offsets = missing.iter().flat_map(|(t, ps)| ps.iter().map(|p| (*t, *p, -1))).collect();
        let state = self.initializing(group, &missing);
        // After a failure the log says so already.
        if state != *group.state || !self.pending.is_empty() {
            records.push(state_record(&group.id, state));
        }
        let id = self.begin_work(&group.id, epoch, offsets, None);
        match records.is_empty() {
            true => self.initialization_recorded(id, Some((token, reply)), Ok(()), turn),
            false => turn.append(records, Then::Initialize(id, Some((token, reply)))),
        }
    }

    /// Partitions of `topics` that are neither initialized nor under way
    /// (`subscribedTopicsChangeMap`).
    fn missing(&self, group: &ShareGroup, topics: &SubscribedTopics) -> Partitions {
        let under_way = self.shares.under_way.get(&group.id);
        let mut missing = Partitions::new();
        for name in topics.keys() {
            let Some(topic) = self.consumers.image.topics().by_name(name) else { continue };
            let known = group.state.initialized.get(&topic.id).map(|t| &t.partitions);
            let count = topic.partition_count();
            let all = usize::try_from(count).unwrap_or(0);
            if known.is_some_and(|known| known.len() >= all) {
                continue;
            }
            let asked = under_way.and_then(|u| u.get(&topic.id));
            let sets = [known, asked];
            let has = |p: PartitionId| sets.iter().flatten().any(|set| set.contains(&p));
            add(&mut missing, topic.id, (0..count).filter(|p| !has(*p)));
        }
        missing
    }

    /// The state of a group of which `partitions` are being initialized.
    fn initializing(&self, group: &ShareGroup, partitions: &Partitions) -> ShareStateTopics {
        let mut state = ShareStateTopics::clone(&group.state);
        for (id, partitions) in partitions {
            let Some(topic) = self.consumers.image.topics().by_id(*id) else { continue };
            let make = || StateTopic { name: topic.name.clone(), partitions: BTreeSet::new() };
            state.initializing.entry(*id).or_insert_with(make).partitions.extend(partitions);
            state.deleting.remove(id);
        }
        state
    }

    fn begin_work(
        &mut self,
        group: &Arc<str>,
        state_epoch: i32,
        offsets: Vec<(Uuid, PartitionId, Offset)>,
        waiter: Option<Token>,
    ) -> u64 {
        self.shares.next_work += 1;
        let id = self.shares.next_work;
        let under_way = self.shares.under_way.entry(group.clone()).or_default();
        for (topic, partition, _) in &offsets {
            under_way.entry(*topic).or_default().insert(*partition);
        }
        let initialization = ShareInitialization { id, group: group.clone(), state_epoch, offsets };
        self.shares.works.insert(id, Work { initialization, waiter });
        id
    }

    fn end_work(&mut self, id: u64) -> Option<Work> {
        let work = self.shares.works.remove(&id)?;
        let ShareInitialization { group, offsets, .. } = &work.initialization;
        if let Some(under_way) = self.shares.under_way.get_mut(group) {
            for (topic, partition, _) in offsets {
                if let Some(partitions) = under_way.get_mut(topic) {
                    partitions.remove(partition);
                }
            }
            under_way.retain(|_, partitions| !partitions.is_empty());
            if under_way.is_empty() {
                self.shares.under_way.remove(group);
            }
        }
        Some(work)
    }

    /// The record that says what is asked is committed, or will not be.
    pub(super) fn initialization_recorded(
        &mut self,
        id: u64,
        reply: Option<(Token, Reply)>,
        result: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        match result {
            Ok(()) => {
                turn.out.extend(reply.map(|(token, reply)| Effect::Reply { token, reply }));
                if let Some(work) = self.shares.works.get(&id) {
                    turn.out.push(Effect::InitializeShares(work.initialization.clone()));
                }
            }
            Err(error) => {
                if let Some((token, reply)) = reply {
                    turn.reply(token, reply.failed(error));
                }
                if let Some(Work { waiter: Some(token), .. }) = self.end_work(id) {
                    let reply = AlterShareOffsetsReply::error(error, None);
                    turn.reply(token, Reply::AlterShareOffsets(reply));
                }
            }
        }
    }

    /// The driver's answer to [`Effect::InitializeShares`]: a code for each of its partitions.
    pub fn shares_initialized(
        &mut self,
        id: u64,
        codes: Vec<ErrorCode>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        self.turn(now, out, |shard, turn| shard.take_initialized(id, codes, turn));
    }

    fn take_initialized(&mut self, id: u64, codes: Vec<ErrorCode>, turn: &mut Turn<'_>) {
        let Some(Work { initialization, waiter }) = self.end_work(id) else { return };
        let group = &initialization.group;
        let mut records = Vec::new();
        if let Some(known) = self.shares.get(group) {
            let mut state = ShareStateTopics::clone(&known.state);
            for ((topic, partition, _), code) in initialization.offsets.iter().zip(&codes) {
                initialized(&mut state, *topic, *partition, *code);
            }
            if state != *known.state {
                records.push(state_record(group, state));
            }
        }
        match waiter {
            Some(token) => {
                let reply = AlterShareOffsetsReply { error: ErrorCode::None, message: None, codes };
                finish(records, token, Reply::AlterShareOffsets(reply), turn);
            }
            None if records.is_empty() => {}
            None => turn.append(records, Then::Nothing),
        }
    }

    /// Everybody who waits for the share coordinators, as the shard is unloaded.
    pub(super) fn take_share_waiters(&mut self) -> Vec<(Token, Reply)> {
        let works = std::mem::take(&mut self.shares.works).into_values();
        let reply = |token| {
            (token, Reply::AlterShareOffsets(AlterShareOffsetsReply::error(ErrorCode::None, None)))
        };
        works.filter_map(|work| work.waiter).map(reply).collect()
    }

    // Offsets.

    /// AlterShareGroupOffsets: the share coordinators are told new start offsets. A group that is
    /// not there begins with it.
    pub(super) fn alter_share_offsets(
        &mut self,
        token: Token,
        call: AlterShareOffsetsCall,
        turn: &mut Turn<'_>,
    ) {
        let mut answer =
            |reply: AlterShareOffsetsReply| turn.reply(token, Reply::AlterShareOffsets(reply));
        let group = match self.share_group(&call.group) {
            Ok(Some(group)) => group,
            Ok(None) => Arc::new(ShareGroup::new(call.group.clone())),
            Err(why) => {
                let error = ErrorCode::GroupIdNotFound;
                return answer(AlterShareOffsetsReply::error(error, Some(why)));
            }
        };
        if !group.is_empty() {
            let text = Some(NOT_EMPTY.to_owned());
            return answer(AlterShareOffsetsReply::error(ErrorCode::NonEmptyGroup, text));
        }
        let busy = self.shares.under_way.get(&call.group);
        let busy = |t, p| busy.and_then(|b| b.get(t)).is_some_and(|b| b.contains(p));
        if call.offsets.iter().any(|(t, p, _)| busy(t, p)) {
            // What is under way could come after it, and undo it.
            let text = Some(BUSY.to_owned());
            return answer(AlterShareOffsetsReply::error(ErrorCode::CoordinatorNotAvailable, text));
        }
        let mut partitions = Partitions::new();
        for (topic, partition, _) in &call.offsets {
            partitions.entry(*topic).or_default().insert(*partition);
        }
        if partitions.is_empty() {
            let codes = Vec::new();
            return answer(AlterShareOffsetsReply { error: ErrorCode::None, message: None, codes });
        }
        let records = vec![state_record(&group.id, self.initializing(&group, &partitions))];
        let id = self.begin_work(&group.id, group.epoch, call.offsets, Some(token));
        turn.append(records, Then::Initialize(id, None));
    }

    /// DeleteShareGroupOffsets, up to the share coordinators.
    pub(super) fn delete_share_offsets(
        &mut self,
        token: Token,
        call: &DeleteShareOffsetsCall,
        turn: &mut Turn<'_>,
    ) {
        let refused = |error, text: String| DeleteShareOffsetsReply::error(error, Some(text));
        let (records, reply) = match self.share_group(&call.group) {
            Err(why) => (Vec::new(), refused(ErrorCode::GroupIdNotFound, why)),
            Ok(None) => {
                let text = format!("Group {} not found.", call.group);
                (Vec::new(), refused(ErrorCode::GroupIdNotFound, text))
            }
            Ok(Some(group)) if !group.is_empty() => {
                (Vec::new(), refused(ErrorCode::NonEmptyGroup, NOT_EMPTY.to_owned()))
            }
            Ok(Some(group)) if self.shares.under_way.contains_key(&group.id) => {
                (Vec::new(), refused(ErrorCode::CoordinatorNotAvailable, BUSY.to_owned()))
            }
            Ok(Some(group)) => self.offsets_to_delete(&group, &call.topics),
        };
        finish(records, token, Reply::DeleteShareOffsets(reply), turn);
    }

    fn offsets_to_delete(
        &self,
        group: &ShareGroup,
        names: &[Arc<str>],
    ) -> (Vec<Record>, DeleteShareOffsetsReply) {
        let mut state = ShareStateTopics::clone(&group.state);
        let mut topics = Vec::new();
        for name in names {
            let found = self.consumers.image.topics().by_name(name);
            let kept = found.and_then(|topic| {
                if let Some(known) = state.initialized.remove(&topic.id) {
                    state.deleting.insert(topic.id, topic.name.clone());
                    return Some((topic.id, known.partitions));
                }
                // Once more, as it was not done the last time.
                let again = state.deleting.contains_key(&topic.id);
                again.then(|| (topic.id, (0..topic.partition_count()).collect()))
            });
            topics.push((name.clone(), kept));
        }
        let mut records = Vec::new();
        if state != *group.state {
            records.push(state_record(&group.id, state));
        }
        let error = ErrorCode::None;
        (records, DeleteShareOffsetsReply { error, message: None, topics })
    }

    /// The share coordinators have forgotten these topics of the group.
    pub(super) fn share_offsets_deleted(
        &self,
        token: Token,
        group: &Arc<str>,
        topics: &[Uuid],
        turn: &mut Turn<'_>,
    ) {
        let mut records = Vec::new();
        if let Some(known) = self.shares.get(group) {
            let mut state = ShareStateTopics::clone(&known.state);
            state.deleting.retain(|id, _| !topics.contains(id));
            if state != *known.state {
                records.push(state_record(group, state));
            }
        }
        finish(records, token, Reply::ShareOffsetsDeleted(ErrorCode::None), turn);
    }

    /// What the share coordinators must forget before these groups are deleted; groups of other
    /// kinds are left out (`sharePartitionDeleteRequests`).
    pub(super) fn begin_share_deletions(
        &self,
        token: Token,
        groups: Vec<Arc<str>>,
        turn: &mut Turn<'_>,
    ) {
        let mut records = Vec::new();
        let mut deletions = ShareDeletions::new();
        for id in groups {
            let Some(group) = self.shares.get(&id) else { continue };
            if !group.is_empty() {
                deletions.push((id, Err(ErrorCode::NonEmptyGroup)));
                continue;
            }
            if self.shares.under_way.contains_key(&id) {
                // It could come after the deletion.
                deletions.push((id, Err(ErrorCode::CoordinatorNotAvailable)));
                continue;
            }
            let mut partitions = Partitions::new();
            let mut state = ShareStateTopics::default();
            let known = group.state.initialized.iter().chain(&group.state.initializing);
            for (topic, known) in known {
                add(&mut partitions, *topic, known.partitions.iter().copied());
                state.deleting.insert(*topic, known.name.clone());
            }
            // Of an earlier deletion that was not done. Topics that are gone need none.
            for (topic, name) in &group.state.deleting {
                if let Some(found) = self.consumers.image.topics().by_id(*topic) {
                    add(&mut partitions, *topic, 0..found.partition_count());
                    state.deleting.insert(*topic, name.clone());
                }
            }
            if !partitions.is_empty() {
                if state != *group.state {
                    records.push(state_record(&id, state));
                }
                deletions.push((id, Ok(partitions)));
            }
        }
        finish(records, token, Reply::ShareDeletions(deletions), turn);
    }
}

/// As Kafka words it.
const NOT_EMPTY: &str = "The group is not empty.";
const BUSY: &str = "The start offsets of the group are being changed already.";

fn state_record(group: &Arc<str>, state: ShareStateTopics) -> Record {
    record(group, ShareChange::State(Some(Arc::new(state))))
}

/// Takes the result for one partition, if it is still asked for. One that failed stays to be asked
/// for again, unless it was initialized before and thus still has its old state.
fn initialized(state: &mut ShareStateTopics, id: Uuid, partition: PartitionId, code: ErrorCode) {
    let Some(topic) = state.initializing.get_mut(&id) else { return };
    let had = state.initialized.get(&id).is_some_and(|t| t.partitions.contains(&partition));
    if (code != ErrorCode::None && !had) || !topic.partitions.remove(&partition) {
        return;
    }
    let name = topic.name.clone();
    if topic.partitions.is_empty() {
        state.initializing.remove(&id);
    }
    let make = || StateTopic { name, partitions: BTreeSet::new() };
    state.initialized.entry(id).or_insert_with(make).partitions.insert(partition);
}
