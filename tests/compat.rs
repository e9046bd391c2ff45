//! What each closed level wrote is read by every later program: `tests/compat/level-N` has the state directories of a manager
//! and of a member of a small farm, their sets, and the hellos that they would say. Private keys in there open nothing.
//!
//! `BELLWETHER_WRITE_COMPAT=1 cargo test --test farm compat::` writes those of the present level anew, until it is closed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bellwether_daemon::state::identity;
use bellwether_group::halt::{Halt, Proof};
use bellwether_manager::{begin, procedures::store::ProcedureStore};
use bellwether_proto::{
    key::KeyPair,
    level::{Level, Levels},
    name::{ServerName, SetName},
    protocol,
    record::{SetRules, SignedRecord},
    revision::{Epoch, Number, SignedHeader},
    ticket::{Parties, Ticket},
    v1,
};
use bellwether_store::{
    history::History,
    index,
    quarantine::{self, End, Ends},
    root::Roots,
    state::layout::{Held, Layout},
    underway::Suspect,
};
use prost::Message;

use crate::farm::{Farm, Server, run};

/// The variable that has the present level's files written.
const WRITE: &str = "BELLWETHER_WRITE_COMPAT";
/// What is not kept of a state directory: a lock, and a cache that is as large as its table.
const NOT_KEPT: [&str; 2] = ["lock", "outlines"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compat")
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-r").arg("--no-target-directory").arg(from).arg(to)).success();
}

/// The levels whose files this program reads, with their directories.
fn levels() -> Vec<(Level, PathBuf)> {
    let level = |level| (Level(level), root().join(format!("level-{level}")));
    let levels: Vec<_> = (Level::OLDEST.0..=Level::NEWEST.0).map(level).collect();
    if std::env::var_os(WRITE).is_some() {
        let (_, newest) = levels.last().expect("a level");
        write(newest);
    }
    // A level that is not closed yet may have no files; the first one has.
    let kept: Vec<_> = levels.into_iter().filter(|(_, directory)| directory.exists()).collect();
    assert!(!kept.is_empty(), "no files of any level are in {}", root().display());
    kept
}

/// A scratch copy of a server's golden state directory.
fn scratch(directory: &Path, server: &str) -> (tempfile::TempDir, Layout) {
    let home = tempfile::tempdir().expect("a directory");
    copy(&directory.join(server).join("state"), &home.path().join("state"));
    private(&home.path().join("state"));
    let layout = Layout::new(home.path().join("state"));
    (home, layout)
}

/// Files of a repository are everybody's to read; a state directory's are not.
fn private(state: &Path) {
    run(Command::new("chmod").args(["-R", "go="]).arg(state)).success();
}

/// Runs a small farm through what leaves its traces in state files, and keeps those.
fn write(to: &Path) {
    let mut farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("index.html", "<p>one</p>");
        manager.write("conf.d/app.conf", "server 10.0.0.1;\n".repeat(200));
    });
    farm.manager().command(&["group", "set", "--exclude", "web=*.bak", "--min-serving", "0"]).success();
    // The chain of records: the role goes and comes back.
    farm.manager().command(&["promote", "member1"]).success();
    farm.led_by(1);
    farm.wait_equal();
    farm.server(1).command(&["promote", "manager"]).success();
    farm.led_by(0);
    farm.wait_equal();
    farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    farm.manager().command(&["maintenance", "finish", "member1", "--yes"]).success();
    farm.token(&["--uses", "2", "--names", "web*"]);
    // An increment on a base, one of its chunks a patch.
    farm.manager().write("conf.d/app.conf", "server 10.0.0.1;\n".repeat(200) + "# changed\n");
    farm.wait_equal();
    for server in [1, 0] {
        let server = farm.server_mut(server);
        server.stop();
        let kept = to.join(&server.name);
        if kept.exists() {
            fs::remove_dir_all(&kept).expect("the files before");
        }
        fs::create_dir_all(&kept).expect("a directory");
        copy(&server.state(), &kept.join("state"));
        copy(server.set("web"), &kept.join("web"));
        for name in NOT_KEPT {
            let _ = fs::remove_file(kept.join("state").join(name));
        }
    }
    write_hellos(to);
    let others = to.join("others");
    fs::create_dir_all(&others).expect("a directory");
    let mut ends = Ends::default();
    for time_ms in 1..=3 {
        let suspects = vec![Suspect::Pack("1.7".to_owned()), Suspect::Peer("member1".to_owned())];
        ends.note(End { time_ms, task: "role".to_owned(), what: "it ended unasked".to_owned(), suspects });
    }
    quarantine::save(&others, &ends).expect("written");
    begin::halt::save(&others, &a_halt()).expect("written");
}

