"""Apache Kafka's own command-line tools. Arguments: BOOTSTRAP PREFIX [TOOL...]. Environment:
`TOOLS_JVM`, the command of a JVM that runs Tools.java; `NODE_LOG_DIR`, where the node keeps its
partitions (for kafka-dump-log), empty when it is not on this machine."""
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import scenario
from scenario import Unsupported, check, equal, until

T = "org.apache.kafka.tools"
CLASSES = {
    "broker-api-versions": [f"{T}.BrokerApiVersionsCommand", "kafka.admin.BrokerApiVersionsCommand"],
    "cluster": [f"{T}.ClusterTool", "kafka.tools.ClusterTool"],
    "configs": [f"{T}.ConfigCommand", "kafka.admin.ConfigCommand"],
    "console-consumer": [f"{T}.consumer.ConsoleConsumer"],
    "console-producer": [f"{T}.ConsoleProducer"],
    "console-share-consumer": [f"{T}.consumer.ConsoleShareConsumer"],
    "consumer-groups": [f"{T}.consumer.group.ConsumerGroupCommand"],
    "consumer-perf-test": [f"{T}.ConsumerPerformance"],
    "delete-records": [f"{T}.DeleteRecordsCommand"],
    "dump-log": [f"{T}.DumpLogSegments", "kafka.tools.DumpLogSegments"],
    "features": [f"{T}.FeatureCommand"],
    "get-offsets": [f"{T}.GetOffsetShell"],
    "groups": [f"{T}.GroupsCommand"],
    "log-dirs": [f"{T}.LogDirsCommand"],
    "metadata-quorum": [f"{T}.MetadataQuorumCommand"],
    "producer-perf-test": [f"{T}.ProducerPerformance"],
    "share-groups": [f"{T}.consumer.group.ShareGroupCommand"],
    "topics": [f"{T}.TopicCommand"],
    "transactions": [f"{T}.TransactionsCommand"],
}
SCRATCH = Path(os.environ.get("SCRATCH", "."))
jvm = None


