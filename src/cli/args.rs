//! The arguments of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A horizontally clustered XMPP server.
///
/// Without a command it serves: storage, router and edge in this one process, with a SQLite
/// database in its data directory.
#[derive(Debug, Parser)]
#[command(name = "sestina", version, max_term_width = 100)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// The command; none: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file (TOML). Without it: `sestina.toml` in the working directory if there is
    /// one, else defaults.
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        env = "SESTINA_CONFIG"
    )]
    pub config: Option<PathBuf>,
    /// Overrides one option of the configuration, as in `--set edge.limits.depth=16`.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// Admin socket of the server to ask. Without it: that of the configuration.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help_heading = "Which server to ask"
    )]
    pub socket: Option<PathBuf>,
    /// Send the command to a router over gRPC instead of a socket. Needs a certificate with the
    /// role admin, unless the cluster speaks plaintext.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        conflicts_with = "socket",
        help_heading = "Which server to ask"
    )]
    pub connect: Option<String>,
    /// Authority (PEM) that has signed the server's certificate.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Which server to ask"
    )]
    pub ca: Option<PathBuf>,
    /// Certificate (PEM) of the administrator.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Which server to ask"
    )]
    pub cert: Option<PathBuf>,
    /// Private key (PEM) of the administrator.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Which server to ask"
    )]
    pub key: Option<PathBuf>,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve with all tiers in this process (the default).
    Serve,
    /// Serve as an edge: the tier that clients connect to.
    Edge,
    /// Serve as a router: the tier that owns sessions and rooms.
    Router,
    /// Serve as a storage process: the tier that uses the database.
    Storage,
    /// Users with an account.
    #[command(subcommand)]
    User(User),
    /// Sessions that are connected, or can be resumed.
    #[command(subcommand)]
    Sessions(Sessions),
    /// Which router owns which slots.
    Slots,
    /// The state of the cluster, and whether it is redundant, so that the next fault may come.
    Status,
    /// The order in which modules handle stanzas.
    Pipeline,
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Certificates for the connections between tiers, from a private authority for trials.
    #[command(subcommand)]
    Certs(Certs),
    /// Places where a test makes the server fail.
    #[command(subcommand, hide = true)]
    Failpoint(Failpoint),
}

/// Users with an account.
#[derive(Clone, Debug, Subcommand)]
pub enum User {
    /// Add a user. The command asks for the password; without a terminal it makes one and prints
    /// it.
    Add(NewPassword),
    /// Set a new password. Ends the user's sessions.
    Passwd(NewPassword),
    /// List users.
    List {
        /// Only users of this host.
        #[arg(long)]
        host: Option<String>,
    },
    /// Show a user.
    Show {
        /// The user, as in alice@example.org.
        jid: String,
    },
    /// Forbid a user to log in. Ends the user's sessions; nothing is deleted.
    Disable {
        /// The user, as in alice@example.org.
        jid: String,
    },
    /// Allow a user to log in again.
    Enable {
        /// The user, as in alice@example.org.
        jid: String,
    },
    /// Delete a user with all stored data.
    Delete {
        /// The user, as in alice@example.org.
        jid: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// A user, and the source of the password.
#[derive(Clone, Debug, Args)]
pub struct NewPassword {
    /// The user, as in alice@example.org.
    pub jid: String,
    /// Read the password from the first line of standard input.
    #[arg(long, conflicts_with = "generate")]
    pub stdin: bool,
    /// Make a password and print it.
    #[arg(long)]
    pub generate: bool,
}

/// Sessions that are connected, or can be resumed.
#[derive(Clone, Debug, Subcommand)]
pub enum Sessions {
    /// List sessions.
    List {
        /// Only sessions of this user.
        jid: Option<String>,
    },
    /// Show sessions with all details.
    Show {
        /// One session (full JID), or all of a user (bare JID).
        jid: String,
    },
    /// End sessions.
    Close {
        /// One session (full JID), or all of a user (bare JID).
        jid: String,
    },
}

/// The configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration, and the files, folders, ports and servers that it names.
    Check {
        /// The role of the process.
        #[arg(long, value_enum, default_value_t = Role::Serve)]
        role: Role,
        /// Do not call Redis, the database and the other processes.
        #[arg(long)]
        offline: bool,
        /// Treat warnings as errors.
        #[arg(long)]
        strict: bool,
    },
    /// Print the configuration that is in effect, without its secrets.
    Show,
    /// Print the reference of all options (Markdown).
    Docs,
}

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// All tiers in one process.
    Serve,
    /// The edge tier.
    Edge,
    /// The router tier.
    Router,
    /// The storage tier.
    Storage,
}

/// Certificates for the connections between tiers.
#[derive(Clone, Debug, Subcommand)]
pub enum Certs {
    /// Make the authority.
    Ca {
        /// Folder of its files.
        #[arg(long, default_value = "certs", value_name = "DIRECTORY")]
        dir: PathBuf,
    },
    /// Issue a certificate for a process or an administrator (the authority is made if there is
    /// none).
    Node {
        /// Name of the process, as in node.name; also a DNS name of the certificate.
        name: String,
        /// Role of its holder.
        #[arg(long, value_enum)]
        role: CertRole,
        /// Further DNS names and IP addresses by which the others reach the process.
        #[arg(long = "san", value_name = "NAME")]
        sans: Vec<String>,
        /// Folder of the authority's files, and of the new ones.
        #[arg(long, default_value = "certs", value_name = "DIRECTORY")]
        dir: PathBuf,
    },
    /// Show the content of a certificate.
    Show {
        /// Certificate (PEM).
        file: PathBuf,
    },
}

/// The cluster as a whole.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Give the cluster of this configuration's database another name and a new id: after a database
    /// was moved or restored to become another cluster's, or before two clusters share a Redis. All
    /// processes of the cluster must have been stopped; live state in Redis is left behind. Set
    /// `cluster.name` of all processes to the new name afterwards.
    Rename {
        /// The new name.
        name: String,
    },
}

/// The role of a certificate's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CertRole {
    /// An edge.
    Edge,
    /// A router.
    Router,
    /// A storage process.
    Storage,
    /// An administrator.
    Admin,
}

/// Places where a test makes the server fail.
#[derive(Clone, Debug, Subcommand)]
pub enum Failpoint {
    /// Arm points: `name=kill`, `name=suspend`, `name=error`, `name=pause:100`; `name=3*kill` for
    /// the third time only.
    Arm {
        /// The points.
        #[arg(required = true)]
        points: Vec<String>,
    },
    /// Disarm a point.
    Disarm {
        /// Its name.
        name: String,
    },
    /// List all points.
    List,
}
