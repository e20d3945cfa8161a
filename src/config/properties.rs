//! The syntax of Java properties files (`java.util.Properties`), with line numbers: comments,
//! continued lines, `=`, `:` or white space between key and value, escapes. Text in, entries out,
//! and the writer's direction. Uses nothing.

use std::fmt::Write as _;

/// One key and value of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, escapes resolved.
    pub key: String,
    /// The value, escapes resolved.
    pub value: String,
    /// Number of the line on which it begins, from 1.
    pub line: usize,
}

/// An escape that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: \\u must be followed by four hexadecimal digits")]
pub struct BadEscape {
    /// Number of the line on which the entry begins, from 1.
    pub line: usize,
}

/// The text of a file's bytes: UTF-8, or Latin-1 where they are not.
#[must_use]
pub fn decode(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|e| e.as_bytes().iter().map(|b| char::from(*b)).collect())
}

/// Reads a whole file. A key that stands twice yields two entries; the later one counts.
///
/// # Errors
/// `BadEscape`, as Java refuses such a file.
pub fn parse(text: &str) -> Result<Vec<Entry>, BadEscape> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    for (line, logical) in logical_lines(text) {
        let (key, value) = split(&logical);
        let resolve = |raw: &str| unescape(raw).ok_or(BadEscape { line });
        out.push(Entry { key: resolve(key)?, value: resolve(value)?, line });
    }
    Ok(out)
}

const BLANK: [char; 3] = [' ', '\t', '\u{c}'];

/// The lines that hold an entry, continued lines joined, with the number of the first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    // A carriage return ends a line with or without a newline after it.
    let unix = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = unix.split('\n').enumerate();
    let mut out = Vec::new();
    while let Some((n, line)) = lines.next() {
        let line = line.trim_start_matches(BLANK);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut whole = line.to_owned();
        while ends_in_continuation(&whole) {
            whole.pop();
            let Some((_, next)) = lines.next() else { break };
            whole.push_str(next.trim_start_matches(BLANK));
        }
        out.push((n + 1, whole));
    }
    out
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Cuts at the first `=`, `:` or white space that no backslash precedes.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        if escaped {
            escaped = false;
            return false;
        }
        escaped = c == '\\';
        c == '=' || c == ':' || BLANK.contains(&c)
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANK);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANK))
}

fn unescape(raw: &str) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(raw.len());
    let mut chars = raw.chars();
    let mut buf = [0; 2];
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                None => break,
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let hex = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    units.push(u16::from_str_radix(&digits, 16).ok().filter(|_| hex)?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
            },
            c => c,
        };
        units.extend_from_slice(plain.encode_utf16(&mut buf));
    }
    Some(String::from_utf16_lossy(&units))
}

/// The line `key=value` that reads back as these two, without its newline.
#[must_use]
pub fn line(key: &str, value: &str) -> String {
    let mut out = String::with_capacity(key.len() + value.len() + 1);
    escape(key, true, &mut out);
    out.push('=');
    escape(value, false, &mut out);
    out
}

fn escape(text: &str, key: bool, out: &mut String) {
    for (i, c) in text.chars().enumerate() {
        match c {
            ' ' if key || i == 0 => out.push_str("\\ "),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{c}' => out.push_str("\\f"),
            '\\' | '=' | ':' | '#' | '!' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        parse(text).unwrap().into_iter().map(|e| (e.key, e.value, e.line)).collect()
    }

    #[test]
    fn separators_comments_and_line_numbers() {
        let text = "# c\n  ! c\n\na=1\nb : 2\r\nc   3\rd\n  e=\nf==x\n";
        let got = pairs(text);
        let want = [("a", "1", 4), ("b", "2", 5), ("c", "3", 6), ("d", "", 7), ("e", "", 8)];
        for (g, w) in got.iter().zip(want) {
            assert_eq!((g.0.as_str(), g.1.as_str(), g.2), w);
        }
        assert_eq!(got[5], ("f".into(), "=x".into(), 9));
    }

    #[test]
    fn continuations_and_escapes() {
        let text = "fruits  apple, \\\n    pear, \\\r\n # fig\nnext\\ key=a\\tb\\u00e9\\ud83d\\ude00\n\
                    path=C\\:\\\\tmp\\\\\nlast=x\\";
        let got = pairs(text);
        assert_eq!(got[0], ("fruits".into(), "apple, pear, # fig".into(), 1));
        assert_eq!(got[1], ("next key".into(), "a\tbé😀".into(), 4));
        assert_eq!(got[2], ("path".into(), "C:\\tmp\\".into(), 5));
        assert_eq!(got[3], ("last".into(), "x".into(), 6));
    }

    #[test]
    fn a_bad_escape_names_its_line() {
        assert_eq!(parse("a=1\nb=\\u12"), Err(BadEscape { line: 2 }));
        assert_eq!(parse("b=\\u12+4"), Err(BadEscape { line: 1 }));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_latin1() {
        assert_eq!(decode(vec![b'a', 0xe9]), "aé");
        assert_eq!(decode("é".as_bytes().to_vec()), "é");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(key in "\\PC{1,12}", value in "(\\PC|[\n\r\t\\\\ ]){0,20}") {
            let got = parse(&line(&key, &value)).unwrap();
            prop_assert_eq!(got, vec![Entry { key, value, line: 1 }]);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(\\PC|[\n\r\\\\=: ]){0,200}") {
            let _ = parse(&text);
        }
    }
}
