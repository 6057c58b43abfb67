//! Performs the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use sestina_config::{Config, ConfigErrors, Role};

use super::args::{Cli, Command, Global};
use super::{complain, local, remote};
use crate::serve;
use crate::serve::process::Process;

/// The configuration file in the working directory, if it exists.
const USUAL_FILE: &str = "sestina.toml";

/// The error of a command.
pub(super) struct Failure {
    /// A short fixed word, for programs.
    pub(super) code: String,
    /// The error, and how to correct it.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: &str, text: impl Into<String>) -> Failure {
        Failure {
            code: code.to_owned(),
            text: text.into(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new("failed", chain(&error))
    }
}

/// An error with its causes. A cause that the error quotes already is not repeated.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = without_numbers(&cause.to_string());
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// A text without the numbers of system errors: their names say more.
pub(super) fn without_numbers(text: &str) -> String {
    const START: &str = " (os error ";
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once(START) {
        plain.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    plain + rest
}

/// Removes suggestions that would start a server. `stop` is not a command; the error says how to
/// stop a server.
fn explain(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let starts = |name: &str| matches!(name, "serve" | "edge" | "router" | "storage");
    let suggested = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(name)) => starts(name),
        Some(ContextValue::Strings(names)) => names.iter().any(|name| starts(name)),
        _ => false,
    };
    if suggested {
        error.remove(ContextKind::SuggestedSubcommand);
    }
    let asked = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => name.as_str(),
        _ => "",
    };
    if matches!(asked, "stop" | "shutdown" | "quit" | "restart") {
        let tip = "a server ends in order at SIGTERM (`kill`, `systemctl stop`) or Ctrl-C";
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Failure {
        Failure::new("configuration", errors.to_string())
    }
}

impl From<sestina_api::admin::AdminError> for Failure {
    fn from(error: sestina_api::admin::AdminError) -> Failure {
        Failure {
            code: error.code,
            text: error.text,
        }
    }
}

/// Runs the program; the exit code is 0 for success, 1 for failure, 2 for wrong usage.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = explain(error);
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            if let Err(error) = error.print() {
                complain(&error.to_string());
            }
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => code,
        Err(failure) if json => {
            let error = serde_json::json!({
                "error": { "code": failure.code, "text": failure.text }
            });
            super::print(&format!("{error}\n"));
            ExitCode::FAILURE
        }
        Err(failure) => {
            complain(&format!("sestina: {}", failure.text));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let global = cli.global;
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => process(&global, Role::Serve),
        Command::Edge => process(&global, Role::Edge),
        Command::Router => process(&global, Role::Router),
        Command::Storage => process(&global, Role::Storage),
        Command::Pipeline => local::pipeline(&global),
        Command::Config(command) => local::config(&global, &command),
        Command::Certs(command) => local::certs(&global, &command),
        Command::Cluster(command) => local::cluster(&global, command),
        Command::User(command) => remote::user(&global, command),
        Command::Sessions(command) => remote::sessions(&global, command),
        Command::Slots => remote::slots(&global),
        Command::Status => remote::status(&global),
        Command::Failpoint(command) => remote::failpoint(&global, command),
    }
}

/// The configuration file in use.
pub(super) fn file(global: &Global) -> Option<PathBuf> {
    let usual = Path::new(USUAL_FILE);
    global
        .config
        .clone()
        .or_else(|| usual.is_file().then(|| usual.to_owned()))
}

/// The configuration in effect.
pub(super) fn load(global: &Global) -> Result<Config, ConfigErrors> {
    // Variables that are not text are none of Sestina's.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(
        &sestina_router::modules::declared(),
        file(global).as_deref(),
        env,
        &global.set,
    )
}

/// A runtime for a command, with one thread.
pub(super) fn small_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("failed", format!("cannot start: {error}")))
}

fn process(global: &Global, role: Role) -> Result<ExitCode, Failure> {
    let config = load(global)?;
    config.check(role)?;
    let again = global.clone();
    let reread = Box::new(move || load(&again));
    let file = global.config.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sestina")
        .build()
        .map_err(|error| Failure::new("failed", format!("cannot start threads: {error}")))?;
    let served = runtime.block_on(async move {
        let process = Process::begin(config, role, reread)?;
        match role {
            Role::Serve => Box::pin(serve::embedded::run(process, file)).await,
            Role::Edge => Box::pin(serve::edge::run(process)).await,
            Role::Router => Box::pin(serve::router::run(process)).await,
            Role::Storage => Box::pin(serve::storage::run(process)).await,
        }
    });
    // Threads that still derive keys must not delay the end.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once_and_without_its_number() {
        let missing = || std::io::Error::from_raw_os_error(2);
        let quoting =
            anyhow::Error::new(missing()).context(format!("cannot read a: {}", missing()));
        assert_eq!(chain(&quoting), "cannot read a: No such file or directory");
        let not = Err::<(), _>(missing()).context("cannot read b");
        let not = not.map_err(|error| chain(&error));
        assert_eq!(
            not,
            Err("cannot read b: No such file or directory".to_owned())
        );
        assert_eq!(without_numbers("a (os error 1); b (os error 98)!"), "a; b!");
    }

    fn told(line: &str) -> String {
        let words = std::iter::once("sestina").chain(line.split_whitespace());
        explain(Cli::try_parse_from(words).expect_err("no such command")).to_string()
    }

    #[test]
    fn no_suggestion_starts_a_server() {
        let stop = told("stop");
        assert!(!stop.contains("storage"), "{stop}");
        assert!(stop.contains("SIGTERM"), "{stop}");
        assert!(!told("storge").contains("'storage'"));
        assert!(told("stauts").contains("status"));
    }
}
