//! Regular expressions over topic names (`TopicRegexResolver`): RE2's syntax, as far as the `regex`
//! crate shares it, which is all but a few escapes. An expression must match a whole name. Pure.

use regex::Regex;

use super::{
    calls_consumer::{Regexes, ResolvedRegexes},
    consumer_records::ResolvedRegex,
};
use crate::metadata::Image;

/// Whether `pattern` is an expression.
///
/// # Errors
/// Why it is not, in one line.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    compile(pattern).map(|_| ())
}

fn compile(pattern: &str) -> Result<Regex, String> {
    // By itself first: what is put around it must not complete it.
    let whole = |_| Regex::new(&format!(r"\A(?:{pattern})\z"));
    Regex::new(pattern).and_then(whole).map_err(|e| {
        let text = e.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// The topics of `image` that each of `patterns` stands for. One that is no expression stands for
/// none.
#[must_use]
pub fn resolve(image: &Image, patterns: &Regexes, now_ms: i64) -> ResolvedRegexes {
    let mut found: Vec<_> = patterns
        .iter()
        .map(|pattern| {
            let empty = ResolvedRegex {
                topics: Default::default(),
                version: image.position.offset,
                timestamp_ms: now_ms,
            };
            (compile(pattern).ok(), pattern.clone(), empty)
        })
        .collect();
    for topic in image.topics().iter() {
        for (regex, _, resolved) in &mut found {
            if regex.as_ref().is_some_and(|r| r.is_match(&topic.name)) {
                resolved.topics.insert(topic.name.clone());
            }
        }
    }
    found.into_iter().map(|(_, pattern, resolved)| (pattern, resolved)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_whole_names() {
        for (pattern, name, matches) in [
            ("a", "ab", false),
            ("a|ab", "ab", true),
            ("a.*", "abc", true),
            ("(?i)AB", "ab", true),
            ("a # b", "a # b", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(name), matches, "{pattern}");
        }
        assert!(check("(").is_err());
        assert!(check("a)(b").is_err());
        assert!(check("(?=a)b").is_err(), "no look-ahead, as in RE2");
    }
}
