//! Paths of the repository, and calls of cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sestina_testkit::find_program;

/// The top folder of the repository.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Two clones may share a target folder, and with it this program; the variable names the
        // clone for which it runs.
        let here = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        here.parent().map_or(here.clone(), Path::to_path_buf)
    })
}

/// The folder of the settings that the processes of a tier share, as in docker-compose.yml.
pub(crate) fn settings() -> PathBuf {
    root().join("deploy/compose")
}

/// The output of `cargo metadata`, with dependencies.
pub(crate) fn metadata() -> Result<Value> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed; if Cargo.lock is out of date, run `cargo check` and commit it"
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata did not print JSON")
}

/// The folder for build results; the files that these tools leave behind are in it too.
pub(crate) fn target() -> Result<&'static Path> {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = TARGET.get() {
        return Ok(found);
    }
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata did not print JSON")?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target folder")?;
    Ok(TARGET.get_or_init(|| PathBuf::from(folder)))
}

/// The cargo that runs this tool, in the top folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Variables that cargo sets for this program must not reach the cargo that this program starts.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST")
            || text.starts_with("CARGO_BIN_")
            || text == "CARGO_CRATE_NAME"
            || text == "CARGO_PRIMARY_PACKAGE";
        if inherited {
            command.env_remove(&name);
        }
    }
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a command to its end; an error names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    println!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line} failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns its output; an error contains its error output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .output()
        .with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        bail!(
            "{line} failed: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The variable that names a folder with programs, to use instead of building them.
const PROGRAMS_VARIABLE: &str = "SESTINA_PROGRAMS";

/// Builds all programs for tests and returns their folder.
pub(crate) fn build_debug() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(PROGRAMS_VARIABLE) {
        return Ok(folder.into());
    }
    run(cargo().args(["build", "--locked", "--workspace", "--bins"]))?;
    Ok(target()?.join("debug"))
}

/// Builds binaries of these packages quickly (profile `release`) and returns their folder.
pub(crate) fn build_release(packages: &[&str]) -> Result<PathBuf> {
    build("release", packages)
}

/// Builds binaries of these packages as for images (profile `dist`) and returns their folder.
pub(crate) fn build_dist(packages: &[&str]) -> Result<PathBuf> {
    build("dist", packages)
}

/// Builds binaries of these packages in that profile and returns their folder.
pub(crate) fn build_as(profile: &str, packages: &[&str]) -> Result<PathBuf> {
    build(profile, packages)
}

/// The folder of a profile's programs in a target folder.
pub(crate) fn profile_folder(profile: &str) -> &str {
    match profile {
        "dev" => "debug",
        other => other,
    }
}

fn build(profile: &str, packages: &[&str]) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(PROGRAMS_VARIABLE) {
        return Ok(folder.into());
    }
    let mut command = cargo();
    command.args(["build", "--profile", profile, "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    run(&mut command)?;
    Ok(target()?.join(profile_folder(profile)))
}

/// Installs Debian packages unless `program` exists. False if it cannot be installed.
pub(crate) fn have_or_install(program: &str, packages: &[&str]) -> bool {
    find_program(program).is_some() || (install(packages) && find_program(program).is_some())
}

/// Installs Debian packages with apt-get; false if that failed.
pub(crate) fn install(packages: &[&str]) -> bool {
    let Some(apt) = find_program("apt-get") else {
        return false;
    };
    println!("installing {}", packages.join(", "));
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    // The package lists may be missing or old; fetching them takes time.
    apt_get(&apt, &arguments) || (apt_get(&apt, &["update"]) && apt_get(&apt, &arguments))
}

fn apt_get(apt: &Path, arguments: &[&str]) -> bool {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(apt)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "--preserve-env=DEBIAN_FRONTEND,RUNLEVEL"])
            .arg(apt);
        sudo
    };
    // Run level 1 prevents the packages' services from starting.
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
