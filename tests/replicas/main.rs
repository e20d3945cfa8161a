//! What an operator does with replicas, on real processes: limits of replication traffic, records
//! that are deleted everywhere, directories that take no new replicas.

mod cluster;
mod deletion;
mod directories;
mod throttle;
