//! `validate`, `reload` and `check` of a `[[set]]`: a command as a string, or a table that says more.

use std::time::Duration;

use bellwether_local::{
    check::{Check, Probe},
    set::{Command, Preset, SetCommands, TIMEOUT},
};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Written, duration};

/// The keys as they are written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Commands<'a> {
    pub(super) preset: Option<&'a str>,
    pub(super) user: Option<&'a String>,
    pub(super) validate: Option<&'a OneCommand>,
    pub(super) reload: Option<&'a OneCommand>,
    pub(super) check: Option<&'a Checks>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum OneCommand {
    Short(String),
    Long(LongCommand),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LongCommand {
    run: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
}

/// One check, or several that run one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Checks {
    One(OneCheck),
    Many(Vec<OneCheck>),
}

impl Checks {
    /// As they are written; none: there is none.
    pub(super) fn of(checks: &[Check]) -> Option<Self> {
        match checks {
            [] => None,
            [one] => Some(Self::One(one.into())),
            many => Some(Self::Many(many.iter().map(OneCheck::from).collect())),
        }
    }

    fn all(&self) -> &[OneCheck] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum OneCheck {
    Short(String),
    Long(LongCheck),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LongCheck {
    probe: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
}

impl From<&Command> for OneCommand {
    fn from(command: &Command) -> Self {
        let Command { run, user, timeout } = command.clone();
        match (&user, timeout) {
            (None, TIMEOUT) => Self::Short(run),
            _ => Self::Long(LongCommand { run, user, timeout: Some(duration::format(timeout)) }),
        }
    }
}

impl From<&Check> for OneCheck {
    fn from(check: &Check) -> Self {
        let user = match &check.probe {
            Probe::Command(command) => command.user.clone(),
            Probe::Http(_) | Probe::Tcp(_) | Probe::Workers(_) => None,
        };
        let probe = check.probe.to_string();
        if user.is_none() && *check == Check::new(check.probe.clone()) {
            return Self::Short(probe);
        }
        let (timeout, interval) = (duration::format(check.timeout), duration::format(check.interval));
        let retries = Some(check.retries);
        Self::Long(LongCheck { probe, user, timeout: Some(timeout), retries, interval: Some(interval) })
    }
}

impl Commands<'_> {
    /// Checks the values of the set that `key` names.
    pub(super) fn read(self, key: &str) -> Result<SetCommands, ConfigError> {
        let value = |name: &str, text: &str| Written { text: text.to_owned(), key: format!("{key}: {name}") };
        let preset = match self.preset {
            None => SetCommands::default(),
            Some(name) => {
                let names = Preset::ALL.map(Preset::name).join(", ");
                let unknown = || value("preset", name).wrong(format!("'{name}' is not one of: {names}"));
                Preset::named(name).ok_or_else(unknown)?.commands()
            }
        };
        let user = |own: &Option<String>| own.as_ref().or(self.user).cloned();
        let time = |name: &str, text: &Option<String>, default| match text {
            None => Ok(default),
            Some(text) => match duration::parse(text) {
                Ok(Duration::ZERO) if name != "check: interval" => {
                    Err(value(name, text).wrong("it must be more than 0"))
                }
                parsed => parsed.map_err(|what| value(name, text).wrong(what)),
            },
        };
        let command = |name: &str, written: &OneCommand| {
            let (run, own, timeout) = match written {
                OneCommand::Short(run) => (run, &None, TIMEOUT),
                OneCommand::Long(long) => (&long.run, &long.user, time(name, &long.timeout, TIMEOUT)?),
            };
            if run.trim().is_empty() {
                return Err(value(name, run).wrong("an empty command; remove the key"));
            }
            Ok(Command { run: run.clone(), user: user(own), timeout })
        };
        let probe = |text: &str, own: &Option<String>| {
            let wrong = |error| value("check", text).wrong(error);
            if text.trim().is_empty() {
                return Err(value("check", text).wrong("an empty check; remove the key"));
            }
            Ok(match Probe::parse(text).map_err(wrong)? {
                Probe::Command(command) => Probe::Command(Command { user: user(own), ..command }),
                other => other,
            })
        };
        let check = |written: &OneCheck| match written {
            OneCheck::Short(text) => Ok(Check::new(probe(text, &None)?)),
            OneCheck::Long(long) => {
                let usual = Check::new(probe(&long.probe, &long.user)?);
                Ok(Check {
                    timeout: time("check: timeout", &long.timeout, usual.timeout)?,
                    retries: long.retries.unwrap_or(usual.retries),
                    interval: time("check: interval", &long.interval, usual.interval)?,
                    ..usual
                })
            }
        };
        let own = SetCommands {
            validate: self.validate.map(|written| command("validate", written)).transpose()?,
            reload: self.reload.map(|written| command("reload", written)).transpose()?,
            checks: self.check.map(Checks::all).unwrap_or_default().iter().map(check).collect::<Result<_, _>>()?,
        };
        Ok(own.or(preset))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file::parse;

    /// The commands of a set with these lines.
    fn read(text: &str) -> Result<SetCommands, String> {
        let text = format!("[[set]]\nname = 'web'\npath = '/srv/web'\n{text}");
        let file = parse(Path::new("agent.toml"), &text).map_err(|error| error.to_string())?;
        file.set[0].commands().read("[[set]] number 1").map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_is_a_command_and_a_table_says_more() {
        let commands =
            read("user = 'www'\nvalidate = 'nginx -t'\nreload = { run = 'r', user = 'root', timeout = '5s' }").unwrap();
        assert_eq!(commands.validate, Some(Command { user: Some("www".into()), ..Command::new("nginx -t") }));
        let reload = Command { user: Some("root".into()), timeout: Duration::from_secs(5), ..Command::new("r") };
        assert_eq!((commands.reload, commands.checks), (Some(reload), Vec::new()));
        let check = read("check = { probe = 'tcp://127.0.0.1:80', retries = 1, interval = '10ms', timeout = '1s' }");
        let (timeout, interval) = (Duration::from_secs(1), Duration::from_millis(10));
        let expected = Check { probe: Probe::Tcp("127.0.0.1:80".into()), timeout, retries: 1, interval };
        assert_eq!(check.unwrap().checks, [expected]);
        let several = read("check = ['workers:/run/x.pid', { probe = 'http://x/', retries = 0 }]").unwrap().checks;
        assert_eq!(several[0], Check::new(Probe::Workers("/run/x.pid".into())));
        assert_eq!((several.len(), several[1].retries), (2, 0));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let texts = [
            "preset = 'nginx'",
            "user = 'www'\nvalidate = 'v'\ncheck = 'c'",
            "check = ['workers:/run/x.pid', { probe = 'http://x/', retries = 0 }]",
            "reload = { run = 'r', timeout = '1500ms' }\ncheck = { probe = 'http://x/', retries = 0 }",
        ];
        for text in texts {
            let commands = read(text).unwrap();
            let validate = commands.validate.as_ref().map(OneCommand::from);
            let (reload, check) = (commands.reload.as_ref().map(OneCommand::from), Checks::of(&commands.checks));
            let (validate, reload, check) = (validate.as_ref(), reload.as_ref(), check.as_ref());
            let written = Commands { validate, reload, check, ..Commands::default() };
            assert_eq!(written.read("").unwrap(), commands, "{text}");
        }
    }

    #[test]
    fn a_preset_stands_for_the_keys_that_are_not_there() {
        let commands = read("preset = 'nginx'\nreload = 'mine'").unwrap();
        assert_eq!(commands.reload, Some(Command::new("mine")));
        assert_eq!(commands.validate, Preset::Nginx.commands().validate);
        assert_eq!(read(""), Ok(SetCommands::default()));
    }

    #[test]
    fn each_wrong_value_is_named_with_its_key() {
        for (text, named) in [
            ("preset = 'iis'", "preset: 'iis' is not one of: nginx, haproxy, apache"),
            ("validate = ''", "validate: an empty command"),
            ("reload = { run = 'x', timeout = '0s' }", "reload: it must be more than 0"),
            ("reload = { run = 'x', timeout = '5' }", "reload: '5' is not a duration"),
            ("check = 'https://x/'", "check: a check over https is a command"),
            ("check = { probe = 'x', interval = 'soon' }", "check: interval: 'soon' is not a duration"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(read("check = { url = 'http://x/' }").is_err());
    }
}
