//! The replicas of this broker: who leads, what is committed, who waits for it, and the fetch
//! sessions. Machines are pure; `table.rs` holds the only locks; drivers do the periodic work.
//! Uses `base`, `config`, `record`, `log`, `metadata`.

mod answer;
pub mod bell;
pub mod brokers;
pub mod cleaner_driver;
pub mod cut_off_driver;
pub mod dirs;
pub mod fetch_driver;
pub mod fetch_frames;
pub mod fetch_plan;
pub mod fetch_session;
mod fetcher_driver;
pub mod follower;
pub mod isr_driver;
pub mod isr_queue;
pub mod late_txns_driver;
pub mod leader;
#[cfg(test)]
mod leader_test;
pub mod life;
pub mod lost_driver;
pub mod moves;
pub mod moves_driver;
pub mod partition;
mod partition_follow;
pub mod partition_lead;
mod partition_read;
pub mod publish;
pub mod quota;
pub mod settings;
pub mod table;
mod timed;
mod turned_away;
pub mod txn;
pub mod upkeep_driver;
pub mod waiters;
