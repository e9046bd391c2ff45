//! The steps of the demo. It uses a person's commands; only the measuring is its own code.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_monitor::{
    table::{described, problems, summary},
    text,
};
use bellwether_proto::status::{FarmStatus, RolloutState, RolloutStatus, State};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    arrival::{self, Arrivals, Expected},
    compare::compare,
    farm::{Farm, PATIENCE, Server, trouble},
    say::{Say, ms},
    tree,
};
use crate::{
    commands::status::{Feed, once},
    error::CommandError,
};

/// The number of files of the burst.
const BURST: usize = 200;

/// The measurements: the document of `demo --json`. Times are milliseconds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Measured {
    members: usize,
    files: u64,
    bytes: u64,
    /// The time from the first `join` until all were in sync.
    formed_ms: f64,
    /// The time from an edit at the manager until it was read on each member.
    change_ms: BTreeMap<String, f64>,
    burst_files: usize,
    burst_revisions: u64,
    /// The time from the burst's first write until its last file was read on the last member.
    burst_ms: f64,
    /// The time from the start of the killed member's agent until it had the change.
    catch_up_ms: f64,
    /// The time from a bad edit until its rollout had stopped; after it, no member had the edit.
    stopped_ms: f64,
    /// The number of files that were compared byte for byte, on all members together; all were equal.
    compared_files: u64,
}

/// The farm, and the state of the story.
pub(super) struct Story<'a> {
    pub(super) farm: &'a mut Farm,
    pub(super) say: Say,
    /// The edited file, below the set.
    edited: PathBuf,
    measured: Measured,
}

impl<'a> Story<'a> {
    /// Fills the manager's set: with a copy of `own`, or with a generated tree.
    pub(super) fn begin(farm: &'a mut Farm, say: Say, dir: &Path, own: Option<&Path>) -> Result<Self, CommandError> {
        let members = farm.members().len();
        say.step(&format!("A farm in {}: a manager and {members} members on the loopback", dir.display()));
        say.command(&format!("cd {}", dir.display()));
        let root = farm.manager().set().to_owned();
        let edited = match own {
            Some(own) => {
                let own = own.canonicalize().map_err(|e| trouble(format!("cannot use {}: {e}", own.display())))?;
                let copied = tree::copy(&own, &root, dir).map_err(|e| CommandError::failed(&e))?;
                let (files, bytes) = (copied.files, text::bytes(copied.bytes));
                say.result(&format!("{} is a copy of {}: {files} files, {bytes}", root.display(), own.display()));
                for left_out in copied.left_out {
                    say.result(&format!("left out {left_out}"));
                }
                "bellwether-demo.conf"
            }
            None => {
                tree::generate(&root).map_err(|e| CommandError::failed(&e))?;
                say.result(&format!("{} looks like nginx's configuration", root.display()));
                "nginx.conf"
            }
        };
        say.command(&format!("cat {}", farm.manager().file()));
        say.result(&fs::read_to_string(dir.join(farm.manager().file())).unwrap_or_default());
        Ok(Self { farm, say, edited: edited.into(), measured: Measured { members, ..Measured::default() } })
    }

    /// Runs all steps; afterwards the farm is in sync and runs.
    pub(super) async fn tell(mut self) -> Result<Measured, CommandError> {
        self.form().await?;
        self.change().await?;
        self.burst().await?;
        self.kill_and_catch_up().await?;
        self.bad_change().await?;
        self.verify()?;
        Ok(self.measured)
    }

