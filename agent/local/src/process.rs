//! Runs a local command in a process group that does not outlive its time limit; its output is kept, with a limit. If
//! systemd runs this agent, the command is a unit of its own, free of the agent's restrictions.

use std::{
    io,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bellwether_store::mutex::locked;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

/// The most bytes of output that are kept: the last ones show the failure.
const KEPT: usize = 16 << 10;
/// The time that its background processes may keep the output open.
const LINGER: Duration = Duration::from_secs(1);

/// The end of a command.
#[derive(Debug)]
pub struct Ended {
    /// Exit status 0, in time.
    pub well: bool,
    /// A description: `ended with exit status 1`.
    pub how: String,
    /// The end of its standard output.
    pub stdout: String,
    /// The end of its standard error.
    pub stderr: String,
}

impl Ended {
    /// Its output, for people.
    pub fn output(&self) -> String {
        let both = [self.stderr.trim(), self.stdout.trim()];
        both.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

/// Kills the whole group if this is dropped before the command has ended.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // An error means that it is gone.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes a command a unit.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

/// A command that is to be run in a shell, without input.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// For the shell.
    pub command: &'a str,
    /// Variables, beside the agent's own.
    pub environment: &'a [(&'a str, String)],
    /// The account that runs it; none: the agent's.
    pub user: Option<&'a str>,
    /// How long it may take.
    pub limit: Duration,
}

impl Program<'_> {
    /// Runs it to its end. If this future is dropped, the command is killed.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn run(self) -> io::Result<Ended> {
        // systemd is the system's first process, and has started this agent.
        let unit = Path::new("/run/systemd/system").is_dir() && std::env::var_os("INVOCATION_ID").is_some();
        let maker = unit.then_some(Path::new(SYSTEMD_RUN)).filter(|maker| maker.exists());
        self.run_by(maker).await
    }

    /// The command to start: in a unit that `maker` makes, or as a child.
    fn shell(self, maker: Option<&Path>) -> io::Result<Command> {
        let Some(maker) = maker else {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", self.command]).envs(self.environment.iter().map(|(key, value)| (key, value)));
            if let Some(name) = self.user {
                let user = uzers::get_user_by_name(name);
                let user = user.ok_or_else(|| io::Error::other(format!("this server has no user '{name}'")))?;
                shell.uid(user.uid()).gid(user.primary_group_id());
            }
            return Ok(shell);
        };
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let mut unit = Command::new(maker);
        unit.args(["--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", "--working-directory=/"])
            .arg(format!("--unit=bellwether-command-{}-{number}", std::process::id()))
            // Only systemd can end it: this process is not its parent.
            .arg(format!("--property=RuntimeMaxSec={}", self.limit.as_secs().saturating_add(1)))
            .args(["--property=TimeoutStopSec=1", "--property=KillSignal=SIGKILL"])
            .args(self.user.map(|user| format!("--uid={user}")))
            .args(self.environment.iter().map(|(key, value)| format!("--setenv={key}={value}")))
            .args(["--", "/bin/sh", "-c", self.command]);
        Ok(unit)
    }

    async fn run_by(self, maker: Option<&Path>) -> io::Result<Ended> {
        let mut child = self
            .shell(maker)?
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (stdout, stderr) = (tail(child.stdout.take()), tail(child.stderr.take()));
        let (well, how) = end(&mut child, &mut group, self.limit).await?;
        Ok(Ended { well, how, stdout: printed(stdout).await, stderr: printed(stderr).await })
    }
}

async fn end(child: &mut Child, group: &mut Group, limit: Duration) -> io::Result<(bool, String)> {
    let Ok(status) = timeout(limit, child.wait()).await else {
        group.kill();
        child.wait().await?;
        return Ok((false, format!("did not end within {} s and was killed", limit.as_secs_f32())));
    };
    // Its background processes are left alone.
    group.0 = None;
    let status = status?;
    Ok((status.success(), format!("ended with {status}")))
}

/// Reads to the end and keeps the last bytes.
fn tail(from: Option<impl AsyncRead + Unpin + Send + 'static>) -> Tail {
    let kept = std::sync::Arc::new(std::sync::Mutex::new(Kept::default()));
    let keeping = kept.clone();
    let reading = tokio::spawn(async move {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; 8 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            locked(&keeping).push(&buffer[..read]);
        }
    });
    Tail { kept, reading }
}

/// The last bytes of an output.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Earlier bytes were dropped.
    is_cut: bool,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let over = self.bytes.len().saturating_sub(KEPT);
        self.is_cut |= over > 0;
        self.bytes.drain(..over);
    }

    /// Without the rest of a line, or else of a word, whose beginning was dropped: it might be the end of a secret, which is no
    /// longer recognised.
    fn whole(&self) -> &[u8] {
        let after = |end: fn(&u8) -> bool| self.bytes.iter().position(end).map(|at| &self.bytes[at + 1..]);
        match self.is_cut {
            false => &self.bytes,
            true => after(|byte| *byte == b'\n').or_else(|| after(u8::is_ascii_whitespace)).unwrap_or_default(),
        }
    }
}

