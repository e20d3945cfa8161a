//! The API table, handlers, forwarding to the controller: what a broker does for its clients,
//! and a controller for those who ask it directly. Each request is one row of `api::ROWS`.

pub(crate) mod api;
pub mod context;
mod controller;
pub mod dispatch;
mod end_offsets;
mod forward;
pub mod producer_ids;
pub mod turns;
pub mod txn_verifier;

pub use context::Broker;
pub use controller::Controller;
pub use dispatch::Clients;
