// The franz-go leg. Arguments: BOOTSTRAP PREFIX [SCENARIO...]; prints RESULT lines (see scenario.py).
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const client = "franz"

var (
	boot string
	ctx  = context.Background()
	adm  *kadm.Client
)

// failure carries the line of the check that failed.
type failure struct {
	line int
	text string
}

func fail(format string, args ...any) {
	line := 0
	for skip := 1; skip < 8; skip++ {
		pc, _, at, ok := runtime.Caller(skip)
		if !ok || runtime.FuncForPC(pc).Name() == "main.run" {
			break
		}
		line = at
		if !strings.HasPrefix(runtime.FuncForPC(pc).Name(), "main.must") &&
			runtime.FuncForPC(pc).Name() != "main.equal" {
			break
		}
	}
	panic(failure{line, fmt.Sprintf(format, args...)})
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func equal(got, want any, what string) {
	if !reflect.DeepEqual(got, want) {
		fail("%s: got %.200v, want %.200v", what, got, want)
	}
}

func until(what string, probe func() bool) {
	for end := time.Now().Add(20 * time.Second); !probe(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			fail("%s: not within 20 s", what)
		}
	}
}

func connect(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(boot, ",")...), kgo.RetryTimeout(15 * time.Second), kgo.RecordRetries(10),
	}, opts...)...)
	must(err, "new client")
	return cl
}

// copies tells the replicas of each topic, of as many nodes.
func copies() int16 {
	n, err := strconv.ParseInt(os.Getenv("REPLICAS"), 10, 16)
	if err != nil {
		return 1
	}
	return int16(n)
}

func create(topic string, partitions int32, configs map[string]*string) {
	_, err := adm.CreateTopic(ctx, partitions, copies(), configs, topic)
	must(err, "create "+topic)
	until("the new topic", func() bool {
		all, err := adm.ListTopics(ctx, topic)
		return err == nil && all[topic].Err == nil && len(all[topic].Partitions) == int(partitions)
	})
}

func produce(topic string, records []*kgo.Record, opts ...kgo.Opt) {
	must(tryProduce(topic, records, opts...), "produce")
}

func tryProduce(topic string, records []*kgo.Record, opts ...kgo.Opt) error {
	cl := connect(append([]kgo.Opt{kgo.DefaultProduceTopic(topic)}, opts...)...)
	defer cl.Close()
	return cl.ProduceSync(ctx, records...).FirstErr()
}

