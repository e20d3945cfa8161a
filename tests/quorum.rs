//! Quorum members and observers over real files and sockets: election, commits, loss of the
//! leader, restarts, checkpoints, observers, the controller's drivers.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use vltava::{
    base::{NodeId, Uuid},
    controller::{
        BrokerLifecycle, BrokerSettings, BrokerState, ConfigSchema, ControllerClient,
        ControllerDriver, ControllerHandle, Core, EffectiveConfig, Settings, TopicDefaults,
        command::{SubmitBody, SubmitCommand},
        service_driver,
    },
    log::{FileCache, LogDir},
    metadata::{
        ConfigResource, Endpoint, Image, Record, ResourceType, VersionRange, configs::Properties,
    },
    os::{OsClock, OsFs},
    pb::controller as pb,
    quorum::{
        ControllerListener, LogPolicy, MetadataSource, Observer, ObserverSettings, ProposeError,
        Quorum, QuorumError, QuorumSettings, QuorumTimeouts, TcpDial, Voter, serve,
    },
};

const LONG: Duration = Duration::from_secs(20);

fn timeouts() -> QuorumTimeouts {
    QuorumTimeouts {
        election: Duration::from_millis(200),
        fetch: Duration::from_millis(400),
        request: Duration::from_millis(1000),
        retry_backoff: Duration::from_millis(10),
    }
}

/// A voter with its listener.
struct Member {
    quorum: Arc<Quorum>,
    listener: ControllerListener,
    controller: Option<(ControllerDriver, ControllerHandle)>,
}

impl Member {
    async fn stop(self) {
        if let Some((driver, _)) = self.controller {
            driver.shutdown().await;
        }
        self.quorum.shutdown().await;
        self.listener.shutdown().await;
    }

    /// As the loss of a process: peers see its connections break first.
    async fn kill(self) {
        self.listener.shutdown().await;
        self.quorum.shutdown().await;
    }

    fn config(&self, topic: &str) -> Option<Arc<str>> {
        config(&self.quorum.image(), topic)
    }
}

fn config(image: &Image, topic: &str) -> Option<Arc<str>> {
    image.configs().value(&ConfigResource::topic(topic), "k").map(Arc::from)
}

fn set(topic: &str, value: &str) -> Vec<Record> {
    vec![Record::Config {
        resource: ConfigResource::topic(topic),
        key: "k".into(),
        value: Some(value.into()),
    }]
}

struct Cluster {
    dirs: tempfile::TempDir,
    voters: Vec<Voter>,
    policy: LogPolicy,
}

impl Cluster {
    async fn of(n: i32, policy: LogPolicy) -> (Self, Vec<TcpListener>) {
        let (mut voters, mut listeners) = (Vec::new(), Vec::new());
        for id in 1..=n {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            voters.push(Voter {
                id: NodeId(id),
                directory_id: Uuid::ZERO,
                host: "127.0.0.1".into(),
                port,
            });
            listeners.push(listener);
        }
        (Self { dirs: tempfile::tempdir().unwrap(), voters, policy }, listeners)
    }

    fn settings(&self, id: i32) -> QuorumSettings {
        QuorumSettings {
            cluster_id: "cluster".into(),
            node_id: NodeId(id),
            directory_id: Uuid([id as u8 + 100; 16]),
            voters: self.voters.clone(),
            dynamic: None,
            listener_name: "CONTROLLER".into(),
            timeouts: timeouts(),
            log: self.policy,
            dial: Arc::new(TcpDial),
        }
    }

    fn dir(&self, id: i32) -> std::path::PathBuf {
        let dir = self.dirs.path().join(id.to_string());
        let _ = std::fs::create_dir(&dir);
        dir
    }

    async fn open(&self, id: i32) -> Result<Quorum, QuorumError> {
        let (dir, _) = LogDir::open(Arc::new(OsFs), &self.dir(id), files()).unwrap();
        Quorum::start(self.settings(id), dir, Arc::new(OsClock::new())).await
    }

