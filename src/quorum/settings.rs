//! What a quorum member or an observer is started with, and what it says of itself: settings,
//! voters, leadership, descriptions, errors. Plain values. Uses `base`, `log`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::dial::Dial;
use crate::{
    base::{LeaderEpoch, NodeId, Offset, Uuid},
    log::LogDir,
};

/// Name of the directory of the metadata log, beneath `metadata.log.dir`.
pub const METADATA_DIR_NAME: &str = "__cluster_metadata-0";

/// A voter: a controller, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// The controller's node id.
    pub id: NodeId,
    /// Id of its metadata log directory; zero where voters are configured
    /// (`controller.quorum.voters`), not recorded.
    pub directory_id: Uuid,
    /// Host name or address.
    pub host: String,
    /// Port of its controller listener.
    pub port: u16,
}

/// What tells one voter from another (`ReplicaKey`): a node whose disk was replaced is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoterKey {
    /// The controller's node id.
    pub id: NodeId,
    /// Id of its metadata log directory.
    pub directory_id: Uuid,
}

impl std::fmt::Display for VoterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with directory id {}", self.id, self.directory_id)
    }
}

/// One listener of a controller, as AddRaftVoter and UpdateRaftVoter name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerEndpoint {
    /// Name of the listener.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Voter {
    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// What tells it from others.
    #[must_use]
    pub fn key(&self) -> VoterKey {
        VoterKey { id: self.id, directory_id: self.directory_id }
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl Address {
    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// The `controller.quorum.*` timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumTimeouts {
    /// `controller.quorum.election.timeout.ms`: shortest silence of the leader before an election.
    pub election: Duration,
    /// `controller.quorum.fetch.timeout.ms`: longest silence of the leader before an election.
    pub fetch: Duration,
    /// `controller.quorum.request.timeout.ms`: a peer's answer is waited for so long.
    pub request: Duration,
    /// `controller.quorum.retry.backoff.ms`: pause before a peer is tried again.
    pub retry_backoff: Duration,
}

impl Default for QuorumTimeouts {
    fn default() -> Self {
        Self {
            election: Duration::from_millis(1000),
            fetch: Duration::from_millis(2000),
            request: Duration::from_millis(2000),
            retry_backoff: Duration::from_millis(20),
        }
    }
}

/// When the log is cut into segments and checkpoints are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPolicy {
    /// `metadata.log.segment.bytes`.
    pub segment_bytes: u32,
    /// `metadata.log.max.record.bytes.between.snapshots`.
    pub checkpoint_bytes: u64,
    /// `metadata.log.max.snapshot.interval.ms`; zero: never by time.
    pub checkpoint_interval: Duration,
    /// Entries that stay in the log behind a checkpoint, for followers and observers that lag.
    pub entries_kept: u64,
    /// Whether a thread of its own writes, so that writing shares syncs and nothing waits for it.
    /// Without it who appends also writes: for a disk that never waits, as simulations have.
    pub own_thread: bool,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            checkpoint_bytes: 20 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(3600),
            entries_kept: 1000,
            own_thread: true,
        }
    }
}

/// What a controller's quorum member is started with.
#[derive(Debug, Clone)]
pub struct QuorumSettings {
    /// The cluster's id as `meta.properties` has it.
    pub cluster_id: String,
    /// This node.
    pub node_id: NodeId,
    /// Id of the metadata log directory.
    pub directory_id: Uuid,
    /// The first voters: those of `controller.quorum.voters`, this node among them, or those that
    /// formatting wrote down; none if this node waits to be added.
    pub voters: Vec<Voter>,
    /// How the voters change; `None` if they are configured and never do.
    pub dynamic: Option<DynamicVoters>,
    /// Name of the controller listener: the one that endpoints are looked up by.
    pub listener_name: String,
    /// Timeouts.
    pub timeouts: QuorumTimeouts,
    /// Segments and checkpoints.
    pub log: LogPolicy,
    /// The way to other controllers.
    pub dial: Arc<dyn Dial>,
}

/// Settings of a quorum whose voters are recorded in its log (kraft.version 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicVoters {
    /// `controller.quorum.bootstrap.servers`: `host:port` of some controllers.
    pub bootstrap: Vec<Address>,
    /// Where this member's controller listener is reached.
    pub advertised: Address,
    /// `controller.quorum.auto.join.enable`: it asks to be made a voter by itself.
    pub auto_join: bool,
}

