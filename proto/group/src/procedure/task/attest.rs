use super::*;

/// Waits for a person's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attest(pub Fact);

/// A fact that a person attests, because the program cannot check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fact {
    /// The machine is off the network and out of the balancer, or forgot its group (`leave`).
    Isolated(ServerName),
    /// The machine is repaired, and its agent runs.
    Repaired(ServerName),
}

/// A question to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The question, in one sentence.
    pub asks: String,
    /// The action before the answer.
    pub first: String,
}

impl TaskKind for Attest {
    fn check(&self, since: &Since<'_>, _: &World) -> Check {
        if since.attests(&self.0) { Check::So(None) } else { Check::Ask(self.0.question()) }
    }

    fn about(&self) -> About<'_> {
        let about = About::new(format!("attest that {}", self.0), "a person", [self.0.server()], NEVER);
        About { asks: Some(&self.0), ..about }
    }
}

impl Fact {
    /// The question that asks for the fact.
    pub fn question(&self) -> Question {
        match self {
            Self::Isolated(server) => Question {
                asks: format!("is {server} off the network and out of the load balancer?"),
                first: format!(
                    "switch {server} off or pull its cable; if it still runs, there: bellwether leave --force. Bellwether cannot \
                     check this. Your answer is recorded"
                ),
            },
            Self::Repaired(server) => Question {
                asks: format!("is {server} repaired?"),
                // A disabled server cannot enter with a token, and an old key is not taken back for a name with a new
                // one.
                first: format!(
                    "start its agent first. Where {server} forgot the group: answer, then a token from `bellwether token \
                     create --names {server}`, and there `bellwether join`. New hardware: first `bellwether server remove \
                     {server}`, the token and `join`, then answer"
                ),
            },
        }
    }

    /// The server.
    pub fn server(&self) -> &ServerName {
        match self {
            Self::Isolated(server) | Self::Repaired(server) => server,
        }
    }
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Isolated(server) => write!(f, "{server} is isolated"),
            Self::Repaired(server) => write!(f, "{server} is repaired"),
        }
    }
}
