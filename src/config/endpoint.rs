//! Addresses in configuration: listeners (`NAME://host:port`), voters (`id@host:port`), bootstrap
//! servers (`host:port`), the protocol map. Shapes only; what they mean together is `roles`. Uses
//! `base`.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::base::NodeId;

/// How a connection is protected (`SecurityProtocol.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecurityProtocol {
    /// Neither.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL without TLS.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

impl SecurityProtocol {
    /// The protocol of this name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];
        all.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }

    /// Kafka's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    /// The number in broker registrations.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Plaintext => 0,
            Self::Ssl => 1,
            Self::SaslPlaintext => 2,
            Self::SaslSsl => 3,
        }
    }
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One listener, where it is bound or how it is advertised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name, in capitals.
    pub name: String,
    /// Host name or address without brackets. Empty: every interface where it is bound, this
    /// host's own name where it is advertised.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
    /// How connections to it are protected.
    pub protocol: SecurityProtocol,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.name, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.name, self.host, self.port)
        }
    }
}

/// A voter of a static quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Its node id.
    pub id: NodeId,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The prefix of keys that are meant for the listener `name` alone.
#[must_use]
pub fn listener_prefix(name: &str) -> String {
    format!("listener.name.{}.", name.to_ascii_lowercase())
}

/// Reads `host:port` with brackets around an IPv6 address; the host may be empty.
///
/// # Errors
/// The rule that `text` breaks.
pub fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let shape = || format!("\"{text}\" is not of the form host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(shape)?;
    let port = port.parse().map_err(|_| format!("\"{port}\" is not a port from 0 to 65535"))?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(shape)?,
        None => host,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-%._:".contains(c);
    if !host.chars().all(allowed) {
        return Err(shape());
    }
    Ok((host.to_owned(), port))
}

/// Reads the map `NAME:PROTOCOL,…`.
///
/// # Errors
/// The first entry that is none, with the rule.
pub fn parse_protocol_map(text: &str) -> Result<BTreeMap<String, SecurityProtocol>, String> {
    let mut out = BTreeMap::new();
    for pair in super::value::split_list(text) {
        let (name, protocol) = pair
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{pair}\" is not of the form NAME:PROTOCOL"))?;
        let protocol = SecurityProtocol::from_name(protocol.trim()).ok_or_else(|| {
            format!(
                "\"{}\" is not one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
                protocol.trim()
            )
        })?;
        out.insert(name.trim().to_ascii_uppercase(), protocol);
    }
    Ok(out)
}

/// Reads one listener; its protocol comes from `map`.
///
/// # Errors
/// The rule that `text` breaks.
pub fn parse_listener(
    text: &str,
    map: &BTreeMap<String, SecurityProtocol>,
) -> Result<Endpoint, String> {
    let (name, rest) = text
        .split_once("://")
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("\"{text}\" is not of the form NAME://host:port"))?;
    let name = name.to_ascii_uppercase();
    let (host, port) = parse_host_port(rest)?;
    let protocol = *map.get(&name).ok_or_else(|| {
        format!("listener {name} has no protocol in listener.security.protocol.map")
    })?;
    Ok(Endpoint { name, host, port, protocol })
}

/// Checks that names differ, and ports too, but for port 0 and for one IPv4 with one IPv6 address
/// (`AbstractKafkaConfig.validate`).
///
/// # Errors
/// The rule that `listeners` break.
pub fn check_distinct(listeners: &[Endpoint], ports: bool) -> Result<(), String> {
    for (i, a) in listeners.iter().enumerate() {
        for b in listeners.iter().skip(i + 1) {
            if a.name == b.name {
                return Err(format!("two listeners are named {}", a.name));
            }
            if ports && a.port == b.port && a.port != 0 && !ip_pair(a, b) {
                return Err(format!(
                    "listeners {} and {} share port {}; that needs one IPv4 and one IPv6 address",
                    a.name, b.name, a.port
                ));
            }
        }
    }
    Ok(())
}

fn ip_pair(a: &Endpoint, b: &Endpoint) -> bool {
    let (a, b) = (a.host.parse::<IpAddr>(), b.host.parse::<IpAddr>());
    matches!((a, b), (Ok(a), Ok(b)) if a.is_ipv4() != b.is_ipv4())
}