    async fn form(&mut self) -> Result<(), CommandError> {
        let say = self.say;
        say.step("The manager: form the group, start its agent, make a token for the members");
        let manager = self.farm.manager().file();
        let printed = self.farm.run(&say, &["init", "--config", &manager, "--yes"]).await?;
        say.result(&printed.out);
        self.farm.serve(&say, 0).await?;
        let uses = self.measured.members.to_string();
        let printed =
            self.farm.run(&say, &["token", "create", "--uses", &uses, "--config", &manager, "--json"]).await?;
        let token = token(&printed.out)?;

        say.step("The members: join, start their agents; each is synced by itself");
        let begun = Instant::now();
        for index in 1..self.farm.servers.len() {
            let server = &self.farm.servers[index];
            fs::create_dir(server.set())
                .map_err(|e| trouble(format!("cannot make {}: {e}", server.set().display())))?;
            let file = server.file();
            let args = ["join", "--config", &file, "--yes"];
            let printed = self.farm.run_with(&say, &args, &token).await?;
            say.result(&printed.out);
            self.farm.serve(&say, index).await?;
        }
        let members = self.measured.members;
        let status = self
            .until(|status| {
                let in_sync = status.servers.iter().filter(|server| server.state == State::InSync).count();
                in_sync == members + 1
            })
            .await?;
        self.measured.formed_ms = milliseconds(begun.elapsed());
        self.wait().await?;
        say.result(&format!("{} after {}", summary(&status), ms(begun.elapsed())));
        Ok(())
    }

    /// Runs `bellwether wait`, until all are in sync at the head.
    async fn wait(&self) -> Result<(), CommandError> {
        let args = ["wait", "--timeout", "60s", "--config", &self.farm.manager().file()];
        self.say.result(&self.farm.run(&self.say, &args).await?.out);
        Ok(())
    }

    async fn change(&mut self) -> Result<(), CommandError> {
        self.say.step(&format!("An edit of {} at the manager", self.edited.display()));
        let times = self.edit_and_watch(1, 1..self.farm.servers.len()).await?;
        self.measured.change_ms = times;
        Ok(())
    }

    /// Edits the file as an editor does, and waits until the members of `range` have it.
    async fn edit_and_watch(
        &self,
        number: u32,
        range: std::ops::Range<usize>,
    ) -> Result<BTreeMap<String, f64>, CommandError> {
        let path = self.farm.manager().set().join(&self.edited);
        self.say.command(&format!("echo '# edit {number}' >> {}", path.display()));
        let mut content = fs::read(&path).unwrap_or_default();
        content.extend_from_slice(format!("# edit {number}\n").as_bytes());
        let content: Arc<[u8]> = content.into();
        let servers = &self.farm.servers[range];
        let since = Instant::now();
        let seen = arrival::watch(expected(servers, &self.edited, &content), since, PATIENCE);
        replace(&path, &content)?;
        let mut times = BTreeMap::new();
        for (server, time) in self.arrived(seen, &self.edited).await? {
            self.say.result(&format!("{server} has it after {}", ms(time)));
            times.insert(server, milliseconds(time));
        }
        Ok(times)
    }

    async fn burst(&mut self) -> Result<(), CommandError> {
        self.say.step(&format!("A burst: {BURST} new files at once"));
        let before = once(&self.farm.manager().common()).await?;
        let manager = self.farm.manager().set();
        let directory = manager.join("burst");
        let content = |number: usize| -> Arc<[u8]> { format!("# file {number} of the burst\n").into_bytes().into() };
        let name = |number: usize| PathBuf::from(format!("burst/{number:03}.conf"));
        let files = (0..BURST).flat_map(|n| expected(self.farm.members(), &name(n), &content(n))).collect();
        let since = Instant::now();
        let seen = arrival::watch(files, since, PATIENCE);
        fs::create_dir(&directory).map_err(|e| trouble(format!("cannot make {}: {e}", directory.display())))?;
        for number in 0..BURST {
            replace(&manager.join(name(number)), &content(number))?;
        }
        let written = since.elapsed();
        let mut last = Duration::ZERO;
        for (_, time) in self.arrived(seen, Path::new("burst")).await? {
            last = last.max(time);
        }
        let after = once(&self.farm.manager().common()).await?;
        let revisions = sequence(&after).saturating_sub(sequence(&before));
        self.say.result(&format!(
            "written in {}, on every member after {}, as {revisions} revision{}",
            ms(written),
            ms(last),
            if revisions == 1 { "" } else { "s" }
        ));
        self.measured.burst_files = BURST;
        self.measured.burst_revisions = revisions;
        self.measured.burst_ms = milliseconds(last);
        self.wait().await
    }

