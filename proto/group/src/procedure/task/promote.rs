use super::*;

/// Makes the candidate `new` the manager by itself, and disables or removes `lost`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// The lost manager.
    pub lost: ServerName,
    /// The candidate.
    pub new: ServerName,
    /// Whether it is removed instead of disabled.
    pub remove: bool,
    /// The options on which the person insists.
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

    fn about(&self) -> About<'_> {
        let Self { lost, new, remove, .. } = self;
        let what = format!("make {new} manager by itself; {lost} becomes {}", put_away_word(*remove));
        let about = About::new(what, RECORD, [lost, new], 2 * MINUTE);
        About { again_ms: 5 * SECOND, moves_role: Some([lost, new]), ..about }
    }
}
