"""What replicas hold on disk, as the history checker wants it: a hash of each partition's batches up
to its high watermark, node by node, and where each leader epoch begins. Standard library only."""
import hashlib
import mmap
import struct
import time

import probe

HEADER = struct.Struct(">qiibihi")  # base offset, length, leader epoch, magic, crc, attributes, delta


def batches(folder):
    """`(first offset, last offset, leader epoch, bytes)` of every whole batch, in order."""
    for path in sorted(folder.glob("*.log")):
        if path.stat().st_size == 0:
            continue
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 0
            while at + HEADER.size <= len(data):
                base, length, epoch, magic, _, _, delta = HEADER.unpack_from(data, at)
                if length <= 0 or magic != 2 or at + 12 + length > len(data):
                    break
                yield base, base + delta, epoch, data[at:at + 12 + length]
                at += 12 + length


def read(folder, begin, end):
    """`(start, end reached, hash, [[epoch, first offset]])` of the batches from the one that holds
    `begin` on, and below `end`."""
    digest, start, reached, epochs = hashlib.sha256(), None, 0, []
    for first, last, epoch, data in batches(folder):
        if last >= end:
            break
        if last < begin:
            continue
        start = first if start is None else start
        reached = last + 1
        digest.update(data)
        if not epochs or epochs[-1][0] != epoch:
            epochs.append([epoch, first])
    return start or 0, reached, digest.hexdigest(), epochs


def segments(cluster, topic, seconds=30):
    """Events of all replicas of `topic`, once they reach the high watermark or time is up."""
    deadline = time.monotonic() + seconds
    events = []
    partitions = cluster.ask(lambda a: probe.metadata(a, [topic]))[2].get(topic, {})
    for index, row in sorted(partitions.items()):
        leader = cluster.node(row["leader"])
        high = probe.offset(leader.address, topic, index)
        low = probe.offset(leader.address, topic, index, timestamp=-2)
        for number in row["replicas"]:
            folder = cluster.node(number).data / f"{topic}-{index}"
            while True:
                start, end, digest, epochs = read(folder, low, high)
                if end >= high or time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            events.append({"segment": {"quiet": 1, "node": number, "tp": [topic, index],
                                       "start": start, "end": end, "hash": digest,
                                       "epochs": epochs}})
    return events
