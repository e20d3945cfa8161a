"""Three nodes against three nodes, for `scripts/bench-vs-kafka --nodes 3`: RF 3, acks=all. `ThreeVltava`
and `ThreeKafka` are clusters of combined nodes on 127.0.0.1 with the same face; `measure` takes the rows.
Standard library only."""
import json
import os
import shutil
import signal
import subprocess
import time

import probe
from cluster import Cluster
from node import ROOT, binary, cpu_seconds, free_ports, resident_mib, until

HOST = "127.0.0.1"
SETTINGS = {"log.segment.delete.delay.ms": "1000", "min.insync.replicas": "2",
            "default.replication.factor": "3", "offsets.topic.replication.factor": "3"}


class Three:
    """What both kinds share."""

    def addresses(self):
        """Node id to `(host, port)`."""
        raise NotImplementedError

    def pid_of(self, node):
        raise NotImplementedError

    @property
    def bootstrap(self):
        return ",".join(f"{h}:{p}" for h, p in self.addresses().values())

    def cpu(self):
        return sum(cpu_seconds(self.pid_of(n)) for n in self.addresses())

    def resident(self):
        return sum(resident_mib(self.pid_of(n)) for n in self.addresses())

    def partition(self, topic):
        """Partition 0 of `topic` as the first broker that answers tells it."""
        last = OSError("no broker answers")
        for address in self.addresses().values():
            try:
                return probe.metadata(address, [topic], 5)[2][topic][0]
            except (OSError, KeyError) as error:
                last = error
        raise last

    def in_sync(self, topic):
        try:
            row = self.partition(topic)
            return row["leader"] >= 0 and len(row["isr"]) == 3
        except OSError:
            return False

    def signal(self, node, number):
        os.kill(self.pid_of(node), number)


class ThreeVltava(Three):
    name = "vltava"

    def __init__(self, folder):
        self.cluster = Cluster.make(folder, combined=3, program=binary(), changes=SETTINGS,
                                    namespaces=False)

    def start(self):
        self.cluster.up()

    def addresses(self):
        return {n.id: n.address for n in self.cluster.brokers()}

    def pid_of(self, node):
        return self.cluster.node(node).pid

    def restart(self, node):
        self.cluster.node(node).gone(120)
        self.cluster.node(node).start()

    def stop(self):
        self.cluster.down()


class ThreeKafka(Three):
    name = "kafka"

    def __init__(self, folder):
        self.folder, ports = folder, free_ports(6)
        self.ports = dict(zip([1, 2, 3], ports))
        self.controllers = dict(zip([1, 2, 3], ports[3:]))

    def addresses(self):
        return {n: (HOST, p) for n, p in self.ports.items()}

    def pid_of(self, node):
        return int((self.folder / str(node) / "kafka.pid").read_text())

    def _start(self, node):
        voters = ",".join(f"{n}@{HOST}:{p}" for n, p in self.controllers.items())
        env = {**os.environ, "KAFKA_NODE_ID": str(node), "KAFKA_VOTERS": voters, "KAFKA_RF": "3",
               "KAFKA_CONTROLLER_PORT": str(self.controllers[node]), "KAFKA_START_TIMEOUT": "0"}
        done = subprocess.run([ROOT / "scripts" / "peer" / "start-kafka", str(self.ports[node]),
                               self.folder / str(node), *(f"{k}={v}" for k, v in SETTINGS.items())],
                              capture_output=True, text=True, env=env)
        if done.returncode:
            raise RuntimeError(f"Apache Kafka did not start: {done.stderr[-1000:]}")

    def start(self):
        for node in self.ports:
            self._start(node)
        for node, address in self.addresses().items():
            until(lambda: probe.answers(address), 120, f"Apache Kafka {node}", pause=0.05)

    def _ended(self, node):
        try:
            stat = (open(f"/proc/{self.pid_of(node)}/stat").read()).rsplit(")", 1)[1].split()
            return stat[0] == "Z"
        except OSError:
            return True

    def restart(self, node):
        until(lambda: self._ended(node), 120, f"the end of Apache Kafka {node}", pause=0.05)
        # Nobody may have asked for its exit code, and then the number still looks taken.
        (self.folder / str(node) / "kafka.pid").unlink(missing_ok=True)
        self._start(node)

    def stop(self):
        for node in self.ports:
            if (self.folder / str(node) / "kafka.pid").exists() and not self._ended(node):
                self.signal(node, signal.SIGKILL)
        for node in self.ports:
            until(lambda: self._ended(node), 30, f"the end of Apache Kafka {node}", pause=0.05)


