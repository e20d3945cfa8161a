//! Voters that change (KIP-853): a quorum grows from one node, controllers join by themselves, a
//! replaced disk has no vote, a voter moves to another address, voters are removed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use vltava::{
    base::{NodeId, Uuid},
    log::{FileCache, LogDir},
    metadata::{ConfigResource, Record},
    os::{OsClock, OsFs},
    quorum::{
        Address, ControllerEndpoint, ControllerListener, DynamicVoters, LogPolicy, MetadataSource,
        Observer, ObserverSettings, ProposeError, Quorum, QuorumDescription, QuorumSettings,
        QuorumTimeouts, TcpDial, Voter, VoterChangeError, VoterKey, serve,
    },
};

const LONG: Duration = Duration::from_secs(30);

fn timeouts() -> QuorumTimeouts {
    QuorumTimeouts {
        election: Duration::from_millis(1000),
        fetch: Duration::from_millis(2000),
        request: Duration::from_millis(2000),
        retry_backoff: Duration::from_millis(10),
    }
}

struct Member {
    quorum: Arc<Quorum>,
    listener: ControllerListener,
}

/// Controllers by id, and where they are.
struct Cluster {
    dirs: tempfile::TempDir,
    ports: BTreeMap<i32, u16>,
    auto_join: bool,
    members: BTreeMap<i32, Member>,
}

fn key(id: i32) -> VoterKey {
    VoterKey { id: NodeId(id), directory_id: Uuid([id as u8 + 100; 16]) }
}

impl Cluster {
    fn new(auto_join: bool) -> Self {
        let dirs = tempfile::tempdir().unwrap();
        Self { dirs, ports: BTreeMap::new(), auto_join, members: BTreeMap::new() }
    }

    fn voter(&self, id: i32) -> Voter {
        let VoterKey { id: node, directory_id } = key(id);
        Voter { id: node, directory_id, host: "127.0.0.1".into(), port: self.ports[&id] }
    }

    fn address(&self, id: i32) -> Address {
        Address { host: "127.0.0.1".into(), port: self.ports[&id] }
    }

    fn endpoint(&self, id: i32) -> Vec<ControllerEndpoint> {
        let Address { host, port } = self.address(id);
        vec![ControllerEndpoint { name: "CONTROLLER".into(), host, port }]
    }

    async fn bind(&mut self, id: i32) -> TcpListener {
        let port = self.ports.get(&id).copied().unwrap_or(0);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        self.ports.insert(id, listener.local_addr().unwrap().port());
        listener
    }

    /// Starts `id` on its disk with the given directory id; `first` are the voters that formatting
    /// wrote down.
    async fn start(&mut self, id: i32, directory: Uuid, first: &[i32], listener: TcpListener) {
        let path = self.dirs.path().join(format!("{id}-{directory}"));
        let _ = std::fs::create_dir(&path);
        let (dir, _) = LogDir::open(Arc::new(OsFs), &path, Arc::new(FileCache::new(64))).unwrap();
        let dynamic = DynamicVoters {
            bootstrap: self.ports.keys().filter(|n| **n != id).map(|n| self.address(*n)).collect(),
            advertised: self.address(id),
            auto_join: self.auto_join,
        };
        let settings = QuorumSettings {
            cluster_id: "cluster".into(),
            node_id: NodeId(id),
            directory_id: directory,
            voters: first.iter().map(|id| self.voter(*id)).collect(),
            dynamic: Some(dynamic),
            listener_name: "CONTROLLER".into(),
            timeouts: timeouts(),
            log: LogPolicy::default(),
            dial: Arc::new(TcpDial),
        };
        let quorum = Quorum::start(settings, dir, Arc::new(OsClock::new())).await.unwrap();
        let quorum = Arc::new(quorum);
        let listener = serve(listener, quorum.routes(), Arc::new(|_, _| {})).unwrap();
        self.members.insert(id, Member { quorum, listener });
    }

    /// Starts `id` with its own disk.
    async fn up(&mut self, id: i32, first: &[i32]) {
        let listener = self.bind(id).await;
        self.start(id, key(id).directory_id, first, listener).await;
    }

    async fn down(&mut self, id: i32) {
        let member = self.members.remove(&id).unwrap();
        member.quorum.shutdown().await;
        member.listener.shutdown().await;
    }

