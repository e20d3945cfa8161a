"""The confluent-kafka leg (librdkafka, current)."""
import functools
import time

from confluent_kafka import (
    OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer,
    TopicPartition, TIMESTAMP_CREATE_TIME,
)
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
    OffsetSpec, ResourceType,
)

import scenario
from scenario import CODECS, check, equal, until

CLIENT = "confluent"


@functools.cache
def admin(boot):
    return AdminClient({"bootstrap.servers": boot})


def done(futures):
    return {key: future.result(30) for key, future in futures.items()}


def create(boot, topic, partitions=1, config=None):
    done(admin(boot).create_topics([NewTopic(topic, partitions, scenario.REPLICAS, config=config or {})]))
    until(lambda: topic in admin(boot).list_topics(timeout=10).topics, "the new topic")


def produce(boot, topic, records, expect=None, **conf):
    """Sends `records` (keyword arguments of `produce`); gives the offsets of the deliveries."""
    reports = []
    p = Producer({"bootstrap.servers": boot, "linger.ms": 5, **conf})
    for r in records:
        p.produce(topic, on_delivery=lambda e, m: reports.append((e, m)), **r)
        p.poll(0)
    equal(p.flush(30), 0, "records still in the queue")
    errors = [e.code() for e, _ in reports if e is not None]
    equal(errors, expect or [], "delivery errors")
    equal(len(reports), len(records), "delivery reports")
    return [m.offset() for e, m in reports if e is None]


def reader(boot, **conf):
    return Consumer({
        "bootstrap.servers": boot, "group.id": "none", "enable.auto.commit": False,
        "auto.offset.reset": "error", "enable.partition.eof": False, **conf,
    })


def take(c, count, seconds=20.0):
    out = []
    end = time.monotonic() + seconds
    while len(out) < count:
        check(time.monotonic() < end, f"only {len(out)} of {count} records in {seconds} s")
        m = c.poll(1.0)
        if m is None:
            continue
        check(m.error() is None, "consume:", m.error())
        out.append(m)
    return out


def read_all(boot, topic, offset=OFFSET_BEGINNING, **conf):
    c = reader(boot, **conf)
    low, high = c.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
    c.assign([TopicPartition(topic, 0, offset)])
    start = low if offset == OFFSET_BEGINNING else offset
    out = take(c, high - start)
    equal([m.offset() for m in out], list(range(start, high)), "offsets")
    c.close()
    return out


def codec(name):
    def go(boot, topic):
        values = [scenario.text(CLIENT, i) for i in range(200)]
        produce(boot, topic, [{"value": v} for v in values], **{"compression.type": name})
        got = [m.value().decode() for m in read_all(boot, topic)]
        writers = [scenario.check_text(v) for v in got]
        equal([v for v, w in zip(got, writers) if w == CLIENT], values, "own records, in order")
    return go


def fields(boot, topic):
    now = int(time.time() * 1000) - 5000
    records = [
        {"key": b"k0", "value": b"v0", "timestamp": now, "headers": [("h", b"1"), ("h", b"2")]},
        {"key": b"k1", "value": None, "timestamp": now + 1},
        {"key": None, "value": "ünï".encode(), "timestamp": now + 2, "headers": [("nil", None)]},
        {"key": b"", "value": b"", "timestamp": now + 3, "headers": [("empty", b"")]},
    ]
    create(boot, topic)
    produce(boot, topic, records)
    got = [(m.key(), m.value(), m.timestamp(), m.headers() or []) for m in read_all(boot, topic)]
    want = [(r["key"], r["value"], (TIMESTAMP_CREATE_TIME, r["timestamp"]), r.get("headers", []))
            for r in records]
    equal(got, want, "records")