def tool(name, *args, stdin="", fails=False, seconds=60):
    """Runs one tool; gives what it printed on standard output (and error when it must fail)."""
    global jvm
    if jvm is None or jvm.poll() is not None:
        jvm = subprocess.Popen(shlex.split(os.environ["TOOLS_JVM"]), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    request = {"class": CLASSES[name], "args": [str(a) for a in args], "stdin": stdin,
               "seconds": seconds}
    jvm.stdin.write(json.dumps(request) + "\n")
    jvm.stdin.flush()
    line = jvm.stdout.readline()
    check(line, f"kafka-{name}: the JVM ended")
    answer = json.loads(line)
    said = (answer["out"][-300:] + answer["err"][-600:]).strip()
    check(answer["code"] != 124, f"kafka-{name} did not end in {seconds} s:", said)
    check((answer["code"] != 0) == fails, f"kafka-{name}: exit {answer['code']}:", said)
    return answer["out"] + (answer["err"] if fails else "")


def create(boot, topic, partitions=1, *more):
    tool("topics", "--bootstrap-server", boot, "--create", "--topic", topic, "--partitions",
         partitions, *more)
    until(lambda: f"PartitionCount: {partitions}" in tool(
        "topics", "--bootstrap-server", boot, "--describe", "--topic", topic), "the new topic")


def produce(boot, topic, lines, *more):
    tool("console-producer", "--bootstrap-server", boot, "--topic", topic, *more,
         stdin="".join(f"{line}\n" for line in lines))


def consume(boot, topic, count, *more):
    out = tool("console-consumer", "--bootstrap-server", boot, "--topic", topic,
               "--max-messages", count, "--timeout-ms", 20000, *more)
    return out.splitlines()


def topics(boot, topic):
    to = ["--bootstrap-server", boot]
    create(boot, topic, 2, "--config", "retention.ms=3600000", "--replication-factor",
           scenario.REPLICAS)
    check(topic in tool("topics", *to, "--list").split(), "the topic is not listed")
    told = tool("topics", *to, "--describe", "--topic", topic)
    head = told.splitlines()[0]
    for part in [f"Topic: {topic}", "PartitionCount: 2", f"ReplicationFactor: {scenario.REPLICAS}",
                 "TopicId: "]:
        check(part in head, "describe lacks", part, "in", head)
    check("retention.ms=3600000" in head, "describe lacks the config:", head)
    leaders = re.findall(r"Partition: (\d+)\s+Leader: (\d+)\s+Replicas: ([\d,]+)\s+Isr: ([\d,]+)", told)
    equal([(p, leader in replicas.split(",") and set(replicas.split(",")) == set(isr.split(",")))
           for p, leader, replicas, isr in leaders],
          [("0", True), ("1", True)], "leader, replicas and ISR of each partition")
    tool("topics", *to, "--alter", "--topic", topic, "--partitions", 4)
    until(lambda: "PartitionCount: 4" in tool("topics", *to, "--describe", "--topic", topic), "4")
    told = tool("topics", *to, "--create", "--topic", topic, fails=True)
    check("already exists" in told, "creating it again:", told)
    equal(tool("topics", *to, "--describe", "--under-replicated-partitions").strip(), "", "URPs")
    tool("topics", *to, "--delete", "--topic", topic)
    until(lambda: topic not in tool("topics", *to, "--list").split(), "the topic to go")


def configs(boot, topic):
    to = ["--bootstrap-server", boot]
    create(boot, topic)
    entity = ["--entity-type", "topics", "--entity-name", topic]
    tool("configs", *to, *entity, "--alter", "--add-config", "retention.ms=123456,cleanup.policy=compact")
    told = lambda *more: tool("configs", *to, *entity, "--describe", *more)
    until(lambda: "retention.ms=123456" in told(), "the altered value")
    check("DYNAMIC_TOPIC_CONFIG:retention.ms=123456" in told(), "synonyms:", told())
    check("segment.bytes=1073741824" in told("--all"), "--all lacks segment.bytes")
    tool("configs", *to, *entity, "--alter", "--delete-config", "retention.ms")
    until(lambda: "retention.ms" not in told(), "the deleted value to go")
    refused = tool("configs", *to, *entity, "--alter", "--add-config", "no.such.key=1", fails=True)
    check("no.such.key" in refused, "an unknown key:", refused)
    broker = ["--entity-type", "brokers", "--entity-name",
              re.search(r"\(id: (\d+)", tool("broker-api-versions", *to)).group(1)]
    static = tool("configs", *to, *broker, "--describe", "--all")
    check(re.search(r"^\s*node\.id=\d+ ", static, re.M), "the broker's node.id is not shown")
    tool("configs", *to, *broker, "--alter", "--add-config", "log.retention.ms=98765432")
    told = lambda: tool("configs", *to, *broker, "--describe")
    until(lambda: "log.retention.ms=98765432" in told(), "the broker's altered value")
    tool("configs", *to, *broker, "--alter", "--delete-config", "log.retention.ms")
    until(lambda: "log.retention.ms" not in told(), "the broker's deleted value to go")
    everyone = ["--entity-type", "brokers", "--entity-default"]
    tool("configs", *to, *everyone, "--alter", "--add-config", "log.retention.ms=87654321")
    told = lambda: tool("configs", *to, *everyone, "--describe")
    until(lambda: "log.retention.ms=87654321" in told(), "the cluster-wide value")
    tool("configs", *to, *everyone, "--alter", "--delete-config", "log.retention.ms")


def console(boot, topic):
    create(boot, topic)
    lines = [f"k{i}:value {i}" for i in range(100)]
    for n, codec in enumerate(scenario.CODECS):
        produce(boot, topic, lines[n * 20:n * 20 + 20], "--reader-property", "parse.key=true",
                "--reader-property", "key.separator=:", "--compression-codec", codec)
    got = consume(boot, topic, 100, "--from-beginning", "--formatter-property", "print.key=true",
                  "--formatter-property", "key.separator=:", "--formatter-property",
                  "print.offset=true")
    equal(got, [f"Offset:{i}:{line}" for i, line in enumerate(lines)], "records")
    got = consume(boot, topic, 3, "--partition", 0, "--offset", 97)
    equal(got, ["value 97", "value 98", "value 99"], "records from an offset")


def perf(boot, topic):
    create(boot, topic, 4)
    props = ["--command-property", f"bootstrap.servers={boot}", "acks=all"]
    told = tool("producer-perf-test", "--topic", topic, "--num-records", 50000, "--record-size",
                100, "--throughput", -1, *props)
    last = told.strip().splitlines()[-1]
    check(re.match(r"50000 records sent, [\d.]+ records/sec .* 99.9th", last), "summary:", told)
    equal(offsets(boot, topic), 50000, "records by the offsets")


def perf_consume(boot, topic):
    create(boot, topic, 4)
    props = ["--command-property", f"bootstrap.servers={boot}"]
    tool("producer-perf-test", "--topic", topic, "--num-records", 50000, "--record-size", 100,
         "--throughput", -1, *props)
    told = tool("consumer-perf-test", "--bootstrap-server", boot, "--topic", topic,
                "--num-records", 50000, "--timeout", 20000)
    count = int(told.strip().splitlines()[-1].split(",")[4])
    check(count >= 50000, "records read:", told)


def offsets(boot, topic, *more):
    told = tool("get-offsets", "--bootstrap-server", boot, "--topic", topic, *more)
    return sum(int(line.rsplit(":", 1)[1]) for line in told.splitlines())


def get_offsets(boot, topic):
    create(boot, topic, 2)
    before = int(time.time() * 1000) - 1000
    produce(boot, topic, range(10))
    equal(offsets(boot, topic), 10, "latest")
    equal(offsets(boot, topic, "--time", "earliest"), 0, "earliest")
    equal(offsets(boot, topic, "--time", before), 0, "by timestamp")
    told = tool("get-offsets", "--bootstrap-server", boot, "--topic-partitions", f"{topic}:1")
    check(re.fullmatch(rf"{topic}:1:\d+\s*", told), "one partition:", told)


def log_dirs(boot, topic):
    create(boot, topic)
    produce(boot, topic, ["x" * 1000])
    told = tool("log-dirs", "--bootstrap-server", boot, "--describe", "--topic-list", topic)
    found = json.loads(told.strip().splitlines()[-1])
    partitions = [p for b in found["brokers"] for d in b["logDirs"] for p in d["partitions"]]
    equal([p["partition"] for p in partitions], [f"{topic}-0"] * scenario.REPLICAS, "partitions")
    check(1000 <= partitions[0]["size"] < 1300, "size:", partitions)
    equal((partitions[0]["offsetLag"], partitions[0]["isFuture"]), (0, False), "lag, future")


def delete_records(boot, topic):
    create(boot, topic)
    produce(boot, topic, range(10))
    plan = SCRATCH / "delete-records.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": topic, "partition": 0, "offset": 4}]}))
    told = tool("delete-records", "--bootstrap-server", boot, "--offset-json-file", plan)
    check("low_watermark: 4" in told, "low watermark:", told)
    equal(offsets(boot, topic, "--time", "earliest"), 4, "earliest")
    equal(consume(boot, topic, 6, "--from-beginning"), [str(i) for i in range(4, 10)], "records")