/// Reads the `host:port` of another node, to connect to: both are needed.
///
/// # Errors
/// The rule that `text` breaks.
pub fn parse_reachable(text: &str) -> Result<(String, u16), String> {
    let (host, port) = parse_host_port(text)?;
    if host.is_empty() {
        return Err(format!("\"{text}\" is not of the form host:port"));
    }
    if host == "0.0.0.0" || port == 0 {
        return Err(format!("\"{text}\" is no address that another node can reach"));
    }
    Ok((host, port))
}

/// Reads one entry of `controller.quorum.voters`.
///
/// # Errors
/// The rule that `text` breaks.
pub fn parse_voter(text: &str) -> Result<Voter, String> {
    let shape = || format!("\"{text}\" is not of the form id@host:port");
    let (id, address) = text.split_once('@').ok_or_else(shape)?;
    let id: i32 = id.trim().parse().map_err(|_| shape())?;
    if id < 0 {
        return Err(format!("the id of \"{text}\" must be at least 0"));
    }
    let (host, port) = parse_reachable(address.trim())?;
    Ok(Voter { id: NodeId(id), host, port })
}

/// Reads `max.connections.per.ip.overrides`: `host:count,…`.
///
/// # Errors
/// The rule that `text` breaks.
pub fn parse_ip_limits(text: &str) -> Result<BTreeMap<String, usize>, String> {
    let mut out = BTreeMap::new();
    for pair in super::value::split_list(text) {
        let shape = || format!("\"{pair}\" is not of the form host:count");
        let (host, count) = pair.rsplit_once(':').ok_or_else(shape)?;
        let host = host.trim().trim_start_matches('[').trim_end_matches(']');
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-%._:".contains(c);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(shape());
        }
        out.insert(host.to_owned(), count.trim().parse().map_err(|_| shape())?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> BTreeMap<String, SecurityProtocol> {
        parse_protocol_map("PLAINTEXT:PLAINTEXT, inner:sasl_ssl").unwrap()
    }

    #[test]
    fn listeners_read_back() {
        for text in ["PLAINTEXT://:9092", "INNER://[::1]:0", "PLAINTEXT://a-b.c:65535"] {
            assert_eq!(parse_listener(text, &map()).unwrap().to_string(), text);
        }
        let e = parse_listener("inner://10.0.0.1:9", &map()).unwrap();
        assert_eq!((e.name.as_str(), e.protocol), ("INNER", SecurityProtocol::SaslSsl));
    }

    #[test]
    fn malformed_addresses_name_the_rule() {
        for (text, rule) in [
            ("localhost:9092", "not of the form NAME://host:port"),
            ("://a:1", "not of the form NAME://host:port"),
            ("PLAINTEXT://a", "not of the form host:port"),
            ("PLAINTEXT://a:70000", "not a port"),
            ("PLAINTEXT://a b:1", "not of the form host:port"),
            ("PLAINTEXT://[::1:1", "not of the form host:port"),
            ("OTHER://a:1", "no protocol in listener.security.protocol.map"),
        ] {
            let got = parse_listener(text, &map()).unwrap_err();
            assert!(got.contains(rule), "{text}: {got}");
        }
        for text in ["a:1", "1@a", "-1@a:1", "x@a:1", "1@:1", "1@0.0.0.0:1"] {
            assert!(parse_voter(text).is_err(), "{text}");
        }
        assert!(parse_protocol_map("A:TLS").is_err());
        assert!(parse_ip_limits("1.2.3.4:x").is_err());
    }

    #[test]
    fn names_and_ports_are_distinct() {
        let check = |a: &str, b: &str| {
            let map = parse_protocol_map("A:PLAINTEXT,B:PLAINTEXT").unwrap();
            let both = [parse_listener(a, &map).unwrap(), parse_listener(b, &map).unwrap()];
            check_distinct(&both, true).is_ok()
        };
        assert!(check("A://:1", "B://:2"));
        assert!(check("A://:0", "B://:0"));
        assert!(check("A://1.1.1.1:1", "B://[::1]:1"));
        assert!(!check("A://1.1.1.1:1", "B://2.2.2.2:1"));
        assert!(!check("A://:1", "B://:1"));
        assert!(!check("A://:1", "A://:2"));
    }

    #[test]
    fn limits_by_address() {
        let limits = parse_ip_limits("127.0.0.1:5, ::1:7").unwrap();
        assert_eq!(limits.get("127.0.0.1"), Some(&5));
        assert_eq!(limits.get("::1"), Some(&7));
    }
}
