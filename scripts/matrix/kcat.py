"""The kcat leg (Debian's librdkafka): what a person at a shell does with it."""
import json
import subprocess
import time

import scenario
from scenario import CODECS, Unsupported, check, equal, until

CLIENT = "kcat"


def kcat(boot, *args, stdin=None, fails=False, seconds=30):
    done = subprocess.run(["kcat", "-b", boot, *args], input=stdin, capture_output=True,
                          timeout=seconds, text=True)
    check((done.returncode != 0) == fails, f"kcat {' '.join(args)}: exit {done.returncode}:",
          done.stderr.strip()[-300:])
    return done.stderr if fails else done.stdout


def produce(boot, topic, values, *args):
    kcat(boot, "-P", "-t", topic, "-p", "0", *args, stdin="".join(f"{v}\n" for v in values))


def read(boot, topic, *args, start="beginning"):
    out = kcat(boot, "-C", "-t", topic, "-p", "0", "-o", start, "-e", "-q", "-J", *args)
    return [json.loads(line) for line in out.splitlines()]


def payloads(records):
    return [r["payload"] for r in records]


def end_offset(boot, topic, at=-1):
    out = kcat(boot, "-Q", "-t", f"{topic}:0:{at}")
    return int(out.rsplit("offset", 1)[1])


def codec(name):
    def go(boot, topic):
        values = [scenario.text(CLIENT, i) for i in range(200)]
        produce(boot, topic, values, "-z", name)
        got = read(boot, topic)
        equal([r["offset"] for r in got], list(range(len(got))), "offsets")
        writers = [scenario.check_text(r["payload"]) for r in got]
        own = [r["payload"] for r, w in zip(got, writers) if w == CLIENT]
        equal(own, values, "own records, in order")
    return go


def fields(boot, topic):
    kcat(boot, "-P", "-t", topic, "-p", "0", "-K", ":", "-Z", "-H", "h=1", "-H", "h=2",
         stdin="k0:v0\nk1:\n")
    got = read(boot, topic, "-Z")
    now = time.time() * 1000
    equal([(r["key"], r["payload"]) for r in got], [("k0", "v0"), ("k1", None)], "keys and values")
    equal([r["headers"] for r in got], [["h", "1", "h", "2"]] * 2, "headers")
    check(all(now - 60_000 < r["ts"] <= now + 1000 for r in got), "timestamps:", got)


def acks(boot, topic):
    for n, level in enumerate(["0", "1", "-1"]):
        produce(boot, topic, [f"{level}/{i}" for i in range(50)], "-X", f"acks={level}")
        until(lambda: end_offset(boot, topic) == 50 * (n + 1), f"50 more after acks={level}")
    want = [f"{level}/{i}" for level in ["0", "1", "-1"] for i in range(50)]
    equal(payloads(read(boot, topic)), want, "records")


def idempotent(boot, topic):
    values = [str(i) for i in range(2000)]
    produce(boot, topic, values, "-X", "enable.idempotence=true", "-X", "batch.num.messages=50")
    equal(payloads(read(boot, topic)), values, "records")


def group(boot, topic):
    produce(boot, topic, range(20))
    member = ["-q", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000"]
    first = kcat(boot, "-G", topic, "-c", "20", *member, topic)
    equal(first.split(), [str(i) for i in range(20)], "records")
    produce(boot, topic, range(20, 25))
    second = kcat(boot, "-G", topic, "-c", "5", *member, topic)
    equal(second.split(), [str(i) for i in range(20, 25)], "records after the committed offsets")


def metadata(boot, topic):
    produce(boot, topic, ["x"])
    listed = json.loads(kcat(boot, "-L", "-J", "-t", topic))
    equal(len(listed["brokers"]), scenario.REPLICAS, "brokers")
    partition = listed["topics"][0]["partitions"][0]
    brokers = sorted(b["id"] for b in listed["brokers"])
    equal(sorted(r["id"] for r in partition["isrs"]), brokers, "in sync")
    equal(partition["leader"] in brokers, True, "led")


def list_offsets(boot, topic):
    produce(boot, topic, range(10))
    equal((end_offset(boot, topic, -2), end_offset(boot, topic)), (0, 10), "earliest, latest")
    equal(end_offset(boot, topic, 1), 0, "by timestamp")


def auto_create(boot, topic):
    produce(boot, topic, ["first"])
    equal(payloads(read(boot, topic)), ["first"], "records")


def large(boot, topic):
    values = [c * 900_000 for c in "ABC"]
    produce(boot, topic, values)
    equal(payloads(read(boot, topic)), values, "records")


def seek_time(boot, topic):
    produce(boot, topic, range(5))
    time.sleep(0.05)
    at = int(time.time() * 1000)
    time.sleep(0.05)
    produce(boot, topic, range(5, 9))
    equal(payloads(read(boot, topic, start=f"s@{at}")), ["5", "6", "7", "8"], "records")


def long_poll(boot, topic):
    produce(boot, topic, ["first"])
    c = subprocess.Popen(["kcat", "-b", boot, "-C", "-t", topic, "-p", "0", "-o", "1", "-c", "1",
                          "-q", "-u", "-X", "fetch.wait.max.ms=8000"],
                         stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    check(c.poll() is None, "kcat ended while there was nothing to read")
    produce(boot, topic, ["wake"])
    began = time.monotonic()
    equal(c.communicate(timeout=20)[0].strip(), "wake", "the record")
    took = time.monotonic() - began
    check(took < 2.0, f"a waiting fetch took {took:.1f} s to see a new record")


def absent(boot, topic):
    raise Unsupported("kcat has no command for it")


def no_auto_create(boot, topic):
    told = kcat(boot, "-C", "-t", topic, "-p", "0", "-e", "-X", "allow.auto.create.topics=false",
                fails=True)
    check("Unknown topic or partition" in told, "unknown topic:", told)
    check(f'"{topic}"' not in kcat(boot, "-L"), "the topic was created")


def too_large(boot, topic):
    produce(boot, topic, ["fits"])
    told = kcat(boot, "-P", "-t", topic, "-p", "0", "-X", "message.max.bytes=5000000",
                stdin="x" * 2_000_000 + "\n", fails=True)
    check("too large" in told, "over the limit:", told)
    equal(payloads(read(boot, topic)), ["fits"], "records")


scenario.run(CLIENT, {
    **{f"codec-{name}": codec(name) for name in CODECS},
    "fields": fields, "acks": acks, "idempotent": idempotent, "group": group, "admin": metadata,
    "configs": absent, "list-offsets": list_offsets, "auto-create": auto_create,
    "large": large, "seek-time": seek_time, "long-poll": long_poll,
    "delete-records": absent, "no-auto-create": no_auto_create, "too-large": too_large,
    "static": absent, "next-gen-group": absent, "transactions": absent, "exactly-once": absent,
})
