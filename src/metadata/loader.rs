//! The loader: folds what the quorum commits into images and deltas, batch by batch or from a
//! checkpoint. Whoever reads the log owns one.

use std::sync::Arc;

use super::{
    delta::{Delta, ReplayError},
    image::{Image, Position},
    record::Record,
};

/// What publishers get: the new image and how it differs from the one before.
#[derive(Debug, Clone)]
pub struct Update {
    /// The image after.
    pub image: Arc<Image>,
    /// From the image before to this one.
    pub delta: Arc<Delta>,
    /// Whether it came from a checkpoint rather than from the log.
    pub from_checkpoint: bool,
}

/// Why records could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The batch does not follow the image; nothing has changed.
    #[error("a batch at offset {got} after an image at offset {at}")]
    OutOfOrder {
        /// The batch's offset.
        got: i64,
        /// The image's offset.
        at: i64,
    },
    /// A record does not fit the image; nothing has changed. This node cannot go on from here.
    #[error("metadata record {kind} at offset {offset}: {cause}")]
    Replay {
        /// The record's kind.
        kind: &'static str,
        /// Its offset.
        offset: i64,
        /// What does not fit.
        #[source]
        cause: ReplayError,
    },
}

/// Holds the newest image.
#[derive(Debug, Clone, Default)]
pub struct Loader {
    image: Arc<Image>,
}

impl Loader {
    /// Starts from `image`.
    #[must_use]
    pub const fn new(image: Arc<Image>) -> Self {
        Self { image }
    }

    /// The newest image.
    #[must_use]
    pub const fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Folds one committed entry. An entry that the image already holds is skipped (`None`).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_batch(
        &mut self,
        at: Position,
        records: &[Record],
    ) -> Result<Option<Update>, LoadError> {
        self.load_batches([(at, records)])
    }

    /// Folds several committed entries into one update. Entries that the image already holds are
    /// skipped; `None` if that was all.
    ///
    /// # Errors
    /// See [`LoadError`]; nothing has changed.
    pub fn load_batches<'a>(
        &mut self,
        batches: impl IntoIterator<Item = (Position, &'a [Record])>,
    ) -> Result<Option<Update>, LoadError> {
        let mut delta = Delta::new(&self.image);
        for (at, records) in batches {
            let now = delta.image().position;
            if at.offset <= now.offset {
                continue;
            }
            if at.epoch < now.epoch {
                return Err(LoadError::OutOfOrder { got: at.offset, at: now.offset });
            }
            replay_all(&mut delta, records, at.offset)?;
            delta.advance(at);
        }
        if delta.image().position == self.image.position {
            return Ok(None);
        }
        Ok(Some(self.publish(delta, false)))
    }

