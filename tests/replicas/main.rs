//! What an operator does with replicas, on real processes: limits of replication traffic, records
//! that are deleted everywhere, directories that take no new replicas, moves between directories.

mod cluster;
mod deletion;
mod directories;
mod moves;
mod throttle;
