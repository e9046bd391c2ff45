use super::*;

/// Stands for a kind that came with that level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Later(pub Level);

impl TaskKind for Later {
    fn check(&self, _: &Since<'_>, _: &World) -> Check {
        Check::So(None)
    }

    fn about(&self) -> About<'_> {
        About::new("do what is new".to_owned(), RECORD, [], MINUTE)
    }

    fn level(&self) -> Level {
        self.0
    }
}
