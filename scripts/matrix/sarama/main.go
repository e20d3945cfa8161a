// The sarama leg. Arguments: BOOTSTRAP PREFIX [SCENARIO...]; prints RESULT lines (see ../scenario.py).
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

const client = "sarama"

var (
	brokers []string
	admin   sarama.ClusterAdmin
)

func must(err error, what string) {
	if err != nil {
		panic(fmt.Errorf("%s: %w", what, err))
	}
}

func equal[T any](got, want T, what string) {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		panic(fmt.Errorf("%s: got %.200s, want %.200s", what, g, w))
	}
}

func until(what string, probe func() bool) {
	for end := time.Now().Add(20 * time.Second); !probe(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			panic(fmt.Errorf("%s: not within 20 s", what))
		}
	}
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V4_0_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.MaxWaitTime = 200 * time.Millisecond
	c.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	return c
}

func create(topic string, partitions int32) {
	copies, err := strconv.ParseInt(os.Getenv("REPLICAS"), 10, 16)
	if err != nil {
		copies = 1
	}
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: int16(copies)}
	must(admin.CreateTopic(topic, detail, false), "create "+topic)
	until("the new topic", func() bool {
		found, err := admin.DescribeTopics([]string{topic})
		return err == nil && found[0].Err == sarama.ErrNoError && len(found[0].Partitions) == int(partitions)
	})
}

func messages(topic string, partitions int, values []string) (out []*sarama.ProducerMessage) {
	for i, v := range values {
		out = append(out, &sarama.ProducerMessage{
			Topic: topic, Partition: int32(i % partitions), Value: sarama.StringEncoder(v)})
	}
	return out
}

func producer(change func(*sarama.Config)) sarama.SyncProducer {
	c := config()
	c.Producer.Partitioner = sarama.NewManualPartitioner
	change(c)
	p, err := sarama.NewSyncProducer(brokers, c)
	must(err, "new producer")
	return p
}

func produce(topic string, partitions int, values []string, change func(*sarama.Config)) []*sarama.ProducerMessage {
	p := producer(change)
	defer p.Close()
	sent := messages(topic, partitions, values)
	must(p.SendMessages(sent), "produce")
	return sent
}

func read(topic string, count int, level sarama.IsolationLevel) (out []string) {
	c := config()
	c.Consumer.IsolationLevel = level
	consumer, err := sarama.NewConsumer(brokers, c)
	must(err, "new consumer")
	defer consumer.Close()
	part, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	must(err, "consume")
	defer part.Close()
	for end := time.After(20 * time.Second); len(out) < count; {
		select {
		case m := <-part.Messages():
			out = append(out, string(m.Value))
		case <-end:
			panic(fmt.Errorf("only %d of %d records in 20 s", len(out), count))
		}
	}
	return out
}

func numbers(prefix string, count int) (out []string) {
	for i := range count {
		out = append(out, fmt.Sprint(prefix, i))
	}
	return out
}

func sorted(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return out
}

func codec(codec sarama.CompressionCodec) func(string) {
	return func(topic string) {
		var own []string
		for i := range 200 {
			own = append(own, strings.Repeat(fmt.Sprintf("%s-%06d-", client, i), 20))
		}
		sent := produce(topic, 1, own, func(c *sarama.Config) { c.Producer.Compression = codec })
		high := int(sent[len(sent)-1].Offset) + 1
		mine := slices.DeleteFunc(read(topic, high, sarama.ReadUncommitted),
			func(v string) bool { return !strings.HasPrefix(v, client+"-") })
		equal(mine, own, "own records, in order")
	}
}

func idempotent(c *sarama.Config) {
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
}

func idempotence(topic string) {
	create(topic, 1)
	for i, m := range produce(topic, 1, numbers("", 1000), idempotent) {
		equal(m.Offset, int64(i), "offset of the delivery")
	}
}

// member is one consumer of a group: what it owns and what it was given.
type member struct {
	sync.Mutex
	owned  []int32
	seen   []string
	group  sarama.ConsumerGroup
	cancel context.CancelFunc
	done   chan struct{}
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	m.Lock()
	defer m.Unlock()
	m.owned = nil
	for _, partitions := range s.Claims() {
		m.owned = append(m.owned, partitions...)
	}
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case r, open := <-claim.Messages():
			if !open {
				return nil
			}
			m.Lock()
			m.seen = append(m.seen, string(r.Value))
			m.Unlock()
			s.MarkMessage(r, "")
			s.Commit()
		case <-s.Context().Done():
			return nil
		}
	}
}

func (m *member) owns() int {
	m.Lock()
	defer m.Unlock()
	return len(m.owned)
}

func (m *member) saw() []string {
	m.Lock()
	defer m.Unlock()
	return sorted(m.seen)
}

func join(topic, instance string) *member {
	c := config()
	c.Consumer.Group.InstanceId = instance
	group, err := sarama.NewConsumerGroup(brokers, topic, c)
	must(err, "new group")
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{group: group, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			if group.Consume(ctx, []string{topic}, m) != nil {
				time.Sleep(50 * time.Millisecond)
			}
		}
	}()
	return m
}

func (m *member) leave() {
	m.cancel()
	<-m.done
	must(m.group.Close(), "close")
}

func group(topic string) {
	create(topic, 4)
	want := sorted(numbers("", 40))
	produce(topic, 4, numbers("", 40), func(*sarama.Config) {})
	first := join(topic, "")
	until("40 records by one member", func() bool { return len(first.saw()) >= 40 })
	second := join(topic, "")
	until("two partitions each", func() bool { return first.owns() == 2 && second.owns() == 2 })
	second.leave()
	until("all four back to the first", func() bool { return first.owns() == 4 })
	first.leave()
	equal(first.saw(), want, "records seen by the first")
	offsets, err := admin.ListConsumerGroupOffsets(topic, map[string][]int32{topic: {0, 1, 2, 3}})
	must(err, "offsets")
	for p := range int32(4) {
		equal(offsets.GetBlock(topic, p).Offset, int64(10), "committed offset")
	}
}

