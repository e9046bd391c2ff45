//! What can be said of a set's commands without running them: whether their accounts, programs and pid files are there.

use std::time::Duration;

use crate::{
    check::Probe,
    process::Program,
    set::{Command, SetCommands},
};

/// How long the look for a program may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A command that cannot succeed as things are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `validate`, `reload` or `check`.
    pub step: &'static str,
    /// The finding, for people.
    pub what: String,
    /// The next action.
    pub todo: String,
    /// How sure it is.
    pub kind: Kind,
}

/// How sure a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command fails until something is changed.
    Fails,
    /// It depends on the service, or on the account that looks.
    MayFail,
}

impl SetCommands {
    /// The names of the keys that have a command.
    pub fn steps(&self) -> Vec<&'static str> {
        let has = [
            (self.validate.is_some(), "validate"),
            (self.reload.is_some(), "reload"),
            (!self.checks.is_empty(), "check"),
        ];
        has.into_iter().filter_map(|(has, step)| has.then_some(step)).collect()
    }

    /// The problems of all commands. A command that begins with more than the name of a program is not looked at.
    pub async fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (step, command) in [("validate", &self.validate), ("reload", &self.reload)] {
            if let Some(command) = command {
                problems.extend(command.problem(step).await);
            }
        }
        for check in &self.checks {
            match &check.probe {
                Probe::Command(command) => problems.extend(command.problem("check").await),
                Probe::Workers(pid) if !pid.exists() => problems.push(Problem {
                    step: "check",
                    what: format!("{} is not there", pid.display()),
                    todo: "start the service, or correct the path of its pid file".to_owned(),
                    kind: Kind::MayFail,
                }),
                Probe::Workers(_) | Probe::Http(_) | Probe::Tcp(_) => {}
            }
        }
        problems
    }
}

impl Command {
    async fn problem(&self, step: &'static str) -> Option<Problem> {
        let problem = |kind, what, todo: &str| Some(Problem { step, what, todo: todo.to_owned(), kind });
        let user = self.user.as_deref();
        if let Some(name) = user.filter(|name| uzers::get_user_by_name(*name).is_none()) {
            let what = format!("this server has no user '{name}'");
            return problem(Kind::Fails, what, "make the account, or correct `user` in agent.toml");
        }
        let program = program(&self.run)?;
        let command = format!("command -v {program}");
        let whose = user.map(|user| format!(" as user {user}")).unwrap_or_default();
        match (Program { command: &command, environment: &[], user, limit: LIMIT }.run().await) {
            Ok(ended) if ended.well => None,
            Ok(_) => {
                let what = format!("`{}`: the program {program} is not there or may not be run{whose}", self.run);
                problem(Kind::Fails, what, "install it, or correct the command in agent.toml")
            }
            Err(error) => {
                let what = format!("`{}`: it cannot be tried{whose}: {error}", self.run);
                problem(Kind::MayFail, what, "give this command as root")
            }
        }
    }
}

/// The program that a shell's command begins with; none: it begins with something else.
fn program(command: &str) -> Option<&str> {
    let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./+-".contains(&byte));
    let assigns = |word: &str| word.split_once('=').is_some_and(|(name, value)| plain(name) && plain(value));
    let mut words = command.split_whitespace().skip_while(|word| matches!(*word, "!" | "exec") || assigns(word));
    words.next().filter(|word| plain(word) && !word.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    #[test]
    fn the_program_of_a_command_is_its_first_plain_word() {
        for (command, named) in [
            ("nginx -t -q", Some("nginx")),
            ("  /usr/sbin/haproxy -c", Some("/usr/sbin/haproxy")),
            ("LANG=C ! grep -n x", Some("grep")),
            ("if true; then x; fi", Some("if")),
            ("$HOME/x", None),
            ("(cd /; x)", None),
            ("LANG='a b' x", None),
            ("", None),
        ] {
            assert_eq!(program(command), named, "{command}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_a_problem() {
        let commands = SetCommands {
            validate: Some(Command::new("no-such-program -t")),
            reload: Some(Command { user: Some("no-such-user".into()), ..Command::new("true") }),
            checks: vec![Check::new(Probe::parse("workers:/nowhere/pid").unwrap())],
        };
        assert_eq!(commands.steps(), ["validate", "reload", "check"]);
        let found: Vec<_> = commands.problems().await.into_iter().map(|p| (p.step, p.kind, p.what)).collect();
        assert_eq!(
            found,
            [
                (
                    "validate",
                    Kind::Fails,
                    "`no-such-program -t`: the program no-such-program is not there or may not be run".to_owned()
                ),
                ("reload", Kind::Fails, "this server has no user 'no-such-user'".to_owned()),
                ("check", Kind::MayFail, "/nowhere/pid is not there".to_owned()),
            ]
        );
        let fine = SetCommands {
            validate: Some(Command::new("! grep x /dev/null")),
            reload: Some(Command::new("kill -USR2 1")),
            checks: vec![Check::new(Probe::parse("http://127.0.0.1/").unwrap())],
        };
        assert_eq!(fine.problems().await, []);
    }
}
