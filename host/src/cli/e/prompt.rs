//! Where the prompt comes from: the command line, standard input, or a question on the terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use crate::ask::{Failure, Kind};

/// The prompt of the command line, with what is piped in behind it.
///
/// # Errors
/// There is none, or it is no text.
pub(super) fn given(argument: Option<&str>, most_bytes: usize) -> Result<String, Failure> {
    let stdin = io::stdin();
    let piped = if stdin.is_terminal() { String::new() } else { read(stdin.lock(), most_bytes)? };
    checked(joined(argument.unwrap_or_default(), &piped))
}

/// Asks on the terminal, for one line.
///
/// # Errors
/// See [`given`].
pub(super) fn question(most_bytes: usize) -> Result<String, Failure> {
    let mut stderr = io::stderr();
    let _ = stderr.write_all(b"Prompt: ").and_then(|()| stderr.flush());
    let mut line = Vec::new();
    let mut limited = io::stdin().lock().take(most_bytes as u64 + 1);
    limited.read_until(b'\n', &mut line).map_err(unreadable)?;
    checked(text(line, most_bytes)?)
}

fn read(source: impl Read, most_bytes: usize) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    source.take(most_bytes as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    text(bytes, most_bytes)
}

fn text(bytes: Vec<u8>, most_bytes: usize) -> Result<String, Failure> {
    if bytes.len() > most_bytes {
        let text =
            format!("the prompt has more than {most_bytes} bytes, which [limits] max_body_bytes allows");
        return Err(Failure::new(Kind::InvalidInput, text));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(Kind::InvalidInput, "the prompt is not text in UTF-8"))?;
    Ok(text.trim().to_owned())
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new(Kind::InvalidInput, format!("standard input cannot be read: {error}"))
}

/// A question on the command line stands before the text that it is about.
fn joined(argument: &str, piped: &str) -> String {
    match (argument.trim(), piped) {
        ("", piped) => piped.to_owned(),
        (argument, "") => argument.to_owned(),
        (argument, piped) => format!("{argument}\n\n{piped}"),
    }
}

fn checked(prompt: String) -> Result<String, Failure> {
    if prompt.is_empty() {
        let text = "the prompt is empty; give it as an argument or on standard input";
        return Err(Failure::new(Kind::InvalidInput, text));
    }
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_piped_stands_behind_the_argument() {
        let check = |argument: &str, piped: &[u8], expected: Result<&str, &str>| {
            let prompt = read(piped, 20).and_then(|piped| checked(joined(argument, &piped)));
            let prompt = prompt.map_err(|failure| failure.message);
            match expected {
                Ok(text) => assert_eq!(prompt.as_deref(), Ok(text)),
                Err(part) => assert!(prompt.expect_err(part).contains(part)),
            }
        };
        check("", b" a\nb \n", Ok("a\nb"));
        check(" sum up: ", b"text\n", Ok("sum up:\n\ntext"));
        check("alone", b"\n", Ok("alone"));
        check(" ", b"\n \n", Err("is empty"));
        check("", b"\xff", Err("not text in UTF-8"));
        check("", b"123456789012345678901", Err("more than 20 bytes"));
    }
}