func read(topic string, from int64, count int) []*kgo.Record {
	cl := connect(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {0: kgo.NewOffset().At(from)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer cl.Close()
	return take(cl, count)
}

func take(cl *kgo.Client, count int) (out []*kgo.Record) {
	limit, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	for len(out) < count {
		fetches := cl.PollFetches(limit)
		must(fetches.Err(), fmt.Sprintf("fetch (%d of %d came)", len(out), count))
		out = append(out, fetches.Records()...)
	}
	return out[:count]
}

func offset(list kadm.ListedOffsets, err error, topic string) int64 {
	must(err, "list offsets")
	must(list.Error(), "list offsets")
	o, _ := list.Lookup(topic, 0)
	return o.Offset
}

func bounds(topic string) (low, high int64) {
	l, err := adm.ListStartOffsets(ctx, topic)
	low = offset(l, err, topic)
	h, err := adm.ListEndOffsets(ctx, topic)
	return low, offset(h, err, topic)
}

func readAll(topic string) []*kgo.Record {
	low, high := bounds(topic)
	out := read(topic, low, int(high-low))
	for i, r := range out {
		equal(r.Offset, low+int64(i), "offset")
	}
	return out
}

func values(records []*kgo.Record) (out []string) {
	for _, r := range records {
		out = append(out, string(r.Value))
	}
	return out
}

func numbered(from, to int) (records []*kgo.Record, text []string) {
	for i := from; i < to; i++ {
		text = append(text, fmt.Sprint(i))
		records = append(records, kgo.StringRecord(fmt.Sprint(i)))
	}
	return records, text
}

func codec(codec kgo.CompressionCodec) func(string) {
	return func(topic string) {
		var own []string
		var records []*kgo.Record
		for i := range 200 {
			own = append(own, strings.Repeat(fmt.Sprintf("%s-%06d-", client, i), 20))
			records = append(records, kgo.StringRecord(own[i]))
		}
		produce(topic, records, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation())
		var mine []string
		for _, v := range values(readAll(topic)) {
			words := strings.SplitN(v, "-", 3)
			equal(v, strings.Repeat(words[0]+"-"+words[1]+"-", 20), "a record of the codec topic")
			if words[0] == client {
				mine = append(mine, v)
			}
		}
		equal(mine, own, "own records, in order")
	}
}

func fields(topic string) {
	now := time.UnixMilli(time.Now().UnixMilli() - 5000)
	sent := []*kgo.Record{
		{Key: []byte("k0"), Value: []byte("v0"), Timestamp: now, Headers: []kgo.RecordHeader{
			{Key: "h", Value: []byte("1")}, {Key: "h", Value: []byte("2")}}},
		{Key: []byte("k1"), Value: nil, Timestamp: now.Add(time.Millisecond)},
		{Key: nil, Value: []byte("ünï"), Timestamp: now, Headers: []kgo.RecordHeader{{Key: "nil"}}},
		{Key: []byte{}, Value: []byte{}, Timestamp: now, Headers: []kgo.RecordHeader{
			{Key: "empty", Value: []byte{}}}},
	}
	create(topic, 1, nil)
	produce(topic, sent)
	for i, got := range readAll(topic) {
		want := sent[i]
		equal([]any{got.Key, got.Value, got.Timestamp.UnixMilli(), len(got.Headers)},
			[]any{want.Key, want.Value, want.Timestamp.UnixMilli(), len(want.Headers)}, "record")
		for j, h := range want.Headers {
			equal(got.Headers[j], h, "header")
		}
	}
}

func acks(topic string) {
	create(topic, 1, nil)
	var want []string
	levels := []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()}
	for n, level := range levels {
		records, text := numbered(n*50, n*50+50)
		want = append(want, text...)
		produce(topic, records, kgo.RequiredAcks(level), kgo.DisableIdempotentWrite())
		until("50 records more", func() bool { _, high := bounds(topic); return high == int64(n*50+50) })
	}
	equal(values(readAll(topic)), want, "records")
}

func idempotent(topic string) {
	create(topic, 1, nil)
	records, text := numbered(0, 2000)
	produce(topic, records, kgo.ProducerBatchMaxBytes(1000))
	for i, r := range records {
		equal(r.Offset, int64(i), "offset of the delivery")
	}
	equal(values(readAll(topic)), text, "records")
}

type member struct {
	cl    *kgo.Client
	owned map[int32]bool
}

func join(topic string, opts ...kgo.Opt) *member {
	m := &member{owned: map[int32]bool{}}
	change := func(have bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			for _, p := range parts[topic] {
				m.owned[p] = have
				if !have {
					delete(m.owned, p)
				}
			}
		}
	}
	m.cl = connect(append([]kgo.Opt{
		kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(),
		kgo.HeartbeatInterval(300 * time.Millisecond), kgo.SessionTimeout(6 * time.Second),
		kgo.OnPartitionsAssigned(change(true)), kgo.OnPartitionsRevoked(change(false)),
		kgo.OnPartitionsLost(change(false)),
	}, opts...)...)
	return m
}

func (m *member) poll(seen *[]string) {
	limit, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	fetches := m.cl.PollFetches(limit)
	if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		fail("poll: %v", err)
	}
	*seen = append(*seen, values(fetches.Records())...)
	m.cl.AllowRebalance()
}

