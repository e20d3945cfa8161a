"""What the two Python clients share: the list of scenarios, how one is run, and the lines that
`scripts/client-matrix` reads: `RESULT <tab> scenario <tab> ok|fail|unsupported <tab> detail`."""
import os
import sys
import time
import traceback

# Replicas of each topic, of as many nodes.
REPLICAS = int(os.environ.get("REPLICAS", "1"))
# Seconds that something may take; more where nodes are killed meanwhile.
PATIENCE = float(os.environ.get("PATIENCE", "20"))
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


class Unsupported(Exception):
    """The client itself cannot do it; the text says why."""


def check(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))


def equal(got, want, what):
    check(got == want, f"{what}: got {got!r:.300}, want {want!r:.300}")


def until(probe, what, seconds=PATIENCE):
    """Calls `probe` until it gives something true; `probe` itself waits."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = probe()
        if got:
            return got
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def text(client, i):
    """The value every client writes into the shared codec topics: compressible and checkable."""
    return f"{client}-{i:06d}-" * 20


def check_text(value):
    word = value.split("-", 2)
    equal(value, text(word[0], int(word[1])), "a record of the codec topic")
    return word[0]


def run(client, scenarios):
    """argv: BOOTSTRAP PREFIX [SCENARIO...]. `scenarios` maps a name to a function of the topic."""
    bootstrap, prefix, only = sys.argv[1], sys.argv[2], sys.argv[3:]
    for name, function in scenarios.items():
        if only and name not in only:
            continue
        began = time.monotonic()
        try:
            topic = f"{prefix}-{client}-{name}".replace("/", "-")
            if name.startswith("codec-"):
                topic = f"{prefix}-{name}"
            function(bootstrap, topic)
            verdict, detail = "ok", ""
        except Unsupported as reason:
            verdict, detail = "unsupported", str(reason)
        except BaseException as error:
            verdict = "fail"
            where = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(where) if f.filename == sys.argv[0]), 0)
            detail = f"line {line}: {type(error).__name__}: {error}".replace("\n", " ")
            detail = detail.replace("\t", " ")
        took = time.monotonic() - began
        print(f"RESULT\t{name}\t{verdict}\t{detail}\t{took:.1f}", flush=True)
    # A client's background threads must not keep the leg alive.
    os._exit(0)
