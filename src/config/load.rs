//! INI text → [`Settings`]. Validates that each key is in its section, occurs once, and is consistent
//! with the other keys.
//!
//! A draft collects the settings and the mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::limits::K_MAX;
use crate::node::params::{Families, ParamsError, Serving};

use super::error::{ConfigError, Mistake};
use super::ini::{self, Entry, Section};
use super::keys::{HOSTKEY, Read, key_of, nearest_key};
use super::settings::Settings;
use super::value::{Expected, Misread};

/// Largest configuration file, in bytes: a hundred times the size of the shipped one. It also bounds
/// what is read from a device file.
pub(super) const CONFIG_SIZE_MAX: usize = 1 << 20;

impl Settings {
    /// Reads the file at `path`; returns its settings and warnings.
    ///
    /// # Errors
    ///
    /// As [`Settings::parse`]; also if the file cannot be read or is larger than 1 MiB. Invalid UTF-8
    /// is a mistake only in values of this program: comments and other sections may have any encoding.
    pub fn load(path: &Path) -> Result<(Self, Vec<ConfigError>), Vec<ConfigError>> {
        let wrong = |mistake| vec![ConfigError { path: path.to_owned(), line: None, mistake }];
        let bytes = read(path).map_err(|error| wrong(Mistake::Unreadable(error.kind())))?;
        if bytes.len() > CONFIG_SIZE_MAX {
            return Err(wrong(Mistake::TooLarge));
        }
        Self::parse(path, &String::from_utf8_lossy(&bytes))
    }

    /// Reads `text` as the contents of `path`; returns its settings and warnings. Relative paths in it
    /// start from the directory of `path`.
    ///
    /// # Errors
    ///
    /// All mistakes including warnings, in the order of their lines.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Vec<ConfigError>), Vec<ConfigError>> {
        let mut draft = Draft::default();
        for parsed in ini::parse(text) {
            match parsed {
                Ok(entry) => draft.take(&entry),
                Err(ini::SyntaxError { line, found, expected }) => {
                    draft.complain(line, Mistake::Syntax { found: found.to_owned(), expected });
                }
            }
        }
        draft.validate_addresses();
        draft.validate_params();
        let mut complaints = draft.complaints;
        complaints.sort_by_key(|&(line, _)| line);
        let complaints: Vec<_> = complaints
            .into_iter()
            .map(|(line, mistake)| ConfigError { path: path.to_owned(), line: Some(line), mistake })
            .collect();
        if !complaints.iter().all(ConfigError::is_warning) {
            return Err(complaints);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok((finish(draft.settings, &draft.lines, folder), complaints))
    }
}

/// Settings under construction.
#[derive(Default)]
struct Draft {
    settings: Settings,
    /// The line that set each key.
    lines: BTreeMap<&'static str, usize>,
    /// Keys with refused values. Contradictions with other keys are not reported for them.
    refused: BTreeSet<&'static str>,
    complaints: Vec<(usize, Mistake)>,
}

impl Draft {
    fn take(&mut self, entry: &Entry<'_>) {
        let is_hostkey = entry.key == HOSTKEY.0;
        match (entry.section, key_of(&entry.key)) {
            (Section::Dht, Some(known)) => self.set(entry, known),
            (Section::Global, Some(_)) => self.misplaced(entry, Section::Dht),
            (Section::Global, None) if is_hostkey => self.set(entry, HOSTKEY),
            (Section::Dht, None) if is_hostkey => self.misplaced(entry, Section::Global),
            (Section::Dht, None) => {
                let mistake = Mistake::UnknownKey { found: entry.key.clone(), nearest: nearest_key(&entry.key) };
                self.complain(entry.line, mistake);
            }
            (Section::Global, None) => {} // for another VoidPhone module
        }
    }