func static(topic string) {
	create(topic, 2)
	first, second := join(topic, "one"), join(topic, "two")
	until("a partition each", func() bool { return first.owns() == 1 && second.owns() == 1 })
	second.Lock()
	had := second.owned[0]
	second.Unlock()
	second.leave()
	second = join(topic, "two")
	until("its partition again", func() bool { return second.owns() == 1 })
	equal(second.owned[0], had, "the partition")
	second.leave()
	first.leave()
}

func transactional(id string) sarama.SyncProducer {
	return producer(func(c *sarama.Config) {
		idempotent(c)
		c.Producer.Transaction.ID = id
	})
}

func transactions(topic string) {
	create(topic, 1)
	p := transactional(topic)
	must(p.BeginTxn(), "begin")
	must(p.SendMessages(messages(topic, 1, []string{"a0", "a1"})), "send")
	must(p.AbortTxn(), "abort")
	must(p.BeginTxn(), "begin")
	must(p.SendMessages(messages(topic, 1, []string{"c0", "c1"})), "send")
	must(p.CommitTxn(), "commit")
	equal(read(topic, 2, sarama.ReadCommitted), []string{"c0", "c1"}, "committed records")
	equal(read(topic, 4, sarama.ReadUncommitted), []string{"a0", "a1", "c0", "c1"}, "all records")
	must(p.BeginTxn(), "begin")
	must(p.SendMessages(messages(topic, 1, []string{"z0"})), "send")
	second := transactional(topic)
	if p.CommitTxn() == nil {
		panic("a fenced producer committed")
	}
	must(second.BeginTxn(), "begin")
	must(second.SendMessages(messages(topic, 1, []string{"n0"})), "send")
	must(second.CommitTxn(), "commit")
	equal(read(topic, 3, sarama.ReadCommitted), []string{"c0", "c1", "n0"}, "in the end")
	_ = second.Close()
}

// mover copies what it consumes in transactions that hold its positions.
type mover struct {
	sync.Mutex
	sink, group string
	producer    sarama.SyncProducer
	count       int
	problem     error
}

func (*mover) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*mover) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *mover) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case r, open := <-claim.Messages():
			if !open {
				return nil
			}
			m.Lock()
			err := m.move(r)
			m.count++
			if m.problem == nil {
				m.problem = err
			}
			m.Unlock()
		case <-s.Context().Done():
			return nil
		}
	}
}

func (m *mover) move(r *sarama.ConsumerMessage) error {
	if err := m.producer.BeginTxn(); err != nil {
		return err
	}
	if err := m.producer.SendMessages(messages(m.sink, 1, []string{"x" + string(r.Value)})); err != nil {
		return err
	}
	if err := m.producer.AddMessageToTxn(r, m.group, nil); err != nil {
		return err
	}
	return m.producer.CommitTxn()
}

func exactlyOnce(topic string) {
	source, sink := topic+"-in", topic+"-out"
	create(source, 2)
	create(sink, 1)
	produce(source, 2, numbers("", 20), func(*sarama.Config) {})
	m := &mover{sink: sink, group: topic, producer: transactional(topic)}
	group, err := sarama.NewConsumerGroup(brokers, topic, config())
	must(err, "new group")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = group.Consume(ctx, []string{source}, m); close(done) }()
	until("20 records in transactions", func() bool {
		m.Lock()
		defer m.Unlock()
		must(m.problem, "a transaction")
		return m.count == 20
	})
	cancel()
	<-done
	_ = group.Close()
	equal(sorted(read(sink, 20, sarama.ReadCommitted)), sorted(numbers("x", 20)), "each record once")
	offsets, err := admin.ListConsumerGroupOffsets(topic, map[string][]int32{source: {0, 1}})
	must(err, "offsets")
	equal(offsets.GetBlock(source, 0).Offset, int64(10), "position")
}

func run(name string, scenario func(string)) {
	topic := fmt.Sprintf("%s-%s-%s", os.Args[2], client, name)
	if strings.HasPrefix(name, "codec-") {
		topic = os.Args[2] + "-" + name
	}
	began, verdict, detail := time.Now(), "ok", ""
	func() {
		defer func() {
			if p := recover(); p != nil {
				verdict, detail = "fail", fmt.Sprint(p)
			}
		}()
		scenario(topic)
	}()
	detail = strings.Join(strings.Fields(detail), " ")
	fmt.Printf("RESULT\t%s\t%s\t%s\t%.1f\n", name, verdict, detail, time.Since(began).Seconds())
}

func main() {
	brokers = strings.Split(os.Args[1], ",")
	var err error
	admin, err = sarama.NewClusterAdmin(brokers, config())
	must(err, "admin")
	for _, s := range []struct {
		name string
		run  func(string)
	}{
		{"codec-none", codec(sarama.CompressionNone)}, {"codec-gzip", codec(sarama.CompressionGZIP)},
		{"codec-snappy", codec(sarama.CompressionSnappy)}, {"codec-lz4", codec(sarama.CompressionLZ4)},
		{"codec-zstd", codec(sarama.CompressionZSTD)}, {"idempotent", idempotence}, {"group", group},
		{"static", static}, {"transactions", transactions}, {"exactly-once", exactlyOnce},
	} {
		if len(os.Args) == 3 || slices.Contains(os.Args[3:], s.name) {
			run(s.name, s.run)
		}
	}
}
