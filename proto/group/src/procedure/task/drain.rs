use super::*;

/// Takes servers out of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain(pub Vec<ServerName>);

impl TaskKind for Drain {
    fn check(&self, since: &Since<'_>, world: &World) -> Check {
        let servers = &self.0;
        let act = || Check::Act(Action::Drain(servers.clone()));
        let not_out: Vec<_> = servers.iter().filter(|name| !world.is_out(name)).collect();
        if not_out.is_empty() {
            let known = servers.iter().any(|name| matches!(world.traffic(name), Some(Traffic::Known { .. })));
            let said = "no balancer of the group has it: nothing is drained there; /ready answers 503";
            return Check::So((!known).then(|| said.to_owned()));
        }
        if not_out.iter().all(|name| since.attests(&Fact::Isolated((*name).clone()))) {
            // A person attests the isolation, so an unreachable balancer is no reason to wait.
            return match since.trouble {
                None => act(),
                Some(why) => Check::So(Some(format!("out of the balancers by the attestation only: {why}"))),
            };
        }
        let absent = |name: &&ServerName| match &world.server(name)?.traffic {
            Traffic::Absent(what) => Some(what.clone()),
            Traffic::Unknown | Traffic::Known { .. } | Traffic::Partly { .. } | Traffic::Silent(_) => None,
        };
        if let Some(what) = not_out.iter().find_map(absent) {
            return Check::Stuck(what);
        }
        let serving = world.serving();
        let leaving = serving.iter().filter(|name| not_out.contains(name)).count();
        let (left, least) = (serving.len() - leaving, world.min_serving);
        if leaving > 0 && left < least {
            return Check::Wait(format!(
                "{left} would serve without it; at least {least} are to (group set --min-serving)"
            ));
        }
        act()
    }

    /// The step lasts until enough others serve.
    fn about(&self) -> About<'_> {
        let about = About::new(format!("drain {}", list(&self.0)), BALANCERS, &self.0, 10 * MINUTE);
        About { drains: &self.0, ..about }
    }
}
