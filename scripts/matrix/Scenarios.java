// The Java kafka-clients leg. Arguments: BOOTSTRAP PREFIX [SCENARIO...]; prints RESULT lines (see
// scenario.py). Compiled by scripts/client-matrix against the jars that scripts/peer resolves.
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.function.BooleanSupplier;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.InvalidRecordStateException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

public final class Scenarios {
    interface Scenario { void run(String topic) throws Exception; }

    static final String CLIENT = "java";
    static final long BASE = 1_700_000_000_000L;
    static final short COPIES =
        Short.parseShort(System.getenv().getOrDefault("REPLICAS", "1"));
    static String boot;
    static Admin admin;

    static Properties conf(Object... pairs) {
        Properties p = new Properties();
        p.put("bootstrap.servers", boot);
        for (int i = 0; i < pairs.length; i += 2) p.put(pairs[i], pairs[i + 1]);
        return p;
    }

    static void equal(Object got, Object want, String what) {
        if (!got.equals(want)) {
            String g = String.valueOf(got), w = String.valueOf(want);
            throw new AssertionError(what + ": got " + g.substring(0, Math.min(200, g.length()))
                + ", want " + w.substring(0, Math.min(200, w.length())));
        }
    }

    static void until(String what, BooleanSupplier probe) throws InterruptedException {
        until(what, 20, probe);
    }

    static void until(String what, long seconds, BooleanSupplier probe) throws InterruptedException {
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        for (; !probe.getAsBoolean(); Thread.sleep(10)) {
            if (System.nanoTime() > end)
                throw new AssertionError(what + ": not within " + seconds + " s");
        }
    }

    static Throwable refused(Future<?> f) throws InterruptedException {
        try { f.get(); } catch (ExecutionException e) { return e.getCause(); }
        throw new AssertionError("it was not refused");
    }

    static byte[] utf8(String s) { return s == null ? null : s.getBytes(StandardCharsets.UTF_8); }

    static List<String> numbers(int from, int to) {
        return IntStream.range(from, to).mapToObj(String::valueOf).collect(Collectors.toList());
    }

