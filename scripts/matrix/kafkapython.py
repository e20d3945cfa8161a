"""The kafka-python leg (pure Python)."""
import functools
import threading
import time

from kafka import (
    KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, OffsetSpec, TopicPartition,
)
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, MessageSizeTooLargeError, OffsetOutOfRangeError, TopicAlreadyExistsError

import scenario
from scenario import CODECS, check, equal, until

CLIENT = "kafkapython"


@functools.cache
def admin(boot):
    return KafkaAdminClient(bootstrap_servers=boot)


def create(boot, topic, partitions=1, configs=None):
    admin(boot).create_topics({topic: {"num_partitions": partitions, "replication_factor": scenario.REPLICAS,
                                       "configs": configs or {}}}, wait_for_metadata=True)


def produce(boot, topic, records, **conf):
    """Sends `records` (keyword arguments of `send`); gives the offsets of the deliveries."""
    p = KafkaProducer(bootstrap_servers=boot, linger_ms=5, **conf)
    futures = [p.send(topic, **r) for r in records]
    p.flush(30)
    offsets = [f.get(30).offset for f in futures]
    p.close(5)
    return offsets


def reader(boot, **conf):
    return KafkaConsumer(bootstrap_servers=boot, **{
        "enable_auto_commit": False, "auto_offset_reset": "none", **conf})


def take(c, count, seconds=20.0):
    out = []
    end = time.monotonic() + seconds
    while len(out) < count:
        check(time.monotonic() < end, f"only {len(out)} of {count} records in {seconds} s")
        for records in c.poll(timeout_ms=500).values():
            out.extend(records)
    return out[:count]


def read_all(boot, topic, **conf):
    c, tp = reader(boot, **conf), TopicPartition(topic, 0)
    c.assign([tp])
    low, high = c.beginning_offsets([tp])[tp], c.end_offsets([tp])[tp]
    c.seek(tp, low)
    out = take(c, high - low)
    equal([m.offset for m in out], list(range(low, high)), "offsets")
    c.close()
    return out


def codec(name):
    def go(boot, topic):
        values = [scenario.text(CLIENT, i) for i in range(200)]
        produce(boot, topic, [{"value": v.encode()} for v in values],
                compression_type=None if name == "none" else name)
        got = [m.value.decode() for m in read_all(boot, topic)]
        writers = [scenario.check_text(v) for v in got]
        equal([v for v, w in zip(got, writers) if w == CLIENT], values, "own records")
    return go


def fields(boot, topic):
    now = int(time.time() * 1000) - 5000
    records = [
        {"key": b"k0", "value": b"v0", "timestamp_ms": now, "headers": [("h", b"1"), ("h", b"2")]},
        {"key": b"k1", "value": None, "timestamp_ms": now + 1},
        {"key": None, "value": "ünï".encode(), "timestamp_ms": now + 2, "headers": [("nil", b"\x00")]},
        {"key": b"", "value": b"", "timestamp_ms": now + 3, "headers": [("empty", b"")]},
    ]
    create(boot, topic)
    produce(boot, topic, records)
    got = [(m.key, m.value, m.timestamp, m.timestamp_type, list(m.headers))
           for m in read_all(boot, topic)]
    want = [(r["key"], r["value"], r["timestamp_ms"], 0, r.get("headers", [])) for r in records]
    equal(got, want, "records")


def acks(boot, topic):
    create(boot, topic)
    tp = TopicPartition(topic, 0)
    c = reader(boot)
    for n, level in enumerate([0, 1, "all"]):
        p = KafkaProducer(bootstrap_servers=boot, acks=level, enable_idempotence=False)
        for i in range(50):
            p.send(topic, f"{level}-{i}".encode())
        p.flush(30)
        p.close(5)
        until(lambda: c.end_offsets([tp])[tp] == 50 * (n + 1), f"50 records after acks={level}")
    got = [m.value.decode() for m in read_all(boot, topic)]
    equal(got, [f"{a}-{i}" for a in ["0", "1", "all"] for i in range(50)], "records")


def idempotent(boot, topic):
    create(boot, topic)
    values = [str(i).encode() for i in range(2000)]
    offsets = produce(boot, topic, [{"value": v} for v in values],
                      enable_idempotence=True, acks="all", batch_size=500)
    equal(offsets, list(range(2000)), "offsets of the deliveries")
    equal([m.value for m in read_all(boot, topic)], values, "records")


