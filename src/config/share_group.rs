//! How records are delivered to a share group: what the group sets for itself (`GroupConfig`), or
//! the broker's (`ShareGroupConfig`, `ShareGroupAutoOffsetResetStrategy`). Uses `group`, `layers`.

use std::collections::BTreeMap;

use super::{
    group::{self, DELIVERY_LIMIT, GroupKey, ISOLATION, LOCK_DURATION, RECORD_LOCKS, RENEW, RESET},
    layers::Layers,
};

/// Where a share partition starts that nobody has read for its group
/// (`share.auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareReset {
    /// At the first record.
    Earliest,
    /// After the last record.
    Latest,
    /// At the first record that is at most so many milliseconds old; not negative.
    ByDuration(i64),
}

impl ShareReset {
    /// Reads `earliest`, `latest` or `by_duration:<PnDTnHnMn.nS>`; nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            _ => {
                let ms = duration_ms(text.strip_prefix("by_duration:")?)?;
                (ms >= 0).then_some(Self::ByDuration(ms))
            }
        }
    }
}

/// An ISO-8601 duration of days and less as Java's `Duration.parse` reads it, in milliseconds; what
/// is shorter than one is cut off.
fn duration_ms(text: &str) -> Option<i64> {
    let (negative, text) = signed(text);
    let text = text.strip_prefix(['P', 'p'])?;
    let mut total: i64 = 0;
    let (mut rest, mut in_time, mut parts, mut last) = (text, false, 0, 0);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix(['T', 't']).filter(|_| !in_time) {
            (rest, in_time) = (time, true);
            parts = 0;
            continue;
        }
        let (minus, digits) = signed(rest);
        let end = digits.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = digits.split_at(end);
        let number: i64 = number.parse().ok()?;
        let (order, scale, unit) = match unit.as_bytes() {
            [b'D' | b'd', ..] if !in_time => (1, 86_400_000, unit.get(1..)?),
            [b'H' | b'h', ..] if in_time => (2, 3_600_000, unit.get(1..)?),
            [b'M' | b'm', ..] if in_time => (3, 60_000, unit.get(1..)?),
            [b'S' | b's', ..] if in_time => (4, 1_000, unit.get(1..)?),
            [b'.' | b',', ..] if in_time => {
                let fraction = unit.get(1..)?;
                let end = fraction.find(|c: char| !c.is_ascii_digit()).filter(|n| *n <= 9)?;
                let (digits, tail) = fraction.split_at(end);
                let ms: i64 = format!("{digits:0<3}").get(..3)?.parse().ok()?;
                total = total.checked_add(if minus { -ms } else { ms })?;
                (4, 1_000, tail.strip_prefix(['S', 's'])?)
            }
            _ => return None,
        };
        if order <= last {
            return None;
        }
        (last, rest, parts) = (order, unit, parts + 1);
        let part = number.checked_mul(scale)?;
        total = total.checked_add(if minus { -part } else { part })?;
    }
    (parts > 0).then_some(if negative { -total } else { total })
}

fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// What delivery to one share group goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareGroupSettings {
    /// `share.record.lock.duration.ms`: how long an acquired record stays with its consumer.
    pub record_lock_ms: i32,
    /// `share.delivery.count.limit`: deliveries of one record.
    pub delivery_count_limit: i32,
    /// `share.partition.max.record.locks`: records under way of one partition.
    pub max_record_locks: i32,
    /// `share.auto.offset.reset`.
    pub reset: ShareReset,
    /// `share.isolation.level`: whether records of aborted and open transactions are kept back.
    pub read_committed: bool,
    /// `share.renew.acknowledge.enable`: whether a consumer may hold an acquired record for longer.
    pub renew: bool,
}

impl ShareGroupSettings {
    /// The settings of a group that has set `own` for itself, on a broker with these layers. What
    /// lies outside of the broker's bounds is brought within them (`GroupConfig.evaluate`).
    #[must_use]
    pub fn of(own: &BTreeMap<String, String>, layers: &Layers) -> Self {
        let number = |key: &GroupKey| key.within(own, layers);
        let text = |key: &'static super::keys::Key| group::text(key, own);
        Self {
            record_lock_ms: number(&LOCK_DURATION),
            delivery_count_limit: number(&DELIVERY_LIMIT),
            max_record_locks: number(&RECORD_LOCKS),
            reset: ShareReset::parse(text(&RESET)).unwrap_or(ShareReset::Latest),
            read_committed: text(&ISOLATION) == "read_committed",
            renew: text(&RENEW).eq_ignore_ascii_case("true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    #[test]
    fn resets_are_read_as_java_reads_them() {
        let ms = |text: &str| match ShareReset::parse(&format!("by_duration:{text}")) {
            Some(ShareReset::ByDuration(ms)) => Some(ms),
            _ => None,
        };
        for (text, expected) in [
            ("PT20.345S", Some(20_345)),
            ("PT15M", Some(900_000)),
            ("P2D", Some(172_800_000)),
            ("p1dt2h3m4.5s", Some(93_784_500)),
            ("PT-6H+3M", None),
            ("PT6H-3M", Some(21_420_000)),
            ("-PT-6H", Some(21_600_000)),
            ("PT0.1S", Some(100)),
            ("PT1.S", Some(1_000)),
            ("-PT1S", None),
            ("PT", None),
            ("P1DT", None),
            ("P", None),
            ("P1", None),
            ("1D", None),
            ("P1H", None),
            ("PT1M1H", None),
            ("PT1.1234567890S", None),
            ("PT99999999999999999H", None),
        ] {
            assert_eq!(ms(text), expected, "{text}");
        }
        assert_eq!(ShareReset::parse("latest"), Some(ShareReset::Latest));
        for wrong in ["none", "Earliest", "by_duration", "by_duration:"] {
            assert_eq!(ShareReset::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_group_has_its_own_or_the_brokers() {
        let text = "group.share.delivery.count.limit=7";
        let loaded = load(&Sources { path: "f", text, ..Sources::default() }).unwrap();
        let layers = Layers::fixed(loaded.settings);
        let own = [
            ("share.record.lock.duration.ms", "1000"),
            ("share.auto.offset.reset", "by_duration:PT1H"),
            ("share.isolation.level", "read_committed"),
            ("share.renew.acknowledge.enable", "false"),
        ];
        let own = own.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings = ShareGroupSettings::of(&own, &layers);
        assert_eq!(
            settings,
            ShareGroupSettings {
                record_lock_ms: 15_000,
                delivery_count_limit: 7,
                max_record_locks: 2_000,
                reset: ShareReset::ByDuration(3_600_000),
                read_committed: true,
                renew: false,
            }
        );
        let plain = ShareGroupSettings::of(&BTreeMap::new(), &layers);
        assert_eq!(
            (plain.reset, plain.read_committed, plain.renew),
            (ShareReset::Latest, false, true)
        );
    }
}
