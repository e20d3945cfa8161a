//! `image.redb`: a large image, row by row, with its place in the log, so that a restart replays
//! only what came after instead of all since the last checkpoint. It may be lost or damaged at any
//! time: checkpoint and log make it anew. A small image has no such file. Uses `base`, `metadata`.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message as _;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, WriteTransaction,
};

use super::checkpoint::{CheckpointError, Header};
use crate::{
    base::{
        PartitionId, Uuid,
        ports::{File, Fs, OpenMode},
    },
    metadata::{
        ConfigResource, Delta, Image, Record,
        loader::image_of,
        record::{self, decode_batch, encode_batch},
    },
    pb::quorum as pb,
    record::batch::crc32c,
};

/// The file's name within the metadata log's directory.
const FILE_NAME: &str = "image.redb";
/// An image with fewer partitions is read from checkpoint and log as fast.
pub(crate) const PARTITIONS_MIN: i64 = 50_000;
/// Memory that the store may use for pages, in bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Rows written in one step when the whole image is written.
const STEP_ROWS: usize = 16 * 1024;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("head");
const HEADER: &str = "header";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file cannot be read or written, or is none.
    #[error("{0}")]
    Store(#[from] redb::Error),
    /// What is in it makes no image.
    #[error("{0}")]
    Content(#[from] CheckpointError),
    /// A row is damaged.
    #[error("{0}")]
    Row(&'static str),
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(e: redb::$error) -> Self {
                Self::Store(e.into())
            }
        }
    )*};
}
from_redb!(
    DatabaseError,
    TransactionError,
    TableError,
    StorageError,
    CommitError,
    SetDurabilityError
);

/// A part of the image that has a row of its own. In this order the rows can be replayed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Features, controllers and brokers: few records, one row.
    Cluster,
    /// A topic.
    Topic(Uuid),
    /// A partition of a topic.
    Partition(Uuid, PartitionId),
    /// All keys of a resource.
    Config(ConfigResource),
    /// The next producer id.
    ProducerIds,
}

impl Part {
    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(24);
        match self {
            Self::Cluster => key.push(b'a'),
            Self::Topic(id) => {
                key.push(b'b');
                key.extend_from_slice(&id.0);
            }
            Self::Partition(id, partition) => {
                key.push(b'b');
                key.extend_from_slice(&id.0);
                key.extend_from_slice(&partition.to_be_bytes());
            }
            Self::Config(resource) => {
                key.push(b'c');
                key.extend_from_slice(&resource.kind.code().to_be_bytes());
                key.extend_from_slice(resource.name.as_bytes());
            }
            Self::ProducerIds => key.push(b'd'),
        }
        key
    }

    /// Its records in `image`; none if it is not part of it.
    fn records(&self, image: &Image) -> Vec<Record> {
        match self {
            Self::Cluster => image.to_records().take_while(is_cluster).collect(),
            Self::Topic(id) => {
                let topic = image.topics().by_id(*id);
                let record = topic.map(|t| Record::Topic { name: Arc::clone(&t.name), id: t.id });
                record.into_iter().collect()
            }
            Self::Partition(topic_id, partition) => {
                let found = image.topics().partition(*topic_id, *partition);
                let record = found.map(|state| {
                    let (topic_id, partition) = (*topic_id, *partition);
                    let state = state.as_ref().clone();
                    Record::Partition(record::Partition { topic_id, partition, state })
                });
                record.into_iter().collect()
            }
            Self::Config(resource) => {
                let keys = image.configs().keys_of(resource);
                let set = keys.iter().map(|(key, value)| Record::Config {
                    resource: resource.clone(),
                    key: key.clone(),
                    value: Some(value.clone()),
                });
                set.collect()
            }
            Self::ProducerIds => match image.next_producer_id() {
                0 => Vec::new(),
                next => {
                    let broker = crate::base::NodeId(-1);
                    vec![Record::ProducerIds { broker, epoch: -1, next }]
                }
            },
        }
    }

    /// All parts of `image`.
    fn all(image: &Image) -> impl Iterator<Item = Self> + '_ {
        let of_topic = |t: &crate::metadata::Topic| {
            let id = t.id;
            let partitions = (0..t.partition_count()).map(move |p| Self::Partition(id, p));
            std::iter::once(Self::Topic(id)).chain(partitions)
        };
        std::iter::once(Self::Cluster)
            .chain(image.topics().iter().flat_map(of_topic))
            .chain(image.configs().iter().map(|(r, _)| Self::Config(r.clone())))
            .chain(std::iter::once(Self::ProducerIds))
    }

    /// The parts that `delta` touches.
    pub(crate) fn touched(delta: &Delta, into: &mut BTreeSet<Self>) {
        let cluster = delta.features_changed()
            || delta.changed_brokers().next().is_some()
            || delta.changed_controllers().next().is_some();
        into.extend(cluster.then_some(Self::Cluster));
        into.extend(delta.created_topics().map(|t| Self::Topic(t.id)));
        into.extend(delta.deleted_topics().map(|t| Self::Topic(t.id)));
        into.extend(delta.changed_partitions().map(|d| Self::Partition(d.topic_id, d.partition)));
        into.extend(delta.changed_configs().map(|r| Self::Config(r.clone())));
    }
}

