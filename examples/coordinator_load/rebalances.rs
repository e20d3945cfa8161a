//! Rebalances: a group of members, and one more that joins and leaves. What counts is the time from
//! its request until every member holds its share of the same epoch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;

use crate::{at, classic, frames::Connection, modern, topics};

/// A rebalance that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two changes: longer than `group.consumer.assignment.interval.ms`, and not always the
/// same, so that the members' heartbeats do not fall into step with it.
const REST_MS: u64 = 1200;
const REST_STEP_MS: u64 = 137;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) bootstrap: String,
    /// classic, or consumer (KIP-848).
    #[arg(long, default_value = "classic")]
    protocol: String,
    #[arg(long, default_value = "rebalances")]
    pub(crate) group: String,
    #[arg(long, default_value_t = 20)]
    members: usize,
    #[arg(long, default_value_t = 100)]
    partitions: i32,
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How often members of the classic protocol send heartbeats; the others are told by the broker.
    #[arg(long, default_value_t = 5)]
    pub(crate) heartbeat_ms: u64,
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) epoch: i32,
    pub(crate) partitions: BTreeSet<i32>,
}

struct State {
    expected: BTreeSet<usize>,
    shares: BTreeMap<usize, Share>,
    began: Option<Instant>,
    settled: Option<Instant>,
    failed: Option<anyhow::Error>,
}

/// Where members tell what they have.
pub(crate) struct Board {
    pub(crate) topic: MetadataResponseTopic,
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn partitions(&self) -> i32 {
        self.topic.partitions.len() as i32
    }

    /// The member is about to ask for the change that is measured.
    pub(crate) fn begins(&self) {
        let mut state = self.lock();
        state.began.get_or_insert_with(Instant::now);
    }

    /// What the member has now; `None`: it left, or has given all up.
    pub(crate) fn tell(&self, member: usize, share: Option<Share>) {
        let mut state = self.lock();
        match share {
            Some(share) => state.shares.insert(member, share),
            None => state.shares.remove(&member),
        };
        if state.settled.is_none() && is_settled(&state, self.topic.partitions.len()) {
            state.settled = Some(Instant::now());
            self.changed.notify_all();
        }
    }

    fn failed(&self, error: anyhow::Error) {
        self.lock().failed = Some(error);
        self.changed.notify_all();
    }

    /// From now on these members are to share the topic.
    fn expect(&self, members: usize) {
        let mut state = self.lock();
        state.expected = (0..members).collect();
        (state.began, state.settled) = (None, None);
    }

    /// Milliseconds from the request to the last member's share.
    fn settled(&self) -> anyhow::Result<f64> {
        let (mut state, until) = (self.lock(), Instant::now() + PATIENCE);
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if let (Some(began), Some(settled)) = (state.began, state.settled) {
                return Ok((settled - began).as_secs_f64() * 1000.0);
            }
            let rest = until.saturating_duration_since(Instant::now());
            ensure!(!rest.is_zero(), "not settled: {:?}", state.shares);
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Everybody is there, in the same epoch, and has a fair share; nobody has what another has.
fn is_settled(state: &State, partitions: usize) -> bool {
    let mut all = BTreeSet::new();
    let mut sizes = BTreeSet::new();
    let mut epochs = BTreeSet::new();
    for share in state.shares.values() {
        sizes.insert(share.partitions.len());
        epochs.insert(share.epoch);
        if share.partitions.iter().any(|p| !all.insert(*p)) {
            return false;
        }
    }
    let (least, most) = (sizes.first().copied(), sizes.last().copied());
    state.shares.keys().eq(state.expected.iter())
        && epochs.len() == 1
        && all.len() == partitions
        && least.zip(most).is_some_and(|(least, most)| most - least <= 1)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let topic = topics::create(&args.bootstrap, &args.group, args.partitions)?;
    Connection::open(&args.bootstrap)?.coordinator(&args.group, 0)?;
    let state = State {
        expected: (0..args.members).collect(),
        shares: BTreeMap::new(),
        began: None,
        settled: None,
        failed: None,
    };
    let board = Board { topic, state: Mutex::new(state), changed: Condvar::new() };
    let (joins, leaves) = thread::scope(|scope| {
        let open = |n: usize| -> Sender<()> {
            let (leave, told) = mpsc::channel();
            let board = &board;
            scope.spawn(move || {
                let done = live(args, n, board, &told);
                done.unwrap_or_else(|error| board.failed(error));
            });
            leave
        };
        let _members: Vec<Sender<()>> = (0..args.members).map(open).collect();
        board.settled().context("the first members")?;
        let (mut joins, mut leaves) = (Vec::new(), Vec::new());
        for round in 0..args.rounds as u64 {
            let rest = |n: u64| Duration::from_millis(REST_MS + n * REST_STEP_MS % 1000);
            thread::sleep(rest(2 * round));
            board.expect(args.members + 1);
            let leave = open(args.members);
            joins.push(board.settled().context("a join")?);
            thread::sleep(rest(2 * round + 1));
            board.expect(args.members);
            leave.send(())?;
            leaves.push(board.settled().context("a leave")?);
        }
        anyhow::Ok((joins, leaves))
    })?;
    let show = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        let each: Vec<String> = all.iter().map(|ms| format!("{ms:.1}")).collect();
        format!(
            "{{\"median\":{:.1},\"longest\":{:.1},\"all\":[{}]}}",
            at(&all, 0.5),
            at(&all, 1.0),
            each.join(",")
        )
    };
    println!("{{\"join_ms\":{},\"leave_ms\":{}}}", show(joins), show(leaves));
    Ok(())
}

/// A member until it is told to leave, or nobody can tell it any more.
fn live(args: &Args, n: usize, board: &Board, told: &Receiver<()>) -> anyhow::Result<()> {
    match args.protocol.as_str() {
        "classic" => classic::live(args, n, board, told),
        "consumer" => modern::live(args, n, board, told),
        other => anyhow::bail!("{other}: not a protocol"),
    }
}
