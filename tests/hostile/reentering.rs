//! A member that tries to halt its manager: it enters again and again, and shows every ticket and header that it can get. At
//! most it is kept out itself.

use std::time::Duration;

use bellwether_daemon::state::identity;
use bellwether_proto::{
    hash::Hash,
    key::KeyPair,
    record::{Record, RecordRefused, Version, stale_session},
    revision::{Epoch, Header, Number, SignedHeader},
    status::State,
    ticket::{Parties, Ticket},
    token::Token,
    v1::{self, down, up},
};
use bellwether_store::state::layout::Layout;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tonic::{Code, Status};

use super::{
    manager::fill,
    member::{Call, Player, token},
    runtime, says,
};
use crate::farm::{DEADLINE, Farm, one, wait_for};

/// The time limit for a session.
const PATIENCE: Duration = Duration::from_secs(60);

/// An attacker's message at the beginning of a session.
#[derive(Clone)]
enum Said {
    /// This message with its held ticket, like a good member's.
    Good(v1::UpHello),
    Hello(v1::UpHello),
    Refusal(Status),
}

/// A member that sends any message, session by session.
struct Attacker {
    player: Player,
    token: Token,
    /// The number of its present message, and the message.
    says: watch::Sender<(u64, Said)>,
    /// The number of a sent message, and the offered ticket, once the manager has answered or hung up.
    judged: mpsc::UnboundedReceiver<(u64, Ticket)>,
}

/// Answers every stream of the manager with the present message.
async fn serve(
    mut calls: mpsc::Receiver<Call>,
    mut says: watch::Receiver<(u64, Said)>,
    judged: mpsc::UnboundedSender<(u64, Ticket)>,
) {
    let mut held = None;
    while let Some(mut call) = calls.recv().await {
        let Ok(Some(v1::Down { message: Some(down::Message::Hello(down)) })) = call.downs.message().await else {
            continue;
        };
        let offered = down.ticket.expect("a ticket");
        let (number, said) = says.borrow_and_update().clone();
        match said {
            Said::Good(hello) => call.say(up::Message::Hello(v1::UpHello { ticket: held.take(), ..hello })).await,
            Said::Hello(hello) => call.say(up::Message::Hello(hello)).await,
            Said::Refusal(status) => call.refuse(status).await,
        };
        held = Some(offered.clone());
        // The message after the hello, or the end, shows that the hello was judged.
        let _ = call.downs.message().await;
        let _ = judged.send((number, Ticket::from_wire(&offered).expect("a ticket")));
        tokio::select! {
            _ = says.changed() => {}
            () = call.read_to_the_end() => {}
        }
    }
}

impl Attacker {
    fn enter(farm: &Farm, name: &str) -> Self {
        let (player, token) = (Player::new(name), token(farm, &[]));
        let (says, said) = watch::channel((0, Said::Good(player.hello())));
        let (judged_to, judged) = mpsc::unbounded_channel();
        runtime().block_on(async {
            let calls = player.listen().await;
            tokio::spawn(serve(calls, said, judged_to));
            player.enter(&token).await.expect("entered");
        });
        Self { player, token, says, judged }
    }

    fn enter_again(&self) {
        runtime().block_on(self.player.enter(&self.token)).expect("its key may show the token again");
    }

    /// Begins a session with that message, waits until the manager has judged it, and returns the offered ticket.
    fn say(&mut self, said: Said) -> Ticket {
        self.says.send_modify(|says| *says = (says.0 + 1, said));
        let number = self.says.borrow().0;
        runtime().block_on(async {
            loop {
                let judged = tokio::time::timeout(PATIENCE, self.judged.recv()).await.expect("the manager dials");
                let (said, offered) = judged.expect("it listens");
                if said == number {
                    return offered;
                }
            }
        })
    }

    fn session(&mut self, edit: impl FnOnce(&mut v1::UpHello)) -> Ticket {
        let mut hello = self.player.hello();
        edit(&mut hello);
        self.say(Said::Hello(hello))
    }

