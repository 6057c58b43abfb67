//! The errors that `config check` finds.

use super::*;

/// The output of `config check` with these further lines in the configuration.
fn checked(dir: &Path, more: &str) -> String {
    configure(dir);
    let path = dir.join("sestina.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{config}{more}")).unwrap();
    let output = call(dir, &["config", "check"]);
    assert_eq!(output.status.code(), Some(1), "{more}: {output:?}");
    text(&output.stderr)
}

#[test]
fn config_check_opens_what_the_configuration_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    assert!(call(dir, &["config", "check"]).status.success());
    assert!(!dir.join("data").exists(), "nothing is made");
    // Two certificates: for a.test and b.test.
    for name in ["a", "b"] {
        let mut command = program(dir);
        command.args(["certs", "node", &format!("{name}.test"), "--role", "edge"]);
        assert!(
            command
                .args(["--dir", name])
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    let file = |folder: &str, end: &str| {
        let files = std::fs::read_dir(dir.join(folder)).unwrap();
        let mut files = files.map(|file| file.unwrap().path());
        let is = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(folder) && name.ends_with(end)
        };
        files.find(is).unwrap().display().to_string()
    };
    let (a, a_key, b_key) = (file("a", ".pem"), file("a", "key"), file("b", "key"));
    let pair = |cert: &str, key: &str| {
        format!("[[host]]\ndomain = \"a.test\"\ncertificate = {cert:?}\nkey = {key:?}\n")
    };
    for (more, wanted) in [
        (
            pair("none.pem", &a_key),
            "host a.test: cannot read none.pem: No such file",
        ),
        (pair(&a, &b_key), "does not belong to the first certificate"),
        (pair(&a_key, &a), "holds no certificate"),
        (
            pair(&a, &a_key).replace("domain = \"a", "domain = \"c"),
            "is for other names (a.test)",
        ),
        (
            "[[host]]\ndomain = \"a.test:5222\"\n".to_owned(),
            "without a port",
        ),
        (
            "[admin]\nsocket = \"sestina.toml/x/admin.sock\"\n".to_owned(),
            "`admin.socket`",
        ),
    ] {
        let said = checked(dir, &more);
        assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
        assert!(!said.contains("os error"), "{said}");
    }
    let ports = configure(dir);
    let path = dir.join("sestina.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let twice = config.replace(&ports[1].to_string(), &ports[0].to_string());
    std::fs::write(&path, twice).unwrap();
    let said = call(dir, &["config", "check"]);
    assert!(text(&said.stderr).contains("`edge.c2s_tls`"), "{said:?}");
    std::fs::write(&path, &config).unwrap();
    let _taken = std::net::TcpListener::bind(ports[2]).unwrap();
    let said = call(dir, &["config", "check"]);
    assert!(
        text(&said.stderr).contains("`edge.http`: cannot listen"),
        "{said:?}"
    );
    let mut command = program(dir);
    command
        .args(["config", "check"])
        .env("SESTINA_EDGE_C2S", "x");
    let said = command.output().unwrap();
    assert!(
        text(&said.stderr).contains("SESTINA__EDGE__C2S"),
        "{said:?}"
    );
}
