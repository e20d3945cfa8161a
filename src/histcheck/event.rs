//! The events of a history, one JSON object a line: `{"KIND":{…}}`. `docs/histcheck.md` explains
//! each field to those who record. Unknown kinds and fields are refused: a checker that skips what
//! it does not know proves less than it says.
//!
//! Times are microseconds of one monotonic clock, `[invoked, completed]` where there are two. A
//! partition is `[topic, index]`; where topics are deleted and made again, `topic` is the topic id.

use std::borrow::Cow;

use serde::Deserialize;

/// Name of a partition: topic (or topic id) and index.
pub(super) type Tp<'a> = (Cow<'a, str>, i32);

/// One record as it was read: offset and what identifies all its bytes, headers too.
pub(super) type Read<'a> = (i64, Cow<'a, str>);

/// One line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Event<'a> {
    Run(Run),
    #[serde(borrow)]
    Topic(Topic<'a>),
    #[serde(borrow)]
    Send(Send<'a>),
    #[serde(borrow)]
    Fatal(Fatal<'a>),
    #[serde(borrow)]
    Assign(Assign<'a>),
    #[serde(borrow)]
    Poll(Poll<'a>),
    #[serde(borrow)]
    Commit(Commit<'a>),
    #[serde(borrow)]
    Fetched(Fetched<'a>),
    #[serde(borrow)]
    Owns(Owns<'a>),
    #[serde(borrow)]
    Init(Init<'a>),
    #[serde(borrow)]
    Txn(Txn<'a>),
    #[serde(borrow)]
    Ends(Ends<'a>),
    #[serde(borrow)]
    Scan(Scan<'a>),
    #[serde(borrow)]
    Scanned(Scanned<'a>),
    #[serde(borrow)]
    Leader(Leader<'a>),
    #[serde(borrow)]
    Marks(Marks<'a>),
    #[serde(borrow)]
    Segment(Segment<'a>),
    Term(Term),
    #[serde(borrow)]
    Voters(Voters<'a>),
    #[serde(borrow)]
    Nemesis(Nemesis<'a>),
    #[serde(borrow)]
    Live(Live<'a>),
    #[serde(borrow)]
    Admin(Admin<'a>),
    #[serde(borrow)]
    Share(Share<'a>),
    #[serde(borrow)]
    Acquired(Acquired<'a>),
    #[serde(borrow)]
    Unheard(Unheard<'a>),
    #[serde(borrow)]
    Acked(Acked<'a>),
    #[serde(borrow)]
    Left(Left<'a>),
    #[serde(borrow)]
    Drained(Drained<'a>),
    #[serde(borrow)]
    DeleteRecords(DeleteRecords<'a>),
    #[serde(borrow)]
    Meta(Meta<'a>),
}

/// What the run promised; the checker holds it to that. Defaults are the strict ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) seed: Option<u64>,
    /// How to run it again.
    pub(super) replay: Option<String>,
    /// Producers are idempotent: each value is there once, in the producer's order.
    pub(super) idempotent: bool,
    /// Leaders may come from outside the ISR.
    pub(super) unclean: bool,
    /// Records may go at the start of a log at any time, by size or by settings that are not told.
    pub(super) retention: bool,
    /// How far a broker may be behind the controller when it answers what it knows of topics and
    /// settings, in milliseconds; 0: not at all. After a fault: until somebody found all to be well.
    pub(super) lag_ms: u64,
    /// Liveness after the last fault, in milliseconds.
    pub(super) live_ms: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            id: String::new(),
            seed: None,
            replay: None,
            idempotent: true,
            unclean: false,
            retention: false,
            lag_ms: 0,
            live_ms: 10_000,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topic<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) replicas: u32,
    pub(super) min_isr: u32,
    /// Of each key only the last record has to stay.
    #[serde(default)]
    pub(super) compacted: bool,
    /// The shortest `retention.ms` of the run, if records may go by age.
    pub(super) retention_ms: Option<u64>,
    /// The shortest `delete.retention.ms` of the run, if it is known.
    pub(super) delete_retention_ms: Option<u64>,
}

/// A record handed to a producer, and its outcome: `ok` (its offset), `fail` (an error after which
/// it certainly is not in the log), or neither: nobody knows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send<'a> {
    /// The producer and its incarnation.
    #[serde(borrow)]
    pub(super) p: Cow<'a, str>,
    /// Grows with every record of the producer.
    pub(super) n: u64,
    pub(super) tp: Tp<'a>,
    pub(super) v: Cow<'a, str>,
    /// Its key, where the topic is compacted.
    #[serde(borrow)]
    pub(super) k: Option<Cow<'a, str>>,
    /// It deletes its key: once it is the last of it, it may go too.
    #[serde(default)]
    pub(super) tombstone: bool,
    /// The transaction that it is part of.
    #[serde(borrow)]
    pub(super) txn: Option<Cow<'a, str>>,
    pub(super) t: (u64, u64),
    pub(super) ok: Option<i64>,
    #[serde(borrow)]
    pub(super) fail: Option<Cow<'a, str>>,
    /// The error behind an outcome that is not known.
    #[serde(borrow)]
    pub(super) info: Option<Cow<'a, str>>,
}

/// A producer ended by itself: an idempotent one must not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fatal<'a> {
    #[serde(borrow)]
    pub(super) p: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) error: Cow<'a, str>,
}

/// A consumer begins at `offset` of a partition, or wherever its group says (`null`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Assign<'a> {
    #[serde(borrow)]
    pub(super) c: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) offset: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Poll<'a> {
    #[serde(borrow)]
    pub(super) c: Cow<'a, str>,
    /// The group whose commits count these as delivered.
    #[serde(borrow)]
    pub(super) group: Option<Cow<'a, str>>,
    pub(super) tp: Tp<'a>,
    pub(super) t: (u64, u64),
    /// At isolation level read_committed.
    #[serde(default)]
    pub(super) committed: bool,
    /// What was asked of the broker at `t`, and not what the client had fetched before.
    #[serde(default)]
    pub(super) direct: bool,
    #[serde(borrow)]
    pub(super) r: Vec<Read<'a>>,
}

/// A group's position was committed: all before it was delivered to a member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) offset: i64,
    /// When; without it the commit says nothing about later answers.
    pub(super) t: Option<(u64, u64)>,
    /// The error behind a commit of which nobody knows whether it took place.
    #[serde(borrow)]
    pub(super) info: Option<Cow<'a, str>>,
}

/// What OffsetFetch answered; -1: no position.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fetched<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) t: (u64, u64),
    pub(super) offset: i64,
}

/// A member was given a partition in a generation or member epoch of its group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owns<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) m: Cow<'a, str>,
    pub(super) epoch: i32,
    pub(super) tp: Tp<'a>,
}

/// A producer got its epoch for a transactional id: all that had it before are fenced.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Init<'a> {
    /// The transactional id.
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) p: Cow<'a, str>,
    pub(super) t: (u64, u64),
}

/// The end of a transaction, asked for at `t`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Txn<'a> {
    /// Its name, that of its sends' `txn`.
    #[serde(borrow)]
    pub(super) txn: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) p: Cow<'a, str>,
    pub(super) t: (u64, u64),
    pub(super) end: End,
    /// Positions that it commits: group, partition, offset.
    #[serde(borrow, default)]
    pub(super) offsets: Vec<(Cow<'a, str>, Tp<'a>, i64)>,
}

/// How a transaction ended, as its producer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// Committed.
    Commit,
    /// Aborted, or an error after which it certainly is not committed.
    Abort,
    /// Nobody knows.
    Info,
}

/// What ListOffsets answered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ends<'a> {
    pub(super) tp: Tp<'a>,
    pub(super) t: (u64, u64),
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) lso: Option<i64>,
}

/// A part of the final reading of a partition.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scan<'a> {
    /// Which scan: the broker it went through and the isolation level.
    #[serde(borrow)]
    pub(super) s: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    /// At isolation level read_committed.
    #[serde(default)]
    pub(super) committed: bool,
    #[serde(borrow)]
    pub(super) r: Vec<Read<'a>>,
}

/// The final reading of a partition is complete from `start` to `end`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scanned<'a> {
    #[serde(borrow)]
    pub(super) s: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) start: i64,
    pub(super) end: i64,
    /// When its start was asked for, and when all was read.
    pub(super) t: Option<(u64, u64)>,
}

/// A partition's state as the metadata log or an answer of Metadata has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leader<'a> {
    pub(super) tp: Tp<'a>,
    /// -1: none.
    pub(super) node: i32,
    pub(super) epoch: i32,
    /// The partition epoch, where it is known: then states are complete and stand in one order.
    pub(super) pe: Option<i32>,
    pub(super) isr: Vec<i32>,
    #[serde(default)]
    pub(super) elr: Vec<i32>,
    /// The last known leader, where nobody is left in sync or eligible.
    #[serde(default)]
    pub(super) last: Vec<i32>,
}

/// A node's own view of a partition it leads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marks<'a> {
    pub(super) node: i32,
    pub(super) tp: Tp<'a>,
    pub(super) epoch: i32,
    pub(super) start: i64,
    pub(super) lso: i64,
    pub(super) hw: i64,
    pub(super) leo: i64,
}

/// A replica's bytes from `start` to the high watermark `end`, when nothing is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Segment<'a> {
    /// Segments of one quiet time are compared with each other.
    pub(super) quiet: u32,
    pub(super) node: i32,
    pub(super) tp: Tp<'a>,
    pub(super) start: i64,
    pub(super) end: i64,
    #[serde(borrow)]
    pub(super) hash: Cow<'a, str>,
    /// `[leader epoch, first offset]`, in order.
    #[serde(default)]
    pub(super) epochs: Vec<(i32, i64)>,
}

/// A node led the metadata quorum in a term.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Term {
    pub(super) term: i64,
    pub(super) node: i32,
}

/// The voters from position `at` of the metadata log on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Voters<'a> {
    pub(super) at: u64,
    #[serde(borrow)]
    pub(super) voters: Vec<Cow<'a, str>>,
}

/// A fault begins, or everything is well again (`what` is `heal`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nemesis<'a> {
    #[serde(borrow)]
    pub(super) what: Cow<'a, str>,
    #[serde(default)]
    pub(super) on: Vec<i32>,
    pub(super) t: u64,
    /// A leader may be cut off and not know that it is deposed: until the cluster is healed its
    /// readers may be behind, as with Kafka.
    #[serde(default)]
    pub(super) stale: bool,
    /// All replicas of a partition may forget where they said that its log starts: Kafka writes that
    /// down once a minute.
    #[serde(default)]
    pub(super) forgets: bool,
}

/// How the cluster came back: `ms` after the heal, `left` names what did not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Live<'a> {
    pub(super) t: u64,
    pub(super) ms: u64,
    #[serde(borrow, default)]
    pub(super) left: Vec<Cow<'a, str>>,
}

