//! Checkpoints: `<offset 20>-<epoch 10>.checkpoint` beside the metadata log. Frames as record
//! batches: a header (place in the log, voters), the image's records, a footer with the number of
//! frames and a chained checksum. Written as `.part`, synced, renamed. Uses `base`, `record`,
//! `metadata`, `pb`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;

use super::{
    entry::{EntryError, Frame, FrameKey},
    types::{self, BadMessage, LogId, StoredVoters},
};
use crate::{
    base::{
        limits::{BATCH_HEADER_BYTES, METADATA_BATCH_BYTES_MAX},
        ports::{File, Fs, OpenMode},
    },
    metadata::{
        Image, Position, Record,
        loader::{LoadError, image_of},
        record::{RecordError, decode_batch, encode_batch, encoded_len},
    },
    pb::quorum as pb,
    record::{BatchError, BatchHeader, ControlType, batch::crc32c},
};

/// Records of the image are put into frames of about this many bytes.
const FRAME_BYTES: usize = 64 * 1024;
/// No frame is larger: a single record has at most the size of a batch.
const FRAME_BYTES_MAX: usize = METADATA_BATCH_BYTES_MAX + 4096;
/// Bytes that are written or read at a time.
const IO_BYTES: usize = 256 * 1024;
/// Checkpoints that stay on disk.
const KEPT: usize = 3;

const SUFFIX: &str = ".checkpoint";
const PART_SUFFIX: &str = ".checkpoint.part";

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A frame is damaged.
    #[error(transparent)]
    Frame(#[from] EntryError),
    /// The frames are not those of a whole checkpoint.
    #[error("{0}")]
    Shape(&'static str),
    /// A frame's records cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The records make no image.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<BadMessage> for CheckpointError {
    fn from(e: BadMessage) -> Self {
        Self::Frame(e.into())
    }
}

impl From<CheckpointError> for io::Error {
    fn from(e: CheckpointError) -> Self {
        match e {
            CheckpointError::Io(e) => e,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// What a checkpoint stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// The last entry it includes.
    pub(crate) last_log_id: Option<LogId>,
    /// The voters as of that entry.
    pub(crate) voters: StoredVoters,
}

impl Header {
    pub(crate) fn position(&self) -> Position {
        types::position(self.last_log_id.as_ref())
    }

    pub(crate) fn to_pb(&self) -> pb::CheckpointHeader {
        pb::CheckpointHeader {
            last_log_id: self.last_log_id.as_ref().map(types::log_id_to_pb),
            voters_log_id: self.voters.log_id().as_ref().map(types::log_id_to_pb),
            voters: Some(types::voters_to_pb(self.voters.membership())),
        }
    }

    /// # Errors
    /// A part is senseless.
    pub(crate) fn from_pb(h: pb::CheckpointHeader) -> Result<Self, CheckpointError> {
        let voters_log_id = types::log_id_from_pb(h.voters_log_id)?;
        let voters = match h.voters.filter(|v| !v.sets.is_empty()) {
            Some(v) => StoredVoters::new(voters_log_id, types::voters_from_pb(v)?),
            None => StoredVoters::default(),
        };
        Ok(Self { last_log_id: types::log_id_from_pb(h.last_log_id)?, voters })
    }
}

/// A checkpoint on disk, held open.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointFile {
    /// The place in the log it stands for.
    pub(crate) position: Position,
    /// Its length in bytes.
    pub(crate) len: u64,
    file: Arc<dyn File>,
}

impl CheckpointFile {
    /// At most `max` bytes from `pos`; none at the end.
    pub(crate) fn read_part(&self, pos: u64, max: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(pos)).unwrap_or(max);
        let mut part = vec![0; left.min(max)];
        self.file.read_exact_at(&mut part, pos)?;
        Ok(part.into())
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// The file is damaged anywhere: nothing of it can be used.
    pub(crate) fn load(&self) -> Result<(Header, Image), CheckpointError> {
        let mut frames = FileFrames {
            source: self,
            pos: 0,
            parser: Parser::default(),
            ready: Vec::new().into_iter(),
            failure: None,
        };
        let image = image_of(self.position, &mut frames);
        if let Some(e) = frames.failure {
            return Err(e);
        }
        let header = frames.parser.finish()?;
        if header.position() != self.position {
            return Err(CheckpointError::Shape("the header names another place than the file"));
        }
        Ok((header, image?))
    }
}

/// The records of a file, frame by frame; ends at the first failure, which it keeps.
struct FileFrames<'a> {
    source: &'a CheckpointFile,
    pos: u64,
    parser: Parser,
    ready: std::vec::IntoIter<Record>,
    failure: Option<CheckpointError>,
}

impl FileFrames<'_> {
    fn more(&mut self) -> Result<Option<Vec<Record>>, CheckpointError> {
        loop {
            if let Some(records) = self.parser.take()? {
                return Ok(Some(records));
            }
            let part = self.source.read_part(self.pos, IO_BYTES)?;
            if part.is_empty() {
                return Ok(None);
            }
            self.pos += part.len() as u64;
            self.parser.push(&part);
        }
    }
}