def acks(boot, topic):
    create(boot, topic)
    for n, level in enumerate(["0", "1", "all"]):
        produce(boot, topic, [{"value": f"{level}-{i}"} for i in range(50)], acks=level)
        until(lambda: reader(boot).get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
              == 50 * (n + 1), f"50 records more after acks={level}")
    got = [m.value().decode() for m in read_all(boot, topic)]
    equal(got, [f"{a}-{i}" for a in ["0", "1", "all"] for i in range(50)], "records")


def idempotent(boot, topic):
    create(boot, topic)
    values = [str(i) for i in range(2000)]
    offsets = produce(boot, topic, [{"value": v} for v in values],
                      **{"enable.idempotence": True, "batch.num.messages": 50})
    equal(offsets, list(range(2000)), "offsets of the deliveries")
    equal([m.value().decode() for m in read_all(boot, topic)], values, "records")


def group(boot, topic):
    create(boot, topic, partitions=4)
    produce(boot, topic, [{"value": str(i), "partition": i % 4} for i in range(40)])
    conf = {"group.id": topic, "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 500}
    first, second = reader(boot, **conf), reader(boot, **conf)
    seen = []

    def poll(*members):
        for c in members:
            m = c.poll(0.2)
            if m is not None:
                check(m.error() is None, "consume:", m.error())
                seen.append(m.value().decode())
    first.subscribe([topic])
    until(lambda: poll(first) or len(seen) == 40, "40 records by one member")
    equal(sorted(seen, key=int), [str(i) for i in range(40)], "records")
    first.commit(asynchronous=False)
    second.subscribe([topic])
    sizes = lambda: sorted([len(first.assignment()), len(second.assignment())])
    until(lambda: poll(first, second) or sizes() == [2, 2], "two partitions for each member")
    owned = {p.partition for c in (first, second) for p in c.assignment()}
    equal(owned, {0, 1, 2, 3}, "partitions owned")
    described = done(admin(boot).describe_consumer_groups([topic]))[topic]
    equal((described.state.name, len(described.members)), ("STABLE", 2), "group state, members")
    second.close()
    until(lambda: poll(first) or len(first.assignment()) == 4, "all four back to the first")
    first.close()
    equal(len(seen), 40, "records seen after the rebalances")
    produce(boot, topic, [{"value": str(40 + i), "partition": i % 4} for i in range(8)])
    third = reader(boot, **conf)
    third.subscribe([topic])
    got = sorted(int(m.value()) for m in take(third, 8))
    equal(got, list(range(40, 48)), "records after the committed offsets")
    third.commit(asynchronous=False)
    committed = third.committed([TopicPartition(topic, p) for p in range(4)], timeout=10)
    equal([p.offset for p in committed], [12] * 4, "committed offsets")
    third.close()
    listed = [g.group_id for g in admin(boot).list_consumer_groups().result(10).valid]
    check(topic in listed, "the group is not listed:", listed)
    offsets = done(admin(boot).list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic)]))
    equal({p.offset for p in offsets[topic].topic_partitions}, {12}, "offsets by the admin client")
    done(admin(boot).delete_consumer_groups([topic]))


def admin_topics(boot, topic):
    a = admin(boot)
    create(boot, topic, partitions=3, config={"retention.ms": "3600000"})
    described = a.list_topics(topic, timeout=10).topics[topic]
    equal(sorted(described.partitions), [0, 1, 2], "partitions")
    again = a.create_topics([NewTopic(topic, 1, scenario.REPLICAS)])[topic]
    try:
        again.result(10)
        raise AssertionError("the topic was created twice")
    except KafkaException as e:
        equal(e.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS, "creating it again")
    done(a.create_partitions([NewPartitions(topic, 5)]))
    until(lambda: len(a.list_topics(topic, timeout=10).topics[topic].partitions) == 5, "5 partitions")
    cluster = a.describe_cluster().result(10)
    equal(len(cluster.nodes), scenario.REPLICAS, "nodes")
    check(cluster.cluster_id and cluster.controller is not None, "cluster id and controller")
    done(a.delete_topics([topic]))
    until(lambda: topic not in a.list_topics(timeout=10).topics, "the topic to go")


