//! Finds files that should not leave a machine: keys, a machine's identity, passwords. `init`, `join` and `doctor` name
//! them. Nothing is refused, because a web server's TLS key may be meant.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
};

use bellwether_proto::{entry::EntryPath, record::SetRules};
use bellwether_store::{scan::Excludes, secret::SecretPaths};

/// The number of bytes of a file that are searched for a PEM header.
const HEAD: u64 = 4 << 10;
/// The largest number of entries that are looked at.
const ENTRIES: usize = 50_000;
/// The largest number of entries that are named.
const NAMED: usize = 5;

/// The names of files with secrets, and their descriptions.
const SECRET: [(&str, &str); 6] = [
    ("shadow", "passwords"),
    ("shadow-", "passwords"),
    ("gshadow", "passwords"),
    ("gshadow-", "passwords"),
    ("krb5.keytab", "this machine's Kerberos keys"),
    ("authorized_keys", "keys that may log in here"),
];

/// The names of files that belong to one machine, and their descriptions.
const OWN: [(&str, &str); 6] = [
    ("machine-id", "this machine's identity"),
    ("hostid", "this machine's identity"),
    ("hostname", "this machine's name"),
    ("fstab", "this machine's mounts"),
    ("crypttab", "this machine's disks"),
    ("agent.toml", "the commands that an agent may run here"),
];

/// Secrets are named before files that belong to one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Secret,
    Own,
}

/// The findings, and whether the whole set was looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Private {
    /// `PATH (description)`, secrets first; the first few.
    pub(crate) named: Vec<String>,
    /// The number of all findings.
    pub(crate) count: usize,
    /// The set is too large to be looked at as a whole.
    pub(crate) cut: bool,
}

impl Private {
    /// One line for people; none: nothing was found.
    pub(crate) fn line(&self) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let more = self.count.saturating_sub(self.named.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let cut = if self.cut { format!("; only {ENTRIES} entries were looked at") } else { String::new() };
        Some(format!("holds files that every server of the group would get: {}{more}{cut}", self.named.join(", ")))
    }
}

/// Looks through a set. It follows no link, enters no other file system and skips the entries that the rules leave out, and those
/// that the group knows as `secrets`.
pub(crate) fn look(root: &Path, rules: &SetRules, secrets: &SecretPaths) -> Private {
    let mut found = Vec::new();
    let excludes = Excludes::new(rules).ok();
    let device = root.metadata().map_or(0, |metadata| metadata.dev());
    let mut open = vec![EntryPath::root()];
    let mut left = ENTRIES;
    while let Some(directory) = open.pop() {
        // `doctor` names unreadable directories.
        let Ok(entries) = fs::read_dir(at(root, &directory)) else { continue };
        for entry in entries.filter_map(Result::ok) {
            if left == 0 {
                break;
            }
            left -= 1;
            let path = directory.join(entry.file_name().as_encoded_bytes());
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            let is_dir = metadata.is_dir();
            if metadata.dev() != device || excludes.as_ref().is_some_and(|excludes| excludes.excluded(&path, is_dir)) {
                continue;
            }
            if is_dir {
                open.push(path);
            } else if metadata.is_file()
                && !secrets.covers(&rules.name, &path)
                && let Some((rank, what)) = kind(&entry.path(), entry.file_name().to_str().unwrap_or_default())
            {
                found.push((rank, format!("{path} ({what})")));
            }
        }
    }
    found.sort();
    let count = found.len();
    let named = found.into_iter().take(NAMED).map(|(_, named)| named).collect();
    Private { named, count, cut: left == 0 }
}

fn at(root: &Path, path: &EntryPath) -> std::path::PathBuf {
    if path.is_root() { root.to_owned() } else { root.join(bellwether_store::beneath::os(path.as_bytes())) }
}

/// The rank and the description of such a file.
fn kind(path: &Path, name: &str) -> Option<(Rank, &'static str)> {
    if name.starts_with("ssh_host_") && name.ends_with("_key") {
        return Some((Rank::Secret, "this machine's SSH key"));
    }
    let among = |names: &[(&str, &'static str)]| names.iter().find(|(own, _)| *own == name).map(|(_, what)| *what);
    if let Some(what) = among(&SECRET) {
        return Some((Rank::Secret, what));
    }
    if let Some(what) = among(&OWN) {
        return Some((Rank::Own, what));
    }
    is_private_key(path).then_some((Rank::Secret, "a private key"))
}

fn is_private_key(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let marks: [&[u8]; 2] = [b"PRIVATE KEY-----", b"PuTTY-User-Key-File"];
    read.is_ok() && marks.iter().any(|mark| head.windows(mark.len()).any(|window| window == *mark))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::record::SecretFiles;

    use super::*;

    fn rules() -> SetRules {
        SetRules::new("etc".parse().unwrap())
    }

    #[test]
    fn keys_passwords_and_identity_are_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("ssh")).unwrap();
        for name in ["shadow", "machine-id", "nginx.conf", "ssh/ssh_host_rsa_key", "ssh/ssh_host_rsa_key.pub"] {
            fs::write(root.path().join(name), "x").unwrap();
        }
        fs::write(root.path().join("site.pem"), "text\n-----BEGIN EC PRIVATE KEY-----\nMHc\n").unwrap();
        fs::write(root.path().join("site.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", root.path().join("link")).unwrap();
        let found = look(root.path(), &rules(), &SecretPaths::default());
        assert_eq!(
            found.named,
            [
                "shadow (passwords)",
                "site.pem (a private key)",
                "ssh/ssh_host_rsa_key (this machine's SSH key)",
                "machine-id (this machine's identity)"
            ]
        );
        assert!(found.line().is_some_and(|line| line.contains("site.pem")));
    }

    #[test]
    fn what_is_excluded_or_far_down_in_a_file_is_no_matter() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("site.key"), "-----BEGIN PRIVATE KEY-----").unwrap();
        fs::write(root.path().join("large"), [&[b'x'; 8_000][..], b"-----BEGIN PRIVATE KEY-----"].concat()).unwrap();
        let rules = SetRules { exclude: vec!["*.key".to_owned()], ..rules() };
        assert_eq!(look(root.path(), &rules, &SecretPaths::default()), Private::default());
        assert_eq!(Private::default().line(), None);
        let files = SecretFiles { set: rules.name.clone(), patterns: vec!["*.key".to_owned()] };
        let known = SetRules::new(rules.name.clone());
        assert_eq!(look(root.path(), &known, &SecretPaths::new(&[files])), Private::default());
    }

    #[test]
    fn only_the_first_are_named() {
        let root = tempfile::tempdir().unwrap();
        (0..9).for_each(|n| fs::write(root.path().join(format!("{n}.key")), "-----BEGIN PRIVATE KEY-----").unwrap());
        let line = look(root.path(), &rules(), &SecretPaths::default()).line().unwrap();
        assert!(line.contains("4.key") && !line.contains("5.key") && line.ends_with("and 4 more"), "{line}");
    }
}