def groups(boot, topic):
    to, group = ["--bootstrap-server", boot], f"{topic}-group"
    create(boot, topic)
    produce(boot, topic, range(10))
    got = consume(boot, topic, 6, "--from-beginning", "--group", group)
    equal(got, [str(i) for i in range(6)], "records")
    check(group in tool("consumer-groups", *to, "--list").split(), "the group is not listed")

    def row():
        told = tool("consumer-groups", *to, "--describe", "--group", group)
        found = [line.split() for line in told.splitlines() if line.startswith(group)]
        header = next(line.split() for line in told.splitlines() if line.startswith("GROUP"))
        equal(len(found), 1, "rows of the group in " + told)
        return {k: found[0][header.index(k)] for k in ["CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"]}
    until(lambda: list(row().values()) == ["6", "10", "4"], "offset 6 of 10, lag 4")
    state = tool("consumer-groups", *to, "--describe", "--group", group, "--state")
    check("Empty" in state, "state:", state)
    tool("consumer-groups", *to, "--describe", "--all-groups")
    tool("consumer-groups", *to, "--reset-offsets", "--group", group, "--topic", topic,
         "--to-offset", 2, "--execute")
    equal(list(row().values()), ["2", "10", "8"], "after the reset")
    equal(consume(boot, topic, 8, "--group", group), [str(i) for i in range(2, 10)], "from there")
    tool("consumer-groups", *to, "--delete-offsets", "--group", group, "--topic", topic)
    told = tool("consumer-groups", *to, "--describe", "--group", group, "--offsets")
    check(not any(line.startswith(group) for line in told.splitlines()), "offsets stay:", told)
    produce(boot, topic, ["again"])
    consume(boot, topic, 1, "--group", group, "--from-beginning")
    tool("consumer-groups", *to, "--delete", "--group", group)
    check(group not in tool("consumer-groups", *to, "--list").split(), "the group is still listed")


