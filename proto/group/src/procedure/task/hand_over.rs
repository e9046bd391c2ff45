use super::*;

/// Makes `to` the manager, and disables or removes `from`, in one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// The manager.
    pub from: ServerName,
    /// The server that becomes manager.
    pub to: ServerName,
    /// Whether it is removed instead of disabled.
    pub remove: bool,
}

impl TaskKind for HandOver {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        let Self { from, to, remove } = self;
        if world.manager == *to {
            return put_away(from, *remove, world);
        }
        if world.manager != *from {
            return leads_meanwhile(&world.manager);
        }
        let Some(next) = world.server(to) else { return gone(to) };
        if next.role != Role::Member || !next.candidate {
            return Check::Stuck(format!("{to} is not a member that may become manager"));
        }
        match next.state {
            State::InSync if next.current && next.informed => {
                Check::Act(Action::HandOver { to: to.clone(), remove: *remove })
            }
            State::InSync if next.current => Check::Wait(format!("{to} to take over the list of procedures")),
            state if stays(state) => Check::Stuck(because(to, next)),
            _ => Check::Wait(because(to, next)),
        }
    }

    /// The manager is out of service all the while.
    fn about(&self) -> About<'_> {
        let Self { from, to, remove } = self;
        let what = format!("make {to} manager; {from} becomes {}", put_away_word(*remove));
        let about = About::new(what, RECORD, [from, to], 2 * MINUTE);
        About { again_ms: 5 * SECOND, moves_role: Some([from, to]), ..about }
    }
}
