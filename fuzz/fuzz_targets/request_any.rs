//! Any frame as a request: header, then the body of whatever API and version it names. What was
//! understood can be written again and is then understood as the same.
//!
//! `cargo +nightly fuzz run request_any`
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vltava::wire::{
    ApiKey, Message, Reader, Request,
    frame::decode_request_header,
    sample::{Sample, Visitor, every_request},
};

struct Body<'a> {
    reader: Reader<'a>,
    api: ApiKey,
    version: i16,
}

impl Visitor for Body<'_> {
    fn visit<M: Request<Response: Sample> + Sample>(&mut self) {
        if M::KEY == self.api {
            self.check::<M>();
            self.check::<M::Response>();
        }
    }
}

impl Body<'_> {
    fn check<M: Message>(&mut self) {
        if let Ok(message) = M::decode(&mut self.reader.clone(), self.version) {
            let bytes = message.to_bytes(self.version).unwrap();
            assert_eq!(M::decode(&mut Reader::new(&bytes), self.version), Ok(message));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    let mut reader = Reader::new(&frame);
    let Ok(header) = decode_request_header(&mut reader) else { return };
    let Some(api) = header.api() else { return };
    every_request(&mut Body { reader, api, version: header.version });
});
