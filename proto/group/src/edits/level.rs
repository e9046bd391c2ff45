//! The level of a group: every server that is not disabled must read it. It never goes back, because servers may have
//! written data that programs of the level before do not read.

use std::collections::BTreeMap;

use bellwether_proto::{
    key::PublicKey,
    level::{Level, Program},
    record::{Record, Role, Server},
};

use super::GroupRefused;

/// The programs of the servers that have been heard of, as each reported its own.
pub type Programs = BTreeMap<PublicKey, Program>;

/// The servers that are not disabled, with their known programs.
fn readers<'a>(record: &'a Record, programs: &'a Programs) -> impl Iterator<Item = (&'a Server, Option<&'a Program>)> {
    let readers = record.servers.iter().filter(|server| server.role != Role::Disabled);
    readers.map(|server| (server, programs.get(&server.key)))
}

/// The newest level that all servers but disabled ones read; none: not all of them have been heard of.
pub fn newest_for_all(record: &Record, programs: &Programs) -> Option<Level> {
    let newest: Option<Vec<Level>> =
        readers(record, programs).map(|(_, program)| program.map(|program| program.levels.newest)).collect();
    newest?.into_iter().min()
}

/// The servers that keep the group from `level`, for people, with reasons: too old, or not heard of.
pub fn too_old(record: &Record, programs: &Programs, level: Level) -> Vec<String> {
    let said = |(server, program): (&Server, Option<&Program>)| match program {
        Some(program) if program.levels.read(level) => None,
        Some(program) => Some(format!("{} ({program})", server.name)),
        None => Some(format!("{} (not heard of since the manager started)", server.name)),
    };
    readers(record, programs).filter_map(said).collect()
}

/// The servers that are not asked for their levels.
pub fn not_asked(record: &Record) -> Vec<&str> {
    let disabled = record.servers.iter().filter(|server| server.role == Role::Disabled);
    disabled.map(|server| server.name.as_str()).collect()
}

/// Checks whether the group may go to `level`; its present level is always allowed.
///
/// # Errors
/// The level is lower, or some servers do not read it.
pub fn may_raise(record: &Record, level: Level, programs: &Programs) -> Result<(), GroupRefused> {
    if level < record.level {
        return Err(GroupRefused::LevelGoesBack { asked: level, now: record.level });
    }
    let servers = if level == record.level { Vec::new() } else { too_old(record, programs, level) };
    if servers.is_empty() { Ok(()) } else { Err(GroupRefused::TooOld { level, now: record.level, servers }) }
}

/// Checks that a record holds nothing that came after its level, because a command may request such a value.
///
/// # Errors
/// The level that the record needs, and the servers that are too old for it.
pub fn may_be_written(record: &Record, programs: &Programs) -> Result<(), GroupRefused> {
    match record.beyond(record.level) {
        None => Ok(()),
        Some((what, level)) => {
            let servers = too_old(record, programs, level);
            Err(GroupRefused::NeedsLevel { what, level, now: record.level, servers })
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        key::KeyPair,
        level::Levels,
        record::{Policy, SignedRecord, Version},
        revision::Epoch,
    };

    use super::{
        super::{By, PolicyChange, set_policy},
        *,
    };

    /// `m` leads, `a` and `b` are members, and `d` is disabled; each with its key.
    fn group() -> (Record, [KeyPair; 4]) {
        let keys = std::array::from_fn(|_| KeyPair::generate());
        let named = ["a", "b", "d", "m"].into_iter().zip(&keys);
        let server = |(name, key): (&str, &KeyPair)| Server {
            name: name.parse().unwrap(),
            key: key.public(),
            address: format!("{name}:1"),
            role: match name {
                "m" => Role::Manager,
                "d" => Role::Disabled,
                _ => Role::Member,
            },
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: Level::FIRST,
            group: [1; 16].into(),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: named.map(server).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        (record, keys)
    }

    fn reads(newest: u32) -> Program {
        let levels = Levels { oldest: Level((newest - 1).max(1)), newest: Level(newest) };
        Program { version: format!("0.{newest}.0"), levels }
    }

    #[test]
    fn the_level_is_raised_when_every_server_that_is_not_disabled_reads_it() {
        let (record, [a, b, d, m]) = group();
        let mut programs = Programs::from([(m.public(), reads(2)), (a.public(), reads(2)), (d.public(), reads(1))]);
        let asked = |programs: &Programs, level| may_raise(&record, Level(level), programs);
        assert_eq!(newest_for_all(&record, &programs), None, "b was not heard of");
        let refused = asked(&programs, 2).unwrap_err().to_string();
        assert!(
            refused.contains("b (not heard of since the manager started); the group stays at level 1"),
            "{refused}"
        );
        programs.insert(b.public(), reads(1));
        assert_eq!(newest_for_all(&record, &programs), Some(Level(1)));
        let refused = asked(&programs, 2).unwrap_err().to_string();
        assert_eq!(refused, "level 2 is not read by b (0.1.0, which reads level 1); the group stays at level 1");
        assert_eq!(asked(&programs, 1), Ok(()), "it is so already");
        programs.insert(b.public(), reads(2));
        assert_eq!((newest_for_all(&record, &programs), asked(&programs, 2)), (Some(Level(2)), Ok(())));
        assert_eq!(not_asked(&record), ["d"]);
        assert_eq!(too_old(&record, &programs, Level(3)).len(), 3, "nobody reads that");
        let newer = Program { levels: Levels { oldest: Level(2), newest: Level(3) }, ..reads(3) };
        programs.insert(b.public(), newer);
        assert!(asked(&programs, 2).is_ok() && asked(&programs, 3).is_err());
    }

    #[test]
    fn the_level_never_goes_back() {
        let (mut record, _) = group();
        record.level = Level(2);
        let refused = may_raise(&record, Level(1), &Programs::new()).unwrap_err();
        assert_eq!(refused, GroupRefused::LevelGoesBack { asked: Level(1), now: Level(2) });
    }

    #[test]
    fn raising_it_is_one_change_of_the_record() {
        let (mut record, [_, _, _, m]) = group();
        record.level = Level::OLDEST;
        let held = SignedRecord::sign(record, &m).unwrap();
        let change = PolicyChange { level: Some(Level::NEWEST), ..PolicyChange::default() };
        let next = set_policy(&held, &change, &By::new("root", 1)).unwrap();
        let next = next.unwrap();
        assert_eq!((next.level, &next.log[0].what), (Level::NEWEST, &format!("group set --level {}", Level::NEWEST)));
    }

    #[cfg(feature = "level-next")]
    #[test]
    fn what_came_with_a_level_waits_for_it_and_names_who_is_too_old() {
        let (mut record, [a, b, _, m]) = group();
        let (before, newest) = (Level::OLDEST, Level::NEWEST);
        let [old, new] = [before, newest].map(|level| reads(level.0));
        let mut programs = Programs::from([(m.public(), new.clone()), (a.public(), new.clone()), (b.public(), old)]);
        record.level = before;
        assert_eq!(may_be_written(&record, &programs), Ok(()));
        record.policy.note = Some("a note".to_owned());
        let refused = may_be_written(&record, &programs).unwrap_err().to_string();
        let says = format!(
            "a note needs level {newest}, and the group is of level {before}; these servers are too old for it: b (0.{before}.0"
        );
        assert!(refused.starts_with(&says), "{refused}");
        programs.insert(b.public(), new);
        let refused = may_be_written(&record, &programs).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("the group is of level {before}")), "{refused}");
        record.level = newest;
        assert_eq!(may_be_written(&record, &programs), Ok(()));
    }
}
