//! Owners by name: the names of ids on this server, and the ids of names.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bellwether_proto::entry::{Owner, Owners};

use self::memory::Memory;

use crate::mutex::locked;

mod memory;

static NAMES: Memory<Known> = Memory::new();
static IDS: Memory<Ids> = Memory::new();

/// The names of owners; each id is looked up once. Make a new one for each scan: accounts change.
#[derive(Debug)]
pub struct Names(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<(u32, u32), Arc<Owner>>,
    owners: Owners,
}

impl Default for Names {
    fn default() -> Self {
        Self(NAMES.recall())
    }
}

impl Names {
    /// Starts from the recent lookups of this process.
    pub fn new() -> Self {
        Self::default()
    }

    /// The owner of these ids. An id without a name here, or with a name that cannot travel, is written in decimal.
    pub fn owner(&self, uid: u32, gid: u32) -> Arc<Owner> {
        let mut known = locked(&self.0);
        if let Some(owner) = known.by_id.get(&(uid, gid)) {
            return owner.clone();
        }
        let (user, group) = (user_name(uid), group_name(gid));
        let owner = known.owners.get(&user, &group).unwrap_or_else(|_| {
            // Both were checked above, and digits are always valid.
            Arc::new(Owner { user: uid.to_string().into(), group: gid.to_string().into() })
        });
        known.by_id.insert((uid, gid), owner.clone());
        owner
    }
}

/// The name of that user id in trees.
fn user_name(uid: u32) -> String {
    let name = uzers::get_user_by_uid(uid).and_then(|user| user.name().to_str().map(str::to_owned));
    name.filter(|name| travels(name)).unwrap_or_else(|| uid.to_string())
}

/// The name of that group id in trees.
fn group_name(gid: u32) -> String {
    let name = uzers::get_group_by_gid(gid).and_then(|group| group.name().to_str().map(str::to_owned));
    name.filter(|name| travels(name)).unwrap_or_else(|| gid.to_string())
}

fn travels(name: &str) -> bool {
    Owners::default().get(name, name).is_ok()
}

/// A user or group that this server does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} '{name}' on this server")]
pub struct MissingAccount {
    /// "user" or "group".
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// The ids of names on this server; each is looked up once, so make a new one for each apply.
#[derive(Debug)]
pub struct Accounts(Arc<Mutex<Ids>>);

#[derive(Debug, Default)]
struct Ids {
    users: HashMap<Box<str>, Option<u32>>,
    groups: HashMap<Box<str>, Option<u32>>,
}

impl Default for Accounts {
    fn default() -> Self {
        let ids = IDS.recall();
        let mut known = locked(&ids);
        // A missing account may have been made since.
        known.users.retain(|_, id| id.is_some());
        known.groups.retain(|_, id| id.is_some());
        drop(known);
        Self(ids)
    }
}

impl Accounts {
    /// Starts from the recent lookups of this process; missing accounts are looked up again.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Accounts::new`], but missing accounts are not looked up again before the account files have changed or a
    /// while has passed: cheap enough for every second.
    pub fn remembered() -> Self {
        Self(IDS.recall())
    }

    /// The ids of the user and the group. A decimal is an id if that has no name. A name that would not read back the
    /// same counts as missing: an id with a name here, or a second name of an account.
    ///
    /// # Errors
    /// The missing one; the user if both are.
    pub fn ids(&self, owner: &Owner) -> Result<(u32, u32), MissingAccount> {
        let mut ids = locked(&self.0);
        let user = |name: &str| uzers::get_user_by_name(name).map(|user| user.uid());
        let group = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
        let uid = lookup(&mut ids.users, &owner.user, user, user_name);
        let gid = lookup(&mut ids.groups, &owner.group, group, group_name);
        let missing = |kind, name: &str| MissingAccount { kind, name: name.to_owned() };
        Ok((uid.ok_or_else(|| missing("user", &owner.user))?, gid.ok_or_else(|| missing("group", &owner.group))?))
    }
}

fn lookup(
    known: &mut HashMap<Box<str>, Option<u32>>,
    name: &str,
    find: impl FnOnce(&str) -> Option<u32>,
    called: impl FnOnce(u32) -> String,
) -> Option<u32> {
    if let Some(id) = known.get(name) {
        return *id;
    }
    let found = find(name).or_else(|| number(name));
    let id = found.filter(|&id| called(id) == name);
    known.insert(name.into(), id);
    id
}

/// The id that `name` is in decimal; never the one that means "leave it" to chown(2).
fn number(name: &str) -> Option<u32> {
    let id: u32 = name.parse().ok()?;
    (id != u32::MAX && id.to_string() == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(user: &str, group: &str) -> Owner {
        Owner { user: user.into(), group: group.into() }
    }

    #[test]
    fn a_name_and_its_number_lead_to_each_other() {
        let named = Names::new().owner(0, 0);
        assert_eq!((&*named.user, &*named.group), ("root", "root"));
        assert_eq!(Accounts::new().ids(&named), Ok((0, 0)));
    }

    #[test]
    fn a_number_without_a_name_is_itself() {
        let nameless = Names::new().owner(3_999_999_001, 3_999_999_002);
        assert_eq!((&*nameless.user, &*nameless.group), ("3999999001", "3999999002"));
        assert_eq!(Accounts::new().ids(&nameless), Ok((3_999_999_001, 3_999_999_002)));
    }

    #[test]
    fn the_missing_account_is_named() {
        let accounts = Accounts::new();
        let missing = |kind, name: &str| Err(MissingAccount { kind, name: name.to_owned() });
        assert_eq!(accounts.ids(&owner("no-such-user", "root")), missing("user", "no-such-user"));
        assert_eq!(accounts.ids(&owner("root", "no-such-group")), missing("group", "no-such-group"));
        for odd in ["0", "4294967295", "4294967296", "-1", "007", "+7", ""] {
            assert_eq!(accounts.ids(&owner(odd, "root")), missing("user", odd));
        }
    }

    #[test]
    fn equal_owners_are_one_allocation() {
        let names = Names::new();
        assert!(Arc::ptr_eq(&names.owner(0, 0), &names.owner(0, 0)));
    }
}
