//! `kafka-broker-api-versions`: which versions of which APIs each broker serves
//! (`BrokerApiVersionsCommand`, `NodeApiVersions`).

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Parser;

use super::{
    admin::{self, Admin, AdminError, Bootstrap, ClientProperties},
    args, fail, print,
};
use crate::wire::api::{metadata::DescribeClusterBroker, versions::ApiVersion};

/// The APIs that clients of Kafka 4.3.1 know, with the versions that they can use: number, name,
/// lowest, highest.
const CLIENT_APIS: &[(i16, &str, i16, i16)] = &[
    (0, "Produce", 3, 13),
    (1, "Fetch", 4, 18),
    (2, "ListOffsets", 1, 11),
    (3, "Metadata", 0, 13),
    (8, "OffsetCommit", 2, 10),
    (9, "OffsetFetch", 1, 10),
    (10, "FindCoordinator", 0, 6),
    (11, "JoinGroup", 0, 9),
    (12, "Heartbeat", 0, 4),
    (13, "LeaveGroup", 0, 5),
    (14, "SyncGroup", 0, 5),
    (15, "DescribeGroups", 0, 6),
    (16, "ListGroups", 0, 5),
    (17, "SaslHandshake", 0, 1),
    (18, "ApiVersions", 0, 4),
    (19, "CreateTopics", 2, 7),
    (20, "DeleteTopics", 1, 6),
    (21, "DeleteRecords", 0, 2),
    (22, "InitProducerId", 0, 6),
    (23, "OffsetForLeaderEpoch", 2, 4),
    (24, "AddPartitionsToTxn", 0, 5),
    (25, "AddOffsetsToTxn", 0, 4),
    (26, "EndTxn", 0, 5),
    (27, "WriteTxnMarkers", 1, 2),
    (28, "TxnOffsetCommit", 0, 5),
    (29, "DescribeAcls", 1, 3),
    (30, "CreateAcls", 1, 3),
    (31, "DeleteAcls", 1, 3),
    (32, "DescribeConfigs", 1, 4),
    (33, "AlterConfigs", 0, 2),
    (34, "AlterReplicaLogDirs", 1, 2),
    (35, "DescribeLogDirs", 1, 5),
    (36, "SaslAuthenticate", 0, 2),
    (37, "CreatePartitions", 0, 3),
    (38, "CreateDelegationToken", 1, 3),
    (39, "RenewDelegationToken", 1, 2),
    (40, "ExpireDelegationToken", 1, 2),
    (41, "DescribeDelegationToken", 1, 3),
    (42, "DeleteGroups", 0, 2),
    (43, "ElectLeaders", 0, 2),
    (44, "IncrementalAlterConfigs", 0, 1),
    (45, "AlterPartitionReassignments", 0, 1),
    (46, "ListPartitionReassignments", 0, 0),
    (47, "OffsetDelete", 0, 0),
    (48, "DescribeClientQuotas", 0, 1),
    (49, "AlterClientQuotas", 0, 1),
    (50, "DescribeUserScramCredentials", 0, 0),
    (51, "AlterUserScramCredentials", 0, 0),
    (55, "DescribeQuorum", 0, 2),
    (57, "UpdateFeatures", 0, 2),
    (60, "DescribeCluster", 0, 2),
    (61, "DescribeProducers", 0, 0),
    (64, "UnregisterBroker", 0, 0),
    (65, "DescribeTransactions", 0, 0),
    (66, "ListTransactions", 0, 2),
    (68, "ConsumerGroupHeartbeat", 0, 1),
    (69, "ConsumerGroupDescribe", 0, 1),
    (71, "GetTelemetrySubscriptions", 0, 0),
    (72, "PushTelemetry", 0, 0),
    (74, "ListConfigResources", 0, 1),
    (75, "DescribeTopicPartitions", 0, 0),
    (76, "ShareGroupHeartbeat", 1, 1),
    (77, "ShareGroupDescribe", 1, 1),
    (78, "ShareFetch", 1, 2),
    (79, "ShareAcknowledge", 1, 2),
    (80, "AddRaftVoter", 0, 1),
    (81, "RemoveRaftVoter", 0, 0),
    (83, "InitializeShareGroupState", 0, 0),
    (84, "ReadShareGroupState", 0, 0),
    (85, "WriteShareGroupState", 0, 1),
    (86, "DeleteShareGroupState", 0, 0),
    (87, "ReadShareGroupStateSummary", 0, 1),
    (88, "StreamsGroupHeartbeat", 0, 0),
    (89, "StreamsGroupDescribe", 0, 0),
    (90, "DescribeShareGroupOffsets", 0, 1),
    (91, "AlterShareGroupOffsets", 0, 0),
    (92, "DeleteShareGroupOffsets", 0, 0),
];

