#![allow(clippy::unwrap_used)]

use clap::{CommandFactory, Parser};

use super::args::{Cli, Command, Sessions, User};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("sestina").chain(line.split_whitespace()))
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn without_a_command_it_serves() {
    assert!(parse("").unwrap().command.is_none());
    let cli = parse("--config a.toml --set node.name=x --set edge.limits.depth=8").unwrap();
    assert!(cli.command.is_none());
    assert_eq!(cli.global.config.unwrap().to_str(), Some("a.toml"));
    assert_eq!(cli.global.set, ["node.name=x", "edge.limits.depth=8"]);
}

#[test]
fn flags_for_all_stand_before_or_behind_the_command() {
    for line in ["--json status", "status --json"] {
        let cli = parse(line).unwrap();
        assert!(cli.global.json);
        assert!(matches!(cli.command, Some(Command::Status)), "{line}");
    }
}

#[test]
fn commands_are_read() {
    let Some(Command::User(User::Add(new))) = parse("user add a@b --stdin").unwrap().command else {
        panic!("not read as user add")
    };
    assert_eq!(
        (new.jid.as_str(), new.stdin, new.generate),
        ("a@b", true, false)
    );
    let close = parse("sessions close a@b/c").unwrap().command;
    assert!(matches!(close, Some(Command::Sessions(Sessions::Close { jid })) if jid == "a@b/c"));
    for line in [
        "edge",
        "router",
        "storage",
        "serve",
        "user passwd a@b --generate",
        "user list --host b",
        "user show a@b",
        "user disable a@b",
        "user enable a@b",
        "user delete a@b --yes",
        "sessions list",
        "sessions list a@b",
        "sessions show a@b/c",
        "slots",
        "pipeline",
        "config check --role router",
        "config show",
        "config docs",
        "certs ca --dir d",
        "certs node r1 --role router --san 10.0.0.1 --san r1.example",
        "certs show f.pem",
        "failpoint arm a=kill b=3*error",
        "failpoint list",
        "status --connect r:1 --ca a --cert b --key c",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn wrong_calls_are_refused() {
    for line in [
        "nonsense",
        "user",
        "user add",
        "user add a@b --stdin --generate",
        "sessions close",
        "config check --role nobody",
        "certs node r1",
        "failpoint arm",
        "status --connect r:1 --socket s",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn help_names_all_commands_but_the_hidden() {
    let help = Cli::command().render_long_help().to_string();
    for name in [
        "serve",
        "edge",
        "router",
        "storage",
        "user",
        "sessions",
        "slots",
        "status",
        "pipeline",
        "config",
        "certs",
        "--connect",
        "--json",
        "--set",
    ] {
        assert!(help.contains(name), "{name}\n{help}");
    }
    assert!(!help.contains("failpoint"), "{help}");
}

#[test]
fn every_command_says_what_it_does() {
    fn walk(command: &clap::Command, path: &str) {
        for inner in command.get_subcommands() {
            let path = format!("{path} {}", inner.get_name());
            assert!(inner.get_about().is_some(), "{path} has no help text");
            for argument in inner.get_arguments().filter(|a| a.get_id() != "help") {
                assert!(
                    argument.get_help().is_some(),
                    "{path} {} has none",
                    argument.get_id()
                );
            }
            walk(inner, &path);
        }
    }
    walk(&Cli::command(), "sestina");
}
