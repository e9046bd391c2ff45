use super::*;

/// A person answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attest(pub Fact);

/// What a person can answer for; the program cannot see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fact {
    /// The machine is off the network and out of the balancer, or forgot its group (`leave`).
    Isolated(ServerName),
    /// The machine is repaired, its agent runs.
    Repaired(ServerName),
}

/// What is asked of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// In one sentence.
    pub asks: String,
    /// What to do before it is answered.
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
    /// The question whose answer it is.
    pub fn question(&self) -> Question {
        match self {
            Self::Isolated(server) => Question {
                asks: format!("is {server} off the network and out of the load balancer?"),
                first: format!(
                    "switch {server} off or pull its cable; where it still runs, there: bellwether leave --force. Your word is \
                     recorded, for nothing here can see that it is so"
                ),
            },
            Self::Repaired(server) => Question {
                asks: format!("is {server} repaired?"),
                // A disabled server does not enter with a token, and an old key is not taken back where a new one has the name.
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
