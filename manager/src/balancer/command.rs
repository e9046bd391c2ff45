//! A balancer behind a command of agent.toml. The environment carries the request, the exit status says whether it
//! succeeded, and the last line of `status` gives the server's standing. `status` also verifies each change.

use bellwether_local::process::Program;
use bellwether_proto::{balancer::Traffic, name::BalancerName};
use tokio::time::{Instant, sleep};

use super::{
    Patience,
    fault::Fault,
    local::LocalCommand,
    rules::{Entry, Standing, Who},
};

/// One balancer's command.
#[derive(Debug)]
pub(super) struct Hook<'a> {
    pub(super) balancer: &'a BalancerName,
    pub(super) local: &'a LocalCommand,
    pub(super) patience: Patience,
}

impl Hook<'_> {
    pub(super) async fn drain(&self, who: &Who) -> Result<Vec<Entry>, Fault> {
        if who.traffic == Traffic::None {
            return Ok(Vec::new());
        }
        self.run("drain", who).await?;
        let entries = self.status(who).await?;
        match entries.iter().find(|entry| !matches!(entry.standing, Standing::Drained | Standing::Maintenance)) {
            Some(entry) => Err(ignored(entry, "drained")),
            None => Ok(entries),
        }
    }

    pub(super) async fn ready(&self, who: &Who) -> Result<Vec<Entry>, Fault> {
        let before = self.status(who).await?;
        if let Some(entry) = before.iter().find(|entry| entry.standing == Standing::Maintenance) {
            return Err(Fault::Maintenance(entry.place.clone()));
        }
        if before.is_empty() {
            return Ok(before);
        }
        self.run("ready", who).await?;
        let began = Instant::now();
        loop {
            let entries = self.status(who).await?;
            match entries.iter().find(|entry| entry.standing != Standing::Serving) {
                None => return Ok(entries),
                // Its checks have to succeed first.
                Some(Entry { standing: Standing::Down, .. }) if began.elapsed() < self.patience.up => {}
                Some(entry) => return Err(ignored(entry, "ready")),
            }
            sleep(self.patience.poll).await;
        }
    }

    /// The server's standing; empty if the balancer does not have it.
    pub(super) async fn status(&self, who: &Who) -> Result<Vec<Entry>, Fault> {
        if who.traffic == Traffic::None {
            return Ok(Vec::new());
        }
        let printed = self.run("status", who).await?;
        let line = printed.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let status = read(line).ok_or_else(|| Fault::Status {
            command: self.local.command.clone(),
            line: line.chars().take(200).collect(),
        })?;
        let entry = |(standing, sessions)| Entry {
            place: who.name.to_string(),
            standing,
            sessions,
            note: line.chars().take(200).collect(),
        };
        Ok(status.map(entry).into_iter().collect())
    }

    /// Asks the command whether it could work.
    pub(super) async fn probe(&self) -> Result<(), Fault> {
        self.run_for("probe", String::new(), String::new()).await.map(drop)
    }

    async fn run(&self, action: &str, who: &Who) -> Result<String, Fault> {
        let places: Vec<_> = match &who.traffic {
            Traffic::At(places) => places.iter().map(ToString::to_string).collect(),
            Traffic::ByName | Traffic::None => Vec::new(),
        };
        self.run_for(action, who.name.to_string(), places.join(" ")).await
    }

    async fn run_for(&self, action: &str, server: String, backend: String) -> Result<String, Fault> {
        let environment = [
            ("BELLWETHER_ACTION", action.to_owned()),
            ("BELLWETHER_BALANCER", self.balancer.to_string()),
            ("BELLWETHER_SERVER", server),
            ("BELLWETHER_BACKEND", backend),
        ];
        let LocalCommand { command, timeout } = self.local;
        let program = Program { command, environment: &environment, user: None, limit: *timeout };
        let ended = program.run().await.map_err(|source| Fault::Start { command: command.clone(), source })?;
        if ended.well {
            return Ok(ended.stdout);
        }
        let output = ended.output();
        Err(Fault::Command { what: "its command", command: format!("{action}: {command}"), how: ended.how, output })
    }
}

fn ignored(entry: &Entry, wanted: &'static str) -> Fault {
    Fault::Ignored { place: entry.place.clone(), wanted, found: entry.note.clone() }
}

