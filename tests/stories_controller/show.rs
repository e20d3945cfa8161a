//! Records and answers as a story shows them.

use std::fmt::Write as _;

use vltava::base::{NodeId, Uuid};
use vltava::controller::Reply;
use vltava::controller::command::SubmitBody;
use vltava::metadata::record::{Partition, PartitionChange};
use vltava::metadata::{PartitionRegistration, Record};
use vltava::pb::controller as pb;

fn ids(v: &[NodeId]) -> String {
    let all: Vec<String> = v.iter().map(ToString::to_string).collect();
    format!("[{}]", all.join(","))
}

fn short_dir(id: &Uuid) -> String {
    match *id {
        Uuid::ONE => "?".to_owned(),
        Uuid(b) => i32::from_be_bytes([b[8], b[9], b[10], b[11]]).to_string(),
    }
}

fn topic_of(id: Uuid, update: &vltava::metadata::Update) -> String {
    let images = [update.delta.image(), update.delta.base()];
    let name = images.iter().find_map(|i| i.topics().by_id(id).map(|t| t.name.to_string()));
    name.unwrap_or_else(|| "?".to_owned())
}

fn state(p: &PartitionRegistration) -> String {
    let mut s = format!(
        "replicas {} isr {} leader {} epochs {}/{}",
        ids(&p.replicas),
        ids(&p.isr),
        p.leader.map_or_else(|| "none".to_owned(), |l| l.to_string()),
        p.leader_epoch,
        p.partition_epoch
    );
    for (name, list) in [("elr", p.elr()), ("last-elr", p.last_known_elr())] {
        if !list.is_empty() {
            write!(s, " {name} {}", ids(list)).unwrap();
        }
    }
    if p.recovery.code() == 1 {
        s.push_str(" recovering");
    }
    let dirs: Vec<String> = p.directories.iter().map(short_dir).collect();
    write!(s, " dirs [{}]", dirs.join(",")).unwrap();
    s
}

pub(crate) fn show(r: &Record, update: &vltava::metadata::Update) -> String {
    match r {
        Record::NoOp => "no-op".to_owned(),
        Record::FeatureLevel { name, level } => format!("feature {name} {level}"),
        Record::RegisterBroker(b) => {
            let dirs: Vec<String> = b.log_dirs.iter().map(short_dir).collect();
            format!(
                "register broker {} fenced {} dirs [{}]{}",
                b.id,
                b.fenced,
                dirs.join(","),
                b.epoch.map_or(String::new(), |e| format!(" keeps epoch {e}"))
            )
        }
        Record::BrokerRegistrationChange(c) => {
            let mut s = format!("broker {}", c.id);
            for (name, v) in [("fenced", c.fenced), ("stopping", c.in_controlled_shutdown)] {
                if let Some(v) = v {
                    write!(s, " {name} {v}").unwrap();
                }
            }
            if let Some(dirs) = &c.log_dirs {
                let dirs: Vec<String> = dirs.iter().map(short_dir).collect();
                write!(s, " dirs [{}]", dirs.join(",")).unwrap();
            }
            if let Some(dirs) = &c.cordoned_dirs {
                let dirs: Vec<String> = dirs.iter().map(short_dir).collect();
                write!(s, " cordoned [{}]", dirs.join(",")).unwrap();
            }
            s
        }
        Record::UnregisterBroker { broker, .. } => format!("unregister broker {broker}"),
        Record::RegisterController(c) => format!("register controller {}", c.id),
        Record::Topic { name, .. } => format!("topic {name}"),
        Record::Partition(Partition { topic_id, partition, state: p }) => {
            format!("partition {}-{partition} {}", topic_of(*topic_id, update), state(p))
        }
        Record::PartitionChange(PartitionChange { topic_id, partition, .. }) => {
            let p = update.image.topics().partition(*topic_id, *partition);
            let p = p.map_or_else(|| "gone".to_owned(), |p| state(p));
            format!("change {}-{partition} {p}", topic_of(*topic_id, update))
        }
        Record::RemoveTopic { id } => format!("remove topic {}", topic_of(*id, update)),
        Record::Config { resource, key, value } => {
            let value = value.as_deref().unwrap_or("(none)");
            format!("config {:?} '{}' {key} = {value}", resource.kind, resource.name)
        }
        Record::ClearElr { topic: Some(id) } => format!("clear ELR of {}", topic_of(*id, update)),
        Record::ClearElr { topic: None } => "clear ELR of all topics".to_owned(),
        Record::ProducerIds { broker, next, .. } => {
            format!("producer ids to {broker}, next {next}")
        }
    }
}

