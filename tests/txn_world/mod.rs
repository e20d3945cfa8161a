//! One shard of transactions over a log in memory, with time that is told, for the stories and the
//! histories.

use std::sync::Arc;

use vltava::{
    base::{ErrorCode, Mono, Now, Offset},
    coordinator::{
        Appended,
        calls::Token,
        txn_calls::{At, Markers, TxnCall, TxnEffect, TxnReply},
        txn_records::{TopicPartition, TxnRecord},
        txn_settings::TxnSettings,
        txn_shard::TxnShard,
    },
};

/// One shard over a log in memory.
pub(crate) struct World {
    pub(crate) shard: Option<TxnShard>,
    pub(crate) settings: Arc<TxnSettings>,
    pub(crate) log: Vec<TxnRecord>,
    pub(crate) high_watermark: Offset,
    /// Whether the high watermark follows each append at once.
    pub(crate) follows: bool,
    pub(crate) refuse: Option<ErrorCode>,
    /// Whether producer ids are given at once.
    pub(crate) gives_ids: bool,
    pub(crate) wanted_ids: usize,
    pub(crate) next_id: i64,
    pub(crate) loads: u64,
    pub(crate) at: At,
    pub(crate) tokens: Token,
    pub(crate) replies: Vec<(Token, TxnReply)>,
    pub(crate) appends: Vec<TxnRecord>,
    /// Told since they were last looked at.
    pub(crate) marks: Vec<Markers>,
    /// Markers to write.
    pub(crate) to_mark: Vec<Markers>,
}

impl World {
    pub(crate) fn new(settings: TxnSettings, transaction_version: i16) -> Self {
        let now = Now { mono: Mono(0), wall_ms: 1_000_000 };
        let mut world = Self {
            shard: None,
            settings: Arc::new(settings),
            log: vec![],
            high_watermark: 0,
            follows: true,
            refuse: None,
            gives_ids: true,
            wanted_ids: 0,
            next_id: 1000,
            loads: 0,
            at: At { now, transaction_version },
            tokens: 0,
            replies: vec![],
            appends: vec![],
            marks: vec![],
            to_mark: vec![],
        };
        world.load();
        world
    }

    /// Unloads the shard, if there is one, and loads it from the log, all of which is committed.
    pub(crate) fn load(&mut self) {
        let mut out = vec![];
        if let Some(shard) = self.shard.take() {
            shard.unload(&mut out);
            self.carry_out(out);
        }
        let stale = std::mem::take(&mut self.to_mark);
        self.loads += 1;
        self.wanted_ids = 0;
        let mut shard = TxnShard::new(self.settings.clone(), self.loads << 32);
        for record in &self.log {
            let (key, value) = record.encode(self.at.transaction_version.min(1)).unwrap();
            shard.replay(TxnRecord::decode(&key, value.as_deref()).unwrap().unwrap());
        }
        self.high_watermark = self.log.len() as Offset;
        self.shard = Some(shard);
        self.step(TxnShard::loaded);
        for m in stale {
            let wanted = self.shard.as_ref().unwrap().wants_markers(&m.id, m.run);
            assert!(!wanted, "markers of the shard before: {m:?}");
        }
    }

    /// Another leader without what is above the high watermark.
    pub(crate) fn lose_tail(&mut self) {
        self.log.truncate(self.high_watermark as usize);
        self.load();
    }

    pub(crate) fn step(&mut self, f: impl FnOnce(&mut TxnShard, At, &mut Vec<TxnEffect>)) {
        let mut out = vec![];
        f(self.shard.as_mut().unwrap(), self.at, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, mut out: Vec<TxnEffect>) {
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match effect {
                    TxnEffect::Reply { token, reply } => self.replies.push((token, reply)),
                    TxnEffect::Append { ticket, records } => {
                        let result = self.append(records);
                        let shard = self.shard.as_mut().unwrap();
                        shard.appended(ticket, result, self.at, &mut out);
                    }
                    TxnEffect::Mark(markers) => {
                        self.marks.push(markers.clone());
                        self.to_mark.push(markers);
                    }
                    TxnEffect::WantProducerId if self.gives_ids => {
                        let id = self.fresh_id();
                        self.shard.as_mut().unwrap().producer_id(Ok(id), self.at, &mut out);
                    }
                    TxnEffect::WantProducerId => self.wanted_ids += 1,
                }
            }
        }
    }

    pub(crate) fn fresh_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    fn append(&mut self, records: Vec<TxnRecord>) -> Result<Appended, ErrorCode> {
        if let Some(error) = self.refuse.take() {
            return Err(error);
        }
        self.appends.extend(records.iter().cloned());
        self.log.extend(records);
        let last_offset = self.log.len() as Offset - 1;
        if self.follows {
            self.high_watermark = last_offset + 1;
        }
        Ok(Appended { last_offset, high_watermark: self.high_watermark })
    }

    pub(crate) fn commit_all(&mut self) {
        self.high_watermark = self.log.len() as Offset;
        let high_watermark = self.high_watermark;
        self.step(|shard, at, out| shard.committed(high_watermark, at, out));
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        let end = Mono(self.at.now.mono.0 + ms * 1_000_000);
        while self.shard.as_ref().unwrap().next_deadline() <= end {
            let due = self.shard.as_ref().unwrap().next_deadline().max(self.at.now.mono);
            self.pass_to(due);
            self.step(TxnShard::on_deadline);
        }
        self.pass_to(end);
    }

    fn pass_to(&mut self, mono: Mono) {
        let ms = mono.since(self.at.now.mono).as_millis() as i64;
        self.at.now = Now { mono, wall_ms: self.at.now.wall_ms + ms };
    }

    pub(crate) fn call(&mut self, call: TxnCall) -> Token {
        self.tokens += 1;
        let token = self.tokens;
        self.step(|shard, at, out| shard.handle(token, call, at, out));
        token
    }

    /// Tells the shard that these partitions have the markers of that ending.
    pub(crate) fn marked(&mut self, markers: &Markers, partitions: &[TopicPartition]) {
        let (id, run) = (&markers.id, markers.run);
        self.step(|shard, at, out| shard.marked(id, run, partitions, at, out));
    }
}