    async fn kill_and_catch_up(&mut self) -> Result<(), CommandError> {
        let last = self.farm.servers.len() - 1;
        let name = self.farm.servers[last].name.clone();
        self.say.step(&format!("{name} dies, a change is made meanwhile, it comes back"));
        self.say.command(&format!("kill -9 {}", self.farm.servers[last].pid().unwrap_or_default()));
        self.farm.kill(last).await;
        self.edit_and_watch(2, 1..last).await?;
        let lost = |status: &FarmStatus| {
            let server = status.servers.iter().find(|server| server.name.as_str() == name);
            server.is_some_and(|server| server.state == State::Unreachable && server.lag_revisions > 0)
        };
        let status = self.until(lost).await?;
        self.say.result(&summary(&status));
        self.say.result(&problems(&status).join("\n"));
        let path = self.farm.manager().set().join(&self.edited);
        let content: Arc<[u8]> = fs::read(&path).map_err(|e| trouble(format!("{}: {e}", path.display())))?.into();
        let since = Instant::now();
        let files = expected(&self.farm.servers[last..], &self.edited, &content);
        let seen = arrival::watch(files, since, PATIENCE);
        self.farm.serve(&self.say, last).await?;
        for (server, time) in self.arrived(seen, &self.edited).await? {
            self.say.result(&format!("{server} has it {} after its start", ms(time)));
            self.measured.catch_up_ms = milliseconds(time);
        }
        self.wait().await
    }

    /// The first member gets a command that validates. It refuses an edit, which then comes to no member, and is rolled back.
    async fn bad_change(&mut self) -> Result<(), CommandError> {
        let name = self.farm.servers[1].name.clone();
        self.say.step(&format!(
            "{name} gets a command that validates; a bad edit of {} stops there",
            self.edited.display()
        ));
        let (file, set) = (self.farm.servers[1].file(), self.farm.servers[1].set().to_owned());
        // What `nginx -t` is on a server with nginx.
        let line = format!("validate = \"! grep -n bogus {}\"\n", set.join(&self.edited).display());
        self.say.command(&format!("echo '{}' >> {file}", line.trim_end()));
        self.farm.configure(1, &line)?;
        self.say.command(&format!("kill -9 {}", self.farm.servers[1].pid().unwrap_or_default()));
        self.farm.kill(1).await;
        self.farm.serve(&self.say, 1).await?;
        self.wait().await?;
        let path = self.farm.manager().set().join(&self.edited);
        let good = fs::read(&path).map_err(|e| trouble(format!("{}: {e}", path.display())))?;
        self.say.command(&format!("echo 'bogus;' >> {}", path.display()));
        let since = Instant::now();
        replace(&path, &[&good[..], b"bogus;\n"].concat())?;
        let is_stopped = |rollout: &RolloutStatus| rollout.state == RolloutState::Stopped;
        let status = self.until(|status| status.rollout.as_ref().is_some_and(is_stopped)).await?;
        self.measured.stopped_ms = milliseconds(since.elapsed());
        let line = status.rollout.as_ref().map(|rollout| described(rollout, status.time_ms)).unwrap_or_default();
        self.say.result(&format!("after {}: {line}", ms(since.elapsed())));
        for member in self.farm.members() {
            if fs::read(member.set().join(&self.edited)).ok().as_ref() != Some(&good) {
                return Err(trouble(format!("{} does not have the content from before", member.name)));
            }
        }
        self.say.result("on every member the file is as before");
        let manager = self.farm.manager().file();
        self.say.result(&self.farm.run(&self.say, &["rollback", "--yes", "--config", &manager]).await?.out);
        self.wait().await
    }

    /// Compares every member's set with the manager's, byte for byte.
    fn verify(&mut self) -> Result<(), CommandError> {
        self.say.step("Byte for byte: names, kinds, modes, owners, links, times, contents");
        let manager = self.farm.manager().set();
        for member in self.farm.members() {
            let compared = compare(manager, member.set())
                .map_err(|e| trouble(format!("cannot compare {} with the manager: {e}", member.name)))?;
            if !compared.differences.is_empty() {
                let first: Vec<_> = compared.differences.iter().take(10).cloned().collect();
                let text = format!("{} differs from the manager in {} places", member.name, compared.differences.len());
                return Err(trouble(text).hint(first.join("\n")));
            }
            self.say.result(&format!(
                "{} is equal to the manager: {} entries, {} files, {}",
                member.name,
                compared.entries,
                compared.files,
                text::bytes(compared.bytes)
            ));
            (self.measured.files, self.measured.bytes) = (compared.files, compared.bytes);
            self.measured.compared_files += compared.files;
        }
        Ok(())
    }