    /// Replaces the image by a checkpoint's. The update's delta is the difference.
    ///
    /// # Errors
    /// See [`LoadError`]; nothing has changed.
    pub fn load_checkpoint(
        &mut self,
        at: Position,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Update, LoadError> {
        let image = image_of(at, records)?;
        let delta = Delta::between(&self.image, &image);
        Ok(self.publish(delta, true))
    }

    fn publish(&mut self, delta: Delta, from_checkpoint: bool) -> Update {
        self.image = Arc::new(delta.apply());
        Update { image: Arc::clone(&self.image), delta: Arc::new(delta), from_checkpoint }
    }
}

/// The image that a checkpoint's records make.
///
/// # Errors
/// [`LoadError::Replay`]: the checkpoint is damaged or from a newer version.
pub fn image_of(
    at: Position,
    records: impl IntoIterator<Item = Record>,
) -> Result<Image, LoadError> {
    let mut delta = Delta::new(&Image::default());
    for record in records {
        replay_all(&mut delta, std::slice::from_ref(&record), at.offset)?;
    }
    delta.advance(at);
    Ok(delta.apply())
}

fn replay_all(delta: &mut Delta, records: &[Record], offset: i64) -> Result<(), LoadError> {
    for record in records {
        delta.replay(record, offset).map_err(|cause| LoadError::Replay {
            kind: record.kind(),
            offset,
            cause,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{NodeId, Uuid};
    use crate::metadata::record::{self, Partition, PartitionChange, RegisterBroker};
    use crate::metadata::topics::Exceptional;
    use crate::metadata::{ConfigResource, Endpoint, PartitionRegistration, VersionRange};

    /// A record that fits `image`, chosen by the numbers.
    fn record_for(image: &Image, kind: u8, a: u8, b: u8) -> Record {
        let node = NodeId(i32::from(a % 4));
        let topic = image.topics().iter().nth(usize::from(a) % image.topics().len().max(1));
        let broker = image.brokers().get(node);
        match (kind % 12, topic, broker) {
            (0, ..) => {
                Record::FeatureLevel { name: format!("f{}", a % 3).into(), level: (b % 3).into() }
            }
            (1, ..) | (2, _, None) => Record::RegisterBroker(RegisterBroker {
                id: node,
                incarnation: Uuid([b; 16]),
                epoch: None,
                endpoints: vec![Endpoint {
                    name: "PLAINTEXT".into(),
                    host: "h".into(),
                    port: 9092,
                    security_protocol: 0,
                }],
                features: vec![("metadata.version".into(), VersionRange { min: 7, max: 30 })],
                rack: b.is_multiple_of(2).then(|| "r".into()),
                log_dirs: vec![Uuid([a; 16])],
                fenced: b.is_multiple_of(3),
                in_controlled_shutdown: false,
                cordoned_dirs: b.is_multiple_of(5).then(|| vec![Uuid([a; 16])]),
            }),
            (2, _, Some(broker)) => {
                let mut c = record::BrokerRegistrationChange::of(node, broker.epoch);
                c.fenced = Some(b.is_multiple_of(2));
                Record::BrokerRegistrationChange(c)
            }
            (3, _, Some(broker)) if b.is_multiple_of(4) => {
                Record::UnregisterBroker { broker: node, epoch: broker.epoch }
            }
            (4, Some(t), _) if b.is_multiple_of(4) => Record::RemoveTopic { id: t.id },
            (5 | 6, Some(t), _) => {
                let (one, two) = (NodeId(i32::from(b % 5)), NodeId(i32::from(b % 5) + 1));
                let mut state = PartitionRegistration::new(&[one, two], &[Uuid::ONE; 2], &[two]);
                let elr = if b.is_multiple_of(2) { vec![one] } else { vec![] };
                state.set_exceptional(Exceptional { elr, ..Exceptional::default() });
                let partition = t.partition_count();
                Record::Partition(Partition { topic_id: t.id, partition, state })
            }
            (7 | 8, Some(t), _) if !t.partitions.is_empty() => {
                let partition = i32::from(b) % t.partition_count();
                let p = t.partition(partition).unwrap();
                let mut c = PartitionChange::of(t.id, partition);
                if b.is_multiple_of(2) {
                    c.isr = Some(p.replicas.to_vec());
                    c.leader = Some(p.replicas.first().copied());
                    c.elr = Some(vec![]);
                } else {
                    c.leader = Some(None);
                }
                Record::PartitionChange(c)
            }
            (9, ..) => Record::Config {
                resource: ConfigResource::topic(format!("t{}", a % 6)),
                key: format!("k{}", b % 3),
                value: a.is_multiple_of(2).then(|| b.to_string()),
            },
            (11, Some(t), _) => Record::ClearElr { topic: b.is_multiple_of(2).then_some(t.id) },
            (10, ..) => Record::ProducerIds {
                broker: node,
                epoch: 1,
                next: image.next_producer_id() + 1000,
            },
            _ if image.topics().id_of(&format!("t{}", a % 6)).is_none() => {
                let mut id = [b; 16];
                id[0] = u8::try_from(image.topics().len()).unwrap() + 1;
                id[1] = a;
                let free = image.topics().by_id(Uuid(id)).is_none();
                let name = format!("t{}", a % 6).into();
                if free { Record::Topic { name, id: Uuid(id) } } else { Record::NoOp }
            }
            _ => Record::NoOp,
        }
    }

    /// What a delta says has changed, as text.
    fn said(d: &Delta) -> Vec<String> {
        let mut out: Vec<String> = d.changed_partitions().map(|p| format!("{p:?}")).collect();
        out.extend(d.created_topics().map(|t| format!("+{}", t.name)));
        out.extend(d.deleted_topics().map(|t| format!("-{}", t.name)));
        out.extend(d.changed_configs().map(|r| format!("{r}")));
        out.extend(d.changed_brokers().map(|b| format!("{b:?}")));
        out.push(format!("features {}", d.features_changed()));
        out
    }

    proptest! {
        #[test]
        fn every_way_leads_to_the_same_image(
            steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..120),
            cut in 0usize..120,
        ) {
            let mut loader = Loader::default();
            let mut log: Vec<(Position, Vec<Record>)> = Vec::new();
            let mut middle = Arc::clone(loader.image());
            for (i, (kind, a, b)) in steps.iter().enumerate() {
                if i == cut {
                    middle = Arc::clone(loader.image());
                }
                let records = vec![record_for(loader.image(), *kind, *a, *b)];
                let at = Position { offset: i as i64, epoch: 1 };
                loader.load_batch(at, &records).unwrap().unwrap();
                prop_assert_eq!(
                    &record::decode_batch(record::encode_batch(&records)).unwrap(), &records);
                log.push((at, records));
            }
            let image = loader.image();
            // In one go.
            let mut other = Loader::default();
            other.load_batches(log.iter().map(|(at, r)| (*at, r.as_slice()))).unwrap();
            prop_assert_eq!(other.image(), image);
            // From a checkpoint, by way of bytes.
            let records: Vec<Record> = image.to_records().collect();
            let bytes = record::encode_batch(&records);
            let read = record::decode_batch(bytes).unwrap();
            prop_assert_eq!(&image_of(image.position, read).unwrap(), image.as_ref());
            // From the middle: log and checkpoint say the same of what changed.
            let mut follower = Loader::new(Arc::clone(&middle));
            let tail = log.iter().map(|(at, r)| (*at, r.as_slice()));
            let by_log = follower.load_batches(tail).unwrap();
            let mut follower = Loader::new(Arc::clone(&middle));
            let by_checkpoint = follower.load_checkpoint(image.position, records).unwrap();
            prop_assert_eq!(&by_checkpoint.image, image);
            if let Some(by_log) = by_log {
                prop_assert_eq!(said(&by_log.delta), said(&by_checkpoint.delta));
            }
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut loader = Loader::default();
        let at = |offset| Position { offset, epoch: 3 };
        let topic = Record::Topic { name: "t".into(), id: Uuid([1; 16]) };
        loader.load_batch(at(0), std::slice::from_ref(&topic)).unwrap().unwrap();
        let before = Arc::clone(loader.image());
        let stray = PartitionChange::of(Uuid([9; 16]), 0);
        let error =
            loader.load_batch(at(1), &[Record::NoOp, Record::PartitionChange(stray)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "metadata record PartitionChange at offset 1: there is no topic of id \
             CQkJCQkJCQkJCQkJCQkJCQ"
        );
        assert_eq!(loader.image(), &before);
        assert!(loader.load_batch(at(0), &[topic]).unwrap().is_none(), "held already");
        let older = Position { offset: 5, epoch: 2 };
        assert!(matches!(loader.load_batch(older, &[]), Err(LoadError::OutOfOrder { .. })));
    }

    #[test]
    fn a_deleted_topic_takes_its_configuration_along() {
        let mut loader = Loader::default();
        let id = Uuid([1; 16]);
        let resource = ConfigResource::topic("t");
        let (key, value) = ("k".to_owned(), Some("v".to_owned()));
        let records = [
            Record::Topic { name: "t".into(), id },
            Record::Config { resource: resource.clone(), key, value },
        ];
        loader.load_batch(Position { offset: 0, epoch: 0 }, &records).unwrap();
        let gone = [Record::RemoveTopic { id }];
        let update = loader.load_batch(Position { offset: 1, epoch: 0 }, &gone).unwrap().unwrap();
        assert_eq!(update.delta.changed_configs().collect::<Vec<_>>(), [&resource]);
        assert!(update.image.configs().get(&resource).is_none());
        assert_eq!(update.delta.deleted_topics().count(), 1);
    }
}