fn a_halt() -> Halt {
    let proof = Proof::Revision(Number { epoch: Epoch(3), sequence: 7 });
    Halt::new("member1".parse().expect("a name"), proof)
}

/// A server's record, key and newest revision, from its state directory.
fn kept(directory: &Path, server: &str) -> (Held, KeyPair, SignedHeader) {
    let (home, layout) = scratch(directory, server);
    let held = layout.held().expect("a record that is read").expect("a record");
    let key = identity::load(&layout).expect("a key that is read").expect("a key");
    let history = History::open(&layout.history()).expect("a history that is read");
    let head = history.head().expect("a revision").header.clone();
    drop(home);
    (held, key, head)
}

fn parties(held: &Held, member: &KeyPair) -> Parties {
    let record = held.current.record();
    Parties { group: record.group, server: member.public(), manager: record.manager().key }
}

/// The hellos that the two would say.
fn write_hellos(to: &Path) {
    let ((held, manager, head), (_, member, at)) = (kept(to, "manager"), kept(to, "member1"));
    let epoch = held.current.record().version.epoch;
    let ticket = Ticket::issue(&parties(&held, &member), epoch, 9, &manager).to_wire();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (protocol_min, protocol) = protocol::SPOKEN;
    let down = v1::DownHello {
        protocol_min,
        protocol_max: protocol,
        record: Some(held.current.to_wire()),
        head: Some(head.to_wire()),
        chain: held.chain.iter().map(SignedRecord::to_wire).collect(),
        incarnation: 3,
        ticket: Some(ticket.clone()),
        version: version.clone(),
    };
    let up = v1::UpHello {
        protocol,
        protocol_min,
        server: "member1".to_owned(),
        version,
        level_oldest: Level::OLDEST.0,
        level_newest: Level::NEWEST.0,
        at: Some(at.to_wire()),
        epoch: epoch.0,
        ticket: Some(ticket),
        seen: vec![at.to_wire()],
        ..v1::UpHello::default()
    };
    fs::write(to.join("down-hello"), down.encode_to_vec()).expect("written");
    fs::write(to.join("up-hello"), up.encode_to_vec()).expect("written");
}

#[test]
fn what_each_level_wrote_is_read() {
    for (level, directory) in levels() {
        for server in ["manager", "member1"] {
            state_is_read(level, &directory, server);
        }
        hellos_are_read(level, &directory);
        let others = directory.join("others");
        assert_eq!(quarantine::load(&others).expect("read").held.len(), 2, "{level}");
        assert_eq!(begin::halt::load(&others).expect("read"), Some(a_halt()), "{level}");
    }
}

fn state_is_read(level: Level, directory: &Path, server: &str) {
    let (_home, layout) = scratch(directory, server);
    layout.check_levels().expect("of levels that are read");
    let held = layout.held().expect("a record that is read").expect("a record");
    assert_eq!(held.current.record().level, level);
    assert!(held.chain.len() >= 3, "the chain of {server} has {} records", held.chain.len());
    let key = Arc::new(identity::load(&layout).expect("a key that is read").expect("a key"));
    let name: ServerName = server.parse().expect("a name");
    let procedure_store = ProcedureStore::open(layout.procedures(), name, key).expect("procedures that are read");
    assert_eq!(procedure_store.document(held.current.record().group).procedures.len(), 2, "{server}");
    let history = History::open(&layout.history()).expect("a history that is read");
    assert_eq!(history.left_out(), [], "{server}");
    let head = history.head().expect("a head").header.clone();
    let tree = history.tree(head.id()).expect("its tree");
    assert_eq!(tree.root(), head.header().root, "{server}");
    let rules: Vec<Arc<SetRules>> = held.current.record().policy.sets.iter().cloned().map(Arc::new).collect();
    let index = index::read(&layout.index(), &rules).expect("an index that is read");
    assert_eq!(index.tree.root(), tree.root(), "{server}");
    let sets: Vec<SetName> = rules.iter().map(|rules| rules.name.clone()).collect();
    Roots::open(layout.state(), sets).expect("roots that are read");
}