fn is_cluster(record: &Record) -> bool {
    !matches!(
        record,
        Record::Topic { .. }
            | Record::Partition(_)
            | Record::Config { .. }
            | Record::ProducerIds { .. }
    )
}

/// How many partitions an image has.
pub(crate) fn partitions(image: &Image) -> i64 {
    image.topics().iter().map(|t| i64::from(t.partition_count())).sum()
}

/// The file port as the store's storage.
#[derive(Debug)]
struct Backend(Arc<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(&[data], offset)
    }
}

/// Where the store is kept.
#[derive(Debug, Clone)]
pub(crate) struct StorePlace {
    fs: Arc<dyn Fs>,
    path: PathBuf,
}

impl StorePlace {
    pub(crate) fn new(fs: Arc<dyn Fs>, folder: &Path) -> Self {
        Self { fs, path: folder.join(FILE_NAME) }
    }

    fn open(&self, mode: OpenMode) -> Result<ImageStore, StoreError> {
        let file = self.fs.open(&self.path, mode).map_err(redb::Error::Io)?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        Ok(ImageStore { db: builder.create_with_backend(Backend(file))? })
    }

    /// The image in the store, if there is one; a damaged store is removed.
    pub(crate) fn load(&self) -> io::Result<Option<(ImageStore, Header, Image)>> {
        if self.fs.stat(&self.path)?.is_none() {
            return Ok(None);
        }
        let loaded = self.open(OpenMode::ReadWrite).and_then(|store| {
            let (header, image) = store.load()?;
            Ok((store, header, image))
        });
        match loaded {
            Ok(loaded) => Ok(Some(loaded)),
            Err(e) => {
                tracing::warn!(file = %self.path.display(), "the stored image is not used: {e}");
                self.remove()?;
                Ok(None)
            }
        }
    }

    /// Removes the store.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.fs.remove_file(&self.path)
    }

    /// A store with all of `image`.
    pub(crate) fn create(&self, header: &Header, image: &Image) -> Result<ImageStore, StoreError> {
        let store = self.open(OpenMode::Truncate)?;
        let parts: Vec<_> = Part::all(image).collect();
        for step in parts.chunks(STEP_ROWS) {
            // Without a header it is no image: steps need not be durable.
            store.write(step, image, None, Durability::None)?;
        }
        store.write(&[], image, Some(header), Durability::Immediate)?;
        Ok(store)
    }
}

/// An open store.
#[derive(Debug)]
pub(crate) struct ImageStore {
    db: Database,
}

fn seal(records: &[Record]) -> Vec<u8> {
    let batch = encode_batch(records);
    let mut out = crc32c(&batch).to_be_bytes().to_vec();
    out.extend_from_slice(&batch);
    out
}

fn unseal(row: &[u8]) -> Result<Vec<Record>, StoreError> {
    let (crc, batch) = row.split_first_chunk::<4>().ok_or(StoreError::Row("a row is short"))?;
    if u32::from_be_bytes(*crc) != crc32c(batch) {
        return Err(StoreError::Row("a row's checksum differs"));
    }
    let batch = decode_batch(Bytes::copy_from_slice(batch)).map_err(CheckpointError::from)?;
    Ok(batch)
}

impl ImageStore {
    /// Brings the rows of `parts` to what they are in `image`, which stands at `header`. Durable
    /// as a whole or not at all.
    pub(crate) fn update(
        &self,
        header: &Header,
        image: &Image,
        parts: &BTreeSet<Part>,
    ) -> Result<(), StoreError> {
        let mut parts: Vec<_> = parts.iter().cloned().collect();
        parts.push(Part::ProducerIds);
        self.write(&parts, image, Some(header), Durability::Immediate)
    }

