"""The few Kafka requests that the cluster scripts ask by themselves: who leads, what is in sync, where
a log ends, who is the active controller; and topics made in batches. Each opens a connection of its
own, so that an answer never hides behind an older one. Standard library only."""
import socket
import struct

NONE, TOPIC_EXISTS = 0, 36


class Refused(OSError):
    """A node answered with an error code."""

    def __init__(self, what, code):
        super().__init__(f"{what}: error code {code}")
        self.code = code


class Reader:
    """Reads Kafka's primitives off a byte string."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return values[0] if len(values) == 1 else values

    def varint(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def raw(self, length):
        self.at += length
        return self.data[self.at - length:self.at]

    def string(self):
        length = self.take("h")
        return None if length < 0 else self.raw(length).decode()

    def compact_string(self):
        length = self.varint()
        return None if length == 0 else self.raw(length - 1).decode()

    def array(self, item):
        return [item() for _ in range(max(self.take("i"), 0))]

    def compact_array(self, item):
        return [item() for _ in range(max(self.varint() - 1, 0))]

    def tags(self):
        for _ in range(self.varint()):
            self.varint()
            self.raw(self.varint())


def string(text):
    return struct.pack(">h", len(text)) + text.encode()


def ask(address, key, version, body=b"", timeout=2.0, flexible=False):
    """Sends one request to `(host, port)`; gives a `Reader` behind the response's header."""
    head = struct.pack(">hhi", key, version, 7) + string("probe") + (b"\0" if flexible else b"")
    with socket.create_connection(address, timeout) as s:
        s.settimeout(timeout)
        s.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        answer = Reader(_exact(s, struct.unpack(">i", _exact(s, 4))[0]))
    if answer.take("i") != 7:
        raise OSError("another correlation id")
    if flexible:
        answer.tags()
    return answer


def _exact(s, n):
    out = bytearray()
    while len(out) < n:
        part = s.recv(n - len(out))
        if not part:
            raise OSError("closed")
        out += part
    return bytes(out)


def answers(address, timeout=1.0):
    """Whether ApiVersions is answered."""
    try:
        return ask(address, 18, 0, timeout=timeout).take("h") == NONE
    except OSError:
        return False


def metadata(address, topics=None, timeout=2.0):
    """Metadata v8: `(brokers {id: (host, port)}, controller, {topic: {partition: …}})`, and for
    each partition `error`, `leader`, `epoch`, `replicas`, `isr`. `topics=None` asks for all."""
    names = struct.pack(">i", -1 if topics is None else len(topics))
    body = names + b"".join(map(string, topics or [])) + b"\0\0\0"
    r = ask(address, 3, 8, body, timeout)
    r.take("i")
    brokers = {i: (h, p) for i, h, p, _ in
               r.array(lambda: (r.take("i"), r.string(), r.take("i"), r.string()))}
    r.string()
    controller = r.take("i")

    def partition():
        error, index, leader, epoch = r.take("hiii")
        replicas, isr, _ = (r.array(lambda: r.take("i")) for _ in range(3))
        return index, {"error": error, "leader": leader, "epoch": epoch, "replicas": replicas,
                       "isr": isr}

    def topic():
        error, name, _ = r.take("h"), r.string(), r.take("b")
        partitions = dict(r.array(partition))
        r.take("i")
        return name, error, partitions

    found = {name: partitions for name, error, partitions in r.array(topic) if error == NONE}
    return brokers, controller, found


def offset(address, topic, partition, timestamp=-1, timeout=2.0, committed=False):
    """ListOffsets v4: the end (-1), start (-2) or another timestamp of one partition. `committed`:
    the end is the last stable offset."""
    body = struct.pack(">ibi", -1, int(committed), 1) + string(topic) + struct.pack(">iiiq", 1, partition, -1,
                                                                       timestamp)
    r = ask(address, 2, 4, body, timeout)
    r.take("ii")
    r.string()
    r.take("i")
    _, error, _, found, _ = r.take("ihqqi")
    if error:
        raise Refused(f"ListOffsets {topic}-{partition}", error)
    return found


def quorum(address, timeout=2.0):
    """DescribeQuorum v0: `(leader id, leader epoch, high watermark, [voter ids])`."""
    name = b"__cluster_metadata"
    body = b"\2" + bytes([len(name) + 1]) + name + b"\2" + struct.pack(">i", 0) + b"\0\0\0"
    r = ask(address, 55, 0, body, timeout, flexible=True)
    error = r.take("h")
    if error:
        raise Refused("DescribeQuorum", error)

    def state():
        replica, _ = r.take("iq")
        r.tags()
        return replica

    def partition():
        _, error, leader, epoch, high = r.take("ihiiq")
        voters = r.compact_array(state)
        r.compact_array(state)
        r.tags()
        return error, leader, epoch, high, voters

    def topic():
        r.compact_string()
        found = r.compact_array(partition)
        r.tags()
        return found

    error, leader, epoch, high, voters = r.compact_array(topic)[0][0]
    if error:
        raise Refused("DescribeQuorum", error)
    return leader, epoch, high, voters


def create_topics(address, topics, replication, configs=(), timeout=30.0):
    """CreateTopics v4 for `[(name, partitions)]`; gives `{name: error code}`."""
    pairs = b"".join(string(k) + string(v) for k, v in configs)
    rows = b"".join(string(name) + struct.pack(">ihii", count, replication, 0, len(configs)) + pairs
                    for name, count in topics)
    body = struct.pack(">i", len(topics)) + rows + struct.pack(">ib", int(timeout * 1000), 0)
    r = ask(address, 19, 4, body, timeout + 5)
    r.take("i")

    def row():
        name, code = r.string(), r.take("h")
        r.string()
        return name, code

    return dict(r.array(row))
