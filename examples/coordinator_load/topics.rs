//! Making topics, and settings of theirs.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use kafka_protocol::messages::{
    CreateTopicsRequest, IncrementalAlterConfigsRequest, MetadataRequest, TopicName,
    create_topics_request::CreatableTopic,
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    metadata_request::MetadataRequestTopic,
    metadata_response::MetadataResponseTopic,
};

use crate::frames::{Connection, text};

const TOPIC_ALREADY_EXISTS: i16 = 36;
const TOPIC_RESOURCE: i8 = 2;

#[derive(clap::Args)]
pub(crate) struct ConfigureArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// key=value.
    #[arg(long)]
    config: Vec<String>,
}

/// Makes a topic if need be and waits for its leaders; gives what is known of it.
pub(crate) fn create(
    bootstrap: &str,
    name: &str,
    partitions: i32,
) -> anyhow::Result<MetadataResponseTopic> {
    let mut connection = Connection::open(bootstrap)?;
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let made = connection.call(5, &request)?;
    let code = made.topics.first().context("no answer about the topic")?.error_code;
    ensure!(code == 0 || code == TOPIC_ALREADY_EXISTS, "creating {name}: error {code}");
    let wanted = MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
    let request = MetadataRequest::default().with_topics(Some(vec![wanted]));
    for _ in 0..3000 {
        let metadata = connection.call(12, &request)?;
        if let Some(topic) = metadata.topics.into_iter().next()
            && topic.partitions.len() == usize::try_from(partitions)?
            && topic.partitions.iter().all(|p| p.leader_id.0 >= 0)
        {
            return Ok(topic);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("{name} has no leaders")
}

pub(crate) fn configure(args: &ConfigureArgs) -> anyhow::Result<()> {
    let pairs: BTreeMap<&str, &str> = args
        .config
        .iter()
        .map(|c| c.split_once('=').context("key=value"))
        .collect::<Result<_, _>>()?;
    let configs = pairs
        .into_iter()
        .map(|(k, v)| AlterableConfig::default().with_name(text(k)).with_value(Some(text(v))));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(&args.topic))
        .with_configs(configs.collect());
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let answer = Connection::open(&args.bootstrap)?.call(1, &request)?;
    for response in answer.responses {
        ensure!(response.error_code == 0, "error {}", response.error_code);
    }
    println!("{{\"configured\":1}}");
    Ok(())
}
