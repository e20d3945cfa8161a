//! `kafka-topics --describe`: what is asked, and the lines that come of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    admin::{Admin, AdminError},
    topics::{Arguments, Report, ensure_exists, matching},
};
use crate::{
    base::{ErrorCode, Uuid},
    wire::api::{
        configs::{DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult},
        metadata::{
            DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponsePartition as Partition,
            DescribeTopicPartitionsResponseTopic as Topic, TopicRequest,
        },
        partitions::{
            ListPartitionReassignmentsRequest, ListPartitionReassignmentsTopics,
            OngoingPartitionReassignment as Reassignment,
        },
    },
};

/// DescribeConfigs' resource type of topics.
const TOPIC: i8 = 2;
/// DescribeConfigs' source of a value that nobody set.
const DEFAULT_CONFIG: i8 = 5;
/// Partitions in one answer if nothing else was asked for.
const PARTITIONS_PER_RESPONSE: i32 = 2000;

type Configs = BTreeMap<String, Vec<DescribeConfigsResourceResult>>;
/// The reassignments of one topic that are under way, by partition.
type Moves = BTreeMap<i32, Reassignment>;

/// What is known of a topic beside its partitions.
struct Seen<'a> {
    entries: &'a [DescribeConfigsResourceResult],
    moves: &'a Moves,
    /// The brokers that are alive.
    live: &'a BTreeSet<i32>,
}

/// Describes the topics that are asked for, or all.
///
/// # Errors
/// See [`AdminError`].
pub(super) async fn describe(
    admin: &mut Admin,
    a: &Arguments,
    out: &mut String,
) -> Result<(), AdminError> {
    let names = wanted(admin, a).await?;
    if names.is_empty() {
        return Ok(());
    }
    let limit = a.partition_size_limit_per_response.unwrap_or(PARTITIONS_PER_RESPONSE);
    let topics = partitions(admin, &names, limit).await?;
    let configs = configs(admin, &names).await?;
    let moves = reassignments(admin, &topics).await?;
    let live = admin.describe_cluster(false).await?.brokers;
    let live: BTreeSet<i32> = live.iter().map(|b| b.broker_id).collect();
    let none = Moves::new();
    for topic in topics.values() {
        let name = topic.name.as_deref().unwrap_or_default();
        let entries = configs.get(name).map(Vec::as_slice).unwrap_or_default();
        let moves = moves.get(name).unwrap_or(&none);
        topic_lines(topic, &Seen { entries, moves, live: &live }, &a.report, out);
    }
    Ok(())
}

/// The names that are asked for: an id counts more than an expression.
async fn wanted(admin: &mut Admin, a: &Arguments) -> Result<Vec<String>, AdminError> {
    let id = a.topic_id.as_deref().map(str::parse::<Uuid>).transpose();
    let id = id.map_err(|e| AdminError::Usage(e.to_string()))?.filter(|id| !id.is_zero());
    let Some(id) = id else {
        let names: Vec<String> =
            matching(admin, a.topic.as_deref(), a.exclude_internal).await?.into_keys().collect();
        ensure_exists(!names.is_empty(), a)?;
        return Ok(names);
    };
    let found = matching(admin, None, a.exclude_internal)
        .await?
        .into_iter()
        .find(|(_, t)| t.topic_id == id);
    match found {
        Some((name, _)) => Ok(vec![name]),
        None if a.if_exists => Ok(Vec::new()),
        None => Err(AdminError::Usage(format!("TopicId '{id}' does not exist as expected"))),
    }
}

/// Topics with their partitions, asked for page by page.
async fn partitions(
    admin: &mut Admin,
    names: &[String],
    limit: i32,
) -> Result<BTreeMap<String, Topic>, AdminError> {
    let mut found: BTreeMap<String, Topic> = BTreeMap::new();
    let mut request = DescribeTopicPartitionsRequest {
        topics: names.iter().map(|name| TopicRequest { name: name.clone() }).collect(),
        response_partition_limit: limit,
        cursor: None,
    };
    loop {
        let answer = admin.ask(&request, |_| ErrorCode::None).await?;
        for topic in answer.topics {
            AdminError::check(topic.error_code, None)?;
            let name = topic.name.clone().unwrap_or_default();
            match found.get_mut(&name) {
                Some(begun) => begun.partitions.extend(topic.partitions),
                None => _ = found.insert(name, topic),
            }
        }
        if answer.next_cursor.is_none() || answer.next_cursor == request.cursor {
            return Ok(found);
        }
        request.cursor = answer.next_cursor;
    }
}

