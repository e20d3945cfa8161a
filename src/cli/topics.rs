//! `kafka-topics`: creates, lists, describes, alters and deletes topics (`TopicCommand`).

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Args, Parser};
use regex::Regex;

use super::{
    admin::{self, Admin, AdminError, Bootstrap, ClientProperties},
    args, fail, print, topics_describe,
};
use crate::{
    base::ErrorCode,
    wire::api::{
        metadata::{MetadataRequest, MetadataResponseTopic},
        topics::{
            CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
            CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
            CreateTopicsRequest, DeleteTopicState, DeleteTopicsRequest,
        },
    },
};

/// How long the controller may take, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// This tool helps to create, delete, describe, or change a topic.
#[derive(Debug, Parser)]
#[command(name = "kafka-topics", infer_long_args = true)]
pub(super) struct Arguments {
    /// The Kafka server to connect to.
    #[arg(long, value_name = "SERVER")]
    bootstrap_server: Option<String>,
    /// Property file containing configs to be passed to the client.
    #[arg(long, value_name = "FILE")]
    command_config: Option<PathBuf>,
    #[command(flatten)]
    action: Action,
    /// The topic to create, alter, describe or delete. But for --create, a regular expression.
    #[arg(long)]
    pub(super) topic: Option<String>,
    /// The topic-id to describe.
    #[arg(long)]
    pub(super) topic_id: Option<String>,
    /// A topic configuration override for the topic being created, as name=value.
    #[arg(long, value_name = "NAME=VALUE")]
    config: Vec<String>,
    /// The number of partitions for the topic being created or altered.
    #[arg(long, allow_negative_numbers = true)]
    partitions: Option<i32>,
    /// The replication factor for each partition in the topic being created.
    #[arg(long, allow_negative_numbers = true)]
    replication_factor: Option<i32>,
    /// Manual partition-to-broker assignments: 1:2,2:3 for two partitions.
    #[arg(long)]
    replica_assignment: Option<String>,
    #[command(flatten)]
    pub(super) report: Report,
    /// When altering, deleting or describing topics: do so only if the topic exists.
    #[arg(long)]
    pub(super) if_exists: bool,
    /// When creating topics: do not fail if the topic already exists.
    #[arg(long)]
    if_not_exists: bool,
    /// Exclude internal topics when listing or describing topics.
    #[arg(long)]
    pub(super) exclude_internal: bool,
    /// The most partitions in one answer while topics are described.
    #[arg(long, value_name = "PARTITIONS")]
    pub(super) partition_size_limit_per_response: Option<i32>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Action {
    /// List all available topics.
    #[arg(long)]
    list: bool,
    /// Create a new topic.
    #[arg(long)]
    create: bool,
    /// Delete a topic.
    #[arg(long)]
    delete: bool,
    /// Alter the number of partitions and replica assignment.
    #[arg(long)]
    alter: bool,
    /// List details for the given topics.
    #[arg(long)]
    describe: bool,
}

/// Which partitions `--describe` shows.
#[derive(Debug, Default, Args)]
pub(super) struct Report {
    /// Only show under-replicated partitions.
    #[arg(long)]
    pub(super) under_replicated_partitions: bool,
    /// Only show partitions whose leader is not available.
    #[arg(long)]
    pub(super) unavailable_partitions: bool,
    /// Only show partitions whose isr count is less than the configured minimum.
    #[arg(long)]
    pub(super) under_min_isr_partitions: bool,
    /// Only show partitions whose isr count is equal to the configured minimum.
    #[arg(long)]
    pub(super) at_min_isr_partitions: bool,
    /// Only show topics that have overridden configs.
    #[arg(long)]
    pub(super) topics_with_overrides: bool,
}

impl Report {
    /// Whether only some partitions are shown, and no topics.
    pub(super) fn is_of_partitions(&self) -> bool {
        self.under_replicated_partitions
            || self.unavailable_partitions
            || self.under_min_isr_partitions
            || self.at_min_isr_partitions
    }
}

/// Runs the tool.
pub(super) fn run(words: &[String]) -> ExitCode {
    let arguments: Arguments = match args::parse(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if let Err(e) = check(&arguments) {
        return fail(&e);
    }
    let mut out = String::new();
    let done = carry_out(&arguments, &mut out);
    print(&out);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // On standard output, as Kafka's tool does.
            print(&format!("Error while executing topic command : {e}\n"));
            ExitCode::FAILURE
        }
    }
}

