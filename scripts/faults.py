"""The faults of scripts/fault-rounds: each is a function that hurts a running cluster and a way to
heal it. Standard library only."""
import random
import signal
import time

from node import NotRun


class Fault:
    """What a round does. `on`: node ids; `cause`: what a failover time is filed under."""

    def __init__(self, on, begin, heal, hold=(1, 4), stale=False, cause=None, durable=None,
                 forgets=False):
        self.on, self.begin, self.heal, self.hold = on, begin, heal, hold
        self.stale, self.cause, self.durable = stale, cause, durable
        # Where a log starts is written down once a minute: all replicas at once may forget it.
        self.forgets = forgets


def _restart(nodes):
    for node in nodes:
        node.start()
    for node in nodes:
        node.wait_ready(60)


def _kill(nodes, cause=None, forgets=False):
    return Fault([n.id for n in nodes], lambda: [n.kill() for n in nodes],
                 lambda: _restart(nodes), cause=cause, forgets=forgets)


def kill_leader(world):
    return _kill([world.leader()], "kill -9 of the leader")


def kill_follower(world):
    return _kill([world.follower()], "kill -9 of a follower")


def kill_controller(world):
    return _kill([world.active()], "kill -9 of the active controller")


def kill_all(world):
    return _kill(list(world.cluster.nodes.values()), "kill -9 of all", forgets=True)


def stop_leader(world):
    node = world.leader()
    return Fault([node.id], node.stop, lambda: _restart([node]), cause="clean stop of the leader")


def stop_controller(world):
    node = world.active()
    return Fault([node.id], node.stop, lambda: _restart([node]),
                 cause="clean stop of the active controller")


def _pause(node, cause):
    return Fault([node.id], lambda: node.signal(signal.SIGSTOP),
                 lambda: node.signal(signal.SIGCONT), hold=(1, 15), stale=True, cause=cause)


def pause_leader(world):
    return _pause(world.leader(), "freeze of the leader")


def pause_follower(world):
    return _pause(world.follower(), "freeze of a follower")


def _cut(world, pairs, on, cause):
    if not world.cluster.net:
        raise NotRun("cuts need network namespaces")

    def begin():
        for a, b, one_way in pairs:
            world.cluster.cut(a, b, one_way)
    return Fault(on, begin, world.cluster.heal, hold=(2, 14), stale=True, cause=cause)


def cut_leader(world):
    """The leader against all others, both ways."""
    node = world.leader()
    others = [n for n in world.cluster.nodes if n != node.id]
    return _cut(world, [(node.id, n, False) for n in others], [node.id], "cut of the leader")


def cut_one_way(world):
    """One node hears another, and is not heard."""
    a = world.leader().id
    b = random.choice([n for n in world.cluster.nodes if n != a])
    pair = random.choice([(a, b), (b, a)])
    return _cut(world, [(*pair, True)], list(pair), "one-way cut")


def cut_two(world):
    """Two nodes that do not hear each other; both hear the rest."""
    a, b = random.sample(sorted(world.cluster.nodes), 2)
    return _cut(world, [(a, b, False)], [a, b], "cut between two")


def _power(world, nodes, cause, durable, forgets=False):
    if not world.disks:
        raise NotRun("power cuts need root and loop devices")

    def begin():
        for node in nodes:
            world.disks[node.id].cut(node.row["pid"])
        for node in nodes:
            node.kill()

    def heal():
        for node in nodes:
            world.disks[node.id].unmount()
            world.disks[node.id].mount()
        _restart(nodes)
    return Fault([n.id for n in nodes], begin, heal, cause=cause, durable=durable,
                 forgets=forgets)


def power_one(world):
    return _power(world, [world.leader()], "power cut of the leader", True)


def power_all(world):
    return _power(world, list(world.cluster.nodes.values()), "power cut of all", True,
                  forgets=True)


def slow_follower(world):
    """A thin line to a follower; without namespaces, a process that runs a fifth of the time."""
    node = world.follower()
    if world.cluster.net:
        return Fault([node.id], lambda: world.cluster.slow(node.id, "1mbit"), world.cluster.heal,
                     hold=(3, 8), cause="slow follower")

    def duty():
        for _ in range(40):
            node.signal(signal.SIGSTOP)
            time.sleep(0.08)
            node.signal(signal.SIGCONT)
            time.sleep(0.02)
    return Fault([node.id], duty, lambda: None, cause="slow follower")


def disk_full(world):
    if not world.disks:
        raise NotRun("a full disk needs root and loop devices")
    node = world.leader()

    def heal():
        world.disks[node.id].drain()
        if not node.alive():
            raise RuntimeError(f"node {node.id} ended when its disk was full")
    return Fault([node.id], lambda: world.disks[node.id].fill(), heal, hold=(2, 6), cause="full disk")


KINDS = {f.__name__.replace("_", "-"): f for f in [
    kill_leader, kill_follower, kill_controller, stop_leader, stop_controller, kill_all,
    pause_leader, pause_follower, cut_leader, cut_one_way, cut_two, power_one, power_all,
    slow_follower, disk_full]}
