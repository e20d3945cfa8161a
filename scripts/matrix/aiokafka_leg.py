"""The aiokafka leg (asyncio): what applications of it lean on."""
import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

import scenario
from scenario import CODECS, check, equal

CLIENT = "aiokafka"


def run(function):
    """A scenario that waits."""
    return lambda boot, topic: asyncio.run(asyncio.wait_for(function(boot, topic), 60))


async def until(probe, what, seconds=20.0):
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        got = await probe()
        if got:
            return got
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


async def create(boot, *topics, partitions=1):
    admin = AIOKafkaAdminClient(bootstrap_servers=boot)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(t, partitions, scenario.REPLICAS) for t in topics])
        for topic in topics:
            ready = lambda: described(admin, topic, partitions)
            await until(ready, "the new topic")
    finally:
        await admin.close()


async def described(admin, topic, partitions):
    rows = await admin.describe_topics([topic])
    led = [p for p in rows[0]["partitions"] if p["leader"] >= 0]
    if len(led) != partitions:
        await asyncio.sleep(0.05)
    return len(led) == partitions


class Producer:
    def __init__(self, boot, **conf):
        self.client = AIOKafkaProducer(bootstrap_servers=boot, **conf)

    async def __aenter__(self):
        await self.client.start()
        return self.client

    async def __aexit__(self, *_):
        await self.client.stop()


class Reader:
    def __init__(self, boot, *topics, partition=None, **conf):
        conf = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **conf}
        self.client = AIOKafkaConsumer(*topics, bootstrap_servers=boot, **conf)
        self.partition = partition

    async def __aenter__(self):
        await self.client.start()
        if self.partition:
            self.client.assign([TopicPartition(*self.partition)])
            await self.client.seek_to_beginning()
        return self.client

    async def __aexit__(self, *_):
        await self.client.stop()


async def take(c, count, seconds=20.0):
    out = []

    async def more():
        for records in (await c.getmany(timeout_ms=300)).values():
            out.extend(records)
        return len(out) >= count
    await until(more, f"{count} records", seconds)
    return out[:count]


def codec(name):
    async def go(boot, topic):
        values = [scenario.text(CLIENT, i) for i in range(200)]
        async with Producer(boot, compression_type=None if name == "none" else name) as p:
            sent = [await p.send(topic, v.encode(), partition=0) for v in values]
            await asyncio.gather(*sent)
        async with Reader(boot, partition=(topic, 0)) as c:
            end = (await c.end_offsets(list(c.assignment())))[TopicPartition(topic, 0)]
            got = [m.value.decode() for m in await take(c, end)]
        equal([v for v in got if scenario.check_text(v) == CLIENT], values, "own records, in order")
    return go


async def idempotent(boot, topic):
    await create(boot, topic)
    async with Producer(boot, enable_idempotence=True, max_batch_size=1000) as p:
        sent = [await p.send(topic, str(i).encode(), partition=0) for i in range(1000)]
        offsets = [m.offset for m in await asyncio.gather(*sent)]
    equal(offsets, list(range(1000)), "offsets of the deliveries")


async def group(boot, topic):
    await create(boot, topic, partitions=4)
    async with Producer(boot) as p:
        for i in range(40):
            await p.send_and_wait(topic, str(i).encode(), partition=i % 4)
    conf = {"group_id": topic, "session_timeout_ms": 6000, "heartbeat_interval_ms": 300}
    async with Reader(boot, topic, **conf) as first:
        seen = sorted(int(m.value) for m in await take(first, 40))
        equal(seen, list(range(40)), "records by one member")
        await first.commit()
        async with Reader(boot, topic, **conf) as second:
            async def shared():
                await first.getmany(timeout_ms=100)
                await second.getmany(timeout_ms=100)
                return [len(c.assignment()) for c in (first, second)] == [2, 2]
            await until(shared, "two partitions for each member")

        async def alone():
            await first.getmany(timeout_ms=100)
            return len(first.assignment()) == 4
        await until(alone, "all four back to the first")
        equal([await first.committed(TopicPartition(topic, p)) for p in range(4)], [10] * 4, "committed")