    async fn start(&self, id: i32, listener: TcpListener) -> Member {
        let quorum = Arc::new(self.open(id).await.unwrap());
        let listener = serve(listener, quorum.routes(), Arc::new(|_, _| {})).unwrap();
        Member { quorum, listener, controller: None }
    }

    async fn restart(&self, id: i32) -> Member {
        let voter = self.voters.iter().find(|v| v.id == NodeId(id)).unwrap();
        let listener = TcpListener::bind(voter.authority()).await.unwrap();
        self.start(id, listener).await
    }

    fn observer(&self, id: i32) -> ObserverSettings {
        ObserverSettings {
            cluster_id: "cluster".into(),
            node_id: NodeId(id),
            directory_id: Uuid([id as u8 + 100; 16]),
            voters: self.voters.clone(),
            bootstrap: Vec::new(),
            dir: None,
            dial: Arc::new(TcpDial),
            timeouts: timeouts(),
        }
    }
}

fn files() -> Arc<FileCache> {
    Arc::new(FileCache::new(64))
}

/// The index of the member that leads and is ready, and its epoch.
async fn leader(members: &[Member]) -> (usize, i32) {
    timeout(LONG, async {
        loop {
            for (n, m) in members.iter().enumerate() {
                let l = *m.quorum.leadership().borrow();
                if l.is_self {
                    return (n, l.epoch);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a leader is elected")
}

/// Commits through whoever leads.
async fn commit(members: &[Member], records: &[Record]) -> i64 {
    timeout(LONG, async {
        loop {
            let (n, epoch) = leader(members).await;
            match members[n].quorum.propose(epoch, records).await {
                Ok(position) => return position.offset,
                Err(ProposeError::NotLeader { .. } | ProposeError::Superseded) => {}
                Err(e) => panic!("{e}"),
            }
        }
    })
    .await
    .expect("the records are committed")
}

async fn reaches(source: &dyn MetadataSource, offset: i64) {
    let mut subscription = source.subscribe();
    let mut at = subscription.image.position.offset;
    while at < offset {
        let next = timeout(LONG, subscription.updates.recv()).await;
        at = next.expect("news in time").expect("the source lives").image.position.offset;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_leads_at_once_and_remembers() {
    let (cluster, mut listeners) = Cluster::of(1, LogPolicy::default()).await;
    let members = [cluster.start(1, listeners.remove(0)).await];
    let (_, epoch) = leader(&members).await;
    let mut seen = members[0].quorum.subscribe();
    for n in 0..20 {
        commit(&members, &set("t", &n.to_string())).await;
    }
    let stale = members[0].quorum.propose(epoch + 1, &set("t", "x")).await;
    assert!(matches!(stale, Err(ProposeError::NotLeader { .. })), "{stale:?}");
    for n in 0..20 {
        let update = seen.updates.recv().await.unwrap();
        assert_eq!(config(&update.image, "t").as_deref(), Some(&*n.to_string()));
    }
    let described = members[0].quorum.describe();
    assert_eq!((described.leader, described.epoch), (Some(NodeId(1)), epoch));
    assert_eq!(described.high_watermark, described.voters[0].log_end_offset);
    let image = members[0].quorum.image();
    // A copy of the running member's files is what a crash would leave.
    std::fs::create_dir_all(cluster.dirs.path().join("crashed/__cluster_metadata-0")).unwrap();
    for file in std::fs::read_dir(cluster.dir(1).join("__cluster_metadata-0")).unwrap() {
        let file = file.unwrap();
        let to = cluster.dirs.path().join("crashed/__cluster_metadata-0").join(file.file_name());
        std::fs::copy(file.path(), to).unwrap();
    }
    for m in members {
        m.stop().await;
    }
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    std::fs::rename(cluster.dirs.path().join("crashed"), cluster.dir(1)).unwrap();

    let members = [cluster.restart(1).await];
    // A broker must not act on what this image lacks: its log says that there was more.
    assert!(members[0].quorum.high_watermark() > image.position.offset);
    let (_, later) = leader(&members).await;
    assert!(later > epoch, "a restart begins a new epoch");
    assert_eq!(members[0].config("t").as_deref(), Some("19"), "what was committed is there");
    assert_eq!(members[0].quorum.image().configs(), image.configs());
    for m in members {
        m.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_survive_the_loss_of_any_one() {
    let (cluster, listeners) = Cluster::of(3, LogPolicy::default()).await;
    let mut members = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        members.push(cluster.start(id, listener).await);
    }
    commit(&members, &set("a", "1")).await;
    let (n, epoch) = leader(&members).await;
    let lost = members.remove(n);
    let id = lost.quorum.describe().leader.unwrap();
    lost.kill().await;
    let offset = commit(&members, &set("b", "2")).await;
    let (_, later) = leader(&members).await;
    assert!(later > epoch);
    members.push(cluster.restart(id.0).await);
    for m in &members {
        reaches(&*m.quorum, offset).await;
        assert_eq!(m.config("a").as_deref(), Some("1"));
        assert_eq!(m.config("b").as_deref(), Some("2"));
    }
    let offset = commit(&members, &set("c", "3")).await;
    for m in &members {
        reaches(&*m.quorum, offset).await;
    }
    let (n, _) = leader(&members).await;
    let described = timeout(LONG, async {
        loop {
            let d = members[n].quorum.describe();
            if d.voters.iter().all(|v| v.log_end_offset == d.high_watermark) {
                return d;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let described = described.await.expect("all followers are known to have all");
    assert!(described.voters.iter().all(|v| v.last_fetch_ms > 0), "{described:?}");
    for m in members {
        m.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_far_behind_gets_a_checkpoint() {
    let policy = LogPolicy { checkpoint_bytes: 2000, entries_kept: 2, ..LogPolicy::default() };
    let (cluster, mut listeners) = Cluster::of(3, policy).await;
    let late = listeners.pop().unwrap();
    let mut members = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        members.push(cluster.start(id, listener).await);
    }
    let mut offset = 0;
    for n in 0..80 {
        offset = commit(&members, &set(&format!("t{}", n % 7), &n.to_string())).await;
    }
    let checkpoint = |id| checkpoints(&cluster.dir(id));
    assert!(!checkpoint(1).is_empty() && checkpoint(1).len() <= 3, "{:?}", checkpoint(1));

    members.push(cluster.start(3, late).await);
    let observer = Observer::start(cluster.observer(9)).unwrap();
    reaches(&*members[2].quorum, offset).await;
    reaches(&observer, offset).await;
    assert!(!checkpoint(3).is_empty(), "the late voter was sent one");
    let image = members[0].quorum.image();
    assert_eq!(members[2].quorum.image().configs(), image.configs());
    assert_eq!(observer.image().configs(), image.configs());

    offset = commit(&members, &set("t1", "after")).await;
    reaches(&observer, offset).await;
    reaches(&*members[2].quorum, offset).await;
    observer.shutdown().await;
    let third = members.pop().unwrap();
    third.stop().await;
    members.push(cluster.restart(3).await);
    reaches(&*members[2].quorum, offset).await;
    assert_eq!(members[2].config("t1").as_deref(), Some("after"));
    for m in members {
        m.stop().await;
    }
}

fn checkpoints(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("__cluster_metadata-0")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.ends_with(".checkpoint")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_follow_the_leader_and_are_described() {
    let (cluster, listeners) = Cluster::of(3, LogPolicy::default()).await;
    let mut members = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        members.push(cluster.start(id, listener).await);
    }
    let observer = Observer::start(cluster.observer(7)).unwrap();
    let stranger = ObserverSettings { cluster_id: "other".into(), ..cluster.observer(8) };
    let stranger = Observer::start(stranger).unwrap();
    let offset = commit(&members, &set("a", "1")).await;
    reaches(&observer, offset).await;
    let (n, _) = leader(&members).await;
    let listed = timeout(LONG, async {
        loop {
            let d = members[n].quorum.describe();
            if let Some(o) = d.observers.iter().find(|o| o.log_end_offset == offset + 1) {
                return o.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let listed = listed.await.expect("the observer reports");
    assert_eq!((listed.id, listed.directory_id), (NodeId(7), Uuid([107; 16])));
    assert!(listed.last_caught_up_ms > 0);

    members.remove(n).kill().await;
    let offset = commit(&members, &set("a", "2")).await;
    reaches(&observer, offset).await;
    assert_eq!(config(&observer.image(), "a").as_deref(), Some("2"));
    assert_eq!(stranger.image().position.offset, -1, "another cluster learns nothing");
    observer.shutdown().await;
    stranger.shutdown().await;
    for m in members {
        m.stop().await;
    }
}

/// Whoever acts on what is missing from an image, as a broker that looks for stray logs, must know
/// that nothing committed is missing: only a leader can say that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_leader_says_what_is_committed() {
    let (cluster, listeners) = Cluster::of(3, LogPolicy::default()).await;
    let mut members = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        members.push(cluster.start(id, listener).await);
    }
    let offset = commit(&members, &set("a", "1")).await;
    for m in &members {
        reaches(&*m.quorum, offset).await;
    }
    let (n, _) = leader(&members).await;
    members.remove(n).kill().await;
    members.remove(0).kill().await;
    let lost = i32::try_from(n).unwrap() + 1;
    // It may have been handed the lead for a moment.
    let mut led = members[0].quorum.leadership();
    timeout(LONG, led.wait_for(|l| !l.is_self)).await.expect("it resigns").unwrap();
    let observer = Observer::start(cluster.observer(7)).unwrap();
    reaches(&observer, offset).await;
    assert_eq!(observer.high_watermark(), i64::MAX, "it follows one that may lag behind");
    members.push(cluster.restart(lost).await);
    let told = timeout(LONG, async {
        while observer.high_watermark() == i64::MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    told.await.expect("a leader is elected and followed");
    assert!(observer.high_watermark() > offset);
    observer.shutdown().await;
    for m in members {
        m.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_remembers_its_image_without_any_controller() {
    let (cluster, mut listeners) = Cluster::of(1, LogPolicy::default()).await;
    let mut members = vec![cluster.start(1, listeners.remove(0)).await];
    let observer = || {
        let (dir, _) = LogDir::open(Arc::new(OsFs), &cluster.dir(7), files()).unwrap();
        let settings = ObserverSettings { dir: Some(dir), ..cluster.observer(7) };
        Observer::start(settings).unwrap()
    };
    let first = observer();
    let offset = commit(&members, &set("a", "1")).await;
    reaches(&first, offset).await;
    first.shutdown().await;
    drop(first);
    members.remove(0).stop().await;

    let second = observer();
    reaches(&second, offset).await;
    assert_eq!(config(&second.image(), "a").as_deref(), Some("1"));
    assert_eq!(second.high_watermark(), i64::MAX, "nobody has said what is committed");
    members.push(cluster.restart(1).await);
    let offset = commit(&members, &set("a", "2")).await;
    reaches(&second, offset).await;
    assert_eq!(config(&second.image(), "a").as_deref(), Some("2"));
    assert!(second.high_watermark() < i64::MAX);
    second.shutdown().await;
    members.remove(0).stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_voters_than_the_log_was_begun_with_are_refused() {
    let (mut cluster, mut listeners) = Cluster::of(1, LogPolicy::default()).await;
    let member = cluster.start(1, listeners.remove(0)).await;
    leader(std::slice::from_ref(&member)).await;
    member.stop().await;
    let known = cluster.voters[0].clone();
    cluster.voters.push(Voter { id: NodeId(2), ..known.clone() });
    let refused = cluster.open(1).await.map(|_| ());
    assert!(matches!(refused, Err(QuorumError::Settings(_))), "{refused:?}");
    cluster.voters = vec![Voter { id: NodeId(3), ..known }];
    let refused = cluster.open(1).await.map(|_| ());
    assert!(matches!(refused, Err(QuorumError::Settings(_))), "{refused:?}");
}

#[derive(Debug)]
struct AnyConfig;

impl ConfigSchema for AnyConfig {
    fn is_list(&self, _: ResourceType, _: &str) -> bool {
        false
    }
    fn default_value(&self, _: ResourceType, _: &str) -> Option<String> {
        None
    }
    fn validate(&self, _: &ConfigResource, _: &Properties, _: &Properties) -> Result<(), String> {
        Ok(())
    }
    fn effective_topic(&self, _: &Properties, _: &Properties) -> Vec<EffectiveConfig> {
        Vec::new()
    }
}

fn core(id: i32, cluster: &Cluster) -> Core {
    Core::new(Settings {
        node: NodeId(id),
        cluster_id: "cluster".into(),
        controllers: cluster.voters.iter().map(|v| v.id).collect(),
        session_timeout_ms: 9000,
        rebalance_interval_ms: Some(300_000),
        unclean_interval_ms: 300_000,
        defaults: TopicDefaults {
            num_partitions: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
            unclean_leader_election: false,
        },
        bootstrap: vec![Record::FeatureLevel { name: "metadata.version".into(), level: 30 }],
        schema: Arc::new(AnyConfig),
        seed: [id as u8; 32],
    })
}

impl Cluster {
    async fn controller(&self, id: i32, listener: TcpListener) -> Member {
        let quorum = Arc::new(self.open(id).await.unwrap());
        let clock = Arc::new(OsClock::new());
        let (driver, handle) = ControllerDriver::start(core(id, self), Arc::clone(&quorum), clock);
        let routes = service_driver::add_to(quorum.routes(), handle.clone());
        let listener = serve(listener, routes, Arc::new(|_, _| {})).unwrap();
        Member { quorum, listener, controller: Some((driver, handle)) }
    }
}

fn broker(incarnation: u8, port: u16) -> BrokerSettings {
    BrokerSettings {
        node_id: NodeId(1),
        cluster_id: "cluster".into(),
        incarnation: Uuid([incarnation; 16]),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "127.0.0.1".into(),
            port,
            security_protocol: 0,
        }],
        features: vec![("metadata.version".into(), VersionRange { min: 7, max: 30 })],
        rack: None,
        log_dirs: vec![Uuid([200; 16])],
        previous_broker_epoch: -1,
        heartbeat_interval: Duration::from_millis(500),
        registration_timeout: LONG,
    }
}

fn create(name: &str) -> SubmitCommand {
    SubmitCommand::CreateTopics(pb::CreateTopics {
        topics: vec![pb::CreatableTopic {
            name: name.into(),
            num_partitions: 3,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: Vec::new(),
        }],
        validate_only: false,
        describable: Vec::new(),
    })
}

async fn is(life: &BrokerLifecycle, state: BrokerState) {
    let mut states = life.state();
    let reached = timeout(LONG, states.wait_for(|s| *s == state)).await;
    reached.expect("the state is reached").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_lives_its_life() {
    let (cluster, mut listeners) = Cluster::of(1, LogPolicy::default()).await;
    let member = cluster.controller(1, listeners.remove(0)).await;
    let source: Arc<dyn MetadataSource> = Arc::clone(&member.quorum) as _;
    let client = ControllerClient::new(Arc::clone(&source), timeouts());

    let (published, at) = tokio::sync::watch::channel(-1);
    let mut subscription = source.subscribe();
    let publishing = tokio::spawn(async move {
        while let Some(update) = subscription.updates.recv().await {
            published.send_replace(update.image.position.offset);
        }
    });
    let life = BrokerLifecycle::start(broker(50, 9), client.clone(), at);
    is(&life, BrokerState::Recovery).await;
    let image = source.image();
    assert!(image.brokers().get(NodeId(1)).unwrap().fenced);
    assert_eq!(image.brokers().get(NodeId(1)).unwrap().epoch, life.epoch());
    life.set_ready();
    is(&life, BrokerState::Running).await;

    let reply = client.submit(create("orders"), LONG).await.unwrap();
    assert_eq!(reply.error, 0, "{reply:?}");
    let Some(SubmitBody::CreateTopics(body)) = reply.reply else { panic!("{:?}", reply.reply) };
    assert_eq!(body.topics[0].error, 0, "{body:?}");
    assert!(source.image().position.offset >= reply.offset);
    let image = source.image();
    let topic = image.topics().by_name("orders").expect("the topic is in the image");
    assert_eq!(topic.partition_count(), 3);
    assert_eq!(topic.partition(0).unwrap().leader, Some(NodeId(1)));

    let again = client.submit(create("orders"), LONG).await.unwrap();
    let Some(SubmitBody::CreateTopics(body)) = again.reply else { panic!("{:?}", again.reply) };
    assert_eq!(body.topics[0].error, 36, "TOPIC_ALREADY_EXISTS");

    life.begin_controlled_shutdown();
    is(&life, BrokerState::ShuttingDown).await;
    life.close().await;
    publishing.abort();
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_find_the_active_controller() {
    let (cluster, listeners) = Cluster::of(3, LogPolicy::default()).await;
    let mut members = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        members.push(cluster.controller(id, listener).await);
    }
    let observer = Arc::new(Observer::start(cluster.observer(11)).unwrap());
    let source: Arc<dyn MetadataSource> = Arc::clone(&observer) as _;
    let client = ControllerClient::new(source, timeouts());
    let (published, at) = tokio::sync::watch::channel(-1);
    let mut subscription = observer.subscribe();
    let publishing = tokio::spawn(async move {
        while let Some(update) = subscription.updates.recv().await {
            published.send_replace(update.image.position.offset);
        }
    });
    let life = BrokerLifecycle::start(broker(60, 9), client.clone(), at);
    life.set_ready();
    is(&life, BrokerState::Running).await;

    let (n, _) = leader(&members).await;
    members.remove(n).stop().await;
    let reply = client.submit(create("after"), LONG).await.unwrap();
    assert_eq!(reply.error, 0, "{reply:?}");

    life.close().await;
    publishing.abort();
    observer.shutdown().await;
    for m in members {
        m.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_broker_is_fenced_before_its_session_ends() {
    let (cluster, mut listeners) = Cluster::of(1, LogPolicy::default()).await;
    let member = cluster.controller(1, listeners.remove(0)).await;
    let source: Arc<dyn MetadataSource> = Arc::clone(&member.quorum) as _;
    let client = ControllerClient::new(Arc::clone(&source), timeouts());
    let (published, at) = tokio::sync::watch::channel(i64::MAX);
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let life = BrokerLifecycle::start(broker(70, port), client, at);
    life.set_ready();
    is(&life, BrokerState::Running).await;
    let mut seen = source.subscribe();
    drop(life);
    let fenced = |image: &Image| image.brokers().get(NodeId(1)).is_some_and(|b| b.fenced);
    let noticed = timeout(Duration::from_secs(8), async {
        while !fenced(&seen.updates.recv().await.unwrap().image) {}
    });
    noticed.await.expect("sooner than the session's end");
    drop(published);
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_a_quorum_has_nobody_to_hand_over_to() {
    let (cluster, listeners) = Cluster::of(3, LogPolicy::default()).await;
    let mut members = Vec::new();
    for (listener, id) in listeners.into_iter().zip(1..) {
        members.push(cluster.controller(id, listener).await);
    }
    let (n, _) = leader(&members).await;
    let last = members.remove(n);
    let caller = last.quorum.caller();
    assert!(!caller.majority_gone(&cluster.voters).await);
    members.remove(0).kill().await;
    assert!(!caller.majority_gone(&cluster.voters).await, "two of three are a quorum");
    members.remove(0).kill().await;
    assert!(caller.majority_gone(&cluster.voters).await);
    assert!(!last.quorum.hand_over().await, "Raft's leader it is still");
    last.stop().await;
}
