//! Records of `__transaction_state` to and from record batches v2, and a shard of transactions as its
//! shell sees it. Pure.

use bytes::Bytes;

use super::{
    calls::{Ticket, Token},
    machine::Machine,
    ports::Appended,
    txn_calls::{At, TxnCall, TxnEffect, TxnReply},
    txn_records::{RecordError, TxnRecord},
    txn_shard::TxnShard,
};
use crate::{
    base::{ErrorCode, Mono, Offset},
    record::{BatchBuilder, Compression},
};

/// One uncompressed batch of `records`, all stamped `now_ms`. The values are flexible from
/// `transaction_version` 1 on (KIP-890).
///
/// # Errors
/// `UnknownServerError` if a name is too long for the format, `RecordListTooLarge` beyond 2 GiB.
pub fn encode(
    records: &[TxnRecord],
    transaction_version: i16,
    now_ms: i64,
) -> Result<Bytes, ErrorCode> {
    let mut batch = BatchBuilder::new(Compression::None);
    for record in records {
        let encoded = record.encode(transaction_version.min(1));
        let (key, value) = encoded.map_err(|_| ErrorCode::UnknownServerError)?;
        batch
            .append(now_ms, Some(&key), value.as_deref(), &[])
            .map_err(|_| ErrorCode::RecordListTooLarge)?;
    }
    Ok(batch.finish())
}

impl Machine for TxnShard {
    type Call = TxnCall;
    type Reply = TxnReply;
    type Effect = TxnEffect;
    type At = At;

    fn replay(
        &mut self,
        _offset: Offset,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool, RecordError> {
        let record = TxnRecord::decode(key, value)?;
        Ok(record.map(|record| self.replay(record)).is_some())
    }

    fn handle(&mut self, token: Token, call: TxnCall, at: At, out: &mut Vec<TxnEffect>) {
        self.handle(token, call, at, out);
    }

    fn appended(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, ErrorCode>,
        at: At,
        out: &mut Vec<TxnEffect>,
    ) {
        self.appended(ticket, result, at, out);
    }

    fn committed(&mut self, high_watermark: Offset, at: At, out: &mut Vec<TxnEffect>) {
        self.committed(high_watermark, at, out);
    }

    fn commit_lost(&mut self, error: ErrorCode, out: &mut Vec<TxnEffect>) {
        self.commit_lost(error, out);
    }

    fn first_uncommitted(&self) -> Option<Offset> {
        self.first_uncommitted()
    }

    fn next_deadline(&self) -> Mono {
        self.next_deadline()
    }

    fn on_deadline(&mut self, at: At, out: &mut Vec<TxnEffect>) {
        self.on_deadline(at, out);
    }

    fn unload(self, out: &mut Vec<TxnEffect>) {
        self.unload(out);
    }
}
