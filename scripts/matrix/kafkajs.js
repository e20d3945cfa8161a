// The kafkajs leg. Arguments: BOOTSTRAP PREFIX [SCENARIO...]; prints RESULT lines (see scenario.py).
"use strict";
const assert = require("node:assert/strict");
const { setTimeout: sleep } = require("node:timers/promises");
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } =
  require("kafkajs");
const lz4 = require("lz4-napi");
const { ZstdCodec } = require("zstd-codec");

const CLIENT = "kafkajs";
const [boot, prefix, ...only] = process.argv.slice(2);
// Replicas of each topic, of as many nodes.
const copies = Number(process.env.REPLICAS || 1);
const NONE = Symbol("no error");

function codecs() {
  CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: async (encoder) => lz4.compressFrameSync(encoder.buffer),
    decompress: async (buffer) => lz4.decompressFrameSync(buffer),
  });
  return new Promise((ready) => ZstdCodec.run((zstd) => {
    const stream = new zstd.Streaming();
    CompressionCodecs[CompressionTypes.ZSTD] = () => ({
      compress: async (encoder) => Buffer.from(stream.compress(encoder.buffer, 3)),
      decompress: async (buffer) => Buffer.from(stream.decompress(buffer)),
    });
    ready();
  }));
}

const kafka = new Kafka({
  brokers: boot.split(","), clientId: "matrix", logLevel: logLevel.NOTHING, retry: { retries: 3 },
});
const admin = kafka.admin();

async function until(probe, what, ms = 20000) {
  const end = Date.now() + ms;
  for (;;) {
    const got = await probe();
    if (got) return got;
    assert(Date.now() < end, `${what}: not within ${ms} ms`);
    await sleep(50);
  }
}

async function refused(promise) {
  try { await promise; return NONE; } catch (error) { return error; }
}

const named = (error) => error.type || error.cause?.type || error.errors?.[0]?.type ||
  error.partitions?.[0]?.error?.message || error.name;

async function create(topic, numPartitions = 1, configEntries = []) {
  await admin.createTopics({ topics: [{ topic, numPartitions, replicationFactor: copies, configEntries }] });
  // deleteTopicRecords looks leaders up in what an earlier call left in the cache.
  await until(() => admin.fetchTopicOffsets(topic).catch(() => null), "the new topic");
}

async function produce(topic, messages, { producer = {}, ...send } = {}) {
  const p = kafka.producer({ allowAutoTopicCreation: true, ...producer });
  await p.connect();
  try { return await p.send({ topic, messages, ...send }); } finally { await p.disconnect(); }
}

// Reads from offset `from` until `count` records came; gives [{partition, message}].
async function read(topic, count, { from = null, consumer = {}, ms = 20000 } = {}) {
  const c = kafka.consumer({
    groupId: `${topic}-${process.hrtime.bigint()}`, retry: { retries: 2 },
    maxWaitTimeInMs: 200, ...consumer,
  });
  const out = [];
  let crash = null;
  c.on(c.events.CRASH, (e) => { crash = e.payload.error; });
  await c.connect();
  await c.subscribe({ topics: [topic], fromBeginning: true });
  await c.run({ autoCommit: false, eachMessage: async (m) => { out.push(m); } });
  if (from !== null) c.seek({ topic, partition: 0, offset: String(from) });
  try {
    await until(() => { if (crash) throw crash; return out.length >= count; },
      `${count} records`, ms).catch((e) => {
      e.message += ` (${out.length} came)`;
      throw e;
    });
  } finally { await c.disconnect(); }
  return out;
}

const values = (records) => records.map((r) => r.message.value?.toString() ?? null);
const offsets = async (topic) => (await admin.fetchTopicOffsets(topic))[0];
const numbers = (from, to) => Array.from({ length: to - from }, (_, i) => String(from + i));
const text = (i) => `${CLIENT}-${String(i).padStart(6, "0")}-`.repeat(20);

function codec(compression) {
  return async (topic) => {
    const own = numbers(0, 200).map((i) => text(i));
    await produce(topic, own.map((value) => ({ value })), { compression });
    const { low, high } = await offsets(topic);
    const got = values(await read(topic, high - low));
    for (const v of got) assert.equal(v, v.slice(0, v.indexOf("-", v.indexOf("-") + 1) + 1).repeat(20));
    assert.deepEqual(got.filter((v) => v.startsWith(`${CLIENT}-`)), own);
  };
}

