//! Commands that need no server.

use std::process::ExitCode;

use serde_json::json;
use sestina_config::Role;
use sestina_router::hooks::Pipeline;

use super::args::{self, CertRole, Certs, ClusterCommand, ConfigCommand, Global};
use super::run::{Failure, load, small_runtime};
use super::{check, print};
use crate::compose;

pub(super) fn pipeline(global: &Global) -> Result<ExitCode, Failure> {
    let config = load(global)?;
    let pipelines = compose::pipelines(&config);
    let groups = pipelines.groups();
    if global.json {
        let all: Vec<_> = groups.iter().map(|(d, p)| pipeline_json(d, p)).collect();
        print(&format!("{:#}\n", json!({ "pipelines": all })));
        return Ok(ExitCode::SUCCESS);
    }
    for (index, (domains, pipeline)) in groups.iter().enumerate() {
        if groups.len() > 1 {
            let gap = if index > 0 { "\n" } else { "" };
            print(&format!("{gap}at {}\n\n", domains.join(", ")));
        }
        print(&pipeline_text(pipeline));
    }
    Ok(ExitCode::SUCCESS)
}

fn pipeline_json(domains: &[String], pipeline: &Pipeline) -> serde_json::Value {
    let modules: Vec<_> = pipeline
        .metas()
        .iter()
        .map(|meta| {
            let specs: Vec<_> = meta
                .specs
                .iter()
                .map(|(name, version)| json!({ "name": name, "version": version }))
                .collect();
            json!({ "name": meta.name, "specs": specs })
        })
        .collect();
    let iqs: Vec<_> = pipeline
        .iq_entries()
        .into_iter()
        .map(|(target, set, ns, name, module)| {
            let kind = if set { "set" } else { "get" };
            json!({ "target": target, "type": kind, "namespace": ns, "name": name,
                "module": module })
        })
        .collect();
    json!({ "domains": domains, "modules": modules, "handlers": pipeline.entries(), "iq": iqs })
}

fn pipeline_text(pipeline: &Pipeline) -> String {
    let mut text = String::from("messages, in order\n");
    for entry in pipeline.entries() {
        let kind = if entry.filter { "filter" } else { "observer" };
        let (point, stage) = (format!("{:?}", entry.point), format!("{:?}", entry.stage));
        text.push_str(&format!(
            "  {point:<14} {stage:<9} {kind:<9} {}\n",
            entry.module
        ));
    }
    text.push_str("\nIQ\n");
    for (target, set, ns, name, module) in pipeline.iq_entries() {
        let kind = if set { "set" } else { "get" };
        let target = format!("{target:?}");
        text.push_str(&format!(
            "  {target:<13} {kind}  {module:<10} {{{ns}}}{name}\n"
        ));
    }
    text.push_str("\nmodules\n");
    for meta in pipeline.metas() {
        let specs: Vec<String> = meta
            .specs
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        text.push_str(&format!("  {:<13} {}\n", meta.name, specs.join(", ")));
    }
    text
}

