//! The rules of the workspace itself: the crates' arrows, and crates that must not be dependencies.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

use crate::farm::{Output, run};

/// Crates of which a second version would be compiled twice, with types that do not fit the first one's.
const HEAVY: [&str; 8] = ["tokio", "tonic", "prost", "hyper", "rustls", "axum", "h2", "tower"];

/// agent ─▶ daemon ─▶ manager, member, monitor ─▶ local ─▶ store, group ─▶ proto; manager, member and monitor never see each
/// other, and store and group do not, either. The benchmark sees none of them, since it runs the program. The simulation sees
/// the rules.
/// All tests may see [`FOR_TESTS`].
const ARROWS: [(&str, &[&str]); 14] = [
    ("bellwether-proto", &[]),
    ("bellwether-group", &["bellwether-proto"]),
    ("bellwether-lease", &[]),
    ("bellwether-store", &["bellwether-lease", "bellwether-proto"]),
    ("bellwether-local", &["bellwether-proto", "bellwether-store"]),
    ("bellwether-manager", &["bellwether-group", "bellwether-local", "bellwether-proto", "bellwether-store"]),
    ("bellwether-member", &["bellwether-group", "bellwether-local", "bellwether-proto", "bellwether-store"]),
    ("bellwether-monitor", &["bellwether-proto", "bellwether-store"]),
    (
        "bellwether-daemon",
        &[
            "bellwether-group",
            "bellwether-local",
            "bellwether-manager",
            "bellwether-member",
            "bellwether-monitor",
            "bellwether-proto",
            "bellwether-store",
        ],
    ),
    (
        "bellwether",
        &[
            "bellwether-daemon",
            "bellwether-group",
            "bellwether-local",
            "bellwether-manager",
            "bellwether-member",
            "bellwether-monitor",
            "bellwether-proto",
            "bellwether-store",
        ],
    ),
    ("bellwether-bench", &[]),
    ("bellwether-simulation", &["bellwether-group", "bellwether-manager", "bellwether-member", "bellwether-proto"]),
    (FOR_TESTS[0], &[]),
    (FOR_TESTS[1], &["bellwether-proto"]),
];

/// The crates by which tests report skips and draw random numbers.
const FOR_TESTS: [&str; 2] = ["bellwether-skip", "bellwether-random"];

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).arg("--locked").current_dir(root());
    command
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string of cargo's")
}

