//! One shard over a log in memory, with time that is told, for the stories and the histories.

// Not every test uses all of it.
#![allow(dead_code)]

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use vltava::{
    base::{ErrorCode, Mono, Now, Offset},
    coordinator::{
        Appended, Settings,
        calls::{Call, Effect, EndTxnCall, Protocol, Reply, Token, TxnWrite},
        calls_consumer::{ChangedTopics, Rebalance, ResolvedRegexes},
        calls_share_groups::ShareInitialization,
        records::Record,
        shard::Shard,
        topic_regex,
    },
    metadata::{self, Delta, Image},
};

/// One record of the log.
#[derive(Clone)]
pub(crate) enum Logged {
    Plain(Record),
    /// Of a producer's transaction.
    InTxn(i64, Record),
    End(EndTxnCall),
}

/// One shard over a log in memory.
pub(crate) struct World {
    pub(crate) shard: Option<Shard>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) log: Vec<Logged>,
    pub(crate) high_watermark: Offset,
    /// Whether the high watermark follows each append at once.
    pub(crate) follows: bool,
    pub(crate) refuse: Option<ErrorCode>,
    pub(crate) now: Now,
    pub(crate) tokens: Token,
    pub(crate) replies: Vec<(Token, Reply)>,
    pub(crate) appends: Vec<(Offset, Vec<Logged>)>,
    /// Regular expressions that were looked up, before the shard is told.
    pub(crate) resolved: Vec<(Arc<str>, Arc<str>, ResolvedRegexes)>,
    pub(crate) rebalances: Vec<Rebalance>,
    /// What the share coordinators are asked.
    pub(crate) initializations: Vec<ShareInitialization>,
    pub(crate) image: Arc<Image>,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut world = Self {
            shard: None,
            settings: Arc::new(settings),
            log: vec![],
            high_watermark: 0,
            follows: true,
            refuse: None,
            now: Now { mono: Mono(0), wall_ms: 1_000_000 },
            tokens: 0,
            replies: vec![],
            appends: vec![],
            resolved: vec![],
            rebalances: vec![],
            initializations: vec![],
            image: Arc::default(),
        };
        world.load();
        world
    }

    /// Unloads the shard, if there is one, and loads it from the log.
    pub(crate) fn load(&mut self) {
        let mut out = vec![];
        if let Some(shard) = self.shard.take() {
            shard.unload(self.now, &mut out);
            self.carry_out(out);
        }
        let mut shard = Shard::new(self.settings.clone());
        for (offset, record) in self.log.iter().enumerate() {
            if offset as Offset >= self.high_watermark {
                shard.replay_uncommitted();
            }
            let read = |record: &Record| {
                let (key, value) = record.encode().unwrap();
                Record::decode(&key, value.as_deref()).unwrap().unwrap()
            };
            match record {
                Logged::Plain(r) => shard.replay(&read(r), self.now),
                Logged::InTxn(id, r) => shard.replay_in_txn(*id, &read(r), self.now),
                Logged::End(call) => shard.replay_end_txn(call.producer_id, call.commit),
            }
        }
        shard.metadata_changed(self.image.clone(), &ChangedTopics::default());
        self.shard = Some(shard);
        let end = self.log.len() as Offset;
        self.step(|shard, now, out| shard.loaded(end, now, out));
    }

    pub(crate) fn step(&mut self, f: impl FnOnce(&mut Shard, Now, &mut Vec<Effect>)) {
        let mut out = vec![];
        f(self.shard.as_mut().unwrap(), self.now, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, mut out: Vec<Effect>) {
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match effect {
                    Effect::Reply { token, reply } => {
                        if !self.replies.iter().any(|(t, _)| *t == token) {
                            self.replies.push((token, reply));
                        }
                    }
                    Effect::ResolveRegexes { group, member, regexes, image } => {
                        let resolved = topic_regex::resolve(&image, &regexes, self.now.wall_ms);
                        self.resolved.push((group, member, resolved));
                    }
                    Effect::Rebalance(why) => self.rebalances.push(why),
                    Effect::InitializeShares(asked) => self.initializations.push(asked),
                    Effect::Append { ticket, records } => {
                        let records = records.iter().cloned().map(Logged::Plain).collect();
                        let result = self.append(records);
                        let shard = self.shard.as_mut().unwrap();
                        shard.appended(ticket, result, self.now, &mut out);
                    }
                    Effect::AppendInTxn { ticket, write } => {
                        let records = match write {
                            TxnWrite::Offsets { producer_id, records, .. } => {
                                let of = |r: &Record| Logged::InTxn(producer_id, r.clone());
                                records.iter().map(of).collect()
                            }
                            TxnWrite::End(call) => vec![Logged::End(call)],
                        };
                        let result = self.append(records);
                        let shard = self.shard.as_mut().unwrap();
                        shard.appended(ticket, result, self.now, &mut out);
                    }
                }
            }
        }
    }

    fn append(&mut self, records: Vec<Logged>) -> Result<Appended, ErrorCode> {
        if let Some(error) = self.refuse.take() {
            return Err(error);
        }
        self.log.extend(records.iter().cloned());
        let last_offset = self.log.len() as Offset - 1;
        if self.follows {
            self.high_watermark = last_offset + 1;
        }
        self.appends.push((last_offset + 1 - records.len() as Offset, records));
        Ok(Appended { last_offset, high_watermark: self.high_watermark })
    }

    /// Tells the shard what was looked up.
    pub(crate) fn resolve(&mut self) {
        for (group, member, resolved) in std::mem::take(&mut self.resolved) {
            self.step(|shard, now, out| {
                shard.regexes_resolved(&group, &member, resolved, now, out);
            });
        }
    }

    /// Replays metadata records, and tells the shard of the topics that they are about.
    pub(crate) fn metadata(&mut self, records: &[metadata::Record]) {
        let mut delta = Delta::new(&self.image);
        let mut position = self.image.position;
        for record in records {
            position.offset += 1;
            delta.replay(record, position.offset).unwrap();
        }
        delta.advance(position);
        let created = delta.created_topics().next().is_some();
        let mut changed = ChangedTopics { created, ..Default::default() };
        let topics = |i: &Image| -> Vec<_> {
            delta
                .changed_topics()
                .filter_map(|id| Some(i.topics().by_id(id)?.name.clone()))
                .collect()
        };
        changed.names.extend(topics(delta.base()));
        changed.names.extend(topics(delta.image()));
        self.image = Arc::new(delta.apply());
        let image = self.image.clone();
        self.shard.as_mut().unwrap().metadata_changed(image, &changed);
    }

    pub(crate) fn commit_all(&mut self) {
        self.high_watermark = self.log.len() as Offset;
        let high_watermark = self.high_watermark;
        self.step(|shard, now, out| shard.committed(high_watermark, now, out));
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        let end = Mono(self.now.mono.0 + ms * 1_000_000);
        while self.shard.as_ref().unwrap().next_deadline() <= end {
            let due = self.shard.as_ref().unwrap().next_deadline().max(self.now.mono);
            self.pass_to(due);
            self.step(Shard::on_deadline);
        }
        self.pass_to(end);
    }

    fn pass_to(&mut self, mono: Mono) {
        let ms = mono.since(self.now.mono).as_millis() as i64;
        self.now = Now { mono, wall_ms: self.now.wall_ms + ms };
    }

    pub(crate) fn call(&mut self, call: Call) -> Token {
        self.tokens += 1;
        let token = self.tokens;
        self.step(|shard, now, out| shard.handle(token, call, now, out));
        token
    }
}

fn subscription(topics: &str) -> Bytes {
    let mut out = BytesMut::new();
    let names: Vec<_> = topics.split('+').filter(|t| !t.is_empty()).collect();
    out.put_i16(1);
    out.put_i32(names.len() as i32);
    for name in names {
        out.put_i16(name.len() as i16);
        out.put_slice(name.as_bytes());
    }
    out.put_i32(-1);
    out.put_i32(0);
    out.freeze()
}

pub(crate) fn protocols(spec: &str) -> Vec<Protocol> {
    let one = |p: &str| {
        let (name, topics) = p.split_once(':').unwrap_or((p, "t"));
        Protocol { name: name.into(), metadata: subscription(topics) }
    };
    spec.split(',').filter(|p| !p.is_empty()).map(one).collect()
}
