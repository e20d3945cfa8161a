//! Very many committed offsets in one partition of `__consumer_offsets`, and how long a coordinator
//! takes until it answers about them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kafka_protocol::messages::{
    GroupId, OffsetFetchRequest, TopicName, offset_fetch_request::OffsetFetchRequestTopic,
};
use vltava::coordinator::partition_for;

use crate::{
    commits,
    frames::{Connection, encode, text},
    topics,
};

const TOPIC: &str = "loaded";
/// Partitions of the topic, and records of a commit.
const PARTITIONS: i32 = 1000;
/// Partitions of `__consumer_offsets`, as they are by default.
const OFFSETS_PARTITIONS: i32 = 50;
/// The one that keeps the groups.
const KEPT_IN: i32 = 7;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    /// Records to be written, a thousand a request.
    #[arg(long, default_value_t = 1_000_000)]
    records: i64,
    /// How often each offset is committed.
    #[arg(long, default_value_t = 2)]
    times: i64,
}

/// Groups that the same coordinator partition keeps.
fn groups(args: &Args) -> Vec<String> {
    let count = args.records / i64::from(PARTITIONS) / args.times;
    (0..)
        .map(|n| format!("loaded-{n}"))
        .filter(|g| partition_for(g, OFFSETS_PARTITIONS) == KEPT_IN)
        .take(usize::try_from(count).unwrap_or(0))
        .collect()
}

pub(crate) fn write(args: &Args) -> anyhow::Result<()> {
    topics::create(&args.bootstrap, TOPIC, PARTITIONS)?;
    let groups = groups(args);
    let mut connection = Connection::open(&args.bootstrap)?;
    connection.coordinator(groups.first().context("no group")?, 0)?;
    let began = Instant::now();
    for time in 1..=args.times {
        for group in &groups {
            let request = commits::request(group, TOPIC, PARTITIONS, time);
            let frame = encode(7, &request)?;
            loop {
                let answer = connection
                    .exchange::<kafka_protocol::messages::OffsetCommitRequest>(7, &frame)?;
                let code = answer.topics[0].partitions.iter().map(|p| p.error_code).max();
                match code {
                    Some(0) => break,
                    // Loading, or the topic was made a moment ago.
                    Some(14..=16 | 3) if began.elapsed() < Duration::from_secs(30) => {
                        thread::sleep(Duration::from_millis(10));
                    }
                    other => anyhow::bail!("OffsetCommit: error {other:?}"),
                }
            }
        }
    }
    println!("{{\"seconds\":{:.3}}}", began.elapsed().as_secs_f64());
    Ok(())
}

/// The broker may not even listen yet.
pub(crate) fn loaded(args: &Args) -> anyhow::Result<()> {
    let groups = groups(args);
    let topic = OffsetFetchRequestTopic::default()
        .with_name(TopicName(text(TOPIC)))
        .with_partition_indexes(vec![PARTITIONS - 1]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(groups.last().context("no group")?)))
        .with_topics(Some(vec![topic]));
    let began = Instant::now();
    let (mut connection, mut last) = (None, String::from("nobody listens"));
    while began.elapsed() < Duration::from_secs(120) {
        if connection.is_none() {
            connection = Connection::open(&args.bootstrap).ok();
        }
        match connection.as_mut().map(|c| c.call(5, &request)) {
            Some(Ok(answer)) if answer.error_code == 0 => {
                let partition = answer.topics[0].partitions.first().context("no partition")?;
                let (offset, code) = (partition.committed_offset, partition.error_code);
                ensure!(code == 0 && offset == args.times, "offset {offset}, error {code}");
                println!("{{\"seconds\":{:.4}}}", began.elapsed().as_secs_f64());
                return Ok(());
            }
            Some(Ok(answer)) => last = format!("error {}", answer.error_code),
            Some(Err(error)) => (connection, last) = (None, error.to_string()),
            None => {}
        }
        thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("not loaded within 120 s: {last}")
}
