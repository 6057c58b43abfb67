//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::bench::all::{FloorProcess, Plan, all, one};
use crate::bench::spec::{
    AuthSpec, ChatSpec, IdleSpec, LoginSpec, OverloadSpec, RoomSpec, Scenario, ServerKind,
    ServerSpec, Timing,
};
use crate::bench::table::markdown;
use crate::chaos::abuse::{Abuse, abuse};
use crate::chaos::control::drive;
use crate::chaos::flood::{Flood, flood};
use crate::client::endpoint::{Endpoint, Transport, TrustOptions};
use crate::client::sasl::{Credentials, Mechanism};
use crate::floor::peers::Mode;
use crate::floor::server::serve;
use crate::measure::process::Groups;
use crate::smoke::{chat_once, ping};

/// Load generator, benchmark and fault-run checker for XMPP servers.
#[derive(Debug, Parser)]
#[command(name = "sestina-load", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario against one server and print its figures as JSON.
    Bench {
        #[command(subcommand)]
        scenario: BenchScenario,
    },
    /// Run a plan: several servers and scenarios, interleaved and repeated; print a table.
    BenchAll {
        /// The plan, a JSON file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Serve as a floor: a bare TLS server that sends pre-made frames.
    Floor {
        /// Port on the loopback (0: any).
        #[arg(long)]
        port: u16,
        /// How deliveries leave.
        #[arg(long, value_enum, default_value = "plain")]
        mode: Mode,
        /// End when standard input ends.
        #[arg(long, hide = true)]
        with_parent: bool,
    },
    /// Load and checker of a fault run, driven by lines of JSON on standard input.
    Chaos {
        /// The run, a JSON file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Users write as fast as they can to a user that does not read; prints the result as JSON.
    Flood(FloodArgs),
    /// Silent connections, hoarded messages, archive pages, joins and presences, as many as the
    /// server allows; prints the result as JSON.
    Abuse(AbuseArgs),
    /// Log in once and ping the server.
    Ping(PingArgs),
    /// Two users write to each other, resume, and read their archives.
    ChatOnce(ChatOnceArgs),
}

#[derive(Debug, Subcommand)]
enum BenchScenario {
    /// Pairs of sessions that write to each other.
    Chat {
        #[command(flatten)]
        spec: ChatSpec,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// A room with one speaker.
    Room {
        #[command(flatten)]
        spec: RoomSpec,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Connect, authenticate, bind, enable.
    Login {
        #[command(flatten)]
        spec: LoginSpec,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Sessions that do nothing.
    Idle {
        #[command(flatten)]
        spec: IdleSpec,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// More messages than the server can deliver, or a smaller part of a core than it needs.
    Overload {
        #[command(flatten)]
        spec: OverloadSpec,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Measure a floor that is started for this, instead of a server.
    #[arg(long, value_enum)]
    floor: Option<Mode>,
    /// host:port of the server; may be repeated.
    #[arg(long, required_unless_present = "floor")]
    address: Vec<String>,
    /// The transport of streams.
    #[arg(long, value_enum, default_value = "direct-tls")]
    transport: Transport,
    /// XMPP domain.
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// Domain of rooms.
    #[arg(long)]
    muc: Option<String>,
    /// PEM file with trusted certificates; without it, any certificate is accepted.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// WebSocket path.
    #[arg(long, default_value = "/xmpp-websocket")]
    path: String,
    /// SASL mechanism.
    #[arg(long, value_enum, default_value = "ANONYMOUS")]
    auth: Mechanism,
    /// Accounts, such as user%04d.
    #[arg(long, default_value = "user%04d")]
    users: String,
    /// Their password.
    #[arg(
        long,
        default_value = "",
        env = "SESTINA_LOAD_PASSWORD",
        hide_env_values = true
    )]
    password: String,
    /// How many accounts exist (0: one for each session).
    #[arg(long, default_value_t = 0)]
    accounts: usize,
    /// A process whose use is measured, as group=PID; the group of the server is called `server`.
    #[arg(long, value_parser = group_and_pid)]
    pid: Vec<(String, u32)>,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Debug, Args)]
struct ClientArgs {
    /// host:port; may be repeated, to resume at each in turn.
    #[arg(long, required = true)]
    address: Vec<String>,
    /// The transport of streams.
    #[arg(long, value_enum, default_value = "direct-tls")]
    transport: Transport,
    /// XMPP domain.
    #[arg(long)]
    domain: String,
    /// WebSocket path.
    #[arg(long, default_value = "/xmpp-websocket")]
    path: String,
    #[command(flatten)]
    trust: TrustOptions,
    /// SASL mechanism.
    #[arg(long, value_enum, default_value = "auto")]
    auth: Mechanism,
}

#[derive(Debug, Args)]
struct PingArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Account as name:password; not needed with --auth ANONYMOUS.
    #[arg(long, default_value = ":", value_parser = name_and_password)]
    user: (String, String),
}

#[derive(Debug, Args)]
struct FloodArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Accounts as name:password: the writers, and last the reader.
    #[arg(long, value_parser = name_and_password, required = true, num_args = 1)]
    user: Vec<(String, String)>,
    /// How long the writers write.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bytes of padding in each message.
    #[arg(long, default_value_t = 1000)]
    size: usize,
}

#[derive(Debug, Args)]
struct AbuseArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Four accounts as name:password.
    #[arg(long, value_parser = name_and_password, required = true, num_args = 1)]
    user: Vec<(String, String)>,
    /// Domain of the rooms.
    #[arg(long)]
    muc: String,
    /// How long it lasts.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

#[derive(Debug, Args)]
struct ChatOnceArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Account as name:password; give two, or none with --auth ANONYMOUS.
    #[arg(long, value_parser = name_and_password)]
    user: Vec<(String, String)>,
    /// Do not check the archives.
    #[arg(long)]
    no_archive: bool,
}

