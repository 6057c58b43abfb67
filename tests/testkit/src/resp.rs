//! A very small Redis client, enough to set servers up and to check that they are ready.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// An answer of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Null.
    Nil,
    /// An integer.
    Int(i64),
    /// A simple or bulk string.
    Text(String),
    /// An array.
    Array(Vec<Reply>),
}

impl Reply {
    /// The string, or an empty one for other answers.
    pub fn text(&self) -> &str {
        match self {
            Reply::Text(text) => text,
            _ => "",
        }
    }

    /// The value after `name` in a flat array of names and values.
    pub fn field(&self, name: &str) -> Option<&str> {
        let Reply::Array(items) = self else {
            return None;
        };
        items
            .chunks(2)
            .find(|pair| pair[0].text() == name)
            .and_then(|pair| Some(pair.get(1)?.text()))
    }
}

/// Runs one command on a connection of its own; an error answer is an error.
pub fn command(port: u16, words: &[&str]) -> Result<Reply> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut replies = session(TcpStream::connect_timeout(&address, LIMIT)?, &[words])?;
    replies.pop().context("no answer")
}

/// The same on a unix socket.
pub(crate) fn command_at(socket: &Path, words: &[&str]) -> Result<Reply> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    talk(stream, &[words])?.pop().context("no answer")
}

const LIMIT: Duration = Duration::from_secs(2);

/// Runs commands one after the other on this connection.
pub(crate) fn session(stream: TcpStream, commands: &[&[&str]]) -> Result<Vec<Reply>> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    talk(stream, commands)
}

fn talk(stream: impl Read + Write, commands: &[&[&str]]) -> Result<Vec<Reply>> {
    let mut reader = BufReader::new(stream);
    let mut replies = Vec::new();
    for words in commands {
        let mut request = format!("*{}\r\n", words.len());
        for word in *words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        reader.get_mut().write_all(request.as_bytes())?;
        let name = words.first().copied().unwrap_or_default();
        replies.push(read(&mut reader).with_context(|| format!("redis refused {name}"))?);
    }
    Ok(replies)
}

fn read(reader: &mut impl BufRead) -> Result<Reply> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    let rest = line.get(1..).unwrap_or_default();
    match line.as_bytes().first() {
        Some(b'+') => Ok(Reply::Text(rest.to_owned())),
        Some(b'-') => bail!("{rest}"),
        Some(b':') => Ok(Reply::Int(rest.parse()?)),
        Some(b'$') if rest == "-1" => Ok(Reply::Nil),
        Some(b'$') => {
            let mut text = vec![0; rest.parse::<usize>()? + 2];
            reader.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            Ok(Reply::Text(String::from_utf8_lossy(&text).into_owned()))
        }
        Some(b'*') if rest == "-1" => Ok(Reply::Nil),
        Some(b'*') => {
            let items = rest.parse::<usize>()?;
            Ok(Reply::Array(
                (0..items).map(|_| read(reader)).collect::<Result<_>>()?,
            ))
        }
        _ => bail!("the connection was closed or the answer is not RESP: {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_all_kinds() {
        let mut input: &[u8] = b"*4\r\n+OK\r\n:-7\r\n$2\r\nhi\r\n$-1\r\n-ERR no\r\n";
        let text = |text: &str| Reply::Text(text.into());
        let expected = Reply::Array(vec![text("OK"), Reply::Int(-7), text("hi"), Reply::Nil]);
        assert_eq!(read(&mut input).unwrap(), expected);
        assert_eq!(read(&mut input).unwrap_err().to_string(), "ERR no");
        let pairs = Reply::Array(vec![text("flags"), text("master")]);
        assert_eq!(pairs.field("flags"), Some("master"));
        assert_eq!(pairs.field("other"), None);
    }
}
