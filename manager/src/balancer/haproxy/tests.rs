//! Runtime APIs that are down, silent, cut short, wrong or disobedient.

use std::{path::Path, sync::Arc, time::Duration};

use bellwether_proto::balancer::Traffic;
use tokio::{net::UnixListener, sync::Mutex, task::JoinHandle};

use super::*;

const HEADER: &str = "1\n# be_name srv_name srv_op_state srv_admin_state srv_uweight\n";

/// The answer of a fake to a command, by the number of earlier ones.
type Says = Box<dyn Fn(&str, usize) -> Option<String> + Send + Sync>;

struct Fake {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn socket(directory: &Path) -> std::path::PathBuf {
    directory.join("admin.sock")
}

impl Fake {
    /// `None`: it does not answer, and keeps the connection open.
    fn new(says: impl Fn(&str, usize) -> Option<String> + Send + Sync + 'static) -> Self {
        let says: Says = Box::new(says);
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(directory.path())).unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = asked.clone();
        let task = tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = [0; 200];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let command = String::from_utf8_lossy(&bytes[..read]).trim().to_owned();
                let mut seen = seen.lock().await;
                let before = seen.len();
                seen.push(command.clone());
                match says(&command, before) {
                    Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                    None => silent.push(stream),
                }
            }
        });
        Self { directory, asked, task }
    }

    fn api(&self) -> Api {
        api(&format!("unix:{}", socket(self.directory.path()).display()), LONG)
    }

    /// One with short limits.
    fn hasty_api(&self) -> Api {
        api(&format!("unix:{}", socket(self.directory.path()).display()), Duration::from_millis(50))
    }
}

/// A limit for a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn api(address: &str, limit: Duration) -> Api {
    let haproxy = Haproxy { address: address.parse().unwrap(), backends: Vec::new() };
    Api::new(haproxy, Patience { exchange: limit, poll: Duration::from_millis(5), up: limit })
}

fn web1() -> Who {
    Who { name: "web1".parse().unwrap(), traffic: Traffic::ByName }
}

/// A HAProxy with one server in a constant state.
fn always(operational: u32, admin: u32) -> impl Fn(&str, usize) -> Option<String> {
    move |command, _| {
        Some(match command {
            "show servers state" => format!("{HEADER}app web1 {operational} {admin} 1\n\n"),
            "show stat -1 4 -1" => "# pxname,svname,qcur,scur,status,\napp,web1,0,2,UP 1/3,\n\n".to_owned(),
            "show cli level" => "admin\n\n".to_owned(),
            _ => "\n".to_owned(),
        })
    }
}

#[tokio::test]
async fn a_balancer_that_is_not_there_is_named_with_its_address() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", socket(directory.path()).display());
    let fault = api(&address, LONG).drain(&web1()).await.unwrap_err();
    assert!(matches!(fault, Fault::Unreachable { .. }) && fault.to_string().contains(&address), "{fault}");
}

#[tokio::test]
async fn one_that_says_nothing_is_given_up() {
    let fake = Fake::new(|_, _| None);
    let fault = fake.hasty_api().drain(&web1()).await.unwrap_err();
    assert!(matches!(fault, Fault::Silent { .. }), "{fault}");
}

#[tokio::test]
async fn an_answer_without_its_end_is_not_believed() {
    for cut in ["", "1", HEADER, &format!("{HEADER}app web1 2 0 1\n")] {
        let cut = cut.to_owned();
        let fake = Fake::new(move |_, _| Some(cut.clone()));
        let fault = fake.api().lines().await.unwrap_err();
        assert!(matches!(fault, Fault::Cut(_)), "{fault}");
    }
}

