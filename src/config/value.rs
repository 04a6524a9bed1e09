//! The text of a value → the value, within its range.
//!
//! A refused value is returned with the valid ones; keys, lines and other values play no part here.
//! Numbers with a unit are read exactly, without floating point.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::id::{Key, NodeId};
use crate::limits::BOOTSTRAPS_MAX;
use crate::node::params::{AddressGroups, Bootstrap, Durability, Endpoint};
use crate::record::Ttl;

/// Largest number of listening addresses for peers: two address families on a few interfaces.
pub(super) const P2P_ADDRESSES_MAX: usize = 16;

/// A refused value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// The value, or the item of a list.
    pub found: String,
    /// The valid values.
    pub expected: Expected,
}

/// The valid values of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// An address with its port.
    Address,
    /// An address or a name with its port, and optionally the id of the node there.
    Bootstrap,
    /// A list of one to this many items.
    Items(usize),
    /// A whole number in this range.
    Number(RangeInclusive<u64>),
    /// A time in this range.
    Span(RangeInclusive<Duration>),
    /// A life of a record in this range.
    Life(RangeInclusive<u16>),
    /// A size in this range, in bytes.
    Size(RangeInclusive<u64>),
    /// A switch.
    YesNo,
    /// When a record is persisted, with the range of the interval.
    Durability(RangeInclusive<Duration>),
    /// Which addresses are grouped for quotas.
    AddressGroups,
    /// A text with a number of bytes in this range.
    Text(RangeInclusive<usize>),
    /// The name of a file or directory.
    Path,
    /// An address that only this machine can reach.
    Loopback,
    /// Addresses with one port.
    OnePort,
    /// Listening addresses of which none contains another.
    Distinct,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("IP:PORT, such as 127.0.0.1:7402 or [::1]:7402"),
            Self::Bootstrap => f.write_str("IP:PORT, [IPv6]:PORT or HOST:PORT, optionally with #ID (64 hex digits)"),
            Self::Items(max) => write!(f, "1 to {max} of them"),
            Self::Number(range) => write!(f, "a number from {} to {}", range.start(), range.end()),
            Self::Span(range) => {
                let (min, max) = (range.start().as_secs_f64(), range.end().as_secs_f64());
                write!(f, "seconds from {min} to {max} (units: ms, s, m, h)")
            }
            Self::Life(range) => write!(f, "seconds from {} to {}, without a fraction", range.start(), range.end()),
            Self::Size(range) => {
                let (min, max) = (range.start() >> 20, range.end() >> 20);
                write!(f, "bytes from {min} MiB to {max} MiB (units: KiB, MiB, GiB)")
            }
            Self::Durability(range) => write!(f, "always, interval (1 s), none, or {}", Self::Span(range.clone())),
            Self::AddressGroups => f.write_str("public or strict"),
            Self::YesNo => f.write_str("yes or no"),
            Self::Text(range) => write!(f, "a text of {} to {} bytes", range.start(), range.end()),
            Self::Path => f.write_str("a path"),
            Self::Loopback => f.write_str("a loopback address, or `api_allow_remote = yes`"),
            Self::OnePort => {
                f.write_str("the same port for all (0 chooses a different port for each), or `advertise_port`")
            }
            Self::Distinct => f.write_str("another IP or port for each `p2p_address` and for `api_address`"),
        }
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, Misread> {
    text.parse().map(unmapped).or_else(|_| refuse(text, Expected::Address))
}

pub(super) fn addresses(text: &str) -> Result<Vec<SocketAddr>, Misread> {
    let found = items(text, P2P_ADDRESSES_MAX, address)?;
    if found.is_empty() { refuse(text, Expected::Address) } else { Ok(found) }
}

/// A list that may be empty: a node without bootstraps founds a network.
pub(super) fn bootstraps(text: &str) -> Result<Vec<Bootstrap>, Misread> {
    items(text, BOOTSTRAPS_MAX, |item| {
        let (at, id) = item.split_once('#').map_or((item, None), |(at, id)| (at, Some(id)));
        let pin = id.map(|id| Key::from_hex(id).map(NodeId::new));
        match (endpoint(at), pin) {
            (Some(at), None) => Ok(Bootstrap { at, pin: None }),
            (Some(at), Some(Some(id))) => Ok(Bootstrap { at, pin: Some(id) }),
            (None, _) | (_, Some(None)) => refuse(item, Expected::Bootstrap),
        }
    })
}