/// What the arguments must and must not have together.
fn check(a: &Arguments) -> Result<(), String> {
    let action = &a.action;
    let needs = |given: bool, option: &str| {
        if given { Ok(()) } else { Err(format!("Missing required argument \"[{option}]\"")) }
    };
    let only_with = |given: bool, option: &str, allowed: bool, with: &str| match given && !allowed {
        true => Err(format!("Option \"[{option}]\" can only be used with {with}")),
        false => Ok(()),
    };
    if a.bootstrap_server.is_none() {
        return Err("--bootstrap-server must be specified".to_owned());
    }
    if !action.list && !action.describe {
        needs(a.topic.is_some(), "topic")?;
    }
    if action.alter {
        if !a.config.is_empty() {
            return Err("Option combination \"[bootstrap-server],[config]\" can't be used with \
                        option \"[alter]\" (To alter topic configurations, the kafka-configs tool \
                        can be used.)"
                .to_owned());
        }
        needs(a.partitions.is_some(), "partitions")?;
    }
    if action.describe && a.if_exists && a.topic.is_none() && a.topic_id.is_none() {
        return Err("--topic or --topic-id is required to describe a topic".to_owned());
    }
    let change = action.create || action.alter;
    only_with(!a.config.is_empty(), "config", action.create, "--create")?;
    only_with(a.partitions.is_some(), "partitions", change, "--create and --alter")?;
    let assigned = a.replica_assignment.is_some();
    only_with(assigned, "replica-assignment", change, "--create and --alter")?;
    only_with(a.replication_factor.is_some(), "replication-factor", action.create, "--create")?;
    if action.create && assigned && (a.partitions.is_some() || a.replication_factor.is_some()) {
        return Err("Option \"[replica-assignment]\" can't be used with option \"[partitions]\" \
                    or \"[replication-factor]\""
            .to_owned());
    }
    let report = a.report.is_of_partitions() || a.report.topics_with_overrides;
    only_with(report, "reports", action.describe, "--describe")?;
    if a.report.is_of_partitions() && a.report.topics_with_overrides {
        return Err("Option \"[topics-with-overrides]\" can't be used with a report of partitions"
            .to_owned());
    }
    only_with(a.if_exists, "if-exists", !(action.create || action.list), "existing topics")?;
    only_with(a.if_not_exists, "if-not-exists", action.create, "--create")?;
    let listed = action.list || action.describe;
    only_with(a.exclude_internal, "exclude-internal", listed, "--list and --describe")
}

fn carry_out(a: &Arguments, out: &mut String) -> Result<(), AdminError> {
    let properties = ClientProperties::read(a.command_config.as_deref());
    let properties = properties.map_err(AdminError::Usage)?;
    let servers = a.bootstrap_server.clone().unwrap_or_default();
    let mut admin = Admin::new(&Bootstrap::Servers(servers), properties)?;
    admin::run(async move {
        let action = &a.action;
        if action.create {
            create(&mut admin, a, out).await
        } else if action.list {
            let names: Vec<String> = matching(&mut admin, a.topic.as_deref(), a.exclude_internal)
                .await?
                .into_keys()
                .collect();
            out.push_str(&(names.join("\n") + "\n"));
            Ok(())
        } else if action.delete {
            delete(&mut admin, a).await
        } else if action.alter {
            alter(&mut admin, a).await
        } else {
            topics_describe::describe(&mut admin, a, out).await
        }
    })
}

async fn create(admin: &mut Admin, a: &Arguments, out: &mut String) -> Result<(), AdminError> {
    let name = a.topic.clone().unwrap_or_default();
    let assignments = assignments(a.replica_assignment.as_deref())?;
    let configs = a.config.iter().map(|text| config(text)).collect::<Result<Vec<_>, _>>()?;
    if name.contains(['.', '_']) {
        out.push_str(
            "WARNING: Due to limitations in metric names, topics with a period ('.') or \
             underscore ('_') could collide. To avoid issues it is best to use either, but not \
             both.\n",
        );
    }
    let factor = a.replication_factor.map(|n| i16::try_from(n).ok().filter(|n| *n > 0));
    if factor == Some(None) {
        let text = "The replication factor must be between 1 and 32767 inclusive";
        return Err(AdminError::Usage(text.to_owned()));
    }
    if a.partitions.is_some_and(|n| n < 1) {
        return Err(AdminError::Usage("The partitions must be greater than 0".to_owned()));
    }
    let topic = CreatableTopic {
        name: name.clone(),
        num_partitions: a.partitions.unwrap_or(-1),
        replication_factor: factor.flatten().unwrap_or(-1),
        assignments: (0..)
            .zip(assignments)
            .map(|(partition_index, broker_ids)| CreatableReplicaAssignment {
                partition_index,
                broker_ids,
            })
            .collect(),
        configs,
    };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: TIMEOUT_MS, ..Default::default() };
    let error = |code: Option<ErrorCode>| code.unwrap_or(ErrorCode::None);
    let answer = admin.ask(&request, |r| error(r.topics.first().map(|t| t.error_code))).await?;
    for topic in answer.topics {
        if topic.error_code == ErrorCode::TopicAlreadyExists && a.if_not_exists {
            return Ok(());
        }
        AdminError::check(topic.error_code, topic.error_message)?;
    }
    out.push_str(&format!("Created topic {name}.\n"));
    Ok(())
}

