//! `bellwether debug dump`: the tasks, queues, connections and states of the agent that runs on this machine.

use bellwether_proto::v1::DumpRequest;

use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// Prints the agent's answer, within 10 s or the time of `--timeout`.
pub(super) async fn run(common: &Common) -> Result<(), CommandError> {
    let mut agent = common.connect().await?;
    let answer = common.read(agent.dump(DumpRequest {})).await?.into_inner();
    let dump: serde_json::Value = serde_json::from_slice(&answer.json)
        .map_err(|e| CommandError::new(Kind::Failed, format!("the agent's answer is not JSON: {e}")))?;
    output::document(&dump);
    Ok(())
}