pub(super) fn config(global: &Global, command: &ConfigCommand) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Docs => print(&sestina_config::docs::docs(
            &sestina_router::modules::declared(),
        )),
        ConfigCommand::Show => {
            let config = load(global)?;
            if global.json {
                let json = serde_json::to_string_pretty(&config)
                    .map_err(|error| Failure::new("internal", error.to_string()))?;
                print(&format!("{json}\n"));
            } else {
                print(&config.show());
            }
        }
        ConfigCommand::Check {
            role,
            offline,
            strict,
        } => {
            let role = match role {
                args::Role::Serve => Role::Serve,
                args::Role::Edge => Role::Edge,
                args::Role::Router => Role::Router,
                args::Role::Storage => Role::Storage,
            };
            let config = load(global)?;
            config.check(role)?;
            let mut problems = check::problems(&config, role, *offline);
            for problem in &mut problems {
                problem.fatal |= strict;
            }
            let lines = |fatal: bool| {
                let wanted = problems
                    .iter()
                    .filter(move |problem| problem.fatal == fatal);
                wanted
                    .map(|problem| problem.text.clone())
                    .collect::<Vec<_>>()
            };
            let (errors, warnings) = (lines(true), lines(false));
            if !global.json {
                for warning in &warnings {
                    super::complain(&format!("warning: {warning}"));
                }
            }
            if !errors.is_empty() {
                return Err(Failure::new("configuration", errors.join("\n")));
            }
            if global.json {
                let hash = format!("{:016x}", config.config_hash());
                let all = json!({ "ok": true, "hash": hash, "warnings": warnings });
                print(&format!("{all}\n"));
            } else {
                print(&format!(
                    "the configuration is good for `sestina {}`\n",
                    role.as_str()
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn cluster(global: &Global, command: ClusterCommand) -> Result<ExitCode, Failure> {
    let ClusterCommand::Rename { name } = command;
    if !sestina_config::is_cluster_name(&name) {
        let text =
            format!("{name:?} is no name of a cluster: 1 to 100 letters, digits and . _ - /");
        return Err(Failure::new("invalid-arguments", text));
    }
    let config = load(global)?;
    let storage = sestina_storage::StorageConfig {
        any_cluster: true,
        ..crate::compose::storage(&config)
    };
    let failed = |text: String| Failure::new("failed", text);
    let renamed = small_runtime()?.block_on(async {
        let storage = sestina_storage::Storage::open(storage)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let renamed = storage.rename_cluster(&name).await;
        storage.close().await;
        renamed.map_err(|error| failed(error.to_string()))
    })?;
    if global.json {
        let all = json!({ "name": renamed.name, "id": renamed.id });
        print(&format!("{all}\n"));
    } else {
        print(&format!(
            "the database is of cluster {:?} now, with the id {}; set cluster.name to it\n",
            renamed.name, renamed.id
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn certs(global: &Global, command: &Certs) -> Result<ExitCode, Failure> {
    let failed = |error: sestina_certs::CertError| Failure::new("failed", error.to_string());
    match command {
        Certs::Ca { dir } => {
            sestina_certs::ensure_ca(dir).map_err(failed)?;
            let file = dir.join("ca.pem");
            if global.json {
                print(&format!("{}\n", json!({ "ca": file })));
            } else {
                print(&format!(
                    "the authority is {}; keep its key safe and off the nodes\n",
                    file.display()
                ));
            }
        }
        Certs::Node {
            name,
            role,
            sans,
            dir,
        } => {
            let role = match role {
                CertRole::Edge => sestina_certs::Role::Edge,
                CertRole::Router => sestina_certs::Role::Router,
                CertRole::Storage => sestina_certs::Role::Storage,
                CertRole::Admin => sestina_certs::Role::Admin,
            };
            let files = sestina_certs::issue(dir, name, role, sans).map_err(failed)?;
            if global.json {
                let all = json!({ "certificate": files.cert, "key": files.key, "ca": files.ca });
                print(&format!("{all}\n"));
            } else if role == sestina_certs::Role::Admin {
                print(&format!(
                    "use it with: --connect HOST:PORT --ca {} --cert {} --key {}\n",
                    files.ca.display(),
                    files.cert.display(),
                    files.key.display()
                ));
            } else {
                print(&format!(
                    "[cluster]\ntls_ca = {:?}\ntls_certificate = {:?}\ntls_key = {:?}\n",
                    files.ca, files.cert, files.key
                ));
            }
        }
        Certs::Show { file } => {
            let pem = std::fs::read(file).map_err(|error| {
                Failure::new("failed", format!("cannot read {}: {error}", file.display()))
            })?;
            let info = sestina_certs::describe(&pem).map_err(failed)?;
            let roles: Vec<&str> = info.roles.iter().map(|role| role.name()).collect();
            let ips: Vec<String> = info.ips.iter().map(ToString::to_string).collect();
            if global.json {
                let all = json!({
                    "subject": info.subject, "issuer": info.issuer, "serial": info.serial,
                    "dns_names": info.dns_names, "ips": ips, "uris": info.uris, "roles": roles,
                    "is_ca": info.is_ca, "not_before": info.not_before,
                    "not_after": info.not_after,
                });
                print(&format!("{all:#}\n"));
            } else {
                let days = info
                    .remaining(std::time::SystemTime::now())
                    .map_or("expired".to_owned(), |left| {
                        format!("for {} more days", left.as_secs() / 86_400)
                    });
                let names: Vec<String> = info.dns_names.into_iter().chain(ips).collect();
                print(&format!(
                    "subject  {}\nissuer   {}\nnames    {}\nroles    {}\nvalid    {days}\n",
                    info.subject,
                    info.issuer,
                    names.join(", "),
                    if roles.is_empty() {
                        "none".to_owned()
                    } else {
                        roles.join(", ")
                    },
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
