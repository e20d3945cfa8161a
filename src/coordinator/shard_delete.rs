//! What a shard deletes by hand: DeleteGroups and OffsetDelete. Pure.

use std::sync::Arc;

use super::{
    calls::{DeleteOffsetsCall, DeleteOffsetsReply, Reply, Token},
    records::Record,
    shard::{Shard, finish},
    turn::Turn,
};
use crate::base::ErrorCode;

impl Shard {
    pub(super) fn delete_groups(
        &mut self,
        token: Token,
        groups: Vec<Arc<str>>,
        turn: &mut Turn<'_>,
    ) {
        let (mut records, mut codes) = (Vec::new(), Vec::new());
        for id in groups {
            let error = match self.groups.get(&id) {
                None => self.delete_consumer_group(&id, &mut records),
                Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
                Some(_) => {
                    self.offsets.delete_group(&id, &mut records);
                    self.txns.delete(&id, |_, _| true, &mut records);
                    records.push(Record::Group { group: id.clone(), value: None });
                    ErrorCode::None
                }
            };
            codes.push((id, error));
        }
        finish(records, token, Reply::DeleteGroups(codes), turn);
    }

    pub(super) fn delete_offsets(
        &mut self,
        token: Token,
        call: &DeleteOffsetsCall,
        turn: &mut Turn<'_>,
    ) {
        match self.offset_owner(&call.group) {
            Ok(group) => {
                let (mut records, reply) = self.offsets.delete(call, group);
                self.txns.delete_named(&call.group, &reply, &mut records);
                finish(records, token, Reply::DeleteOffsets(reply), turn);
            }
            Err(error) => {
                let reply = DeleteOffsetsReply { error, topics: Vec::new() };
                turn.reply(token, Reply::DeleteOffsets(reply));
            }
        }
    }
}
