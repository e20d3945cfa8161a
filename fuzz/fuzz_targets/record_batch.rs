//! Any bytes as record batches: walking them ends, stays within them, and agrees with reading each
//! header on its own.
//!
//! `cargo +nightly fuzz run record_batch`
#![no_main]

use libfuzzer_sys::fuzz_target;
use vltava::record::batch::{BatchHeader, batches, check_crc};

fuzz_target!(|data: &[u8]| {
    let mut walked = 0;
    for batch in batches(data) {
        let Ok((header, bytes)) = batch else { return };
        assert_eq!(BatchHeader::read(bytes), Ok(header));
        walked += bytes.len();
        assert!(!bytes.is_empty() && walked <= data.len());
        let _ = check_crc(&header, bytes);
        let _ = (header.last_offset(), header.next_offset(), header.last_sequence());
        let _ = (header.codec(), header.is_control(), header.delete_horizon_ms());
    }
});