/// A port, or nothing.
pub(super) fn port(text: &str) -> Result<Option<NonZeroU16>, Misread> {
    if text.is_empty() {
        return Ok(None);
    }
    let port: u16 = number(text, 1..=u64::from(u16::MAX))?;
    Ok(NonZeroU16::new(port))
}

pub(super) fn number<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, Misread> {
    let number = digits(text).filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
    number.map_or_else(|| refuse(text, Expected::Number(range)), Ok)
}

pub(super) fn span(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Misread> {
    let span = nanoseconds(text).map(Duration::from_nanos).filter(|span| range.contains(span));
    span.map_or_else(|| refuse(text, Expected::Span(range)), Ok)
}

pub(super) fn ttl(text: &str) -> Result<Ttl, Misread> {
    let whole = nanoseconds(text).filter(|nanos| nanos % SECOND == 0).map(|nanos| nanos / SECOND);
    let ttl = whole.and_then(|secs| u16::try_from(secs).ok()).and_then(Ttl::from_secs);
    ttl.map_or_else(|| refuse(text, Expected::Life(1..=u16::MAX)), Ok)
}

/// A size in bytes; `range` in whole MiB.
pub(super) fn size(text: &str, range: RangeInclusive<u64>) -> Result<usize, Misread> {
    let size = scaled(text, &[("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]);
    let size = size.filter(|size| range.contains(size)).and_then(|size| usize::try_from(size).ok());
    size.map_or_else(|| refuse(text, Expected::Size(range)), Ok)
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, Misread> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => refuse(text, Expected::YesNo),
    }
}

/// A word, or the largest time until a record is on disk.
pub(super) fn durability(text: &str) -> Result<Durability, Misread> {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);
    match text.to_ascii_lowercase().as_str() {
        "always" => Ok(Durability::Always),
        "interval" => Ok(Durability::INTERVAL),
        "none" => Ok(Durability::None),
        _ => span(text, RANGE).map(Durability::Interval).or_else(|_| refuse(text, Expected::Durability(RANGE))),
    }
}

pub(super) fn address_groups(text: &str) -> Result<AddressGroups, Misread> {
    match text.to_ascii_lowercase().as_str() {
        "public" => Ok(AddressGroups::Public),
        "strict" => Ok(AddressGroups::Strict),
        _ => refuse(text, Expected::AddressGroups),
    }
}

pub(super) fn text(text: &str, range: RangeInclusive<usize>) -> Result<&str, Misread> {
    if range.contains(&text.len()) { Ok(text) } else { refuse(text, Expected::Text(range)) }
}

pub(super) fn path(text: &str) -> Result<PathBuf, Misread> {
    if text.is_empty() { refuse(text, Expected::Path) } else { Ok(PathBuf::from(text)) }
}

fn refuse<T>(found: &str, expected: Expected) -> Result<T, Misread> {
    Err(Misread { found: found.to_owned(), expected })
}

/// Reads each item of a list whose separators are commas and white space.
fn items<T>(text: &str, max: usize, read: impl Fn(&str) -> Result<T, Misread>) -> Result<Vec<T>, Misread> {
    let items = || text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    let count = items().count();
    if count > max {
        return refuse(&format!("{count} items"), Expected::Items(max));
    }
    items().map(read).collect()
}

/// `address`, with an IPv4-mapped address converted to IPv4.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => {
            v6.ip().to_ipv4_mapped().map_or(address, |v4| SocketAddrV4::new(v4, address.port()).into())
        }
        SocketAddr::V4(_) => address,
    }
}

