//! Values of keys: parsing by type and rule, with Kafka's wording of what is wrong, and the text
//! that Kafka prints for a value. Uses `keys`.

use super::keys::{Key, Kind, Rule};

/// A value that keeps its key's type and rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A boolean.
    Bool(bool),
    /// An int, short or long.
    Number(i64),
    /// A double.
    Double(f64),
    /// A string, class name or password.
    Text(String),
    /// A list.
    List(Vec<String>),
}

/// Splits a list as Kafka does: commas with spaces around them; no entry in an empty text.
#[must_use]
pub fn split_list(raw: &str) -> Vec<String> {
    let raw = raw.trim();
    if raw.is_empty() {
        return Vec::new();
    }
    raw.split(',').map(|part| part.trim().to_owned()).collect()
}

impl Value {
    /// Reads `raw` as a value of `key`.
    ///
    /// # Errors
    /// The rule that `raw` breaks, in Kafka's words where Kafka has that rule.
    pub fn parse(key: &Key, raw: &str) -> Result<Self, String> {
        let raw = raw.trim();
        let value = match key.kind {
            Kind::Boolean if raw.eq_ignore_ascii_case("true") => Self::Bool(true),
            Kind::Boolean if raw.eq_ignore_ascii_case("false") => Self::Bool(false),
            Kind::Boolean => return Err("Expected value to be either true or false".to_owned()),
            Kind::Short => Self::Number(number::<i16>(key, raw)?),
            Kind::Int => Self::Number(number::<i32>(key, raw)?),
            Kind::Long => Self::Number(number::<i64>(key, raw)?),
            Kind::Double => Self::Double(raw.parse().map_err(|_| not_a_number(key))?),
            Kind::String | Kind::Class | Kind::Password => Self::Text(raw.to_owned()),
            Kind::List => Self::List(split_list(raw)),
        };
        value.check(key)?;
        Ok(value)
    }

    fn check(&self, key: &Key) -> Result<(), String> {
        match (key.rule, self) {
            (Rule::Min(least), Self::Number(n)) => at_least(*n, least),
            (Rule::Range(_, _, Some(or)), Self::Number(n)) if *n == or => Ok(()),
            (Rule::Range(least, most, _), Self::Number(n)) => {
                at_least(*n, least)?;
                if *n > most {
                    return Err(format!("Value must be no more than {most}"));
                }
                Ok(())
            }
            (Rule::Fraction, Self::Double(d)) if (0.0..=1.0).contains(d) => Ok(()),
            (Rule::Fraction, Self::Double(d)) if *d > 1.0 => {
                Err("Value must be no more than 1".to_owned())
            }
            (Rule::Fraction, Self::Double(_)) => Err("Value must be at least 0".to_owned()),
            (Rule::OneOf(values), Self::Text(t)) => one_of(t, values),
            (Rule::OneOfAnyCase(values), Self::Text(t)) => {
                if values.contains(&t.to_ascii_lowercase().as_str()) {
                    return Ok(());
                }
                let values = values.join(", ");
                Err(format!("String must be one of (case insensitive): {values}"))
            }
            (Rule::EachOf(values), Self::List(list)) => {
                distinct(list)?;
                list.iter().try_for_each(|t| one_of(t, values))
            }
            (Rule::Distinct, Self::List(list)) => distinct(list),
            (Rule::Throttled, Self::List(list)) => throttled(key.name, list),
            _ => Ok(()),
        }
    }

    /// The text that Kafka prints for this value (`ConfigDef.convertToString`).
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Bool(b) => b.to_string(),
            Self::Number(n) => n.to_string(),
            Self::Double(d) => java_double(*d),
            Self::Text(t) => t.clone(),
            Self::List(list) => list.join(","),
        }
    }
}

fn number<T: std::str::FromStr + Into<i64>>(key: &Key, raw: &str) -> Result<i64, String> {
    raw.parse::<T>().map(Into::into).map_err(|_| not_a_number(key))
}

fn not_a_number(key: &Key) -> String {
    format!("Not a number of type {}", key.kind.name())
}

fn at_least(n: i64, least: i64) -> Result<(), String> {
    if n < least {
        return Err(format!("Value must be at least {least}"));
    }
    Ok(())
}

fn one_of(text: &str, values: &[&str]) -> Result<(), String> {
    if values.contains(&text) {
        return Ok(());
    }
    Err(format!("String must be one of: {}", values.join(", ")))
}

fn distinct(list: &[String]) -> Result<(), String> {
    if list.iter().any(String::is_empty) {
        return Err("values must not be empty".to_owned());
    }
    if list.iter().enumerate().any(|(i, t)| list.iter().skip(i + 1).any(|u| u == t)) {
        return Err("values must not be duplicated".to_owned());
    }
    Ok(())
}

fn throttled(name: &str, list: &[String]) -> Result<(), String> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let pair = |s: &str| s.split_once(':').is_some_and(|(p, b)| digits(p) && digits(b));
    if list.concat() == "*" || list.iter().all(|s| s.is_empty() || pair(s)) {
        return Ok(());
    }
    Err(format!(
        "{name} must be the literal '*' or a list of replicas in the following format: \
         [partitionId]:[brokerId],[partitionId]:[brokerId],..."
    ))
}

/// As `Double.toString` of Java: always a point, an exponent from 1.0E7 on and below 0.001.
fn java_double(d: f64) -> String {
    if d == 0.0 || (1e-3..1e7).contains(&d.abs()) {
        return format!("{d:?}");
    }
    let text = format!("{d:E}");
    match text.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0E{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{server_key, topic_key};

    fn topic(name: &str, raw: &str) -> Result<String, String> {
        Value::parse(topic_key(name).unwrap(), raw).map(|v| v.text())
    }

    #[test]
    fn wrong_values_are_refused_in_kafkas_words() {
        for (name, raw, rule) in [
            ("retention.ms", "abc", "Not a number of type LONG"),
            ("retention.ms", "-5", "Value must be at least -1"),
            ("segment.bytes", "99999999999", "Not a number of type INT"),
            ("segment.bytes", "14", "Value must be at least 1048576"),
            ("preallocate", "yes", "Expected value to be either true or false"),
            ("cleanup.policy", "delete,shred", "String must be one of: compact, delete"),
            ("cleanup.policy", "delete,delete", "values must not be duplicated"),
            ("compression.gzip.level", "10", "Value must be no more than 9"),
            ("min.cleanable.dirty.ratio", "1.5", "Value must be no more than 1"),
            ("min.cleanable.dirty.ratio", "NaN", "Value must be at least 0"),
        ] {
            assert_eq!(topic(name, raw).unwrap_err(), rule, "{name}={raw}");
        }
        assert!(topic("leader.replication.throttled.replicas", "0:1,x").is_err());
    }

    #[test]
    fn right_values_read_as_kafka_prints_them() {
        for (name, raw, text) in [
            ("retention.ms", " 10 ", "10"),
            ("preallocate", "TRUE", "true"),
            ("cleanup.policy", "compact , delete", "compact,delete"),
            ("cleanup.policy", "", ""),
            ("compression.gzip.level", "-1", "-1"),
            ("min.cleanable.dirty.ratio", "1", "1.0"),
            ("leader.replication.throttled.replicas", "*", "*"),
        ] {
            assert_eq!(topic(name, raw).unwrap(), text, "{name}={raw}");
        }
        let rate = server_key("log.cleaner.io.max.bytes.per.second").unwrap();
        let value = Value::parse(rate, rate.default.unwrap()).unwrap();
        assert_eq!(value.text(), "1.7976931348623157E308");
    }
}
