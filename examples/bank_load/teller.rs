//! Transactional producers: what they send, and how their transactions end.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};

use crate::{
    Args, DEPOSIT, Dice,
    recorder::{Recorder, plain},
};

/// How long one call of the client is waited for, again and again up to `PATIENCE`.
const CALL: Duration = Duration::from_secs(5);
/// Longer than any fault with the ten seconds that a cluster has to come back.
const PATIENCE: Duration = Duration::from_secs(45);

/// A record on its way: when it was handed over, and what it is.
struct Sending {
    began: u64,
    tp: (String, i32),
    value: String,
    txn: Option<String>,
}

/// Records each outcome. `expected`: its producer is a zombie, which is told so.
pub(crate) struct Outcomes {
    p: String,
    recorder: Arc<Recorder>,
    on_the_way: Mutex<BTreeMap<usize, Sending>>,
    expected: AtomicBool,
}

impl Outcomes {
    pub(crate) fn new(p: String, recorder: &Arc<Recorder>) -> Self {
        let (on_the_way, expected) = (Mutex::default(), AtomicBool::new(false));
        Self { p, recorder: Arc::clone(recorder), on_the_way, expected }
    }

    fn write(&self, n: usize, end: fmt::Arguments<'_>) {
        let taken = self.on_the_way.lock().ok().and_then(|mut m| m.remove(&n));
        let Some(Sending { began, tp, value, txn }) = taken else { return };
        let txn = txn.map(|t| format!(r#""txn":"{t}","#)).unwrap_or_default();
        self.recorder.event(format_args!(
            r#"{{"send":{{"p":"{}","n":{n},"tp":["{}",{}],"v":"{value}",{txn}"t":[{began},{}],{end}}}}}"#,
            self.p,
            tp.0,
            tp.1,
            self.recorder.now()
        ));
    }

    fn left(&self) -> Vec<usize> {
        self.on_the_way.lock().map(|m| m.keys().copied().collect()).unwrap_or_default()
    }
}

impl ClientContext for Outcomes {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        eprintln!("{} {} {facility} {text}", self.recorder.now(), self.p);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let fatal = error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal);
        eprintln!("{} {} {error} {reason}", self.recorder.now(), self.p);
        if fatal && !self.expected.load(Ordering::Relaxed) {
            let reason = plain(reason);
            self.recorder
                .event(format_args!(r#"{{"fatal":{{"p":"{}","error":"{reason}"}}}}"#, self.p));
        }
    }
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, n: usize) {
        match result {
            Ok(m) if m.offset() < 0 => self.write(n, format_args!(r#""info":"somewhere""#)),
            Ok(m) => self.write(n, format_args!(r#""ok":{}"#, m.offset())),
            Err((error, _)) => {
                self.write(n, format_args!(r#""info":"{}""#, plain(&error.to_string())));
            }
        }
    }
}

/// How a transaction ended, as histories name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
    Info,
}

/// A record of a transaction: account, what is added to it, and the order behind it (or `-`).
pub(crate) type Posting = (u32, i64, String);

/// One incarnation of a transactional producer.
pub(crate) struct Teller {
    pub(crate) producer: ThreadedProducer<Outcomes>,
    pub(crate) p: String,
    topic: String,
    partitions: i32,
    recorder: Arc<Recorder>,
    sent: usize,
    txns: u64,
}

impl Teller {
    /// A new producer with the epoch of transactional id `id`; all before it are fenced.
    pub(crate) fn open(
        args: &Args,
        id: &str,
        incarnation: u32,
        recorder: &Arc<Recorder>,
    ) -> anyhow::Result<Self> {
        let p = format!("{}/{id}.{incarnation}", args.topic);
        let producer: ThreadedProducer<Outcomes> = args
            .client()
            .set("transactional.id", id)
            .set("linger.ms", "1")
            // What is left open by mistake must be noticed, not swept away.
            .set("transaction.timeout.ms", "120000")
            .set("message.timeout.ms", "60000")
            .set("request.timeout.ms", "3000")
            // librdkafka waits for ever at a group's coordinator that it had cached and that is gone
            // from the metadata, until some connection of its own changes: so let idle ones end.
            .set("connections.max.idle.ms", "1500")
            .create_with_context(Outcomes::new(p.clone(), recorder))?;
        let began = recorder.now();
        retried(|| producer.init_transactions(CALL)).with_context(|| format!("init of {p}"))?;
        let now = recorder.now();
        recorder.event(format_args!(r#"{{"init":{{"id":"{id}","p":"{p}","t":[{began},{now}]}}}}"#));
        let (topic, recorder) = (args.topic.clone(), Arc::clone(recorder));
        Ok(Self { producer, p, topic, partitions: args.partitions, recorder, sent: 0, txns: 0 })
    }

    /// Begins a transaction and hands over `postings`; gives its name.
    pub(crate) fn begin(&mut self, postings: &[Posting]) -> KafkaResult<String> {
        self.producer.begin_transaction()?;
        self.txns += 1;
        let name = format!("{}:{}", self.p, self.txns);
        for posting in postings {
            self.post(&name, postings.len(), posting)?;
        }
        Ok(name)
    }

    fn post(&mut self, txn: &str, parts: usize, posting: &Posting) -> KafkaResult<()> {
        let (account, amount, order) = posting;
        let n = self.sent;
        let partition = (account % self.partitions.cast_unsigned()).cast_signed();
        let value = format!("{txn};{n};{parts};{account};{amount};{order}");
        let key = account.to_string();
        let outcomes = self.producer.context();
        if let Ok(mut map) = outcomes.on_the_way.lock() {
            let (began, tp) = (self.recorder.now(), (self.topic.clone(), partition));
            map.insert(n, Sending { began, tp, value: value.clone(), txn: Some(txn.to_owned()) });
        }
        self.sent += 1;
        let record = BaseRecord::with_opaque_to(&self.topic, n)
            .partition(partition)
            .key(&key)
            .payload(&value);
        self.producer.send(record).map_err(|(error, _)| {
            let outcomes = self.producer.context();
            outcomes.write(n, format_args!(r#""fail":"not handed over""#));
            error
        })
    }

    /// Ends the transaction `name`, whose commit takes along `offsets`.
    pub(crate) fn end(&self, name: &str, commit: bool, offsets: &str) -> End {
        let began = self.recorder.now();
        let end = if commit { self.commit() } else { self.abort() };
        self.ended(name, began, end, offsets);
        end
    }

    fn ended(&self, name: &str, began: u64, end: End, offsets: &str) {
        let (p, now) = (&self.p, self.recorder.now());
        let end = match end {
            End::Commit => "commit",
            End::Abort => "abort",
            End::Info => "info",
        };
        self.recorder.event(format_args!(
            r#"{{"txn":{{"txn":"{name}","p":"{p}","t":[{began},{now}],"end":"{end}","offsets":[{offsets}]}}}}"#
        ));
    }

    fn commit(&self) -> End {
        match retried(|| self.producer.commit_transaction(CALL)) {
            Ok(()) => End::Commit,
            Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => self.abort(),
            Err(error) => {
                eprintln!("{} {} commit: {error}", self.recorder.now(), self.p);
                End::Info
            }
        }
    }

    fn abort(&self) -> End {
        match retried(|| self.producer.abort_transaction(CALL)) {
            Ok(()) => End::Abort,
            Err(error) => {
                eprintln!("{} {} abort: {error}", self.recorder.now(), self.p);
                End::Info
            }
        }
    }

    /// A successor takes the transactional id in the middle of a transaction, and then this one
    /// sends more and asks for the commit all the same: nothing of that may be seen.
    fn haunt(mut self, args: &Args, id: &str, incarnation: u32, post: &Posting) -> KafkaResult<()> {
        let name = self.begin(&[post.clone(), (post.0 + 1, -post.1, "-".to_owned())])?;
        let _ = self.producer.flush(CALL);
        self.producer.context().expected.store(true, Ordering::Relaxed);
        // The one that begins next is the third.
        let heir = Self::open(args, id, incarnation, &self.recorder);
        if heir.is_ok() {
            let _ = self.post(&name, 2, post);
            let began = self.recorder.now();
            let end = if self.producer.commit_transaction(CALL).is_ok() {
                End::Commit
            } else {
                // The successor's first act aborted it.
                End::Abort
            };
            self.ended(&name, began, end, "");
        } else {
            self.ended(&name, self.recorder.now(), End::Abort, "");
        }
        Ok(())
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let outcomes = self.producer.context();
        let began = Instant::now();
        while !outcomes.left().is_empty() && began.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(10));
        }
        for n in outcomes.left() {
            outcomes.write(n, format_args!(r#""info":"no answer""#));
        }
    }
}

/// Asks until the answer is not one to ask again for, or patience ends.
fn retried(mut ask: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(KafkaError::Transaction(e)) if e.is_retriable() && began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Every account gets its first balance, all in one transaction.
pub(crate) fn deposit(args: &Args, recorder: &Arc<Recorder>) -> anyhow::Result<()> {
    let all: Vec<_> = (0..args.accounts).map(|a| (a, DEPOSIT, "-".to_owned())).collect();
    for incarnation in 0..10 {
        let mut teller = Teller::open(args, "deposit", incarnation, recorder)?;
        let name = teller.begin(&all)?;
        match teller.end(&name, true, "") {
            End::Commit => return Ok(()),
            End::Abort => {}
            // Made twice, the sum would not be right.
            End::Info => anyhow::bail!("nobody knows of the deposit"),
        }
    }
    anyhow::bail!("the deposit was aborted ten times")
}

/// One to three transfers, as postings.
fn transfers(args: &Args, dice: &mut Dice) -> Vec<Posting> {
    let mut out = Vec::new();
    for _ in 0..=dice.below(3) {
        let from = dice.below(args.accounts);
        let to = (from + 1 + dice.below(args.accounts - 1)) % args.accounts;
        let amount = i64::from(dice.below(100)) + 1;
        out.push((from, -amount, "-".to_owned()));
        out.push((to, amount, "-".to_owned()));
    }
    out
}

/// One teller; its last transaction is one that began after `stop` and was committed.
pub(crate) fn work(
    args: &Args,
    number: u32,
    recorder: &Arc<Recorder>,
    stop: &AtomicBool,
) -> anyhow::Result<String> {
    let id = format!("teller-{number}");
    let mut dice = Dice::new(args.seed, u64::from(number));
    let pause = Duration::from_secs(1) / args.rate;
    let (mut incarnation, mut committed, mut aborted, mut zombies) = (0, 0u64, 0u64, 0u64);
    let mut since_stop: Option<Instant> = None;
    'born: loop {
        let mut teller = Teller::open(args, &id, incarnation, recorder)?;
        incarnation += 1;
        loop {
            let stopped = stop.load(Ordering::Relaxed);
            if stopped && since_stop.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                anyhow::bail!("{id} commits no more");
            }
            let fate = if stopped { 99 } else { dice.below(100) };
            if fate < 2 {
                let post = (dice.below(args.accounts - 1), 7, "-".to_owned());
                let _ = teller.haunt(args, &id, incarnation, &post);
                (zombies, incarnation) = (zombies + 1, incarnation + 1);
                continue 'born;
            }
            let Ok(name) = teller.begin(&transfers(args, &mut dice)) else {
                continue 'born;
            };
            match teller.end(&name, fate >= 12, "") {
                End::Commit if stopped => {
                    committed += 1;
                    break 'born;
                }
                End::Commit => committed += 1,
                End::Abort => aborted += 1,
                End::Info => continue 'born,
            }
            thread::sleep(pause);
        }
    }
    Ok(format!("{id}: {committed} committed, {aborted} aborted, {zombies} zombies"))
}

/// Hands `value` to a producer without transactions, as record `n` of it.
pub(crate) fn send_plain(
    producer: &ThreadedProducer<Outcomes>,
    tp: (&str, i32),
    n: usize,
    value: &str,
) -> KafkaResult<()> {
    let outcomes = producer.context();
    let sending = Sending {
        began: outcomes.recorder.now(),
        tp: (tp.0.to_owned(), tp.1),
        value: value.to_owned(),
        txn: None,
    };
    if let Ok(mut map) = outcomes.on_the_way.lock() {
        map.insert(n, sending);
    }
    let record =
        BaseRecord::<(), str, usize>::with_opaque_to(tp.0, n).partition(tp.1).payload(value);
    producer.send(record).map_err(|(error, _)| {
        outcomes.write(n, format_args!(r#""fail":"not handed over""#));
        error
    })
}
