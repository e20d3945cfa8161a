//! `visible`: a consumer is given nothing from above the high watermark, nothing that is not
//! committed, and no bytes that are damaged.

use vltava::base::Offset;

use crate::{net::Key, records, world::World};

const ID: &str = "visible";

impl World {
    pub fn check_visible(
        &mut self,
        b: usize,
        key: Key,
        from: Offset,
        bytes: &[u8],
        high_watermark: Offset,
    ) {
        let found = match records::decode(bytes) {
            Ok(found) => found,
            Err(e) => {
                self.violate(ID, format!("broker {b} {key:?} from {from}: {e}"));
                return;
            }
        };
        let committed = self.oracle.committed_end(key);
        for (offset, rec) in found {
            if offset >= high_watermark || offset >= committed {
                let text = format!(
                    "broker {b} {key:?} serves {offset}; its high watermark is {high_watermark}, \
                     committed to {committed}"
                );
                self.violate(ID, text);
                return;
            }
            self.check_known(key, offset, rec.value, "served");
        }
    }
}