    /// Refuses a session with that ticket as the proof.
    fn refuse(&mut self, shown: &Ticket) {
        let version = Version { epoch: Epoch(1), version: 1 };
        let details = stale_session(version, Some(shown.to_wire()));
        self.say(Said::Refusal(Status::with_details(Code::FailedPrecondition, "your state went back", details)));
    }

    /// Sessions like a good member's; returns their tickets, oldest first.
    fn collect(&mut self, count: usize) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> = Vec::new();
        while tickets.len() < count {
            let offered = self.say(Said::Good(self.player.hello()));
            // The ticket is offered again if the beginning of a session was lost.
            if tickets.last() != Some(&offered) {
                tickets.push(offered);
            }
        }
        tickets
    }
}

/// Asserts that the farm goes on: a change reaches the real member, and nothing is halted, now or at the next start.
fn goes_on(farm: &Farm, case: &str) {
    farm.manager().write("index.html", format!("after {case}"));
    farm.wait_same(farm.member(1));
    assert!(!farm.manager().state().join("halted.json").exists(), "{case}: the manager is halted");
    let own = farm.status_of(farm.manager());
    assert_ne!(own.state, State::Error, "{case}: {:?}", own.reason);
}

/// Asserts that the attacker is kept out, and no other server.
fn only_itself(farm: &Farm, attacker: &Attacker, case: &str) {
    let name = &attacker.player.name;
    let shown = wait_for(&format!("{case}: {name} kept out"), DEADLINE, || {
        let status = farm.status();
        let server = one(&status, name).cloned().ok_or("not there")?;
        if server.state == State::Error { Ok(server) } else { Err(format!("{server:?}")) }
    });
    says(case, &shown.reason.unwrap_or_default(), &["is kept out", "went back"]);
    goes_on(farm, case);
}

fn record(farm: &Farm) -> Record {
    let shown = farm.manager().command(&["group", "show", "--json"]).success();
    serde_json::from_str(&shown.stdout).expect("a record")
}

#[test]
fn w14_a_member_that_enters_again_and_shows_its_oldest_ticket_halts_nobody() {
    let farm = Farm::plan().members(1).start_with(fill);
    let mut attacker = Attacker::enter(&farm, "again");
    let tickets = attacker.collect(4);
    let counts: Vec<u64> = tickets.iter().map(Ticket::count).collect();
    assert!(counts.is_sorted_by(|a, b| a < b), "{counts:?}");
    for (n, ticket) in tickets[..3].iter().enumerate() {
        attacker.enter_again();
        let next = attacker.session(|hello| hello.ticket = Some(ticket.to_wire()));
        assert!(next.count() > counts[3], "entering resets no count: {}", next.count());
        only_itself(&farm, &attacker, &format!("ticket {n} after an entry"));
        attacker.enter_again();
        attacker.refuse(ticket);
        goes_on(&farm, &format!("a refusal by ticket {n}"));
    }
    // It enters many times at once, while sessions begin.
    runtime().block_on(async {
        let client = attacker.player.client(&attacker.token).await;
        let mut enters = JoinSet::new();
        for _ in 0..20 {
            let (mut client, request) = (client.clone(), attacker.player.request(&attacker.token));
            enters.spawn(async move { client.enter(request).await });
        }
        for entered in enters.join_all().await {
            entered.expect("entered");
        }
    });
    let last = attacker.session(|hello| hello.ticket = Some(tickets[0].to_wire()));
    assert!(last.count() > counts[3]);
    goes_on(&farm, "many entries");
    // It comes without a state, like a machine that left and joined again, which is no fault.
    attacker.enter_again();
    attacker.session(|_| {});
    goes_on(&farm, "an entry without a state");
}