#[tokio::test]
async fn an_answer_of_something_else_is_not_believed() {
    for rubbish in ["HTTP/1.0 400 Bad Request\r\nServer: x\n\n", "\n", "Unknown command.\n\n"] {
        let fake = Fake::new(|_, _| Some(rubbish.to_owned()));
        let fault = fake.api().lines().await.unwrap_err();
        assert!(matches!(fault, Fault::Rubbish { .. }), "{rubbish:?}: {fault}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let fake = Fake::new(|_, _| Some("x".repeat(ANSWER + 2)));
    let fault = fake.api().lines().await.unwrap_err();
    assert!(matches!(fault, Fault::TooLong { .. } | Fault::Silent { .. }), "{fault}");
}

#[tokio::test]
async fn a_command_that_is_ignored_is_noticed() {
    let fake = Fake::new(always(2, 0));
    let fault = fake.api().drain(&web1()).await.unwrap_err();
    assert!(matches!(fault, Fault::Ignored { wanted: "drained", .. }), "{fault}");
    assert!(fake.asked.lock().await.iter().any(|command| command == "set server app/web1 state drain"));
    let fake = Fake::new(always(2, 8));
    let fault = fake.api().ready(&web1()).await.unwrap_err();
    assert!(matches!(fault, Fault::Ignored { wanted: "ready", .. }), "{fault}");
}

#[tokio::test]
async fn a_command_that_is_refused_is_shown_with_the_answer() {
    let fake = Fake::new(|command, before| match command {
        "set server app/web1 state drain" => Some("No such server.\n\n".to_owned()),
        _ => always(2, 0)(command, before),
    });
    let fault = fake.api().drain(&web1()).await.unwrap_err();
    assert!(fault.to_string().contains("No such server."), "{fault}");
    let fake = Fake::new(|_, _| Some("Permission denied\n\n".to_owned()));
    assert!(matches!(fake.api().drain(&web1()).await.unwrap_err(), Fault::Level(_)));
}

#[tokio::test]
async fn maintenance_is_left_to_who_set_it() {
    let fake = Fake::new(always(0, 1));
    let drained = fake.api().drain(&web1()).await.unwrap();
    assert_eq!(drained[0].standing, Standing::Maintenance);
    assert!(matches!(fake.api().ready(&web1()).await.unwrap_err(), Fault::Maintenance(_)));
    let asked = fake.asked.lock().await;
    assert!(asked.iter().all(|command| command.starts_with("show ")), "{asked:?}");
}

#[tokio::test]
async fn what_is_so_already_is_not_set_again() {
    let fake = Fake::new(always(2, 8));
    assert_eq!(fake.api().drain(&web1()).await.unwrap()[0].sessions, 2);
    let fake_ready = Fake::new(always(2, 0));
    fake_ready.api().ready(&web1()).await.unwrap();
    for fake in [fake, fake_ready] {
        assert!(fake.asked.lock().await.iter().all(|command| command.starts_with("show ")));
    }
}

#[tokio::test]
async fn ready_waits_for_the_checks_and_says_what_they_say() {
    let fake = Fake::new(always(0, 0));
    let mut late = fake.api();
    late.patience.up = Duration::from_millis(1);
    let fault = late.ready(&web1()).await.unwrap_err();
    assert!(matches!(&fault, Fault::StillDown { note, .. } if note == "UP 1/3"), "{fault}");
    // Up at the third look.
    let fake = Fake::new(|command, before| always(if before < 6 { 0 } else { 2 }, 0)(command, before));
    assert_eq!(fake.api().ready(&web1()).await.unwrap()[0].standing, Standing::Serving);
}

#[tokio::test]
async fn a_probe_asks_for_the_level_and_for_the_backends() {
    let fake = Fake::new(always(2, 0));
    fake.api().probe().await.unwrap();
    let mut other = fake.api();
    other.haproxy.backends = vec!["static".parse().unwrap()];
    assert!(matches!(other.probe().await.unwrap_err(), Fault::NoBackend(_)));
    let fake = Fake::new(|_, _| Some("operator\n\n".to_owned()));
    assert!(matches!(fake.api().probe().await.unwrap_err(), Fault::Level(_)));
}
