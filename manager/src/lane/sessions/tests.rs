//! The files; no count is given twice, in any order or at once.

use bellwether_proto::{
    record::{Level, Policy, Role, Server, Version},
    ticket::{Shown, Ticket, accept},
};
use bellwether_store::mutex::locked;

use super::*;

const EPOCH: Epoch = Epoch(3);

struct Case {
    state: tempfile::TempDir,
    sessions: Sessions,
    key: KeyPair,
    parties: Parties,
    /// The ticket that the server holds.
    held: Option<Ticket>,
}

impl Case {
    fn new() -> Self {
        let (state, key) = (tempfile::tempdir().unwrap(), KeyPair::generate());
        let server = KeyPair::generate().public();
        let parties = Parties { group: [7; 16].into(), server, manager: key.public() };
        Self { sessions: Sessions::new(state.path()), state, key, parties, held: None }
    }

    fn open(&self) -> Opened {
        self.sessions.open(self.parties, EPOCH, &self.key).unwrap()
    }

    fn session(&mut self) -> Shown {
        let opened = self.open();
        let judged = opened.given.judge(&self.parties, self.held.as_ref());
        accept(self.held.as_ref(), &opened.given.next).unwrap();
        self.held = Some(opened.given.next.clone());
        self.sessions.begun(&opened, &self.key).unwrap();
        judged
    }

    fn file(&self) -> PathBuf {
        self.sessions.path(&self.parties.server)
    }
}

fn record(epoch: u64, key: PublicKey) -> Record {
    let manager = Server {
        name: "m".parse().unwrap(),
        key,
        address: "m:1".into(),
        role: Role::Manager,
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    Record {
        refused: Vec::new(),
        level: Level::NEWEST,
        group: [7; 16].into(),
        version: Version { epoch: Epoch(epoch), version: 1 },
        servers: vec![manager],
        removed: Vec::new(),
        policy: Policy::new(Vec::new()),
        log: Vec::new(),
        previous: None,
    }
}

#[test]
fn w14_entering_again_resets_no_count() {
    let mut case = Case::new();
    case.sessions.entered(&case.parties, EPOCH).unwrap();
    assert!(!case.file().exists(), "nothing was given yet");
    case.session();
    let oldest = case.held.clone();
    case.session();
    case.session();
    for _ in 0..3 {
        case.sessions.entered(&case.parties, EPOCH).unwrap();
        assert_eq!(case.open().given.judge(&case.parties, oldest.as_ref()), Shown::Older);
    }
    case.held = None;
    assert_eq!(case.session(), Shown::Known, "it comes without a state");
    assert_eq!(case.held.as_ref().map(Ticket::count), Some(4));
    case.held = None;
    assert_eq!(case.session(), Shown::Older, "once");
}

/// The name of a server does not matter: other hardware may have had it meanwhile, or this one another name.
#[test]
fn w14_a_key_that_comes_back_after_another_one_had_its_place_goes_on_where_it_was() {
    let mut case = Case::new();
    case.session();
    case.session();
    let other = Parties { server: KeyPair::generate().public(), ..case.parties };
    let theirs = case.sessions.open(other, EPOCH, &case.key).unwrap();
    case.sessions.begun(&theirs, &case.key).unwrap();
    assert_eq!(case.session(), Shown::Known);
    assert_eq!(case.held.map(|held| held.count()), Some(3));
}

#[test]
fn w14_of_two_connections_at_once_one_session_counts_and_no_count_is_given_twice() {
    let case = Case::new();
    let (one, two) = (case.open(), case.open());
    assert_eq!(one.given, two.given, "both are offered the same");
    let begun = case.sessions.begun(&one, &case.key).unwrap();
    assert!(matches!(case.sessions.begun(&two, &case.key), Err(BegunError::Overtaken)));
    assert_eq!(case.open().given, begun.given, "what counts is what was noted first");
}

#[test]
fn w14_many_threads_that_open_begin_and_enter_give_no_count_twice() {
    let case = Case::new();
    let tickets = Mutex::new(Vec::new());
    let work = |n: usize| {
        for _ in 0..20 {
            if n == 0 {
                case.sessions.entered(&case.parties, EPOCH).unwrap();
                continue;
            }
            let opened = case.open();
            locked(&tickets).push(opened.given.next.clone());
            match case.sessions.begun(&opened, &case.key) {
                Ok(_) | Err(BegunError::Overtaken) => {}
                Err(BegunError::File(error)) => panic!("{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || work(n));
        }
    });
    let given = case.open().given;
    let tickets = tickets.into_inner().unwrap();
    for ticket in &tickets {
        let same = tickets.iter().filter(|other| other.count() == ticket.count());
        assert!(same.into_iter().all(|other| other == ticket), "count {} was signed twice", ticket.count());
        assert_ne!(given.judge(&case.parties, Some(ticket)), Shown::Newer, "it would halt the manager");
    }
    assert!(given.next.count() > 20);
}

/// An entry while a session begins: the session is an older one, and the next one may be without a ticket.
#[test]
fn an_entry_in_the_middle_of_a_beginning_is_not_forgotten() {
    let mut case = Case::new();
    case.session();
    let opened = case.open();
    case.sessions.entered(&case.parties, EPOCH).unwrap();
    case.sessions.begun(&opened, &case.key).unwrap();
    case.held = None;
    assert_eq!(case.session(), Shown::Known);
}

#[test]
fn a_damaged_file_ends_no_count() {
    let mut case = Case::new();
    case.session();
    let opened = case.open();
    let text = fs::read(case.file()).unwrap();
    fs::write(case.file(), &text[..text.len() / 2]).unwrap();
    assert!(case.sessions.open(case.parties, EPOCH, &case.key).is_err());
    assert!(matches!(case.sessions.begun(&opened, &case.key), Err(BegunError::File(_))));
    assert!(case.sessions.entered(&case.parties, EPOCH).is_err());
    case.sessions.tidy(&record(9, case.key.public())).unwrap();
    assert!(case.file().exists(), "nothing took its place");
}

#[test]
fn a_new_epoch_counts_anew_and_what_is_over_is_tidied_away() {
    let mut case = Case::new();
    case.session();
    case.sessions.tidy(&record(3, case.key.public())).unwrap();
    assert!(case.file().exists(), "of this epoch, though the server is gone: it may come back");
    case.sessions.tidy(&record(5, case.parties.server)).unwrap();
    assert!(case.file().exists(), "the server is there");
    case.sessions.tidy(&record(5, case.key.public())).unwrap();
    assert!(!case.file().exists());
    assert!(case.state.path().join(SESSIONS).exists());
    let anew = case.sessions.open(case.parties, Epoch(5), &case.key).unwrap();
    assert_eq!((anew.given.next.epoch(), anew.given.next.count()), (Epoch(5), 1));
}
