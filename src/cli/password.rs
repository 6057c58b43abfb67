//! Sources of passwords: standard input, the terminal, or the random generator.

use std::io::{BufRead, IsTerminal, Write};

use rand::RngExt;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::args::NewPassword;
use super::run::Failure;

/// Letters and digits that do not look alike.
const ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// Characters of a password: more than 110 bits.
const LENGTH: usize = 20;

/// A password, and whether it was generated.
pub(super) struct Password {
    pub(super) text: String,
    pub(super) made: bool,
}

/// Gets the password as the flags say; without flags from the terminal, or a generated one if there
/// is none.
pub(super) fn get(new: &NewPassword) -> Result<Password, Failure> {
    if new.stdin {
        let text = line(&mut std::io::stdin().lock())?;
        if text.is_empty() {
            let text = "standard input holds no password in its first line";
            return Err(Failure::new("invalid-arguments", text));
        }
        return Ok(Password { text, made: false });
    }
    if !new.generate && std::io::stdin().is_terminal() {
        let text = hidden("password (empty: one is made): ")?;
        if !text.is_empty() {
            if hidden("again: ")? != text {
                return Err(Failure::new(
                    "invalid-arguments",
                    "the two passwords differ",
                ));
            }
            return Ok(Password { text, made: false });
        }
    }
    Ok(Password {
        text: made_up(),
        made: true,
    })
}

/// Asks for a confirmation; an error without a terminal.
pub(super) fn confirm(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "invalid-arguments",
            "say --yes to do it without being asked",
        ));
    }
    prompt(&format!("{question} [y/N] "))?;
    let answer = line(&mut std::io::stdin().lock())?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

fn made_up() -> String {
    let mut random = rand::rng();
    (0..LENGTH)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

fn line(input: &mut impl BufRead) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input.read_until(b'\n', &mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        let text = "the line is not UTF-8; is it in another encoding, as Latin-1?";
        Failure::new("invalid-arguments", text)
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads a line that the terminal does not show.
fn hidden(question: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    prompt(question)?;
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(|error| failed(error.into()))?;
    let read = line(&mut stdin.lock());
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(|error| failed(error.into()))?;
    prompt("\n")?;
    read
}

fn prompt(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stderr().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(failed)
}

fn failed(error: std::io::Error) -> Failure {
    let reason = super::run::without_numbers(&error.to_string());
    Failure::new(
        "failed",
        format!("cannot read what is typed or piped in: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn made_up_passwords_are_long_and_differ() {
        let (a, b) = (made_up(), made_up());
        assert_eq!(a.len(), LENGTH);
        assert_ne!(a, b);
        assert!(a.bytes().all(|byte| ALPHABET.contains(&byte)));
    }

    #[test]
    fn a_line_ends_where_it_ends() {
        for text in ["p w \n", "p w \r\nnext\n", "p w "] {
            assert_eq!(line(&mut text.as_bytes()).ok().as_deref(), Some("p w "));
        }
    }

    #[test]
    fn latin_1_is_named_as_what_it_is_not() {
        let failure = line(&mut &b"p\xe4ssword\n"[..]).err().unwrap();
        assert!(failure.text.contains("not UTF-8"), "{}", failure.text);
        assert_eq!(failure.code, "invalid-arguments");
    }
}
