//! A shard of a coordinator, of either kind: what it is asked, what it wants done and what it
//! answers, so that a simulated broker drives both the same way.

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, Mono, Offset},
    coordinator::{
        Appended, batches,
        calls::{Effect, Reply, Ticket, Token},
        machine::Machine as Loadable,
        shard::Shard,
        share_calls::{ShareEffect, ShareReply},
        share_records::ShareRecord,
        share_shard::ShareShard,
        table::Table,
        txn_batches,
        txn_calls::{At, Markers, TxnEffect, TxnReply},
        txn_shard::TxnShard,
    },
    node::offsets_log::{OFFSETS_TOPIC, ReplicaOffsetsLog, SHARE_STATE_TOPIC, TRANSACTIONS_TOPIC},
    record::{BatchBuilder, Compression},
    replica::txn::Origin,
};

use crate::{net::Place, offices::Offices};

/// Which coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Groups,
    Txns,
    Shares,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Waiter {
    pub to: Place,
    pub req: u64,
}

/// What a coordinator answers.
#[derive(Debug, Clone)]
pub enum Answer {
    Txn(TxnReply),
    Group(Reply),
    Share(ShareReply),
    /// To a marker for a partition that is no coordinator's.
    Marked(ErrorCode),
    Refused(ErrorCode),
}

impl Answer {
    /// The error that stands for the whole answer.
    pub fn error(&self) -> ErrorCode {
        match self {
            Self::Txn(TxnReply::Producer(Ok(_)) | TxnReply::Verified(Ok(_))) => ErrorCode::None,
            Self::Txn(TxnReply::Producer(Err(e)) | TxnReply::Verified(Err(e)))
            | Self::Txn(TxnReply::Added(e))
            | Self::Marked(e)
            | Self::Refused(e)
            | Self::Group(Reply::Heartbeat(e) | Reply::EndTxn(e) | Reply::TopicsDeleted(e)) => *e,
            Self::Share(r) => r.error().unwrap_or_default(),
            Self::Group(Reply::Join(r)) => r.error,
            Self::Group(Reply::Sync(r)) => r.error,
            Self::Group(Reply::Leave(r)) => r.error,
            Self::Group(Reply::ConsumerHeartbeat(r)) => r.error,
            Self::Group(Reply::Fetch(r)) => r.error,
            Self::Group(Reply::Commit(r)) => {
                let all = r.topics.iter().flat_map(|(_, _, codes)| codes).map(|(_, e)| *e);
                let first = all.into_iter().find(|e| *e != ErrorCode::None);
                if r.error == ErrorCode::None { first.unwrap_or_default() } else { r.error }
            }
            // No simulated client asks for more.
            Self::Group(_) => ErrorCode::None,
        }
    }
}

/// What a shard wants done, of either kind.
pub enum Plain {
    Reply(Token, Answer),
    Append(Ticket, Result<Bytes, ErrorCode>, Origin),
    Mark(Markers),
    WantProducerId,
    Resolve(Effect),
    /// What lies below is not needed any more.
    Prune(Offset),
    Nothing,
}

/// A shard of either kind.
pub trait Machine: Sized {
    const KIND: Kind;
    const TOPIC: &'static str;
    type Effect;
    fn offices(all: &Offices) -> (&Table<Waiter, Self>, &ReplicaOffsetsLog);
    fn plain(effect: Self::Effect, at: At) -> Plain;
    fn appended(
        &mut self,
        t: Ticket,
        r: Result<Appended, ErrorCode>,
        at: At,
        out: &mut Vec<Self::Effect>,
    );
    fn passed(&mut self, high_watermark: Offset, at: At, out: &mut Vec<Self::Effect>);
    fn lost(&mut self, error: ErrorCode, at: At, out: &mut Vec<Self::Effect>);
    fn due(&mut self, at: At, out: &mut Vec<Self::Effect>);
    fn deadline(&self) -> Mono;
    fn uncommitted(&self) -> Option<Offset>;
    fn leave(self, at: At, out: &mut Vec<Self::Effect>);
}

impl Machine for Shard {
    const KIND: Kind = Kind::Groups;
    const TOPIC: &'static str = OFFSETS_TOPIC;
    type Effect = Effect;

    fn offices(all: &Offices) -> (&Table<Waiter, Self>, &ReplicaOffsetsLog) {
        (&all.groups, &all.groups_log)
    }

    fn plain(effect: Effect, at: At) -> Plain {
        match effect {
            Effect::Reply { token, reply } => Plain::Reply(token, Answer::Group(reply)),
            Effect::Append { ticket, records } => {
                let batch = batches::encode(&records, at.now.wall_ms);
                Plain::Append(ticket, batch, Origin::Group(None))
            }
            Effect::AppendInTxn { ticket, write } => {
                let batch = batches::encode_in_txn(&write, at.now.wall_ms);
                Plain::Append(ticket, batch, write.origin())
            }
            Effect::ResolveRegexes { .. } => Plain::Resolve(effect),
            Effect::Rebalance(_) | Effect::InitializeShares(_) => Plain::Nothing,
        }
    }

