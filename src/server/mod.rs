//! The API table, handlers, forwarding to the controller: what a broker does for its clients. Each
//! request is one row of `api::ROWS`.

pub(crate) mod api;
pub mod context;
pub mod dispatch;
mod forward;
pub mod producer_ids;

pub use context::Broker;
pub use dispatch::Clients;