    fn write(
        &self,
        parts: &[Part],
        image: &Image,
        header: Option<&Header>,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut txn: WriteTransaction = self.db.begin_write()?;
        txn.set_durability(durability)?;
        {
            let mut rows = txn.open_table(ROWS)?;
            for part in parts {
                let (key, records) = (part.key(), part.records(image));
                if records.is_empty() {
                    rows.remove(&*key)?;
                } else {
                    rows.insert(&*key, &*seal(&records))?;
                }
            }
            let mut head = txn.open_table(HEAD)?;
            if let Some(header) = header {
                head.insert(HEADER, &*header.to_pb().encode_to_vec())?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    fn load(&self) -> Result<(Header, Image), StoreError> {
        let txn = self.db.begin_read()?;
        let head = txn.open_table(HEAD)?;
        let header = head.get(HEADER)?.ok_or(StoreError::Row("it was not completed"))?;
        let header = Bytes::copy_from_slice(header.value());
        let header = pb::CheckpointHeader::decode(header)
            .map_err(|_| StoreError::Row("the header is malformed"))?;
        let header = Header::from_pb(header)?;
        let rows = txn.open_table(ROWS)?;
        let mut failure = None;
        let mut range = rows.iter()?;
        let records = std::iter::from_fn(|| match range.next()? {
            Ok((_, row)) => match unseal(row.value()) {
                Ok(records) => Some(records),
                Err(e) => {
                    failure = Some(e);
                    None
                }
            },
            Err(e) => {
                failure = Some(e.into());
                None
            }
        });
        let image = image_of(header.position(), records.flatten());
        match failure {
            Some(e) => Err(e),
            None => Ok((header, image.map_err(CheckpointError::from)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metadata::{Loader, Position},
        os::OsFs,
        quorum::types,
    };

    fn topic(n: u8) -> Vec<Record> {
        let id = Uuid([n + 100; 16]);
        let mut out = vec![Record::Topic { name: format!("t{n}").into(), id }];
        for partition in 0..3 {
            let state = crate::metadata::topics::PartitionRegistration::new(
                &[crate::base::NodeId(1)],
                &[Uuid([9; 16])],
                &[crate::base::NodeId(1)],
            );
            out.push(Record::Partition(record::Partition { topic_id: id, partition, state }));
        }
        out.push(Record::Config {
            resource: ConfigResource::topic(format!("t{n}")),
            key: "k".into(),
            value: Some("v".into()),
        });
        out
    }

    fn header(offset: i64) -> Header {
        let last_log_id = types::log_id_at(Position { offset, epoch: 1 });
        Header { last_log_id, ..Header::default() }
    }

    #[test]
    fn rows_follow_the_image() {
        let tmp = tempfile::tempdir().unwrap();
        let place = StorePlace::new(Arc::new(OsFs), tmp.path());
        assert!(place.load().unwrap().is_none());
        let mut loader = Loader::default();
        let at = |offset| Position { offset, epoch: 1 };
        let records: Vec<_> = (0..50).flat_map(topic).collect();
        loader.load_batch(at(0), &records).unwrap();
        drop(place.create(&header(0), loader.image()).unwrap());

        let (store, head, image) = place.load().unwrap().unwrap();
        assert_eq!((head, &image), (header(0), &**loader.image()));
        let changes = [
            Record::RemoveTopic { id: Uuid([100; 16]) },
            Record::ProducerIds { broker: crate::base::NodeId(1), epoch: 0, next: 1000 },
            Record::FeatureLevel { name: "metadata.version".into(), level: 30 },
        ];
        let update = loader.load_batch(at(1), &changes).unwrap().unwrap();
        let mut parts = BTreeSet::new();
        Part::touched(&update.delta, &mut parts);
        store.update(&header(1), loader.image(), &parts).unwrap();
        drop(store);
        let (_, head, image) = place.load().unwrap().unwrap();
        assert_eq!((head, &image), (header(1), &**loader.image()));
    }

    #[test]
    fn a_damaged_store_is_thrown_away() {
        let tmp = tempfile::tempdir().unwrap();
        let place = StorePlace::new(Arc::new(OsFs), tmp.path());
        let mut loader = Loader::default();
        loader.load_batch(Position { offset: 0, epoch: 1 }, &topic(1)).unwrap();
        drop(place.create(&header(0), loader.image()).unwrap());
        let file = OsFs.open(&tmp.path().join(FILE_NAME), OpenMode::ReadWrite).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for at in bytes.windows(2).enumerate().filter(|(_, w)| w == b"t1").map(|(at, _)| at) {
            file.write_all_at(&[b"t2"], at as u64).unwrap();
        }
        assert!(place.load().unwrap().is_none());
        assert!(!tmp.path().join(FILE_NAME).exists());
    }
}