    fn set(&mut self, entry: &Entry<'_>, (key, read): (&'static str, Read)) {
        if let Some(&first) = self.lines.get(key) {
            return self.complain(entry.line, Mistake::Twice { found: entry.key.clone(), first });
        }
        self.lines.insert(key, entry.line);
        let mistake = if entry.value.contains(char::REPLACEMENT_CHARACTER) {
            Some(Mistake::NotUtf8 { key })
        } else {
            read(&mut self.settings, entry.value).err().map(|misread| Mistake::Value { key, misread })
        };
        if let Some(mistake) = mistake {
            self.refused.insert(key);
            self.complain(entry.line, mistake);
        }
    }

    fn misplaced(&mut self, entry: &Entry<'_>, expected: Section) {
        self.complain(entry.line, Mistake::Misplaced { found: entry.key.clone(), expected });
    }

    fn complain(&mut self, line: usize, mistake: Mistake) {
        self.complaints.push((line, mistake));
    }

    /// The line of the first of `keys` that the file sets; `None` if the value of any was refused.
    fn line_of(&self, keys: &[&str]) -> Option<usize> {
        let refused = keys.iter().any(|key| self.refused.contains(key));
        keys.iter().find_map(|key| self.lines.get(key).copied()).filter(|_| !refused)
    }

    fn validate_addresses(&mut self) {
        let Settings { api_address, api_allow_remote, p2p_addresses, advertise_port, params, .. } = &self.settings;
        let mut mistakes = Vec::new();
        if !api_address.ip().is_loopback() && !api_allow_remote {
            let misread = Misread { found: api_address.to_string(), expected: Expected::Loopback };
            mistakes.push((["api_address", "api_allow_remote"], misread));
        }
        let first = p2p_addresses[0].port();
        let one_port = p2p_addresses.len() == 1 || (first != 0 && p2p_addresses.iter().all(|a| a.port() == first));
        if !one_port && advertise_port.is_none() && params.serving == Serving::Yes {
            let found = p2p_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let misread = Misread { found, expected: Expected::OnePort };
            mistakes.push((["p2p_address", "advertise_port"], misread));
        }
        let listening = || p2p_addresses.iter().chain([api_address]);
        for (at, one) in listening().enumerate() {
            if let Some(other) = listening().take(at).find(|other| overlap(one, other)) {
                let misread = Misread { found: format!("{other} and {one}"), expected: Expected::Distinct };
                mistakes.push((["p2p_address", "api_address"], misread));
            }
        }
        for (keys, misread) in mistakes {
            if let Some(line) = self.line_of(&keys) {
                self.complain(line, Mistake::Value { key: keys[0], misread });
            }
        }
    }

    /// Reports every contradiction. `Params::validate` stops at the first one, so this resolves it in a
    /// copy and validates the copy again.
    fn validate_params(&mut self) {
        let mut params = self.settings.params.clone();
        while let Err(error) = params.validate() {
            if let Some(line) = self.line_of(keys_of(&error)) {
                self.complain(line, Mistake::Contradiction(error));
            }
            match error {
                ParamsError::K { .. } => params.k = K_MAX,
                ParamsError::Alpha { .. } => params.alpha = 1,
                ParamsError::Replication { .. } => (params.replication_min, params.replication_default) = (1, 1),
                ParamsError::Ttl { max, .. } => (params.ttl_min, params.ttl_default) = (max, max),
                ParamsError::Timeouts { .. } => params.rpc_timeout = Duration::ZERO,
            }
        }
    }
}

/// Whether no host can listen on both addresses.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let has_all = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same_family = one.is_ipv4() == other.is_ipv4();
    one.port() != 0 && one.port() == other.port() && same_family && (has_all || one.ip() == other.ip())
}

/// Derives the settings that depend on several keys, after all keys are valid.
fn finish(mut settings: Settings, lines: &BTreeMap<&'static str, usize>, folder: &Path) -> Settings {
    if !lines.contains_key("data_dir") {
        settings.data_dir = format!("dht-data-{}", settings.p2p_addresses[0].port()).into();
    }
    settings.data_dir = folder.join(settings.data_dir);
    settings.hostkey = settings.hostkey.map(|hostkey| folder.join(hostkey));
    settings.params.families = match settings.params.serving {
        Serving::Yes => families_of(&settings.p2p_addresses),
        Serving::No => Families::Both,
    };
    settings
}