func groupWith(balancer kgo.GroupBalancer) func(string) {
	return func(topic string) {
		send := func(from, to int) (text []string) {
			records, text := numbered(from, to)
			for i, r := range records {
				r.Partition = int32(i % 4)
			}
			produce(topic, records, kgo.RecordPartitioner(kgo.ManualPartitioner()))
			slices.Sort(text)
			return text
		}
		create(topic, 4, nil)
		want := send(0, 40)
		var seen []string
		first := join(topic, kgo.Balancers(balancer))
		until("40 records by one member", func() bool { first.poll(&seen); return len(seen) >= 40 })
		must(first.cl.CommitUncommittedOffsets(ctx), "commit")
		second := join(topic, kgo.Balancers(balancer))
		until("two partitions each", func() bool {
			first.poll(&seen)
			second.poll(&seen)
			return len(first.owned) == 2 && len(second.owned) == 2
		})
		groups, err := adm.DescribeGroups(ctx, topic)
		must(err, "describe group")
		equal([]any{groups[topic].State, len(groups[topic].Members)}, []any{"Stable", 2}, "group")
		second.cl.Close()
		until("all four back to the first", func() bool { first.poll(&seen); return len(first.owned) == 4 })
		first.cl.Close()
		slices.Sort(seen)
		equal(seen, want, "records seen by the two")
		want, seen = send(40, 48), nil
		third := join(topic, kgo.Balancers(balancer))
		until("records after the commit", func() bool { third.poll(&seen); return len(seen) >= 8 })
		slices.Sort(seen)
		equal(seen, want, "records after the committed offsets")
		must(third.cl.CommitUncommittedOffsets(ctx), "commit")
		third.cl.Close()
		committed, err := adm.FetchOffsets(ctx, topic)
		must(err, "fetch offsets")
		for p := range int32(4) {
			o, _ := committed.Lookup(topic, p)
			equal(o.At, int64(12), "committed offset")
		}
		listed, err := adm.ListGroups(ctx)
		must(err, "list groups")
		equal(slices.Contains(listed.Groups(), topic), true, "the group is listed")
		_, err = adm.DeleteGroup(ctx, topic)
		must(err, "delete group")
	}
}

func admin(topic string) {
	create(topic, 3, map[string]*string{"retention.ms": kadm.StringPtr("3600000")})
	count := func() int {
		t, err := adm.ListTopics(ctx, topic)
		must(err, "list topics")
		return len(t[topic].Partitions)
	}
	equal(count(), 3, "partitions")
	_, err := adm.CreateTopic(ctx, 1, copies(), nil, topic)
	equal(errors.Is(err, kerr.TopicAlreadyExists), true, fmt.Sprint("creating it again: ", err))
	grown, err := adm.UpdatePartitions(ctx, 5, topic)
	must(err, "create partitions")
	must(grown.Error(), "create partitions")
	until("5 partitions", func() bool { return count() == 5 })
	meta, err := adm.BrokerMetadata(ctx)
	must(err, "metadata")
	equal(len(meta.Brokers), int(copies()), "brokers")
	equal(meta.Cluster != "", true, "cluster id")
	_, err = adm.DeleteTopic(ctx, topic)
	must(err, "delete topic")
	until("the topic to go", func() bool { all, _ := adm.ListTopics(ctx); return !all.Has(topic) })
}

func configs(topic string) {
	create(topic, 1, nil)
	value := func() string {
		rs, err := adm.DescribeTopicConfigs(ctx, topic)
		must(err, "describe configs")
		r, err := rs.On(topic, nil)
		must(err, "describe configs")
		for _, c := range r.Configs {
			if c.Key == "retention.ms" {
				return c.MaybeValue()
			}
		}
		return "absent"
	}
	alter := func(to string) error {
		rs, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{
			{Op: kadm.SetConfig, Name: "retention.ms", Value: &to}}, topic)
		must(err, "alter configs")
		return rs[0].Err
	}
	equal(value(), "604800000", "retention.ms by default")
	must(alter("123456"), "alter")
	until("the altered value", func() bool { return value() == "123456" })
	err := alter("soon")
	equal(errors.Is(err, kerr.InvalidConfig), true, fmt.Sprint("a value that is no number: ", err))
}

const base = 1_700_000_000_000

func timed(topic string, count int, opts ...kgo.Opt) {
	records, _ := numbered(0, count)
	for i, r := range records {
		r.Timestamp = time.UnixMilli(base + int64(i)*1000)
	}
	produce(topic, records, opts...)
}

func after(topic string, ms int64) int64 {
	l, err := adm.ListOffsetsAfterMilli(ctx, ms, topic)
	return offset(l, err, topic)
}

func listOffsets(topic string) {
	create(topic, 1, nil)
	timed(topic, 10)
	low, high := bounds(topic)
	equal([]int64{low, high, after(topic, base+3500)}, []int64{0, 10, 4}, "start, end, by timestamp")
	l, err := adm.ListMaxTimestampOffsets(ctx, topic)
	equal(offset(l, err, topic), int64(9), "max timestamp")
}

func autoCreate(topic string) {
	produce(topic, []*kgo.Record{kgo.StringRecord("first")}, kgo.AllowAutoTopicCreation())
	equal(values(readAll(topic)), []string{"first"}, "records")
}

