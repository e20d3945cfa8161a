//! Dates of the Gregorian calendar in UTC, for what people read: log lines and file headers.

use std::fmt;

/// A moment in UTC by its calendar parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// The year.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999.
    pub millisecond: u16,
    /// 0 is Sunday.
    pub weekday: u8,
}

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `n` is below 65536 wherever this is called.
fn small(n: i64) -> u16 {
    u16::try_from(n).unwrap_or(0)
}

fn byte(n: i64) -> u8 {
    u8::try_from(n).unwrap_or(0)
}

impl Civil {
    /// The moment `ms` milliseconds after the Unix epoch.
    #[must_use]
    pub fn from_unix_ms(ms: i64) -> Self {
        let (days, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
        // Howard Hinnant's days-to-civil: years begin in March, eras have 400 years.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: byte(month),
            day: byte(day_of_year - (153 * from_march + 2) / 5 + 1),
            hour: byte(in_day / 3_600_000),
            minute: byte(in_day / 60_000 % 60),
            second: byte(in_day / 1000 % 60),
            millisecond: small(in_day % 1000),
            weekday: byte((days + 4).rem_euclid(7)),
        }
    }

    /// As `java.util.Date` prints it: `Mon Nov 23 03:41:16 UTC 2026`.
    #[must_use]
    pub fn java_date(&self) -> String {
        let day = DAYS.get(usize::from(self.weekday)).unwrap_or(&"");
        let month = MONTHS.get(usize::from(self.month.saturating_sub(1))).unwrap_or(&"");
        format!(
            "{day} {month} {:02} {:02}:{:02}:{:02} UTC {}",
            self.day, self.hour, self.minute, self.second, self.year
        )
    }
}

/// As Kafka's log lines begin: `2026-11-23 03:41:16,042`.
impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02},{:03}",
            self.year, self.month, self.day, self.hour, self.minute, self.second, self.millisecond
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Civil;

    #[test]
    fn known_moments() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00,000"),
            (951_782_399_999, "2000-02-28 23:59:59,999"),
            (951_782_400_000, "2000-02-29 00:00:00,000"),
            (4_107_542_400_000, "2100-03-01 00:00:00,000"),
            (-1, "1969-12-31 23:59:59,999"),
        ] {
            assert_eq!(Civil::from_unix_ms(ms).to_string(), text);
        }
        let date = Civil::from_unix_ms(1_795_405_276_000).java_date();
        assert_eq!(date, "Mon Nov 23 03:41:16 UTC 2026");
        assert!(!Civil::from_unix_ms(i64::MAX).to_string().is_empty());
    }
}
