//! Transactions over a change of leaders: what is open stays open, and who may go on with it.

use std::sync::Arc;

use bytes::Bytes;
use vltava::{
    base::ErrorCode,
    record::{Scratch, control::EndTxnMarker, validate::Validated},
    replica::{
        late_txns_driver::LateTxns,
        partition::{Isolation, Receipt, Refusal},
        table::Slot,
        txn::VerificationGuard,
    },
    testing::{batches::Batch, clock::SimClock},
};

use crate::world::{Node, registration};

const PRODUCER: (i64, i16) = (7, 0);

fn begin(node: &Node, slot: &Slot, sequence: i32) -> Option<VerificationGuard> {
    slot.lock().begin_verification(PRODUCER, sequence, false, node.now()).unwrap()
}

/// Two records of the producer's transaction.
fn write(
    node: &Node,
    slot: &Slot,
    sequence: i32,
    guard: Option<VerificationGuard>,
) -> Result<Receipt, Refusal> {
    let batch = Batch::of(2, 10, node.now().wall_ms).by(PRODUCER.0, PRODUCER.1, sequence);
    let records = Bytes::from(batch.in_txn().bytes());
    let mut scratch = Scratch::default();
    slot.lock().produce_in_txn(&records, guard, false, 11, node.now(), &mut scratch)
}

fn refusal(done: Result<Receipt, Refusal>) -> ErrorCode {
    done.map_or_else(|r| r.code, |_| ErrorCode::None)
}

fn end(node: &Node, slot: &Arc<Slot>, commit: bool) {
    let marker = EndTxnMarker { commit, coordinator_epoch: 1 };
    let batch = marker.batch(PRODUCER.0, PRODUCER.1, node.now().wall_ms);
    let batch = Validated::built(batch).unwrap();
    // Who waits for it to be committed is of no matter here.
    drop(node.table.append_marker(slot, &batch, 1).unwrap());
}

/// The last stable offset.
fn stable(node: &Node, slot: &Slot) -> i64 {
    slot.lock().offset_for(-1, Isolation::ReadCommitted, node.now()).unwrap().offset
}

#[test]
fn an_open_transaction_goes_on_under_the_next_leader() {
    let clock = Arc::new(SimClock::new(1_000_000));
    let nodes = [1, 2, 3].map(|n| Node::new(n, &clock, false));
    let slots = [0, 1, 2].map(|n| nodes[n].make(0));
    let ([a, b, c], [sa, sb, sc]) = (&nodes, &slots);
    let elect = |leader, epoch| {
        for (node, slot) in nodes.iter().zip(&slots) {
            node.learn(slot, &registration(leader, epoch));
        }
    };
    elect(1, 1);
    assert_eq!(refusal(write(a, sa, 0, None)), ErrorCode::InvalidTxnState, "nobody was asked");
    let guard = begin(a, sa, 0);
    assert!(guard.is_some());
    assert_eq!(write(a, sa, 0, guard).unwrap().base_offset, 0);
    assert_eq!(begin(a, sa, 2), None, "it is open");
    for _ in 0..2 {
        b.catch_up(sb, a, sa);
        c.catch_up(sc, a, sa);
    }
    let high_watermark = sa.lock().high_watermark();
    assert_eq!((high_watermark, stable(a, sa)), (2, 0));

    elect(2, 2);
    let late = write(a, sa, 2, None);
    assert_eq!(refusal(late), ErrorCode::NotLeaderOrFollower);
    assert_eq!(begin(b, sb, 2), None, "it is open here too");
    assert_eq!(write(b, sb, 2, None).unwrap().base_offset, 2);
    let mut looks = LateTxns::new(60_000);
    assert_eq!(looks.look(&b.table, b.now()), 0);
    clock.advance_ms(60_000 + 300_002);
    assert_eq!(looks.look(&a.table, a.now()), 0, "it does not lead");
    assert_eq!(looks.look(&b.table, b.now()), 1);
    assert_eq!(looks.look(&b.table, b.now()), 0, "named once");

    // The marker counts once it is committed, for the followers as soon as they know.
    end(b, sb, false);
    assert_eq!(stable(b, sb), 0);
    for _ in 0..2 {
        a.catch_up(sa, b, sb);
        c.catch_up(sc, b, sb);
    }
    assert_eq!((stable(b, sb), stable(c, sc)), (5, 5));
    let aborted = sc.lock().read(0, 9999, true, Isolation::ReadCommitted, c.now());
    let aborted = aborted.unwrap().aborted.unwrap();
    assert_eq!((aborted.len(), aborted[0].producer_id, aborted[0].first_offset), (1, 7, 0));
    assert_eq!(looks.look(&b.table, b.now()), 0);
}

#[test]
fn a_marker_between_the_question_and_the_append_voids_the_answer() {
    let clock = Arc::new(SimClock::new(1_000_000));
    let node = Node::new(1, &clock, false);
    let slot = node.make(0);
    node.learn(&slot, &registration(1, 1));
    let guard = begin(&node, &slot, 0);
    end(&node, &slot, false);
    assert_eq!(refusal(write(&node, &slot, 0, guard)), ErrorCode::InvalidTxnState);
    let again = begin(&node, &slot, 0);
    assert_ne!(again, guard);
    assert_eq!(refusal(write(&node, &slot, 0, again)), ErrorCode::None);
    // The coordinator could not be asked for the next one's first batch: what follows is told so.
    end(&node, &slot, true);
    begin(&node, &slot, 2);
    slot.lock().turn_away(PRODUCER, ErrorCode::NotEnoughReplicas, node.now());
    let guard = begin(&node, &slot, 4);
    assert_eq!(refusal(write(&node, &slot, 4, guard)), ErrorCode::NotEnoughReplicas);
    assert_eq!(refusal(write(&node, &slot, 2, guard)), ErrorCode::None);
}