def configs(boot, topic):
    a = admin(boot)
    create(boot, topic)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    value = lambda key: done(a.describe_configs([resource]))[resource][key]

    def known():
        try:
            return value("retention.ms")
        except KafkaException as e:  # Of a broker that has not heard of the topic yet.
            equal(e.args[0].code(), KafkaError.UNKNOWN_TOPIC_OR_PART, "no other error")
    until(known, "the topic's settings")
    equal(value("retention.ms").value, "604800000", "retention.ms by default")
    check(value("retention.ms").is_default, "it is a default")
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("retention.ms", "123456", incremental_operation=AlterConfigOpType.SET)])
    done(a.incremental_alter_configs([change]))
    until(lambda: value("retention.ms").value == "123456", "the altered value")
    bad = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("retention.ms", "soon", incremental_operation=AlterConfigOpType.SET)])
    try:
        done(a.incremental_alter_configs([bad]))
        raise AssertionError("a value that is no number was taken")
    except KafkaException as e:
        equal(e.args[0].code(), KafkaError.INVALID_CONFIG, "a value that is no number")


def list_offsets(boot, topic):
    create(boot, topic)
    produce(boot, topic, [{"value": str(i), "timestamp": 1_700_000_000_000 + i * 1000}
                          for i in range(10)])
    tp = TopicPartition(topic, 0)
    ask = lambda spec: done(admin(boot).list_offsets({tp: spec}))[tp].offset
    equal(ask(OffsetSpec.earliest()), 0, "earliest")
    equal(ask(OffsetSpec.latest()), 10, "latest")
    equal(ask(OffsetSpec.for_timestamp(1_700_000_003_500)), 4, "by timestamp")
    equal(ask(OffsetSpec.max_timestamp()), 9, "max timestamp")


def auto_create(boot, topic):
    produce(boot, topic, [{"value": "first"}])
    equal([m.value() for m in read_all(boot, topic)], [b"first"], "records")


def large(boot, topic):
    create(boot, topic)
    values = [bytes([65 + i]) * 900_000 for i in range(3)]
    produce(boot, topic, [{"value": v} for v in values])
    equal([m.value() for m in read_all(boot, topic)], values, "records")


def seek_time(boot, topic):
    create(boot, topic)
    base = 1_700_000_000_000
    produce(boot, topic, [{"value": str(i), "timestamp": base + i * 1000} for i in range(100)],
            **{"batch.num.messages": 10})
    c = reader(boot)
    at = lambda t: c.offsets_for_times([TopicPartition(topic, 0, t)], timeout=10)[0].offset
    equal(at(base + 41_500), 42, "the offset for a time between two records")
    equal(at(base + 1_000_000), -1, "the offset for a time past the end")
    c.assign([TopicPartition(topic, 0, at(base + 60_000))])
    equal([m.value().decode() for m in take(c, 40)], [str(i) for i in range(60, 100)], "records")
    c.close()


def long_poll(boot, topic):
    create(boot, topic)
    c = reader(boot, **{"fetch.wait.max.ms": 8000, "socket.timeout.ms": 20000})
    c.assign([TopicPartition(topic, 0, 0)])
    check(c.poll(1.5) is None, "a record out of nothing")
    produce(boot, topic, [{"value": "wake"}])
    began = time.monotonic()
    equal(take(c, 1)[0].value(), b"wake", "the record")
    took = time.monotonic() - began
    check(took < 2.0, f"a waiting fetch took {took:.1f} s to see a new record")
    c.close()