    fn appended(
        &mut self,
        t: Ticket,
        r: Result<Appended, ErrorCode>,
        at: At,
        out: &mut Vec<Effect>,
    ) {
        self.appended(t, r, at.now, out);
    }

    fn passed(&mut self, high_watermark: Offset, at: At, out: &mut Vec<Effect>) {
        self.committed(high_watermark, at.now, out);
    }

    fn lost(&mut self, error: ErrorCode, at: At, out: &mut Vec<Effect>) {
        self.commit_lost(error, at.now, out);
    }

    fn due(&mut self, at: At, out: &mut Vec<Effect>) {
        self.on_deadline(at.now, out);
    }

    fn deadline(&self) -> Mono {
        self.next_deadline()
    }

    fn uncommitted(&self) -> Option<Offset> {
        self.first_uncommitted()
    }

    fn leave(self, at: At, out: &mut Vec<Effect>) {
        self.unload(at.now, out);
    }
}

impl Machine for TxnShard {
    const KIND: Kind = Kind::Txns;
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    type Effect = TxnEffect;

    fn offices(all: &Offices) -> (&Table<Waiter, Self>, &ReplicaOffsetsLog) {
        (&all.txns, &all.txns_log)
    }

    fn plain(effect: TxnEffect, at: At) -> Plain {
        match effect {
            TxnEffect::Reply { token, reply } => Plain::Reply(token, Answer::Txn(reply)),
            TxnEffect::Append { ticket, records } => {
                let batch = txn_batches::encode(&records, at.transaction_version, at.now.wall_ms);
                Plain::Append(ticket, batch, Origin::Group(None))
            }
            TxnEffect::Mark(markers) => Plain::Mark(markers),
            TxnEffect::WantProducerId => Plain::WantProducerId,
        }
    }

    fn appended(
        &mut self,
        t: Ticket,
        r: Result<Appended, ErrorCode>,
        at: At,
        out: &mut Vec<TxnEffect>,
    ) {
        self.appended(t, r, at, out);
    }

    fn passed(&mut self, high_watermark: Offset, at: At, out: &mut Vec<TxnEffect>) {
        self.committed(high_watermark, at, out);
    }

    fn lost(&mut self, error: ErrorCode, _: At, out: &mut Vec<TxnEffect>) {
        self.commit_lost(error, out);
    }

    fn due(&mut self, at: At, out: &mut Vec<TxnEffect>) {
        self.on_deadline(at, out);
    }

    fn deadline(&self) -> Mono {
        self.next_deadline()
    }

    fn uncommitted(&self) -> Option<Offset> {
        self.first_uncommitted()
    }

    fn leave(self, _: At, out: &mut Vec<TxnEffect>) {
        self.unload(out);
    }
}

/// One batch of records of share state, as `share_driver` makes it.
fn encode_shares(records: &[ShareRecord], now_ms: i64) -> Result<Bytes, ErrorCode> {
    let mut batch = BatchBuilder::new(Compression::None);
    for record in records {
        let (key, value) = record.encode().map_err(|_| ErrorCode::UnknownServerError)?;
        batch
            .append(now_ms, Some(&key), value.as_deref(), &[])
            .map_err(|_| ErrorCode::RecordListTooLarge)?;
    }
    Ok(batch.finish())
}

impl Machine for ShareShard {
    const KIND: Kind = Kind::Shares;
    const TOPIC: &'static str = SHARE_STATE_TOPIC;
    type Effect = ShareEffect;

    fn offices(all: &Offices) -> (&Table<Waiter, Self>, &ReplicaOffsetsLog) {
        (&all.shares, &all.shares_log)
    }

    fn plain(effect: ShareEffect, at: At) -> Plain {
        match effect {
            ShareEffect::Reply { token, reply } => Plain::Reply(token, Answer::Share(reply)),
            ShareEffect::Append { ticket, records } => {
                let batch = encode_shares(&records, at.now.wall_ms);
                Plain::Append(ticket, batch, Origin::Group(None))
            }
            ShareEffect::Prune(offset) => Plain::Prune(offset),
        }
    }

    fn appended(
        &mut self,
        t: Ticket,
        r: Result<Appended, ErrorCode>,
        at: At,
        out: &mut Vec<ShareEffect>,
    ) {
        Loadable::appended(self, t, r, at.now, out);
    }

    fn passed(&mut self, high_watermark: Offset, at: At, out: &mut Vec<ShareEffect>) {
        self.committed(high_watermark, at.now, out);
    }

    fn lost(&mut self, error: ErrorCode, _: At, out: &mut Vec<ShareEffect>) {
        self.commit_lost(error, out);
    }

    fn due(&mut self, at: At, out: &mut Vec<ShareEffect>) {
        self.on_deadline(at.now, out);
    }

    fn deadline(&self) -> Mono {
        self.next_deadline()
    }

    fn uncommitted(&self) -> Option<Offset> {
        self.first_uncommitted()
    }

    fn leave(self, _: At, out: &mut Vec<ShareEffect>) {
        self.unload(out);
    }
}