fn endpoint(text: &str) -> Option<Endpoint> {
    if let Ok(address) = text.parse().map(unmapped) {
        return (address.port() != 0).then_some(Endpoint::Address(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = u16::try_from(digits(port)?).ok()?;
    (port != 0 && is_host(host)).then(|| Endpoint::Name { host: host.into(), port })
}

/// Whether `host` is a valid host name (RFC 1123, 2.1; underscores are accepted too). The last label
/// must not consist of digits, so that a wrong address such as `127.0.1` is refused.
fn is_host(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let bytes = label.bytes();
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && bytes.into_iter().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = labels.rsplit('.').next().unwrap_or_default();
    labels.len() <= 253 && labels.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

const SECOND: u64 = 1_000_000_000;

fn nanoseconds(text: &str) -> Option<u64> {
    scaled(text, &[("", SECOND), ("ms", SECOND / 1000), ("s", SECOND), ("m", 60 * SECOND), ("h", 3600 * SECOND)])
}

/// A decimal number times the factor of its unit. `None` for another text, and if the product is not
/// a whole number of 64 bits.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // 64 bits and nine more digits fit into 128 bits; the product with the factor may not.
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok().filter(|&len| len <= 9)?)?;
    let scaled = u128::from(digits(whole)?) * scale + u128::from(digits(fraction)?);
    let product = scaled.checked_mul(u128::from(*factor))?;
    if product % scale == 0 { u64::try_from(product / scale).ok() } else { None }
}

/// A number that consists of digits: no sign, no white space.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn any_span(text: &str) -> Option<Duration> {
        span(text, Duration::ZERO..=24 * HOUR).ok()
    }

    #[test]
    fn a_span_is_seconds_unless_it_has_a_unit() {
        let millis = |millis| Some(Duration::from_millis(millis));
        for (text, expected) in [
            ("10", millis(10_000)),
            ("0.5", millis(500)),
            ("500ms", millis(500)),
            ("500 MS", millis(500)),
            ("0.25m", millis(15_000)),
            ("1h", millis(3_600_000)),
            ("2 s", millis(2_000)),
            ("0", millis(0)),
        ] {
            assert_eq!(any_span(text), expected, "{text}");
        }
        for bad in ["", "s", ".5", "5.", "1.2.3", "-1", "+1", "1e3", "1d", "1 h 2 m", "0.0000000001", "1,5"] {
            assert_eq!(any_span(bad), None, "{bad}");
        }
        let huge = "9".repeat(100);
        assert_eq!(any_span(&huge), None);
        assert_eq!(any_span(&format!("0.{huge}")), None);
        assert_eq!(any_span("18446744073709551615h"), None);
    }

    #[test]
    fn a_range_includes_both_its_ends() {
        let range = || Duration::from_millis(100)..=HOUR;
        assert!(span("0.1", range()).is_ok());
        assert!(span("99ms", range()).is_err());
        assert!(span("60m", range()).is_ok());
        let error = span("3600.001", range()).expect_err("beyond the range");
        assert_eq!(error.expected.to_string(), "seconds from 0.1 to 3600 (units: ms, s, m, h)");
        assert_eq!(number::<u8>("32", 0..=32), Ok(32));
        assert!(number::<u8>("33", 0..=32).is_err());
        assert!(number::<u8>("256", 0..=1000).is_err(), "a number outside the type is refused too");
    }

    #[test]
    fn a_life_is_whole_seconds_of_sixteen_bits() {
        let secs = |text| ttl(text).map(Ttl::as_secs).ok();
        assert_eq!(secs("1"), Some(1));
        assert_eq!(secs("65535"), Some(65_535));
        assert_eq!(secs("1h"), Some(3_600));
        assert_eq!(secs("0.5m"), Some(30));
        for bad in ["0", "65536", "0.5", "1500ms", "19h"] {
            assert_eq!(secs(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_size_is_bytes_unless_it_has_a_unit() {
        let size = |text| size(text, 0..=1 << 40).ok();
        assert_eq!(size("1048576"), Some(1 << 20));
        assert_eq!(size("256 MiB"), Some(256 << 20));
        assert_eq!(size("64kib"), Some(64 << 10));
        assert_eq!(size("1.5GiB"), Some(3 << 29));
        for bad in ["", "1 MB", "1k", "0.3", "2000GiB", "MiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_switch_has_four_words_for_each_value() {
        for (on, off) in [("yes", "no"), ("True", "FALSE"), ("on", "off"), ("1", "0")] {
            assert_eq!(yes_or_no(on), Ok(true));
            assert_eq!(yes_or_no(off), Ok(false));
        }
        assert!(yes_or_no("").is_err());
        assert!(yes_or_no("y").is_err());
    }

    #[test]
    fn durability_is_a_word_or_a_span() {
        let after = |millis| Ok(Durability::Interval(Duration::from_millis(millis)));
        assert_eq!(durability("Always"), Ok(Durability::Always));
        assert_eq!(durability("none"), Ok(Durability::None));
        assert_eq!(durability("interval"), after(1_000));
        assert_eq!(durability("10ms"), after(10));
        assert_eq!(durability("1m"), after(60_000));
        for bad in ["", "never", "0", "9ms", "61"] {
            let expected = "always, interval (1 s), none, or seconds from 0.01 to 60 (units: ms, s, m, h)";
            assert_eq!(durability(bad).map_err(|e| e.expected.to_string()), Err(expected.to_owned()), "{bad}");
        }
    }

    #[test]
    fn address_groups_are_public_or_strict() {
        assert_eq!(address_groups("PUBLIC"), Ok(AddressGroups::Public));
        assert_eq!(address_groups("strict"), Ok(AddressGroups::Strict));
        assert_eq!(address_groups("private").map_err(|e| e.expected), Err(Expected::AddressGroups));
    }

    #[test]
    fn an_address_has_a_port_and_ipv6_has_brackets() {
        assert_eq!(address("[::1]:7402").map(|a| a.to_string()), Ok("[::1]:7402".to_owned()));
        assert_eq!(address("[::ffff:10.0.0.1]:0").map(|a| a.to_string()), Ok("10.0.0.1:0".to_owned()));
        for bad in ["", "127.0.0.1", "::1:7402", "localhost:7401", "127.0.0.1:65536", ":7401"] {
            assert_eq!(address(bad).map_err(|e| e.expected), Err(Expected::Address), "{bad}");
        }
    }

    #[test]
    fn a_list_is_separated_by_commas_and_white_space() {
        let read = |text| addresses(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        let both = Ok(vec!["127.0.0.1:1".to_owned(), "[::1]:1".to_owned()]);
        assert_eq!(read("127.0.0.1:1,[::1]:1"), both);
        assert_eq!(read("127.0.0.1:1 \t [::1]:1"), both);
        assert_eq!(read("127.0.0.1:1 , [::1]:1,"), both);
        assert_eq!(read("127.0.0.1:1, ::1").map_err(|e| e.found), Err("::1".to_owned()), "the item is named");
        assert_eq!(read(" , ").map_err(|e| e.expected), Err(Expected::Address));
        let many = "127.0.0.1:1 ".repeat(P2P_ADDRESSES_MAX + 1);
        assert_eq!(read(&many).map_err(|e| e.expected), Err(Expected::Items(P2P_ADDRESSES_MAX)));
    }

    #[test]
    fn a_bootstrap_is_an_address_or_a_name_and_may_have_an_id() {
        let id = "ab".repeat(32);
        let text = format!("127.0.0.1:7402, [::1]:7402#{id} dht.example.org:1,my_host.:2#{}", id.to_uppercase());
        let read = bootstraps(&text).expect("four bootstraps");
        let shown: Vec<_> = read.iter().map(|b| (b.at.to_string(), b.pin.map(|id| id.to_string()))).collect();
        let pin = Some(id);
        assert_eq!(
            shown,
            [
                ("127.0.0.1:7402".to_owned(), None),
                ("[::1]:7402".to_owned(), pin.clone()),
                ("dht.example.org:1".to_owned(), None),
                ("my_host.:2".to_owned(), pin),
            ]
        );
        assert_eq!(bootstraps(""), Ok(Vec::new()));
    }

    #[test]
    fn a_bootstrap_that_cannot_be_dialled_is_refused() {
        let long = format!("{}:1", "a".repeat(64));
        for bad in [
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            ":1",
            "127.0.0.1:0",
            "127.0.1:7402",
            "::1:7402",
            "a..b:1",
            "-a:1",
            "a/b:1",
            "bücher:1",
            "host:1#",
            "host:1#abcd",
            &long,
        ] {
            assert_eq!(bootstraps(bad).map_err(|e| e.expected), Err(Expected::Bootstrap), "{bad}");
        }
        let many = "host:1 ".repeat(BOOTSTRAPS_MAX + 1);
        assert_eq!(bootstraps(&many).map_err(|e| e.expected), Err(Expected::Items(BOOTSTRAPS_MAX)));
    }

    proptest! {
        /// An accepted number equals the result of exact arithmetic.
        #[test]
        fn decimals_are_read_exactly(whole in 0..1_000_u64, millis in 0..1_000_u64) {
            let expected = Duration::from_millis(whole * 1000 + millis);
            prop_assert_eq!(any_span(&format!("{whole}.{millis:03}")), Some(expected));
            prop_assert_eq!(any_span(&format!("{}ms", whole * 1000 + millis)), Some(expected));
        }
    }
}
