//! The follower side of replication: replicas that follow each other by direct calls, transactions
//! included, and a fetcher that follows a leader over a socket.

mod direct;
mod fetcher;
mod transactions;
mod world;
