//! A server that stops for a while, or whose log is not read, disconnects no client.

use super::*;

/// A client's plaintext stream.
struct Line(TcpStream);

impl Line {
    /// Logs in without an account.
    fn login(address: SocketAddr) -> Line {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut line = Line(stream);
        let header = "<stream:stream xmlns='jabber:client' to='localhost' version='1.0' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";
        let sasl = "urn:ietf:params:xml:ns:xmpp-sasl";
        let bind = "urn:ietf:params:xml:ns:xmpp-bind";
        line.ask(header, "</stream:features>");
        line.ask(
            &format!("<auth xmlns='{sasl}' mechanism='ANONYMOUS'/>"),
            "<success",
        );
        line.ask(header, "</stream:features>");
        line.ask(
            &format!("<iq type='set' id='b'><bind xmlns='{bind}'/></iq>"),
            "</iq>",
        );
        line
    }

    /// Sends, and returns the input up to and including `until`.
    fn ask(&mut self, said: &str, until: &str) -> String {
        self.0.write_all(said.as_bytes()).unwrap();
        let mut heard = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&heard).contains(until) {
            let read = self.0.read(&mut byte).unwrap();
            assert!(read > 0, "the server closed: {}", text(&heard));
            heard.extend(byte);
        }
        text(&heard)
    }

    fn ping(&mut self, id: &str) {
        let ping = format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>");
        let answer = self.ask(&ping, &format!("id='{id}'"));
        assert!(!answer.contains("stream:error"), "{answer}");
    }
}

/// One process is the whole system: after any pause, its clients are still connected.
#[test]
fn a_server_that_stands_still_again_and_again_cuts_no_client() {
    use rustix::process::Signal;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    configure(dir);
    let plain = free();
    let config = std::fs::read_to_string(dir.join("sestina.toml")).unwrap();
    let config = config.replace(
        "[edge]\n",
        &format!("[edge]\nc2s_plaintext = [\"{plain}\"]\n"),
    );
    let config = format!("{config}[[host]]\ndomain = \"localhost\"\nanonymous = true\n");
    std::fs::write(dir.join("sestina.toml"), config).unwrap();
    let server = Server::start(dir);
    let mut line = Line::login(plain);
    line.ping("before");
    // Longer than a lease of a cluster; then with a tenth of the time to work.
    let still = |time: u64, working: u64| {
        server.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(time));
        server.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(working));
    };
    for (time, working, times) in [(6000, 0, 1), (3000, 300, 4), (900, 100, 10)] {
        for _ in 0..times {
            still(time, working);
        }
        line.ping(&format!("after-{time}"));
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    let complains = |line: &str| line.contains("WARN") || line.contains("ERROR");
    let mut lines = log.lines();
    assert!(
        !lines.any(|line| complains(line) && line.contains("lease")),
        "{log}"
    );
}

/// A pipe that is not read (because a supervisor hangs, or a terminal was stopped) delays no
/// client.
#[test]
fn a_log_that_is_not_read_holds_up_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ports = configure(dir);
    let mut child = program(dir)
        .args(["serve", "--set", "telemetry.log=trace"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = || {
        let since = Instant::now();
        while since.elapsed() < LIMIT {
            if let Ok(mut stream) = TcpStream::connect(ports[4]) {
                let ask = "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                let mut answer = String::new();
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                if stream.write_all(ask.as_bytes()).is_ok()
                    && stream.read_to_string(&mut answer).is_ok()
                    && answer.contains("\r\n\r\nready")
                {
                    return true;
                }
            }
            std::thread::yield_now();
        }
        false
    };
    let mut well = ready();
    // The log lines about these connections are far more than the capacity of a pipe.
    for _ in 0..800 {
        if let Ok(mut stream) = TcpStream::connect(ports[0]) {
            stream.write_all(b"<no-stream/>").ok();
        }
    }
    well &= ready();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(well, "the server waits for its log to be read");
}
