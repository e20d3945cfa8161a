//! `kafka-metadata-quorum`: shows the controllers' quorum and changes its voters
//! (`MetadataQuorumCommand`).

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use super::{
    admin::{self, Admin, AdminError, Bootstrap, ClientProperties},
    args, fail, print,
    quorum_add::NewController,
    table::pretty,
};
use crate::{
    base::{ErrorCode, Uuid, ports::Clock as _},
    os::OsClock,
    wire::api::quorum::{
        AddRaftVoterRequest, DescribeQuorumRequest, DescribeQuorumResponse, QuorumListener,
        QuorumNode, QuorumPartition, QuorumPartitionRequest, QuorumReplica, QuorumTopicRequest,
        RemoveRaftVoterRequest,
    },
};

const METADATA_TOPIC: &str = "__cluster_metadata";

/// This tool describes kraft metadata quorum status.
#[derive(Debug, Parser)]
#[command(name = "kafka-metadata-quorum", disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Property file containing configs to be passed to the client. For add-controller, the file
    /// also says which controller is added: it is that controller's own.
    #[arg(long, value_name = "COMMAND_CONFIG")]
    command_config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Connection {
    /// A comma-separated list of host:port pairs of brokers.
    #[arg(long, value_name = "BOOTSTRAP_SERVER")]
    bootstrap_server: Option<String>,
    /// A comma-separated list of host:port pairs of controllers.
    #[arg(long, value_name = "BOOTSTRAP_CONTROLLER")]
    bootstrap_controller: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Describe the metadata quorum info.
    Describe(Describe),
    /// Add a controller to the KRaft controller cluster.
    AddController(AddController),
    /// Remove a controller from the KRaft controller cluster.
    RemoveController(RemoveController),
}

#[derive(Debug, Args)]
struct Describe {
    /// A short summary of the quorum.
    #[arg(long)]
    status: bool,
    /// How far each controller and broker has followed the log.
    #[arg(long)]
    replication: bool,
    /// Times as time passed. Only with --replication.
    #[arg(long)]
    human_readable: bool,
}

