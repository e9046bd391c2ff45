//! The command line accepts every command, with its arguments, that a string literal of the sources names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;

use super::Cli;

/// The crates with messages for people.
const CRATES: [&str; 5] = ["agent/src", "manager/src", "monitor/src", "proto/src", "store/src"];
/// Words after the program's name that are no command: there the name means the program.
const PROSE: [&str; 5] = ["bellwether v1", "bellwether is", "bellwether of", "bellwether and", "bellwether index"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// The string literals of a source before its tests, as they are at run time; format arguments stay in their braces.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = source.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            ('/', Some('/')) => while rest.next().is_some_and(|c| c != '\n') {},
            // A character, not a lifetime.
            ('\'', Some('"' | '\\')) => {
                if rest.next() == Some('\\') {
                    rest.next();
                }
                rest.next();
            }
            ('r', Some('#')) => {
                rest.next();
                if rest.next_if_eq(&'"').is_some() {
                    let mut text = String::new();
                    while let Some(c) = rest.next() {
                        if c == '"' && rest.next_if_eq(&'#').is_some() {
                            break;
                        }
                        text.push(c);
                    }
                    found.push(text);
                }
            }
            ('"', _) => found.push(literal(&mut rest)),
            _ => {}
        }
    }
    found
}

fn literal(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => match rest.next() {
                Some('n') => text.push('\n'),
                Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

/// The commands in a text: each goes from the program's name to the end of the command in the sentence.
fn named(text: &str) -> Vec<String> {
    let commands = text.match_indices("bellwether ").map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let command = &text[at..];
        let end = match before {
            Some('`') => command.find('`'),
            _ => command
                .find(['`', '\n', ';', ',', '(', ')', ':', '"', '“', '”'])
                .filter(|end| !is_target(command, *end)),
        };
        let command = command[..end.unwrap_or(command.len())].trim_end_matches(['.', ' ', '\'']);
        // The words that end a command in a sentence.
        let words = [
            ". ",
            " to ",
            " from ",
            " on ",
            " there",
            " again",
            " first",
            " at ",
            " does ",
            " in ",
            " shows",
            " names",
            " or ",
            " and ",
            " then",
            " is ",
            " was ",
            " may ",
            " when ",
            " with ",
            " for ",
            " makes ",
            " tries ",
            " succeeds",
            " must ",
        ];
        let end = words.iter().filter_map(|word| command.find(word)).min().unwrap_or(command.len());
        command[..end].to_owned()
    });
    // A command that is put together at run time is checked where its parts are.
    let made = |command: &String| command.starts_with("bellwether {command}") || command.starts_with("bellwether {}");
    // The program's name alone is no command: "made by a newer bellwether".
    let named = |command: &String| command != "bellwether" && !made(command);
    commands.filter(|command| named(command) && !PROSE.iter().any(|prose| command.starts_with(prose))).collect()
}

/// Whether the colon at `at` belongs to SET:PATH.
fn is_target(command: &str, at: usize) -> bool {
    command[at..].starts_with(':') && command[at + 1..].chars().next().is_some_and(|c| c != ' ' && c != '\n')
}

/// A key as people write it.
const KEY: &str = "ed25519:rxzpouvy4bfnirful7s6nvysijasfiuyew3yxy6bsbkjuv6a7unq";

/// The command with a value for every placeholder and format argument.
fn filled(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in command.split_whitespace() {
        let mut text = String::new();
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('{') {
            let (argument, end) = after.split_once('}').unwrap_or((after, ""));
            text.push_str(before);
            text.push_str(match argument {
                "back" => "add",
                _ if argument.contains("id") || words.iter().any(|word| word == "procedure") => "p1",
                _ => "web1",
            });
            rest = end;
        }
        text.push_str(rest);
        words.push(match text.as_str() {
            "NAME" | "OTHER" => "web1".to_owned(),
            "ID" | "pN" => "p1".to_owned(),
            "NAME=haproxy:ADDRESS" => "lb1=haproxy:tcp:web1:9999".to_owned(),
            "HOST:PORT" => "web1:7440".to_owned(),
            "KEY" => KEY.to_owned(),
            "web1" if words.last().is_some_and(|last| last == "--refuse") => KEY.to_owned(),
            "web1" if words.last().is_some_and(|last| last == "--level") => "1".to_owned(),
            "web1" if words.last().is_some_and(|last| last == "--at") => "1.12".to_owned(),
            "web1" if words.last().is_some_and(|last| last == "debug") => "journal".to_owned(),
            "N" | "PID" => "1".to_owned(),
            "…" | "..." => continue,
            _ => text,
        });
    }
    words
}

#[test]
fn every_command_that_a_message_names_is_one_that_the_command_line_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    CRATES.iter().for_each(|directory| sources(&root.join(directory), &mut files));
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in files.iter().filter(|file| !file.ends_with("tests.rs") && !file.ends_with("advice.rs")) {
        let source = fs::read_to_string(file).expect("a source");
        for command in literals(&source).iter().flat_map(|text| named(text)) {
            seen += 1;
            let parsed = Cli::try_parse_from(filled(&command));
            if let Err(error) = parsed
                && error.use_stderr()
            {
                let place = file.strip_prefix(root).unwrap_or(file).display();
                wrong.push(format!("{place}: `{command}`: {}", error.to_string().lines().next().unwrap_or_default()));
            }
        }
    }
    assert!(seen > 100, "only {seen} commands were found: the search is broken");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every kind of procedure names its own command, which may be given again.
#[test]
fn the_command_of_every_procedure_is_one_that_the_command_line_takes() {
    use bellwether_group::procedure::{Insists, Kind};
    let name = |text: &str| text.parse().expect("a name");
    let insists = Insists { force: true, accept: true };
    let kinds = [
        Kind::MaintenanceStart { server: name("web1"), promote: Some(name("web2")), remove: true },
        Kind::MaintenanceFinish { server: name("web1") },
        Kind::ServerAdd { server: name("web1") },
        Kind::ServerEnable { server: name("web1") },
        Kind::ServerReplace { server: name("web1"), ttl_ms: 1 },
        Kind::Sync { servers: vec![name("web1"), name("web2")] },
        Kind::RecoverMember { server: name("web1"), remove: true },
        Kind::RecoverManager { lost: name("web1"), new: name("web2"), remove: true, insists },
    ];
    for kind in kinds {
        let line = format!("bellwether {}", kind.command());
        if let Err(error) = Cli::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
        for command in named(&kind.afterwards()) {
            assert!(Cli::try_parse_from(filled(&command)).is_ok(), "{command}");
        }
    }
}
