//! The administrator's commands.

use super::*;

#[test]
fn users_are_managed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let _server = Server::start(dir);
    let mut add = program(dir)
        .args(["user", "add", "bob@localhost", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    add.stdin.take().unwrap().write_all(b"pencil\n").unwrap();
    let added = add.wait_with_output().unwrap();
    assert!(added.status.success());
    assert!(!text(&added.stdout).contains("pencil"));

    assert_eq!(
        json(dir, &["user", "disable", "bob@localhost"])["jid"],
        "bob@localhost"
    );
    assert_eq!(
        json(dir, &["user", "show", "bob@localhost"])["disabled"],
        true
    );
    assert!(
        call(dir, &["user", "passwd", "bob@localhost", "--generate"])
            .status
            .success()
    );
    let shown = json(dir, &["user", "show", "bob@localhost"]);
    assert_eq!(
        shown["disabled"], true,
        "a disabled user stays disabled with a new password: {shown}"
    );
    assert!(
        call(dir, &["user", "enable", "bob@localhost"])
            .status
            .success()
    );
    assert_eq!(
        json(dir, &["user", "show", "bob@localhost"])["disabled"],
        false
    );

    for (arguments, code) in [
        (["user", "show", "nobody@localhost"], "not-found"),
        (["user", "show", "bob@elsewhere"], "invalid-arguments"),
        (["user", "show", "localhost"], "invalid-arguments"),
        (["user", "add", "a b@localhost"], "invalid-arguments"),
        (["user", "passwd", "nobody@localhost"], "not-found"),
        (["user", "delete", "bob@localhost"], "invalid-arguments"),
        (["sessions", "close", "bob@localhost"], "not-found"),
    ] {
        let output = call(dir, &[&arguments[..], &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let out = text(&output.stdout);
        let error: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(error["error"]["code"], code, "{arguments:?}: {out}");
    }
    assert!(
        call(dir, &["user", "delete", "bob@localhost", "--yes"])
            .status
            .success()
    );
    assert_eq!(
        json(dir, &["user", "list"])["users"]
            .as_array()
            .unwrap()
            .len(),
        0
    );

    assert_eq!(json(dir, &["sessions", "list"])["complete"], true);
    let slots = json(dir, &["slots"]);
    assert_eq!(
        (&slots["unowned"], &slots["routers"][0]["slots"]),
        (&0.into(), &4096.into())
    );
    let armed = json(dir, &["failpoint", "list"]);
    assert!(armed["points"].as_array().unwrap().len() > 5);
}

#[test]
fn commands_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let pipeline = call(dir, &["pipeline"]);
    assert!(pipeline.status.success());
    assert!(text(&pipeline.stdout).contains("mam"), "{pipeline:?}");
    assert!(call(dir, &["config", "check"]).status.success());
    let unfit = call(dir, &["config", "check", "--role", "edge"]);
    assert_eq!(unfit.status.code(), Some(1));
    assert!(text(&unfit.stderr).contains("cluster.routers"), "{unfit:?}");
    let typo = call(dir, &["config", "check", "--set", "edge.limits.dept=8"]);
    assert!(text(&typo.stderr).contains("edge.limits.depth"), "{typo:?}");
    assert!(text(&call(dir, &["config", "show"]).stdout).contains("data_dir = \"data\""));
    assert!(text(&call(dir, &["config", "docs"]).stdout).contains("connection_rate"));
    let files = json(
        dir,
        &[
            "certs",
            "node",
            "r1",
            "--role",
            "router",
            "--san",
            "127.0.0.1",
        ],
    );
    let shown = json(
        dir,
        &["certs", "show", files["certificate"].as_str().unwrap()],
    );
    assert_eq!(shown["roles"][0], "router");
    assert_eq!(call(dir, &["nonsense"]).status.code(), Some(2));
    assert_eq!(call(dir, &["--version"]).status.code(), Some(0));
}

#[test]
fn the_pipeline_names_what_rooms_answer() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let pipeline = text(&call(dir.path(), &["pipeline"]).stdout);
    assert!(
        pipeline.contains("{http://jabber.org/protocol/muc#owner}query"),
        "{pipeline}"
    );
}

#[test]
fn the_pipeline_of_a_host_with_modules_of_its_own_is_printed_apart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let one = json(dir, &["pipeline"]);
    assert_eq!(one["pipelines"].as_array().unwrap().len(), 1, "{one}");
    assert!(!text(&call(dir, &["pipeline"]).stdout).contains("at localhost"));
    let hosts = "[[host]]\ndomain = \"a.test\"\n[[host]]\ndomain = \"b.test\"\n\
                 [host.modules]\ndisabled = [\"blocking\"]\n";
    let path = dir.join("sestina.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{before}{hosts}")).unwrap();
    let both = text(&call(dir, &["pipeline"]).stdout);
    let (a, b) = both.split_once("at b.test, conference.b.test").unwrap();
    assert!(a.starts_with("at a.test, conference.a.test\n"), "{both}");
    assert!(
        a.contains("urn:xmpp:blocking") && !b.contains("urn:xmpp:blocking"),
        "{both}"
    );
    let typo = call(
        dir,
        &[
            "config",
            "check",
            "--set",
            "modules.blocking.max_list_byte=8",
        ],
    );
    let wanted = "did you mean `modules.blocking.max_list_bytes`?";
    assert!(text(&typo.stderr).contains(wanted), "{typo:?}");
    let needed = call(dir, &["config", "check", "--set", "modules.disabled=disco"]);
    assert!(
        text(&needed.stderr).contains("other parts of the server need \"disco\""),
        "{needed:?}"
    );
    assert!(text(&call(dir, &["config", "show"]).stdout).contains("max_list_bytes = \"64KiB\""));
}