#[derive(Debug, Args)]
struct AddController {
    /// Print what would be done, but do not do it.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct RemoveController {
    /// The id of the controller to remove.
    #[arg(short = 'i', long, value_name = "CONTROLLER_ID", allow_negative_numbers = true)]
    controller_id: i32,
    /// The directory ID of the controller to remove.
    #[arg(short = 'd', long, value_name = "CONTROLLER_DIRECTORY_ID", allow_hyphen_values = true)]
    controller_directory_id: String,
    /// Print what would be done, but do not do it.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the tool.
pub(super) fn run(words: &[String]) -> ExitCode {
    let arguments: Arguments = match args::parse(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match carry_out(&arguments) {
        Ok(text) => print(&text),
        Err(e) => fail(&e.with_class()),
    }
}

fn carry_out(arguments: &Arguments) -> Result<String, AdminError> {
    let usage = |text: &str| AdminError::Usage(text.to_owned());
    let file = arguments.command_config.as_deref();
    if let Command::AddController(_) = arguments.command {
        file.ok_or_else(|| {
            usage(
                "You must supply the configuration file of the controller you are adding when \
                 using add-controller.",
            )
        })?;
    }
    let properties = ClientProperties::read(file).map_err(AdminError::Usage)?;
    let all = properties.all.clone();
    let bootstrap = match &arguments.connection {
        Connection { bootstrap_controller: Some(text), .. } => Bootstrap::Controllers(text.clone()),
        other => Bootstrap::Servers(other.bootstrap_server.clone().unwrap_or_default()),
    };
    let mut admin = Admin::new(&bootstrap, properties)?;
    match &arguments.command {
        Command::Describe(d) => match (d.status, d.replication) {
            (true, true) => Err(usage(
                "Only one of --status or --replication should be specified with describe \
                 sub-command",
            )),
            (false, false) => Err(usage(
                "One of --status or --replication must be specified with describe sub-command",
            )),
            (true, false) if d.human_readable => {
                Err(usage("The option --human-readable is only supported along with --replication"))
            }
            (true, false) => admin::run(status(&mut admin)),
            (false, true) => admin::run(replication(&mut admin, d.human_readable)),
        },
        Command::AddController(a) => {
            let controller = NewController::of(&all)?;
            if !a.dry_run {
                admin::run(add(&mut admin, &controller))?;
            }
            let verb = if a.dry_run { "DRY RUN of adding" } else { "Added" };
            Ok(format!("{verb} {controller}\n"))
        }
        Command::RemoveController(r) => {
            if r.controller_id < 0 {
                let id = r.controller_id;
                return Err(AdminError::Usage(format!("Invalid negative --controller-id: {id}")));
            }
            let directory: Uuid = r.controller_directory_id.parse().map_err(|e| {
                AdminError::Usage(format!("Failed to parse --controller-directory-id: {e}"))
            })?;
            if !r.dry_run {
                admin::run(remove(&mut admin, r.controller_id, directory))?;
            }
            // The second space is Kafka's.
            let verb = if r.dry_run { "DRY RUN of removing " } else { "Removed " };
            let id = r.controller_id;
            Ok(format!("{verb} KRaft controller {id} with directory id {directory}\n"))
        }
    }
}

/// The quorum: its one partition, and where its voters are.
async fn describe(
    admin: &mut Admin,
) -> Result<(QuorumPartition, BTreeMap<i32, QuorumNode>), AdminError> {
    let request = DescribeQuorumRequest {
        topics: vec![QuorumTopicRequest {
            topic_name: METADATA_TOPIC.to_owned(),
            partitions: vec![QuorumPartitionRequest { partition_index: 0 }],
        }],
    };
    let error = |r: &DescribeQuorumResponse| match r.error_code {
        ErrorCode::None => partition(r).map_or(ErrorCode::None, |p| p.error_code),
        code => code,
    };
    let answer = admin.ask(&request, error).await?;
    AdminError::check(answer.error_code, answer.error_message.clone())?;
    let found = partition(&answer).cloned().ok_or_else(|| {
        AdminError::Usage(format!("The answer does not describe {METADATA_TOPIC}-0"))
    })?;
    AdminError::check(found.error_code, found.error_message.clone())?;
    Ok((found, answer.nodes.into_iter().map(|n| (n.node_id, n)).collect()))
}

fn partition(answer: &DescribeQuorumResponse) -> Option<&QuorumPartition> {
    answer.topics.first()?.partitions.first()
}

fn leader_of(quorum: &QuorumPartition) -> Result<&QuorumReplica, AdminError> {
    let leader = quorum.current_voters.iter().find(|v| v.replica_id == quorum.leader_id);
    leader.ok_or_else(|| AdminError::Usage("The quorum has no leader among its voters".to_owned()))
}

async fn status(admin: &mut Admin) -> Result<String, AdminError> {
    let cluster_id = admin.describe_cluster(false).await?.cluster_id;
    let (quorum, nodes) = describe(admin).await?;
    status_text(&cluster_id, &quorum, &nodes)
}

fn status_text(
    cluster_id: &str,
    quorum: &QuorumPartition,
    nodes: &BTreeMap<i32, QuorumNode>,
) -> Result<String, AdminError> {
    let leader = leader_of(quorum)?;
    let slowest = quorum.current_voters.iter().min_by_key(|v| v.log_end_offset).unwrap_or(leader);
    let lag_ms = if slowest.replica_id == leader.replica_id {
        0
    } else if leader.last_caught_up_timestamp >= 0 && slowest.last_caught_up_timestamp >= 0 {
        leader.last_caught_up_timestamp - slowest.last_caught_up_timestamp
    } else {
        -1
    };
    let shown = |list: &[QuorumReplica]| {
        let each = list.iter().map(|r| replica(r, nodes.get(&r.replica_id)));
        format!("[{}]", each.collect::<Vec<_>>().join(", "))
    };
    let lines = [
        ("ClusterId:", cluster_id.to_owned()),
        ("LeaderId:", quorum.leader_id.to_string()),
        ("LeaderEpoch:", quorum.leader_epoch.to_string()),
        ("HighWatermark:", quorum.high_watermark.to_string()),
        ("MaxFollowerLag:", (leader.log_end_offset - slowest.log_end_offset).to_string()),
        ("MaxFollowerLagTimeMs:", lag_ms.to_string()),
        ("CurrentVoters:", shown(&quorum.current_voters)),
        ("CurrentObservers:", shown(&quorum.observers)),
    ];
    Ok(lines.iter().map(|(label, value)| format!("{label:<24}{value}\n")).collect())
}

fn replica(r: &QuorumReplica, node: Option<&QuorumNode>) -> String {
    let mut out = format!("{{\"id\": {}", r.replica_id);
    if !r.replica_directory_id.is_zero() {
        out += &format!(", \"directoryId\": \"{}\"", r.replica_directory_id);
    }
    let listeners = node.map(|n| n.listeners.as_slice()).unwrap_or_default();
    if !listeners.is_empty() {
        let each = listeners.iter().map(|l| format!("\"{}\"", shown_endpoint(l)));
        out += &format!(", \"endpoints\": [{}]", each.collect::<Vec<_>>().join(", "));
    }
    out + "}"
}

pub(super) fn shown_endpoint(l: &QuorumListener) -> String {
    let host = if l.host.contains(':') { format!("[{}]", l.host) } else { l.host.clone() };
    format!("{}://{host}:{}", l.name, l.port)
}

async fn replication(admin: &mut Admin, human: bool) -> Result<String, AdminError> {
    let (quorum, _) = describe(admin).await?;
    let now = OsClock::new().now().wall_ms;
    replication_text(&quorum, human.then_some(now))
}

/// The table; with `now_ms` times are told as time passed.
fn replication_text(quorum: &QuorumPartition, now_ms: Option<i64>) -> Result<String, AdminError> {
    let leader = leader_of(quorum)?;
    let others = quorum.current_voters.iter().filter(|v| v.replica_id != quorum.leader_id);
    let rows = std::iter::once((leader, "Leader"))
        .chain(others.map(|v| (v, "Follower")))
        .chain(quorum.observers.iter().map(|o| (o, "Observer")))
        .map(|(r, status)| {
            Ok([
                r.replica_id.to_string(),
                r.replica_directory_id.to_string(),
                r.log_end_offset.to_string(),
                (leader.log_end_offset - r.log_end_offset).to_string(),
                time(r.last_fetch_timestamp, "last fetch", now_ms)?,
                time(r.last_caught_up_timestamp, "last caught up", now_ms)?,
                status.to_owned(),
            ])
        });
    let rows: Result<Vec<_>, AdminError> = rows.collect();
    Ok(pretty(
        [
            "NodeId",
            "DirectoryId",
            "LogEndOffset",
            "Lag",
            "LastFetchTimestamp",
            "LastCaughtUpTimestamp",
            "Status",
        ],
        &rows?,
    ))
}

fn time(at_ms: i64, what: &str, now_ms: Option<i64>) -> Result<String, AdminError> {
    match now_ms {
        _ if at_ms < 0 => Ok("-1".to_owned()),
        None => Ok(at_ms.to_string()),
        Some(now) if at_ms > 0 && at_ms <= now => Ok(format!("{} ms ago", now - at_ms)),
        Some(now) => Err(AdminError::Usage(format!(
            "Error while computing relative time, possible drift in system clock.\n\
             Current timestamp is {now}, {what} timestamp is {at_ms}"
        ))),
    }
}

async fn add(admin: &mut Admin, controller: &NewController) -> Result<(), AdminError> {
    let request = AddRaftVoterRequest {
        voter_id: controller.id,
        voter_directory_id: controller.directory_id,
        listeners: controller.listeners.clone(),
        timeout_ms: 60_000,
        ..Default::default()
    };
    let answer = admin.ask(&request, |r| r.error_code).await?;
    AdminError::check(answer.error_code, answer.error_message)
}

async fn remove(admin: &mut Admin, id: i32, directory: Uuid) -> Result<(), AdminError> {
    let request = RemoveRaftVoterRequest {
        voter_id: id,
        voter_directory_id: directory,
        ..Default::default()
    };
    let answer = admin.ask(&request, |r| r.error_code).await?;
    AdminError::check(answer.error_code, answer.error_message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum() -> (QuorumPartition, BTreeMap<i32, QuorumNode>) {
        let replica = |id, end, fetch, caught_up| QuorumReplica {
            replica_id: id,
            replica_directory_id: Uuid([u8::try_from(id).unwrap(); 16]),
            log_end_offset: end,
            last_fetch_timestamp: fetch,
            last_caught_up_timestamp: caught_up,
        };
        let observer = QuorumReplica { replica_directory_id: Uuid::ZERO, ..replica(4, 8, 60, -1) };
        let partition = QuorumPartition {
            leader_id: 2,
            leader_epoch: 7,
            high_watermark: 10,
            current_voters: vec![replica(1, 9, 90, 80), replica(2, 10, 100, 100)],
            observers: vec![observer],
            ..Default::default()
        };
        let listener = |id: i32| QuorumListener {
            name: "CONTROLLER".to_owned(),
            host: if id == 1 { "::1".to_owned() } else { "two".to_owned() },
            port: 9093,
        };
        let node = |id| (id, QuorumNode { node_id: id, listeners: vec![listener(id)] });
        (partition, BTreeMap::from([node(1), node(2)]))
    }

    #[test]
    fn the_status_is_kafkas_text() {
        let (quorum, nodes) = quorum();
        let text = status_text("cluster", &quorum, &nodes).unwrap();
        let expected = "ClusterId:              cluster
LeaderId:               2
LeaderEpoch:            7
HighWatermark:          10
MaxFollowerLag:         1
MaxFollowerLagTimeMs:   20
CurrentVoters:          [{\"id\": 1, \"directoryId\": \"AQEBAQEBAQEBAQEBAQEBAQ\", \"endpoints\": \
                        [\"CONTROLLER://[::1]:9093\"]}, {\"id\": 2, \"directoryId\": \
                        \"AgICAgICAgICAgICAgICAg\", \"endpoints\": [\"CONTROLLER://two:9093\"]}]
CurrentObservers:       [{\"id\": 4}]
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_table_has_leader_followers_observers() {
        let (quorum, _) = quorum();
        let text = replication_text(&quorum, Some(110)).unwrap();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|l| l.split('\t').map(str::trim).collect()).collect();
        assert_eq!(rows[0][5..], ["LastCaughtUpTimestamp", "Status", ""]);
        assert_eq!(rows[1][2..], ["10", "0", "10 ms ago", "10 ms ago", "Leader", ""]);
        assert_eq!(rows[2][2..], ["9", "1", "20 ms ago", "30 ms ago", "Follower", ""]);
        assert_eq!(rows[3][2..], ["8", "2", "50 ms ago", "-1", "Observer", ""]);
        let drift = replication_text(&quorum, Some(50)).unwrap_err().to_string();
        assert!(drift.contains("possible drift in system clock"), "{drift}");
    }
}
