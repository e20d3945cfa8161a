//! OffsetCommit requests of one partition each, as a consumer sends them that commits what it read.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use kafka_protocol::messages::{
    GroupId, OffsetCommitRequest, TopicName,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
};

use crate::{
    at,
    frames::{Connection, encode, text},
    topics,
};

const VERSION: i16 = 7;
const TOPIC: &str = "committed";

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How long is measured; as long before it nothing is.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// A request that commits `offset` in `partitions` of `topic`.
pub(crate) fn request(
    group: &str,
    topic: &str,
    partitions: i32,
    offset: i64,
) -> OffsetCommitRequest {
    let partitions = (0..partitions).map(|p| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(p)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("")))
    });
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(partitions.collect());
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    topics::create(&args.bootstrap, TOPIC, 1)?;
    Connection::open(&args.bootstrap)?.coordinator("commits", 0)?;
    let span = Duration::from_secs_f64(args.seconds);
    let began = Instant::now() + span;
    let (lists, seconds) = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.connections)
            .map(|n| scope.spawn(move || commit(args, n, began, began + span)))
            .collect();
        let lists = threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow::anyhow!("panic"))?)
            .collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::Ok((lists, began.elapsed().as_secs_f64()))
    })?;
    let mut taken: Vec<f64> = lists.into_iter().flatten().collect();
    taken.sort_by(f64::total_cmp);
    println!(
        "{{\"requests\":{},\"requests_s\":{:.0},\"p50\":{:.1},\"p99\":{:.1}}}",
        taken.len(),
        taken.len() as f64 / seconds,
        at(&taken, 0.5),
        at(&taken, 0.99)
    );
    Ok(())
}

/// Microseconds of each request that began after `from`.
fn commit(args: &Args, n: usize, from: Instant, until: Instant) -> anyhow::Result<Vec<f64>> {
    let mut connection = Connection::open(&args.bootstrap)?;
    let frame = encode(VERSION, &request(&format!("commits-{n}"), TOPIC, 1, 1))?;
    let mut taken = Vec::new();
    let mut began = Instant::now();
    while began < until {
        let answer = connection.exchange::<OffsetCommitRequest>(VERSION, &frame)?;
        let code = answer.topics[0].partitions[0].error_code;
        // The coordinator may still be loading in the beginning.
        ensure!(code == 0 || began < from, "OffsetCommit: error {code}");
        let ended = Instant::now();
        if began >= from {
            taken.push((ended - began).as_nanos() as f64 / 1000.0);
        }
        began = ended;
    }
    Ok(taken)
}
