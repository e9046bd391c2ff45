use super::*;

/// Brings servers back into service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undrain(pub Vec<ServerName>);

impl TaskKind for Undrain {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        of_each(&self.0, world, Action::Undrain, |name, seen| match &seen.traffic {
            _ if seen.drained => Lack::Ask,
            Traffic::Unknown | Traffic::Absent(_) => Lack::Nothing,
            Traffic::Known { out: true, .. } | Traffic::Partly { .. } => Lack::Ask,
            Traffic::Known { out: false, up: true, .. } => Lack::Nothing,
            Traffic::Known { out: false, up: false, .. } => {
                Lack::Time(format!("the balancer's checks of {name} to pass"))
            }
            Traffic::Silent(why) => Lack::Time(why.clone()),
        })
    }

    fn about(&self) -> About<'_> {
        let about = About::new(format!("undrain {}", list(&self.0)), BALANCERS, &self.0, 5 * MINUTE);
        About { needs_its_servers: true, ..about }
    }
}