struct Tail {
    kept: std::sync::Arc<std::sync::Mutex<Kept>>,
    reading: JoinHandle<()>,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The output until its end, or until a background process has kept it open for too long.
async fn printed(mut tail: Tail) -> String {
    let _ = timeout(LINGER, &mut tail.reading).await;
    let kept = locked(&tail.kept);
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    String::from_utf8_lossy(kept.whole()).chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    fn program(command: &str) -> Program<'_> {
        Program { command, environment: &[], user: None, limit: LIMIT }
    }

    #[tokio::test]
    async fn status_output_and_environment() {
        let ended =
            Program { environment: &[("WORD", "hello".to_owned())], ..program("echo $WORD; echo oops >&2; exit 3") };
        let ended = ended.run().await.unwrap();
        assert!(!ended.well);
        assert_eq!((ended.stdout.trim(), ended.stderr.trim()), ("hello", "oops"));
        assert_eq!(ended.how, "ended with exit status: 3");
        assert_eq!(ended.output(), "oops\nhello");
        assert!(program("true").run().await.unwrap().well);
    }

    #[test]
    fn the_kept_output_begins_with_a_whole_line() {
        let kept = |pieces: &[&[u8]]| {
            let mut kept = Kept::default();
            pieces.iter().for_each(|piece| kept.push(piece));
            String::from_utf8(kept.whole().to_owned()).unwrap()
        };
        assert_eq!(kept(&[b"one\n", b"two"]), "one\ntwo");
        let many = b"a line\n".repeat(KEPT);
        assert!(kept(&[&many]).starts_with("a line\na line\n") && kept(&[&many]).len() > KEPT - 10);
        assert_eq!(kept(&[&vec![b'x'; KEPT], b" last"]), "last");
        assert_eq!(kept(&[&vec![b'x'; KEPT + 1]]), "");
    }

    /// The real one needs systemd as the first process; this one records its arguments and runs the command.
    #[tokio::test]
    async fn where_systemd_runs_the_agent_a_command_is_a_unit_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (maker, asked) = (directory.path().join("systemd-run"), directory.path().join("asked"));
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > {}\n\
             while [ \"$1\" != -- ]; do case $1 in --setenv=*) export \"${{1#--setenv=}}\";; esac; shift; done\n\
             shift; exec \"$@\"\n",
            asked.display()
        );
        std::fs::write(&maker, script).unwrap();
        std::fs::set_permissions(&maker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let environment = [("WORD", "two words".to_owned())];
        let ended = Program { environment: &environment, ..program("echo $WORD; exit 3") };
        let ended = ended.run_by(Some(&maker)).await.unwrap();
        assert_eq!((ended.well, ended.stdout.trim()), (false, "two words"));
        assert_eq!(ended.how, "ended with exit status: 3");
        let asked = std::fs::read_to_string(&asked).unwrap();
        for word in ["--wait", "--pipe", "--collect", "--unit=bellwether-command-", "--property=RuntimeMaxSec=121"] {
            assert!(asked.contains(word), "no {word} in: {asked}");
        }
    }

    #[tokio::test]
    async fn only_the_end_of_much_output_is_kept() {
        let ended = program("yes word | head -c 1000000; echo the end").run().await.unwrap();
        assert!(ended.well && ended.stdout.ends_with("the end\n") && ended.stdout.len() <= KEPT, "{}", ended.how);
    }

    #[tokio::test]
    async fn its_whole_group_is_killed_when_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 600' & wait", pid.display());
        // Retried with more time if the machine is too busy to begin the script.
        let mut limit = Duration::from_millis(500);
        while !pid.exists() {
            assert!(limit < LIMIT, "the script does not begin");
            let ended = Program { limit, ..program(&script) }.run().await.unwrap();
            assert!(!ended.well && ended.how.contains("was killed"), "{}", ended.how);
            limit *= 2;
        }
        let child: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            // Its new parent has not reaped it yet.
            Ok(stat) => stat.rsplit(") ").next().is_some_and(|state| state.starts_with('Z')),
            Err(_) => true,
        };
        let waiting = async {
            while !gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, waiting).await.expect("the child of the command is killed, too");
    }

    #[tokio::test]
    async fn who_stays_in_the_background_is_not_waited_for() {
        let ended = timeout(LIMIT, program("echo done; sleep 600 &").run()).await.expect("it ends").unwrap();
        assert!(ended.well);
        assert_eq!(ended.stdout, "done\n");
    }
}
