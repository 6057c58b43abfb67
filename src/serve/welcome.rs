//! The lines that a single process prints when it has begun to serve.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use sestina_config::Config;

/// The lines, from the bound addresses and the path of the self-signed certificate (if one is
/// used).
pub fn lines(
    config: &Config,
    command: &str,
    addresses: &[(Arc<str>, SocketAddr)],
    self_signed: Option<&Path>,
) -> String {
    let domains: Vec<&str> = config
        .host
        .iter()
        .map(|host| host.domain.as_str())
        .collect();
    let mut text = format!("sestina serves {}\n", domains.join(", "));
    for (name, address) in addresses {
        let what = match &**name {
            "c2s" => "clients, with STARTTLS".to_owned(),
            "c2s_tls" => "clients, with TLS".to_owned(),
            "c2s_plaintext" => "clients, without TLS".to_owned(),
            "http" => format!("WebSocket behind a proxy: ws://{address}/xmpp-websocket"),
            "https" => {
                let domain = domains.first().copied().unwrap_or("localhost");
                format!(
                    "WebSocket: wss://{domain}:{}/xmpp-websocket",
                    address.port()
                )
            }
            other => other.to_owned(),
        };
        text.push_str(&format!("  {address:<16} {what}\n"));
    }
    text.push_str(&format!("  data in {}\n", config.node.data_dir.display()));
    if let Some(path) = self_signed {
        text.push_str(&format!(
            "  certificate {} (self-signed: clients must be told to trust it)\n",
            path.display()
        ));
    }
    if let Some(host) = config.host.iter().find(|host| !host.anonymous) {
        text.push_str(&format!(
            "add a user:   {command} user add alice@{domain}\n\
             then log in as alice@{domain} with any XMPP client\n",
            domain = host.domain
        ));
    }
    text.push_str(&format!(
        "how it is:    {command} status\nstop it:      Ctrl-C\n"
    ));
    text
}

/// The command with which the program was started, as it can be repeated.
pub fn command(config_file: Option<&Path>) -> String {
    let cargo = std::env::var_os("CARGO").is_some();
    let mut command = if cargo {
        "cargo run --release --".to_owned()
    } else {
        let own = std::env::args().next().unwrap_or_default();
        if own.is_empty() {
            "sestina".to_owned()
        } else {
            own
        }
    };
    if let Some(path) = config_file {
        command.push_str(&format!(" --config {}", path.display()));
    }
    command
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn says_where_and_what_to_do_next() {
        let config = Config::load(&[], None, [], &[]).unwrap();
        let addresses = [
            (Arc::from("c2s"), "[::]:5222".parse().unwrap()),
            (Arc::from("https"), "[::]:5281".parse().unwrap()),
        ];
        let text = lines(
            &config,
            "sestina",
            &addresses,
            Some(Path::new("d/self-signed.crt")),
        );
        for part in [
            "serves localhost",
            "[::]:5222",
            "wss://localhost:5281/xmpp-websocket",
            "sestina user add alice@localhost",
            "d/self-signed.crt",
            "sestina status",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