impl Iterator for &mut FileFrames<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while self.failure.is_none() {
            if let Some(record) = self.ready.next() {
                return Some(record);
            }
            match self.more() {
                Ok(Some(records)) => self.ready = records.into_iter(),
                Ok(None) => return None,
                Err(e) => self.failure = Some(e),
            }
        }
        None
    }
}

/// Reads a checkpoint from bytes as they come.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    bytes: BytesMut,
    frames: i64,
    chain: u32,
    header: Option<Header>,
    whole: bool,
}

impl Parser {
    /// Adds bytes. To be followed by [`Parser::take`] until it has nothing more.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The records of the next whole frame that has any; `None` if more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no checkpoint.
    pub(crate) fn take(&mut self) -> Result<Option<Vec<Record>>, CheckpointError> {
        while self.bytes.len() >= BATCH_HEADER_BYTES {
            let head = BatchHeader::read(&self.bytes).map_err(EntryError::from)?;
            if head.size > FRAME_BYTES_MAX {
                return Err(CheckpointError::Shape("a frame is larger than any may be"));
            }
            if self.bytes.len() < head.size {
                return Ok(None);
            }
            let frame = Frame::decode(&self.bytes.split_to(head.size).freeze())?;
            if self.whole || frame.offset != self.frames {
                return Err(CheckpointError::Shape("a frame is missing or out of order"));
            }
            let before = self.chain;
            self.chain = link(self.chain, head.crc);
            self.frames += 1;
            match (frame.key, self.header.is_some()) {
                (FrameKey::Control(ControlType::SnapshotHeader), false) => {
                    let header = pb::CheckpointHeader::decode(frame.value)
                        .map_err(|_| CheckpointError::Shape("the header is malformed"))?;
                    self.header = Some(Header::from_pb(header)?);
                }
                (FrameKey::Control(ControlType::SnapshotFooter), true) => {
                    if frame.value[..] != before.to_be_bytes() {
                        return Err(CheckpointError::Shape("the footer's checksum differs"));
                    }
                    self.whole = true;
                }
                (FrameKey::Data(_), true) => return Ok(Some(decode_batch(frame.value)?)),
                _ => return Err(CheckpointError::Shape("a frame of another kind was expected")),
            }
        }
        Ok(None)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The checkpoint is not whole.
    pub(crate) fn finish(self) -> Result<Header, CheckpointError> {
        let whole = self.whole && !self.bytes.has_remaining();
        self.header.filter(|_| whole).ok_or(CheckpointError::Shape("the checkpoint is cut short"))
    }
}

/// The checksum over all frames: each frame's own is chained to those before.
fn link(chain: u32, crc: u32) -> u32 {
    crc32c(&((u64::from(chain) << 32) | u64::from(crc)).to_be_bytes())
}

/// The checkpoints of one metadata directory.
#[derive(Debug)]
pub(crate) struct CheckpointDir {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
}

fn name(at: Position, suffix: &str) -> String {
    format!("{:020}-{:010}{suffix}", at.offset.max(0), at.epoch.max(0))
}

fn parse_name(name: &str) -> Option<Position> {
    let (offset, epoch) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(offset, 20) || !digits(epoch, 10) {
        return None;
    }
    Some(Position { offset: offset.parse().ok()?, epoch: epoch.parse().ok()? })
}

impl CheckpointDir {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path) -> Self {
        Self { fs, dir: dir.to_owned() }
    }