/// An administrative operation; kept for the timeline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin<'a> {
    #[serde(borrow)]
    pub(super) op: Cow<'a, str>,
    pub(super) t: (u64, u64),
    #[serde(borrow)]
    pub(super) error: Option<Cow<'a, str>>,
}

/// What the members of a share group are promised.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    /// `share.delivery.count.limit`.
    pub(super) limit: u32,
}

/// A member of a share group was handed out the records from `first` to `last`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acquired<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) m: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) t: (u64, u64),
    pub(super) first: i64,
    /// Inclusive.
    pub(super) last: i64,
    /// The delivery count.
    pub(super) n: u32,
    /// For how long they are locked; without it nothing is concluded from the lock's time.
    pub(super) lock_ms: Option<u64>,
    /// The records, where they were looked at.
    #[serde(borrow, default)]
    pub(super) r: Vec<Read<'a>>,
}

/// A member asked for records, and no answer came: it may have been handed out some, at any time
/// between `t.0` and `t.1`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unheard<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) m: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) t: (u64, u64),
}

/// A member said what became of records, and was told whether that counts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acked<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) m: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) t: (u64, u64),
    pub(super) first: i64,
    /// Inclusive.
    pub(super) last: i64,
    pub(super) kind: AckKind,
    /// The error after which it certainly does not count.
    #[serde(borrow)]
    pub(super) fail: Option<Cow<'a, str>>,
    /// The error behind an outcome that is not known.
    #[serde(borrow)]
    pub(super) info: Option<Cow<'a, str>>,
}

