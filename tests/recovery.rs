//! W22–W25, W27: a serving machine is lost while clients ask, behind a real HAProxy with an nginx on each server; what a
//! person has to answer for is asked, and recorded.

use bellwether_proto::record::Role;
use serde_json::Value;

use crate::{
    balancers::{Client, Site},
    farm::{DEADLINE, Farm, wait_for},
    maintenance::{assert_in_service, is_done, procedure, ready, role, site, wait_procedure},
};

/// The machine loses its power: all that runs on it is gone at once. What clients had asked it for by then is lost; from
/// when HAProxy knows it, nothing is.
fn lose(farm: &mut Farm, site: &mut Site, index: usize, client: &Client) -> usize {
    let name = farm.server(index).name.clone();
    client.wait_from(&name);
    farm.server_mut(index).kill();
    site.nginx(&name).kill();
    wait_for(&format!("HAProxy giving {name} up"), DEADLINE, || match site.haproxy.status(&name).0 {
        status if status.starts_with("UP") => Err(status),
        _ => Ok(()),
    });
    let failed = client.wait_more(20).failures;
    assert!(failed.len() <= 4, "one for each connection at the most: {failed:?}");
    failed.len()
}

fn asks(shown: &Value, word: &str) -> bool {
    shown["doing"].as_str().is_some_and(|doing| doing.contains(word))
}

#[test]
fn w27_a_member_is_lost_and_comes_back_repaired() {
    let (mut farm, mut site) = site(2, "20s");
    let client = site.client();
    let failed = lose(&mut farm, &mut site, 1, &client);

    let said = farm.manager().command(&["recover", "member", "member1", "--yes"]).exits(5);
    said.says(&["drain member1", "is member1 off the network", "procedure resume p1 --attest"]);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Member), "nobody has answered yet");
    farm.manager().command(&["procedure", "resume", "p1"]).refused().says(&["--attest"]);
    let said = farm.manager().command(&["procedure", "resume", "p1", "--attest", "its plug is pulled"]).exits(5);
    said.says(&["disable member1", "is member1 repaired"]);
    assert_eq!(role(farm.manager(), "member1"), Some(Role::Disabled));
    farm.manager().write("index.html", "<p>written meanwhile</p>");
    farm.wait_same(farm.server(2));

    // The question is still asked after the engine was killed.
    farm.server_mut(0).kill();
    farm.server_mut(0).start();
    wait_procedure(farm.manager(), "p1", "asking", |shown| asks(shown, "repaired"));
    site.nginx("member1").revive();
    farm.server_mut(1).start();
    assert_ne!(ready(farm.server(1)).map(|(code, _)| code), Ok(200), "it is not back yet");
    let before = client.so_far().of("member1");
    let said = farm.manager().command(&["procedure", "resume", "p1", "--attest", "a new disk"]).success();
    said.says(&["sync member1", "undrain member1", "serves again"]);
    assert_in_service(&farm, &site, 1);
    farm.wait_equal();
    farm.assert_equal();
    client.wait_from("member1");
    assert!(client.so_far().of("member1") > before);
    farm.manager().command(&["procedure", "show", "p1"]).success().says(&["its plug is pulled", "a new disk"]);
    assert_eq!(client.stop().failures.len(), failed, "only what was in flight on the machine that was lost");
}

#[test]
fn w27_w22_an_attestation_that_is_given_at_once_is_recorded() {
    let (mut farm, mut site) = site(2, "20s");
    let client = site.client();
    let failed = lose(&mut farm, &mut site, 2, &client);
    let recover = ["recover", "member", "member2", "--remove", "--attest", "it burnt down", "--yes"];
    farm.manager().command(&recover).exits(5).says(&["remove member2", "is member2 repaired"]);
    let shown = procedure(farm.manager(), "p1");
    assert_eq!(shown["procedure"]["attestations"][0]["text"], "it burnt down");
    assert_eq!(role(farm.manager(), "member2"), None);
    farm.manager().command(&["procedure", "abort", "p1", "--yes"]).success().says(&["still removed: member2"]);
    assert_eq!(client.stop().failures.len(), failed);
    assert!(!is_done(&procedure(farm.manager(), "p1")));
}
