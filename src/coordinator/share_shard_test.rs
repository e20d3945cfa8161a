//! Share state as one shard decides it: fencing, snapshots, pruning, what waits for what.