async function fields(topic) {
  const now = Date.now() - 5000;
  const sent = [
    { key: "k0", value: "v0", timestamp: String(now), headers: { h: ["1", "2"] } },
    { key: "k1", value: null, timestamp: String(now + 1) },
    { key: null, value: "ünï", timestamp: String(now + 2), headers: { x: "y" } },
    { key: "", value: "", timestamp: String(now + 3), headers: { empty: "" } },
  ];
  await create(topic);
  await produce(topic, sent);
  const got = (await read(topic, 4)).map(({ message: m }) => ({
    key: m.key?.toString() ?? null, value: m.value?.toString() ?? null, timestamp: m.timestamp,
    headers: Object.fromEntries(Object.entries(m.headers).map(([k, v]) =>
      [k, Array.isArray(v) ? v.map(String) : String(v)])),
  }));
  assert.deepEqual(got, sent.map((s) => ({ headers: {}, ...s })));
}

async function acks(topic) {
  await create(topic);
  for (const [n, level] of [0, 1, -1].entries()) {
    await produce(topic, numbers(0, 50).map((i) => ({ value: `${level}:${i}` })), { acks: level });
    await until(async () => (await offsets(topic)).high === String(50 * (n + 1)), `acks=${level}`);
  }
  const want = [0, 1, -1].flatMap((level) => numbers(0, 50).map((i) => `${level}:${i}`));
  assert.deepEqual(values(await read(topic, 150)), want);
}

async function idempotent(topic) {
  await create(topic);
  const p = kafka.producer({ idempotent: true });
  await p.connect();
  for (let i = 0; i < 1000; i += 50) {
    const [r] = await p.send({ topic, messages: numbers(i, i + 50).map((value) => ({ value })) });
    assert.equal(r.baseOffset, String(i));
  }
  await p.disconnect();
  assert.deepEqual(values(await read(topic, 1000)), numbers(0, 1000));
}

async function member(groupId, topic, seen) {
  const c = kafka.consumer({
    groupId, sessionTimeout: 6000, heartbeatInterval: 300, maxWaitTimeInMs: 300,
  });
  const state = { c, owned: [] };
  c.on(c.events.GROUP_JOIN, (e) => { state.owned = e.payload.memberAssignment[topic] || []; });
  await c.connect();
  await c.subscribe({ topics: [topic], fromBeginning: true });
  await c.run({
    autoCommitThreshold: 1,
    eachMessage: async ({ message }) => { seen.push(Number(message.value)); },
  });
  return state;
}

async function group(topic) {
  await create(topic, 4);
  const send = (from, to) => produce(topic,
    numbers(from, to).map((value) => ({ value, partition: value % 4 })));
  await send(0, 40);
  const seen = [];
  const first = await member(topic, topic, seen);
  await until(() => seen.length >= 40, "40 records by one member");
  const second = await member(topic, topic, seen);
  await until(() => first.owned.length === 2 && second.owned.length === 2, "two partitions each");
  assert.deepEqual([...first.owned, ...second.owned].sort(), [0, 1, 2, 3]);
  const { groups: [described] } = await admin.describeGroups([topic]);
  assert.deepEqual([described.state, described.members.length], ["Stable", 2]);
  await second.c.disconnect();
  await until(() => first.owned.length === 4, "all four back to the first");
  await first.c.disconnect();
  assert.deepEqual([...seen].sort((a, b) => a - b), numbers(0, 40).map(Number));
  await send(40, 48);
  const again = [];
  const third = await member(topic, topic, again);
  await until(() => again.length >= 8, "the records after the committed offsets");
  await third.c.disconnect();
  assert.deepEqual([...again].sort((a, b) => a - b), numbers(40, 48).map(Number));
  const [{ partitions }] = await admin.fetchOffsets({ groupId: topic, topics: [topic] });
  assert.deepEqual(partitions.map((p) => p.offset), ["12", "12", "12", "12"]);
  assert((await admin.listGroups()).groups.some((g) => g.groupId === topic), "the group is listed");
  await admin.deleteGroups([topic]);
}

