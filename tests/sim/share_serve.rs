//! Share partitions in a simulated broker: the product's state machine over the logs that it leads,
//! and the way from there to the share coordinators. What the share partitions' drivers do in the
//! product, the world's events do here.

use std::{collections::BTreeMap, sync::Arc};

use vltava::{
    base::{ErrorCode, Mutant, Offset, mutant},
    coordinator::{
        share_calls::{ShareAsk, ShareReply},
        share_persister::{ShareKey, ShareState},
    },
    node::offsets_log::SHARE_STATE_TOPIC,
    replica::{partition::Isolation, table::ReplicaTable},
    share::{
        acknowledge::AckBatch,
        acquire::{Acquire, AcquireMode, Acquired},
        batches,
        leavers::Leavers,
        partition::{SharePartition, WriteNo},
        settings::{OffsetReset, ShareSettings},
    },
};

use crate::{
    broker::BrokerEvent,
    machine::Answer,
    net::{Key, Message, Place},
    plan::{MS, SECOND},
    txn_clients::OFFICES,
    txn_serve::Wanted,
    world::{Event, World},
};

pub const GROUP: &str = "sharing";
/// A question to a share coordinator that has no answer after this long is asked again.
const PATIENCE_US: u64 = 600 * MS;
/// And given up after this long.
const GIVE_UP_US: u64 = 3 * SECOND;
/// Looks at one partition in a row, as long as what was read is for nobody.
const LOOKS_MAX: usize = 16;

/// Who waits for a write: what it accepts, and who is to hear of it.
struct Ack {
    write: WriteNo,
    to: Place,
    req: u64,
    accepts: Vec<Offset>,
}

/// A share partition.
pub struct ShareSlot {
    pub leader_epoch: i32,
    /// `None` while it is loaded.
    pub partition: Option<Box<SharePartition>>,
    acks: Vec<Ack>,
}

/// A question to a share coordinator.
struct Asking {
    key: Key,
    leader_epoch: i32,
    ask: ShareAsk,
    write: Option<WriteNo>,
    /// Of a share partition that is gone.
    acks: Vec<Ack>,
    until: u64,
}

/// The share partitions of a broker.
#[derive(Default)]
pub struct Shares {
    pub slots: BTreeMap<Key, ShareSlot>,
    /// By the request that is under way.
    asking: BTreeMap<u64, Asking>,
}

/// The share partition of a partition.
pub fn share_key(key: Key) -> ShareKey {
    ShareKey { group: GROUP.into(), topic: key.0, partition: key.1 }
}

/// What members are told of a failure of the share coordinator (`table_driver`).
fn told(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch => {
            ErrorCode::NotLeaderOrFollower
        }
        code => code,
    }
}

/// Errors that pass by themselves, or by asking another broker.
const fn is_passing(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::NotCoordinator
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NetworkException
            | ErrorCode::RequestTimedOut
    )
}

/// Reads one partition and acquires what is there, as `fetch_driver` does.
fn acquire(
    table: &ReplicaTable,
    (key, leader_epoch): (Key, i32),
    partition: &mut SharePartition,
    (member, max_records, mode): (&Arc<str>, i32, AcquireMode),
    settings: &ShareSettings,
) -> Result<Vec<Acquired>, ErrorCode> {
    let now = table.clock.now();
    let isolation = match settings.read_committed {
        true => Isolation::ReadCommitted,
        false => Isolation::ReadUncommitted,
    };
    for _ in 0..LOOKS_MAX {
        if !partition.can_acquire(settings) {
            break;
        }
        let fetch_offset = partition.next_fetch_offset();
        let slot = table.by_id(key.0, key.1).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let mut replica = slot.lock();
        replica.check_leader(-1)?;
        if replica.leader_epoch() != leader_epoch && !mutant(Mutant::ShareOutlivesEpoch) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let found = match replica.read(fetch_offset, 4096, true, isolation, now) {
            Err(refusal) if refusal.code == ErrorCode::OffsetOutOfRange => {
                partition.log_starts_at(replica.log.log_start_offset());
                continue;
            }
            found => found.map_err(|refusal| refusal.code)?,
        };
        drop(replica);
        if found.len == 0 {
            break;
        }
        let aborted = found.aborted.unwrap_or_default();
        let read = batches::headers(&found.slices, !aborted.is_empty(), |_| false);
        let read = read.map_err(|_| ErrorCode::KafkaStorageError)?;
        let ask = Acquire {
            member,
            mode,
            batch_size: max_records,
            max_records,
            fetch_offset,
            batches: &read,
            aborted: &batches::aborted(&read, &aborted),
        };
        let acquired = partition.acquire(ask, settings, now.mono);
        if !acquired.is_empty() || partition.next_fetch_offset() == fetch_offset {
            return Ok(acquired);
        }
    }
    Ok(Vec::new())
}

