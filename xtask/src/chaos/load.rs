//! The dialogue with `sestina-load chaos`: a line of JSON in each direction.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::scene::{DOMAIN, PASSWORD, Scene};

/// How long an order that needs no work may take.
const PROMPT: Duration = Duration::from_secs(20);

/// The running generator.
pub(super) struct Load {
    child: Child,
    input: ChildStdin,
    events: Receiver<Value>,
    sessions: u64,
    /// How many events of each name were printed since the last mark.
    printed: BTreeMap<String, usize>,
}

/// How many events of one name are printed for one fault; all are in `events.jsonl`.
const PRINTED: usize = 3;

/// The properties of the load.
pub(super) struct Wanted {
    pub(super) sessions: usize,
    /// Messages per second of each session.
    pub(super) rate: f64,
    pub(super) seed: u64,
}

impl Load {
    /// Starts the generator; its sessions log in and begin to write.
    pub(super) fn start(
        programs: &Path,
        folder: &Path,
        scene: &Scene,
        wanted: &Wanted,
    ) -> Result<Load> {
        let config = json!({
            "seed": wanted.seed,
            "sessions": wanted.sessions,
            "rate": wanted.rate,
            "edges": scene.fleet.edges(5223),
            "transport": "direct-tls",
            "domain": DOMAIN,
            "muc": format!("conference.{DOMAIN}"),
            "ca": scene.fleet.certs.join("ca.pem"),
            "users": {"pattern": "user%04d", "password": PASSWORD},
            "log": folder.join("load.jsonl"),
        });
        let path = folder.join("load.json");
        fs::write(&path, serde_json::to_string_pretty(&config)?)?;
        let errors = File::create(folder.join("load.log"))?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(programs.join("sestina-load"))
            .arg("chaos")
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("cannot start sestina-load")?;
        let input = child.stdin.take().context("no pipe to sestina-load")?;
        let output = child.stdout.take().context("no pipe from sestina-load")?;
        let (sender, events) = mpsc::channel();
        let mut log = File::create(folder.join("events.jsonl"))?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The dialogue continues if the disk is full.
                writeln!(log, "{line}").ok();
                let Ok(event) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Load {
            child,
            input,
            events,
            sessions: wanted.sessions as u64,
            printed: BTreeMap::new(),
        })
    }

    /// Waits for an event of this name; prints the unexpected events that come before it.
    pub(super) fn wait_for(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    let got = event["event"].as_str().unwrap_or_default();
                    if got == name {
                        return Ok(event);
                    }
                    let untouched = event["touched"].as_bool() == Some(false);
                    let loud = matches!(
                        got,
                        "resume_refused" | "leave_seen" | "evicted" | "bounced" | "not_understood"
                    );
                    if loud || (got == "disconnected" && untouched) {
                        let printed = self.printed.entry(got.to_owned()).or_default();
                        *printed += 1;
                        if *printed <= PRINTED {
                            println!("  {event}");
                        } else if *printed == PRINTED + 1 {
                            println!("  and more of {got}");
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the load generator did not say {name:?} within {limit:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the load generator ended with {status}; see load.log")
                }
            }
        }
    }

    fn order(&mut self, order: &Value, answer: &str, limit: Duration) -> Result<Value> {
        writeln!(self.input, "{order}").context("the load generator takes no orders")?;
        self.wait_for(answer, limit)
    }

    /// Ends a window of figures and begins the next.
    pub(super) fn mark(&mut self, label: &str) -> Result<()> {
        self.printed.clear();
        let order = json!({"cmd": "mark", "label": label});
        self.order(&order, "marked", PROMPT)?;
        Ok(())
    }

    /// Notes that clients of this edge may lose their connection from now on, or no more.
    pub(super) fn touch(&mut self, edge: &str, touched: bool) -> Result<()> {
        let (cmd, answer) = if touched {
            ("touch", "touched")
        } else {
            ("untouch", "untouched")
        };
        self.order(&json!({"cmd": cmd, "edge": edge}), answer, PROMPT)?;
        Ok(())
    }

    /// Waits until all sessions are connected and all their messages are acknowledged, except those
    /// of the last seconds.
    pub(super) fn wait_connected(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let status = self.order(&json!({"cmd": "status"}), "status", PROMPT)?;
            let connected = status["connected"].as_u64().unwrap_or_default();
            let oldest = status["oldest_unacked_ms"].as_u64().unwrap_or_default();
            if connected == self.sessions && oldest < 5000 {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "{connected} of {} sessions are connected, the oldest message that is not \
                 acknowledged waits for {oldest} ms",
                self.sessions
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts the final check; returns the report.
    pub(super) fn verify(&mut self, limit: Duration) -> Result<Value> {
        self.order(&json!({"cmd": "verify"}), "report", limit)
    }

    /// Ends the generator.
    pub(super) fn quit(&mut self) {
        let asked = writeln!(self.input, "{}", json!({"cmd": "quit"}));
        let end = Instant::now() + Duration::from_secs(10);
        while asked.is_ok() && Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
