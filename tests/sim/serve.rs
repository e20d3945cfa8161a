//! What a simulated broker answers to clients: batches that wait for replicas or the disk, reads.

use bytes::Bytes;
use futures::channel::oneshot;
use vltava::{
    base::{ErrorCode, Offset},
    replica::{
        partition::{Committed, Isolation},
        table::Acks,
    },
};

use crate::{
    net::{Key, Message, Place},
    plan::MS,
    records,
    world::World,
};

/// A producer's batch waits this long for the other replicas.
const PRODUCE_TIMEOUT_US: u64 = 1_500 * MS;

/// A batch that waits for other replicas or the disk.
pub struct Parked {
    to: Place,
    req: u64,
    key: Key,
    base: Offset,
    records: Bytes,
    all: bool,
    wait: oneshot::Receiver<Committed>,
    deadline: u64,
}

impl Parked {
    /// A batch of a transaction.
    pub fn new(
        (to, req): (Place, u64),
        key: Key,
        base: Offset,
        records: &Bytes,
        wait: oneshot::Receiver<Committed>,
        now: u64,
    ) -> Self {
        let (records, deadline) = (records.clone(), now + PRODUCE_TIMEOUT_US);
        Self { to, req, key, base, records, all: true, wait, deadline }
    }
}

impl World {
    pub fn serve_produce(
        &mut self,
        b: usize,
        to: Place,
        req: u64,
        key: Key,
        records: Bytes,
        all: bool,
    ) {
        let deadline = self.now + PRODUCE_TIMEOUT_US;
        let Some(life) = self.life(b).filter(|l| l.running) else { return };
        let Some(slot) = life.table.by_id(key.0, key.1) else {
            let result = Err(ErrorCode::NotLeaderOrFollower);
            self.send(Place::Broker(b), to, Message::Produced { req, result });
            return;
        };
        let acks = if all { Acks::All } else { Acks::Leader };
        let now = life.table.clock.now();
        match life.table.produce(&slot, &records, acks, 10, now) {
            Ok((receipt, Some(wait))) => {
                let base = receipt.base_offset;
                let parked = Parked { to, req, key, base, records, all, wait, deadline };
                life.parked.push(parked);
            }
            Ok((receipt, None)) => {
                self.acknowledge(b, to, req, key, receipt.base_offset, &records, all);
            }
            Err(refusal) => {
                self.note(format_args!("refused {req}: {:?} {:?}", refusal.code, refusal.message));
                let result = Err(refusal.code);
                self.send(Place::Broker(b), to, Message::Produced { req, result });
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what an acknowledgement is about")]
    pub fn acknowledge(
        &mut self,
        b: usize,
        to: Place,
        req: u64,
        key: Key,
        base: Offset,
        records: &Bytes,
        all: bool,
    ) {
        if all {
            self.observe(b);
            self.check_acknowledged(b, key, base, records);
        }
        self.send(Place::Broker(b), to, Message::Produced { req, result: Ok(base) });
    }

    /// A consumer reads from the leader, or with `near` from any replica.
    pub fn serve_read(
        &mut self,
        b: usize,
        to: Place,
        req: u64,
        (key, offset): (Key, Offset),
        near: bool,
    ) {
        let Some(life) = self.life(b).filter(|l| l.running) else { return };
        let now = life.table.clock.now();
        let slot = life.table.by_id(key.0, key.1);
        let read = slot.ok_or(ErrorCode::NotLeaderOrFollower).and_then(|slot| {
            let mut partition = slot.lock();
            if near {
                partition.check_replica(-1)?;
            } else {
                partition.check_leader(-1)?;
            }
            let start = partition.log.log_start_offset();
            let found = partition.read(offset, 4096, true, Isolation::ReadUncommitted, now);
            let found = found.map_err(|r| r.code)?;
            let mut bytes = Vec::new();
            for slice in &found.slices {
                let begin = bytes.len();
                bytes.resize(begin + slice.len, 0);
                let read = slice.file.read_exact_at(&mut bytes[begin..], slice.pos);
                read.map_err(|_| ErrorCode::KafkaStorageError)?;
            }
            Ok((bytes, partition.high_watermark(), start))
        });
        if let Ok((bytes, high_watermark, start)) = &read {
            self.observe(b);
            if offset < *start {
                let text = format!("broker {b} {key:?} serves {offset}, deleted up to {start}");
                self.violate("deleted-late", text);
            }
            self.check_visible(b, key, offset, bytes, *high_watermark);
        }
        let result = read.map(|(bytes, ..)| bytes.into());
        self.send(Place::Broker(b), to, Message::ReadBack { req, result });
    }

    pub fn release_parked(&mut self, b: usize) {
        let now = self.now;
        let Some(life) = self.life(b) else { return };
        let mut done = Vec::new();
        life.parked.retain_mut(|p| {
            let result = match p.wait.try_recv() {
                Ok(Some(Ok(_))) => Ok(()),
                Ok(Some(Err(code))) => Err(code),
                Err(_) => Err(ErrorCode::NotLeaderOrFollower),
                Ok(None) if p.deadline <= now => Err(ErrorCode::RequestTimedOut),
                Ok(None) => return true,
            };
            done.push((p.to, p.req, p.key, p.base, p.records.clone(), p.all, result));
            false
        });
        for (to, req, key, base, records, all, result) in done {
            match result {
                Ok(()) => self.acknowledge(b, to, req, key, base, &records, all),
                Err(code) => {
                    let result = Err(code);
                    self.send(Place::Broker(b), to, Message::Produced { req, result });
                }
            }
        }
    }

    /// The records of a request, as its sender meant them.
    pub fn meant(records: &Bytes) -> Vec<records::Rec> {
        records::decode(records).unwrap_or_default().into_iter().map(|(_, r)| r).collect()
    }
}