fn group_and_pid(text: &str) -> Result<(String, u32), String> {
    let (group, pid) = text.split_once('=').ok_or("expected group=PID")?;
    let pid = pid
        .parse()
        .map_err(|_| format!("'{pid}' is no process id"))?;
    Ok((group.to_owned(), pid))
}

fn name_and_password(text: &str) -> Result<(String, String), String> {
    let (name, password) = text.split_once(':').ok_or("expected name:password")?;
    Ok((name.to_owned(), password.to_owned()))
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: the generator must not use more than one core, and its sessions share their state
    // without contention.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let result = runtime.block_on(Box::pin(run(cli)));
    // A read of standard input cannot be interrupted; it must not delay the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // If this cannot be written either, the exit code remains.
    drop(writeln!(std::io::stderr(), "sestina-load: {error:#}"));
    ExitCode::FAILURE
}

fn say(line: &str) {
    // The reader of standard output may be gone; the work continues.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
}

async fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Bench { scenario } => bench(scenario).await,
        Command::BenchAll { config } => bench_all(&config).await,
        Command::Floor {
            port,
            mode,
            with_parent,
        } => floor(port, mode, with_parent).await,
        Command::Chaos { config } => chaos(&config).await,
        Command::Flood(args) => {
            let endpoint = args.client.endpoint()?;
            let Some((reader, writers)) = args.user.split_last() else {
                anyhow::bail!("give --user at least twice");
            };
            let first = args.client.address.first().context("no address")?;
            let last = args.client.address.last().unwrap_or(first);
            let plan = Flood {
                addresses: [first.clone(), last.clone()],
                writers: writers
                    .iter()
                    .map(|user| args.client.credentials(user))
                    .collect(),
                reader: args.client.credentials(reader),
                time: Duration::from_secs(args.seconds),
                size: args.size,
            };
            let outcome = Box::pin(flood(&endpoint, &plan)).await?;
            say(&serde_json::to_string(&outcome)?);
            Ok(())
        }
        Command::Abuse(args) => {
            let endpoint = args.client.endpoint()?;
            let users: Vec<Credentials> = args
                .user
                .iter()
                .map(|user| args.client.credentials(user))
                .collect();
            let Ok(users) = <[Credentials; 4]>::try_from(users) else {
                anyhow::bail!("give --user four times");
            };
            let plan = Abuse {
                address: args.client.address.first().context("no address")?.clone(),
                users,
                muc: args.muc,
                time: Duration::from_secs(args.seconds),
            };
            let outcome = Box::pin(abuse(&endpoint, &plan)).await?;
            say(&serde_json::to_string(&outcome)?);
            Ok(())
        }
        Command::Ping(args) => {
            let endpoint = args.client.endpoint()?;
            let address = args.client.address.first().context("no address")?;
            let took = ping(&endpoint, address, &args.client.credentials(&args.user)).await?;
            say(&format!("pong after {:.2} ms", took.as_secs_f64() * 1e3));
            Ok(())
        }
        Command::ChatOnce(args) => {
            let endpoint = args.client.endpoint()?;
            let nobody = (String::new(), String::new());
            let user = |n: usize| args.client.credentials(args.user.get(n).unwrap_or(&nobody));
            anyhow::ensure!(
                args.user.len() == 2 || args.client.auth == Mechanism::Anonymous,
                "give --user twice, or --auth ANONYMOUS"
            );
            let users = [user(0), user(1)];
            let users = [&users[0], &users[1]];
            let addresses = &args.client.address;
            Box::pin(chat_once(
                &endpoint,
                addresses,
                users,
                !args.no_archive,
                say,
            ))
            .await
        }
    }
}