fn hellos_are_read(level: Level, directory: &Path) {
    let ((held, manager, head), (_, member, _)) = (kept(directory, "manager"), kept(directory, "member1"));
    let bytes = |name: &str| fs::read(directory.join(name)).expect("a file");
    let down = v1::DownHello::decode(bytes("down-hello").as_slice()).expect("a hello");
    let up = v1::UpHello::decode(bytes("up-hello").as_slice()).expect("a hello");
    let side = |server, program, speaks| protocol::Side { server, program, speaks };
    let theirs = side("manager", &down.version, (down.protocol_min, down.protocol_max));
    protocol::negotiate(&side("member1", &up.version, (up.protocol_min, up.protocol)), &theirs).expect("they talk");
    let record = SignedRecord::from_wire(&down.record.expect("a record")).expect("it is read");
    assert_eq!(record, held.current);
    let chain: Result<Vec<_>, _> = down.chain.iter().map(SignedRecord::from_wire).collect();
    assert_eq!(chain.expect("it is read"), held.chain);
    let said = SignedHeader::from_wire(down.head.expect("a head")).expect("it is read");
    assert!(said == head && said.signed_by(&manager.public()));
    for ticket in [down.ticket, up.ticket] {
        let ticket = Ticket::from_wire(&ticket.expect("a ticket")).expect("it is read");
        assert!(ticket.is_of(&parties(&held, &member)));
    }
    assert!(Levels::from_wire(up.level_oldest, up.level_newest).read(level));
    SignedHeader::from_wire(up.at.expect("a revision")).expect("it is read");
}

/// A farm goes on from what a level left behind.
#[test]
fn a_farm_goes_on_from_the_state_that_each_level_wrote() {
    for (level, directory) in levels() {
        let mut farm = Farm::plan().members(1).unformed();
        for index in 0..2 {
            settle(farm.server(index), &directory);
        }
        farm.server_mut(0).start();
        for index in 0..2 {
            let server = farm.server(index);
            let arguments = ["server", "set", server.name.as_str(), "--address", &server.listen];
            farm.manager().command(&arguments).success();
        }
        farm.server_mut(1).start();
        let status = farm.wait_equal();
        assert_eq!(status.head.map(|head| head.epoch), Some(Epoch(3)), "{level}");
        farm.manager().command(&["procedure", "list"]).success().says(&["maintenance start member1"]);
        farm.manager().command(&["token", "list"]).success().says(&["web*"]);
        farm.manager().write("conf.d/app.conf", "server 10.0.0.2;\n");
        farm.wait_equal();
        farm.assert_equal();
        for index in 0..2 {
            let log = farm.server(index).read_log();
            for word in ["damaged", "newer bellwether", "is forgotten", "is not used", "scanned anew"] {
                assert!(!log.contains(word), "level {level}: '{word}' in {log}");
            }
        }
    }
}

/// Puts a level's state and set in the place of a server's, on this machine's ports.
fn settle(server: &Server, directory: &Path) {
    let from = directory.join(&server.name);
    copy(&from.join("state"), &server.state());
    private(&server.state());
    copy(&from.join("web"), server.set("web"));
    // It tells a place on the machine that wrote it.
    fs::remove_file(server.state().join("roots.json")).expect("removed");
    let quoted = |path: PathBuf| path.display().to_string();
    let top: BTreeMap<&str, String> = BTreeMap::from([
        ("name", server.name.clone()),
        ("listen", server.listen.clone()),
        ("advertise", server.listen.clone()),
        ("http", server.http.clone()),
        ("agent_check", server.agent_check.clone()),
        ("state_dir", quoted(server.state())),
        ("admin_socket", quoted(server.home.join("admin.sock"))),
    ]);
    let lines: String = top.iter().map(|(key, value)| format!("{key} = {value:?}\n")).collect();
    let set = format!("\n[[set]]\nname = \"web\"\npath = {:?}\n", quoted(server.set("web").to_owned()));
    fs::write(server.config(), lines + &set).expect("agent.toml");
}