/// Every ticket and header that it can get or make, in a hello and in a refusal.
#[test]
fn w14_what_others_were_given_and_what_is_forged_proves_nothing() {
    let farm = Farm::plan().members(1).start_with(fill);
    let (mut attacker, mut other) = (Attacker::enter(&farm, "attacker"), Attacker::enter(&farm, "other"));
    attacker.collect(2);
    let theirs = other.collect(3).pop().expect("three");
    let record = record(&farm);
    // The manager's key signed these elsewhere: in another group, in an earlier epoch, for another server.
    let manager = identity::load(&Layout::new(farm.manager().state())).expect("readable").expect("a key");
    let (forger, own) = (KeyPair::generate(), attacker.player.key.public());
    let parties = Parties { group: record.group, server: own, manager: manager.public() };
    let epoch = record.version.epoch;
    let before = Epoch(epoch.0 - 1);
    let tickets = [
        ("another server's ticket", theirs),
        (
            "a ticket of another group",
            Ticket::issue(&Parties { group: [9; 16].into(), ..parties }, epoch, 99, &manager),
        ),
        ("a ticket of an epoch before", Ticket::issue(&parties, before, 99, &manager)),
        ("a ticket of an epoch to come", Ticket::issue(&parties, Epoch(9), 99, &manager)),
        ("a stranger's ticket", Ticket::issue(&parties, epoch, 99, &forger)),
        ("its own ticket", Ticket::issue(&parties, epoch, 99, &attacker.player.key)),
    ];
    for (case, ticket) in &tickets {
        attacker.session(|hello| hello.ticket = Some(ticket.to_wire()));
        only_itself(&farm, &attacker, case);
        attacker.refuse(ticket);
        goes_on(&farm, case);
    }
    let header = |group, epoch, sequence, key: &KeyPair| {
        let header = Header {
            group,
            number: Number { epoch, sequence },
            parent: None,
            manager: record.manager().name.clone(),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: String::new(),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        SignedHeader::sign(header, key).to_wire()
    };
    let headers = [
        ("a header of another group", header([9; 16].into(), epoch, 99, &manager)),
        ("a header of another epoch", header(record.group, Epoch(9), 99, &manager)),
        ("a header of its own", header(record.group, epoch, 99, &attacker.player.key)),
        ("a header that is none", v1::SignedHeader { header: vec![0xff; 100].into(), signature: vec![0; 64].into() }),
    ];
    for (case, header) in headers {
        attacker.session(|hello| hello.seen = vec![header.clone(); 100]);
        goes_on(&farm, case);
        attacker.session(|hello| hello.at = Some(header));
        goes_on(&farm, case);
    }
    attacker.session(|hello| hello.incarnation = u64::MAX);
    attacker.session(|hello| hello.epoch = u64::MAX);
    attacker.session(|hello| hello.incarnation = 1);
    goes_on(&farm, "starts and epochs without end");
    // The same attack, with the words of another manager.
    let (theirs, ours) = (Version { epoch: Epoch(u64::MAX), version: u64::MAX }, record.version);
    let details = RecordRefused::Older { theirs: ours, ours: theirs }.details();
    attacker.say(Said::Refusal(Status::with_details(Code::FailedPrecondition, "a newer record", details)));
    goes_on(&farm, "a refusal by a record that nobody has");
}

/// A removed server attacks: its key comes back by another token, under another name.
#[test]
fn w14_a_key_that_comes_back_under_another_name_halts_nobody() {
    let farm = Farm::plan().members(1).start_with(fill);
    let mut attacker = Attacker::enter(&farm, "first");
    let tickets = attacker.collect(3);
    farm.manager().command(&["server", "remove", "first", "--yes"]).success();
    let refused = runtime().block_on(attacker.player.enter(&attacker.token)).expect_err("removed");
    says("removed", refused.message(), &["removed", "join token"]);

    attacker.player.name = "second".to_owned();
    attacker.token = token(&farm, &[]);
    attacker.enter_again();
    let next = attacker.session(|hello| hello.ticket = Some(tickets[0].to_wire()));
    assert!(next.count() > tickets[2].count(), "the count goes on: {}", next.count());
    only_itself(&farm, &attacker, "its oldest ticket, under another name");
}