/// Where a controller listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What a node that is no voter follows the quorum with.
#[derive(Debug, Clone)]
pub struct ObserverSettings {
    /// The cluster's id as `meta.properties` has it.
    pub cluster_id: String,
    /// This node.
    pub node_id: NodeId,
    /// Id of the metadata log directory.
    pub directory_id: Uuid,
    /// The voters of `controller.quorum.voters`; none if they are learned.
    pub voters: Vec<Voter>,
    /// `controller.quorum.bootstrap.servers`: asked while no voter is known.
    pub bootstrap: Vec<Address>,
    /// The log directory that holds metadata, where the image is kept for the next start; `None`
    /// keeps it in memory only.
    pub dir: Option<Arc<LogDir>>,
    /// The way to controllers.
    pub dial: Arc<dyn Dial>,
    /// Timeouts.
    pub timeouts: QuorumTimeouts,
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The highest epoch this node has seen.
    pub epoch: LeaderEpoch,
    /// Whether this node leads *and* has applied everything that stood in the log when its epoch
    /// began: the image may be decided upon.
    pub is_self: bool,
}

/// What is known of one follower of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaDescription {
    /// Its node id.
    pub id: NodeId,
    /// Id of its metadata log directory; zero if unknown.
    pub directory_id: Uuid,
    /// Offset after its last entry; -1 if unknown.
    pub log_end_offset: Offset,
    /// When it last reported, in milliseconds since the Unix epoch; -1 if unknown.
    pub last_fetch_ms: i64,
    /// When it last had all that the leader had, in milliseconds since the Unix epoch; -1 if never.
    pub last_caught_up_ms: i64,
}

/// The quorum as its leader sees it (DescribeQuorum).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumDescription {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Offset after the last committed entry.
    pub high_watermark: Offset,
    /// The voters, by id.
    pub voters: Vec<ReplicaDescription>,
    /// The observers, by id.
    pub observers: Vec<ReplicaDescription>,
    /// Where the voters listen.
    pub endpoints: Vec<Voter>,
    /// Whether the voters are recorded (kraft.version 1), not configured.
    pub dynamic: bool,
    /// Name of the listener that `endpoints` belong to.
    pub listener_name: String,
}

/// Why records were not committed, by what the proposer can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written. Send the command to the leader.
    #[error("this node does not lead the metadata quorum")]
    NotLeader {
        /// The leader, if known.
        hint: Option<NodeId>,
    },
    /// The epoch ended while the records were under way. They may or may not be committed: the
    /// image says.
    #[error("the leader's epoch ended before the records were known to be committed")]
    Superseded,
    /// Nothing was written: the records do not fit in one batch. Split them.
    #[error("the records take {bytes} bytes, a batch holds at most {max}")]
    TooLarge {
        /// What they take.
        bytes: usize,
        /// What a batch may hold.
        max: usize,
    },
    /// The quorum member has stopped: its storage failed, or it was shut down. Final.
    #[error("the metadata quorum member has stopped: {0}")]
    Fatal(String),
}

/// Why the voters were not changed (KIP-853), by the error code that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoterChangeError {
    /// NOT_LEADER_OR_FOLLOWER: ask the leader.
    #[error("this node does not lead the metadata quorum")]
    NotLeader {
        /// The leader, if known.
        hint: Option<NodeId>,
    },
    /// DUPLICATE_VOTER: a voter with this node id is there.
    #[error("the voter id for {0} is already part of the set of voters")]
    Duplicate(VoterKey),
    /// VOTER_NOT_FOUND: no voter has this node id and directory id.
    #[error("there is no voter {0}")]
    NotFound(VoterKey),
    /// REQUEST_TIMED_OUT: another change is under way, the new voter did not catch up in time, or
    /// the change was not committed in time. Try again; it may have been made all the same.
    #[error("{0}")]
    TimedOut(String),
    /// INVALID_REQUEST: the request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// UNSUPPORTED_VERSION: the voters are configured (`controller.quorum.voters`): kraft.version
    /// is 0.
    #[error("the voters are set by controller.quorum.voters: kraft.version is 0")]
    Static,
    /// UNKNOWN_SERVER_ERROR: the quorum member has stopped.
    #[error("the metadata quorum member has stopped: {0}")]
    Fatal(String),
}

/// Why a quorum member did not start.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    /// A setting contradicts another.
    #[error("{0}")]
    Settings(String),
    /// The metadata directory cannot be read or written.
    #[error("metadata directory {path}: {source}")]
    Storage {
        /// The directory or file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// The log or its checkpoint is damaged where no crash can damage it.
    #[error("the metadata log is damaged: {0}")]
    Corrupt(String),
    /// Raft did not start.
    #[error("the metadata quorum member did not start: {0}")]
    Raft(String),
}
