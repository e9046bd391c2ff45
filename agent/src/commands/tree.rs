//! `bellwether tree [SET[:PREFIX]]`: the entries of the revision that this server holds, or of an earlier one.

use std::ffi::OsString;

use bellwether_proto::{
    record::SetRules,
    revision::RevisionName,
    v1::{TreeAtRequest, TreeEntry, TreeRequest},
};
use serde_json::{Value, json};

use super::{
    differences::{exact, exact_link, path as shown},
    past, record, target,
};
use crate::{common::Common, error::CommandError, output};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A set, or a path in it, such as nginx:conf.d; without it, all sets
    #[arg(value_name = "SET[:PREFIX]")]
    pub place: Option<OsString>,
    /// List this revision of the manager's history: 1.12, 12, head, or head-1 for the one before the head
    #[arg(long, value_name = "REV")]
    pub at: Option<RevisionName>,
}

/// Runs the command. Entries are printed as they arrive, because a tree may have millions.
///
/// # Errors
/// There is no such set.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let request = match args.place.as_deref().map(target::parse).transpose()? {
        Some(at) => TreeRequest { set: at.set.to_string(), prefix: at.path.as_bytes().to_vec().into() },
        None => TreeRequest::default(),
    };
    let (set, at) = (request.set.clone(), args.at);
    let parts = match at {
        None => {
            let mut client = common.connect().await?;
            common.read(client.tree(request)).await?
        }
        Some(at) => {
            let mut client = past::connect(common).await?;
            let request = TreeAtRequest { revision: at.to_string(), tree: Some(request) };
            common.read(client.tree_at(request)).await?
        }
    };
    let mut parts = parts.into_inner();
    let mut first = true;
    while let Some(part) = common.read(parts.message()).await? {
        let lines = part.entries.iter().map(|entry| {
            let comma = if std::mem::take(&mut first) { "[" } else { "," };
            if common.json { format!("{comma}{}", as_json(entry)) } else { as_text(entry) }
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        match (text.is_empty(), common.json) {
            // The last part may be empty.
            (true, _) => {}
            (false, true) => output::json(&text),
            (false, false) => output::line(&text),
        }
        if !output::is_read() {
            return Ok(());
        }
    }
    if common.json {
        output::line(if first { "[]" } else { "]" });
    } else if let (None, Ok(held)) = (at, record::held(common)) {
        not_listed(&held.current.record().policy.sets, &set).iter().for_each(|line| output::note(line));
    }
    Ok(())
}

/// The patterns of entries that are on the servers and in no revision, apart for `local` and `exclude`. `set`: empty for all.
fn not_listed(sets: &[SetRules], set: &str) -> Vec<String> {
    let line = |why: &str, patterns: fn(&SetRules) -> &Vec<String>| {
        let sets = sets.iter().filter(|rules| set.is_empty() || rules.name.as_str() == set);
        let named =
            sets.flat_map(|rules| patterns(rules).iter().map(move |pattern| format!("{}={pattern}", rules.name)));
        let named = named.collect::<Vec<_>>().join(", ");
        (!named.is_empty()).then(|| format!("not listed, because {why}: {named}"))
    };
    let local = line("each server has its own", |rules| &rules.local);
    local.into_iter().chain(line("they are excluded", |rules| &rules.exclude)).collect()
}

fn as_json(entry: &TreeEntry) -> Value {
    let ((path, path_base64), (link, link_base64)) = (exact(&entry.path), exact_link(entry));
    json!({
        "set": entry.set,
        "path": path,
        "path_base64": path_base64,
        "kind": entry.kind,
        "mode": format!("{:04o}", entry.mode),
        "user": entry.user,
        "group": entry.group,
        "mtime": entry.mtime,
        "size": entry.size,
        "hash": entry.hash,
        "link": link,
        "link_base64": link_base64,
    })
}

fn as_text(entry: &TreeEntry) -> String {
    let (sign, time) = match entry.kind.as_str() {
        "directory" => ('d', "-".to_owned()),
        "link" => ('l', output::utc(entry.mtime)),
        _ => ('-', output::utc(entry.mtime)),
    };
    let owner = format!("{}:{}", entry.user, entry.group);
    let hash = entry.hash.get(..8).unwrap_or("-");
    let target = if sign == 'l' { format!(" -> {}", entry.link.escape_ascii()) } else { String::new() };
    let TreeEntry { set, mode, size, path, .. } = entry;
    format!("{sign}{mode:04o} {owner:<17} {size:>10} {time:<19} {hash:<8} {set}:{}{target}", shown(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_excluded_entries_are_named_apart() {
        let mut rules = SetRules::new("web".parse().expect("a name"));
        rules.exclude = vec!["*.bak".to_owned()];
        rules.local = vec!["local-*".to_owned(), "own/".to_owned()];
        let sets = [rules, SetRules::new("app".parse().expect("a name"))];
        let lines = [
            "not listed, because each server has its own: web=local-*, web=own/",
            "not listed, because they are excluded: web=*.bak",
        ];
        assert_eq!(not_listed(&sets, ""), lines);
        assert_eq!(not_listed(&sets, "web"), lines);
        assert!(not_listed(&sets, "app").is_empty());
    }

    #[test]
    fn a_line_says_all_of_an_entry_and_escapes_what_a_terminal_would_obey() {
        let entry = TreeEntry {
            set: "nginx".into(),
            path: b"a\x1b[2J".to_vec().into(),
            kind: "file".into(),
            mode: 0o640,
            user: "root".into(),
            group: "www-data".into(),
            mtime: 0,
            size: 12,
            hash: "0123456789abcdef".into(),
            link: bytes::Bytes::new(),
        };
        assert_eq!(as_text(&entry), "-0640 root:www-data             12 1970-01-01 00:00:00 01234567 nginx:a\\x1b[2J");
        let json = as_json(&entry);
        assert_eq!((&json["mode"], &json["link"]), (&"0640".into(), &Value::Null));
        assert_eq!(
            (&json["path"], &json["path_base64"]),
            (&"a\x1b[2J".into(), &Value::Null),
            "JSON has its own escapes"
        );
        let bytes = as_json(&TreeEntry { path: b"a\xff\n".to_vec().into(), ..entry });
        assert_eq!((&bytes["path"], &bytes["path_base64"]), (&"a\\xff\\n".into(), &"Yf8K".into()));
    }
}
