//! The replicas of this broker: who leads, what is committed, who waits for it, and the fetch
//! sessions. Machines are pure; `table.rs` holds the only locks; drivers do the periodic work.
//! Uses `base`, `config`, `record`, `log`, `metadata`.

pub mod dirs;
pub mod fetch_session;
pub mod partition;
pub mod publish;
pub mod settings;
pub mod table;
mod timed;
pub mod upkeep_driver;
pub mod waiters;