impl ClientArgs {
    fn endpoint(&self) -> Result<Endpoint> {
        let mut endpoint = Endpoint::new(&self.domain, self.transport, &self.trust.load()?)?;
        endpoint.path.clone_from(&self.path);
        Ok(endpoint)
    }

    fn credentials(&self, (user, password): &(String, String)) -> Credentials {
        Credentials {
            mechanism: self.auth,
            user: user.clone(),
            password: password.clone(),
        }
    }
}

async fn bench(scenario: BenchScenario) -> Result<()> {
    let (name, scenario, args) = match scenario {
        BenchScenario::Chat { spec, server } => ("chat", Scenario::Chat(spec), server),
        BenchScenario::Room { spec, server } => ("room", Scenario::Room(spec), server),
        BenchScenario::Login { spec, server } => ("login", Scenario::Login(spec), server),
        BenchScenario::Idle { spec, server } => ("idle", Scenario::Idle(spec), server),
        BenchScenario::Overload { spec, server } => ("overload", Scenario::Overload(spec), server),
    };
    let timing = args.timing.clone();
    let (server, _floor) = match args.floor {
        Some(mode) => {
            let floor = FloorProcess::start(mode).await?;
            (floor.spec(), Some(floor))
        }
        None => (args.spec(), None),
    };
    let mut outcome = Box::pin(one(&server, &timing, &scenario)).await?;
    name.clone_into(&mut outcome.scenario);
    say(&serde_json::to_string_pretty(&outcome)?);
    Ok(())
}

impl ServerArgs {
    fn spec(self) -> ServerSpec {
        let mut pids = Groups::new();
        for (group, pid) in self.pid {
            pids.entry(group).or_default().push(pid);
        }
        ServerSpec {
            name: "server".to_owned(),
            kind: ServerKind::Xmpp,
            addresses: self.address,
            transport: self.transport,
            domain: self.domain,
            muc: self.muc,
            ca: self.ca,
            path: self.path,
            auth: AuthSpec {
                mechanism: self.auth,
                user: self.users,
                password: self.password,
                first: 0,
                accounts: self.accounts,
            },
            pids,
            leases: None,
        }
    }
}

async fn bench_all(config: &Path) -> Result<()> {
    let plan: Plan = read_json(config)?;
    let findings = Box::pin(all(&plan, tell)).await?;
    if let Some(path) = &plan.output {
        let text = serde_json::to_string_pretty(&findings)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let table = markdown(&findings);
    if let Some(path) = &plan.table {
        std::fs::write(path, &table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&table);
    Ok(())
}

async fn floor(port: u16, mode: Mode, with_parent: bool) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    say(&format!("listening on {}", listener.local_addr()?));
    let parent_gone = async {
        if with_parent {
            // The parent writes nothing; the end of input means that the parent has ended.
            drop(tokio::io::stdin().read(&mut [0; 1]).await);
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serve(listener, mode) => served,
        () = parent_gone => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for a signal"),
    }
}

async fn chaos(config: &Path) -> Result<()> {
    let config = read_json(config)?;
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    let emit = Box::new(|event: &serde_json::Value| say(&event.to_string()));
    Box::pin(drive(config, emit, receiver)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