async def static(boot, topic):
    await create(boot, topic, partitions=2)
    conf = {"group_id": topic, "session_timeout_ms": 10000, "heartbeat_interval_ms": 300}
    join = lambda name: Reader(boot, topic, group_instance_id=name, **conf)

    async def both(a, b):
        await a.getmany(timeout_ms=100)
        await b.getmany(timeout_ms=100)
        return [len(c.assignment()) for c in (a, b)] == [1, 1]
    async with join("one") as first:
        async with join("two") as second:
            await until(lambda: both(first, second), "a partition for each member")
            had = second.assignment()
        async with join("two") as second:
            await until(lambda: both(first, second), "its partition again")
            equal(second.assignment(), had, "the partition")


async def transactions(boot, topic):
    await create(boot, topic)

    async def send(p, *values):
        for v in values:
            await p.send_and_wait(topic, v)
    async with Producer(boot, transactional_id=topic) as p:
        await p.begin_transaction()
        await send(p, b"a0", b"a1")
        await p.abort_transaction()
        async with p.transaction():
            await send(p, b"c0", b"c1")
        await p.begin_transaction()
        await send(p, b"o0")
        async with Reader(boot, partition=(topic, 0), isolation_level="read_committed") as c:
            equal([m.value for m in await take(c, 2)], [b"c0", b"c1"], "committed records")
            equal(await c.getmany(timeout_ms=1000), {}, "records of an open transaction")
            await p.commit_transaction()
            equal([m.value for m in await take(c, 1)], [b"o0"], "the record after its commit")
        await p.begin_transaction()
        await send(p, b"z0")
        async with Producer(boot, transactional_id=topic) as second:
            try:
                await p.commit_transaction()
                raise AssertionError("a fenced producer committed")
            except KafkaError:
                pass
            async with second.transaction():
                await send(second, b"n0")
    async with Reader(boot, partition=(topic, 0), isolation_level="read_committed") as c:
        equal([m.value for m in await take(c, 4)], [b"c0", b"c1", b"o0", b"n0"], "in the end")


async def exactly_once(boot, topic):
    source, sink = f"{topic}-in", f"{topic}-out"
    await create(boot, source, partitions=2)
    await create(boot, sink)
    async with Producer(boot) as p:
        for i in range(40):
            await p.send_and_wait(source, str(i).encode(), partition=i % 2)
    async with Reader(boot, source, group_id=topic, max_poll_records=10) as c, \
            Producer(boot, transactional_id=topic) as p:
        count = 0
        while count < 40:
            polled = await c.getmany(timeout_ms=1000)
            if not polled:
                continue
            async with p.transaction():
                for records in polled.values():
                    for m in records:
                        await p.send(sink, b"x" + m.value)
                at = {tp: records[-1].offset + 1 for tp, records in polled.items()}
                await p.send_offsets_to_transaction(at, topic)
            count += sum(len(r) for r in polled.values())
        check(count == 40, "records:", count)

        # A commit is answered before its markers are written, and with them the offsets.
        async def settled():
            return [await c.committed(TopicPartition(source, n)) for n in (0, 1)] == [20, 20]
        await until(settled, "the last positions")
    async with Reader(boot, partition=(sink, 0), isolation_level="read_committed") as c:
        got = sorted(m.value.decode() for m in await take(c, 40))
        equal(got, sorted(f"x{i}" for i in range(40)), "each record once")


scenario.run(CLIENT, {
    **{f"codec-{name}": run(codec(name)) for name in CODECS},
    "idempotent": run(idempotent), "group": run(group), "static": run(static),
    "transactions": run(transactions), "exactly-once": run(exactly_once),
})
