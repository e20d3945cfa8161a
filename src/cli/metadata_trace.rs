//! `vltava histcheck --metadata-log DIR`: the states of every partition, in order, as a node's
//! metadata log has them: `leader` events for the history checker.

use std::{fmt::Write as _, path::Path};

use crate::{
    base::ports::Fs as _,
    metadata::{Loader, PartitionDiff, Position, record::decode_batch},
    os::OsFs,
    record::{BatchHeader, Records, batch},
};

/// Longest segment that is read, in bytes.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The events of the log in `dir` (a node's `__cluster_metadata-0`), a line each. What stands behind
/// the last whole entry is not looked at.
///
/// # Errors
/// One line: the directory cannot be read, or its log does not begin with the cluster.
pub(super) fn events(dir: &Path) -> Result<String, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", dir.display());
    let entries = OsFs.read_dir(dir).map_err(|e| told(&e))?;
    let mut names: Vec<_> = entries.into_iter().map(|e| e.name).collect();
    names.retain(|n| n.ends_with(".log"));
    names.sort_unstable();
    let (mut loader, mut out) = (Loader::default(), String::new());
    let mut next = 0;
    for name in names {
        let bytes = OsFs.read(&dir.join(&name), SEGMENT_BYTES_MAX).map_err(|e| told(&e))?;
        for entry in batch::batches(&bytes) {
            let Ok((header, entry)) = entry else { break };
            if header.base_offset != next {
                let at = header.base_offset;
                return Err(told(&format!("offset {at} where {next} was next")));
            }
            next = header.last_offset() + 1;
            if !header.is_control() {
                replay(&mut loader, &header, entry, &mut out).map_err(|e| told(&e))?;
            }
        }
    }
    Ok(out)
}

fn replay(
    loader: &mut Loader,
    header: &BatchHeader,
    entry: &[u8],
    out: &mut String,
) -> Result<(), String> {
    let at = Position { offset: header.base_offset, epoch: header.partition_leader_epoch };
    let section = entry.get(batch::BATCH_BODY_AT..).unwrap_or_default();
    let record = Records::new(section, 1).next().ok_or("an entry without a record")?;
    let value = record.map_err(|e| e.to_string())?.value.unwrap_or_default();
    let records = decode_batch(value.to_vec()).map_err(|e| e.to_string())?;
    let update = loader.load_batch(at, &records).map_err(|e| e.to_string())?;
    let Some(update) = update else { return Ok(()) };
    for diff in update.delta.changed_partitions() {
        tell(&diff, out);
    }
    Ok(())
}

fn tell(diff: &PartitionDiff<'_>, out: &mut String) {
    let Some(now) = diff.new else { return };
    let ids = |nodes: &[crate::base::NodeId]| {
        nodes.iter().map(|n| n.0.to_string()).collect::<Vec<_>>().join(",")
    };
    // Names of topics have no characters that JSON escapes.
    let _ = writeln!(
        out,
        r#"{{"leader":{{"tp":["{}",{}],"node":{},"epoch":{},"pe":{},"isr":[{}],"elr":[{}],{}}}}}"#,
        diff.topic,
        diff.partition,
        now.leader.map_or(-1, |n| n.0),
        now.leader_epoch,
        now.partition_epoch,
        ids(&now.isr),
        ids(now.elr()),
        format_args!(r#""last":[{}]"#, ids(now.last_known_elr())),
    );
}