def share_groups(boot, topic):
    """kafka-console-share-consumer and kafka-share-groups."""
    to, group = ["--bootstrap-server", boot], f"{topic}-share"
    create(boot, topic)
    produce(boot, topic, range(10))
    tool("configs", *to, "--alter", "--entity-type", "groups", "--entity-name", group,
         "--add-config", "share.auto.offset.reset=earliest")
    told = tool("configs", *to, "--describe", "--entity-type", "groups", "--entity-name", group)
    check("share.auto.offset.reset=earliest" in told, "the group's config:", told)

    def read(count):
        out = tool("console-share-consumer", *to, "--topic", topic, "--group", group,
                   "--max-messages", count, "--timeout-ms", 20000)
        return [line for line in out.splitlines() if line.isdigit()]

    def row(*more):
        told = tool("share-groups", *to, "--describe", "--group", group, *more)
        rows = [line.split() for line in told.splitlines() if line.strip()]
        return [dict(zip(rows[0], r)) for r in rows[1:]] if rows else []
    equal(read(6), [str(i) for i in range(6)], "records")
    until(lambda: [(r["START-OFFSET"], r["LAG"]) for r in row()] == [("6", "4")], "offset 6, lag 4")
    equal([r["TOPIC"] for r in row("--offsets", "--verbose")], [topic], "offsets")
    check(group in tool("share-groups", *to, "--list").split(), "the group is not listed")
    told = tool("share-groups", *to, "--describe", "--group", group, "--state")
    check(re.search(rf"^{group} .*\bEmpty +0", told, re.M), "state:", told)
    tool("share-groups", *to, "--describe", "--group", group, "--members")
    tool("share-groups", *to, "--describe", "--all-groups")
    told = tool("groups", *to, "--list")
    check(re.search(rf"^{group} +Share ", told, re.M), "type of the group:", told)
    reset = ["--reset-offsets", "--group", group, "--topic", topic, "--to-earliest"]
    tool("share-groups", *to, *reset, "--dry-run")
    tool("share-groups", *to, *reset, "--execute")
    equal([(r["START-OFFSET"], r["LAG"]) for r in row()], [("0", "10")], "after the reset")
    equal(read(10), [str(i) for i in range(10)], "all once more")
    tool("share-groups", *to, "--delete-offsets", "--group", group, "--topic", topic)
    equal(row(), [], "rows without offsets")
    tool("share-groups", *to, "--delete", "--group", group)
    check(group not in tool("share-groups", *to, "--list").split(), "the group is still listed")


