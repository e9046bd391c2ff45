//! `debug`: shows the content of the disk without an agent, and changes nothing there.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::program::{formed, json, run};

/// Every file below, with its content and the time of its last change.
fn snapshot(directory: &Path) -> BTreeMap<PathBuf, (i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let stat = path.metadata().expect("its stat");
            let content = if stat.is_dir() { Vec::new() } else { fs::read(&path).expect("its content") };
            if stat.is_dir() {
                open.push(path.clone());
            }
            all.insert(path, (stat.ctime(), stat.ctime_nsec(), content));
        }
    }
    all
}

fn pack(place: &Path) -> PathBuf {
    let mut files = fs::read_dir(place.join("state/history")).expect("the history");
    files.next().expect("a pack").expect("an entry").path()
}

#[test]
fn all_that_is_on_the_disk_is_shown_and_nothing_is_changed() {
    let (place, flags) = formed();
    let path = place.path();
    let before = snapshot(&path.join("state"));
    let shown = |what: &str| {
        let output = run(path, &format!("debug {what} {flags}"));
        assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        json(&output)
    };

    let history = shown("history");
    assert_eq!((&history["packs"][0]["revision"], &history["packs"][0]["base"]), (&"1.1".into(), &true.into()));
    assert_eq!(history["packs"][0]["id"], history["head"]);
    let name = history["packs"][0]["file"].as_str().expect("a name").to_owned();

    let pack = shown(&format!("pack {name}"));
    let kinds: Vec<_> = pack["frames"].as_array().expect("frames").iter().map(|frame| &frame["kind"]).collect();
    assert_eq!(kinds, ["head", "changes", "chunks", "end"]);
    assert_eq!(pack["frames"][0]["head"]["header"]["revision"], "1.1");
    assert_eq!(pack["frames"][1]["changes"][1]["path"], "a.conf");
    assert_eq!(pack["frames"][2]["chunks"][0]["hash"], pack["frames"][1]["changes"][1]["entry"]["content"][0]["hash"]);
    assert_eq!((&pack["frames"][0]["at"], &pack["damage"]), (&0.into(), &serde_json::Value::Null));

    assert_eq!(shown("record")["current"]["record"]["servers"][0]["name"], "web1");
    assert_eq!(shown("journal")["under_way"], false);
    assert_eq!(shown("position")["is_there"], false);
    let state = shown("state");
    let file = |name: &str| {
        let files = state["files"].as_array().expect("files");
        files.iter().find(|file| file["file"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    assert_eq!((&file("key.pem")["is_there"], &file("key.pem")["content"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(file("group.json")["shown_by"], "bellwether debug record");
    assert_eq!(file("history")["shown_by"], "bellwether debug history");
    assert_eq!(snapshot(&path.join("state")), before);
}

#[test]
fn damage_is_named_with_its_offset() {
    let (place, flags) = formed();
    let path = place.path();
    let pack = pack(path);
    let whole = run(path, &format!("debug pack {} {flags}", pack.display()));
    let second = json(&whole)["frames"][1]["at"].as_u64().expect("an offset");
    let bytes = fs::read(&pack).expect("the pack");

    // A byte in the second frame's payload is wrong, and the end is missing.
    let mut flipped = bytes.clone();
    flipped[second as usize + 30] ^= 1;
    for (damaged, at, frames) in [(flipped, second, 1), (bytes[..bytes.len() - 1].to_vec(), bytes.len() as u64 - 48, 3)]
    {
        fs::write(&pack, damaged).expect("written");
        let output = run(path, &format!("debug pack {} {flags}", pack.display()));
        assert_eq!(output.status.code(), Some(1));
        let shown = json(&output);
        assert_eq!(
            (shown["damage"]["at"].as_u64(), shown["frames"].as_array().map(Vec::len)),
            (Some(at), Some(frames))
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("is damaged at byte {at}")), "{said}");
    }
    let history = run(path, &format!("debug history {flags}"));
    assert_eq!(history.status.code(), Some(1));
    assert_eq!(json(&history)["left_out"][0]["damaged_at"], bytes.len() as u64 - 48);

    let record = path.join("state/group.json");
    let text = fs::read_to_string(&record).expect("the record");
    fs::write(&record, text.replacen("web1", "web2", 1)).expect("written");
    for what in ["record", "state"] {
        let output = run(path, &format!("debug {what} {flags}"));
        assert_eq!(output.status.code(), Some(1), "{what}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("group.json is damaged (its checksum does not fit)"), "{what}: {said}");
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let (place, flags) = formed();
    let path = place.path();
    let record = path.join("state/group.json");
    fs::remove_file(&record).expect("removed");
    for pipe in [&record, &path.join("pipe")] {
        let made = std::process::Command::new("mkfifo").arg(pipe).status().expect("mkfifo");
        assert!(made.success(), "{}", pipe.display());
    }
    let pack = format!("pack {}", path.join("pipe").display());
    for what in ["record", "state", &pack, "pack /dev/zero"] {
        let output = run(path, &format!("debug {what} {flags}"));
        assert_eq!(output.status.code(), Some(1), "{what}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("it is no regular file"), "{what}: {said}");
    }
    for what in ["journal", "position"] {
        let output = run(path, &format!("debug {what} {}", flags.replace("/state", "/nowhere")));
        assert_eq!(output.status.code(), Some(1), "{what}");
    }
}
