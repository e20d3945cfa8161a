//! A member that speaks JoinGroup and SyncGroup. The leader deals partitions out in turn.

use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        SyncGroupRequest, join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity, sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};

use crate::{
    frames::{Connection, text},
    rebalances::{Args, Board, Share},
};

const LOADING: std::ops::RangeInclusive<i16> = 14..=16;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

struct Member<'a> {
    args: &'a Args,
    board: &'a Board,
    n: usize,
    connection: Connection,
    id: StrBytes,
    generation: i32,
}

pub(crate) fn live(
    args: &Args,
    n: usize,
    board: &Board,
    told: &Receiver<()>,
) -> anyhow::Result<()> {
    let connection = Connection::open(&args.bootstrap)?;
    let mut member = Member { args, board, n, connection, id: text(""), generation: -1 };
    member.join()?;
    loop {
        match told.recv_timeout(Duration::from_millis(args.heartbeat_ms)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return member.leave(),
        }
        let request = HeartbeatRequest::default()
            .with_group_id(member.group())
            .with_generation_id(member.generation)
            .with_member_id(member.id.clone());
        match member.connection.call(4, &request)?.error_code {
            0 => {}
            REBALANCE_IN_PROGRESS => member.join()?,
            code => bail!("Heartbeat: error {code}"),
        }
    }
}

impl Member<'_> {
    fn group(&self) -> GroupId {
        GroupId(text(&self.args.group))
    }

    /// Joins until it has its share.
    fn join(&mut self) -> anyhow::Result<()> {
        loop {
            let mut subscription = BytesMut::new();
            subscription.put_i16(0);
            subscription.put_i32(1);
            put_text(&mut subscription, &self.args.group);
            subscription.put_i32(-1);
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("in-turn"))
                .with_metadata(subscription.freeze());
            let request = JoinGroupRequest::default()
                .with_group_id(self.group())
                .with_session_timeout_ms(30_000)
                .with_rebalance_timeout_ms(60_000)
                .with_member_id(self.id.clone())
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            self.board.begins();
            let joined = self.connection.call(6, &request)?;
            match joined.error_code {
                0 => {}
                MEMBER_ID_REQUIRED => {
                    self.id = joined.member_id;
                    continue;
                }
                REBALANCE_IN_PROGRESS => continue,
                // It may still be loading: of the first members nothing is measured.
                code if LOADING.contains(&code) => {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                code => bail!("JoinGroup: error {code}"),
            }
            self.generation = joined.generation_id;
            let request = SyncGroupRequest::default()
                .with_group_id(self.group())
                .with_generation_id(self.generation)
                .with_member_id(self.id.clone())
                .with_assignments(self.deal(&joined));
            let synced = self.connection.call(4, &request)?;
            match synced.error_code {
                0 => {}
                REBALANCE_IN_PROGRESS => continue,
                code => bail!("SyncGroup: error {code}"),
            }
            let partitions = partitions_of(synced.assignment)?;
            let share = Share { epoch: self.generation, partitions };
            self.board.tell(self.n, Some(share));
            return Ok(());
        }
    }

    /// Everybody's share, if this member leads.
    fn deal(&self, joined: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
        if joined.leader != self.id {
            return Vec::new();
        }
        let ids: BTreeSet<&StrBytes> = joined.members.iter().map(|m| &m.member_id).collect();
        let count = ids.len();
        let one = |(at, id): (usize, &StrBytes)| {
            let own: Vec<i32> = (0..self.board.partitions()).skip(at).step_by(count).collect();
            let mut bytes = BytesMut::new();
            bytes.put_i16(0);
            bytes.put_i32(1);
            put_text(&mut bytes, &self.args.group);
            bytes.put_i32(own.len() as i32);
            for p in own {
                bytes.put_i32(p);
            }
            bytes.put_i32(-1);
            SyncGroupRequestAssignment::default()
                .with_member_id(id.clone())
                .with_assignment(bytes.freeze())
        };
        ids.into_iter().enumerate().map(one).collect()
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        self.board.tell(self.n, None);
        self.board.begins();
        let identity = MemberIdentity::default().with_member_id(self.id.clone());
        let request =
            LeaveGroupRequest::default().with_group_id(self.group()).with_members(vec![identity]);
        let left = self.connection.call(4, &request)?;
        ensure!(left.error_code == 0, "LeaveGroup: error {}", left.error_code);
        Ok(())
    }
}

fn put_text(out: &mut BytesMut, value: &str) {
    out.put_i16(value.len() as i16);
    out.put_slice(value.as_bytes());
}

fn partitions_of(mut assignment: Bytes) -> anyhow::Result<BTreeSet<i32>> {
    let mut partitions = BTreeSet::new();
    ensure!(assignment.len() >= 8, "an assignment of {} bytes", assignment.len());
    assignment.advance(6);
    let name = usize::from(assignment.get_u16());
    ensure!(assignment.len() >= name + 4, "a short assignment");
    assignment.advance(name);
    for _ in 0..assignment.get_i32() {
        partitions.insert(assignment.get_i32());
    }
    Ok(partitions)
}
