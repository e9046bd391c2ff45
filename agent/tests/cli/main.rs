//! The program's exit codes and its answers in JSON, for scripts.

mod debug;
mod program;
mod reference;

use program::{json, place, run};

#[test]
fn usage_is_2_and_json_says_so() {
    let (place, flags) = place();
    for line in
        ["", "frobnicate", "put --mode 9 a:b", "get nginx:../x", "token create --uses 0", "monitor --interval 0"]
    {
        assert_eq!(run(place.path(), &format!("{line} {flags}")).status.code(), Some(2), "{line}");
    }
    let output = run(place.path(), "--json frobnicate");
    assert_eq!((output.status.code(), &json(&output)["exit"]), (Some(2), &2.into()));
    assert_eq!(run(place.path(), "--help").status.code(), Some(0));
}

#[test]
fn without_an_agent_it_is_1_and_the_hint_says_what_to_do() {
    let (place, flags) = place();
    let output = run(place.path(), &format!("publish --json {flags}"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["hint"], "start it with `bellwether serve`");
    let output = run(place.path(), &format!("publish {flags}"));
    assert!(output.stdout.is_empty(), "an error in text goes to standard error");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no agent is running on this machine"));
}

#[test]
fn init_asks_forms_once_and_can_be_given_again() {
    let (place, flags) = place();
    let path = place.path().to_str().expect("UTF-8");
    let init = format!("init {flags} --json --name web1 --advertise web1:7440 --set site={path}/site");
    assert_eq!(run(place.path(), &init).status.code(), Some(3), "nobody can be asked");
    assert!(!place.path().join("agent.toml").exists());

    let formed = run(place.path(), &format!("{init} --yes"));
    assert_eq!((formed.status.code(), &json(&formed)["revision"]), (Some(0), &"1.1".into()));
    let again = run(place.path(), &format!("init {flags} --json --yes"));
    assert_eq!((again.status.code(), &json(&again)["formed"]), (Some(0), &false.into()));
    assert_eq!(json(&again)["group"], json(&formed)["group"]);
    let other = run(place.path(), &format!("init {flags} --yes --name web2"));
    assert_eq!(other.status.code(), Some(3));

    let shown = run(place.path(), &format!("server list --json {flags}"));
    assert_eq!(json(&shown)["servers"][0]["name"], "web1");
    let left = run(place.path(), &format!("leave --yes --json {flags}"));
    assert_eq!((left.status.code(), &json(&left)["left"]), (Some(0), &true.into()));
    assert_eq!(std::fs::read(place.path().join("site/a.conf")).expect("it stays"), b"a");
    assert_eq!(run(place.path(), &format!("server list {flags}")).status.code(), Some(1));
}

#[test]
fn what_no_group_can_be_formed_of_is_refused() {
    let (place, flags) = place();
    let path = place.path().to_str().expect("UTF-8");
    for (sets, code) in [
        (format!("--set site={path}/missing"), 3),
        (format!("--set site={path}/site --set inner={path}/site/inner"), 2),
        (format!("--set all={path}"), 2),
        (format!("--set site={path}/site --exclude other=*.bak"), 2),
    ] {
        let output = run(place.path(), &format!("init {flags} --yes --name web1 {sets}"));
        assert_eq!(output.status.code(), Some(code), "{sets}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!place.path().join("state/group.json").exists());
    }
}
