//! How many leases the processes of a server have lost, from their exported metrics.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The metrics with a server's lost leases.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// `host:port` at which its processes answer to `GET /metrics`.
    pub addresses: Vec<String>,
    /// The counter's name in the metrics' text, such as `leases_total`.
    pub counter: String,
    /// A part of its labels, such as `event="lost"`.
    pub label: String,
}

/// The sum over all processes that answer; none for a server without leases.
pub async fn lost(leases: &Option<Leases>) -> Option<u64> {
    let leases = leases.as_ref()?;
    let mut sum = 0.0;
    for address in &leases.addresses {
        // The clients of a process that does not answer report that.
        if let Some(text) = get(address).await {
            sum += counted(&text, &leases.counter, &leases.label);
        }
    }
    Some(sum as u64)
}

async fn get(address: &str) -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    timeout(Duration::from_secs(10), asked).await.ok()?
}

fn counted(text: &str, counter: &str, label: &str) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(counter) && line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_the_label_are_added() {
        let text = "# TYPE leases_total counter\nleases_total{by=\"a\",event=\"lost\"} 2\n\
                    leases_total{by=\"b\",event=\"lost\"} 1\nleases_total{by=\"b\",event=\"won\"} 7\n";
        assert!((counted(text, "leases_total", "event=\"lost\"") - 3.0).abs() < 1e-9);
    }
}