async fn configs(admin: &mut Admin, names: &[String]) -> Result<Configs, AdminError> {
    let resource = |name: &String| DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: name.clone(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: names.iter().map(resource).collect(),
        ..Default::default()
    };
    let answer = admin.ask(&request, |_| ErrorCode::None).await?;
    let mut out = Configs::new();
    for result in answer.results {
        AdminError::check(result.error_code, result.error_message)?;
        out.insert(result.resource_name, result.configs);
    }
    Ok(out)
}

/// The reassignments under way; none where the cluster does not tell.
async fn reassignments(
    admin: &mut Admin,
    topics: &BTreeMap<String, Topic>,
) -> Result<BTreeMap<String, Moves>, AdminError> {
    let all = topics.iter().map(|(name, topic)| ListPartitionReassignmentsTopics {
        name: name.clone(),
        partition_indexes: topic.partitions.iter().map(|p| p.partition_index).collect(),
    });
    let request =
        ListPartitionReassignmentsRequest { topics: Some(all.collect()), ..Default::default() };
    let answer = match admin.ask(&request, |r| r.error_code).await {
        Ok(answer) => answer,
        Err(AdminError::Unsupported(_)) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e),
    };
    match answer.error_code {
        ErrorCode::ClusterAuthorizationFailed => return Ok(BTreeMap::new()),
        code => AdminError::check(code, answer.error_message)?,
    }
    let moves = |list: Vec<Reassignment>| list.into_iter().map(|r| (r.partition_index, r));
    Ok(answer.topics.into_iter().map(|t| (t.name, moves(t.partitions).collect())).collect())
}

/// How many replicas a partition has when its reassignment, if there is one, counts not at all.
fn replication_factor(p: &Partition, moves: &Moves) -> usize {
    let of_move = moves.get(&p.partition_index).filter(|m| {
        // It may have ended between the two questions.
        let changing = m.adding_replicas.iter().chain(&m.removing_replicas);
        changing.into_iter().any(|id| p.replica_nodes.contains(id))
    });
    of_move
        .map_or(p.replica_nodes.len(), |m| m.replicas.len().saturating_sub(m.adding_replicas.len()))
}

fn topic_lines(topic: &Topic, seen: &Seen<'_>, report: &Report, out: &mut String) {
    let Seen { entries, moves, .. } = seen;
    let name = topic.name.as_deref().unwrap_or_default();
    let set: Vec<String> = entries
        .iter()
        .filter(|e| e.config_source != DEFAULT_CONFIG)
        .map(|e| format!("{}={}", e.name, e.value.as_deref().unwrap_or("null")))
        .collect();
    let left_out = report.topics_with_overrides && set.is_empty();
    if !(report.is_of_partitions() || left_out) {
        let factor = topic.partitions.first().map_or(0, |p| replication_factor(p, moves));
        out.push_str(&format!(
            "Topic: {name}\tTopicId: {}\tPartitionCount: {}\tReplicationFactor: {factor}\t\
             Configs: {}\n",
            topic.topic_id,
            topic.partitions.len(),
            set.join(",")
        ));
    }
    if report.topics_with_overrides {
        return;
    }
    let min_isr = entries.iter().find(|e| e.name == "min.insync.replicas");
    let min_isr = min_isr.and_then(|e| e.value.as_deref()?.parse().ok()).unwrap_or(1);
    for p in topic.partitions.iter().filter(|p| shown(p, seen, report, min_isr)) {
        out.push_str(&partition_line(name, p, moves.get(&p.partition_index)));
    }
}

fn shown(p: &Partition, seen: &Seen<'_>, report: &Report, min_isr: usize) -> bool {
    let (isr, led) = (p.isr_nodes.len(), p.leader_id >= 0);
    !report.is_of_partitions()
        || (report.under_replicated_partitions && isr < replication_factor(p, seen.moves))
        || (report.unavailable_partitions && !(led && seen.live.contains(&p.leader_id)))
        || (report.under_min_isr_partitions && (!led || isr < min_isr))
        || (report.at_min_isr_partitions && isr == min_isr)
}