def measure(bench, kind, folder, args):
    """Every row of one run on a fresh cluster."""
    three = kind(folder)
    try:
        bench.touch()
        three.start()
        make(bench, three, "warm", 1)
        bench.load("produce", "--bootstrap", three.bootstrap, "--topic", "warm", "--size", 1024,
                   "--megabytes", 300, "--seconds", 3, "--acks", "all")
        bench.load("delete", "--bootstrap", three.bootstrap, "--topic", "warm")
        time.sleep(3)
        bench.samples.add("3 nodes, resident idle, sum, MiB", three.name, three.resident(), "lower")
        throughput(bench, three, args)
        bench.samples.add("3 nodes, resident after load, sum, MiB", three.name, three.resident(),
                          "lower")
        latency(bench, three, args)
        failover(bench, three, args)
    finally:
        three.stop()
        shutil.rmtree(folder, ignore_errors=True)


def make(bench, three, topic, partitions):
    bench.load("partitions", "--bootstrap", three.bootstrap, "--topic", topic, "--partitions",
               partitions, "--replicas", 3)
    until(lambda: three.in_sync(topic), 30, f"{topic} in sync", pause=0.02)


def throughput(bench, three, args):
    for size, partitions, codec in [(100, 1, "none"), (1024, 1, "none"), (1024, 64, "none"),
                                    (1024, 1, "lz4"), (10240, 1, "none")]:
        topic = f"t{size}-{partitions}-{codec}"
        make(bench, three, topic, partitions)
        bench.touch()
        plural = "s" if partitions > 1 else ""
        row = f"3 nodes, produce {size} B, {codec}, {partitions} partition{plural}, RF 3, acks all"
        bench.measured(three, row, "produce", "--bootstrap", three.bootstrap, "--topic", topic,
                       "--partitions", partitions, "--size", size, "--megabytes",
                       int((200 if size == 100 else 600) * args.scale), "--acks", "all", "--codec",
                       codec)
        bench.load("delete", "--bootstrap", three.bootstrap, "--topic", topic)


def latency(bench, three, args):
    """One record a request straight to the leader, in a closed loop and paced."""
    make(bench, three, "lat", 1)
    host, port = three.addresses()[three.partition("lat")["leader"]]
    count = int(10_000 * args.scale)
    for name, rate, requests in [("closed loop", 0, count),
                                 ("500 a second", 500, max(2000, count // 4))]:
        got = bench.load("latency", "--bootstrap", f"{host}:{port}", "--topic", "lat", "--acks=-1",
                         "--rate", rate, "--count", requests)
        for key, shown in [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")]:
            bench.samples.add(f"3 nodes, produce latency, 1 KiB, RF 3, acks all, {name}, {shown} us",
                              three.name, got[key], "lower")
        print(f"  {three.name}: latency {name}: p50 {got['p50']:.0f} us, p99 {got['p99']:.0f} us",
              flush=True)


def failover(bench, three, args):
    """The longest time without an acknowledgement when the leader's process is killed, or told to stop."""
    make(bench, three, "gap", 1)
    for how, number in [("kill -9", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)]:
        for _ in range(args.failovers):
            load = subprocess.Popen([bench.program, "gap", "--bootstrap", three.bootstrap, "--topic",
                                     "gap"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                load.stdout.readline()
                time.sleep(1)
                leader = three.partition("gap")["leader"]
                three.signal(leader, number)
                moved = lambda: three.partition("gap")["leader"] not in (leader, -1)
                until(moved, 60, "another leader", pause=0.05)
                time.sleep(2)
                three.restart(leader)
                until(lambda: three.in_sync("gap"), 120, "all in sync", pause=0.1)
                got = json.loads(load.communicate("", timeout=60)[0].strip().splitlines()[-1])
            finally:
                load.kill()
            bench.samples.add(f"3 nodes, leader ended by {how}, longest pause of writes, ms",
                              three.name, got["longest_ms"], "lower")
            print(f"  {three.name}: {how}: {got['longest_ms']:.0f} ms without an answer", flush=True)
