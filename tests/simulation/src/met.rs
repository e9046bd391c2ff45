//! What histories have met: a simulation that never comes to a conflict says nothing about conflicts.

use bellwether_group::procedure::Kind;

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
    /// Times that a member said what is not so.
    pub lies: u64,
    /// Groups that were rebuilt.
    pub rebuilt: u64,
    /// Those of them without a key that is not to be trusted.
    pub rebuilt_without: u64,
    /// Servers at which that was confirmed, and those that went back from a later epoch by it.
    pub confirmed: u64,
    /// See there.
    pub went_back_by_root: u64,
    /// Records that jump, and those by a refused key, that were not taken.
    pub jumps_refused: u64,
    /// See there.
    pub keys_refused: u64,
    /// Promotions that gave way to another one at the same time.
    pub gave_way: u64,
    /// Machines that were copied.
    pub copied: u64,
    /// Copies that were noticed beside the original.
    pub copies_noticed: u64,
    /// Procedures that were begun.
    pub procedures: u64,
    /// Servers that were taken out of service.
    pub drains: u64,
    /// Recoveries of a member that were begun.
    pub member_recoveries: u64,
    /// Recoveries of the manager that were begun.
    pub manager_recoveries: u64,
    /// Recoveries that came to their end.
    pub recovered: u64,
    /// Servers that a procedure has put back into service.
    pub undrained: u64,
    /// Takeovers that were a step of a procedure.
    pub promoted: u64,
    /// Questions of procedures that were answered.
    pub attested: u64,
    /// Procedures that stopped, and were let go on.
    pub resumed: u64,
    /// Procedures that were given up.
    pub given_up: u64,
    /// Procedures that stopped and had put back whom they had taken out of service.
    pub put_back: u64,
    /// Unfinished procedures that a new manager went on with.
    pub carried_on: u64,
}

impl Met {
    /// A procedure of that kind is begun.
    pub(crate) fn begins(&mut self, kind: &Kind) {
        self.procedures += 1;
        self.member_recoveries += u64::from(matches!(kind, Kind::RecoverMember { .. }));
        self.manager_recoveries += u64::from(matches!(kind, Kind::RecoverManager { .. }));
    }

    /// A procedure of that kind has come to its end.
    pub(crate) fn ends(&mut self, kind: &Kind) {
        let recovery = matches!(kind, Kind::RecoverMember { .. } | Kind::RecoverManager { .. });
        self.recovered += u64::from(recovery);
    }

    /// A person lets one go on, with an answer or without.
    pub(crate) fn goes_on(&mut self, attested: bool) {
        self.attested += u64::from(attested);
        self.resumed += u64::from(!attested);
    }

    /// Each count with its name.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 33] {
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
            ("lies of a member", self.lies),
            ("groups rebuilt", self.rebuilt),
            ("groups rebuilt without a key", self.rebuilt_without),
            ("confirmations of that", self.confirmed),
            ("servers that root took back to an earlier epoch", self.went_back_by_root),
            ("records that jump refused", self.jumps_refused),
            ("records by a refused key refused", self.keys_refused),
            ("promotions that gave way", self.gave_way),
            ("machines copied", self.copied),
            ("copies noticed", self.copies_noticed),
            ("procedures begun", self.procedures),
            ("servers drained", self.drains),
            ("recoveries of a member begun", self.member_recoveries),
            ("recoveries of the manager begun", self.manager_recoveries),
            ("recoveries done", self.recovered),
            ("servers put back into service", self.undrained),
            ("takeovers by a procedure", self.promoted),
            ("questions answered", self.attested),
            ("procedures resumed", self.resumed),
            ("procedures given up", self.given_up),
            ("procedures that stopped and put back whom they had drained", self.put_back),
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
        self.lies += other.lies;
        self.rebuilt += other.rebuilt;
        self.rebuilt_without += other.rebuilt_without;
        self.confirmed += other.confirmed;
        self.went_back_by_root += other.went_back_by_root;
        self.jumps_refused += other.jumps_refused;
        self.keys_refused += other.keys_refused;
        self.gave_way += other.gave_way;
        self.copied += other.copied;
        self.copies_noticed += other.copies_noticed;
        self.procedures += other.procedures;
        self.drains += other.drains;
        self.member_recoveries += other.member_recoveries;
        self.manager_recoveries += other.manager_recoveries;
        self.recovered += other.recovered;
        self.undrained += other.undrained;
        self.promoted += other.promoted;
        self.attested += other.attested;
        self.resumed += other.resumed;
        self.given_up += other.given_up;
        self.put_back += other.put_back;
        self.carried_on += other.carried_on;
    }
}