def delete_records(boot, topic):
    create(boot, topic)
    produce(boot, topic, [{"value": str(i)} for i in range(10)])
    low = done(admin(boot).delete_records([TopicPartition(topic, 0, 6)]))
    equal([r.low_watermark for r in low.values()], [6], "low watermark")
    c = reader(boot)
    equal(c.get_watermark_offsets(TopicPartition(topic, 0), timeout=10), (6, 10), "watermarks")
    equal([m.value() for m in read_all(boot, topic)], [b"6", b"7", b"8", b"9"], "what is left")
    c.assign([TopicPartition(topic, 0, 2)])
    m = until(lambda: c.poll(1.0), "an answer for a deleted offset")
    check(m.error() is not None and m.error().code() == KafkaError._AUTO_OFFSET_RESET,
          "reading a deleted offset:", m.error())


def no_auto_create(boot, topic):
    c = reader(boot, **{"allow.auto.create.topics": False})
    c.subscribe([topic])
    m = until(lambda: c.poll(1.0), "an answer for an unknown topic")
    equal(m.error() and m.error().code(), KafkaError.UNKNOWN_TOPIC_OR_PART, "unknown topic")
    c.close()
    check(topic not in admin(boot).list_topics(timeout=10).topics, "the topic was created")


def too_large(boot, topic):
    create(boot, topic)
    produce(boot, topic, [{"value": b"x" * 2_000_000}], expect=[KafkaError.MSG_SIZE_TOO_LARGE],
            **{"message.max.bytes": 5_000_000})
    produce(boot, topic, [{"value": b"fits"}])
    equal([m.value() for m in read_all(boot, topic)], [b"fits"], "records")


def static(boot, topic):
    """A member with an instance id is back under the same id without a rebalance."""
    create(boot, topic, partitions=2)
    conf = {"group.id": topic, "auto.offset.reset": "earliest", "session.timeout.ms": 10000,
            "heartbeat.interval.ms": 500}
    join = lambda name: reader(boot, **conf, **{"group.instance.id": name})
    first, second = join("one"), join("two")
    for c in (first, second):
        c.subscribe([topic])
    drain = lambda *cs: [c.poll(0.1) for c in cs] and None
    sizes = lambda: [len(first.assignment()), len(second.assignment())]
    until(lambda: drain(first, second) or sizes() == [1, 1], "a partition for each member")
    generation = lambda: describe(boot, topic)
    before, had = generation(), second.assignment()[0].partition
    second.close()
    equal(len(generation().members), 2, "members while a static one is away")
    second = join("two")
    second.subscribe([topic])
    until(lambda: drain(first, second) or sizes() == [1, 1], "its partition again")
    equal(second.assignment()[0].partition, had, "the partition")
    equal({m.group_instance_id for m in before.members}, {"one", "two"}, "instance ids")
    first.close()
    second.close()


def describe(boot, topic):
    return done(admin(boot).describe_consumer_groups([topic]))[topic]


def next_gen(boot, topic):
    """The group protocol of KIP-848."""
    create(boot, topic, partitions=4)
    produce(boot, topic, [{"value": str(i), "partition": i % 4} for i in range(40)])
    conf = {"group.id": topic, "group.protocol": "consumer", "auto.offset.reset": "earliest"}
    first, second, seen = reader(boot, **conf), reader(boot, **conf), []

    def poll(*members):
        for c in members:
            m = c.poll(0.2)
            if m is not None:
                check(m.error() is None, "consume:", m.error())
                seen.append(m.value().decode())
    first.subscribe([topic])
    until(lambda: poll(first) or len(seen) == 40, "40 records by one member", 40)
    first.commit(asynchronous=False)
    second.subscribe([topic])
    sizes = lambda: sorted([len(first.assignment()), len(second.assignment())])
    until(lambda: poll(first, second) or sizes() == [2, 2], "two partitions for each member", 40)
    described = describe(boot, topic)
    equal((described.type.name, len(described.members)), ("CONSUMER", 2), "group type, members")
    second.close()
    until(lambda: poll(first) or len(first.assignment()) == 4, "all four back to the first", 40)
    equal(sorted(seen, key=int), [str(i) for i in range(40)], "records, each once")
    first.close()