fn config(text: &str) -> Result<CreatableTopicConfig, AdminError> {
    let pair = text.split_once('=').filter(|(_, value)| !value.trim().is_empty());
    let (name, value) = pair.ok_or_else(|| {
        AdminError::Usage(
            "requirement failed: Invalid topic config: all configs to be added must be in the \
             format \"key=val\"."
                .to_owned(),
        )
    })?;
    let (name, value) = (name.trim().to_owned(), Some(value.trim().to_owned()));
    Ok(CreatableTopicConfig { name, value })
}

/// The replicas of each partition: `1:2,2:3`.
fn assignments(text: Option<&str>) -> Result<Vec<Vec<i32>>, AdminError> {
    let mut out: Vec<Vec<i32>> = Vec::new();
    for (i, list) in text.unwrap_or_default().split(',').enumerate() {
        if list.is_empty() && i == 0 {
            break;
        }
        let ids: Result<Vec<i32>, _> = list.split(':').map(|id| id.trim().parse()).collect();
        let ids = ids.map_err(|_| AdminError::Usage(format!("For input string: \"{list}\"")))?;
        let twice = ids.iter().enumerate().find(|(at, id)| ids.iter().take(*at).any(|o| o == *id));
        if let Some((_, id)) = twice {
            return Err(AdminError::Usage(format!(
                "Partition replica lists may not contain duplicate entries: {id}"
            )));
        }
        if out.first().is_some_and(|first| first.len() != ids.len()) {
            return Err(AdminError::Usage(format!(
                "Partition {i} has different replication factor: {ids:?}"
            )));
        }
        out.push(ids);
    }
    Ok(out)
}

/// All topics, or those whose names `topic` fits.
///
/// # Errors
/// See [`AdminError`]; `Usage` if it is no regular expression.
pub(super) async fn matching(
    admin: &mut Admin,
    topic: Option<&str>,
    exclude_internal: bool,
) -> Result<BTreeMap<String, MetadataResponseTopic>, AdminError> {
    let filter = topic.map(filter).transpose()?;
    let request =
        MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
    let answer = admin.ask(&request, |r| r.error_code).await?;
    AdminError::check(answer.error_code, None)?;
    let named = answer.topics.into_iter().filter_map(|t| Some((t.name.clone()?, t)));
    let fits = |name: &str| filter.as_ref().is_none_or(|f| f.is_match(name));
    Ok(named.filter(|(name, t)| fits(name) && !(exclude_internal && t.is_internal)).collect())
}

/// A list of regular expressions separated by commas, each for a whole name (`IncludeList`).
fn filter(text: &str) -> Result<Regex, AdminError> {
    let text = text.trim().replace(',', "|").replace(' ', "");
    let text = text.trim_matches(['"', '\'']);
    Regex::new(&format!("^(?:{text})$"))
        .map_err(|_| AdminError::Usage(format!("{text} is an invalid regex.")))
}

/// The error if a topic was named and none is there.
pub(super) fn ensure_exists(found: bool, a: &Arguments) -> Result<(), AdminError> {
    match &a.topic {
        Some(topic) if !found && !topic.is_empty() && !a.if_exists => {
            Err(AdminError::Usage(format!("Topic '{topic}' does not exist as expected")))
        }
        _ => Ok(()),
    }
}