    static void create(String topic, int partitions, Map<String, String> configs) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, COPIES).configs(configs)))
            .all().get();
        until("the new topic", () -> partitions(topic) == partitions);
    }

    static int partitions(String topic) {
        try {
            return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic)
                .partitions().size();
        } catch (ExecutionException | InterruptedException e) { return 0; }
    }

    static List<RecordMetadata> produce(List<ProducerRecord<byte[], byte[]>> records, Object... more)
            throws Exception {
        Properties p = conf("linger.ms", 5, "key.serializer", ByteArraySerializer.class,
            "value.serializer", ByteArraySerializer.class);
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        List<RecordMetadata> out = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (ProducerRecord<byte[], byte[]> r : records) sent.add(producer.send(r));
            producer.flush();
            for (Future<RecordMetadata> f : sent) out.add(f.get());
        }
        return out;
    }

    static List<ProducerRecord<byte[], byte[]>> records(String topic, List<String> values) {
        return values.stream().map(v -> new ProducerRecord<byte[], byte[]>(topic, utf8(v)))
            .collect(Collectors.toList());
    }

    static KafkaConsumer<byte[], byte[]> reader(Object... more) {
        Properties p = conf("enable.auto.commit", false, "auto.offset.reset", "none",
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class);
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        return new KafkaConsumer<>(p);
    }

    static List<ConsumerRecord<byte[], byte[]>> take(KafkaConsumer<byte[], byte[]> c, int count) {
        List<ConsumerRecord<byte[], byte[]>> out = new ArrayList<>();
        long end = System.nanoTime() + 20_000_000_000L;
        while (out.size() < count) {
            if (System.nanoTime() > end)
                throw new AssertionError("only " + out.size() + " of " + count + " records in 20 s");
            c.poll(Duration.ofMillis(500)).forEach(out::add);
        }
        return out.subList(0, count);
    }

    static long[] bounds(KafkaConsumer<byte[], byte[]> c, TopicPartition tp) {
        return new long[] {c.beginningOffsets(List.of(tp)).get(tp), c.endOffsets(List.of(tp)).get(tp)};
    }

    static List<ConsumerRecord<byte[], byte[]>> readAll(String topic) {
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = reader()) {
            long[] at = bounds(c, tp);
            c.assign(List.of(tp));
            c.seek(tp, at[0]);
            List<ConsumerRecord<byte[], byte[]>> out = take(c, (int) (at[1] - at[0]));
            for (int i = 0; i < out.size(); i++) equal(out.get(i).offset(), at[0] + i, "offset");
            return out;
        }
    }

    static List<String> values(List<ConsumerRecord<byte[], byte[]>> records) {
        return records.stream().map(r -> new String(r.value(), StandardCharsets.UTF_8))
            .collect(Collectors.toList());
    }

    static Scenario codec(String name) {
        return topic -> {
            List<String> own = IntStream.range(0, 200)
                .mapToObj(i -> String.format("%s-%06d-", CLIENT, i).repeat(20))
                .collect(Collectors.toList());
            produce(records(topic, own), "compression.type", name);
            List<String> mine = new ArrayList<>();
            for (String v : values(readAll(topic))) {
                String unit = v.substring(0, v.indexOf('-', v.indexOf('-') + 1) + 1);
                equal(v, unit.repeat(20), "a record of the codec topic");
                if (unit.startsWith(CLIENT + "-")) mine.add(v);
            }
            equal(mine, own, "own records, in order");
        };
    }

    static void fields(String topic) throws Exception {
        long now = System.currentTimeMillis() - 5000;
        List<Header> two = List.of(new RecordHeader("h", utf8("1")), new RecordHeader("h", utf8("2")));
        List<ProducerRecord<byte[], byte[]>> sent = List.of(
            new ProducerRecord<>(topic, 0, now, utf8("k0"), utf8("v0"), two),
            new ProducerRecord<>(topic, 0, now + 1, utf8("k1"), (byte[]) null),
            new ProducerRecord<>(topic, 0, now + 2, null, utf8("ünï"),
                List.of(new RecordHeader("nil", (byte[]) null))),
            new ProducerRecord<>(topic, 0, now + 3, utf8(""), utf8(""),
                List.of(new RecordHeader("empty", utf8("")))));
        create(topic, 1, Map.of());
        produce(sent);
        List<ConsumerRecord<byte[], byte[]>> got = readAll(topic);
        for (int i = 0; i < sent.size(); i++) {
            equal(Arrays.equals(got.get(i).key(), sent.get(i).key()), true, "key " + i);
            equal(Arrays.equals(got.get(i).value(), sent.get(i).value()), true, "value " + i);
            equal(got.get(i).timestamp(), sent.get(i).timestamp(), "timestamp " + i);
            equal(got.get(i).headers(), sent.get(i).headers(), "headers " + i);
        }
    }

    static void acks(String topic) throws Exception {
        create(topic, 1, Map.of());
        TopicPartition tp = new TopicPartition(topic, 0);
        List<String> want = new ArrayList<>();
        try (KafkaConsumer<byte[], byte[]> c = reader()) {
            for (String level : List.of("0", "1", "all")) {
                List<String> own = numbers(want.size(), want.size() + 50);
                want.addAll(own);
                produce(records(topic, own), "acks", level, "enable.idempotence", false);
                until("50 more at acks=" + level, () -> bounds(c, tp)[1] == want.size());
            }
        }
        equal(values(readAll(topic)), want, "records");
    }

    static void idempotent(String topic) throws Exception {
        create(topic, 1, Map.of());
        List<RecordMetadata> sent = produce(records(topic, numbers(0, 2000)), "batch.size", 1000);
        for (int i = 0; i < 2000; i++) equal(sent.get(i).offset(), (long) i, "offset of the delivery");
        equal(values(readAll(topic)), numbers(0, 2000), "records");
    }

    static void group(String topic, String assignor) throws Exception {
        create(topic, 4, Map.of());
        List<ProducerRecord<byte[], byte[]>> sent = new ArrayList<>();
        for (int i = 0; i < 40; i++) sent.add(new ProducerRecord<>(topic, i % 4, null, utf8("" + i)));
        produce(sent);
        Object[] conf = {"group.id", topic, "auto.offset.reset", "earliest", "session.timeout.ms",
            6000, "heartbeat.interval.ms", 300, "partition.assignment.strategy", assignor};
        List<ConsumerRecord<byte[], byte[]>> seen = new ArrayList<>();
        KafkaConsumer<byte[], byte[]> first = reader(conf), second = reader(conf);
        first.subscribe(List.of(topic));
        until("40 records by one member", () -> {
            first.poll(Duration.ofMillis(100)).forEach(seen::add);
            return seen.size() >= 40;
        });
        first.commitSync();
        second.subscribe(List.of(topic));
        until("two partitions each", () -> {
            first.poll(Duration.ofMillis(50)).forEach(seen::add);
            second.poll(Duration.ofMillis(50)).forEach(seen::add);
            return first.assignment().size() == 2 && second.assignment().size() == 2;
        });
        Set<TopicPartition> owned = new HashSet<>(first.assignment());
        owned.addAll(second.assignment());
        equal(owned.size(), 4, "partitions owned");
        var described = admin.describeConsumerGroups(List.of(topic)).all().get().get(topic);
        equal(described.groupState() + " " + described.members().size(), "Stable 2", "group");
        second.close();
        until("all four back to the first", () -> {
            first.poll(Duration.ofMillis(50)).forEach(seen::add);
            return first.assignment().size() == 4;
        });
        first.close();
        equal(seen.size(), 40, "records seen by the two");
        sent.clear();
        for (int i = 40; i < 48; i++) sent.add(new ProducerRecord<>(topic, i % 4, null, utf8("" + i)));
        produce(sent);
        try (KafkaConsumer<byte[], byte[]> third = reader(conf)) {
            third.subscribe(List.of(topic));
            Set<String> got = new HashSet<>(values(take(third, 8)));
            equal(got, new HashSet<>(numbers(40, 48)), "records after the committed offsets");
            third.commitSync();
        }
        var offsets = admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata().get();
        equal(offsets.values().stream().map(o -> o.offset()).collect(Collectors.toList()),
            List.of(12L, 12L, 12L, 12L), "committed offsets");
        equal(admin.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals(topic)), true,
            "the group is listed");
        admin.deleteConsumerGroups(List.of(topic)).all().get();
    }

    static void topics(String topic) throws Exception {
        create(topic, 3, Map.of("retention.ms", "3600000"));
        Throwable again = refused(admin.createTopics(
            List.of(new NewTopic(topic, 1, COPIES))).all());
        equal(again instanceof TopicExistsException, true, "creating it again: " + again);
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        until("5 partitions", () -> partitions(topic) == 5);
        var cluster = admin.describeCluster();
        equal(cluster.nodes().get().size(), (int) COPIES, "nodes");
        equal(cluster.clusterId().get().isEmpty(), false, "no cluster id");
        admin.deleteTopics(List.of(topic)).all().get();
        until("the topic to go", () -> {
            try { return !admin.listTopics().names().get().contains(topic); }
            catch (ExecutionException | InterruptedException e) { throw new RuntimeException(e); }
        });
    }

    static String retention(ConfigResource r) {
        try {
            return admin.describeConfigs(List.of(r)).all().get().get(r).get("retention.ms").value();
        } catch (ExecutionException | InterruptedException e) { throw new RuntimeException(e); }
    }

    static Future<Void> alter(ConfigResource r, String to) {
        return admin.incrementalAlterConfigs(Map.of(r, List.<AlterConfigOp>of(new AlterConfigOp(
            new ConfigEntry("retention.ms", to), AlterConfigOp.OpType.SET)))).all();
    }

    static void configs(String topic) throws Exception {
        create(topic, 1, Map.of());
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        equal(retention(r), "604800000", "retention.ms by default");
        alter(r, "123456").get();
        until("the altered value", () -> retention(r).equals("123456"));
        Throwable bad = refused(alter(r, "soon"));
        equal(bad instanceof InvalidConfigurationException, true, "a value that is no number: " + bad);
    }

    static List<ProducerRecord<byte[], byte[]>> timed(String topic, int count) {
        return IntStream.range(0, count).mapToObj(i ->
            new ProducerRecord<byte[], byte[]>(topic, 0, BASE + i * 1000L, null, utf8("" + i)))
            .collect(Collectors.toList());
    }

    static long ask(TopicPartition tp, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(tp, spec)).all().get().get(tp).offset();
    }

    static void listOffsets(String topic) throws Exception {
        create(topic, 1, Map.of());
        produce(timed(topic, 10));
        TopicPartition tp = new TopicPartition(topic, 0);
        equal(List.of(ask(tp, OffsetSpec.earliest()), ask(tp, OffsetSpec.latest()),
            ask(tp, OffsetSpec.forTimestamp(BASE + 3500)), ask(tp, OffsetSpec.maxTimestamp())),
            List.of(0L, 10L, 4L, 9L), "earliest, latest, by timestamp, max timestamp");
    }

    static void autoCreate(String topic) throws Exception {
        produce(records(topic, List.of("first")));
        equal(values(readAll(topic)), List.of("first"), "records");
    }

    static void large(String topic) throws Exception {
        create(topic, 1, Map.of());
        List<String> sent = List.of("A".repeat(900_000), "B".repeat(900_000), "C".repeat(900_000));
        produce(records(topic, sent));
        equal(values(readAll(topic)), sent, "records");
    }

    static void seekTime(String topic) throws Exception {
        create(topic, 1, Map.of());
        produce(timed(topic, 100), "batch.size", 400);
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = reader()) {
            equal(c.offsetsForTimes(Map.of(tp, BASE + 41_500)).get(tp).offset(), 42L,
                "a time between two records");
            equal(c.offsetsForTimes(Map.of(tp, BASE + 1_000_000)).get(tp) == null, true,
                "a time past the end");
            c.assign(List.of(tp));
            c.seek(tp, c.offsetsForTimes(Map.of(tp, BASE + 60_000)).get(tp).offset());
            equal(values(take(c, 40)), numbers(60, 100), "records");
        }
    }

    static void longPoll(String topic) throws Exception {
        create(topic, 1, Map.of());
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = reader("fetch.max.wait.ms", 4000)) {
            c.assign(List.of(tp));
            c.seek(tp, 0);
            equal(c.poll(Duration.ofMillis(1500)).count(), 0, "records out of nothing");
            produce(records(topic, List.of("wake")));
            long began = System.nanoTime();
            equal(values(take(c, 1)), List.of("wake"), "the record");
            long took = (System.nanoTime() - began) / 1_000_000;
            equal(took < 2000, true, "a waiting fetch took " + took + " ms to see a new record");
        }
    }

    static void deleteRecords(String topic) throws Exception {
        create(topic, 1, Map.of());
        produce(records(topic, numbers(0, 10)));
        TopicPartition tp = new TopicPartition(topic, 0);
        var deleted = admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(6)));
        equal(deleted.lowWatermarks().get(tp).get().lowWatermark(), 6L, "low watermark");
        equal(values(readAll(topic)), numbers(6, 10), "what is left");
        try (KafkaConsumer<byte[], byte[]> c = reader()) {
            c.assign(List.of(tp));
            c.seek(tp, 2);
            take(c, 1);
            throw new AssertionError("a deleted record was read");
        } catch (OffsetOutOfRangeException e) {
            equal(e.partitions(), Set.of(tp), "partitions out of range");
        }
    }

    static void noAutoCreate(String topic) throws Exception {
        try (KafkaConsumer<byte[], byte[]> c = reader("allow.auto.create.topics", false)) {
            List<?> found = c.partitionsFor(topic);
            equal(found == null || found.isEmpty(), true, "partitions of an unknown topic");
        }
        equal(admin.listTopics().names().get().contains(topic), false, "the topic was created");
    }

    static void tooLarge(String topic) throws Exception {
        create(topic, 1, Map.of());
        try {
            produce(records(topic, List.of("x".repeat(2_000_000))), "max.request.size", 5_000_000);
            throw new AssertionError("a record over the limit was taken");
        } catch (ExecutionException e) {
            equal(e.getCause() instanceof RecordTooLargeException, true, "refusal: " + e.getCause());
        }
        produce(records(topic, List.of("fits")));
        equal(values(readAll(topic)), List.of("fits"), "records");
    }

    static KafkaProducer<byte[], byte[]> transactional(String id) {
        KafkaProducer<byte[], byte[]> p = new KafkaProducer<>(conf("transactional.id", id,
            "key.serializer", ByteArraySerializer.class, "value.serializer", ByteArraySerializer.class));
        p.initTransactions();
        return p;
    }

    static KafkaConsumer<byte[], byte[]> from(String topic, String isolation) {
        KafkaConsumer<byte[], byte[]> c = reader("isolation.level", isolation);
        c.assign(List.of(new TopicPartition(topic, 0)));
        c.seekToBeginning(c.assignment());
        return c;
    }

    static void transactions(String topic) throws Exception {
        create(topic, 1, Map.of());
        KafkaProducer<byte[], byte[]> p = transactional(topic);
        p.beginTransaction();
        records(topic, List.of("a0", "a1")).forEach(p::send);
        p.flush();
        p.abortTransaction();
        p.beginTransaction();
        records(topic, List.of("c0", "c1")).forEach(p::send);
        p.commitTransaction();
        p.beginTransaction();
        records(topic, List.of("o0")).forEach(p::send);
        p.flush();
        try (var c = from(topic, "read_committed"); var u = from(topic, "read_uncommitted")) {
            equal(values(take(c, 2)), List.of("c0", "c1"), "committed records");
            equal(c.poll(Duration.ofMillis(1000)).count(), 0, "records of an open transaction");
            equal(values(take(u, 5)), List.of("a0", "a1", "c0", "c1", "o0"), "all records");
            var listed = admin.listTransactions().all().get();
            equal(listed.stream().anyMatch(t -> t.transactionalId().equals(topic)), true, "it is listed");
            p.commitTransaction();
            equal(values(take(c, 1)), List.of("o0"), "the record after its commit");
            p.beginTransaction();
            records(topic, List.of("z0")).forEach(p::send);
            p.flush();
            var second = transactional(topic);
            try {
                p.commitTransaction();
                throw new AssertionError("a fenced producer committed");
            } catch (ProducerFencedException | InvalidProducerEpochException e) {
                p.close(Duration.ZERO);
            }
            second.beginTransaction();
            records(topic, List.of("n0")).forEach(second::send);
            second.commitTransaction();
            equal(values(take(c, 1)), List.of("n0"), "what the new producer wrote");
            second.close();
        }
    }

    static void exactlyOnce(String topic) throws Exception {
        String source = topic + "-in", sink = topic + "-out";
        create(source, 2, Map.of());
        create(sink, 1, Map.of());
        List<ProducerRecord<byte[], byte[]>> sent = new ArrayList<>();
        for (int i = 0; i < 40; i++) sent.add(new ProducerRecord<>(source, i % 2, null, utf8("" + i)));
        produce(sent);
        KafkaProducer<byte[], byte[]> p = transactional(topic);
        int count = 0;
        boolean aborted = false;
        try (var c = reader("group.id", topic, "auto.offset.reset", "earliest", "max.poll.records", 10)) {
            c.subscribe(List.of(source));
            long end = System.nanoTime() + 20_000_000_000L;
            while (count < 40) {
                if (System.nanoTime() > end) throw new AssertionError("only " + count + " in 20 s");
                var polled = c.poll(Duration.ofMillis(500));
                if (polled.isEmpty()) continue;
                p.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> at = new HashMap<>();
                for (var r : polled) p.send(new ProducerRecord<>(sink,
                    utf8("x" + new String(r.value(), StandardCharsets.UTF_8))));
                for (var tp : polled.partitions()) at.put(tp, new OffsetAndMetadata(c.position(tp)));
                p.sendOffsetsToTransaction(at, c.groupMetadata());
                if (!aborted) {
                    aborted = true;
                    p.abortTransaction();
                    var known = c.committed(c.assignment());
                    for (var tp : polled.partitions()) {
                        c.seek(tp, known.get(tp) == null ? 0 : known.get(tp).offset());
                    }
                    continue;
                }
                p.commitTransaction();
                count += polled.count();
            }
        }
        p.close();
        try (var c = from(sink, "read_committed")) {
            Set<String> want = IntStream.range(0, 40).mapToObj(i -> "x" + i).collect(Collectors.toSet());
            equal(new HashSet<>(values(take(c, 40))), want, "each record once");
            equal(c.poll(Duration.ofMillis(1000)).count(), 0, "more than the 40 records");
        }
    }

    static void await(KafkaConsumer<byte[], byte[]> a, KafkaConsumer<byte[], byte[]> b, int size,
            List<ConsumerRecord<byte[], byte[]>> seen) throws InterruptedException {
        until(size + " partitions each", () -> {
            a.poll(Duration.ofMillis(50)).forEach(seen::add);
            b.poll(Duration.ofMillis(50)).forEach(seen::add);
            return a.assignment().size() == size && b.assignment().size() == size;
        });
    }

    static void membership(String topic) throws Exception {
        create(topic, 2, Map.of());
        List<ConsumerRecord<byte[], byte[]>> seen = new ArrayList<>();
        Object[] conf = {"group.id", topic, "auto.offset.reset", "earliest", "session.timeout.ms",
            10000, "heartbeat.interval.ms", 300, "group.instance.id", ""};
        Function<String, KafkaConsumer<byte[], byte[]>> join = name -> {
            conf[conf.length - 1] = name;
            var c = reader(conf);
            c.subscribe(List.of(topic));
            return c;
        };
        var first = join.apply("one");
        var second = join.apply("two");
        await(first, second, 1, seen);
        Set<TopicPartition> had = new HashSet<>(second.assignment());
        second.close();
        var described = admin.describeConsumerGroups(List.of(topic)).all().get().get(topic);
        equal(described.members().size(), 2, "members while a static one is away");
        second = join.apply("two");
        await(first, second, 1, seen);
        equal(second.assignment(), had, "the partition");
        first.close();
        second.close();
    }

    static void nextGen(String topic) throws Exception {
        create(topic, 4, Map.of());
        List<ProducerRecord<byte[], byte[]>> sent = new ArrayList<>();
        for (int i = 0; i < 40; i++) sent.add(new ProducerRecord<>(topic, i % 4, null, utf8("" + i)));
        produce(sent);
        List<ConsumerRecord<byte[], byte[]>> seen = new ArrayList<>();
        Object[] conf = {"group.id", topic, "auto.offset.reset", "earliest", "group.protocol", "consumer"};
        KafkaConsumer<byte[], byte[]> first = reader(conf), second = reader(conf);
        first.subscribe(List.of(topic));
        until("40 records by one member", () -> {
            first.poll(Duration.ofMillis(100)).forEach(seen::add);
            return seen.size() >= 40;
        });
        first.commitSync();
        // Named by a pattern that the broker resolves (KIP-848's RE2 patterns).
        second.subscribe(new SubscriptionPattern(topic));
        await(first, second, 2, seen);
        var described = admin.describeConsumerGroups(List.of(topic)).all().get().get(topic);
        equal(described.type() + " " + described.members().size(), "Consumer 2", "group");
        second.close();
        until("all four back to the first", () -> {
            first.poll(Duration.ofMillis(50)).forEach(seen::add);
            return first.assignment().size() == 4;
        });
        first.close();
        equal(seen.size(), 40, "records, each once");
    }

    static KafkaShareConsumer<byte[], byte[]> sharer(String group, Object... more) {
        Properties p = conf("group.id", group, "share.acknowledgement.mode", "explicit",
            "key.deserializer", ByteArrayDeserializer.class,
            "value.deserializer", ByteArrayDeserializer.class);
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        KafkaShareConsumer<byte[], byte[]> c = new KafkaShareConsumer<>(p);
        c.subscribe(List.of(group));
        return c;
    }

    /** Polls until `values` have come, all for the `times`th time, and says `type` of each. */
    static List<ConsumerRecord<byte[], byte[]>> shared(KafkaShareConsumer<byte[], byte[]> c,
            List<String> values, int times, Function<Integer, AcknowledgeType> type, long seconds)
            throws InterruptedException {
        List<ConsumerRecord<byte[], byte[]>> all = new ArrayList<>();
        List<String> got = new ArrayList<>();
        until("records " + values, seconds, () -> {
            for (var r : c.poll(Duration.ofMillis(200))) {
                all.add(r);
                got.add(new String(r.value(), StandardCharsets.UTF_8));
                equal(r.deliveryCount().map(Short::intValue).orElse(-1), times, "deliveries of " + r.offset());
                AcknowledgeType said = type.apply(Integer.valueOf(got.get(got.size() - 1)));
                if (said != null) c.acknowledge(r, said);
            }
            return got.size() >= values.size();
        });
        equal(got, values, "records");
        return all;
    }

    static boolean accepted(KafkaShareConsumer<byte[], byte[]> c) {
        return c.commitSync().values().stream().allMatch(java.util.Optional::isEmpty);
    }

    /** A share group (KIP-932): two members, every kind of acknowledgement, a lock that ends. */
    static void share(String topic) throws Exception {
        if (System.getenv("CHAOS") != null) {
            shareUnderChaos(topic);
            return;
        }
        create(topic, 1, Map.of());
        var group = new ConfigResource(ConfigResource.Type.GROUP, topic);
        admin.incrementalAlterConfigs(Map.of(group, List.of(
            new AlterConfigOp(new ConfigEntry("share.auto.offset.reset", "earliest"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("share.record.lock.duration.ms", "15000"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("share.isolation.level", "read_committed"), AlterConfigOp.OpType.SET))))
            .all().get();
        produce(records(topic, numbers(0, 12)));
        var first = sharer(topic);
        shared(first, numbers(0, 12), 1, i -> i < 7 ? AcknowledgeType.ACCEPT
            : i == 8 || i == 9 ? AcknowledgeType.REJECT : AcknowledgeType.RENEW, 30);
        equal(first.acquisitionLockTimeoutMs().orElse(-1), 15000, "time of the locks");
        equal(accepted(first), true, "acknowledgements");
        var second = sharer(topic);
        until("both members", () -> {
            second.poll(Duration.ofMillis(100));
            try {
                var told = admin.describeShareGroups(List.of(topic)).all().get().get(topic);
                return (told.groupState() + " " + told.members().size()).equals("Stable 2");
            } catch (ExecutionException | InterruptedException e) { return false; }
        });
        // What was renewed comes to the member itself once more; what it releases goes to anybody.
        shared(first, List.of("7", "10", "11"), 1,
            i -> i == 7 ? AcknowledgeType.RELEASE : AcknowledgeType.ACCEPT, 30);
        equal(accepted(first), true, "what was renewed");
        List<KafkaShareConsumer<byte[], byte[]>> members = List.of(first, second), holder = new ArrayList<>();
        List<ConsumerRecord<byte[], byte[]>> held = new ArrayList<>();
        until("what was released", 30, () -> {
            for (var m : members) {
                m.poll(Duration.ofMillis(100)).forEach(held::add);
                if (!held.isEmpty()) return holder.add(m);
            }
            return false;
        });
        equal(held.get(0).offset() + " " + held.get(0).deliveryCount().get(), "7 2", "the second time");
        // Its lock ends, and another gets the record once more; then the holder's word does not count.
        var other = holder.get(0) == first ? second : first;
        var again = shared(other, List.of("7"), 3, i -> null, 40);
        for (var r : held) holder.get(0).acknowledge(r, AcknowledgeType.ACCEPT);
        var late = holder.get(0).commitSync().values().stream().flatMap(java.util.Optional::stream)
            .map(Object::getClass).toList();
        equal(late, List.of(InvalidRecordStateException.class), "of a lock that ended");
        for (var r : again) other.acknowledge(r, AcknowledgeType.ACCEPT);
        equal(accepted(other), true, "what came back");
        second.close();
        // Aborted records are for nobody; as many are handed out as are asked for.
        transact(topic, "x", false);
        produce(records(topic, numbers(20, 30)), "batch.size", 100_000, "linger.ms", 100);
        first.close();
        var third = sharer(topic, "share.acquire.mode", "record_limit", "max.poll.records", 3);
        List<Integer> sizes = new ArrayList<>();
        List<String> got = new ArrayList<>();
        until("the last records", () -> {
            var some = third.poll(Duration.ofMillis(200));
            if (!some.isEmpty()) sizes.add(some.count());
            for (var r : some) {
                got.add(new String(r.value(), StandardCharsets.UTF_8));
                third.acknowledge(r);
            }
            return got.size() >= 10;
        });
        equal(got + " " + sizes.stream().allMatch(n -> n <= 3), numbers(20, 30) + " true", "records");
        equal(accepted(third), true, "the last acknowledgements");
        third.close();
        until("no record to be left", () -> left(topic) == 0);
        admin.deleteShareGroups(List.of(topic)).all().get();
    }

    /** How many records of its topic a share group has still to see; -1 while that is not known. */
    static long left(String topic) {
        try {
            var at = admin.listShareGroupOffsets(Map.of(topic, new ListShareGroupOffsetsSpec()))
                .partitionsToOffsetInfo(topic).get().get(new TopicPartition(topic, 0));
            return at == null ? -1 : at.lag().orElse(-1L);
        } catch (ExecutionException | InterruptedException e) { return -1; }
    }

    /**
     * A share group while nodes are killed. What a leader handed out is forgotten with it, so that records
     * come again with any count; but none that was accepted, and all are in the end.
     */
    static void shareUnderChaos(String topic) throws Exception {
        create(topic, 1, Map.of());
        var group = new ConfigResource(ConfigResource.Type.GROUP, topic);
        admin.incrementalAlterConfigs(Map.of(group, List.of(new AlterConfigOp(
            new ConfigEntry("share.auto.offset.reset", "earliest"), AlterConfigOp.OpType.SET)))).all().get();
        Set<String> seen = new HashSet<>();
        Set<Long> accepted = new HashSet<>();
        try (var first = sharer(topic); var second = sharer(topic)) {
            for (int at = 0; at < 400; at += 20) {
                List<String> values = numbers(at, at + 20);
                produce(records(topic, values));
                until("records " + values, 60, () -> {
                    for (var m : List.of(first, second)) acceptMost(m, seen, accepted);
                    return seen.containsAll(values);
                });
                Thread.sleep(500);
            }
            until("no record to be left", 60, () -> {
                for (var m : List.of(first, second)) acceptMost(m, seen, accepted);
                return left(topic) == 0;
            });
        }
        equal(seen.size(), 400, "records");
        admin.deleteShareGroups(List.of(topic)).all().get();
    }

    /** Polls once; gives every third record back at its first delivery and accepts the others. */
    static void acceptMost(KafkaShareConsumer<byte[], byte[]> m, Set<String> seen, Set<Long> accepted) {
        List<Long> taken = new ArrayList<>();
        for (var r : m.poll(Duration.ofMillis(200))) {
            if (accepted.contains(r.offset()))
                throw new AssertionError("record " + r.offset() + " came again after it was accepted");
            seen.add(new String(r.value(), StandardCharsets.UTF_8));
            boolean back = r.offset() % 3 == 0 && r.deliveryCount().map(n -> n == 1).orElse(false);
            m.acknowledge(r, back ? AcknowledgeType.RELEASE : AcknowledgeType.ACCEPT);
            if (!back) taken.add(r.offset());
        }
        // An error says nothing of what was done: such records may come again, or never.
        if (accepted(m)) accepted.addAll(taken);
    }

    /** Writes `values` in a transaction that is committed or aborted. */
    static void transact(String topic, String value, boolean commit) throws Exception {
        Properties p = conf("transactional.id", topic + "-t", "key.serializer", ByteArraySerializer.class,
            "value.serializer", ByteArraySerializer.class);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p)) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, utf8(value))).get();
            if (commit) producer.commitTransaction(); else producer.abortTransaction();
        }
    }

    /** Word count with exactly_once_v2: the counts are right although the application is restarted. */
    static void streams(String topic) throws Exception {
        String source = topic + "-in", sink = topic + "-out";
        create(source, 2, Map.of());
        create(sink, 1, Map.of());
        Map<String, Long> want = new HashMap<>(), got = new HashMap<>();
        for (int run = 0; run < 2; run++) {
            List<String> lines = IntStream.range(0, 50).mapToObj(i -> "all w" + i % 5).toList();
            for (String line : lines) for (String w : line.split(" ")) want.merge(w, 1L, Long::sum);
            produce(records(source, lines));
            var builder = new StreamsBuilder();
            builder.stream(source, Consumed.with(Serdes.ByteArray(), Serdes.String()))
                .flatMapValues(line -> Arrays.asList(line.split(" ")))
                .groupBy((k, w) -> w, Grouped.with(Serdes.String(), Serdes.String()))
                .count(Materialized.as(Stores.inMemoryKeyValueStore("counts")))
                .toStream().to(sink, Produced.with(Serdes.String(), Serdes.Long()));
            Properties p = conf("application.id", topic, "processing.guarantee", "exactly_once_v2",
                "commit.interval.ms", 200, "session.timeout.ms", 6000, "auto.offset.reset", "earliest", "replication.factor",
                (int) COPIES, "state.dir", System.getenv("SCRATCH") + "/" + topic);
            try (var streams = new KafkaStreams(builder.build(), p);
                    var c = from(sink, "read_committed")) {
                streams.start();
                until("the counts", 60, () -> {
                    for (var r : c.poll(Duration.ofMillis(100))) {
                        got.put(new String(r.key(), StandardCharsets.UTF_8),
                            java.nio.ByteBuffer.wrap(r.value()).getLong());
                    }
                    return got.equals(want);
                });
            }
        }
    }

    static String where(Throwable e) {
        for (StackTraceElement at : e.getStackTrace()) {
            boolean check = Set.of("equal", "until", "take", "refused").contains(at.getMethodName());
            if (at.getClassName().startsWith("Scenarios") && !check) return "line " + at.getLineNumber();
        }
        return "line ?";
    }

    public static void main(String[] args) {
        boot = args[0];
        admin = Admin.create(conf());
        Collection<String> only = Arrays.asList(args).subList(2, args.length);
        Map<String, Scenario> all = new LinkedHashMap<>();
        for (String c : List.of("none", "gzip", "snappy", "lz4", "zstd")) all.put("codec-" + c, codec(c));
        all.put("fields", Scenarios::fields);
        all.put("acks", Scenarios::acks);
        all.put("idempotent", Scenarios::idempotent);
        all.put("group", t -> {
            group(t, CooperativeStickyAssignor.class.getName());
            group(t + "-range", "org.apache.kafka.clients.consumer.RangeAssignor");
        });
        all.put("admin", Scenarios::topics);
        all.put("configs", Scenarios::configs);
        all.put("list-offsets", Scenarios::listOffsets);
        all.put("auto-create", Scenarios::autoCreate);
        all.put("large", Scenarios::large);
        all.put("seek-time", Scenarios::seekTime);
        all.put("long-poll", Scenarios::longPoll);
        all.put("delete-records", Scenarios::deleteRecords);
        all.put("no-auto-create", Scenarios::noAutoCreate);
        all.put("too-large", Scenarios::tooLarge);
        all.put("static", Scenarios::membership);
        all.put("next-gen-group", Scenarios::nextGen);
        all.put("transactions", Scenarios::transactions);
        all.put("exactly-once", Scenarios::exactlyOnce);
        all.put("streams", Scenarios::streams);
        all.put("share", Scenarios::share);
        all.forEach((name, scenario) -> {
            if (!only.isEmpty() && !only.contains(name)) return;
            long began = System.nanoTime();
            String verdict = "ok", detail = "";
            String own = name.startsWith("codec-") ? name : CLIENT + "-" + name;
            try { scenario.run(args[1] + "-" + own); }
            catch (Throwable e) {
                verdict = "fail";
                detail = (where(e) + ": " + e).replaceAll("\\s+", " ");
            }
            System.out.printf("RESULT\t%s\t%s\t%s\t%.1f%n", name, verdict, detail,
                (System.nanoTime() - began) / 1e9);
        });
        System.exit(0);
    }
}
