//! Blocks of producer ids (`ProducerIdControlManager.java`).

use crate::base::limits::PRODUCER_ID_BLOCK;
use crate::base::{ErrorCode, NodeId};
use crate::metadata::Record;
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody},
    turn::Turn,
};

impl Turn<'_> {
    pub(super) fn allocate_producer_ids(&mut self, c: &pb::AllocateProducerIds) -> Outcome {
        let body = match self.try_allocate(c) {
            Ok(first) => pb::AllocateProducerIdsReply { error: 0, first, count: PRODUCER_ID_BLOCK },
            Err(e) => pb::AllocateProducerIdsReply { error: e.number(), first: -1, count: 0 },
        };
        Outcome::submit(0, None, SubmitBody::AllocateProducerIds(body))
    }

    fn try_allocate(&mut self, c: &pb::AllocateProducerIds) -> Result<i64, Refusal> {
        let broker = NodeId(c.broker_id);
        self.broker_at(broker, c.broker_epoch)?;
        let first = self.image().next_producer_id();
        let Some(next) = first.checked_add(PRODUCER_ID_BLOCK.into()) else {
            let text = "Exhausted all producerIds as the next block's end producerId has exceeded \
                        the int64 type limit";
            return Err(Refusal::new(ErrorCode::UnknownServerError, text));
        };
        self.draft.push(Record::ProducerIds { broker, epoch: c.broker_epoch, next });
        Ok(first)
    }
}