/// The address families that the node can dial: those of its listening addresses. A client announces
/// none.
fn families_of(addresses: &[SocketAddr]) -> Families {
    match (addresses.iter().any(SocketAddr::is_ipv4), addresses.iter().any(SocketAddr::is_ipv6)) {
        (true, false) => Families::V4,
        (false, true) => Families::V6,
        (true, true) | (false, false) => Families::Both,
    }
}

/// The keys of a contradiction, the most likely wrong one first.
fn keys_of(error: &ParamsError) -> &'static [&'static str] {
    match error {
        ParamsError::K { .. } => &["k"],
        ParamsError::Alpha { .. } => &["alpha", "k"],
        ParamsError::Replication { min, default, .. } if min > default => &["replication_min", "replication_default"],
        ParamsError::Replication { .. } => &["replication_default", "k"],
        ParamsError::Ttl { min, default, .. } if min > default => &["ttl_min", "ttl_default"],
        ParamsError::Ttl { .. } => &["ttl_default", "ttl_max"],
        ParamsError::Timeouts { .. } => &["rpc_timeout", "request_timeout"],
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(CONFIG_SIZE_MAX + 1).expect("a small number");
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::keys::{KEYS, OLD_NAMES};
    use super::super::value::P2P_ADDRESSES_MAX;
    use super::*;
    use crate::node::params::{AddressGroups, Durability, Reads};
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};
    use std::num::NonZeroU16;

    const MANUAL: &str = include_str!("../../config.ini");

    fn parse(text: &str) -> Result<(Settings, Vec<ConfigError>), Vec<ConfigError>> {
        Settings::parse(Path::new("config.ini"), text)
    }

    /// The settings of a file without mistakes or warnings.
    fn settings(text: &str) -> Settings {
        let (settings, warnings) = parse(text).expect("a valid file");
        assert_eq!(warnings, []);
        settings
    }

    fn lines(complaints: &[ConfigError]) -> Vec<String> {
        complaints.iter().map(ToString::to_string).collect()
    }

    fn mistakes(text: &str) -> Vec<String> {
        lines(&parse(text).expect_err("a file with mistakes"))
    }

    fn warnings(text: &str) -> Vec<String> {
        lines(&parse(text).expect("a valid file").1)
    }

    /// The paragraphs of config.ini that show a key, with the text above the key.
    fn manual_entries() -> Vec<(String, &'static str)> {
        let mut entries = Vec::new();
        for paragraph in MANUAL.split("\n\n") {
            let Some(shown) = paragraph.lines().last().and_then(|line| line.strip_prefix(';')) else { continue };
            if let Some((key, _)) = shown.split_once('=').filter(|_| !shown.starts_with(' ')) {
                let prose: Vec<_> = paragraph.lines().map(|line| line.trim_start_matches("; ")).collect();
                entries.push((prose.join(" "), shown));
                assert_eq!(key.trim(), key.trim().to_ascii_lowercase());
            }
        }
        entries
    }

    fn key_shown(shown: &str) -> &str {
        shown.split_once('=').expect("a key with its value").0.trim()
    }

    fn in_section(key: &str, value: &str) -> String {
        if key == HOSTKEY.0 { format!("{key} = {value}") } else { format!("[dht]\n{key} = {value}") }
    }

    #[test]
    fn an_empty_file_has_the_defaults() {
        assert_eq!(settings(""), Settings::default());
        assert_eq!(Settings::default().params.validate(), Ok(()));
    }

    #[test]
    fn the_shipped_file_configures_a_single_node_on_loopback() {
        let shipped = settings(MANUAL);
        assert_eq!(shipped, Settings::default());
        assert!(shipped.api_address.ip().is_loopback() && shipped.p2p_addresses.iter().all(|a| a.ip().is_loopback()));
        assert_eq!(shipped.params.bootstraps, []);
    }

    #[test]
    fn the_manual_shows_every_key_once() {
        let mut shown: Vec<_> = manual_entries().iter().map(|(_, shown)| key_shown(shown)).collect();
        shown.sort_unstable();
        let mut known: Vec<_> = KEYS.iter().map(|(key, _)| *key).chain([HOSTKEY.0]).collect();
        known.sort_unstable();
        assert_eq!(shown, known);
        for (old, present) in OLD_NAMES {
            let (prose, _) =
                manual_entries().into_iter().find(|(_, shown)| key_shown(shown) == *present).expect(present);
            assert!(prose.contains(&format!("Old name: {old}.")), "{old}");
        }
    }

    #[test]
    fn the_manual_shows_the_true_defaults() {
        for (_, shown) in manual_entries() {
            let (key, value) = shown.split_once('=').expect("a key with its value");
            assert_eq!(settings(&in_section(key.trim(), value)), Settings::default(), "{shown}");
        }
    }

    /// The error message for a key states its range, and config.ini must state the same range.
    #[test]
    fn the_manual_shows_the_true_ranges() {
        for (prose, shown) in manual_entries() {
            let key = key_shown(shown);
            let refused = ["?", ""].iter().find_map(|value| parse(&in_section(key, value)).err());
            let Some(complaints) = refused else {
                assert_eq!(key, HOSTKEY.0, "only an optional path has no range");
                continue;
            };
            let [ConfigError { mistake: Mistake::Value { misread, .. }, .. }] = &complaints[..] else {
                panic!("{key}: {complaints:?}");
            };
            assert!(prose.contains(&misread.expected.to_string()), "{key}: {}", misread.expected);
        }
        assert!(MANUAL.contains(&format!("a list of {}", Expected::Items(P2P_ADDRESSES_MAX))));
        assert!(MANUAL.contains(&format!("up to {} of them", crate::limits::BOOTSTRAPS_MAX)));
    }

    #[test]
    fn every_key_sets_its_field() {
        let id = "5a".repeat(32);
        let text = format!(
            "hostkey = keys/host.pem\n[gossip]\nk = none of our business\n[DHT]\n\
             API_Address = [::1]:6001\napi_connections_max = 9\napi_idle_timeout = 90m\n\
             listen_address = 10.0.0.1:6002, [2001:db8::1]:6002 ; two families\nadvertise_port = 80\n\
             bootstrapper = dht.example.org:6001#{id}\nnetwork = \"a ; b\"\npow_bits = 3\ndata_dir = /var/lib/dht\n\
             k = 10\nalpha = 4\nreplication_default = 5\nreplication_min = 2\nttl_default = 1m\nttl_min = 5\n\
             ttl_max = 1h\nrequest_timeout = 5\nrpc_timeout = 500ms\nrefresh_interval = 10m\nleave_timeout = 0.5\n\
             read_quorum = 3\nsecure = yes\nreplicate_interval = 30m\ndurability = always\naddress_groups = strict\n\
             [dht]\nstorage_bytes_max = 1 GiB\npeer_connections_max = 60\n"
        );
        let found = Settings::parse(Path::new("/etc/voidphone/config.ini"), &text).expect("no mistakes").0;
        assert_eq!(found.hostkey.as_deref(), Some(Path::new("/etc/voidphone/keys/host.pem")));
        assert_eq!(found.data_dir, Path::new("/var/lib/dht"));
        assert_eq!(found.api_address.to_string(), "[::1]:6001");
        assert_eq!((found.api_connections_max, found.api_idle_timeout), (9, Duration::from_mins(90)));
        assert_eq!(found.p2p_addresses.len(), 2);
        assert_eq!((found.advertise_port.map(NonZeroU16::get), found.pow_bits), (Some(80), 3));
        let params = found.params;
        let secs = |ttl: crate::record::Ttl| ttl.as_secs();
        assert_eq!(params.network, <[u8; 32]>::from(Sha256::digest("a ; b")));
        assert_eq!((params.k, params.alpha, params.replication_default, params.replication_min), (10, 4, 5, 2));
        assert_eq!((secs(params.ttl_default), secs(params.ttl_min), secs(params.ttl_max)), (60, 5, 3600));
        assert_eq!((params.request_timeout, params.rpc_timeout), (Duration::from_secs(5), Duration::from_millis(500)));
        assert_eq!(
            (params.refresh_interval, params.leave_timeout),
            (Duration::from_mins(10), Duration::from_millis(500))
        );
        assert_eq!((params.read_quorum, params.reads), (3, Reads::Secure));
        assert_eq!(params.replicate_interval, Duration::from_mins(30));
        assert_eq!((params.durability, params.address_groups), (Durability::Always, AddressGroups::Strict));
        assert_eq!((params.storage_bytes_max, params.peer_connections_max), (1 << 30, 60));
        assert_eq!((params.serving, params.families), (Serving::Yes, Families::Both));
        assert_eq!(params.bootstraps.len(), 1);
        assert_eq!(params.bootstraps[0].at.to_string(), "dht.example.org:6001");
        assert_eq!(params.bootstraps[0].pin.map(|pin| pin.to_string()), Some(id));
    }

    #[test]
    fn the_name_of_the_default_network_is_voidphone() {
        assert_eq!(settings("").params.network, <[u8; 32]>::from(Sha256::digest("voidphone")));
    }

    #[test]
    fn all_mistakes_of_a_file_are_reported_in_the_order_of_their_lines() {
        let text = "[dht]\napi_address = 127.0.0.1\nreplicatoin_min = 3\nttl_max = 90000\nserving = perhaps\n\
                    ttl_min\nserving = no\nk =\nrpc_timeout = \"2";
        assert_eq!(
            mistakes(text),
            [
                "config.ini:2: found `127.0.0.1` for api_address, expected IP:PORT, such as 127.0.0.1:7402 or [::1]:7402",
                "config.ini:3: found `replicatoin_min`, expected a key of [dht]: the nearest is `replication_min`",
                "config.ini:4: found `90000` for ttl_max, expected seconds from 1 to 65535, without a fraction",
                "config.ini:5: found `perhaps` for serving, expected yes or no",
                "config.ini:6: found `ttl_min`, expected key = value",
                "config.ini:7: found `serving` again, expected it once: line 5 sets it",
                "config.ini:8: found nothing for k, expected a number from 1 to 20",
                "config.ini:9: found `\"2`, expected a closing \", followed by nothing but a comment",
            ]
        );
    }

    #[test]
    fn a_key_is_set_once_under_either_name_in_all_parts_of_the_section() {
        assert_eq!(
            mistakes("[dht]\np2p_address = [::1]:1\n[onion]\n[dht]\nlisten_address = [::1]:2"),
            ["config.ini:5: found `listen_address` again, expected it once: line 2 sets it"]
        );
        assert_eq!(
            mistakes("hostkey = a\nhostkey = b\n"),
            ["config.ini:2: found `hostkey` again, expected it once: line 1 sets it"]
        );
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_the_most_similar_key() {
        assert_eq!(
            warnings("[dht]\nreplicatoin_default = 3\n\nbootstraps = a:1\n"),
            [
                "config.ini:2: found `replicatoin_default`, expected a key of [dht]: the nearest is `replication_default`",
                "config.ini:4: found `bootstraps`, expected a key of [dht]: the nearest is `bootstrap`",
            ]
        );
    }

    #[test]
    fn a_known_key_in_the_wrong_section_is_a_warning() {
        assert_eq!(
            warnings("k = 3\nother = 4\n[dht]\nhostkey = key.pem\n"),
            [
                "config.ini:1: found `k` before any section, expected it in [dht]",
                "config.ini:4: found `hostkey` in [dht], expected it before the first section",
            ]
        );
    }

    #[test]
    fn an_api_address_outside_loopback_needs_permission() {
        let expected = "expected a loopback address, or `api_allow_remote = yes`";
        for address in ["0.0.0.0:7401", "[::]:7401", "192.0.2.1:7401"] {
            assert_eq!(
                mistakes(&format!("[dht]\napi_address = {address}")),
                [format!("config.ini:2: found `{address}` for api_address, {expected}")]
            );
            settings(&format!("[dht]\napi_allow_remote = yes\napi_address = {address}"));
        }
        settings("[dht]\napi_address = [::ffff:127.0.0.2]:0");
        assert_eq!(mistakes("[dht]\napi_allow_remote = ja\napi_address = [::]:1").len(), 1);
    }

    #[test]
    fn no_listening_address_contains_another() {
        let refused = [
            ("p2p_address = 127.0.0.1:7401", "127.0.0.1:7401 and 127.0.0.1:7401"),
            ("api_address = 127.0.0.1:7402", "127.0.0.1:7402 and 127.0.0.1:7402"),
            ("p2p_address = 127.0.0.1:1, 127.0.0.1:1", "127.0.0.1:1 and 127.0.0.1:1"),
            ("p2p_address = [::]:1, [::1]:1", "[::]:1 and [::1]:1"),
            ("p2p_address = 0.0.0.0:7401", "0.0.0.0:7401 and 127.0.0.1:7401"),
        ];
        for (line, found) in refused {
            let expected = "expected another IP or port for each `p2p_address` and for `api_address`";
            let mistake = format!("config.ini:2: found `{found}` for p2p_address, {expected}");
            assert_eq!(mistakes(&format!("[dht]\n{line}")), [mistake]);
        }
        for line in
            ["p2p_address = [::1]:7401", "p2p_address = 0.0.0.0:1, [::]:1", "p2p_address = 127.0.0.1:0, 127.0.0.1:0"]
        {
            settings(&format!("[dht]\nadvertise_port = 1\n{line}"));
        }
    }

    #[test]
    fn all_peer_addresses_have_one_port_unless_one_is_announced() {
        assert_eq!(
            mistakes("[dht]\n\np2p_address = 127.0.0.1:1, [::1]:2"),
            ["config.ini:3: found `127.0.0.1:1, [::1]:2` for p2p_address, expected the same port for all \
              (0 chooses a different port for each), or `advertise_port`"]
        );
        assert_eq!(mistakes("[dht]\np2p_address = 127.0.0.1:0, [::1]:0").len(), 1);
        settings("[dht]\np2p_address = 127.0.0.1:0");
        settings("[dht]\np2p_address = 127.0.0.1:1, [::1]:1");
        settings("[dht]\np2p_address = 127.0.0.1:1, [::1]:2\nadvertise_port = 1");
        settings("[dht]\np2p_address = 127.0.0.1:1, [::1]:2\nserving = no");
    }

    #[test]
    fn every_contradiction_is_reported_with_its_line() {
        assert_eq!(
            mistakes("[dht]\nalpha = 9\nk = 7\nttl_max = 60\nrpc_timeout = 1m\n"),
            [
                "config.ini:2: found alpha = 9, expected 1 to k = 7",
                "config.ini:3: found replication_min = 3 and replication_default = 8, \
                 expected 1 <= min <= default <= k = 7",
                "config.ini:4: found ttl_min = 1, ttl_default = 3600, ttl_max = 60, expected min <= default <= max",
                "config.ini:5: found rpc_timeout = 60 s, expected less than request_timeout = 10 s",
            ]
        );
        assert!(mistakes("[dht]\nreplication_default = 3\nreplication_min = 4")[0].starts_with("config.ini:3: "));
        assert!(mistakes("[dht]\nreplication_min = 9")[0].starts_with("config.ini:2: "));
        assert!(mistakes("[dht]\n\nttl_min = 2h")[0].starts_with("config.ini:3: "));
    }

    #[test]
    fn a_refused_value_causes_no_further_mistakes() {
        assert_eq!(mistakes("[dht]\nttl_default = soon\nttl_max = 60\n").len(), 1);
        assert_eq!(mistakes("[dht]\nk = 0\nalpha = 20\nreplication_default = 20").len(), 1);
    }

    #[test]
    fn a_serving_node_has_the_families_of_its_addresses() {
        let families = |text: &str| settings(&format!("[dht]\n{text}")).params.families;
        assert_eq!(families("p2p_address = 127.0.0.1:1"), Families::V4);
        assert_eq!(families("p2p_address = [::1]:1"), Families::V6);
        assert_eq!(families("p2p_address = [::ffff:127.0.0.1]:1"), Families::V4);
        assert_eq!(families("p2p_address = [::1]:1 127.0.0.1:1"), Families::Both);
        assert_eq!(families("p2p_address = [::1]:1\nserving = no"), Families::Both);
    }

    #[test]
    fn paths_start_from_the_directory_of_the_file() {
        let at = |path: &str, text: &str| Settings::parse(Path::new(path), text).expect("no mistakes").0.data_dir;
        assert_eq!(at("config.ini", ""), Path::new("dht-data-7402"));
        assert_eq!(at("etc/config.ini", "[dht]\np2p_address = [::1]:9"), Path::new("etc/dht-data-9"));
        assert_eq!(at("/etc/config.ini", "[dht]\ndata_dir = \"my data\""), Path::new("/etc/my data"));
        assert_eq!(at("/etc/config.ini", "[dht]\ndata_dir = /data"), Path::new("/data"));
    }

    #[test]
    fn an_unreadable_file_is_a_mistake_without_a_line() {
        let missing = Path::new(env!("CARGO_MANIFEST_DIR")).join("no-such.ini");
        let complaints = lines(&Settings::load(&missing).expect_err("no file"));
        let expected = format!("{}: cannot be read (entity not found), expected a text file", missing.display());
        assert_eq!(complaints, [expected]);
        assert!(Settings::load(Path::new(env!("CARGO_MANIFEST_DIR"))).is_err(), "a directory is not a file");
    }

    #[test]
    fn a_file_has_a_size_limit_and_any_encoding_outside_our_values() {
        let path = std::env::temp_dir().join(format!("dht-config-{}.ini", std::process::id()));
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("the temporary directory can be written");
            match Settings::load(&path) {
                Ok((_, complaints)) | Err(complaints) => complaints.into_iter().map(|c| (c.line, c.mistake)).collect(),
            }
        };
        let found: [Vec<_>; 4] = [
            load(b"; sch\xf6n\n[dht] # \xfc\nk = 9 ; \xe4\n[gossip]\nname = \xff\n"),
            load(b"[dht]\nnetwork = sch\xf6n\n"),
            load(&vec![b';'; CONFIG_SIZE_MAX]),
            load(&vec![b';'; CONFIG_SIZE_MAX + 1]),
        ];
        std::fs::remove_file(&path).expect("it was written above");
        let not_utf8 = (Some(2), Mistake::NotUtf8 { key: "network" });
        assert_eq!(found, [vec![], vec![not_utf8], vec![], vec![(None, Mistake::TooLarge)]]);
    }

    /// Text that is similar enough to a configuration to reach the readers of values.
    fn any_text() -> impl Strategy<Value = String> {
        let keys: Vec<_> = KEYS.iter().map(|(key, _)| *key).chain(["hostkey", "listen_address", "x", ""]).collect();
        let value = prop_oneof![
            Just("127.0.0.1:1, [::1]:2 a.b:3#00".to_owned()),
            "[0-9]{0,25}(\\.[0-9]{0,12})? ?(ms|s|m|h|KiB|GiB)?",
            "(yes|no|\"[^\"]{0,5}\"?|[;#])",
            "\\PC{0,20}",
        ];
        let line = prop_oneof![
            6 => (proptest::sample::select(keys), value).prop_map(|(key, value)| format!("{key} = {value}")),
            1 => Just("[dht]".to_owned()),
            1 => "\\[?(dht|x)?\\]?[;# ]?",
            1 => any::<String>(),
        ];
        let end = proptest::sample::select(vec!["\n", "\r\n", "\r", ""]);
        proptest::collection::vec((line, end), 0..20)
            .prop_map(|lines| lines.into_iter().fold("[dht]\n".to_owned(), |text, (line, end)| text + &line + end))
    }

    proptest! {
        #[test]
        fn the_parser_accepts_any_text_and_every_mistake_has_a_line_of_the_file(
            text in prop_oneof![any::<String>(), any_text()],
        ) {
            match parse(&text) {
                Ok((settings, warnings)) => {
                    prop_assert_eq!(settings.params.validate(), Ok(()));
                    prop_assert!(warnings.iter().all(ConfigError::is_warning));
                }
                Err(complaints) => {
                    let last = text.lines().count();
                    prop_assert!(!complaints.iter().all(ConfigError::is_warning));
                    for complaint in complaints {
                        prop_assert!(complaint.line.is_some_and(|line| (1..=last).contains(&line)), "{}", complaint);
                        prop_assert_eq!(complaint.to_string().lines().count(), 1);
                    }
                }
            }
        }
    }
}