def transactions(boot, topic):
    create(boot, topic)
    p = Producer({"bootstrap.servers": boot, "transactional.id": topic, "linger.ms": 5})
    p.init_transactions(30)

    def send(*values):
        for v in values:
            p.produce(topic, v)
        equal(p.flush(30), 0, "records still in the queue")
    p.begin_transaction()
    send("a0", "a1")
    p.abort_transaction(30)
    p.begin_transaction()
    send("c0", "c1")
    p.commit_transaction(30)
    p.begin_transaction()
    send("o0")
    c = reader(boot, **{"isolation.level": "read_committed"})
    c.assign([TopicPartition(topic, 0, 0)])
    equal([m.value() for m in take(c, 2)], [b"c0", b"c1"], "committed records")
    check(c.poll(1.0) is None, "a record of an open transaction was read")
    u = reader(boot, **{"isolation.level": "read_uncommitted"})
    u.assign([TopicPartition(topic, 0, 0)])
    equal([m.value() for m in take(u, 5)], [b"a0", b"a1", b"c0", b"c1", b"o0"], "all records")
    p.commit_transaction(30)
    equal([m.value() for m in take(c, 1)], [b"o0"], "the record after its commit")
    p.begin_transaction()
    send("z0")
    second = Producer({"bootstrap.servers": boot, "transactional.id": topic})
    second.init_transactions(30)
    try:
        p.commit_transaction(30)
        raise AssertionError("a fenced producer committed")
    except KafkaException as e:
        check(e.args[0].fatal() or e.args[0].code() == KafkaError._FENCED, "fencing:", e)
    second.begin_transaction()
    second.produce(topic, "n0")
    second.commit_transaction(30)
    equal([m.value() for m in take(c, 1)], [b"n0"], "what the new producer wrote")


def exactly_once(boot, topic):
    """Consume, transform, produce, with offsets in the transaction; one attempt is aborted."""
    source, sink = f"{topic}-in", f"{topic}-out"
    create(boot, source, partitions=2)
    create(boot, sink)
    produce(boot, source, [{"value": str(i), "partition": i % 2} for i in range(40)])
    c = reader(boot, **{"group.id": topic, "auto.offset.reset": "earliest"})
    p = Producer({"bootstrap.servers": boot, "transactional.id": topic})
    p.init_transactions(30)
    c.subscribe([source])

    def attempt(commit):
        records = take(c, 10)
        p.begin_transaction()
        for m in records:
            p.produce(sink, b"x" + m.value())
        p.send_offsets_to_transaction(c.position(c.assignment()), c.consumer_group_metadata(), 30)
        if commit:
            p.commit_transaction(30)
            return
        p.abort_transaction(30)
        for tp in c.committed(c.assignment(), 30):
            c.seek(TopicPartition(tp.topic, tp.partition, max(tp.offset, 0)))
    for commit in (True, False, True, True, True):
        attempt(commit)
    c.close()
    r = reader(boot, **{"isolation.level": "read_committed"})
    r.assign([TopicPartition(sink, 0, 0)])
    got = sorted(m.value().decode() for m in take(r, 40))
    equal(got, sorted(f"x{i}" for i in range(40)), "each record once")
    check(r.poll(1.0) is None, "more than the 40 records")


scenario.run(CLIENT, {
    **{f"codec-{name}": codec(name) for name in CODECS},
    "fields": fields, "acks": acks, "idempotent": idempotent, "group": group,
    "admin": admin_topics, "configs": configs, "list-offsets": list_offsets,
    "auto-create": auto_create, "large": large, "seek-time": seek_time, "long-poll": long_poll,
    "delete-records": delete_records, "no-auto-create": no_auto_create, "too-large": too_large,
    "static": static, "next-gen-group": next_gen, "transactions": transactions,
    "exactly-once": exactly_once,
})
