"""What the scripts ask coordinators: which node coordinates, which transactions there are, how a group
is. Standard library only."""
import struct

import probe

GROUP, TRANSACTION = 0, 1
OPEN = ("Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence")


def find(address, key, kind, timeout=2.0):
    """FindCoordinator v1: the node id of the coordinator of a group or a transactional id."""
    r = probe.ask(address, 10, 1, probe.string(key) + struct.pack(">b", kind), timeout)
    _, error = r.take("ih")
    r.string()
    if error:
        raise probe.Refused(f"FindCoordinator {key}", error)
    return r.take("i")


def transactions(address, timeout=2.0):
    """ListTransactions v0: `[(transactional id, state)]` of all that the broker coordinates."""
    r = probe.ask(address, 66, 0, b"\1\1\0", timeout, flexible=True)
    _, error = r.take("ih")
    if error:
        raise probe.Refused("ListTransactions", error)
    r.compact_array(r.compact_string)

    def row():
        name, _, state = r.compact_string(), r.take("q"), r.compact_string()
        r.tags()
        return name, state
    return r.compact_array(row)


def open_transactions(cluster):
    """Those of all brokers that are not ended; raises `OSError` when a broker does not tell."""
    return [row for node in cluster.brokers() for row in transactions(node.address)
            if row[1] in OPEN]


def classic_group(address, group, timeout=2.0):
    """DescribeGroups v0: `(state, number of members, [])`."""
    r = probe.ask(address, 15, 0, struct.pack(">i", 1) + probe.string(group), timeout)

    def member():
        for _ in range(3):
            r.string()
        for _ in range(2):
            r.raw(max(r.take("i"), 0))

    def described():
        error = r.take("h")
        _, state, _, _ = (r.string() for _ in range(4))
        return error, state, len(r.array(member))
    error, state, members = r.array(described)[0]
    if error:
        raise probe.Refused(f"DescribeGroups {group}", error)
    return state, members, []


def consumer_group(address, group, timeout=2.0):
    """ConsumerGroupDescribe v0: `(state, number of members, [(member, epoch, topic, partition)])`."""
    name = group.encode()
    body = b"\2" + bytes([len(name) + 1]) + name + b"\0\0"
    r = probe.ask(address, 69, 0, body, timeout, flexible=True)
    r.take("i")

    def partitions():
        r.raw(16)
        topic, found = r.compact_string(), r.compact_array(lambda: r.take("i"))
        r.tags()
        return [(topic, p) for p in found]

    def assignment():
        found = [tp for topic in r.compact_array(partitions) for tp in topic]
        r.tags()
        return found

    def member():
        name = r.compact_string()
        r.compact_string(), r.compact_string()
        epoch = r.take("i")
        r.compact_string(), r.compact_string()
        r.compact_array(r.compact_string)
        r.compact_string()
        now, _ = assignment(), assignment()
        r.tags()
        return [(name, epoch, *tp) for tp in now]

    def described():
        error = r.take("h")
        r.compact_string(), r.compact_string()
        state = r.compact_string()
        r.take("ii")
        r.compact_string()
        members = r.compact_array(member)
        r.take("i")
        r.tags()
        return error, state, members
    error, state, members = r.compact_array(described)[0]
    if error:
        raise probe.Refused(f"ConsumerGroupDescribe {group}", error)
    return state, len(members), [owned for m in members for owned in m]