#[test]
fn the_crates_arrows_are_those_of_the_design() {
    let output = run(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"])).success();
    let metadata: Value = serde_json::from_str(&output.stdout).expect("cargo's metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    assert_eq!(packages.len(), ARROWS.len(), "every crate of the workspace has its arrows in the list");
    for (name, allowed) in ARROWS {
        let package = packages.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no crate {name}"));
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        // Tests of a crate must not see more than the crate, so every kind of dependency counts.
        let ours = dependencies.iter().map(|d| text(&d["name"])).filter(|d| d.starts_with("bellwether"));
        for dependency in ours.filter(|name| !FOR_TESTS.contains(name)) {
            assert!(allowed.contains(&dependency), "{name} must not depend on {dependency}");
        }
    }
}

/// The rules of the record are without I/O.
#[test]
fn the_groups_rules_have_no_runtime_and_no_files() {
    let output = run(&mut cargo(&["tree", "-p", "bellwether-group", "--depth", "1", "--edges", "normal"])).success();
    let uses = |name: &str| output.stdout.lines().any(|line| line.contains(&format!("{name} v")));
    assert!(uses("bellwether-proto"), "{output}");
    for name in ["tokio", "tonic", "tracing", "rustix"] {
        assert!(!uses(name), "bellwether-group must not depend on {name}: {output}");
    }
}

/// A skip that the gate does not see would count as a passed test.
#[test]
fn nothing_is_skipped_but_by_the_one_function_for_it() {
    let files = run(Command::new("git").args(["ls-files", "*.rs"]).current_dir(root())).success();
    let mut read = 0;
    for file in files.stdout.lines().filter(|file| !file.starts_with("tests/skip/")) {
        // The file is deleted, but that is not committed yet.
        let Ok(text) = std::fs::read_to_string(root().join(file)) else { continue };
        read += 1;
        for (number, line) in text.lines().enumerate() {
            let said = ["println!(", "print!("].iter().any(|print| line.contains(print));
            let own_words = ["skipped", "not tested"].iter().any(|word| line.to_lowercase().contains(word));
            assert!(!(said && own_words), "{file}:{}: say it by bellwether_skip::skip: {line}", number + 1);
            assert!(!line.trim_start().starts_with("#[ignore"), "{file}:{}: no test is ignored", number + 1);
        }
    }
    assert!(read > 100, "only {read} files of this workspace were read");
}

/// Requirement ids in a text: W9, A12 …
fn ids(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id = |word: &&str| {
        let digits = word.strip_prefix(['W', 'T', 'B', 'R', 'A']).unwrap_or_default();
        (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    words.filter(is_id).map(str::to_owned).collect()
}

#[test]
fn every_id_in_a_tests_name_is_explained_and_users_read_none() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let explained = ids(&read("docs/requirements.md"));
    let files = run(Command::new("git").args(["ls-files", "*.rs"]).current_dir(root())).success();
    // The file is deleted, but that is not committed yet.
    let sources = files.stdout.lines().filter_map(|file| std::fs::read_to_string(root().join(file)).ok());
    let named: BTreeSet<String> = sources
        .flat_map(|text| {
            text.lines().filter_map(|line| Some(line.trim().strip_prefix("fn ")?.to_uppercase())).collect::<Vec<_>>()
        })
        .flat_map(|name| ids(&name.replace('_', " ")))
        .collect();
    assert!(named.len() > 20, "only {named:?} are in names of tests");
    let missing: Vec<_> = named.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/requirements.md does not explain {missing:?}");

    let written = ["README.md", "CHANGELOG.md", "docs/balancers.md", "docs/limits.md", "docs/procedures.md"];
    for file in written.into_iter().chain(["agent/tests/cli/cli-reference.md", "agent/tests/cli/messages.md"]) {
        assert_eq!(ids(&read(file)), BTreeSet::new(), "{file} is for users");
    }
}

#[test]
fn cargo_run_runs_bellwether() {
    let output = run(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"])).success();
    let metadata: Value = serde_json::from_str(&output.stdout).expect("cargo's metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let agent = packages.iter().find(|p| p["name"] == "bellwether").expect("the program");
    assert_eq!(metadata["workspace_default_members"], serde_json::json!([agent["id"]]));
}

#[test]
fn heavy_crates_are_there_in_one_version() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version) in lock.lines().zip(lock.lines().skip(1)) {
        if let (Some(name), Some(version)) = (name.strip_prefix("name = "), version.strip_prefix("version = ")) {
            versions.entry(name.trim_matches('"')).or_default().push(version);
        }
    }
    for heavy in HEAVY {
        let found = versions.get(heavy).map_or(&[][..], Vec::as_slice);
        assert_eq!(found.len(), 1, "versions of {heavy} in Cargo.lock: {found:?}");
    }
}

#[test]
fn only_one_provider_of_cryptography_is_compiled() {
    for unwanted in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"] {
        let output = users(unwanted);
        assert!(output.stdout.trim().is_empty(), "{unwanted} is a dependency: {output}");
    }
    // The same question about a wanted crate shows that the names are right.
    assert!(users("ring").success().stdout.contains("bellwether"));
}

/// The crates that depend on that crate, in any built configuration of features and targets.
fn users(package: &str) -> Output {
    run(&mut cargo(&["tree", "--workspace", "--target", "all", "-i", package]))
}

#[test]
fn every_dependency_has_its_reason_in_the_documentation() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = manifest.parse().expect("a manifest");
    let documented = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let words: Vec<&str> = documented.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').collect();
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("dependencies");
    let missing: Vec<_> = dependencies
        .keys()
        .filter(|name| !name.starts_with("bellwether-") && !words.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md gives no reason for {missing:?}");
}