    /// Where they lie, newest first.
    fn list(&self) -> io::Result<Vec<Position>> {
        let entries = match self.fs.read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries?,
        };
        let mut found: Vec<_> = entries.iter().filter_map(|e| parse_name(&e.name)).collect();
        // The one at 0-0 was written by formatting: it names voters and holds no image.
        found.retain(|at| (at.offset, at.epoch) != (0, 0));
        found.sort_unstable();
        found.reverse();
        Ok(found)
    }

    /// Opens the checkpoint at `at`.
    pub(crate) fn open(&self, at: Position) -> io::Result<CheckpointFile> {
        let file = self.fs.open(&self.dir.join(name(at, SUFFIX)), OpenMode::Read)?;
        Ok(CheckpointFile { position: at, len: file.len()?, file })
    }

    /// The newest checkpoint that is whole; damaged ones are named in the log and passed over.
    pub(crate) fn newest(&self) -> io::Result<Option<(CheckpointFile, Header, Image)>> {
        for at in self.list()? {
            let file = self.open(at)?;
            match file.load() {
                Ok((header, image)) => return Ok(Some((file, header, image))),
                Err(CheckpointError::Io(e)) => return Err(e),
                Err(e) => tracing::error!(
                    file = %self.dir.join(name(at, SUFFIX)).display(),
                    "the checkpoint is damaged and passed over: {e}"
                ),
            }
        }
        Ok(None)
    }

    /// Opens the newest checkpoint, unread.
    pub(crate) fn newest_file(&self) -> io::Result<Option<CheckpointFile>> {
        self.list()?.first().map(|at| self.open(*at)).transpose()
    }

    /// Removes what an interrupted writer left.
    pub(crate) fn remove_parts(&self) -> io::Result<()> {
        let entries = match self.fs.read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries.iter().filter(|e| e.name.ends_with(PART_SUFFIX)) {
            self.fs.remove_file(&self.dir.join(&entry.name))?;
        }
        Ok(())
    }

    /// Writes `image` with `header` durably and removes checkpoints beyond the newest few.
    ///
    /// # Errors
    /// The disk failed; no checkpoint of that name is there, or the one before.
    pub(crate) fn write(
        &self,
        header: &Header,
        image: &Image,
        now_ms: i64,
    ) -> Result<CheckpointFile, CheckpointError> {
        let at = header.position();
        let part = self.dir.join(name(at, PART_SUFFIX));
        let mut out = Writer::start(self.fs.open(&part, OpenMode::Truncate)?, at, now_ms);
        out.frame(
            FrameKey::Control(ControlType::SnapshotHeader),
            header.to_pb().encode_to_vec().into(),
        )?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in image.to_records() {
            bytes += encoded_len(&record);
            records.push(record);
            if bytes >= FRAME_BYTES {
                out.frame(FrameKey::Data(at.epoch), encode_batch(&records))?;
                records.clear();
                bytes = 0;
            }
        }
        if !records.is_empty() {
            out.frame(FrameKey::Data(at.epoch), encode_batch(&records))?;
        }
        let chain = Bytes::copy_from_slice(&out.chain.to_be_bytes());
        out.frame(FrameKey::Control(ControlType::SnapshotFooter), chain)?;
        out.finish()?;
        Ok(self.adopt(at)?)
    }

    /// Gives a whole, synced `.part` its name.
    fn adopt(&self, at: Position) -> io::Result<CheckpointFile> {
        let part = self.dir.join(name(at, PART_SUFFIX));
        self.fs.rename(&part, &self.dir.join(name(at, SUFFIX)))?;
        self.fs.sync_dir(&self.dir)?;
        for old in self.list()?.into_iter().skip(KEPT) {
            self.fs.remove_file(&self.dir.join(name(old, SUFFIX)))?;
        }
        self.open(at)
    }
}

/// Writes frames.
struct Writer {
    file: Arc<dyn File>,
    at: Position,
    now_ms: i64,
    pos: u64,
    buffer: Vec<u8>,
    frames: i64,
    chain: u32,
}

impl Writer {
    fn start(file: Arc<dyn File>, at: Position, now_ms: i64) -> Self {
        Self { file, at, now_ms, pos: 0, buffer: Vec::new(), frames: 0, chain: 0 }
    }

    fn frame(&mut self, key: FrameKey, value: Bytes) -> Result<(), CheckpointError> {
        let frame = Frame {
            offset: self.frames,
            epoch: self.at.epoch.max(0),
            timestamp_ms: self.now_ms,
            key,
            value,
        };
        let batch = frame.encode()?;
        let crc = BatchHeader::read(&batch).map_err(|e: BatchError| EntryError::from(e))?.crc;
        self.chain = link(self.chain, crc);
        self.frames += 1;
        self.buffer.extend_from_slice(&batch);
        if self.buffer.len() >= IO_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&[&self.buffer], self.pos)?;
        self.pos += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync()
    }
}

/// A checkpoint that a peer sends, while it comes in. Checked frame by frame; what is not whole
/// never gets a checkpoint's name.
#[derive(Debug)]
pub(crate) struct Incoming {
    home: Arc<CheckpointDir>,
    at: Position,
    file: Arc<dyn File>,
    pos: u64,
    total: u64,
    parser: Parser,
}

impl Incoming {
    /// Begins to receive the checkpoint of `total` bytes at `at`.
    pub(crate) fn start(home: &Arc<CheckpointDir>, at: Position, total: u64) -> io::Result<Self> {
        home.fs.create_dir_all(&home.dir)?;
        let file = home.fs.open(&home.dir.join(name(at, PART_SUFFIX)), OpenMode::Truncate)?;
        Ok(Self { home: Arc::clone(home), at, file, pos: 0, total, parser: Parser::default() })
    }