/// This tool helps to retrieve broker version information.
#[derive(Debug, Parser)]
#[command(name = "kafka-broker-api-versions", infer_long_args = true)]
struct Arguments {
    /// The server to connect to.
    #[arg(long, value_name = "SERVERS")]
    bootstrap_server: String,
    /// A property file containing configs to be passed to the client.
    #[arg(long, value_name = "FILE")]
    command_config: Option<PathBuf>,
}

/// Runs the tool.
pub(super) fn run(words: &[String]) -> ExitCode {
    let arguments: Arguments = match args::parse(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match carry_out(&arguments) {
        Ok(text) => print(&text),
        Err(e) => fail(&e.to_string()),
    }
}

fn carry_out(arguments: &Arguments) -> Result<String, AdminError> {
    let properties = ClientProperties::read(arguments.command_config.as_deref());
    let properties = properties.map_err(AdminError::Usage)?;
    let servers = Bootstrap::Servers(arguments.bootstrap_server.clone());
    let mut admin = Admin::new(&servers, properties)?;
    admin::run(async move {
        let mut out = String::new();
        for broker in admin.describe_cluster(false).await?.brokers {
            admin.turn_to_node(&broker)?;
            let text = match admin.versions().await {
                Ok(served) => versions(&served.api_keys),
                Err(e) => format!("ERROR: {e}"),
            };
            out += &format!("{} -> {text}\n", shown_node(&broker));
        }
        Ok(out)
    })
}

fn shown_node(node: &DescribeClusterBroker) -> String {
    let rack = node.rack.as_deref().unwrap_or("null");
    format!(
        "{}:{} (id: {} rack: {rack} isFenced: {})",
        node.host, node.port, node.broker_id, node.is_fenced
    )
}

fn versions(served: &[ApiVersion]) -> String {
    let mut lines: BTreeMap<i16, String> = BTreeMap::new();
    for (key, name, ..) in CLIENT_APIS {
        lines.insert(*key, format!("{name}({key}): UNSUPPORTED"));
    }
    for api in served {
        lines.insert(api.api_key, version(api));
    }
    let lines: Vec<String> = lines.into_values().collect();
    format!("(\n\t{}\n)", lines.join(",\n\t"))
}

fn version(api: &ApiVersion) -> String {
    let ApiVersion { api_key: key, min_version: low, max_version: high } = *api;
    let range = if low == high { low.to_string() } else { format!("{low} to {high}") };
    let Some((_, name, lowest, highest)) = CLIENT_APIS.iter().find(|a| a.0 == key) else {
        return format!("UNKNOWN({key}): {range}");
    };
    if *highest < low {
        format!("{name}({key}): {range} [unusable: node too new]")
    } else if high < *lowest {
        format!("{name}({key}): {range} [unusable: node too old]")
    } else {
        format!("{name}({key}): {range} [usable: {}]", high.min(*highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_has_its_line() {
        let api =
            |api_key, min_version, max_version| ApiVersion { api_key, min_version, max_version };
        let text = versions(&[api(0, 0, 13), api(1, 4, 18), api(60, 0, 0), api(999, 1, 2)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            ["(", "\tProduce(0): 0 to 13 [usable: 13],", "\tFetch(1): 4 to 18 [usable: 18],"]
        );
        assert!(lines.contains(&"\tMetadata(3): UNSUPPORTED,"));
        assert!(lines.contains(&"\tDescribeCluster(60): 0 [usable: 0],"));
        assert_eq!(lines[lines.len() - 2..], ["\tUNKNOWN(999): 1 to 2", ")"]);
        assert!(version(&api(0, 14, 15)).ends_with("[unusable: node too new]"));
        assert!(version(&api(1, 0, 3)).ends_with("[unusable: node too old]"));
    }

    #[test]
    fn a_node_is_shown_as_java_does() {
        let node = DescribeClusterBroker {
            broker_id: 1,
            host: "h".to_owned(),
            port: 9092,
            rack: None,
            is_fenced: false,
        };
        assert_eq!(shown_node(&node), "h:9092 (id: 1 rack: null isFenced: false)");
    }
}
