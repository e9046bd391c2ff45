//! Leaves the content of secret files out of what commands print: the output of a command goes to the log, to the manager, and
//! to each status.

use std::{collections::BTreeSet, path::PathBuf};

use bellwether_proto::{name::SetName, record::Record};
use bellwether_store::{
    apply::Staged,
    secret::{SecretContents, SecretPaths},
};

/// What stands for content of a secret file.
const HIDDEN: &str = "[secret]";
/// What stands for an output that cannot be searched.
const WITHHELD: &str = "(the output is not shown: the secret files cannot be searched for its words)";
/// The fewest characters of a word or a line of a secret file that is left out.
const FEWEST: usize = 4;

/// The secret files that commands of the sets may see.
#[derive(Debug, Default)]
pub struct Secrets {
    paths: SecretPaths,
    roots: Vec<(SetName, PathBuf)>,
    staged: SecretContents,
}

impl Secrets {
    /// The secret files of a record. `roots`: where the sets are on this server.
    pub fn new(record: &Record, roots: impl IntoIterator<Item = (SetName, PathBuf)>) -> Self {
        let paths = SecretPaths::new(&record.policy.secret);
        let roots = if paths.is_empty() { Vec::new() } else { roots.into_iter().collect() };
        Self { paths, roots, staged: SecretContents::default() }
    }

    /// And those that are staged.
    pub fn with(mut self, staged: &Staged) -> Self {
        staged.secrets(&self.paths, &mut self.staged);
        self
    }

    /// `text` without the lines and words of the secret files, as these are now. Reads the files.
    pub(crate) fn hide(&self, text: String) -> String {
        if self.paths.is_empty() || text.is_empty() {
            return text;
        }
        let mut live = SecretContents::default();
        self.roots.iter().for_each(|(set, root)| live.add_live(&self.paths, set, root));
        if live.incomplete || self.staged.incomplete {
            return WITHHELD.to_owned();
        }
        without(text, live.files.iter().chain(&self.staged.files).map(Vec::as_slice))
    }
}

/// `text` with [`HIDDEN`] in place of each line and each word of `files`.
fn without<'a>(text: String, files: impl Iterator<Item = &'a [u8]>) -> String {
    let contents: Vec<_> = files.map(String::from_utf8_lossy).collect();
    let mut pieces: BTreeSet<&str> = BTreeSet::new();
    for line in contents.iter().flat_map(|content| content.lines()) {
        // The first and the last line of a key in PEM are known to everybody.
        if !line.starts_with("-----") {
            pieces.insert(line.trim());
            pieces.extend(line.split(|c: char| c.is_whitespace() || "\"'`,;=<>(){}[]".contains(c)));
        }
    }
    let mut pieces: Vec<&str> = pieces.into_iter().filter(|piece| piece.chars().count() >= FEWEST).collect();
    // A piece may be within another one.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    let hide = |text: String, piece: &str| if text.contains(piece) { text.replace(piece, HIDDEN) } else { text };
    pieces.into_iter().fold(text, hide)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str, files: &[&str]) -> String {
        without(text.to_owned(), files.iter().map(|file| file.as_bytes()))
    }

    #[test]
    fn lines_and_words_of_secret_files_are_left_out() {
        let nginx = "nginx: [emerg] unknown directive \"hunter22\" in /etc/nginx/secret.conf:1";
        let shown = "nginx: [emerg] unknown directive \"[secret]\" in /etc/nginx/secret.conf:1";
        assert_eq!(hidden(nginx, &["hunter22 x;\n"]), shown);
        assert_eq!(
            hidden("it is 'open sesame', says the file", &["  open sesame  \n"]),
            "it is '[secret]', says the file"
        );
        assert_eq!(hidden("password=abcd ok", &["password = abcd"]), "[secret]=[secret] ok");
        assert_eq!(hidden("a longer-word", &["long\nlonger-word\n"]), "a [secret]", "the longest piece first");
        assert_eq!(hidden("nothing of it", &["other\nthings\n"]), "nothing of it");
    }

    #[test]
    fn the_frame_of_a_key_and_short_words_stay() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIabc+/\n-----END PRIVATE KEY-----\n";
        assert_eq!(
            hidden("no start line, expecting PRIVATE KEY, not MIIabc+/", &[key]),
            "no start line, expecting PRIVATE KEY, not [secret]"
        );
        assert_eq!(hidden("in a set", &["in a x"]), "in a set");
    }
}