func large(topic string) {
	create(topic, 1, nil)
	for _, c := range []string{"A", "B", "C"} {
		produce(topic, []*kgo.Record{kgo.SliceRecord(bytes.Repeat([]byte(c), 900_000))},
			kgo.ProducerBatchCompression(kgo.NoCompression()))
	}
	for i, v := range values(readAll(topic)) {
		equal(v == strings.Repeat(string(rune('A'+i)), 900_000), true, "the large record")
	}
}

func seekTime(topic string) {
	create(topic, 1, nil)
	timed(topic, 100, kgo.ProducerBatchMaxBytes(600))
	at := after(topic, base+60_000)
	equal(at, int64(60), "offset by time")
	_, want := numbered(60, 100)
	equal(values(read(topic, at, 40)), want, "records")
}

func longPoll(topic string) {
	create(topic, 1, nil)
	cl := connect(kgo.ConsumeTopics(topic), kgo.FetchMaxWait(8*time.Second))
	defer cl.Close()
	limit, stop := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer stop()
	equal(len(cl.PollFetches(limit).Records()), 0, "records out of nothing")
	began := time.Now()
	produce(topic, []*kgo.Record{kgo.StringRecord("wake")})
	equal(values(take(cl, 1)), []string{"wake"}, "the record")
	if took := time.Since(began); took > 2*time.Second {
		fail("a waiting fetch took %v to see a new record", took)
	}
}

func deleteRecords(topic string) {
	create(topic, 1, nil)
	records, text := numbered(0, 10)
	produce(topic, records)
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, 6, -1)
	rs, err := adm.DeleteRecords(ctx, offsets)
	must(err, "delete records")
	must(rs.Error(), "delete records")
	low, high := bounds(topic)
	equal([]int64{low, high}, []int64{6, 10}, "start and end")
	equal(values(readAll(topic)), text[6:], "what is left")
	cl := connect(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {0: kgo.NewOffset().At(2)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer cl.Close()
	limit, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	err = cl.PollFetches(limit).Err()
	equal(errors.Is(err, kerr.OffsetOutOfRange), true, fmt.Sprint("a deleted offset: ", err))
}

func noAutoCreate(topic string) {
	err := tryProduce(topic, []*kgo.Record{kgo.StringRecord("x")}, kgo.UnknownTopicRetries(1))
	equal(errors.Is(err, kerr.UnknownTopicOrPartition), true, fmt.Sprint("unknown topic: ", err))
	all, err := adm.ListTopics(ctx)
	must(err, "list topics")
	equal(all.Has(topic), false, "the topic was created")
}

func tooLarge(topic string) {
	create(topic, 1, nil)
	err := tryProduce(topic, []*kgo.Record{kgo.SliceRecord(bytes.Repeat([]byte("x"), 2_000_000))},
		kgo.ProducerBatchMaxBytes(5_000_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	equal(errors.Is(err, kerr.MessageTooLarge), true, fmt.Sprint("over the limit: ", err))
	produce(topic, []*kgo.Record{kgo.StringRecord("fits")})
	equal(values(readAll(topic)), []string{"fits"}, "records")
}

// transact runs one transaction of records and ends it.
func transact(cl *kgo.Client, end kgo.TransactionEndTry, records ...*kgo.Record) error {
	must(cl.BeginTransaction(), "begin")
	must(cl.ProduceSync(ctx, records...).FirstErr(), "produce in a transaction")
	return cl.EndTransaction(ctx, end)
}

func readWith(topic string, level kgo.IsolationLevel) *kgo.Client {
	return connect(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(level), kgo.FetchMaxWait(300*time.Millisecond))
}

func transactions(topic string) {
	create(topic, 1, nil)
	opts := []kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.TransactionalID(topic)}
	p := connect(opts...)
	defer p.Close()
	text := kgo.StringRecord
	must(transact(p, kgo.TryAbort, text("a0"), text("a1")), "abort")
	must(transact(p, kgo.TryCommit, text("c0"), text("c1")), "commit")
	must(p.BeginTransaction(), "begin")
	must(p.ProduceSync(ctx, text("o0")).FirstErr(), "produce")
	c := readWith(topic, kgo.ReadCommitted())
	defer c.Close()
	equal(values(take(c, 2)), []string{"c0", "c1"}, "committed records")
	limit, stop := context.WithTimeout(ctx, time.Second)
	equal(len(c.PollFetches(limit).Records()), 0, "records of an open transaction")
	stop()
	u := readWith(topic, kgo.ReadUncommitted())
	defer u.Close()
	equal(values(take(u, 5)), []string{"a0", "a1", "c0", "c1", "o0"}, "all records")
	must(p.EndTransaction(ctx, kgo.TryCommit), "commit")
	equal(values(take(c, 1)), []string{"o0"}, "the record after its commit")
	must(p.BeginTransaction(), "begin")
	must(p.ProduceSync(ctx, text("z0")).FirstErr(), "produce")
	second := connect(opts...)
	defer second.Close()
	must(transact(second, kgo.TryCommit, text("n0")), "the new producer")
	err := p.EndTransaction(ctx, kgo.TryCommit)
	equal(err != nil, true, "a fenced producer committed")
	equal(values(take(c, 1)), []string{"n0"}, "what the new producer wrote")
}

func exactlyOnce(topic string) {
	source, sink := topic+"-in", topic+"-out"
	create(source, 2, nil)
	create(sink, 1, nil)
	records, _ := numbered(0, 40)
	for i, r := range records {
		r.Partition = int32(i % 2)
	}
	produce(source, records, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(strings.Split(boot, ",")...),
		kgo.TransactionalID(topic), kgo.ConsumerGroup(topic), kgo.ConsumeTopics(source),
		kgo.DefaultProduceTopic(sink), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets())
	must(err, "group transact session")
	defer session.Close()
	count, aborted := 0, false
	until("40 records in transactions", func() bool {
		limit, stop := context.WithTimeout(ctx, 5*time.Second)
		defer stop()
		fetches := session.PollRecords(limit, 10)
		if fetches.Empty() {
			return false
		}
		must(session.Begin(), "begin")
		polled := fetches.Records()
		for _, r := range polled {
			session.Produce(ctx, kgo.StringRecord("x"+string(r.Value)), nil)
		}
		committed, err := session.End(ctx, kgo.TransactionEndTry(aborted))
		must(err, "end")
		if committed {
			count += len(polled)
		}
		aborted = true
		return count >= 40
	})
	c := readWith(sink, kgo.ReadCommitted())
	defer c.Close()
	got := values(take(c, 40))
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprint("x", i))
	}
	slices.Sort(got)
	slices.Sort(want)
	equal(got, want, "each record once")
}

