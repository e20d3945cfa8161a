//! A share group through kills and a freeze of the leader: members accept, give back, turn away, forget and vanish,
//! nodes are killed and come back, and the history checker has the last word (its point 11).

mod share_nodes;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use share_nodes::{GROUP, Node, Raw};
use vltava::{
    base::{ErrorCode, Uuid},
    histcheck::{Checker, Point, Verdict},
    testing::batches::Batch,
    wire::{
        api::{
            metadata::{MetadataRequest, MetadataRequestTopic},
            produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
            share_fetch::{
                AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
                ShareAcknowledgeRequest, ShareFetchPartition, ShareFetchRequest, ShareFetchTopic,
            },
        },
        records::Records,
    },
};

const TOPIC: &str = "orders";
const MEMBERS: u64 = 4;
const KILLS: u64 = 3;
const LOCK_MS: u64 = 1000;
const ANSWER: Duration = Duration::from_secs(2);
/// Longer than the session of a broker and than members wait, so that another leads meanwhile.
const FREEZE: Duration = Duration::from_secs(8);

/// Everything goes on; nothing is written, and all that is handed out is accepted; the end.
const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const OVER: u8 = 2;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What all tasks see.
struct World {
    began: Instant,
    ports: Vec<u16>,
    topic: Uuid,
    lines: Mutex<Vec<String>>,
    phase: AtomicU8,
    /// When something was handed out last.
    handed_out: AtomicU64,
    /// The end of the log, as far as it was acknowledged.
    end: AtomicI64,
}

impl World {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    fn event(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }

    fn is(&self, phase: u8) -> bool {
        self.phase.load(SeqCst) == phase
    }

