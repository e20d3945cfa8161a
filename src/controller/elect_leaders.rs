//! ElectLeaders (KIP-460): elections that an operator asks for
//! (`ReplicationControlManager.electLeaders`).

use crate::base::{ErrorCode, PartitionId};
use crate::metadata::Record;
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody, partition_result},
    elections::Effect,
    index::is_imbalanced,
    partitions::Election,
    turn::Turn,
};

/// Which leader the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Preferred,
    Unclean,
}

impl Turn<'_> {
    pub(super) fn elect_leaders(&mut self, c: &pb::ElectLeaders) -> Outcome {
        let wanted = match c.election_type {
            0 => Wanted::Preferred,
            1 => Wanted::Unclean,
            other => {
                let text = format!("Unknown election type {other}");
                return Outcome::refused(&Refusal::new(ErrorCode::InvalidRequest, text));
            }
        };
        let topics = if c.all { self.elect_everywhere(wanted) } else { self.elect_in(c, wanted) };
        Outcome::submit(0, None, SubmitBody::ElectLeaders(pb::ElectLeadersReply { topics }))
    }

    fn elect_in(&mut self, c: &pb::ElectLeaders, wanted: Wanted) -> Vec<pb::TopicPartitionResults> {
        let one = |t: &pb::TopicPartitions| pb::TopicPartitionResults {
            topic: t.topic.clone(),
            partitions: t
                .partitions
                .iter()
                .map(|p| partition_result(*p, &self.elect_one(&t.topic, *p, wanted)))
                .collect(),
        };
        c.topics.iter().map(one).collect()
    }

    /// Every partition that needs it: an index knows which those may be.
    fn elect_everywhere(&mut self, wanted: Wanted) -> Vec<pb::TopicPartitionResults> {
        let keys = match wanted {
            Wanted::Preferred => self.still(self.index.imbalanced(), is_imbalanced),
            Wanted::Unclean => self.still(self.index.leaderless(), |p| p.leader.is_none()),
        };
        let mut topics: Vec<pb::TopicPartitionResults> = Vec::new();
        for (id, p) in keys {
            let Some(name) = self.image().topics().by_id(id).map(|t| t.name.to_string()) else {
                continue;
            };
            let result = partition_result(p, &self.elect_one(&name, p, wanted));
            match topics.last_mut() {
                Some(t) if t.topic == name => t.partitions.push(result),
                _ => {
                    topics.push(pb::TopicPartitionResults { topic: name, partitions: vec![result] })
                }
            }
        }
        topics
    }

    fn elect_one(
        &mut self,
        topic: &str,
        partition: PartitionId,
        wanted: Wanted,
    ) -> Result<(), Refusal> {
        let unknown = |text| Refusal::new(ErrorCode::UnknownTopicOrPartition, text);
        let Some(found) = self.image().topics().by_name(topic) else {
            return Err(unknown(format!("No such topic as {topic}")));
        };
        let Some(p) = found.partition(partition) else {
            return Err(unknown(format!("No such partition as {topic}-{partition}")));
        };
        let needed = match wanted {
            Wanted::Preferred => is_imbalanced(p),
            Wanted::Unclean => p.leader.is_none(),
        };
        if !needed {
            let text = "Leader election not needed for topic partition.";
            return Err(Refusal::new(ErrorCode::ElectionNotNeeded, text));
        }
        let (election, code, text) = match wanted {
            Wanted::Preferred => (
                Election::Preferred,
                ErrorCode::PreferredLeaderNotAvailable,
                "The preferred leader was not available.",
            ),
            Wanted::Unclean => (
                Election::Unclean,
                ErrorCode::EligibleLeadersNotAvailable,
                "Eligible topic partition leaders are not available.",
            ),
        };
        let rules = self.rules(found, election);
        let change = self.changed(found, partition, rules, Effect::default());
        let change = change.ok_or_else(|| Refusal::new(code, text))?;
        self.draft.push(Record::PartitionChange(change));
        Ok(())
    }
}