async function topics(topic) {
  await create(topic, 3, [{ name: "retention.ms", value: "3600000" }]);
  const meta = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0];
  assert.deepEqual((await meta()).partitions.map((p) => p.partitionId).sort(), [0, 1, 2]);
  assert.equal(await admin.createTopics({ topics: [{ topic }] }), false);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] });
  await until(async () => (await meta()).partitions.length === 5, "5 partitions");
  const cluster = await admin.describeCluster();
  assert.equal(cluster.brokers.length, copies);
  assert(cluster.clusterId && cluster.controller !== null);
  await admin.deleteTopics({ topics: [topic] });
  await until(async () => !(await admin.listTopics()).includes(topic), "the topic to go");
}

async function configs(topic) {
  await create(topic);
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic };
  const value = async () => (await admin.describeConfigs({ resources: [resource] }))
    .resources[0].configEntries.find((e) => e.configName === "retention.ms").configValue;
  const change = (to) => admin.alterConfigs({
    resources: [{ ...resource, configEntries: [{ name: "retention.ms", value: to }] }],
  });
  assert.equal(await value(), "604800000");
  await change("123456");
  await until(async () => (await value()) === "123456", "the altered value");
  assert.equal(named(await refused(change("soon"))), "INVALID_CONFIG");
}

async function listOffsets(topic) {
  await create(topic);
  const base = 1700000000000;
  await produce(topic, numbers(0, 10).map((value) => ({
    value, timestamp: String(base + value * 1000),
  })));
  assert.deepEqual(await offsets(topic), { partition: 0, offset: "10", high: "10", low: "0" });
  const [at] = await admin.fetchTopicOffsetsByTimestamp(topic, base + 3500);
  assert.equal(at.offset, "4");
}

async function autoCreate(topic) {
  await produce(topic, [{ value: "first" }], { producer: { retry: { retries: 10 } } });
  assert.deepEqual(values(await read(topic, 1)), ["first"]);
}

async function large(topic) {
  await create(topic);
  const sent = ["A", "B", "C"].map((c) => c.repeat(900000));
  for (const value of sent) await produce(topic, [{ value }]);
  assert.deepEqual(values(await read(topic, 3)).map((v) => v[0] + v.length),
    ["A900000", "B900000", "C900000"]);
}

async function seekTime(topic) {
  await create(topic);
  const base = 1700000000000;
  for (let i = 0; i < 100; i += 10) {
    await produce(topic, numbers(i, i + 10).map((value) => ({
      value, timestamp: String(base + value * 1000),
    })));
  }
  const [at] = await admin.fetchTopicOffsetsByTimestamp(topic, base + 60000);
  assert.equal(at.offset, "60");
  assert.deepEqual(values(await read(topic, 40, { from: 60 })).slice(-40), numbers(60, 100));
}

async function longPoll(topic) {
  await create(topic);
  let came = 0;
  const c = kafka.consumer({ groupId: topic, maxWaitTimeInMs: 4000 });
  await c.connect();
  await c.subscribe({ topics: [topic], fromBeginning: true });
  const joined = new Promise((go) => c.on(c.events.GROUP_JOIN, go));
  await c.run({ eachMessage: async () => { came = Date.now(); } });
  await joined;
  await sleep(1500);
  assert.equal(came, 0);
  const began = Date.now();
  await produce(topic, [{ value: "wake" }]);
  await until(() => came, "the record");
  assert(came - began < 2000, `a waiting fetch took ${came - began} ms to see a new record`);
  await c.disconnect();
}

async function deleteRecords(topic) {
  await create(topic);
  await produce(topic, numbers(0, 10).map((value) => ({ value })));
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "6" }] });
  await until(async () => (await offsets(topic)).low === "6", "the low watermark");
  assert.deepEqual(values(await read(topic, 4)), numbers(6, 10));
}

async function noAutoCreate(topic) {
  const send = produce(topic, [{ value: "x" }], {
    producer: { allowAutoTopicCreation: false, retry: { retries: 1, initialRetryTime: 20 } },
  });
  assert.equal(named(await refused(send)), "UNKNOWN_TOPIC_OR_PARTITION");
  assert(!(await admin.listTopics()).includes(topic), "the topic was created");
}

async function tooLarge(topic) {
  await create(topic);
  const error = await refused(produce(topic, [{ value: "x".repeat(2000000) }]));
  assert.equal(named(error), "MESSAGE_TOO_LARGE");
  await produce(topic, [{ value: "fits" }]);
  assert.deepEqual(values(await read(topic, 1)), ["fits"]);
}

class Unsupported extends Error {}

