//! Framing, primitives and the message schemas of every API. Pure. Uses `base`.
//!
//! * [`codec`]: reading and writing of the protocol's primitive types, bounded by what arrived.
//! * [`fields`]: what numbers, text, lists and ids look like as bytes; [`records`]: batches.
//! * [`message`]: the `messages!` macro, with which each schema is declared in place.
//! * [`frame`]: request and response headers, the table of APIs, whole frames.
//! * [`api`]: the schemas, one file a family, mirrored by `server/api`.
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, expect(clippy::indexing_slicing, reason = "a test fails by panicking"))]

// First, for its macros are seen by what follows.
#[macro_use]
pub mod message;

pub mod api;
pub mod codec;
pub mod fields;
pub mod frame;
pub mod records;
#[cfg(any(test, feature = "sim"))]
pub mod sample;

pub use codec::{Chunk, DecodeError, EncodeError, Reader, Ver, Writer};
pub use frame::{ApiKey, RequestHeader};
pub use message::{Message, Request};
pub use records::Records;