func static(topic string) {
	create(topic, 2, nil)
	name := func(id string) kgo.Opt { return kgo.InstanceID(id) }
	var seen []string
	first, second := join(topic, name("one")), join(topic, name("two"))
	until("a partition each", func() bool {
		first.poll(&seen)
		second.poll(&seen)
		return len(first.owned) == 1 && len(second.owned) == 1
	})
	var had int32
	for p := range second.owned {
		had = p
	}
	second.cl.Close()
	groups, err := adm.DescribeGroups(ctx, topic)
	must(err, "describe group")
	equal(len(groups[topic].Members), 2, "members while a static one is away")
	second = join(topic, name("two"))
	until("its partition again", func() bool {
		first.poll(&seen)
		second.poll(&seen)
		return len(second.owned) == 1
	})
	equal(second.owned[had], true, "the partition")
	first.cl.Close()
	second.cl.Close()
}

func nextGen(topic string) {
	create(topic, 4, nil)
	records, want := numbered(0, 40)
	for i, r := range records {
		r.Partition = int32(i % 4)
	}
	produce(topic, records, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	slices.Sort(want)
	optIn := kgo.WithContext(context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true))
	var seen []string
	first := join(topic, optIn)
	until("40 records by one member", func() bool { first.poll(&seen); return len(seen) >= 40 })
	must(first.cl.CommitUncommittedOffsets(ctx), "commit")
	second := join(topic, optIn)
	until("two partitions each", func() bool {
		first.poll(&seen)
		second.poll(&seen)
		return len(first.owned) == 2 && len(second.owned) == 2
	})
	groups, err := adm.DescribeConsumerGroups(ctx, topic)
	must(err, "describe consumer group")
	equal(len(groups[topic].Members), 2, "members")
	second.cl.Close()
	until("all four back to the first", func() bool { first.poll(&seen); return len(first.owned) == 4 })
	first.cl.Close()
	slices.Sort(seen)
	equal(seen, want, "records, each once")
}

