//! Markers on their way: a coordinator of transactions sends the decided end to the leaders of the
//! partitions until all have it, and a leader writes it, or has the group's shard write it.

use std::collections::BTreeMap;

use futures::channel::oneshot;
use vltava::{
    base::{ErrorCode, PartitionId},
    coordinator::{
        calls::{Call, EndTxnCall},
        shard::Shard,
        txn_calls::{MarkerAnswer, Markers},
        txn_records::TopicPartition,
        txn_shard::TxnShard,
    },
    node::offsets_log::OFFSETS_TOPIC,
    record::{control::EndTxnMarker, validate::Validated},
    replica::partition::Committed,
};

use crate::{
    broker::BrokerEvent,
    machine::{Answer, Waiter},
    net::{Message, Place},
    plan::MS,
    world::{Event, World},
};

/// A marker without an answer is sent again after this long.
const PATIENCE_US: u64 = 1_000 * MS;

/// One marker for one partition.
struct Mark {
    /// Of `__transaction_state`.
    from: PartitionId,
    markers: Markers,
    at: TopicPartition,
    /// Which look is the next.
    tick: u64,
    /// What the last attempt went by that has no answer, or 0.
    by: u64,
}

/// A broker's markers: those it sends, and those it has written that are not yet committed.
#[derive(Default)]
pub struct Marking {
    sent: BTreeMap<u64, Mark>,
    /// To each broker.
    connections: BTreeMap<usize, u64>,
    parked: Vec<(Waiter, oneshot::Receiver<Committed>)>,
}

impl World {
    /// A transaction's end is to be carried out.
    pub fn begin_marks(&mut self, b: usize, from: PartitionId, markers: Markers) {
        let (id, commit) = (&markers.id, markers.commit);
        self.note(format_args!("broker {b} ends {id} commit={commit} {:?}", markers.partitions));
        for at in markers.partitions.clone() {
            let number = self.request();
            let mark = Mark { from, markers: markers.clone(), at, tick: 0, by: 0 };
            let Some(life) = self.life(b) else { return };
            life.coordination.marks.sent.insert(number, mark);
            self.mark_in(b, number, 0);
        }
    }

    fn mark_in(&mut self, b: usize, number: u64, us: u64) {
        let tick = self.request();
        let Some(life) = self.life(b) else { return };
        let life_number = life.number;
        let Some(mark) = life.coordination.marks.sent.get_mut(&number) else { return };
        mark.tick = tick;
        let event = BrokerEvent::Mark { number, tick };
        self.at(us, Event::Broker { broker: b, life: life_number, event });
    }

    /// It is time to send a marker.
    pub fn send_mark(&mut self, b: usize, number: u64, tick: u64) {
        let Some(life) = self.life(b) else { return };
        let (offices, as_of) = (life.coordination.offices.clone(), life.coordination.as_of);
        let Some(mark) = life.coordination.marks.sent.get(&number) else { return };
        if mark.tick != tick {
            return;
        }
        let (id, run, from) = (mark.markers.id.clone(), mark.markers.run, mark.from);
        let epoch = offices.txns.get(from).and_then(|slot| {
            let mut slot = slot.lock();
            let epoch = slot.epoch;
            slot.shard().is_ok_and(|s| s.wants_markers(&id, run)).then_some(epoch)
        });
        let Some(coordinator_epoch) = epoch else {
            life.coordination.marks.sent.remove(&number);
            return;
        };
        let at = mark.at.clone();
        let call = EndTxnCall {
            producer_id: mark.markers.producer.id,
            producer_epoch: mark.markers.producer.epoch,
            coordinator_epoch,
            commit: mark.markers.commit,
            transaction_version: mark.markers.transaction_version,
        };
        let image = life.loader.image();
        let known = image.topics().by_name(&at.0).is_some_and(|t| t.partition(at.1).is_some());
        if !known && image.position.offset >= as_of {
            self.marked(b, number);
            return;
        }
        let Some(leader) = self.leader_as_known_by(b, &at.0, at.1) else {
            let pause = self.between(20 * MS, 200 * MS);
            return self.mark_in(b, number, pause);
        };
        // What went before must not come after the next transaction has begun: only markers of
        // transactions that each have an epoch can be told from each other.
        let before = std::mem::take(&mut self.mark(b, number).by);
        if before != 0 {
            self.break_connection(before);
        }
        let mut connection = 0;
        if call.transaction_version < 2 {
            let Some(life) = self.life(b) else { return };
            let mut connections = std::mem::take(&mut life.coordination.marks.connections);
            connection = self.connect(&mut connections, leader);
            let Some(life) = self.life(b) else { return };
            life.coordination.marks.connections = connections;
        }
        self.mark(b, number).by = connection;
        let message = Message::Mark { req: number, connection, at, call };
        self.send(Place::Broker(b), Place::Broker(leader), message);
        self.mark_in(b, number, PATIENCE_US);
    }