def group(boot, topic):
    create(boot, topic, partitions=4)
    produce(boot, topic, [{"value": str(i).encode(), "partition": i % 4} for i in range(40)])
    conf = {"group_id": topic, "auto_offset_reset": "earliest", "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 500}
    first, second, seen = reader(boot, **conf), reader(boot, **conf), []

    def poll(*members):
        for c in members:
            for records in c.poll(timeout_ms=200).values():
                seen.extend(r.value.decode() for r in records)
    first.subscribe([topic])
    until(lambda: poll(first) or len(seen) == 40, "40 records by one member")
    equal(sorted(seen, key=int), [str(i) for i in range(40)], "records")
    first.commit()
    second.subscribe([topic])
    sizes = lambda: sorted([len(first.assignment()), len(second.assignment())])
    until(lambda: poll(first, second) or sizes() == [2, 2], "two partitions for each member")
    owned = {p.partition for c in (first, second) for p in c.assignment()}
    equal(owned, {0, 1, 2, 3}, "partitions owned")
    described = admin(boot).describe_groups([topic])[topic]
    equal((described["group_state"], len(described["members"])), ("Stable", 2), "state, members")
    second.close()
    until(lambda: poll(first) or len(first.assignment()) == 4, "all four back to the first")
    first.close()
    equal(len(seen), 40, "records seen after the rebalances")
    produce(boot, topic, [{"value": str(40 + i).encode(), "partition": i % 4} for i in range(8)])
    third = reader(boot, **conf)
    third.subscribe([topic])
    got = sorted(int(m.value) for m in take(third, 8))
    equal(got, list(range(40, 48)), "records after the committed offsets")
    third.commit()
    equal([third.committed(TopicPartition(topic, p)) for p in range(4)], [12] * 4, "committed")
    third.close()
    listed = [g["group_id"] for g in admin(boot).list_groups()]
    check(topic in listed, "the group is not listed:", listed)
    offsets = admin(boot).list_group_offsets(topic)[topic]
    equal({o.offset for o in offsets.values()}, {12}, "offsets by the admin client")
    equal(admin(boot).delete_groups([topic]), {topic: "OK"}, "deleting the group")


def admin_topics(boot, topic):
    a = admin(boot)
    create(boot, topic, partitions=3, configs={"retention.ms": "3600000"})
    described = a.describe_topics([topic])[0]
    equal(sorted(p["partition_index"] for p in described["partitions"]), [0, 1, 2], "partitions")
    try:
        create(boot, topic)
        raise AssertionError("the topic was created twice")
    except TopicAlreadyExistsError:
        pass
    a.create_partitions({topic: 5})
    until(lambda: len(a.describe_topics([topic])[0]["partitions"]) == 5, "5 partitions")
    cluster = a.describe_cluster()
    equal(len(cluster["brokers"]), scenario.REPLICAS, "nodes")
    check(cluster["cluster_id"], "a cluster id")
    a.delete_topics([topic])
    until(lambda: topic not in a.list_topics(), "the topic to go")


def configs(boot, topic):
    create(boot, topic)

    def value():
        found = admin(boot).describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
        return found["topic"][topic]["retention.ms"]["value"]
    change = lambda to: admin(boot).alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": to})])
    equal(value(), "604800000", "retention.ms by default")
    equal(change("123456"), {"topic": {topic: "OK"}}, "altering it")
    until(lambda: value() == "123456", "the altered value")
    refused = change("soon")["topic"][topic]
    check("InvalidConfig" in refused, "a value that is no number:", refused)


def list_offsets(boot, topic):
    create(boot, topic)
    base = 1_700_000_000_000
    produce(boot, topic, [{"value": str(i).encode(), "timestamp_ms": base + i * 1000}
                          for i in range(10)])
    tp = TopicPartition(topic, 0)
    ask = lambda spec: admin(boot).list_partition_offsets({tp: spec})[tp].offset
    equal(ask(OffsetSpec.EARLIEST), 0, "earliest")
    equal(ask(OffsetSpec.LATEST), 10, "latest")
    equal(ask(base + 3500), 4, "by timestamp")
    equal(ask(OffsetSpec.MAX_TIMESTAMP), 9, "max timestamp")


def auto_create(boot, topic):
    produce(boot, topic, [{"value": b"first"}])
    equal([m.value for m in read_all(boot, topic)], [b"first"], "records")


def large(boot, topic):
    create(boot, topic)
    values = [bytes([65 + i]) * 900_000 for i in range(3)]
    produce(boot, topic, [{"value": v} for v in values])
    equal([m.value for m in read_all(boot, topic)], values, "records")


def seek_time(boot, topic):
    create(boot, topic)
    base, tp = 1_700_000_000_000, TopicPartition(topic, 0)
    produce(boot, topic, [{"value": str(i).encode(), "timestamp_ms": base + i * 1000}
                          for i in range(100)], batch_size=300)
    c = reader(boot)
    c.assign([tp])
    equal(c.offsets_for_times({tp: base + 41_500})[tp].offset, 42, "a time between two records")
    past = c.offsets_for_times({tp: base + 1_000_000})[tp]
    check(past is None or past.offset == -1, "a time past the end:", past)
    c.seek(tp, c.offsets_for_times({tp: base + 60_000})[tp].offset)
    equal([m.value.decode() for m in take(c, 40)], [str(i) for i in range(60, 100)], "records")
    c.close()


def long_poll(boot, topic):
    create(boot, topic)
    c, tp = reader(boot, fetch_max_wait_ms=8000), TopicPartition(topic, 0)
    c.assign([tp])
    c.seek(tp, 0)
    equal(c.poll(timeout_ms=1500), {}, "records out of nothing")
    produce(boot, topic, [{"value": b"wake"}])
    began = time.monotonic()
    equal(take(c, 1)[0].value, b"wake", "the record")
    took = time.monotonic() - began
    check(took < 2.0, f"a waiting fetch took {took:.1f} s to see a new record")
    c.close()


def delete_records(boot, topic):
    create(boot, topic)
    tp = TopicPartition(topic, 0)
    produce(boot, topic, [{"value": str(i).encode()} for i in range(10)])
    result = admin(boot).delete_records({tp: 6})
    equal(result[tp]["low_watermark"], 6, "low watermark")
    equal([m.value for m in read_all(boot, topic)], [b"6", b"7", b"8", b"9"], "what is left")
    c = reader(boot)
    c.assign([tp])
    c.seek(tp, 2)
    try:
        take(c, 1, seconds=10)
        raise AssertionError("a deleted record was read")
    except OffsetOutOfRangeError:
        pass


def no_auto_create(boot, topic):
    c = reader(boot, allow_auto_create_topics=False)
    c.assign([TopicPartition(topic, 0)])
    equal(c.partitions_for_topic(topic) or set(), set(), "partitions of an unknown topic")
    c.close()
    check(topic not in admin(boot).list_topics(), "the topic was created")


def too_large(boot, topic):
    create(boot, topic)
    try:
        produce(boot, topic, [{"value": b"x" * 2_000_000}], max_request_size=5_000_000)
        raise AssertionError("a record over the limit was taken")
    except MessageSizeTooLargeError:
        pass
    produce(boot, topic, [{"value": b"fits"}])
    equal([m.value for m in read_all(boot, topic)], [b"fits"], "records")


class Member:
    """A consumer that is polled by a thread of its own. (kafka-python 3 sends no more heartbeats after a
    rebalance that its poll did not wait for: two members must not be polled in turns.)"""

    def __init__(self, boot, topic, **conf):
        self.consumer, self.ending = reader(boot, **conf), threading.Event()
        self.consumer.subscribe([topic])
        self.thread = threading.Thread(target=self.poll, daemon=True)
        self.thread.start()

    def poll(self):
        while not self.ending.is_set():
            self.consumer.poll(timeout_ms=3000)

    def close(self):
        self.ending.set()
        self.thread.join()
        self.consumer.close()


def static(boot, topic):
    """A member with an instance id is back under the same id without a rebalance."""
    create(boot, topic, partitions=2)
    conf = {"group_id": topic, "auto_offset_reset": "earliest", "session_timeout_ms": 10000,
            "heartbeat_interval_ms": 500}
    join = lambda name: Member(boot, topic, **conf, group_instance_id=name)
    first, second = join("one"), join("two")
    settled = lambda: time.sleep(0.05) or [len(m.consumer.assignment()) for m in (first, second)] == [1, 1]
    until(settled, "a partition for each member")
    had = set(second.consumer.assignment())
    second.close()
    second = join("two")
    until(settled, "its partition again")
    equal(set(second.consumer.assignment()), had, "the partition")
    first.close()
    second.close()


def transactional(boot, name):
    p = KafkaProducer(bootstrap_servers=boot, transactional_id=name)
    p.init_transactions()
    return p


def transactions(boot, topic):
    create(boot, topic)
    p = transactional(boot, topic)

    def send(*values):
        for v in values:
            p.send(topic, v)
        p.flush(30)
    p.begin_transaction()
    send(b"a0", b"a1")
    p.abort_transaction()
    p.begin_transaction()
    send(b"c0", b"c1")
    p.commit_transaction()
    p.begin_transaction()
    send(b"o0")

    def committed(isolation):
        c = reader(boot, isolation_level=isolation)
        c.assign([TopicPartition(topic, 0)])
        c.seek(TopicPartition(topic, 0), 0)
        return c
    c = committed("read_committed")
    equal([m.value for m in take(c, 2)], [b"c0", b"c1"], "committed records")
    equal(c.poll(timeout_ms=1000), {}, "records of an open transaction")
    got = [m.value for m in take(committed("read_uncommitted"), 5)]
    equal(got, [b"a0", b"a1", b"c0", b"c1", b"o0"], "all records")
    p.commit_transaction()
    equal([m.value for m in take(c, 1)], [b"o0"], "the record after its commit")
    p.begin_transaction()
    send(b"z0")
    second = transactional(boot, topic)
    try:
        p.commit_transaction()
        raise AssertionError("a fenced producer committed")
    except KafkaError:
        pass
    second.begin_transaction()
    second.send(topic, b"n0")
    second.commit_transaction()
    equal([m.value for m in take(c, 1)], [b"n0"], "what the new producer wrote")


def exactly_once(boot, topic):
    """Consume, transform, produce, with offsets in the transaction."""
    source, sink = f"{topic}-in", f"{topic}-out"
    create(boot, source, partitions=2)
    create(boot, sink)
    produce(boot, source, [{"value": str(i).encode(), "partition": i % 2} for i in range(40)])
    c = reader(boot, group_id=topic, auto_offset_reset="earliest", max_poll_records=10)
    p = transactional(boot, topic)
    c.subscribe([source])
    count, aborted = 0, False

    def step():
        nonlocal count, aborted
        polled = c.poll(timeout_ms=500)
        if not polled:
            return
        p.begin_transaction()
        for records in polled.values():
            for m in records:
                p.send(sink, b"x" + m.value)
        offsets = {tp: OffsetAndMetadata(c.position(tp), "", -1) for tp in polled}
        p.send_offsets_to_transaction(offsets, c.consumer_group_metadata()
                                      if hasattr(c, "consumer_group_metadata") else topic)
        if not aborted:
            aborted = True
            p.abort_transaction()
            for tp in polled:
                c.seek(tp, c.committed(tp) or 0)
            return
        p.commit_transaction()
        count += sum(len(r) for r in polled.values())
    until(lambda: step() or count >= 40, "40 records in transactions")
    c.close()
    r = reader(boot, isolation_level="read_committed")
    r.assign([TopicPartition(sink, 0)])
    r.seek(TopicPartition(sink, 0), 0)
    got = sorted(m.value.decode() for m in take(r, 40))
    equal(got, sorted(f"x{i}" for i in range(40)), "each record once")
    equal(r.poll(timeout_ms=1000), {}, "more than the 40 records")


def next_gen(boot, topic):
    raise scenario.Unsupported("kafka-python has no group.protocol=consumer (KIP-848)")


scenario.run(CLIENT, {
    **{f"codec-{name}": codec(name) for name in CODECS},
    "fields": fields, "acks": acks, "idempotent": idempotent, "group": group,
    "admin": admin_topics, "configs": configs, "list-offsets": list_offsets,
    "auto-create": auto_create, "large": large, "seek-time": seek_time, "long-poll": long_poll,
    "delete-records": delete_records, "no-auto-create": no_auto_create, "too-large": too_large,
    "static": static, "next-gen-group": next_gen, "transactions": transactions,
    "exactly-once": exactly_once,
})
