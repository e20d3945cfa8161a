//! The fetchers of this broker: which partitions are fetched from which leader by which task, and
//! where those leaders are (`ReplicaFetcherManager`). A task a leader and fetcher number; it is
//! started with the first partition and ends with the last. What a task does is in
//! `fetcher_driver`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    fetch_frames::{FetchSize, fetcher_of},
    fetch_plan::Key,
    fetcher_driver::{Command, Fetcher},
    lost_driver::LostLeaders,
    publish::Following,
    table::ReplicaTable,
};
use crate::{base::NodeId, metadata::brokers::Brokers};

/// Fetchers that do not end by themselves in this time are cut off where they wait.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The terms of replication from other brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTerms {
    /// `num.replica.fetchers`: tasks a leader.
    pub fetchers: usize,
    /// The listener between brokers.
    pub listener: String,
    /// How much is asked for at once.
    pub size: FetchSize,
    /// `replica.fetch.backoff.ms`: the longest pause after a failure.
    pub backoff: Duration,
    /// `replica.socket.timeout.ms`.
    pub socket_timeout: Duration,
    /// `replica.socket.receive.buffer.bytes`; `None` leaves it to the system.
    pub receive_buffer_bytes: Option<u32>,
}

/// Where a leader is, in which of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) broker_epoch: i64,
}

/// A leader, and the number of a fetcher.
type Place = (NodeId, usize);

#[derive(Debug)]
struct Running {
    commands: mpsc::UnboundedSender<Command>,
    partitions: usize,
    address: Option<Address>,
}

/// All fetchers of this broker. Dropping it ends them.
#[derive(Debug)]
pub struct Fetchers {
    table: Arc<ReplicaTable>,
    terms: Arc<FetchTerms>,
    broker_epoch: watch::Receiver<i64>,
    lost: Arc<LostLeaders>,
    running: BTreeMap<Place, Running>,
    places: BTreeMap<Key, Place>,
    tasks: JoinSet<()>,
}

impl Fetchers {
    /// None yet. `broker_epoch` tells this broker's own; `lost` is told of broken connections.
    #[must_use]
    pub fn new(
        table: Arc<ReplicaTable>,
        terms: FetchTerms,
        broker_epoch: watch::Receiver<i64>,
        lost: Arc<LostLeaders>,
    ) -> Self {
        Self {
            table,
            terms: Arc::new(terms),
            broker_epoch,
            lost,
            running: BTreeMap::new(),
            places: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Partitions that are fetched, or would be if their leaders could be reached.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.places.len()
    }

    /// Takes over what metadata changed: replicas that begin anew with a leader, or end (`None`),
    /// and where the brokers are. Call it after the replicas know their roles; it does not wait.
    /// Must be called within a runtime.
    pub fn update(&mut self, changes: impl IntoIterator<Item = Following>, brokers: &Brokers) {
        let (mut gone, mut come) = (BTreeMap::new(), BTreeMap::new());
        for Following { slot, leader, .. } in changes {
            let key = (slot.topic_id, slot.partition);
            let number = || fetcher_of(&slot.topic, slot.partition, self.terms.fetchers);
            let place = leader.map(|leader| (leader, number()));
            let before = match place {
                Some(place) => self.places.insert(key, place),
                None => self.places.remove(&key),
            };
            if let Some(before) = before.filter(|b| Some(*b) != place) {
                gone.entry(before).or_insert_with(Vec::new).push(key);
            }
            if let Some(place) = place {
                come.entry(place).or_insert_with(Vec::new).push((key, before != Some(place)));
            }
        }
        for (place, keys) in gone {
            self.remove(place, keys);
        }
        for (place, keys) in come {
            self.add(place, keys, brokers);
        }
        self.running.retain(|_, running| running.partitions > 0);
        self.readdress(brokers);
        while self.tasks.try_join_next().is_some() {}
    }

    fn remove(&mut self, place: Place, keys: Vec<Key>) {
        if let Some(running) = self.running.get_mut(&place) {
            running.partitions = running.partitions.saturating_sub(keys.len());
            let _ = running.commands.send(Command::Remove(keys));
        }
    }

    fn add(&mut self, place: Place, keys: Vec<(Key, bool)>, brokers: &Brokers) {
        let new = keys.iter().filter(|(_, new)| *new).count();
        let address = self.address(place.0, brokers);
        let running = self.running.entry(place).or_insert_with(|| {
            let (commands, receiver) = mpsc::unbounded_channel();
            let fetcher = Fetcher::new(
                Arc::clone(&self.table),
                Arc::clone(&self.terms),
                (self.broker_epoch.clone(), Arc::clone(&self.lost)),
                place,
                address.clone(),
                receiver,
            );
            self.tasks.spawn(fetcher.run());
            Running { commands, partitions: 0, address }
        });
        running.partitions += new;
        let keys = keys.into_iter().map(|(key, _)| key).collect();
        let _ = running.commands.send(Command::Add(keys));
    }

    /// Tells the fetchers of leaders that moved, restarted, or went.
    fn readdress(&mut self, brokers: &Brokers) {
        for ((leader, _), running) in &mut self.running {
            let address = address_of(*leader, brokers, &self.terms.listener);
            if running.address != address {
                running.address.clone_from(&address);
                let _ = running.commands.send(Command::Address(address));
            }
        }
    }

    fn address(&self, leader: NodeId, brokers: &Brokers) -> Option<Address> {
        address_of(leader, brokers, &self.terms.listener)
    }

    /// Ends all fetchers, each between two steps, and waits for that.
    pub async fn stop(mut self) {
        self.running.clear();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_MAX, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

fn address_of(leader: NodeId, brokers: &Brokers, listener: &str) -> Option<Address> {
    let broker = brokers.get(leader)?;
    let endpoint = broker.endpoint(listener)?;
    Some(Address {
        host: Arc::clone(&endpoint.host),
        port: endpoint.port,
        broker_epoch: broker.epoch,
    })
}
