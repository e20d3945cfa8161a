"""Coordinators and compaction, for `scripts/bench-vs-kafka --only coordinators`: commits, transactions,
rebalances, loading a coordinator, cleaning a log. Both brokers get the same settings and the same frames
(examples/coordinator_load, examples/compact_load). Standard library only."""
import json
import re
import shutil
import statistics
import subprocess
import time

from node import cpu_seconds, example, until

# Two shipped heartbeats would be ten seconds; nothing of the offsets may be compacted before it is loaded.
SETTINGS = {"group_initial_rebalance_delay_ms": 0, "group_consumer_heartbeat_interval_ms": 1000,
            "group_consumer_min_heartbeat_interval_ms": 1000,
            "offsets_topic_segment_bytes": 1 << 30, "offsets_topic_replication_factor": 1,
            "transaction_state_log_replication_factor": 1, "transaction_state_log_min_isr": 1,
            "log_cleaner_backoff_ms": 100, "log_cleaner_threads": 1}
SEGMENT_BYTES = 8 << 20
LOWER = "lower"


def program(name, *words):
    done = subprocess.run([example(name), *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(map(str, words))}: {done.stderr.strip()[-800:]}")
    return done.stdout.strip().splitlines()[-1]


class Coordinators:
    """One run of the rows on one broker."""

    def __init__(self, bench, broker, args):
        self.bench, self.broker, self.args = bench, broker, args

    def load(self, *words):
        """One run of the generator: what it says."""
        return json.loads(program("coordinator_load", words[0], "--bootstrap", self.broker.bootstrap,
                                  *words[1:]))

    def add(self, row, value, better="higher"):
        self.bench.samples.add(row, self.broker.name, value, better)
        print(f"  {self.broker.name}: {row}: {value:,.1f}", flush=True)

    def rate(self, row, key, *words):
        """A row of a rate, and one of what the broker's CPU time of one such is."""
        before, began = cpu_seconds(self.broker.pid), time.monotonic()
        got = self.load(*words)
        # The generator warms up for as long as it measures, at about the same rate.
        share = (time.monotonic() - began) / max(self.args.seconds, 0.1)
        spent = cpu_seconds(self.broker.pid) - before
        if not spent:
            raise RuntimeError(f"{self.broker.name} spent no CPU: another process owns its port")
        self.add(f"{row} a second", got[f"{key}_s"])
        self.add(f"{row}, broker CPU us each", spent * 1e6 / max(got[key] * share, 1), LOWER)

    def commits(self):
        for n in [1, 16]:
            self.rate(f"OffsetCommit, {n} connection{'s' if n > 1 else ''}", "requests", "commits",
                      "--connections", n, "--seconds", self.args.seconds)

    def transactions(self):
        """By frames: a librdkafka producer takes 0.1 s for each, whatever the broker does
        (`coordinator_load transactions --client librdkafka`)."""
        for n in [1, 16]:
            self.rate(f"transactions (v2), {n} producer{'s' if n > 1 else ''}", "transactions",
                      "transactions", "--producers", n, "--seconds", self.args.seconds)

    def rebalances(self):
        """One member joins a group of 20 and leaves it. Classic members look every 5 ms, so that it is
        the broker that is seen; of a KIP-848 group the broker says when they look, and a leave takes
        as long as the others' next heartbeats are away."""
        for protocol in ["classic", "consumer"]:
            got = self.load("rebalances", "--protocol", protocol, "--group", f"re-{protocol}",
                            "--rounds", self.args.rebalances)
            for what in ["join", "leave"]:
                took = got[f"{what}_ms"]
                print(f"  {self.broker.name}: {protocol}, {what}: median {took['median']:.1f} ms, "
                      f"longest {took['longest']:.1f} ms", flush=True)
            both = got["join_ms"]["all"] + got["leave_ms"]["all"]
            row = f"rebalance, {protocol} group of 20, a member joins and leaves"
            self.add(f"{row}, mean ms", statistics.mean(both), LOWER)
            if protocol == "consumer" and self.broker.name == "vltava":
                # A goal and no row: how close the longest comes to its bound, a heartbeat or two, is
                # chance with either broker.
                self.bench.samples.longest_rebalance_ms.append(max(both))

    def loading(self):
        """A million records, each offset committed twice, in one partition of the coordinator."""
        records = 1_000_000
        words = ["--records", records]
        self.load("offsets", *words)
        told = self.told()
        self.broker.stop()
        self.bench.touch()
        began = time.monotonic()
        self.broker.start()
        answered = time.monotonic()
        self.load("loaded", *words)
        ended = time.monotonic()
        row = f"coordinator with {records:,} offset records"
        self.add(f"{row}, first ApiVersions to OffsetFetch answer, ms", (ended - answered) * 1000, LOWER)
        self.add(f"{row}, start to OffsetFetch answer, ms", (ended - began) * 1000, LOWER)
        self.add(f"{row}, load by the broker's log, ms", self.log_says(records, told), LOWER)

    def told(self):
        """How much the broker's log holds already."""
        return self.log().stat().st_size

    def log(self):
        kafka = self.broker.name == "kafka"
        return self.broker.folder / ("logs/server.log" if kafka else "console.log")

    def log_says(self, records, since):
        """Milliseconds that the broker says loading took."""
        text = self.log().read_bytes()[since:].decode(errors="replace")
        # librdkafka and the other rows have left records of their own in that partition.
        for found in re.finditer(r"Finished loading of metadata from __consumer_offsets-\d+ .*? in "
                                 r"(\d+)ms .*?Loaded (\d+) records", text):
            if int(found[2]) >= records:
                return float(found[1])
        for line in text.splitlines():
            line = re.sub(r"\x1b\[[0-9;]*m", "", line)
            found = re.search(r"loaded .*?records=(\d+).*?took=([\d.]+)(ms|s|µs)", line)
            if found and int(found[1]) >= records:
                return float(found[2]) * {"s": 1000, "ms": 1, "µs": 0.001}[found[3]]
        raise RuntimeError(f"the log of {self.broker.name} does not say how long it loaded")

    def compaction(self):
        """A log that was never cleaned, in segments of 8 MiB, from the moment that its policy becomes
        `compact` until its checkpoint names the active segment."""
        for codec, warm in [("none", True), ("none", False), ("lz4", False)]:
            topic = f"compaction-{codec}{'-warm' if warm else ''}"
            updates = int(4_000_000 * self.args.compaction_scale / (8 if warm else 1))
            self.bench.touch()
            program("compact_load", "load", "--bootstrap", self.broker.bootstrap, "--topic", topic,
                    "--keys", 200_000, "--updates", updates, "--value-bytes", 100, "--codec", codec,
                    "--config", "cleanup.policy=delete", "--config", "retention.ms=-1",
                    "--config", f"segment.bytes={SEGMENT_BYTES}", "--config",
                    "file.delete.delay.ms=1000", "--config", "min.cleanable.dirty.ratio=0.5")
            segments = sorted((self.broker.log_dir / f"{topic}-0").glob("*.log"))
            megabytes = sum(s.stat().st_size for s in segments[:-1]) / 1e6
            clean = f"{topic} 0 {int(segments[-1].stem)}"
            before, began = cpu_seconds(self.broker.pid), time.monotonic()
            self.load("configure", "--topic", topic, "--config", "cleanup.policy=compact")
            checkpoint = self.broker.log_dir / "cleaner-offset-checkpoint"
            until(lambda: checkpoint.exists() and clean in checkpoint.read_text().splitlines(), 300,
                  f"{topic} clean", self.broker.alive)
            took, spent = time.monotonic() - began, cpu_seconds(self.broker.pid) - before
            if not warm:
                row = f"compaction, 100 B values, 200,000 keys, {codec}"
                self.add(f"{row}, MB/s", megabytes / took)
                self.add(f"{row}, broker CPU s/GB", spent / (megabytes / 1000), LOWER)


def measure(bench, kind, folder, args):
    """Every row of one run on a fresh node."""
    args.seconds, args.rebalances = (2.0, 6) if args.quick else (5.0, 20)
    args.compaction_scale = max(args.scale, 0.25)
    broker = kind(folder, log_segment_delete_delay_ms=1000, **SETTINGS).format()
    try:
        bench.touch()
        broker.start()
        rows = Coordinators(bench, broker, args)
        for part in args.coordinators.split(","):
            getattr(rows, part)()
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