    /// As the loss of a process: peers see its connections break first.
    async fn kill(&mut self, id: i32) {
        let member = self.members.remove(&id).unwrap();
        member.listener.shutdown().await;
        member.quorum.shutdown().await;
    }

    async fn all_down(mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }

    fn leads(&self) -> Option<i32> {
        self.members.iter().find(|(_, m)| m.quorum.leadership().borrow().is_self).map(|(id, _)| *id)
    }

    async fn leader(&self) -> (i32, Arc<Quorum>) {
        let found = timeout(LONG, async {
            loop {
                if let Some(id) = self.leads() {
                    return (id, Arc::clone(&self.members[&id].quorum));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        found.await.expect("a leader is elected")
    }

    async fn commit(&self, value: &str) -> i64 {
        let record = Record::Config {
            resource: ConfigResource::topic("t"),
            key: "k".into(),
            value: Some(value.into()),
        };
        let committed = timeout(LONG, async {
            loop {
                let (_, leader) = self.leader().await;
                let epoch = leader.leadership().borrow().epoch;
                match leader.propose(epoch, std::slice::from_ref(&record)).await {
                    Ok(at) => return at.offset,
                    Err(ProposeError::NotLeader { .. } | ProposeError::Superseded) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        });
        committed.await.expect("the record is committed")
    }

    /// Waits until what the leader says of the quorum is as it should be.
    async fn described(&self, want: impl Fn(&QuorumDescription) -> bool) -> QuorumDescription {
        let found = timeout(LONG, async {
            loop {
                let (_, leader) = self.leader().await;
                let described = leader.describe();
                if want(&described) {
                    return described;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("{:?}", self.leader().await.1.describe()),
        }
    }

    async fn voters_are(&self, ids: &[i32]) {
        let want = |d: &QuorumDescription| d.voters.iter().map(|v| v.id.0).eq(ids.iter().copied());
        self.described(want).await;
    }
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
async fn a_quorum_grows_from_one_node_and_shrinks() {
    let mut c = Cluster::new(false);
    c.up(1, &[1]).await;
    c.commit("alone").await;
    c.up(2, &[]).await;
    c.up(3, &[]).await;
    let seen = c.described(|d| d.observers.len() == 2 && d.observers[1].log_end_offset > 1).await;
    let observers: Vec<_> = seen.observers.iter().map(|o| (o.id, o.directory_id)).collect();
    let keys = [key(2), key(3)].map(|k| (k.id, k.directory_id));
    assert_eq!(observers, keys, "they keep the log, and have no vote");

    let observer = Observer::start(ObserverSettings {
        cluster_id: "cluster".into(),
        node_id: NodeId(9),
        directory_id: Uuid([209; 16]),
        voters: Vec::new(),
        bootstrap: vec![c.address(3)],
        dir: None,
        dial: Arc::new(TcpDial),
        timeouts: timeouts(),
    });
    let observer = observer.unwrap();
    let (_, one) = c.leader().await;
    let two = Arc::clone(&c.members[&2].quorum);
    let elsewhere = two.add_voter(key(3), &c.endpoint(3), LONG).await;
    assert_eq!(elsewhere, Err(VoterChangeError::NotLeader { hint: Some(NodeId(1)) }));
    one.add_voter(key(2), &c.endpoint(2), LONG).await.unwrap();
    one.add_voter(key(3), &c.endpoint(3), LONG).await.unwrap();
    c.voters_are(&[1, 2, 3]).await;
    let again = one.add_voter(key(2), &c.endpoint(2), LONG).await;
    assert_eq!(again, Err(VoterChangeError::Duplicate(key(2))));
    let nobody = VoterKey { directory_id: Uuid([77; 16]), ..key(2) };
    let removed = one.remove_voter(nobody, LONG).await;
    assert_eq!(removed, Err(VoterChangeError::NotFound(nobody)));
    let other = ControllerEndpoint { name: "OTHER".into(), ..c.endpoint(2).remove(0) };
    let unnamed = one.update_voter(key(2), &[other], LONG).await;
    assert!(matches!(unnamed, Err(VoterChangeError::Invalid(_))), "{unnamed:?}");
    let unreachable = ControllerEndpoint { port: 1, ..c.endpoint(2).remove(0) };
    let silent = one.add_voter(key(4), &[unreachable], Duration::from_millis(500)).await;
    assert!(matches!(silent, Err(VoterChangeError::TimedOut(_))), "{silent:?}");

    drop((one, two));
    c.kill(1).await;
    let offset = c.commit("without 1").await;
    reaches(&observer, offset).await;
    let (_, leader) = c.leader().await;
    leader.remove_voter(key(1), LONG).await.unwrap();
    c.voters_are(&[2, 3]).await;
    let (id, leader) = c.leader().await;
    leader.remove_voter(key(id), LONG).await.unwrap();
    let rest = 5 - id;
    drop(leader);
    c.voters_are(&[rest]).await;
    let offset = c.commit("one is left").await;
    let handed_over = timeout(LONG, async {
        while c.leads() != Some(rest) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    handed_over.await.expect("the leader that was removed hands over");
    reaches(&observer, offset).await;
    reaches(&*c.members[&id].quorum, offset).await;
    observer.shutdown().await;
    c.all_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_join_by_themselves() {
    let mut c = Cluster::new(true);
    c.up(1, &[1]).await;
    c.up(2, &[]).await;
    c.up(3, &[]).await;
    c.voters_are(&[1, 2, 3]).await;
    c.kill(1).await;
    let offset = c.commit("after").await;
    c.up(1, &[1]).await;
    reaches(&*c.members[&1].quorum, offset).await;
    c.all_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_disk_has_no_vote() {
    let mut c = Cluster::new(false);
    let all = [1, 2, 3];
    let mut listeners = Vec::new();
    for id in all {
        listeners.push((id, c.bind(id).await));
    }
    for (id, listener) in listeners {
        c.start(id, key(id).directory_id, &all, listener).await;
    }
    let offset = c.commit("kept").await;
    let (leader, _) = c.leader().await;
    let (replaced, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    for id in all {
        reaches(&*c.members[&id].quorum, offset).await;
    }
    c.kill(replaced).await;
    c.kill(third).await;
    // The same list of first voters, as if it were formatted again: even so it has another disk.
    let listener = c.bind(replaced).await;
    let fresh = Uuid([replaced as u8 + 50; 16]);
    c.start(replaced, fresh, &all, listener).await;
    let (_, lonely) = (leader, Arc::clone(&c.members[&leader].quorum));
    let resigned = timeout(LONG, async {
        let mut leadership = lonely.leadership();
        leadership.wait_for(|l| l.leader.is_none()).await.map(|_| ()).unwrap();
    });
    resigned.await.expect("a majority of the old disks is gone");
    tokio::time::sleep(timeouts().fetch * 3).await;
    assert_eq!(c.leads(), None, "the new disk elects nobody");
    assert_eq!(lonely.describe().leader, None);
    drop(lonely);

    c.up(third, &all).await;
    let (_, quorum) = c.leader().await;
    quorum.remove_voter(key(replaced), LONG).await.unwrap();
    let new = VoterKey { directory_id: fresh, ..key(replaced) };
    let added = timeout(LONG, async {
        loop {
            let (_, quorum) = c.leader().await;
            match quorum.add_voter(new, &c.endpoint(replaced), LONG).await {
                Err(VoterChangeError::TimedOut(_) | VoterChangeError::NotLeader { .. }) => {}
                done => return done,
            }
        }
    });
    added.await.unwrap().unwrap();
    c.voters_are(&all).await;
    let offset = c.commit("with the new disk").await;
    reaches(&*c.members[&replaced].quorum, offset).await;
    c.all_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_moved_is_found_again() {
    let mut c = Cluster::new(false);
    c.up(1, &[1]).await;
    c.up(2, &[]).await;
    let (_, one) = c.leader().await;
    one.add_voter(key(2), &c.endpoint(2), LONG).await.unwrap();
    c.up(3, &[]).await;
    one.add_voter(key(3), &c.endpoint(3), LONG).await.unwrap();
    drop(one);
    let (leader, _) = c.leader().await;
    let moved = leader % 3 + 1;
    c.down(moved).await;
    let old = c.ports.remove(&moved).unwrap();
    // So that the old port is not given out again.
    let _taken = TcpListener::bind(("127.0.0.1", old)).await.unwrap();
    c.up(moved, &[]).await;
    let port = c.ports[&moved];
    c.described(|d| d.endpoints.iter().any(|v| v.id.0 == moved && v.port == port)).await;
    let offset = c.commit("moved").await;
    reaches(&*c.members[&moved].quorum, offset).await;
    c.all_down().await;
}
