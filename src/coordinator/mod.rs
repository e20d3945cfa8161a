//! Groups and committed offsets as shards over partitions.
