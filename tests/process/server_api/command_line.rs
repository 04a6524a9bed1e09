//! The command line, and the reports about a faulty configuration.

use std::ffi::OsStr;
use std::path::Path;

use crate::common::process::{Finished, run};
use crate::common::{Scratch, Server, dht_server};

fn dht_server_with<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Finished {
    run(dht_server().args(arguments), b"")
}

fn start(config: &Path) -> Finished {
    dht_server_with([OsStr::new("-c"), config.as_os_str()])
}

fn check(config: &Path) -> Finished {
    dht_server_with([OsStr::new("--check-config"), OsStr::new("-c"), config.as_os_str()])
}

#[test]
fn help_and_version_are_printed_without_a_start() {
    for argument in ["-h", "--help"] {
        let help = dht_server_with([argument]);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
        let text = String::from_utf8(help.stdout).expect("text");
        assert!(text.contains("dht-server -c FILE") && text.contains("--check-config"), "{text}");
    }
    for argument in ["-V", "--version"] {
        let version = dht_server_with([argument]);
        assert_eq!((version.code, version.stderr.as_str()), (Some(0), ""));
        let expected = concat!("dht-server ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(String::from_utf8(version.stdout).expect("text"), expected);
    }
}

#[test]
fn wrong_usage_exits_with_status_2_and_names_the_fault() {
    let cases: [(&[&str], &str); 5] = [
        (&[], "-c: found nothing, expected the configuration FILE"),
        (&["--check-config"], "-c: found nothing, expected the configuration FILE"),
        (&["--port", "7"], "found unknown option `port`, expected one that -h lists"),
        (&["-c"], "found option `c` without a value, expected one"),
        (&["-c", "config.ini", "more"], "arguments: found `more`, expected -c FILE"),
    ];
    for (arguments, fault) in cases {
        let refused = dht_server_with(arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?}");
        assert!(refused.stderr.contains(fault), "{arguments:?}: {}", refused.stderr);
        assert_eq!(refused.stdout, b"");
    }
}

#[test]
fn a_missing_configuration_exits_with_status_2() {
    let nowhere = Path::new("/nowhere/config.ini");
    for refused in [start(nowhere), check(nowhere)] {
        assert_eq!(refused.code, Some(2));
        assert!(refused.stderr.contains("/nowhere/config.ini: cannot be read"), "{}", refused.stderr);
    }
}

#[test]
fn all_faults_of_a_configuration_are_reported_with_their_lines() {
    const TEXT: &str = "\
[dht]
api_address = 127.0.0.1
k = 21

replication_default = 4
replication_min = 5
ttl_max = 90000
";
    let scratch = Scratch::new();
    let config = scratch.write("config.ini", TEXT);
    for refused in [start(&config), check(&config)] {
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        let at = |line: usize, text: &str| {
            let place = format!("{}:{line}: found ", config.display());
            let complaint = refused.stderr.lines().find(|complaint| complaint.contains(&place));
            assert!(complaint.is_some_and(|complaint| complaint.contains(text)), "{line}: {}", refused.stderr);
        };
        at(2, "`127.0.0.1` for api_address, expected IP:PORT, such as 127.0.0.1:7402");
        at(3, "`21` for k, expected a number from 1 to 20");
        at(6, "replication_min");
        at(7, "`90000` for ttl_max, expected seconds from 1 to 65535");
    }
}

#[test]
fn an_unknown_key_is_a_warning_at_start_and_a_fault_for_check_config() {
    let scratch = Scratch::new();
    let lines = "replicaton_min = 3";
    let config = scratch.write_config(lines);
    let complaint = "config.ini:6: found `replicaton_min`, expected a key of [dht]: the nearest is `replication_min`";
    let checked = check(&config);
    assert_eq!(checked.code, Some(2), "{}", checked.stderr);
    assert!(checked.stderr.contains(complaint), "{}", checked.stderr);

    let mut server = Server::start_from(&config);
    server.log_line(complaint);
    assert!(server.terminate().success());
}

#[test]
fn check_config_leaves_no_files_behind() {
    let scratch = Scratch::new();
    let checked = check(&scratch.write_config(""));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(!scratch.path("data").exists(), "no directory is made");
}

#[test]
fn the_shipped_configuration_is_valid() {
    let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config.ini"));
    let checked = check(shipped);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[test]
fn the_api_listens_beyond_loopback_only_with_api_allow_remote() {
    let scratch = Scratch::new();
    let refused = start(&scratch.write_config("api_address = 0.0.0.0:0"));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("expected a loopback address, or `api_allow_remote = yes`"), "{}", refused.stderr);

    let allowed = check(&scratch.write_config("api_address = 0.0.0.0:0\napi_allow_remote = yes"));
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
}
