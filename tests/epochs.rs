//! A candidate that is not to be trusted uses the epochs up, or takes the role. No server accepts a record that jumps, and
//! root rebuilds the group without its key: at one server, and by a token at each other one. The test plays the hostile
//! candidate, with the real key of a server that was stopped.

use std::fs;

use bellwether_daemon::{net::tls, state::identity};
use bellwether_proto::{
    key::KeyPair,
    limits,
    name::ServerName,
    record::{Role, SignedRecord},
    revision::Epoch,
    status::State,
    v1::{self, group_client::GroupClient},
};
use bellwether_store::state::layout::Layout;
use tokio::runtime::Runtime;

use crate::farm::{DEADLINE, Farm, Server, one, wait_for};

/// The context of the records' signatures.
const CONTEXT: &str = "bellwether v1 group record";

/// A stopped server whose key is in hostile hands.
struct Hostile {
    key: KeyPair,
    name: ServerName,
    /// The newest record that it has made or held.
    held: SignedRecord,
    /// The records before that.
    chain: Vec<SignedRecord>,
    runtime: Runtime,
}

impl Hostile {
    fn play(server: &mut Server) -> Self {
        server.kill();
        let layout = Layout::new(server.state());
        let key = identity::load(&layout).expect("readable").expect("a key");
        let held = layout.held().expect("readable").expect("a group");
        let runtime = Runtime::new().expect("a runtime");
        Self { key, name: server.name.parse().expect("a name"), held: held.current, chain: held.chain, runtime }
    }

    /// Takes the role by `by` epochs, with no candidate that could take it back.
    fn take_over(&mut self, by: u64) {
        let mut record = self.held.record().clone();
        for server in &mut record.servers {
            server.role = if server.name == self.name { Role::Manager } else { Role::Member };
            server.candidate = server.name == self.name;
        }
        record.version.epoch = Epoch(record.version.epoch.0 + by);
        record.version.version = 1;
        let next = SignedRecord::sign(record, &self.key).expect("a record that keeps the rules");
        self.chain.extend([self.held.clone(), next.clone()]);
        self.held = next;
    }

    /// The wire form of the record in force with another epoch, against the rules of signing.
    fn with_epoch(&self, epoch: u64) -> v1::SignedRecord {
        let mut record = self.held.record().clone();
        for server in &mut record.servers {
            server.role = if server.name == self.name { Role::Manager } else { Role::Member };
        }
        record.version.epoch = Epoch(epoch);
        let json = serde_json::to_string(&record).expect("JSON");
        let signature = self.key.sign(CONTEXT, json.as_bytes()).to_vec();
        let signer = bytes::Bytes::copy_from_slice(self.key.public().as_bytes());
        v1::SignedRecord { record: json.into(), signer, signature: signature.into() }
    }

    /// Tells `server` these records, and returns its answer.
    fn tell(&self, server: &Server, links: Vec<v1::SignedRecord>) -> Result<(), String> {
        let layout = Layout::new(server.state());
        let expected = identity::load(&layout).expect("readable").expect("a key").public();
        self.runtime.block_on(async {
            let channel = tls::connect(&self.key, &server.listen, expected).await.map_err(|e| e.to_string())?;
            let told = GroupClient::new(channel).tell(tokio_stream::iter(links)).await;
            told.map(drop).map_err(|status| status.message().to_owned())
        })
    }

    fn tell_all(&self, server: &Server) -> Result<(), String> {
        let links = self.chain.iter().chain([&self.held]).map(SignedRecord::to_wire).collect();
        self.tell(server, links)
    }
}

/// The epoch of the record in force at that server.
fn epoch(server: &Server) -> u64 {
    let held = Layout::new(server.state()).held().expect("readable").expect("a group");
    held.current.record().version.epoch.0
}

/// The token that a rebuild printed.
fn token(said: &str) -> String {
    let found = said.split_whitespace().find(|word| word.starts_with("rebuilt-"));
    found.unwrap_or_else(|| panic!("no token in: {said}")).to_owned()
}

fn farm(members: usize) -> Farm {
    Farm::plan().members(members).start_with(|manager| manager.write("index.html", "one"))
}

#[test]
fn a_record_that_uses_the_epochs_up_is_taken_by_nobody_and_a_candidate_can_still_take_over() {
    let mut farm = farm(2);
    let hostile = Hostile::play(farm.server_mut(2));
    let before = epoch(farm.server(0));
    for server in [farm.server(0), farm.server(1)] {
        for jump in [before + limits::EPOCH_STEP + 1, 1 << 32, limits::COUNT] {
            let refused = hostile.tell(server, vec![hostile.with_epoch(jump)]).expect_err("a jump");
            assert!(refused.contains("leads to epoch 65 at most"), "{refused}");
        }
        for beyond in [limits::COUNT + 1, u64::MAX - 1, u64::MAX] {
            let refused = hostile.tell(server, vec![hostile.with_epoch(beyond)]).expect_err("beyond all epochs");
            assert!(refused.contains("greater than there can be"), "{refused}");
        }
        assert_eq!(epoch(server), before, "{}", server.name);
    }
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(1));
    // In spite of its records, another server can lead: W24.
    farm.server_mut(0).kill();
    farm.server(1)
        .command(&["promote", "--self", "--yes"])
        .success()
        .says(&["member1 is the manager (group record 3.1)"]);
}