fn error(what: &str, code: i32, message: Option<&String>) -> String {
    let name = vltava::base::ErrorCode::from_code(i16::try_from(code).unwrap()).name();
    format!("{what}: {name}{}", message.map_or(String::new(), |m| format!(" ({m})")))
}

pub(crate) fn answer(reply: Reply) -> String {
    let r = match reply {
        Reply::Nothing => return String::new(),
        Reply::Heartbeat(h) if h.error == 0 => {
            let mut s = "beat:".to_owned();
            for (name, on) in [
                ("caught-up", h.is_caught_up),
                ("fenced", h.is_fenced),
                ("shut-down", h.should_shut_down),
            ] {
                if on {
                    write!(s, " {name}").unwrap();
                }
            }
            if let Some(why) = h.shutdown_refused {
                write!(s, " may not stop: {why}").unwrap();
            }
            return s;
        }
        Reply::Heartbeat(h) => return error("beat", h.error, h.error_message.as_ref()),
        Reply::Submit(r) => r,
    };
    let lines: Vec<String> = match r.reply {
        None => vec![error("refused", r.error, r.error_message.as_ref())],
        Some(SubmitBody::RegisterBroker(b)) => {
            let text = error("registered", b.error, b.error_message.as_ref());
            vec![format!("{text} epoch {}", b.broker_epoch)]
        }
        Some(SubmitBody::UnregisterBroker(b)) => {
            vec![error("unregistered", b.error, b.error_message.as_ref())]
        }
        Some(SubmitBody::RegisterController(b)) => {
            vec![error("registered", b.error, b.error_message.as_ref())]
        }
        Some(SubmitBody::CreateTopics(b)) => b
            .topics
            .iter()
            .map(|t| {
                let text = error(&t.name, t.error, t.error_message.as_ref());
                let configs: Vec<String> =
                    t.configs.iter().map(|c| format!(" {}", c.name)).collect();
                let (p, r) = (t.num_partitions, t.replication_factor);
                format!("{text} partitions {p} factor {r}{}", configs.concat())
            })
            .collect(),
        Some(SubmitBody::DeleteTopics(b)) => {
            b.topics.iter().map(|t| error("deleted", t.error, t.error_message.as_ref())).collect()
        }
        Some(SubmitBody::CreatePartitions(b)) => {
            b.topics.iter().map(|t| error(&t.name, t.error, t.error_message.as_ref())).collect()
        }
        Some(SubmitBody::AlterConfigs(b)) => {
            let one =
                |c: &pb::AlterConfigsResult| error("config", c.error, c.error_message.as_ref());
            b.resources.iter().map(one).collect()
        }
        Some(SubmitBody::AllocateProducerIds(b)) => {
            vec![format!("{} first {} count {}", error("ids", b.error, None), b.first, b.count)]
        }
        Some(SubmitBody::UpdateFeatures(b)) => {
            vec![error("features", b.error, b.error_message.as_ref())]
        }
        Some(SubmitBody::AlterPartition(b)) => {
            let one = |p: &pb::AlterPartitionResult| error("isr", p.error, None);
            let top = (b.error != 0).then(|| error("isr", b.error, None));
            top.into_iter().chain(b.partitions.iter().map(one)).collect()
        }
        Some(SubmitBody::AssignReplicasToDirs(b)) => {
            b.results.iter().map(|d| error("assigned", d.error, None)).collect()
        }
        Some(
            SubmitBody::ElectLeaders(_)
            | SubmitBody::AlterPartitionReassignments(_)
            | SubmitBody::ListPartitionReassignments(_)
            | SubmitBody::DescribeQuorum(_)
            | SubmitBody::ChangeVoters(_),
        ) => Vec::new(),
    };
    lines.join("\n  ")
}
