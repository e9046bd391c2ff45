//! Tokens, and the servers that enter with them.

use bellwether_proto::{token::Token, v1};
use tonic::Code;

use super::{
    member::{Player, token},
    runtime, says,
};
use crate::farm::{DEADLINE, Farm, Server, one, wait_for};

fn ready() -> Farm {
    let farm = Farm::plan().members(1).start_with(|manager: &Server| manager.write("index.html", "the manager's"));
    farm.wait_in_sync();
    farm
}

/// Requests a preview and an entry; both are refused with the same words.
fn refused(case: &str, player: &Player, token: &Token, request: &v1::EnterRequest, code: Code, words: &[&str]) {
    let (entered, previewed) = runtime().block_on(async {
        let mut client = player.client(token).await;
        let previewed = client.preview(request.clone()).await.map(drop);
        (client.enter(request.clone()).await.map(drop), previewed)
    });
    for answer in [entered, previewed] {
        let status = answer.expect_err(case);
        says(case, status.message(), words);
        assert_eq!(status.code(), code, "{case}: {status:?}");
    }
}

#[test]
fn a_token_that_is_not_good_admits_nobody() {
    let farm = ready();
    let player = Player::new("joiner");
    let good = token(&farm, &["--names", "join*"]);
    let short = token(&farm, &["--ttl", "1s"]);
    let revoked = token(&farm, &[]);
    farm.manager().command(&["token", "revoke", &revoked.id]).success();
    let start = std::time::Instant::now();
    let request = |token: &Token| player.request(token);
    let mut wrong = request(&good);
    wrong.secret = "0".repeat(64).into();
    refused("a wrong secret", &player, &good, &wrong, Code::PermissionDenied, &["not known here"]);
    wrong.secret = vec![b'x'; 1 << 20].into();
    refused("a huge secret", &player, &good, &wrong, Code::Unknown, &["length limit exceeded"]);
    let wrong = v1::EnterRequest { token_id: "nosuch".into(), ..request(&good) };
    refused("a wrong id", &player, &good, &wrong, Code::PermissionDenied, &["not known here"]);
    refused("revoked", &player, &good, &request(&revoked), Code::PermissionDenied, &["was revoked"]);
    let wrong = v1::EnterRequest { server: "other".into(), ..request(&good) };
    refused("outside the glob", &player, &good, &wrong, Code::PermissionDenied, &["'join*'", "'other'"]);
    for name in ["../x", "", "joiner\n", "join er"] {
        let wrong = v1::EnterRequest { server: name.into(), ..request(&good) };
        refused("a name that is none", &player, &good, &wrong, Code::InvalidArgument, &["not a server name"]);
    }
    let wrong = v1::EnterRequest { sets: Vec::new(), ..request(&good) };
    refused("no sets", &player, &good, &wrong, Code::FailedPrecondition, &["no path for set web"]);
    for address in ["nowhere", ":7440", "host:0", "a b:7", "host:99999"] {
        let wrong = v1::EnterRequest { address: address.into(), ..request(&good) };
        refused("an address that is none", &player, &good, &wrong, Code::FailedPrecondition, &["is not an address"]);
    }
    let wrong = v1::EnterRequest { address: format!("{}:7440", "x".repeat(5_000)), ..request(&good) };
    refused("an endless address", &player, &good, &wrong, Code::FailedPrecondition, &["is not an address"]);
    wait_for("the token's last second to pass", DEADLINE, || {
        let passed = start.elapsed();
        if passed.as_millis() > 1_100 { Ok(()) } else { Err(format!("{passed:?}")) }
    });
    refused("expired", &player, &good, &request(&short), Code::PermissionDenied, &["has expired"]);
    assert!(one(&farm.status(), "joiner").is_none(), "nobody entered");
    runtime().block_on(player.enter(&good)).expect("after all that, the good token admits");
    assert!(one(&farm.status(), "joiner").is_some());
}

#[test]
fn a_use_belongs_to_the_first_key_that_presents_it() {
    let farm = ready();
    let token = token(&farm, &["--uses", "1"]);
    let (first, second) = (Player::new("first"), Player::new("second"));
    let enter = |player: &Player| runtime().block_on(player.enter(&token));
    let entered = enter(&first).expect("the first");
    let again = enter(&first).expect("the same key again");
    assert_eq!(entered.record, again.record, "a replay changes nothing");
    refused("used up", &second, &token, &second.request(&token), Code::PermissionDenied, &["was used by first"]);
    // It has the token and the name of the first server, but another key.
    let thief = v1::EnterRequest { server: "first".into(), ..second.request(&token) };
    refused("a stolen token", &second, &token, &thief, Code::PermissionDenied, &["was used by first"]);
    assert!(one(&farm.status(), "second").is_none());
}

#[test]
fn nobody_takes_anothers_name_key_or_address() {
    let farm = ready();
    let token = token(&farm, &["--uses", "5"]);
    let player = Player::new("joiner");
    let request = player.request(&token);
    for name in ["manager", "member1"] {
        let wrong = v1::EnterRequest { server: name.into(), ..request.clone() };
        refused(
            "another's name",
            &player,
            &token,
            &wrong,
            Code::FailedPrecondition,
            &[name, "belongs to another server's key"],
        );
    }
    for server in [farm.manager(), farm.member(1)] {
        let wrong = v1::EnterRequest { address: server.listen.clone(), ..request.clone() };
        refused(
            "another's address",
            &player,
            &token,
            &wrong,
            Code::FailedPrecondition,
            &[&server.listen, &server.name],
        );
    }
    runtime().block_on(player.enter(&token)).expect("its own name and address");
    let renamed = v1::EnterRequest { server: "renamed".into(), ..request };
    refused("a second name", &player, &token, &renamed, Code::FailedPrecondition, &["is known as joiner, not renamed"]);
    farm.manager().write("index.html", "still publishing");
    farm.wait_same(farm.member(1));
}