fn partition_line(topic: &str, p: &Partition, moving: Option<&Reassignment>) -> String {
    let list = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let optional = |ids: &Option<Vec<i32>>| ids.as_deref().map_or_else(|| "N/A".to_owned(), list);
    let leader = if p.leader_id < 0 { "none".to_owned() } else { p.leader_id.to_string() };
    let moving = moving.map_or(String::new(), |m| {
        let (adding, removing) = (list(&m.adding_replicas), list(&m.removing_replicas));
        format!("\tAdding Replicas: {adding}\tRemoving Replicas: {removing}")
    });
    format!(
        "\tTopic: {topic}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}{moving}\tElr: \
         {}\tLastKnownElr: {}\n",
        p.partition_index,
        list(&p.replica_nodes),
        list(&p.isr_nodes),
        optional(&p.eligible_leader_replicas),
        optional(&p.last_known_elr),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        let partition = |partition_index, leader_id, isr: &[i32]| Partition {
            partition_index,
            leader_id,
            replica_nodes: vec![1, 2],
            isr_nodes: isr.to_vec(),
            eligible_leader_replicas: Some(Vec::new()),
            ..Default::default()
        };
        Topic {
            name: Some("t".to_owned()),
            topic_id: Uuid::ONE,
            partitions: vec![partition(0, 1, &[1, 2]), partition(1, -1, &[2])],
            ..Default::default()
        }
    }

    fn lines(report: &Report) -> String {
        lines_while(&Moves::new(), report)
    }

    fn lines_while(moves: &Moves, report: &Report) -> String {
        let entry = |name: &str, value: &str, config_source| DescribeConfigsResourceResult {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            config_source,
            ..Default::default()
        };
        let entries = [
            entry("cleanup.policy", "delete", DEFAULT_CONFIG),
            entry("min.insync.replicas", "2", 1),
            entry("segment.bytes", "1048576", 4),
        ];
        let mut out = String::new();
        let live = BTreeSet::from([1, 2]);
        topic_lines(&topic(), &Seen { entries: &entries, moves, live: &live }, report, &mut out);
        out
    }

    #[test]
    fn a_topic_and_its_partitions_are_kafkas_lines() {
        let expected = "\
Topic: t\tTopicId: AAAAAAAAAAAAAAAAAAAAAQ\tPartitionCount: 2\tReplicationFactor: 2\tConfigs: \
min.insync.replicas=2,segment.bytes=1048576
\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1,2\tElr: \tLastKnownElr: N/A
\tTopic: t\tPartition: 1\tLeader: none\tReplicas: 1,2\tIsr: 2\tElr: \tLastKnownElr: N/A
";
        assert_eq!(lines(&Report::default()), expected);
    }

    #[test]
    fn reports_show_only_their_partitions() {
        let of = |report: Report| -> Vec<char> {
            let text = lines(&report);
            let at = text.lines().map(|l| l.split("Partition: ").nth(1));
            at.map(|p| p.and_then(|p| p.chars().next()).unwrap()).collect()
        };
        let none = Report::default;
        assert_eq!(of(Report { under_replicated_partitions: true, ..none() }), ['1']);
        assert_eq!(of(Report { unavailable_partitions: true, ..none() }), ['1']);
        assert_eq!(of(Report { under_min_isr_partitions: true, ..none() }), ['1']);
        assert_eq!(of(Report { at_min_isr_partitions: true, ..none() }), ['0']);
        let overrides = lines(&Report { topics_with_overrides: true, ..none() });
        assert_eq!(overrides.lines().count(), 1);
    }

    #[test]
    fn a_reassignment_shows_and_does_not_count_as_under_replicated() {
        let to_two = Reassignment {
            partition_index: 1,
            replicas: vec![2, 1],
            adding_replicas: vec![1],
            removing_replicas: Vec::new(),
        };
        let moves = Moves::from([(1, to_two)]);
        let text = lines_while(&moves, &Report::default());
        let line = "Isr: 2\tAdding Replicas: 1\tRemoving Replicas: \tElr: ";
        assert!(text.lines().nth(2).unwrap().contains(line), "{text}");
        let under = Report { under_replicated_partitions: true, ..Report::default() };
        assert_eq!(lines_while(&moves, &under), "");
    }
}