    /// The times of all servers, or an error that names a server without `what`.
    async fn arrived(
        &self,
        seen: impl Future<Output = Arrivals>,
        what: &Path,
    ) -> Result<Vec<(String, Duration)>, CommandError> {
        let seen = tokio::select! {
            seen = seen => seen,
            error = self.farm.an_agent_ends() => return Err(error),
        };
        let late = |name: &str| {
            let server = self.farm.servers.iter().find(|server| server.name == name);
            let text = format!("{name} does not have {} after {} s", what.display(), PATIENCE.as_secs());
            trouble(text).hint(server.map(Server::log_end).unwrap_or_default())
        };
        seen.into_iter().map(|(name, time)| time.ok_or_else(|| late(&name)).map(|time| (name, time))).collect()
    }

    /// Follows the farm's status at the manager until `there`.
    async fn until(&self, there: impl Fn(&FarmStatus) -> bool) -> Result<FarmStatus, CommandError> {
        let mut last = None;
        let common = self.farm.manager().common();
        let follow = async {
            let mut feed = Feed::live(&common).await?;
            while let Some(status) = feed.next(&common).await? {
                if there(&status) {
                    return Ok(status);
                }
                last = Some(status);
            }
            Err(trouble("the manager's agent ended"))
        };
        let result = tokio::select! {
            result = timeout(PATIENCE, follow) => result,
            error = self.farm.an_agent_ends() => return Err(error),
        };
        result.unwrap_or_else(|_| {
            let seen = last.map(|status| format!("{}\n{}", summary(&status), problems(&status).join("\n")));
            let text = format!("the farm did not get there within {} s", PATIENCE.as_secs());
            Err(trouble(text).hint(seen.unwrap_or_else(|| "the manager's agent gave no status".to_owned())))
        })
    }
}

fn token(printed: &str) -> Result<String, CommandError> {
    let document: Option<serde_json::Value> = serde_json::from_str(printed).ok();
    let token = document.as_ref().and_then(|document| document.get("token")?.as_str());
    token.map(str::to_owned).ok_or_else(|| trouble("`token create --json` printed no token"))
}

fn expected(servers: &[Server], below: &Path, content: &Arc<[u8]>) -> Vec<Expected> {
    let one = |server: &Server| Expected {
        server: server.name.clone(),
        path: server.set().join(below),
        content: content.clone(),
    };
    servers.iter().map(one).collect()
}

/// Replaces a file as editors do: writes the new one beside the set and renames it.
fn replace(path: &Path, content: &[u8]) -> Result<(), CommandError> {
    let failed = |e: std::io::Error| trouble(format!("cannot write {}: {e}", path.display()));
    let set = path.ancestors().find(|at| at.parent().is_some_and(|above| above.join("agent.toml").exists()));
    let beside = set.unwrap_or(path).with_file_name("edit.tmp");
    fs::write(&beside, content).map_err(failed)?;
    if let Ok(metadata) = path.metadata() {
        fs::set_permissions(&beside, metadata.permissions()).map_err(failed)?;
    }
    fs::rename(&beside, path).map_err(failed)
}

/// Milliseconds, to a thousandth.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

fn sequence(status: &FarmStatus) -> u64 {
    status.head.map_or(0, |head| head.sequence)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_edit_keeps_the_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), "").unwrap();
        let set = dir.path().join("nginx");
        fs::create_dir_all(set.join("conf.d")).unwrap();
        let file = set.join("conf.d/a.conf");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(set.join("conf.d")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_token_is_that_of_the_document() {
        assert_eq!(token("{\"token\": \"bw1-x\", \"id\": \"y\"}").unwrap(), "bw1-x");
        assert!(token("{}").is_err() && token("bw1-x").is_err());
    }
}
