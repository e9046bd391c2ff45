//! What histories have met: a simulation that never comes to a conflict says nothing about conflicts.

/// How often each thing happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Met {
    /// Changes acknowledged.
    pub acknowledged: u64,
    /// Crashes right before or after something was saved.
    pub crashes_at_a_save: u64,
    /// Planned handovers that were signed.
    pub handovers: u64,
    /// Takeovers.
    pub takeovers: u64,
    /// Managers that learned that another one leads.
    pub fenced: u64,
    /// Two managers of one epoch, shown.
    pub conflicts: u64,
    /// Recovery points.
    pub recovery_points: u64,
    /// Lists of what is lost.
    pub lists_of_losses: u64,
    /// Machines that came back from a backup.
    pub restored: u64,
    /// Managers that found that their state went back.
    pub went_back: u64,
    /// Members that were shown as in error.
    pub kept_out: u64,
    /// Groups that were formed anew.
    pub reformed: u64,
    /// Machines that were copied.
    pub copied: u64,
    /// Copies that were noticed beside the original.
    pub copies_noticed: u64,
    /// Procedures that were begun.
    pub procedures: u64,
    /// Servers that were taken out of service.
    pub drains: u64,
    /// Unfinished procedures that a new manager went on with.
    pub carried_on: u64,
}

impl Met {
    /// Each count with its name.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 17] {
        [
            ("changes acknowledged", self.acknowledged),
            ("crashes at a save", self.crashes_at_a_save),
            ("handovers", self.handovers),
            ("takeovers", self.takeovers),
            ("managers fenced", self.fenced),
            ("conflicts shown", self.conflicts),
            ("recovery points", self.recovery_points),
            ("lists of losses", self.lists_of_losses),
            ("restored from a backup", self.restored),
            ("managers whose state went back", self.went_back),
            ("members kept out", self.kept_out),
            ("groups formed anew", self.reformed),
            ("machines copied", self.copied),
            ("copies noticed", self.copies_noticed),
            ("procedures begun", self.procedures),
            ("servers drained", self.drains),
            ("procedures carried on by a new manager", self.carried_on),
        ]
    }
}

impl std::ops::AddAssign for Met {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.crashes_at_a_save += other.crashes_at_a_save;
        self.handovers += other.handovers;
        self.takeovers += other.takeovers;
        self.fenced += other.fenced;
        self.conflicts += other.conflicts;
        self.recovery_points += other.recovery_points;
        self.lists_of_losses += other.lists_of_losses;
        self.restored += other.restored;
        self.went_back += other.went_back;
        self.kept_out += other.kept_out;
        self.reformed += other.reformed;
        self.copied += other.copied;
        self.copies_noticed += other.copies_noticed;
        self.procedures += other.procedures;
        self.drains += other.drains;
        self.carried_on += other.carried_on;
    }
}
