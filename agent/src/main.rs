//! `bellwether`: parses the command line, runs one command, reports its outcome.

use std::process::ExitCode;

use bellwether::{
    commands::{self, Cli},
    error, output,
};
use bellwether_daemon::run::core_dumps;
use clap::Parser;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return error::report_usage(&usage),
    };
    commands::log_to_stderr(&cli.command);
    if let Err(e) = core_dumps::off() {
        return error::report(cli.common.json, &error::CommandError::failed(&e));
    }
    let runtime = match cli.command.runtime().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return error::report(cli.common.json, &error::CommandError::failed(&e)),
    };
    let done = runtime.block_on(commands::run(cli.command, &cli.common));
    match done.and_then(|()| output::ended()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(cli.common.json, &e),
    }
}
