//! The upstream file: `server` lines, some of them marked `down` (ngx_http_upstream_module), and other text.
//!
//! The name of a line is in its comment, `server 10.0.0.1:80 weight=5; # web1`, or else is its host. Its backend is the
//! `upstream NAME {` around it, or the file's name for a file that is included inside of one.

use bellwether_proto::balancer::{Backend, BackendServer};

/// A `server` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerLine {
    /// Counted from 0.
    pub(super) index: usize,
    /// None for a line without a usable name.
    pub(super) place: Option<BackendServer>,
    pub(super) down: bool,
}

/// An error and its line (counted from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) what: String,
}

/// The `server` lines of a file named `stem`.
pub(super) fn read(text: &str, stem: &str) -> Result<Vec<ServerLine>, Wrong> {
    let mut servers = Vec::new();
    let mut upstream = None;
    for (index, line) in text.lines().enumerate() {
        let wrong = |what: &str| Wrong { line: index + 1, what: what.to_owned() };
        let mut words = line.split_whitespace();
        let own_line = "a server has a line of its own: `server ADDRESS …;`, and behind it at the most `# NAME`";
        match words.next() {
            Some("upstream") => match (words.next(), words.next(), words.next()) {
                (Some(name), Some("{"), None) => upstream = Some(name),
                _ => return Err(wrong("an upstream begins with `upstream NAME {` on a line of its own")),
            },
            Some(first) if first.starts_with('}') => upstream = None,
            Some("server") => {
                let Parts { words, name } = parts(line).ok_or_else(|| wrong(own_line))?;
                let backend: Option<Backend> = upstream.unwrap_or(stem).parse().ok();
                let place = backend.and_then(|backend| BackendServer::new(backend, name).ok());
                servers.push(ServerLine { index, place, down: is_down(&words) });
            }
            Some(_) if mentions_server(line) => return Err(wrong(own_line)),
            Some(_) | None => {}
        }
    }
    Ok(servers)
}

/// Whether a line has a directive `server` among others: such a line must not be missed.
fn mentions_server(line: &str) -> bool {
    let directives = line.split('#').next().unwrap_or_default();
    directives.split(|c: char| c.is_whitespace() || matches!(c, ';' | '{' | '}')).any(|word| word == "server")
}

/// Whether one of the parameters after `server ADDRESS` is `down`; a host may have that name, too.
fn is_down(words: &[&str]) -> bool {
    words.iter().skip(2).any(|word| *word == "down")
}

struct Parts<'a> {
    /// From `server` to the last parameter.
    words: Vec<&'a str>,
    name: &'a str,
}

fn parts(line: &str) -> Option<Parts<'_>> {
    let (directive, rest) = line.split_once(';')?;
    let words: Vec<&str> = directive.split_whitespace().collect();
    let address = words.get(1)?;
    let rest = rest.trim();
    let comment = match rest.strip_prefix('#') {
        Some(comment) => comment.split_whitespace().next().map(|word| word.trim_end_matches([',', ':', ';'])),
        None if rest.is_empty() => None,
        None => return None,
    };
    let host = address.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(*address, |(h, _)| h);
    let plain = !directive.contains(['{', '}', '#', '"', '\'']);
    plain.then_some(Parts { words, name: comment.unwrap_or(host) })
}

/// The text with these lines marked `down`, or unmarked.
pub(super) fn marked(text: &str, lines: &[&ServerLine], down: bool) -> String {
    let change = |(index, line): (usize, &str)| match lines.iter().any(|server| server.index == index) {
        true => mark(line, down),
        false => line.to_owned(),
    };
    text.split_inclusive('\n').enumerate().map(change).collect()
}

fn mark(line: &str, down: bool) -> String {
    let Some((directive, rest)) = line.split_once(';') else { return line.to_owned() };
    let words: Vec<&str> = directive.split_whitespace().collect();
    match (down, is_down(&words)) {
        (true, false) => format!("{} down;{rest}", directive.trim_end()),
        (false, true) => {
            let indent: String = directive.chars().take_while(|c| c.is_whitespace()).collect();
            let kept = words.iter().enumerate().filter(|(at, word)| *at < 2 || **word != "down");
            let kept: Vec<_> = kept.map(|(_, word)| *word).collect();
            format!("{indent}{};{rest}", kept.join(" "))
        }
        (true, true) | (false, false) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# the farm\nupstream app {\n    zone app 64k;\n    server 10.0.0.1:80 weight=5;  # web1, the first\n\
        \tserver web2;\n    server 10.0.0.3:80 down max_fails=2; # web3\n    server [2001:db8::4]:80;\n}\nserver 10.0.0.9:80 backup;";

    fn places(text: &str) -> Vec<(Option<String>, bool)> {
        let lines = read(text, "static").unwrap();
        lines.iter().map(|line| (line.place.as_ref().map(ToString::to_string), line.down)).collect()
    }

    #[test]
    fn servers_have_the_names_of_their_comments_or_hosts() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            places(FILE),
            [
                (some("app/web1"), false),
                (some("app/web2"), false),
                (some("app/web3"), true),
                (None, false),
                (some("static/10.0.0.9"), false)
            ]
        );
    }

    #[test]
    fn a_host_may_be_named_down() {
        let text = "server down;\nserver down down; # web1\n";
        let lines = read(text, "app").unwrap();
        assert_eq!(lines.iter().map(|line| line.down).collect::<Vec<_>>(), [false, true]);
        let all: Vec<_> = lines.iter().collect();
        assert_eq!(marked(text, &all, true), "server down down;\nserver down down; # web1\n");
        assert_eq!(marked(text, &all, false), "server down;\nserver down; # web1\n");
    }

    #[test]
    fn marking_changes_these_lines_only_and_can_be_taken_back() {
        let lines = read(FILE, "static").unwrap();
        let first: Vec<_> = lines.iter().take(2).collect();
        let down = marked(FILE, &first, true);
        assert!(
            down.contains("    server 10.0.0.1:80 weight=5 down;  # web1, the first\n\tserver web2 down;\n"),
            "{down}"
        );
        assert!(down.ends_with("server 10.0.0.9:80 backup;"), "{down}");
        assert_eq!(marked(&down, &first, true), down);
        assert_eq!(marked(&down, &first, false), FILE);
        let third: Vec<_> = lines.iter().skip(2).take(1).collect();
        assert!(marked(FILE, &third, false).contains("    server 10.0.0.3:80 max_fails=2; # web3\n"));
    }

    #[test]
    fn what_is_not_a_line_of_its_own_is_refused() {
        for (text, line) in [
            ("server {\n listen 80;\n}\n", 1),
            ("\nserver 10.0.0.1:80", 2),
            ("server a; server b;", 1),
            ("upstream app { server a; }", 1),
            ("upstream app\n{\n", 1),
            ("server;", 1),
            ("least_conn; server a;", 1),
            ("server{", 1),
        ] {
            assert_eq!(read(text, "app").map_err(|wrong| wrong.line), Err(line), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn marking_and_unmarking_keeps_every_other_line(text in "[a-z;# \n{}0-9]{0,80}") {
            let text = format!("{text}\n  server 10.0.0.1:80; # web1\n{text}");
            if let Ok(lines) = read(&text, "app") {
                let web1: Vec<_> =
                    lines.iter().filter(|l| l.place.as_ref().is_some_and(|p| p.server() == "web1")).collect();
                let down = marked(&text, &web1, true);
                proptest::prop_assert_eq!(marked(&down, &web1, false), text);
            }
        }
    }
}