/// What a member says of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AckKind {
    Gap,
    Accept,
    Release,
    Reject,
    Renew,
}

/// From `t` on a member may have lost what it had: its session, its connection or itself ended.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Left<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) m: Cow<'a, str>,
    pub(super) t: u64,
}

/// At the end of the run nothing from `from` to before `to` was handed out any more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drained<'a> {
    #[serde(borrow)]
    pub(super) group: Cow<'a, str>,
    pub(super) tp: Tp<'a>,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// DeleteRecords: `ok` (the low watermark that was answered), `fail` (certainly not done), or
/// neither.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteRecords<'a> {
    pub(super) tp: Tp<'a>,
    /// What lies below is to go; -1: all.
    pub(super) before: i64,
    pub(super) t: (u64, u64),
    pub(super) ok: Option<i64>,
    #[serde(borrow)]
    pub(super) fail: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) info: Option<Cow<'a, str>>,
}

/// An operation on one key of the metadata, a topic or a setting. Without `fail` and `info` it was
/// answered and done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta<'a> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    pub(super) op: MetaOp,
    /// What is written or was read: a topic's id, a setting's value; nothing: there is none.
    #[serde(borrow)]
    pub(super) v: Option<Cow<'a, str>>,
    pub(super) t: (u64, u64),
    /// The broker, and its incarnation, that answered a read: it never goes back.
    #[serde(borrow)]
    pub(super) via: Option<Cow<'a, str>>,
    /// Creation or deletion was answered with "it is so already": by another, or by an attempt of
    /// itself, as brokers repeat what they hand on.
    #[serde(default)]
    pub(super) already: bool,
    /// The error after which it certainly did nothing.
    #[serde(borrow)]
    pub(super) fail: Option<Cow<'a, str>>,
    /// The error behind an outcome that is not known.
    #[serde(borrow)]
    pub(super) info: Option<Cow<'a, str>>,
}

/// What an operation does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MetaOp {
    /// Where there was nothing.
    Create,
    /// What is there.
    Delete,
    /// Whatever was there before.
    Set,
    /// The same: nothing is there then.
    Unset,
    Read,
}