// share has two members of a share group (KIP-932): what one gives back goes to the other.
func share(topic string) {
	create(topic, 2, nil)
	earliest := "earliest"
	config := kmsg.NewIncrementalAlterConfigsRequestResource()
	config.ResourceType, config.ResourceName = kmsg.ConfigResourceTypeGroupConfig, topic
	config.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{
		{Name: "share.auto.offset.reset", Value: &earliest}}
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	request.Resources = append(request.Resources, config)
	any := connect()
	defer any.Close()
	answer, err := request.RequestWith(ctx, any)
	must(err, "alter the group's config")
	must(kerr.ErrorForCode(answer.Resources[0].ErrorCode), "the group's config")
	records, want := numbered(0, 40)
	produce(topic, records)
	got := map[string]int32{}
	poll := func(cl *kgo.Client) {
		limit, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		defer stop()
		cl.PollFetches(limit).EachRecord(func(r *kgo.Record) {
			got[string(r.Value)] = max(got[string(r.Value)], r.DeliveryCount())
			if r.Value[len(r.Value)-1]%2 == 1 && r.DeliveryCount() == 1 {
				r.Ack(kgo.AckRelease)
			} else {
				r.Ack(kgo.AckAccept)
			}
		})
		must(cl.FlushAcks(ctx), "flush acknowledgements")
	}
	member := func() *kgo.Client { return connect(kgo.ShareGroup(topic), kgo.ConsumeTopics(topic)) }
	first, second := member(), member()
	until("40 records, and those given back once more", func() bool {
		poll(first)
		poll(second)
		again := 0
		for value, count := range got {
			if count > 1 && value[len(value)-1]%2 == 1 {
				again++
			}
		}
		return len(got) == 40 && again == 20
	})
	first.Close()
	second.Close()
	equal(len(want), len(got), "records")
	// This client does not ask again when a coordinator closes the connection.
	until("share group offsets", func() bool {
		groups, err := adm.DescribeShareGroupOffsets(ctx, topic)
		return err == nil && groups[topic].Err == nil
	})
}

func run(name string, scenario func(string)) {
	topic := fmt.Sprintf("%s-%s-%s", os.Args[2], client, name)
	if strings.HasPrefix(name, "codec-") {
		topic = os.Args[2] + "-" + name
	}
	began, verdict, detail := time.Now(), "ok", ""
	func() {
		defer func() {
			switch p := recover().(type) {
			case nil:
			case failure:
				verdict, detail = "fail", fmt.Sprintf("line %d: %s", p.line, p.text)
			default:
				verdict, detail = "fail", fmt.Sprint("panic: ", p)
			}
		}()
		scenario(topic)
	}()
	detail = strings.Join(strings.Fields(detail), " ")
	fmt.Printf("RESULT\t%s\t%s\t%s\t%.1f\n", name, verdict, detail, time.Since(began).Seconds())
}

func main() {
	boot = os.Args[1]
	adm = kadm.NewClient(connect())
	for _, s := range []struct {
		name string
		run  func(string)
	}{
		{"codec-none", codec(kgo.NoCompression())}, {"codec-gzip", codec(kgo.GzipCompression())},
		{"codec-snappy", codec(kgo.SnappyCompression())}, {"codec-lz4", codec(kgo.Lz4Compression())},
		{"codec-zstd", codec(kgo.ZstdCompression())}, {"fields", fields}, {"acks", acks},
		{"idempotent", idempotent}, {"group", groupWith(kgo.CooperativeStickyBalancer())},
		{"admin", admin}, {"configs", configs}, {"list-offsets", listOffsets},
		{"auto-create", autoCreate}, {"large", large}, {"seek-time", seekTime},
		{"long-poll", longPoll}, {"delete-records", deleteRecords},
		{"no-auto-create", noAutoCreate}, {"too-large", tooLarge}, {"static", static},
		{"next-gen-group", nextGen}, {"transactions", transactions}, {"exactly-once", exactlyOnce},
		{"share", share},
	} {
		if len(os.Args) == 3 || slices.Contains(os.Args[3:], s.name) {
			run(s.name, s.run)
		}
	}
}