/// Parses `drained 3`: the standing and the sessions. An inner none means absent.
fn read(line: &str) -> Option<Option<(Standing, u64)>> {
    let mut words = line.split_whitespace();
    let standing = match words.next()? {
        "serving" => Standing::Serving,
        "drained" => Standing::Drained,
        "maintenance" => Standing::Maintenance,
        "down" => Standing::Down,
        "absent" => return words.next().is_none().then_some(None),
        _ => return None,
    };
    let sessions = words.next().map_or(Ok(0), str::parse).ok()?;
    words.next().is_none().then_some(Some((standing, sessions)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_status_is_a_word_and_a_number() {
        assert_eq!(read("serving"), Some(Some((Standing::Serving, 0))));
        assert_eq!(read("drained 3"), Some(Some((Standing::Drained, 3))));
        assert_eq!(read("absent"), Some(None));
        for line in ["", "ok", "drained three", "drained 3 4", "absent 1", "drained -1"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    fn who(backends: &[&str]) -> Who {
        let backends: Vec<_> = backends.iter().map(|text| (*text).to_owned()).collect();
        Who { name: "web1".parse().unwrap(), traffic: Traffic::parse(&backends).unwrap() }
    }

    /// A balancer made of files in a directory.
    async fn with(script: &str, test: impl AsyncFnOnce(&Hook<'_>, &std::path::Path)) {
        let directory = tempfile::tempdir().unwrap();
        let command = format!("cd {} && {script}", directory.path().display());
        let local = LocalCommand { command, timeout: Duration::from_secs(30) };
        let balancer: BalancerName = "f5".parse().unwrap();
        let patience = Patience { poll: Duration::from_millis(5), ..Patience::default() };
        test(&Hook { balancer: &balancer, local: &local, patience }, directory.path()).await;
    }

    const BALANCER: &str = r#"
        case $BELLWETHER_ACTION in
            drain) echo "drained 2" > $BELLWETHER_SERVER; echo "$BELLWETHER_BALANCER $BELLWETHER_BACKEND" > asked;;
            ready) echo serving > $BELLWETHER_SERVER;;
            status) echo looking; cat $BELLWETHER_SERVER 2>/dev/null || echo absent;;
        esac"#;

    #[tokio::test]
    async fn it_is_told_what_to_do_and_asked_whether_it_did() {
        with(BALANCER, async |hook, directory| {
            let web1 = who(&["app/web1", "static/web1"]);
            assert_eq!(hook.status(&web1).await.unwrap(), []);
            let drained = hook.drain(&web1).await.unwrap();
            assert_eq!((drained[0].standing, drained[0].sessions), (Standing::Drained, 2));
            assert_eq!(std::fs::read_to_string(directory.join("asked")).unwrap(), "f5 app/web1 static/web1\n");
            assert_eq!(hook.ready(&web1).await.unwrap()[0].standing, Standing::Serving);
            assert_eq!(hook.drain(&who(&["none"])).await.unwrap(), []);
        })
        .await;
    }

    #[tokio::test]
    async fn a_server_that_is_still_down_is_waited_for() {
        let script = r#"
            case $BELLWETHER_ACTION in
                status) echo >> looks; [ $(wc -l < looks) -gt 3 ] && echo serving || echo down;;
            esac"#;
        with(script, async |hook, _| {
            assert_eq!(hook.ready(&who(&[])).await.unwrap()[0].standing, Standing::Serving);
        })
        .await;
    }

    #[tokio::test]
    async fn what_it_says_is_believed_more_than_its_exit_status() {
        with("[ $BELLWETHER_ACTION = status ] && echo serving; true", async |hook, _| {
            let error = hook.drain(&who(&[])).await.unwrap_err();
            assert!(matches!(error, Fault::Ignored { wanted: "drained", .. }), "{error}");
        })
        .await;
        with("[ $BELLWETHER_ACTION = status ] && echo 'maintenance by hand' || exit 9", async |hook, _| {
            let error = hook.ready(&who(&[])).await.unwrap_err();
            assert!(matches!(error, Fault::Status { .. }), "{error}");
        })
        .await;
    }

    #[tokio::test]
    async fn a_command_that_fails_says_what_it_printed() {
        with("echo no route to f5 >&2; exit 4", async |hook, _| {
            let said = hook.drain(&who(&[])).await.unwrap_err().to_string();
            assert!(said.contains("exit status: 4") && said.contains("no route to f5"), "{said}");
        })
        .await;
    }
}