impl World {
    pub fn share_settings(&self) -> ShareSettings {
        ShareSettings {
            lock_duration_ms: self.plan.share_lock_ms,
            max_record_locks: self.plan.share_locks,
            read_committed: self.plan.share_topic != crate::clients::TOPIC,
            offset_reset: OffsetReset::Earliest,
            ..ShareSettings::default()
        }
    }

    /// A member wants records.
    pub fn serve_share_fetch(
        &mut self,
        b: usize,
        to: Place,
        req: u64,
        (key, member): (Key, Arc<str>),
        (max_records, mode): (i32, AcquireMode),
    ) {
        let settings = self.share_settings();
        let Some(life) = self.life(b).filter(|l| l.running) else { return };
        let table = Arc::clone(&life.table);
        let result = match life.shares.slots.get_mut(&key) {
            None => self.load_share(b, key).map(|()| Vec::new()),
            Some(ShareSlot { partition: Some(partition), leader_epoch, .. }) => {
                let (at, wants) = ((key, *leader_epoch), (&member, max_records, mode));
                acquire(&table, at, partition, wants, &settings)
            }
            Some(_) => Ok(Vec::new()),
        };
        if let Ok(acquired) = &result {
            self.check_acquired(b, key, &member, acquired);
        }
        self.settle_share(b, key);
        self.send(Place::Broker(b), to, Message::ShareFetched { req, key, result });
    }

    fn load_share(&mut self, b: usize, key: Key) -> Result<(), ErrorCode> {
        let life = self.life(b).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let slot = life.table.by_id(key.0, key.1).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let replica = slot.lock();
        replica.check_leader(-1)?;
        let leader_epoch = replica.leader_epoch();
        drop(replica);
        let new = ShareSlot { leader_epoch, partition: None, acks: Vec::new() };
        life.shares.slots.insert(key, new);
        self.ask_share(b, key, leader_epoch, ShareAsk::Read { leader_epoch }, None);
        Ok(())
    }

    /// A member is done with records, or gives them back; with `leaves` all that it has.
    pub fn serve_share_ack(
        &mut self,
        b: usize,
        (to, req): (Place, u64),
        (key, member): (Key, Arc<str>),
        acks: &[AckBatch],
        leaves: bool,
    ) {
        let settings = self.share_settings();
        let Some(life) = self.life(b).filter(|l| l.running) else { return };
        let now = life.table.clock.now();
        let slot = life.shares.slots.get_mut(&key);
        let partition = slot.and_then(|s| Some((s.partition.as_mut()?, &mut s.acks)));
        let Some((partition, waiting)) = partition else {
            let result = Err(ErrorCode::UnknownTopicOrPartition);
            return self.send(Place::Broker(b), to, Message::ShareAcked { req, result });
        };
        let done = partition.acknowledge(&member, acks, &settings, now);
        if leaves {
            partition.release(&member, &settings);
        }
        let ack = |write| Ack { write, to, req, accepts: accepted(acks) };
        match done {
            Ok(Some(write)) => waiting.push(ack(write)),
            Ok(None) => self.tell_acked(b, key, ack(0), Ok(())),
            Err(code) => self.tell_acked(b, key, ack(0), Err(code)),
        }
        if done.is_ok() {
            self.note_spoken(key, acks, &member, leaves);
        }
        self.settle_share(b, key);
    }