#[test]
fn root_takes_the_group_back_from_a_hostile_candidate_server_by_server() {
    let mut farm = farm(3);
    let mut hostile = Hostile::play(farm.server_mut(3));
    let key = hostile.key.public().to_string();
    farm.manager().write("index.html", "before");
    farm.wait_same(farm.server(1));
    farm.wait_same(farm.server(2));

    // member2 hears nothing. The two others follow the takeover, and member1 also the next one: it has seen epoch 129.
    farm.server_mut(2).kill();
    hostile.take_over(limits::EPOCH_STEP);
    for index in [0, 1] {
        hostile.tell_all(farm.server(index)).expect("a takeover by a candidate");
    }
    wait_for("the old manager follows", DEADLINE, || {
        let status = farm.server(0).status()?;
        if status.manager.as_str() == "member3" { Ok(()) } else { Err(status.manager.to_string()) }
    });
    farm.server_mut(0).kill();
    hostile.take_over(limits::EPOCH_STEP);
    hostile.tell_all(farm.server(1)).expect("the next one");
    farm.server_mut(1).kill();
    farm.server_mut(0).start();
    farm.server(0).command(&["promote", "--self", "--force", "--yes"]).refused().says(&["not a candidate"]);

    // The rebuild is given at one server.
    let at = farm.server(0);
    at.command(&["group", "rebuild", "--refuse", "no key", "--yes"]).exits(2);
    let own = identity::load(&Layout::new(at.state())).expect("readable").expect("a key").public().to_string();
    at.command(&["group", "rebuild", "--refuse", &own, "--yes"]).refused().says(&["is the key of this server"]);
    let plan = at.command(&["group", "rebuild", "--refuse", &key, "--dry-run"]).success();
    plan.says(&["is the last that counts", "group record 65.1, in which member3 leads", "member3 is removed"]);
    assert_eq!(epoch(at), 65, "only a plan");
    let said = at.command(&["group", "rebuild", "--refuse", &key, "--yes"]).success();
    let given = token(&said.stdout);
    assert!(given.len() <= 140, "{given}");
    farm.wait_leads(0);
    assert_eq!(epoch(farm.server(0)), 67);
    // The same command prints the token again.
    let again = farm.server(0).command(&["group", "rebuild", "--refuse", &key, "--yes"]).success();
    assert_eq!(token(&again.stdout), given);
    // Records that the key signs, or that others make after them, are not followed any more.
    hostile.take_over(limits::EPOCH_STEP);
    let refused = hostile.tell_all(farm.server(0)).expect_err("a key that is refused");
    assert!(refused.contains("not a server of this group") || refused.contains("was removed"), "{refused}");

    // No message overrides the epoch that the others have seen, so they show the decision to make.
    farm.server_mut(1).start();
    farm.server_mut(2).start();
    for index in [1, 2] {
        let server = farm.server(index);
        wait_for(&format!("{} showing the rebuilt group", server.name), DEADLINE, || {
            let status = server.status()?;
            let reason = one(&status, "manager").and_then(|shown| shown.reason.clone()).unwrap_or_default();
            if index == 2 || reason.contains("group rebuild --confirm TOKEN") { Ok(()) } else { Err(reason) }
        });
    }
    assert_eq!((epoch(farm.server(1)), epoch(farm.server(2))), (129, 1));

    // The token is confirmed at each other server: by an agent, which goes back from epoch 129, and by the command alone.
    let wrong = given.replacen("rebuilt-", "rebuilt-A", 1);
    farm.server(1).command(&["group", "rebuild", "--confirm", &wrong, "--yes"]).exits(2);
    let planned = farm.server(1).command(&["group", "rebuild", "--confirm", &given, "--dry-run"]).success();
    planned.says(&[
        "manager has rebuilt the group",
        "which is member3",
        "this server follows member3 by group record 129.1",
    ]);
    let confirmed = farm.server(1).command_with_input(&["group", "rebuild", "--yes", "--confirm"], &given).success();
    confirmed.says(&["this server follows manager"]);
    farm.server_mut(2).kill();
    farm.server(2).command(&["group", "rebuild", "--confirm", &given, "--yes"]).success().says(&["bellwether serve"]);
    farm.server_mut(2).start();
    farm.server(2).command(&["group", "rebuild", "--confirm", &given, "--yes"]).success();

    // The servers come together, and stay so.
    farm.manager().write("index.html", "after");
    for index in [1, 2] {
        farm.wait_same(farm.server(index));
        farm.wait_server(farm.server(index), "in sync", |server| server.state == State::InSync);
        assert_eq!(epoch(farm.server(index)), 67);
        let refused = hostile.tell_all(farm.server(index)).expect_err("a key that is refused");
        assert!(refused.contains("not a server of this group") || refused.contains("was removed"), "{refused}");
    }
    let kept = fs::read_dir(farm.server(1).state().join("recovery")).expect("kept copies");
    let kept: Vec<_> = kept.filter_map(Result::ok).map(|point| point.file_name()).collect();
    assert!(kept.iter().any(|name| name == "refused-epoch-129"), "{kept:?}");
    assert!(one(&farm.status(), "member3").is_none(), "it is no server of the group");
    // A restart changes nothing.
    farm.server_mut(1).kill();
    farm.server_mut(1).start();
    farm.manager().write("index.html", "and on");
    farm.wait_same(farm.server(1));
    farm.assert_equal();
}