async function withoutStatic() {
  throw new Unsupported("kafkajs has no static membership (KIP-345)");
}

async function withoutNextGen() {
  throw new Unsupported("kafkajs has no group.protocol=consumer (KIP-848)");
}

async function transactional(transactionalId) {
  const p = kafka.producer({ transactionalId, maxInFlightRequests: 1, idempotent: true });
  await p.connect();
  return p;
}

async function committed(topic, count) {
  return values(await read(topic, count));
}

async function transactions(topic) {
  await create(topic);
  const p = await transactional(topic);
  const send = async (t, ...all) => t.send({ topic, messages: all.map((value) => ({ value })) });
  let t = await p.transaction();
  await send(t, "a0", "a1");
  await t.abort();
  t = await p.transaction();
  await send(t, "c0", "c1");
  await t.commit();
  assert.deepEqual(await committed(topic, 2), ["c0", "c1"]);
  t = await p.transaction();
  await send(t, "z0");
  const second = await transactional(topic);
  const newer = await second.transaction();
  await assert.rejects(t.commit(), "a fenced producer committed");
  await send(newer, "n0");
  await newer.commit();
  assert.deepEqual(await committed(topic, 3), ["c0", "c1", "n0"]);
  await p.disconnect();
  await second.disconnect();
}

async function exactlyOnce(topic) {
  const [source, sink] = [`${topic}-in`, `${topic}-out`];
  await create(source);
  await create(sink);
  await produce(source, numbers(0, 40).map((value) => ({ value })));
  const p = await transactional(topic);
  const c = kafka.consumer({ groupId: topic });
  await c.connect();
  await c.subscribe({ topics: [source], fromBeginning: true });
  let done = 0;
  await c.run({
    autoCommit: false,
    eachBatch: async ({ batch, resolveOffset }) => {
      const t = await p.transaction();
      await t.send({ topic: sink, messages: batch.messages.map((m) => ({ value: `x${m.value}` })) });
      const offset = String(BigInt(batch.lastOffset()) + 1n);
      await t.sendOffsets({
        consumerGroupId: topic,
        topics: [{ topic: source, partitions: [{ partition: batch.partition, offset }] }],
      });
      await t.commit();
      resolveOffset(batch.lastOffset());
      done += batch.messages.length;
    },
  });
  await until(() => done >= 40, "40 records in transactions");
  await c.disconnect();
  assert.deepEqual((await committed(sink, 40)).sort(), numbers(0, 40).map((n) => `x${n}`).sort());
  const [at] = await admin.fetchOffsets({ groupId: topic, topics: [source] });
  assert.equal(at.partitions[0].offset, "40");
  await p.disconnect();
}

const scenarios = {
  "codec-none": codec(CompressionTypes.None), "codec-gzip": codec(CompressionTypes.GZIP),
  "codec-snappy": codec(CompressionTypes.Snappy), "codec-lz4": codec(CompressionTypes.LZ4),
  "codec-zstd": codec(CompressionTypes.ZSTD), "fields": fields, "acks": acks,
  "idempotent": idempotent, "group": group, "admin": topics, "configs": configs,
  "list-offsets": listOffsets, "auto-create": autoCreate, "large": large, "seek-time": seekTime,
  "long-poll": longPoll, "delete-records": deleteRecords, "no-auto-create": noAutoCreate,
  "too-large": tooLarge, "static": withoutStatic, "next-gen-group": withoutNextGen,
  "transactions": transactions, "exactly-once": exactlyOnce,
};

async function main() {
  await codecs();
  await admin.connect();
  for (const [name, scenario] of Object.entries(scenarios)) {
    if (only.length && !only.includes(name)) continue;
    const began = Date.now();
    const topic = name.startsWith("codec-") ? `${prefix}-${name}` : `${prefix}-${CLIENT}-${name}`;
    let verdict = "ok", detail = "";
    try { await scenario(topic); } catch (error) {
      const line = /kafkajs\.js:(\d+)/.exec(error.stack || "");
      verdict = error instanceof Unsupported ? "unsupported" : "fail";
      detail = error instanceof Unsupported ? error.message
        : `line ${line ? line[1] : "?"}: ${named(error)}: ${error.message}`.replace(/\s+/g, " ");
    }
    const took = ((Date.now() - began) / 1000).toFixed(1);
    console.log(["RESULT", name, verdict, detail, took].join("\t"));
  }
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
