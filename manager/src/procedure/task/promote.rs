use bellwether_proto::name::ServerName;
use serde::{Deserialize, Serialize};

use super::{
    super::{Action, Insists, World},
    Check, IN_THE_RECORD, MINUTE, SECOND, Since, TaskKind, leads_meanwhile, put_away, put_away_word,
};

/// The candidate `new` makes itself manager; `lost` is disabled or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// The manager that is lost.
    pub lost: ServerName,
    /// The candidate.
    pub new: ServerName,
    /// Removed instead of disabled.
    pub remove: bool,
    /// What the person who asked insists on.
    pub insists: Insists,
}

impl TaskKind for Promote {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        let Self { lost, new, remove, insists } = self;
        if world.manager == *new {
            return put_away(lost, *remove, world);
        }
        if world.manager != *lost {
            return leads_meanwhile(&world.manager);
        }
        Check::Act(Action::Promote { remove: *remove, insists: *insists })
    }

    fn lasts_ms(&self, _: u64) -> u64 {
        2 * MINUTE
    }

    fn again_ms(&self) -> u64 {
        5 * SECOND
    }

    fn what(&self) -> String {
        format!("make {} manager by itself; {} becomes {}", self.new, self.lost, put_away_word(self.remove))
    }

    fn place(&self) -> String {
        IN_THE_RECORD.to_owned()
    }

    fn servers(&self) -> Vec<&ServerName> {
        vec![&self.lost, &self.new]
    }

    fn moves_role(&self) -> Option<[&ServerName; 2]> {
        Some([&self.lost, &self.new])
    }
}
