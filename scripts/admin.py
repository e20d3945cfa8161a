"""What the fault rounds do to topics and settings, and what brokers say of them: each request goes to
one broker, once, and is written down with its outcome for `vltava histcheck`. Standard library only."""
import random
import struct
import threading
import time

import probe
from probe import string

EXISTS, UNKNOWN_TOPIC = 36, 3
TOPIC = 2
SET, DELETE = 0, 1
FROM_TOPIC = 1
#: Settings that change nothing which a round looks at.
SETTINGS = ["delete.retention.ms", "file.delete.delay.ms"]


def _uvarint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes([n])


def _compact(text):
    return _uvarint(len(text.encode()) + 1) + text.encode()


def topic_id(address, name, timeout=2.0):
    """Metadata v12: the topic's id as hexadecimal digits, None where the broker knows none."""
    body = _uvarint(2) + bytes(16) + _compact(name) + b"\0" + b"\0\0\0"
    r = probe.ask(address, 3, 12, body, timeout, flexible=True)

    def broker():
        r.take("i"), r.compact_string(), r.take("i"), r.compact_string(), r.tags()

    r.take("i")
    r.compact_array(broker)
    r.compact_string()
    r.take("i")
    if r.varint() != 2:
        raise OSError("Metadata: not one topic")
    error = r.take("h")
    r.compact_string()
    if error not in (probe.NONE, UNKNOWN_TOPIC):
        raise probe.Refused("Metadata", error)
    return r.raw(16).hex() if error == probe.NONE else None


def create(address, name, replication, timeout=2.0):
    """CreateTopics v7: `(error, id)`."""
    row = _compact(name) + struct.pack(">ih", 1, replication) + b"\1\1\0"
    body = _uvarint(2) + row + struct.pack(">ib", int(timeout * 1000), 0) + b"\0"
    r = probe.ask(address, 19, 7, body, timeout + 1, flexible=True)
    r.take("i")
    if r.varint() != 2:
        raise OSError("CreateTopics: not one topic")
    r.compact_string()
    made = r.raw(16).hex()
    return r.take("h"), made


def delete(address, name, timeout=2.0):
    """DeleteTopics v3: the error."""
    body = struct.pack(">i", 1) + string(name) + struct.pack(">i", int(timeout * 1000))
    r = probe.ask(address, 20, 3, body, timeout + 1)
    r.take("ii")
    r.string()
    return r.take("h")


def alter(address, topic, key, value, timeout=2.0):
    """IncrementalAlterConfigs v0: the error. `value=None` takes the setting away."""
    text = string(value) if value is not None else struct.pack(">h", -1)
    change = string(key) + struct.pack(">b", DELETE if value is None else SET) + text
    body = struct.pack(">ib", 1, TOPIC) + string(topic) + struct.pack(">i", 1) + change + b"\0"
    r = probe.ask(address, 44, 0, body, timeout + 1)
    r.take("ii")
    return r.take("h")


def describe(address, topic, key, timeout=2.0):
    """DescribeConfigs v1: what the topic itself sets, or None."""
    body = struct.pack(">ib", 1, TOPIC) + string(topic) + struct.pack(">i", 1) + string(key) + b"\0"
    r = probe.ask(address, 32, 1, body, timeout)
    r.take("ii")
    error, _ = r.take("h"), r.string()
    if error:
        raise probe.Refused("DescribeConfigs", error)
    r.take("b")
    r.string()
    if r.take("i") != 1:
        raise OSError("DescribeConfigs: not one value")
    r.string()
    value = r.string()
    _, source = r.take("bb")
    return value if source == FROM_TOPIC else None


class Administrator:
    """Two hands that create, delete, alter and look, through brokers at random."""

    def __init__(self, world, events, now):
        self.world, self.events, self.now = world, events, now
        self.topics = [f"{world.topic}-made-{n}" for n in range(2)]
        self.replication = min(3, len(world.cluster.brokers()))
        self.stop, self.last_change, self.counter = threading.Event(), 0, 0
        self.hands = [threading.Thread(target=self._work) for _ in range(2)]

    def start(self):
        for hand in self.hands:
            hand.start()

    def end(self):
        self.stop.set()
        for hand in self.hands:
            if hand.ident:
                hand.join()

    def last_looks(self, lag_ms):
        """What every broker says once it must know of every change."""
        time.sleep(max(0, self.last_change + lag_ms * 1000 + 200_000 - self.now()) / 1e6)
        for node in self.world.cluster.brokers():
            for topic in self.topics:
                self._look_at_topic(node, topic)
            for key in SETTINGS:
                self._look_at_setting(node, key)

    def _work(self):
        dice = random.Random(threading.get_ident())
        while not self.stop.wait(dice.uniform(0.02, 0.2)):
            nodes = [n for n in self.world.cluster.brokers() if n.state() == "up"]
            if not nodes:
                continue
            node, topic, key = dice.choice(nodes), dice.choice(self.topics), dice.choice(SETTINGS)
            what = dice.choice([self._create, self._delete, self._look_at_topic, self._look_at_topic])
            if dice.random() < 0.5:
                what, topic = dice.choice([self._set, self._unset, self._look_at_setting,
                                           self._look_at_setting]), key
            what(node, topic)

    def _note(self, key, op, ask, already=None, node=None, **fields):
        """Asks, and writes down what came of it: `ask` gives `(error, value)`. `node`: who is read."""
        began, born = self.now(), node and node.row.get("born")
        try:
            error, value = ask()
            outcome = {"already": True} if error == already else \
                {"info": f"error {error}"} if error else {}
            if value is not None and not outcome:
                fields["v"] = value
        except (OSError, IndexError, struct.error) as failure:
            outcome = {"info": str(failure) or type(failure).__name__}
        ended = self.now()
        if node and born == node.row.get("born"):
            fields["via"] = f"{node.id}/{born}"
        if op != "read":
            self.last_change = max(self.last_change, ended)
        self.events.add("meta", key=key, op=op, t=[began, ended], **fields, **outcome)

    def _create(self, node, topic):
        self._note(f"topic/{topic}", "create",
                   lambda: create(node.address, topic, self.replication), EXISTS)

    def _delete(self, node, topic):
        self._note(f"topic/{topic}", "delete", lambda: (delete(node.address, topic), None),
                   UNKNOWN_TOPIC)

    def _look_at_topic(self, node, topic):
        self._note(f"topic/{topic}", "read", lambda: (0, topic_id(node.address, topic)),
                   node=node)

    def _set(self, node, key):
        self.counter += 1
        value = str(60_000 + self.counter)
        self._note(self._setting(key), "set",
                   lambda: (alter(node.address, self.world.topic, key, value), None), v=value)

    def _unset(self, node, key):
        self._note(self._setting(key), "unset",
                   lambda: (alter(node.address, self.world.topic, key, None), None))

    def _look_at_setting(self, node, key):
        self._note(self._setting(key), "read",
                   lambda: (0, describe(node.address, self.world.topic, key)), node=node)

    def _setting(self, key):
        return f"config/{self.world.topic}/{key}"