    /// The place of the leader, as some node tells.
    async fn leader(&self) -> Option<usize> {
        let topic = MetadataRequestTopic { name: Some(TOPIC.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        for port in &self.ports {
            let Ok(mut raw) = Raw::dial(*port, ANSWER).await else { continue };
            let Some(answer) = raw.try_ask(&request, 12).await else { continue };
            let partition = answer.topics.first().and_then(|t| t.partitions.first());
            let leader = partition.and_then(|p| usize::try_from(p.leader_id - 1).ok());
            if leader.is_some() {
                return leader;
            }
        }
        None
    }

    async fn dial_leader(&self) -> Option<Raw> {
        Raw::dial(self.ports[self.leader().await?], ANSWER).await.ok()
    }
}

/// Writes five records at a time.
async fn write(world: Arc<World>) {
    let (mut raw, mut n) = (None, 0);
    while world.is(RUNNING) {
        tokio::time::sleep(Duration::from_millis(30)).await;
        if raw.is_none() {
            raw = world.dial_leader().await;
        }
        let Some(connection) = &mut raw else { continue };
        let data = PartitionProduceData {
            index: 0,
            records: Records::Bytes(Batch::of(5, 20, i64::try_from(n).unwrap()).bytes().into()),
        };
        let topic = TopicProduceData {
            name: TOPIC.to_owned(),
            partition_data: vec![data],
            ..Default::default()
        };
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 3000,
            topic_data: vec![topic],
        };
        let began = world.now();
        let answer = connection.try_ask(&request, 12).await;
        let ended = world.now();
        let answer = answer.map(|mut a| a.responses.remove(0).partition_responses.remove(0));
        let base = answer.filter(|a| a.error_code == ErrorCode::None).map(|a| a.base_offset);
        for at in 0..5_u64 {
            let outcome = match base {
                Some(base) => format!(r#""ok":{}"#, base + i64::try_from(at).unwrap()),
                None => r#""info":"not answered""#.to_owned(),
            };
            let v = n + at;
            world.event(format!(
                r#"{{"send":{{"p":"w","n":{v},"tp":["{TOPIC}",0],"v":"w/{v}","t":[{began},{ended}],{outcome}}}}}"#
            ));
        }
        n += 5;
        match base {
            Some(base) => _ = world.end.fetch_max(base + 5, SeqCst),
            None => raw = None,
        }
    }
}

/// Records of one answer: first, last.
type Given = Vec<(i64, i64)>;

/// One life of a member: a connection and a share session.
struct Life<'a> {
    world: &'a World,
    raw: Raw,
    name: String,
    epoch: i32,
}

impl Life<'_> {
    /// Why it ended is told by the last request: from then on it may have lost what it had.
    fn left(&self, t: u64) {
        let name = &self.name;
        self.world.event(format!(r#"{{"left":{{"group":"{GROUP}","m":"{name}","t":{t}}}}}"#));
    }

    /// Acquires records; `None`: the life is over.
    async fn fetch(&mut self, max_records: i32) -> Option<Given> {
        let p = ShareFetchPartition { partition_index: 0, acknowledgement_batches: vec![] };
        let topics = vec![ShareFetchTopic { topic_id: self.world.topic, partitions: vec![p] }];
        let request = ShareFetchRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.name.clone()),
            share_session_epoch: self.epoch,
            max_wait_ms: 300,
            min_bytes: 1,
            max_records,
            batch_size: max_records,
            topics,
            ..Default::default()
        };
        self.epoch += 1;
        let (world, name) = (self.world, &self.name);
        let head = format!(r#""group":"{GROUP}","m":"{name}","tp":["{TOPIC}",0]"#);
        let began = world.now();
        let answer = self.raw.try_ask(&request, 2).await;
        let ended = world.now();
        let Some(answer) = answer else {
            // A broken connection: the node is dead. Silence: it may still do what it was asked for.
            let waited = Duration::from_micros(ended - began);
            let until = ended + if waited < ANSWER { 0 } else { 60_000_000 };
            world.event(format!(r#"{{"unheard":{{{head},"t":[{began},{until}]}}}}"#));
            self.left(began);
            return None;
        };
        let lock = answer.acquisition_lock_timeout_ms;
        let parts: Vec<_> = answer.responses.into_iter().flat_map(|t| t.partitions).collect();
        let mut given = Given::new();
        for a in parts.iter().flat_map(|p| &p.acquired_records) {
            let (first, last, n) = (a.first_offset, a.last_offset, a.delivery_count);
            world.event(format!(
                r#"{{"acquired":{{{head},"t":[{began},{ended}],"first":{first},"last":{last},"n":{n},"lock_ms":{lock}}}}}"#
            ));
            world.handed_out.fetch_max(ended, SeqCst);
            given.push((first, last));
        }
        let none = ErrorCode::None;
        if answer.error_code != none || parts.iter().any(|p| p.error_code != none) {
            self.left(began);
            return None;
        }
        Some(given)
    }

    /// Says one thing of records in a row; `None`: the life is over.
    async fn say(&mut self, (first, last): (i64, i64), kind: &str) -> Option<()> {
        let id = ["gap", "accept", "release", "reject", "renew"].iter().position(|k| *k == kind);
        let batch = AcknowledgementBatch {
            first_offset: first,
            last_offset: last,
            acknowledge_types: vec![i8::try_from(id.unwrap()).unwrap()],
        };
        let p = AcknowledgePartition { partition_index: 0, acknowledgement_batches: vec![batch] };
        let topic = AcknowledgeTopic { topic_id: self.world.topic, partitions: vec![p] };
        let request = ShareAcknowledgeRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.name.clone()),
            share_session_epoch: self.epoch,
            is_renew_ack: kind == "renew",
            topics: vec![topic],
        };
        self.epoch += 1;
        let began = self.world.now();
        let answer = self.raw.try_ask(&request, 2).await;
        let ended = self.world.now();
        let code = answer.map(|a| match a.error_code {
            ErrorCode::None => a.responses[0].partitions[0].error_code,
            code => code,
        });
        let outcome = match code {
            Some(ErrorCode::None) => String::new(),
            Some(code @ ErrorCode::InvalidRecordState) => format!(r#","fail":"{code:?}""#),
            other => format!(r#","info":"{other:?}""#),
        };
        let name = &self.name;
        self.world.event(format!(
            r#"{{"acked":{{"group":"{GROUP}","m":"{name}","tp":["{TOPIC}",0],"t":[{began},{ended}],"first":{first},"last":{last},"kind":"{kind}"{outcome}}}}}"#
        ));
        if matches!(code, Some(ErrorCode::None | ErrorCode::InvalidRecordState)) {
            return Some(());
        }
        self.left(began);
        None
    }

    /// Half of what it was given it treats in one way, and half in another.
    async fn treat(&mut self, given: Given, dice: &mut Dice) -> Option<()> {
        for (first, last) in given {
            let middle = i64::midpoint(first, last);
            for (first, last) in [(first, middle), (middle + 1, last)] {
                if first > last {
                    continue;
                }
                let kind = match dice.roll(20) {
                    _ if self.world.is(DRAINING) => "accept",
                    0..=11 => "accept",
                    12..=14 => "release",
                    15..=16 => "reject",
                    17 => "renew",
                    // It forgets them: their lock ends.
                    _ => continue,
                };
                self.say((first, last), kind).await?;
            }
        }
        Some(())
    }

    async fn live(&mut self, dice: &mut Dice) {
        while !self.world.is(OVER) {
            let most = if self.world.is(DRAINING) { 100 } else { dice.roll(20) + 1 };
            let Some(given) = self.fetch(i32::try_from(most).unwrap()).await else { return };
            let running = self.world.is(RUNNING);
            if running && dice.roll(30) == 0 {
                // Longer than its locks.
                tokio::time::sleep(Duration::from_millis(LOCK_MS * 5 / 4)).await;
            }
            if running && dice.roll(25) == 0 {
                return self.left(self.world.now());
            }
            if self.treat(given, dice).await.is_none() {
                return;
            }
        }
    }
}

async fn member(world: Arc<World>, id: u64) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(id + 1));
    for life in 0.. {
        if world.is(OVER) {
            return;
        }
        let Some(raw) = world.dial_leader().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let name = format!("m{id}-{life}");
        Life { world: &world, raw, name, epoch: 0 }.live(&mut dice).await;
    }
}

/// Kills the leader, or another node, again and again; in the end the leader is frozen, and deposed.
async fn hurt(world: &World, nodes: &mut [Node]) {
    for round in 0..=KILLS {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let leader = world.leader().await.unwrap_or(0);
        let freezes = round == KILLS;
        let at = if round == 2 { (leader + 1) % nodes.len() } else { leader };
        let (t, what) = (world.now(), if freezes { "freeze" } else { "kill" });
        world.event(format!(
            r#"{{"nemesis":{{"what":"{what}","on":[{}],"t":{t},"stale":{freezes}}}}}"#,
            at + 1
        ));
        if freezes {
            nodes[at].signal("STOP");
            tokio::time::sleep(FREEZE).await;
            nodes[at].signal("CONT");
        } else {
            nodes[at].kill();
            tokio::time::sleep(Duration::from_millis(700)).await;
            nodes[at].restart();
        }
        let healed = world.now();
        world.event(format!(r#"{{"nemesis":{{"what":"heal","t":{healed}}}}}"#));
        // Well again: records are written.
        let written = world.end.load(SeqCst);
        while world.end.load(SeqCst) <= written + 5 {
            assert!(world.now() - healed < 120_000_000, "nothing is written");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = world.now();
        let ms = (now - healed) / 1000;
        world.event(format!(r#"{{"live":{{"t":{now},"ms":{ms}}}}}"#));
    }
}

/// Until nobody was given anything for three times as long as a lock lasts.
async fn drain(world: &World) {
    world.phase.store(DRAINING, SeqCst);
    let began = world.now();
    while world.now() - world.handed_out.load(SeqCst).max(began) < 3 * LOCK_MS * 1000 {
        assert!(world.now() - began < 120_000_000, "it goes on and on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.phase.store(OVER, SeqCst);
    let end = world.end.load(SeqCst);
    world.event(format!(
        r#"{{"drained":{{"group":"{GROUP}","tp":["{TOPIC}",0],"from":0,"to":{end}}}}}"#
    ));
}

/// The number of a field of an event.
fn number(line: &str, field: &str) -> i64 {
    let (_, rest) = line.split_once(&format!("\"{field}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

fn judge(lines: &[String]) -> Verdict {
    let mut checker = Checker::default();
    for line in lines {
        checker.line(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    checker.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_share_group_keeps_its_promises_while_nodes_are_killed_and_frozen() {
    let mut nodes = share_nodes::cluster(
        3,
        "group.share.min.record.lock.duration.ms=1000\ngroup.share.record.lock.duration.ms=1000\n\
         auto.leader.rebalance.enable=false\nmin.insync.replicas=2\n\
         broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n",
    );
    let mut raw = Raw::connect(nodes[0].port).await;
    let topic = raw.create_with(TOPIC, 3).await;
    let world = Arc::new(World {
        began: Instant::now(),
        ports: nodes.iter().map(|n| n.port).collect(),
        topic,
        lines: Mutex::default(),
        phase: AtomicU8::new(RUNNING),
        handed_out: AtomicU64::new(0),
        end: AtomicI64::new(0),
    });
    world.event(r#"{"run":{"id":"share","idempotent":false,"live_ms":60000}}"#.to_owned());
    world.event(format!(r#"{{"share":{{"group":"{GROUP}","limit":5}}}}"#));
    let writer = tokio::spawn(write(Arc::clone(&world)));
    let members: Vec<_> =
        (0..MEMBERS).map(|id| tokio::spawn(member(Arc::clone(&world), id))).collect();
    hurt(&world, &mut nodes).await;
    drain(&world).await;
    writer.await.unwrap();
    for member in members {
        member.await.unwrap();
    }
    let lines = world.lines.lock().unwrap().clone();
    if let Ok(path) = std::env::var("HISTORY") {
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    }
    let verdict = judge(&lines);
    assert!(verdict.passed(), "{verdict}");
    println!("{verdict}");
    // A record that was accepted, handed out again before the leader was frozen: after that it may
    // come from a leader that does not know it.
    let find = |what: &[&str]| lines.iter().find(|l| what.iter().all(|w| l.contains(w))).unwrap();
    let accepted = find(&["{\"acked\"", "\"accept\"}"]);
    let (at, freeze) = (number(accepted, "first"), number(find(&["\"freeze\""]), "t"));
    let ghost = format!(
        r#"{{"acquired":{{"group":"{GROUP}","m":"ghost","tp":["{TOPIC}",0],"t":[{0},{0}],"first":{at},"last":{at},"n":1}}}}"#,
        freeze - 1
    );
    assert!(!judge(&[lines.clone(), vec![ghost]].concat()).passed(), "it is seen");
    let again = lines.iter().filter(|l| l.starts_with("{\"acquired\"") && !l.contains(r#""n":1,"#));
    assert!(again.count() > 10, "records were handed out again");
    assert!(verdict.observed[&Point::Share] > 200, "{verdict}");
}
