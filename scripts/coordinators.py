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