    fn mark(&mut self, b: usize, number: u64) -> &mut Mark {
        let life = self.brokers[b].life.as_mut().expect("it is looked at");
        life.coordination.marks.sent.get_mut(&number).expect("it is looked at")
    }

    /// A partition has its marker, or needs none.
    fn marked(&mut self, b: usize, number: u64) {
        let Some(life) = self.life(b) else { return };
        let Some(mark) = life.coordination.marks.sent.remove(&number) else { return };
        if mark.by != 0 {
            // Another copy may be on its way.
            self.break_connection(mark.by);
        }
        self.step::<TxnShard>(b, mark.from, None, |shard, at, out| {
            shard.marked(&mark.markers.id, mark.markers.run, &[mark.at], at, out);
        });
    }

    /// A leader answers; whether it was a marker's.
    pub fn mark_answered(&mut self, b: usize, req: u64, answer: &Answer) -> bool {
        let Some(life) = self.life(b) else { return false };
        if !life.coordination.marks.sent.contains_key(&req) {
            return false;
        }
        match MarkerAnswer::of(answer.error()) {
            MarkerAnswer::Done => self.marked(b, req),
            MarkerAnswer::Again => {
                self.mark(b, req).by = 0;
                let pause = self.between(20 * MS, 200 * MS);
                self.mark_in(b, req, pause);
            }
            MarkerAnswer::Fenced => {
                life.coordination.marks.sent.remove(&req);
                self.note(format_args!("broker {b}: marker {req} is fenced off"));
            }
        }
        true
    }

    /// A coordinator ends a transaction in a partition that may be led here.
    pub fn serve_mark(&mut self, b: usize, to: Place, req: u64, at: TopicPartition, c: EndTxnCall) {
        let Some(life) = self.life(b).filter(|l| l.running) else { return };
        if &*at.0 == OFFSETS_TOPIC {
            let call = Call::EndTxn(c);
            self.submit::<Shard>(b, at.1, Waiter { to, req }, |shard, token, at, out| {
                shard.handle(token, call, at.now, out);
            });
            return;
        }
        let marker = EndTxnMarker { commit: c.commit, coordinator_epoch: c.coordinator_epoch };
        let now = life.table.clock.now();
        let batch = marker.batch(c.producer_id, c.producer_epoch, now.wall_ms);
        let batch = Validated::built(batch).unwrap();
        let slot = life.table.by_name(&at.0, at.1).ok_or(ErrorCode::UnknownTopicOrPartition);
        let done = slot.and_then(|slot| {
            let done = life.table.append_marker(&slot, &batch, c.transaction_version);
            done.map_err(|refusal| refusal.code)
        });
        match done {
            Ok(Some(wait)) => life.coordination.marks.parked.push((Waiter { to, req }, wait)),
            Ok(None) => self.mark_written(b, Waiter { to, req }, ErrorCode::None),
            Err(code) => self.mark_written(b, Waiter { to, req }, code),
        }
    }

    fn mark_written(&mut self, b: usize, waiter: Waiter, code: ErrorCode) {
        let message = Message::Called { req: waiter.req, answer: Answer::Marked(code) };
        self.send(Place::Broker(b), waiter.to, message);
    }

    /// Answers for markers that are committed, or cannot be.
    pub fn release_marks(&mut self, b: usize) {
        let Some(life) = self.life(b) else { return };
        let mut done = Vec::new();
        life.coordination.marks.parked.retain_mut(|(waiter, wait)| {
            let code = match wait.try_recv() {
                Ok(Some(Ok(_))) => ErrorCode::None,
                Ok(Some(Err(code))) => code,
                Err(_) => ErrorCode::NotLeaderOrFollower,
                Ok(None) => return true,
            };
            done.push((*waiter, code));
            false
        });
        for (waiter, code) in done {
            self.mark_written(b, waiter, code);
        }
    }
}