    fn tell_acked(&mut self, b: usize, key: Key, ack: Ack, result: Result<(), ErrorCode>) {
        if result.is_ok() {
            self.note_accepted(key, &ack.accepts);
        }
        let message = Message::ShareAcked { req: ack.req, result };
        self.send(Place::Broker(b), ack.to, message);
    }

    /// What changed is on its way to be written.
    fn settle_share(&mut self, b: usize, key: Key) {
        let Some(slot) = self.life(b).and_then(|l| l.shares.slots.get_mut(&key)) else { return };
        let epoch = slot.leader_epoch;
        let begun = slot.partition.as_mut().and_then(|p| p.begin_write());
        if let Some((no, write)) = begun {
            self.ask_share(b, key, epoch, ShareAsk::Write(write), Some(no));
        }
    }

    /// Locks end.
    pub fn look_after_shares(&mut self, b: usize) {
        let settings = self.share_settings();
        let Some(life) = self.life(b) else { return };
        let now = life.table.clock.now().mono;
        let mut due = Vec::new();
        for (key, slot) in &mut life.shares.slots {
            if let Some(p) = slot.partition.as_mut().filter(|p| p.next_deadline() <= now) {
                p.on_deadline(&settings, now);
                due.push(*key);
            }
        }
        for key in due {
            self.settle_share(b, key);
        }
    }

