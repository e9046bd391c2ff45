//! The edit of the policy for waves.

use bellwether_proto::{
    Malformed,
    record::{Batch, RolloutPolicy},
    v1,
};

/// The change of the policy for waves: only present values change. The first one brings the policy, with the defaults of
/// [`RolloutPolicy`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WavesChange {
    /// The number of members of the first wave.
    pub canary: Option<u32>,
    /// The size of each later wave.
    pub batch: Option<Batch>,
    /// How long a wave has to have been good before the next one, in milliseconds.
    pub soak_ms: Option<u64>,
    /// The number of failures that stops a rollout.
    pub stop_at: Option<u32>,
    /// Whether a stopped revision is taken back.
    pub take_back: Option<bool>,
    /// Ends the policy: each revision goes to all members at once.
    pub all_at_once: bool,
}

impl TryFrom<v1::SetWaves> for WavesChange {
    type Error = Malformed;

    fn try_from(wire: v1::SetWaves) -> Result<Self, Malformed> {
        let v1::SetWaves { canary, batch, soak_ms, stop_at, take_back, all_at_once } = wire;
        let batch = batch.map(|text| text.parse()).transpose()?;
        Ok(Self { canary, batch, soak_ms, stop_at, take_back, all_at_once })
    }
}

impl WavesChange {
    /// The message of this change; none: it changes nothing.
    pub(super) fn to_wire(&self) -> Option<v1::SetWaves> {
        let Self { canary, batch, soak_ms, stop_at, take_back, all_at_once } = self.clone();
        let batch = batch.map(String::from);
        (*self != Self::default()).then_some(v1::SetWaves { canary, batch, soak_ms, stop_at, take_back, all_at_once })
    }

    /// The policy after this change.
    ///
    /// # Errors
    /// A value is out of its bounds, or the policy is to be changed and ended.
    pub(super) fn put_on(&self, there: Option<RolloutPolicy>) -> Result<Option<RolloutPolicy>, Malformed> {
        let values = Self { all_at_once: false, ..self.clone() };
        match (values == Self::default(), self.all_at_once) {
            (true, true) => return Ok(None),
            (true, false) => return Ok(there),
            (false, true) => return Err(Malformed::new("waves and --all-at-once exclude each other")),
            (false, false) => {}
        }
        let now = there.unwrap_or_default();
        let policy = RolloutPolicy {
            canary: self.canary.unwrap_or(now.canary),
            batch: self.batch.unwrap_or(now.batch),
            soak_ms: self.soak_ms.unwrap_or(now.soak_ms),
            stop_at: self.stop_at.unwrap_or(now.stop_at),
            take_back: self.take_back.unwrap_or(now.take_back),
        };
        policy.check()?;
        Ok(Some(policy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let change = WavesChange { canary: Some(2), ..WavesChange::default() };
        let policy = change.put_on(None).unwrap().expect("a policy");
        assert_eq!(policy, RolloutPolicy { canary: 2, ..RolloutPolicy::default() });
        let change = WavesChange { batch: Some(Batch::Members(3)), take_back: Some(false), ..WavesChange::default() };
        let policy = change.put_on(Some(policy)).unwrap().expect("a policy");
        assert_eq!((policy.canary, policy.batch, policy.take_back), (2, Batch::Members(3), false));
        assert_eq!(WavesChange::default().put_on(Some(policy.clone())), Ok(Some(policy.clone())));
        let at_once = WavesChange { all_at_once: true, ..WavesChange::default() };
        assert_eq!(at_once.put_on(Some(policy.clone())), Ok(None));
        assert!(WavesChange { all_at_once: true, ..change }.put_on(None).is_err());
        assert!(WavesChange { stop_at: Some(0), ..WavesChange::default() }.put_on(Some(policy)).is_err());
    }

    #[test]
    fn a_change_survives_its_message() {
        let change = WavesChange { batch: Some(Batch::Percent(25)), soak_ms: Some(5), ..WavesChange::default() };
        assert_eq!(change.to_wire().map(WavesChange::try_from), Some(Ok(change)));
        assert_eq!(WavesChange::default().to_wire(), None);
    }
}