    /// Adds the next bytes.
    pub(crate) fn add(mut self, bytes: &[u8]) -> io::Result<Self> {
        if self.pos.saturating_add(bytes.len() as u64) > self.total {
            return Err(CheckpointError::Shape("more bytes than announced").into());
        }
        self.file.write_all_at(&[bytes], self.pos)?;
        self.pos += bytes.len() as u64;
        self.parser.push(bytes);
        while self.parser.take()?.is_some() {}
        Ok(self)
    }

    /// Ends the transfer: the checkpoint is whole and durable.
    pub(crate) fn finish(self) -> io::Result<(CheckpointFile, Header)> {
        let header = self.parser.finish()?;
        if self.pos != self.total || header.position() != self.at {
            return Err(CheckpointError::Shape("another checkpoint than announced").into());
        }
        self.file.sync()?;
        Ok((self.home.adopt(self.at)?, header))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        base::{NodeId, Uuid},
        os::OsFs,
        quorum::types::{Peer, Voters},
    };

    fn image(topics: u8, at: Position) -> Image {
        let records = (0..topics).flat_map(|n| {
            let name: Arc<str> = format!("topic-{n}").into();
            [
                Record::Topic { name: name.clone(), id: Uuid([n + 100; 16]) },
                Record::Config {
                    resource: crate::metadata::ConfigResource::topic(&*name),
                    key: "retention.ms".into(),
                    value: Some("x".repeat(2000)),
                },
            ]
        });
        image_of(at, records).unwrap()
    }

    fn header(at: Position) -> Header {
        let nodes = BTreeMap::from([(NodeId(1), Peer::default())]);
        let voters = Voters::new(vec![nodes.keys().copied().collect()], nodes).unwrap();
        Header {
            last_log_id: types::log_id_at(at),
            voters: StoredVoters::new(Some(types::log_id(0, 0)), voters),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = CheckpointDir::new(Arc::new(OsFs), tmp.path());
        assert!(dir.newest().unwrap().is_none());
        for offset in 1..=5 {
            let at = Position { offset, epoch: 2 };
            dir.write(&header(at), &image(100, at), 5).unwrap();
        }
        let at = Position { offset: 5, epoch: 2 };
        let (file, head, loaded) = dir.newest().unwrap().unwrap();
        assert_eq!((file.position, head, loaded), (at, header(at), image(100, at)));
        assert_eq!(dir.list().unwrap().len(), KEPT);
        assert_eq!(name(at, SUFFIX), "00000000000000000005-0000000002.checkpoint");
    }

    #[test]
    fn damage_anywhere_is_noticed_and_an_older_one_is_taken() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = Arc::new(CheckpointDir::new(Arc::new(OsFs), tmp.path()));
        let (old, new) = (Position { offset: 1, epoch: 1 }, Position { offset: 9, epoch: 1 });
        dir.write(&header(old), &image(1, old), 5).unwrap();
        let file = dir.write(&header(new), &image(3, new), 5).unwrap();
        let good = file.read_part(0, 1 << 20).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut parser = Parser::default();
            parser.push(&good[..at]);
            let early = std::iter::from_fn(|| parser.take().transpose()).all(|r| r.is_ok());
            assert!(!early || parser.finish().is_err(), "cut at {at}");
        }
        let path = tmp.path().join(name(new, SUFFIX));
        OsFs.open(&path, OpenMode::ReadWrite).unwrap().write_all_at(&[&[0xaa; 3]], 500).unwrap();
        assert_eq!(dir.newest().unwrap().unwrap().0.position, old);
    }

    #[test]
    fn a_transfer_is_taken_whole_or_not() {
        let tmp = tempfile::tempdir().unwrap();
        let from = CheckpointDir::new(Arc::new(OsFs), tmp.path());
        let at = Position { offset: 7, epoch: 3 };
        let file = from.write(&header(at), &image(150, at), 5).unwrap();
        let bytes = file.read_part(0, usize::MAX).unwrap();
        let to = Arc::new(CheckpointDir::new(Arc::new(OsFs), &tmp.path().join("other")));
        let half = Incoming::start(&to, at, file.len).unwrap().add(&bytes[..1000]).unwrap();
        assert!(half.finish().is_err());
        assert!(to.newest().unwrap().is_none());
        let mut whole = Incoming::start(&to, at, file.len).unwrap();
        for part in bytes.chunks(999) {
            whole = whole.add(part).unwrap();
        }
        let (_, head) = whole.finish().unwrap();
        assert_eq!(head, header(at));
        assert_eq!(to.newest().unwrap().unwrap().2, image(150, at));
        to.remove_parts().unwrap();
    }
}