    /// Share partitions go with the partitions that a broker leads no longer.
    pub fn share_partitions_leave(&mut self, b: usize, leavers: &Leavers) {
        let Some(life) = self.life(b) else { return };
        let all = life.shares.slots.iter();
        let gone = all.filter(|(key, s)| leavers.has(key.0, key.1, s.leader_epoch));
        for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.retire_share(b, key, ErrorCode::NotLeaderOrFollower);
        }
    }

    /// The write under way goes on, and who waits for it hears its end.
    fn retire_share(&mut self, b: usize, key: Key, code: ErrorCode) {
        let Some(life) = self.life(b) else { return };
        let Some(slot) = life.shares.slots.remove(&key) else { return };
        let under_way = slot.partition.as_ref().and_then(|p| p.write_under_way());
        let asking = life.shares.asking.values_mut();
        let mut same = asking
            .filter(|a| a.key == key && a.leader_epoch == slot.leader_epoch && a.write.is_some());
        let mut lost = Vec::new();
        let carrier = same.next();
        match carrier {
            Some(asking) => {
                for ack in slot.acks {
                    let list =
                        if under_way == Some(ack.write) { &mut asking.acks } else { &mut lost };
                    list.push(ack);
                }
            }
            None => lost = slot.acks,
        }
        for ack in lost {
            self.tell_acked(b, key, ack, Err(code));
        }
    }

    // ---- the way to share coordinators

    fn ask_share(
        &mut self,
        b: usize,
        key: Key,
        leader_epoch: i32,
        ask: ShareAsk,
        write: Option<WriteNo>,
    ) {
        let until = self.now + GIVE_UP_US;
        let asking = Asking { key, leader_epoch, ask, write, acks: Vec::new(), until };
        self.send_share_ask(b, asking);
    }

    fn send_share_ask(&mut self, b: usize, asking: Asking) {
        let req = self.request();
        let key = share_key(asking.key);
        let partition = key.state_partition(OFFICES);
        let leader = self.leader_as_known_by(b, SHARE_STATE_TOPIC, partition);
        if let Some(leader) = leader {
            let wanted = Wanted::Share(key, asking.ask.clone());
            let message = Message::Call { req, connection: 0, wanted };
            self.send(Place::Broker(b), Place::Broker(leader), message);
        }
        let Some(life) = self.life(b) else { return };
        life.shares.asking.insert(req, asking);
        let number = life.number;
        let event = BrokerEvent::ShareUnanswered { req };
        self.at(PATIENCE_US, Event::Broker { broker: b, life: number, event });
    }

    /// A share coordinator has not answered, or with an error that passes.
    pub fn share_unanswered(&mut self, b: usize, req: u64) {
        let Some(life) = self.life(b) else { return };
        let Some(asking) = life.shares.asking.remove(&req) else { return };
        if asking.until > self.now {
            return self.send_share_ask(b, asking);
        }
        let refused = asking.ask.refused(ErrorCode::CoordinatorNotAvailable);
        self.share_asked(b, asking, refused);
    }

    /// Whether this was the answer to a question about share state.
    pub fn share_answered(&mut self, b: usize, req: u64, answer: &Answer) -> bool {
        let Some(life) = self.life(b) else { return false };
        let number = life.number;
        if !life.shares.asking.contains_key(&req) {
            return false;
        }
        let error = answer.error();
        if is_passing(error) {
            let soon = self.between(20 * MS, 200 * MS);
            let event = BrokerEvent::ShareUnanswered { req };
            self.at(soon, Event::Broker { broker: b, life: number, event });
            return true;
        }
        let Some(asking) = self.life(b).and_then(|l| l.shares.asking.remove(&req)) else {
            return true;
        };
        let reply = match answer {
            Answer::Share(reply) => reply.clone(),
            _ => asking.ask.refused(error),
        };
        self.share_asked(b, asking, reply);
        true
    }

    fn share_asked(&mut self, b: usize, asking: Asking, reply: ShareReply) {
        let current = self.life(b).and_then(|l| l.shares.slots.get_mut(&asking.key));
        let current = current.is_some_and(|s| s.leader_epoch == asking.leader_epoch);
        match reply {
            ShareReply::State(state) if current => self.share_loaded(b, asking.key, state),
            ShareReply::Done(done) => self.share_written(b, asking, current, done.map_err(told)),
            ShareReply::State(_) | ShareReply::Summary(_) => {}
        }
    }

    fn share_loaded(&mut self, b: usize, key: Key, state: Result<ShareState, ErrorCode>) {
        let Some(life) = self.life(b) else { return };
        let Some(slot) = life.shares.slots.get_mut(&key) else { return };
        if slot.partition.is_some() {
            return;
        }
        let start = life.table.by_id(key.0, key.1).map(|s| s.lock().log.log_start_offset());
        let loaded = state.and_then(|kept| {
            let start = start.ok_or(ErrorCode::NotLeaderOrFollower)?;
            SharePartition::load(&kept, start, slot.leader_epoch)
        });
        let said = loaded.as_ref().map(|p| (p.start_offset(), p.next_offset())).map_err(|e| *e);
        match loaded {
            Ok(partition) => slot.partition = Some(Box::new(partition)),
            Err(code) => self.retire_share(b, key, code),
        }
        self.note(format_args!("broker {b} share partition {}: {said:?}", key.1));
    }

    fn share_written(
        &mut self,
        b: usize,
        asking: Asking,
        current: bool,
        done: Result<(), ErrorCode>,
    ) {
        let (key, no) = (asking.key, asking.write.unwrap_or(0));
        let Some(life) = self.life(b) else { return };
        let now = life.table.clock.now().mono;
        let mut heard = asking.acks;
        if let Some(slot) = life.shares.slots.get_mut(&key).filter(|_| current) {
            if let Some(p) = &mut slot.partition {
                p.end_write(done.is_ok(), now);
            }
            heard.extend(slot.acks.extract_if(.., |ack| ack.write <= no));
        }
        for ack in heard {
            self.tell_acked(b, key, ack, done);
        }
        let fenced = [
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::GroupIdNotFound,
            ErrorCode::UnknownTopicOrPartition,
        ];
        if current && done.is_err_and(|code| fenced.contains(&code)) {
            self.retire_share(b, key, ErrorCode::NotLeaderOrFollower);
        } else if current {
            self.settle_share(b, key);
        }
    }
}

/// The offsets that are accepted.
fn accepted(acks: &[AckBatch]) -> Vec<Offset> {
    use vltava::share::acknowledge::AckType::Accept;
    let each = |ack: &AckBatch| {
        let (one, types) = (ack.types.len() == 1, ack.types.clone());
        let kind = move |n: usize| if one { types[0] } else { types[n] };
        (ack.first..=ack.last).enumerate().filter(move |(n, _)| kind(*n) == Accept).map(|(_, o)| o)
    };
    acks.iter().flat_map(each).collect()
}
