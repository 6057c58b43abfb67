//! A database of another cluster, a database that does not exist yet, and one that is gone.

use super::*;

#[test]
fn a_database_of_another_cluster_is_refused_until_it_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let mut server = Server::start(dir);
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().success());
    let refused = call(dir, &["serve", "--set", "cluster.name=other"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(
        why.contains("\"sestina\"") && why.contains("\"other\""),
        "{why}"
    );
    assert!(why.contains("sestina cluster rename other"), "{why}");

    let unfit = call(dir, &["cluster", "rename", "o ther"]);
    assert_eq!(unfit.status.code(), Some(1), "{unfit:?}");
    let first = json(dir, &["cluster", "rename", "other"]);
    assert_eq!(first["name"], "other");
    let second = json(dir, &["cluster", "rename", "other"]);
    assert_ne!(
        first["id"], second["id"],
        "a renamed cluster is one of its own"
    );
    let config = std::fs::read_to_string(dir.join("sestina.toml")).unwrap();
    std::fs::write(
        dir.join("sestina.toml"),
        format!("{config}[cluster]\nname = \"other\"\n"),
    )
    .unwrap();
    Server::start(dir);
}

/// A storage process that starts before its database waits, and reports that.
#[test]
fn a_storage_process_waits_for_its_database_and_says_so() {
    let mut postgres = sestina_testkit::Postgres::start_own(&Default::default()).unwrap();
    let url = postgres.create_database("late").unwrap();
    postgres.kill9();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [listen, metrics] = [free(), free()];
    std::fs::write(
        dir.join("sestina.toml"),
        format!(
            "[node]\nname = \"s\"\ndata_dir = \"data\"\n[cluster]\nlisten = \"{listen}\"\n\
             advertise = \"{listen}\"\nplaintext = true\n[telemetry]\nprometheus = \
             [\"{metrics}\"]\n[storage]\nurl = \"{url}\"\n"
        ),
    )
    .unwrap();
    let child = program(dir)
        .arg("storage")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut storage = Server {
        child,
        said: String::new(),
    };
    let says = |wanted: &str| {
        let since = Instant::now();
        while TcpStream::connect(metrics).is_err() || !get(metrics, "/ready").contains(wanted) {
            assert!(since.elapsed() < LIMIT, "it never says {wanted:?}");
            std::thread::yield_now();
        }
    };
    says("waiting for the database");
    postgres.restart().unwrap();
    says("\r\n\r\nready");
    storage.signal(rustix::process::Signal::TERM);
    assert!(storage.ended().success());

    // A fault that waiting does not repair is an error.
    let wrong = url.replace("/late", "/nowhere");
    let refused = call(dir, &["storage", "--set", &format!("storage.url={wrong}")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nowhere"), "{refused:?}");
}

#[test]
fn a_database_file_that_is_gone_is_told_and_refuses_users_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ports = configure(dir);
    let _server = Server::start(dir);
    until_ready_is(ports[4], " 200 ");
    let (file, aside) = (dir.join("data/sestina.db"), dir.join("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    let page = until_ready_is(ports[4], " 503 ");
    assert!(
        page.contains("was deleted while the server was running"),
        "{page}"
    );
    let refused = call(dir, &["user", "add", "bob@localhost", "--generate"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        text(&refused.stderr).contains("put the file back"),
        "{refused:?}"
    );
    let status = json(dir, &["status"]);
    assert_eq!(status["redundant"], false, "{status}");
    assert!(
        status["missing"].to_string().contains("was deleted"),
        "{status}"
    );
    std::fs::rename(&aside, &file).unwrap();
    until_ready_is(ports[4], " 200 ");
    let added = call(dir, &["user", "add", "bob@localhost", "--generate"]);
    assert!(added.status.success(), "{added:?}");
}
