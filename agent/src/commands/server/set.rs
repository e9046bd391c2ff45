//! `bellwether server set`: changes the record's fields of one server.

use bellwether_proto::{
    name::ServerName,
    v1::{SetServer, edit_record_request::Edit},
};
use clap::ValueEnum;

use super::record;
use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the server
    name: ServerName,
    /// The address that other servers dial
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Whether the server may become the manager
    #[arg(long, value_name = "yes|no", hide_possible_values = true)]
    candidate: Option<Answer>,
    /// The server's place at a balancer; may be repeated. These places replace the ones before
    #[arg(long = "backend", value_name = "BACKEND/SERVER")]
    backends: Vec<String>,
    /// Find the server at the balancers by its name
    #[arg(long, conflicts_with = "backends")]
    no_backends: bool,
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Answer {
    Yes,
    No,
}

/// Sets the named fields.
pub(super) async fn run(common: &Common, args: Args) -> Result<(), CommandError> {
    let (name, dry_run) = (args.name.clone(), args.dry_run);
    let reply = record::edit(common, Edit::SetServer(change(args)?), dry_run).await?;
    if dry_run {
        record::show_plan(common, &format!("change the record of {name}"));
    } else {
        record::show(common, &format!("{name} updated"), &reply);
    }
    Ok(())
}

fn change(args: Args) -> Result<SetServer, CommandError> {
    let Args { name, address, candidate, backends, no_backends, dry_run: _ } = args;
    if address.is_none() && candidate.is_none() && backends.is_empty() && !no_backends {
        let text = "nothing to set: name --address, --candidate, --backend or --no-backends";
        return Err(CommandError::new(Kind::Usage, text));
    }
    let replace_backends = no_backends || !backends.is_empty();
    let candidate = candidate.map(|answer| answer == Answer::Yes);
    Ok(SetServer { server: name.to_string(), address, candidate, backends, replace_backends })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<SetServer, CommandError> {
        let words = std::iter::once("set").chain(line.split_whitespace());
        change(Line::try_parse_from(words).expect("clap takes it").args)
    }

    #[test]
    fn only_what_is_named_is_asked_for() {
        let asked = parse("web2 --candidate no").expect("right");
        assert_eq!((asked.candidate, asked.address, asked.replace_backends), (Some(false), None, false));
        let asked = parse("web2 --backend web/a --backend api/a").expect("right");
        assert_eq!((asked.backends.len(), asked.replace_backends), (2, true));
        assert!(parse("web2 --no-backends").expect("right").replace_backends);
        assert_eq!(parse("web2").expect_err("nothing").kind, Kind::Usage);
    }
}
