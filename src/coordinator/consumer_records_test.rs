//! The records of consumer groups, byte for byte. Test code only.

use bytes::Bytes;

use super::{
    calls::{Client, Protocol},
    consumer_records::{
        Change, ClassicMember, ConsumerRecord, CurrentValue, Epochs, GroupEpoch, MemberValue,
        ResolvedRegex, TargetEpoch,
    },
    records::Record,
};
use crate::base::Uuid;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|d| u8::try_from(d[0] * 16 + d[1]).unwrap()).collect()
}

fn topic() -> Uuid {
    Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
}

fn member() -> MemberValue {
    MemberValue {
        instance_id: Some("i".into()),
        rack: None,
        client: Client { id: "c".into(), host: "/h".into() },
        topics: ["a".into(), "b".into()].into(),
        regex: Some("".into()),
        rebalance_timeout_ms: 300_000,
        assignor: None,
        classic: None,
    }
}

/// Key and value as Kafka's message generator lays them out.
fn golden() -> Vec<(Change, &'static str, &'static str)> {
    let classic = ClassicMember {
        session_timeout_ms: 45_000,
        protocols: vec![Protocol { name: "r".into(), metadata: Bytes::from_static(b"xy") }],
    };
    vec![
        (
            Change::Epoch(Some(GroupEpoch { epoch: 7, metadata_hash: 0 })),
            "0003000167",
            "0000 00000007 00",
        ),
        (
            Change::Epoch(Some(GroupEpoch { epoch: 7, metadata_hash: 5 })),
            "0003000167",
            "0000 00000007 01 00 08 0000000000000005",
        ),
        (
            Change::TargetEpoch(Some(TargetEpoch { epoch: 7, timestamp_ms: 9 })),
            "0006000167",
            "0000 00000007 01 00 08 0000000000000009",
        ),
        (
            Change::Member("m".into(), Some(member())),
            "0005000167 00016d",
            "0000 0269 00 0263 032f68 03 0261 0262 01 000493e0 00 00",
        ),
        (
            Change::Member("m".into(), Some(MemberValue { classic: Some(classic), ..member() })),
            "0005000167 00016d",
            "0000 0269 00 0263 032f68 03 0261 0262 01 000493e0 00 \
             01 00 0d 01 0000afc8 02 0272 037879 00 00",
        ),
        (
            Change::Target(
                "m".into(),
                Some(std::sync::Arc::new([(topic(), [0, 2].into())].into())),
            ),
            "0007000167 00016d",
            "0000 02 0102030405060708090a0b0c0d0e0f10 03 00000000 00000002 00 00",
        ),
        (
            Change::Current(
                "m".into(),
                Some(CurrentValue {
                    epoch: 7,
                    previous_epoch: 6,
                    state: 1,
                    assigned: [(topic(), [(0, 7)].into())].into(),
                    revoking: Epochs::new(),
                }),
            ),
            "0008000167 00016d",
            "0000 00000007 00000006 01 02 0102030405060708090a0b0c0d0e0f10 02 00000000 \
             01 00 05 02 00000007 01 00",
        ),
        (
            Change::Regex(
                "a.*".into(),
                Some(ResolvedRegex { topics: ["ab".into()].into(), version: 3, timestamp_ms: 4 }),
            ),
            "0010000167 0003612e2a",
            "0000 02 036162 0000000000000003 0000000000000004 00",
        ),
    ]
}

#[test]
fn records_are_kafkas_to_the_byte() {
    for (change, key, value) in golden() {
        let record = Record::Consumer(ConsumerRecord { group: "g".into(), change });
        let (k, v) = record.encode().unwrap();
        assert_eq!((k.to_vec(), v.map(|v| v.to_vec())), (hex(key), Some(hex(value))));
        assert_eq!(Record::decode(&hex(key), Some(&hex(value))), Ok(Some(record)));
        let gone = Record::decode(&hex(key), None).unwrap().unwrap();
        assert_eq!(gone.encode().unwrap(), (k, None));
        for cut in 0..hex(value).len() {
            assert!(Record::decode(&hex(key), Some(&hex(value)[..cut])).is_err(), "{value}");
        }
    }
}

#[test]
fn partitions_without_epochs_have_the_members() {
    let value = "0000 00000007 00000006 00 02 0102030405060708090a0b0c0d0e0f10 02 00000003 \
                 00 01 00";
    let read = Record::decode(&hex("0008000167 00016d"), Some(&hex(value))).unwrap();
    let Some(Record::Consumer(ConsumerRecord { change, .. })) = read else { panic!() };
    let Change::Current(_, Some(current)) = change else { panic!() };
    assert_eq!(current.assigned, [(topic(), [(3, 7)].into())].into());
}
