//! A member that speaks ConsumerGroupHeartbeat (KIP-848) as clients do: it gives back at once what
//! it is to give back, says so at once, and else comes when the broker told it to.

use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use kafka_protocol::{
    messages::{
        ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, TopicName,
        consumer_group_heartbeat_request::TopicPartitions,
    },
    protocol::StrBytes,
};

use crate::{
    frames::{Connection, text},
    rebalances::{Args, Board, Share},
};

const VERSION: i16 = 0;
const LOADING: std::ops::RangeInclusive<i16> = 14..=16;
const LEAVE_EPOCH: i32 = -1;

struct Member<'a> {
    args: &'a Args,
    board: &'a Board,
    connection: Connection,
    id: StrBytes,
    epoch: i32,
    owned: BTreeSet<i32>,
}

pub(crate) fn live(
    args: &Args,
    n: usize,
    board: &Board,
    told: &Receiver<()>,
) -> anyhow::Result<()> {
    let connection = Connection::open(&args.bootstrap)?;
    let id = text("");
    let mut member = Member { args, board, connection, id, epoch: 0, owned: BTreeSet::new() };
    board.begins();
    // Whether it has something to say.
    let mut says = true;
    loop {
        let sent = Instant::now();
        let answer = member.heartbeat(says)?;
        if LOADING.contains(&answer.error_code) && member.epoch == 0 {
            // Of the first members nothing is measured.
            thread::sleep(Duration::from_millis(10));
            continue;
        }
        let (code, why) = (answer.error_code, &answer.error_message);
        ensure!(code == 0, "ConsumerGroupHeartbeat: error {code}: {why:?}");
        (member.id, member.epoch) =
            (answer.member_id.unwrap_or_else(|| member.id.clone()), answer.member_epoch);
        says = false;
        if let Some(assignment) = answer.assignment {
            let all = assignment.topic_partitions.into_iter().flat_map(|t| t.partitions);
            let all: BTreeSet<i32> = all.collect();
            says = all != member.owned;
            member.owned = all;
        }
        let share = Share { epoch: member.epoch, partitions: member.owned.clone() };
        board.tell(n, Some(share));
        if says {
            continue;
        }
        let interval = Duration::from_millis(u64::try_from(answer.heartbeat_interval_ms)?);
        match told.recv_timeout(interval.saturating_sub(sent.elapsed())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    board.tell(n, None);
    board.begins();
    member.epoch = LEAVE_EPOCH;
    member.heartbeat(false)?;
    Ok(())
}

impl Member<'_> {
    fn heartbeat(&mut self, says: bool) -> anyhow::Result<ConsumerGroupHeartbeatResponse> {
        let mut request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.args.group)))
            .with_member_id(self.id.clone())
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(None);
        if says {
            let mut owned = Vec::new();
            if !self.owned.is_empty() {
                owned.push(
                    TopicPartitions::default()
                        .with_topic_id(self.board.topic.topic_id)
                        .with_partitions(self.owned.iter().copied().collect()),
                );
            }
            request = request.with_topic_partitions(Some(owned));
        }
        if self.epoch == 0 {
            request = request
                .with_rebalance_timeout_ms(60_000)
                .with_server_assignor(Some(text("uniform")))
                .with_subscribed_topic_names(Some(vec![TopicName(text(&self.args.group))]));
        }
        self.connection.call(VERSION, &request)
    }
}