def internal(boot, topic, formatter):
    """What Kafka's own formatter makes of the records of an internal topic."""
    out = tool("console-consumer", "--bootstrap-server", boot, "--topic", topic, "--from-beginning",
               "--max-messages", 2000, "--timeout-ms", 3000, "--formatter", f"{T}.consumer.{formatter}")
    return out.splitlines()


def all_groups(boot, topic):
    """kafka-groups: classic and consumer groups by type; and Kafka's reading of our offsets topic."""
    create(boot, topic)
    produce(boot, topic, ["one"])
    old, new = f"{topic}-old", f"{topic}-new"
    consume(boot, topic, 1, "--group", old, "--from-beginning")
    consume(boot, topic, 1, "--group", new, "--from-beginning", "--consumer-property",
            "group.protocol=consumer")
    told = tool("groups", "--bootstrap-server", boot, "--list")
    types = {line.split()[0]: line.split()[1] for line in told.splitlines() if line.strip()}
    equal((types.get(old), types.get(new)), ("Classic", "Consumer"), "types of groups")
    written = internal(boot, "__consumer_offsets", "OffsetsMessageFormatter")
    check(any('"offset"' in line for line in written), "commits:", written[:3])


def transactions(boot, topic):
    to = ["--bootstrap-server", boot]
    create(boot, topic)
    name = f"{topic}-id"
    tool("producer-perf-test", "--topic", topic, "--num-records", 500, "--record-size", 100,
         "--throughput", 2000, "--command-property", f"bootstrap.servers={boot}",
         "--transactional-id", name,
         "--transaction-duration-ms", 100)
    told = tool("transactions", *to, "list")
    row = next(line for line in told.splitlines() if line.startswith(name))
    check("CompleteCommit" in row, "list:", row)
    told = tool("transactions", *to, "describe", "--transactional-id", name)
    check("CompleteCommit" in told, "describe:", told)
    told = tool("transactions", *to, "describe-producers", "--topic", topic, "--partition", 0)
    equal(len(told.strip().splitlines()), 2, "rows of " + told)
    told = tool("transactions", *to, "find-hanging", "--topic", topic)
    equal(len(told.strip().splitlines()), 1, "hanging transactions in " + told)
    written = internal(boot, "__transaction_state", "TransactionLogMessageFormatter")
    check(any("transactionalId" in line for line in written), "states:", written[:3])


def api_versions(boot, topic):
    told = tool("broker-api-versions", "--bootstrap-server", boot)
    check("ERROR" not in told and "(id: " in told, "broker:", told[:300])
    usable = dict(re.findall(r"(\w+)\(\d+\): .*\[usable: (\d+)\]", told))
    for name in ["Produce", "Fetch", "ListOffsets", "Metadata", "OffsetCommit", "JoinGroup",
                 "CreateTopics", "DeleteRecords", "InitProducerId", "IncrementalAlterConfigs",
                 "DescribeCluster", "DescribeProducers", "DescribeTopicPartitions"]:
        check(name in usable, name, "is not usable:", told)


def features(boot, topic):
    told = tool("features", "--bootstrap-server", boot, "describe")
    found = dict(re.findall(r"Feature: (\S+)\s.*FinalizedVersionLevel: (\S+)", told))
    check("metadata.version" in found, "features:", told)
    check(all("Epoch: " in line for line in told.splitlines() if line), "epochs:", told)


def cluster(boot, topic):
    told = tool("cluster", "cluster-id", "--bootstrap-server", boot)
    check(re.search(r"Cluster ID: \S{22}", told), "cluster id:", told)


def quorum(boot, topic):
    to = ["--bootstrap-server", boot, "describe"]
    told = tool("metadata-quorum", *to, "--status")
    found = dict(re.findall(r"^(\w+):\s+(.+)$", told, re.M))
    for key in ["ClusterId", "LeaderId", "LeaderEpoch", "HighWatermark", "MaxFollowerLag",
                "CurrentVoters", "CurrentObservers"]:
        check(key in found, "status lacks", key, "in", told)
    check(int(found["HighWatermark"]) > 0, "high watermark:", told)
    told = tool("metadata-quorum", *to, "--replication")
    rows = [line.split() for line in told.splitlines()[1:] if line.strip()]
    equal([r[0] for r in rows if r[-1] == "Leader"], [found["LeaderId"]], "leaders in " + told)