async fn alter(admin: &mut Admin, a: &Arguments) -> Result<(), AdminError> {
    let assigned = assignments(a.replica_assignment.as_deref())?;
    let found = matching(admin, a.topic.as_deref(), false).await?;
    ensure_exists(!found.is_empty(), a)?;
    if found.is_empty() {
        return Ok(());
    }
    let topics = found.into_iter().map(|(name, topic)| CreatePartitionsTopic {
        name,
        count: a.partitions.unwrap_or(0),
        assignments: (!assigned.is_empty()).then(|| {
            // Partitions that are there keep their replicas.
            let new = assigned.iter().skip(topic.partitions.len());
            new.map(|ids| CreatePartitionsAssignment { broker_ids: ids.clone() }).collect()
        }),
    });
    let request = CreatePartitionsRequest {
        topics: topics.collect(),
        timeout_ms: TIMEOUT_MS,
        validate_only: false,
    };
    let first = |code: Option<ErrorCode>| code.unwrap_or(ErrorCode::None);
    let answer = admin.ask(&request, |r| first(r.results.first().map(|t| t.error_code))).await?;
    let checked = |code, message| AdminError::check(code, message);
    answer.results.into_iter().try_for_each(|t| checked(t.error_code, t.error_message))
}

async fn delete(admin: &mut Admin, a: &Arguments) -> Result<(), AdminError> {
    let found = matching(admin, a.topic.as_deref(), false).await?;
    ensure_exists(!found.is_empty(), a)?;
    if found.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = found.into_keys().collect();
    let state = |name: &String| DeleteTopicState { name: Some(name.clone()), ..Default::default() };
    let request = DeleteTopicsRequest {
        topics: names.iter().map(state).collect(),
        topic_names: names,
        timeout_ms: TIMEOUT_MS,
    };
    let first = |code: Option<ErrorCode>| code.unwrap_or(ErrorCode::None);
    let answer = admin.ask(&request, |r| first(r.responses.first().map(|t| t.error_code))).await?;
    let checked = |code, message| AdminError::check(code, message);
    answer.responses.into_iter().try_for_each(|t| checked(t.error_code, t.error_message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Arguments, String> {
        let words = std::iter::once("kafka-topics").chain(text.split_whitespace());
        let arguments = Arguments::try_parse_from(words).map_err(|e| e.to_string())?;
        check(&arguments).map(|()| arguments)
    }

    #[test]
    fn arguments_fit_together() {
        for good in [
            "--bootstrap-server h:1 --create --topic t --partitions 3 --replication-factor 1",
            "--bootstrap-server=h:1 --list",
            "--boot h:1 --desc --under-rep",
            "--bootstrap-server h:1 --alter --topic t --partitions 4 --replica-assignment 1:2,2:1",
            "--bootstrap-server h:1 --delete --topic a.*,b --if-exists",
        ] {
            assert!(parsed(good).is_ok(), "{good}: {:?}", parsed(good));
        }
        for (bad, why) in [
            ("--list", "--bootstrap-server must be specified"),
            ("--bootstrap-server h:1", "required"),
            ("--bootstrap-server h:1 --list --create", "cannot be used with"),
            ("--bootstrap-server h:1 --create", "Missing required argument \"[topic]\""),
            ("--bootstrap-server h:1 --alter --topic t", "\"[partitions]\""),
            ("--bootstrap-server h:1 --alter --topic t --partitions 1 --config a=b", "[alter]"),
            ("--bootstrap-server h:1 --list --partitions 1", "\"[partitions]\" can only"),
            ("--bootstrap-server h:1 --list --if-not-exists", "\"[if-not-exists]\" can only"),
        ] {
            let got = parsed(bad).unwrap_err();
            assert!(got.contains(why), "{bad}: {got}");
        }
    }

    #[test]
    fn assignments_are_checked() {
        assert_eq!(assignments(Some("0:1,1:2")).unwrap(), [[0, 1], [1, 2]]);
        assert!(assignments(None).unwrap().is_empty());
        for (bad, why) in [
            ("1:1", "duplicate entries: 1"),
            ("1:2,1", "Partition 1 has different replication factor: [1]"),
            ("1:x", "For input string"),
        ] {
            let got = assignments(Some(bad)).unwrap_err().to_string();
            assert!(got.contains(why), "{bad}: {got}");
        }
    }

    #[test]
    fn topics_are_named_by_whole_expressions() {
        let fits = |pattern, name| filter(pattern).unwrap().is_match(name);
        assert!(fits("a.*, b", "abc") && fits("a.*, b", "b") && !fits("a.*, b", "bc"));
        assert!(!fits("b", "ab"));
        assert_eq!(filter("(").unwrap_err().to_string(), "( is an invalid regex.");
    }
}