def dump_log(boot, topic):
    root = os.environ.get("NODE_LOG_DIR", "")
    if not root:
        raise Unsupported("the node's log directory is not known here")
    create(boot, topic, 1, "--config", "segment.bytes=1048576", "--config", "index.interval.bytes=4096")
    for codec in scenario.CODECS:
        tool("producer-perf-test", "--topic", topic, "--num-records", 8000, "--record-size", 200,
             "--throughput", -1, "--command-property", f"bootstrap.servers={boot}",
             f"compression.type={codec}")
    count = 0
    folder = Path(root) / f"{topic}-0"
    logs = sorted(folder.glob("*.log"))
    check(len(logs) >= 2, "segments:", logs)
    for log in logs:
        told = tool("dump-log", "--files", log, "--deep-iteration")
        bad = [line for line in told.splitlines()
               if re.search(r"isvalid: false|[Ff]ound .*(invalid|mismatch)|[Ee]rror", line)]
        equal(bad, [], f"complaints about {log.name}")
        batches = re.findall(r"^baseOffset: (\d+) lastOffset: (\d+) count: (\d+)", told, re.M)
        check(batches, "no batch in", log.name)
        equal(int(batches[0][0]), count, "base offset")
        count = int(batches[-1][1]) + 1
    equal(count, 40000, "records in the segments")
    # The mapped, preallocated files of the last segment are checked once they are closed.
    for kind in ["index", "timeindex"]:
        for path in sorted(folder.glob(f"*.{kind}"))[:-1]:
            sanity = ["--index-sanity-check"] if kind == "index" else []
            told = tool("dump-log", "--files", path, *sanity)
            if kind == "index":
                check("passed sanity check" in told, path.name, told[-300:])
            check("mismatch" not in told.lower() and "found" not in told.lower(), path.name, told[-300:])
    snapshots = sorted(folder.glob("*.snapshot"))
    for path in snapshots:
        check("producerId" in tool("dump-log", "--files", path), "producer snapshot", path.name)


def dump_stopped(boot, topic):
    """Every file of every user partition of a stopped node."""
    for folder in sorted(Path(os.environ["NODE_LOG_DIR"]).iterdir()):
        logs = sorted(folder.glob("*.log")) if "-codec-" in folder.name else []
        for log in logs:
            told = tool("dump-log", "--files", log, "--deep-iteration")
            check("isvalid: false" not in told and "isvalid: true" in told, log, told[-300:])
        for path in sorted(folder.glob("*.index")) if logs else []:
            told = tool("dump-log", "--files", path, "--index-sanity-check")
            check("passed sanity check" in told, path, told[-300:])
        for path in sorted(folder.glob("*.timeindex")) if logs else []:
            told = tool("dump-log", "--files", path)
            check("mismatch" not in told.lower() and "found" not in told.lower(), path, told[-300:])


TOOLS = {
    "kafka-topics": topics, "kafka-configs": configs, "kafka-console-producer/consumer": console,
    "kafka-producer-perf-test": perf, "kafka-consumer-perf-test": perf_consume,
    "kafka-get-offsets": get_offsets, "kafka-log-dirs": log_dirs,
    "kafka-delete-records": delete_records, "kafka-consumer-groups": groups,
    "kafka-share-groups": share_groups, "kafka-groups": all_groups, "kafka-transactions": transactions,
    "kafka-broker-api-versions": api_versions, "kafka-features": features,
    "kafka-cluster": cluster, "kafka-metadata-quorum": quorum, "kafka-dump-log": dump_log,
}

if "kafka-dump-log-stopped" in sys.argv:
    TOOLS["kafka-dump-log-stopped"] = dump_stopped
scenario.run("tools", TOOLS)
